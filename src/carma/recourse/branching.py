"""One step or level less, made up for by other features: for plans that rounding made dear."""

from __future__ import annotations

from dataclasses import replace

import torch

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.recourse.candidates import Candidates, Found
from carma.recourse.descent import Descent
from carma.recourse.neighbours import RAY
from carma.recourse.rounding import Rounding
from carma.recourse.target import People, Target

__all__ = ["Branching"]


class Branching:
    """Pins one feature a step or level nearer to the person, and walks on with the others.

    Where the optimum between two levels is rounded up, a plan may cost several times the one that
    stays below and does a little more elsewhere. Of each plan the steps back that save most are
    tried, once with the features that the plan sets and once with all that can move.

    Args:
        target: What to reach, with slopes.
        cost: What plans cost.
        limits: Steps and levels.
        rounding: Brings walks to them.

    References:
        Land & Doig 1960, Econometrica 28(3), for branches on both sides of a fraction.
    """

    def __init__(self, target: Target, cost: Cost, limits: PlanLimits, rounding: Rounding) -> None:
        self._target, self._cost = target, cost
        self._limits, self._rounding = limits, rounding
        self._is_coarse = limits.is_coarse

    def improved(self, people: People, found: Found) -> Found:
        """The same plans or cheaper ones.

        Args:
            people: n of them, with what they aim at.
            found: Their plans, on steps and levels; who has none gains none.
        """
        rows = torch.isfinite(found.cost).nonzero().squeeze(1)
        for _ in range(ROUNDS):
            if not len(rows):
                break
            before = found.cost[rows]
            better = found[rows].or_better(self._branches(people[rows], found[rows]))
            found.put(rows, better)
            rows = rows[better.cost < before]
        return found

    def _branches(self, people: People, found: Found) -> Found:
        mask, values = found.mask, found.values
        person, start, saved = self._rounding.back(people, mask, values, 0.0)
        is_much = saved > WORTH * found.cost[person]
        person, start = person[is_much], start[is_much]
        pinned = start != values[person]
        # What is rounded by much may leave too much to the others.
        coarse = mask & self._is_coarse
        rows = (coarse.any(dim=1) & (mask & ~coarse).any(dim=1)).nonzero().squeeze(1)
        person, start = torch.cat([person, rows]), torch.cat([start, values[rows]])
        pinned = torch.cat([pinned, coarse[rows]])
        if not len(person):
            return Found.none(people)
        some, held = people[person], mask[person]
        box = some.limits
        lower, upper = (torch.where(pinned, start, t) for t in (box.lower, box.upper))
        held_there = replace(some, limits=replace(box, lower=lower, upper=upper))
        # What is pinned stays set; whatever else can move may make up for it.
        every = box.widest | held
        wider = ((every & ~held).any(dim=1) & box.allows(every)).nonzero().squeeze(1)
        both = torch.cat([torch.arange(len(person)), wider])
        masks = torch.cat([held, every[wider]])
        walkers = held_there[both]
        walks = Descent(self._target, self._cost, walkers, masks, start[both])
        for _ in range(STEPS):
            walks.step()
        walks.settle(RAY)
        works = torch.isfinite(walks.best_cost)[:, None]
        reached = torch.where(works, walks.best_values, walks.values)
        rounded = self._rounding.rounded(walkers, masks, reached)
        # To set a feature to what it is, is left out where that changes nothing.
        idle = masks & (rounded == walkers.x) & ~held[both]
        masks = masks & ~idle
        surplus = self._target.surplus(walkers, masks, rounded)
        price = self._cost(walkers.x, masks, rounded, walkers.weights)
        is_allowed = box[both].allows(masks) & masks.any(dim=1)
        price = torch.where((surplus >= 0) & is_allowed, price, torch.inf)
        owner = person[both]
        order = owner.argsort(stable=True)
        effort = torch.zeros(len(people), dtype=torch.long)
        parts = (owner[order], masks[order], rounded[order], price[order], effort)
        return Candidates(people, *parts).best()


# Rounds of branches, and steps of each walk; least share of a plan's cost that a step back has
# to save.
ROUNDS, STEPS = 1, 2
WORTH = 0.02
