"""What one person can and cannot do, on top of what the schema allows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from difflib import get_close_matches
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from carma.constraints import Limits, PlanLimits
from carma.errors import ConstraintError, TableError
from carma.schema import Feature
from carma.table import Encoding, to_pandas

__all__ = ["Constraints", "PersonalLimits", "personal_limits"]

Numbers = NDArray[np.float64]

# What a table's columns start with, and the argument of Constraints that says the same.
ARGUMENTS = {
    "freeze": "freeze",
    "lowest": "bounds",
    "highest": "bounds",
    "direction": "directions",
    "weight": "cost_weights",
}
MAX_ACTIONS = "max_actions"
WAYS = {"up": 1.0, "down": -1.0}


@dataclass(frozen=True)
class Constraints:
    """What one person can and cannot do, in original units.

    They narrow what the schema allows, and never widen it.

    Args:
        freeze: Features that the person will not act on. A mutable one may still follow.
        bounds: Lowest and highest value that a plan may set, by feature; ``None`` is open. For
            binary and ordinal features, two of their levels, in the order of the levels. Of two
            numbers, the lower is first.
        directions: Which way a plan may move a feature: ``up`` or ``down``. For levels, up is
            towards the last.
        max_actions: The most features that a plan may set, at least 1; ``None`` for no limit.
        cost_weights: Multiplies the cost of acting on a feature, above 0; 2 = twice as hard.

    Raises:
        ConstraintError: A field breaks a rule. What depends on the schema or on the person is
            checked when a plan is asked for.

    Example:
        >>> told = Constraints(freeze=("hours",), bounds={"debt": (5, None)}, max_actions=2)
        >>> told.to_dict()
        {'freeze': ['hours'], 'bounds': {'debt': [5, None]}, 'max_actions': 2}
        >>> Constraints.from_dict(told.to_dict()) == told
        True
        >>> Constraints(directions={"debt": "sideways"})
        Traceback (most recent call last):
        carma.errors.ConstraintError: Constraints: "directions['debt']" must be up or down;
        got 'sideways'
    """

    freeze: tuple[str, ...] = ()
    bounds: Mapping[str, tuple[Any | None, Any | None]] = field(default_factory=dict)
    directions: Mapping[str, Literal["up", "down"]] = field(default_factory=dict)
    max_actions: int | None = None
    cost_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze", _names(self.freeze))
        for argument, read in (
            ("bounds", _pair),
            ("directions", _way),
            ("cost_weights", _weight),
        ):
            given = getattr(self, argument)
            if not isinstance(given, Mapping):
                raise _error(argument, "be a mapping from features", given)
            strangers = [name for name in given if not isinstance(name, str)]
            if strangers:
                raise _error(argument, "have names of features as keys", strangers[0])
            # A copy: what the caller does to theirs later changes nothing here.
            checked = {name: read(f"{argument}[{name!r}]", v) for name, v in given.items()}
            object.__setattr__(self, argument, checked)
        object.__setattr__(self, MAX_ACTIONS, _count(self.max_actions))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content, without what is not said; ``from_dict`` undoes it."""
        content: dict[str, Any] = {
            "freeze": list(self.freeze),
            "bounds": {name: list(pair) for name, pair in self.bounds.items()},
            "directions": dict(self.directions),
            "max_actions": self.max_actions,
            "cost_weights": dict(self.cost_weights),
        }
        return {key: value for key, value in content.items() if value}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Constraints:
        """Build constraints from JSON content.

        Raises:
            ConstraintError: A key is unknown, or a value breaks a rule.
        """
        if not isinstance(content, Mapping):
            raise _error("content", "be a mapping", content)
        allowed = [f.name for f in fields(cls)]
        unknown = [key for key in content if key not in allowed]
        if unknown:
            rule = f"be one of {', '.join(allowed)}{_meant(unknown[0], allowed)}"
            raise _error("key", rule, unknown[0])
        return cls(**content)

    def said(self) -> Iterator[tuple[str, str, Any]]:
        """Everything that is said: which kind (see ``ARGUMENTS``), feature, value."""
        for name in self.freeze:
            yield "freeze", name, True
        for name, pair in self.bounds.items():
            for kind, bound in zip(("lowest", "highest"), pair, strict=True):
                # Open on both sides is checked for its feature all the same.
                if bound is not None or pair == (None, None):
                    yield kind, name, bound
        for name, way in self.directions.items():
            yield "direction", name, way
        for name, weight in self.cost_weights.items():
            yield "weight", name, weight
        if self.max_actions is not None:
            yield MAX_ACTIONS, "", self.max_actions


@dataclass(frozen=True)
class PersonalLimits:
    """What the constraints of one batch of people come to.

    Args:
        limits: The box of each person, never wider than the schema's.
        weights: Factor on the cost of acting on a column, shape ``(n, d)``, float64, 1 where
            nothing is said; ``None`` where nobody says anything.
    """

    limits: Limits
    weights: Tensor | None


def personal_limits(
    encoding: Encoding, x: Tensor, index: pd.Index[Any], constraints: Any, own: PlanLimits
) -> PersonalLimits:
    """Narrow what the schema allows to what each person can do.

    Args:
        encoding: Of the schema.
        x: The people, shape ``(n, d)``, model space.
        index: Their labels, ``n`` of them.
        constraints: One of

            - ``Constraints``, for everybody;
            - a sequence with one ``Constraints`` or ``None`` a person, in order;
            - a mapping from labels to ``Constraints`` or ``None``;
            - a pandas DataFrame, whose index holds labels of people, each once; people without
              a row have no constraints;
            - a polars DataFrame with one row a person, in order.

            The columns of a table are ``freeze_<feature>`` (true or false, 1 or 0),
            ``lowest_<feature>`` and ``highest_<feature>`` (original units),
            ``direction_<feature>`` (``up``, ``down`` or empty), ``weight_<feature>`` and
            ``max_actions``. A missing value says nothing.
        own: What the schema allows.

    Returns:
        Limits that always hold a person's own value. A frozen feature keeps it, whatever else
        is said about that feature.

    Raises:
        ConstraintError: A feature, level, column or person is unknown, a feature is not one
            that a plan may set, a value is of the wrong kind or out of range, a lowest value
            lies above the highest, or bounds leave out the person's own value. The message
            names argument or column, and person.

    Example:
        >>> from carma.benchmarks import load
        >>> data = load("loan", rows=500)
        >>> people = data.frame("recourse")[:2]
        >>> x, own = data.encoding.encode(people), PlanLimits(data.encoding, data.scm.statistics_)
        >>> name = data.schema.actionable[0]
        >>> told = Constraints(freeze=(name,), max_actions=1)
        >>> box = personal_limits(data.encoding, x, people.index, [told, None], own).limits
        >>> box.may_act[:, data.encoding.column(name)].tolist()
        [False, True]
    """
    columns, is_table = _columns(encoding, index, constraints)
    request = _Request(encoding, x, index, {(c.kind, c.feature): c for c in columns}, is_table)
    return request.narrowed(own)


@dataclass(frozen=True)
class _Column:
    """One kind of thing said about one feature, by people or for everybody.

    ``values`` are in original units; ``rows`` are the positions of the people who say them, and
    ``None`` where one value is for everybody.
    """

    kind: str
    feature: str
    values: pd.Series[Any]
    rows: NDArray[np.intp] | None

    def spread(self, read: Numbers, nothing: float, n: int) -> Numbers:
        """What was read, for all ``n`` people; ``nothing`` for those who say nothing."""
        whole = np.full(n, nothing)
        whole[slice(None) if self.rows is None else self.rows] = read
        return whole


class _Request:
    """Reads what is said, checks it, and narrows the limits by it."""

    def __init__(
        self,
        encoding: Encoding,
        x: Tensor,
        index: pd.Index[Any],
        columns: Mapping[tuple[str, str], _Column],
        is_table: bool,
    ) -> None:
        self.encoding, self.x, self.index = encoding, x, index
        self.columns, self.is_table = columns, is_table

    def narrowed(self, own: PlanLimits) -> PersonalLimits:
        for column in self.columns.values():
            self._check_feature(column)
        box = own.around(self.x)
        lower, upper, may_act = box.lower.clone(), box.upper.clone(), box.may_act.clone()
        for feature in self.encoding.schema.features:
            where = self.encoding.block(feature.name)
            frozen = self._frozen(feature.name)
            for least, greatest in self._ranges(feature, frozen):
                i = where.start
                lower[:, i] = torch.maximum(lower[:, i], torch.from_numpy(least))
                upper[:, i] = torch.minimum(upper[:, i], torch.from_numpy(greatest))
            if frozen.any():
                keeps = torch.from_numpy(frozen)[:, None]
                lower[:, where] = torch.where(keeps, self.x[:, where], lower[:, where])
                upper[:, where] = torch.where(keeps, self.x[:, where], upper[:, where])
                may_act[:, where] &= ~keeps
        limits = replace(box, lower=lower, upper=upper, may_act=may_act)
        weights, most = self._weights(), self._most()
        if most is not None:
            limits = replace(limits, max_actions=most)
        return PersonalLimits(limits, weights)

    def _frozen(self, name: str) -> NDArray[np.bool_]:
        column = self.columns.get(("freeze", name))
        if column is None:
            return np.zeros(len(self.x), dtype=bool)
        read = self._looked_up(column, _as_truth, 0.0, "be true or false")
        frozen: NDArray[np.bool_] = column.spread(read, 0.0, len(self.x)) == 1
        return frozen

    def _ranges(
        self, feature: Feature, frozen: NDArray[np.bool_]
    ) -> Iterator[tuple[Numbers, Numbers]]:
        """Least and greatest values, model space, infinite where open: of bounds, of a way."""
        own = self.x[:, self.encoding.column(feature.name)].detach().numpy()
        # Lowest and up mean towards the first and the last level, also when codes fall.
        falls = feature.has_levels and feature.codes[0] > feature.codes[-1]
        if ("lowest", feature.name) in self.columns or ("highest", feature.name) in self.columns:
            low, high = self._bound("lowest", feature), self._bound("highest", feature)
            self._check_bounds(feature, low, high, own, -1 if falls else 1, frozen)
            least, greatest = (high, low) if falls else (low, high)
            yield (
                np.where(frozen | np.isnan(least), -np.inf, least),
                np.where(frozen | np.isnan(greatest), np.inf, greatest),
            )
        column = self.columns.get(("direction", feature.name))
        if column is not None:
            read = self._looked_up(column, _as_way, 0.0, "be up, down or empty")
            way = column.spread(-read if falls else read, 0.0, len(self.x))
            yield np.where(way > 0, own, -np.inf), np.where(way < 0, own, np.inf)

    def _bound(self, kind: str, feature: Feature) -> Numbers:
        """Model space, NaN where open."""
        column = self.columns.get((kind, feature.name))
        if column is None:
            return np.full(len(self.x), np.nan)
        if feature.has_levels:
            codes = dict(zip(feature.levels, feature.codes, strict=True))
            rule = f"be one of its levels ({', '.join(map(str, feature.levels))})"
            read = self._looked_up(column, codes.get, np.nan, rule)
        else:
            read = self._numbers(column)
            self._refuse(column, np.isinf(read), "be a finite number")
        return column.spread(read, np.nan, len(self.x))

    def _check_bounds(
        self,
        feature: Feature,
        low: Numbers,
        high: Numbers,
        own: Numbers,
        sign: int,
        frozen: NDArray[np.bool_],
    ) -> None:
        def pair(row: int) -> tuple[Any, Any]:
            return _original(feature, low[row]), _original(feature, high[row])

        crosses = sign * low > sign * high
        if crosses.any():
            row = int(crosses.argmax())
            place = self._place("lowest", feature.name, row)
            raise self._error(place, "not have its lowest above its highest", pair(row))
        below = ~frozen & (sign * own < sign * low)
        above = ~frozen & (sign * own > sign * high)
        if below.any() or above.any():
            row = int((below | above).argmax())
            kind = "lowest" if below[row] else "highest"
            value = _original(feature, own[row])
            rule = f"hold the person's own value {value!r}, or freeze the feature"
            raise self._error(self._place(kind, feature.name, row), rule, pair(row))

    def _weights(self) -> Tensor | None:
        weights: Tensor | None = None
        for (kind, name), column in self.columns.items():
            if kind != "weight":
                continue
            read = self._numbers(column)
            wrong = (read <= 0) | np.isinf(read)
            self._refuse(column, wrong, "be a finite number above 0")
            if np.isnan(read).all():
                continue
            if weights is None:
                weights = torch.ones_like(self.x, dtype=torch.float64)
            factor = column.spread(np.where(np.isnan(read), 1.0, read), 1.0, len(self.x))
            weights[:, self.encoding.block(name)] = torch.from_numpy(factor)[:, None]
        return weights

    def _most(self) -> Tensor | None:
        column = self.columns.get((MAX_ACTIONS, ""))
        if column is None:
            return None
        read = self._numbers(column)
        wrong = (read < 1) | np.isinf(read) | (read != np.rint(read)) & ~np.isnan(read)
        self._refuse(column, wrong, "be a whole number of at least 1")
        if np.isnan(read).all():
            return None
        # More than there are columns is no limit.
        no_limit = float(self.encoding.n_columns)
        read = np.fmin(read, no_limit)
        return torch.from_numpy(column.spread(read, no_limit, len(self.x)).astype(np.int64))

    def _numbers(self, column: _Column) -> Numbers:
        """The numbers of a column, NaN where missing; infinite ones too."""
        series = column.values
        if series.dtype.kind in "iuf":
            return series.to_numpy(dtype=np.float64, na_value=np.nan)
        values = [_as_number(value) for value in series.tolist()]
        wrong = np.array([value is None for value in values], dtype=bool)
        self._refuse(column, wrong, "be a number")
        return np.array(values, dtype=np.float64)

    def _looked_up(
        self, column: _Column, read: Callable[[Any], float | None], missing: float, rule: str
    ) -> Numbers:
        """Read each different value once; refuse what reads as ``None``."""
        series = column.values
        try:
            positions, different = pd.factorize(series)
        except TypeError:
            scalar = (str, Real, np.bool_, type(None))
            wrong = np.array([not isinstance(value, scalar) for value in series], dtype=bool)
            self._refuse(column, wrong, rule)
            raise
        answers = [read(value) for value in different]
        wrong = np.array([*(answer is None for answer in answers), False])[positions]
        self._refuse(column, wrong, rule)
        # A missing value has position -1: the last.
        return np.array([*answers, missing], dtype=np.float64)[positions]

    def _check_feature(self, column: _Column) -> None:
        kind, name = column.kind, column.feature
        schema = self.encoding.schema
        if kind == MAX_ACTIONS:
            return
        # A table's column names its feature for no one person.
        place = self._place(kind, name, None if self.is_table else self._row(column, 0))
        if name not in schema.names:
            rule = f"name a feature ({', '.join(schema.names)}){_meant(name, schema.names)}"
            raise self._error(place, rule, name)
        if kind != "freeze" and schema[name].role != "actionable":
            rule = f"only name actionable features ({', '.join(schema.actionable)})"
            raise self._error(place, rule, name)
        if kind not in ("freeze", "weight") and schema[name].is_switch:
            rule = "not name a feature that is set level by level; it can be frozen"
            raise self._error(place, rule, name)

    def _row(self, column: _Column, k: int) -> int | None:
        return None if column.rows is None else int(column.rows[k])

    def _place(self, kind: str, name: str, row: int | None) -> str:
        label = "" if row is None else repr(self.index[row : row + 1].tolist()[0])
        if self.is_table:
            column = f"{kind}_{name}" if name else kind
            return f"column {column}" + (f", row {label}" if label else "")
        argument = ARGUMENTS.get(kind, kind)
        key = f"[{name!r}]" if name and kind != "freeze" else ""
        return f"{argument}{key}" + (f" of person {label}" if label else "")

    def _refuse(self, column: _Column, wrong: NDArray[np.bool_], rule: str) -> None:
        if not wrong.any():
            return
        first, more = int(wrong.argmax()), int(wrong.sum()) - 1
        place = self._place(column.kind, column.feature, self._row(column, first))
        tail = f" (and {more} more people)" if more else ""
        raise self._error(place, rule + tail, column.values.iloc[first])

    def _error(self, place: str, rule: str, value: Any) -> ConstraintError:
        owner = "constraints table" if self.is_table else "Constraints"
        return ConstraintError.of(owner, place, rule, value)


def _columns(
    encoding: Encoding, index: pd.Index[Any], constraints: Any
) -> tuple[list[_Column], bool]:
    """What is said, by kind and feature; and whether a table says it."""
    if isinstance(constraints, Constraints):
        columns = [
            _Column(kind, name, pd.Series([value], dtype=object), None)
            for kind, name, value in constraints.said()
        ]
        return columns, False
    if isinstance(constraints, Mapping):
        is_multi = isinstance(index, pd.MultiIndex)
        named = pd.Index(list(constraints), tupleize_cols=is_multi)
        rows = _matched(index, named)
        return _gathered(index, zip(rows.tolist(), constraints.values(), strict=True)), False
    if isinstance(constraints, Sequence) and not isinstance(constraints, (str, bytes)):
        if len(constraints) != len(index):
            rule = f"have one entry a person, {len(index)}"
            raise _error("constraints", rule, f"{len(constraints)} entries")
        return _gathered(index, enumerate(constraints)), False
    if isinstance(constraints, pd.DataFrame):
        return _of_table(encoding, constraints, _matched(index, constraints.index)), True
    try:
        table = to_pandas(constraints)
    except TableError as error:
        rule = "be Constraints, a list of them, a mapping from labels to them, or a table"
        raise _error("constraints", rule, constraints) from error
    if len(table) != len(index):
        rule = f"have one row a person, {len(index)}, where the table has no labels"
        raise _error("constraints", rule, f"{len(table)} rows")
    return _of_table(encoding, table, np.arange(len(index))), True


def _matched(index: pd.Index[Any], named: pd.Index[Any]) -> NDArray[np.intp]:
    """Where each label is among the people."""
    for argument, given in (("index of the people", index), ("index of the table", named)):
        if not given.is_unique:
            rule = "have different labels, to tell whom a constraint is for"
            raise _error(argument, rule, given[given.duplicated()][:1].tolist()[0])
    rows = index.get_indexer(named)
    strangers = named[rows < 0]
    if len(strangers):
        rule = f"be for people asked about: constraints for unknown people ({len(strangers)})"
        raise _error("constraints", rule, strangers[:3].tolist())
    return rows


def _gathered(index: pd.Index[Any], entries: Iterable[tuple[int, Any]]) -> list[_Column]:
    """Turn the constraints of single people into columns."""
    said: dict[tuple[str, str], tuple[list[int], list[Any]]] = {}
    for row, told in entries:
        if told is None:
            continue
        if not isinstance(told, Constraints):
            label = repr(index[row : row + 1].tolist()[0])
            rule = "be Constraints or None (Constraints.from_dict reads JSON)"
            raise _error(f"constraints of person {label}", rule, told)
        for kind, name, value in told.said():
            rows, values = said.setdefault((kind, name), ([], []))
            rows.append(row)
            values.append(value)
    return [
        _Column(kind, name, pd.Series(values, dtype=object), np.array(rows, dtype=np.intp))
        for (kind, name), (rows, values) in said.items()
    ]


def _of_table(encoding: Encoding, table: pd.DataFrame, rows: NDArray[np.intp]) -> list[_Column]:
    names = encoding.schema.names
    known = [f"{kind}_{name}" for kind in ARGUMENTS for name in names] + [MAX_ACTIONS]
    if not table.columns.is_unique:
        repeated = table.columns[table.columns.duplicated()][0]
        raise ConstraintError.of("constraints table", "columns", "have different names", repeated)
    columns = []
    for name in table.columns:
        if name not in known:
            rule = (
                f"be {MAX_ACTIONS}, or {', '.join(f'{kind}_' for kind in ARGUMENTS)} and a "
                f"feature ({', '.join(names)}){_meant(str(name), known)}"
            )
            raise ConstraintError.of("constraints table", "column", rule, name)
        # No kind is the start of another, so a name reads in one way only.
        kind, _, feature = (name, "", "") if name == MAX_ACTIONS else name.partition("_")
        columns.append(_Column(kind, feature, table[name], rows))
    return columns


def _names(given: Any) -> tuple[str, ...]:
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise _error("freeze", "be a list of features", given)
    names = tuple(given)
    if not all(isinstance(name, str) for name in names):
        raise _error("freeze", "be a list of names of features", names)
    return tuple(dict.fromkeys(names))


def _pair(place: str, given: Any) -> tuple[Any, Any]:
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        rule = "be a pair: lowest and highest value, None where open"
        raise _error(place, rule, given)
    low, high = (_plain(bound) for bound in given)
    for bound in (low, high):
        if not (bound is None or isinstance(bound, (str, bool)) or _is_finite(bound)):
            raise _error(place, "hold finite numbers, levels or None", (low, high))
    if _is_finite(low) and _is_finite(high) and low > high:
        raise _error(place, "not have its lowest above its highest", (low, high))
    return low, high


def _way(place: str, given: Any) -> str:
    if not isinstance(given, str) or given not in WAYS:
        raise _error(place, "be up or down", given)
    return given


def _weight(place: str, given: Any) -> float:
    value = _plain(given)
    if not _is_finite(value) or value <= 0:
        raise _error(place, "be a finite number above 0", value)
    return float(value)


def _count(given: Any) -> int | None:
    value = _plain(given)
    if value is not None and (not _is_finite(value) or value < 1 or value != int(value)):
        raise _error(MAX_ACTIONS, "be a whole number of at least 1, or None", value)
    return None if value is None else int(value)


def _plain(value: Any) -> Any:
    """A numpy or torch number as the Python one, which JSON can hold."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max


def _as_number(value: Any) -> float | None:
    """NaN where missing, ``None`` where no number."""
    if value is None or value is pd.NA or value is pd.NaT:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _as_truth(value: Any) -> float | None:
    """Files often hold 1 and 0, or text, for true and false."""
    if isinstance(value, str):
        return {"true": 1.0, "false": 0.0}.get(value.lower())
    return float(value) if isinstance(value, (Real, np.bool_)) and value in (0, 1) else None


def _as_way(value: Any) -> float | None:
    return 0.0 if isinstance(value, str) and not value else WAYS.get(value)


def _original(feature: Feature, value: float) -> Any:
    """A value of model space in original units, ``None`` where open."""
    if math.isnan(value):
        return None
    if feature.has_levels:
        return feature.levels[feature.codes.index(value)]
    return int(value) if feature.kind == "integer" and value == int(value) else float(value)


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _error(argument: str, rule: str, value: Any) -> ConstraintError:
    return ConstraintError.of("Constraints", argument, rule, value)
