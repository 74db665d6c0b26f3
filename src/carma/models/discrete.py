"""What a flow needs of discrete columns: their levels, frequencies and cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from carma.schema import Feature
from carma.table import Encoding

__all__ = ["cells", "draw_levels", "level_positions", "root_frequencies"]


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


def cells(x: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
    """Lower and upper end of the cell that each value stands for; equal if continuous.

    Args:
        x: Shape ``(n, d)``, model space.
        encoding: Of the table.

    Returns:
        Two of shape ``(n, d)``, model space.
    """
    low, high = x.clone(), x.clone()
    for feature in encoding.schema.features:
        if feature.kind not in ("integer", "binary", "ordinal"):
            continue
        i = encoding.column(feature.name)
        if feature.kind == "integer":
            low[:, i] -= 0.5
            high[:, i] += 0.5
        else:
            codes = torch.tensor(sorted(feature.codes), dtype=x.dtype)
            middle = (codes[1:] + codes[:-1]) / 2
            first, last = 2 * codes[:1] - middle[:1], 2 * codes[-1:] - middle[-1:]
            edges = torch.cat([first, middle, last])
            position = (x[:, i, None] - codes).abs().argmin(dim=1)
            low[:, i], high[:, i] = edges[position], edges[position + 1]
    return low, high
