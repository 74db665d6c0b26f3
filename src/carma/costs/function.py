"""A cost of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from carma.costs.base import Cost
from carma.errors import BundleError, SettingsError
from carma.schema import Feature
from carma.state import State
from carma.table import Encoding, Statistics

__all__ = ["FunctionCost"]


class FunctionCost(Cost):
    """Whatever a function of people and plans says.

    The function is called with ``x``, the ``values`` and the ``weights``, each of shape
    ``(n, d)``, and returns the cost of each row, shape ``(n,)``. ``values`` are ``x`` in the
    columns that are not acted on; ``weights`` are those of the features times the personal
    factors, 0 in columns that are not actionable; in the columns of a feature that is set level
    by level, times the cost of the move, and halved for nominal ones, of which two columns
    change. It must be differentiable in ``values``, treat every row by itself, and ask for no
    less the further a change goes.

    Args:
        encoding: Of the schema.
        function: ``(x, values, weights) -> cost``; tried on three made-up rows.
        weights: By feature name, above 0; without it, each feature's ``cost_weight``.
        per_action: Price of acting on a feature at all, at least 0; added to the function.
        statistics: Of a training table, whose range the made-up rows span, and on whose scale
            ``prices`` look around; without it, bounds, levels and the size of ``x`` serve.

    Raises:
        SettingsError: A setting is out of range (see ``Cost``); on the made-up rows, the
            function fails, returns another shape or numbers that are not finite or below 0,
            has no finite slope in ``values``, or asks different prices for changing nothing.

    Example:
        >>> from carma import CausalGraph, Feature, Schema
        >>> schema = Schema((Feature("income", role="actionable"),), CausalGraph(("income",)))
        >>> def upwards_only(x, values, weights):
        ...     return (weights * (values - x).clamp(min=0)).sum(dim=1)
        >>> cost = FunctionCost(Encoding(schema), upwards_only)
        >>> x = torch.tensor([[3.0], [3.0]])
        >>> cost(x, torch.ones(2, 1, dtype=torch.bool), torch.tensor([[5.0], [1.0]])).tolist()
        [2.0, 0.0]
    """

    kind: ClassVar[str] = "function"

    def __init__(
        self,
        encoding: Encoding,
        function: Callable[[Tensor, Tensor, Tensor], Tensor],
        weights: Mapping[str, float] | None = None,
        per_action: float = 0.0,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__(encoding, weights, per_action)
        if not callable(function):
            raise _refusal("be a function of x, values and weights", function)
        self.function = function
        self._range: Tensor | None = None
        if statistics is not None:
            width = statistics.maximum - statistics.minimum
            self._range = torch.where(width > 0, width, 1.0)
        self._try(statistics)

    def state(self) -> NoReturn:
        """Refuse.

        Raises:
            BundleError: Always.
        """
        raise BundleError.of("save", "cost", STORED, self.function)

    @classmethod
    def from_state(cls, encoding: Encoding, state: State) -> NoReturn:  # noqa: ARG003
        """Refuse.

        Raises:
            BundleError: Always.
        """
        raise BundleError.of("load", "cost", STORED, state.config)

    def _change(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        factors = self._factors(x, mask, values, weights)
        parts = (x, self._reached(x, mask, values), factors)
        n_columns = x.shape[-1]
        return self.function(*(p.reshape(-1, n_columns) for p in parts)).reshape(x.shape[:-1])

    def _factors(self, x: Tensor, mask: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        factors = self._weighted(self._weights, weights).expand(x.shape)
        if not self._switches:
            return factors
        factors, moves = factors.clone(), self._moves(x, mask, values, weights)
        for place, (feature, _) in enumerate(self._switches):
            # Two columns change where a nominal feature does.
            share = 2.0 if feature.kind == "nominal" else 1.0
            factors[..., self.encoding.block(feature.name)] = moves[..., place, None] / share
        return factors

    def _spread(self, x: Tensor) -> Tensor:
        return x.abs().clamp(min=1) if self._range is None else self._range

    def _try(self, statistics: Statistics | None) -> None:
        if statistics is None:
            ends = [_ends(self.encoding.schema.features[i]) for i in self.encoding.owners]
            low, high = torch.tensor(ends, dtype=torch.float64).T
        else:
            low, high = statistics.minimum, statistics.maximum
        x = torch.stack([low, high, (low + high) / 2])
        set_to = torch.where(self._is_actionable, torch.stack([high, low, high]), x)
        unchanged, _ = self._trial(x, x)
        if not torch.allclose(unchanged, unchanged[0].expand(len(x))):
            raise _refusal("ask the same of everybody who changes nothing", unchanged.tolist())
        _, slope = self._trial(x, set_to)
        if len(self._columns) and not slope[:, self._columns].any():
            raise _refusal("have a slope in the values of actionable columns", "0 everywhere")

    def _trial(self, x: Tensor, set_to: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            values = set_to.clone().requires_grad_()
            weights = self._weights.expand(x.shape)
            try:
                cost: Any = self.function(x, values, weights)
            except Exception as error:
                rule = f"run on x, values and weights of shape {tuple(x.shape)}"
                raise _refusal(rule, error) from error
            if not isinstance(cost, Tensor) or cost.shape != x.shape[:1]:
                got = tuple(cost.shape) if isinstance(cost, Tensor) else cost
                raise _refusal(f"return a tensor of shape {tuple(x.shape[:1])}", got)
            if not torch.isfinite(cost).all() or (cost < 0).any():
                raise _refusal("return finite numbers, at least 0", cost.tolist())
            slope = None
            if cost.requires_grad:
                (slope,) = torch.autograd.grad(cost.sum(), values, allow_unused=True)
        if slope is None:
            raise _refusal("be differentiable in values by torch", "no gradient")
        if not torch.isfinite(slope).all():
            raise _refusal(
                "have a finite slope in values, also where nothing changes", slope.tolist()
            )
        return cost.detach(), slope


STORED = "be of a kind that can be stored; a Python function cannot be stored"


def _ends(feature: Feature) -> tuple[float, float]:
    if feature.kind == "nominal":
        return 0.0, 1.0
    if feature.has_levels:
        return min(feature.codes), max(feature.codes)
    return feature.bounds or (1.0, 2.0)


def _refusal(rule: str, value: Any) -> SettingsError:
    return SettingsError.of("FunctionCost", "function", rule, value)
