"""The hinge that training drives to nought: how far a plan falls short of its aim."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from carma.decision import Decision

__all__ = ["Hinge"]


class Hinge:
    """Hinge of p - (1 - p) at a margin.

    p is the probability, shifted so that the threshold becomes a half, and flattened: its log-odds
    are divided by the temperature, so that people far away keep a slope. Of a band, the nearest
    edge counts.

    Args:
        decision: Whom the classifier accepts.
        margin: On the scale p - (1 - p), 0 to below 1.
        temperature: Above 0.

    References:
        Majumdar & Valera 2024, CARMA, equation 7, with temperature 1 and threshold 0.5.

    Example:
        >>> hinge = Hinge(Decision(threshold=0.5), margin=0.2, temperature=1.0)
        >>> hinge.violation(torch.tensor([-10.0, 0.0, 10.0])).mul(100).round().tolist()
        [120.0, 20.0, 0.0]
        >>> round(hinge.aim, 6)
        0.1
    """

    def __init__(self, decision: Decision, margin: float, temperature: float) -> None:
        self.temperature = temperature
        self._decision, self._margin = decision, margin

    @property
    def aim(self) -> float:
        """Where the hinge ends, as a probability past the threshold."""
        low, _ = self._decision.edges()
        ahead = low + 2 * self.temperature * math.atanh(self._margin)
        return 1 / (1 + math.exp(-ahead)) - self._decision.low

    def violation(self, logit: Tensor) -> Tensor:
        """How far plans with these log-odds fall short of the margin, same shape, at least 0."""
        ahead = self._decision.ahead(logit) / self.temperature
        return (self._margin - torch.tanh(ahead / 2)).clamp(min=0)

    @staticmethod
    def shortfall(decision: Decision, logit: Tensor) -> float:
        """Mean distance of rejected people from being accepted, in log-odds, above 0."""
        return max(-float(decision.ahead(logit).mean()), 1e-6)
