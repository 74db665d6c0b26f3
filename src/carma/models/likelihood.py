"""How likely rows are, around the centres that a decoder gives them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from carma.models.discrete import cells
from carma.table import Encoding, Statistics

__all__ = ["Likelihood"]


class Likelihood:
    """Density of continuous columns, probability of the others, all with one fixed spread.

    A continuous column is normal around its centre. A column of whole numbers or levels has the
    probability that a logistic variable gives to its cell: for two levels that is the Bernoulli
    likelihood, and for ordered levels it is the ordered logit. The cells of the first and the
    last level have no end.

    Args:
        encoding: Of the table; no nominal features.
        statistics: Of the training table: the scale of the centres.

    References:
        Salimans et al. 2017, PixelCNN++, arXiv 1701.05517, for the discretised logistic.

    Example:
        >>> from carma.benchmarks import load
        >>> data = load("chain-lin", rows=200)
        >>> x = data.encoded("causal")[:5]
        >>> Likelihood(data.encoding, Statistics.of(x))(torch.zeros(5, 4), x, 0.1).shape
        torch.Size([5])
    """

    def __init__(self, encoding: Encoding, statistics: Statistics) -> None:
        self._encoding, self._mean, self._std = encoding, statistics.mean, statistics.std
        features = encoding.schema.features
        kinds = [(i, features[i].is_discrete) for i in range(len(features))]
        self._discrete = torch.tensor([i for i, is_so in kinds if is_so], dtype=torch.long)
        self._continuous = torch.tensor([i for i, is_so in kinds if not is_so], dtype=torch.long)

    def __call__(self, centre: Tensor, x: Tensor, spread: float) -> Tensor:
        """Log-likelihood of each row in original units.

        Args:
            centre: Scaled, shape ``(..., n, d)``.
            x: Shape ``(n, d)``, model space.
            spread: Of the rows around the centres, in standard deviations of the column.

        Returns:
            Shape ``(..., n)``.
        """
        total = self._density(centre, x, spread).sum(dim=-1)
        return total + self._mass(centre, x, spread).sum(dim=-1) if len(self._discrete) else total

    def _density(self, centre: Tensor, x: Tensor, spread: float) -> Tensor:
        """Of the continuous columns."""
        here = self._continuous
        off = self._off(x, centre, here) / spread
        unit = (spread * self._std[here]).log().to(centre.dtype)
        return -0.5 * (off.square() + math.log(2 * math.pi)) - unit

    def _mass(self, centre: Tensor, x: Tensor, spread: float) -> Tensor:
        """Of the cells of the other columns."""
        below, above = (self._off(end, centre, self._discrete) / spread for end in self._cells(x))
        width = torch.log(-torch.expm1(below - above))
        return logsigmoid(above) + logsigmoid(-below) + width

    def _cells(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = cells(x, self._encoding)
        for i, feature in enumerate(self._encoding.schema.features):
            if feature.has_levels:
                first, last = min(feature.codes), max(feature.codes)
                low[:, i] = torch.where(x[:, i] <= first, -ENDLESS, low[:, i])
                high[:, i] = torch.where(x[:, i] >= last, ENDLESS, high[:, i])
        return low, high

    def _off(self, x: Tensor, centre: Tensor, here: Tensor) -> Tensor:
        """Scaled distance of some columns from the centres."""
        scaled = ((x - self._mean) / self._std).to(centre.dtype)
        return (scaled - centre)[..., here]


# Further than any level.
ENDLESS = 1e6
