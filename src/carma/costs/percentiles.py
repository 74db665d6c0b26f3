"""Where a value stands in a population."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["Percentiles"]


class Percentiles:
    """Distribution functions of several columns: continuous, rising, and linear in pieces.

    At each knot it is the share of the population at or below it, between knots it is linear.
    Beyond the ends it goes on with a small slope: a tenth for every range of the column.

    Args:
        knots: Rising values, shape ``(k, m)``; rows that have fewer end with infinities.
        levels: Value of the function at each knot, same shape, rising; where the knot is
            infinite, that of the last finite one.

    Example:
        >>> rows = torch.tensor([[1.0], [2.0], [2.0], [5.0]], dtype=torch.float64)
        >>> percentiles = Percentiles.of(rows)
        >>> percentiles(torch.tensor([[1.0], [1.5], [2.0], [5.0], [9.0]])).flatten().tolist()
        [0.25, 0.5, 0.75, 1.0, 1.1]
    """

    def __init__(self, knots: Tensor, levels: Tensor) -> None:
        self.knots, self.levels = knots, levels
        first, last = knots[:, :1], _last(knots)
        slope = BEYOND / (last - first)
        rise, run = levels.diff(dim=1), knots.diff(dim=1)
        # Piece j lies below knot j; the pieces after the last knot are one and the same.
        inner = torch.where(torch.isfinite(run), rise / run, slope)
        self._slopes = torch.cat([slope, inner, slope], dim=1)
        self._starts = torch.cat([first, torch.minimum(knots, last)], dim=1)
        self._heights = torch.cat([levels[:, :1], levels], dim=1)

    @classmethod
    def of(cls, rows: Tensor, top: float = 1.0) -> Percentiles:
        """Learn them from a population.

        Args:
            rows: Shape ``(n, k)``, finite; every column varies.
            top: What the greatest value has, above 1 - 1/n.

        Returns:
            With at most 201 knots a column, quantiles at equal steps where it has more values.
            Values that differ by rounding only are one knot.
        """
        columns = [_knots(column, top) for column in rows.T]
        width = max((len(knots) for knots, _ in columns), default=2)
        knots = torch.full((len(columns), width), torch.inf, dtype=torch.float64)
        levels = torch.full((len(columns), width), top, dtype=torch.float64)
        for row, (values, shares) in enumerate(columns):
            knots[row, : len(values)], levels[row, : len(values)] = values, shares
        return cls(knots, levels)

    def __call__(self, values: Tensor) -> Tensor:
        """Where values stand, differentiable; shape ``(..., k)`` to the same shape."""
        n_rows = values.shape[:-1].numel()
        flat = values.double().reshape(n_rows, len(self.knots)).T
        piece = torch.searchsorted(self.knots, flat.detach().contiguous(), right=True)
        above = flat - self._starts.gather(1, piece)
        stands = self._heights.gather(1, piece) + self._slopes.gather(1, piece) * above
        return stands.T.reshape(values.shape)

    @property
    def top(self) -> Tensor:
        """What the greatest value of each column has, shape ``(k,)``."""
        return self.levels[:, -1]

    @property
    def spread(self) -> Tensor:
        """Range of each column, shape ``(k,)``, above 0."""
        return _last(self.knots)[:, 0] - self.knots[:, 0]


def _knots(column: Tensor, top: float) -> tuple[Tensor, Tensor]:
    distinct, counts = np.unique(column.double().numpy(), return_counts=True)
    values, share = torch.tensor(distinct), torch.tensor(counts.cumsum() / len(column))
    # A change of units may round equal numbers to neighbours.
    is_new = values.diff() > SAME * (values[-1] - values[0])
    values = values[torch.cat([torch.tensor([True]), is_new])]
    share = share[torch.cat([is_new, torch.tensor([True])])]
    if len(values) > MOST_KNOTS:
        steps = torch.arange(MOST_KNOTS, dtype=torch.float64) / (MOST_KNOTS - 1)
        is_kept = torch.zeros(len(values), dtype=torch.bool)
        is_kept[torch.searchsorted(share, steps)] = True
        values, share = values[is_kept], share[is_kept]
    share[-1] = top
    return values, share


def _last(knots: Tensor) -> Tensor:
    return torch.where(torch.isfinite(knots), knots, -torch.inf).amax(dim=1, keepdim=True)


MOST_KNOTS = 201
# Rise for every range of the column that a value lies beyond its ends.
BEYOND = 0.1
# Values closer than this share of the range are one.
SAME = 1e-12
