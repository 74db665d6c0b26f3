"""Many walks in one batch: the optimum over sets and starts, and the effort that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from carma import SquaredCost
from carma.classifiers.network import NetworkClassifier
from carma.constraints import PlanLimits
from carma.recourse.descent import PUSHES
from carma.recourse.linear import LinearSearch
from carma.recourse.subsets import all_subsets
from carma.recourse.target import People, Target
from carma.recourse.walks import WalkSearch
from carma.state import seeded

LinearProblem = tuple[Target, SquaredCost, PlanLimits, People, Tensor, Tensor]
CurvedProblem = tuple[Target, SquaredCost, PlanLimits, People]
MakeCurved = Callable[..., CurvedProblem]


class Counting(NetworkClassifier):
    """Counts the rows it is asked about."""

    n_rows = 0

    def _logit(self, x: Tensor) -> Tensor:
        Counting.n_rows += len(x)
        return super()._logit(x)


def shares(limits: PlanLimits, count: int) -> Tensor:
    return torch.rand(count, limits.encoding.n_columns, generator=seeded(0), dtype=torch.float64)


def every(people: People, limits: PlanLimits) -> Tensor:
    masks = all_subsets(limits.encoding.actionable, people.x.shape[1])
    return masks.expand(len(people), *masks.shape)


@pytest.mark.parametrize(("seed", "room"), [(0, 1.0), (2, 0.4), (3, 0.3)])
def test_linear_problems_get_their_optimum(
    linear_problem: Callable[..., LinearProblem], seed: int, room: float
) -> None:
    target, cost, limits, people, effects, weights = linear_problem(seed, room=room)
    masks = every(people, limits)
    walks = WalkSearch(target, cost, shares(limits, 4), 2, 6, 2).candidates(people, masks).best()
    exact = LinearSearch(target, cost, effects, weights).candidates(people, masks).best()
    torch.testing.assert_close(walks.cost, exact.cost, rtol=1e-7, atol=0)
    assert torch.equal(walks.mask.any(dim=1), torch.isfinite(exact.cost))
    torch.testing.assert_close(walks.values, exact.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_plans_work_cost_what_they_say_and_obey_the_limits(
    curved_problem: MakeCurved, seed: int
) -> None:
    target, cost, limits, people = curved_problem(seed)
    masks = every(people, limits)
    plans = WalkSearch(target, cost, shares(limits, 6), 4, 9, 6).candidates(people, masks)
    each = people[plans.owner]
    works = torch.isfinite(plans.cost)
    assert works.sum() >= len(people)
    assert (target.surplus(each, plans.mask, plans.values)[works] >= 0).all()
    paid = cost(each.x, plans.mask, plans.values)
    assert torch.equal(paid[works], plans.cost[works])
    box = each.limits
    assert ((plans.values >= box.lower) & (plans.values <= box.upper)).all()
    assert torch.equal(plans.values[~plans.mask], each.x[~plans.mask])
    assert (plans.owner.diff() >= 0).all()
    sizes = torch.bincount(plans.owner, minlength=len(people))
    assert sizes.tolist() == [9] * len(people)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 6])
def test_no_point_of_a_lattice_is_cheaper(curved_problem: MakeCurved, seed: int) -> None:
    target, cost, limits, people = curved_problem(seed, 4, 2, n=12)
    masks = every(people, limits)
    search = WalkSearch(target, cost, shares(limits, 16), 5, 24, 20)
    found = search.candidates(people, masks).best()
    a, b = limits.encoding.actionable.tolist()
    n_cheaper = 0
    for i in range(len(people)):
        ends = people.limits[i : i + 1]
        lines = [
            torch.linspace(float(ends.lower[0, c]), float(ends.upper[0, c]), 80) for c in (a, b)
        ]
        points = torch.cartesian_prod(*lines).double()
        values = people.x[i].repeat(len(points), 1)
        values[:, a], values[:, b] = points.unbind(dim=1)
        many = people[torch.full((len(points),), i)]
        for mask in masks[i]:
            wide = mask.expand_as(values)
            works = target.surplus(many, wide, values) >= 0
            price = torch.where(works, cost(many.x, wide, values), torch.inf)
            n_cheaper += bool(price.min() < found.cost[i] * (1 - 1e-6))
    assert n_cheaper == 0
    assert torch.isfinite(found.cost).any()


def test_effort_is_the_number_of_plans_tried(curved_problem: MakeCurved) -> None:
    target, cost, limits, people = curved_problem(3, wrap=Counting)
    masks = every(people, limits).clone()
    masks[1, 2:] = False
    masks[4] = False
    n_sets = masks.any(dim=2).sum(dim=1)
    search = WalkSearch(target, cost, shares(limits, 5), 3, 8, 4)
    Counting.n_rows = 0
    plans = search.candidates(people, masks)
    n_kept = torch.bincount(plans.owner, minlength=len(people))
    # Two of the five walks of each set may go on.
    assert torch.equal(n_kept, (2 * n_sets).clamp(max=8))
    assert Counting.n_rows == int(plans.n_evaluations.sum())
    # Walks that end on the boundary or past it need no push.
    steps = 5 * (1 + 3) * n_sets + 4 * n_kept
    pushes = plans.n_evaluations - steps
    assert ((pushes >= 0) & (pushes <= len(PUSHES) * n_kept)).all()
    assert (pushes % len(PUSHES) == 0).all()
    assert (pushes > 0).any()


def test_no_set_crowds_out_the_others(curved_problem: MakeCurved) -> None:
    target, cost, limits, people = curved_problem(2)
    masks = every(people, limits)
    plans = WalkSearch(target, cost, shares(limits, 16), 4, 14, 0).candidates(people, masks)
    for i in range(len(people)):
        own = plans.mask[plans.owner == i]
        assert torch.unique(own, dim=0, return_counts=True)[1].amax() <= 4
        assert len(own) == 14


def test_more_steps_never_hurt_and_more_starts_help(curved_problem: MakeCurved) -> None:
    target, cost, limits, people = curved_problem(5, 7, 4, n=20)
    masks = every(people, limits)
    starts = shares(limits, 12)
    few = WalkSearch(target, cost, starts, 3, 1000, 0).candidates(people, masks).best().cost
    long = WalkSearch(target, cost, starts, 3, 1000, 20).candidates(people, masks).best().cost
    one = WalkSearch(target, cost, starts[:1], 3, 1000, 20).candidates(people, masks).best().cost
    assert (long <= few).all()
    assert (long < few).any()
    # Another start may lead a walk astray, but not on the whole.
    both = torch.isfinite(long) & torch.isfinite(one)
    assert both.sum() >= 15
    assert torch.isfinite(long).sum() >= torch.isfinite(one).sum()
    assert long[both].sum() < 0.95 * one[both].sum()


def test_the_first_start_is_the_person(curved_problem: MakeCurved) -> None:
    target, cost, limits, people = curved_problem(1)
    masks = every(people, limits)
    search = WalkSearch(target, cost, shares(limits, 1), 6, 24, 6)
    plans = search.candidates(people, masks)
    same = search.from_points(people, masks, people.x[:, None])
    assert torch.equal(plans.values, same.values)
    assert torch.equal(plans.cost, same.cost)


def test_a_walk_from_a_plan_keeps_or_betters_it(curved_problem: MakeCurved) -> None:
    target, cost, limits, people = curved_problem(0, n=20)
    mask = torch.zeros_like(people.x, dtype=torch.bool)
    mask[:, limits.encoding.actionable] = True
    draws = torch.rand(20, 40, 6, generator=seeded(0), dtype=torch.float64)
    box = people.limits
    points = box.lower[:, None] + draws * (box.upper - box.lower)[:, None]
    points = torch.where(mask[:, None], points, people.x[:, None])
    many, wide = people.repeated(40), mask.repeat_interleave(40, 0)
    flat = points.flatten(0, 1)
    works = (target.surplus(many, wide, flat) >= 0).view(20, 40)
    paid = torch.where(works, cost(many.x, wide, flat).view(20, 40), torch.inf)
    least, row = paid.min(dim=1)
    start = points[torch.arange(20), row]
    plans = WalkSearch(target, cost, shares(limits, 1), 1, 4, 7).from_points(
        people, mask[:, None], start[:, None]
    )
    has_plan = torch.isfinite(least)
    assert has_plan.sum() > 10
    assert (plans.best().cost <= least).all()
    assert (plans.best().cost < least)[has_plan].double().mean() > 0.8


def test_people_do_not_see_each_other(curved_problem: MakeCurved) -> None:
    target, cost, limits, people = curved_problem(4)
    masks = every(people, limits)
    search = WalkSearch(target, cost, shares(limits, 6), 4, 9, 8)
    together = search.candidates(people, masks).best()
    for rows in ([2], [6, 1]):
        pick = torch.tensor(rows)
        alone = search.candidates(people[pick], masks[pick]).best()
        torch.testing.assert_close(alone.cost, together.cost[pick], rtol=1e-9, atol=0)
        assert torch.equal(alone.mask, together.mask[pick])
        assert torch.equal(alone.n_evaluations, together.n_evaluations[pick])


def test_nothing_to_set_gives_nothing(curved_problem: MakeCurved) -> None:
    target, cost, limits, people = curved_problem(4)
    search = WalkSearch(target, cost, shares(limits, 3), 2, 4, 2)
    for some in (people, people[:0]):
        plans = search.candidates(some, every(some, limits) & False)
        assert len(plans.cost) == 0
        assert plans.n_evaluations.tolist() == [0] * len(some)
        assert plans.best().cost.isinf().all()


def test_personal_limits_hold(curved_problem: MakeCurved) -> None:
    target, cost, limits, people = curved_problem(1)
    box = people.limits
    tight = replace(box, lower=people.x - 0.3, upper=people.x + 0.3)
    narrow = replace(people, limits=box.narrowed(tight))
    masks = every(people, limits)
    search = WalkSearch(target, cost, shares(limits, 6), 4, 9, 8)
    wide, near = (search.candidates(p, masks) for p in (people, narrow))
    assert ((near.values - people.x[near.owner]).abs() <= 0.3 + 1e-12).all()
    assert ((wide.values - people.x[wide.owner]).abs() > 0.3).any()
    works = torch.isfinite(near.cost)
    surplus = target.surplus(people[near.owner], near.mask, near.values)
    assert (surplus[works] >= 0).all()
    assert works.any()
