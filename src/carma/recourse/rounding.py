"""Plans moved to steps and levels, one coordinate after the other, with few trials."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.recourse.target import People, Target

__all__ = ["Rounding"]


class Rounding:
    """Rounds plans outward, and takes back what was too much.

    All values go to the next step or level away from the person, a little further where that is
    not enough. Then, in a few rounds, the coordinates in which a step back saves most are tried
    one by one, and the cheapest plan that works is gone on with. Numbers are drawn back by a
    share that becomes smaller, in the end by single steps if they have any.

    Args:
        target: What to reach.
        cost: What plans cost.
        limits: Steps and levels.

    References:
        Neumaier & Shcherbina 2004, Mathematical Programming 99, for roundings of relaxed optima
        that are made safe first.
    """

    def __init__(self, target: Target, cost: Cost, limits: PlanLimits) -> None:
        self._target, self._cost, self._limits = target, cost, limits
        self._columns = limits.encoding.actionable

    def rounded(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        """Values on steps and levels.

        Args:
            people: w rows, with what they aim at.
            mask: Columns set, shape ``(w, d)``, bool.
            values: Same shape.

        Returns:
            The same shape; where no rounding works, that which comes nearest.
        """
        best, surplus = self._outward(people, mask, values)
        rows = (surplus >= 0).nonzero().squeeze(1)
        for share in SHARES:
            if not len(rows):
                break
            some, held, now = people[rows], mask[rows], best[rows]
            trials, saved = self.back(some, held, now, share)
            k = trials.shape[1]
            many = some.repeated(k)
            flat = trials.flatten(0, 1)
            got = self._target.surplus(many, held.repeat_interleave(k, 0), flat).view(-1, k)
            gain = torch.where((got >= 0) & (saved > 0), saved, 0.0)
            most, place = gain.max(dim=1)
            better = most > 0
            best[rows[better]] = trials[better.nonzero().squeeze(1), place[better]]
            if not share:
                rows = rows[better]
        return best

    def _outward(self, people: People, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        best = self._said(people, mask, values)
        surplus = self._target.surplus(people, mask, best)
        rows = (surplus < 0).nonzero().squeeze(1)
        if len(rows):
            k, some = len(LENGTHS), people[rows].repeated(len(LENGTHS))
            held = mask[rows].repeat_interleave(k, 0)
            length = torch.tensor(LENGTHS, dtype=values.dtype).repeat(len(rows))[:, None]
            start = values[rows].repeat_interleave(k, 0)
            trials = self._said(some, held, some.x + length * (start - some.x))
            got = self._target.surplus(some, held, trials).view(-1, k)
            works = got >= 0
            place = torch.where(works.any(dim=1), works.int().argmax(dim=1), got.argmax(dim=1))
            each = torch.arange(len(rows))
            best[rows] = trials.view(len(rows), k, -1)[each, place]
            surplus[rows] = got[each, place]
        return best, surplus

    def back(
        self, people: People, mask: Tensor, values: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """Plans with one coordinate taken back, those that save most; and what they save.

        Args:
            people: w rows.
            mask: Columns set, shape ``(w, d)``, bool.
            values: On steps and levels, same shape.
            share: By which a number without steps is drawn back.

        Returns:
            Values, shape ``(w, k, d)``, and what each saves, ``(w, k)``, 0 where nothing.
        """
        columns, x = self._columns, people.x
        back = torch.where(mask, self._limits.inward(x, values, share), x)
        flip = torch.zeros(len(columns), x.shape[1], dtype=torch.bool)
        flip[torch.arange(len(columns)), columns] = True
        trials = torch.where(flip, back[:, None], values[:, None])
        weights = None if people.weights is None else people.weights[:, None]
        wide, held = x[:, None].expand_as(trials), mask[:, None].expand_as(trials)
        price = self._cost(wide, held, trials, weights)
        saved = self._cost(x, mask, values, people.weights)[:, None] - price
        saved = torch.where(mask[:, columns], saved, 0.0)
        most, place = saved.topk(min(TRIED, len(columns)), dim=1)
        rows = torch.arange(len(x))[:, None]
        return trials[rows, place], most

    def _said(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        said = self._limits.project(people.x, values, people.limits)
        return torch.where(mask, said, people.x)


# Lengths of plans that rounding outward leaves short; shares by which numbers are drawn back in
# each round, and the coordinates tried in it.
LENGTHS = (1.05, 1.15, 1.35, 1.7, 2.5)
SHARES, TRIED = (0.4, 0.15, 0.0, 0.0), 4
