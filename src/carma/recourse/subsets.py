"""Sets of features that plans may act on."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from carma.state import seeded

__all__ = ["all_subsets", "n_subsets", "set_codes"]


def n_subsets(n_features: int, max_actions: int | None = None) -> int:
    """Number of nonempty sets of at most ``max_actions`` out of ``n_features``.

    Example:
        >>> n_subsets(4), n_subsets(4, max_actions=2)
        (15, 10)
    """
    total, term = 0, 1
    for size in range(1, min(n_features, max_actions or n_features) + 1):
        term = term * (n_features - size + 1) // size
        total += term
    return total


def all_subsets(columns: Tensor, n_columns: int, max_actions: int | None = None) -> Tensor:
    """Every nonempty set, small ones first.

    Args:
        columns: The K columns that may be set, int64.
        n_columns: d.
        max_actions: Largest size.

    Returns:
        Masks, shape ``(m, d)``, bool.
    """
    chosen = columns.tolist()
    largest = min(len(chosen), max_actions or len(chosen))
    sets = [s for size in range(1, largest + 1) for s in combinations(chosen, size)]
    masks = torch.zeros(len(sets), n_columns, dtype=torch.bool)
    for row, columns_set in enumerate(sets):
        masks[row, list(columns_set)] = True
    return masks


def set_codes(masks: Tensor) -> Tensor:
    """A number for each set: equal sets have equal numbers, and different ones different ones.

    Args:
        masks: Shape ``(..., d)``, bool.

    Returns:
        Shape ``(...)``, int64; random sums, which meet by chance once in 2^60 pairs.

    Example:
        >>> one, other = set_codes(torch.tensor([[True, False], [True, True]])).tolist()
        >>> one == other
        False
    """
    most = 1 << 62
    weights = torch.randint(-most, most, masks.shape[-1:], generator=seeded(0))
    return (masks * weights).sum(dim=-1)
