"""Costs that measure a change by how many people it passes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from carma.costs.base import Cost
from carma.costs.percentiles import Percentiles
from carma.errors import SettingsError
from carma.state import State
from carma.table import Encoding

__all__ = ["ShiftCost"]


class ShiftCost(Cost):
    """A cost of the percentiles between the factual value and the one set.

    A subclass says where on its own scale a percentile lies (``_place``), what the greatest
    value has (``_top``), and how the shifts of the columns make one cost (``_total``).

    Args:
        encoding: Of the schema.
        rows: Reference population: tensor ``(n, d)`` in model space, or table in original
            units, of which rows with gaps are left out.
        weights: By feature name, above 0; without it, each feature's ``cost_weight``.
        per_action: Price of acting on a feature at all, at least 0.

    Raises:
        SettingsError: A setting is out of range (see ``Cost``); ``rows`` has another width,
            fewer than two rows or numbers that are not finite, or never varies in an actionable
            feature.
        TableError: A table does not fit the schema.

    Example:
        >>> from carma.costs import LargestShift, TotalLogShift
        >>> issubclass(LargestShift, ShiftCost), issubclass(TotalLogShift, ShiftCost)
        (True, True)
    """

    # From the lower to the upper half of a population.
    _even_move: ClassVar[float]

    def __init__(
        self,
        encoding: Encoding,
        rows: Any,
        weights: Mapping[str, float] | None = None,
        per_action: float = 0.0,
    ) -> None:
        super().__init__(encoding, weights, per_action)
        if isinstance(rows, Tensor):
            population = rows.detach()
        else:
            population = encoding.encode(rows)
            population = population[encoding.complete(population)]
        owner, shape = type(self).__name__, tuple(population.shape)
        if len(shape) != 2 or shape[1] != encoding.n_columns or shape[0] < 2:
            rule = f"be at least two rows of {encoding.n_columns} columns; the shape"
            raise SettingsError.of(owner, "rows", rule, shape)
        population = population[:, self._columns]
        finite = torch.isfinite(population)
        if not finite.all():
            bad = population[~finite][0]
            raise SettingsError.of(owner, "rows", "be finite where actionable", bad)
        constant = [
            name
            for name, column in zip(self._numbers(), population.T, strict=True)
            if column.min() == column.max()
        ]
        if constant:
            rule = "vary in every actionable feature; constant"
            raise SettingsError.of(owner, "rows", rule, constant)
        self.percentiles = Percentiles.of(population, self._top(len(population)))

    def state(self) -> State:
        """Settings and distribution functions."""
        tensors = {"knots": self.percentiles.knots, "levels": self.percentiles.levels}
        return State(self._config(), tensors)

    @classmethod
    def from_state(cls, encoding: Encoding, state: State) -> Self:
        """Rebuild a cost."""
        cost = cls.__new__(cls)
        Cost.__init__(cost, encoding, state.config["weights"], state.config["per_action"])
        cost.percentiles = Percentiles(state.tensors["knots"], state.tensors["levels"])
        return cost

    def _change(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        return self._total(self._shifts(x, mask, values, weights))

    def _shifts(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted shift of every column, shape ``(..., d)``, at least 0."""
        at = self._columns
        reached = self._reached(x, mask, values)[..., at]
        places = self._place(self.percentiles(reached)), self._place(self.percentiles(x[..., at]))
        # Not the absolute value, which has no slope in a mask of 0: all that is paid there is
        # what a first step would cost. Percentiles rise, so that the sign is that of the change.
        direction = (values - x).detach().sign()[..., at]
        factors = self._weighted(self._weights, weights)[..., at]
        shift = factors * (places[0] - places[1]) * direction
        # Rounding may turn a difference of nearly 0 around.
        whole = torch.zeros(*shift.shape[:-1], x.shape[-1], dtype=shift.dtype)
        whole = whole.index_copy(-1, at, shift.clamp(min=0))
        if not self._switches:
            return whole
        moves = self._even_move * self._moves(x, mask, values, weights)
        first = [self.encoding.column(feature.name) for feature, _ in self._switches]
        return whole.index_copy(-1, torch.tensor(first), moves)

    def _numbers(self) -> list[str]:
        """The actionable features that are set to a number."""
        return [self.encoding.columns[i] for i in self._columns.tolist()]

    def _spread(self, x: Tensor) -> Tensor:
        spread = torch.ones(x.shape[-1], dtype=torch.float64)
        spread[self._columns] = self.percentiles.spread
        return spread

    @abstractmethod
    def _top(self, n: int) -> float:
        """Percentile of the greatest value of a population of ``n``."""

    @abstractmethod
    def _place(self, percentile: Tensor) -> Tensor:
        """Where a percentile lies on the scale that shifts are measured on; rises with it."""

    @abstractmethod
    def _total(self, shifts: Tensor) -> Tensor:
        """One cost of the shifts of all columns, ``(..., d)`` to ``(...)``."""
