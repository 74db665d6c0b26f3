"""The surplus of a plan beyond the margin that its own doubt asks for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from carma import CausalFlow, FlowSettings, StructuralCausalModel, TrainingSettings
from carma.benchmarks import load
from carma.classifiers.network import NetworkClassifier
from carma.constraints import PlanLimits
from carma.models.base import CausalModel
from carma.recourse import sure_target
from carma.recourse.doubt import Doubt, quantile
from carma.recourse.sure_target import SLACK, SureTarget
from carma.recourse.target import People, Target
from carma.schema import Schema
from carma.state import seeded

LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]
Parts = tuple[CausalModel, NetworkClassifier, PlanLimits]
VALIDITY = 0.95


@pytest.fixture(scope="module")
def flow() -> CausalFlow:
    data, quick = load("chain-lin", rows=200), TrainingSettings(epochs=4, batch_size=64)
    settings = FlowSettings(hidden=(4,), training=quick, alternatives=5)
    return CausalFlow(data.schema, settings).fit(data.frame("causal"))


def targets(model: CausalModel, classifier: NetworkClassifier) -> tuple[Target, SureTarget, Doubt]:
    limits = PlanLimits(model.encoding, model.statistics_)
    doubt = Doubt(model, classifier)
    world = (model.counterfactual, classifier, limits, 0.1)
    spreads = quantile(VALIDITY, doubt.n_alternatives)
    return Target(*world), SureTarget(*world, doubt, spreads), doubt


def some_plans(model: CausalModel) -> tuple[People, Tensor, Tensor]:
    draws = seeded(1)
    x = load("chain-lin", rows=200).encoded("recourse")[:60]
    limits = PlanLimits(model.encoding, model.statistics_).around(x)
    mask = (torch.rand(x.shape, generator=draws) < 0.6) & limits.may_act
    values = x + torch.randn(x.shape, generator=draws, dtype=x.dtype)
    return People(x, model.abduct(x), limits), mask, values


def test_it_is_the_plain_surplus_without_the_margin_of_each_plan(
    flow: CausalFlow, linear: LinearClassifier
) -> None:
    plain, sure, doubt = targets(flow, linear(flow.schema, [1.0, 0.5, 1.0, 2.0], 0.0))
    people, mask, values = some_plans(flow)
    margin = doubt.of(people, mask, values).margin(quantile(VALIDITY, 5))
    assert (margin > 0).sum() > 20
    assert (margin == 0).any()
    slack = torch.where(margin > 0, SLACK, 0.0)
    expected = plain.surplus(people, mask, values) - margin - slack
    torch.testing.assert_close(sure.surplus(people, mask, values), expected)
    torch.testing.assert_close(sure.needed(people, mask, values), margin + slack)


def test_slopes_are_the_plain_ones(flow: CausalFlow, linear: LinearClassifier) -> None:
    plain, sure, _ = targets(flow, linear(flow.schema, [1.0, 0.5, 1.0, 2.0], 0.0))
    people, mask, values = some_plans(flow)
    surplus, slope = sure.surplus_and_slope(people, mask, values)
    torch.testing.assert_close(surplus, sure.surplus(people, mask, values))
    torch.testing.assert_close(slope, plain.surplus_and_slope(people, mask, values)[1])
    assert (slope != 0).any()


def test_parts_are_the_whole(
    flow: CausalFlow, linear: LinearClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sure, _ = targets(flow, linear(flow.schema, [1.0, 0.5, 1.0, 2.0], 0.0))
    people, mask, values = some_plans(flow)
    whole = sure.needed(people, mask, values)
    monkeypatch.setattr(sure_target, "ROWS", 7)
    torch.testing.assert_close(sure.needed(people, mask, values), whole, rtol=1e-4, atol=1e-5)
    nobody = torch.arange(0)
    assert len(sure.needed(people[nobody], mask[nobody], values[nobody])) == 0


def test_without_doubt_it_is_the_plain_surplus(linear: LinearClassifier) -> None:
    model: StructuralCausalModel = load("chain-lin", rows=200).scm
    plain, sure, _ = targets(model, linear(model.schema, [1.0, 0.5, 1.0, 2.0], 0.0))
    people, mask, values = some_plans(model)
    found = sure.surplus(people, mask, values)
    assert torch.equal(found, plain.surplus(people, mask, values))
