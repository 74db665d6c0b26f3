"""Plans of others, as new people may follow them."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.interventions import Intervention
from carma.recourse.candidates import Candidates
from carma.recourse.precedents import Precedents
from carma.recourse.target import People

__all__ = ["Recall"]


class Recall:
    """Fits plans that worked for others to the limits of new people.

    Args:
        cost: What plans cost.
        limits: What plans may set.

    References:
        Aamodt & Plaza 1994, Case-based reasoning, AI Communications 7(1).
    """

    def __init__(self, cost: Cost, limits: PlanLimits) -> None:
        self._cost, self._limits = cost, limits

    def fitted(self, people: People, at: Tensor, known: Precedents) -> tuple[Candidates, Tensor]:
        """Known plans as each person may follow them, but for those who may not.

        Args:
            people: n of them, at home.
            at: Positions of plans for each, shape ``(n, k)``.
            known: All plans.

        Returns:
            The plans, and the position of each in ``at``, flattened.
        """
        n, k = at.shape
        owner, at = torch.arange(n).repeat_interleave(k), at.flatten()
        some = people[owner]
        mask, values = self._values(some, at, known)
        price = self._cost(some.x, mask, values, some.weights)
        may = self._limits.permits(some.x, Intervention(mask, values), some.limits)
        rows = (may & (mask & (values != some.x)).any(dim=1)).nonzero().squeeze(1)
        effort = torch.zeros(n, dtype=torch.long)
        parts = (owner[rows], mask[rows], values[rows], price[rows])
        return Candidates(people, *parts, effort), rows

    def varied(
        self, people: People, at: Tensor, known: Precedents, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One known plan of each person, done by less or more than it was at random.

        Args:
            people: n of them, at home.
            at: Position of a plan for each, shape ``(n,)``.
            known: All plans.
            draws: Of how much.

        Returns:
            Mask and values, shape ``(n, d)``.
        """
        n, d = people.x.shape
        few = torch.rand(n, 2, generator=draws, dtype=torch.float64) < torch.tensor(VARIED)
        low, high = SHORTEST, LONGEST
        length = low + (high - low) * torch.rand(n, 1, generator=draws, dtype=torch.float64)
        noise = SCATTER * torch.randn(n, d, generator=draws, dtype=torch.float64)
        length = torch.where(few[:, :1], length, 1.0)
        return self._values(people, at, known, length * (1 + torch.where(few[:, 1:], noise, 0.0)))

    def _values(
        self, people: People, at: Tensor, known: Precedents, length: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mask and values of one plan of each person, numbers as much longer as told."""
        x = people.x
        values = torch.where(known.is_held[at], x, known.values[at])
        mask = known.mask[at] & ~self._limits.stays(x, values)
        # A box holds what is set level by level where it is.
        by_level = self._limits.encoding.moved_by_level
        far = values if length is None else x + length * (values - x)
        inside = self._limits.project(x, far, people.limits)
        return mask, torch.where(mask, torch.where(by_level, values, inside), x)


# Shares of plans that are done by less or more, and of those whose numbers scatter; how much.
VARIED = (0.6, 0.5)
SHORTEST, LONGEST, SCATTER = 0.1, 1.5, 0.3
