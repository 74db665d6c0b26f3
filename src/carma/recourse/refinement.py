"""From drafts to plans: to the optimum of each set, past the margin it needs, as it is told."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.recourse.candidates import Candidates, Found
from carma.recourse.descent import Descent
from carma.recourse.doubt import Doubt, Uncertainty
from carma.recourse.neighbours import RAY, Neighbours
from carma.recourse.pattern import PatternSearch
from carma.recourse.policy import Drafts
from carma.recourse.target import People, Target

__all__ = ["Refined", "Refinement"]


@dataclass(frozen=True)
class Refined:
    """Plans of n people, k for each, those of one person next to each other.

    Args:
        mask: Shape ``(n * k, d)``, bool.
        values: Shape ``(n * k, d)``.
        cost: Shape ``(n * k,)``, infinite where the plan does not work.
        uncertainty: Of the log-odds after each plan.
        is_sure: Whether the plan goes as far past the threshold as that asks for, ``(n * k,)``.
    """

    mask: Tensor
    values: Tensor
    cost: Tensor
    uncertainty: Uncertainty
    is_sure: Tensor

    def __getitem__(self, rows: Tensor) -> Refined:
        """Some of the plans."""
        return Refined(*(getattr(self, entry.name)[rows] for entry in fields(self)))


class Refinement:
    """Refines drafts by a few steps and measures how sure the result is.

    Args:
        target: What to reach without a margin.
        cost: What plans cost.
        limits: Steps and levels.
        doubt: Measures how sure plans are.
        quantile: Margin in spreads.
        steps: Sequential quadratic steps from each draft.
        patterns: Repairs plans that steps and levels made fail.
        neighbours: Where there are too many sets of features to propose the right one; else
            ``None``.
    """

    def __init__(
        self,
        target: Target,
        cost: Cost,
        limits: PlanLimits,
        doubt: Doubt,
        quantile: float,
        steps: int,
        patterns: PatternSearch,
        neighbours: Neighbours | None,
    ) -> None:
        self._target, self._cost, self._limits = target, cost, limits
        self._doubt, self._quantile = doubt, quantile
        self._steps, self._patterns, self._neighbours = steps, patterns, neighbours

    def best(self, people: People, drafts: Drafts, n_plans: int) -> Refined:
        """The cheapest plan of each person, or all of them where several are wanted.

        Args:
            people: n of them.
            drafts: m for each.
            n_plans: Plans wanted of each person.
        """
        n, m, _ = drafts.masks.shape
        walkers = people.repeated(m)
        mask, start = drafts.masks.flatten(0, 1), drafts.values.flatten(0, 1)
        margin, values = drafts.margin.flatten(), start
        if not self._quantile:
            margin = torch.zeros_like(margin)
        # Half of the steps with the margin that was foreseen, the rest with the one measured.
        first = self._steps // 2 if self._quantile else 0
        if first:
            values, _ = self._to_optimum(walkers, mask, values, margin, first)
            margin = self._doubt.of(walkers, mask, values).margin(self._quantile)
        values, cost = self._to_optimum(walkers, mask, values, margin, self._steps - first)
        plans = self.secured(walkers, mask, values, cost)
        if n_plans > 1:
            return plans
        # A plan that is not sure enough comes after all that are.
        worth = torch.where(plans.is_sure, plans.cost, UNSURE + plans.cost).view(n, m)
        plans = plans[worth.argmin(dim=1) + m * torch.arange(n)]
        if self._neighbours is None or not self._steps:
            return plans
        return self.secured(people, *self._searched(people, plans))

    def _searched(self, people: People, plans: Refined) -> tuple[Tensor, Tensor, Tensor]:
        """The same, or better plans of similar sets, with the same margin."""
        assert self._neighbours is not None  # noqa: S101
        people = replace(people, aim=self._aim(plans.uncertainty.margin(self._quantile)))
        none_yet = torch.zeros(len(people), dtype=torch.long)
        found = Found(plans.mask, plans.values, plans.cost, none_yet)
        better = self._neighbours.improved(people, found, SEARCHES)
        best = better[-1] if better else found
        return best.mask, best.values, best.cost

    def _aim(self, margin: Tensor) -> Tensor:
        return (1 + SAFETY) * margin.clamp(max=WIDEST) + SLACK

    def secured(self, people: People, mask: Tensor, values: Tensor, cost: Tensor) -> Refined:
        """Move plans that are not sure enough further, where that can be.

        Args:
            people: One row a plan.
            mask: Shape ``(n, d)``.
            values: Shape ``(n, d)``.
            cost: Infinite where the plan does not work; such plans are left alone.
        """
        uncertainty = self._doubt.of(people, mask, values)
        is_sure = torch.isfinite(cost)
        if not self._quantile:
            return Refined(mask, values, cost, uncertainty, is_sure)
        margin = uncertainty.margin(self._quantile)
        values, cost = values.clone(), cost.clone()
        bare = replace(people, aim=None)
        rows = is_sure.nonzero().squeeze(1)
        for turn in range(ROUNDS + 1):
            ahead = self._target.surplus(bare[rows], mask[rows], values[rows])
            is_short = ahead < margin[rows]
            is_sure[rows] = ~is_short
            rows = rows[is_short]
            if not len(rows) or turn == ROUNDS:
                break
            some, chosen = people[rows], mask[rows]
            moved, price = self._to_optimum(some, chosen, values[rows], margin[rows], STEPS)
            better = torch.isfinite(price)
            rows, moved, chosen = rows[better], moved[better], chosen[better]
            values[rows], cost[rows] = moved, price[better]
            uncertainty.put(rows, self._doubt.of(people[rows], chosen, moved))
            margin[rows] = uncertainty[rows].margin(self._quantile)
        return Refined(mask, values, cost, uncertainty, is_sure)

    def _to_optimum(
        self, people: People, mask: Tensor, start: Tensor, margin: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Values and cost of the best plans with a margin."""
        people = replace(people, aim=self._aim(margin))
        walks = Descent(self._target, self._cost, people, mask, start)
        for _ in range(steps):
            walks.step()
        if steps:
            walks.settle(RAY)
        works = torch.isfinite(walks.best_cost)
        values = torch.where(works[:, None], walks.best_values, walks.values)
        if not self._limits.has_grid:
            return values, walks.best_cost
        each = torch.arange(len(people))
        plans = Candidates(people, each, mask, values, walks.best_cost, torch.zeros_like(each))
        plans = self._patterns.improved(plans)
        return plans.values, plans.cost


# How often the margin is measured anew, and the steps to it.
ROUNDS, STEPS = 3, 3
# Further than the margin, as it grows on the way; and than rounding can undo.
SAFETY = 0.03
SLACK = 1e-5
# Cost that ranks plans which are not sure enough behind all that are.
UNSURE = 1e9
# Rounds over neighbouring sets where there are too many to propose the right one.
SEARCHES = 2
# Log-odds beyond this are asked of nobody.
WIDEST = 30.0
