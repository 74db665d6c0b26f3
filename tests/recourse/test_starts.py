"""Starts that fill the box evenly, and the same ones at every call."""

from __future__ import annotations

import pytest
import torch

from carma.recourse.starts import spread_evenly
from carma.state import seeded


@pytest.mark.parametrize("count", [1, 6, 16])
def test_only_the_columns_asked_for_move_inside_the_unit_box(count: int) -> None:
    shares = spread_evenly(count, torch.tensor([1, 3]), 5)
    assert shares.shape == (count, 5)
    assert shares.dtype == torch.float64
    assert (shares[:, [0, 2, 4]] == 0).all()
    inside = shares[:, [1, 3]]
    assert ((inside >= 0) & (inside <= 1)).all()


def test_without_columns_nothing_moves() -> None:
    assert torch.equal(
        spread_evenly(4, torch.tensor([], dtype=torch.long), 3), torch.zeros(4, 3).double()
    )


def test_the_same_at_every_call_whatever_is_drawn_in_between() -> None:
    columns = torch.tensor([0, 2])
    state = torch.random.get_rng_state()
    first = spread_evenly(8, columns, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(spread_evenly(8, columns, 3), first)


def test_every_power_of_two_has_a_point_in_each_slice() -> None:
    """The property that makes Sobol points even: one in each of n slices of every column."""
    n = 32
    shares = spread_evenly(n, torch.arange(4), 4)
    for column in shares.T:
        slices = (column * n).floor().clamp(max=n - 1).long()
        assert sorted(slices.tolist()) == list(range(n))
    # Which independent draws do not have.
    random = torch.rand(n, generator=seeded(0))
    assert len(set((random * n).floor().tolist())) < n
