"""From drafts to plans: to the optimum of each set, past the margin it needs, as it is told."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.recourse.branching import Branching
from carma.recourse.candidates import Candidates, Found, lowest
from carma.recourse.descent import Descent
from carma.recourse.doubt import Doubt, Uncertainty
from carma.recourse.neighbours import RAY, Neighbours
from carma.recourse.pattern import PatternSearch
from carma.recourse.policy import WIDEST, Drafts
from carma.recourse.rounding import Rounding
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
        """Some of the plans, by position."""
        return Refined(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    @property
    def worth(self) -> Tensor:
        """What to rank plans by: those that are not sure enough come after all that are."""
        return torch.where(self.is_sure, self.cost, UNSURE + self.cost)

    def sure_ones(self, each: int) -> Refined:
        """Without the plans that are not sure enough, of people who have one that is.

        Args:
            each: Plans of each person, next to each other.
        """
        has_sure = self.is_sure.view(-1, each).any(dim=1).repeat_interleave(each)
        return replace(self, cost=torch.where(has_sure & ~self.is_sure, torch.inf, self.cost))

    def with_further(self, others: Refined, owner: Tensor) -> Refined:
        """All plans, and one more of each person, those of one person next to each other.

        Args:
            others: One plan of each person.
            owner: Whose each of these plans is, rising, ``(k,)``.
        """
        order = torch.cat([owner, torch.arange(len(others.cost))]).argsort(stable=True)
        return self._and(others)[order]

    def or_better(self, others: Refined, owner: Tensor) -> Refined:
        """The best plan of each person.

        Args:
            others: Further plans.
            owner: The person whose plan each of these is, ``(k,)``; people may have several.
        """
        worth = torch.cat([self.worth, others.worth])
        owners = torch.cat([torch.arange(len(self.cost)), owner])
        order = owners.argsort(stable=True)
        chosen = order[lowest(worth[order], owners[order], len(self.cost), 1)]
        return self._and(others)[chosen]

    def _and(self, others: Refined) -> Refined:
        return Refined(
            torch.cat([self.mask, others.mask]),
            torch.cat([self.values, others.values]),
            torch.cat([self.cost, others.cost]),
            Uncertainty.joined([self.uncertainty, others.uncertainty]),
            torch.cat([self.is_sure, others.is_sure]),
        )


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
        scale: Spread of each column, above 0, shape ``(d,)``.
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
        scale: Tensor,
    ) -> None:
        self._target, self._cost, self._limits = target, cost, limits
        self._doubt, self._quantile = doubt, quantile
        self._steps, self._patterns, self._neighbours = steps, patterns, neighbours
        self._scale = scale
        self._rounding = Rounding(target, cost, limits)
        self._branching = Branching(target, cost, limits, self._rounding)

    def best(self, people: People, drafts: Drafts, margin: Tensor, n_plans: int) -> Refined:
        """The cheapest plan of each person, or all of them where several are wanted.

        Args:
            people: n of them.
            drafts: m for each.
            margin: Log-odds past the threshold that each is thought to need, ``(n, m)``.
            n_plans: Plans wanted of each person.

        Returns:
            One plan a person; where several are wanted, m, and one more if steps are taken.
        """
        n = len(people)
        walks, owner = self._walked(people, drafts, margin, n_plans)
        if n_plans > 1:
            every = self._spared(walks.people, self._secured(self._polished(walks)))
            return every.sure_ones(len(owner) // max(1, n))
        top = lowest(walks.best_cost, owner, n, 1)
        plans = self._secured(self._polished(walks.of(top)))
        # What is not sure comes last; what was cheaper before may be cheaper in the end.
        may_win = walks.best_cost < plans.worth[owner]
        may_win[top] = False
        rows = may_win.nonzero().squeeze(1)
        if not self._doubt.is_cheap:
            rows = rows[lowest(walks.best_cost[rows], owner[rows], n, 1)]
        if len(rows) and self._doubt.n_alternatives:
            others = self._secured(self._polished(walks.of(rows)))
            plans = plans.or_better(others, owner[rows])
        if self._neighbours is not None and self._steps:
            plans = self.secured(people, *self._searched(people, plans))
        return self._spared(people, plans)

    def effort(self, count: int, n_plans: int) -> int:  # noqa: ARG002
        """Counterfactuals computed for each person, with so many drafts of each.

        Args:
            count: Drafts of each person.
            n_plans: Plans wanted of each person.
        """
        # One walk more than sets.
        return (count + 1) * (1 + self._steps) + 1

    def _walked(
        self, people: People, drafts: Drafts, margin: Tensor, n_plans: int
    ) -> tuple[Descent, Tensor]:
        """Walks that have come to their aim, and whose each one is; see ``best``."""
        mask, start = drafts.masks, drafts.values
        if self._steps:
            # The likeliest set once more, from where the person stands: that leads to the plan
            # nearest by, where the networks may be in two minds between one here and one there.
            mask = torch.cat([mask, mask[:, :1]], dim=1)
            start = torch.cat([start, people.x[:, None]], dim=1)
            margin = torch.cat([margin, margin[:, :1]], dim=1)
        if not self._doubt.n_alternatives:
            margin = torch.zeros_like(margin)
        n, m, _ = mask.shape
        mask, start = mask.flatten(0, 1), start.flatten(0, 1)
        walks = self._from(people.repeated(m), mask, start, margin.flatten())
        owner = torch.arange(n).repeat_interleave(m)
        for turn in range(self._steps):
            if turn == self._steps // 2:
                if n_plans == 1 and turn:
                    best = walks.best_cost.view(n, m).amin(dim=1)
                    stands_at = torch.minimum(walks.cost, walks.best_cost)
                    rows = (stands_at <= HOPEFUL * best[owner]).nonzero().squeeze(1)
                    walks, owner = walks.of(rows), owner[rows]
                # So far with the margin that was foreseen, from here with the one measured.
                if self._doubt.n_alternatives and self._doubt.is_cheap:
                    measured = self._doubt.of(walks.people, walks.mask, walks.values)
                    walks.aim_at(self._aim(measured.margin(self._quantile)))
            walks.step()
        self._settle(walks)
        return walks, owner

    def _spared(self, people: People, plans: Refined) -> Refined:
        """The same plans without actions that hardly anybody would notice."""
        if not self._steps:
            return plans
        moved = (plans.values - people.x).abs() / self._scale
        tiny = plans.mask & (moved < TINY)
        spared = plans.mask & ~tiny
        is_simpler = tiny.any(dim=1) & spared.any(dim=1) & people.limits.keeps_rules(spared)
        rows = is_simpler.nonzero().squeeze(1)
        if not len(rows):
            return plans
        margin = plans.uncertainty[rows].margin(self._quantile)
        mask = (plans.mask & ~tiny)[rows]
        walks = self._from(people[rows], mask, plans.values[rows], margin)
        walks.step()
        self._settle(walks)
        simpler = self._secured(walks)
        # Setting a feature to what it is may matter: it then no longer follows its causes.
        better = simpler.is_sure & (simpler.cost <= (1 + TINY) * plans.cost[rows])
        chosen = better.nonzero().squeeze(1)
        rows = rows[better]
        for name in ("mask", "values", "cost", "is_sure"):
            getattr(plans, name)[rows] = getattr(simpler, name)[chosen]
        plans.uncertainty.put(rows, simpler.uncertainty[chosen])
        return plans

    def _searched(self, people: People, plans: Refined) -> tuple[Tensor, Tensor, Tensor]:
        """The same, or better plans of similar sets, with the same margin."""
        assert self._neighbours is not None  # noqa: S101
        people = replace(people, aim=self._aim(plans.uncertainty.margin(self._quantile)))
        none_yet = torch.zeros(len(people), dtype=torch.long)
        found = Found(plans.mask, plans.values, plans.cost, none_yet)
        better = self._neighbours.improved(people, found, SEARCHES)
        best = better[-1] if better else found
        if better and self._limits.has_grid:
            # Neighbours know nothing of steps and levels.
            each = torch.arange(len(people))
            rough = Candidates(people, each, best.mask, best.values, best.cost, none_yet)
            best = found.or_better(self._patterns.improved(rough).best())
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
        # No slack is asked of what others found: a plan that just works must be moved, not lost.
        people = replace(people, aim=torch.zeros_like(cost))
        walks = Descent(self._target, self._cost, people, mask, values)
        plans = self._secured(walks)
        lost = ~torch.isfinite(plans.cost) & torch.isfinite(cost)
        return replace(
            plans,
            values=torch.where(lost[:, None], values, plans.values),
            cost=torch.where(lost, cost, plans.cost),
        )

    def _secured(self, walks: Descent) -> Refined:
        mask, values, cost = walks.mask, walks.best_values.clone(), walks.best_cost.clone()
        people = walks.people
        uncertainty = self._doubt.of(people, mask, values)
        is_sure = torch.isfinite(cost)
        rows = is_sure.nonzero().squeeze(1)
        ahead = walks.best_surplus if people.aim is None else walks.best_surplus + people.aim
        rounds = ROUNDS if self._doubt.is_cheap else 1
        for turn in range(rounds + 1 if self._doubt.n_alternatives else 0):
            margin = uncertainty[rows].margin(self._quantile)
            is_short = ahead[rows] < margin
            is_sure[rows] = ~is_short
            rows, margin = rows[is_short], margin[is_short]
            if not len(rows) or turn == rounds:
                break
            further = walks.of(rows)
            further.aim_at(self._aim(margin))
            for _ in range(STEPS):
                further.step()
            self._settle(further)
            better = torch.isfinite(further.best_cost)
            rows, further = rows[better], further.of(better.nonzero().squeeze(1))
            values[rows], cost[rows] = further.best_values, further.best_cost
            assert further.people.aim is not None  # noqa: S101
            ahead = ahead.index_put((rows,), further.best_surplus + further.people.aim)
            uncertainty.put(rows, self._doubt.of(further.people, further.mask, values[rows]))
        plans = Refined(mask, values, cost, uncertainty, is_sure)
        return plans if uncertainty.draws is None else self._lengthened(people, plans)

    def _lengthened(self, people: People, plans: Refined) -> Refined:
        """Plans that draws make unsure, as much longer as it takes, else as sure as they get.

        Discrete effects come one after the other as a plan grows, and with each the draws move:
        a margin in log-odds foresees none of that, a few lengths show it.
        """
        rows = (torch.isfinite(plans.cost) & ~plans.is_sure).nonzero().squeeze(1)
        if not len(rows):
            return plans
        bare, mask, start = replace(people[rows], aim=None), plans.mask[rows], plans.values[rows]
        best = start.clone()
        _, validity = self._measured(bare, mask, start)
        low, high = torch.ones(2, len(rows), dtype=start.dtype).unbind(0)
        works = torch.zeros(len(rows), dtype=torch.bool)
        for before, length in pairwise((1.0, *LENGTHS)):
            at = (~works).nonzero().squeeze(1)
            if not len(at):
                break
            trial = self._longer(bare[at], mask[at], start[at], torch.full_like(low[at], length))
            is_enough, reached = self._measured(bare[at], mask[at], trial)
            better = is_enough | (reached > validity[at])
            best[at[better]], validity[at[better]] = trial[better], reached[better]
            low[at[is_enough]], high[at[is_enough]] = before, length
            works[at] = is_enough
        for _ in range(HALVINGS):
            at, middle = works.nonzero().squeeze(1), (low + high) / 2
            trial = self._longer(bare[at], mask[at], start[at], middle[at])
            is_enough = self._measured(bare[at], mask[at], trial)[0]
            best[at[is_enough]], high[at[is_enough]] = trial[is_enough], middle[at[is_enough]]
            low[at[~is_enough]] = middle[at[~is_enough]]
        plans.values[rows] = best
        plans.cost[rows] = self._cost(bare.x, mask, best, bare.weights)
        plans.is_sure[rows] = works
        plans.uncertainty.put(rows, self._doubt.of(bare, mask, best))
        return plans

    def _longer(self, people: People, mask: Tensor, values: Tensor, length: Tensor) -> Tensor:
        longer = people.x + length[:, None] * (values - people.x)
        return torch.where(mask, self._limits.project(people.x, longer, people.limits), people.x)

    def _measured(self, people: People, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Whether plans are sure enough, and how sure they are; -1 where they do not work."""
        ahead = self._target.surplus(people, mask, values)
        uncertainty = self._doubt.of(people, mask, values)
        validity = torch.where(ahead >= 0, uncertainty.validity(ahead), -1.0)
        return (ahead >= 0) & (ahead >= uncertainty.margin(self._quantile)), validity

    def _from(self, people: People, mask: Tensor, start: Tensor, margin: Tensor) -> Descent:
        people = replace(people, aim=self._aim(margin))
        return Descent(self._target, self._cost, people, mask, start)

    def _settle(self, walks: Descent) -> None:
        """Bring walks to their aim, and to steps and levels."""
        walks.settle(RAY)
        if self._limits.has_grid:
            works = torch.isfinite(walks.best_cost)
            values = torch.where(works[:, None], walks.best_values, walks.values)
            walks.take(self._rounding.rounded(walks.people, walks.mask, values))

    def _polished(self, walks: Descent) -> Descent:
        """Walks on steps and levels, improved by trials: rounding need not find the best step."""
        if self._limits.has_grid and self._steps:
            people, each = walks.people, torch.arange(len(walks))
            nothing = torch.zeros_like(each)
            found = Found(walks.mask.clone(), walks.values.clone(), walks.best_cost, nothing)
            found = self._branching.improved(people, found)
            parts = (people, each, found.mask, found.values, found.cost, nothing)
            better = self._patterns.improved(Candidates(*parts))
            walks = Descent(self._target, self._cost, people, found.mask, better.values)
        return walks


# Walks that stand, half-way, at so many times the cost of a plan that another one found are
# given up.
HOPEFUL = 1.5
# How often the margin is measured anew, and the steps to it.
ROUNDS, STEPS = 3, 2
# Lengths at which plans that draws make unsure are tried, and halvings between two of them.
LENGTHS = (1.2, 1.5, 2.0, 3.0, 5.0)
HALVINGS = 3
# Further than the margin, as it grows on the way; and than rounding can undo.
SAFETY = 0.03
SLACK = 1e-5
# Changes below this many standard deviations, and prices below this share, go unnoticed.
TINY = 2e-3
# Cost that ranks plans which are not sure enough behind all that are.
UNSURE = 1e9
# Rounds over neighbouring sets where there are too many to propose the right one.
SEARCHES = 2
