"""Classifiers that decide otherwise than by their schema's threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from carma import (
    BlackBoxClassifier,
    CausalGraph,
    Classifier,
    Decision,
    Feature,
    Schema,
    TorchClassifier,
    decided,
)
from carma.classifiers.calibrated import CalibratedClassifier
from carma.classifiers.calibration import Calibration
from carma.classifiers.network import Input, NetworkClassifier
from carma.errors import BundleError, ClassifierError, SchemaError, TableError

SCHEMA = Schema(
    (Feature("a", role="actionable"), Feature("b")),
    CausalGraph(("a", "b")),
    outcome="paid",
    favourable="yes",
)
BAND = Decision(at_least=0.3, at_most=0.8)


def network() -> NetworkClassifier:
    inputs = [Input(0), Input(1)]
    weights = [torch.tensor([[1.5, -0.5]], dtype=torch.float64)]
    return NetworkClassifier(SCHEMA, inputs, weights, [torch.tensor([0.25])])


def sigmoid(rows: pd.DataFrame) -> Any:
    return 1 / (1 + np.exp(-1.5 * rows["a"] + 0.5 * rows["b"]))


def black_box() -> BlackBoxClassifier:
    return BlackBoxClassifier(SCHEMA, sigmoid)


def people(n: int = 400, *, seed: int = 0) -> pd.DataFrame:
    """Rows whose outcome is far less certain than the classifiers say."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(rng.normal(0, 2, (n, 2)), columns=["a", "b"])
    truth = 1 / (1 + np.exp(-0.5 * (1.5 * rows["a"] - 0.5 * rows["b"]) + 1))
    return rows.assign(paid=np.where(rng.random(n) < truth, "yes", "no"))


ROWS = people()
CASES: list[tuple[Callable[[], Classifier], Decision]] = [
    (make, decision)
    for make in (network, black_box)
    for decision in (
        Decision(threshold=0.7),
        BAND,
        Decision(reject_rate=0.4),
        Decision(threshold=0.6, calibrated="platt"),
        Decision(threshold=0.6, calibrated="isotonic"),
        Decision(at_least=0.3, at_most=0.6, calibrated="platt"),
    )
]


def encoded(rows: pd.DataFrame) -> Tensor:
    return network().encoding.encode(rows)


@pytest.mark.parametrize(("make", "decision"), CASES)
def test_laws(make: Callable[[], Classifier], decision: Decision) -> None:
    plain = make()
    classifier, x = decided(plain, decision, ROWS), encoded(ROWS)
    p = classifier.probability(x)
    accepted = (p >= classifier.decision.low) & (p <= classifier.decision.high)
    assert 0 < int(accepted.sum()) < len(x)
    assert torch.equal(classifier.accepts(x), accepted)
    assert torch.equal(classifier.rejects(x), ~accepted)
    ahead = classifier.ahead(x)
    clear = ahead.abs() > 1e-8
    assert torch.equal((ahead >= 0)[clear], accepted[clear])
    # Probabilities keep the order of people, and the classifier that was given stays as it is.
    order = plain.probability(x).argsort()
    assert (p[order].diff() >= -1e-9).all()
    assert plain.decision == Decision(threshold=SCHEMA.threshold)
    # A row's answer does not depend on the rest.
    torch.testing.assert_close(
        torch.cat([classifier.ahead(row[None]) for row in x[:20]]), ahead[:20]
    )
    assert classifier.has_slope == plain.has_slope


@pytest.mark.parametrize("decision", [c[1] for c in CASES[:6]])
def test_slopes_are_those_of_finite_differences(decision: Decision) -> None:
    classifier = decided(network(), decision, ROWS)
    x = encoded(ROWS)[:50].requires_grad_()
    (slope,) = torch.autograd.grad(classifier.ahead(x).sum(), x)
    h = 1e-6
    with torch.no_grad():
        step = torch.tensor([h, 0.0], dtype=torch.float64)
        up, down = (classifier.ahead(x + s) for s in (step, -step))
    rise = (up - down) / (2 * h)
    near = torch.isclose(rise, slope[:, 0], rtol=1e-4)
    # But for those whom a corner lies within h of.
    assert int(near.sum()) >= 49
    assert (slope[:, 0] != 0).all()


def test_a_threshold_gives_what_the_schema_gives() -> None:
    classifier, x = network(), encoded(ROWS)
    again = decided(classifier, Decision(threshold=0.5))
    assert again is classifier
    stricter = decided(classifier, Decision(threshold=0.9))
    assert torch.equal(stricter.logit(x), classifier.logit(x))
    assert stricter.threshold == 0.9


@given(st.floats(0.02, 0.98), st.lists(st.integers(0, 8), min_size=2, max_size=40))
def test_no_other_cut_off_comes_closer_to_a_reject_rate(rate: float, levels: list[int]) -> None:
    """Also with ties, which nothing tells apart."""
    rows = pd.DataFrame({"a": np.array(levels) / 10 + 0.1, "b": 0.0})
    classifier = BlackBoxClassifier(SCHEMA, lambda frame: frame["a"])
    if len(set(levels)) == 1:
        with pytest.raises(ClassifierError, match="differ between people"):
            decided(classifier, Decision(reject_rate=rate), rows)
        return
    settled = decided(classifier, Decision(reject_rate=rate), rows)
    share = float(settled.rejects(encoded(rows)).double().mean())
    possible = [np.mean([v < edge for v in levels]) for edge in sorted(set(levels))[1:]]
    assert abs(share - rate) == pytest.approx(min(abs(p - rate) for p in possible))


def test_a_reject_rate_is_met_where_all_differ() -> None:
    for rate in (0.1, 0.3, 0.75):
        classifier = decided(network(), Decision(reject_rate=rate), ROWS)
        assert float(classifier.rejects(encoded(ROWS)).double().mean()) == pytest.approx(rate)
        assert classifier.decision.reject_rate == rate
        assert classifier.threshold == classifier.decision.cut_off


@pytest.mark.parametrize("value", [0.3, 0.8])
def test_a_function_that_gives_an_edge_is_inside(value: float) -> None:
    """Though log-odds and back may be a hair off."""
    x = torch.zeros(1, 2, dtype=torch.float64)
    inside = BlackBoxClassifier(SCHEMA, lambda rows: np.full(len(rows), value)).deciding(BAND)
    assert inside.accepts(x).all()
    side = 0.0 if value == 0.3 else 1.0
    next_ = float(np.nextafter(value, side))
    outside = BlackBoxClassifier(SCHEMA, lambda rows: np.full(len(rows), next_)).deciding(BAND)
    assert outside.rejects(x).all()


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_calibration_comes_closer_to_fresh_outcomes_and_changes_answers(kind: Any) -> None:
    classifier = network()
    decision = Decision(threshold=0.6, calibrated=kind)
    honest = decided(classifier, decision, people(2000, seed=1))
    fresh = people(2000, seed=2)
    x, y = encoded(fresh), torch.tensor(fresh["paid"] == "yes").double()

    def loss(c: Classifier) -> float:
        return float(nn.functional.binary_cross_entropy(c.probability(x), y))

    assert loss(honest) < loss(classifier) - 0.05
    share = y[honest.accepts(x)].mean()
    assert share >= 0.6
    assert not torch.equal(
        honest.accepts(x), classifier.deciding(Decision(threshold=0.6)).accepts(x)
    )


def test_platt_finds_the_line_that_made_the_labels() -> None:
    rows = people(20000, seed=3)
    honest = decided(network(), Decision(threshold=0.5, calibrated=True), rows)
    assert isinstance(honest, CalibratedClassifier)
    line = honest.calibration.line
    assert line is not None
    # The truth is half of the log-odds without their 0.25, less 1.
    assert line[0] == pytest.approx(0.5, abs=0.03)
    assert line[1] == pytest.approx(-1.125, abs=0.06)
    weights = honest.linear_weights
    assert weights is not None
    x = encoded(ROWS)
    torch.testing.assert_close(x @ weights[0] + weights[1], honest.logit(x))


def test_isotonic_is_one_function_of_the_score_through_its_knots() -> None:
    score = torch.tensor([-2.0, -1.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    y = torch.tensor([False, True, False, False, True, True, True, True])
    curve = Calibration.fitted("isotonic", score, y)
    assert curve.line is None
    # Three groups: none of one, one of three, four of four.
    torch.testing.assert_close(curve.given, torch.tensor([-2.0, -2 / 3, 2.5], dtype=torch.float64))
    ends = torch.tensor([1 / 16, 1 / 3, 15 / 16], dtype=torch.float64)
    torch.testing.assert_close(torch.sigmoid(curve(curve.given)), ends)
    grid = torch.linspace(-9, 9, 999, dtype=torch.float64)
    assert (curve(grid).diff() > 0).all()


def test_bounds_hold_through_a_calibration() -> None:
    for kind in ("platt", "isotonic"):
        classifier = decided(network(), Decision(threshold=0.6, calibrated=kind), ROWS)
        x = encoded(ROWS)
        lower, upper = x - 0.5, x + 0.5
        low, high = classifier.bounds(lower, upper)
        for share in torch.linspace(0, 1, 7).tolist():
            logit = classifier.logit(lower + share * (upper - lower))
            assert ((low <= logit) & (logit <= high)).all()
        _, top = classifier.bounds(lower, torch.full_like(upper, torch.inf))
        assert top.isposinf().all()


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_its_state_gives_the_same_answers(kind: Any) -> None:
    classifier, x = (
        decided(network(), Decision(threshold=0.6, calibrated=kind), ROWS),
        encoded(ROWS),
    )
    assert isinstance(classifier, CalibratedClassifier)
    state = classifier.state()
    name, part = CalibratedClassifier.part(state)
    assert name == NetworkClassifier.kind
    inside = NetworkClassifier.from_state(SCHEMA, part)
    again = CalibratedClassifier.from_state(SCHEMA, state, inside)
    assert torch.equal(again.logit(x), classifier.logit(x))
    with pytest.raises(BundleError, match="rebuilt first"):
        CalibratedClassifier.from_state(SCHEMA, state)


def test_what_cannot_be_fitted_is_refused() -> None:
    classifier, calibrated = network(), Decision(threshold=0.5, calibrated=True)
    with pytest.raises(TableError, match="labelled rows that the classifier was not trained on"):
        decided(classifier, calibrated)
    with pytest.raises(TableError, match="of whom the reject rate is meant"):
        decided(classifier, Decision(reject_rate=0.3))
    with pytest.raises(TableError, match="include the outcome"):
        decided(classifier, calibrated, ROWS.drop(columns="paid"))
    with pytest.raises(ClassifierError, match="fitted to a table first"):
        classifier.deciding(calibrated)
    nameless = Schema(SCHEMA.features, SCHEMA.graph)
    weights = [torch.tensor([[1.0, 0.0]])]
    other = NetworkClassifier(nameless, [Input(0), Input(1)], weights, [torch.zeros(1)])
    with pytest.raises(SchemaError, match="name the outcome"):
        decided(other, calibrated, ROWS[["a", "b"]])
    # Scores of the wrong class, and one score for all.
    wrong = BlackBoxClassifier(SCHEMA, sigmoid, score_of="unfavourable")
    flat = BlackBoxClassifier(SCHEMA, lambda rows: np.full(len(rows), 0.4))
    for broken in (wrong, flat):
        for kind in ("platt", "isotonic"):
            with pytest.raises(ClassifierError, match="rise with the share of favourable"):
                decided(broken, Decision(threshold=0.5, calibrated=kind), ROWS)


def test_a_risk_is_turned_round() -> None:
    x = encoded(ROWS)
    risk = BlackBoxClassifier(SCHEMA, lambda rows: 1 - sigmoid(rows), score_of="unfavourable")
    torch.testing.assert_close(risk.probability(x), black_box().probability(x))
    module = nn.Linear(2, 1).double()
    good = TorchClassifier(SCHEMA, module)
    bad = TorchClassifier(SCHEMA, module, score_of="unfavourable")
    assert torch.equal(bad.logit(x), -good.logit(x))
    again = TorchClassifier.from_state(SCHEMA, bad.state(), module)
    assert torch.equal(again.logit(x), bad.logit(x))
    as_p = TorchClassifier(
        SCHEMA, nn.Sequential(module, nn.Sigmoid()), "probability", score_of="unfavourable"
    )
    torch.testing.assert_close(as_p.probability(x), bad.probability(x), rtol=1e-6, atol=1e-6)


def test_one_less_a_risk_meets_the_edges() -> None:
    """1 - 0.7 is 0.30000000000000004 to a computer."""
    x = torch.zeros(1, 2, dtype=torch.float64)
    band = Decision(at_least=0.1, at_most=0.3)
    for risk in (0.7, 0.9):

        def score(rows: pd.DataFrame, value: float = risk) -> Any:
            return np.full(len(rows), value)

        classifier = BlackBoxClassifier(SCHEMA, score, score_of="unfavourable")
        assert classifier.deciding(band).accepts(x).all()


def test_an_unknown_outcome_is_refused() -> None:
    unknown: Any = "good"
    with pytest.raises(ClassifierError, match="be favourable or unfavourable; got 'good'"):
        BlackBoxClassifier(SCHEMA, sigmoid, score_of=unknown)
    with pytest.raises(ClassifierError, match="be favourable or unfavourable; got 'good'"):
        TorchClassifier(SCHEMA, nn.Linear(2, 1), score_of=unknown)
