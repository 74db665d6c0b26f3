"""Where the latent of an ordered column passes from one value to the next."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from carma.table import Encoding

__all__ = ["Thresholds", "beyond", "interpolate", "tail_ranks"]

# Quantiles of whole numbers between whose cells there are thresholds of their own.
QUANTILES = 32
# Thresholds are further apart than this; in standard deviations a unit of the latent.
LEAST = 1e-3


class Thresholds(nn.Module):
    """A rising function of each ordered column, from its values to thresholds of its latent.

    Piecewise linear between knots, which lie at the ends of cells: for binary and ordinal
    features between all levels, for whole numbers around those at a few quantiles. The heights
    of the knots are learned, in each member of an ensemble. Beyond the knots the function rises
    by 1 for each standard deviation.

    Args:
        knots: Rising, shape ``(m, k)``, float64, at least two.
        rise: Slope beyond the knots, shape ``(m,)``, float64.
        n_members: Ensemble members, at least 1.

    Example:
        >>> found = Thresholds(torch.tensor([[0.5, 1.5]]), torch.tensor([1.0]), 1)
        >>> value = torch.tensor([[0.5], [1.0], [3.5]])
        >>> height = found(value, [0], slice(0, 1))
        >>> torch.allclose(found.inverse(height, [0], slice(0, 1)), value)
        True
    """

    knots: Tensor
    rise: Tensor
    _kept: dict[tuple[int | None, ...], tuple[Tensor, Tensor, Tensor]] | None = None

    def __init__(self, knots: Tensor, rise: Tensor, n_members: int) -> None:
        super().__init__()
        self.register_buffer("knots", knots)
        self.register_buffer("rise", rise)
        m, k = knots.shape
        self.first = nn.Parameter(torch.zeros(n_members, m))
        self.steps = nn.Parameter(torch.zeros(n_members, m, k - 1))

    @classmethod
    def of(
        cls, x: Tensor, encoding: Encoding, columns: list[int], std: Tensor, n_members: int
    ) -> Thresholds:
        """Start from how often each value was seen.

        Args:
            x: Training rows, shape ``(n, d)``, model space.
            encoding: Of the table.
            columns: The ordered ones.
            std: Of every column, shape ``(d,)``.
            n_members: See the class.
        """
        knots = [_knots(x[:, i], encoding, i) for i in columns]
        width = max([2, *map(len, knots)])
        rise = 1 / std[columns]
        whole, heights = x.new_zeros(len(columns), width), x.new_zeros(len(columns), width)
        for row, (i, own) in enumerate(zip(columns, knots, strict=True)):
            below = torch.searchsorted(x[:, i].sort().values, own).double()
            start = ((below + 0.5) / (len(x) - below + 0.5)).log()
            whole[row], heights[row] = beyond(own, start, width, float(rise[row]))
        found = cls(whole, rise, n_members)
        steps = (heights.diff(dim=1) - LEAST).clamp(min=LEAST)
        with torch.no_grad():
            found.first.copy_(heights[:, 0].expand_as(found.first))
            # The inverse of softplus.
            found.steps.copy_((steps + torch.log(-torch.expm1(-steps))).expand_as(found.steps))
        return found

    def freeze(self) -> None:
        """No more slopes in the heights, which are computed once from now on."""
        self.requires_grad_(False)
        self._kept = {}

    def forward(self, x: Tensor, chosen: list[int], members: slice) -> Tensor:
        """Thresholds of the latent at some values.

        Args:
            x: Shape ``(n, k)``.
            chosen: Numbers of the ``k`` columns among the ordered ones.
            members: Whose.

        Returns:
            Shape ``(a, n, k)``.
        """
        knots, heights, rise = self._lines(chosen, members)
        return interpolate(knots, heights, x.T.to(knots.dtype), rise).mT

    def inverse(self, height: Tensor, chosen: list[int], members: slice) -> Tensor:
        """Values at which the thresholds are some heights, ``(a, n, k)`` to the same shape."""
        knots, heights, rise = self._lines(chosen, members)
        return interpolate(heights, knots.expand_as(heights), height.mT, 1 / rise).mT

    def _lines(self, chosen: list[int], members: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Knots ``(k, q)``, their heights ``(a, k, q)`` and the slope beyond, ``(k, 1)``."""
        if self._kept is None:
            return self._computed_lines(chosen, members)
        key = (members.start, members.stop, *chosen)
        if key not in self._kept:
            # What is made in inference mode could not be used outside of it.
            with torch.inference_mode(False):
                self._kept[key] = self._computed_lines(chosen, members)
        return self._kept[key]

    def _computed_lines(self, chosen: list[int], members: slice) -> tuple[Tensor, Tensor, Tensor]:
        first = self.first[members][:, chosen, None]
        steps = softplus(self.steps[members][:, chosen]) + LEAST
        heights = torch.cat([first, first + steps.cumsum(dim=-1)], dim=-1)
        return self.knots[chosen], heights, self.rise[chosen][:, None].to(heights.dtype)


def _knots(value: Tensor, encoding: Encoding, column: int) -> Tensor:
    """Ends of cells, rising."""
    feature = encoding.schema.features[encoding.owners[column]]
    if feature.has_levels:
        codes = torch.tensor(sorted(feature.codes), dtype=value.dtype)
        return (codes[1:] + codes[:-1]) / 2
    seen = value.sort().values[tail_ranks(len(value))]
    ends = sorted({*(seen - 0.5).tolist(), *(seen + 0.5).tolist()})
    return torch.tensor(ends, dtype=value.dtype)


def tail_ranks(n: int) -> Tensor:
    """Some ranks among ``n`` sorted values, the first and the last too, closer at the ends.

    Their log-odds are equally far from each other, so that a heavy tail has as many as the
    middle.

    Example:
        >>> ranks = tail_ranks(10_000)
        >>> ranks[:5].tolist(), ranks[-5:].tolist()
        ([0, 0, 1, 3, 6], [9993, 9996, 9998, 9999, 9999])
    """
    end = math.log(2 * n)
    shares = torch.linspace(-end, end, QUANTILES, dtype=torch.float64).sigmoid()
    return (shares * n - 0.5).round().long().clamp(0, n - 1)


def beyond(knots: Tensor, heights: Tensor, width: int, rise: float) -> tuple[Tensor, Tensor]:
    """The same function with ``width`` knots: further ones lie beyond the last.

    Args:
        knots: Rising, shape ``(k,)``.
        heights: Shape ``(k,)``.
        width: At least ``k``.
        rise: Slope beyond the last.
    """
    further = torch.arange(1, 1 + width - len(knots), dtype=knots.dtype)
    return (
        torch.cat([knots, knots[-1] + further / rise]),
        torch.cat([heights, heights[-1] + further]),
    )


def interpolate(knots: Tensor, heights: Tensor, x: Tensor, rise: Tensor) -> Tensor:
    """Piecewise linear function of ``x``, with a slope of its own beyond the knots.

    Args:
        knots: Rising, shape ``(m, k)`` or ``(a, m, k)``.
        heights: Shape ``(m, k)`` or ``(a, m, k)``.
        x: Shape ``(m, n)`` or ``(a, m, n)``, the members as the knots have them.
        rise: Shape ``(m, 1)``.

    Returns:
        Shape ``(a, m, n)``.
    """
    inside = torch.minimum(torch.maximum(x, knots[..., :1]), knots[..., -1:])
    right = torch.searchsorted(knots.detach(), inside.detach().contiguous(), right=True)
    right = right.clamp(1, knots.shape[-1] - 1)
    start, end = knots.gather(-1, right - 1), knots.gather(-1, right)
    share = ((inside - start) / (end - start)).to(heights.dtype)
    right = right.expand(*heights.shape[:-1], right.shape[-1])
    lower, upper = heights.gather(-1, right - 1), heights.gather(-1, right)
    return lower + share * (upper - lower) + rise * (x - inside).to(heights.dtype)
