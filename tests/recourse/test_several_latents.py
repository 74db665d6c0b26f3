"""CARMA on a causal model that has several latents for each column, and no exact way back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from carma import (
    Carma,
    CarmaSettings,
    Classifier,
    ClassifierSettings,
    Intervention,
    PublishedCarma,
    PublishedSettings,
    Solver,
    TrainingSettings,
    Vaca,
    VacaSettings,
    fit_classifier,
)
from carma.benchmarks import Benchmark, load

QUICK = TrainingSettings(epochs=15, batch_size=100, learning_rate=1e-2)


@pytest.fixture(scope="module")
def loan() -> Benchmark:
    return load("loan", rows=2_000)


@pytest.fixture(scope="module")
def classifier(loan: Benchmark) -> Classifier:
    settings = ClassifierSettings(hidden=(8,), training=QUICK)
    return fit_classifier(loan.schema, loan.frame("classifier"), settings)


@pytest.fixture(scope="module")
def vaca(loan: Benchmark) -> Vaca:
    return Vaca(loan.schema, VacaSettings(members=2, training=QUICK)).fit(loan.frame("causal"))


@pytest.fixture(scope="module", params=["carma", "published"])
def solver(
    request: pytest.FixtureRequest, loan: Benchmark, vaca: Vaca, classifier: Classifier
) -> Solver:
    rows = loan.frame("recourse")
    if request.param == "carma":
        settings = CarmaSettings(lessons=200, training=QUICK, rehearsal=replace(QUICK, epochs=3))
        return Carma(vaca, classifier, cost=loan.cost, settings=settings).fit(rows)
    training = replace(QUICK, epochs=60)
    published = PublishedSettings((16,), (16,), training=training)
    return PublishedCarma(vaca, classifier, cost=loan.cost, settings=published).fit(rows)


def test_plans_hold_on_the_model_itself(solver: Solver, loan: Benchmark) -> None:
    x = loan.encoded("recourse", "test")
    x = x[solver.classifier.probability(x) < solver.classifier.threshold]
    plans = solver.solve(x)
    has_plan = plans.has_plan
    assert float(has_plan.double().mean()) > (0.95 if isinstance(solver, Carma) else 0.3)
    do = Intervention(plans.mask[has_plan], plans.values[has_plan])
    reached = solver.causal_model.counterfactual(x[has_plan], do)
    assert (solver.classifier.probability(reached) >= solver.classifier.threshold).all()


def test_answers_do_not_depend_on_company(solver: Solver, loan: Benchmark) -> None:
    x = loan.encoded("recourse", "test")[:40]
    whole, part = solver.solve(x), solver.solve(x[7:9])
    assert torch.equal(part.mask, whole.mask[7:9])
    torch.testing.assert_close(part.values, whole.values[7:9], atol=1e-3, rtol=1e-3, equal_nan=True)
