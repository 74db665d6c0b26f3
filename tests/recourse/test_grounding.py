"""CARMA on classifiers without slopes: every plan works for the classifier itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from carma import (
    BlackBoxClassifier,
    Carma,
    CarmaSettings,
    CausalFlow,
    Classifier,
    Constraints,
    DiceVae,
    ExactSettings,
    ExactSolver,
    FlowSettings,
    Intervention,
    PublishedCarma,
    Status,
    TrainingSettings,
    from_estimator,
    load,
    save,
)
from carma.benchmarks import Benchmark
from carma.benchmarks import load as load_benchmark
from carma.classifiers.network import NetworkClassifier
from carma.errors import BundleError, ClassifierError, NotFittedError, TrainingError
from carma.recourse.grounding import PROBES

QUICK = CarmaSettings(
    lessons=150, training=TrainingSettings(epochs=15), rehearsal=TrainingSettings(epochs=15)
)


def rejected(classifier: Classifier, x: Tensor, n: int) -> Tensor:
    return x[classifier.probability(x) < classifier.threshold][:n]


@pytest.fixture(scope="module")
def loan() -> Benchmark:
    return load_benchmark("loan", rows=1000)


@pytest.fixture(scope="module")
def estimator(loan: Benchmark) -> Any:
    rows = loan.frame("classifier")
    model = HistGradientBoostingClassifier(max_iter=30, random_state=0)
    return model.fit(rows[list(loan.schema.names)], rows["label"])


@pytest.fixture(scope="module")
def trees(loan: Benchmark, estimator: Any) -> Classifier:
    return from_estimator(estimator, loan.schema, rows=loan.frame("classifier"))


@pytest.fixture(scope="module")
def solver(loan: Benchmark, trees: Classifier) -> Carma:
    solver = Carma(loan.scm, trees, cost=loan.cost, settings=QUICK)
    return solver.fit(loan.frame("recourse"), progress=False)


@pytest.fixture(scope="module")
def people(loan: Benchmark, trees: Classifier) -> Tensor:
    return rejected(trees, loan.encoded("recourse", "test"), 60)


def test_plans_work_for_the_estimator_and_cost_little_more_than_by_search(
    loan: Benchmark, estimator: Any, trees: Classifier, solver: Carma, people: Tensor
) -> None:
    plans = solver.using(fallback=False).solve(people)
    assert plans.has_plan.double().mean() >= 0.99
    assert (plans.status[plans.has_plan] == Status.REFINED.code).all()
    reached = loan.encoding.decode(plans.counterfactual[plans.has_plan])
    assert (estimator.predict_proba(reached)[:, 1] >= 0.5).all()
    few = people[:25]
    light = ExactSettings(search_rounds=40)
    exact = ExactSolver(loan.scm, trees, cost=loan.cost, settings=light).solve(few)
    both = exact.has_plan & plans.has_plan[:25]
    assert int(both.sum()) >= 24
    assert float(plans.cost[:25][both].sum() / exact.cost[both].sum()) <= 1.15


def test_no_plan_is_dearer_than_a_small_move_of_one_feature(
    loan: Benchmark, trees: Classifier, solver: Carma, people: Tensor
) -> None:
    plans = solver.using(fallback=False).solve(people)
    limits, std = solver.limits, loan.scm.statistics_.std
    u, box = loan.scm.abduct(people), limits.around(people)
    checked = 0
    for column in loan.encoding.actionable.tolist():
        mask = torch.zeros_like(people, dtype=torch.bool)
        mask[:, column] = True
        for share in (*PROBES, *(-share for share in PROBES)):
            moved = limits.project(people, people + share * std * mask, box)
            do = Intervention(mask, moved)
            works = ~trees.rejects(loan.scm.counterfactual(people, do, u))
            works &= (moved != people).any(dim=1) & limits.permits(people, do, box)
            price = loan.cost(people, mask, moved)
            assert (plans.cost <= price * (1 + 1e-6))[works].all()
            checked += int(works.sum())
    assert checked > 20


def test_a_logistic_regression_in_a_box_gets_the_plans_of_its_closed_form(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    encode = chain_classifier.encoding.encode
    box = BlackBoxClassifier(
        chain.schema, lambda rows: chain_classifier.probability(encode(rows)).numpy()
    )
    solver = Carma(chain.scm, box, cost=chain.cost, settings=QUICK)
    solver.fit(chain.frame("recourse"), progress=False)
    x = rejected(box, chain.encoded("recourse", "test"), 60)
    plans = solver.using(fallback=False).solve(x)
    exact = ExactSolver(chain.scm, chain_classifier, cost=chain.cost).solve(x)
    assert plans.has_plan.all()
    assert (plans.cost >= exact.cost * (1 - 1e-6)).all()
    assert float(plans.cost.sum() / exact.cost.sum()) <= 1.03


def test_fidelity_is_told(solver: Carma, chain: Benchmark, chain_classifier: Classifier) -> None:
    assert solver.surrogate_ is not None
    assert solver.surrogate_.fidelity.agreement > 85
    assert Carma(chain.scm, chain_classifier).surrogate_ is None


def test_an_answer_does_not_depend_on_its_company(solver: Carma, people: Tensor) -> None:
    together = solver.solve(people[:12])
    order = torch.arange(11, -1, -1)
    turned = solver.solve(people[:12][order])
    assert turned.status[order].tolist() == together.status.tolist()
    torch.testing.assert_close(turned.cost[order], together.cost, rtol=1e-6, atol=1e-12)
    for i in range(6):
        alone = solver.solve(people[i : i + 1])
        torch.testing.assert_close(alone.cost[0], together.cost[i], rtol=1e-6, atol=1e-12)


def test_wishes_and_menus_hold(loan: Benchmark, trees: Classifier, solver: Carma) -> None:
    table = loan.frame("recourse", "test").head(80)
    result = solver.recommend(table, Constraints(freeze=("savings",)), n_plans=2)
    assert sum(answer.status.has_plan for answer in result) > 20
    for i, answer in enumerate(result):
        menu = [plan for plan in result.menu(i) if plan.status.has_plan]
        for plan in menu:
            assert "savings" not in plan.actions
            assert plan.probability_after is not None
            assert plan.probability_after >= 0.5
        prices = [plan.cost for plan in menu if plan.cost is not None]
        assert prices == sorted(prices)
        assert answer.status is not Status.STILL_REJECTED


def test_where_mechanisms_are_in_doubt_plans_go_further(loan: Benchmark, trees: Classifier) -> None:
    settings = FlowSettings(hidden=(8,), training=TrainingSettings(epochs=8), alternatives=6)
    flow = CausalFlow(loan.schema, settings).fit(loan.frame("causal"), progress=False)
    people = rejected(trees, loan.encoded("recourse", "test"), 25)
    costs, validities = [], []
    for validity in (0.5, 0.99):
        changes = {"validity": validity, "lessons": 100}
        solver = Carma(
            flow, trees, cost=loan.cost, settings=CarmaSettings(**{**vars(QUICK), **changes})
        )
        plans = solver.fit(loan.frame("recourse"), progress=False).solve(people)
        assert plans.has_plan.all()
        assert (plans.probability_after >= 0.5).all()
        costs.append(float(plans.cost.mean()))
        validities.append(float(plans.expected_validity.mean()))
    assert costs[1] > costs[0]
    assert validities[1] > validities[0]
    assert validities[1] > 0.95


def test_a_bundle_needs_the_classifier_that_was_saved(
    loan: Benchmark, estimator: Any, trees: Classifier, solver: Carma, tmp_path: Path
) -> None:
    path = save(solver, tmp_path / "trees.carma")
    with pytest.raises(BundleError, match=r"be handed in, as carma.load\(path, classifier"):
        load(path)
    again = load(path, classifier=from_estimator(estimator, loan.schema))
    x = loan.encoded("recourse", "test")[:40]
    one, other = solver.solve(x), again.solve(x)
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.status, other.status)
    assert isinstance(again, Carma)
    assert again.surrogate_ is not None
    assert solver.surrogate_ is not None
    assert again.surrogate_.fidelity == solver.surrogate_.fidelity
    rows = loan.frame("classifier")
    other_trees = HistGradientBoostingClassifier(max_iter=3).fit(
        rows[list(loan.schema.names)], rows["label"]
    )
    with pytest.raises(BundleError, match="be the one that was saved"):
        load(path, classifier=from_estimator(other_trees, loan.schema))


def test_what_raises_on_some_people_says_on_whom(loan: Benchmark, estimator: Any) -> None:
    names = list(loan.schema.names)

    def picky(rows: pd.DataFrame) -> Any:
        if (rows["income"] > 2).any():
            raise ValueError("no such income in the register")
        return estimator.predict_proba(rows[names])[:, 1]

    solver = Carma(loan.scm, BlackBoxClassifier(loan.schema, picky), settings=QUICK)
    with pytest.raises(ValueError, match=r"it raises on .* ValueError: no such income"):
        solver.fit(loan.frame("recourse"), progress=False)


@pytest.mark.parametrize("kind", [PublishedCarma, DiceVae])
def test_solvers_that_learn_from_slopes_say_what_to_use(
    kind: type[PublishedCarma] | type[DiceVae], loan: Benchmark, trees: Classifier
) -> None:
    with pytest.raises(ClassifierError, match=r"have slopes, .*; without: Carma or ExactSolver"):
        kind(loan.scm, trees)


def test_where_nobody_can_reach_the_threshold_there_is_nothing_to_learn(loan: Benchmark) -> None:
    def hopeless(rows: pd.DataFrame) -> Any:
        return 0.1 + 0.2 / (1 + np.exp(-rows["savings"]))

    solver = Carma(loan.scm, BlackBoxClassifier(loan.schema, hopeless), settings=QUICK)
    assert not solver.is_fitted
    with pytest.raises(NotFittedError):
        solver.state()
    with pytest.raises(TrainingError, match="fewer than two"):
        solver.fit(loan.frame("recourse"), progress=False)
