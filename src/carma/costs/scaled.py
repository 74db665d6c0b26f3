"""Costs that add up how far each column moves, on the scale of a training table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from carma.costs.base import Cost
from carma.errors import SettingsError
from carma.state import State
from carma.table import Encoding, Statistics

__all__ = ["ScaledCost"]


class ScaledCost(Cost):
    """Sum over the columns chosen of ``scale`` times a power of the change.

    A subclass says which power (``_power``), and by which unit it is divided (``_unit``).

    Args:
        encoding: Of the schema.
        statistics: Of the table that sets the scale.
        weights: By feature name, above 0; without it, each feature's ``cost_weight``.
        per_action: Price of acting on a feature at all, at least 0.

    Raises:
        SettingsError: A setting is out of range (see ``Cost``); an actionable feature never
            varies, which leaves it without a scale.

    Example:
        >>> from carma.costs import AbsoluteCost, SquaredCost
        >>> issubclass(SquaredCost, ScaledCost), issubclass(AbsoluteCost, ScaledCost)
        (True, True)
    """

    def __init__(
        self,
        encoding: Encoding,
        statistics: Statistics,
        weights: Mapping[str, float] | None = None,
        per_action: float = 0.0,
    ) -> None:
        super().__init__(encoding, weights, per_action)
        unit = self._unit(statistics)
        by_level = {feature.name for feature in encoding.schema.switches}
        constant = [n for n in self.weights if n not in by_level and unit[encoding.column(n)] == 0]
        if constant:
            rule = "vary in every actionable feature; constant"
            raise SettingsError.of(type(self).__name__, "statistics", rule, constant)
        at = self._columns
        scale = torch.zeros(encoding.n_columns, dtype=torch.float64)
        scale[at] = self._weights[at] / (self._n_features * unit[at])
        self._take(scale)

    @property
    def scale(self) -> Tensor:
        """Price of a change of one unit of each column, shape ``(d,)``; 0 if not actionable."""
        return self._scale

    def state(self) -> State:
        """Settings and scale."""
        return State(self._config(), {"scale": self._scale})

    @classmethod
    def from_state(cls, encoding: Encoding, state: State) -> Self:
        """Rebuild a cost."""
        cost = cls.__new__(cls)
        Cost.__init__(cost, encoding, state.config["weights"], state.config.get("per_action", 0.0))
        cost._take(state.tensors["scale"])
        return cost

    def _take(self, scale: Tensor) -> None:
        self._scale, self._priced = scale, scale.nonzero().squeeze(1)

    def _change(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        at = self._priced
        grown = self._power(values[..., at] - x[..., at])
        if mask.dtype != torch.bool:
            grown = grown * mask[..., at]
        change = (grown * self._weighted_at(at, self._scale, x, weights)).sum(dim=-1)
        if not self._switches:
            return change
        moves = self._moves(x, mask, values, weights).sum(dim=-1)
        return change + self._even_move * moves / self._n_features

    @property
    def _n_features(self) -> int:
        return max(1, len(self.weights))

    @property
    @abstractmethod
    def _even_move(self) -> float:
        """Cost of moving a binary feature whose levels are equally frequent, times K."""

    @abstractmethod
    def _power(self, change: Tensor) -> Tensor:
        """What grows with a change, the same shape."""

    @abstractmethod
    def _unit(self, statistics: Statistics) -> Tensor:
        """What that is divided by, shape ``(d,)``; 0 where a column never varies."""
