"""Conversion from scikit-learn: the same numbers, differentiable."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from carma import CausalGraph, Feature, Schema
from carma.classifiers.network import NetworkClassifier
from carma.classifiers.sklearn import from_sklearn
from carma.errors import ClassifierError, TableError
from carma.schema import Level
from carma.table import Encoding

TOLERANCE = 1e-6

FEATURES = {
    "income": Feature("income"),
    "age": Feature("age", "integer", bounds=(18, 25)),
    "owner": Feature("owner", "binary", levels=(True, False)),
    "rooms": Feature("rooms", "ordinal", levels=(1, 2, 4)),
    "zone": Feature("zone", "nominal", levels=(7, 1, 3)),
    "gender": Feature("gender", "binary", levels=("m", "f")),
    "education": Feature("education", "ordinal", levels=("school", "bachelor", "master", "phd")),
    "job": Feature("job", "nominal", levels=("cook", "clerk", "nurse")),
}
NUMBERS = ("income", "age", "owner", "rooms", "zone")
TEXTS = ("gender", "education", "job")
EVERY = (*NUMBERS, *TEXTS)
CODED = EVERY[1:]


def schema_of(names: Sequence[str], favourable: Level | None = "yes") -> Schema:
    outcome = None if favourable is None else "granted"
    features = tuple(FEATURES[name] for name in names)
    return Schema(features, CausalGraph(tuple(names)), outcome, favourable)


@cache
def people(names: Sequence[str] = EVERY, rows: int = 80, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "income": rng.normal(30, 8, rows),
        "age": rng.integers(18, 26, rows),
    }
    for name in EVERY[2:]:
        levels = FEATURES[name].levels
        columns[name] = [levels[i] for i in rng.integers(len(levels), size=rows)]
    return pd.DataFrame(columns)[list(names)]


def decisions(frame: pd.DataFrame, seed: int = 1) -> list[str]:
    x = Encoding(schema_of([str(name) for name in frame.columns])).encode(frame).numpy()
    rng = np.random.default_rng(seed)
    score = ((x - x.mean(0)) / (x.std(0) + 1e-9)) @ rng.normal(size=x.shape[1])
    return ["yes" if s > 0 else "no" for s in score + rng.normal(size=len(x))]


def fitted(estimator: Any, x: Any, y: Any) -> Any:
    """Fit; how far the optimiser got does not matter to an identity."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(x, y)


def mlp(activation: str = "relu", hidden: tuple[int, ...] = (5,)) -> MLPClassifier:
    return MLPClassifier(hidden, activation=activation, max_iter=8, random_state=0)


def logistic(**options: Any) -> LogisticRegression:
    return LogisticRegression(max_iter=10, **options)


def one_hot(**options: Any) -> OneHotEncoder:
    return OneHotEncoder(**options)


def over_columns(*parts: Any, remainder: Any = "drop", **options: Any) -> Pipeline:
    steps = make_column_transformer(*parts, remainder=remainder, **options)
    return make_pipeline(steps, logistic())


def after(build: Callable[[], Any]) -> Pipeline:
    return make_pipeline(build(), logistic())


@dataclass(frozen=True)
class Case:
    """An unfitted estimator and the columns that it is fitted on, in that order."""

    build: Callable[[], Any]
    names: tuple[str, ...] = NUMBERS
    as_array: bool = False

    def given(self, frame: pd.DataFrame) -> Any:
        table = frame[list(self.names)]
        return table.to_numpy() if self.as_array else table

    def fit(self, frame: pd.DataFrame | None = None) -> Any:
        frame = people() if frame is None else frame
        y = decisions(frame[[n for n in EVERY if n in self.names]])
        return fitted(self.build(), self.given(frame), y)

    @property
    def schema(self) -> Schema:
        """Features in the order of ``EVERY``, except for arrays, which have only positions."""
        ordered = tuple(n for n in EVERY if n in self.names)
        return schema_of(self.names if self.as_array else ordered)


SCALERS = {
    "standard": StandardScaler,
    "standard-no-mean": lambda: StandardScaler(with_mean=False),
    "standard-no-std": lambda: StandardScaler(with_std=False),
    "standard-neither": lambda: StandardScaler(with_mean=False, with_std=False),
    "min-max": MinMaxScaler,
    "min-max-range": lambda: MinMaxScaler((-3, 2)),
    "max-abs": MaxAbsScaler,
    "robust": RobustScaler,
    "robust-no-centre": lambda: RobustScaler(with_centering=False),
    "robust-no-scale": lambda: RobustScaler(with_scaling=False),
    "robust-variance": lambda: RobustScaler(unit_variance=True),
    "imputer": SimpleImputer,
    "identity": FunctionTransformer,
    "passthrough": lambda: "passthrough",
}

CASES: dict[str, Case] = {
    "logistic": Case(logistic),
    "logistic-array": Case(logistic, as_array=True),
    "logistic-no-intercept": Case(lambda: logistic(fit_intercept=False)),
    "logistic-reordered": Case(logistic, NUMBERS[::-1]),
    **{f"mlp-{a}": Case(partial(mlp, a)) for a in ("relu", "tanh", "logistic", "identity")},
    "mlp-deep": Case(lambda: make_pipeline(StandardScaler(), mlp("tanh", (6, 4, 3)))),
    "mlp-array": Case(lambda: make_pipeline(MinMaxScaler(), mlp()), as_array=True),
    **{f"scaler-{name}": Case(partial(after, build)) for name, build in SCALERS.items()},
    "scalers-chained": Case(
        lambda: make_pipeline(RobustScaler(), MinMaxScaler(), StandardScaler(), mlp("tanh"))
    ),
    "pipeline-nested": Case(
        lambda: make_pipeline(
            make_pipeline("passthrough", make_pipeline(StandardScaler(), None)),
            make_pipeline(MaxAbsScaler(), logistic()),
        ),
        NUMBERS[::-1],
    ),
    "one-hot-everything": Case(
        lambda: make_pipeline(one_hot(handle_unknown="ignore"), logistic()), CODED
    ),
    "one-hot-mlp": Case(lambda: make_pipeline(one_hot(), mlp("tanh")), CODED),
    "one-hot-first": Case(lambda: make_pipeline(one_hot(drop="first"), mlp()), CODED),
    "one-hot-if-binary": Case(
        lambda: make_pipeline(one_hot(drop="if_binary"), logistic()), CODED[::-1]
    ),
    "one-hot-chosen": Case(
        lambda: make_pipeline(
            one_hot(drop=np.array(["f", "bachelor", "nurse"], object)), logistic()
        ),
        TEXTS,
    ),
    "one-hot-array": Case(
        lambda: make_pipeline(one_hot(drop="first"), logistic()), TEXTS, as_array=True
    ),
    "one-hot-scaled": Case(
        lambda: make_pipeline(one_hot(sparse_output=False), StandardScaler(), mlp()), CODED
    ),
    "one-hot-imputed": Case(
        lambda: make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot(), logistic()),
        TEXTS,
    ),
    "one-hot-infrequent-none": Case(
        lambda: make_pipeline(
            one_hot(min_frequency=1, handle_unknown="infrequent_if_exist"), logistic()
        ),
        TEXTS,
    ),
    "one-hot-listed": Case(
        lambda: make_pipeline(
            one_hot(categories=[["f", "m", "x"]], handle_unknown="ignore"), logistic()
        ),
        ("gender",),
    ),
    "one-hot-rare-integers": Case(
        lambda: make_pipeline(
            one_hot(categories=[[18, 20, 25]], handle_unknown="ignore"), logistic()
        ),
        ("age",),
    ),
    "one-hot-rare-levels": Case(
        lambda: make_pipeline(
            one_hot(categories=[["phd", "school"], ["cook"]], handle_unknown="ignore"),
            logistic(),
        ),
        ("education", "job"),
    ),
    "ordinal-encoder": Case(lambda: make_pipeline(OrdinalEncoder(), mlp("tanh")), CODED[1:]),
    "ordinal-encoder-in-order": Case(
        lambda: make_pipeline(
            OrdinalEncoder(categories=[["school", "bachelor", "master", "phd"]]),
            logistic(),
        ),
        ("education",),
    ),
    "ordinal-encoder-unknown": Case(
        lambda: make_pipeline(
            OrdinalEncoder(
                categories=[["master", "school"]],
                handle_unknown="use_encoded_value",
                unknown_value=-1,
            ),
            logistic(),
        ),
        ("education",),
    ),
    "columns-by-name": Case(
        lambda: over_columns(
            (StandardScaler(), ["rooms", "income"]),
            (one_hot(), ["job", "gender"]),
            ("passthrough", ["age", "owner"]),
            ("drop", ["zone"]),
        ),
        EVERY,
    ),
    "columns-one-string": Case(
        lambda: over_columns((StandardScaler(), ["income"]), ("drop", "job")), ("job", "income")
    ),
    "columns-by-position": Case(
        lambda: over_columns((one_hot(), [-1, 6]), (StandardScaler(), [3, 0])), EVERY
    ),
    "columns-by-slice": Case(
        lambda: over_columns((MinMaxScaler(), slice(0, 5)), (one_hot(), slice(-3, None))), EVERY
    ),
    "columns-by-named-slice": Case(
        lambda: over_columns(
            (MinMaxScaler(), slice("income", "zone")), (one_hot(), slice("gender", None))
        ),
        EVERY,
    ),
    "columns-by-mask": Case(
        lambda: over_columns(
            (StandardScaler(), [True] * 5 + [False] * 3),
            (one_hot(drop="first"), np.array([False] * 5 + [True] * 3)),
        ),
        EVERY,
    ),
    "columns-by-selector": Case(
        lambda: over_columns(
            (StandardScaler(), make_column_selector(dtype_include="number")),
            (one_hot(), make_column_selector(dtype_exclude="number")),
        ),
        EVERY[::-1],
    ),
    "columns-by-callable": Case(
        lambda: over_columns(
            (RobustScaler(), lambda frame: [c for c in frame.columns if c in NUMBERS]),
            (one_hot(), lambda frame: [c for c in frame.columns if c in TEXTS]),
        ),
        EVERY,
    ),
    "columns-empty": Case(
        lambda: over_columns((StandardScaler(), ["income"]), (one_hot(), [])), ("age", "income")
    ),
    "columns-array": Case(
        lambda: over_columns((one_hot(), [5, 7]), (StandardScaler(), [0, 1])),
        EVERY,
        as_array=True,
    ),
    "remainder-passthrough": Case(
        lambda: over_columns((one_hot(), list(TEXTS)), remainder="passthrough"), EVERY
    ),
    "remainder-scaled": Case(
        lambda: over_columns((one_hot(), [7, 6, 5]), remainder=MinMaxScaler()), EVERY
    ),
    "columns-weighted": Case(
        lambda: make_pipeline(
            ColumnTransformer(
                [("a", StandardScaler(), list(NUMBERS)), ("b", "passthrough", ["age"])],
                remainder=one_hot(),
                transformer_weights={"a": 0.25, "b": 3.0, "remainder": -2.0},
            ),
            logistic(),
        ),
        EVERY,
    ),
    "columns-nested": Case(
        lambda: over_columns(
            (make_pipeline(SimpleImputer(), StandardScaler()), list(NUMBERS)),
            (
                make_column_transformer(
                    (make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot()), ["job"]),
                    (OrdinalEncoder(), ["education"]),
                ),
                ["education", "gender", "job"],
            ),
        ),
        EVERY[::-1],
    ),
    "columns-then-scaler": Case(
        lambda: make_pipeline(
            make_column_transformer(
                (one_hot(drop="if_binary"), list(CODED)), ("passthrough", ["income"])
            ),
            StandardScaler(with_mean=False),
            mlp("logistic"),
        ),
        EVERY,
    ),
    "columns-twice": Case(
        lambda: make_pipeline(
            make_column_transformer(
                ("passthrough", ["income", "age"]),
                remainder="drop",
                verbose_feature_names_out=False,
            ).set_output(transform="pandas"),
            make_column_transformer((StandardScaler(), ["age"]), ("passthrough", ["income"])),
            logistic(),
        ),
        NUMBERS,
    ),
}

every_case = pytest.mark.parametrize("name", CASES)


@cache
def converted(name: str) -> tuple[Case, Any, NetworkClassifier]:
    case = CASES[name]
    estimator = case.fit()
    return case, estimator, from_sklearn(estimator, case.schema)


def fresh(case: Case) -> pd.DataFrame:
    return people(EVERY, 60, seed=7)[list(case.schema.names)]


def expected(case: Case, estimator: Any, frame: pd.DataFrame) -> torch.Tensor:
    position = list(estimator.classes_).index(case.schema.favourable)
    return torch.from_numpy(estimator.predict_proba(case.given(frame))[:, position].copy())


def between_levels(classifier: NetworkClassifier, frame: pd.DataFrame) -> torch.Tensor:
    """Rows of model space away from every kink."""
    x = classifier.encoding.encode(frame)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    return x + 0.1 + 0.3 * noise


class TestIdentities:
    @every_case
    def test_probability_is_the_estimators(self, name: str) -> None:
        case, estimator, classifier = converted(name)
        frame = fresh(case)
        ours = classifier.probability(classifier.encoding.encode(frame))
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, expected(case, estimator, frame), rtol=0, atol=TOLERANCE)
        assert float(ours.max() - ours.min()) > 1e-4

    @pytest.mark.parametrize(
        "name", ["logistic-reordered", "mlp-array", "one-hot-array", "columns-nested"]
    )
    def test_check_agrees(self, name: str) -> None:
        case, estimator, _ = converted(name)
        from_sklearn(estimator, case.schema, check=fresh(case))

    @every_case
    def test_gradient_is_the_slope(self, name: str) -> None:
        case, _, classifier = converted(name)
        x = between_levels(classifier, fresh(case)[:16]).requires_grad_()
        (gradient,) = torch.autograd.grad(classifier.logit(x).sum(), x)
        step = 1e-5 * torch.eye(x.shape[1], dtype=x.dtype)
        with torch.no_grad():
            slopes = [(classifier.logit(x + e) - classifier.logit(x - e)) / 2e-5 for e in step]
        torch.testing.assert_close(gradient, torch.stack(slopes, dim=1), rtol=1e-6, atol=1e-8)
        assert bool(gradient.any())

    @every_case
    def test_state_round_trip_answers_the_same(self, name: str) -> None:
        case, _, classifier = converted(name)
        state = classifier.state()
        again = NetworkClassifier.from_state(case.schema, state)
        x = between_levels(classifier, fresh(case))
        assert torch.equal(again.logit(x), classifier.logit(x))
        assert again.state().fingerprint() == state.fingerprint()

    @every_case
    def test_rows_do_not_see_each_other(self, name: str) -> None:
        case, _, classifier = converted(name)
        x = classifier.encoding.encode(fresh(case))
        whole = classifier.logit(x)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(classifier.logit(x[order]), whole[order], rtol=0, atol=1e-12)
        torch.testing.assert_close(classifier.logit(x[:1]), whole[:1], rtol=0, atol=1e-12)

    @every_case
    def test_other_class_has_the_other_probability(self, name: str) -> None:
        case, estimator, classifier = converted(name)
        other = from_sklearn(estimator, replace(case.schema, favourable="no"))
        x = classifier.encoding.encode(fresh(case))
        assert torch.equal(other.logit(x), -classifier.logit(x))
        torch.testing.assert_close(other.probability(x), 1 - classifier.probability(x))

    @every_case
    def test_can_be_steered(self, name: str) -> None:
        case, _, classifier = converted(name)
        classifier.check_on(classifier.encoding.encode(fresh(case)))


class TestShiftAndScale:
    @given(
        shift=st.floats(-1e6, 1e6),
        scale=st.floats(1e-3, 1e6),
        scaler=st.sampled_from(["standard", "min-max", "robust", "max-abs"]),
    )
    @settings(max_examples=15, deadline=None)
    def test_equality_in_any_unit(self, shift: float, scale: float, scaler: str) -> None:
        frame = people(("income", "age"))
        frame = frame.assign(income=frame["income"] * scale + shift)
        case = Case(lambda: make_pipeline(SCALERS[scaler](), logistic()), ("income", "age"))
        from_sklearn(case.fit(frame), case.schema, check=frame)

    def test_standardised_estimators_do_not_see_units(self) -> None:
        names = ("income", "age")
        case = Case(lambda: make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10)), names)
        frame = people(names)
        moved = frame.assign(income=frame["income"] * 1000 - 7000)
        y = decisions(frame)
        plain = from_sklearn(fitted(case.build(), frame, y), case.schema)
        other = from_sklearn(fitted(case.build(), moved, y), case.schema)
        torch.testing.assert_close(
            plain.probability(plain.encoding.encode(frame)),
            other.probability(other.encoding.encode(moved)),
            rtol=0,
            atol=1e-8,
        )

    @given(st.lists(st.floats(-20, 20), min_size=7, max_size=7), st.floats(-20, 20))
    @settings(max_examples=15, deadline=None)
    def test_equality_for_any_coefficients(self, weights: list[float], bias: float) -> None:
        frame = people(("rooms", "education"))
        estimator = make_pipeline(one_hot(handle_unknown="ignore"), LogisticRegression()).fit(
            frame, decisions(frame)
        )
        estimator[-1].coef_, estimator[-1].intercept_ = np.array([weights]), np.array([bias])
        from_sklearn(estimator, schema_of(("rooms", "education")), check=frame)


class TestForm:
    def test_affine_steps_leave_plain_inputs(self) -> None:
        _, _, classifier = converted("scalers-chained")
        assert [i.column for i in classifier.inputs] == list(range(7))
        assert all(i.hat is None for i in classifier.inputs)
        assert len(classifier.weights) == 2

    def test_nominal_indicators_need_no_hat(self) -> None:
        frame = people(("job",))
        estimator = make_pipeline(one_hot(), LogisticRegression()).fit(frame, decisions(frame))
        classifier = from_sklearn(estimator, schema_of(("job",)))
        assert all(i.hat is None for i in classifier.inputs)
        by_category = dict(zip(estimator[0].categories_[0], estimator[1].coef_[0], strict=True))
        ours = dict(zip(FEATURES["job"].levels, classifier.weights[0][0].tolist(), strict=True))
        flip = 1 if estimator.classes_[1] == "yes" else -1
        assert ours == pytest.approx({k: flip * v for k, v in by_category.items()})

    def test_binary_indicators_are_lines(self) -> None:
        frame = people(("gender",))
        estimator = make_pipeline(one_hot(), LogisticRegression()).fit(frame, decisions(frame))
        classifier = from_sklearn(estimator, schema_of(("gender",)))
        assert all(i.hat is None for i in classifier.inputs)

    @pytest.mark.parametrize(
        ("name", "hats"),
        [
            ("rooms", [(0.0, 1.0, 2.0), (1.0, 2.0, 4.0), (2.0, 4.0, 6.0)]),
            ("education", [(-1.0, 0.0, 1.0), (0.0, 1.0, 2.0), (1.0, 2.0, 3.0), (2.0, 3.0, 4.0)]),
            ("age", [(a - 1.0, float(a), a + 1.0) for a in range(18, 26)]),
        ],
    )
    def test_ordered_indicators_fall_to_zero_at_the_neighbours(
        self, name: str, hats: list[tuple[float, float, float]]
    ) -> None:
        frame = people((name,))
        estimator = make_pipeline(one_hot(), LogisticRegression()).fit(frame, decisions(frame))
        classifier = from_sklearn(estimator, schema_of((name,)))
        assert sorted(i.hat for i in classifier.inputs if i.hat is not None) == hats

    def test_indicator_gradient_points_to_the_better_level(self) -> None:
        frame = people(("education",))
        estimator = make_pipeline(one_hot(), LogisticRegression()).fit(frame, decisions(frame))
        weights = dict(zip(estimator[0].categories_[0], (0.0, 5.0, 0.0, -1.0), strict=True))
        estimator[1].coef_ = np.array([list(weights.values())])
        classifier = from_sklearn(estimator, schema_of(("education",)))
        flip = 1.0 if estimator.classes_[1] == "yes" else -1.0
        x = torch.tensor([[0.5], [1.5], [2.5]], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(classifier.logit(x).sum(), x)
        levels = [str(level) for level in FEATURES["education"].levels]
        slopes = np.diff([weights[level] for level in levels])
        assert gradient.squeeze(1).tolist() == pytest.approx((flip * slopes).tolist())

    def test_columns_dropped_by_the_pipeline_have_no_weight(self) -> None:
        case, _, classifier = converted("columns-by-name")
        x = classifier.encoding.encode(fresh(case)).requires_grad_()
        (gradient,) = torch.autograd.grad(classifier.logit(x).sum(), x)
        assert not bool(gradient[:, classifier.encoding.block("zone")].any())

    def test_estimator_is_left_as_it_was(self) -> None:
        case, estimator, classifier = converted("mlp-relu")
        before = expected(case, estimator, fresh(case))
        classifier.weights[0].zero_()
        classifier.biases[-1].zero_()
        assert torch.equal(before, expected(case, estimator, fresh(case)))
        converted.cache_clear()

    def test_sparse_coefficients(self) -> None:
        case = CASES["logistic"]
        estimator = case.fit()
        dense = from_sklearn(estimator, case.schema)
        sparse = from_sklearn(estimator.sparsify(), case.schema)
        assert sparse.state().fingerprint() == dense.state().fingerprint()

    def test_favourable_may_be_a_number_or_boolean(self) -> None:
        frame = people(NUMBERS)
        y = np.array(decisions(frame)) == "yes"
        schema = schema_of(NUMBERS)
        for labels, favourable in ((y, True), (y.astype(int), 1), (y.astype(float), 1)):
            estimator = fitted(logistic(), frame, labels)
            goal = replace(schema, favourable=favourable)
            from_sklearn(estimator, goal, check=frame)

    def test_check_ignores_the_outcome_and_the_order_of_columns(self) -> None:
        case, estimator, _ = converted("columns-by-name")
        frame = fresh(case)[list(EVERY[::-1])].assign(granted="yes")
        from_sklearn(estimator, case.schema, check=frame)


def numeric_case(*steps: Any, names: tuple[str, ...] = NUMBERS) -> tuple[Any, Schema]:
    case = Case(lambda: make_pipeline(*steps, logistic()), names)
    return case.fit(), case.schema


def on_other_columns() -> tuple[Any, Schema]:
    frame = people(NUMBERS).rename(columns={"income": "salary"})
    return fitted(logistic(), frame, decisions(people(NUMBERS))), schema_of(NUMBERS)


def without(goal: Level | None, labels: Sequence[Any] | None = None) -> tuple[Any, Schema]:
    frame = people(NUMBERS)
    y = decisions(frame) if labels is None else labels
    return fitted(logistic(), frame, y), schema_of(NUMBERS, goal)


def of_two_answers() -> tuple[Any, Schema]:
    frame = people(NUMBERS)
    y = np.random.default_rng(0).integers(2, size=(len(frame), 2))
    return fitted(mlp(), frame, y), schema_of(NUMBERS, 1)


def with_gaps_at_fit() -> tuple[Any, Schema]:
    frame = people(("income", "age")).assign(income=np.nan)
    pipeline = make_pipeline(SimpleImputer(keep_empty_features=True), LogisticRegression())
    estimator = pipeline.fit(frame, decisions(people(("age",))))
    estimator[0].statistics_ = np.array([np.nan, 20.0])
    return estimator, schema_of(("income", "age"))


BAD: dict[str, tuple[Callable[[], tuple[Any, Schema]], str]] = {
    "unfitted": (
        lambda: (LogisticRegression(), schema_of(NUMBERS)),
        "LogisticRegression: 'estimator' must be fitted first",
    ),
    "unfitted-pipeline": (
        lambda: (make_pipeline(StandardScaler(), LogisticRegression()), schema_of(NUMBERS)),
        "StandardScaler: 'estimator' must be fitted first",
    ),
    "forest": (
        lambda: (RandomForestClassifier(), schema_of(NUMBERS)),
        "must end in LogisticRegression or MLPClassifier .*; got RandomForest",
    ),
    "no-estimator": (lambda: ("model.pkl", schema_of(NUMBERS)), "must end in Logistic"),
    "empty-pipeline": (
        lambda: (make_pipeline("passthrough"), schema_of(NUMBERS)),
        "must end in Logistic",
    ),
    "no-classifier": (
        lambda: (make_pipeline(StandardScaler()).fit(people(NUMBERS)), schema_of(NUMBERS)),
        "must end in Logistic.* got StandardScaler",
    ),
    "pca": (lambda: numeric_case(PCA(2)), "only have steps ColumnTransformer, .*StandardScaler"),
    "pca-inside-columns": (
        lambda: numeric_case(make_column_transformer((PCA(2), ["income", "age"]))),
        "only have steps .* got PCA",
    ),
    "subclass": (
        lambda: numeric_case(type("Doubling", (StandardScaler,), {})()),
        "only have steps .* got Doubling",
    ),
    "no-favourable": (lambda: without(None), r"classes \['no', 'yes'\]; name outcome"),
    "unknown-favourable": (
        lambda: without("granted"),
        r"one of the estimator's classes \['no', 'yes'\]; got 'granted'",
    ),
    "three-classes": (
        lambda: without("a", ["a", "b", "c", "a"] * 20),
        r"'classes_' must be two: .* got \['a', 'b', 'c'\]",
    ),
    "two-outputs": (of_two_answers, "'classes_' must be two"),
    "other-columns": (
        on_other_columns,
        r"pipeline fitted on other columns \(unknown to the schema: \['salary'\], "
        r"missing: \['income'\]\)",
    ),
    "fewer-columns": (
        lambda: (Case(logistic, ("age",)).fit(), schema_of(("age", "income"))),
        r"unknown to the schema: none, missing: \['income'\]",
    ),
    "narrow-array": (
        lambda: (Case(logistic, ("age",), as_array=True).fit(), schema_of(NUMBERS)),
        "'n_features_in_' must be fitted on one column for each of the schema's 5",
    ),
    "clip": (lambda: numeric_case(MinMaxScaler(clip=True)), "'clip' must be False"),
    "add-indicator": (
        lambda: numeric_case(SimpleImputer(add_indicator=True)),
        "'add_indicator' must be False",
    ),
    "gap-marker": (
        lambda: numeric_case(SimpleImputer(missing_values=1)),
        "'missing_values' must be NaN, None or NA.*got 1",
    ),
    "empty-column": (with_gaps_at_fit, r"a value in every column; without any; got \['income'\]"),
    "function": (
        lambda: numeric_case(FunctionTransformer(np.tanh)),
        "'func' must be None, the identity",
    ),
    "infrequent": (
        lambda: numeric_case(one_hot(max_categories=2), names=TEXTS),
        "'infrequent_categories_' must be empty: pooled levels",
    ),
    "infrequent-ordinal": (
        lambda: numeric_case(OrdinalEncoder(max_categories=2), names=TEXTS),
        "OrdinalEncoder: 'infrequent_categories_' must be empty",
    ),
    "continuous-one-hot": (
        lambda: numeric_case(one_hot(), names=("income",)),
        "OneHotEncoder: 'column income' must be of another kind",
    ),
    "scaled-one-hot": (
        lambda: numeric_case(StandardScaler(), one_hot(), names=("rooms",)),
        "'column rooms' must reach an encoder unscaled",
    ),
    "integer-positions": (
        lambda: numeric_case(OrdinalEncoder(), names=("age",)),
        "OrdinalEncoder: 'column age' must have levels",
    ),
}


class TestBadInput:
    @pytest.mark.parametrize("name", BAD)
    def test_is_refused_with_its_reason(self, name: str) -> None:
        build, reason = BAD[name]
        estimator, schema = build()
        with pytest.raises(ClassifierError, match=reason):
            from_sklearn(estimator, schema)

    def test_text_where_numbers_are_expected(self) -> None:
        estimator = StandardScaler().fit(pd.DataFrame({"gender": [0, 1]}))
        pipeline = Pipeline([("scale", estimator), ("last", LogisticRegression())])
        pipeline.fit(pd.DataFrame({"gender": [0, 1]}), ["no", "yes"])
        with pytest.raises(ClassifierError, match=r"'column gender' must hold numbers here.*'m'"):
            from_sklearn(pipeline, schema_of(("gender",)))

    def test_text_passed_through_to_the_classifier(self) -> None:
        frame = pd.DataFrame({"gender": [0, 1]})
        pipeline = over_columns(("passthrough", ["gender"])).fit(frame, ["no", "yes"])
        with pytest.raises(ClassifierError, match="LogisticRegression: 'column gender' must hold"):
            from_sklearn(pipeline, schema_of(("gender",)))

    @pytest.mark.parametrize(
        "encoder",
        [
            OneHotEncoder(),
            OrdinalEncoder(),
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
        ],
    )
    def test_level_that_the_encoder_never_saw(self, encoder: Any) -> None:
        frame = pd.DataFrame({"job": ["cook", "clerk"] * 4})
        pipeline = make_pipeline(encoder, LogisticRegression()).fit(frame, ["no", "yes"] * 4)
        with pytest.raises(ClassifierError, match=r"unknown to it; got \['nurse'\]"):
            from_sklearn(pipeline, schema_of(("job",)))

    @pytest.mark.parametrize(
        ("name", "reason"), [("job", "unknown to it"), ("age", "have whole numbers as categories")]
    )
    def test_encoder_of_entirely_other_values(self, name: str, reason: str) -> None:
        frame = pd.DataFrame({name: ["A", "B"]})
        encoder = one_hot(handle_unknown="ignore")
        pipeline = make_pipeline(encoder, LogisticRegression()).fit(frame, ["no", "yes"])
        with pytest.raises(ClassifierError, match=reason):
            from_sklearn(pipeline, schema_of((name,)))

    def test_check_finds_a_difference(self) -> None:
        case = CASES["logistic"]
        estimator = case.fit()
        honest = estimator.predict_proba
        estimator.predict_proba = lambda x: honest(x) + 1e-5
        with pytest.raises(ClassifierError, match=r"agree to 1e-06; they differ by; got 1\.0"):
            from_sklearn(estimator, case.schema, check=fresh(case))

    def test_check_with_rows_that_the_estimator_refuses(self) -> None:
        frame = pd.DataFrame({"age": [18, 19, 20, 21]})
        pipeline = make_pipeline(one_hot(), LogisticRegression()).fit(frame, ["no", "yes"] * 2)
        with pytest.raises(ClassifierError, match=r"estimator reads; it says.*unknown categories"):
            from_sklearn(pipeline, schema_of(("age",)), check=pd.DataFrame({"age": [24]}))

    def test_check_that_does_not_fit_the_schema(self) -> None:
        case, estimator, _ = converted("logistic")
        with pytest.raises(TableError, match="missing"):
            from_sklearn(estimator, case.schema, check=fresh(case).drop(columns="age"))
