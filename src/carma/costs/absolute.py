"""Weighted absolute change, the L1 norm."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from carma.costs.scaled import ScaledCost
from carma.table import Statistics

__all__ = ["AbsoluteCost"]


class AbsoluteCost(ScaledCost):
    r"""Weighted absolute change of the features acted on.

    .. math:: \frac{1}{K} \sum_{i \in I} w_i \frac{|s_i(v_i) - s_i(x_i)|}{r_i}

    with everything as in ``SquaredCost``: each change counts as a share of its column's range.
    It favours few large changes where squares favour many small ones.

    Args:
        encoding: Of the schema.
        statistics: Of the table that sets the scale.
        weights: By feature name, above 0; without it, each feature's ``cost_weight``.
        per_action: Price of acting on a feature at all, at least 0.

    Raises:
        SettingsError: A setting is out of range (see ``Cost``); an actionable feature never
            varies, which leaves it without a scale.

    References:
        Wachter, Mittelstadt & Russell 2018, Counterfactual explanations without opening the
        black box, arXiv 1711.00399 (the L1 norm on a scale of the data's own).

    Example:
        >>> from carma import CausalGraph, Feature, Schema
        >>> from carma.table import Encoding
        >>> schema = Schema((Feature("income", role="actionable"),), CausalGraph(("income",)))
        >>> rows = torch.tensor([[10.0], [30.0]], dtype=torch.float64)
        >>> cost = AbsoluteCost(Encoding(schema), Statistics.of(rows))
        >>> cost(rows[:1], torch.tensor([[True]]), rows[:1] + 5).item()
        0.25
    """

    kind: ClassVar[str] = "absolute"

    @property
    def _even_move(self) -> float:
        return 1.0

    def _power(self, change: Tensor) -> Tensor:
        return change.abs()

    def _unit(self, statistics: Statistics) -> Tensor:
        # The standard deviations of the change and of the range cancel.
        return statistics.maximum - statistics.minimum

    def _slope(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        price = self._weighted(self._scale, None if weights is None else weights.detach())
        return torch.where(mask, (values - x).sign().abs() * price, 0.0)

    def _spread(self, x: Tensor) -> Tensor:
        spread = torch.ones(x.shape[-1], dtype=self._scale.dtype)
        at = self._columns
        spread[at] = self._weights[at] / (self._n_features * self._scale[at])
        return spread
