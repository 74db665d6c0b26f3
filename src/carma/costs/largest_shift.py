"""The largest percentile shift of all actions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from carma.costs.shift import ShiftCost

__all__ = ["LargestShift"]


class LargestShift(ShiftCost):
    r"""How many people the hardest of the changes passes, as a share of a population.

    .. math:: \max_{i \in I} w_i |Q_i(v_i) - Q_i(x_i)|

    over the chosen features I, where :math:`Q_i` is the distribution function of column i in a
    reference population (see ``Percentiles``). A second change is free while it stays below
    the largest.

    At a maximum only one column has a slope, which leads no search to a balanced plan.
    ``prices`` therefore take the slope of the 16-norm of the weighted shifts, which exceeds the
    maximum by at most the factor ``k ** (1 / 16)`` for ``k`` columns. The cost is the exact
    maximum.

    Args:
        encoding: Of the schema.
        rows: Reference population: tensor ``(n, d)`` in model space, or table in original
            units.
        weights: By feature name, above 0; without it, each feature's ``cost_weight``.
        per_action: Price of acting on a feature at all, at least 0.

    Raises:
        SettingsError: A setting is out of range or ``rows`` are unusable (see ``ShiftCost``).
        TableError: A table does not fit the schema.

    References:
        Ustun, Spangher & Liu 2019, Actionable recourse in linear classification, FAT*, arXiv
        1809.06514 (maximum percentile shift).

    Example:
        >>> from carma import CausalGraph, Feature, Schema
        >>> from carma.table import Encoding
        >>> schema = Schema((Feature("income", role="actionable"),), CausalGraph(("income",)))
        >>> rows = torch.tensor([[10.0], [20.0], [30.0], [90.0]], dtype=torch.float64)
        >>> cost = LargestShift(Encoding(schema), rows)
        >>> cost(rows[:1], torch.tensor([[True]]), rows[3:]).item()
        0.75
    """

    kind: ClassVar[str] = "largest_shift"
    # With columns that are all but free, a step moves those alone and overshoots the maximum.
    _flat: ClassVar[float] = 1e-5
    _even_move: ClassVar[float] = 0.5

    def _top(self, n: int) -> float:  # noqa: ARG002
        return 1.0

    def _place(self, percentile: Tensor) -> Tensor:
        return percentile

    def _total(self, shifts: Tensor) -> Tensor:
        return shifts.amax(dim=-1)

    def _smooth(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        shifts = self._shifts(x, mask, values, weights)
        # Powers of small numbers vanish.
        largest = shifts.detach().amax(dim=-1, keepdim=True).clamp(min=LEAST)
        norm: Tensor = torch.linalg.vector_norm(shifts / largest, NORM, dim=-1)
        return largest[..., 0] * norm


NORM = 16
LEAST = 1e-100
