"""The yardstick for plans with a margin: never dearer than the plan, nor cheaper than without."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from carma import (
    Carma,
    CarmaSettings,
    CausalFlow,
    CausalGraph,
    ExactSolver,
    Feature,
    FlowSettings,
    Schema,
    TrainingSettings,
)
from carma.benchmarks import Benchmark, load
from carma.classifiers.network import Input, NetworkClassifier
from carma.interventions import Intervention
from carma.recourse.yardstick import least_cost_as_sure
from carma.rules import ActionRules, TimeLink


@pytest.fixture(scope="module")
def data() -> Benchmark:
    return load("chain-lin", rows=400)


@pytest.fixture(scope="module")
def parts(data: Benchmark) -> tuple[CausalFlow, NetworkClassifier]:
    quick = TrainingSettings(epochs=15, batch_size=64)
    flow = CausalFlow(data.schema, FlowSettings(hidden=(4,), training=quick, alternatives=5))
    weights = [torch.tensor([[0.0, 1.0, 0.5, 1.0]])]
    inputs = [Input(i) for i in range(4)]
    classifier = NetworkClassifier(data.schema, inputs, weights, [torch.tensor([-0.25])])
    return flow.fit(data.frame("causal")), classifier


def test_it_lies_between_the_optimum_without_a_margin_and_the_plan(
    data: Benchmark, parts: tuple[CausalFlow, NetworkClassifier]
) -> None:
    x = data.encoded("recourse", "test")
    x = x[parts[1].probability(x) < 0.5]
    few = TrainingSettings(epochs=5)
    settings = CarmaSettings(lessons=60, validity=0.99, training=few, rehearsal=few)
    carma = Carma(*parts, cost=data.cost, settings=settings).fit(data.encoded("recourse"))
    plans = carma.solve(x)
    search = ExactSolver(*parts, cost=data.cost)
    least = least_cost_as_sure(search, x, Intervention(plans.mask, plans.values), 0.99)
    assert plans.has_plan.all()
    assert (least <= plans.cost * (1 + 1e-3)).all()
    assert (least >= search.solve(x).cost * (1 - 1e-3)).all()
    assert least.sum() > 1.01 * search.solve(x).cost.sum()


def test_without_a_plan_there_is_nothing_to_compare(
    data: Benchmark, parts: tuple[CausalFlow, NetworkClassifier]
) -> None:
    x = data.encoded("recourse", "test")[:3]
    nothing = Intervention(torch.zeros_like(x, dtype=torch.bool), x)
    least = least_cost_as_sure(ExactSolver(*parts, cost=data.cost), x, nothing, 0.99)
    assert least.isnan().all()


def test_it_makes_moves_between_levels_and_lets_time_pass() -> None:
    job = Feature("job", "nominal", levels=("cook", "clerk", "judge"), role="actionable")
    schema = Schema(
        (
            replace(job, moves=(("cook", "clerk"), ("clerk", "judge", 0.5))),
            Feature("school", role="actionable"),
            Feature("age"),
        ),
        CausalGraph(("job", "school", "age")),
        rules=ActionRules(time=(TimeLink("school", "age", 1),)),
    )
    rows = pd.DataFrame(
        {"job": ["cook", "clerk"] * 30, "school": range(60), "age": range(60)}
    ).astype({"school": float, "age": float})
    quick = FlowSettings(training=TrainingSettings(epochs=1), alternatives=0)
    flow = CausalFlow(schema, quick).fit(rows)
    inputs = [Input(i) for i in range(flow.encoding.n_columns)]
    # A clerk is better off than a cook, a judge than a clerk; years of schooling cost age.
    weights = [torch.tensor([[0.0, 2.0, 4.0, 0.1, -0.1]])]
    classifier = NetworkClassifier(schema, inputs, weights, [torch.tensor([-1.0])])
    search = ExactSolver(flow, classifier)
    x = flow.encoding.encode(rows.head(1))
    found = search.solve(x)
    assert found.mask[0, :3].all()
    least = least_cost_as_sure(search, x, Intervention(found.mask, found.values), 0.99)
    assert torch.allclose(least, found.cost)
    dearer = Intervention(found.mask.clone(), found.values.clone())
    dearer.mask[:, 3:], dearer.values[:, 3:] = True, torch.tensor([9.0, 9.0]).double()
    assert torch.allclose(least_cost_as_sure(search, x, dearer, 0.99), found.cost)
    nobody = Intervention(torch.zeros_like(found.mask), x)
    assert least_cost_as_sure(search, x, nobody, 0.99).isnan().all()
