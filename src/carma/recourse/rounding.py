"""Plans moved to steps and levels, one coordinate after the other, with few trials."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.recourse.candidates import lowest
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
        shares: By which numbers are drawn back in each round.

    References:
        Neumaier & Shcherbina 2004, Mathematical Programming 99, for roundings of relaxed optima
        that are made safe first.
    """

    def __init__(
        self,
        target: Target,
        cost: Cost,
        limits: PlanLimits,
        shares: tuple[float, ...] = (0.4, 0.15, 0.0, 0.0),
    ) -> None:
        self._target, self._cost, self._limits = target, cost, limits
        self._shares = shares
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
        for share in self._shares:
            if not len(rows):
                break
            some, held, now = people[rows], mask[rows], best[rows]
            owner, trials, saved = self.back(some, held, now, share)
            works = self._target.surplus(some[owner], held[owner], trials) >= 0
            price = torch.where(works, -saved, torch.inf)
            top = lowest(price, owner, len(rows), 1)
            top = top[works[top]]
            best[rows[owner[top]]] = trials[top]
            if not share:
                rows = rows[owner[top]]
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
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Plans with one coordinate taken back, of each those that save most.

        Args:
            people: w rows.
            mask: Columns set, shape ``(w, d)``, bool.
            values: On steps and levels, same shape.
            share: By which a number without steps is drawn back.

        Returns:
            Whose each is, rising, shape ``(t,)``, values, ``(t, d)``, and what it saves, above 0,
            ``(t,)``.
        """
        columns, x, weights = self._columns, people.x, people.weights
        back = torch.where(mask, self._limits.inward(x, values, share), x)
        owner, place = (mask & (back != values))[:, columns].nonzero(as_tuple=True)
        taken = columns[place][:, None]
        trials = values[owner].scatter(1, taken, back[owner].gather(1, taken))
        own = None if weights is None else weights[owner]
        price = self._cost(x[owner], mask[owner], trials, own)
        saved = self._cost(x, mask, values, weights)[owner] - price
        top = lowest(-saved, owner, len(x), TRIED)
        top = top[saved[top] > 0]
        return owner[top], trials[top], saved[top]

    def _said(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        said = self._limits.project(people.x, values, people.limits)
        return torch.where(mask, said, people.x)


# Lengths of plans that rounding outward leaves short; coordinates that are tried in each round.
LENGTHS = (1.05, 1.15, 1.35, 1.7, 2.5)
TRIED = 4
