"""Tables to tensors and back, and everything a table can have wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from carma.errors import SchemaError, TableError
from carma.graph import CausalGraph
from carma.schema import Feature, Missing, Schema
from carma.table import Encoding, Statistics, labels, to_pandas

Tables = Callable[[Schema], SearchStrategy[pd.DataFrame]]

FEATURES = (
    Feature("job", "nominal", levels=("clerk", "cook", "smith")),
    Feature("member", "binary", levels=("no", "yes")),
    Feature("grade", "ordinal", levels=(1, 2.5, 10)),
    Feature("age", "integer", bounds=(18, 99)),
    Feature("income", bounds=(-10.0, 1000.0)),
)
SCHEMA = Schema(
    FEATURES,
    CausalGraph.from_edges(
        [("job", "income"), ("member", "grade")], [feature.name for feature in FEATURES]
    ),
    outcome="paid",
    favourable="yes",
    ignore=("id",),
)


@pytest.fixture
def people() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [7, 8, 9],
            "income": [12.5, -10.0, 1000.0],
            "age": [18, 40, 99],
            "grade": [2.5, 1, 10],
            "member": ["yes", "no", "yes"],
            "job": ["cook", "smith", "clerk"],
            "paid": ["yes", "no", "no"],
        },
        index=["ann", "bob", "cy"],
    )


def same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Equal names, labels and values, 1 and "1" told apart."""
    columns = list(one.columns) == list(other.columns)
    index = one.index.tolist() == other.index.tolist()
    return columns and index and all(one[c].tolist() == other[c].tolist() for c in one)


def test_model_space(people: pd.DataFrame) -> None:
    encoding = Encoding(SCHEMA)
    assert encoding.columns == (
        "job=clerk",
        "job=cook",
        "job=smith",
        "member",
        "grade",
        "age",
        "income",
    )
    assert encoding.encode(people).tolist() == [
        [0, 1, 0, 1, 2.5, 18, 12.5],
        [0, 0, 1, 0, 1, 40, -10],
        [1, 0, 0, 1, 10, 99, 1000],
    ]
    assert encoding.block("job") == slice(0, 3)
    assert [encoding.column(f.name) for f in FEATURES] == [0, 3, 4, 5, 6]
    with pytest.raises(SchemaError, match=r"be one of job, member, .*; got 'savings'"):
        encoding.column("savings")


@given(st.data())
def test_encode_and_decode_are_inverse(
    schemas: SearchStrategy[Schema], tables: Tables, data: st.DataObject
) -> None:
    schema = data.draw(schemas)
    table = data.draw(tables(schema))
    encoding = Encoding(schema)
    x = encoding.encode(table)
    assert x.shape == (len(table), encoding.n_columns)
    assert (x.dtype, x.is_contiguous()) == (torch.float64, True)
    again = encoding.decode(x, table.index)
    assert same(again, table)
    assert torch.equal(encoding.encode(again), x)


@given(st.data())
def test_each_row_is_encoded_by_itself(
    schemas: SearchStrategy[Schema], tables: Tables, data: st.DataObject
) -> None:
    schema = data.draw(schemas)
    table = data.draw(tables(schema))
    encoding = Encoding(schema)
    order = data.draw(st.permutations(range(len(table))))
    columns = data.draw(st.permutations(list(table.columns)))
    x = encoding.encode(table)
    assert torch.equal(encoding.encode(table.iloc[order][columns]), x[order])
    assert torch.equal(encoding.encode(table.iloc[[0]]), x[:1])


@given(st.data())
def test_polars_gives_the_same_tensor(
    schemas: SearchStrategy[Schema], tables: Tables, data: st.DataObject
) -> None:
    schema = data.draw(schemas)
    table = data.draw(tables(schema))
    encoding = Encoding(schema)
    assume(not any("\0" in name for name in schema.names))
    theirs = pl.DataFrame({column: table[column].tolist() for column in table})
    assert torch.equal(encoding.encode(theirs), encoding.encode(table))


@given(st.data())
def test_graphs_over_columns_follow_their_features(
    schemas: SearchStrategy[Schema], data: st.DataObject
) -> None:
    schema = data.draw(schemas)
    encoding = Encoding(schema)
    graph, owners = schema.graph, encoding.owners
    assert len(owners) == len(encoding.columns) == encoding.n_columns
    for i in range(encoding.n_columns):
        for j in range(encoding.n_columns):
            effect, cause = owners[i], owners[j]
            acts = effect != cause and bool(graph.adjacency[effect, cause])
            assert bool(encoding.adjacency[i, j]) == (acts or i == j)
            assert bool(encoding.reachability[i, j]) == bool(graph.reachability[effect, cause])
    numbers = [n for n in schema.actionable if not schema[n].is_switch]
    assert encoding.actionable.tolist() == [encoding.column(n) for n in numbers]
    assert encoding.actions.tolist() == [encoding.column(n) for n in schema.actionable]
    switches = {i for i in range(encoding.n_columns) if schema.features[owners[i]].is_switch}
    assert set(encoding.moved_by_level.nonzero().flatten().tolist()) == switches


def test_every_dtype_that_holds_the_values_is_welcome(people: pd.DataFrame) -> None:
    encoding = Encoding(SCHEMA)
    x = encoding.encode(people)
    dtypes: list[tuple[str, Any]] = [
        ("age", "Int64"),
        ("age", "float32"),
        ("age", "uint8"),
        ("age", object),
        ("income", "Float64"),
        ("income", object),
        ("job", "category"),
        ("grade", "category"),
        ("age", "category"),
        ("member", "string"),
    ]
    for column, dtype in dtypes:
        assert torch.equal(encoding.encode(people.astype({column: dtype})), x)
    decimals: Any = [Decimal("12.5"), Decimal(-10), Decimal(1000)]
    assert torch.equal(encoding.encode(people.assign(income=decimals)), x)


def test_booleans_fit_levels_0_and_1() -> None:
    schema = Schema((Feature("member", "binary"),), CausalGraph(("member",)))
    frame = pd.DataFrame({"member": [True, False]})
    assert Encoding(schema).encode(frame).tolist() == [[1.0], [0.0]]


def test_levels_of_several_types_keep_them() -> None:
    levels = (1, "1", 2.5, "a much longer one")
    schema = Schema((Feature("code", "nominal", levels=levels),), CausalGraph(("code",)))
    table = pd.DataFrame({"code": pd.Series(levels, dtype=object)})
    encoding = Encoding(schema)
    assert encoding.decode(encoding.encode(table))["code"].tolist() == list(levels)


def break_column(name: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Put a value into the second row."""

    def breaking(table: pd.DataFrame) -> pd.DataFrame:
        values = table[name].tolist()
        values[1] = value
        return table.assign(**{name: pd.Series(values, index=table.index, dtype=object)})

    return breaking


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda t: t.drop(columns=["age", "job"]), r"'columns'.*missing; got \['job', 'age'\]"),
        (lambda t: t.assign(extra=1), r"'columns'.*listed under 'ignore'.*; got \['extra'\]"),
        (lambda t: pd.concat([t, t[["age"]]], axis=1), r"'columns'.*different.*; got \['age'\]"),
        (lambda t: t.iloc[:0], "'rows' must be at least one; got 0"),
        (lambda t: t.set_axis(["ann", "bob", "ann"]), "'index'.*different labels; got 'ann'"),
        (break_column("age", None), "column age, row 'bob'.*not be missing .*'impute'.*'pass'"),
        (break_column("age", math.nan), "column age, row 'bob'.*not be missing .*; got nan"),
        (break_column("income", pd.NA), "column income, row 'bob'.*not be missing"),
        (lambda t: t.assign(age=None), "'column age' must not be missing in every row .*read"),
        (lambda t: t.assign(job=np.nan), "'column job' must not be missing in every row"),
        (break_column("income", math.inf), "column income, row 'bob'.*finite number.*; got inf"),
        (break_column("income", -math.inf), "row 'bob'.*finite number.*; got -inf"),
        (break_column("income", 1000.1), "row 'bob'.*bounds -10.0 to 1000.0; got 1000.1"),
        (break_column("income", -10.1), "column income, row 'bob'.*bounds.*; got -10.1"),
        (break_column("age", 17), "column age, row 'bob'.*bounds 18 to 99; got 17"),
        (break_column("age", 30.5), "column age, row 'bob'.*whole number; got 30.5"),
        (
            break_column("age", "30"),
            r"row 'bob'.*\(kind integer\), as in other rows, not text .*to_numeric\); got '30'",
        ),
        (break_column("age", "abc"), "as in other rows, not text; got 'abc'"),
        (break_column("income", "1,234"), "not text .*'thousands'.*; got '1,234'"),
        (break_column("income", " 12 345.60 "), "not text .*'thousands'"),
        (break_column("income", "12,5"), "not text .*'decimal'.*; got '12,5'"),
        (break_column("income", "n/a"), "not text .*stands for a gap.*; got 'n/a'"),
        (break_column("age", True), r"row 'bob'.*as in other rows, not a boolean .*; got True"),
        (break_column("income", date(2020, 1, 1)), "column income, row 'bob'.*not a date .*days"),
        (break_column("income", datetime(2020, 1, 1)), "row 'bob'.*not a date .*days"),
        (break_column("income", timedelta(2)), "row 'bob'.*not a duration .*days"),
        (break_column("income", [1.0]), "column income, row 'bob'.*not list"),
        (break_column("income", 1j), "column income, row 'bob'.*not complex"),
        (break_column("member", None), "column member, row 'bob'.* must not be missing"),
        (break_column("member", "maybe"), r"row 'bob'.*levels \(no, yes\); got 'maybe'"),
        (break_column("member", 1), r"column member, row 'bob'.*levels \(no, yes\); got 1"),
        (break_column("member", True), r"row 'bob'.*levels \(no, yes\); got True"),
        (
            break_column("job", "Cook"),
            r"row 'bob'.*levels \(clerk, cook, smith\); the closest is 'cook'; got 'Cook'",
        ),
        (break_column("job", "clark"), "the closest is 'clerk'; got 'clark'"),
        (break_column("job", "pilot"), r"levels \(clerk, cook, smith\); got 'pilot'"),
        (break_column("job", "?"), r"levels \(clerk, cook, smith\) .*stands for a gap.*; got '\?'"),
        (break_column("job", ["cook"]), "column job, row 'bob'.*be text, a number or a boolean"),
        (break_column("grade", 2), r"column grade, row 'bob'.*levels \(1, 2.5, 10\); got 2"),
        (break_column("grade", "1"), "row 'bob'.*; this is text, the level is not .*; got '1'"),
        (break_column("grade", "2.50"), "row 'bob'.*; this is text, the level is not"),
    ],
)
def test_bad_tables(
    people: pd.DataFrame, breaking: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(TableError, match=message):
        Encoding(SCHEMA).encode(breaking(people))


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([True, False, True], "a boolean"),
        (pd.array([True, None, False], dtype="boolean"), "a boolean"),
        (pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]), "a date"),
        (pd.to_timedelta([1, 2, 3], unit="s"), "a duration"),
        (np.array([1j, 2, 3]), "complex"),
        (["1", "2", "3"], "text"),
    ],
)
def test_whole_columns_of_the_wrong_type(people: pd.DataFrame, values: Any, shown: str) -> None:
    people["income"] = values
    with pytest.raises(TableError, match=f"column income, row 'ann'.*not {shown}"):
        Encoding(SCHEMA).encode(people)


def test_bad_rows_are_counted_and_labelled_plainly(people: pd.DataFrame) -> None:
    table = people.assign(age=[1, 2, 3]).set_axis(np.array([5, 6, 7]))
    with pytest.raises(TableError, match=r"row 5' .*99 \(and 2 more rows\); got 1$"):
        Encoding(SCHEMA).encode(table)


@pytest.mark.parametrize("frame", [[1, 2], {"a": [1]}, None, pl.LazyFrame({"a": [1]})])
def test_what_is_no_table(frame: Any) -> None:
    with pytest.raises(TableError, match="be a pandas or polars DataFrame"):
        to_pandas(frame)


def test_pandas_tables_pass_unchanged(people: pd.DataFrame) -> None:
    assert to_pandas(people) is people


@given(st.data())
def test_snap_finds_the_nearest_level(schemas: SearchStrategy[Schema], data: st.DataObject) -> None:
    encoding = Encoding(data.draw(schemas))
    numbers = st.lists(st.floats(-2000, 2000), min_size=encoding.n_columns)
    row = data.draw(numbers)[: encoding.n_columns]
    x = torch.tensor([row, row[::-1]], dtype=torch.float64)
    snapped = encoding.snap(x)
    assert torch.equal(encoding.snap(snapped), snapped)
    for feature in encoding.schema.features:
        where = encoding.block(feature.name)
        for before, after in zip(x[:, where].tolist(), snapped[:, where].tolist(), strict=True):
            if feature.kind == "continuous":
                assert after == before
            elif feature.kind == "integer":
                assert after[0] == round(before[0])
            elif feature.kind == "nominal":
                assert sorted(after) == [0.0] * (len(after) - 1) + [1.0]
                assert before[after.index(1.0)] == max(before)
            else:
                distance = [abs(before[0] - code) for code in feature.codes]
                assert after[0] in feature.codes
                assert abs(before[0] - after[0]) == min(distance)


@given(st.data())
def test_snap_lets_gradients_through_and_changes_no_value(
    schemas: SearchStrategy[Schema], data: st.DataObject
) -> None:
    encoding = Encoding(data.draw(schemas))
    numbers = st.lists(st.floats(-2000, 2000), min_size=encoding.n_columns)
    row = data.draw(numbers)[: encoding.n_columns]
    x = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    snapped = encoding.snap(x)
    slopes = torch.arange(1.0, encoding.n_columns + 1, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((snapped * slopes).sum(), x)
    assert torch.equal(snapped.detach(), encoding.snap(x.detach()))
    assert torch.equal(gradient[0], slopes)


def test_snap_leaves_the_columns_alone_that_it_is_not_asked_for() -> None:
    names = ("age", "degree", "size", "job")
    features = (
        Feature("age", "integer"),
        Feature("degree", "binary"),
        Feature("size", "ordinal", levels=(1, 5, 9, 20)),
        Feature("job", "nominal", levels=("clerk", "cook")),
    )
    encoding = Encoding(Schema(features, CausalGraph(names)))
    x = torch.tensor([[1.4, 0.3, 6.0, 0.2, 0.7], [2.6, 0.8, 16.0, 0.9, 0.1]]).double()
    exact = encoding.snap(x)
    for asked in ([0], [1], [2], [3], [0, 2, 4], []):
        among = [column in asked for column in range(5)]
        # All columns of a nominal feature go with any of them.
        moved = torch.tensor([*among[:3], any(among[3:]), any(among[3:])])
        assert torch.equal(encoding.snap(x, among), torch.where(moved, exact, x))


def test_decode_snaps(people: pd.DataFrame) -> None:
    encoding = Encoding(SCHEMA)
    x = encoding.encode(people)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 0.4
    noise[:, -1] = 0
    assert same(encoding.decode(x + noise, people.index), encoding.decode(x, people.index))
    assert encoding.decode(x.float()).index.tolist() == [0, 1, 2]


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), min_size=2, max_size=9))
def test_statistics_are_those_of_numpy(rows: list[list[float]]) -> None:
    found = Statistics.of(torch.tensor(rows, dtype=torch.float64))
    table = np.array(rows)
    varies = table.min(0) != table.max(0)
    np.testing.assert_allclose(found.mean, table.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, np.where(varies, table.std(0), 1), atol=1e-10)
    np.testing.assert_array_equal(found.minimum, table.min(0))
    np.testing.assert_array_equal(found.maximum, table.max(0))
    assert {n: v.shape for n, v in found.as_tensors().items()} == dict.fromkeys(
        ("mean", "std", "minimum", "maximum"), torch.Size([2])
    )


def test_statistics_need_two_rows_that_differ(people: pd.DataFrame) -> None:
    encoding = Encoding(SCHEMA)
    x = encoding.encode(people)
    Statistics.of(x[:2][:, [0, 1]])
    for n in (0, 1):
        with pytest.raises(TableError, match=f"'rows' must be at least two; got {n}"):
            Statistics.of(x[:n])
    same_for_all: dict[str, Any] = {"age": 40, "job": "cook", "member": "no"}
    for name, value in same_for_all.items():
        constant = encoding.encode(people.assign(**{name: value}))
        with pytest.raises(TableError, match=f"'column {name}' must vary"):
            Statistics.of(constant, encoding)


def test_a_level_that_nobody_has_is_no_constant_feature(people: pd.DataFrame) -> None:
    encoding = Encoding(SCHEMA)
    x = encoding.encode(people.iloc[:2])
    assert Statistics.of(x, encoding).std[0] == 1.0


def test_labels(people: pd.DataFrame) -> None:
    assert labels(SCHEMA, people).tolist() == [True, False, False]
    assert labels(SCHEMA, pl.from_pandas(people)).tolist() == [True, False, False]
    bare = Schema((Feature("age"),), CausalGraph(("age",)))
    with pytest.raises(SchemaError, match="'outcome' must name the outcome column"):
        labels(bare, people)
    with pytest.raises(TableError, match="include the outcome; got 'paid'"):
        labels(SCHEMA, people.drop(columns="paid"))
    with pytest.raises(TableError, match="'column paid' must have no gaps; first at row 'bob'"):
        labels(SCHEMA, break_column("paid", None)(people))
    for value in ("yes", "no"):
        with pytest.raises(TableError, match=rf"favourable value 'yes' and .*\['{value}'\]"):
            labels(SCHEMA, people.assign(paid=value))


@pytest.mark.parametrize(
    ("values", "favourable"),
    [([1, 0], True), ([True, False], 1), ([1.0, 0.0], 1), (["1", "0"], "1")],
)
def test_labels_compare_by_value(values: list[Any], favourable: Any) -> None:
    graph = CausalGraph(("age",))
    schema = Schema((Feature("age"),), graph, outcome="paid", favourable=favourable)
    assert labels(schema, pd.DataFrame({"paid": values})).tolist() == [True, False]


LOAN = (
    Feature("rate", formula="amount / duration", step=0.01, bounds=(0, 50)),
    Feature("amount"),
    Feature("duration", "integer"),
    Feature("years", "integer", formula="duration / 12"),
    Feature("grade", "ordinal", levels=("low", "mid", "high"), formula="bin(amount, 10, 100)"),
    Feature("is_long", "binary", levels=("no", "yes"), formula="years > 1 and grade < 2"),
)
DERIVED = Encoding(Schema(LOAN, CausalGraph(tuple(f.name for f in LOAN))))


@pytest.fixture
def loans() -> pd.DataFrame:
    content = {"amount": [100.0, 10.0, 9.0], "duration": [36, 7, 24]}
    return pd.DataFrame(content, index=["ann", "bob", "cy"])


def test_derived_columns_are_computed_where_a_table_lacks_them(loans: pd.DataFrame) -> None:
    x = DERIVED.encode(loans)
    whole = DERIVED.decode(x, loans.index)
    assert whole["rate"].tolist() == [100 / 36, 10 / 7, 9 / 24]
    assert whole["years"].tolist() == [3, 1, 2]
    assert whole["grade"].tolist() == ["high", "mid", "low"]
    assert whole["is_long"].tolist() == ["no", "no", "yes"]
    assert torch.equal(DERIVED.encode(whole), x)
    assert torch.equal(DERIVED.encode(pl.from_pandas(whole)), x)
    assert torch.equal(DERIVED.derive(torch.where(DERIVED.is_derived, torch.nan, x)), x)
    assert torch.equal(DERIVED.derive(x.expand(2, 3, 6)), x.expand(2, 3, 6))
    some = DERIVED.completed(whole.drop(columns=["rate", "grade"]).assign(years=[3, 1, 2]))
    assert same(some[list(whole)], whole)
    assert DERIVED.completed(whole) is whole


def test_without_derived_features_nothing_is_computed(people: pd.DataFrame) -> None:
    encoding = Encoding(SCHEMA)
    x = encoding.encode(people)
    assert encoding.derive(x) is x
    assert not encoding.is_derived.any()


def test_derived_columns_may_be_rounded_to_their_step(loans: pd.DataFrame) -> None:
    x = DERIVED.encode(loans)
    for rate in ([2.78, 1.43, 0.37], [100 / 36 * (1 + 1e-7), 10 / 7, 0.375]):
        assert torch.equal(DERIVED.encode(loans.assign(rate=rate)), x)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("rate", [2.79, 1.43, 0.37], r"column rate, row 'ann'.* be 2\.777\d* by its .*got 2\.79$"),
        ("rate", [2.78, 1.43, 0.39], r"column rate, row 'cy'.* must be 0\.375 by .*got 0\.39$"),
        ("years", [3, 2, 2], r"column years, row 'bob'.* must be 1 by its formula .*got 2$"),
        ("grade", ["high", "mid", "mid"], r"row 'cy'.* must be low by its formula .*got 'mid'$"),
        ("is_long", ["yes", "no", "yes"], r"row 'ann'.* must be no by .*got 'yes'$"),
        ("rate", [2.78, None, 0.37], r"column rate, row 'bob'.* missing"),
        ("duration", [36, 0, 24], r"rate, row 'bob'.* finite number by its formula amount / dur"),
        ("duration", [36, 7, -24], "column rate, row 'cy'.* within its bounds 0 to 50 by its"),
        ("duration", [1, 7, 24], r"column rate, row 'ann'.* within its bounds .*got 100\.0"),
    ],
)
def test_derived_columns_that_disagree(
    loans: pd.DataFrame, column: str, values: list[Any], message: str
) -> None:
    with pytest.raises(TableError, match=message):
        DERIVED.encode(loans.assign(**{column: values}))


def test_a_formula_has_to_give_levels_that_exist() -> None:
    features = (Feature("a"), Feature("b", "ordinal", levels=(1, 5), formula="2 * a + 1"))
    encoding = Encoding(Schema(features, CausalGraph(("a", "b"))))
    assert encoding.encode(pd.DataFrame({"a": [0.0, 2.0]})).tolist() == [[0, 1], [2, 5]]
    with pytest.raises(TableError, match=r"row 1.* the code of a level \(1, 5\) by .*got 3\.0"):
        encoding.encode(pd.DataFrame({"a": [0.0, 1.0]}))


def test_slopes_pass_through_rounding_of_derived_columns() -> None:
    x = torch.tensor([[0.0, 100.0, 30.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    found = DERIVED.derive(x)
    assert found[0, 3] == 2
    (slopes,) = torch.autograd.grad(found[0, 3] + found[0, 0], x)
    expected = torch.zeros(1, 6, dtype=torch.float64)
    expected[0, 1], expected[0, 2] = 1 / 30, 1 / 12 - 100 / 30**2
    torch.testing.assert_close(slopes, expected)


DECLARED: tuple[Missing, ...] = ("impute", "pass", "impute", "pass", "impute")
OPEN = Schema(
    tuple(replace(f, missing=m) for f, m in zip(FEATURES, DECLARED, strict=True)),
    SCHEMA.graph,
    ignore=("id", "paid"),
)
GAPS: list[Any] = [None, math.nan, pd.NA, pd.NaT, Decimal("NaN")]


@pytest.mark.parametrize("gap", GAPS, ids=repr)
@pytest.mark.parametrize("name", SCHEMA.names)
def test_gaps_are_nan_in_all_columns(people: pd.DataFrame, name: str, gap: Any) -> None:
    encoding = Encoding(OPEN)
    whole, x = encoding.encode(people), encoding.encode(break_column(name, gap)(people))
    where = torch.zeros(x.shape, dtype=torch.bool)
    where[1, encoding.block(name)] = True
    assert torch.equal(x.isnan(), where)
    assert torch.equal(x[~where], whole[~where])
    assert torch.equal(encoding.passed(x), where & (OPEN[name].missing == "pass"))


@given(st.data())
def test_gaps_come_back(
    schemas: SearchStrategy[Schema], tables: Tables, data: st.DataObject
) -> None:
    schema = data.draw(schemas)
    schema = replace(schema, features=tuple(replace(f, missing="impute") for f in schema.features))
    table = data.draw(tables(schema))
    encoding = Encoding(schema)
    x = encoding.encode(table)
    holes = st.lists(st.booleans(), min_size=table.size, max_size=table.size)
    is_gap = np.array(data.draw(holes)).reshape(table.shape)
    assume(not is_gap.all(axis=1).any())
    open_table = table.astype(object).mask(is_gap)
    found = encoding.encode(open_table)
    is_open = torch.from_numpy(is_gap[:, list(encoding.owners)])
    assert torch.equal(found.nan_to_num(7.5), torch.where(is_open, 7.5, x))
    again = encoding.decode(found, table.index)
    assert again.isna().to_numpy().tolist() == is_gap.tolist()
    assert torch.equal(encoding.encode(again).nan_to_num(7.5), found.nan_to_num(7.5))
    assert torch.equal(encoding.encode(open_table.iloc[[-1]]).isnan(), is_open[-1:])


@pytest.mark.parametrize("name", SCHEMA.names)
def test_one_person_may_have_a_gap(people: pd.DataFrame, name: str) -> None:
    encoding = Encoding(OPEN)
    for empty in (people.iloc[[0]].assign(**{name: None}), people.assign(**{name: np.nan})):
        x = encoding.encode(empty)
        assert bool(x[:, encoding.block(name)].isnan().all())
        again = encoding.encode(encoding.decode(x, empty.index))
        assert torch.equal(again.nan_to_num(-1), x.nan_to_num(-1))


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "float32", object, "category"])
def test_every_dtype_holds_gaps(people: pd.DataFrame, dtype: Any) -> None:
    table = people.assign(age=pd.Series([18, None, 99], people.index).astype(dtype))
    assert Encoding(OPEN).encode(table)[:, 5].nan_to_num(-1).tolist() == [18, -1, 99]


def test_gaps_excuse_no_other_value(people: pd.DataFrame) -> None:
    encoding = Encoding(OPEN)
    table = people.astype(object)
    table.loc["ann", :] = [7, None, None, None, None, "cook", "yes"]
    encoding.encode(table)
    wrong = {"income": math.inf, "age": 17, "grade": 3, "member": "maybe", "job": "pilot"}
    for name, value in wrong.items():
        with pytest.raises(TableError, match=f"column {name}, row 'bob'"):
            encoding.encode(break_column(name, value)(table))


def test_a_row_without_any_value_is_refused(people: pd.DataFrame) -> None:
    table = people.astype(object)
    table.loc[["bob", "cy"], list(SCHEMA.names)] = None
    with pytest.raises(TableError, match=r"row 'bob'.* must hold a value .*\(and 1 more rows\)"):
        Encoding(OPEN).encode(table)


def test_decoded_gaps_are_what_pandas_reads(people: pd.DataFrame) -> None:
    encoding = Encoding(OPEN)
    table = people[list(SCHEMA.names)].astype(object)
    for i in range(len(FEATURES)):
        table.iloc[i % 3, i] = None
    frame = encoding.decode(encoding.encode(table), table.index)
    assert [frame[name].dtype.kind for name in ("grade", "age", "income")] == ["f"] * 3
    assert frame.isna().equals(table.isna())
    assert frame.isna().to_numpy().sum() == 5
    text = StringIO(frame.to_csv())
    read = pd.read_csv(text, index_col=0)
    for name in SCHEMA.names:
        assert all(
            a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a + b))
            for a, b in zip(frame[name], read[name], strict=True)
        ), name
    x = encoding.encode(table)
    assert torch.equal(encoding.encode(read).nan_to_num(-1), x.nan_to_num(-1))
    assert encoding.decode(encoding.encode(people))["age"].dtype == np.int64


def test_booleans_with_gaps_stay_booleans() -> None:
    feature = Feature("member", "binary", levels=(False, True), missing="pass")
    encoding = Encoding(Schema((feature, Feature("age")), CausalGraph(("member", "age"))))
    x = torch.tensor([[1.0, 3.0], [math.nan, 4.0]], dtype=torch.float64)
    first, second = encoding.decode(x)["member"].tolist()
    assert first is True
    assert math.isnan(second)


def test_snap_leaves_gaps(people: pd.DataFrame) -> None:
    encoding = Encoding(OPEN)
    x = encoding.encode(people) + 0.2
    for name in SCHEMA.names:
        gaps = x.clone()
        gaps[1, encoding.block(name)] = math.nan
        expected = encoding.snap(x)
        expected[1, encoding.block(name)] = math.nan
        assert torch.equal(encoding.snap(gaps).nan_to_num(-1), expected.nan_to_num(-1))


def test_complete_rows_are_those_without_gaps(people: pd.DataFrame) -> None:
    encoding = Encoding(OPEN)
    x = encoding.encode(break_column("job", None)(people))
    assert encoding.complete(x).tolist() == [True, False, True]
    with pytest.raises(TableError, match=r"half of all 2.*column job has no value in 1.*got 1"):
        encoding.complete(x[:2])
    assert encoding.complete(x[:1]).tolist() == [True]
