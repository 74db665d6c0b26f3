"""People after other moves between levels, of whom one person follows the cheapest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["Rivals"]


@dataclass(frozen=True)
class Rivals:
    """Which rows are one person after other moves, and what a plan on top of these may cost.

    Args:
        owner: The person of each row, rising, shape ``(n,)``, int64.
        spent: Cost of the moves of each row, shape ``(n,)``.
        least: Cost of the best plan that each person has so far, infinite without one, shape
            ``(count,)``: what is dearer is of no use.

    Example:
        >>> owner, cost = torch.tensor([0, 0, 1]), torch.tensor([1.0, 2.0, 3.0])
        >>> rivals = Rivals(owner, cost, torch.tensor([9.0, 3.5]))
        >>> rivals.worth(torch.tensor([5.0, 2.0, 1.0])).tolist()
        [4.0, 3.5]
    """

    owner: Tensor
    spent: Tensor
    least: Tensor

    @classmethod
    def none(cls, n: int, cost: Tensor) -> Self:
        """Every row is a person of their own who has no plan yet.

        Args:
            n: Rows.
            cost: Whatever has the type of costs.
        """
        return cls(torch.arange(n), cost.new_zeros(n), cost.new_full((n,), torch.inf))

    def __getitem__(self, rows: Tensor) -> Rivals:
        """Some of the rows, by position; the people stay the same."""
        return Rivals(self.owner[rows], self.spent[rows], self.least)

    @property
    def count(self) -> int:
        """Number of people."""
        return len(self.least)

    def worth(self, cost: Tensor) -> Tensor:
        """The best that each person has, with plans of some cost on top of the moves.

        Args:
            cost: Shape ``(n,)``, infinite without a plan.
        """
        return self.least.scatter_reduce(0, self.owner, self.spent + cost, "amin")
