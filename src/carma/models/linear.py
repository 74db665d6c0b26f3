"""Mechanisms that are linear in their features: causes, or causes and their products."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from carma.models.affine import Affine

__all__ = ["LinearMechanism", "ridge"]

# Share of the rows' weight that is added to each feature's sum of squares: enough for columns
# that depend, as those of a nominal cause, and too little to be seen in a slope.
RIDGE = 1e-9
# Square of the t statistic that a product needs: 1 % of those without effect have it.
LEAST_SQUARE = 2.5758**2
# Share of each feature's variance that is added to it where features are many and alike.
SHRINKAGE = 1e-6


@dataclass(frozen=True)
class LinearMechanism:
    """Parameters of the affine transform of one column, linear in its features.

    Args:
        constant: Shift and unconstrained scale without the features, shape ``(2,)``, float64.
        slopes: Effects of the features on the shift, shape ``(q,)``, float64.
    """

    constant: Tensor
    slopes: Tensor

    @classmethod
    def fit(cls, features: Tensor, value: Tensor, counts: Tensor, n_causes: int) -> LinearMechanism:
        """Least squares of ``value = intercept + features @ slopes + std * noise``.

        Products are left out one by one, the least certain first, until all that remain differ
        from 0 at the level of 1 % (backward elimination; Draper & Smith 1998, chapter 15). The
        slopes of the others are 0. Causes stay.

        Args:
            features: Scaled causes and then their products, shape ``(n, q)``.
            value: Scaled, shape ``(n,)``.
            counts: Weights of the rows, shape ``(n,)``.
            n_causes: Number of features that are causes.
        """
        weight, features, value = counts.double(), features.double(), value.double()
        share = weight / weight.sum()
        centre, level = share @ features, share @ value
        apart = features - centre
        weighted = (apart * share[:, None]).T
        slopes = _eliminate(
            weighted @ apart,
            weighted @ (value - level),
            float(share @ (value - level).square()),
            float(weight.sum()),
            n_causes,
        )
        residual = value - level - apart @ slopes
        return cls._with(slopes, level - centre @ slopes, share, residual)

    @classmethod
    def ridge(cls, features: Tensor, value: Tensor, counts: Tensor) -> LinearMechanism:
        """The same with all features, which may be nearly dependent.

        Args:
            features: Shape ``(n, q)``.
            value: Scaled, shape ``(n,)``.
            counts: Weights of the rows, shape ``(n,)``.
        """
        share = counts.double() / counts.double().sum()
        intercept, slopes = ridge(features, value, share)
        residual = value.double() - intercept - features.double() @ slopes
        return cls._with(slopes, intercept, share, residual)

    @classmethod
    def _with(
        cls, slopes: Tensor, intercept: Tensor, share: Tensor, residual: Tensor
    ) -> LinearMechanism:
        log_scale = -0.5 * (share @ residual.square()).log()
        # A mechanism without noise would need a steeper transform than there is.
        log_scale = log_scale.clamp(-Affine.steepest, Affine.steepest)
        scale = log_scale.exp()
        constant = torch.stack([-intercept * scale, Affine.free(log_scale)])
        return cls(constant, -slopes * scale)

    def parameters(self, features: Tensor) -> Tensor:
        """Shape ``(n, 2)``, float64, for scaled features ``(n, q)``."""
        shift = self.constant[0] + features.double() @ self.slopes
        return torch.stack([shift, self.constant[1].expand_as(shift)], dim=1)


def ridge(features: Tensor, value: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of ``value = intercept + features @ slopes``; features may be nearly dependent.

    Args:
        features: Shape ``(n, q)``.
        value: Shape ``(n,)``.
        share: Weights of the rows, which add up to 1, shape ``(n,)``, float64.

    Returns:
        Intercept and slopes, float64.
    """
    features, value = features.double(), value.double()
    centre, level = share @ features, share @ value
    apart = features - centre
    weighted = (apart * share[:, None]).T
    gram = weighted @ apart
    # Slopes are not larger than the data ask for: beyond the rows they decide alone.
    penalty = SHRINKAGE * gram.diagonal() + RIDGE
    slopes = torch.linalg.solve(gram + penalty.diag(), weighted @ (value - level))
    return level - centre @ slopes, slopes


def _eliminate(gram: Tensor, right: Tensor, variance: float, n: float, n_causes: int) -> Tensor:
    """Least squares from moments around the means; 0 for the products that are left out.

    Args:
        gram: Covariance of the features, shape ``(q, q)``.
        right: Their covariance with the value, shape ``(q,)``.
        variance: Of the value.
        n: Number of rows.
        n_causes: Number of features that stay.
    """
    kept = [k for k, own in enumerate(gram.diagonal().tolist()) if k < n_causes or own > 0]
    while True:
        inverse = torch.linalg.inv(gram[kept][:, kept] + RIDGE * torch.eye(len(kept)).double())
        found = inverse @ right[kept]
        # No mechanism has less noise than the steepest transform.
        noise = max(variance - float(found @ right[kept]), math.exp(-2 * Affine.steepest))
        freedom = max(n - len(kept) - 1, 1)
        squares = (freedom * found.square() / (inverse.diagonal() * noise))[n_causes:]
        if len(squares) == 0 or squares.min() >= LEAST_SQUARE:
            return torch.zeros_like(right).index_copy(0, torch.tensor(kept), found)
        del kept[n_causes + int(squares.argmin())]
