"""The contract of a cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from carma.errors import SettingsError
from carma.interventions import Intervention
from carma.state import State
from carma.table import Encoding

__all__ = ["Cost"]


class Cost(ABC):
    """Prices plans: the change of what is acted on, and each action for itself.

    What follows causally is free, and so are columns that are not actionable. A move between
    levels of a feature that is set level by level costs as much as that of a binary feature whose
    levels are equally frequent, times the move's own cost (``Feature.moves``). A subclass
    implements ``_change``, ``_spread``, ``state`` and ``from_state``.

    Args:
        encoding: Of the schema.
        weights: By feature name, above 0; without it, each feature's ``cost_weight``.
        per_action: Price of acting on a feature at all, at least 0; makes plans sparse.

    Attributes:
        kind: Name in bundles.
        is_quadratic: Whether the price of a change is ``prices`` times its square, wherever it
            ends.
        degree: The price of going a share t of the way grows about as t to this power; a guide
            for searches, no promise.

    Raises:
        SettingsError: A weight is not above 0, or for a feature that is not actionable;
            ``per_action`` is negative or not finite.

    Example:
        >>> from carma.benchmarks import load
        >>> cost = load("loan", rows=500).cost
        >>> cost.kind, cost.is_quadratic, cost.degree, cost.per_action
        ('squared', True, 2.0, 0.0)
    """

    kind: ClassVar[str]
    is_quadratic: ClassVar[bool] = False
    degree: ClassVar[float] = 1.0
    # Least price, as a share of the row's highest.
    _flat: ClassVar[float] = 1e-9

    def __init__(
        self,
        encoding: Encoding,
        weights: Mapping[str, float] | None = None,
        per_action: float = 0.0,
    ) -> None:
        owner, schema = type(self).__name__, encoding.schema
        given = dict(weights) if weights is not None else {}
        for name, weight in given.items():
            if name not in schema.actionable:
                rule = f"only name actionable features ({', '.join(schema.actionable)})"
                raise SettingsError.of(owner, "weights", rule, name)
            if not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
                raise SettingsError.of(owner, f"weights[{name!r}]", "be above 0", weight)
        if not isinstance(per_action, (int, float)) or not 0 <= per_action < math.inf:
            raise SettingsError.of(owner, "per_action", "be finite and at least 0", per_action)
        self.encoding = encoding
        self.weights = {n: float(given.get(n, schema[n].cost_weight)) for n in schema.actionable}
        self.per_action = float(per_action)
        self._columns, self._actions = encoding.actionable, encoding.actions
        self._is_actionable = torch.zeros(encoding.n_columns, dtype=torch.bool)
        self._is_actionable[self._columns] = True
        self._weights = torch.zeros(encoding.n_columns, dtype=torch.float64)
        for name, weight in self.weights.items():
            self._weights[encoding.block(name)] = weight
        self._switches = [
            (feature, torch.tensor(feature.move_costs, dtype=torch.float64))
            for feature in schema.switches
        ]

    def __call__(
        self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Price plans; differentiable in ``values``, and in ``mask`` where that is numbers.

        Args:
            x: Factual rows, shape ``(..., d)``, model space.
            mask: Chosen columns, same shape; bool, or 0/1 numbers that carry gradients.
            values: Values set, same shape; read where ``mask`` is not 0.
            weights: Personal factors above 0 that multiply the weights, of a shape that
                broadcasts to that of ``x``; 1 leaves a weight as it is.

        Returns:
            Cost of each plan, shape ``(...)``, at least 0.
        """
        if mask.dtype == torch.bool:
            # Numbers that carry gradients must see the change they would pay for; a bool need
            # not, and values that are not read may be anything, nan included.
            values = torch.where(mask, values, x)
        change = self._change(x, mask, values, weights)
        if self.per_action == 0:
            return change
        n_actions = mask[..., self._actions].to(change.dtype).sum(dim=-1)
        return change + self.per_action * n_actions

    def of(self, x: Tensor, intervention: Intervention, weights: Tensor | None = None) -> Tensor:
        """Price an intervention, shape ``(n,)``; see ``__call__``."""
        return self(x, intervention.mask, intervention.values, weights)

    def prices(
        self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        r"""Prices of a squared change that have the slope of the cost at ``values``.

        With them, :math:`\sum_i p_i (v_i - x_i)^2` is a quadratic model of the cost for one step
        of a search: :math:`p_i = |\partial c / \partial v_i| / (2 |v_i - x_i|)`. A value that
        is (nearly) unchanged is looked at a thousandth of its column's spread away, upwards if
        it is unchanged. An actionable column outside ``mask`` is priced as if it were set, a
        tenth of its spread away; other columns have price 1.

        Args:
            x: Factual rows, shape ``(..., d)``, model space.
            mask: Chosen columns, same shape, bool or 0/1.
            values: Values set, same shape; read where ``mask`` is not 0.
            weights: Personal factors; see ``__call__``.

        Returns:
            The shape of ``x``, finite and above 0, without gradients. Where the cost is flat, a
            tiny share of what the row's dearest column has.
        """
        x, is_set = x.detach(), mask != 0
        spread = self._spread(x)
        change = torch.where(is_set, values.detach() - x, 0.0)
        least = NEAR * spread
        nudge = torch.where(change < 0, -least, least)
        is_far = change.abs() >= least
        change = torch.where(is_far, change, nudge)
        there = torch.where(is_far, values.detach(), x + nudge)
        slope = self._slope(x, is_set, torch.where(is_set, there, x), weights)
        if bool((self._is_actionable & ~is_set).any()):
            change = torch.where(is_set, change, FAR * spread)
            there = torch.where(is_set, there, x + change)
            others = self._slope(x, torch.ones_like(is_set), there, weights)
            slope = torch.where(is_set, slope, others)
        # Without units, columns can be compared.
        price = slope / 2 * spread * (spread / change.abs())
        price = torch.where(self._is_actionable, price, 0.0)
        is_known = torch.isfinite(price)
        dearest = torch.where(is_known, price, 0.0).amax(dim=-1, keepdim=True)
        dearest = torch.where(dearest > 0, dearest, 1.0)
        price = torch.where(is_known, price, dearest).clamp(min=self._flat * dearest)
        price = (price / spread / spread).clamp(*RANGE)
        return torch.where(self._is_actionable, price, 1.0)

    @abstractmethod
    def state(self) -> State:
        """Settings and tensors; ``config["kind"]`` is ``kind``.

        Raises:
            BundleError: A cost of this kind cannot be stored.
        """

    @classmethod
    @abstractmethod
    def from_state(cls, encoding: Encoding, state: State) -> Self:
        """Rebuild a cost from what ``state`` returned.

        Raises:
            BundleError: A cost of this kind cannot be stored.
        """

    @abstractmethod
    def _change(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        """Price the change alone; where ``mask`` is bool, ``values`` are ``x`` outside it."""

    @abstractmethod
    def _spread(self, x: Tensor) -> Tensor:
        """How wide each column is, above 0, of a shape that broadcasts to that of ``x``."""

    def _smooth(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        """What ``prices`` take the slope of, in place of ``_change``."""
        return self._change(x, mask, values, weights)

    def _moves(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted cost of each move between levels, ``(..., s)`` for s such features."""
        costs = []
        for feature, table in self._switches:
            first = self.encoding.column(feature.name)
            is_set = mask[..., first] != 0
            price = table.new_zeros(is_set.shape)
            if bool(is_set.any()):
                own, to = (self.encoding.level(t, feature) for t in (x, values))
                factor = self._weighted_at(first, self._weights, x, weights)
                # What no plan may do has no price.
                asked = (table[own, to] * factor).nan_to_num(posinf=0.0)
                price = torch.where(is_set, asked, price)
            costs.append(price)
        return torch.stack(costs, dim=-1)

    def _config(self) -> dict[str, Any]:
        return {"kind": self.kind, "weights": self.weights, "per_action": self.per_action}

    def _weighted(self, scale: Tensor, weights: Tensor | None) -> Tensor:
        return scale if weights is None else scale * weights

    def _weighted_at(
        self, columns: Tensor | int, scale: Tensor, x: Tensor, weights: Tensor | None
    ) -> Tensor:
        """``_weighted`` for some columns of rows."""
        own = None if weights is None else weights.expand(x.shape)[..., columns]
        return self._weighted(scale[columns], own)

    def _reached(self, x: Tensor, mask: Tensor, values: Tensor) -> Tensor:
        return values if mask.dtype == torch.bool else x + mask * (values - x)

    def _slope(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        with torch.enable_grad():
            at = values.detach().requires_grad_()
            fixed = None if weights is None else weights.detach()
            # Each row's cost depends on its own values only.
            (slope,) = torch.autograd.grad(self._smooth(x, mask, at, fixed).sum(), at)
        return slope.abs()


# Shares of a column's spread: what counts as unchanged, and a change that is worth making.
NEAR, FAR = 1e-3, 0.1
RANGE = (1e-100, 1e100)
