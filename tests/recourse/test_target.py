"""The surplus tells what works, its slope where to go, and neither is ever NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from carma import Intervention
from carma.benchmarks import random_scm
from carma.classifiers.network import NetworkClassifier
from carma.constraints import Limits, PlanLimits
from carma.costs import SquaredCost
from carma.errors import SettingsError
from carma.recourse.target import People, Target, check_margin
from carma.schema import Schema
from carma.state import seeded
from carma.table import Encoding

CurvedProblem = tuple[Target, SquaredCost, PlanLimits, People]
MakeProblem = Callable[..., CurvedProblem]
LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]


class Broken(NetworkClassifier):
    """Gives what is no number, or no finite one, in parts of the table."""

    def _logit(self, x: Tensor) -> Tensor:
        logit = super()._logit(x)
        logit = torch.where(x[:, 0] > 0.5, torch.nan, logit)
        logit = torch.where(x[:, 0] < -0.5, torch.inf, logit)
        return torch.where(x[:, 1] > 1, -torch.inf, logit)


class Stepped(NetworkClassifier):
    """Knows no gradient."""

    def _logit(self, x: Tensor) -> Tensor:
        return super()._logit(x.detach()).round()


def some_plans(limits: PlanLimits, people: People, seed: int) -> tuple[People, Tensor, Tensor]:
    """Random sets and values, many for each person."""
    many = people.repeated(40)
    draws = seeded(seed)
    mask = (torch.rand(many.x.shape, generator=draws) < 0.6) & many.limits.may_act
    share = torch.rand(many.x.shape, generator=draws, dtype=torch.float64)
    box = many.limits
    return many, mask, box.lower + share * (box.upper - box.lower)


def bounded(limits: PlanLimits, share: float) -> PlanLimits:
    """The same problem with bounds on what follows."""
    schema = limits.encoding.schema
    features = tuple(
        f if f.role == "actionable" else replace(f, bounds=(-share, share)) for f in schema.features
    )
    return PlanLimits(Encoding(replace(schema, features=features)), None)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("share", [2.5, 4.0, 1e6])
def test_a_plan_works_exactly_where_the_aim_is_reached_inside_declared_bounds(
    curved_problem: MakeProblem, margin: float, share: float
) -> None:
    plain, _, limits, people = curved_problem(1)
    tight = bounded(limits, share)
    target = Target(plain._follow, plain._classifier, tight, margin)
    many, mask, values = some_plans(limits, people, 1)
    surplus = target.surplus(many, mask, values)
    reached = plain._follow(many.x, Intervention(mask, values), many.u)
    probability = plain._classifier.probability(reached)
    aim = plain._classifier.threshold + margin
    clear = (probability - aim).abs() > 1e-9
    works = (probability >= aim) & tight.can_exist(reached, reached)
    assert torch.equal((surplus >= 0)[clear], works[clear])
    assert 10 < works.sum() < len(works) - 10
    # Inside, the number is that of the log-odds, however near a bound is.
    inside = tight.room(reached, reached) >= 0
    expected = plain._classifier.logit(reached) - math.log(aim / (1 - aim))
    torch.testing.assert_close(surplus[inside], expected[inside], rtol=0, atol=1e-9)
    assert (surplus[~inside] <= tight.room(reached, reached)[~inside]).all()


def test_the_aim_itself_is_enough_for_the_threshold(curved_problem: MakeProblem) -> None:
    target, *_ = curved_problem(0)
    for margin in torch.linspace(0, 0.49, 300).tolist():
        aim = Target(target._follow, target._classifier, target._limits, margin).logit
        reached = torch.sigmoid(torch.tensor(aim, dtype=torch.float64)).item()
        assert reached >= target._classifier.threshold + margin


@pytest.mark.parametrize("side", [0, 1])
def test_thresholds_near_nought_and_one_are_reached(linear: LinearClassifier, side: int) -> None:
    scm = random_scm(2, 1)
    limits = PlanLimits(scm.encoding, None)
    for share in torch.logspace(-12, -1, 400, dtype=torch.float64).tolist():
        threshold = 1 - share if side else share
        classifier = linear(replace(scm.schema, threshold=threshold), [0.0, 1.0], 0.0)
        aim = Target(scm.counterfactual, classifier, limits, 0.0).logit
        at_aim = torch.tensor([[0.0, aim]], dtype=torch.float64)
        assert classifier.probability(at_aim).item() >= threshold
        # And not by much more than needed.
        assert aim - math.log(threshold / (1 - threshold)) < 2e-12 + 2e-15 / (1 - threshold)


def test_broken_classifiers_and_models_give_no_nan(curved_problem: MakeProblem) -> None:
    target, _, limits, people = curved_problem(2, wrap=Broken)
    many, mask, values = some_plans(limits, people, 2)
    # The classifier alone, then a model that loses some people, and both infinities.
    for broken in (None, torch.nan, torch.inf, -torch.inf):

        def follow(x: Tensor, plan: Intervention, u: Tensor, to: Any = broken) -> Tensor:
            reached = target._follow(x, plan, u)
            if to is None:
                return reached
            return torch.where(torch.arange(len(x))[:, None] % 3 == 0, reached * to, reached)

        aimed = Target(follow, target._classifier, limits, 0.1)
        surplus, slope = aimed.surplus_and_slope(many, mask, values)
        assert not surplus.isnan().any()
        assert torch.isfinite(slope).all()
        assert torch.equal(surplus, aimed.surplus(many, mask, values))
        reached = follow(many.x, Intervention(mask, values), many.u)
        lost = ~torch.isfinite(reached).all(dim=1) | aimed._classifier.logit(reached).isnan()
        assert lost.any()
        assert surplus[lost].isneginf().all()


@pytest.mark.parametrize("seed", range(3))
def test_the_slope_is_that_of_finite_differences(curved_problem: MakeProblem, seed: int) -> None:
    target, _, limits, people = curved_problem(seed)
    many, mask, values = some_plans(limits, people, seed)
    surplus, slope = target.surplus_and_slope(many, mask, values)
    assert torch.equal(surplus, target.surplus(many, mask, values))
    h = 1e-5
    for j in range(values.shape[1]):
        step = h * torch.eye(values.shape[1], dtype=torch.float64)[j]
        up, down = (target.surplus(many, mask, values + s) for s in (step, -step))
        torch.testing.assert_close(slope[:, j], (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
    assert (slope[~mask] == 0).all()
    assert (slope[mask] != 0).any()


def test_neither_result_nor_arguments_carry_gradients(curved_problem: MakeProblem) -> None:
    target, _, limits, people = curved_problem(0)
    many, mask, values = some_plans(limits, people, 0)
    with torch.no_grad():
        surplus, slope = target.surplus_and_slope(many, mask, values)
    assert (slope != 0).any()
    assert not any(t.requires_grad for t in (surplus, slope, values))


def test_without_a_gradient_the_slope_is_nought(curved_problem: MakeProblem) -> None:
    target, _, limits, people = curved_problem(0, wrap=Stepped)
    many, mask, values = some_plans(limits, people, 0)
    surplus, slope = target.surplus_and_slope(many, mask, values)
    assert torch.equal(surplus, target.surplus(many, mask, values))
    assert (slope == 0).all()


def test_an_aim_beyond_all_probabilities_is_refused(
    linear: LinearClassifier, curved_problem: MakeProblem
) -> None:
    _, _, limits, _ = curved_problem(0)
    schema = replace(limits.encoding.schema, threshold=0.75)
    classifier = linear(schema, [1.0] * 6, 0.0)
    check_margin("Some", 0.2499, classifier)
    for margin in (0.25, 0.3):
        with pytest.raises(SettingsError) as caught:
            check_margin("Some", margin, classifier)
        rule = "stay below 1 - 0.75, what is left above the threshold"
        assert str(caught.value) == str(SettingsError.of("Some", "margin", rule, margin))


def test_people_are_taken_by_position_slice_or_bool_and_repeated() -> None:
    x = torch.arange(8, dtype=torch.float64).reshape(4, 2)
    people = People(x, 10 * x, Limits(x - 1, x + 2, x > 3))
    is_even = torch.tensor([True, False, True, False])
    ways: list[tuple[Tensor | slice, list[int]]] = [
        (torch.tensor([2, 0, 2]), [2, 0, 2]),
        (slice(1, 3), [1, 2]),
        (is_even, [0, 2]),
        (slice(0, 0), []),
    ]
    for rows, expected in ways:
        same(people[rows], x[expected])
        assert len(people[rows]) == len(expected)
    same(people.repeated(3), x[[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]])
    same(people.repeated(1), x)


def same(some: People, x: Tensor) -> None:
    box = some.limits
    for got, expected in [
        (some.x, x),
        (some.u, 10 * x),
        (box.lower, x - 1),
        (box.upper, x + 2),
        (box.may_act, x > 3),
    ]:
        assert torch.equal(got, expected)
