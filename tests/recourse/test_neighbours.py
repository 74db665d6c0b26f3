"""A local search over sets: never worse, within limits, and nearly always at the optimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from carma import (
    ClassifierSettings,
    ExactSettings,
    ExactSolver,
    SquaredCost,
    TrainingSettings,
    fit_classifier,
)
from carma.benchmarks import random_benchmark
from carma.constraints import Limits, PlanLimits
from carma.interventions import Intervention
from carma.recourse.candidates import Found
from carma.recourse.linear import LinearSearch
from carma.recourse.neighbours import Neighbours
from carma.recourse.starts import spread_evenly
from carma.recourse.subsets import all_subsets
from carma.recourse.target import People, Target
from carma.recourse.walks import WalkSearch
from carma.state import seeded

LinearProblem = tuple[Target, SquaredCost, PlanLimits, People, Tensor, Tensor]
CurvedProblem = tuple[Target, SquaredCost, PlanLimits, People]


def search(problem: LinearProblem | CurvedProblem) -> tuple[Neighbours, WalkSearch]:
    target, cost, limits = problem[:3]
    columns, d = limits.encoding.actionable, limits.encoding.n_columns
    walks = WalkSearch(target, cost, spread_evenly(6, columns, d), 4, 6, 12)
    return Neighbours(target._follow, target, cost, columns, d), walks


def optimum(problem: LinearProblem) -> Tensor:
    """Of all sets, by the closed form."""
    target, cost, limits, people, effects, weights = problem
    every = all_subsets(limits.encoding.actionable, limits.encoding.n_columns)
    masks = every.expand(len(people), -1, -1)
    return LinearSearch(target, cost, effects, weights).candidates(people, masks).best().cost


@pytest.mark.parametrize("seed", range(3))
def test_from_everything_it_finds_the_optimum_of_a_linear_problem(
    linear_problem: Callable[..., LinearProblem], seed: int
) -> None:
    problem = linear_problem(seed, n_features=10, n_actionable=8, n=20)
    people = problem[3]
    neighbours, walks = search(problem)
    found = walks.candidates(people, people.limits.can_move[:, None]).best()
    steps = neighbours.improved(people, found, 8)
    best = (steps[-1] if steps else found).cost
    least = optimum(problem)
    works = torch.isfinite(found.cost)
    assert works.double().mean() > 0.8
    ratio = (best / least)[works]
    assert (ratio >= 1 - 1e-6).all()
    assert (ratio <= 1.05).double().mean() >= 0.9
    assert float(best[works].mean()) <= 1.05 * float(least[works].mean())
    # Not that there was nothing to find.
    assert float(found.cost[works].mean()) > 1.1 * float(least[works].mean())


@pytest.mark.parametrize(("n_features", "n_actionable", "seed"), [(10, 8, 0), (12, 8, 2)])
def test_from_everything_it_comes_near_the_optimum_of_a_curved_problem(
    n_features: int, n_actionable: int, seed: int
) -> None:
    data = random_benchmark(n_features, n_actionable, seed=seed, rows=600)
    quick = TrainingSettings(epochs=10, batch_size=64, learning_rate=2e-2)
    settings = ClassifierSettings((16,), quick)
    classifier = fit_classifier(data.schema, data.frame("classifier"), settings, progress=False)
    limits = PlanLimits(data.encoding, data.scm.statistics_)
    x = data.encoded("recourse")
    x = x[classifier.probability(x) < 0.5][:10]
    people = People(x, data.scm.abduct(x), limits.around(x))
    target = Target(data.scm.counterfactual, classifier, limits, 0.0)
    neighbours, walks = search((target, data.cost, limits, people))
    found = walks.candidates(people, people.limits.can_move[:, None]).best()
    steps = neighbours.improved(people, found, 8)
    best = (steps[-1] if steps else found).cost
    every = ExactSettings(starts=3, keep=24, refine_steps=10, polish_rounds=0, max_subsets=255)
    exact = ExactSolver(data.scm, classifier, cost=data.cost, settings=every).solve(x)
    works = torch.isfinite(found.cost)
    assert works.double().mean() > 0.8
    assert float(best[works].mean()) <= 1.05 * float(exact.cost[works].mean())


def test_no_round_is_worse_and_every_plan_does_what_it_says(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    problem = curved_problem(5, n_features=9, n_actionable=7, n=12)
    target, cost, limits, people = problem
    draws = seeded(1)
    may_act = people.limits.may_act & (torch.rand(people.x.shape, generator=draws) < 0.8)
    most = torch.randint(1, 4, (len(people),), generator=draws)
    weights = (0.5 * torch.randn(people.x.shape, generator=draws, dtype=torch.float64)).exp()
    box = Limits(people.limits.lower, people.limits.upper, may_act, most)
    aim = torch.full_like(people.x[:, 0], 0.2)
    people = replace(people, limits=box, weights=weights, aim=aim)
    neighbours, walks = search(problem)
    # One feature each: the limit holds from the start.
    first = torch.zeros_like(may_act)
    first[torch.arange(len(people)), may_act.int().argmax(dim=1)] = True
    found = walks.candidates(people, (first & may_act)[:, None]).best()
    before = found.cost.clone()
    steps = neighbours.improved(people, found, 6)
    assert steps
    for step in steps:
        assert (step.cost <= before).all()
        before = step.cost
        works = torch.isfinite(step.cost)
        assert box.allows(step.mask)[works].all()
        do = Intervention(step.mask, step.values)
        assert limits.permits(people.x, do, box)[works].all()
        assert (target.surplus(people, step.mask, step.values) >= 0)[works].all()
        price = cost(people.x, step.mask, step.values, weights)
        torch.testing.assert_close(step.cost[works], price[works])
        own = people.x[works][~step.mask[works]]
        assert torch.equal(step.values[works][~step.mask[works]], own)
    assert (steps[-1].cost < found.cost).any()


def test_who_cannot_move_keeps_no_plan(curved_problem: Callable[..., CurvedProblem]) -> None:
    problem = curved_problem(5, n_features=9, n_actionable=7, n=4)
    people = problem[3]
    frozen = replace(people.limits, may_act=torch.zeros_like(people.limits.may_act))
    people = replace(people, limits=frozen)
    assert search(problem)[0].improved(people, Found.none(people), 3) == []


def test_a_person_is_searched_for_alone(curved_problem: Callable[..., CurvedProblem]) -> None:
    problem = curved_problem(3, n_features=9, n_actionable=7, n=6)
    people = problem[3]
    neighbours, walks = search(problem)
    found = walks.candidates(people, people.limits.can_move[:, None]).best()
    together = neighbours.improved(people, found, 3)[-1]
    for i in range(len(people)):
        row = torch.tensor([i])
        alone = neighbours.improved(people[row], found[row], 3)
        cost = (alone[-1] if alone else found[row]).cost
        torch.testing.assert_close(cost[0], together.cost[i], rtol=1e-6, atol=1e-12)
