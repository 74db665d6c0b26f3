"""The rule by which a simple mechanism replaces a network that predicts hardly better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["MECHANISMS", "Mechanism", "select_simple"]

Mechanism = Literal["linear", "quadratic", "network"]
MECHANISMS: tuple[Mechanism, ...] = ("linear", "quadratic", "network")


def select_simple(counts: Tensor, n_nodes: int, gain: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Choose the networks that do not predict clearly better than a simple mechanism.

    Clearly is by more than one standard error, over rows that a member did not see. The first
    member takes for each row the mean over all members that did not see it, so that nearly
    every row counts, not only those held out.

    Args:
        counts: Weights of the rows in each member, shape ``(a, n)``; 0 where it did not see it.
        n_nodes: ``m``.
        gain: ``(member, rows)`` to the log-likelihood of each row and node under the member's
            network less that under its simple mechanism, shape ``(len(rows), m)``.

    Returns:
        Shape ``(a, m)`` bool, true where simple.

    References:
        Breiman, Friedman, Olshen & Stone 1984, Classification and regression trees, 3.4.3.
        Breiman 1996, Out-of-bag estimation.
    """
    chosen = torch.zeros(len(counts), n_nodes, dtype=torch.bool)
    total = torch.zeros(counts.shape[1], n_nodes, dtype=torch.float64)
    for member, seen in enumerate(counts):
        rows = (seen == 0).nonzero()[:, 0]
        gains = gain(member, rows).double()
        chosen[member] = ~_is_clear(gains)
        total.index_add_(0, rows, gains)
    unseen = (counts == 0).sum(dim=0)
    is_known = unseen > 0
    chosen[0] = ~_is_clear(total[is_known] / unseen[is_known, None])
    return chosen


def _is_clear(gains: Tensor) -> Tensor:
    """Whether the mean over rows is above its standard error, shape ``(m,)``."""
    error = gains.std(dim=0, correction=0) / math.sqrt(max(len(gains) - 1, 1))
    return gains.mean(dim=0) > error
