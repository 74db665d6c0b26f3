"""The only definition of what a plan costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from carma.errors import SettingsError
from carma.interventions import Intervention
from carma.state import State
from carma.table import Encoding, Statistics

__all__ = ["SquaredCost"]


class SquaredCost:
    r"""Weighted squared change of the features acted on, as in the CARMA paper.

    .. math:: \frac{1}{K} \sum_{i \in I} w_i \frac{(s_i(v_i) - s_i(x_i))^2}{r_i}

    over the chosen ones I of K actionable features, where :math:`s` standardises with a
    training table's mean and standard deviation and :math:`r_i` is the range of the
    standardised column of that table. What follows causally is free. Tables print cost x 100.

    Args:
        encoding: Of the schema.
        statistics: Of the table that sets the scale.
        weights: By feature name, above 0; without it, each feature's ``cost_weight``.

    Raises:
        SettingsError: A weight is not above 0, or for a feature that is not actionable; an
            actionable feature never varies, which leaves it without a scale.

    References:
        Majumdar & Valera 2024, CARMA, equation 6 and section 5.5.

    Example:
        >>> from carma.benchmarks import load
        >>> cost = load("loan", rows=500).cost
        >>> x = torch.zeros(1, 7, dtype=torch.float64)
        >>> nothing = Intervention.none(x)
        >>> cost(x, nothing.mask, nothing.values).item()
        0.0
    """

    def __init__(
        self,
        encoding: Encoding,
        statistics: Statistics,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        schema = encoding.schema
        given = dict(weights) if weights is not None else {}
        for name, weight in given.items():
            if name not in schema.actionable:
                rule = f"only name actionable features ({', '.join(schema.actionable)})"
                raise SettingsError.of("SquaredCost", "weights", rule, name)
            if not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
                raise SettingsError.of("SquaredCost", f"weights[{name!r}]", "be above 0", weight)
        self.weights = {n: float(given.get(n, schema[n].cost_weight)) for n in schema.actionable}
        self._columns = encoding.actionable
        spread = statistics.std * (statistics.maximum - statistics.minimum)
        constant = [n for n in schema.actionable if spread[encoding.column(n)] == 0]
        if constant:
            rule = "vary in every actionable feature; constant"
            raise SettingsError.of("SquaredCost", "statistics", rule, constant)
        column_weights = torch.tensor(list(self.weights.values()), dtype=torch.float64)
        n_actionable = max(1, len(self._columns))
        scale = torch.zeros(encoding.n_columns, dtype=torch.float64)
        scale[self._columns] = column_weights / (n_actionable * spread[self._columns])
        self._scale = scale

    def __call__(self, x: Tensor, mask: Tensor, values: Tensor) -> Tensor:
        """Price plans.

        Args:
            x: Factual rows, shape ``(..., d)``, model space.
            mask: Chosen columns, same shape; bool, or 0/1 numbers that carry gradients.
            values: Values set, same shape; read where ``mask`` is not 0.

        Returns:
            Cost of each plan, shape ``(...)``, at least 0.
        """
        if mask.dtype == torch.bool:
            # Numbers that carry gradients must see the change they would pay for; a bool need
            # not, and values that are not read may be anything, nan included.
            values = torch.where(mask, values, x)
        return ((values - x).square() * mask * self._scale).sum(dim=-1)

    def of(self, x: Tensor, intervention: Intervention) -> Tensor:
        """Price an intervention, shape ``(n,)``."""
        return self(x, intervention.mask, intervention.values)

    @property
    def scale(self) -> Tensor:
        """Price of a squared change of one unit of each column, ``(d,)``; 0 if not actionable."""
        return self._scale

    def state(self) -> State:
        """Weights and scale."""
        config: dict[str, Any] = {"kind": "squared", "weights": self.weights}
        return State(config, {"scale": self._scale})

    @classmethod
    def from_state(cls, encoding: Encoding, state: State) -> SquaredCost:
        """Rebuild a cost."""
        cost = cls.__new__(cls)
        cost.weights = dict(state.config["weights"])
        cost._columns = encoding.actionable
        cost._scale = state.tensors["scale"]
        return cost
