"""Plans of others: who is alike."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from carma.recourse.precedents import Precedents
from carma.state import seeded


def drawn(m: int, d: int = 3, q: int = 5, seed: int = 0) -> Precedents:
    draws = seeded(seed)
    mask = torch.rand(m, d, generator=draws) < 0.6
    values = torch.randn(m, d, generator=draws, dtype=torch.float64)
    return Precedents(torch.randn(m, q, generator=draws), mask, values, mask & (values > 1))


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_near_are_those_at_the_least_distance(m: int, count: int, seed: int) -> None:
    known, seen = drawn(m, seed=seed), torch.randn(7, 5, generator=seeded(seed + 1))
    near = known.near(seen, count)
    assert near.shape == (7, min(m, count))
    distance = torch.cdist(seen.double(), known.seen.double())
    expected = distance.sort(dim=1).values[:, : near.shape[1]]
    torch.testing.assert_close(distance.gather(1, near), expected, atol=1e-5, rtol=0)


def test_who_is_near_depends_on_nobody_else_in_the_batch() -> None:
    known, seen = drawn(300), torch.randn(1500, 5, generator=seeded(3))
    near, order = known.near(seen, 20), torch.randperm(1500, generator=seeded(4))
    assert torch.equal(known.near(seen[order], 20), near[order])
    assert torch.equal(torch.cat([known.near(row[None], 20) for row in seen[:50]]), near[:50])


def test_who_is_as_near_comes_in_order() -> None:
    known = drawn(6)
    known = replace(known, seen=torch.zeros_like(known.seen))
    assert known.near(torch.ones(1, 5), 4).tolist() == [[0, 1, 2, 3]]


def test_they_come_back_from_tensors_and_join() -> None:
    known = drawn(9)
    again = Precedents.from_tensors(known.as_tensors())
    assert all(
        torch.equal(a, b) for a, b in zip(vars(again).values(), vars(known).values(), strict=True)
    )
    both = Precedents.joined([known, again])
    assert len(both) == 18
    assert torch.equal(both.values[9:], known.values)


def test_some_of_them_are_taken_by_position() -> None:
    known, rows = drawn(9), torch.tensor([4, 1])
    some = known[rows]
    assert len(some) == 2
    assert torch.equal(some.mask, known.mask[rows])
    assert torch.equal(some.seen, known.seen[rows])
