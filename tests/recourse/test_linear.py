"""Where everything is linear, effects are those of the model and plans are the optimum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from carma import Intervention, SquaredCost
from carma.benchmarks import random_scm
from carma.constraints import Limits, PlanLimits
from carma.recourse.candidates import Candidates
from carma.recourse.linear import LinearSearch, total_effects
from carma.recourse.subsets import all_subsets
from carma.recourse.target import People, Target
from carma.state import seeded

LinearProblem = tuple[Target, SquaredCost, PlanLimits, People, Tensor, Tensor]
MakeProblem = Callable[..., LinearProblem]


@given(st.integers(0, 10**6), st.integers(2, 7), st.data())
def test_total_effects_are_what_an_intervention_brings(
    seed: int, d: int, data: st.DataObject
) -> None:
    scm = random_scm(d, d, seed=seed, expected_parents=3, nonlinear=False)
    effects = scm.direct_effects
    assert effects is not None
    mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=d, max_size=d))])
    weights = torch.randn(1, d, generator=seeded(seed), dtype=torch.float64)
    totals = total_effects(effects[None], weights, mask)
    x = scm.sample(1, seed=seed)
    at = torch.randn(1, d, generator=seeded(seed), dtype=torch.float64)
    before = scm.counterfactual(x, Intervention(mask, at)) @ weights[0]
    for j in range(d):
        unit = torch.eye(d, dtype=torch.float64)[j]
        after = scm.counterfactual(x, Intervention(mask, at + unit)) @ weights[0]
        # An affine map differs by its slope, however long the step.
        assert (after - before).item() == pytest.approx(totals[0, j].item(), abs=1e-9)


def test_total_effects_go_through_open_paths_only() -> None:
    # a -> b -> c with slopes 2 and 3, and a -> c with slope 5.
    effects = torch.tensor([[[0, 0, 0], [2, 0, 0], [5, 3, 0]]]).double().expand(4, 3, 3)
    masks = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]]).bool()
    weights = torch.tensor([[1, 10, 100]]).double().expand(4, 3)
    totals = total_effects(effects, weights, masks)
    expected = [[1 + 20 + 100 * (5 + 6.0), 0, 0], [1 + 500, 10 + 300, 0], [1 + 20, 0, 100], [0] * 3]
    torch.testing.assert_close(totals, torch.tensor(expected).double())


def optimum(
    target: Target, cost: SquaredCost, person: People, mask: Tensor
) -> tuple[Tensor, float]:
    """By a general solver, on what the model itself says follows; infinite where infeasible."""
    set_ = mask.nonzero().squeeze(1)
    base = person.x[0].clone()

    def surplus(v: Tensor) -> float:
        values = base.clone()
        values[set_] = v
        return float(target.surplus(person, mask[None], values[None]))

    own = base[set_]
    zero = surplus(own)
    slope = np.array([surplus(own + unit) - zero for unit in torch.eye(len(set_)).double()])
    lower = (person.limits.lower[0] - base)[set_].numpy()
    upper = (person.limits.upper[0] - base)[set_].numpy()
    if zero + np.maximum(slope * lower, slope * upper).sum() < 0:
        return base, np.inf
    price = cost.scale[set_].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = minimize(
            lambda v: float(price @ v**2) * 100,
            np.zeros(len(price)),
            jac=lambda v: 200 * price * v,
            bounds=list(zip(lower, upper, strict=True)),
            constraints={"type": "ineq", "fun": lambda v: zero + slope @ v, "jac": lambda _: slope},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 300},
        )
    assert found.success
    values = base.clone()
    values[set_] += torch.from_numpy(found.x)
    return values, float(price @ found.x**2)


@pytest.mark.parametrize(("seed", "room"), [(0, 1.0), (2, 0.4), (3, 0.3), (8, 0.2)])
def test_every_set_gets_its_optimum(linear_problem: MakeProblem, seed: int, room: float) -> None:
    target, cost, limits, people, effects, weights = linear_problem(seed, n=4, room=room)
    masks = all_subsets(limits.encoding.actionable, 6)
    plans = LinearSearch(target, cost, effects, weights).candidates(
        people, masks.expand(len(people), *masks.shape)
    )
    assert len(plans.cost) == len(people) * len(masks)
    for row, owner in enumerate(plans.owner.tolist()):
        person = people[owner : owner + 1]
        values, least = optimum(target, cost, person, plans.mask[row])
        assert plans.cost[row].item() == pytest.approx(least, rel=1e-6, abs=1e-9)
        if np.isfinite(least):
            torch.testing.assert_close(plans.values[row], values, rtol=1e-4, atol=1e-4)
    works = torch.isfinite(plans.cost)
    assert works.any()
    assert room == 1 or meets_bound(plans, people)[works].any()


def meets_bound(plans: Candidates, people: People) -> Tensor:
    box = people.limits[plans.owner]
    room = torch.minimum(plans.values - box.lower, box.upper - plans.values)
    return plans.mask & (room.abs() < 1e-9)


@pytest.mark.parametrize("room", [1.0, 0.3, 0.05])
def test_plans_work_cost_what_they_say_and_stay_in_the_box(
    linear_problem: MakeProblem, room: float
) -> None:
    target, cost, limits, people, effects, weights = linear_problem(5, 7, 5, n=20, room=room)
    masks = all_subsets(limits.encoding.actionable, 7)
    plans = LinearSearch(target, cost, effects, weights).candidates(
        people, masks.expand(len(people), *masks.shape)
    )
    works = torch.isfinite(plans.cost)
    each = people[plans.owner]
    surplus = target.surplus(each, plans.mask, plans.values)
    assert torch.equal(works, surplus >= 0)
    # No more than is needed where that costs anything.
    assert (surplus[works] < 1e-7).all()
    torch.testing.assert_close(
        plans.cost[works], cost(each.x, plans.mask, plans.values)[works], rtol=0, atol=0
    )
    assert ((plans.values >= each.limits.lower) & (plans.values <= each.limits.upper)).all()
    assert torch.equal(plans.values[~plans.mask], each.x[~plans.mask])
    assert plans.n_evaluations.tolist() == [len(masks)] * len(people)


def test_the_box_decides_whether_there_is_a_plan(linear_problem: MakeProblem) -> None:
    target, cost, limits, people, effects, weights = linear_problem(0, n=3)
    search = LinearSearch(target, cost, effects, weights)
    masks = torch.zeros(3, 1, 6, dtype=torch.bool)
    masks[..., limits.encoding.actionable] = True
    change = search.candidates(people, masks)
    # Shrunk to what the cheapest plan just fills, there is one; a little smaller, none.
    slope = total_effects(effects.expand(3, 6, 6), weights.expand(3, 6), masks[:, 0])
    most = slope.clamp(min=0) * (people.limits.upper - people.x)
    most += slope.clamp(max=0) * (people.limits.lower - people.x)
    needed = -target.surplus(people, masks[:, 0], people.x)
    share = (needed / most.sum(dim=1))[:, None]
    assert (share < 1).all()
    assert torch.isfinite(change.cost).all()
    for factor, is_found in [(1 + 1e-7, True), (1 - 1e-7, False)]:
        low = people.x + factor * share * (people.limits.lower - people.x)
        high = people.x + factor * share * (people.limits.upper - people.x)
        tight = replace(people, limits=Limits(low, high, people.limits.may_act))
        assert torch.isfinite(search.candidates(tight, masks).cost).tolist() == [is_found] * 3


def test_values_at_the_end_of_the_box_do_not_pass_it_by_rounding(
    linear_problem: MakeProblem,
) -> None:
    target, cost, limits, people, effects, weights = linear_problem(3, n=100)
    x, end = people.x, torch.full_like(people.x, 0.3)
    box = Limits(torch.minimum(x, -end), torch.maximum(x, end), people.limits.may_act)
    people = replace(people, limits=box)
    masks = torch.zeros(len(people), 1, 6, dtype=torch.bool)
    masks[..., limits.encoding.actionable] = True
    plans = LinearSearch(target, cost, effects, weights).candidates(people, masks)
    is_past = (x + (box.upper - x) > box.upper) | (x + (box.lower - x) < box.lower)
    assert (is_past & meets_bound(plans, people)).any()
    assert ((plans.values >= box.lower) & (plans.values <= box.upper)).all()


def test_empty_sets_are_left_out_and_people_may_have_none(linear_problem: MakeProblem) -> None:
    target, cost, limits, people, effects, weights = linear_problem(0, n=3)
    search = LinearSearch(target, cost, effects, weights)
    masks = torch.zeros(3, 2, 6, dtype=torch.bool)
    masks[1, 1, limits.encoding.actionable] = True
    plans = search.candidates(people, masks)
    assert plans.owner.tolist() == [1]
    assert plans.n_evaluations.tolist() == [0, 1, 0]
    nothing = search.candidates(people, masks & False).best()
    assert nothing.cost.isinf().all()
    assert not nothing.mask.any()
    assert torch.equal(nothing.values, people.x)
