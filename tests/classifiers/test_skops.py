"""Estimators from skops files: no code runs that is not trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skops import io as skops_io

from carma import from_skops
from carma.benchmarks import Benchmark, load
from carma.errors import ClassifierError, FileError


@pytest.fixture(scope="module")
def data() -> Benchmark:
    return load("chain-lin", rows=200)


# skops does not vouch for trees: their arrays are read unchecked.
TREES = ("sklearn.tree._tree.Tree",)


def shifted(table: object) -> object:
    return table


def test_a_forest_and_a_pipeline_come_back(data: Benchmark, tmp_path: Path) -> None:
    rows = data.frame("classifier")
    x, y = rows[list(data.schema.names)], rows["label"]
    forest = RandomForestClassifier(n_estimators=5, random_state=0)
    for estimator in (forest, make_pipeline(StandardScaler(), LogisticRegression())):
        path = tmp_path / "model.skops"
        skops_io.dump(estimator.fit(x, y), path)
        classifier = from_skops(path, data.schema, rows=rows, trusted=TREES)
        assert classifier.has_slope == (estimator is not forest)
        ours = classifier.probability(data.encoded("classifier")).numpy()
        np.testing.assert_allclose(ours, estimator.predict_proba(x)[:, 1], atol=2e-6)


def test_types_that_are_not_trusted_are_named(data: Benchmark, tmp_path: Path) -> None:
    rows = data.frame("classifier")
    x, y = rows[list(data.schema.names)], rows["label"]
    path = tmp_path / "own.skops"
    estimator = make_pipeline(FunctionTransformer(shifted), LogisticRegression()).fit(x, y)
    skops_io.dump(estimator, path)
    with pytest.raises(FileError, match=r"name as trusted; it holds \['.*shifted'\]"):
        from_skops(path, data.schema)


def test_what_is_no_skops_file_is_refused(data: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "text.skops").write_text("hello")
    for name in ("absent.skops", "text.skops"):
        with pytest.raises(FileError, match="be a skops file"):
            from_skops(tmp_path / name, data.schema)
    skops_io.dump(StandardScaler(), tmp_path / "scaler.skops")
    with pytest.raises(ClassifierError, match="have predict_proba"):
        from_skops(tmp_path / "scaler.skops", data.schema)
