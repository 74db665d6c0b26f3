"""Classifiers by name: the two of this package, and two libraries of boosted trees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from carma.classifiers.base import Classifier
from carma.classifiers.estimator import from_estimator
from carma.classifiers.neural import ClassifierSettings, fit_classifier
from carma.errors import SettingsError
from carma.schema import Schema
from carma.table import labels, to_pandas

__all__ = ["CLASSIFIERS", "fit_named"]

CLASSIFIERS = ("logistic", "mlp", "lightgbm", "xgboost")
# Small trees: enough for tables of this kind, and quick to ask.
N_TREES, DEPTH, RATE = 100, 4, 0.1


def fit_named(
    name: str, schema: Schema, table: Any, settings: ClassifierSettings | None = None
) -> Classifier:
    """Fit a classifier of a kind that is told by its name.

    Args:
        name: ``logistic`` or ``mlp``: this package's, with slopes; ``lightgbm`` or ``xgboost``:
            boosted trees, which are asked as they are.
        schema: The problem.
        table: Rows with the outcome column.
        settings: Of ``mlp``, and the training of ``logistic``; boosted trees take its seed.

    Raises:
        SettingsError: The name is unknown.
        ModuleNotFoundError: The library of that name is not installed.
        TableError: See ``fit_classifier``.

    Example:
        >>> from carma import TrainingSettings
        >>> from carma.benchmarks import load
        >>> data, quick = load("loan", rows=100), TrainingSettings(epochs=2)
        >>> rows = data.frame("classifier")
        >>> fit_named("logistic", data.schema, rows, ClassifierSettings(training=quick)).has_slope
        True
    """
    if name not in CLASSIFIERS:
        raise SettingsError.of("classifier", "name", f"be one of {', '.join(CLASSIFIERS)}", name)
    settings = settings or ClassifierSettings()
    if name in ("logistic", "mlp"):
        hidden = () if name == "logistic" else settings.hidden
        return fit_classifier(schema, table, replace(settings, hidden=hidden), progress=False)
    rows = to_pandas(table)
    y = labels(schema, rows).int().numpy()
    x = _as_categories(schema, rows)
    estimator = _lightgbm(settings) if name == "lightgbm" else _xgboost(settings)
    return from_estimator(estimator.fit(x, y), schema, rows=x, favourable=1)


def _as_categories(schema: Schema, rows: pd.DataFrame) -> pd.DataFrame:
    """The features, those whose levels are no numbers or have no order as categories."""
    x = rows[list(schema.names)].copy()
    for feature in schema.features:
        if feature.kind == "nominal" or any(isinstance(level, str) for level in feature.levels):
            x[feature.name] = pd.Categorical(x[feature.name], categories=list(feature.levels))
    return x


def _lightgbm(settings: ClassifierSettings) -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(
        n_estimators=N_TREES,
        max_depth=DEPTH,
        learning_rate=RATE,
        random_state=settings.training.seed,
        n_jobs=1,
        verbose=-1,
    )


def _xgboost(settings: ClassifierSettings) -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(
        n_estimators=N_TREES,
        max_depth=DEPTH,
        learning_rate=RATE,
        random_state=settings.training.seed,
        n_jobs=1,
        enable_categorical=True,
    )
