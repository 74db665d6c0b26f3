"""Sets of features that plans may act on."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

__all__ = ["all_subsets", "n_subsets"]


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
