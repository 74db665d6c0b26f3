"""Boosted trees of LightGBM and XGBoost, asked with numbers from model space: no table between."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from carma.schema import Feature
from carma.table import Encoding

__all__ = ["Boosted"]

Numbers = NDArray[np.float64]

# Rows that are made up to compare with the estimator's own answers.
N_TRIED = 256
# Numbers without bounds are tried from hundredths to millions.
SIZES = (-2, 6)


class Boosted:
    """Probabilities of boosted trees for rows of model space.

    To make a table of few rows takes a hundred times as long as to ask the trees about them, so
    their library is given the matrix that it would make of that table: numbers as they are,
    categories counted as in its own lists, and NaN for gaps and for categories that it does not
    know.

    Args:
        ask: From such a matrix, shape ``(n, k)``, to probabilities of the second class, ``(n,)``.
        encoding: Of the schema.
        names: Features in the order of the matrix's columns.
        numbers: What the matrix holds for each level, for features with levels.
        position: Which of the two classes is the favourable one.

    Example:
        >>> from carma import CausalGraph, Feature, Schema
        >>> features = Feature("job", "nominal", levels=("cook", "clerk")), Feature("income")
        >>> encoding = Encoding(Schema(features, CausalGraph(("job", "income"))))
        >>> job_first = Boosted(lambda x: x[:, 0], encoding, ["job"], {"job": [0.25, 0.75]}, 1)
        >>> job_first(np.array([[0.0, 1.0, 30.0], [1.0, 0.0, 30.0]])).tolist()
        [0.75, 0.25]
    """

    def __init__(
        self,
        ask: Callable[[Numbers], Numbers],
        encoding: Encoding,
        names: Sequence[str],
        numbers: dict[str, list[float]],
        position: int,
    ) -> None:
        self._ask, self._encoding, self._position = ask, encoding, position
        features = [encoding.schema[name] for name in names]
        places = range(len(features))
        self._sources = np.array([encoding.column(name) for name in names], dtype=np.intp)
        self._starts = [encoding.column(name) for name in encoding.schema.names]
        self._owners = [encoding.schema.names.index(name) for name in names]
        self._whole = [i for i in places if features[i].kind == "integer"]
        self._nominal = [
            (i, encoding.block(names[i]), np.array(numbers[names[i]]))
            for i in places
            if features[i].kind == "nominal"
        ]
        self._ordered = [
            i for i in places if features[i].has_levels and features[i].kind != "nominal"
        ]
        # Rows of equal length: what is repeated is never the first to be found.
        self._codes = _padded([features[i].codes for i in self._ordered])
        self._numbers = _padded([numbers[names[i]] for i in self._ordered])

    @classmethod
    def of(
        cls,
        estimator: Any,
        encoding: Encoding,
        names: Sequence[str],
        types: dict[str, Any],
        position: int,
    ) -> Self | None:
        """Take a fitted classifier of two classes, where it is one of these libraries' own.

        Args:
            estimator: Fitted.
            encoding: Of the schema.
            names: Features in the order of its columns.
            types: Of the columns that have to be ``category``.
            position: Which of its classes is the favourable one.

        Returns:
            ``None`` where it has to be asked with a table.
        """
        home = f"{type(estimator).__module__.split('.')[0]}.{type(estimator).__name__}"
        libraries = {"lightgbm.LGBMClassifier": _lightgbm, "xgboost.XGBClassifier": _xgboost}
        if home not in libraries or len(estimator.classes_) != 2:
            return None
        kinds = {name: types[name] for name in names if _is_category(types.get(name))}
        found = libraries[home](estimator, [kind.categories.tolist() for kind in kinds.values()])
        if found is None:
            return None
        ask, known = found
        categories = dict(zip(kinds, known, strict=True))
        numbers: dict[str, list[float]] = {}
        for name in names:
            feature = encoding.schema[name]
            if feature.has_levels:
                numbers[name] = _level_numbers(feature, categories.get(name))
            if (name in categories and not feature.has_levels) or numbers.get(name) == []:
                return None
        return cls(ask, encoding, names, numbers, position)

    def __call__(self, x: Numbers) -> Numbers:
        """Probability of the favourable class.

        Args:
            x: Shape ``(n, d)``, model space; discrete columns are snapped to what exists, as in
                ``Encoding.decode``, and NaN is a gap.

        Returns:
            Shape ``(n,)``.
        """
        second = self._ask(self._matrix(x))
        return second if self._position == 1 else 1 - second

    def agrees(self, score: Callable[[pd.DataFrame], Any], seen: Tensor | None) -> bool:
        """Whether it gives the very same as a table does.

        Args:
            score: From tables in original units to probabilities.
            seen: Rows to compare on, shape ``(m, d)``, model space. Others are made up besides:
                with every level, with gaps where these are passed, and with numbers from these
                rows, or else from everywhere within the bounds.

        Returns:
            False, too, where one of the two cannot be asked.
        """
        x = _made_up(self._encoding, seen)
        x = x if seen is None else torch.cat([seen, x])
        try:
            by_table = np.asarray(score(self._encoding.decode(x)))
            return np.array_equal(self(x.numpy()), by_table, equal_nan=True)
        except Exception:
            return False

    def _matrix(self, x: Numbers) -> Numbers:
        matrix = x.take(self._sources, axis=1)
        if self._whole:
            matrix[:, self._whole] = np.rint(matrix[:, self._whole])
        if self._ordered:
            distance = np.abs(matrix[:, self._ordered, None] - self._codes)
            found = self._numbers[np.arange(len(self._ordered)), distance.argmin(axis=2)]
            matrix[:, self._ordered] = found
        for i, block, numbers in self._nominal:
            matrix[:, i] = numbers[x[:, block].argmax(axis=1)]
        is_gap = np.isnan(x)
        if is_gap.any():
            by_feature = np.logical_or.reduceat(is_gap, self._starts, axis=1)
            matrix[by_feature[:, self._owners]] = np.nan
        return matrix


def _lightgbm(
    estimator: Any, categories: list[list[Any]]
) -> tuple[Callable[[Numbers], Numbers], list[list[Any]]] | None:
    """How to ask it, and its own lists of categories, for the columns that have any."""
    settings, booster = estimator.get_params(), estimator.booster_
    known = booster.pandas_categorical or []
    # Settings of predictions, such as to stop them early, are its own affair.
    if len(known) != len(categories) or any(name.startswith("pred") for name in settings):
        return None
    n_threads = _n_threads(settings["n_jobs"])
    return lambda matrix: np.asarray(booster.predict(matrix, num_threads=n_threads)), known


def _xgboost(
    estimator: Any, categories: list[list[Any]]
) -> tuple[Callable[[Numbers], Numbers], list[list[Any]]] | None:
    """How to ask it, and the lists of categories that it counts by: those of the table."""
    settings, booster = estimator.get_params(), estimator.get_booster()
    if settings["booster"] not in (None, "gbtree"):
        return None
    stopped = getattr(estimator, "best_iteration", None)
    options = {
        "iteration_range": (0, 0 if stopped is None else stopped + 1),
        "missing": settings["missing"],
        "validate_features": False,
    }
    return lambda matrix: np.asarray(booster.inplace_predict(matrix, **options)), categories


def _n_threads(n_jobs: int | None) -> int:
    """As many threads as scikit-learn means by a number of jobs; 0 leaves it to the library."""
    if n_jobs is None or n_jobs >= 0:
        return n_jobs or 0
    return max((os.cpu_count() or 1) + 1 + n_jobs, 1)


def _is_category(kind: Any) -> bool:
    return isinstance(kind, pd.CategoricalDtype)


def _level_numbers(feature: Feature, categories: list[Any] | None) -> list[float]:
    """What the matrix holds for each level; nothing where a level is no number."""
    if categories is not None:
        places = {category: float(i) for i, category in enumerate(categories)}
        return [places.get(level, np.nan) for level in feature.levels]
    if any(isinstance(level, str) for level in feature.levels):
        return []
    return [float(level) for level in feature.levels]


def _padded(rows: Sequence[Sequence[float]]) -> Numbers:
    width = max((len(row) for row in rows), default=0)
    return np.array([[*row, *[row[-1]] * (width - len(row))] for row in rows], dtype=np.float64)


def _made_up(encoding: Encoding, seen: Tensor | None) -> Tensor:
    draws = np.random.default_rng(0)
    features = encoding.schema.features
    n = max(N_TRIED, *(len(feature.levels) for feature in features))
    x = torch.empty(n, encoding.n_columns, dtype=torch.float64)
    for feature in features:
        where = encoding.block(feature.name)
        if feature.has_levels:
            each = torch.stack([encoding.at_level(feature, i) for i in range(len(feature.levels))])
            x[:, where] = each[torch.from_numpy(draws.permutation(n) % len(each))]
        else:
            column = None if seen is None else seen[:, where.start].numpy()
            x[:, where.start] = torch.from_numpy(_tried_numbers(feature, column, n, draws))
    may_be_gap = encoding.passed(torch.full_like(x, torch.nan))
    owners = np.asarray(encoding.owners)
    is_gap = torch.from_numpy(draws.random((n, len(features))) < 0.1)[:, owners]
    return torch.where(may_be_gap & is_gap, torch.nan, x)


def _tried_numbers(
    feature: Feature, seen: Numbers | None, n: int, draws: np.random.Generator
) -> Numbers:
    if seen is not None and np.isfinite(seen).any():
        return draws.choice(seen[np.isfinite(seen)], n)
    if feature.bounds is not None:
        return draws.uniform(*feature.bounds, n)
    return draws.normal(size=n) * 10 ** draws.uniform(*SIZES, n)
