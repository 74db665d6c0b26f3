"""Where searches start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["spread_evenly"]


def spread_evenly(count: int, columns: Tensor, n_columns: int) -> Tensor:
    """Points spread evenly over the unit box of some columns, the same at every call.

    Args:
        count: Points.
        columns: The columns, int64; the others stay 0.
        n_columns: d.

    Returns:
        Shape ``(count, d)``, float64, 0 to 1.

    References:
        Sobol 1967, USSR Computational Mathematics and Mathematical Physics 7(4).

    Example:
        >>> spread_evenly(2, torch.tensor([1]), 3).shape
        torch.Size([2, 3])
    """
    shares = torch.zeros(count, n_columns, dtype=torch.float64)
    if not len(columns):
        return shares
    engine: Any = torch.quasirandom.SobolEngine
    draws = engine(len(columns), scramble=True, seed=0)
    shares[:, columns] = draws.draw(count).double()
    return shares
