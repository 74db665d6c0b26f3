"""What a search brought its people, by which a quicker way is judged."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Findings"]


@dataclass(frozen=True)
class Findings:
    """Plans that were found for n people.

    Args:
        cost: Infinite without one, shape ``(n,)``, float64.
        is_sure: Whether it is sure to hold, ``(n,)``, bool.
        is_last: Whether nothing but the search, the last resort, found it, ``(n,)``, bool.
    """

    cost: Tensor
    is_sure: Tensor
    is_last: Tensor

    @classmethod
    def joined(cls, parts: list[Findings]) -> Findings:
        """Put batches one after the other."""
        names = [entry.name for entry in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
