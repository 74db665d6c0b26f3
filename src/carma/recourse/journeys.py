"""Finished plans, from which CARMA's networks learn where to look."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from carma.recourse.target import People

__all__ = ["Journeys"]


@dataclass(frozen=True)
class Journeys:
    """Finished plans of n people, from each of p places where plans may start.

    A place is home, or where moves between levels lead.

    Args:
        people: At home.
        is_open: Places where their plans may start, home first, shape ``(n, p)``, bool.
        cost: Of the best plan from each place, shape ``(n, p)``, infinite where none is known.
        validity: Probability with which these hold, same shape.
        is_sure: Which of them hold as probably as they shall, same shape, bool.
    """

    people: People
    is_open: Tensor
    cost: Tensor
    validity: Tensor
    is_sure: Tensor

    def __len__(self) -> int:
        """Number of people."""
        return len(self.people)

    def __getitem__(self, rows: Tensor) -> Journeys:
        """Those of some people."""
        return Journeys(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    @classmethod
    def joined(cls, parts: list[Journeys]) -> Journeys:
        """Put batches one after the other."""
        people = People.joined([part.people for part in parts])
        names = [entry.name for entry in fields(cls)[1:]]
        return cls(people, *(torch.cat([getattr(p, name) for p in parts]) for name in names))

    @property
    def shares(self) -> Tensor:
        """How good it is to start from each place, ``(n, p)``, float32; each row sums to 1.

        The cheapest sure plan counts most; of people who have none, the surest plan.
        """
        has_plan = torch.isfinite(self.cost)
        validity = torch.where(has_plan, self.validity, -1.0)
        is_sure = has_plan & self.is_sure
        least = torch.where(is_sure, self.cost, torch.inf).amin(dim=1, keepdim=True)
        worse = torch.where(is_sure, self.cost / least.clamp(min=TINY) - 1, torch.inf)
        unsure = torch.where(has_plan, validity.amax(dim=1, keepdim=True) - validity, torch.inf)
        lost = torch.where(is_sure.any(dim=1, keepdim=True), worse, unsure)
        return torch.softmax(-lost / TEMPERATURE, dim=1).float()


# How much dearer than the best a plan may be, as a share, or how much less sure, and still be good.
TEMPERATURE = 0.05
TINY = 1e-12
