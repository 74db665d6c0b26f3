"""Search for plans that hold with a given probability."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.recourse.candidates import Candidates, Found, lowest
from carma.recourse.pattern import PatternSearch
from carma.recourse.subsets import set_codes
from carma.recourse.sure_target import SureTarget
from carma.recourse.target import People
from carma.recourse.walks import WalkSearch

__all__ = ["SureSearch"]


class SureSearch:
    """Finds plans that are sure enough: from plans that only work, by slopes, and by trials.

    Plans that work are made longer until they are sure; every set of features is scanned from
    starts all over the box; and where there are slopes, walks go from there as well. The best of
    all these are improved by trials, each of which is measured with the margin that it needs.

    Args:
        target: What to reach.
        cost: What plans cost.
        limits: Moves values to steps and levels.
        shares: Starts as shares of the box, shape ``(s, d)``.
        has_slope: Whether slopes lead anywhere.
    """

    def __init__(
        self, target: SureTarget, cost: Cost, limits: PlanLimits, shares: Tensor, *, has_slope: bool
    ) -> None:
        self._target, self._cost, self._limits = target, cost, limits
        self._has_slope = has_slope
        self._walks = WalkSearch(target, cost, shares, EXPLORE_STEPS, KEEP, REFINE_STEPS)
        parts = (target, cost, limits, shares, SCANNED)
        self._scan = PatternSearch(*parts, 0)
        self._trials = PatternSearch(*parts, TRIALS, FAR_REACH)
        self._polish = PatternSearch(*parts, POLISH, NEAR_REACH)

    def best(self, people: People, masks: Tensor, plans: list[Found]) -> Found:
        """The cheapest plan of each person that is sure enough.

        Args:
            people: n of them.
            masks: Sets of features of each, shape ``(n, m, d)``, bool; empty ones are skipped.
            plans: Of these people, to start from, sure or not.
        """
        pool = [self._lengthened(people, plan) for plan in plans]
        pool.append(self._scan.candidates(people, masks))
        if self._has_slope:
            walks = self._walks.candidates(people, masks)
            if self._limits.has_grid:
                # Walks end between steps and levels, where no plan may.
                walks = self._trials.improved(walks.cheapest(ON_GRID))
            pool.append(walks)
        every = self._of_each_set(_distinct(people, pool))
        every = self._trials.improved(every.cheapest(KEEP))
        return self._polish.improved(every.cheapest(POLISHED)).best()

    def _lengthened(self, people: People, plan: Found) -> Candidates:
        """The shortest plans on the ray through each given one that are sure, else the surest."""
        k = len(LENGTHS)
        owner = plan.mask.any(dim=1).nonzero().squeeze(1)
        some, mask = people[owner], plan.mask[owner]
        many, masks = some.repeated(k), mask.repeat_interleave(k, 0)
        length = torch.tensor(LENGTHS, dtype=some.x.dtype).repeat(len(owner))[:, None]
        further = many.x + length * (plan.values[owner].repeat_interleave(k, 0) - many.x)
        trial = self._limits.project(many.x, further, many.limits)
        trial = torch.where(masks, trial, many.x)
        surplus = self._target.surplus(many, masks, trial)
        price = self._cost(many.x, masks, trial, many.weights)
        rank = torch.where(surplus >= 0, price, FAR - surplus.clamp(min=-FAR))
        place = rank.view(-1, k).argmin(dim=1) + k * torch.arange(len(owner))
        cost = torch.where(surplus >= 0, price, torch.inf)[place]
        effort = torch.zeros(len(people), dtype=torch.long).index_add(
            0, owner, torch.full_like(owner, k)
        )
        return Candidates(people, owner, mask, trial[place], cost, effort)

    def _of_each_set(self, plans: Candidates) -> Candidates:
        """Only the cheapest few of each set, so that one set does not crowd out others."""
        kinds = torch.stack([plans.owner, set_codes(plans.mask)], dim=1)
        groups, group = torch.unique(kinds, dim=0, return_inverse=True)
        order = group.argsort(stable=True)
        chosen = order[lowest(plans.cost[order], group[order], len(groups), PER_SET)]
        return plans.of(chosen[plans.owner[chosen].argsort(stable=True)])


def _distinct(people: People, parts: list[Candidates]) -> Candidates:
    """All plans, each once, those of one person next to each other."""
    owner, mask, values, cost = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("owner", "mask", "values", "cost")
    )
    every = torch.cat([owner[:, None], mask, values], dim=1)
    kinds, kind = torch.unique(every, dim=0, return_inverse=True)
    first = torch.full((len(kinds),), len(owner)).scatter_reduce(
        0, kind, torch.arange(len(owner)), "amin"
    )
    # In the order in which they came: what was found first counts among equals.
    first = first.sort().values
    first = first[owner[first].argsort(stable=True)]
    effort = torch.stack([part.n_evaluations for part in parts]).sum(dim=0)
    return Candidates(people, owner[first], mask[first], values[first], cost[first], effort)


# Steps of every walk, and further ones of those that go on.
EXPLORE_STEPS, REFINE_STEPS = 5, 15
# Plans that a scan of the box leaves for each person.
SCANNED = 24
# Plans of each person that are improved, of one set among them, and those that are polished.
KEEP, PER_SET, POLISHED = 6, 3, 2
# Walks of each person that are moved to steps and levels.
ON_GRID = 2
# Rounds of trials of the former and the latter, and shares of the box that these first reach.
TRIALS, POLISH = 12, 40
FAR_REACH, NEAR_REACH = 0.1, 0.02
# Lengths at which plans that are not sure are tried.
LENGTHS = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)
# Ranks plans that are not sure behind all that are.
FAR = 1e9
