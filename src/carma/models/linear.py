"""Linear mechanisms: their least squares, and the rule by which one replaces a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from carma.models.affine import Affine

__all__ = ["LinearMechanism", "select_linear"]


@dataclass(frozen=True)
class LinearMechanism:
    """Parameters of the affine transform of one column, linear in its causes.

    Args:
        constant: Shift and unconstrained scale without the causes, shape ``(2,)``, float64.
        slopes: Effects of the causes on the shift, shape ``(q,)``, float64.
    """

    constant: Tensor
    slopes: Tensor

    @classmethod
    def fit(cls, causes: Tensor, value: Tensor, counts: Tensor) -> LinearMechanism:
        """Least squares of ``value = intercept + causes @ slopes + std * noise``.

        The shortest solution where there are many, as with the columns of a nominal cause.

        Args:
            causes: Scaled, shape ``(n, q)``.
            value: Scaled, shape ``(n,)``.
            counts: Weights of the rows, shape ``(n,)``.
        """
        seen = counts > 0
        weight = counts[seen].double()
        root = weight.sqrt()[:, None]
        design = torch.cat([torch.ones(len(root), 1), causes[seen]], dim=1).double()
        target = value[seen].double()[:, None]
        # More rows than columns are not certain, and gelsd also takes columns that depend.
        found = torch.linalg.lstsq(root * design, root * target, driver="gelsd").solution
        residual = (target - design @ found)[:, 0]
        log_scale = -0.5 * ((weight * residual.square()).sum() / weight.sum()).log()
        # A mechanism without noise would need a steeper transform than there is.
        log_scale = log_scale.clamp(-Affine.steepest, Affine.steepest)
        scale = log_scale.exp()
        constant = torch.stack([-found[0, 0] * scale, Affine.free(log_scale)])
        return cls(constant, -found[1:, 0] * scale)

    def parameters(self, causes: Tensor) -> Tensor:
        """Shape ``(n, 2)``, float64, for scaled causes ``(n, q)``."""
        shift = self.constant[0] + causes.double() @ self.slopes
        return torch.stack([shift, self.constant[1].expand_as(shift)], dim=1)


def select_linear(counts: Tensor, n_nodes: int, gain: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Choose the networks that do not predict clearly better than a linear mechanism.

    Clearly is by more than one standard error, over rows that a member did not see. The first
    member takes for each row the mean over all members that did not see it, so that nearly
    every row counts, not only those held out.

    Args:
        counts: Weights of the rows in each member, shape ``(a, n)``; 0 where it did not see it.
        n_nodes: ``m``.
        gain: ``(member, rows)`` to the log-likelihood of each row and node under the member's
            network less that under its linear mechanism, shape ``(len(rows), m)``.

    Returns:
        Shape ``(a, m)`` bool, true where linear.

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
