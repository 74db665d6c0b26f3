"""A causal model whose derived columns are computed from the others, not learned."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from carma.errors import BundleError, ConstraintError, NotFittedError, SchemaError
from carma.interventions import Intervention
from carma.models.anm import AdditiveNoiseModel
from carma.models.base import CausalModel
from carma.models.flow import CausalFlow
from carma.models.mixed import MixedFlow
from carma.models.scm import StructuralCausalModel
from carma.models.vaca import Vaca
from carma.schema import Schema
from carma.state import State, prefixed, unprefixed
from carma.table import Statistics

__all__ = ["LEARNED", "WithDerived"]

LEARNED: dict[str, type[CausalModel]] = {
    model.kind: model for model in (AdditiveNoiseModel, CausalFlow, MixedFlow, Vaca)
}


class WithDerived(CausalModel):
    """A causal model of the columns that are measured, and formulas for those that are derived.

    A derived column is an exact function of others (``Feature.formula``): there is nothing to
    learn, and no noise. The inner model is one of ``schema.base``, where what a derived column is
    computed from acts in its place; every answer then has the derived columns computed anew. So
    they agree with their formulas in every counterfactual, sample and alternative. No intervention
    sets one. Their latents are 0, and ``log_prob`` is that of the other columns.

    Args:
        schema: With a derived feature.
        inner: A model of ``schema.base``, fitted or not; ``fit`` fits it.

    Raises:
        SchemaError: The schema has no derived feature, or ``inner`` is of another problem.

    Example:
        >>> from carma import CausalGraph, Feature, linear
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> features = (
        ...     Feature("amount", role="actionable"),
        ...     Feature("duration"),
        ...     Feature("rate", formula="amount / duration"),
        ... )
        >>> graph = CausalGraph(("amount", "duration", "rate"), (("amount", "duration"),))
        >>> schema = Schema(features, graph)
        >>> equations = {"amount": linear({}, normal), "duration": linear({"amount": 0.5}, normal)}
        >>> model = WithDerived(schema, StructuralCausalModel(schema.base, equations))
        >>> x = torch.tensor([[6.0, 2.0, 3.0]], dtype=torch.float64)
        >>> do = Intervention.of(model.encoding, 1, amount=10.0)
        >>> model.counterfactual(x, do).tolist()
        [[10.0, 4.0, 2.5]]
    """

    kind: ClassVar[str] = "with_derived"
    computes_formulas: ClassVar[bool] = True

    def __init__(self, schema: Schema, inner: CausalModel) -> None:
        super().__init__(schema)
        if not schema.formulas:
            rule = "have a derived feature, one with a formula"
            raise SchemaError.of("WithDerived", "schema", rule, schema.names)
        if inner.schema != schema.base:
            rule = "be a model of schema.base"
            raise SchemaError.of("WithDerived", "inner", rule, inner.schema.names)
        self.inner = inner
        self._measured = (~self.encoding.is_derived).nonzero().squeeze(1)
        n_each = inner.n_latents // len(self._measured)
        self._latents = (self._measured[:, None] * n_each + torch.arange(n_each)).flatten()

    @property
    def is_fitted(self) -> bool:
        """True when the inner model is fitted. ``statistics_`` appear with ``fit``."""
        return self.inner.is_fitted

    @property
    def n_latents(self) -> int:
        """See ``CausalModel.n_latents``; a derived column has as many as others, all 0."""
        return len(self._latents) // len(self._measured) * self.encoding.n_columns

    @property
    def n_alternatives(self) -> int:
        """See ``CausalModel.n_alternatives``."""
        return self.inner.n_alternatives

    def sample(self, n: int, intervention: Intervention | None = None, *, seed: int = 0) -> Tensor:
        """See ``CausalModel.sample``."""
        return self.encoding.derive(super().sample(n, intervention, seed=seed))

    def _fit(self, x: Tensor, statistics: Statistics, progress: bool | None) -> None:  # noqa: ARG002
        table = self.inner.encoding.decode(x[:, self._measured])
        self.inner.fit(table, progress=progress)

    def _abduct(self, x: Tensor) -> Tensor:
        u = self.inner.abduct(x[:, self._measured])
        return u.new_zeros(len(x), self.n_latents).index_copy(1, self._latents, u)

    def _predict(
        self, u: Tensor, intervention: Intervention | None, start: Tensor | None
    ) -> Tensor:
        u = u[:, self._latents]
        do = None if intervention is None else self._inner_intervention(intervention)
        if start is None or do is None:
            return self._completed(self.inner._predict(u, do, None))
        return self._completed(self.inner.counterfactual(start[:, self._measured], do, u))

    def _alternatives(self, x: Tensor, intervention: Intervention) -> Tensor:
        do = self._inner_intervention(intervention)
        return self._completed(self.inner.alternatives(x[:, self._measured], do))

    def _sample_latent(self, n: int) -> Tensor:
        u = self.inner._sample_latent(n)
        return u.new_zeros(n, self.n_latents).index_copy(1, self._latents, u)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.inner.log_prob(x[:, self._measured])

    def _completed(self, measured: Tensor) -> Tensor:
        """Rows with their derived columns, from those without, ``(..., d)``."""
        wide = measured.new_zeros(*measured.shape[:-1], self.encoding.n_columns)
        return self.encoding.derive(wide.index_copy(-1, self._measured, measured))

    def _inner_intervention(self, intervention: Intervention) -> Intervention:
        columns = self._measured
        return Intervention(intervention.mask[:, columns], intervention.values[:, columns])

    def _check_intervention(self, intervention: Intervention, n: int) -> None:
        super()._check_intervention(intervention, n)
        is_set = (intervention.mask & self.encoding.is_derived).any(dim=0)
        if bool(is_set.any()):
            name = self.encoding.columns[int(is_set.nonzero()[0])]
            rule = "not set a derived column, which follows from its formula"
            raise ConstraintError.of("WithDerived", "intervention", rule, name)

    def state(self) -> State:
        """See ``CausalModel.state``.

        Raises:
            BundleError: The inner model is of known equations.
        """
        if not hasattr(self, "statistics_"):
            raise NotFittedError.of("WithDerived", "state")
        if isinstance(self.inner, StructuralCausalModel):
            rule = "be learned: a bundle cannot hold equations"
            raise BundleError.of("WithDerived", "inner", rule, self.inner.kind)
        inner = self.inner.state()
        config = {"kind": self.inner.kind, "inner": inner.config}
        own = prefixed("statistics", self.statistics_.as_tensors())
        return State(config, own | prefixed("inner", inner.tensors))

    @classmethod
    def from_state(cls, schema: Schema, state: State, own: type[CausalModel] | None = None) -> Self:
        """See ``CausalModel.from_state``.

        Args:
            schema: The problem.
            state: See ``state``.
            own: Class of the inner model, only where it is the caller's own.

        Raises:
            BundleError: The inner model is the caller's own, and its class is not handed in.
        """
        kind = state.config["kind"]
        known = LEARNED if own is None else LEARNED | {own.kind: own}
        if kind not in known:
            rule = f"be handed in: the class of the caller's own causal model, of kind {kind!r}"
            raise BundleError.of("load", "causal_model", rule, own)
        stored = State(state.config["inner"], unprefixed("inner", state.tensors))
        model = cls(schema, known[kind].from_state(schema.base, stored))
        model.statistics_ = Statistics(**unprefixed("statistics", state.tensors))
        return model
