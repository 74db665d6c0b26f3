"""The sum of log-percentile shifts of all actions."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from carma.costs.shift import ShiftCost

__all__ = ["TotalLogShift"]


class TotalLogShift(ShiftCost):
    r"""Sum of the log-percentile shifts: the higher one stands, the harder the next step up.

    .. math:: \sum_{i \in I} w_i \left| \log \frac{1 - Q_i(v_i)}{1 - Q_i(x_i)} \right|

    over the chosen features I, where :math:`Q_i` is the distribution function of column i in a
    reference population (see ``Percentiles``). Its greatest value has 1 - 1/(2n) in place of
    1, which would make it infinitely dear; beyond that, the cost grows by 0.1 (times the
    weight) for every range of the column.

    Args:
        encoding: Of the schema.
        rows: Reference population of n people: tensor ``(n, d)`` in model space, or table in
            original units.
        weights: By feature name, above 0; without it, each feature's ``cost_weight``.
        per_action: Price of acting on a feature at all, at least 0.

    Raises:
        SettingsError: A setting is out of range or ``rows`` are unusable (see ``ShiftCost``).
        TableError: A table does not fit the schema.

    References:
        Ustun, Spangher & Liu 2019, Actionable recourse in linear classification, FAT*, arXiv
        1809.06514 (total log-percentile shift).

    Example:
        >>> from carma import CausalGraph, Feature, Schema
        >>> from carma.table import Encoding
        >>> schema = Schema((Feature("income", role="actionable"),), CausalGraph(("income",)))
        >>> rows = torch.tensor([[10.0], [20.0], [30.0], [90.0]], dtype=torch.float64)
        >>> cost = TotalLogShift(Encoding(schema), rows)
        >>> paid = cost(rows[:1], torch.tensor([[True]]), rows[1:2])
        >>> torch.allclose(paid.exp(), torch.tensor(0.75 / 0.5, dtype=torch.float64))
        True
    """

    kind: ClassVar[str] = "total_log_shift"
    _even_move: ClassVar[float] = math.log(2)

    def _top(self, n: int) -> float:
        return 1 - 1 / (2 * n)

    def _place(self, percentile: Tensor) -> Tensor:
        top = self.percentiles.top
        beyond = torch.where(percentile > top, percentile - top, 0.0)
        return beyond - torch.log1p(-torch.minimum(percentile, top))

    def _total(self, shifts: Tensor) -> Tensor:
        return shifts.sum(dim=-1)
