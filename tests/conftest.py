"""Strategies that several test files draw problems and tables from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from carma.graph import CausalGraph
from carma.schema import Feature, Kind, Level, Schema

settings.register_profile("carma", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("carma")
# On tensors this small, threads only wait for each other.
torch.set_num_threads(1)

Tables = Callable[[Schema], SearchStrategy[pd.DataFrame]]

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@pytest.fixture(scope="session")
def schemas() -> SearchStrategy[Schema]:
    """Problems over all kinds, roles, directions and random graphs."""
    return _schemas()


@pytest.fixture(scope="session")
def tables() -> Tables:
    """From a schema to tables that fit it, with an index of their own."""
    return _tables


@st.composite
def _schemas(draw: DrawFn) -> Schema:
    names = draw(st.lists(TEXT.filter(bool), min_size=1, max_size=5, unique=True))
    graph = _dag(draw, names)
    roles = {n: draw(st.sampled_from(["actionable", "mutable", "immutable"])) for n in names}
    for name in names:
        if any(roles[cause] == "actionable" for cause in graph.ancestors(name)):
            roles[name] = "mutable" if roles[name] == "immutable" else roles[name]
    features = tuple(_feature(draw, name, roles[name]) for name in names)
    outcome = draw(st.none() | TEXT.filter(lambda n: n not in names))
    levels: SearchStrategy[Level] = TEXT | st.integers() | st.booleans() | NUMBERS
    return Schema(
        features,
        graph,
        outcome,
        None if outcome is None else draw(levels),
        draw(st.floats(0.01, 0.99)),
        tuple(draw(st.lists(TEXT.filter(lambda n: n not in names), max_size=2))),
    )


def _dag(draw: DrawFn, names: list[str]) -> CausalGraph:
    order = draw(st.permutations(names))
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return CausalGraph(tuple(names), tuple(chosen))


def _feature(draw: DrawFn, name: str, role: Any) -> Feature:
    kinds: tuple[Kind, ...] = ("continuous", "integer", "binary", "ordinal", "nominal")
    kind = draw(st.sampled_from(kinds))
    settings: dict[str, Any] = {"cost_weight": draw(st.floats(0.1, 10)), "unit": draw(TEXT)}
    if kind in ("binary", "ordinal", "nominal"):
        settings["levels"] = _levels(draw, kind)
    elif draw(st.booleans()):
        ends: SearchStrategy[Any] = st.integers(-1000, 1000) if kind == "integer" else NUMBERS
        settings["bounds"] = tuple(
            sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))
        )
    if kind == "integer":
        settings["step"] = draw(st.none() | st.integers(1, 50))
    if kind == "continuous":
        settings["step"] = draw(st.none() | st.floats(0.01, 100))
    if kind != "nominal" and role != "immutable":
        settings["direction"] = draw(st.sampled_from(["any", "up", "down"]))
    return Feature(name, kind, role=role, **settings)


def _levels(draw: DrawFn, kind: Kind) -> tuple[Level, ...]:
    most = 2 if kind == "binary" else 4
    values: SearchStrategy[Any] = draw(
        st.sampled_from([TEXT, st.integers(-1000, 1000), NUMBERS, st.booleans()])
    )
    levels = draw(st.lists(values, min_size=2, max_size=most, unique=True))
    is_numeric = not isinstance(levels[0], (str, bool))
    return tuple(sorted(levels) if kind == "ordinal" and is_numeric else levels)


@st.composite
def _tables(draw: DrawFn, schema: Schema) -> pd.DataFrame:
    n = draw(st.integers(1, 6))
    data = {f.name: draw(st.lists(_values(f), min_size=n, max_size=n)) for f in schema.features}
    labels: SearchStrategy[Any] = draw(st.sampled_from([st.integers(0, 99), TEXT]))
    index = draw(st.lists(labels, min_size=n, max_size=n, unique=True))
    return pd.DataFrame(data, index=index)


def _values(feature: Feature) -> SearchStrategy[Any]:
    if feature.has_levels:
        return st.sampled_from(feature.levels)
    low, high = feature.bounds or (-1000, 1000)
    if feature.kind == "integer":
        return st.integers(int(low), int(high))
    return st.floats(low, high, allow_subnormal=False)
