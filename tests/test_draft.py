"""Drafts: what is guessed from values, what is refused, and a file that reads back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from carma.draft import draft_schema, draft_toml
from carma.errors import GraphError, SchemaError, TableError
from carma.graph import CausalGraph
from carma.schema import Feature, Schema
from carma.table import Encoding

Tables = Callable[[Schema], SearchStrategy[pd.DataFrame]]

N = 12


@pytest.fixture
def people() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(N)],
            "age": [20 + i for i in range(N)],
            "job": ["cook", "smith", "clerk"] * 4,
            "income": [100.5 * i for i in range(N)],
            "member": [0, 1] * 6,
            "country": ["NL"] * N,
            "born": pd.date_range("1990-01-01", periods=N),
            "paid": [0, 1] * 6,
        }
    )


def test_a_whole_table(people: pd.DataFrame) -> None:
    graph = CausalGraph.from_edges([("age", "income")])
    expected = Schema(
        (
            Feature("age", "integer", bounds=(20, 31), role="immutable"),
            Feature("job", "nominal", levels=("clerk", "cook", "smith")),
            Feature("income", bounds=(0.0, 1105.5), role="actionable"),
            Feature("member", "binary", levels=(0, 1)),
        ),
        CausalGraph(("age", "job", "income", "member"), (("age", "income"),)),
        outcome="paid",
        favourable=1,
        ignore=("id", "country", "born"),
    )
    options: dict[str, Any] = {
        "outcome": "paid",
        "actionable": ["income"],
        "immutable": ["age"],
        "graph": graph,
    }
    assert draft_schema(people, **options) == expected
    assert draft_schema(pl.from_pandas(people), **options) == expected
    Encoding(expected).encode(people)
    assert draft_schema(people, outcome="paid").graph.edges == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1] * 6, Feature("a", "binary", levels=(1, 3))),
        ([3.5, 1.0] * 6, Feature("a", "binary", levels=(1.0, 3.5))),
        ([1.0, 0.0] * 6, Feature("a", "binary", levels=(0, 1))),
        ([True, False] * 6, Feature("a", "binary", levels=(False, True))),
        (["yes", "no"] * 6, Feature("a", "binary", levels=("no", "yes"))),
        ([2.0, None] * 3 + [1.0, None] * 3, Feature("a", "binary", levels=(1, 2))),
        ([True, None, False] * 4, Feature("a", "binary", levels=(False, True))),
        (["yes", None, "no"] * 4, Feature("a", "binary", levels=("no", "yes"))),
        (list(range(N)), Feature("a", "integer", bounds=(0, N - 1))),
        ([1, 2, 3, None] * 3, Feature("a", "integer", bounds=(1, 3))),
        (pd.array([1, 2, 3, None] * 3, dtype="Int64"), Feature("a", "integer", bounds=(1, 3))),
        (pd.Series([1, 2, 3] * 4, dtype=object), Feature("a", "integer", bounds=(1, 3))),
        (np.array([1, 2, 3] * 4, dtype=np.uint8), Feature("a", "integer", bounds=(1, 3))),
        ([1.0, 2.0, 3.0] * 4, Feature("a", bounds=(1.0, 3.0))),
        ([1.5, 2.0, None] * 4, Feature("a", "binary", levels=(1.5, 2.0))),
        ([1.5, 2.0, 3.0, None] * 3, Feature("a", bounds=(1.5, 3.0))),
        ([1.5, 2.0, 3.0, np.inf] * 3, Feature("a", bounds=(1.5, 3.0))),
        ([1e300, 2.0, 3.0, None] * 3, Feature("a", bounds=(2.0, 1e300))),
        ([Decimal("1.5"), Decimal(2), Decimal(3)] * 4, Feature("a", bounds=(1.5, 3.0))),
        (["x", "y", "z"] * 4, Feature("a", "nominal", levels=("x", "y", "z"))),
        (["z", "x", "y", None] * 3, Feature("a", "nominal", levels=("x", "y", "z"))),
        (pd.Categorical(["z", "x", "y"] * 4), Feature("a", "nominal", levels=("x", "y", "z"))),
        (pd.Categorical([3, 1, 2] * 4), Feature("a", "integer", bounds=(1, 3))),
        (["x", 1, 2.5] * 4, Feature("a", "nominal", levels=(2.5, 1, "x"))),
    ],
)
def test_kinds(values: Any, expected: Feature) -> None:
    found = draft_schema(pd.DataFrame({"a": values}))["a"]
    assert found == expected
    assert [type(v) for v in found.levels] == [type(v) for v in expected.levels]
    assert [type(v) for v in found.bounds or ()] == [type(v) for v in expected.bounds or ()]


@pytest.mark.parametrize(
    "values",
    [
        ["same"] * N,
        [7] * N,
        [None] * N,
        [np.nan, np.inf] * 6,
        [1.5, None] * 6,
        [f"p{i}" for i in range(N)],
        ["a", "b", "c", "d", "e", "f"] * 2,
        pd.date_range("2020-01-01", periods=N),
        pd.date_range("2020-01-01", periods=N, tz="UTC"),
        pd.to_timedelta(range(N), unit="s"),
        [date(2020, 1, 1 + i) for i in range(N)],
        [date(2020, 1, 1), None, date(2020, 1, 2)] * 4,
        [[i] for i in range(N)],
        [b"x", b"y"] * 6,
        [1j, 2j] * 6,
    ],
)
def test_what_is_ignored(values: Any) -> None:
    table = pd.DataFrame({"x": values, "a": range(N)})
    assert draft_schema(table).ignore == ("x",)
    with pytest.raises(TableError, match=r"'columns' must hold a feature.*; got \['x'\]"):
        draft_schema(table[["x"]])
    with pytest.raises(SchemaError, match=r"'actionable' must only name features \(a\)"):
        draft_schema(table, actionable=["x"])


def test_text_needs_few_values_in_number_and_in_share() -> None:
    for n_levels, n_rows, kept in [(50, 101, True), (50, 100, False), (51, 1000, False)]:
        values = [f"level {i % n_levels}" for i in range(n_rows)]
        names = draft_schema(pd.DataFrame({"x": values, "a": range(n_rows)})).names
        assert ("x" in names) == kept


@pytest.mark.parametrize(
    ("values", "favourable", "expected"),
    [
        ([0, 1], None, 1),
        ([0.0, 1.0], None, 1),
        ([0.0, 1.0, None], None, 1),
        ([True, False], None, True),
        ([0, 1], "0", 0),
        ([0, 1], "1", 1),
        ([0, 1], True, 1),
        ([1, 2], "2", 2),
        ([1, 2], 1, 1),
        ([0.25, 0.75], "0.75", 0.75),
        ([True, False], "false", False),
        ([True, False], "True", True),
        (["yes", "no"], "yes", "yes"),
        (["0", "1"], "1", "1"),
        (["0", "1"], 1, "1"),
        (["1", 1], "1", "1"),
        (["1", 1], 1, 1),
        (["a", "b", "c"], "b", "b"),
    ],
)
def test_favourable(values: list[Any], favourable: Any, expected: Any) -> None:
    outcome = pd.Series((values * N)[:N], dtype=None if None in values else object)
    table = pd.DataFrame({"y": outcome, "a": range(N)})
    found = draft_schema(table, outcome="y", favourable=favourable).favourable
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("values", "favourable", "message"),
    [
        (["yes", "no"], None, r"'favourable' must be chosen from .* \(no, yes\)"),
        ([1, 2], None, r"must be chosen from .* \(1, 2\)"),
        ([0, 1, 2], None, r"must be chosen from .* \(0, 1, 2\)"),
        (["0", "1"], None, r"must be chosen from .* \(0, 1\)"),
        ([1, 1], None, r"must be chosen from .* \(1\)"),
        (["yes", "no"], "Yes", r"must be one of the values .* \(no, yes\); got 'Yes'"),
        ([0, 1], 2, r"must be one of the values .* \(0, 1\); got 2"),
        (list(range(99)), None, r"\(0, 1, .*, 49, \.\.\.\)"),
    ],
)
def test_favourable_has_to_be_a_value(values: list[Any], favourable: Any, message: str) -> None:
    table = pd.DataFrame({"y": values, "a": range(len(values))})
    with pytest.raises(SchemaError, match=message):
        draft_schema(table, outcome="y", favourable=favourable)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"outcome": "x"}, SchemaError, r"'outcome' must be a column of the table \(id, age,"),
        ({"favourable": 1}, SchemaError, "given together"),
        ({"actionable": ["wage"]}, SchemaError, r"'actionable' must only .*; got \['wage'\]"),
        ({"immutable": ["id"]}, SchemaError, r"'immutable' must only .*; got \['id'\]"),
        (
            {"outcome": "paid", "actionable": ["paid"]},
            SchemaError,
            r"the outcome, dates, .* are none; got \['paid'\]",
        ),
        (
            {"actionable": ["age", "income"], "immutable": ["age"]},
            SchemaError,
            r"an actionable feature cannot be immutable; got \['age'\]",
        ),
        (
            {"graph": CausalGraph.from_edges([("age", "wage")])},
            GraphError,
            r"'graph' must only name features \(age, .*\); got \['wage'\]",
        ),
        ({"graph": CausalGraph(("age", "born"))}, GraphError, r"got \['born'\]"),
        (
            {
                "graph": CausalGraph.from_edges([("income", "age")]),
                "actionable": ["income"],
                "immutable": ["age"],
            },
            SchemaError,
            "acting on 'income' moves it",
        ),
    ],
)
def test_bad_requests(
    people: pd.DataFrame, options: dict[str, Any], error: type[SchemaError], message: str
) -> None:
    with pytest.raises(error, match=message):
        draft_schema(people, **options)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([1, 2], "be a pandas or polars DataFrame"),
        (pd.DataFrame({"a": []}), "'rows' must be at least one"),
        (pd.DataFrame([[1, 2], [3, 4]]), r"'columns' must have different.*; got \[0, 1\]"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), r"different.*; got \['a', 'a'\]"),
        (pd.DataFrame({"": [1, 2]}), r"non-empty.*; got \[''\]"),
        (pd.DataFrame({"a": [1]}), "'columns' must hold a feature"),
    ],
)
def test_bad_tables(table: Any, message: str) -> None:
    with pytest.raises(TableError, match=message):
        draft_schema(table)


@given(st.data())
def test_the_table_fits_its_own_draft(
    schemas: SearchStrategy[Schema], tables: Tables, data: st.DataObject
) -> None:
    table = data.draw(tables(data.draw(schemas)))
    try:
        draft = draft_schema(table)
    except TableError:
        assert all(table[name].nunique() < 2 or table[name].dtype == "str" for name in table)
        return
    assert {*draft.names, *draft.ignore} == set(table.columns)
    encoding = Encoding(draft)
    again = encoding.decode(encoding.encode(table), table.index)
    for name in draft.names:
        assert again[name].tolist() == table[name].tolist()
    order = data.draw(st.permutations(range(len(table))))
    assert draft_schema(table.iloc[order]) == draft
    assert Schema.from_toml(draft_toml(draft)) == draft


@given(st.data())
def test_drafted_files_read_back(schemas: SearchStrategy[Schema], data: st.DataObject) -> None:
    schema = data.draw(schemas)
    text = draft_toml(schema)
    assert Schema.from_toml(text) == schema
    assert text.endswith(schema.to_toml())


def test_the_header_explains_every_field_and_its_example_holds(tmp_path: Path) -> None:
    schema = draft_schema(pd.DataFrame({"income": [1, 2, 3], "savings": [1.5, 2.5, 3.5]}))
    header, _, _ = draft_toml(schema).partition("version = ")
    lines = [line for line in header.splitlines() if line]
    assert all(line.startswith("#") for line in lines)
    for word in (*Schema.__dataclass_fields__, *Feature.__dataclass_fields__):
        assert word in header
    example = header[header.index("#     [features.income]") :].replace("#     ", "")
    path = tmp_path / "example.toml"
    path.write_text("[graph]\n" + example, encoding="utf-8")
    assert Schema.from_toml(path)["income"].direction == "up"


def test_moments_of_a_day_are_dates_too() -> None:
    moments = [datetime(2020, 1, 1), datetime(2020, 1, 2), datetime(2020, 1, 3)] * 4
    table = pd.DataFrame({"x": pd.Series(moments, dtype=object), "a": range(N)})
    assert draft_schema(table).ignore == ("x",)
