"""The second check of plans finds each kind of mistake, and nothing where there is none."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from carma import CausalGraph, Feature, Schema
from carma.evaluation.violations import violations

SCHEMA = Schema(
    (
        Feature("sex", "binary", levels=("f", "m"), role="immutable"),
        Feature("hours", "integer", bounds=(1, 60), step=5, role="actionable", direction="down"),
        Feature(
            "rank", "ordinal", levels=("low", "mid", "high"), role="actionable", direction="up"
        ),
        Feature("pay", bounds=(0, 100), role="mutable"),
        Feature("age", "integer", bounds=(18, 99)),
    ),
    CausalGraph.from_parents({"pay": ["hours", "sex"]}, ["sex", "hours", "rank", "pay", "age"]),
)
PEOPLE = pd.DataFrame(
    {"sex": ["f"], "hours": [40], "rank": ["mid"], "pay": [50.0], "age": [30]}, index=["ann"]
)
RIGHT: dict[str, Any] = {
    "status": "searched",
    "do_hours": 31,
    "do_rank": None,
    "after_hours": 31,
    "after_rank": "mid",
    "after_pay": 38.8,
    "after_age": 30,
}


def rules(**changes: Any) -> set[tuple[str, str]]:
    plans = pd.DataFrame([RIGHT | changes], index=["ann"])
    found = violations(SCHEMA, PEOPLE, plans)
    assert set(found["person"]) <= {"ann"}
    return set(zip(found["feature"], found["rule"], strict=True))


def test_a_right_plan_breaks_no_rule() -> None:
    assert rules() == set()
    # One's own value stays possible where it is between two steps.
    assert rules(do_hours=40, after_hours=40) == set()
    assert rules(do_rank="high", after_rank="high") == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"do_hours": 33, "after_hours": 33}, {("hours", "value")}),
        ({"do_hours": 46, "after_hours": 46}, {("hours", "direction")}),
        ({"do_hours": -4, "after_hours": -4}, {("hours", "value"), ("hours", "follows")}),
        ({"after_hours": 36}, {("hours", "told")}),
        ({"do_rank": "low", "after_rank": "low"}, {("rank", "direction")}),
        (
            {"do_rank": "top", "after_rank": "top"},
            {("rank", "value"), ("rank", "follows"), ("rank", "direction")},
        ),
        ({"after_rank": "high"}, {("rank", "moved")}),
        ({"after_age": 31}, {("age", "moved")}),
        ({"after_pay": 100.5}, {("pay", "follows")}),
        ({"do_hours": None, "after_hours": 40, "after_pay": 50.0}, {("", "none")}),
    ],
)
def test_each_mistake_is_found_and_named(
    changes: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    assert rules(**changes) == expected


def test_people_without_a_plan_are_left_out() -> None:
    plans = pd.DataFrame([RIGHT | {"status": "not_found", "do_hours": 99}], index=["ann"])
    assert violations(SCHEMA, PEOPLE, plans).empty
