"""Plans under consideration: several for each person, of whom the cheapest that works wins."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from carma.recourse.target import People

__all__ = ["Candidates", "Found", "lowest"]


@dataclass(frozen=True)
class Found:
    """The best plan of each person.

    Args:
        mask: Shape ``(n, d)``, bool; all false where no plan was found.
        values: Shape ``(n, d)``.
        cost: Shape ``(n,)``, infinite without a plan.
        n_evaluations: Counterfactuals computed for each person, ``(n,)``, int64.
    """

    mask: Tensor
    values: Tensor
    cost: Tensor
    n_evaluations: Tensor

    @classmethod
    def none(cls, people: People) -> Found:
        """No plan for anyone yet."""
        x = people.x
        mask, cost = torch.zeros_like(x, dtype=torch.bool), torch.full_like(x[:, 0], torch.inf)
        return cls(mask, x.clone(), cost, torch.zeros(len(x), dtype=torch.long))

    def __getitem__(self, rows: Tensor) -> Found:
        """The answers of some people, by position."""
        return Found(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    def put(self, rows: Tensor, part: Found) -> None:
        """Replace the answers of some people, by position."""
        for entry in fields(self):
            getattr(self, entry.name)[rows] = getattr(part, entry.name)

    def or_better(self, other: Found) -> Found:
        """The cheaper of two answers for each person; the efforts add up."""
        better = other.cost < self.cost
        return Found(
            torch.where(better[:, None], other.mask, self.mask),
            torch.where(better[:, None], other.values, self.values),
            torch.where(better, other.cost, self.cost),
            self.n_evaluations + other.n_evaluations,
        )


@dataclass(frozen=True)
class Candidates:
    """Plans of a batch of people.

    Args:
        people: The people, n of them.
        owner: Whose plan it is, shape ``(w,)``, int64.
        mask: Shape ``(w, d)``, bool.
        values: Shape ``(w, d)``.
        cost: Shape ``(w,)``, infinite where the plan does not work.
        n_evaluations: Counterfactuals computed for each person so far, ``(n,)``.
    """

    people: People
    owner: Tensor
    mask: Tensor
    values: Tensor
    cost: Tensor
    n_evaluations: Tensor

    def cheapest(self, count: int) -> Candidates:
        """Only the ``count`` cheapest of each person."""
        return self.of(lowest(self.cost, self.owner, len(self.people), count))

    def of(self, rows: Tensor) -> Candidates:
        """Only some of them, by position; rising."""
        return Candidates(
            self.people,
            self.owner[rows],
            self.mask[rows],
            self.values[rows],
            self.cost[rows],
            self.n_evaluations,
        )

    def best(self) -> Found:
        """The cheapest of each person that works."""
        found = Found.none(self.people)
        top = self.cheapest(1)
        works = torch.isfinite(top.cost)
        owner = top.owner[works]
        found.mask[owner], found.values[owner] = top.mask[works], top.values[works]
        found.cost[owner] = top.cost[works]
        return Found(found.mask, found.values, found.cost, self.n_evaluations)


def lowest(value: Tensor, owner: Tensor, n: int, count: int) -> Tensor:
    """Positions of the ``count`` lowest values of each owner, the first of equal ones first.

    Args:
        value: Shape ``(w,)``.
        owner: Rising, shape ``(w,)``, 0 to n - 1.
        n: Number of owners.
        count: At most so many of each.

    Returns:
        Rising positions, int64.

    Example:
        >>> value, owner = torch.tensor([3.0, 1.0, 2.0, 9.0]), torch.tensor([0, 0, 0, 2])
        >>> lowest(value, owner, 3, 2).tolist()
        [1, 2, 3]
    """
    sizes = torch.bincount(owner, minlength=n)
    widest = int(sizes.max()) if len(owner) else 0
    place = torch.arange(len(owner)) - (sizes.cumsum(0) - sizes)[owner]
    table = torch.full((n, widest), torch.inf, dtype=torch.float64)
    row = torch.full((n, widest), -1)
    table[owner, place] = value.double()
    row[owner, place] = torch.arange(len(owner))
    # Absent entries are infinite like those that do not work, and must come after them.
    order = (
        table.nan_to_num(torch.inf, torch.inf, -torch.inf)
        .sort(dim=1, stable=True)
        .indices[:, :count]
    )
    chosen = row.gather(1, order).flatten()
    return chosen[chosen >= 0].sort().values
