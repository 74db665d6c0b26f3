"""Tables in original units to tensors in model space, and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property
from numbers import Real
from typing import Any, NoReturn

import narwhals as nw
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from carma.errors import SchemaError, TableError
from carma.schema import Feature, Schema

__all__ = ["Encoding", "Statistics", "labels", "to_pandas"]


class Encoding:
    """The invertible map between a table and a tensor.

    Model space is float64 and keeps original units: a numeric feature is one column as it is;
    a binary or ordinal feature is one column with its level's code (``Feature.codes``); a
    nominal feature is one 0/1 column a level. Each model standardises inside itself. A gap is
    NaN in every column of its feature.

    Args:
        schema: The problem.

    Example:
        >>> from carma import CausalGraph, Feature, Schema
        >>> schema = Schema(
        ...     (Feature("job", "nominal", levels=("clerk", "cook")), Feature("income")),
        ...     CausalGraph.from_edges([("job", "income")]),
        ... )
        >>> people = pd.DataFrame({"job": ["cook"], "income": [12.5]}, index=["ann"])
        >>> encoding = Encoding(schema)
        >>> encoding.columns, encoding.encode(people).tolist()
        (('job=clerk', 'job=cook', 'income'), [[0.0, 1.0, 12.5]])
        >>> encoding.decode(encoding.encode(people), people.index).equals(people)
        True
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        owners: list[int] = []
        columns: list[str] = []
        for position, feature in enumerate(schema.features):
            if feature.kind == "nominal":
                columns += [f"{feature.name}={level}" for level in feature.levels]
                owners += [position] * len(feature.levels)
            else:
                columns.append(feature.name)
                owners.append(position)
        self.columns = tuple(columns)
        self.owners = tuple(owners)

    @property
    def n_columns(self) -> int:
        """Width ``d`` of model space."""
        return len(self.columns)

    def column(self, name: str) -> int:
        """Position of a feature's (first) column in model space.

        Raises:
            SchemaError: There is no such feature.
        """
        if name not in self.schema.names:
            rule = f"be one of {', '.join(self.schema.names)}"
            raise SchemaError.of("Encoding", "name", rule, name)
        return self.owners.index(self.schema.names.index(name))

    def block(self, name: str) -> slice:
        """Positions of all columns of a feature in model space."""
        start = self.column(name)
        return slice(start, start + self.owners.count(self.owners[start]))

    @cached_property
    def actionable(self) -> Tensor:
        """Positions of the columns that plans set to a number, shape ``(k,)``, int64.

        Features that are set level by level (``Feature.is_switch``) are not among them.
        """
        switches = {feature.name for feature in self.schema.switches}
        positions = [self.column(n) for n in self.schema.actionable if n not in switches]
        return torch.tensor(positions, dtype=torch.long)

    @cached_property
    def actions(self) -> Tensor:
        """Position of every actionable feature's (first) column, shape ``(k,)``, int64."""
        positions = [self.column(name) for name in self.schema.actionable]
        return torch.tensor(positions, dtype=torch.long)

    @cached_property
    def moved_by_level(self) -> Tensor:
        """Columns of the features that are set level by level, shape ``(d,)``, bool."""
        columns = torch.zeros(self.n_columns, dtype=torch.bool)
        for feature in self.schema.switches:
            columns[self.block(feature.name)] = True
        return columns

    def level(self, x: Tensor, feature: Feature) -> Tensor:
        """Position of each row's level among a feature's levels, int64, ``x`` without its last.

        Args:
            x: Shape ``(..., d)``, model space.
            feature: With levels.
        """
        block = x[..., self.block(feature.name)]
        if feature.kind == "nominal":
            return block.argmax(dim=-1)
        codes = torch.tensor(feature.codes, dtype=torch.float64)
        return (block - codes).abs().argmin(dim=-1)

    def at_level(self, feature: Feature, position: int) -> Tensor:
        """What the columns of a feature hold at one of its levels, shape ``(width,)``."""
        if feature.kind == "nominal":
            return torch.eye(len(feature.levels), dtype=torch.float64)[position]
        return torch.tensor([feature.codes[position]], dtype=torch.float64)

    @cached_property
    def is_derived(self) -> Tensor:
        """True for the columns of derived features, shape ``(d,)``, bool."""
        features = self.schema.features
        # What is made in inference mode could not be used outside of it.
        with torch.inference_mode(False):
            return torch.tensor([features[owner].formula is not None for owner in self.owners])

    @cached_property
    def adjacency(self) -> Tensor:
        """The graph over columns, ``(d, d)`` bool: ``[i, j]`` true when ``j`` acts on ``i``."""
        return self._spread(self.schema.graph.adjacency) | torch.eye(
            self.n_columns, dtype=torch.bool
        )

    @cached_property
    def reachability(self) -> Tensor:
        """Ancestors over columns, ``(d, d)`` bool: ``[i, j]`` true when ``j`` reaches ``i``."""
        return self._spread(self.schema.graph.reachability)

    @cached_property
    def reach_weights(self) -> Tensor:
        """``reachability`` transposed as float64: ``mask @ reach_weights`` counts set causes."""
        return self.reachability.T.to(torch.float64).contiguous()

    def encode(self, frame: Any) -> Tensor:
        """Check a table against the schema and turn it into a tensor.

        Args:
            frame: pandas or polars DataFrame, original units, all features as columns; the
                outcome and ignored columns may be there. Derived features need not be there;
                where they are, they have to agree with their formulas to a millionth, or to half
                of their step. The answer has what the formulas give.

        Returns:
            Shape ``(n, d)``, float64, model space; NaN where there is no value.

        Raises:
            TableError: A column is missing, unknown or repeated, a value is infinite, of the
                wrong kind, out of bounds or an unknown level, or missing where the feature
                does not say what to do then, a row has no value at all, a formula has no value
                or another one, the index repeats a label, or the table is empty. The message
                names column and row.
        """
        table = to_pandas(frame)
        self._check_shape(table)
        # One contiguous column a feature is written at a time: tables arrive column-wise.
        x = np.empty((self.n_columns, len(table)))
        is_bare = np.ones(len(table), dtype=bool)
        for feature in self.schema.features:
            if feature.formula is not None and feature.name not in table:
                continue
            where = self.block(feature.name)
            series = table[feature.name]
            gaps = series.isna().to_numpy(dtype=bool)
            is_bare &= gaps
            if feature.has_levels:
                codes = _level_positions(feature, series, gaps)
                if feature.kind == "nominal":
                    x[where] = codes[None, :] == np.arange(len(feature.levels))[:, None]
                else:
                    x[where.start] = np.asarray(feature.codes)[codes]
                x[where, gaps] = np.nan
            else:
                x[where.start] = _numbers(feature, series, gaps)
            if feature.missing == "refuse" and feature.formula is None and gaps.any():
                _refuse_gaps(feature, series, gaps)
        if is_bare.any():
            _refuse_rows(table.index, "row", is_bare, "hold a value in at least one feature", None)
        for name, formula in self.schema.formulas.items():
            inputs = {n: torch.from_numpy(x[self.column(n)]) for n in formula.names}
            i, value = self.column(name), formula(inputs).numpy()
            # Where an input is missing, so is what is computed from it.
            holes = np.any([np.isnan(x[self.column(n)]) for n in formula.names], axis=0)
            exact = _computed(self.schema[name], value, holes, table.index)
            if name in table:
                gaps = table[name].isna().to_numpy(dtype=bool) & ~holes
                if self.schema[name].missing == "refuse" and gaps.any():
                    _refuse_gaps(self.schema[name], table[name], gaps)
                _check_agreement(self.schema[name], table[name], x[i], exact)
            x[i] = exact
        return torch.from_numpy(np.ascontiguousarray(x.T))

    def derive(self, x: Tensor) -> Tensor:
        """Compute every derived column anew from the others.

        Args:
            x: Shape ``(..., d)``, model space; what the derived columns hold is not read.

        Returns:
            The same shape; ``x`` itself where the schema has no derived features. Differentiable
            where the formulas are; slopes pass straight through rounding, as in ``snap``.

        Example:
            >>> from carma import CausalGraph, Feature, Schema
            >>> names = ("amount", "duration", "rate")
            >>> rate = Feature("rate", formula="amount / duration")
            >>> schema = Schema((Feature("amount"), Feature("duration"), rate), CausalGraph(names))
            >>> Encoding(schema).derive(torch.tensor([[6.0, 2.0, 0.0]])).tolist()
            [[6.0, 2.0, 3.0]]
        """
        if not self.schema.formulas:
            return x
        # In one piece each, so that a column has the same answer wherever it comes from.
        columns = list(x.movedim(-1, 0).contiguous().unbind(0))
        for name, formula in self.schema.formulas.items():
            value = formula({n: columns[self.column(n)] for n in formula.names})
            columns[self.column(name)] = _nearest(self.schema[name], value).to(x.dtype)
        return torch.stack(columns, dim=-1)

    def completed(self, frame: Any) -> pd.DataFrame:
        """The table with the derived features that it lacks, in original units.

        Args:
            frame: See ``encode``.

        Returns:
            A pandas table; ``frame`` itself where it is one and lacks none.

        Raises:
            TableError: See ``encode``.
        """
        table = to_pandas(frame)
        absent = [name for name in self.schema.formulas if name not in table]
        if not absent:
            return table
        whole = self.decode(self.encode(table), table.index)
        return table.assign(**{name: whole[name] for name in absent})

    def decode(self, x: Tensor, index: Any = None) -> pd.DataFrame:
        """Turn a tensor back into a table in original units.

        Args:
            x: Shape ``(n, d)``, model space. Discrete columns are snapped to what exists; NaN
                stays a gap.
            index: Row labels of the result.

        Returns:
            One column a feature. Gaps are NaN in every column: integers and levels that are
            numbers are floats then, and other levels are objects, as pandas reads them from a
            file. Classifiers have been fitted on that.
        """
        values = x.detach().cpu().double().numpy()
        is_gap = np.isnan(values)
        is_whole = not is_gap.any()
        none = np.zeros(len(values), dtype=bool)
        data: dict[str, Any] = {}
        for feature, where, levels, codes in self._parts:
            gaps = none if is_whole else is_gap[:, where].any(axis=1)
            if feature.kind == "nominal":
                positions = values[:, where].argmax(axis=1)
                data[feature.name] = _with_gaps(levels[positions], gaps)
            elif feature.has_levels:
                distance = np.abs(values[:, where.start, None] - codes)
                data[feature.name] = _with_gaps(levels[distance.argmin(axis=1)], gaps)
            elif feature.kind == "integer":
                whole = np.where(gaps, 0, np.rint(values[:, where.start])).astype(np.int64)
                data[feature.name] = _with_gaps(whole, gaps)
            else:
                data[feature.name] = values[:, where.start]
        return pd.DataFrame(data, index=index)

    def passed(self, x: Tensor) -> Tensor:
        """Which gaps the classifier is to see: those of features with ``missing = "pass"``.

        Args:
            x: Shape ``(n, d)``, model space.

        Returns:
            Shape ``(n, d)``, bool.

        Example:
            >>> from carma import CausalGraph
            >>> features = Feature("income", missing="pass"), Feature("savings", missing="impute")
            >>> encoding = Encoding(Schema(features, CausalGraph(("income", "savings"))))
            >>> encoding.passed(torch.tensor([[torch.nan, 1.0], [2.0, torch.nan]])).tolist()
            [[True, False], [False, False]]
        """
        return x.isnan() & self._passes

    def complete(self, x: Tensor) -> Tensor:
        """Which rows of a training table have no gaps; a fit leaves the others out.

        What is learned is right where gaps do not depend on the value of an effect, given its
        causes: then the remaining rows follow the same mechanisms (Little & Rubin 2019, chapter
        3, on complete-case analysis).

        Args:
            x: Shape ``(n, d)``, model space.

        Returns:
            Shape ``(n,)``, bool.

        Raises:
            TableError: Fewer than half of the rows have none, or fewer than two.
        """
        gaps = x.isnan()
        is_complete = ~gaps.any(dim=1)
        n_complete = int(is_complete.sum())
        if n_complete < len(x) and n_complete < max(2, len(x) / 2):
            counts = gaps.sum(dim=0)
            worst = int(counts.argmax())
            name = self.schema.features[self.owners[worst]].name
            rule = (
                f"have no gaps in at least half of all {len(x)}, and in two: a fit leaves out the "
                f"others; column {name} has no value in {int(counts[worst])} (fill it in, or "
                "remove the feature); without gaps are"
            )
            raise TableError.of("training table", "rows", rule, n_complete)
        return is_complete

    def snap(self, x: Tensor, among: Sequence[bool] | None = None) -> Tensor:
        """Move every discrete feature to the nearest value that exists.

        A nominal feature takes the level whose column is largest. Gradients pass straight
        through (Bengio et al. 2013, arXiv 1308.3432).

        Args:
            x: Shape ``(n, d)``, model space.
            among: True for the ``d`` columns that may need it; by default all. The others are
                left alone.

        Returns:
            The same shape; continuous columns and NaN unchanged.
        """
        if not self._has_discrete:
            return x
        whole, ordered = self._integer_columns, [*range(len(self._level_columns))]
        blocks = self._nominal_blocks
        if among is not None:
            whole = [i for i in whole if among[i]]
            ordered = [k for k in ordered if among[self._level_columns[k]]]
            blocks = [where for where in blocks if any(among[where])]
            if not (whole or ordered or blocks):
                return x
        snapped = x.detach().clone()
        if whole:
            snapped[:, whole] = snapped[:, whole].round()
        if ordered:
            columns = [self._level_columns[k] for k in ordered]
            values, codes = snapped[:, columns], self._level_codes[ordered].to(x)
            nearest = (values.unsqueeze(-1) - codes).abs().argmin(dim=-1, keepdim=True)
            exact = codes.expand(*values.shape, -1).gather(-1, nearest).squeeze(-1)
            snapped[:, columns] = torch.where(values.isnan(), values, exact)
        for where in blocks:
            block = snapped[:, where]
            chosen = torch.zeros_like(block).scatter(1, block.argmax(1, True), 1.0)
            snapped[:, where] = torch.where(block.isnan(), block, chosen)
        # Adding an exact 0, where x + (snapped - x) would round to a neighbour of the level.
        return snapped + (x - x.detach()) if x.requires_grad else snapped

    @cached_property
    def _parts(self) -> list[tuple[Feature, slice, NDArray[Any], NDArray[np.float64]]]:
        """Each feature with its columns, levels and codes."""
        return [
            (f, self.block(f.name), _level_array(f), np.array(f.codes, dtype=np.float64))
            for f in self.schema.features
        ]

    @cached_property
    def _integer_columns(self) -> list[int]:
        return [self.column(f.name) for f in self.schema.features if f.kind == "integer"]

    @cached_property
    def _level_columns(self) -> list[int]:
        ordered = ("binary", "ordinal")
        return [self.column(f.name) for f in self.schema.features if f.kind in ordered]

    @cached_property
    def _nominal_blocks(self) -> list[slice]:
        return [self.block(f.name) for f in self.schema.features if f.kind == "nominal"]

    @cached_property
    def _passes(self) -> Tensor:
        passing = {feature.name for feature in self.schema.features if feature.missing == "pass"}
        for name, formula in self.schema.formulas.items():
            if passing.intersection(formula.names):
                passing.add(name)
        passes = [feature.name in passing for feature in self.schema.features]
        return torch.tensor([passes[owner] for owner in self.owners])

    @cached_property
    def _has_discrete(self) -> bool:
        return any(f.is_discrete for f in self.schema.features)

    @cached_property
    def _level_codes(self) -> Tensor:
        rows = [self.schema.features[self.owners[i]].codes for i in self._level_columns]
        width = max(len(row) for row in rows)
        padded = [[*row, *([row[-1]] * (width - len(row)))] for row in rows]
        return torch.tensor(padded, dtype=torch.float64)

    def _spread(self, matrix: NDArray[np.bool_]) -> Tensor:
        owners = np.asarray(self.owners)
        spread = matrix[np.ix_(owners, owners)].copy()
        spread[owners[:, None] == owners[None, :]] = False
        return torch.from_numpy(spread)

    def _check_shape(self, table: pd.DataFrame) -> None:
        schema = self.schema
        columns = list(table.columns)
        if not table.columns.is_unique:
            repeated = sorted({str(c) for c in columns if columns.count(c) > 1})
            rule = "have different names (rename or drop the repeated ones)"
            raise TableError.of("table", "columns", rule, repeated)
        known = {*schema.names, *schema.ignore, schema.outcome}
        present = set(columns)
        absent = [name for name in schema.base.names if name not in present]
        if absent:
            raise TableError.of("table", "columns", "include every feature; missing", absent)
        extra = [str(c) for c in columns if c not in known]
        if extra:
            rule = "be features, the outcome, or listed under 'ignore' in the schema"
            raise TableError.of("table", "columns", rule, extra)
        if len(table) == 0:
            raise TableError.of("table", "rows", "be at least one", 0)
        if not table.index.is_unique:
            repeated_label = table.index[table.index.duplicated()][0]
            raise TableError.of("table", "index", "have different labels", repeated_label)


@dataclass(frozen=True)
class Statistics:
    """What one table says about the columns of model space; every tensor has shape ``(d,)``.

    Args:
        mean: Mean of each column.
        std: Standard deviation (population) of each column.
        minimum: Least value of each column.
        maximum: Greatest value of each column.

    Example:
        >>> from carma.benchmarks import load
        >>> Statistics.of(load("loan", rows=200).encoded("causal")).mean.shape
        torch.Size([7])
    """

    mean: Tensor
    std: Tensor
    minimum: Tensor
    maximum: Tensor

    @classmethod
    def of(cls, x: Tensor, encoding: Encoding | None = None) -> Statistics:
        """Summarise a training table.

        Args:
            x: Shape ``(n, d)``, model space, at least two rows.
            encoding: With it, a constant feature is refused by name.

        Raises:
            TableError: There are fewer than two rows, or a feature never varies.
        """
        if len(x) < 2:
            raise TableError.of("training table", "rows", "be at least two", len(x))
        minimum, maximum = x.amin(0), x.amax(0)
        constant = minimum == maximum
        if encoding is not None:
            for feature in encoding.schema.features:
                where = encoding.block(feature.name)
                if bool(constant[where].all()):
                    value = x[0, where].tolist()
                    rule = "vary: a constant column teaches nothing; remove the feature"
                    raise TableError.of("training table", f"column {feature.name}", rule, value)
        std = torch.where(constant, 1.0, x.std(0, correction=0))
        return cls(x.mean(0), std, minimum, maximum)

    def absent(self, encoding: Encoding) -> Tensor:
        """Columns of nominal levels that nobody has, shape ``(d,)``, bool."""
        is_nominal = torch.tensor(
            [encoding.schema.features[owner].kind == "nominal" for owner in encoding.owners]
        )
        return is_nominal & (self.maximum == 0)

    def as_tensors(self) -> dict[str, Tensor]:
        """Return the four tensors by name."""
        return {name: getattr(self, name) for name in ("mean", "std", "minimum", "maximum")}


# How far a table may be from a formula, as a share; and how far around 0.
SAME, TINY = 1e-6, 1e-9


def labels(schema: Schema, frame: Any) -> Tensor:
    """Read the outcome column.

    Args:
        schema: Must name ``outcome`` and ``favourable``.
        frame: Table with the outcome column.

    Returns:
        Shape ``(n,)``, bool: true where the outcome is favourable.

    Raises:
        SchemaError: The schema names no outcome.
        TableError: The column is absent, has gaps, or holds one class only.
    """
    table = to_pandas(frame)
    if schema.outcome is None:
        rule = "name the outcome column to learn a classifier from a table"
        raise SchemaError.of("Schema", "outcome", rule, None)
    if schema.outcome not in table.columns:
        raise TableError.of("table", "columns", "include the outcome", schema.outcome)
    column = table[schema.outcome]
    gaps = np.flatnonzero(column.isna().to_numpy())
    if len(gaps):
        rule = f"have no gaps; first at row {_label(table.index, gaps[0])}"
        raise TableError.of("table", f"column {schema.outcome}", rule, None)
    favourable = (column == schema.favourable).to_numpy(dtype=bool)
    if favourable.all() or not favourable.any():
        rule = f"hold both the favourable value {schema.favourable!r} and another"
        seen = column.unique().tolist()
        raise TableError.of("table", f"column {schema.outcome}", rule, seen)
    return torch.tensor(favourable)


def to_pandas(frame: Any) -> pd.DataFrame:
    """Accept any DataFrame that narwhals knows; pandas ones pass unchanged.

    Raises:
        TableError: It is no DataFrame.
    """
    if isinstance(frame, pd.DataFrame):
        return frame
    try:
        table: pd.DataFrame = nw.from_native(frame, eager_only=True).to_pandas()
    except TypeError as error:
        rule = "be a pandas or polars DataFrame"
        raise TableError.of("table", "frame", rule, type(frame).__name__) from error
    return table


def _refuse_gaps(feature: Feature, series: pd.Series[Any], gaps: NDArray[np.bool_]) -> NoReturn:
    if len(gaps) > 1 and gaps.all():
        rule = (
            "not be missing in every row (remove the feature, or look at how the table was read or "
            "joined)"
        )
        raise TableError.of("table", f"column {feature.name}", rule, series.iloc[0])
    rule = (
        "not be missing (fill it in, or declare missing = 'impute', by the causal model, or "
        "'pass', to a classifier that takes gaps)"
    )
    _refuse(feature, series, gaps, rule)


def _numbers(
    feature: Feature, series: pd.Series[Any], gaps: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Values as they are, NaN in gaps."""
    if series.dtype.kind not in "iuf":
        series = _parsed_numbers(feature, series, gaps)
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = np.isfinite(values) | gaps
    if not finite.all():
        _refuse(feature, series, ~finite, "be a finite number")
    if feature.kind == "integer":
        whole = (values == np.rint(values)) | gaps
        if not whole.all():
            _refuse(feature, series, ~whole, "be a whole number")
    if feature.bounds is not None:
        low, high = feature.bounds
        inside = ((values >= low) & (values <= high)) | gaps
        if not inside.all():
            _refuse(feature, series, ~inside, f"lie within its bounds {low} to {high}")
    return values


def _parsed_numbers(
    feature: Feature, series: pd.Series[Any], gaps: NDArray[np.bool_]
) -> pd.Series[Any]:
    wrong = np.array([not _is_number(value) for value in series], dtype=bool) & ~gaps
    if wrong.any():
        value = series.iloc[int(wrong.argmax())]
        found, advice = STRANGERS.get(type(value).__name__, (type(value).__name__, ""))
        if isinstance(value, str):
            advice = _advice_on_text(value.strip())
        mixed = "" if (wrong | gaps).all() else ", as in other rows"
        _refuse(
            feature, series, wrong, f"be a number (kind {feature.kind}){mixed}, not {found}{advice}"
        )
    return pd.to_numeric(series.astype(object).where(~gaps, np.nan), errors="coerce")


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, Decimal)) and not isinstance(value, bool)


# What is often found where a number belongs, by the name of its type, and what to do about it.
AGO = " (make it a number first, such as days or years since then)"
STRANGERS = {
    "str": ("text", ""),
    "bool": ("a boolean", " (make the feature binary, or the column 0 and 1)"),
    "bool_": ("a boolean", " (make the feature binary, or the column 0 and 1)"),
    "Timestamp": ("a date", AGO),
    "datetime": ("a date", AGO),
    "date": ("a date", AGO),
    "Timedelta": ("a duration", " (make it a number first, such as days)"),
    "timedelta": ("a duration", " (make it a number first, such as days)"),
}
GROUPED = re.compile(r"[+-]?\d{1,3}([,' \u00a0\u202f_]\d{3})+(\.\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
GAP_WORDS = ("", "-", "?", "na", "n/a", "nan", "none", "null", "missing", "unknown")
GAP_ADVICE = " (where it stands for a gap, make it NaN and declare 'missing' for the feature)"


def _advice_on_text(text: str) -> str:
    """What to do about text where a number belongs."""
    if text.lower() in GAP_WORDS:
        return GAP_ADVICE
    if GROUPED.fullmatch(text):
        return " (take out thousands separators: pandas.read_csv has the option 'thousands')"
    if DECIMAL_COMMA.fullmatch(text):
        return " (write decimals with a point: pandas.read_csv has the option 'decimal')"
    try:
        float(text)
    except ValueError:
        return ""
    return " (it reads as a number: convert the column with pandas.to_numeric)"


def _level_positions(
    feature: Feature, series: pd.Series[Any], gaps: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Number of each row's level; of the last one in gaps."""
    lookup: dict[Any, int] = {level: i for i, level in enumerate(feature.levels)}
    values: Sequence[Any] = series.tolist()
    try:
        found = (lookup.get(value, -1) for value in values)
        positions = np.fromiter(found, dtype=np.intp, count=len(values))
    except TypeError:
        compound = np.array([not isinstance(value, (str, Real)) for value in values], dtype=bool)
        _refuse(feature, series, compound & ~gaps, "be text, a number or a boolean")
    unknown = (positions < 0) & ~gaps
    if unknown.any():
        known = ", ".join(str(level) for level in feature.levels)
        advice = _advice_on_level(feature, series.iloc[int(unknown.argmax())])
        _refuse(feature, series, unknown, f"be one of its levels ({known}){advice}")
    return positions


def _advice_on_level(feature: Feature, value: Any) -> str:
    """Which level was meant by a value that is none."""
    is_text = isinstance(value, str)
    if any(isinstance(level, str) != is_text and _alike(level, value) for level in feature.levels):
        kinds = "text, the level is not" if is_text else "no text, the level is"
        return f"; this is {kinds} (convert the column)"
    if not isinstance(value, str):
        return ""
    said = value.strip().lower()
    if said in GAP_WORDS:
        return GAP_ADVICE
    texts = {str(level).lower(): level for level in feature.levels}
    near = get_close_matches(said, texts, n=1)
    return f"; the closest is {texts[near[0]]!r}" if near else ""


def _alike(level: Any, value: Any) -> bool:
    """Whether one is the other, written as text."""
    texts = {str(level).lower(), str(value).strip().lower()}
    try:
        return len(texts) == 1 or float(level) == float(value)
    except (TypeError, ValueError):
        return False


def _level_array(feature: Feature) -> NDArray[Any]:
    # Left to itself, numpy would turn 1 into "1" next to a string.
    if any(isinstance(level, str) for level in feature.levels):
        return np.asarray(feature.levels, dtype=object)
    return np.asarray(feature.levels)


def _nearest(feature: Feature, value: Tensor) -> Tensor:
    """What a derived feature takes for the value of its formula; NaN stays NaN."""
    if not feature.is_discrete:
        return value
    exact = value.detach().round()
    if feature.has_levels:
        codes = torch.tensor(feature.codes, dtype=torch.float64)
        nearest = codes[(value.detach().unsqueeze(-1) - codes).abs().argmin(dim=-1)]
        exact = torch.where(value.isnan(), torch.nan, nearest)
    return exact + (value - value.detach()) if value.requires_grad else exact


def _computed(
    feature: Feature, value: NDArray[np.float64], holes: NDArray[np.bool_], index: pd.Index[Any]
) -> NDArray[np.float64]:
    """What a derived feature takes in the rows of a table, where its formula gives ``value``."""
    found, said = pd.Series(value, index), f"by its formula {feature.formula}"
    finite = np.isfinite(value) | (np.isnan(value) & holes)
    if not finite.all():
        rule = f"be a finite number {said}, which divides by zero or is undefined there"
        _refuse(feature, found, ~finite, rule)
    exact: NDArray[np.float64] = _nearest(feature, torch.from_numpy(value)).numpy()
    if feature.has_levels:
        between = np.abs(exact - value) > SAME * (1 + np.abs(value))
        if between.any():
            known = ", ".join(f"{code:g}" for code in feature.codes)
            _refuse(feature, found, between, f"be the code of a level ({known}) {said}")
    if feature.bounds is not None:
        low, high = feature.bounds
        outside = (exact < low) | (exact > high)
        if outside.any():
            _refuse(feature, found, outside, f"lie within its bounds {low} to {high} {said}")
    return exact


def _check_agreement(
    feature: Feature,
    series: pd.Series[Any],
    given: NDArray[np.float64],
    exact: NDArray[np.float64],
) -> None:
    """Refuse a table whose derived column holds something else than its formula gives."""
    slack = np.full_like(given, TINY)
    if not feature.is_discrete:
        slack += (feature.step or 0.0) / 2 + SAME * np.maximum(np.abs(given), np.abs(exact))
    differs = np.abs(given - exact) > slack
    if not differs.any():
        return
    right: Any = exact[int(differs.argmax())]
    if feature.has_levels:
        right = feature.levels[feature.codes.index(right)]
    shown = f"{right:.9g}" if isinstance(right, float) else str(right)
    _refuse(feature, series, differs, f"be {shown} by its formula {feature.formula}")


def _with_gaps(values: NDArray[Any], gaps: NDArray[np.bool_]) -> NDArray[Any]:
    """Values with NaN in gaps: numbers as floats, other levels as objects."""
    if not gaps.any():
        return values
    numeric = values.dtype.kind in "iuf"
    opened = values.astype(np.float64 if numeric else object)
    opened[gaps] = np.nan
    return opened


def _refuse(
    feature: Feature, series: pd.Series[Any], bad: NDArray[np.bool_], rule: str
) -> NoReturn:
    value = series.iloc[int(bad.argmax())]
    _refuse_rows(series.index, f"column {feature.name}, row", bad, rule, value)


def _refuse_rows(
    index: pd.Index[Any], where: str, bad: NDArray[np.bool_], rule: str, value: Any
) -> NoReturn:
    """Name the first of some rows, and count the others."""
    more = int(bad.sum()) - 1
    tail = f" (and {more} more rows)" if more else ""
    raise TableError.of("table", f"{where} {_label(index, int(bad.argmax()))}", rule + tail, value)


def _label(index: pd.Index[Any], position: int) -> str:
    return repr(index[position : position + 1].tolist()[0])
