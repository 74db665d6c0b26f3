"""Whom a decision accepts, and how far from it people are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carma import Decision
from carma.errors import SettingsError

SHARES = st.floats(0.001, 0.999)
LOGITS = st.lists(st.floats(-8, 8), min_size=1, max_size=8)
KINDS = st.one_of(
    st.builds(lambda t: Decision(threshold=t), SHARES),
    st.builds(lambda r, c: Decision(reject_rate=r, cut_off=c), SHARES, SHARES),
    st.tuples(SHARES, SHARES)
    .filter(lambda pair: abs(pair[0] - pair[1]) > 0.01)
    .map(lambda pair: Decision(at_least=min(pair), at_most=max(pair))),
)


def doubles(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(KINDS, st.lists(st.floats(0, 1), max_size=8))
def test_accepted_are_exactly_the_probabilities_between_the_edges(
    decision: Decision, more: list[float]
) -> None:
    p = doubles([*more, decision.low, decision.high, 0.0, 1.0])
    expected = [decision.low <= value <= decision.high for value in p.tolist()]
    assert decision.accepts(p).tolist() == expected
    assert decision.rejects(p).tolist() == [not is_accepted for is_accepted in expected]


def test_edges_are_inside_and_what_is_no_number_is_nowhere() -> None:
    band = Decision(at_least=0.4, at_most=0.7)
    outside = [math.nextafter(0.4, 0), math.nextafter(0.7, 1), math.nan]
    assert band.accepts(doubles([0.4, 0.7, *outside])).tolist() == [True, True, *[False] * 3]
    for decision in (band, Decision(threshold=0.5)):
        assert not decision.accepts(doubles([math.nan])).item()
        assert not decision.rejects(doubles([math.nan])).item()


@given(KINDS, LOGITS)
def test_ahead_has_the_sign_of_the_answer(decision: Decision, logits: list[float]) -> None:
    logit = doubles(logits)
    ahead, is_accepted = decision.ahead(logit), decision.accepts(torch.sigmoid(logit))
    clear = ahead.abs() > 1e-9
    assert torch.equal((ahead >= 0)[clear], is_accepted[clear])


@given(SHARES, LOGITS)
def test_without_an_upper_edge_it_only_shifts_log_odds(t: float, logits: list[float]) -> None:
    logit = doubles(sorted(logits))
    ahead = Decision(threshold=t).ahead(logit)
    assert torch.equal(ahead, logit - math.log(t / (1 - t)))
    assert (ahead.diff() >= 0).all()


def test_in_a_band_it_rises_to_the_middle_and_falls_after() -> None:
    band = Decision(at_least=0.2, at_most=0.8)
    logit = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    ahead = band.ahead(logit)
    (slope,) = torch.autograd.grad(ahead.sum(), logit)
    is_left = logit < -1e-9
    assert (slope[is_left] == 1).all()
    assert (slope[logit > 1e-9] == -1).all()
    assert float(ahead.detach().max()) == pytest.approx(math.log(4))


@given(KINDS, st.floats(0, 1))
def test_room_is_what_a_margin_leaves(decision: Decision, margin: float) -> None:
    middle = (decision.low + decision.high) / 2
    deepest = 1 if decision.at_most is None else middle
    if decision.has_room(margin):
        low, high = decision.edges(margin)
        assert low < high
        assert decision.low + margin <= deepest
    else:
        assert decision.low + margin >= deepest - 1e-12


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Decision(threshold=0.6), "accepted from 60%"),
        (Decision(threshold=0.6125), "accepted from 61.25%"),
        (Decision(at_least=0.4, at_most=0.7), "accepted between 40% and 70%"),
        (
            Decision(reject_rate=0.3, cut_off=0.515),
            "accepted from 51.5%, so that 30% are turned down",
        ),
        (Decision(reject_rate=0.3), "accepted from a cut-off, so that 30% are turned down"),
    ],
)
def test_it_is_told_in_words(decision: Decision, words: str) -> None:
    assert decision.say() == words


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "exactly one of threshold, at_least and at_most, reject_rate; got []"),
        ({"threshold": 0.5, "reject_rate": 0.2}, "exactly one of"),
        ({"threshold": 0.5, "at_least": 0.2, "at_most": 0.7}, "exactly one of"),
        ({"at_least": 0.4}, "'at_most' must be given with at_least; for one edge"),
        ({"at_most": 0.4}, "'at_least' must be given with at_most"),
        ({"at_least": 0.7, "at_most": 0.4}, "'at_least' must lie below at_most, 0.4; got 0.7"),
        ({"at_least": 0.4, "at_most": 0.4}, "'at_least' must lie below at_most"),
        ({"reject_rate": 0}, "'reject_rate' must lie strictly between 0 and 1; got 0"),
        ({"reject_rate": 1.0}, "strictly between 0 and 1"),
        ({"reject_rate": -0.5}, "strictly between 0 and 1"),
        ({"threshold": True}, "'threshold' must lie strictly between 0 and 1; got True"),
        ({"threshold": "half"}, "strictly between 0 and 1"),
        ({"threshold": math.nan}, "strictly between 0 and 1"),
        ({"threshold": 0.5, "cut_off": 0.5}, "'cut_off' must be absent but for a reject_rate"),
        ({"threshold": 0.5, "calibrated": "spline"}, "true, false, platt or isotonic"),
        ({"reject_rate": 0.5, "calibrated": True}, "it keeps the order of people"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Decision(**given)
    assert words in str(caught.value)


def test_true_is_platt_and_a_table_is_asked_for() -> None:
    calibrated = Decision(threshold=0.5, calibrated=True)
    assert calibrated == Decision(threshold=0.5, calibrated="platt")
    assert not calibrated.is_settled
    open_ = Decision(reject_rate=0.3)
    assert not open_.is_settled
    with pytest.raises(SettingsError, match="decided"):
        _ = open_.low
