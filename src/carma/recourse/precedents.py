"""Finished plans of other people: what worked for one, often works for those who are like them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Precedents"]


@dataclass(frozen=True)
class Precedents:
    """Sure plans of m people, and what the networks see of these people.

    Args:
        seen: See ``Policy.describe``, shape ``(m, inputs)``, float32.
        mask: Columns acted on, shape ``(m, d)``, bool; not what passing time moves.
        values: What they are set to, same shape, model space.
        is_held: Columns of the mask that are set to what they were, same shape, bool.

    Example:
        >>> seen = torch.tensor([[0.0], [1.0], [5.0]])
        >>> nothing = torch.zeros(3, 2)
        >>> known = Precedents(seen, nothing > 0, nothing, nothing > 0)
        >>> known.near(torch.tensor([[4.0]]), 2).tolist()
        [[2, 1]]
    """

    seen: Tensor
    mask: Tensor
    values: Tensor
    is_held: Tensor

    def __len__(self) -> int:
        """Number of plans."""
        return len(self.seen)

    def __getitem__(self, rows: Tensor) -> Precedents:
        """Some of them, by position."""
        return Precedents(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    @classmethod
    def joined(cls, parts: list[Precedents]) -> Precedents:
        """Put batches one after the other."""
        names = [entry.name for entry in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Precedents:
        """Undo ``as_tensors``."""
        return cls(**tensors)

    def as_tensors(self) -> dict[str, Tensor]:
        """All fields by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def near(self, seen: Tensor, count: int) -> Tensor:
        """Plans of the people who are most alike, the most alike first.

        Args:
            seen: Of n people, shape ``(n, inputs)``.
            count: Plans of each; fewer where not so many are known.

        Returns:
            Positions, shape ``(n, count)``, int64.
        """
        count, known = min(count, len(self)), self.seen.double()
        places = torch.arange(len(self))
        found = []
        for part in torch.split(seen.double(), AT_ONCE):
            # Its own square is the same for all that one person is compared with.
            far = known.square().sum(dim=1) - 2 * part @ known.T
            # Who is as far away but for rounding, comes in order: whoever else is in the batch.
            rank = (far / GRAIN).round().long() * len(self) + places
            found.append(rank.topk(count, dim=1, largest=False).indices)
        return torch.cat(found)


# People who are compared at once; differences of squared distances that go unnoticed.
AT_ONCE, GRAIN = 1024, 1e-6
