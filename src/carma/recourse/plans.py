"""Checked plans of one batch, in model space."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from carma.recourse.status import Status

__all__ = ["Plans"]


@dataclass(frozen=True)
class Plans:
    """Checked plans for one batch, all in model space.

    Args:
        status: ``Status.code`` of each person, shape ``(n,)``, int64.
        mask: Columns acted on, shape ``(n, d)``, bool; all false without a plan.
        values: Values set, shape ``(n, d)``; read where ``mask`` is true.
        counterfactual: What follows, shape ``(n, d)``; the factual row without a plan.
        cost: Shape ``(n,)``; 0 for accepted people, NaN without a plan.
        probability_before: Of the factual row, shape ``(n,)``.
        probability_after: Of the counterfactual, shape ``(n,)``.
        n_evaluations: Counterfactuals computed in search of each plan, shape ``(n,)``, int64.
    """

    status: Tensor
    mask: Tensor
    values: Tensor
    counterfactual: Tensor
    cost: Tensor
    probability_before: Tensor
    probability_after: Tensor
    n_evaluations: Tensor

    @classmethod
    def joined(cls, parts: list[Plans]) -> Plans:
        """Put batches one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    @classmethod
    def nothing_to_do(cls, x: Tensor, probability: Tensor) -> Plans:
        """Answers for people who are already accepted."""
        status = torch.full((len(x),), Status.ALREADY_ACCEPTED.code)
        mask = torch.zeros_like(x, dtype=torch.bool)
        cost = torch.zeros_like(probability)
        none = torch.zeros(len(x), dtype=torch.long)
        return cls(status, mask, x.clone(), x.clone(), cost, probability, probability.clone(), none)

    def put(self, rows: Tensor, part: Plans) -> None:
        """Replace the answers where ``rows``, ``(n,)`` bool, is true."""
        for entry in fields(self):
            getattr(self, entry.name)[rows] = getattr(part, entry.name)
