"""DiCE as a baseline: it keeps to the person's limits, and knows no effects."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from carma import CausalGraph, Feature, FlowSettings, Schema, TrainingSettings, evaluate
from carma.benchmarks import load
from carma.classifiers.network import Input, NetworkClassifier
from carma.decision import Decision
from carma.errors import NotFittedError
from carma.evaluation.violations import violations
from carma.models.flow import CausalFlow
from carma.recourse.dice import Dice, DiceSettings, _from_dice, _to_dice
from carma.rules import ActionRules
from carma.table import Encoding

pytest.importorskip("dice_ml")

SCHEMA = Schema(
    (
        Feature("job", "nominal", levels=("cook", "clerk", "judge"), role="immutable"),
        Feature("rank", "ordinal", levels=(1, 3, 7), role="actionable", direction="up"),
        Feature("hours", "integer", bounds=(1, 60), step=5, role="actionable", direction="down"),
        Feature("income", bounds=(-9, 9), role="actionable"),
    ),
    CausalGraph(("job", "rank", "hours", "income")),
    threshold=0.7,
)


def people(n: int = 60) -> pd.DataFrame:
    draws = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "job": draws.choice(["cook", "clerk"], n),
            "rank": draws.choice([1, 3], n),
            "hours": draws.integers(20, 50, n),
            "income": draws.normal(0, 1, n),
        }
    )


def solver(method: str = "random") -> Dice:
    weights = torch.tensor([[0.0, 0.0, 0.0, 0.5, -0.05, 1.0]])
    inputs = [Input(i) for i in range(6)]
    classifier = NetworkClassifier(SCHEMA, inputs, [weights], [torch.tensor([0.5])])
    quick = FlowSettings(training=TrainingSettings(epochs=1), alternatives=0)
    flow = CausalFlow(SCHEMA, quick).fit(people())
    return Dice(flow, classifier, settings=DiceSettings(method))


@pytest.mark.parametrize("method", ["random", "genetic"])
def test_plans_keep_levels_steps_and_directions(method: str) -> None:
    asked = people().head(12)
    dice = solver(method)
    with pytest.raises(NotFittedError):
        dice.recommend(asked)
    result = dice.fit(people()).recommend(asked)
    frame = result.to_frame()
    answered = frame[result.plans.has_plan.numpy()]
    assert len(answered) >= 6
    own = asked.loc[answered.index]
    assert (answered["after_rank"] >= own["rank"]).all()
    assert answered["after_rank"].isin([1, 3, 7]).all()
    hours = answered["after_hours"]
    assert (hours <= own["hours"]).all()
    assert (((hours - 1) % 5 == 0) | (hours == own["hours"])).all()
    assert (answered["probability_after"] >= 0.7).all()


def test_global_generators_are_left_alone_and_answers_repeat() -> None:
    dice, asked = solver().fit(people()), people().head(4)
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first = dice.recommend(asked)
    after = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert after == before
    assert torch.equal(first.plans.values, dice.recommend(asked).plans.values)
    alone = dice.recommend(asked.tail(1))
    assert torch.equal(alone.plans.values, first.plans.values[-1:])


def test_the_way_to_dice_and_back_loses_nothing() -> None:
    encoding = Encoding(SCHEMA)
    x = encoding.encode(people())
    assert torch.equal(_from_dice(encoding, _to_dice(encoding, x)), x)


def test_a_restored_solver_answers_the_same() -> None:
    dice, asked = solver().fit(people()), people().head(3)
    again = Dice.restore(dice.causal_model, dice.classifier, dice.cost, dice.state())
    assert torch.equal(again.recommend(asked).plans.values, dice.recommend(asked).plans.values)


def test_it_believes_that_nothing_follows() -> None:
    data = load("tradeoff", rows=300)
    weights = torch.ones(1, data.encoding.n_columns)
    inputs = [Input(i) for i in range(data.encoding.n_columns)]
    classifier = NetworkClassifier(data.schema, inputs, [weights], [torch.tensor([-1.0])])
    dice = Dice(data.scm, classifier, cost=data.cost).fit(data.encoded("recourse"))
    result = dice.recommend(data.frame("recourse", "test").head(12))
    plans = result.plans
    moved = (plans.counterfactual != result.x) & ~plans.mask
    assert plans.has_plan.any()
    assert not moved.any()
    metrics = evaluate(result, data.cost, true_model=data.scm, classifier=classifier)
    assert metrics.causal_validity is not None
    assert metrics.causal_validity < 100


def test_it_varies_levels_as_far_as_moves_allow_and_rules_are_checked() -> None:
    moves = (("cook", "clerk"), ("clerk", "judge"))
    features = [replace(SCHEMA["job"], role="actionable", moves=moves), *SCHEMA.features[1:]]
    schema = replace(SCHEMA, features=tuple(features))
    bound = replace(schema, rules=ActionRules(exclusive=(("job", "income"),)))
    asked, counts = people().head(10), []
    for problem in (schema, bound):
        weights = torch.tensor([[0.0, 2.0, 4.0, 0.1, -0.01, 0.1]])
        inputs = [Input(i) for i in range(6)]
        classifier = NetworkClassifier(problem, inputs, [weights], [torch.tensor([-1.2])])
        quick = FlowSettings(training=TrainingSettings(epochs=1), alternatives=0)
        rows = people()
        rows.loc[0, "job"] = "judge"
        flow = CausalFlow(problem, quick).fit(rows)
        dice = Dice(flow, classifier).fit(rows)
        result = dice.recommend(asked)
        frame = result.to_frame()
        frame = frame[result.plans.has_plan.numpy()]
        acts = frame["do_job"].notna()
        steps = zip(asked.loc[frame.index[acts], "job"], frame["do_job"][acts], strict=True)
        assert acts.sum() > 0
        assert set(steps) <= set(moves)
        assert violations(problem, asked, frame).empty
        counts.append((acts & frame["do_income"].notna()).sum())
    assert counts[0] > 0 == counts[1]


def test_a_band_has_two_edges_for_it_too() -> None:
    dice = solver()
    band = dice.classifier.deciding(Decision(at_least=0.5, at_most=0.6))
    result = Dice(dice.causal_model, band).fit(people()).recommend(people().head(12))
    after = result.plans.probability_after[result.plans.has_plan]
    assert len(after) >= 3
    assert ((after >= 0.5) & (after <= 0.6)).all()
