"""What plans brought: what a forecast of others is learned from."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Outcomes"]


@dataclass(frozen=True)
class Outcomes:
    """What came of m plans.

    Args:
        seen: What the forecast sees of them, shape ``(m, inputs)``, float32.
        bare: Log-odds past the decision if nothing followed, shape ``(m,)``.
        ahead: Log-odds past the decision, and past the margin on top, shape ``(m, 2)``.
    """

    seen: Tensor
    bare: Tensor
    ahead: Tensor

    def __len__(self) -> int:
        """Number of plans."""
        return len(self.bare)

    @classmethod
    def joined(cls, parts: list[Outcomes]) -> Outcomes:
        """Put batches one after the other."""
        names = [entry.name for entry in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
