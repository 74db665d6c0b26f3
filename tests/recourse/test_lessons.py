"""Lessons are the best plans there are, and wishes are ones that a person could have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from carma import SquaredCost
from carma.constraints import PlanLimits
from carma.interventions import Intervention
from carma.recourse.doubt import Doubt, Uncertainty
from carma.recourse.lessons import HIGHEST, MOST_SETS, VISITED, Lessons, Teacher, wishful
from carma.recourse.linear import LinearSearch, total_effects
from carma.recourse.starts import spread_evenly
from carma.recourse.subsets import all_subsets
from carma.recourse.target import People, Target
from carma.state import seeded

LinearProblem = tuple[Target, SquaredCost, PlanLimits, People, Tensor, Tensor]
CurvedProblem = tuple[Target, SquaredCost, PlanLimits, People]
QUANTILE = 2.0


class Told(Doubt):
    """Every plan is off by the same, and by more the further it goes."""

    def __init__(self, spread: float, rise: float = 0.0) -> None:
        self.n_alternatives = 12 if spread or rise else 0
        self._spread, self._rise = spread, rise

    def of(
        self,
        people: People,
        mask: Tensor,
        values: Tensor,
        reached: Tensor | None = None,  # noqa: ARG002
    ) -> Uncertainty:
        moved = torch.where(mask, (values - people.x).abs(), 0.0).sum(dim=1)
        spread = self._spread + self._rise * moved
        return Uncertainty(torch.zeros_like(spread), spread, self.n_alternatives)


def teacher(
    problem: LinearProblem | CurvedProblem, doubt: Doubt, quantile: float = QUANTILE
) -> Teacher:
    target, cost, limits = problem[:3]
    columns, d = limits.encoding.actionable, limits.encoding.n_columns
    shares = spread_evenly(6, columns, d)
    return Teacher(target._follow, target, cost, doubt, quantile, columns, shares)


@pytest.mark.parametrize("spread", [0.0, 0.3])
@pytest.mark.parametrize(("seed", "room"), [(0, 1.0), (3, 0.4)])
def test_where_all_is_linear_the_plan_of_each_set_is_the_closed_form(
    linear_problem: Callable[..., LinearProblem], seed: int, room: float, spread: float
) -> None:
    problem = linear_problem(seed, room=room)
    target, cost, limits, people, effects, weights = problem
    lessons = teacher(problem, Told(spread)).lessons(people)
    every = all_subsets(limits.encoding.actionable, 6)
    assert torch.equal(lessons.masks, every.expand(len(people), -1, -1))
    m = len(every)
    many = people.repeated(m)
    many = replace(many, aim=torch.full_like(many.x[:, 0], QUANTILE * spread))
    flat = lessons.masks.flatten(0, 1)
    exact = LinearSearch(target, cost, effects, weights).candidates(many, flat[:, None])
    found = lessons.cost.flatten()
    torch.testing.assert_close(found, exact.cost, rtol=1e-6, atol=1e-12)
    works = torch.isfinite(found)
    assert works.double().mean() > 0.3
    values = lessons.values.flatten(0, 1)[works]
    torch.testing.assert_close(values, exact.values[works], rtol=1e-6, atol=1e-6)
    margin = torch.full_like(lessons.margin, QUANTILE * spread)
    torch.testing.assert_close(lessons.margin, margin)
    each, w = effects.expand(len(flat), 6, 6), weights.expand(len(flat), 6)
    torch.testing.assert_close(lessons.slope.flatten(0, 1), total_effects(each, w, flat))


@pytest.mark.parametrize(("spread", "rise"), [(0.0, 0.0), (0.2, 0.0), (0.1, 0.05)])
@pytest.mark.parametrize("wishing", [False, True])
def test_every_plan_taught_goes_past_its_margin_inside_the_limits(
    curved_problem: Callable[..., CurvedProblem], spread: float, rise: float, wishing: bool
) -> None:
    problem = curved_problem(1, n_features=7, n_actionable=4, n=10)
    target, cost, limits, people = problem
    columns = limits.encoding.actionable
    if wishing:
        people = wishful(people, columns, seeded(5))
    lessons = teacher(problem, Told(spread, rise)).lessons(people)
    works = torch.isfinite(lessons.cost)
    assert works.any(dim=1).double().mean() > 0.3
    allowed = people.limits.allows(all_subsets(columns, 7).expand(len(people), -1, -1))
    # The sets asked for are every set that a person may act on; the others are empty.
    assert torch.equal(lessons.masks.any(dim=2), allowed)
    assert not (works & ~allowed).any()
    for set_ in range(lessons.masks.shape[1]):
        rows = works[:, set_].nonzero().squeeze(1)
        some = people[rows]
        mask, values = lessons.masks[rows, set_], lessons.values[rows, set_]
        surplus = target.surplus(some, mask, values)
        # The margin is measured anew where the plan ends up.
        short = lessons.margin[rows, set_] - surplus
        assert (short <= 1e-9 + (0.02 if rise else 0.0)).all()
        assert limits.permits(some.x, Intervention(mask, values), some.limits).all()
        assert torch.equal(values[~mask], some.x[~mask])
        price = cost(some.x, mask, values, some.weights)
        torch.testing.assert_close(lessons.cost[rows, set_], price)


def test_with_many_features_the_last_sets_of_a_search_are_taught(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    problem = curved_problem(3, n_features=9, n_actionable=7, n=10)
    target, cost, _, people = problem
    lessons = teacher(problem, Told(0.2)).lessons(people)
    assert MOST_SETS < 2**7 - 1
    assert lessons.masks.shape == (10, VISITED, 9)
    works = torch.isfinite(lessons.cost)
    assert works.any(dim=1).double().mean() > 0.5
    assert not (works & ~lessons.masks.any(dim=2)).any()
    for i in range(len(people)):
        sets = lessons.masks[i][lessons.masks[i].any(dim=1)]
        assert len(torch.unique(sets, dim=0)) == len(sets)
    flat = people.repeated(VISITED)
    surplus = target.surplus(flat, lessons.masks.flatten(0, 1), lessons.values.flatten(0, 1))
    assert (surplus >= lessons.margin.flatten() - 1e-9)[works.flatten()].all()
    flat_cost = cost(flat.x, lessons.masks.flatten(0, 1), lessons.values.flatten(0, 1))
    torch.testing.assert_close(lessons.cost[works], flat_cost.view(10, VISITED)[works])


def test_no_margin_is_higher_than_the_highest(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    problem = curved_problem(1)
    lessons = teacher(problem, Told(1e9)).lessons(problem[3])
    assert (lessons.margin == HIGHEST).all()
    assert torch.isinf(lessons.cost).all()


def test_lessons_taken_apart_and_joined_are_the_same(
    linear_problem: Callable[..., LinearProblem],
) -> None:
    problem = linear_problem(0)
    lessons = teacher(problem, Told(0.1)).lessons(problem[3])
    n = len(lessons)
    parts = [lessons[torch.arange(5)], lessons[torch.arange(5, n)]]
    again = Lessons.joined(parts)
    assert len(again) == n
    assert torch.equal(again.people.x, lessons.people.x)
    for entry in fields(Lessons)[1:]:
        assert torch.equal(getattr(again, entry.name), getattr(lessons, entry.name))


def test_wishes_narrow_what_a_person_can_do_and_spare_something(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    _, _, limits, some = curved_problem(2, n_features=7, n_actionable=4, n=30)
    people = some.repeated(40)
    columns = limits.encoding.actionable
    wished = wishful(people, columns, seeded(0))
    old, new = people.limits, wished.limits
    assert (new.lower >= old.lower - 1e-12).all()
    assert (new.upper <= old.upper + 1e-12).all()
    assert (new.lower <= people.x).all()
    assert (people.x <= new.upper).all()
    assert not (new.may_act & ~old.may_act).any()
    assert new.may_act.any(dim=1).all()
    assert wished.weights is not None
    assert (wished.weights > 0).all()
    assert torch.isfinite(wished.weights).all()
    assert torch.equal(wished.x, people.x)
    assert torch.equal(wished.u, people.u)
    acts = new.may_act[:, columns]
    shares = {
        "frozen": (~acts).double().mean(),
        "narrowed": (new.upper < old.upper - 1e-9)[:, columns].double().mean(),
        "left alone": (new.upper >= old.upper - 1e-9)[:, columns].double().mean(),
        "stopped": (new.lower == people.x)[:, columns].double().mean(),
        "without weights": (wished.weights == 1).all(dim=1).double().mean(),
        "with weights": (wished.weights != 1).all(dim=1).double().mean(),
    }
    assert all(0.05 < float(share) < 0.95 for share in shares.values()), shares


def test_wishes_are_drawn_from_the_generator_alone(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    _, _, limits, people = curved_problem(2)
    columns = limits.encoding.actionable
    state = torch.random.get_rng_state()
    one, other = (wishful(people, columns, seeded(7)) for _ in range(2))
    different = wishful(people, columns, seeded(8))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.weights is not None
    assert other.weights is not None
    assert torch.equal(one.weights, other.weights)
    for name in ("lower", "upper", "may_act"):
        assert torch.equal(getattr(one.limits, name), getattr(other.limits, name))
    assert not torch.equal(one.limits.upper, different.limits.upper)
