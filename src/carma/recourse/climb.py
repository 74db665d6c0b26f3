"""Ways to the farthest place past the decision, one column at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.recourse.target import People, Target

__all__ = ["Climb"]


class Climb:
    """Moves one column after the other to where it leads farthest, whatever that costs.

    For people who hardly get past the decision at all: their plans end where neither slopes nor
    the corners of the box point to. Each column is tried at a few places of the box, then nearer
    and nearer to where it stands, and left to what follows from the others. Whoever works stops.

    Args:
        target: What to reach.
        limits: Steps and levels.

    References:
        Kolda, Lewis & Torczon 2003, Optimization by direct search, SIAM Review 45(3), for compass
        search, of which this is the kind that takes coordinates in turn.
    """

    def __init__(self, target: Target, limits: PlanLimits) -> None:
        self._target, self._limits = target, limits

    def farthest(
        self, people: People, mask: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where these climbs end.

        Args:
            people: n rows.
            mask: Columns set at first, shape ``(n, d)``, bool; none where rules forbid that.
            values: Where they are set, same shape.

        Returns:
            Mask and values, shape ``(n, d)``, and surplus, ``(n,)``.
        """
        mask = mask & people.limits.allows(mask)[:, None]
        values = torch.where(mask, values, people.x)
        surplus = self._target.surplus(people, mask, values)
        columns = people.limits.can_move.any(dim=0).nonzero().squeeze(1).tolist()
        for is_anywhere, shares in PLACES:
            for column in columns:
                is_open = people.limits.can_move[:, column] & (surplus < 0)
                rows = is_open.nonzero().squeeze(1)
                if len(rows):
                    own = people[rows], mask[rows], values[rows], surplus[rows]
                    moved = self._moved(*own, column, is_anywhere, shares)
                    mask[rows], values[rows], surplus[rows] = moved
        return mask, values, surplus

    def _moved(
        self,
        people: People,
        mask: Tensor,
        values: Tensor,
        surplus: Tensor,
        column: int,
        is_anywhere: bool,
        shares: tuple[float, ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same with one column where it leads farthest."""
        box, own = people.limits, values[:, column, None]
        low, high = box.lower[:, column, None], box.upper[:, column, None]
        start = low if is_anywhere else own
        tried = start + (high - low) * torch.tensor(shares, dtype=values.dtype)
        n, k = len(values), tried.shape[1] + 1
        many = people.repeated(k)
        masks, trials = mask.repeat_interleave(k, 0), values.repeat_interleave(k, 0)
        trials[:, column] = torch.cat([tried, own], dim=1).flatten()
        # The last one leaves the column to what follows from the others.
        is_set = (torch.arange(k) < k - 1).repeat(n)
        masks[:, column] = is_set
        said = self._limits.project(many.x, trials, many.limits)
        trials = torch.where(masks, said, many.x)
        got = self._target.surplus(many, masks, trials)
        got = torch.where(many.limits.allows(masks), got, -torch.inf).view(n, k)
        most, place = got.max(dim=1)
        at = place + k * torch.arange(n)
        better = most > surplus
        mask = torch.where(better[:, None], masks[at], mask)
        values = torch.where(better[:, None], trials[at], values)
        return mask, values, torch.where(better, most, surplus)


# Where columns are tried, in shares of the box: from its lower end on, then around where they are.
PLACES = (
    (True, (0.0, 0.12, 0.35, 0.65, 1.0)),
    (False, (-0.1, 0.1)),
    (False, (-0.03, 0.03)),
    (False, (-0.01, 0.01)),
)
