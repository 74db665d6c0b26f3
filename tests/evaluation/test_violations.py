"""The second check of plans finds each kind of mistake, and nothing where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from carma import CausalGraph, Feature, Schema
from carma.evaluation.violations import violations
from carma.rules import ActionRules, SumLimit, TimeLink

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
    "n_actions": 1,
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
    assert rules(do_rank="high", after_rank="high", n_actions=2) == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"do_hours": 33, "after_hours": 33}, {("hours", "value")}),
        ({"do_hours": 46, "after_hours": 46}, {("hours", "direction")}),
        ({"do_hours": -4, "after_hours": -4}, {("hours", "value"), ("hours", "follows")}),
        ({"after_hours": 36}, {("hours", "told")}),
        (
            {"do_rank": "low", "after_rank": "low", "n_actions": 2},
            {("rank", "direction")},
        ),
        (
            {"do_rank": "top", "after_rank": "top", "n_actions": 2},
            {("rank", "value"), ("rank", "follows")},
        ),
        ({"n_actions": 2}, {("", "count")}),
        ({"after_rank": "high"}, {("rank", "moved")}),
        ({"after_age": 31}, {("age", "moved")}),
        ({"after_pay": 100.5}, {("pay", "follows")}),
        (
            {"do_hours": None, "after_hours": 40, "after_pay": 50.0, "n_actions": 0},
            {("", "none")},
        ),
    ],
)
def test_each_mistake_is_found_and_named(
    changes: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    assert rules(**changes) == expected


def test_people_without_a_plan_are_left_out() -> None:
    plans = pd.DataFrame([RIGHT | {"status": "not_found", "do_hours": 99}], index=["ann"])
    assert violations(SCHEMA, PEOPLE, plans).empty


JOBS = Schema(
    (
        Feature("school", "ordinal", levels=(1, 2, 3), role="actionable", direction="up"),
        Feature(
            "job",
            "nominal",
            levels=("cook", "clerk", "judge"),
            role="actionable",
            moves=(("*", "clerk"), ("clerk", "judge")),
            missing="impute",
        ),
        Feature("rent", "integer", bounds=(0, 99), role="actionable", direction="down"),
        Feature("loan", "integer", bounds=(0, 99), role="actionable"),
        Feature("age", "integer", bounds=(18, 99)),
        Feature("pay", bounds=(0, 100)),
        Feature("score", missing="pass"),
    ),
    CausalGraph.from_parents(
        {"pay": ["age"]}, ["school", "job", "rent", "loan", "age", "pay", "score"]
    ),
    rules=ActionRules(
        requires=(("loan", "rent"),),
        exclusive=(("school", "rent"),),
        sums=(SumLimit({"rent": 1, "loan": 2}, at_most=60),),
        time=(TimeLink("school", "age", (0, 1, 3.5)),),
    ),
)
WORKER: dict[str, Any] = {
    "school": 1,
    "job": "cook",
    "rent": 20,
    "loan": 10,
    "age": 30,
    "pay": 50.0,
    "score": 1.0,
}


def breaks(acts: dict[str, Any], told: dict[str, Any], today: dict[str, Any]) -> set[str]:
    own = WORKER | today
    plan = {"status": "searched", "n_actions": len(acts)}
    plan |= {f"do_{name}": acts.get(name) for name in JOBS.actionable}
    plan |= {f"after_{name}": value for name, value in (own | acts | told).items()}
    found = violations(JOBS, pd.DataFrame([own]), pd.DataFrame([plan]))
    return {f"{name} {rule}" for name, rule in zip(found["feature"], found["rule"], strict=True)}


@pytest.mark.parametrize(
    ("acts", "told", "today", "expected"),
    [
        ({"job": "clerk"}, {}, {}, set()),
        ({"job": "judge"}, {}, {}, {"job move"}),
        ({"job": "judge"}, {}, {"job": "clerk"}, set()),
        ({"job": "judge"}, {}, {"job": None}, set()),
        ({"rent": 10}, {"job": "judge"}, {"job": None}, set()),
        ({"rent": 10}, {"job": "pope"}, {"job": None}, {"job follows"}),
        ({"rent": 10}, {"job": None}, {"job": None}, {"job follows"}),
        ({"rent": 10}, {"score": None}, {"score": None}, set()),
        ({"rent": 10}, {"score": None}, {}, {"score moved"}),
        ({"school": 2}, {"age": 31, "pay": 52.0}, {}, set()),
        ({"school": 3}, {"age": 34, "pay": 52.0}, {}, set()),
        ({"school": 3}, {"age": 33}, {}, {"age time"}),
        ({"school": 3}, {}, {}, {"age time"}),
        ({"rent": 10}, {"age": 31}, {}, {"age moved", "age time"}),
        ({"rent": 10}, {"pay": 52.0}, {}, {"pay moved"}),
        ({"school": 2, "rent": 10}, {"age": 31}, {}, {"school exclusive"}),
        ({"loan": 15}, {}, {}, {"loan requires"}),
        ({"loan": 30, "rent": 10}, {}, {}, {"rent sums"}),
        ({"loan": 30, "rent": 10}, {}, {"loan": 40}, set()),
    ],
)
def test_moves_rules_time_and_gaps_are_checked(
    acts: dict[str, Any], told: dict[str, Any], today: dict[str, Any], expected: set[str]
) -> None:
    assert breaks(acts, told, today) == expected


def test_groups_that_belong_together_are_checked() -> None:
    schema = replace(SCHEMA, rules=ActionRules(together=(("hours", "rank"),)))
    both = RIGHT | {"do_rank": "high", "after_rank": "high", "n_actions": 2}
    found = violations(schema, PEOPLE, pd.DataFrame([RIGHT], index=["ann"]))
    assert found["rule"].tolist() == ["together"]
    assert violations(schema, PEOPLE, pd.DataFrame([both], index=["ann"])).empty
