"""What a solver suggests for one batch, before it is checked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from carma.interventions import Intervention

__all__ = ["Proposal"]


@dataclass(frozen=True)
class Proposal:
    """One suggestion a person.

    Args:
        intervention: The plans; a row that sets nothing stands for "found none".
        n_evaluations: Counterfactuals computed for each person, shape ``(n,)``, int64.
        verdict: ``Status.code`` for the people whose row sets nothing, shape ``(n,)``; without
            it they get ``no_action``.
    """

    intervention: Intervention
    n_evaluations: Tensor
    verdict: Tensor | None = None
