"""What a learned model needs of discrete columns: their levels, frequencies and cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from carma.errors import SchemaError
from carma.schema import Feature, Schema
from carma.table import Encoding

__all__ = [
    "cells",
    "check_nominal_roots",
    "draw_levels",
    "has_discrete_effects",
    "level_positions",
    "level_roots",
    "log_frequencies",
    "root_frequencies",
]


def check_nominal_roots(owner: str, schema: Schema) -> None:
    """Raise ``SchemaError`` where a nominal feature has a cause."""
    for feature in schema.features:
        causes = schema.graph.parents(feature.name)
        if feature.kind == "nominal" and causes:
            rule = f"have no cause when its kind is nominal (causes: {', '.join(causes)})"
            raise SchemaError.of(owner, f"feature {feature.name}", rule, feature.kind)


def has_discrete_effects(schema: Schema) -> bool:
    """Whether a feature with causes is discrete, so that what is predicted has to be snapped."""
    return any(f.is_discrete and schema.graph.parents(f.name) for f in schema.features)


def level_roots(encoding: Encoding) -> Tensor:
    """True for the columns of features that have levels and no causes, shape ``(d,)``, bool."""
    schema = encoding.schema
    found = [f.has_levels and not schema.graph.parents(f.name) for f in schema.features]
    return torch.tensor([found[owner] for owner in encoding.owners])


def level_positions(x: Tensor, encoding: Encoding, feature: Feature) -> Tensor:
    """Number of the level that each row has, shape ``(n,)``, for rows of model space."""
    where = encoding.block(feature.name)
    if feature.kind == "nominal":
        return x[:, where].argmax(dim=1)
    codes = torch.tensor(feature.codes, dtype=x.dtype)
    return (x[:, where] - codes).abs().argmin(dim=1)


def root_frequencies(x: Tensor, encoding: Encoding) -> dict[str, Tensor]:
    """Share of each level, float64, by the names of the features without causes that have any.

    Args:
        x: Shape ``(n, d)``, model space.
        encoding: Of the table.
    """
    schema = encoding.schema
    roots = (schema[name] for name in schema.graph.roots)
    return {
        root.name: torch.bincount(
            level_positions(x, encoding, root), minlength=len(root.levels)
        ).double()
        / len(x)
        for root in roots
        if root.has_levels
    }


def log_frequencies(x: Tensor, encoding: Encoding, frequencies: Mapping[str, Tensor]) -> Tensor:
    """Log-probability of each row's levels of the roots, shape ``(n,)``, float64.

    Args:
        x: Shape ``(n, d)``, model space.
        encoding: Of the table.
        frequencies: See ``root_frequencies``.
    """
    total = torch.zeros(len(x), dtype=torch.float64)
    for name, frequency in frequencies.items():
        total = total + frequency.log()[level_positions(x, encoding, encoding.schema[name])]
    return total


def draw_levels(frequency: Tensor, n: int, feature: Feature) -> Tensor:
    """Levels drawn from the global random state.

    Args:
        frequency: Of each level.
        n: Number of draws.
        feature: What has the levels.

    Returns:
        Shape ``(n, 1)``, or ``(n, levels)`` for a nominal feature; float64, model space.
    """
    drawn = torch.multinomial(frequency, n, replacement=True)
    if feature.kind == "nominal":
        return one_hot(drawn, len(feature.levels)).double()
    return torch.tensor(feature.codes, dtype=torch.float64)[drawn, None]


def cells(
    x: Tensor, encoding: Encoding, columns: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Lower and upper end of the cell that each value stands for; equal if continuous.

    Args:
        x: Shape ``(n, k)``, model space.
        encoding: Of the table.
        columns: Positions of the ``k``; ``None`` is all.

    Returns:
        Two of shape ``(n, k)``, model space.
    """
    features, owners = encoding.schema.features, encoding.owners
    ends: list[tuple[Tensor, Tensor]] = []
    for i, value in zip(
        range(len(owners)) if columns is None else columns, x.unbind(dim=1), strict=True
    ):
        feature = features[owners[i]]
        if feature.kind == "integer":
            ends.append((value - 0.5, value + 0.5))
        elif feature.kind in ("binary", "ordinal"):
            middle, edges = _edges(feature.codes)
            position = torch.bucketize(value.contiguous(), middle)
            ends.append((edges[position], edges[position + 1]))
        else:
            ends.append((value, value))
    low, high = zip(*ends, strict=True)
    return torch.stack(low, dim=1), torch.stack(high, dim=1)


@cache
def _edges(codes: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Between the cells of some levels, without and with the outer ends, rising."""
    # What is made in inference mode could not be used outside of it.
    with torch.inference_mode(False):
        own = torch.tensor(sorted(codes), dtype=torch.float64)
        middle = (own[1:] + own[:-1]) / 2
        first, last = 2 * own[:1] - middle[:1], 2 * own[-1:] - middle[-1:]
        return middle, torch.cat([first, middle, last])
