"""The affine transform of one column: location and scale."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["Affine"]

# The log-scale is squashed to stay above the log of the least slope and below its negative.
LIMIT = -math.log(1e-3)


class Affine:
    """Elementwise ``z = exp(log_scale) * x + shift``.

    The log-scale is ``free / (1 + |free| / LIMIT)``, as in zuko's ``MonotonicAffineTransform``,
    whose methods this has; it does less around the arithmetic, which matters for one row.

    Args:
        shift: Any shape.
        free: Unconstrained scale, same shape.

    Example:
        >>> affine = Affine(torch.tensor(1.0), torch.tensor(0.0))
        >>> float(affine(torch.tensor(2.0))), float(affine.inv(torch.tensor(3.0)))
        (3.0, 2.0)
    """

    steepest: ClassVar[float] = 0.9 * LIMIT

    def __init__(self, shift: Tensor, free: Tensor) -> None:
        self._shift = shift
        self._log_scale = free / (1 + free.abs() / LIMIT)

    @staticmethod
    def free(log_scale: Tensor) -> Tensor:
        """Undo the squashing of a log-scale between ``-steepest`` and ``steepest``."""
        return log_scale / (1 - log_scale.abs() / LIMIT)

    def __call__(self, x: Tensor) -> Tensor:
        """Values to latent."""
        return torch.addcmul(self._shift, x, self._log_scale.exp())

    def inv(self, z: Tensor) -> Tensor:
        """Latent to values."""
        return (z - self._shift) / self._log_scale.exp()

    def log_abs_det_jacobian(self, x: Tensor, z: Tensor) -> Tensor:  # noqa: ARG002
        """Logarithm of the slope at ``x``."""
        return self._log_scale.expand(z.shape)
