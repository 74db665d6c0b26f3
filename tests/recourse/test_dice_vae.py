"""DiCE-VAE: inside the limits, accepted under its own belief, blind to causes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import (
    Carma,
    CausalFlow,
    DiceVae,
    DiceVaeSettings,
    FlowSettings,
    RecourseResult,
    Schema,
    SquaredCost,
    Status,
    TrainingSettings,
    load,
    save,
)
from carma.benchmarks import Benchmark
from carma.classifiers.network import NetworkClassifier
from carma.constraints import Limits
from carma.errors import NotFittedError, SettingsError
from carma.recourse.hinge import Hinge
from carma.recourse.target import People

LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]
QUICK = TrainingSettings(epochs=40, batch_size=64, learning_rate=1e-2)
SMALL = DiceVaeSettings((16, 16), (16, 16), training=QUICK)
TINY = DiceVaeSettings((8,), (8,), training=replace(QUICK, epochs=2))


@pytest.fixture(scope="module")
def dice(chain: Benchmark, chain_classifier: NetworkClassifier) -> DiceVae:
    solver = DiceVae(chain.scm, chain_classifier, cost=chain.cost, settings=SMALL)
    return solver.fit(chain.frame("recourse"), progress=False)


@pytest.fixture(scope="module")
def answers(dice: DiceVae, chain: Benchmark) -> RecourseResult:
    return dice.recommend(chain.frame("recourse", "test"))


@pytest.fixture(scope="module")
def mixed_dice(mixed_solver: Carma, mixed_people: pd.DataFrame) -> DiceVae:
    solver = DiceVae(mixed_solver.causal_model, mixed_solver.classifier, settings=SMALL)
    return solver.fit(mixed_people, progress=False)


@pytest.fixture(scope="module")
def mixed_answers(mixed_dice: DiceVae, mixed_people: pd.DataFrame) -> RecourseResult:
    return mixed_dice.recommend(mixed_people)


def has_plan(result: RecourseResult) -> Tensor:
    return result.plans.status == Status.AMORTIZED.code


def nearest(solver: DiceVae, x: Tensor) -> Tensor:
    """Least cost of acceptance for one who knows no effects, without limits, (n,)."""
    assert isinstance(solver.classifier, NetworkClassifier)
    assert isinstance(solver.cost, SquaredCost)
    weights, scale = solver.classifier.weights[0][0].double(), solver.cost.scale
    acts = scale > 0
    shortfall = -solver.classifier.logit(x)
    return shortfall.square() / (weights[acts].square() / scale[acts]).sum()


def test_plans_are_close_to_the_nearest_accepted_row(
    dice: DiceVae, answers: RecourseResult
) -> None:
    found, is_open = has_plan(answers), answers.plans.status != Status.ALREADY_ACCEPTED.code
    assert float(found[is_open].double().mean()) > 0.95
    optimum, cost = nearest(dice, answers.x[found]), answers.plans.cost[found]
    assert (cost >= optimum * (1 - 1e-9)).all()
    assert float(cost.mean() / optimum.mean()) < 1.5


def test_what_it_believes_is_its_values_and_nothing_else(
    dice: DiceVae, answers: RecourseResult, mixed_dice: DiceVae, mixed_answers: RecourseResult
) -> None:
    for solver, result in ((dice, answers), (mixed_dice, mixed_answers)):
        plans, found = result.plans, has_plan(result)
        assert int(found.sum()) > 50
        after = torch.where(plans.mask, plans.values, result.x)
        assert torch.equal(plans.counterfactual, after)
        probability = solver.classifier.probability(after[found])
        torch.testing.assert_close(probability, plans.probability_after[found])
        assert (probability >= solver.classifier.threshold).all()
        assert (plans.n_evaluations[found] == 1).all()


def test_only_actionable_columns_change_and_each_that_changes_is_acted_on(
    answers: RecourseResult, mixed_answers: RecourseResult
) -> None:
    for result, actionable in ((answers, [1, 2, 3]), (mixed_answers, [1, 2, 3])):
        plans = result.plans
        fixed = [i for i in range(result.x.shape[1]) if i not in actionable]
        assert not plans.mask[:, fixed].any()
        assert torch.equal(plans.counterfactual[:, fixed], result.x[:, fixed])
        assert torch.equal(plans.mask, plans.values != result.x)
    assert (answers.plans.mask[has_plan(answers)].sum(dim=1) == 3).all()


def test_every_plan_stays_inside_the_limits(
    mixed_people: pd.DataFrame, mixed_answers: RecourseResult
) -> None:
    assert "outside_limits" not in mixed_answers.counts()
    frame = mixed_answers.to_frame()
    frame = frame[frame["status"] == "amortized"]
    people = mixed_people.loc[frame.index]
    hours, debt, course = frame["do_hours"], frame["do_debt"], frame["do_course"]
    assert hours.notna().any()
    assert debt.notna().any()
    assert (hours.isna() | ((hours % 5 == 0) & hours.between(0, 60))).all()
    assert (hours.isna() | (hours > people["hours"])).all()
    assert (debt.isna() | (debt.between(0, 50) & (debt < people["debt"]))).all()
    assert (course.isna() | course.isin(["none", "basic", "full"])).all()


def test_personal_limits_hold(dice: DiceVae, chain: Benchmark) -> None:
    x = chain.encoded("recourse", "test")
    may_act = torch.ones_like(x, dtype=torch.bool)
    may_act[:, 2] = False
    plans = dice.solve(x, Limits(x - 0.5, x + torch.tensor([0.5, 0.5, 0.5, 9.0]), may_act))
    found = plans.status == Status.AMORTIZED.code
    assert found.any()
    assert not (plans.status == Status.OUTSIDE_LIMITS.code).any()
    assert plans.mask[found].double().mean(dim=0).tolist() == [0, 1, 0, 1]
    moved = (plans.counterfactual - x)[found].abs().amax(dim=0)
    assert moved[1] <= 0.5 + 1e-9
    assert moved[2] == 0
    still = dice.solve(x, Limits(x, x, may_act)).status
    assert set(still.tolist()) == {Status.INFEASIBLE.code, Status.ALREADY_ACCEPTED.code}


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)


def test_answers_do_not_depend_on_order_company_or_chunks(
    mixed_dice: DiceVae,
    mixed_people: pd.DataFrame,
    mixed_answers: RecourseResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = mixed_answers.to_frame()
    same(mixed_dice.recommend(mixed_people).to_frame(), whole)
    shuffled = mixed_people.sample(frac=1.0, random_state=1)
    same(mixed_dice.recommend(shuffled).to_frame(), whole.loc[shuffled.index])
    for start, stop in ((0, 1), (17, 18), (100, 137)):
        part = mixed_people.iloc[start:stop]
        same(mixed_dice.recommend(part).to_frame(), whole.iloc[start:stop])
    monkeypatch.setattr(DiceVae, "at_once", 7)
    same(mixed_dice.recommend(mixed_people).to_frame(), whole)


def test_a_fit_follows_from_its_seed_and_leaves_the_global_one_alone(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    def values(seed: int) -> Tensor:
        settings = replace(TINY, training=replace(TINY.training, seed=seed))
        solver = DiceVae(chain.scm, chain_classifier, settings=settings)
        x = chain.encoded("recourse", "test")
        u = chain.scm.abduct(x)
        solver.fit(chain.frame("recourse"))
        return solver._propose(People(x, u, solver.limits.around(x)), 1).intervention.values

    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    first = values(0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]
    assert random.getstate() == before[2]
    torch.manual_seed(77)
    assert torch.equal(values(0), first)
    assert not torch.equal(values(1), first)


def test_accepted_people_teach_nothing(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    people = chain.frame("recourse")
    rejected = (chain_classifier.probability(chain.encoding.encode(people)) < 0.5).numpy()
    one, other = (
        DiceVae(chain.scm, chain_classifier, settings=TINY).fit(table).state().tensors
        for table in (people, people[rejected])
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_causal_model_only_gives_the_scale(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    quick = TrainingSettings(epochs=1, batch_size=64)
    flow = CausalFlow(chain.schema, FlowSettings(hidden=(4,), training=quick))
    flow.fit(chain.frame("causal"), progress=False)
    flow.statistics_ = chain.scm.statistics_
    people = chain.frame("recourse", "test")
    x = chain.encoding.encode(people)
    assert float((flow.abduct(x) - chain.scm.abduct(x)).abs().max()) > 0.1
    tables = [
        DiceVae(model, chain_classifier, settings=TINY)
        .fit(chain.frame("recourse"), progress=False)
        .recommend(people)
        .to_frame()
        for model in (chain.scm, flow)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_a_bundle_answers_as_the_solver_did(
    dice: DiceVae, mixed_dice: DiceVae, mixed_people: pd.DataFrame, chain: Benchmark, tmp_path: Path
) -> None:
    for solver, people in (
        (dice, chain.frame("recourse", "test")),
        (mixed_dice, mixed_people),
    ):
        loaded = load(save(solver, tmp_path / "dice.carma"))
        assert isinstance(loaded, DiceVae)
        assert loaded.settings == solver.settings
        assert loaded.history_ == solver.history_
        assert loaded.margin == solver.margin
        expected = solver.recommend(people).to_frame()
        pd.testing.assert_frame_equal(loaded.recommend(people).to_frame(), expected)


class Interrupting(NetworkClassifier):
    """Raises what Ctrl-C does once it has been asked often enough."""

    calls_left = 10**9

    def _logit(self, x: Tensor) -> Tensor:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise KeyboardInterrupt
        return super()._logit(x)


def test_an_interrupted_fit_leaves_the_solver_unfitted(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    c = chain_classifier
    classifier = Interrupting(c.schema, c.inputs, c.weights, c.biases)
    solver = DiceVae(chain.scm, classifier, settings=TINY)
    classifier.calls_left = 8
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        solver.fit(chain.frame("recourse"))
    assert not solver.is_fitted
    assert torch.equal(torch.get_rng_state(), before)
    classifier.calls_left = 10**9
    assert solver.fit(chain.frame("recourse")).is_fitted


def test_fit_comes_before_everything_else(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    solver = DiceVae(chain.scm, chain_classifier)
    assert not solver.is_fitted
    calls: dict[str, Callable[[], object]] = {
        "recommend": lambda: solver.recommend(chain.frame("recourse", "test")),
        "state": solver.state,
        "margin": lambda: solver.margin,
    }
    for method, call in calls.items():
        with pytest.raises(NotFittedError, match=f"DiceVae: call 'fit' before '{method}'"):
            call()


def test_what_costs_more_is_moved_less(
    chain: Benchmark, chain_classifier: NetworkClassifier, answers: RecourseResult
) -> None:
    cost = SquaredCost(chain.encoding, chain.scm.statistics_, {"x1": 4.0})
    solver = DiceVae(chain.scm, chain_classifier, cost=cost, settings=SMALL)
    result = solver.fit(chain.frame("recourse")).recommend(chain.frame("recourse", "test"))
    both = has_plan(result) & has_plan(answers)
    move, plain = ((r.plans.values - r.x)[both, 1].abs().mean() for r in (result, answers))
    assert float(move) < 0.7 * float(plain)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [None, 2.0])
def test_the_margin_is_where_the_hinge_ends(
    chain: Benchmark, linear: LinearClassifier, threshold: float, temperature: float | None
) -> None:
    classifier = linear(replace(chain.schema, threshold=threshold), [0.0, 1.0, 0.5, 1.0], -0.25)
    model = CausalFlow(classifier.schema, FlowSettings(hidden=(4,), training=TINY.training))
    model.fit(chain.frame("causal"), progress=False)
    settings = replace(TINY, margin=0.2, hinge_temperature=temperature)
    solver = DiceVae(model, classifier, settings=settings).fit(chain.frame("recourse"))
    with torch.no_grad():
        x = chain.encoded("recourse")
        ahead = classifier.logit(x) - math.log(threshold / (1 - threshold))
        if temperature is None:
            temperature = -float(ahead[ahead < 0].mean())
        hinge = solver._objective(
            x, torch.zeros_like(x), Hinge(classifier.decision, 0.2, temperature)
        )
    reaches = classifier.probability(x) >= threshold + solver.margin
    assert reaches.any()
    assert torch.equal(hinge == 0, reaches)


def test_history_holds_loss_and_score(dice: DiceVae) -> None:
    records = dice.history_.records
    assert len(records) == 40
    scores = [record["score"] for record in records]
    assert dice.history_.best_epoch == scores.index(min(scores))
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"margin": 1.0}, "'margin' must be at least 0 and below 1; got 1.0"),
        ({"margin": -0.1}, "'margin' must be at least 0"),
        ({"margin": float("nan")}, "'margin' must be at least 0"),
        ({"hinge_weight": 0.0}, "'hinge_weight' must be above 0; got 0.0"),
        ({"hinge_weight": float("inf")}, "'hinge_weight' must be above 0"),
        ({"kl_weight": -1.0}, "'kl_weight' must be at least 0"),
        ({"hinge_temperature": 0.0}, "'hinge_temperature' must be above 0"),
        ({"encoder_hidden": (0,)}, "'encoder_hidden' must be at least 1; got 0"),
        ({"decoder_hidden": (8, -1)}, "'decoder_hidden' must be at least 1; got -1"),
    ],
)
def test_settings_check_themselves(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        DiceVaeSettings(**settings)


def test_settings_survive_a_dictionary() -> None:
    assert DiceVaeSettings.from_dict(asdict(SMALL)) == SMALL
    hidden: Any = [8, 8]
    assert DiceVaeSettings(decoder_hidden=hidden).decoder_hidden == (8, 8)
