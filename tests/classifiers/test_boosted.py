"""Boosted trees asked without a table say the very same as with one."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import CausalGraph, Classifier, Feature, Schema, from_estimator
from carma.classifiers.boosted import Boosted
from carma.errors import ClassifierError
from carma.table import Encoding

N = 300
LIBRARIES = ("lightgbm", "xgboost")
JOBS = ("clerk", "cook", "pilot", "judge")
FEATURES = (
    Feature("job", "nominal", levels=JOBS),
    Feature("region", "nominal", levels=(30, 10, 20)),
    Feature("school", "ordinal", levels=("none", "basic", "full")),
    Feature("grade", "ordinal", levels=(1.5, 2.0, 4.0)),
    Feature("owner", "binary", levels=("yes", "no")),
    Feature("insured", "binary", levels=(False, True)),
    Feature("flag", "binary"),
    Feature("years", "integer", bounds=(0, 40)),
    Feature("children", "integer"),
    Feature("net income"),
    Feature("debt", bounds=(-5.0, 60.0)),
)


def trees(library: str, **settings: Any) -> Any:
    module: Any = pytest.importorskip(library)
    if library == "lightgbm":
        # Also trees of few rows split by categories.
        few = {"min_child_samples": 5, "min_data_per_group": 5, "cat_smooth": 1.0}
        return module.LGBMClassifier(n_estimators=15, n_jobs=1, verbose=-1, **few, **settings)
    settings = {"n_jobs": 1, "enable_categorical": True} | settings
    return module.XGBClassifier(n_estimators=15, max_depth=4, **settings)


def problem(seed: int, missing: Any) -> Schema:
    """Most of the features, in any order."""
    draws = np.random.default_rng(seed)
    some = [FEATURES[i] for i in draws.permutation(len(FEATURES))[: draws.integers(6, 12)]]
    features = tuple(replace(feature, missing=missing) for feature in some)
    graph = CausalGraph(tuple(feature.name for feature in features))
    return Schema(features, graph, outcome="paid", favourable="in time")


def people(schema: Schema, seed: int) -> pd.DataFrame:
    """Categories where levels are text or have no order; gaps where they are passed on."""
    draws = np.random.default_rng(seed)
    table = pd.DataFrame(index=pd.RangeIndex(N))
    for feature in schema.features:
        if feature.has_levels:
            levels = list(feature.levels)
            column = pd.Series(np.array(levels)[draws.integers(0, len(levels), N)])
        elif feature.kind == "integer":
            column = pd.Series(draws.integers(0, 41, N))
        else:
            column = pd.Series(draws.uniform(-5, 60, N))
        is_category = feature.kind == "nominal" or isinstance((*feature.levels, 0)[0], str)
        is_gap = draws.random(N) < 0.1
        if feature.missing == "pass" and is_gap.any():
            column = column.astype(object if is_category else float).where(~is_gap, np.nan)
        if is_category:
            # Counted in an order of its own, and next to one that nobody has.
            known = ["other"] if feature.kind == "ordinal" else []
            known += [feature.levels[i] for i in draws.permutation(len(feature.levels))]
            column = pd.Series(pd.Categorical(column, categories=known))
        table[feature.name] = column
    return table


def outcome(schema: Schema, table: pd.DataFrame, seed: int) -> Any:
    """Depends on every feature, and on levels in no order."""
    draws = np.random.default_rng(seed + 1)
    score = 0.3 * draws.normal(size=N)
    for feature in schema.features:
        weights = draws.normal(size=max(len(feature.levels), 1))
        if feature.has_levels:
            places = [list(feature.levels).index(v) if v == v else 0 for v in table[feature.name]]
            score += weights[places]
        else:
            score += weights[0] * table[feature.name].fillna(20).to_numpy() / 20
    return np.where(score > np.median(score), "in time", "late")


def off_the_grid(x: Tensor, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return x + 0.2 * torch.randn(x.shape, generator=draws, dtype=x.dtype)


def without_table(classifier: Classifier, estimator: Any, x: Tensor) -> Any:
    """Probabilities while the estimator refuses to see any table."""

    def refuse(table: Any) -> Any:
        raise AssertionError("asked with a table")

    estimator.predict_proba = refuse
    try:
        return classifier.probability(x).numpy()
    finally:
        del estimator.predict_proba


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("missing", ["refuse", "pass"])
@pytest.mark.parametrize("seed", range(5))
def test_the_same_without_a_table(library: str, missing: Any, seed: int) -> None:
    """Either class may be the favourable one; columns are some, and in another order."""
    schema = problem(seed, missing)
    table = people(schema, seed)
    paid = outcome(schema, table, seed)
    draws = np.random.default_rng(seed)
    names = [schema.names[i] for i in draws.permutation(len(schema.names))[1:]]
    position = seed % 2
    labels = (paid == "in time").astype(int) if position else (paid == "late").astype(int)
    estimator = trees(library).fit(table[names], labels)
    classifier = from_estimator(estimator, schema, rows=table, favourable=position)
    x = off_the_grid(classifier.encoding.encode(table), seed)
    seen = classifier.encoding.decode(x).astype(
        {f.name: table[f.name].dtype for f in schema.features if f.has_levels}
    )
    theirs = np.asarray(estimator.predict_proba(seen[names]))[:, position]
    ours = without_table(classifier, estimator, x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    few = without_table(classifier, estimator, x[:7])
    np.testing.assert_allclose(few, ours[:7], rtol=1e-12)
    assert np.ptp(ours) > 0.5


def small(**changes: Any) -> tuple[Schema, pd.DataFrame, Any]:
    job = replace(FEATURES[0], **changes)
    schema = Schema((job, FEATURES[9]), CausalGraph(("job", "net income")), "paid", "in time")
    table = people(schema, 0)
    return schema, table, outcome(schema, table, 0)


def test_a_category_that_was_never_seen_is_a_gap() -> None:
    schema, table, paid = small()
    known = pd.CategoricalDtype(["pilot", "clerk", "cook"])
    is_known = (table["job"] != "judge").to_numpy()
    estimator = trees("lightgbm").fit(table[is_known].astype({"job": known}), paid[is_known])
    classifier = from_estimator(estimator, schema, rows=table)
    x = classifier.encoding.encode(table)
    given = table.assign(job=table["job"].cat.set_categories(known.categories))
    theirs = np.asarray(estimator.predict_proba(given))[:, 0]
    ours = without_table(classifier, estimator, x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_rows_only_numbers_are_compared(library: str) -> None:
    features = FEATURES[3], FEATURES[7], FEATURES[9]
    schema = Schema(features, CausalGraph(tuple(f.name for f in features)), "paid", "in time")
    table = people(schema, 0)
    codes = (outcome(schema, table, 0) == "in time").astype(int)
    for given in (table, table.to_numpy()):
        estimator = trees(library).fit(given, codes)
        classifier = from_estimator(estimator, schema, favourable=1)
        ours = without_table(classifier, estimator, classifier.encoding.encode(table))
        theirs = np.asarray(estimator.predict_proba(given))[:, 1]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def test_what_has_to_see_a_table_still_does() -> None:
    """Predictions that stop early, three classes, classes of one's own, other boosters."""
    schema, table, paid = small()

    class Turned(lightgbm.LGBMClassifier):
        def predict_proba(self, *given: Any, **settings: Any) -> Any:
            return np.asarray(super().predict_proba(*given, **settings))[:, ::-1]

    early = {"pred_early_stop": True, "pred_early_stop_freq": 1, "pred_early_stop_margin": 0.5}
    thirds = np.where(table["net income"] < 0, "never", paid)
    cases = (
        (trees("lightgbm", **early), paid),
        (trees("lightgbm"), thirds),
        (Turned(n_estimators=5, n_jobs=1, verbose=-1), paid),
    )
    for estimator, labels in cases:
        estimator.fit(table, labels)
        classifier = from_estimator(estimator, schema, rows=table)
        x = classifier.encoding.encode(table)
        theirs = np.asarray(estimator.predict_proba(table))[:, 0]
        np.testing.assert_allclose(classifier.probability(x).numpy(), theirs, atol=2e-6)
        with pytest.raises(ClassifierError, match="asked with a table"):
            without_table(classifier, estimator, x)


@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
@pytest.mark.parametrize("library", LIBRARIES)
def test_trees_that_stopped_early_are_counted_alike(library: str) -> None:
    schema, table, paid = small()
    codes = (paid == "in time").astype(int)
    rest: dict[str, Any] = {"eval_set": [(table[::3], codes[::-3])]}
    if library == "lightgbm":
        estimator = trees(library)
        rest |= {"callbacks": [lightgbm.early_stopping(1, verbose=False)]}
    else:
        estimator, rest["verbose"] = trees(library, early_stopping_rounds=1), False
    estimator.fit(table, codes, **rest)
    classifier = from_estimator(estimator, schema, rows=table, favourable=1)
    ours = without_table(classifier, estimator, classifier.encoding.encode(table))
    theirs = np.asarray(estimator.predict_proba(table))[:, 1]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def test_other_answers_and_none_are_told_apart() -> None:
    schema, table, paid = small()
    encoding = Encoding(schema)
    estimator = trees("lightgbm").fit(table, paid)
    found = Boosted.of(estimator, encoding, schema.names, {"job": table["job"].dtype}, 0)
    assert found is not None

    def score(frame: pd.DataFrame) -> Any:
        return estimator.predict_proba(frame.astype({"job": table["job"].dtype}))[:, 0]

    seen = encoding.encode(table)
    assert found.agrees(score, seen)
    assert found.agrees(score, None)
    assert not found.agrees(lambda frame: score(frame) + 1e-9, seen)
    assert not found.agrees(lambda frame: frame["nothing"], seen)
    # Rows of one level only would not show that two others are exchanged.
    clerks = seen[seen[:, 0] == 1]
    turned = {"cook": "pilot", "pilot": "cook"}
    assert not found.agrees(
        lambda frame: score(frame.assign(job=frame["job"].map(lambda job: turned.get(job, job)))),
        clerks,
    )
    # Categories that the table does not have.
    assert Boosted.of(estimator, encoding, schema.names, {}, 0) is None


def test_as_many_threads_as_the_estimator_has(monkeypatch: pytest.MonkeyPatch) -> None:
    schema, table, paid = small()
    for n_jobs, n_threads in ((1, 1), (2, 2), (None, 0), (-1, os.cpu_count())):
        estimator = trees("lightgbm").fit(table, paid).set_params(n_jobs=n_jobs)
        classifier = from_estimator(estimator, schema, rows=table)
        booster, ask = estimator.booster_, estimator.booster_.predict
        asked: list[int] = []

        def spied(*given: Any, ask: Any = ask, asked: list[int] = asked, **settings: Any) -> Any:
            asked.append(settings["num_threads"])
            return ask(*given, num_threads=1)

        monkeypatch.setattr(booster, "predict", spied)
        without_table(classifier, estimator, classifier.encoding.encode(table.head(3)))
        assert asked == [n_threads]
