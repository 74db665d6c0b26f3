"""Every solver leads into a band, from below and from above."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import (
    BlackBoxClassifier,
    Carma,
    CarmaSettings,
    CausalFlow,
    Classifier,
    Decision,
    DiceVae,
    DiceVaeSettings,
    ExactSettings,
    ExactSolver,
    FlowSettings,
    GridOracle,
    GridSettings,
    NonCausalOptimum,
    PublishedCarma,
    PublishedSettings,
    Solver,
    Status,
    TrainingSettings,
    decided,
)
from carma.benchmarks import Benchmark
from carma.classifiers.network import NetworkClassifier
from carma.constraints import Limits
from carma.errors import SettingsError
from carma.recourse.target import check_margin

BAND = Decision(at_least=0.55, at_most=0.75)
QUICK = TrainingSettings(epochs=10)
SMALL = CarmaSettings(lessons=80, training=QUICK, rehearsal=TrainingSettings(epochs=10))


@pytest.fixture(scope="module")
def banded(chain_classifier: NetworkClassifier) -> Classifier:
    return decided(chain_classifier, BAND)


@pytest.fixture(scope="module")
def people(chain: Benchmark, banded: Classifier) -> Tensor:
    """Rejected ones, as many below the band as above it."""
    x = chain.encoded("recourse", "test")
    p = banded.probability(x)
    some = torch.cat([x[p < BAND.low][:15], x[p > BAND.high][:15]])
    assert len(some) == 30
    return some


def steep(rows: pd.DataFrame) -> Any:
    return 1 / (1 + np.exp(0.25 - rows["x1"] - 0.5 * rows["x2"] - rows["x3"]))


def test_exact_plans_end_on_the_edge_that_is_nearest(
    chain: Benchmark, banded: Classifier, people: Tensor
) -> None:
    plans = ExactSolver(chain.scm, banded, cost=chain.cost).solve(people)
    assert (plans.status == Status.SEARCHED.code).all()
    before, after = banded.probability(people), plans.probability_after
    assert torch.equal(plans.probability_before, before)
    assert BAND.accepts(after).all()
    edge = torch.where(before < BAND.low, BAND.low, BAND.high).double()
    torch.testing.assert_close(after, edge, rtol=0, atol=1e-6)
    # The same as without the closed form, which walks along slopes.
    walked = ExactSolver(
        chain.scm, banded, cost=chain.cost, settings=ExactSettings(closed_form=False)
    ).solve(people)
    torch.testing.assert_close(walked.cost, plans.cost, rtol=1e-4, atol=1e-8)


def test_below_a_band_it_costs_what_the_threshold_costs(
    chain: Benchmark, chain_classifier: NetworkClassifier, banded: Classifier, people: Tensor
) -> None:
    below = people[banded.probability(people) < BAND.low]
    plain = chain_classifier.deciding(Decision(threshold=BAND.low))
    one, other = (ExactSolver(chain.scm, c, cost=chain.cost).solve(below) for c in (banded, plain))
    torch.testing.assert_close(one.cost, other.cost)


@pytest.mark.parametrize("closed_form", [True, False])
def test_a_margin_counts_from_both_edges(
    chain: Benchmark, banded: Classifier, people: Tensor, closed_form: bool
) -> None:
    settings = ExactSettings(margin=0.08, closed_form=closed_form)
    plans = ExactSolver(chain.scm, banded, cost=chain.cost, settings=settings).solve(people)
    after = plans.probability_after
    assert plans.has_plan.all()
    assert (after >= BAND.low + 0.08).all()
    assert (after <= BAND.high - 0.08).all()
    assert float(after.min()) == pytest.approx(BAND.low + 0.08, abs=1e-6)
    assert float(after.max()) == pytest.approx(BAND.high - 0.08, abs=1e-6)


def test_a_margin_that_fills_the_band_is_refused(banded: Classifier) -> None:
    check_margin("Some", 0.0999, banded)
    with pytest.raises(SettingsError, match=r"half of 0\.75 - 0\.55, the band's width; got 0\.1"):
        check_margin("Some", 0.1, banded)


def test_who_cannot_come_down_is_proven_to_be_stuck(
    chain: Benchmark, banded: Classifier, people: Tensor
) -> None:
    above = people[banded.probability(people) > BAND.high]
    solver = ExactSolver(chain.scm, banded, cost=chain.cost)
    box = solver.limits.around(above)
    only_up = Limits(above.clone(), box.upper, box.may_act)
    assert (solver.solve(above, only_up).status == Status.INFEASIBLE.code).all()


Make = Callable[[Benchmark, Classifier], Solver]
SOLVERS: dict[str, tuple[Make, float]] = {
    "carma": (lambda d, c: Carma(d.scm, c, cost=d.cost, settings=SMALL), 1.0),
    "carma without steps": (
        lambda d, c: Carma(
            d.scm,
            c,
            cost=d.cost,
            settings=replace(SMALL, candidates=1, refine_steps=0, fallback=False),
        ),
        0.3,
    ),
    "grid": (lambda d, c: GridOracle(d.scm, c, cost=d.cost, settings=GridSettings(bins=16)), 0.9),
    "noncausal": (lambda d, c: NonCausalOptimum(d.scm, c, cost=d.cost), 1.0),
    "published": (
        lambda d, c: PublishedCarma(
            d.scm, c, cost=d.cost, settings=PublishedSettings(training=QUICK)
        ),
        0.1,
    ),
    "dice-vae": (
        lambda d, c: DiceVae(d.scm, c, cost=d.cost, settings=DiceVaeSettings(training=QUICK)),
        0.1,
    ),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_offers_plans_that_end_in_the_band(
    chain: Benchmark, banded: Classifier, people: Tensor, name: str
) -> None:
    make, least = SOLVERS[name]
    solver = make(chain, banded).fit(chain.frame("recourse"), progress=False)
    plans = solver.solve(people)
    assert BAND.accepts(plans.probability_after[plans.has_plan]).all()
    assert float(plans.has_plan.double().mean()) >= least
    if name == "carma":
        exact = ExactSolver(chain.scm, banded, cost=chain.cost).solve(people)
        assert float(plans.cost.sum() / exact.cost.sum()) <= 1.05


def test_a_function_is_led_into_the_band_as_well(chain: Benchmark, people: Tensor) -> None:
    classifier = BlackBoxClassifier(chain.schema, steep).deciding(BAND)
    solver = Carma(chain.scm, classifier, cost=chain.cost, settings=SMALL)
    solver.fit(chain.frame("recourse"), progress=False)
    assert solver.surrogate_ is not None
    assert solver.surrogate_.decision == BAND
    assert solver.surrogate_.fidelity.agreement > 90
    some = people[::3]
    plans = solver.solve(some)
    assert plans.has_plan.all()
    assert BAND.accepts(plans.probability_after).all()
    exact = ExactSolver(chain.scm, classifier, cost=chain.cost).solve(some)
    assert BAND.accepts(exact.probability_after).all()
    assert float(plans.cost.sum() / exact.cost.sum()) <= 1.15


def test_what_the_data_leave_open_keeps_plans_off_both_edges(
    chain: Benchmark, chain_classifier: NetworkClassifier, people: Tensor
) -> None:
    wide = decided(chain_classifier, Decision(at_least=0.5, at_most=0.85))
    settings = FlowSettings(hidden=(8,), training=TrainingSettings(epochs=8), alternatives=6)
    flow = CausalFlow(chain.schema, settings).fit(chain.frame("causal"), progress=False)
    solver = Carma(flow, wide, cost=chain.cost, settings=replace(SMALL, validity=0.9))
    solver.fit(chain.frame("recourse"), progress=False)
    rejected = people[wide.rejects(people)]
    plans = solver.solve(rejected)
    assert plans.has_plan.all()
    after, sure = plans.probability_after, plans.expected_validity
    assert wide.decision.accepts(after).all()
    is_low = wide.probability(rejected) < 0.5
    assert 0 < int(is_low.sum()) < len(rejected)
    assert float(after[is_low].mean()) > 0.501
    assert float(after[~is_low].mean()) < 0.849
    assert float((sure >= 0.9 - 1e-6).double().mean()) > 0.9


def test_the_answer_says_what_decides(chain: Benchmark, banded: Classifier) -> None:
    result = ExactSolver(chain.scm, banded).recommend(chain.frame("recourse", "test"))
    assert result.decision == BAND
    assert "(accepted between 55% and 75%)." in result.explain(0)
    counts = result.counts()
    accepted = banded.accepts(chain.encoded("recourse", "test"))
    assert counts[Status.ALREADY_ACCEPTED.value] == int(accepted.sum())
