"""Rounded plans lie on steps and levels, still work, and are no dearer than they have to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from carma import (
    CausalGraph,
    Feature,
    Intervention,
    Schema,
    SquaredCost,
    StructuralCausalModel,
    additive,
)
from carma.classifiers.network import NetworkClassifier
from carma.constraints import Limits, PlanLimits
from carma.recourse.rounding import Rounding
from carma.recourse.target import People, Target
from carma.state import seeded
from carma.table import Encoding, Statistics

LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]
Problem = tuple[Target, SquaredCost, PlanLimits, People]

COURSES, HOURS = (0.0, 1.0, 2.0, 4.0), 5.0
MIXED = (
    Feature("course", "ordinal", levels=(0, 1, 2, 4), role="actionable", cost_weight=2.0),
    Feature("hours", "integer", bounds=(0, 60), step=5, role="actionable", direction="up"),
    Feature("rooms", "integer", bounds=(0, 9), role="actionable", cost_weight=3.0),
    Feature("debt", bounds=(0.0, 50.0), role="actionable", direction="down", cost_weight=0.1),
)
# What each feature adds to income, and what to the log-odds, of which income is half.
EFFECTS, WEIGHTS = [1.0, 0.25, 0.0, 0.0], [1.0, 0.0, -0.5, -0.25]
SLOPES = [w + 0.5 * e for w, e in zip(WEIGHTS, EFFECTS, strict=True)]
PLAIN = tuple(Feature(n, bounds=(0.0, 50.0), role="actionable") for n in ("a", "b", "c", "debt"))


def build(linear: LinearClassifier, n: int, features: tuple[Feature, ...] = MIXED) -> Problem:
    """Rejected people; income follows what they act on, and both decide."""
    names = tuple(f.name for f in features)
    schema = Schema(
        (*features, Feature("income")),
        CausalGraph.from_parents({"income": names}, (*names, "income")),
    )
    one = Normal(0.0, 1.0)
    equations = {name: additive(lambda _: 0.0, one) for name in names}
    equations["income"] = additive(
        lambda p: sum(e * p[name] for e, name in zip(EFFECTS, names, strict=True)), one
    )
    scm = StructuralCausalModel(schema, equations)
    draws = seeded(0)
    columns = [
        torch.tensor(COURSES)[torch.randint(0, 3, (n,), generator=draws)],
        # Not everyone stands on a step.
        torch.randint(0, 30, (n,), generator=draws),
        torch.randint(2, 10, (n,), generator=draws),
        50 * torch.rand(n, generator=draws),
    ]
    roots = torch.stack([c.double() for c in columns], dim=1)
    noise = torch.randn(n, generator=draws).double()
    x = torch.cat([roots, (roots @ torch.tensor(EFFECTS).double() + noise)[:, None]], dim=1)
    classifier = linear(schema, [*WEIGHTS, 0.5], 4.0)
    x = x[classifier.probability(x) < 0.5]
    unit = torch.ones(5, dtype=torch.float64)
    statistics = Statistics(0 * unit, unit, 0 * unit, unit)
    limits = PlanLimits(scm.encoding, statistics)
    target = Target(scm.counterfactual, classifier, limits, 0.0)
    cost = SquaredCost(scm.encoding, statistics)
    return target, cost, limits, People(x, scm.abduct(x), limits.around(x))


def narrowed(people: People, room: float) -> People:
    x, box = people.x, people.limits
    lower, upper = x + room * (box.lower - x), x + room * (box.upper - x)
    lower[:, -1], upper[:, -1] = x[:, -1], x[:, -1]
    return replace(people, limits=Limits(lower, upper, box.may_act))


def drawn(people: People, seed: int) -> tuple[Tensor, Tensor]:
    """Random sets, and values on the way to where the log-odds are highest."""
    x, box = people.x, people.limits
    helps = torch.tensor([*SLOPES, 0.0]).double() > 0
    end = torch.where(helps, box.upper, box.lower)
    draws = seeded(seed)
    mask = (torch.rand(x.shape, generator=draws) < 0.7) & box.may_act
    share = torch.rand(x.shape, generator=draws, dtype=torch.float64)
    return mask, torch.where(mask, x + share * (end - x), x)


def outward(problem: Problem, people: People, mask: Tensor, values: Tensor) -> Tensor:
    said = problem[2].project(people.x, values, people.limits)
    return torch.where(mask, said, people.x)


@pytest.mark.parametrize("room", [1.0, 0.6, 0.25])
def test_every_result_lies_on_steps_and_levels_inside_the_limits(
    linear: LinearClassifier, room: float
) -> None:
    target, cost, limits, everyone = build(linear, 300)
    people = narrowed(everyone, room)
    mask, values = drawn(people, 1)
    result = Rounding(target, cost, limits).rounded(people, mask, values)
    x, box = people.x, people.limits
    works = target.surplus(people, mask, result) >= 0
    assert works.any()
    assert (~works).any()
    assert torch.equal(result[~mask], x[~mask])
    assert limits.permits(x, Intervention(mask, result), box).all()
    assert ((result >= box.lower) & (result <= box.upper)).all()
    own = result == x
    course, hours, rooms = result[:, :3].unbind(dim=1)
    assert (torch.isin(course, torch.tensor(COURSES).double()) | own[:, 0]).all()
    assert ((hours % HOURS == 0) | own[:, 1]).all()
    assert (rooms % 1 == 0).all()
    assert (~own[:, :4]).any(dim=0).all()


@pytest.mark.parametrize("features", [MIXED, PLAIN], ids=["mixed", "plain"])
@pytest.mark.parametrize("room", [1.0, 0.6])
def test_what_works_rounded_outward_works_and_is_no_dearer(
    linear: LinearClassifier, features: tuple[Feature, ...], room: float
) -> None:
    problem = build(linear, 300, features)
    target, cost, limits, everyone = problem
    people = narrowed(everyone, room)
    mask, values = drawn(people, 2)
    first = outward(problem, people, mask, values)
    result = Rounding(target, cost, limits).rounded(people, mask, values)
    does = target.surplus(people, mask, first) >= 0
    assert does.sum() > 30
    assert (target.surplus(people, mask, result) >= 0)[does].all()
    before, after = (cost(people.x, mask, v) for v in (first, result))
    assert (after <= before)[does].all()
    assert (after < 0.9 * before)[does].double().mean() > 0.3


@pytest.mark.parametrize("share", [0.97, 0.9, 0.75])
def test_what_just_misses_is_made_a_little_longer(linear: LinearClassifier, share: float) -> None:
    target, cost, limits, people = build(linear, 300)
    x, debt = people.x, 3
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, debt] = True
    needed = -target.surplus(people, mask, x) / abs(SLOPES[debt])
    rows = ((needed > 0.1) & (1.1 * needed < x[:, debt])).nonzero().squeeze(1)
    assert len(rows) > 20
    some, held, needed = people[rows], mask[rows], needed[rows]
    values = some.x.clone()
    values[:, debt] -= share * needed
    assert (target.surplus(some, held, values) < 0).all()
    result = Rounding(target, cost, limits).rounded(some, held, values)
    assert (target.surplus(some, held, result) >= 0).all()
    length = (some.x - result)[:, debt] / needed
    assert (length >= 1 - 1e-9).all()
    # What was too much is taken back to the last share that is tried.
    assert (length <= 1.06).all()


@pytest.mark.parametrize("share", [0.9, 0.97, 1.0, 1.1, 1.3])
@pytest.mark.parametrize("name", ["course", "hours", "rooms"])
def test_one_feature_on_steps_is_solved_as_by_brute_force(
    linear: LinearClassifier, name: str, share: float
) -> None:
    target, cost, limits, people = build(linear, 400)
    x, i = people.x, limits.encoding.column(name)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, i] = True
    values = x.clone()
    values[:, i] -= share * target.surplus(people, mask, x) / SLOPES[i]
    result = Rounding(target, cost, limits).rounded(people, mask, values)
    choices = {
        "course": torch.tensor(COURSES),
        "hours": torch.arange(0, 61, int(HOURS)),
        "rooms": torch.arange(10),
    }[name]
    least = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for choice in choices.tolist():
        trial = x.clone()
        trial[:, i] = float(choice)
        box = people.limits
        works = ((trial >= box.lower) & (trial <= box.upper)).all(dim=1)
        works &= target.surplus(people, mask, trial) >= 0
        least = torch.where(works, torch.minimum(least, cost(x, mask, trial)), least)
    found = torch.isfinite(least)
    assert found.sum() > 20
    assert (~found).any()
    assert torch.equal(target.surplus(people, mask, result) >= 0, found)
    torch.testing.assert_close(cost(x, mask, result)[found], least[found], rtol=1e-12, atol=0)


def test_answers_depend_on_neither_order_nor_company(linear: LinearClassifier) -> None:
    target, cost, limits, everyone = build(linear, 300)
    people = narrowed(everyone, 0.6)
    mask, values = drawn(people, 3)
    rounding = Rounding(target, cost, limits)
    result = rounding.rounded(people, mask, values)
    order = torch.randperm(len(people), generator=seeded(4))
    mixed = rounding.rounded(people[order], mask[order], values[order])
    torch.testing.assert_close(mixed, result[order], rtol=0, atol=1e-9)
    for i in range(0, 40, 3):
        row = slice(i, i + 1)
        alone = rounding.rounded(people[row], mask[row], values[row])
        torch.testing.assert_close(alone, result[row], rtol=0, atol=1e-9)


def test_without_steps_values_only_come_nearer(linear: LinearClassifier) -> None:
    target, cost, limits, people = build(linear, 300, PLAIN)
    assert not limits.has_grid
    mask, values = drawn(people, 5)
    works = target.surplus(people, mask, values) >= 0
    assert works.sum() > 30
    result = Rounding(target, cost, limits).rounded(people, mask, values)
    before, after = (values - people.x)[works], (result - people.x)[works]
    assert (after * before >= 0).all()
    assert (after.abs() <= before.abs()).all()
    assert (after.abs() < before.abs()).any(dim=1).double().mean() > 0.5
    assert (target.surplus(people, mask, result) >= 0)[works].all()


STEPPED = {"a": (0.0, 1.0), "b": (2.0, 5.0), "c": (-3.0, 0.25), "d": (0.0, 0.1)}
PLACES = st.lists(st.integers(0, 40), min_size=4, max_size=4)


@given(PLACES, PLACES, st.floats(0, 0.9))
def test_inward_is_a_share_of_the_steps_nearer_and_never_past_the_own_value(
    owns: list[int], tos: list[int], off: float
) -> None:
    features = tuple(
        Feature(n, bounds=(low, low + 41 * step), step=step, role="actionable")
        for n, (low, step) in STEPPED.items()
    )
    limits = PlanLimits(Encoding(Schema(features, CausalGraph(tuple(STEPPED)))), None)
    low, step = torch.tensor(list(STEPPED.values()), dtype=torch.float64).unbind(dim=1)
    # The own value need not lie on a step.
    x = (low + (torch.tensor(owns) + off) * step)[None]
    values = (low + torch.tensor(tos) * step)[None]
    nearer = limits.inward(x, values, 0.3)
    before, after = values - x, nearer - x
    assert (before * after >= 0).all()
    assert (after.abs() <= before.abs()).all()
    stride = (0.3 / step * before.abs()).floor().clamp(min=1) * step
    expected = torch.minimum(before.abs(), stride)
    torch.testing.assert_close(before.abs() - after.abs(), expected, rtol=0, atol=1e-12)
    own = limits.inward(x, x, 0.3)
    assert torch.equal(own, x)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=7, unique=True).map(sorted), st.data())
def test_inward_is_one_level_nearer(levels: list[int], data: st.DataObject) -> None:
    feature = Feature("a", "ordinal", levels=tuple(levels), role="actionable")
    limits = PlanLimits(Encoding(Schema((feature,), CausalGraph(("a",)))), None)
    own, to = (data.draw(st.integers(0, len(levels) - 1)) for _ in range(2))
    x, values = (torch.tensor([[levels[i]]], dtype=torch.float64) for i in (own, to))
    nearer = to + (own > to) - (own < to)
    assert limits.inward(x, values, 0.3).tolist() == [[levels[nearer]]]


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 1))
def test_inward_draws_numbers_back_by_a_share(own: float, to: float, share: float) -> None:
    schema = Schema((Feature("a", role="actionable"),), CausalGraph(("a",)))
    x, values = (torch.tensor([[v]], dtype=torch.float64) for v in (own, to))
    nearer = PlanLimits(Encoding(schema), None).inward(x, values, share)
    torch.testing.assert_close(nearer, x + (1 - share) * (values - x), rtol=0, atol=1e-12)
    assert own != to or nearer.item() == own
