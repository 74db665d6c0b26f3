"""Refined plans are no dearer than their drafts, sure as they say, and can be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import PublishedCarma, SquaredCost
from carma.constraints import PlanLimits
from carma.interventions import Intervention
from carma.recourse.doubt import Doubt, Uncertainty, quantile
from carma.recourse.linear import LinearSearch
from carma.recourse.neighbours import Neighbours
from carma.recourse.pattern import PatternSearch
from carma.recourse.policy import Drafts
from carma.recourse.refined import Refined
from carma.recourse.refinement import Refinement
from carma.recourse.starts import spread_evenly
from carma.recourse.target import People, Target
from carma.state import seeded

LinearProblem = tuple[Target, SquaredCost, PlanLimits, People, Tensor, Tensor]
CurvedProblem = tuple[Target, SquaredCost, PlanLimits, People]
Problem = LinearProblem | CurvedProblem
N_MODELS = 12


class Told(Doubt):
    """Plans are the less sure the further they go."""

    def __init__(self, spread: float, rise: float = 0.0, bias: float = 0.0) -> None:
        self.n_alternatives = N_MODELS
        self._spread, self._rise, self._bias = spread, rise, bias

    def of(
        self,
        people: People,
        mask: Tensor,
        values: Tensor,
        reached: Tensor | None = None,  # noqa: ARG002
    ) -> Uncertainty:
        moved = torch.where(mask, (values - people.x).abs(), 0.0).sum(dim=1)
        spread = self._spread + self._rise * moved
        return Uncertainty(torch.full_like(spread, self._bias), spread, N_MODELS)


def refinement(
    problem: Problem, doubt: Doubt, spreads: float, steps: int = 4, *, widely: bool = False
) -> Refinement:
    target, cost, limits = problem[:3]
    columns, d = limits.encoding.actionable, limits.encoding.n_columns
    patterns = PatternSearch(target, cost, limits, spread_evenly(6, columns, d), 4, 20, 0.02)
    neighbours = Neighbours(target._follow, target, cost, columns, d) if widely else None
    scale = torch.ones(d, dtype=torch.float64)
    parts = (target, cost, limits, doubt, spreads, steps, patterns, neighbours, scale)
    return Refinement(*parts, likely=3)


def drafts_for(problem: Problem, people: People, m: int) -> Drafts:
    """Random sets, the first one everything, to random values."""
    n, d = people.x.shape
    draws = seeded(0)
    masks = torch.rand(n, m, d, generator=draws) < 0.6
    masks[:, 0] = True
    masks &= people.limits.may_act[:, None]
    box = people.limits
    share = torch.rand(n, m, d, generator=draws, dtype=torch.float64)
    values = box.lower[:, None] + share * (box.upper - box.lower)[:, None]
    values = (
        problem[2]
        .project(people.repeated(m).x, values.flatten(0, 1), people.repeated(m).limits)
        .view(n, m, d)
    )
    own = people.x[:, None]
    return Drafts(masks, torch.where(masks, values, own))


def every_plan(maker: Refinement, people: People, drafts: Drafts, margin: float = 0.0) -> Refined:
    """The plans that drafts lead to, without the one that starts from the person."""
    n, m, _ = drafts.masks.shape
    found = maker.best(people, drafts, torch.full((n, m), margin).double(), 2)
    each = len(found.cost) // n
    return found[(each * torch.arange(n)[:, None] + torch.arange(m)).flatten()]


def one_plan(maker: Refinement, people: People, drafts: Drafts) -> Refined:
    return maker.best(people, drafts, torch.zeros(drafts.masks.shape[:2]).double(), 1)


def works(problem: Problem, people: People, mask: Tensor, values: Tensor) -> Tensor:
    return problem[0].surplus(replace(people, aim=None), mask, values)


@pytest.mark.parametrize("seed", [0, 3, 7])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_no_plan_is_dearer_than_a_draft_that_works(
    curved_problem: Callable[..., CurvedProblem], seed: int, steps: int
) -> None:
    problem = curved_problem(seed, n_actionable=4)
    target, cost, _, people = problem
    m = 5
    drafts, walkers = drafts_for(problem, people, m), people.repeated(m)
    mask, values = drafts.masks.flatten(0, 1), drafts.values.flatten(0, 1)
    found = every_plan(refinement(problem, Told(0.0), 0.0, steps), people, drafts)
    ahead = target.surplus(walkers, mask, values)
    does = ahead > 1e-4
    assert does.any()
    price = cost(walkers.x, mask, values)
    # Tiny actions are left out where that costs next to nothing.
    assert (found.cost <= price * (1 + 3e-3))[does].all()
    if steps == 0:
        assert torch.equal(found.values[does], values[does])
    single = one_plan(refinement(problem, Told(0.0), 0.0, steps), people, drafts)
    least = price.where(does, torch.inf).view(-1, m).amin(dim=1)
    assert (single.cost <= least * (1 + 3e-3)).all()
    if steps == 0:
        assert torch.equal(single.cost, found.cost.view(-1, m).amin(dim=1))


@pytest.mark.parametrize(("spread", "rise"), [(0.2, 0.0), (0.05, 0.05)])
@pytest.mark.parametrize("share", [0.6, 0.9, 0.999])
def test_a_sure_plan_holds_with_the_probability_asked_for(
    curved_problem: Callable[..., CurvedProblem], spread: float, rise: float, share: float
) -> None:
    spreads = quantile(share, N_MODELS)
    for seed in (0, 3):
        problem = curved_problem(seed, n_actionable=4)
        _, cost, limits, people = problem
        m = 4
        drafts, walkers = drafts_for(problem, people, m), people.repeated(m)
        doubt = Told(spread, rise)
        plans = every_plan(refinement(problem, doubt, spreads), people, drafts)
        sure = plans.is_sure
        assert not (sure & torch.isinf(plans.cost)).any()
        assert sure[torch.isfinite(plans.cost)].double().mean() > 0.3
        # Measured anew, not as the plan says.
        again = doubt.of(walkers, plans.mask, plans.values)
        ahead = works(problem, walkers, plans.mask, plans.values)
        assert (ahead >= again.margin(spreads))[sure].all()
        assert (again.validity(ahead) >= share - 1e-9)[sure].all()
        torch.testing.assert_close(plans.uncertainty.spread[sure], again.spread[sure])
        # What works at all, works without a margin too, inside the limits, at its price.
        holds = torch.isfinite(plans.cost)
        do = Intervention(plans.mask, plans.values)
        assert (ahead >= 0)[holds].all()
        assert limits.permits(walkers.x, do, walkers.limits)[holds].all()
        price = cost(walkers.x, plans.mask, plans.values)
        torch.testing.assert_close(plans.cost[holds], price[holds])


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_where_all_is_linear_each_draft_comes_to_the_optimum_of_its_set(
    linear_problem: Callable[..., LinearProblem], spread: float
) -> None:
    problem = linear_problem(3)
    target, cost, _, people, effects, weights = problem
    m, spreads = 4, 2.0
    drafts = drafts_for(problem, people, m)
    plans = every_plan(refinement(problem, Told(spread), spreads), people, drafts)
    walkers, mask = people.repeated(m), drafts.masks.flatten(0, 1)
    search = LinearSearch(target, cost, effects, weights)
    aims = torch.full_like(walkers.x[:, 0], spreads * spread)
    exact = search.candidates(replace(walkers, aim=aims), mask[:, None]).best().cost
    # Plans aim a little past the margin.
    further = search.candidates(replace(walkers, aim=1.05 * aims + 1e-4), mask[:, None]).best().cost
    found = torch.isfinite(plans.cost)
    assert torch.equal(found, torch.isfinite(further))
    assert (plans.cost >= exact * (1 - 1e-9))[found].all()
    assert (plans.cost <= further * (1 + 1e-9))[found].all()
    assert plans.is_sure[found].all()


def test_a_plan_that_is_short_of_its_margin_is_moved_further(
    linear_problem: Callable[..., LinearProblem],
) -> None:
    problem = linear_problem(0)
    target, cost, _, people, effects, weights = problem
    mask = people.limits.may_act
    exact = LinearSearch(target, cost, effects, weights).candidates(people, mask[:, None]).best()
    there = torch.isfinite(exact.cost)
    doubt, spreads = Told(0.1, 0.02, bias=0.05), quantile(0.99, N_MODELS)
    secured = refinement(problem, doubt, spreads).secured(
        people, mask, exact.values, exact.cost.clone()
    )
    assert (doubt.of(people, mask, exact.values).margin(spreads) > 0).all()
    assert secured.is_sure[there].double().mean() > 0.7
    ahead = works(problem, people, mask, secured.values)
    validity = secured.uncertainty.validity(ahead)
    assert (validity >= 0.99 - 1e-9)[secured.is_sure].all()
    assert (secured.cost >= exact.cost * (1 - 1e-9))[there].all()
    # Without a plan there is nothing to move, and what cannot be moved further is kept.
    assert torch.equal(secured.values[~there], exact.values[~there])
    kept = there & ~secured.is_sure
    assert (ahead >= -1e-9)[kept].all()
    assert torch.isinf(secured.cost[~there]).all()


def test_a_sure_plan_wins_over_a_cheaper_one_that_is_not(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    problem = curved_problem(3, n_actionable=4)
    people, m = problem[3], 4
    drafts = drafts_for(problem, people, m)
    spreads = quantile(0.99, N_MODELS)
    maker = refinement(problem, Told(0.3, 0.1), spreads)
    every, one = every_plan(maker, people, drafts), one_plan(maker, people, drafts)
    sure = every.is_sure.view(-1, m)
    cost = every.cost.view(-1, m)
    assert torch.equal(one.is_sure, sure.any(dim=1))
    least = torch.where(sure, cost, torch.inf).amin(dim=1)
    torch.testing.assert_close(one.cost[one.is_sure], least[one.is_sure], rtol=3e-3, atol=0)


def test_neighbouring_sets_only_make_plans_cheaper(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    problem = curved_problem(3, n_features=9, n_actionable=7, n=8)
    people = problem[3]
    drafts = drafts_for(problem, people, 3)
    spreads = quantile(0.9, N_MODELS)
    for doubt, asked in ((Told(0.0), 0.0), (Told(0.1), spreads)):
        narrow = one_plan(refinement(problem, doubt, asked), people, drafts)
        wide = one_plan(refinement(problem, doubt, asked, widely=True), people, drafts)
        assert (wide.cost <= narrow.cost * (1 + 3e-3)).all()
        assert (wide.cost < 0.99 * narrow.cost).any()
        assert wide.is_sure[narrow.is_sure].all()


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_plans_on_steps_and_levels_exist(
    mixed_solver: PublishedCarma, mixed_people: pd.DataFrame, spread: float
) -> None:
    model, classifier = mixed_solver.causal_model, mixed_solver.classifier
    limits, cost = mixed_solver.limits, mixed_solver.cost
    assert isinstance(cost, SquaredCost)
    x = limits.encoding.encode(mixed_people)
    x = x[classifier.probability(x) < classifier.threshold][:25]
    people = People(x, model.abduct(x), limits.around(x))
    target = Target(model.counterfactual, classifier, limits, 0.0)
    problem = (target, cost, limits, people)
    m, spreads = 4, quantile(0.9, N_MODELS)
    drafts, walkers = drafts_for(problem, people, m), people.repeated(m)
    with torch.no_grad():
        plans = every_plan(refinement(problem, Told(spread), spreads), people, drafts)
        ahead = works(problem, walkers, plans.mask, plans.values)
    holds = torch.isfinite(plans.cost)
    assert holds.view(-1, m).any(dim=1).double().mean() > 0.5
    do = Intervention(plans.mask, plans.values)
    assert limits.permits(walkers.x, do, walkers.limits)[holds].all()
    assert (ahead >= 0)[holds].all()
    assert (ahead >= spreads * spread)[plans.is_sure].all()
    hours = plans.values[:, limits.encoding.column("hours")]
    moved = holds & (plans.mask[:, limits.encoding.column("hours")])
    assert moved.any()
    own = walkers.x[:, limits.encoding.column("hours")]
    assert (((hours / 5) == (hours / 5).round()) | (hours == own))[moved].all()
