"""Rows that are one person after other moves."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from carma.recourse.rivals import Rivals

COSTS = st.floats(0, 10) | st.just(float("inf"))


@given(st.lists(st.tuples(st.integers(0, 4), COSTS, COSTS), max_size=12), st.lists(COSTS))
def test_everybody_has_the_cheapest_of_their_rows_or_what_they_had(
    rows: list[tuple[int, float, float]], least: list[float]
) -> None:
    least = (least + [float("inf")] * 5)[:5]
    rows = sorted(rows)
    owner = torch.tensor([row[0] for row in rows], dtype=torch.long)
    spent, cost = (torch.tensor([r[k] for r in rows], dtype=torch.float64) for k in (1, 2))
    rivals = Rivals(owner, spent, torch.tensor(least, dtype=torch.float64))
    expected = [
        min([had, *(paid + more for who, paid, more in rows if who == person)])
        for person, had in enumerate(least)
    ]
    assert rivals.worth(cost).tolist() == expected
    assert rivals.count == 5


def test_some_rows_of_all_people() -> None:
    rivals = Rivals(torch.tensor([0, 0, 1]), torch.ones(3), torch.tensor([5.0, 6.0]))
    some = rivals[torch.tensor([2])]
    assert some.owner.tolist() == [1]
    assert some.worth(torch.tensor([1.5])).tolist() == [5.0, 2.5]


def test_alone_everybody_is_their_own_rival() -> None:
    rivals = Rivals.none(3, torch.ones(1).double())
    cost = torch.tensor([1.0, 2.0, torch.inf]).double()
    assert torch.equal(rivals.worth(cost), cost)
