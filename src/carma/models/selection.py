"""The rule by which a simpler mechanism replaces one that predicts hardly better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["MECHANISMS", "Mechanism", "select_simplest"]

Mechanism = Literal["linear", "quadratic", "additive", "network"]
MECHANISMS: tuple[Mechanism, ...] = ("linear", "quadratic", "additive", "network")


def select_simplest(
    counts: Tensor, n_nodes: int, n_rivals: int, likelihood: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """Choose for each node the simplest rival that no other one clearly outdoes.

    Clearly is by more than two standard errors, and by more than two units of log-likelihood in
    all, over rows that a member did not see. The first member takes for each row the mean over
    all members that did not see it, so that nearly every row counts, not only those held out.

    Args:
        counts: Weights of the rows in each member, shape ``(a, n)``; 0 where it did not see it.
        n_nodes: ``m``.
        n_rivals: ``r``.
        likelihood: ``(member, rows)`` to the log-likelihood of each row and node under each of
            the member's rivals, the simplest first, shape ``(len(rows), m, r)``.

    Returns:
        Positions of the rivals chosen, shape ``(a, m)``, int64.

    References:
        Breiman, Friedman, Olshen & Stone 1984, Classification and regression trees, 3.4.3 (with
        one standard error).
        Breiman 1996, Out-of-bag estimation.
    """
    chosen = torch.zeros(len(counts), n_nodes, dtype=torch.long)
    total = torch.zeros(counts.shape[1], n_nodes, n_rivals, dtype=torch.float64)
    for member, seen in enumerate(counts):
        rows = (seen == 0).nonzero()[:, 0]
        reached = likelihood(member, rows).double()
        chosen[member] = _simplest(reached)
        total.index_add_(0, rows, reached)
    unseen = (counts == 0).sum(dim=0)
    is_known = unseen > 0
    chosen[0] = _simplest(total[is_known] / unseen[is_known, None, None])
    return chosen


def _simplest(reached: Tensor) -> Tensor:
    """The first rival that none after it outdoes, shape ``(m,)``."""
    # Row: the simpler one; column: the one that may outdo it.
    gains = reached[:, :, None] - reached[..., None]
    error = gains.std(dim=0, correction=0) / math.sqrt(max(len(gains) - 1, 1))
    is_clear = (gains.mean(dim=0) > CLEAR * error) & (gains.sum(dim=0) > LEAST)
    return (~is_clear.triu(1).any(dim=2)).int().argmax(dim=1)


# Standard errors of the mean, and log-likelihood of all rows, that make a gain worth having:
# where two rivals are one, a gain of nothing may be many standard errors.
CLEAR, LEAST = 2.0, 2.0
