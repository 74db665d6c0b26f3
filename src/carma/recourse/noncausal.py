"""A baseline: the optimum of someone who thinks that nothing follows from anything."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from carma.interventions import Intervention
from carma.recourse.doubt import Doubt
from carma.recourse.exact import ExactSolver

__all__ = ["NonCausalOptimum"]


class NonCausalOptimum(ExactSolver):
    """The exact optimum with every feature independently movable.

    The same optimiser as ``ExactSolver``, under the belief that what is not set stays as it is,
    but for derived features, which are computed from what is;
    status, probability and counterfactual are those of this belief. Apply the plans under a
    causal model to see what they really do: ``evaluate(result, cost, true_model=...)``. A method
    that claims a gain from causal knowledge has to be cheaper than this one. The causal model
    that is passed gives schema and scale only.

    Args:
        causal_model: See above.
        classifier: Decides.
        cost: See ``Solver``.
        settings: See ``ExactSettings``.

    References:
        Wachter, Mittelstadt & Russell 2018, arXiv 1711.00399, for the nearest counterfactual
        explanation without causes; Karimi et al. 2021, arXiv 2002.06278, for why it misleads.
    """

    kind: ClassVar[str] = "noncausal"

    def _follow(self, x: Tensor, intervention: Intervention, u: Tensor) -> Tensor:  # noqa: ARG002
        return self.encoding.derive(torch.where(intervention.mask, intervention.values, x))

    def _new_doubt(self) -> Doubt:
        # Someone who thinks that nothing follows doubts nothing.
        return Doubt(self.causal_model, self.classifier, n_alternatives=0)

    def _may_follow(self, may_act: Tensor) -> Tensor:
        return super()._may_follow(may_act) & self.encoding.is_derived

    def _effects(self) -> Tensor | None:
        if self.schema.formulas:
            return None
        d = self.encoding.n_columns
        return torch.zeros(d, d, dtype=torch.float64)
