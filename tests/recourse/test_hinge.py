"""The hinge ends where it says, whatever the threshold and however flat it is."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carma import Decision
from carma.recourse.hinge import Hinge

THRESHOLDS = st.floats(0.01, 0.99)
MARGINS = st.floats(0.0, 0.9)
TEMPERATURES = st.floats(0.05, 3.0)


@given(THRESHOLDS, MARGINS, TEMPERATURES)
def test_nothing_is_missing_exactly_from_the_aim_on(
    threshold: float, margin: float, temperature: float
) -> None:
    hinge = Hinge(Decision(threshold=threshold), margin, temperature)
    reached = threshold + hinge.aim
    logit = math.log(reached) - math.log1p(-reached) if reached < 1 else math.inf
    near = torch.tensor([logit - 0.01, logit + 0.01], dtype=torch.float64)
    short, enough = hinge.violation(near).tolist()
    if logit < 30:
        assert enough == 0 < short


@given(THRESHOLDS, st.floats(0.0, 0.9))
def test_at_temperature_one_and_threshold_a_half_it_is_the_papers(p: float, margin: float) -> None:
    logit = torch.tensor([math.log(p / (1 - p))], dtype=torch.float64)
    violation = Hinge(Decision(threshold=0.5), margin, 1.0).violation(logit).item()
    assert violation == pytest.approx(max(0.0, margin - (p - (1 - p))), abs=1e-12)


@given(THRESHOLDS, MARGINS, TEMPERATURES, st.floats(-50, 50), st.floats(0.01, 10))
def test_it_never_rises_with_the_log_odds(
    threshold: float, margin: float, temperature: float, logit: float, more: float
) -> None:
    pair = torch.tensor([logit, logit + more], dtype=torch.float64)
    hinge = Hinge(Decision(threshold=threshold), margin, temperature)
    first, second = hinge.violation(pair).tolist()
    assert first >= second >= 0


def test_shortfall_is_the_mean_distance_and_never_nought() -> None:
    logit = torch.tensor([-3.0, -1.0], dtype=torch.float64)
    assert Hinge.shortfall(Decision(threshold=0.5), logit) == 2.0
    assert Hinge.shortfall(Decision(threshold=0.9), logit) == pytest.approx(2.0 + math.log(9))
    assert Hinge.shortfall(Decision(threshold=0.5), -logit) == 1e-6
