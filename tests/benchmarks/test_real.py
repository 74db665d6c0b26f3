"""Real tables: they fit their problem files, rows are shared out, and absence is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from carma import Schema
from carma.benchmarks import REAL_NAMES, data_folder, load_real, problem_file, read_real
from carma.benchmarks.real import FILES, VARIABLE
from carma.errors import FileError, SettingsError
from carma.problem import Problem
from carma.table import Encoding

CHECKOUT = Path(__file__).parents[2]
REAL = Path(os.environ.get(VARIABLE, CHECKOUT.parent / "shared" / "data" / "real"))

needs_tables = pytest.mark.skipif(
    not (REAL / "graphs.json").exists(), reason="the real tables are not next to the checkout"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of the right shape, with gaps in Adult and two countries."""
    schema, draws = Schema.from_toml(problem_file("adult")), np.random.default_rng(0)
    columns = {
        f.name: draws.choice(list(f.levels), 40) if f.has_levels else draws.integers(20, 60, 40)
        for f in schema.features
    }
    table = pd.DataFrame(columns | {"income": draws.choice(["<=50K", ">50K"], 40)})
    table["workclass"] = table["workclass"].astype(object)
    table.loc[3, "workclass"] = None
    table["native_country"] = ["United-States", "Mexico", None, "United-States"] * 10
    table.to_csv(tmp_path / FILES["adult"], index=False)
    return tmp_path


def test_adult_keeps_its_gaps_and_has_two_countries(folder: Path) -> None:
    table = read_real("adult", folder)
    assert len(table) == 40
    countries = table.loc[[0, 1, 3], "native_country"].tolist()
    assert countries == ["United-States", "elsewhere", "United-States"]
    assert table["native_country"].isna().sum() == 10
    encoding = Encoding(Schema.from_toml(problem_file("adult")))
    gaps = encoding.encode(table).isnan()
    assert gaps[3, encoding.block("workclass")].all()
    assert gaps[:, encoding.column("native_country")].sum() == 10
    data = load_real("adult", folder)
    assert torch.isfinite(data.cost(torch.zeros(1, encoding.n_columns), ~gaps[:1], gaps[:1] * 1.0))


def test_rows_are_shared_out_once(folder: Path) -> None:
    data = load_real("adult", folder, seed=5)
    parts = {
        name: set(data.frame(*name).index)
        for name in (("classifier", "train"), ("causal", "train"), ("rival", "train"))
    }
    asked = set(data.frame("recourse", "test").index)
    assert len(asked) == 8
    assert parts["causal", "train"].isdisjoint(parts["rival", "train"])
    assert parts["causal", "train"] | parts["rival", "train"] == parts["classifier", "train"]
    assert asked.isdisjoint(parts["classifier", "train"])
    assert asked | parts["classifier", "train"] == set(data.table.index)
    with pytest.raises(SettingsError, match="'part, split' must be of classifier train"):
        data.frame("causal", "test")


def test_the_seed_decides_who_is_who(folder: Path) -> None:
    first, again, other = (load_real("adult", folder, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(first.frame("causal"), again.frame("causal"))
    assert first.order != other.order
    assert len(load_real("adult", folder, rows=20).order) == 20
    with pytest.raises(SettingsError, match="'rows' must be at least 20"):
        load_real("adult", folder, rows=5)


def test_absent_tables_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match=r"must be an existing file; got .*german_credit"):
        read_real("south_german_credit", folder)
    monkeypatch.setenv(VARIABLE, str(folder))
    assert data_folder() == folder
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(FileError, match="environment variable CARMA_DATA, that holds german"):
        data_folder()
    with pytest.raises(SettingsError, match="'name' must be one of south_german_credit"):
        read_real("titanic", folder)


@pytest.mark.parametrize("name", REAL_NAMES)
def test_each_problem_file_asks_for_a_model_of_every_kind(name: str) -> None:
    problem = Problem.from_toml(problem_file(name))
    assert problem.new_causal_model().kind == "mixed"
    assert all(f.bounds for f in problem.schema.features if not f.has_levels)


@needs_tables
@pytest.mark.parametrize("name", REAL_NAMES)
def test_every_row_fits_the_problem_file(name: str) -> None:
    data = load_real(name, REAL)
    x = data.encoding.encode(data.table)
    back = data.encoding.decode(x, data.table.index)
    for feature in data.schema.names:
        is_known = data.table[feature].notna()
        assert (back[feature] == data.table[feature])[is_known].all(), feature
        assert back[feature][~is_known].isna().all(), feature
    share = (data.table[data.schema.outcome] == data.schema.favourable).mean()
    assert {"south_german_credit": 0.700, "adult": 0.239, "taiwan_credit": 0.779}[
        name
    ] == pytest.approx(share, abs=5e-4)


@needs_tables
@pytest.mark.parametrize("name", ["south_german_credit", "adult"])
def test_the_graph_has_the_published_and_the_added_edges(name: str) -> None:
    known = json.loads((REAL / "graphs.json").read_text())[Path(FILES[name]).stem]
    schema = Schema.from_toml(problem_file(name))
    edges = {tuple(edge) for edge in known["published_edges"] + known["added_edges"]}
    assert set(schema.graph.edges) == edges
    used = {c["name"] for c in known["columns"] if c["role"] not in ("leave out", "target")}
    assert set(schema.names) == used
    for column in known["columns"]:
        if column["role"] == "immutable":
            assert schema[column["name"]].role == "immutable", column
        assert (column["role"] == "actionable") == (column["name"] in schema.actionable), column


@needs_tables
def test_the_taiwan_graph_is_the_known_one_with_earlier_months_left_out() -> None:
    known = json.loads((REAL / "graphs.json").read_text())["credit_default_taiwan"]
    schema = Schema.from_toml(problem_file("taiwan_credit"))
    edges = {tuple(e) for e in known["added_edges"] if set(e) <= set(schema.names)}
    personal, august = ("LIMIT_BAL", "AGE", "EDUCATION"), ("PAY_2", "BILL_AMT2", "PAY_AMT2")
    new = set(schema.graph.edges) - edges
    assert edges <= set(schema.graph.edges)
    assert new <= {(cause, effect) for cause in personal for effect in august}
