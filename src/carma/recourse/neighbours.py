"""Better sets of features by adding or dropping some: for when there are too many to try all."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.costs import Cost
from carma.recourse.candidates import Found
from carma.recourse.descent import Descent
from carma.recourse.target import Follow, People, Target

__all__ = ["RAY", "Neighbours"]

# How much longer plans may get that stopped before what they aim at.
RAY = (1e-5, 3e-4, 3e-3, 2e-2, 0.1)


class Neighbours:
    """Local search over sets of features, for all people at once.

    A round tries every set that differs from a person's in one feature, with one step from what
    follows from their plan, then those that differ in the 2, 4 and 8 best of these, with a few
    steps more; the cheapest of all is taken.

    Args:
        follow: What is believed to follow.
        target: What to reach.
        cost: What plans cost.
        columns: The K actionable columns.
        n_columns: d.

    References:
        Hoos & Stutzle 2004, Stochastic Local Search, for neighbourhoods of growing size.
    """

    def __init__(
        self, follow: Follow, target: Target, cost: Cost, columns: Tensor, n_columns: int
    ) -> None:
        self._follow, self._target, self._cost = follow, target, cost
        self._flips = torch.zeros(len(columns), n_columns, dtype=torch.bool)
        self._flips[torch.arange(len(columns)), columns] = True

    def improved(self, people: People, found: Found, rounds: int) -> list[Found]:
        """Improve plans.

        Args:
            people: n of them.
            found: Their plans; who has none may gain one.
            rounds: At most so many.

        Returns:
            What was found after each round, the last one the best.
        """
        steps = []
        for _ in range(rounds):
            better = self._round(people, found)
            if not bool((better.cost < found.cost).any()):
                break
            found = found.or_better(better)
            steps.append(found)
        return steps

    def _round(self, people: People, found: Found) -> Found:
        n, k = len(people), len(self._flips)
        reached = self._follow(people.x, people.do(found.mask, found.values), people.u)
        flipped = found.mask[:, None] ^ self._flips
        single, cost, values = self._walked(people, flipped, reached, ONE)
        gain = torch.where(torch.isfinite(cost), found.cost[:, None] - cost, -torch.inf)
        rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        together = [
            found.mask ^ (((rank < most) & (gain > 0))[..., None] & self._flips).any(dim=1)
            for most in TOGETHER
        ]
        several, more, further = self._walked(people, torch.stack(together, dim=1), reached, A_FEW)
        masks = torch.cat([single, several], dim=1)
        cost = torch.cat([cost, more], dim=1)
        values = torch.cat([values, further], dim=1)
        best, row = cost.argmin(dim=1), torch.arange(n)
        effort = k * (1 + ONE) + len(TOGETHER) * (1 + A_FEW) + 1
        tried = torch.full((n,), effort)
        return Found(masks[row, best], values[row, best], cost[row, best], tried)

    def _walked(
        self, people: People, masks: Tensor, start: Tensor, steps: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, m, d = masks.shape
        masks = masks & people.limits.allows(masks)[..., None]
        many, flat = people.repeated(m), masks.flatten(0, 1)
        walks = Descent(self._target, self._cost, many, flat, start.repeat_interleave(m, 0))
        for _ in range(steps):
            walks.step()
        walks.settle(RAY)
        cost = torch.where(flat.any(dim=1), walks.best_cost, torch.inf)
        return masks, cost.view(n, m), walks.best_values.view(n, m, d)


# Steps from each neighbour, features flipped together, and steps from these sets.
ONE = 1
TOGETHER = (2, 4, 8)
A_FEW = 3
