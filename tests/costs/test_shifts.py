"""Percentile costs are what a person computes with pen and paper."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from carma.costs import LargestShift, TotalLogShift
from carma.errors import SettingsError, TableError
from carma.graph import CausalGraph
from carma.schema import Feature, Schema
from carma.table import Encoding

FEATURES = (
    Feature("income", role="actionable"),
    Feature("age", role="immutable"),
    Feature("member", "binary", levels=("no", "yes"), role="actionable", cost_weight=3.0),
)
ENCODING = Encoding(Schema(FEATURES, CausalGraph(("income", "age", "member"))))
PEOPLE = pd.DataFrame(
    {
        "income": [10.0, 20.0, 20.0, 40.0, 80.0],
        "age": [30.0, 40.0, 50.0, 60.0, 70.0],
        "member": ["no", "no", "no", "yes", "no"],
    }
)
BOTH = torch.tensor([[True, False, True]])
INCOME = torch.tensor([[True, False, False]])


def person(income: float, member: float) -> torch.Tensor:
    return torch.tensor([[income, 30.0, member]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        # Of five people, 1, 3, 4 and 5 have at most 10, 20, 40 and 80; 4 are no members.
        (10, 20, 0.4),
        (20, 10, 0.4),
        (10, 15, 0.2),
        (20, 60, 0.3),
        (10, 80, 0.8),
        (80, 150, 0.1),
        (10, -60, 0.1),
    ],
)
def test_largest_shift_by_hand(start: float, end: float, expected: float) -> None:
    cost = LargestShift(ENCODING, PEOPLE)
    assert cost(person(start, 0), INCOME, person(end, 1)).item() == pytest.approx(expected)
    joined = cost(person(start, 0), BOTH, person(end, 1)).item()
    assert joined == pytest.approx(max(expected, 3 * 0.2))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (10, 20, math.log(0.8 / 0.4)),
        (20, 10, math.log(0.8 / 0.4)),
        (20, 30, math.log(0.4 / 0.3)),
        # The greatest income stands at 1 - 1/10.
        (10, 80, math.log(0.8 / 0.1)),
        (40, 60, math.log(0.2 / 0.15)),
        (80, 150, 0.1),
        (10, -60, math.log(0.9 / 0.8)),
    ],
)
def test_total_log_shift_by_hand(start: float, end: float, expected: float) -> None:
    cost = TotalLogShift(ENCODING, PEOPLE)
    assert cost(person(start, 0), INCOME, person(end, 1)).item() == pytest.approx(expected)
    joined = cost(person(start, 0), BOTH, person(end, 1)).item()
    assert joined == pytest.approx(expected + 3 * math.log(0.2 / 0.1))


@pytest.mark.parametrize("kind", [LargestShift, TotalLogShift])
def test_a_table_and_its_tensor_are_one_population(
    kind: type[LargestShift | TotalLogShift],
) -> None:
    ours, theirs = kind(ENCODING, PEOPLE), kind(ENCODING, ENCODING.encode(PEOPLE))
    assert ours.state().fingerprint() == theirs.state().fingerprint()
    assert ours.state().fingerprint() != kind(ENCODING, PEOPLE[1:]).state().fingerprint()


@pytest.mark.parametrize("kind", [LargestShift, TotalLogShift])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.rand(5, 2), r"at least two rows of 3 columns; the shape; got \(5, 2\)"),
        (torch.rand(1, 3), r"got \(1, 3\)"),
        (torch.rand(3), r"got \(3,\)"),
        (torch.tensor([[1.0, 0.0, 0.0], [math.nan, 0.0, 1.0]]), "be finite .*; got nan"),
        (torch.tensor([[1.0, 0.0, 0.0], [math.inf, 0.0, 1.0]]), "be finite .*; got inf"),
        (torch.tensor([[1.0, 0.0, 1.0], [2.0, 1.0, 1.0]]), r"constant; got \['member'\]"),
    ],
)
def test_bad_populations(kind: Any, rows: torch.Tensor, message: str) -> None:
    with pytest.raises(SettingsError, match=rf"{kind.__name__}: 'rows' must .*{message}"):
        kind(ENCODING, rows)


def test_a_table_must_fit_the_schema() -> None:
    with pytest.raises(TableError, match="income"):
        LargestShift(ENCODING, PEOPLE.drop(columns="income"))


def test_rows_of_a_table_with_gaps_are_left_out() -> None:
    features = tuple(replace(f, missing="impute") for f in ENCODING.schema.features)
    encoding = Encoding(replace(ENCODING.schema, features=features))
    gaps = PEOPLE.assign(income=PEOPLE["income"].mask(PEOPLE.index < 2))
    cost = LargestShift(encoding, gaps)
    assert torch.equal(cost.percentiles.knots, LargestShift(ENCODING, PEOPLE[2:]).percentiles.knots)


def test_what_is_free_may_have_gaps() -> None:
    rows = ENCODING.encode(PEOPLE)
    rows[0, 1] = math.nan
    cost = LargestShift(ENCODING, rows)
    assert torch.equal(cost.percentiles.knots, LargestShift(ENCODING, PEOPLE).percentiles.knots)
