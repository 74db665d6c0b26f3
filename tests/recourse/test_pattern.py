"""Trials without slopes come near the closed form, and respect steps, levels and company."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import product

import pytest
import torch
from torch import Tensor

from carma import CausalGraph, Feature, Intervention, Schema, SquaredCost
from carma.classifiers.network import Input, NetworkClassifier
from carma.constraints import PlanLimits
from carma.recourse.candidates import Candidates
from carma.recourse.linear import LinearSearch
from carma.recourse.pattern import PatternSearch
from carma.recourse.subsets import all_subsets
from carma.recourse.target import People, Target
from carma.state import seeded
from carma.table import Encoding, Statistics

LinearProblem = tuple[Target, SquaredCost, PlanLimits, People, Tensor, Tensor]
CurvedProblem = tuple[Target, SquaredCost, PlanLimits, People]


class Stepped(NetworkClassifier):
    """Log-odds in steps, without slopes."""

    def _logit(self, x: Tensor) -> Tensor:
        return super()._logit(x.detach()).floor()


class Undefined(NetworkClassifier):
    """Gives no number where the first column is above 0."""

    def _logit(self, x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, torch.nan, super()._logit(x))


def search(
    target: Target, cost: SquaredCost, limits: PlanLimits, rounds: int = 60, keep: int = 24
) -> PatternSearch:
    d = limits.encoding.n_columns
    shares = torch.rand(16, d, generator=seeded(0), dtype=torch.float64)
    return PatternSearch(target, cost, limits, shares, keep, rounds)


def every_set(limits: PlanLimits, people: People) -> Tensor:
    masks = all_subsets(limits.encoding.actionable, people.x.shape[1])
    return masks.expand(len(people), *masks.shape)


def check(plans: Candidates, target: Target, cost: SquaredCost, limits: PlanLimits) -> None:
    """Plans that work do so, cost what they say, and keep every limit."""
    each, works = plans.people[plans.owner], torch.isfinite(plans.cost)
    for entry in (plans.values, plans.cost):
        assert not entry.isnan().any()
    surplus = target.surplus(each, plans.mask, plans.values)
    assert torch.equal(works, surplus >= 0)
    assert torch.equal(plans.cost[works], cost(each.x, plans.mask, plans.values)[works])
    assert limits.permits(each.x, Intervention(plans.mask, plans.values), each.limits).all()
    assert torch.equal(plans.values[~plans.mask], each.x[~plans.mask])


@pytest.mark.parametrize("seed", range(4))
def test_a_linear_problem_is_solved_to_one_percent(
    linear_problem: Callable[..., LinearProblem], seed: int
) -> None:
    target, cost, limits, people, effects, weights = linear_problem(seed)
    masks = every_set(limits, people)
    exact = LinearSearch(target, cost, effects, weights).candidates(people, masks).best()
    plans = search(target, cost, limits).candidates(people, masks)
    check(plans, target, cost, limits)
    found = plans.best()
    works = torch.isfinite(exact.cost)
    assert works.sum() >= 10
    assert torch.equal(torch.isfinite(found.cost), works)
    ratio = (found.cost / exact.cost)[works]
    assert (ratio > 1 - 1e-6).all()
    assert (ratio < 1.01).all()


LATTICE = Schema(
    (
        Feature("a", "integer", bounds=(0, 8), role="actionable"),
        Feature("b", "integer", bounds=(0, 12), step=3, role="actionable", direction="up"),
        Feature("c", "ordinal", levels=(0, 1, 3, 4), role="actionable"),
        Feature("d"),
    ),
    CausalGraph.from_parents({"d": ["a"]}, ("a", "b", "c", "d")),
)


def raised(x: Tensor, plan: Intervention, u: Tensor) -> Tensor:
    """What is set, and half of a's change on d."""
    reached = torch.where(plan.mask, plan.values, x)
    after = reached[:, 3] + (reached[:, 0] - x[:, 0]) / 2
    return torch.cat([reached[:, :3], after[:, None]], dim=1)


def lattice(n: int = 40) -> tuple[Target, SquaredCost, PlanLimits, People]:
    encoding, draws = Encoding(LATTICE), seeded(0)
    columns = [
        torch.randint(0, 9, (400,), generator=draws),
        # Own values may lie off the steps.
        torch.randint(0, 13, (400,), generator=draws),
        torch.tensor([0, 1, 3, 4])[torch.randint(0, 4, (400,), generator=draws)],
        torch.randn(400, generator=draws),
    ]
    rows = torch.stack([c.double() for c in columns], dim=1)
    inputs = [Input(i) for i in range(4)]
    weights = torch.tensor([[0.7, 0.3, -0.9, 1.1]])
    classifier = Stepped(LATTICE, inputs, [weights], [torch.tensor([-5.3])])
    statistics = Statistics.of(rows)
    limits = PlanLimits(encoding, statistics)
    x = rows[classifier.probability(rows) < 0.5][:n]
    target = Target(raised, classifier, limits, 0.0)
    return target, SquaredCost(encoding, statistics), limits, People(x, x, limits.around(x))


def brute_force(target: Target, cost: SquaredCost, limits: PlanLimits, person: People) -> float:
    own = person.x[0].tolist()
    grid = product({*range(9), own[0]}, {0, 3, 6, 9, 12, own[1]}, (0, 1, 3, 4), (own[3],))
    values = torch.tensor(list(grid), dtype=torch.float64)
    many = person.repeated(len(values))
    mask = torch.tensor([True, True, True, False]).expand_as(values)
    works = target.surplus(many, mask, values) >= 0
    works &= limits.permits(many.x, Intervention(mask, values), many.limits)
    return torch.where(works, cost(many.x, mask, values), torch.inf).min().item()


def test_on_a_lattice_most_plans_are_those_of_brute_force_and_none_is_far_off() -> None:
    target, cost, limits, people = lattice()
    plans = search(target, cost, limits).candidates(people, every_set(limits, people))
    check(plans, target, cost, limits)
    values, moved = plans.values, plans.values != people.x[plans.owner]
    assert torch.equal(values[:, 0].round(), values[:, 0])
    assert (values[moved[:, 1], 1] % 3 == 0).all()
    assert torch.isin(values[:, 2], torch.tensor([0, 1, 3, 4]).double()).all()
    each = [brute_force(target, cost, limits, people[i : i + 1]) for i in range(len(people))]
    least = torch.tensor(each, dtype=torch.float64)
    found = plans.best().cost
    assert len(people) == 40
    assert torch.isfinite(least).sum() > 30
    works = torch.isfinite(least)
    assert torch.equal(torch.isfinite(found), works)
    ratio = (found / least)[works]
    assert (ratio > 1 - 1e-12).all()
    # Trials move one feature or a random direction: some trades between two are missed.
    assert ratio.max() < 1.5
    assert (ratio < 1 + 1e-12).double().mean() > 0.9


@pytest.mark.parametrize("on_lattice", [True, False])
def test_improving_never_worsens_a_plan_that_works(
    curved_problem: Callable[..., CurvedProblem], on_lattice: bool
) -> None:
    target, cost, limits, people = lattice() if on_lattice else curved_problem(1)
    masks = every_set(limits, people)
    before = search(target, cost, limits, rounds=0).candidates(people, masks)
    after = search(target, cost, limits, rounds=8).improved(before)
    check(after, target, cost, limits)
    assert torch.equal(after.owner, before.owner)
    assert torch.equal(after.mask, before.mask)
    assert (after.cost <= before.cost).all()
    assert (after.cost < before.cost).sum() > 20
    assert (after.n_evaluations > before.n_evaluations).all()


def test_improving_nothing_changes_nothing(curved_problem: Callable[..., CurvedProblem]) -> None:
    target, cost, limits, people = curved_problem(1)
    nothing = torch.zeros(len(people), 1, people.x.shape[1], dtype=torch.bool)
    patterns = search(target, cost, limits)
    plans = patterns.candidates(people, nothing)
    assert len(plans.owner) == 0
    assert plans.best().cost.isinf().all()
    assert plans.n_evaluations.tolist() == [0] * len(people)
    bare = Candidates(
        people,
        torch.arange(len(people)),
        nothing[:, 0],
        people.x,
        torch.full_like(people.x[:, 0], torch.inf),
        plans.n_evaluations,
    )
    assert patterns.improved(bare) is bare


def test_company_does_not_change_an_answer() -> None:
    target, cost, limits, people = lattice(12)
    masks = every_set(limits, people).clone()
    # Each has sets of their own.
    masks &= (torch.rand(masks.shape[:2], generator=seeded(1)) < 0.6)[..., None]
    patterns = search(target, cost, limits, rounds=20, keep=5)
    together = patterns.candidates(people, masks).best()
    for i in range(len(people)):
        alone = patterns.candidates(people[i : i + 1], masks[i : i + 1]).best()
        for entry in fields(alone):
            got = getattr(together, entry.name)[i : i + 1]
            assert torch.equal(getattr(alone, entry.name), got), entry.name


def test_where_nothing_is_defined_there_is_no_plan_and_no_nan(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    target, cost, limits, people = curved_problem(1, n=20, wrap=Undefined)
    plans = search(target, cost, limits, rounds=10).candidates(people, every_set(limits, people))
    check(plans, target, cost, limits)
    assert torch.isfinite(plans.cost).any()
    reached = target._follow(
        people.x[plans.owner], Intervention(plans.mask, plans.values), people.u[plans.owner]
    )
    assert (reached[torch.isfinite(plans.cost), 0] <= 0).all()
