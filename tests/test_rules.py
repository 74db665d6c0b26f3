"""Rules between actions come back as they were, and every rule of a rule can be broken once."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from carma.errors import SchemaError
from carma.graph import CausalGraph
from carma.problem import Problem
from carma.rules import ActionRules, SumLimit, TimeLink
from carma.schema import Feature, Schema

NAMES = ("work", "rent", "buy", "course")
NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
PAIRS = st.lists(st.sampled_from(NAMES), min_size=2, max_size=2, unique=True)
GROUPS = st.lists(st.sampled_from(NAMES), min_size=2, unique=True)
LIMITS = st.builds(
    SumLimit,
    st.dictionaries(st.sampled_from(NAMES[:3]), NUMBERS.filter(bool), min_size=1),
    NUMBERS,
)
TIMES = st.floats(0, 100, allow_subnormal=False)
LINKS = st.builds(TimeLink, st.sampled_from(NAMES[:3]), st.just("age"), TIMES) | st.builds(
    TimeLink,
    st.just("course"),
    st.just("age"),
    st.lists(TIMES, min_size=3, max_size=3).map(lambda times: tuple(sorted(times))),
)
RULES = st.builds(
    ActionRules,
    st.lists(PAIRS, max_size=2),
    st.lists(GROUPS, max_size=2),
    st.lists(GROUPS, max_size=2),
    st.lists(LIMITS, max_size=2),
    st.lists(LINKS, max_size=2),
)
LEVELS = ("none", "basic", "full")


def schema(rules: ActionRules, **changes: Feature) -> Schema:
    """Four actions, of which a course has levels; age, and a kind that has no order."""
    features = {name: Feature(name, role="actionable") for name in NAMES[:3]}
    features["course"] = Feature("course", "ordinal", levels=LEVELS, role="actionable")
    features |= {
        "age": Feature("age", "integer"),
        "job": Feature("job", "nominal", levels=("cook", "clerk"), role="actionable"),
        "income": Feature("income"),
        "health": Feature("health"),
    }
    edges = (("work", "income"), ("age", "health"))
    graph = CausalGraph(tuple(features), edges)
    return Schema(tuple((features | changes).values()), graph, rules=rules)


@given(rules=RULES)
def test_round_trips(rules: ActionRules) -> None:
    content = rules.to_dict()
    assert ActionRules.from_dict(content) == rules
    assert ActionRules.from_dict(tomllib.loads(tomli_w.dumps(content))) == rules
    whole = schema(rules)
    assert Schema.from_toml(whole.to_toml()) == whole
    assert Schema.from_dict(whole.to_dict()).rules == rules
    assert ("rules" in whole.to_dict()) == (rules != ActionRules())
    problem = Problem.from_toml(whole.to_toml())
    assert problem.schema.rules == rules
    assert Problem.from_toml(problem.to_toml()) == problem


def test_what_is_not_said_is_not_written() -> None:
    assert ActionRules().to_dict() == {}
    assert ActionRules.from_dict({}) == ActionRules()
    assert ActionRules(exclusive=[("rent", "buy")]).to_dict() == {"exclusive": [["rent", "buy"]]}


def test_a_problem_file_says_it_so() -> None:
    read = ActionRules.from_dict(
        tomllib.loads("""
            requires = [["buy", "work"]]
            together = [["work", "rent"]]
            exclusive = [["rent", "buy"]]
            sums = [{of = {rent = 12, work = -0.4}, at_most = 0}]
            time = [{action = "course", moves = "age", takes = [0, 1, 3]}]
        """)
    )
    assert read == ActionRules(
        requires=(("buy", "work"),),
        together=(("work", "rent"),),
        exclusive=(("rent", "buy"),),
        sums=(SumLimit({"rent": 12.0, "work": -0.4}, 0.0),),
        time=(TimeLink("course", "age", (0.0, 1.0, 3.0)),),
    )


def test_numbers_become_floats() -> None:
    limit, link = SumLimit({"rent": 2}, 1), TimeLink("course", "age", [0, 1])
    assert [type(v) for v in (limit.of["rent"], limit.at_most)] == [float, float]
    assert link.takes == (0.0, 1.0)
    assert isinstance(TimeLink("course", "age", 2).takes, float)


def test_limits_do_not_share_what_they_were_given() -> None:
    weights = {"rent": 1.0}
    limit = SumLimit(weights, 1)
    weights["rent"] = math.nan
    assert limit.of == {"rent": 1.0}


@pytest.mark.parametrize(
    ("of", "at_most", "message"),
    [
        ({}, 1, r"SumLimit: 'of' must give each feature a weight; got \{\}"),
        (["rent"], 1, "'of' must give each feature a weight"),
        (None, 1, "'of' must give each feature a weight; got None"),
        ({"rent": 0}, 1, r"of\['rent'\].* must be a finite number other than 0; got 0"),
        ({"rent": math.inf}, 1, r"must be a finite number other than 0; got inf"),
        ({"rent": True}, 1, r"must be a finite number other than 0; got True"),
        ({"rent": "1"}, 1, r"must be a finite number other than 0; got '1'"),
        ({"rent": 1}, math.nan, "'at_most' must be a finite number; got nan"),
        ({"rent": 1}, "1", "'at_most' must be a finite number; got '1'"),
        ({"rent": 1}, None, "'at_most' must be a finite number; got None"),
    ],
)
def test_bad_limits(of: Any, at_most: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        SumLimit(of, at_most)


@pytest.mark.parametrize(
    "takes", [-1, math.inf, math.nan, True, None, "1", "12", (), [0, -1], [1, 0], [0, "1"], [None]]
)
def test_bad_times(takes: Any) -> None:
    with pytest.raises(SchemaError, match=r"TimeLink: 'takes' must be a finite number of at least"):
        TimeLink("course", "age", takes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"requires": "rent"}, "ActionRules: 'requires' must be a list; got 'rent'"),
        ({"requires": {"rent": "buy"}}, "'requires' must be a list"),
        ({"requires": 3}, "'requires' must be a list; got 3"),
        ({"requires": ["rent"]}, "'requires' must list pairs of two features.*; got 'rent'"),
        ({"requires": [("rent", "buy", "work")]}, "list pairs of two features"),
        ({"requires": [("rent", "rent")]}, r"each named once; got \('rent', 'rent'\)"),
        ({"requires": [("rent", 3)]}, "list pairs of two features"),
        ({"together": [("rent",)]}, "'together' must list groups of features, each named once"),
        ({"together": [("rent", "buy", "rent")]}, "list groups of features, each named once"),
        ({"exclusive": [[]]}, r"'exclusive' must list groups of features.*; got \[\]"),
        ({"exclusive": [3]}, "list groups of features.*; got 3"),
        ({"sums": {"of": {}}}, "'sums' must be a list"),
        ({"sums": [{"of": {"rent": 1}, "at_most": 2}]}, "'sums' must list SumLimit"),
        ({"time": [("course", "age", 1)]}, "'time' must list TimeLink"),
    ],
)
def test_bad_rules(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        ActionRules(**settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["requires"], r"problem file: 'rules' must be a table \[rules\]"),
        ({"forbids": []}, "only have the keys requires, together, .*; got 'forbids'"),
        ({"sums": {"at_most": 1}}, "'sums' must be a list"),
        ({"sums": [3]}, r"'rules.sums' must have exactly the keys of, at_most; got 3"),
        ({"sums": [{"of": {"rent": 1}}]}, "exactly the keys of, at_most"),
        ({"time": [{"action": "course", "moves": "age"}]}, "the keys action, moves, takes"),
        (
            {"time": [{"action": "a", "moves": "b", "takes": 1, "why": 2}]},
            "'rules.time' must have exactly the keys",
        ),
        ({"time": [{"action": "a", "moves": "b", "takes": -1}]}, "finite number of at least 0"),
    ],
)
def test_bad_sections(content: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        ActionRules.from_dict(content)


def link(action: Any = "course", moves: Any = "age", takes: Any = 1.0) -> dict[str, Any]:
    return {"time": [TimeLink(action, moves, takes)]}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"requires": [("rent", "age")]}, r"'rules.requires' .*actionable .*; got 'age'"),
        ({"together": [("rent", "car")]}, r"'rules.together' .*actionable .*; got 'car'"),
        ({"exclusive": [("rent", "income")]}, r"'rules.exclusive' .*; got 'income'"),
        ({"sums": [SumLimit({"car": 1}, 1)]}, r"'rules.sums' .*added up.*; got 'car'"),
        ({"sums": [SumLimit({"job": 1}, 1)]}, r"'rules.sums' .*not nominal ones; got 'job'"),
        (link("age", "income"), r"'rules.time' .*actionable .*; got 'age'"),
        (link("job"), "have an action that can rise; nominal levels have no order; got 'job'"),
        (link(takes=(0, 1)), "tell a time for each of the 3 levels of 'course'"),
        (link("rent", takes=(0, 1)), "tell a time for each of the 0 levels of 'rent'"),
        (link(moves="rent"), "move a mutable feature with numbers.*; got 'rent'"),
        (link(moves="car"), "move a mutable feature with numbers.*; got 'car'"),
        (link(moves="income"), "that no action moves by itself; got 'income'"),
    ],
)
def test_rules_that_do_not_fit_the_schema(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        schema(ActionRules(**rules))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": Feature("age", "integer", role="immutable")}, "a mutable feature.*got 'age'"),
        ({"age": Feature("age", "binary")}, "a mutable feature with numbers.*got 'age'"),
        (
            {"health": Feature("health", role="immutable")},
            "not be an effect of what moves: time moves 'age', which moves it.*got 'health'",
        ),
    ],
)
def test_time_moves_what_can_move(changes: dict[str, Feature], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        schema(ActionRules(time=[TimeLink("course", "age", 1)]), **changes)


def test_rules_are_rules() -> None:
    with pytest.raises(SchemaError, match=r"'rules' must be ActionRules; got \{\}"):
        schema({})  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match=r"'rules' must be a table \[rules\]"):
        Schema.from_dict(schema(ActionRules()).to_dict() | {"rules": 3})
