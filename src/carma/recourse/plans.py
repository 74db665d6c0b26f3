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
        expected_validity: Probability that the plan holds under the true mechanisms, given how
            well the data determine them, shape ``(n,)``; 1 for accepted people, NaN where there
            is no plan or the solver does not know.
        n_evaluations: Counterfactuals computed in search of each plan, shape ``(n,)``, int64.
    """

    status: Tensor
    mask: Tensor
    values: Tensor
    counterfactual: Tensor
    cost: Tensor
    probability_before: Tensor
    probability_after: Tensor
    expected_validity: Tensor
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
        after, sure = probability.clone(), torch.ones_like(probability)
        return cls(status, mask, x.clone(), x.clone(), cost, probability, after, sure, none)

    def __getitem__(self, rows: Tensor | slice) -> Plans:
        """The answers of some people, by position, slice or bool."""
        return Plans(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def has_plan(self) -> Tensor:
        """True where there is a checked plan, shape ``(n,)``."""
        found = torch.tensor([s.code for s in Status if s.has_plan])
        return torch.isin(self.status, found)

    @classmethod
    def without(cls, x: Tensor, probability: Tensor, status: Status) -> Plans:
        """Answers without a plan, and why there is none."""
        plans = cls.nothing_to_do(x, probability)
        plans.status.fill_(status.code)
        plans.cost.fill_(torch.nan)
        plans.expected_validity.fill_(torch.nan)
        return plans

    def put(self, rows: Tensor, part: Plans) -> None:
        """Replace the answers where ``rows``, ``(n,)`` bool, is true."""
        for entry in fields(self):
            getattr(self, entry.name)[rows] = getattr(part, entry.name)
