"""Problem files come back as they were, and every rule of a problem can be broken once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from carma.errors import CarmaError, FileError, GraphError, SchemaError
from carma.graph import CausalGraph
from carma.schema import Feature, Schema

SMALL = """
outcome = "paid"
favourable = "yes"
ignore = ["id"]

[graph]
savings = ["income"]

[features.income]
role = "actionable"

[features.savings]
kind = "integer"
"""

MOVED: dict[str, Any] = {"kind": "nominal", "levels": ("a", "b", "c"), "role": "actionable"}


def problem(*features: Feature, edges: Any = (), **settings: Any) -> Schema:
    return Schema(features, CausalGraph(tuple(f.name for f in features), edges), **settings)


@given(st.data())
def test_toml_and_dict_round_trips(schemas: SearchStrategy[Schema], data: st.DataObject) -> None:
    schema = data.draw(schemas)
    again = Schema.from_toml(schema.to_toml())
    assert again == schema
    assert again.to_toml() == schema.to_toml()
    assert Schema.from_dict(schema.to_dict()) == schema
    for one, other in zip(schema.features, again.features, strict=True):
        assert [type(level) for level in one.levels] == [type(level) for level in other.levels]


def test_files_round_trip(tmp_path: Path) -> None:
    schema = Schema.from_toml(SMALL)
    path = tmp_path / "problem.toml"
    text = schema.to_toml(path)
    assert path.read_text(encoding="utf-8") == text
    assert Schema.from_toml(path) == Schema.from_toml(str(path)) == schema


def test_job_sections_are_left_to_the_job() -> None:
    jobs = "".join(f"\n[{name}]\nkey = 1\n" for name in ("data", "classifier", "solver"))
    assert Schema.from_toml(SMALL + jobs) == Schema.from_toml(SMALL)


@given(st.data())
def test_codes_number_the_levels(schemas: SearchStrategy[Schema], data: st.DataObject) -> None:
    for feature in data.draw(schemas).features:
        numeric = all(not isinstance(v, (str, bool)) for v in feature.levels)
        expected = feature.levels if numeric else range(len(feature.levels))
        assert feature.codes == tuple(float(code) for code in expected)
        if feature.kind == "ordinal":
            assert list(feature.codes) == sorted(feature.codes)
        assert feature.has_levels == bool(feature.levels)
        assert feature.is_discrete == (feature.kind != "continuous")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": ""}, "'name' must be a non-empty string"),
        ({"name": 3}, "'name' must be a non-empty string"),
        ({"kind": "real"}, "'kind' must be continuous, integer, binary, ordinal or nominal"),
        ({"role": "fixed"}, "'role' must be actionable, mutable or immutable; got 'fixed'"),
        ({"direction": "left"}, "'direction' must be any, up or down; got 'left'"),
        ({"kind": "nominal", "levels": ()}, "at least two different values"),
        ({"kind": "nominal", "levels": ("a",)}, "at least two different values"),
        ({"kind": "ordinal", "levels": ("a", "b", "a")}, "at least two different values"),
        ({"kind": "binary", "levels": (0, 1, 2)}, "exactly two values for kind binary"),
        ({"kind": "binary", "levels": (2**53, 2**53 + 1)}, "differ as 64-bit floats"),
        ({"kind": "ordinal", "levels": (1, 3, 2)}, "rise from the lowest to the highest"),
        ({"kind": "nominal", "levels": "ab"}, "'levels' must be a list, not text"),
        ({"kind": "nominal", "levels": 5}, "'levels' must be a list; got 5"),
        ({"kind": "nominal", "levels": (["a"], "b")}, "strings, finite numbers or booleans"),
        ({"kind": "nominal", "levels": (float("nan"), 1.0)}, "strings, finite numbers"),
        ({"kind": "nominal", "levels": (float("inf"), 1.0)}, "strings, finite numbers"),
        ({"kind": "nominal", "levels": (10**400, 1.0)}, "strings, finite numbers"),
        ({"kind": "continuous", "levels": (1, 2)}, "'levels' must be absent"),
        ({"kind": "integer", "levels": (1, 2)}, "'levels' must be absent"),
        ({"bounds": (2, 1)}, "two finite numbers, the lower first"),
        ({"bounds": (1, 1)}, "two finite numbers, the lower first"),
        ({"bounds": (0, 1, 2)}, "two finite numbers"),
        ({"bounds": (0, float("inf"))}, "two finite numbers"),
        ({"bounds": (float("nan"), 1)}, "two finite numbers"),
        ({"bounds": ("a", "b")}, "two finite numbers"),
        ({"bounds": (False, True)}, "two finite numbers"),
        ({"bounds": 5}, "'bounds' must be a list; got 5"),
        ({"bounds": "ab"}, "'bounds' must be a list, not text"),
        ({"kind": "integer", "bounds": (0.5, 9)}, "whole numbers for kind integer"),
        ({"kind": "binary", "bounds": (0, 1)}, "'bounds' must be absent for kind binary"),
        ({"step": 0}, "'step' must be a finite number above 0"),
        ({"step": -1}, "'step' must be a finite number above 0"),
        ({"step": float("nan")}, "'step' must be a finite number above 0"),
        ({"step": "1"}, "'step' must be a finite number above 0"),
        ({"kind": "integer", "step": 1.5}, "a whole number for kind integer"),
        ({"kind": "binary", "step": 1}, "'step' must be absent for kind binary"),
        ({"kind": "nominal", "levels": ("a", "b"), "direction": "up"}, "levels have no order"),
        ({"role": "immutable", "direction": "down"}, "immutable features never move"),
        ({"cost_weight": 0}, "'cost_weight' must be a finite number above 0"),
        ({"cost_weight": float("inf")}, "'cost_weight' must be a finite number above 0"),
        ({"cost_weight": True}, "'cost_weight' must be a finite number above 0"),
        ({"unit": 3}, "'unit' must be a string"),
        ({"missing": "drop"}, "'missing' must be refuse, impute or pass; got 'drop'"),
        ({"role": "actionable", "moves": ((0, 1),)}, "absent unless the feature has levels"),
        ({"kind": "binary", "moves": ((0, 1),)}, "levels and is actionable"),
        (MOVED | {"moves": 3}, "'moves' must be a list; got 3"),
        (MOVED | {"moves": "ab"}, "'moves' must be a list, not text"),
        (MOVED | {"moves": ("ab",)}, "'moves' must be a list, not text; got 'ab'"),
        (MOVED | {"moves": (1,)}, "'moves' must be a list; got 1"),
        (MOVED | {"moves": (("a",),)}, r"list \[from, to\] or .*; got \['a'\]"),
        (MOVED | {"moves": (("a", "b", 1, 2),)}, r"list \[from, to\] or \[from, to, cost\]"),
        (
            MOVED | {"moves": (("a", "d"),)},
            r"of levels \['a', 'b', 'c'\] or '\*'; got \['a', 'd'\]",
        ),
        (MOVED | {"moves": (("a", "a"),)}, r"join two different levels.*; got \['a', 'a'\]"),
        (MOVED | {"moves": (("a", "b"), ("a", "b", 2))}, "different levels, each pair once"),
        (MOVED | {"moves": (("a", "b", 0),)}, "have a finite cost above 0"),
        (MOVED | {"moves": (("a", "b", float("inf")),)}, "have a finite cost above 0"),
        (MOVED | {"moves": (("a", "b", True),)}, "have a finite cost above 0"),
        (MOVED | {"moves": (("a", "b", "1"),)}, "have a finite cost above 0"),
        (
            MOVED | {"kind": "ordinal", "moves": (("a", "b"),), "direction": "up"},
            "'direction' must be any where 'moves' are given; got 'up'",
        ),
    ],
)
def test_every_rule_of_a_feature(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message) as raised:
        Feature(**{"name": "age", **settings})
    assert str(raised.value).startswith("Feature: " if "name" in settings else "Feature 'age': ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": ()}, "list at least one feature"),
        ({"features": (Feature("a"), Feature("a"))}, r"different names; got \['a'\]"),
        ({"graph": "a -> b"}, "'graph' must be a CausalGraph"),
        ({"threshold": 0}, "strictly between 0 and 1; got 0"),
        ({"threshold": 1.0}, "strictly between 0 and 1; got 1.0"),
        ({"threshold": float("nan")}, "strictly between 0 and 1; got nan"),
        ({"threshold": "half"}, "strictly between 0 and 1; got 'half'"),
        ({"outcome": "y"}, "given together"),
        ({"favourable": 1}, "given together"),
        ({"outcome": 3, "favourable": 1}, "'outcome' must be the name of a column"),
        ({"outcome": "y", "favourable": [1]}, "'favourable' must be a string"),
        ({"outcome": "a", "favourable": 1}, "not be a feature as well; got 'a'"),
        ({"ignore": ("id", "b")}, "not be a feature as well; got 'b'"),
        ({"ignore": "id"}, "'ignore' must be a list of column names; got 'id'"),
        ({"ignore": 3}, "'ignore' must be a list of column names; got 3"),
    ],
)
def test_every_rule_of_a_schema(settings: dict[str, Any], message: str) -> None:
    sound: dict[str, Any] = {
        "features": (Feature("a"), Feature("b")),
        "graph": CausalGraph.from_edges([("a", "b")]),
    }
    assert Schema(**sound).names == ("a", "b")
    with pytest.raises(SchemaError, match=message):
        Schema(**{**sound, **settings})


@pytest.mark.parametrize(
    ("nodes", "message"),
    [(("a", "b", "c"), r"as nodes; got \['c'\]"), (("a",), r"none missing; got \['b'\]")],
)
def test_the_graph_covers_exactly_the_features(nodes: tuple[str, ...], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Schema((Feature("a"), Feature("b")), CausalGraph(nodes))


def test_the_graph_takes_the_order_of_the_features() -> None:
    schema = Schema((Feature("a"), Feature("b")), CausalGraph(("b", "a"), (("b", "a"),)))
    assert schema.graph == CausalGraph(("a", "b"), (("b", "a"),))


def test_immutable_effects_of_actionable_features_are_refused_at_any_distance() -> None:
    roles = {"income": "actionable", "savings": "mutable", "age": "immutable"}
    features = [Feature(name, role=role) for name, role in roles.items()]  # type: ignore[arg-type]
    edges = (("income", "savings"), ("savings", "age"))
    with pytest.raises(SchemaError, match=r"acting on 'income' moves it.*; got 'age'"):
        problem(*features, edges=edges)
    assert problem(*features, edges=(("age", "savings"), ("age", "income"))).actionable


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[graph]\n[features]\n", GraphError, "name at least one feature"),
        ("version = 2\n" + SMALL, SchemaError, "'version' must be 1"),
        ("[graph]\na = ['b']\n", SchemaError, r"present as a table \[features\]"),
        ("[features.a]\n", SchemaError, r"present as a table \[graph\]"),
        ("treshold = 0.5\n" + SMALL, SchemaError, "be one of .*threshold.*; got 'treshold'"),
        (SMALL + "sort = 1\n", SchemaError, "'features.savings' must only have .*; got 'sort'"),
        ("graph = {}\n[features]\na = 1\n", SchemaError, "'features.a' must be a table; got 1"),
        ("[graph]\nb = 'a'\n[features]\na={}\nb={}\n", SchemaError, "'graph.b' must list"),
        ("[graph]\nb = ['c']\n[features]\na={}\nb={}\n", GraphError, r"\(a, b\); got \('c', 'b'"),
        ("[graph]\nc = ['a']\n[features]\na={}\nb={}\n", GraphError, r"\(a, b\); got \('a', 'c'"),
        ("[graph]\nb=['a']\na=['b']\n[features]\na={}\nb={}\n", GraphError, "have no cycle"),
        ("[features\n", FileError, "not valid TOML"),
        ("no-such-file.toml", FileError, "readable text file; got 'no-such-file.toml'"),
        ("null\0byte", FileError, "readable text file"),
    ],
)
def test_broken_problem_files(text: str, error: type[CarmaError], message: str) -> None:
    with pytest.raises(error, match=message):
        Schema.from_toml(text)


def test_files_that_are_no_text_or_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"outcome = '\xe9'\n")
    with pytest.raises(FileError, match="readable text file"):
        Schema.from_toml(tmp_path / "latin.toml")
    with pytest.raises(FileError, match="folder that exists"):
        Schema.from_toml(SMALL).to_toml(tmp_path / "absent" / "problem.toml")


def test_numbers_of_numpy_and_torch_are_kept_as_plain_ones() -> None:
    feature = Feature(
        "age",
        "integer",
        bounds=np.array([18, 99]),  # type: ignore[arg-type]
        step=np.int64(1),  # type: ignore[arg-type]
        cost_weight=torch.tensor(2.0),  # type: ignore[arg-type]
    )
    levels = Feature("job", "nominal", levels=tuple(np.array(["cook", "clerk"])))
    schema = problem(feature, levels, outcome="y", favourable=np.int64(1))
    assert Schema.from_toml(schema.to_toml()) == schema
    assert (type(feature.step), type(feature.cost_weight)) == (int, float)
    assert levels.codes == (0.0, 1.0)


def test_features_by_name() -> None:
    schema = Schema.from_toml(SMALL)
    assert schema["savings"] is schema.features[1]
    assert schema.actionable == ("income",)
    with pytest.raises(SchemaError, match="be one of income, savings; got 'age'"):
        schema["age"]


@pytest.mark.parametrize(
    ("feature", "value", "said"),
    [
        (Feature("a", unit="EUR"), 1234567.8, "1,234,568 EUR"),
        (Feature("a"), -2.345, "-2.35"),
        (Feature("a"), 0.01234, "0.0123"),
        (Feature("a", "integer", unit="years"), 3, "3 years"),
        (Feature("a"), torch.tensor(2.5), "2.50"),
        (Feature("a", "binary"), 1, "1"),
        (Feature("a", "nominal", levels=("x", "y"), unit="kg"), "x", "x kg"),
    ],
)
def test_values_in_words(feature: Feature, value: Any, said: str) -> None:
    assert feature.say(value) == said


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_what_changes_is_told_apart_and_rightly(before: float, after: float) -> None:
    first, second = Feature("income").say_change(before, after)
    told = [float(text.replace(",", "")) for text in (first, second)]
    if abs(before - after) > 1e-6:
        assert (told[0] < told[1]) == (before < after)
        assert told[0] != told[1]
    if before == after:
        assert first == second == Feature("income").say(before)
    for value, number in zip((before, after), told, strict=True):
        assert number == pytest.approx(value, rel=1e-3, abs=0.51 if abs(value) >= 1000 else 6e-3)


def derived(formula: str, **settings: Any) -> Schema:
    names = ("a", "b", "job", "c")
    features = (
        Feature("a", role="actionable"),
        Feature("b"),
        Feature("job", "nominal", levels=("cook", "clerk")),
        Feature("c", formula=formula, **settings),
    )
    return Schema(features, CausalGraph(names, (("a", "b"),)))


def test_a_formula_makes_the_causes_of_its_feature() -> None:
    schema = derived("a / b")
    assert schema.graph.parents("c") == ("a", "b")
    assert schema.formulas["c"].names == ("a", "b")
    again = Schema.from_toml(schema.to_toml())
    assert again == schema
    assert schema.to_dict()["graph"] == {"b": ["a"]}
    assert schema.to_dict()["features"]["c"]["formula"] == "a / b"
    assert Schema(schema.features, schema.graph) == schema


@pytest.mark.parametrize(
    ("formula", "settings", "message"),
    [
        ("a / d", {}, r"Feature 'c': 'formula' must only name features .*; got 'd'"),
        ("a + job", {}, r"'formula' must not use a nominal feature.*; got 'job'"),
        ("a + c", {}, "'formula' must not use the feature itself"),
        ("a +", {}, "Feature 'c': 'formula' must be one expression"),
        ("a.real", {}, "Feature 'c': 'formula' must only use"),
        ("7", {}, "name a feature"),
        ("", {}, "be an expression over features"),
        (3, {}, "be an expression over features"),
        ("a", {"role": "actionable"}, "'role' must be mutable: a derived feature follows"),
        ("a", {"role": "immutable"}, "not be an effect of what moves: acting on"),
        ("a", {"direction": "up"}, "'direction' must be any: a derived feature"),
        ("a", {"kind": "nominal", "levels": ("x", "y")}, "'formula' must be absent for kind"),
    ],
)
def test_formulas_that_contradict_something(
    formula: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        derived(formula, **settings)


def test_formulas_keep_the_graph_without_cycles() -> None:
    x, y = Feature("x", formula="y + a"), Feature("y", formula="a - b")
    a, b = Feature("a"), Feature("b")
    assert list(problem(x, y, a, b).formulas) == ["y", "x"]
    with pytest.raises(SchemaError, match=r"Feature 'y': .*that is a cycle; got 'b'"):
        problem(y, a, b, edges=[("y", "b")])
    with pytest.raises(SchemaError, match=r"Feature 'y': .*that is a cycle; got 'x'"):
        problem(x, Feature("y", formula="x * 2"), a, b)
    with pytest.raises(GraphError, match=r"'derived feature x' must have no cause but"):
        problem(x, y, a, b, edges=[("b", "x")])


def test_an_immutable_derived_feature_of_what_never_moves() -> None:
    age = Feature("age", role="immutable")
    old = Feature("old", "binary", role="immutable", formula="age >= 65")
    assert problem(age, old).graph.parents("old") == ("age",)


def test_missing_values_are_declared_in_the_file() -> None:
    text = SMALL.replace('role = "actionable"', 'role = "actionable"\nmissing = "impute"')
    schema = Schema.from_toml(text)
    assert [feature.missing for feature in schema.features] == ["impute", "refuse"]
    assert Schema.from_toml(schema.to_toml()) == schema
    assert "missing" not in Schema.from_toml(SMALL).to_toml()


def test_moves_and_their_costs() -> None:
    free, none = Feature("job", **MOVED), math.inf
    assert [list(row) for row in free.move_costs] == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    listed: Any = [("a", "c"), ["c", "b", 0.5]]
    few = Feature("job", **MOVED, moves=listed)
    assert few.moves == (("a", "c"), ("c", "b", 0.5))
    costs = [[0, none, 1], [none, 0, none], [none, 0.5, 0]]
    assert [list(row) for row in few.move_costs] == costs


def test_switches_are_set_level_by_level() -> None:
    features = (
        Feature("job", **MOVED),
        Feature("origin", "nominal", levels=("here", "there")),
        Feature("member", "binary", role="actionable"),
        Feature("plan", "binary", role="actionable", moves=((0, 1),)),
        Feature("income", role="actionable"),
    )
    schema = problem(*features)
    assert [f.name for f in schema.switches] == ["job", "plan"]
    assert [f.is_switch for f in features] == [True, False, False, True, False]


def test_moves_in_a_problem_file() -> None:
    schema = Schema.from_toml("""
        [graph]
        [features.school]
        kind = "ordinal"
        levels = [1, 2, 3]
        role = "actionable"
        moves = [[1, 2], [1, 3, 2.5]]
        """)
    assert schema["school"].moves == ((1, 2), (1, 3, 2.5))
    assert Schema.from_toml(schema.to_toml()) == schema
    assert schema.to_dict()["features"]["school"]["moves"] == [[1, 2], [1, 3, 2.5]]
