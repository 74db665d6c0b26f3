"""The best plans that were foreseen and checked, and what else could be hoped for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from carma.recourse.candidates import Candidates, Found
from carma.recourse.doubt import Doubt, Uncertainty
from carma.recourse.target import People

__all__ = ["Foreseen"]


@dataclass(frozen=True)
class Foreseen:
    """The best plan of each of n people: the cheapest sure one, else the surest.

    Args:
        mask: Columns acted on, shape ``(n, d)``, bool; what time moves is left to ``People.do``.
        values: Same shape.
        cost: Infinite where no plan was found, ``(n,)``.
        validity: Probability that the plan holds, ``(n,)``; negative without one.
        is_sure: Whether the plan goes as far past the decision as that asks for, ``(n,)``.
        uncertainty: Of the log-odds after each plan.
        outlook: How far past the decision, and past its margin, the best plan that was checked
            led, shape ``(n, 2)``; before one is, the most promising was thought to lead.
        hoped: Cost of the cheapest plan of another person that was thought to be sure, and at most
            several times what plans of others usually cost; infinite without one, ``(n,)``.
    """

    mask: Tensor
    values: Tensor
    cost: Tensor
    validity: Tensor
    is_sure: Tensor
    uncertainty: Uncertainty
    outlook: Tensor
    hoped: Tensor

    @classmethod
    def none(cls, people: People, doubt: Doubt) -> Foreseen:
        """No plan for anyone yet."""
        found, n = Found.none(people), len(people)
        cost = found.cost.double()
        nowhere = torch.full((n, 2), -torch.inf, dtype=torch.float64)
        is_sure = torch.zeros(n, dtype=torch.bool)
        parts = (torch.full_like(cost, -1.0), is_sure, doubt.nothing(n), nowhere)
        return cls(found.mask, found.values, cost, *parts, torch.full_like(cost, torch.inf))

    def expect(
        self, owner: Tensor, plans: Candidates, outlook: Tensor, *, looks_sure: Tensor
    ) -> None:
        """Note what plans of others let some people expect, before any is checked.

        Args:
            owner: Who these people are, shape ``(k,)``.
            plans: Of others, as these people may follow them.
            outlook: How far past the decision, and past their margin, these are thought to lead.
            looks_sure: Of which of them that is expected by far enough, bool.
        """
        place, cost = plans.owner, plans.cost.double()
        at = place[:, None].expand_as(outlook)
        self.outlook[owner] = self.outlook[owner].scatter_reduce(0, at, outlook, "amax")
        price = torch.where(looks_sure, cost, torch.inf)
        hoped = self.hoped[owner].scatter_reduce(0, place, price, "amin")
        size = torch.full_like(hoped, torch.inf)
        size = size.scatter_reduce(0, place, cost.log(), "mean", include_self=False)
        self.hoped[owner] = torch.minimum(hoped, USUAL * size.exp())

    def take_better(self, owner: Tensor, others: Foreseen) -> None:
        """Take plans of some people that are surer, or as sure and cheaper; and their outlook.

        Args:
            owner: Whose these are, no person twice, shape ``(k,)``.
            others: Plans of k people, and what their outlook is by now.
        """
        is_cheaper = others.least < self.least[owner]
        is_surer = ~self.is_sure[owner] & (others.validity > self.validity[owner])
        chosen = (is_cheaper | (is_surer & ~others.is_sure)).nonzero().squeeze(1)
        self.outlook[owner] = others.outlook
        rows = owner[chosen]
        for name in ("mask", "values", "cost", "validity", "is_sure"):
            getattr(self, name)[rows] = getattr(others, name)[chosen]
        self.uncertainty.put(rows, others.uncertainty[chosen])

    @property
    def least(self) -> Tensor:
        """Cost of the sure plans, infinite without one, shape ``(n,)``."""
        return torch.where(self.is_sure, self.cost, torch.inf)

    @property
    def is_dear(self) -> Tensor:
        """Whose sure plan costs much more than one of another that looks sure, ``(n,)``, bool."""
        return self.is_sure & (self.cost > DEAR * self.hoped)

    def take(
        self,
        owner: Tensor,
        plans: tuple[Tensor, Tensor, Tensor],
        ahead: Tensor,
        margin: Tensor,
        uncertainty: Uncertainty,
    ) -> None:
        """Take the plans of some people that are better than theirs.

        Args:
            owner: Whose these are, no person twice, shape ``(k,)``.
            plans: Their masks, values and costs.
            ahead: How far past the decision they lead, ``(k,)``.
            margin: How far they have to, ``(k,)``.
            uncertainty: Of that.
        """
        mask, values, cost = plans
        validity, is_sure = uncertainty.validity(ahead), ahead >= margin
        better = torch.where(is_sure, cost < self.least[owner], validity > self.validity[owner])
        better &= (ahead >= 0) & (is_sure | ~self.is_sure[owner])
        chosen = better.nonzero().squeeze(1)
        rows = owner[chosen]
        self.mask[rows], self.values[rows] = mask[chosen], values[chosen]
        self.cost[rows], self.validity[rows] = cost[chosen].double(), validity[chosen]
        self.is_sure[rows] = is_sure[chosen]
        self.uncertainty.put(rows, uncertainty[chosen])


# How much dearer than the cheapest that looks sure, and than is usual, plans are that call for more
# plans of others.
DEAR, USUAL = 1.2, 3.0
