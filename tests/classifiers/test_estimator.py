"""Anything with predict_proba: forests, boosted trees, one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from carma import CausalGraph, Classifier, Feature, Schema, from_estimator
from carma.errors import ClassifierError, TableError

SCHEMA = Schema(
    (
        Feature("job", "nominal", levels=("clerk", "cook", "pilot"), role="immutable"),
        Feature("years", "integer", bounds=(0, 40)),
        Feature("net income", role="actionable"),
    ),
    CausalGraph(("job", "years", "net income")),
    outcome="paid",
    favourable="in time",
)
NUMERIC = ["years", "net income"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    job = rng.choice(["clerk", "cook", "pilot"], 240)
    years = rng.integers(0, 41, 240)
    income = 30 + 0.5 * years + 10 * (job == "pilot") + 8 * rng.normal(size=240)
    return pd.DataFrame({"job": job, "years": years, "net income": income})


@pytest.fixture(scope="module")
def paid(rows: pd.DataFrame) -> Any:
    noise = np.random.default_rng(1).normal(size=240)
    return np.where(rows["net income"] + 4 * noise > 42, "in time", "late")


def encoded(classifier: Any) -> Any:
    jobs = OneHotEncoder(sparse_output=False)
    return make_pipeline(
        make_column_transformer((jobs, ["job"]), remainder="passthrough"), classifier
    )


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "forest": lambda: encoded(RandomForestClassifier(n_estimators=8, random_state=0)),
    "boosting": lambda: encoded(HistGradientBoostingClassifier(max_iter=8)),
    "calibrated": lambda: encoded(
        CalibratedClassifierCV(DecisionTreeClassifier(max_depth=3), cv=2)
    ),
    "bayes": lambda: encoded(GaussianNB()),
    "polynomial": lambda: encoded(
        make_pipeline(PolynomialFeatures(2), StandardScaler(), LogisticRegression())
    ),
    "stacking": lambda: encoded(
        StackingClassifier(
            [("tree", DecisionTreeClassifier(max_depth=2)), ("bayes", GaussianNB())], cv=2
        )
    ),
    "lightgbm": lambda: encoded(lightgbm.LGBMClassifier(n_estimators=8, n_jobs=1, verbose=-1)),
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_probabilities_are_the_estimators_own(name: str, rows: pd.DataFrame, paid: Any) -> None:
    """The classes sort as "in time", "late": the favourable one comes first."""
    estimator = ESTIMATORS[name]().fit(rows, paid)
    classifier = from_estimator(estimator, SCHEMA, rows=rows)
    assert not classifier.has_slope
    ours = classifier.probability(classifier.encoding.encode(rows)).numpy()
    np.testing.assert_allclose(ours, estimator.predict_proba(rows)[:, 0], atol=2e-6)
    assert ((ours >= 0.5) == (estimator.predict_proba(rows)[:, 0] >= 0.5)).all()


def test_what_can_be_converted_exactly_is(rows: pd.DataFrame, paid: Any) -> None:
    pipeline = encoded(LogisticRegression()).fit(rows, paid)
    classifier = from_estimator(pipeline, SCHEMA, rows=rows)
    assert classifier.has_slope
    assert classifier.linear_weights is not None


def test_columns_of_categories_are_given_as_such(rows: pd.DataFrame, paid: Any) -> None:
    table = rows.astype({"job": "category"})
    model = lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1).fit(table, paid)
    classifier = from_estimator(model, SCHEMA, rows=table)
    ours = classifier.probability(classifier.encoding.encode(rows)).numpy()
    np.testing.assert_allclose(ours, np.asarray(model.predict_proba(table))[:, 0], atol=2e-6)
    few = table[table["job"] != "pilot"].astype({"job": str}).astype({"job": "category"})
    with pytest.raises(ClassifierError, match=r"have every level .* absent: \['pilot'\]"):
        from_estimator(model, SCHEMA, rows=few)


def boosted(package: str, **settings: Any) -> Any:
    """Of a package that tests do not need."""
    module: Any = pytest.importorskip(package)
    if package == "xgboost":
        return module.XGBClassifier(n_estimators=8, n_jobs=1, enable_categorical=True)
    quiet = {"verbose": False, "allow_writing_files": False}
    return module.CatBoostClassifier(iterations=8, thread_count=1, **quiet, **settings)


@pytest.mark.parametrize("package", ["xgboost", "catboost"])
def test_boosted_trees_of_other_packages(package: str, rows: pd.DataFrame, paid: Any) -> None:
    """On categories, on some of the features, on an array; XGBoost wants classes as numbers."""
    codes = (paid == "late").astype(int)
    table = rows.astype({"job": "category"})
    settings = {} if package == "xgboost" else {"cat_features": ["job"]}
    few = Schema(SCHEMA.features[1:], CausalGraph(tuple(NUMERIC)), "paid", "in time")
    cases = (
        (boosted(package, **settings), table, SCHEMA, table),
        (boosted(package), rows[NUMERIC[::-1]], SCHEMA, rows),
        (boosted(package), rows[NUMERIC].to_numpy(), few, None),
    )
    for model, given, schema, like in cases:
        model.fit(given, codes)
        classifier = from_estimator(model, schema, rows=like, favourable=0)
        x = classifier.encoding.encode(rows[list(schema.names)])
        ours = classifier.probability(x).numpy()
        np.testing.assert_allclose(ours, np.asarray(model.predict_proba(given))[:, 0], atol=2e-6)
        assert np.ptp(ours) > 0.1
    with pytest.raises(ClassifierError, match=r"classes \[0, 1\]; where it was fitted on other"):
        from_estimator(cases[0][0], SCHEMA, rows=table)
    with pytest.raises(ClassifierError, match="be fitted first"):
        from_estimator(boosted(package), SCHEMA)


def test_types_of_columns_are_asked_for(rows: pd.DataFrame, paid: Any) -> None:
    table = rows.astype({"job": "category"})
    model = lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1).fit(table, paid)
    classifier = from_estimator(model, SCHEMA)
    with pytest.raises(
        ClassifierError, match="give from_estimator the rows for their column types"
    ):
        classifier.probability(classifier.encoding.encode(rows))


def test_some_of_the_features_are_enough(rows: pd.DataFrame, paid: Any) -> None:
    tree = DecisionTreeClassifier(max_depth=3).fit(rows[NUMERIC[::-1]], paid)
    classifier = from_estimator(tree, SCHEMA, rows=rows)
    ours = classifier.probability(classifier.encoding.encode(rows)).numpy()
    theirs = tree.predict_proba(rows[NUMERIC[::-1]])[:, 0]
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("kind", ["sklearn", "lightgbm"])
def test_fitted_on_an_array(kind: str, rows: pd.DataFrame, paid: Any) -> None:
    features = tuple(SCHEMA[name] for name in NUMERIC)
    schema = Schema(features, CausalGraph(tuple(NUMERIC)), outcome="paid", favourable="in time")
    array = rows[NUMERIC].to_numpy()
    model: Any = DecisionTreeClassifier(max_depth=3)
    if kind == "lightgbm":
        model = lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1)
    model.fit(array, paid)
    classifier = from_estimator(model, schema)
    ours = classifier.probability(torch.from_numpy(array)).numpy()
    np.testing.assert_allclose(ours, model.predict_proba(array)[:, 0], atol=2e-6)
    with pytest.raises(ClassifierError, match="'n_features_in_' must be 3: fitted on an array"):
        from_estimator(model, SCHEMA)


class Handmade:
    """A classifier of one's own, with three classes."""

    classes_ = ("never", "late", "in time")

    def predict_proba(self, table: pd.DataFrame) -> Any:
        good = np.clip(table["net income"] / 100, 0, 1)
        return np.stack([0.3 * (1 - good), 0.7 * (1 - good), good], axis=1)


def handmade() -> Classifier:
    return from_estimator(Handmade(), SCHEMA)


def test_a_class_of_ones_own_with_three_classes(rows: pd.DataFrame) -> None:
    classifier = handmade()
    ours = classifier.probability(classifier.encoding.encode(rows)).numpy()
    np.testing.assert_allclose(ours, rows["net income"] / 100, atol=2e-6)


def test_a_pipeline_fitted_on_other_columns_is_refused(rows: pd.DataFrame, paid: Any) -> None:
    other = rows.rename(columns={"years": "months"})[["months", "net income"]]
    tree = DecisionTreeClassifier(max_depth=2).fit(other, paid)
    with pytest.raises(ClassifierError, match=r"fitted on other columns: .*") as caught:
        from_estimator(tree, SCHEMA)
    assert "unknown to it: ['months']; not among the columns: ['job', 'years']" in str(caught.value)
    dummies = pd.get_dummies(rows)
    tree = DecisionTreeClassifier(max_depth=2).fit(dummies, paid)
    with pytest.raises(ClassifierError, match="put encoders into a pipeline"):
        from_estimator(tree, SCHEMA)


def test_labels_that_the_schema_does_not_know(rows: pd.DataFrame, paid: Any) -> None:
    """Encoded labels: which is the favourable one has to be said."""
    tree = DecisionTreeClassifier(max_depth=3).fit(rows[NUMERIC], (paid == "late").astype(int))
    with pytest.raises(ClassifierError, match=r"be one of the estimator's classes \[0, 1\]; .*say"):
        from_estimator(tree, SCHEMA)
    classifier = from_estimator(tree, SCHEMA, favourable=0)
    ours = classifier.probability(classifier.encoding.encode(rows)).numpy()
    np.testing.assert_allclose(ours, tree.predict_proba(rows[NUMERIC])[:, 0], atol=2e-6)
    with pytest.raises(ClassifierError, match=r"'favourable' must be one of .*; got 2"):
        from_estimator(tree, SCHEMA, favourable=2)
    bare = Schema(SCHEMA.features, SCHEMA.graph)
    with pytest.raises(ClassifierError, match="name outcome and favourable"):
        from_estimator(tree, bare)


def test_what_is_no_classifier_or_not_fitted(rows: pd.DataFrame, paid: Any) -> None:
    with pytest.raises(ClassifierError, match="have predict_proba"):
        from_estimator(StandardScaler(), SCHEMA)
    with pytest.raises(ClassifierError, match="be fitted first"):
        from_estimator(DecisionTreeClassifier(), SCHEMA)
    several = DecisionTreeClassifier().fit(rows[NUMERIC], np.stack([paid, paid], axis=1))
    with pytest.raises(ClassifierError, match="a classifier of a single outcome"):
        from_estimator(several, SCHEMA)


def test_rows_that_do_not_fit_are_refused(rows: pd.DataFrame, paid: Any) -> None:
    tree = DecisionTreeClassifier(max_depth=3).fit(rows[NUMERIC], paid)
    with pytest.raises(TableError, match="missing"):
        from_estimator(tree, SCHEMA, rows=rows[NUMERIC])

    class Drifting(Handmade):
        calls = 0

        def predict_proba(self, table: pd.DataFrame) -> Any:
            self.calls += 1
            return super().predict_proba(table) * 0 + self.calls / 10

    with pytest.raises(ClassifierError, match="be rows that the schema does not change"):
        from_estimator(Drifting(), SCHEMA, rows=rows)


@pytest.mark.parametrize(
    ("wrong", "shape"),
    [
        (lambda answer: answer[:, 1:], r"\(240, 2\)"),
        (lambda answer: answer[:, 2:], r"\(240, 1\)"),
        (lambda answer: answer[:, 2], r"\(240,\)"),
        (lambda answer: answer[:-1], r"\(239, 3\)"),
    ],
)
def test_an_answer_of_another_shape_is_refused(
    wrong: Callable[[Any], Any], shape: str, rows: pd.DataFrame
) -> None:
    class Short(Handmade):
        def predict_proba(self, table: pd.DataFrame) -> Any:
            return wrong(super().predict_proba(table))

    classifier = from_estimator(Short(), SCHEMA)
    rule = (
        r"give shape \(240, 3\), one column for each of its classes \['never', 'late', 'in time'\]"
    )
    with pytest.raises(ClassifierError, match=f"{rule}; .*BlackBoxClassifier.*; got {shape}"):
        classifier.probability(classifier.encoding.encode(rows))


def test_an_answer_that_is_no_probability_is_refused(rows: pd.DataFrame) -> None:
    class Scores(Handmade):
        def predict_proba(self, table: pd.DataFrame) -> Any:
            return 3 * super().predict_proba(table)

    classifier = from_estimator(Scores(), SCHEMA)
    with pytest.raises(ClassifierError, match="give probabilities, between 0 and 1: for log-odds"):
        classifier.probability(classifier.encoding.encode(rows))

    class Gaps(Handmade):
        def predict_proba(self, table: pd.DataFrame) -> Any:
            answer = super().predict_proba(table)
            return np.where((table["years"] == 7).to_numpy()[:, None], np.nan, answer)

    named = rows.set_axis([f"p{i}" for i in range(240)])
    n_gaps = int((rows["years"] == 7).sum())
    first = f"p{int((rows['years'] == 7).to_numpy().argmax())}"
    with pytest.raises(ClassifierError, match=f"of 240, {n_gaps} have none, first; got '{first}'"):
        from_estimator(Gaps(), SCHEMA, rows=named)


def test_a_row_on_which_it_raises_is_named(rows: pd.DataFrame) -> None:
    class Picky(Handmade):
        def predict_proba(self, table: pd.DataFrame) -> Any:
            if (table["years"] == 7).any():
                raise KeyError("seven")
            return super().predict_proba(table)

    first = int((rows["years"] == 7).to_numpy().argmax())
    with pytest.raises(ClassifierError, match=f"on row {first}, .* KeyError: 'seven'"):
        from_estimator(Picky(), SCHEMA, rows=rows)


def open_to(missing: Any) -> Schema:
    features = tuple(replace(feature, missing=missing) for feature in SCHEMA.features)
    return replace(SCHEMA, features=features)


@pytest.fixture(scope="module")
def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """A gap in one column of two rows of three."""
    table = rows.astype({"job": object, "years": float})
    for i, name in enumerate(("job", "years")):
        table.loc[i::3, name] = np.nan
    return table


CATEGORIES = {"job": pd.CategoricalDtype(["clerk", "cook", "pilot"])}
TAKES_GAPS: dict[str, Callable[[], Any]] = {
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1),
    "boosting": lambda: HistGradientBoostingClassifier(
        max_iter=20, categorical_features="from_dtype"
    ),
    "encoded": lambda: encoded(HistGradientBoostingClassifier(max_iter=20)),
    "imputing": lambda: make_pipeline(
        make_column_transformer(
            (OneHotEncoder(sparse_output=False), ["job"]), (SimpleImputer(), NUMERIC)
        ),
        LogisticRegression(max_iter=1000),
    ),
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("name", TAKES_GAPS)
def test_gaps_are_passed_on(name: str, gaps: pd.DataFrame, paid: Any) -> None:
    table = gaps.astype(CATEGORIES) if name in ("lightgbm", "boosting") else gaps
    estimator = TAKES_GAPS[name]().fit(table, paid)
    classifier = from_estimator(estimator, open_to("pass"), rows=table)
    assert classifier.takes_gaps
    x = classifier.encoding.encode(gaps)
    classifier.check_on(x)
    theirs = estimator.predict_proba(table)[:, 0]
    np.testing.assert_allclose(classifier.probability(x).numpy(), theirs, atol=2e-6)
    # Filling the gaps changes answers: it is the gaps that were seen.
    filled = classifier.encoding.encode(gaps.fillna({"job": "cook", "years": 20}))
    assert not np.allclose(classifier.probability(filled).numpy(), theirs, atol=1e-3)


def test_gaps_to_be_imputed_are_not_compared(
    gaps: pd.DataFrame, rows: pd.DataFrame, paid: Any
) -> None:
    for estimator in (ESTIMATORS["forest"](), encoded(LogisticRegression(max_iter=1000))):
        classifier = from_estimator(estimator.fit(rows, paid), open_to("impute"), rows=gaps)
        probability = classifier.probability(classifier.encoding.encode(gaps))
        assert probability.isnan().tolist() == gaps.isna().any(axis=1).tolist()
        all_open = gaps.assign(years=np.nan)
        from_estimator(estimator, open_to("impute"), rows=all_open)


def test_types_without_gaps_become_floats(paid: Any) -> None:
    flag = np.random.default_rng(0).integers(0, 2, 240)
    income = np.where(paid == "late", 30.0, 50.0)
    for levels, kind in (((0, 1), np.int64), ((False, True), np.bool_)):
        features = Feature("flag", "binary", levels=levels, missing="pass"), Feature("income")
        schema = Schema(
            features, CausalGraph(("flag", "income")), outcome="paid", favourable="late"
        )
        table = pd.DataFrame({"flag": flag.astype(kind), "income": income})
        estimator = HistGradientBoostingClassifier(max_iter=5).fit(table, paid)
        classifier = from_estimator(estimator, schema, rows=table)
        x = classifier.encoding.encode(table)
        x[0, 0] = torch.nan
        given = table.astype({"flag": float})
        given.loc[0, "flag"] = np.nan
        theirs = estimator.predict_proba(given)[:, 1]
        np.testing.assert_allclose(classifier.probability(x).numpy(), theirs, atol=2e-6)


def test_an_estimator_that_takes_no_gaps_is_named(
    gaps: pd.DataFrame, rows: pd.DataFrame, paid: Any
) -> None:
    estimator = encoded(GaussianNB()).fit(rows, paid)
    with pytest.raises(ClassifierError, match=r"takes no gaps, declare missing = 'impute' for \["):
        from_estimator(estimator, open_to("pass"), rows=gaps)
