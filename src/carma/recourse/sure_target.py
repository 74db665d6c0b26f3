"""What a plan has to reach to hold with a given probability, at each plan measured anew."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import PlanLimits
from carma.recourse.doubt import Doubt
from carma.recourse.target import Follow, People, Target

__all__ = ["SureTarget"]


class SureTarget(Target):
    """Tells how far past its aim and the margin that doubt asks of it a plan lands.

    Slopes are those of the log-odds alone: the margin may jump from draw to draw.

    Args:
        follow: See ``Target``.
        classifier: See ``Target``.
        limits: See ``Target``.
        margin: See ``Target``; the margin of each plan comes on top.
        doubt: Measures how sure plans are.
        quantile: Margin in spreads; see ``carma.recourse.doubt.quantile``.
    """

    def __init__(
        self,
        follow: Follow,
        classifier: Classifier,
        limits: PlanLimits,
        margin: float,
        doubt: Doubt,
        quantile: float,
    ) -> None:
        super().__init__(follow, classifier, limits, margin)
        self._doubt, self._quantile = doubt, quantile

    def needed(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        """Log-odds past the aim that each plan needs, shape ``(n,)``; 0 where nothing is in doubt.

        Args:
            people: n rows; a few at a time are followed under all other models.
            mask: Columns set, shape ``(n, d)``.
            values: Shape ``(n, d)``.
        """
        margins = [
            self._doubt.of(people[rows], mask[rows], values[rows]).margin(self._quantile)
            for rows in torch.split(torch.arange(len(people)), ROWS)
        ]
        margin = torch.cat(margins)
        # A row that barely passes in one batch fails in another; and plans are told in decimals.
        return torch.where(margin > 0, margin + SLACK, 0.0)

    def surplus(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        """Log-odds past the aim and the margin, ``(n,)``: at least 0 where a plan is sure enough.

        See ``Target.surplus``.
        """
        plain = super().surplus(people, mask, values)
        with torch.no_grad():
            needed = self.needed(people, mask, values.detach())
        return plain - needed


# Plans whose draws are followed at once.
ROWS = 1 << 11
# Further than the margin, in log-odds: what rounding can undo.
SLACK = 1e-5
