"""A constraint that a network learns to keep."""

from __future__ import annotations

from torch import Tensor

__all__ = ["Multiplier"]


class Multiplier:
    """Modified differential method of multipliers for one constraint violation = 0.

    The objective gains ``(lambda + damping * stopgrad(violation)) * violation``; after each
    step ``lambda <- max(0, lambda + rate * violation)``.

    Args:
        damping: Keeps the multiplier from swinging; the paper has 10.
        rate: Step of the multiplier; the paper has 1.

    References:
        Platt & Barr 1987, Constrained differential optimization.

    Example:
        >>> import torch
        >>> multiplier = Multiplier(damping=10.0)
        >>> _ = multiplier.term(torch.tensor(0.5))
        >>> multiplier.step()
        >>> multiplier.value
        0.5
    """

    def __init__(self, damping: float = 10.0, rate: float = 1.0) -> None:
        self.damping, self.rate = damping, rate
        self.value = 0.0
        self._violation = 0.0

    def term(self, violation: Tensor) -> Tensor:
        """What the constraint adds to the objective.

        Args:
            violation: Scalar, at least 0; 0 where the constraint holds.
        """
        held = violation.detach()
        self._violation = float(held)
        return (self.value + self.damping * held) * violation

    def step(self) -> None:
        """Move the multiplier by the violation that ``term`` saw last."""
        self.value = max(0.0, self.value + self.rate * self._violation)
