"""Noise of unknown shape: quantiles of what was seen, smoothed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SmoothedNoise"]

# Equally likely values of each column; fewer where fewer rows were seen.
CENTRES = 200
# What a normal distribution's interquartile range is in standard deviations.
NORMAL_RANGE = 1.349


@dataclass(frozen=True)
class SmoothedNoise:
    """Independent columns, each an even mixture of normals around quantiles of what was seen.

    The normals of a column have one width, by Silverman's rule of thumb. ``sample`` draws from
    the density that ``log_prob`` tells.

    Args:
        centres: Shape ``(k, c)``, float64.
        width: Shape ``(c,)``, float64.

    References:
        Silverman 1986, Density estimation for statistics and data analysis, section 3.4.2.

    Example:
        >>> noise = SmoothedNoise(torch.tensor([[-1.0], [1.0]]).double(), torch.ones(1).double())
        >>> noise.log_prob(torch.tensor([[0.0]]).double()).exp()
        tensor([0.2420], dtype=torch.float64)
    """

    centres: Tensor
    width: Tensor

    @classmethod
    def of(cls, seen: Tensor) -> SmoothedNoise:
        """Learn from rows.

        Args:
            seen: Shape ``(n, c)``, float64; no column is constant.
        """
        n = min(len(seen), CENTRES)
        shares = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        shares = torch.cat([shares, torch.tensor([0.25, 0.75]).double()])
        # Column by column: torch takes no quantiles of more than 16 million values.
        columns = [column.quantile(shares) for column in seen.unbind(dim=1)]
        found = torch.stack(columns, dim=1) if columns else seen.new_zeros(n + 2, 0)
        centres, (low, high) = found[:n], found[n:]
        std, middle = seen.std(dim=0, correction=0), (high - low) / NORMAL_RANGE
        # Where more than half of the rows are one value, only the others tell a width.
        spread = torch.where(middle > 0, torch.minimum(std, middle), std)
        return cls(centres, 0.9 * spread * len(seen) ** -0.2)

    def sample(self, n: int) -> Tensor:
        """Rows drawn from the global random state, shape ``(n, c)``, float64."""
        k, c = self.centres.shape
        drawn = self.centres.gather(0, torch.randint(k, (n, c)))
        return drawn + self.width * torch.randn(n, c, dtype=torch.float64)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log-density of each row, shape ``(n,)``, for rows of shape ``(n, c)``."""
        total = torch.zeros(len(u), dtype=torch.float64)
        for value, centres, width in zip(
            u.unbind(dim=1), self.centres.unbind(dim=1), self.width, strict=True
        ):
            away = (value[:, None] - centres) / width
            scale = len(centres) * width * math.sqrt(2 * math.pi)
            total = total + (-0.5 * away.square()).logsumexp(dim=1) - scale.log()
        return total

    def as_tensors(self) -> dict[str, Tensor]:
        """Return the two tensors by name."""
        return {"centres": self.centres, "width": self.width}
