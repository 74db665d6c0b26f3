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
from carma.recourse.pattern import HALVINGS, PatternSearch
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


class Counting(NetworkClassifier):
    """Counts the rows it is asked about."""

    n_rows = 0

    def _logit(self, x: Tensor) -> Tensor:
        Counting.n_rows += len(x)
        return super()._logit(x)


class Stairs(NetworkClassifier):
    """Piecewise constant, as trees are."""

    def _logit(self, x: Tensor) -> Tensor:
        return super()._logit((2 * x).floor() / 2).detach()


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


@pytest.mark.parametrize("seed", range(4))
def test_a_classifier_of_stairs_is_mostly_solved(
    curved_problem: Callable[..., CurvedProblem], seed: int
) -> None:
    target, cost, limits, people = curved_problem(seed, 4, 2, n=20, wrap=Stairs)
    mask = torch.zeros_like(people.x, dtype=torch.bool)
    mask[:, limits.encoding.actionable] = True
    got = search(target, cost, limits).candidates(people, mask[:, None]).best().cost
    a, b = limits.encoding.actionable.tolist()
    least = torch.full_like(got, torch.inf)
    for i in range(len(people)):
        box = people.limits[i : i + 1]
        # The cheapest plan has each value at the edge of a stair, or as it was.
        lines = []
        for c in (a, b):
            ends = torch.stack([box.lower[0, c], box.upper[0, c]])
            line = torch.arange(-60, 61).double() / 2
            edges = torch.cat([line, line - 1e-9, people.x[i, c : c + 1], ends])
            lines.append(edges[(edges >= ends[0]) & (edges <= ends[1])])
        points = torch.cartesian_prod(*lines)
        values = people.x[i].repeat(len(points), 1)
        values[:, a], values[:, b] = points.unbind(dim=1)
        many, wide = people[torch.full((len(points),), i)], mask[i].expand_as(values)
        works = target.surplus(many, wide, values) >= 0
        least[i] = torch.where(works, cost(many.x, wide, values), torch.inf).min()
    has_plan = torch.isfinite(least)
    assert has_plan.sum() >= 5
    assert (got <= 1.02 * least)[has_plan].double().mean() >= 0.9


def drawn(people: People, limits: PlanLimits, seed: int) -> Candidates:
    """Random plans that may not work and lie on no grid, six for each person."""
    many = people.repeated(6)
    draws = seeded(seed)
    mask = torch.rand(many.x.shape, generator=draws) < 0.7
    mask &= many.limits.may_act
    share = torch.rand(many.x.shape, generator=draws, dtype=torch.float64)
    values = many.limits.lower + share * (many.limits.upper - many.limits.lower)
    values = torch.where(mask, values, many.x)
    owner = torch.arange(len(people)).repeat_interleave(6)
    none = torch.zeros(len(people), dtype=torch.long)
    return Candidates(people, owner, mask, values, torch.full((len(many),), torch.inf), none)


@pytest.mark.parametrize("seed", range(3))
def test_improving_never_worsens_and_mends_what_does_not_work(
    curved_problem: Callable[..., CurvedProblem], seed: int
) -> None:
    target, cost, limits, people = curved_problem(seed, 6, 4, n=15)
    plans = drawn(people, limits, seed)
    each = people[plans.owner]
    works = target.surplus(each, plans.mask, plans.values) >= 0
    before = torch.where(works, cost(each.x, plans.mask, plans.values), torch.inf)
    for rounds in (1, 4, 30):
        after = search(target, cost, limits, rounds).improved(plans)
        assert torch.equal(after.mask, plans.mask)
        assert torch.equal(after.owner, plans.owner)
        assert (after.cost <= before).all()
        is_found = torch.isfinite(after.cost)
        assert (target.surplus(each, after.mask, after.values)[is_found] >= 0).all()
    assert (after.cost < before)[works].all()
    assert (is_found & ~works).sum() > 5


def test_improving_again_goes_on(curved_problem: Callable[..., CurvedProblem]) -> None:
    target, cost, limits, people = curved_problem(0, 6, 4, n=15)
    patterns = search(target, cost, limits, rounds=10)
    once = patterns.improved(drawn(people, limits, 0))
    again = patterns.improved(once)
    assert (again.cost <= once.cost).all()
    assert (again.n_evaluations == 2 * once.n_evaluations).all()


def test_without_rounds_plans_are_only_moved_to_the_grid() -> None:
    target, cost, limits, people = lattice()
    plans = drawn(people, limits, 1)
    each = people[plans.owner]
    moved = search(target, cost, limits, rounds=0).improved(plans)
    said = limits.project(each.x, plans.values, each.limits)
    assert torch.equal(moved.values, torch.where(plans.mask, said, each.x))
    works = target.surplus(each, plans.mask, moved.values) >= 0
    assert torch.equal(torch.isfinite(moved.cost), works)
    assert works.any()
    assert moved.n_evaluations.tolist() == [6] * len(people)


def test_effort_is_the_number_of_plans_tried(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    target, cost, limits, people = curved_problem(3, wrap=Counting)
    masks = every_set(limits, people).clone()
    masks[4] = False
    for rounds in (0, 3):
        Counting.n_rows = 0
        plans = search(target, cost, limits, rounds, keep=8).candidates(people, masks)
        assert int(plans.n_evaluations.sum()) == Counting.n_rows
        n_kept = torch.bincount(plans.owner, minlength=len(people))
        each = 1 + 10 * rounds
        expected = (2 + HALVINGS) * 16 * masks.any(dim=2).sum(dim=1) + each * n_kept
        assert torch.equal(plans.n_evaluations, expected)


def test_the_same_seed_gives_the_same_plans_and_leaves_the_global_draws(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    target, cost, limits, people = curved_problem(2)
    masks = every_set(limits, people)
    shares = torch.rand(4, 6, generator=seeded(0), dtype=torch.float64)
    before = torch.get_rng_state()
    first, same, other = (
        PatternSearch(target, cost, limits, shares, 4, 10, seed=s).candidates(people, masks)
        for s in (0, 0, 1)
    )
    assert torch.equal(first.values, same.values)
    assert not torch.equal(first.values, other.values)
    assert torch.equal(before, torch.get_rng_state())
