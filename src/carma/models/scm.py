"""A structural causal model whose equations are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from carma.errors import BundleError, NotFittedError, SchemaError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.schema import Schema
from carma.state import State
from carma.table import Statistics

__all__ = ["Equation", "StructuralCausalModel", "additive", "linear"]

Parents = Mapping[str, Tensor]


@dataclass(frozen=True)
class Equation:
    """One mechanism x = f(parents, u), one-to-one in u.

    Args:
        forward: ``(parents, u) -> x``; parents by name, each of shape ``(n,)``.
        inverse: ``(parents, x) -> u``.
        noise: Distribution of u.
        weights: Where x = constant + sum of weight times parent + u, the weights by name;
            ``None`` where the mechanism is not known to be of that form.

    Example:
        >>> twice = Equation(
        ...     lambda p, u: 2 * u, lambda p, x: x / 2, torch.distributions.Normal(0.0, 1.0)
        ... )
        >>> twice.inverse({}, twice.forward({}, torch.tensor([3.0]))).tolist()
        [3.0]
    """

    forward: Callable[[Parents, Tensor], Tensor]
    inverse: Callable[[Parents, Tensor], Tensor]
    noise: Distribution
    weights: Mapping[str, float] | None = None


def additive(function: Callable[[Parents], Tensor | float], noise: Distribution) -> Equation:
    """The mechanism x = function(parents) + u.

    Example:
        >>> savings = additive(lambda p: 0.5 * p["income"], torch.distributions.Normal(0.0, 1.0))
        >>> savings.forward({"income": torch.tensor([4.0])}, torch.tensor([1.0])).tolist()
        [3.0]
    """
    return Equation(lambda p, u: function(p) + u, lambda p, x: x - function(p), noise)


def linear(weights: Mapping[str, float], noise: Distribution, intercept: float = 0.0) -> Equation:
    """The mechanism x = intercept + sum of weight times parent + u.

    Example:
        >>> savings = linear({"income": 0.5}, torch.distributions.Normal(0.0, 1.0), intercept=2.0)
        >>> savings.forward({"income": torch.tensor([4.0])}, torch.tensor([1.0])).tolist()
        [5.0]
        >>> savings.weights
        {'income': 0.5}
    """
    weights = dict(weights)

    def mean(p: Parents) -> Tensor | float:
        return sum((weight * p[name] for name, weight in weights.items()), start=intercept)

    return replace(additive(mean, noise), weights=weights)


class StructuralCausalModel(CausalModel):
    """Exact abduction, counterfactuals and sampling from given equations.

    ``fit`` learns no mechanism; it only records mean, spread and range of a table, which
    solvers need for the scale of cost and the range of plans.

    Args:
        schema: The problem; no nominal features (a mechanism returns one number).
        equations: One for each feature, original units.
        name: Set for the benchmark models of this package, which bundles can name.

    Raises:
        SchemaError: Equations are missing or for unknown features, a feature is nominal, or
            an equation's weights name what is no cause in the graph.

    Example:
        >>> from carma import CausalGraph, Feature
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> schema = Schema(
        ...     (Feature("income", role="actionable"), Feature("savings")),
        ...     CausalGraph.from_edges([("income", "savings")]),
        ... )
        >>> scm = StructuralCausalModel(schema, {
        ...     "income": additive(lambda p: 0.0, normal),
        ...     "savings": additive(lambda p: 0.5 * p["income"], normal),
        ... })
        >>> x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
        >>> do = Intervention.of(scm.encoding, 1, income=4.0)
        >>> _ = scm.fit(scm.encoding.decode(scm.sample(10)))
        >>> scm.counterfactual(x, do).tolist()
        [[4.0, 4.0]]
    """

    kind: ClassVar[str] = "scm"

    def __init__(
        self, schema: Schema, equations: Mapping[str, Equation], name: str | None = None
    ) -> None:
        super().__init__(schema)
        if set(equations) != set(schema.names):
            differ = sorted(set(equations) ^ set(schema.names))
            rule = "hold exactly one equation a feature"
            raise SchemaError.of("StructuralCausalModel", "equations", rule, differ)
        for feature in schema.features:
            if feature.kind == "nominal":
                rule = "not be nominal: an equation returns one number"
                raise SchemaError.of("StructuralCausalModel", "feature", rule, feature.name)
            weights = equations[feature.name].weights or {}
            strangers = sorted(set(weights) - set(schema.graph.parents(feature.name)))
            if strangers:
                argument = f"weights of {feature.name}"
                rule = "only name its causes in the graph"
                raise SchemaError.of("StructuralCausalModel", argument, rule, strangers)
        self.equations = dict(equations)
        self.name = name

    @property
    def is_fitted(self) -> bool:
        """Always true: the equations are known. ``statistics_`` appear with ``fit``."""
        return True

    @property
    def direct_effects(self) -> Tensor | None:
        """See ``CausalModel.direct_effects``; known where all equations have weights."""
        effects = torch.zeros(self.encoding.n_columns, self.encoding.n_columns).double()
        for i, feature in enumerate(self.schema.features):
            weights = self.equations[feature.name].weights
            # What has no cause is moved by nothing, whatever its equation.
            if not self.schema.graph.parents(feature.name):
                continue
            if weights is None or feature.is_discrete:
                return None
            for cause, weight in weights.items():
                effects[i, self.encoding.column(cause)] = weight
        return effects

    def state(self) -> State:
        """Name of the benchmark model and the statistics.

        Raises:
            BundleError: The equations are the caller's own Python functions.
        """
        if self.name is None:
            rule = "be a benchmark model: a bundle cannot hold Python functions"
            raise BundleError.of("StructuralCausalModel", "name", rule, None)
        if not hasattr(self, "statistics_"):
            raise NotFittedError.of("StructuralCausalModel", "state")
        return State({"name": self.name}, self.statistics_.as_tensors())

    @classmethod
    def from_state(cls, schema: Schema, state: State) -> Self:  # noqa: ARG003
        """Not possible here: ``carma.benchmarks`` holds the equations and the bundle asks it."""
        raise BundleError.of("StructuralCausalModel", "name", "be a benchmark", state.config)

    def _fit(self, x: Tensor, statistics: Statistics, progress: bool | None) -> None: ...

    def _abduct(self, x: Tensor) -> Tensor:
        values = self._by_name(x)
        return self._stack({n: self.equations[n].inverse(values, values[n]) for n in values})

    def _predict(
        self,
        u: Tensor,
        intervention: Intervention | None,
        start: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        noise = self._by_name(u)
        values: dict[str, Tensor] = {}
        for name in self.schema.graph.order:
            value = self.equations[name].forward(values, noise[name])
            if intervention is not None:
                i = self.encoding.column(name)
                value = torch.where(intervention.mask[:, i], intervention.values[:, i], value)
            values[name] = value
        return self._stack(values)

    def _sample_latent(self, n: int) -> Tensor:
        return self._stack(
            {name: self.equations[name].noise.sample((n,)).double() for name in self.schema.names}
        )

    def _log_prob(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x), dtype=x.dtype)
        values = self._by_name(x.detach())
        for name, equation in self.equations.items():
            with torch.enable_grad():
                value = values[name].clone().requires_grad_()
                u = equation.inverse(values, value)
                (slope,) = torch.autograd.grad(u.sum(), value)
            u = u.detach()
            support = equation.noise.support
            assert support is not None  # noqa: S101
            is_possible = support.check(u)  # type: ignore[no-untyped-call]
            density = equation.noise.log_prob(torch.where(is_possible, u, equation.noise.mean))
            total = total + torch.where(is_possible, density + slope.abs().log(), -torch.inf)
        return total

    def _by_name(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.schema.names, x.unbind(dim=1), strict=True))

    def _stack(self, values: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([values[name] for name in self.schema.names], dim=1)
