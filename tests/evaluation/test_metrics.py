"""Averages against a plain loop over people."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from carma import (
    CausalFlow,
    FlowSettings,
    Intervention,
    Metrics,
    PublishedCarma,
    PublishedSettings,
    RecourseResult,
    Status,
    TrainingSettings,
    evaluate,
)
from carma.benchmarks import Benchmark, load
from carma.classifiers.network import Input, NetworkClassifier
from carma.errors import InputError

FAILED = (Status.STILL_REJECTED, Status.OUTSIDE_LIMITS, Status.NO_ACTION, Status.UNDEFINED)


@pytest.fixture(scope="module")
def chain() -> Benchmark:
    return load("chain-lin", rows=600)


@pytest.fixture(scope="module")
def solver(chain: Benchmark) -> PublishedCarma:
    """A hasty flow and policy: some plans fail, some are wrong about the truth."""
    training = TrainingSettings(epochs=6, batch_size=64, learning_rate=1e-2)
    flow = CausalFlow(chain.schema, FlowSettings(hidden=(8,), training=training))
    flow.fit(chain.frame("causal"))
    weights = torch.tensor([[0.0, 1.0, 0.5, 1.0]])
    inputs = [Input(i) for i in range(4)]
    classifier = NetworkClassifier(chain.schema, inputs, [weights], [torch.tensor([-0.25])])
    settings = PublishedSettings((8,), (8,), training=training)
    return PublishedCarma(flow, classifier, cost=chain.cost, settings=settings).fit(
        chain.frame("recourse")
    )


@pytest.fixture(scope="module")
def result(solver: PublishedCarma, chain: Benchmark) -> RecourseResult:
    """Accepted people, people with a plan, and people without."""
    found = solver.recommend(chain.frame("recourse", "test"))
    status = found.plans.status.clone()
    rows = (status == Status.AMORTIZED.code).nonzero().squeeze(1)
    for failure, row in zip(FAILED, rows.tolist()[::9], strict=False):
        status[row] = failure.code
    found.plans = replace(found.plans, status=status)
    assert len(found.counts()) >= 5
    return found


def looped(
    result: RecourseResult, chain: Benchmark, classifier: NetworkClassifier, optimum: list[float]
) -> dict[str, float]:
    """The definitions once more, one person at a time."""
    asked, planned, costs, bests, priced = 0, 0, [], [], []
    actions, chances, valid = [], [], []
    statistics = chain.scm.statistics_
    for i in range(len(result)):
        answer = result[i]
        if answer.status is Status.ALREADY_ACCEPTED:
            continue
        asked += 1
        if answer.status is not Status.AMORTIZED:
            continue
        planned += 1
        x, price = result.x[i], 0.0
        values, mask = x.clone(), torch.zeros_like(x, dtype=torch.bool)
        for name in answer.actions:
            j = chain.encoding.column(name)
            mask[j], values[j] = True, result.plans.values[i, j]
            change = float(values[j] - x[j]) / float(statistics.std[j])
            spread = float(statistics.maximum[j] - statistics.minimum[j])
            price += change**2 / (spread / float(statistics.std[j])) / 3
        costs.append(price)
        if not math.isnan(optimum[i]):
            priced.append(price)
            bests.append(optimum[i])
        actions.append(len(answer.actions))
        assert answer.probability_after is not None
        chances.append(answer.probability_after)
        truth = chain.scm.counterfactual(x[None], Intervention(mask[None], values[None]))
        valid.append(float(classifier.probability(truth)[0]) >= 0.5)
    return {
        "n_people": asked,
        "cost_x100": 100 * sum(costs) / planned,
        "coverage": 100 * planned / asked,
        "actions": sum(actions) / planned,
        "probability": sum(chances) / planned,
        "ms_per_person": 1000 * result.seconds / len(result),
        "causal_validity": 100 * sum(valid) / planned,
        "cost_ratio": sum(priced) / sum(bests),
        "regret_people": len(priced),
        "mean_x100": 100 * (sum(priced) - sum(bests)) / len(priced),
    }


def test_every_metric_equals_a_loop_over_people(
    result: RecourseResult, chain: Benchmark, solver: PublishedCarma
) -> None:
    classifier = solver.classifier
    assert isinstance(classifier, NetworkClassifier)
    generator = torch.Generator().manual_seed(0)
    optimum = 0.01 + torch.rand(len(result), generator=generator, dtype=torch.float64)
    optimum[::5] = torch.nan
    found = evaluate(
        result, chain.cost, true_model=chain.scm, classifier=classifier, optimum=optimum
    )
    content = found.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    regret = content.pop("regret")
    content |= {name: regret[name] for name in ("cost_ratio", "mean_x100")}
    content["regret_people"] = regret["n_people"]
    assert content == pytest.approx(looped(result, chain, classifier, optimum.tolist()), rel=1e-9)
    assert found.coverage is not None
    assert 0 < found.coverage < 100


def test_regret_of_the_optimum_is_nothing(result: RecourseResult, chain: Benchmark) -> None:
    do = Intervention(result.plans.mask, result.plans.values)
    price = chain.cost.of(result.x, do)
    for factor in (1.0, 0.5, 2.0):
        regret = evaluate(result, chain.cost, optimum=factor * price).regret
        assert regret is not None
        assert regret.cost_ratio == pytest.approx(1 / factor)
        assert regret.share_optimal == (100.0 if factor == 1 else 0.0)
        # A plan can be cheaper than an optimum that was found elsewhere.
        assert math.copysign(1, regret.mean_x100) == (-1 if factor == 2 else 1)
    nobody = torch.full_like(price, torch.nan)
    assert evaluate(result, chain.cost, optimum=nobody).regret is None


def test_regret_per_person_has_the_rows_of_the_result(
    result: RecourseResult, chain: Benchmark
) -> None:
    optimum = torch.linspace(0, 1, len(result), dtype=torch.float64)
    optimum[::4] = torch.nan
    regret = evaluate(result, chain.cost, optimum=optimum).regret
    assert regret is not None
    assert regret.per_person.shape == (len(result),)
    for i, answer in enumerate(result):
        found = float(regret.per_person[i])
        if answer.status.has_plan and i % 4:
            assert answer.cost is not None
            assert found == pytest.approx(answer.cost - float(optimum[i]), abs=1e-12)
        else:
            assert math.isnan(found)
    assert regret.n_people == int(regret.per_person.isfinite().sum())


def test_what_was_not_asked_for_is_none(result: RecourseResult, chain: Benchmark) -> None:
    found = evaluate(result, chain.cost)
    assert found.causal_validity is None
    assert found.regret is None
    assert evaluate(result, chain.cost, classifier=None) == found


def test_nobody_to_average_over(solver: PublishedCarma, chain: Benchmark) -> None:
    people = pd.DataFrame({"s": [0, 1], "x1": [3.0, 4.0], "x2": [1.0, 2.0], "x3": [2.0, 1.0]})
    accepted = solver.recommend(people)
    found = evaluate(
        accepted,
        chain.cost,
        true_model=chain.scm,
        classifier=solver.classifier,
        optimum=torch.zeros(2),
    )
    nothing: dict[str, Any] = dict.fromkeys(
        ("cost_x100", "coverage", "actions", "probability", "causal_validity", "regret")
    )
    assert found == Metrics(n_people=0, ms_per_person=found.ms_per_person, **nothing)


def test_rejected_people_without_any_plan(result: RecourseResult, chain: Benchmark) -> None:
    status = torch.full_like(result.plans.status, Status.STILL_REJECTED.code)
    lost = RecourseResult(
        result.encoding,
        result.x,
        replace(result.plans, status=status),
        result.index,
        result.decision,
        result.seconds,
    )
    found = evaluate(lost, chain.cost)
    assert found.coverage == 0.0
    assert found.n_people == len(result)
    assert found.cost_x100 is None
    assert found.actions is None
    assert found.probability is None


def test_arguments_are_checked(result: RecourseResult, chain: Benchmark) -> None:
    with pytest.raises(InputError, match="'classifier' must be given with true_model"):
        evaluate(result, chain.cost, true_model=chain.scm)
    with pytest.raises(InputError, match=r"'optimum' must have shape \(150,\); got \(3,\)"):
        evaluate(result, chain.cost, optimum=torch.zeros(3))
