"""The cheapest plan that works wins, and whoever has none keeps none."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carma.constraints import Limits
from carma.recourse.candidates import Candidates, Found, lowest
from carma.recourse.target import People

# Few different numbers, so that many are equal.
VALUES = st.sampled_from([0.0, 1.0, 1.5, 2.0, -1.0, math.inf, -math.inf, math.nan])
OWNED = st.lists(st.tuples(st.integers(0, 5), VALUES | st.floats(-10, 10)), max_size=25)


def people(n: int, d: int = 2) -> People:
    x = torch.arange(n * d, dtype=torch.float64).reshape(n, d)
    return People(x, x, Limits(x - 1, x + 1, torch.ones_like(x, dtype=torch.bool)))


def owned_by(owners: list[int], costs: list[float], n: int) -> Candidates:
    """Plans that set one column to their own position."""
    w = len(owners)
    mask = torch.tensor([[True, False]]).expand(w, 2)
    values = torch.arange(w, dtype=torch.float64)[:, None].expand(w, 2)
    cost = torch.tensor(costs, dtype=torch.float64)
    owner = torch.tensor(owners, dtype=torch.long)
    return Candidates(people(n), owner, mask, values, cost, torch.arange(n) + 10)


@given(OWNED, st.integers(1, 5))
def test_lowest_is_what_a_plain_loop_finds(entries: list[tuple[int, float]], count: int) -> None:
    entries = sorted(entries, key=lambda entry: entry[0])
    expected: list[int] = []
    for owner in range(6):
        rows = [row for row, entry in enumerate(entries) if entry[0] == owner]
        # Python's sort is stable: the first of equal ones. No number ranks last, like infinity.
        rows.sort(key=lambda row: math.inf if math.isnan(entries[row][1]) else entries[row][1])
        expected += sorted(rows[:count])
    value = torch.tensor([entry[1] for entry in entries], dtype=torch.float64)
    owners = torch.tensor([entry[0] for entry in entries], dtype=torch.long)
    chosen = lowest(value, owners, 6, count)
    assert chosen.dtype == torch.long
    assert chosen.tolist() == expected


def test_an_owner_of_few_rows_gets_no_one_elses() -> None:
    value = torch.tensor([math.inf, math.nan, 0.0, 1.0, 2.0])
    owner = torch.tensor([1, 1, 3, 3, 3])
    assert lowest(value, owner, 5, 3).tolist() == [0, 1, 2, 3, 4]
    assert lowest(value, owner, 5, 1).tolist() == [0, 2]
    assert lowest(value[:0], owner[:0], 5, 1).tolist() == []


@given(OWNED)
def test_the_best_is_the_first_cheapest_that_works(entries: list[tuple[int, float]]) -> None:
    entries = sorted(entries, key=lambda entry: entry[0])
    owners, costs = [o for o, _ in entries], [abs(c) for _, c in entries]
    plans = owned_by(owners, costs, 6)
    found = plans.best()
    assert found.n_evaluations.tolist() == [10, 11, 12, 13, 14, 15]
    for i in range(6):
        works = [row for row in range(len(costs)) if owners[row] == i and costs[row] < math.inf]
        if works:
            first = min(works, key=lambda row: costs[row])
            assert found.cost[i] == costs[first]
            assert found.values[i].tolist() == [first, first]
            assert found.mask[i].tolist() == [True, False]
        else:
            assert found.cost[i] == math.inf
            assert torch.equal(found.values[i], plans.people.x[i])
            assert not found.mask[i].any()


def test_the_cheapest_keep_their_order_and_all_efforts() -> None:
    plans = owned_by([0, 0, 0, 2, 2], [3.0, 1.0, 2.0, math.inf, 5.0], 3)
    few = plans.cheapest(2)
    assert few.owner.tolist() == [0, 0, 2, 2]
    assert few.cost.tolist() == [1.0, 2.0, math.inf, 5.0]
    assert few.values[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert few.n_evaluations.tolist() == [10, 11, 12]
    assert few.people is plans.people


def answer(costs: list[float], value: float) -> Found:
    n = len(costs)
    has_plan = torch.tensor([cost < math.inf for cost in costs])
    mask = has_plan[:, None].expand(n, 2).clone()
    values = torch.full((n, 2), value, dtype=torch.float64)
    effort = torch.full((n,), int(value))
    return Found(mask, values, torch.tensor(costs, dtype=torch.float64), effort)


def test_the_cheaper_answer_wins_and_efforts_add_up() -> None:
    inf = math.inf
    first, second = (
        answer([1.0, 2.0, inf, 4.0, 5.0, inf], 1),
        answer([2.0, 1.0, 3.0, inf, 5.0, inf], 2),
    )
    both = first.or_better(second)
    assert both.cost.tolist() == [1.0, 1.0, 3.0, 4.0, 5.0, inf]
    # Of equal ones, the first stays.
    assert both.values[:, 0].tolist() == [1, 2, 2, 1, 1, 1]
    assert both.mask.all(dim=1).tolist() == [True] * 5 + [False]
    assert both.n_evaluations.tolist() == [3] * 6


@pytest.mark.parametrize("rows", [[2, 0], []])
def test_put_replaces_all_of_some_people_and_nothing_else(rows: list[int]) -> None:
    found = answer([1.0, 2.0, 3.0], 1)
    part = answer([9.0, math.inf], 7)
    if not rows:
        part = Found(*(getattr(part, entry.name)[:0] for entry in fields(part)))
    found.put(torch.tensor(rows, dtype=torch.long), part)
    assert found.cost.tolist() == ([math.inf, 2.0, 9.0] if rows else [1.0, 2.0, 3.0])
    assert found.values[:, 1].tolist() == ([7, 1, 7] if rows else [1, 1, 1])
    assert found.mask[:, 0].tolist() == ([False, True, True] if rows else [True] * 3)
    assert found.n_evaluations.tolist() == ([7, 1, 7] if rows else [1, 1, 1])


def test_nobody_has_a_plan_at_first_and_the_people_are_left_alone() -> None:
    some = people(3)
    before = some.x.clone()
    found = Found.none(some)
    assert found.cost.isinf().all()
    assert not found.mask.any()
    assert found.n_evaluations.tolist() == [0, 0, 0]
    found.values[:] = -1.0
    assert torch.equal(some.x, before)


def test_of_many_equal_ones_the_first_are_taken() -> None:
    value, owner = torch.ones(4000), torch.zeros(4000, dtype=torch.long)
    value[::2] = 2.0
    assert lowest(value, owner, 1, 5).tolist() == [1, 3, 5, 7, 9]
