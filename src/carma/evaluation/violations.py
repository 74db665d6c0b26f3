"""What a table of plans asks for that may not be, found again from the table alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from carma.recourse.status import Status
from carma.schema import Feature, Schema

__all__ = ["violations"]

# Numbers in a table are rounded in binary.
SLACK = 1e-6


def violations(schema: Schema, people: pd.DataFrame, plans: pd.DataFrame) -> pd.DataFrame:
    """Check a table of plans against the schema, with none of the code that made it.

    Args:
        schema: The problem.
        people: Who asked, original units.
        plans: ``RecourseResult.to_frame()`` of the same people, one plan each.

    Returns:
        One row for each thing that is wrong: ``person``, ``feature``, ``rule``. The rules:
        ``value`` (no level, outside the bounds, between two steps), ``direction``, ``told``
        (what is done and what is after differ), ``moved`` (what no action affects has
        changed), ``follows`` (what follows cannot exist) and ``none`` (a plan without an action).

    Example:
        >>> from carma import CausalGraph
        >>> age = Feature("age", "integer", bounds=(18, 99), role="actionable", direction="up")
        >>> schema = Schema((age,), CausalGraph(("age",)))
        >>> plans = pd.DataFrame({"status": ["searched"], "do_age": [30], "after_age": [30]})
        >>> violations(schema, pd.DataFrame({"age": [40]}), plans).to_dict("records")
        [{'person': 0, 'feature': 'age', 'rule': 'direction'}]
    """
    with_plan = plans[[Status(status).has_plan for status in plans["status"]]]
    own = people.loc[with_plan.index]
    found = [
        (person, name, rule)
        for name, rule, wrong in _rules(schema, own, with_plan)
        for person in with_plan.index[wrong]
    ]
    return pd.DataFrame(found, columns=["person", "feature", "rule"])


def _rules(
    schema: Schema, own: pd.DataFrame, plans: pd.DataFrame
) -> Iterator[tuple[str, str, np.ndarray[Any, np.dtype[np.bool_]]]]:
    nobody = np.zeros(len(plans), dtype=bool)
    acts = {name: plans[f"do_{name}"].notna().to_numpy(dtype=bool) for name in schema.actionable}
    yield "", "none", ~np.logical_or.reduce([nobody, *acts.values()])
    for name, chosen in acts.items():
        feature, before, after = schema[name], own[name][chosen], plans[f"do_{name}"][chosen]
        kept = (after == before).to_numpy(dtype=bool)
        yield name, "value", _put(chosen, ~kept & ~_exists(feature, after, with_steps=True))
        yield name, "direction", _put(chosen, ~_is_the_right_way(feature, before, after))
        told = plans[f"after_{name}"][chosen]
        yield name, "told", _put(chosen, ~_same(feature, after, told))
    for feature in schema.features:
        if feature.role == "immutable":
            continue
        name = feature.name
        after = plans[f"after_{name}"]
        causes = schema.graph.ancestors(name) & set(acts)
        reached = np.logical_or.reduce([nobody, *(acts[cause] for cause in causes)])
        is_free = reached | acts.get(name, nobody)
        yield name, "moved", ~is_free & ~_same(feature, own[name], after)
        yield name, "follows", is_free & ~_exists(feature, after, with_steps=False)


def _put(chosen: Any, wrong: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    everyone = np.zeros(len(chosen), dtype=bool)
    everyone[chosen] = wrong
    return everyone


def _exists(feature: Feature, values: pd.Series[Any], *, with_steps: bool) -> Any:
    if feature.has_levels:
        return values.isin(feature.levels).to_numpy(dtype=bool)
    numbers = values.to_numpy(dtype=np.float64)
    is_real = np.isfinite(numbers)
    if feature.bounds is not None:
        low, high = feature.bounds
        room = SLACK * (1 + np.abs(numbers))
        is_real &= (numbers >= low - room) & (numbers <= high + room)
    step = feature.step or (1 if feature.kind == "integer" else None)
    if step is not None and (with_steps or feature.kind == "integer"):
        origin = 0 if feature.bounds is None else feature.bounds[0]
        count = (numbers - origin) / (step if with_steps else 1)
        is_real &= np.abs(count - np.rint(count)) < SLACK
    return is_real


def _is_the_right_way(feature: Feature, before: pd.Series[Any], after: pd.Series[Any]) -> Any:
    if feature.direction == "any":
        return np.ones(len(after), dtype=bool)
    if feature.has_levels:
        place = {level: i for i, level in enumerate(feature.levels)}
        before, after = before.map(place), after.map(place)
    rise = after.to_numpy(dtype=np.float64) - before.to_numpy(dtype=np.float64)
    return rise >= -SLACK if feature.direction == "up" else rise <= SLACK


def _same(feature: Feature, first: pd.Series[Any], second: pd.Series[Any]) -> Any:
    if feature.has_levels:
        return (first == second).to_numpy(dtype=bool)
    one, other = (side.to_numpy(dtype=np.float64) for side in (first, second))
    return np.isclose(one, other, rtol=SLACK, atol=SLACK)
