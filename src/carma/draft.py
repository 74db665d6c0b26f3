"""A first schema guessed from a table, to be read and corrected by a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pandas as pd

from carma.errors import GraphError, SchemaError, TableError
from carma.graph import CausalGraph
from carma.schema import Feature, Level, Role, Schema
from carma.table import to_pandas

__all__ = ["draft_schema", "draft_toml"]

MOST_LEVELS = 50

HEADER = """\
# What the columns of a table mean and what a person may do about them. This is a draft, guessed
# from the values of one table: read every line and correct it before anything is learned.
#
# outcome     column with the recorded decision
# favourable  the value of the outcome that people hope for
# threshold   accepted means: the favourable outcome has at least this probability
# ignore      columns that may be in the table and are not used
# rules       what holds between actions; see docs/action-rules.md
#
# [graph]     each effect with its direct causes; what is not listed has none:
#     savings = ["income", "age"]
#
# [features.NAME]
# kind        continuous, integer, binary, ordinal (ordered levels) or nominal (unordered levels)
# levels      all values of a binary, ordinal or nominal feature; ordinal ones in rising order
# bounds      least and greatest value that can exist; rows outside are refused and plans stay
#             inside. Drafted as the range of the table: widen it to what is possible.
# step        plans name multiples of this, counted from the lower bound or 0
# role        actionable (a plan may set it), mutable (it may move as a consequence; meant when
#             nothing is said) or immutable (it never moves)
# direction   up or down: the only way that a plan may move it
# cost_weight 2 = twice as hard to change
# moves       the only moves between levels that a plan may make, [from, to] or [from, to, cost],
#             with "*" for any level
# formula     computes the feature from others, as in "amount / duration"; never acted on
# unit        shown after values
# missing     refuse (a table with a gap here; meant when nothing is said), impute (the causal
#             model fills it in) or pass (the classifier sees the gap, and has to take it)
#
# A feature written out in full:
#     [features.income]
#     kind = "continuous"
#     role = "actionable"
#     direction = "up"
#     bounds = [0, 250000]
#     step = 100
#     cost_weight = 2
#     unit = "EUR"

"""


def draft_schema(
    frame: Any,
    *,
    outcome: str | None = None,
    favourable: Level | None = None,
    actionable: Sequence[str] = (),
    immutable: Sequence[str] = (),
    graph: CausalGraph | None = None,
) -> Schema:
    """Guess the schema of a table from its values.

    Two values make a binary feature, text with few values a nominal one, whole numbers an
    integer and other numbers a continuous one, with the observed range as bounds. Dates, text
    that looks like an identifier (more than 50 values, or at least half as many as rows) and
    columns that never vary are ignored. Gaps and infinities are passed over; a column of
    floats that are all whole is an integer only when it has gaps, since pandas stores whole
    numbers with gaps as floats.

    Args:
        frame: pandas or polars DataFrame in original units.
        outcome: Column with the recorded decision.
        favourable: The value of ``outcome`` that people hope for, or that value as text. May
            be left out when the outcome is 0/1 or boolean: then 1 or true.
        actionable: Features that a plan may set.
        immutable: Features that never move. All others are mutable.
        graph: Causal graph over (some of) the features; without it there are no edges.

    Returns:
        The draft.

    Raises:
        TableError: The table is no DataFrame, is empty, holds no feature, or its columns are
            not distinct names.
        SchemaError: A name is no feature, or both actionable and immutable; ``favourable`` is
            no value of the outcome or has to be chosen; the roles contradict the graph.
        GraphError: The graph names something that is no feature.

    Example:
        >>> people = pd.DataFrame(
        ...     {"id": ["a", "b", "c"], "age": [30, 41, 52], "member": [0, 1, 1], "paid": [0, 1, 0]}
        ... )
        >>> schema = draft_schema(people, outcome="paid", immutable=["age"])
        >>> [(f.name, f.kind, f.role) for f in schema.features]
        [('age', 'integer', 'immutable'), ('member', 'binary', 'mutable')]
        >>> schema["age"].bounds, schema.favourable, schema.ignore
        ((30, 52), 1, ('id',))
    """
    table = to_pandas(frame)
    _check_table(table)
    if outcome is not None:
        if outcome not in table.columns:
            rule = f"be a column of the table ({', '.join(table.columns)})"
            raise SchemaError.of("draft_schema", "outcome", rule, outcome)
        favourable = _favourable(_distinct(_values(table[outcome])), favourable)
    columns = [name for name in table.columns if name != outcome]
    guesses = {name: _guess(table[name]) for name in columns}
    ignore = tuple(name for name, guess in guesses.items() if guess is None)
    names = [name for name in columns if name not in ignore]
    if not names:
        rule = "hold a feature; dates, identifiers and constant columns are none"
        raise TableError.of("draft_schema", "columns", rule, columns)
    roles = _roles(actionable, immutable, names)
    features = tuple(
        Feature(name, role=roles.get(name, "mutable"), **guess)
        for name, guess in guesses.items()
        if guess is not None
    )
    return Schema(features, _over(names, graph), outcome, favourable, ignore=ignore)


def draft_toml(schema: Schema) -> str:
    r"""Write a schema as a problem file that explains itself.

    Args:
        schema: The problem.

    Returns:
        TOML text with a comment on every field at its head; ``Schema.from_toml`` reads it back.

    Example:
        >>> schema = draft_schema(pd.DataFrame({"income": [1.5, 2.5, 4.0]}))
        >>> text = draft_toml(schema)
        >>> print(text[text.index("[features.income]\nkind"):], end="")
        [features.income]
        kind = "continuous"
        bounds = [
            1.5,
            4.0,
        ]
        >>> Schema.from_toml(text) == schema
        True
    """
    return HEADER + schema.to_toml()


def _check_table(table: pd.DataFrame) -> None:
    names = list(table.columns)
    wrong = [n for n in names if not isinstance(n, str) or not n or names.count(n) > 1]
    if wrong:
        rule = "have different, non-empty strings as names"
        raise TableError.of("draft_schema", "columns", rule, wrong)
    if len(table) == 0:
        raise TableError.of("draft_schema", "rows", "be at least one", 0)


def _values(series: pd.Series[Any]) -> pd.Series[Any]:
    """Everything but gaps and infinities, numbers in a numeric dtype."""
    values = series.astype(object) if isinstance(series.dtype, pd.CategoricalDtype) else series
    values = values.dropna().infer_objects()
    if len(values) and all(isinstance(value, Decimal) for value in values):
        values = values.astype(float)
    if values.dtype.kind != "f":
        return values
    numbers = values.to_numpy(dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    is_whole = bool((finite == np.rint(finite)).all()) and bool((np.abs(finite) < 2**63).all())
    if is_whole and (bool(series.isna().any()) or len(np.unique(finite)) == 2):
        return pd.Series(finite.astype(np.int64))
    return pd.Series(finite)


def _distinct(values: pd.Series[Any]) -> list[Any]:
    """Values that occur, sorted where they can be compared and else by what they look like."""
    try:
        found = list(dict.fromkeys(values.tolist()))
    except TypeError:
        return []
    try:
        return sorted(found)
    except TypeError:
        return sorted(found, key=lambda value: (type(value).__name__, str(value)))


def _guess(series: pd.Series[Any]) -> dict[str, Any] | None:
    """Kind, levels and bounds of a column; ``None`` where it is no feature."""
    values = _values(series)
    levels = _distinct(values)
    if len(levels) < 2 or any(isinstance(v, (date, timedelta, complex)) for v in levels):
        return None
    if values.dtype.kind in "iuf" and len(levels) > 2:
        kind = "continuous" if values.dtype.kind == "f" else "integer"
        return {"kind": kind, "bounds": (levels[0], levels[-1])}
    if not all(isinstance(v, (str, int, float)) for v in levels):
        return None
    if len(levels) == 2:
        return {"kind": "binary", "levels": tuple(levels)}
    if len(levels) <= MOST_LEVELS and 2 * len(levels) < len(values):
        return {"kind": "nominal", "levels": tuple(levels)}
    return None


def _favourable(values: list[Any], favourable: Level | None) -> Level:
    shown = ", ".join(str(value) for value in values[:MOST_LEVELS])
    shown += ", ..." if len(values) > MOST_LEVELS else ""
    if favourable is None:
        if len(values) == 2 and set(values) == {0, 1}:
            return cast("Level", values[1])
        rule = f"be chosen from the values of the outcome ({shown})"
        raise SchemaError.of("draft_schema", "favourable", rule, None)
    equal = [value for value in values if value == favourable]
    found = equal or [value for value in values if _reads_as(value, favourable)]
    if not found:
        rule = f"be one of the values of the outcome ({shown})"
        raise SchemaError.of("draft_schema", "favourable", rule, favourable)
    return cast("Level", found[0])


def _reads_as(value: Any, text: Level) -> bool:
    """True where a person on a command line would type ``text`` for ``value``."""
    if isinstance(value, bool):
        return str(value).lower() == str(text).lower()
    return str(value) == str(text)


def _roles(
    actionable: Sequence[str], immutable: Sequence[str], names: Sequence[str]
) -> dict[str, Role]:
    for argument, chosen in (("actionable", actionable), ("immutable", immutable)):
        unknown = [name for name in chosen if name not in names]
        if unknown:
            rule = (
                f"only name features ({', '.join(names)}); "
                "the outcome, dates, identifiers and constant columns are none"
            )
            raise SchemaError.of("draft_schema", argument, rule, unknown)
    both = [name for name in actionable if name in immutable]
    if both:
        rule = "not share a name: an actionable feature cannot be immutable"
        raise SchemaError.of("draft_schema", "actionable and immutable", rule, both)
    may_act: dict[str, Role] = dict.fromkeys(actionable, "actionable")
    may_not_move: dict[str, Role] = dict.fromkeys(immutable, "immutable")
    return may_act | may_not_move


def _over(names: Sequence[str], graph: CausalGraph | None) -> CausalGraph:
    """The graph over exactly these features, in their order."""
    if graph is None:
        return CausalGraph(tuple(names))
    strangers = [node for node in graph.nodes if node not in names]
    if strangers:
        rule = f"only name features ({', '.join(names)})"
        raise GraphError.of("draft_schema", "graph", rule, strangers)
    return CausalGraph(tuple(names), graph.edges)
