"""Plans after refinement: what they cost, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from carma.recourse.candidates import Found, lowest
from carma.recourse.doubt import Doubt, Uncertainty
from carma.recourse.target import People

__all__ = ["UNSURE", "Refined"]


@dataclass(frozen=True)
class Refined:
    """Plans of n people, k for each, those of one person next to each other.

    Args:
        mask: Shape ``(n * k, d)``, bool.
        values: Shape ``(n * k, d)``.
        cost: Shape ``(n * k,)``, infinite where the plan does not work.
        uncertainty: Of the log-odds after each plan.
        is_sure: Whether the plan goes as far past the threshold as that asks for, ``(n * k,)``.
    """

    mask: Tensor
    values: Tensor
    cost: Tensor
    uncertainty: Uncertainty
    is_sure: Tensor

    def __getitem__(self, rows: Tensor) -> Refined:
        """Some of the plans, by position."""
        return Refined(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    @classmethod
    def none(cls, people: People, doubt: Doubt) -> Refined:
        """No plan for anyone yet."""
        found, n = Found.none(people), len(people)
        is_sure = torch.zeros(n, dtype=torch.bool)
        return cls(found.mask, found.values, found.cost, doubt.nothing(n), is_sure)

    @property
    def worth(self) -> Tensor:
        """What to rank plans by: those that are not sure enough come after all that are."""
        return torch.where(self.is_sure, self.cost, UNSURE + self.cost)

    def sure_ones(self, each: int) -> Refined:
        """Without the plans that are not sure enough, of people who have one that is.

        Args:
            each: Plans of each person, next to each other.
        """
        has_sure = self.is_sure.view(-1, each).any(dim=1).repeat_interleave(each)
        return replace(self, cost=torch.where(has_sure & ~self.is_sure, torch.inf, self.cost))

    def with_further(self, others: Refined, owner: Tensor) -> Refined:
        """All plans, and one more of each person, those of one person next to each other.

        Args:
            others: One plan of each person.
            owner: Whose each of these plans is, rising, ``(k,)``.
        """
        order = torch.cat([owner, torch.arange(len(others.cost))]).argsort(stable=True)
        return self._and(others)[order]

    def or_better(self, others: Refined, owner: Tensor) -> Refined:
        """The best plan of each person.

        Args:
            others: Further plans.
            owner: The person whose plan each of these is, ``(k,)``; people may have several.
        """
        worth = torch.cat([self.worth, others.worth])
        owners = torch.cat([torch.arange(len(self.cost)), owner])
        order = owners.argsort(stable=True)
        chosen = order[lowest(worth[order], owners[order], len(self.cost), 1)]
        return self._and(others)[chosen]

    def replaced(self, rows: Tensor, part: Refined) -> Refined:
        """The same plans but for some, by position."""
        order = torch.arange(len(self.cost)).index_put(
            (rows,), len(self.cost) + torch.arange(len(rows))
        )
        return self._and(part)[order]

    def _and(self, others: Refined) -> Refined:
        return Refined(
            torch.cat([self.mask, others.mask]),
            torch.cat([self.values, others.values]),
            torch.cat([self.cost, others.cost]),
            Uncertainty.joined([self.uncertainty, others.uncertainty]),
            torch.cat([self.is_sure, others.is_sure]),
        )


# Cost that ranks plans which are not sure enough behind all that are.
UNSURE = 1e9
