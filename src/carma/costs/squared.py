"""Weighted squared change, the cost of the CARMA paper."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from carma.costs.scaled import ScaledCost
from carma.table import Statistics

__all__ = ["SquaredCost"]


class SquaredCost(ScaledCost):
    r"""Weighted squared change of the features acted on, as in the CARMA paper.

    .. math:: \frac{1}{K} \sum_{i \in I} w_i \frac{(s_i(v_i) - s_i(x_i))^2}{r_i}

    over the chosen ones I of K actionable features, where :math:`s` standardises with a
    training table's mean and standard deviation and :math:`r_i` is the range of the
    standardised column of that table. What follows causally is free. Tables print cost x 100.

    Args:
        encoding: Of the schema.
        statistics: Of the table that sets the scale.
        weights: By feature name, above 0; without it, each feature's ``cost_weight``.
        per_action: Price of acting on a feature at all, at least 0; the paper's is 0.

    Raises:
        SettingsError: A weight is not above 0, or for a feature that is not actionable;
            ``per_action`` is negative or not finite; an actionable feature never varies, which
            leaves it without a scale.

    References:
        Majumdar & Valera 2024, CARMA, equation 6 and section 5.5.

    Example:
        >>> from carma import Intervention
        >>> from carma.benchmarks import load
        >>> cost = load("loan", rows=500).cost
        >>> x = torch.zeros(1, 7, dtype=torch.float64)
        >>> nothing = Intervention.none(x)
        >>> cost(x, nothing.mask, nothing.values).item()
        0.0
    """

    kind: ClassVar[str] = "squared"
    is_quadratic: ClassVar[bool] = True
    degree: ClassVar[float] = 2.0

    def prices(
        self,
        x: Tensor,
        mask: Tensor,  # noqa: ARG002
        values: Tensor,  # noqa: ARG002
        weights: Tensor | None = None,
    ) -> Tensor:
        """Prices of a squared change: ``scale`` times the factors, whatever the plan.

        Args:
            x: Factual rows, shape ``(..., d)``.
            mask: Not read.
            values: Not read.
            weights: Personal factors; see ``Cost.__call__``.

        Returns:
            The shape of ``x``; 1 where a column is not actionable.
        """
        price = self._weighted(self._scale, None if weights is None else weights.detach())
        return torch.where(self._is_actionable, price, 1.0).expand(x.shape)

    @property
    def _even_move(self) -> float:
        # A standard deviation of 1/2 and a range of 1.
        return 2.0

    def _power(self, change: Tensor) -> Tensor:
        return change.square()

    def _unit(self, statistics: Statistics) -> Tensor:
        return statistics.std * (statistics.maximum - statistics.minimum)

    def _spread(self, x: Tensor) -> Tensor:
        # Of no effect: its prices are known, and no quadratic model is needed.
        return torch.ones_like(x)
