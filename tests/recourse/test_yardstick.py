"""The yardstick for sure plans: never dearer than the plan, nor cheaper than without."""

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
    ExactSettings,
    ExactSolver,
    Feature,
    FlowSettings,
    Schema,
    TrainingSettings,
)
from carma.benchmarks import Benchmark, load
from carma.classifiers.network import Input, NetworkClassifier
from carma.interventions import Intervention
from carma.recourse import sure_search
from carma.recourse.candidates import Found
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
    is_sure = plans.expected_validity >= 0.99
    assert is_sure.float().mean() > 0.9
    assert (least[is_sure] <= plans.cost[is_sure] * (1 + 1e-9)).all()
    assert (least <= plans.cost * (1 + 1e-3)).all()
    assert (least >= search.solve(x).cost * (1 - 1e-3)).all()
    assert least.sum() > 1.01 * search.solve(x).cost.sum()


def test_it_starts_from_the_plans_that_are_given(
    data: Benchmark, parts: tuple[CausalFlow, NetworkClassifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data.encoded("recourse", "test")
    x = x[parts[1].rejects(x)][:3]
    settings = ExactSettings(validity=0.99)
    sure = ExactSolver(*parts, cost=data.cost, settings=settings).solve(x)
    # A search that finds nothing by itself knows no better than what it is given, or improves it.
    lost = ExactSettings(starts=1, explore_steps=1, keep=1, refine_steps=0, closed_form=False)
    search = ExactSolver(*parts, cost=data.cost, settings=lost)
    dearer = torch.where(sure.mask, x + 1.3 * (sure.values - x), x)
    monkeypatch.setattr(sure_search.SureSearch, "best", lambda *_: Found.none(_[1]))
    least = least_cost_as_sure(search, x, Intervention(sure.mask, dearer), 0.99)
    torch.testing.assert_close(least, data.cost(x, sure.mask, dearer))
    monkeypatch.undo()
    least = least_cost_as_sure(search, x, Intervention(sure.mask, dearer), 0.99)
    assert (least <= sure.cost * (1 + 1e-3)).all()


def test_a_plan_that_falls_short_is_compared_with_the_search_that_goes_as_far(
    data: Benchmark, parts: tuple[CausalFlow, NetworkClassifier]
) -> None:
    x = data.encoded("recourse", "test")
    x = x[parts[1].rejects(x)][:3]
    search = ExactSolver(*parts, cost=data.cost)
    plans = search.solve(x)
    assert (plans.expected_validity < 0.99).all()
    least = least_cost_as_sure(search, x, Intervention(plans.mask, plans.values), 0.99)
    torch.testing.assert_close(least, plans.cost, rtol=1e-5, atol=0)


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
