"""What a table of plans asks for that may not be, found again from the table alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from carma.recourse.status import Status
from carma.schema import Feature, Schema

__all__ = ["violations"]

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Wrong = tuple[str, str, Bools]

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
        ``value`` (no level, outside the bounds, between two steps), ``direction``, ``move`` (no
        such move between levels), ``told`` (what is done and what is after differ), ``moved``
        (what neither an action nor time affects has changed), ``follows`` (what follows cannot
        exist), ``none`` (a plan without an action), ``count`` (another number of actions than is
        told), and those between actions: ``requires``, ``together``, ``exclusive``, ``sums`` and
        ``time`` (not moved by exactly the time that the actions take). What depends on a value
        that nobody knows today is not judged.

    Example:
        >>> from carma import CausalGraph
        >>> age = Feature("age", "integer", bounds=(18, 99), role="actionable", direction="up")
        >>> schema = Schema((age,), CausalGraph(("age",)))
        >>> told = {"status": "searched", "n_actions": 1, "do_age": 30, "after_age": 30}
        >>> violations(schema, pd.DataFrame({"age": [40]}), pd.DataFrame([told])).to_dict("records")
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


def _rules(schema: Schema, own: pd.DataFrame, plans: pd.DataFrame) -> Iterator[Wrong]:
    nobody = np.zeros(len(plans), dtype=bool)
    acts = {name: plans[f"do_{name}"].notna().to_numpy(dtype=bool) for name in schema.actionable}
    yield "", "none", ~np.logical_or.reduce([nobody, *acts.values()])
    yield "", "count", plans["n_actions"].to_numpy() != np.sum([nobody, *acts.values()], axis=0)
    for name, chosen in acts.items():
        feature, before, after = schema[name], own[name][chosen], plans[f"do_{name}"][chosen]
        kept = (after == before).to_numpy(dtype=bool)
        yield name, "value", _put(chosen, ~kept & ~_exists(feature, after, with_steps=True))
        yield name, "direction", _put(chosen, ~_is_the_right_way(feature, before, after))
        yield name, "move", _put(chosen, ~kept & ~_is_a_move(feature, before, after))
        told = plans[f"after_{name}"][chosen]
        yield name, "told", _put(chosen, ~_same(feature, after, told))
    passed = _time(schema, own, acts, plans)
    for feature in schema.features:
        if feature.role == "immutable":
            continue
        name = feature.name
        after, is_unknown = plans[f"after_{name}"], own[name].isna().to_numpy(dtype=bool)
        # Of an unknown time it is not known either whether it moves anything.
        sources = acts | {moved: ~(time == 0) for moved, time in passed.items()}
        causes = schema.graph.ancestors(name) & set(sources)
        reached = np.logical_or.reduce([nobody, *(sources[cause] for cause in causes)])
        is_free = reached | sources.get(name, nobody)
        # What is unknown today may be told as a guess, or left open where the classifier sees it.
        is_open = is_unknown & after.isna().to_numpy(dtype=bool) & (feature.missing == "pass")
        is_free = (is_free | is_unknown) & ~(is_open & ~acts.get(name, nobody))
        yield name, "moved", ~is_free & ~is_open & ~_same(feature, own[name], after)
        yield name, "follows", is_free & ~_exists(feature, after, with_steps=False)
    yield from _between_actions(schema, own, acts, plans)
    for name, time in passed.items():
        took = _codes(schema[name], plans[f"after_{name}"]) - _codes(schema[name], own[name])
        yield name, "time", np.abs(took - time) > SLACK * (1 + np.abs(time))


def _between_actions(
    schema: Schema, own: pd.DataFrame, acts: Mapping[str, Bools], plans: pd.DataFrame
) -> Iterator[Wrong]:
    rules = schema.rules
    for action, also in rules.requires:
        yield action, "requires", acts[action] & ~acts[also]
    for group in rules.together:
        count = np.sum([acts[name] for name in group], axis=0)
        yield group[0], "together", (count > 0) & (count < len(group))
    for group in rules.exclusive:
        yield group[0], "exclusive", np.sum([acts[name] for name in group], axis=0) > 1
    for limit in rules.sums:
        before, after = np.zeros(len(plans)), np.zeros(len(plans))
        for name, weight in limit.of.items():
            now = _codes(schema[name], own[name])
            told = plans.get(f"after_{name}")
            before += weight * now
            after += weight * (now if told is None else _codes(schema[name], told))
        # Whoever is beyond the limit today may stay there.
        most = np.maximum(before, limit.at_most)
        yield next(iter(limit.of)), "sums", after > most + SLACK * (1 + np.abs(most))


def _time(
    schema: Schema, own: pd.DataFrame, acts: Mapping[str, Bools], plans: pd.DataFrame
) -> dict[str, Floats]:
    """By how much time moves each feature that it moves; NaN where nobody can tell."""
    passed: dict[str, Floats] = {}
    for link in schema.rules.time:
        action, moved = schema[link.action], schema[link.moves]
        ends = own[link.action], plans[f"do_{link.action}"]
        if isinstance(link.takes, tuple):
            heights = dict(zip(action.levels, link.takes, strict=True))
            before, after = (side.map(heights).to_numpy(dtype=np.float64) for side in ends)
        else:
            before, after = (link.takes * _codes(action, side) for side in ends)
            if action.has_levels and action.codes[0] > action.codes[-1]:
                before, after = -before, -after
        time = np.where(acts[link.action], np.maximum(after - before, 0), 0)
        step = moved.step or (1 if moved.kind == "integer" else None)
        if step is not None:
            time = np.ceil(time / step - SLACK) * step
        passed[link.moves] = np.maximum(passed.get(link.moves, 0), time)
    return passed


def _put(chosen: Any, wrong: Any) -> Bools:
    everyone = np.zeros(len(chosen), dtype=bool)
    everyone[chosen] = wrong
    return everyone


def _exists(feature: Feature, values: pd.Series[Any], *, with_steps: bool) -> Any:
    if feature.has_levels:
        return values.isin(feature.levels).to_numpy(dtype=bool)
    numbers = _codes(feature, values)
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
    rise = _numbers(after) - _numbers(before)
    return ~((rise < -SLACK) if feature.direction == "up" else (rise > SLACK))


def _is_a_move(feature: Feature, before: pd.Series[Any], after: pd.Series[Any]) -> Any:
    if not feature.moves:
        return np.ones(len(after), dtype=bool)
    pairs = {tuple(move[:2]) for move in feature.moves}
    allowed = [
        pd.isna(a) or any((x, y) in pairs for x in (a, "*") for y in (b, "*"))
        for a, b in zip(before, after, strict=True)
    ]
    return np.array(allowed, dtype=bool)


def _same(feature: Feature, first: pd.Series[Any], second: pd.Series[Any]) -> Any:
    if feature.has_levels:
        return (first == second).fillna(False).to_numpy(dtype=bool)
    one, other = _numbers(first), _numbers(second)
    return np.isclose(one, other, rtol=SLACK, atol=SLACK)


def _codes(feature: Feature, values: pd.Series[Any]) -> Floats:
    """Values as numbers, levels by their codes, NaN where there is none."""
    if feature.has_levels:
        values = values.map(dict(zip(feature.levels, feature.codes, strict=True)))
    return _numbers(values)


def _numbers(values: pd.Series[Any]) -> Floats:
    return np.asarray(values.astype("Float64").to_numpy(na_value=np.nan), dtype=np.float64)
