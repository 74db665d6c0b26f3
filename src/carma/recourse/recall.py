"""Plans of others tried on new people: the cheapest that is sure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.interventions import Intervention
from carma.recourse.candidates import Candidates, Found, lowest
from carma.recourse.doubt import Doubt, Uncertainty
from carma.recourse.precedents import Precedents
from carma.recourse.target import People, Target

__all__ = ["Recall", "Recalled"]


@dataclass(frozen=True)
class Recalled:
    """Plans of some people.

    Args:
        owner: Whose each plan is, rising, no person twice, shape ``(k,)``, int64.
        do: What the plans set; what time moves is left to ``People.do``.
        uncertainty: Of the log-odds after each plan.
    """

    owner: Tensor
    do: Intervention
    uncertainty: Uncertainty

    def __getitem__(self, rows: Tensor) -> Recalled:
        """Some of the plans, by position."""
        return Recalled(self.owner[rows], self.do.each(lambda t: t[rows]), self.uncertainty[rows])

    @classmethod
    def joined(cls, parts: list[Recalled]) -> Recalled:
        """Put batches one after the other."""
        owner = torch.cat([part.owner for part in parts])
        do = Intervention.joined([part.do for part in parts])
        return cls(owner, do, Uncertainty.joined([part.uncertainty for part in parts]))


class Recall:
    """Tries what worked for people who are alike, and takes the cheapest that is sure.

    Args:
        target: What to reach, by the classifier itself.
        cost: What plans cost.
        limits: What plans may set.
        doubt: Measures how sure plans are, by the classifier itself.
        quantile: Margin in spreads.
        near: Plans tried on each person: of those who are most alike, then of further ones.

    References:
        Aamodt & Plaza 1994, Case-based reasoning, AI Communications 7(1).
    """

    def __init__(
        self,
        target: Target,
        cost: Cost,
        limits: PlanLimits,
        doubt: Doubt,
        quantile: float,
        near: tuple[int, int],
    ) -> None:
        self._target, self._cost, self._limits = target, cost, limits
        self._doubt, self._quantile, self._near = doubt, quantile, near

    @property
    def effort(self) -> int:
        """Counterfactuals computed for each person at most, but for those under doubt."""
        return sum(self._near)

    def best(self, people: People, seen: Tensor, known: Precedents) -> Recalled:
        """The cheapest sure plan of each person for whom one of the known ones is.

        Args:
            people: n of them, at home.
            seen: What the networks see of them, shape ``(n, inputs)``.
            known: At least one.
        """
        parts = []
        for start in range(0, len(people), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            part = self._best(people[rows], known.near(seen[rows], sum(self._near)), known)
            parts.append(replace(part, owner=part.owner + start))
        return Recalled.joined(parts)

    def _best(self, people: People, near: Tensor, known: Precedents) -> Recalled:
        """``best`` of a few people, each of whom the plans at some positions are tried on."""
        n = len(people)
        found, doubt = Found.none(people), self._doubt.nothing(n)
        for at in (near[:, : self._near[0]], near[:, self._near[0] :]):
            plans = self._fitting(people, at, known)
            # What is dearer than a sure plan, is of no use.
            plans = plans.of((plans.cost < found.cost[plans.owner]).nonzero().squeeze(1))
            owner, mask, values = plans.owner, plans.mask, plans.values
            ahead = self._target.surplus(people[owner], mask, values)
            rank = torch.where(ahead >= 0, plans.cost.double(), torch.inf)
            for _ in range(MEASURED):
                rows = lowest(rank, owner, n, 1)
                rows = rows[torch.isfinite(rank[rows])]
                if not len(rows):
                    break
                measured = self._doubt.of(people[owner[rows]], mask[rows], values[rows])
                sure = (ahead[rows] >= measured.margin(self._quantile)).nonzero().squeeze(1)
                whose = owner[rows[sure]]
                cost, nothing = plans.cost[rows[sure]], torch.zeros_like(whose)
                found.put(whose, Found(mask[rows[sure]], values[rows[sure]], cost, nothing))
                doubt.put(whose, measured[sure])
                rank[rows] = torch.inf
                rank = torch.where(plans.cost < found.cost[owner], rank, torch.inf)
        whose = torch.isfinite(found.cost).nonzero().squeeze(1)
        return Recalled(whose, Intervention(found.mask[whose], found.values[whose]), doubt[whose])

    def _fitting(self, people: People, at: Tensor, known: Precedents) -> Candidates:
        """Known plans as each person may follow them, but for those who may not.

        Args:
            people: n of them.
            at: Positions of plans for each, shape ``(n, k)``.
            known: All plans.
        """
        n, k = at.shape
        owner, at = torch.arange(n).repeat_interleave(k), at.flatten()
        x, limits, mask = people.x[owner], people.limits[owner], known.mask[at]
        values = torch.where(known.is_held[at], x, known.values[at])
        mask = mask & ~self._limits.stays(x, values)
        # A box holds what is set level by level where it is.
        by_level = self._limits.encoding.moved_by_level
        inside = torch.where(by_level, values, self._limits.project(x, values, limits))
        values = torch.where(mask, inside, x)
        weights = None if people.weights is None else people.weights[owner]
        price = self._cost(x, mask, values, weights)
        may = self._limits.permits(x, Intervention(mask, values), limits)
        rows = (may & (mask & (values != x)).any(dim=1)).nonzero().squeeze(1)
        effort = torch.zeros(n, dtype=torch.long)
        return Candidates(people, owner[rows], mask[rows], values[rows], price[rows], effort)


# Plans of each person whose draws are followed, at most, in either turn; people at once.
MEASURED, AT_ONCE = 4, 512
