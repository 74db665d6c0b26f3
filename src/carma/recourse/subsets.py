"""Sets of features that plans may act on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from carma.state import seeded

__all__ = ["all_subsets", "most_probable", "n_subsets", "set_codes"]


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


def most_probable(
    logits: Tensor,
    count: int,
    max_actions: Tensor | None = None,
    allows: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The likeliest sets of independent features, without trying them all.

    A set's log-probability falls short of the likeliest one's by the sum of ``|logit|`` over the
    features in which the two differ: feature by feature, the ``count`` least sums are kept.

    Args:
        logits: Log-odds of each feature, shape ``(n, K)``; minus infinity is never chosen.
        count: Sets wanted.
        max_actions: Largest set of each row, shape ``(n,)``, at least 1: every feature then pays
            as much as makes the likeliest set fit.
        allows: Which masks ``(n, m, K)`` may be offered, ``(n, m)`` bool; without it, all.

    Returns:
        Masks ``(n, count, K)``, bool, the likeliest first, no two alike, none empty: where there
        are no more such sets, the rest is empty. Where K features have fewer sets than ``count``,
        so many.

    Example:
        >>> most_probable(torch.tensor([[2.0, -0.5, -3.0]]), 3).int().tolist()
        [[[1, 0, 0], [1, 1, 0], [0, 1, 0]]]
    """
    n, k = logits.shape
    base = logits > 0
    if max_actions is not None and k > 1:
        ranked = logits.sort(dim=1, descending=True, stable=True)
        last = ranked.values.gather(1, max_actions.clamp(max=k - 1)[:, None])
        toll = torch.where((max_actions < k)[:, None], last.clamp(min=0), 0.0)
        place = ranked.indices.argsort(dim=1)
        # Of equal features, the first ones that fit: this set is then never lost.
        base &= place < max_actions[:, None]
        logits = logits - toll
    kept = count + 1 if max_actions is None else 4 * count + 1
    if allows is not None:
        kept = max(kept, MANY * count)
    price = logits.abs()
    total = torch.zeros(n, 1, dtype=logits.dtype)
    flips = torch.zeros(n, 1, k, dtype=torch.bool)
    for feature in range(k):
        flipped = flips.clone()
        flipped[..., feature] = True
        total = torch.cat([total, total + price[:, feature, None]], dim=1)
        flips = torch.cat([flips, flipped], dim=1)
        if total.shape[1] > kept:
            total, chosen = (t[:, :kept] for t in total.sort(dim=1, stable=True))
            flips = flips.gather(1, chosen[..., None].expand(-1, -1, k))
    masks = flips ^ base[:, None]
    size = masks.sum(dim=2)
    fits = (size > 0) & torch.isfinite(total)
    if max_actions is not None:
        fits &= size <= max_actions[:, None]
    if allows is not None:
        fits &= allows(masks)
    order = torch.where(fits, total, torch.inf).sort(dim=1, stable=True).indices[:, :count]
    masks = masks & fits[..., None]
    return masks.gather(1, order[..., None].expand(-1, -1, k))


# As many sets are looked through for each one wanted where not all may be offered.
MANY = 32
