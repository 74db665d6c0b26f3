"""Columns as networks see them: none of their values is extreme."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

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
        mean, std, lines = self._of(tuple(columns))
        found = (x - mean) / std
        if lines is None:
            return found
        extreme, knots, heights, rise = lines
        value = x.index_select(-1, extreme).flatten(0, -2).T
        score = interpolate(knots, heights, value, rise)
        return found.index_copy(-1, extreme, score.T.view(*x.shape[:-1], len(extreme)))

    def _of(self, where: tuple[int, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...] | None]:
        """Mean and spread of some columns, and the lines of the extreme ones; remembered."""
        if where not in self._kept:
            extreme = [k for k, column in enumerate(where) if column in self._places]
            places = [self._places[where[k]] for k in extreme]
            # What is made in inference mode could not be used outside of it.
            with torch.inference_mode(False):
                columns, here = torch.tensor(where, dtype=torch.long), torch.tensor(extreme)
                mean, std = self._mean[columns], self._std[columns]
                lines = None
                if extreme:
                    rise = 1 / std[here][:, None]
                    lines = (here, self._knots[places], self._heights[places], rise)
                self._kept[where] = mean, std, lines
        return self._kept[where]

    @cached_property
    def _kept(
        self,
    ) -> dict[tuple[int, ...], tuple[Tensor, Tensor, tuple[Tensor, ...] | None]]:
        return {}
