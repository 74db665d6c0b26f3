"""A level less, made up for elsewhere: never dearer, within the rules, and often far cheaper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from carma import (
    ActionRules,
    CausalGraph,
    Feature,
    Intervention,
    Schema,
    SquaredCost,
    StructuralCausalModel,
    additive,
)
from carma.classifiers.network import NetworkClassifier
from carma.constraints import PlanLimits
from carma.recourse.branching import Branching
from carma.recourse.candidates import Found
from carma.recourse.rounding import Rounding
from carma.recourse.target import People, Target
from carma.state import seeded
from carma.table import Statistics

LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]
Problem = tuple[Target, SquaredCost, PlanLimits, People]

TWO = (
    Feature("course", "ordinal", levels=(0, 1, 2), role="actionable"),
    Feature("savings", bounds=(0.0, 9.0), role="actionable"),
)
FIVE = (
    Feature("course", "ordinal", levels=(0, 1, 2), role="actionable"),
    Feature("hours", "integer", bounds=(0, 60), step=5, role="actionable", cost_weight=0.05),
    Feature("rooms", "integer", bounds=(0, 9), role="actionable"),
    Feature("savings", bounds=(0.0, 9.0), role="actionable", direction="up"),
    Feature("gifts", bounds=(0.0, 9.0), role="actionable", cost_weight=4.0),
)
EFFECTS = {"course": 0.5, "hours": 0.25, "rooms": 0.5, "savings": 0.5, "gifts": 1.0}
EXCLUSIVE = ActionRules(exclusive=[("course", "hours")])


def build(
    linear: LinearClassifier,
    features: tuple[Feature, ...],
    x: Tensor,
    bias: float,
    rules: ActionRules | None = None,
) -> Problem:
    """All rises income, which twice is the log-odds but for the bias; one unit costs a weight."""
    names = tuple(f.name for f in features)
    graph = CausalGraph.from_parents({"income": names}, (*names, "income"))
    schema = Schema((*features, Feature("income")), graph, rules=rules or ActionRules())
    one = Normal(0.0, 1.0)
    equations = {name: additive(lambda _: 0.0, one) for name in names}
    equations["income"] = additive(lambda p: sum(EFFECTS[name] * p[name] for name in names), one)
    scm = StructuralCausalModel(schema, equations)
    classifier = linear(schema, [0.0] * len(names) + [2.0], bias)
    unit = torch.ones(len(names) + 1, dtype=torch.float64)
    statistics = Statistics(0 * unit, unit, 0 * unit, unit)
    limits = PlanLimits(scm.encoding, statistics)
    target = Target(scm.counterfactual, classifier, limits, 0.0)
    cost = SquaredCost(scm.encoding, statistics)
    return target, cost, limits, People(x, scm.abduct(x), limits.around(x))


def with_income(roots: Tensor, features: tuple[Feature, ...]) -> Tensor:
    slopes = torch.tensor([EFFECTS[f.name] for f in features], dtype=torch.float64)
    return torch.cat([roots.double(), (roots.double() @ slopes)[:, None]], dim=1)


def branching(problem: Problem) -> Branching:
    target, cost, limits, _ = problem
    return Branching(target, cost, limits, Rounding(target, cost, limits))


def as_found(problem: Problem, people: People, mask: Tensor, values: Tensor) -> Found:
    """These plans, or none where they do not work or are not allowed."""
    target, cost = problem[:2]
    works = (target.surplus(people, mask, values) >= 0) & people.limits.allows(mask)
    works &= mask.any(dim=1)
    price = torch.where(works, cost(people.x, mask, values), torch.inf)
    held = mask & works[:, None]
    none = torch.zeros(len(mask), dtype=torch.long)
    return Found(held, torch.where(held, values, people.x), price, none)


def copied(found: Found) -> Found:
    return found[torch.arange(len(found.cost))]


def short_of_two_levels(linear: LinearClassifier, needed: Tensor) -> tuple[Problem, Found]:
    """People who are short by ``needed`` levels, and the least level that is enough alone."""
    roots = torch.stack([torch.zeros_like(needed), 3 - needed], dim=1)
    problem = build(linear, TWO, with_income(roots, TWO), -3.0)
    people = problem[3]
    mask = torch.zeros_like(people.x, dtype=torch.bool)
    mask[:, 0] = True
    values = people.x.clone()
    values[:, 0] = (needed - 1e-9).ceil()
    return problem, as_found(problem, people, mask, values)


def test_one_level_and_a_little_of_a_number_beats_two_levels(linear: LinearClassifier) -> None:
    problem, given = short_of_two_levels(linear, torch.tensor([1.125]).double())
    assert given.values[0, 0] == 2
    # Half of the sum of squares: (2^2) / 2 against (1^2 + 0.125^2) / 2.
    best = (1 + 0.125**2) / 2
    assert given.cost.item() == pytest.approx(2.0)
    assert given.cost.item() > 3.9 * best
    found = branching(problem).improved(problem[3], copied(given))
    assert found.cost.item() == pytest.approx(best, rel=1e-3)
    assert found.mask.tolist() == [[True, True, False]]
    course, savings = (found.values - problem[3].x)[0, :2].tolist()
    assert course == 1
    assert 0.125 <= savings < 0.15


def test_with_one_number_to_make_up_it_comes_near_brute_force(linear: LinearClassifier) -> None:
    needed = torch.linspace(0.05, 1.99, 60, dtype=torch.float64)
    problem, given = short_of_two_levels(linear, needed)
    assert torch.isfinite(given.cost).all()
    found = branching(problem).improved(problem[3], copied(given))
    each = [(c**2 + (needed - c).clamp(min=0) ** 2) / 2 for c in range(3)]
    best = torch.stack(each).amin(dim=0)
    assert (found.cost >= best * (1 - 1e-9)).all()
    ratio = found.cost / best
    assert ratio.median().item() < 1.001
    assert ratio.max().item() < 1.001
    assert (given.cost > 2 * best).sum() > 20


def crowd(
    linear: LinearClassifier, rules: ActionRules | None = None, most: int | None = None
) -> tuple[Problem, Found]:
    """Random plans of rejected people, rounded; some work."""
    n, draws = 240, seeded(0)
    roots = torch.stack(
        [
            torch.randint(0, 2, (n,), generator=draws),
            torch.randint(0, 20, (n,), generator=draws),
            torch.randint(0, 4, (n,), generator=draws),
            2 * torch.rand(n, generator=draws),
            2 * torch.rand(n, generator=draws),
        ],
        dim=1,
    )
    problem = build(linear, FIVE, with_income(roots, FIVE), -19.0, rules)
    target, cost, limits, people = problem
    x, box = people.x, people.limits
    if most is not None:
        box = replace(box, max_actions=torch.full((n,), most))
    people = replace(people, limits=box)
    mask = (torch.rand(x.shape, generator=draws) < 0.5) & box.may_act
    share = torch.rand(x.shape, generator=draws, dtype=torch.float64)
    values = torch.where(mask, x + share * (box.upper - x), x)
    rounded = Rounding(target, cost, limits).rounded(people, mask, values)
    problem = (target, cost, limits, people)
    return problem, as_found(problem, people, mask, rounded)


CASES = pytest.mark.parametrize(
    ("rules", "most"),
    [(None, None), (None, 2), (EXCLUSIVE, None), (EXCLUSIVE, 3)],
    ids=["free", "two-actions", "exclusive", "both"],
)


@CASES
def test_plans_get_no_dearer_work_and_are_allowed(
    linear: LinearClassifier, rules: ActionRules | None, most: int | None
) -> None:
    problem, given = crowd(linear, rules, most)
    target, cost, limits, people = problem
    found = branching(problem).improved(people, copied(given))
    there = torch.isfinite(given.cost)
    assert there.sum() > 15
    assert (found.cost <= given.cost)[there].all()
    assert (found.cost < 0.9 * given.cost)[there].double().mean() > 0.2
    assert (target.surplus(people, found.mask, found.values) >= 0)[there].all()
    paid = cost(people.x, found.mask, found.values)
    torch.testing.assert_close(paid[there], found.cost[there], rtol=1e-12, atol=0)
    do = Intervention(found.mask, found.values)
    assert limits.permits(people.x, do, people.limits)[there].all()
    if most is not None:
        assert (found.mask.sum(dim=1) <= most).all()
        assert (found.mask.sum(dim=1) == most).any()
    if rules is not None:
        assert not found.mask[:, :2].all(dim=1).any()
        assert found.mask[:, :2].any(dim=0).all()


@CASES
def test_what_is_added_to_a_plan_moves(
    linear: LinearClassifier,
    rules: ActionRules | None,
    most: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A second round may pin what the first one added to where the person stands.
    monkeypatch.setattr("carma.recourse.branching.ROUNDS", 1)
    problem, given = crowd(linear, rules, most)
    people = problem[3]
    found = branching(problem).improved(people, copied(given))
    added = found.mask & ~given.mask
    assert (found.values != people.x)[added].all()
    assert torch.equal(found.values[~found.mask], people.x[~found.mask])
    if rules is None and most is None:
        assert added.any()


def test_who_has_no_plan_gains_none(linear: LinearClassifier) -> None:
    problem, given = crowd(linear)
    people = problem[3]
    none = ~torch.isfinite(given.cost)
    assert none.sum() > 15
    found = branching(problem).improved(people, copied(given))
    assert torch.equal(torch.isfinite(found.cost), ~none)
    assert not found.mask[none].any()
    assert torch.equal(found.values[none], people.x[none])
    nobody = branching(problem).improved(people, Found.none(people))
    assert torch.isinf(nobody.cost).all()
    assert not nobody.mask.any()


@CASES
def test_answers_depend_on_neither_order_nor_company(
    linear: LinearClassifier, rules: ActionRules | None, most: int | None
) -> None:
    problem, given = crowd(linear, rules, most)
    people = problem[3]
    found = branching(problem).improved(people, copied(given))
    order = torch.randperm(len(people), generator=seeded(1))
    mixed = branching(problem).improved(people[order], given[order])
    torch.testing.assert_close(mixed.cost, found.cost[order], rtol=1e-9, atol=0)
    torch.testing.assert_close(mixed.values, found.values[order], rtol=1e-7, atol=1e-7)
    assert torch.equal(mixed.mask, found.mask[order])
    there = torch.isfinite(given.cost).nonzero().squeeze(1)
    for i in there[:8].tolist():
        row = torch.tensor([i])
        alone = branching(problem).improved(people[row], given[row])
        torch.testing.assert_close(alone.cost, found.cost[row], rtol=1e-9, atol=0)
        assert torch.equal(alone.mask, found.mask[row])
