"""What a solver suggests for one batch, before it is checked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from carma.interventions import Intervention
from carma.recourse.doubt import Uncertainty

__all__ = ["Proposal"]


@dataclass(frozen=True)
class Proposal:
    """Suggestions for n people, k for each.

    Args:
        intervention: The plans, n * k rows, those of one person next to each other; a row that
            sets nothing stands for "found none".
        n_evaluations: Counterfactuals computed for each person, shape ``(n,)``, int64.
        verdict: ``Status.code`` for the people none of whose plans sets anything, shape ``(n,)``;
            without it they get ``no_action``.
        status: ``Status.code`` of each plan that passes the checks, shape ``(n * k,)``; without
            it they get the solver's ``found``.
        uncertainty: Of the log-odds after each plan, n * k rows; without it, not known.
    """

    intervention: Intervention
    n_evaluations: Tensor
    verdict: Tensor | None = None
    status: Tensor | None = None
    uncertainty: Uncertainty | None = None
