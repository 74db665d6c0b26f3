"""Any fitted estimator with ``predict_proba``: converted exactly where that can be."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.classifiers.black_box import TOLERANCE, BlackBoxClassifier
from carma.classifiers.boosted import Boosted
from carma.errors import ClassifierError
from carma.schema import Level, Schema
from carma.table import Encoding

__all__ = ["from_estimator"]


def from_estimator(
    estimator: Any,
    schema: Schema,
    *,
    rows: Any = None,
    favourable: Level | None = None,
) -> Classifier:
    """Take any fitted classifier that has ``predict_proba``.

    What ``from_sklearn`` converts, is converted, and has slopes. All else (forests, boosted
    trees, calibrated or stacked classifiers, XGBoost, LightGBM, CatBoost, a class of one's own)
    becomes a ``BlackBoxClassifier`` that asks the estimator itself; so does everything where a
    feature has ``missing = "pass"``: the estimator then sees NaN in its columns. LightGBM and
    XGBoost are asked without a table between, where that gives the very same probabilities.

    Args:
        estimator: Fitted on original units: on a DataFrame whose columns are features of the
            schema, in any order, not necessarily all of them; or on an array whose columns are
            the features in the schema's order.
        schema: The problem.
        rows: DataFrame like the one that it was fitted on, all features as columns. Its column
            types (``category``, for instance) are those that the estimator will see, and the
            two are compared on it, but for rows with gaps that are not passed on.
        favourable: The class that stands for ``schema.favourable``, where the estimator was
            fitted on other labels than those of the outcome column.

    Raises:
        ClassifierError: There is no ``predict_proba``, the estimator is not fitted, was fitted
            on other columns, does not know the favourable class, or gives something else for
            ``rows`` than for what the schema makes of them.
        TableError: ``rows`` do not fit the schema.

    Example:
        >>> from sklearn.ensemble import RandomForestClassifier
        >>> from carma.benchmarks import load
        >>> data = load("loan", rows=200)
        >>> rows = data.frame("classifier")
        >>> x, y = rows[list(data.schema.names)], rows[data.schema.outcome]
        >>> forest = RandomForestClassifier(n_estimators=5, random_state=0).fit(x, y)
        >>> classifier = from_estimator(forest, data.schema, rows=rows)
        >>> classifier.kind, classifier.has_slope
        ('black_box', False)
    """
    owner = "from_estimator"
    table = None if rows is None else Encoding(schema).completed(rows)
    if not hasattr(estimator, "predict_proba"):
        rule = "have predict_proba; around anything else, make a BlackBoxClassifier of a function"
        raise ClassifierError.of(owner, "estimator", rule, estimator)
    exact = _converted(estimator, schema, table, favourable)
    if exact is not None:
        return exact
    known, position = _favourable_position(estimator, schema, favourable)
    names = _columns(estimator, schema)
    types = _column_types(table, schema, names)

    def score(frame: pd.DataFrame) -> Any:
        given = frame if names in (None, list(schema.names)) else frame[names]
        kinds, current = _with_gaps(types, frame), given.dtypes
        # To convert nothing takes as long as to convert.
        other = {name: kind for name, kind in kinds.items() if current[name] != kind}
        given = given.astype(other) if other else given
        answer = np.asarray(estimator.predict_proba(given if names else given.to_numpy()))
        if answer.shape != (len(frame), len(known)):
            rule = (
                f"give shape ({len(frame)}, {len(known)}), one column for each of its classes "
                f"{known}; around anything else, make a BlackBoxClassifier of a function that "
                "gives the favourable probability of each row"
            )
            raise ClassifierError.of(owner, "predict_proba", rule, answer.shape)
        return answer[:, position]

    classifier = BlackBoxClassifier(schema, score)
    columns, seen = names or list(schema.names), None
    if table is not None:
        seen = _check_equal(classifier, estimator, table[columns], position, table)
    direct = Boosted.of(estimator, classifier.encoding, columns, types, position)
    if direct is None or not direct.agrees(score, seen):
        return classifier
    return BlackBoxClassifier(schema, score, direct=direct)


def _converted(
    estimator: Any, schema: Schema, table: pd.DataFrame | None, favourable: Level | None
) -> Classifier | None:
    if type(estimator).__module__.split(".")[0] != "sklearn" or favourable is not None:
        return None
    if any(feature.missing == "pass" for feature in schema.features):
        return None
    from carma.classifiers.sklearn import from_sklearn

    try:
        return from_sklearn(estimator, schema, check=table)
    except ClassifierError:
        # What is wrong with it as such, is found again without the conversion.
        return None


def _favourable_position(
    estimator: Any, schema: Schema, favourable: Level | None
) -> tuple[list[Any], int]:
    """The classes, and which of them is the favourable one."""
    owner = "from_estimator"
    classes = np.asarray(getattr(estimator, "classes_", None))
    # Before its fit, CatBoost says None.
    if classes.tolist() in (None, []):
        rule = "be fitted first, and tell its classes_"
        raise ClassifierError.of(owner, "estimator", rule, estimator)
    if classes.ndim != 1:
        rule = "be one list: a classifier of a single outcome"
        raise ClassifierError.of(owner, "classes_", rule, classes.shape)
    known = classes.tolist()
    wanted = schema.favourable if favourable is None else favourable
    if wanted is None:
        rule = f"be one of the estimator's classes {known}; name outcome and favourable"
        raise ClassifierError.of(owner, "schema.favourable", rule, None)
    if wanted not in known:
        argument = "schema.favourable" if favourable is None else "favourable"
        rule = (
            f"be one of the estimator's classes {known}; where it was fitted on other labels, "
            "say which of these is the favourable one: from_estimator(..., favourable=...), or "
            "'favourable' under [classifier] of a problem file"
        )
        raise ClassifierError.of(owner, argument, rule, wanted)
    return known, known.index(wanted)


def _columns(estimator: Any, schema: Schema) -> list[str] | None:
    """Features that the estimator was fitted on, ``None`` when that was a bare array."""
    names = _fitted_names(estimator)
    if names is None:
        n_features = getattr(estimator, "n_features_in_", None)
        if n_features is None:
            return list(schema.names)
        if n_features != len(schema.names):
            rule = (
                f"be {len(schema.names)}: fitted on an array, its columns have to be the schema's "
                "features in their order; fit it on a DataFrame, or make a schema of its columns"
            )
            raise ClassifierError.of("from_estimator", "n_features_in_", rule, n_features)
        return None
    # LightGBM keeps names with underscores for blanks.
    originals = {re.sub(r"\s", "_", name): name for name in schema.names}
    names = [name if name in schema.names else originals.get(name, name) for name in names]
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        unasked = [name for name in schema.names if name not in names]
        rule = (
            "be features of the schema; this one was fitted on other columns: put encoders into "
            "a pipeline with it, so that it takes the columns of the original table, or add the "
            f"features to the schema (unknown to it: {unknown}; not among the columns: "
            f"{unasked or 'none'})"
        )
        raise ClassifierError.of("from_estimator", "feature_names_in_", rule, names)
    return names


def _fitted_names(estimator: Any) -> list[str] | None:
    # scikit-learn and XGBoost; CatBoost; LightGBM.
    for attribute in ("feature_names_in_", "feature_names_", "feature_name_"):
        found = getattr(estimator, attribute, None)
        if found is not None:
            names = [str(name) for name in found]
            made_up = ([f"{start}{i}" for i in range(len(names))] for start in ("Column_", ""))
            return None if names in made_up else names
    return None


def _column_types(
    table: pd.DataFrame | None, schema: Schema, names: list[str] | None
) -> dict[str, Any]:
    """Types of columns that the estimator needs to see as it saw them."""
    if table is None or names is None:
        return {}
    types: dict[str, Any] = {}
    for name in (name for name in names if name in table):
        kind = table[name].dtype
        if isinstance(kind, pd.CategoricalDtype):
            known = kind.categories.tolist()
            unknown = [level for level in schema[name].levels if level not in known]
            if unknown:
                rule = f"have every level of the schema as a category; absent: {unknown}"
                raise ClassifierError.of("from_estimator", f"rows, column {name}", rule, known)
        if isinstance(kind, pd.CategoricalDtype) or schema[name].has_levels:
            types[name] = kind
    return types


def _with_gaps(types: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """The same types, but floats where a column has gaps and its type no way to hold them."""
    return {
        name: np.float64
        if isinstance(kind, np.dtype) and kind.kind in "iub" and frame[name].hasnans
        else kind
        for name, kind in types.items()
    }


def _check_equal(
    classifier: Classifier,
    estimator: Any,
    given: pd.DataFrame,
    position: int,
    table: pd.DataFrame,
) -> Tensor:
    """Refuse rows that mean something else to the two; returns those that were compared."""
    x = classifier.encoding.encode(table)
    is_seen = (x.isfinite() | classifier.encoding.passed(x)).all(dim=1)
    if not bool(is_seen.any()):
        return x[is_seen]
    ours = classifier.probability(x[is_seen]).numpy()
    given = given[is_seen.numpy()]
    names = _fitted_names(estimator)
    has_names = names is not None or not hasattr(estimator, "n_features_in_")
    theirs = estimator.predict_proba(given if has_names else given.to_numpy())[:, position]
    unknown = np.flatnonzero(np.isnan(theirs))
    if len(unknown):
        label = table.index[unknown[:1]].tolist()[0]
        rule = f"be rows with a probability; of {len(table)}, {len(unknown)} have none, first"
        raise ClassifierError.of("from_estimator", "rows", rule, label)
    apart = float(np.abs(ours - theirs).max())
    if not apart <= 2 * TOLERANCE:
        rule = (
            "be rows that the schema does not change; the estimator's probabilities of these and "
            "of what the schema makes of them differ by"
        )
        raise ClassifierError.of("from_estimator", "rows", rule, apart)
    return x[is_seen]
