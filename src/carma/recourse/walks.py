"""Search by many walks: every set of features from every start, then the promising ones on."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.costs import Cost
from carma.recourse.candidates import Candidates, lowest
from carma.recourse.descent import Descent
from carma.recourse.target import People, Target

__all__ = ["WalkSearch"]


class WalkSearch:
    """Explores all walks for a few steps and refines the best of them.

    Args:
        target: What to reach, differentiable.
        cost: What plans cost.
        shares: Starts as shares of the box, shape ``(s, d)``; the first one is replaced by the
            person as they are.
        explore_steps: Steps of every walk.
        keep: Walks of each person that go on.
        refine_steps: Further steps of these.
    """

    def __init__(
        self,
        target: Target,
        cost: Cost,
        shares: Tensor,
        explore_steps: int,
        keep: int,
        refine_steps: int,
    ) -> None:
        self._target, self._cost, self._shares = target, cost, shares
        self._explore_steps, self._keep, self._refine_steps = explore_steps, keep, refine_steps

    def candidates(self, people: People, masks: Tensor) -> Candidates:
        """Walk.

        Args:
            people: n of them.
            masks: Sets of features of each, shape ``(n, m, d)``, bool; empty ones are skipped.

        Returns:
            The plans of the walks that went on to the end.
        """
        box = people.limits
        points = box.lower[:, None] + self._shares * (box.upper - box.lower)[:, None]
        points[:, 0] = people.x
        return self.from_points(people, masks, points)

    def from_points(self, people: People, masks: Tensor, points: Tensor) -> Candidates:
        """Walk from given points.

        Args:
            people: n of them.
            masks: See ``candidates``.
            points: Starts of each person, shape ``(n, s, d)``.

        Returns:
            See ``candidates``.
        """
        n, s = len(people), points.shape[1]
        person, subset = masks.any(dim=2).nonzero(as_tuple=True)
        owner = person.repeat_interleave(s)
        walkers, start = people[owner], points[person].flatten(0, 1)
        mask = masks[person, subset].repeat_interleave(s, 0)
        walks = Descent(self._target, self._cost, walkers, mask, start)
        for _ in range(self._explore_steps):
            walks.step()
        effort = (1 + self._explore_steps) * torch.bincount(owner, minlength=n)
        # The better quarter of each set's walks first, so that one set does not crowd out others.
        group = torch.arange(len(person)).repeat_interleave(s)
        chosen = lowest(walks.promise, group, len(person), -(-s // PER_SET))
        chosen = chosen[lowest(walks.promise[chosen], owner[chosen], n, self._keep)]
        walks.keep(chosen)
        owner = owner[chosen]
        for _ in range(self._refine_steps):
            walks.step()
        steps = self._refine_steps + walks.settle()
        effort = effort.index_add(0, owner, steps)
        values = torch.where(
            torch.isfinite(walks.best_cost)[:, None], walks.best_values, walks.values
        )
        return Candidates(people, owner, walks.mask, values, walks.best_cost, effort)


PER_SET = 4
