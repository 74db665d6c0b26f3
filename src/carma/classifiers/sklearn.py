"""Exact conversion of fitted scikit-learn pipelines; needs the extra ``sklearn``.

A table is followed through the fitted pipeline column by column. A column is either still the
feature as the table has it (``_Raw``) or a number that is affine in what the first layer sees
(``_Affine``). What arrives at the classifier is affine, so every step before it folds into the
classifier's first layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.validation import check_is_fitted

from carma.classifiers.network import Activation, Input, NetworkClassifier
from carma.errors import ClassifierError
from carma.schema import Feature, Schema
from carma.table import Encoding

__all__ = ["from_sklearn"]

TOLERANCE = 1e-6

_Array = NDArray[np.float64]
_R = TypeVar("_R")


def from_sklearn(
    estimator: Any, schema: Schema, *, check: pd.DataFrame | None = None
) -> NetworkClassifier:
    """Convert a fitted scikit-learn classifier exactly, to a network differentiable in its rows.

    ``from_estimator`` takes what cannot be converted too, and asks it for its scores.

    The result's ``probability`` equals ``estimator.predict_proba(...)[:, favourable]`` on every
    row that the schema allows. Between two levels of an ordinal or integer feature, where the
    estimator is not defined, one-hot indicators are interpolated linearly.

    Args:
        estimator: ``LogisticRegression``, ``MLPClassifier``, or a ``Pipeline`` that ends in one,
            over ``StandardScaler``, ``MinMaxScaler``, ``MaxAbsScaler``, ``RobustScaler``,
            ``OneHotEncoder``, ``OrdinalEncoder``, ``SimpleImputer`` and ``ColumnTransformer``,
            nested as deep as you like. It was fitted on original units: on a DataFrame whose
            columns are the features, in any order, or on an array whose columns are the
            features in the schema's order. A ``ColumnTransformer`` may drop the features that
            it makes no use of.
        schema: The problem; its ``favourable`` value is one of the estimator's two classes.
        check: Rows in original units, all features as columns. With them, the two are compared,
            where there are no gaps.

    Returns:
        A classifier on model space, float64, every scaling folded into its first layer.

    Raises:
        ClassifierError: The estimator is not fitted, of another kind, has other columns or
            classes than the schema, has a step that is not affine, or differs from the result
            on ``check`` by more than 1e-6.
        TableError: ``check`` does not fit the schema.

    Example:
        >>> import numpy as np
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from carma.benchmarks import load
        >>> data = load("loan", rows=400)
        >>> rows = data.frame("classifier")
        >>> x, y = rows[list(data.schema.names)], rows[data.schema.outcome]
        >>> estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
        >>> classifier = from_sklearn(estimator, data.schema, check=x)
        >>> ours = classifier.probability(data.encoded("classifier"))
        >>> bool(np.allclose(ours, estimator.predict_proba(x)[:, 1]))
        True
    """
    *steps, last = _leaves(estimator) or [estimator]
    rules = [_rule(_STEPS, step) for step in steps]
    layers = _rule(_CLASSIFIERS, last)
    favourable = _favourable_position(last, schema)
    encoding = Encoding(schema)
    columns = _entry_columns([*steps, last][0], encoding)
    for step, rule in zip(steps, rules, strict=True):
        columns = rule(step, columns)
    weights, biases, activation = layers(last)
    inputs, weights[0], biases[0] = _fold(
        [_number(last, column) for column in columns], weights[0], biases[0], encoding.n_columns
    )
    if favourable == 0:
        weights[-1], biases[-1] = -weights[-1], -biases[-1]
    classifier = NetworkClassifier(
        schema,
        inputs,
        [torch.from_numpy(weight) for weight in weights],
        [torch.from_numpy(bias) for bias in biases],
        activation,
    )
    if check is not None:
        _check_equal(classifier, estimator, _names([*steps, last][0]), favourable, check)
    return classifier


@dataclass(frozen=True)
class _Affine:
    """One number a row: ``offset`` plus the weighted sum of inputs."""

    name: str
    terms: Mapping[Input, float]
    offset: float = 0.0

    def scaled(self, scale: float, offset: float = 0.0) -> _Affine:
        terms = {i: scale * weight for i, weight in self.terms.items()}
        return _Affine(self.name, terms, scale * self.offset + offset)


@dataclass(frozen=True)
class _Raw:
    """One column as the table has it; ``column`` is its first position in model space."""

    feature: Feature
    column: int

    @property
    def name(self) -> str:
        return self.feature.name

    def by_level(self, values: Sequence[float]) -> _Affine:
        """Return the number that is ``values[i]`` where the feature has its level ``i``."""
        if self.feature.kind == "nominal":
            block = enumerate(values, start=self.column)
            return _Affine(self.name, {Input(i): value for i, value in block if value})
        codes, heights = np.asarray(self.feature.codes), np.asarray(values, dtype=np.float64)
        # A line, where one fits, has a slope at the levels too; a hat is flat at its peak.
        slope = (heights[-1] - heights[0]) / (codes[-1] - codes[0])
        line = heights[0] + slope * (codes - codes[0])
        if np.allclose(line, heights, rtol=0, atol=1e-12 * max(1.0, np.abs(heights).max())):
            offset = float(heights[0] - slope * codes[0])
            return _Affine(self.name, {Input(self.column): float(slope)}, offset)
        hats = zip(_hats(codes), values, strict=True)
        return _Affine(self.name, {Input(self.column, hat): v for hat, v in hats if v})

    def indicator(self, category: Any) -> _Affine:
        """Return the number that is 1 where the feature has this value and 0 elsewhere."""
        if self.feature.has_levels:
            return self.by_level([float(level == category) for level in self.feature.levels])
        if not _is_whole(category):
            return _Affine(self.name, {})
        peak = float(category)
        return _Affine(self.name, {Input(self.column, (peak - 1, peak, peak + 1)): 1.0})


_Column = _Raw | _Affine
_Step = Callable[[Any, list[_Column]], list[_Column]]
_Layers = tuple[list[_Array], list[_Array], Activation]


def _leaves(estimator: Any) -> list[Any]:
    """Unroll nested pipelines into the steps that do something."""
    if type(estimator) is Pipeline:
        return [leaf for _, step in estimator.steps for leaf in _leaves(step)]
    idle = estimator is None or (isinstance(estimator, str) and estimator == "passthrough")
    return [] if idle else [estimator]


def _rule(rules: Mapping[type, _R], estimator: Any) -> _R:
    """Look up by exact type: a subclass may compute something else."""
    if type(estimator) not in rules:
        place = "end in" if rules is _CLASSIFIERS else "only have steps"
        names = sorted(kind.__name__ for kind in rules)
        rule = f"{place} {', '.join(names[:-1])} or {names[-1]} (from_estimator takes all others)"
        raise ClassifierError.of("from_sklearn", "estimator", rule, estimator)
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise _refusal(estimator, "estimator", "be fitted first", estimator) from error
    return rules[type(estimator)]


def _refusal(step: Any, argument: str, rule: str, value: Any) -> ClassifierError:
    return ClassifierError.of(f"from_sklearn, {type(step).__name__}", argument, rule, value)


def _favourable_position(classifier: Any, schema: Schema) -> int:
    classes = np.asarray(classifier.classes_).tolist()
    if len(classes) != 2 or getattr(classifier, "n_outputs_", 1) != 1:
        raise _refusal(classifier, "classes_", "be two: accepted or not", classes)
    if schema.favourable is None:
        rule = f"be one of the estimator's classes {classes}; name outcome and favourable"
        raise ClassifierError.of("from_sklearn", "schema.favourable", rule, None)
    if schema.favourable not in classes:
        rule = f"be one of the estimator's classes {classes}"
        raise ClassifierError.of("from_sklearn", "schema.favourable", rule, schema.favourable)
    position: int = classes.index(schema.favourable)
    return position


def _names(first: Any) -> list[str] | None:
    """Columns that the estimator was fitted on, ``None`` when that was a bare array."""
    names = getattr(first, "feature_names_in_", None)
    return None if names is None else list(names)


def _entry_columns(first: Any, encoding: Encoding) -> list[_Column]:
    """The table's columns, in the order in which the first step saw them."""
    schema, names = encoding.schema, _names(first)
    if names is None:
        names = list(schema.names)
        if first.n_features_in_ != len(names):
            rule = f"be fitted on one column for each of the schema's {len(names)} features"
            raise _refusal(first, "n_features_in_", rule, first.n_features_in_)
    unknown = [name for name in names if name not in schema.names]
    missing = [name for name in schema.names if name not in names]
    if unknown or missing:
        rule = (
            "be the schema's features; this is a pipeline fitted on other columns "
            f"(unknown to the schema: {unknown or 'none'}, missing: {missing or 'none'})"
        )
        raise _refusal(first, "feature_names_in_", rule, names)
    return [_Raw(schema[name], encoding.column(name)) for name in names]


def _number(step: Any, column: _Column) -> _Affine:
    """Read a column as the number that scikit-learn sees in it."""
    if isinstance(column, _Affine):
        return column
    feature = column.feature
    if not feature.has_levels:
        return _Affine(feature.name, {Input(column.column): 1.0})
    numbers = [float(level) for level in feature.levels if isinstance(level, (int, float))]
    if len(numbers) < len(feature.levels):
        rule = "hold numbers here: encode it with OneHotEncoder or OrdinalEncoder first"
        raise _refusal(step, f"column {feature.name}", rule, feature.levels)
    return column.by_level(numbers)


def _fold(
    columns: Sequence[_Affine], weight: _Array, bias: _Array, n_columns: int
) -> tuple[list[Input], _Array, _Array]:
    """Replace a layer over ``columns`` by the same layer over inputs, all of model space first."""
    hats = {i: None for column in columns for i in column.terms if i.hat is not None}
    inputs = [*(Input(i) for i in range(n_columns)), *hats]
    place = {i: k for k, i in enumerate(inputs)}
    spread = np.zeros((len(columns), len(inputs)))
    for row, column in zip(spread, columns, strict=True):
        for i, value in column.terms.items():
            row[place[i]] = value
    offsets = np.array([column.offset for column in columns])
    return inputs, weight @ spread, bias + weight @ offsets


def _hats(codes: _Array) -> list[tuple[float, float, float]]:
    """One hat a level; the outer flanks of the first and last mirror the inner ones."""
    gaps = np.diff(codes)
    left = codes - np.concatenate([gaps[:1], gaps])
    right = codes + np.concatenate([gaps, gaps[-1:]])
    return [(float(a), float(b), float(c)) for a, b, c in zip(left, codes, right, strict=True)]


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value == int(value)


def _affine_step(
    step: Any, columns: list[_Column], scale: _Array | None, offset: _Array | None
) -> list[_Column]:
    """``x * scale + offset``, column by column; ``None`` stands for ones or zeros."""
    scale = np.ones(len(columns)) if scale is None else scale
    offset = np.zeros(len(columns)) if offset is None else offset
    return [
        _number(step, column).scaled(float(a), float(b))
        for column, a, b in zip(columns, scale, offset, strict=True)
    ]


def _standard(step: Any, columns: list[_Column]) -> list[_Column]:
    return _centred(step, columns, step.mean_ if step.with_mean else None, step.scale_)


def _robust(step: Any, columns: list[_Column]) -> list[_Column]:
    return _centred(step, columns, step.center_, step.scale_)


def _centred(
    step: Any, columns: list[_Column], centre: _Array | None, spread: _Array | None
) -> list[_Column]:
    scale = np.ones(len(columns)) if spread is None else 1 / spread
    return _affine_step(step, columns, scale, None if centre is None else -centre * scale)


def _min_max(step: Any, columns: list[_Column]) -> list[_Column]:
    _refuse_clip(step)
    return _affine_step(step, columns, step.scale_, step.min_)


def _max_abs(step: Any, columns: list[_Column]) -> list[_Column]:
    _refuse_clip(step)
    return _affine_step(step, columns, 1 / step.scale_, None)


def _refuse_clip(step: Any) -> None:
    # MaxAbsScaler learned to clip in scikit-learn 1.8.
    if getattr(step, "clip", False):
        rule = "be False: beyond the training range a clipped column has no slope"
        raise _refusal(step, "clip", rule, True)


def _imputer(step: Any, columns: list[_Column]) -> list[_Column]:
    """Pass everything on: gaps never get this far."""
    if step.add_indicator:
        raise _refusal(step, "add_indicator", "be False: gaps are filled in before", True)
    if not pd.isna(step.missing_values):
        rule = "be NaN, None or NA: a value that the schema allows is no gap"
        raise _refusal(step, "missing_values", rule, step.missing_values)
    empty = [c.name for c, s in zip(columns, step.statistics_, strict=True) if pd.isna(s)]
    if empty:
        rule = "be fitted on a value in every column; without any"
        raise _refusal(step, "estimator", rule, empty)
    return columns


def _function(step: Any, columns: list[_Column]) -> list[_Column]:
    if step.func is not None:
        rule = "be None, the identity: carma cannot read code"
        raise _refusal(step, "func", rule, step.func)
    return columns


def _one_hot(step: Any, columns: list[_Column]) -> list[_Column]:
    _refuse_infrequent(step)
    dropped = [None] * len(columns) if step.drop_idx_ is None else step.drop_idx_
    indicators: list[_Column] = []
    for column, known, drop in zip(columns, step.categories_, dropped, strict=True):
        categories = known.tolist()
        raw = _encodable(step, column, categories, strict=step.handle_unknown == "error")
        indicators += [raw.indicator(c) for i, c in enumerate(categories) if i != drop]
    return indicators


def _ordinal(step: Any, columns: list[_Column]) -> list[_Column]:
    _refuse_infrequent(step)
    unknown = step.unknown_value
    strict = unknown is None or not math.isfinite(unknown)
    numbers: list[_Column] = []
    for column, known in zip(columns, step.categories_, strict=True):
        categories = known.tolist()
        raw = _encodable(step, column, categories, strict=strict)
        if not raw.feature.has_levels:
            rule = "have levels: the position among the values seen is not affine"
            raise _refusal(step, f"column {raw.name}", rule, raw.feature.kind)
        positions = {category: float(i) for i, category in enumerate(categories)}
        numbers.append(raw.by_level([positions.get(v, unknown) for v in raw.feature.levels]))
    return numbers


def _encodable(step: Any, column: _Column, categories: list[Any], *, strict: bool) -> _Raw:
    """Refuse what an encoder cannot have been meant for: other values than the feature's."""
    argument = f"column {column.name}"
    if isinstance(column, _Affine):
        raise _refusal(step, argument, "reach an encoder unscaled", "a computed column")
    feature = column.feature
    if feature.kind == "continuous":
        rule = "be of another kind: the indicator of one continuous value has no slope"
        raise _refusal(step, argument, rule, feature.kind)
    unknown = [level for level in feature.levels if level not in categories]
    if feature.has_levels and (unknown if strict else len(unknown) == len(feature.levels)):
        rule = f"have only levels that the encoder was fitted on {categories}; unknown to it"
        raise _refusal(step, argument, rule, unknown)
    if not feature.has_levels and not any(_is_whole(category) for category in categories):
        raise _refusal(step, argument, "have whole numbers as categories", categories)
    return column


def _refuse_infrequent(step: Any) -> None:
    # The attribute exists only where min_frequency or max_categories is set.
    pooled = [group for group in getattr(step, "infrequent_categories_", []) if group is not None]
    if pooled:
        rule = "be empty: pooled levels are not supported, fit without min_frequency and "
        rule += "max_categories"
        raise _refusal(step, "infrequent_categories_", rule, [g.tolist() for g in pooled])


def _column_transformer(step: Any, columns: list[_Column]) -> list[_Column]:
    factors = step.transformer_weights or {}
    gathered: list[_Column] = []
    for name, transformer, key in step.transformers_:
        block = [columns[i] for i in _positions(_names(step), len(columns), key)]
        if not block or (isinstance(transformer, str) and transformer == "drop"):
            continue
        for leaf in _leaves(transformer):
            block = _rule(_STEPS, leaf)(leaf, block)
        if factors.get(name) is not None:
            block = [_number(step, column).scaled(factors[name]) for column in block]
        gathered += block
    return gathered


def _positions(names: list[str] | None, n: int, key: Any) -> list[int]:
    """Resolve a ``ColumnTransformer`` key as pandas does: labels, else positions or a mask."""
    table = pd.DataFrame([range(n)], columns=names)
    if isinstance(key, slice):
        entries = [key.start, key.stop]
    else:
        entries = np.ravel(np.asarray(key, dtype=object)).tolist()
        key = np.array(entries) if entries else []
    labelled = any(isinstance(entry, str) for entry in entries)
    chosen = table.loc[:, key] if labelled else table.iloc[:, key]
    return [int(i) for i in np.ravel(chosen)]


def _logistic(classifier: Any) -> _Layers:
    coefficients = classifier.coef_
    if hasattr(coefficients, "toarray"):
        coefficients = coefficients.toarray()
    # Before scikit-learn 1.8, two classes could be fitted as a softmax over (-f, f).
    twice = 2.0 if getattr(classifier, "multi_class", None) == "multinomial" else 1.0
    weight, bias = np.asarray(coefficients, float), np.ravel(classifier.intercept_).astype(float)
    return [twice * weight], [twice * np.broadcast_to(bias, 1)], "identity"


def _perceptron(classifier: Any) -> _Layers:
    weights = [np.array(w.T, dtype=np.float64, order="C") for w in classifier.coefs_]
    biases = [np.array(b, dtype=np.float64) for b in classifier.intercepts_]
    return weights, biases, classifier.activation


_STEPS: dict[type, _Step] = {
    ColumnTransformer: _column_transformer,
    FunctionTransformer: _function,
    MaxAbsScaler: _max_abs,
    MinMaxScaler: _min_max,
    OneHotEncoder: _one_hot,
    OrdinalEncoder: _ordinal,
    RobustScaler: _robust,
    SimpleImputer: _imputer,
    StandardScaler: _standard,
}

_CLASSIFIERS: dict[type, Callable[[Any], _Layers]] = {
    LogisticRegression: _logistic,
    MLPClassifier: _perceptron,
}


def _check_equal(
    classifier: NetworkClassifier,
    estimator: Any,
    names: list[str] | None,
    favourable: int,
    frame: pd.DataFrame,
) -> None:
    table = classifier.encoding.completed(frame)
    x = classifier.encoding.encode(table)
    is_whole = x.isfinite().all(dim=1)
    if not bool(is_whole.any()):
        return
    table = table[is_whole.numpy()]
    with torch.no_grad():
        ours = classifier.probability(x[is_whole]).numpy()
    given = table[list(classifier.schema.names)].to_numpy() if names is None else table[names]
    try:
        theirs = estimator.predict_proba(given)[:, favourable]
    except ValueError as error:
        rule = "be rows that the estimator reads; it says"
        raise ClassifierError.of("from_sklearn", "check", rule, str(error)) from error
    apart = float(np.abs(ours - theirs).max())
    if not apart <= TOLERANCE:
        rule = f"be rows where both probabilities agree to {TOLERANCE}; they differ by"
        raise ClassifierError.of("from_sklearn", "check", rule, apart)
