"""Columns as networks see them: none of their values is extreme."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from carma.models.thresholds import beyond, interpolate, tail_ranks
from carma.table import Encoding, Statistics

__all__ = ["Scores"]

# Standard deviations from the mean beyond which a value is extreme.
EXTREME = 10.0


class Scores:
    """A rising function of each column: standard deviations from its mean, or normal scores.

    Numbers with a value further than ``EXTREME`` standard deviations from their mean are seen
    as the normal quantile of their rank: straight lines between some ranks, and one for
    each standard deviation beyond what was seen. So an amount that is zero for most people and
    huge for a few moves its effects as far as its rank is unusual.

    Args:
        statistics: Mean and spread of each column.
        columns: Those seen as normal scores, shape ``(m,)``, int64.
        knots: Some values of each, rising, shape ``(m, k)``, float64.
        heights: Their scores, rising, shape ``(m, k)``, float64.

    Example:
        >>> from carma import CausalGraph, Feature, Schema
        >>> schema = Schema((Feature("gift", "integer"),), CausalGraph.from_edges([], ["gift"]))
        >>> x = torch.cat([torch.zeros(900), torch.arange(1.0, 101.0) ** 6]).double()[:, None]
        >>> scores = Scores.of(x, Encoding(schema), Statistics.of(x))
        >>> scores(x[[0, -1]], [0]).abs().max() < 4
        tensor(True)
    """

    def __init__(
        self, statistics: Statistics, columns: Tensor, knots: Tensor, heights: Tensor
    ) -> None:
        self._mean, self._std = statistics.mean, statistics.std
        self._columns, self._knots, self._heights = columns, knots, heights
        self._places = {column: place for place, column in enumerate(columns.tolist())}

    @classmethod
    def of(cls, x: Tensor, encoding: Encoding, statistics: Statistics) -> Scores:
        """Learn them from rows.

        Args:
            x: Shape ``(n, d)``, model space.
            encoding: Of the table.
            statistics: Of the same rows.
        """
        features = [encoding.schema.features[owner] for owner in encoding.owners]
        reach = ((x - statistics.mean) / statistics.std).abs().amax(dim=0).tolist()
        columns = [
            i for i, feature in enumerate(features) if reach[i] > EXTREME and not feature.has_levels
        ]
        knots, heights = [], []
        for i in columns:
            own = x[:, i].sort().values
            value = torch.tensor(sorted({*own[tail_ranks(len(own))].tolist()}), dtype=x.dtype)
            # The middle of the ranks that have a value.
            rank = torch.searchsorted(own, value) + torch.searchsorted(own, value, right=True)
            knots.append(value)
            heights.append(torch.special.ndtri((rank + 1) / (2 * len(own) + 2)).to(value))
        width = max([2, *map(len, knots)])
        padded = [
            beyond(values, scores, width, 1 / float(statistics.std[i]))
            for i, values, scores in zip(columns, knots, heights, strict=True)
        ]
        pairs = torch.stack([torch.stack(p) for p in padded]) if padded else x.new_zeros(0, 2, 2)
        return cls(statistics, torch.tensor(columns, dtype=torch.long), pairs[:, 0], pairs[:, 1])

    def as_tensors(self) -> dict[str, Tensor]:
        """What is saved besides the statistics."""
        return {
            "columns": self._columns,
            "knots": self._knots.contiguous(),
            "heights": self._heights.contiguous(),
        }

    def __call__(self, x: Tensor, columns: Sequence[int]) -> Tensor:
        """What networks see of some columns.

        Args:
            x: Shape ``(..., k)``, model space.
            columns: Positions of the ``k``.

        Returns:
            The same shape.
        """
        where = [*columns]
        found = (x - self._mean[where]) / self._std[where]
        extreme = [k for k, column in enumerate(where) if column in self._places]
        if not extreme:
            return found
        places = [self._places[where[k]] for k in extreme]
        value = x[..., extreme].flatten(0, -2).T
        rise = 1 / self._std[[where[k] for k in extreme]][:, None]
        score = interpolate(self._knots[places], self._heights[places], value, rise)
        return found.index_copy(
            -1, torch.tensor(extreme), score.T.view(*x.shape[:-1], len(extreme))
        )
