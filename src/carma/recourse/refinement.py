"""From drafts to plans: to the optimum of each set, past the margin it needs, as it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.recourse.branching import Branching
from carma.recourse.candidates import Candidates, Found, lowest
from carma.recourse.care import Care
from carma.recourse.descent import Descent
from carma.recourse.doubt import Doubt
from carma.recourse.neighbours import RAY, Neighbours
from carma.recourse.pattern import PatternSearch
from carma.recourse.policy import WIDEST, Drafts
from carma.recourse.refined import Refined
from carma.recourse.rivals import Rivals
from carma.recourse.rounding import Rounding
from carma.recourse.target import People, Target

__all__ = ["Refinement"]


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
        likely: Drafts of each person where one plan is wanted.
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
        likely: int,
    ) -> None:
        self._likely = likely
        self._target, self._cost, self._limits = target, cost, limits
        self._doubt, self._quantile = doubt, quantile
        self._steps, self._patterns, self._neighbours = steps, patterns, neighbours
        self._scale = scale
        self._rounding = Rounding(target, cost, limits)
        self._branching = Branching(target, cost, limits, self._rounding)

    def best(
        self,
        people: People,
        drafts: Drafts,
        margin: Tensor,
        n_plans: int,
        rivals: Rivals | None = None,
        *,
        care: Care = Care.USUAL,
    ) -> Refined:
        """The cheapest plan of each person, or all of them where several are wanted.

        Args:
            people: n of them.
            drafts: m for each.
            margin: Log-odds past the threshold that each is thought to need, ``(n, m)``.
            n_plans: Plans wanted of each person.
            rivals: Which of them are one person after other moves, of whom the cheapest plan is
                wanted; the others then may get none.
            care: With much, more walks are followed, and plans lengthened until they are sure; with
                little, fewer steps are taken, and plans are left as these find them.

        Returns:
            One plan a person; where several are wanted, m and one more, and another one if steps
            are taken.
        """
        n = len(people)
        alone = Rivals.none(n, people.x)
        # With effort for people without a sure plan, no walk is given up: all of theirs were poor.
        hopes = HOPEFUL if n_plans == 1 and care < Care.MUCH else {}
        steps = min(self._steps, LEAST_STEPS) if care is Care.LITTLE else self._steps
        walks, owner = self._walked(people, drafts, margin, hopes, rivals or alone, steps)
        if n_plans > 1:
            self._tell(walks)
            every = self._secured(self._polished(walks))
            every = self._spared(walks.people, every) if self._steps else every
            # A menu starts with nothing dearer than what is found for one plan.
            few = slice(None), slice(self._likely)
            some = Drafts(drafts.masks[few], drafts.values[few])
            one = self.best(people, some, margin[few], 1, rivals, care=care)
            return every.with_further(one, owner).sure_ones(1 + len(owner) // max(1, n))
        rivals = rivals or alone
        plans = self._followed(people, walks, owner, rivals, care=care)
        if self._steps and care > Care.LITTLE:
            plans = self._bettered(people, plans, rivals)
        # Moves besides may cost far more than a longer plan; what is sure may cost less already.
        least = rivals.worth(plans.worth)[rivals.owner]
        price = torch.where(rivals.spent + plans.cost < least, plans.worth, torch.inf)
        rows = lowest(rivals.spent + price, rivals.owner, rivals.count, LONGER)
        return plans.or_better(self._lengthened(people[rows], plans[rows]), rows)

    def _followed(
        self, people: People, walks: Descent, owner: Tensor, rivals: Rivals, *, care: Care
    ) -> Refined:
        """The most promising walks of each person, followed to the end; see ``best``.

        Args:
            people: n of them.
            walks: Of these people.
            owner: Whose each walk is.
            rivals: See ``best``.
            care: See ``best``.
        """
        rank = rivals.spent[owner] + walks.promise
        rank = torch.where(rank < rivals.least[rivals.owner[owner]], rank, torch.inf)
        at_first = MORE if care is Care.MUCH else AT_FIRST if self._limits.has_grid else 1
        top = lowest(rank, rivals.owner[owner], rivals.count, at_first)
        top = top[torch.isfinite(rank[top])]
        told, whose = walks.of(top), owner[top]
        self._tell(told)
        if care is Care.MUCH:
            told = self._repaired(told)
        first = self._cheapest(told, whose, rivals)
        plans = Refined.none(people, self._doubt)
        plans = plans.or_better(self._secured(told.of(first)), whose[first])
        # What is not sure comes last; what was cheaper before may be cheaper in the end.
        for some, owners, tried in ((told, whose, first), (walks, owner, top)):
            if not self._doubt.n_alternatives:
                break
            may_win = torch.ones(len(some), dtype=torch.bool)
            may_win[tried] = False
            least = rivals.worth(plans.worth)[rivals.owner[owners]]
            may_win &= rivals.spent[owners] + some.best_cost < least
            rows = may_win.nonzero().squeeze(1)
            if not self._doubt.is_cheap:
                rows = rows[self._cheapest(some.of(rows), owners[rows], rivals)]
            if len(rows):
                further = some.of(rows)
                if some is walks:
                    self._tell(further)
                plans = plans.or_better(self._secured(further), owners[rows])
        return plans

    def _bettered(self, people: People, plans: Refined, rivals: Rivals) -> Refined:
        """Plans of similar sets, and on better steps and levels, where they are cheaper."""

        def best() -> Tensor:
            return lowest(rivals.spent + plans.worth, rivals.owner, rivals.count, 1)

        if self._neighbours is not None:
            plans = self.secured(people, *self._searched(people, plans))
        if self._is_drawn:
            plans = self._held(people, plans, best())
        if self._limits.has_grid:
            return self._improved(people, plans, best())
        return self._spared(people, plans)

    @staticmethod
    def _cheapest(walks: Descent, whose: Tensor, rivals: Rivals) -> Tensor:
        """The cheapest walk of each person, by position."""
        total = rivals.spent[whose] + walks.best_cost
        return lowest(total, rivals.owner[whose], rivals.count, 1)

    def _improved(self, people: People, plans: Refined, rows: Tensor) -> Refined:
        """Improve some of the plans on steps and levels, and make them simpler."""
        rows = rows[torch.isfinite(plans.cost[rows])]
        if not len(rows):
            return plans
        own = plans[rows]
        some = replace(people[rows], aim=self._aim(own.uncertainty.margin(self._quantile)))
        nothing = torch.zeros_like(rows)
        found = Found(own.mask.clone(), own.values.clone(), own.cost.clone(), nothing)
        found = self._simpler(some, self._branching.improved(some, found))
        is_new = (found.cost < own.cost) | (found.mask != own.mask).any(dim=1)
        new = is_new.nonzero().squeeze(1)
        if not len(new):
            return plans
        walks = self._at(some[new], found[new])
        return plans.or_better(self._secured(walks), rows[new])

    def _held(self, people: People, plans: Refined, rows: Tensor) -> Refined:
        """Let some of the plans hold all else where it is, too: that leaves less in doubt."""
        own, some = plans[rows], people[rows]
        margin = own.uncertainty.margin(self._quantile)
        every = some.limits.widest | own.mask
        may = (every != own.mask).any(dim=1) & some.limits.allows(every)
        chosen = (may & torch.isfinite(own.cost) & (margin > TINY)).nonzero().squeeze(1)
        if not len(chosen):
            return plans
        some, mask, values = some[chosen], every[chosen], own.values[chosen]
        measured = self._doubt.of(some, mask, values).margin(self._quantile)
        walks = self._from(some, mask, values, measured)
        for _ in range(STEPS):
            walks.step()
        self._settle(walks)
        return plans.or_better(self._secured(walks), rows[chosen])

    def _at(self, people: People, found: Found) -> Descent:
        """Walks that stand at plans."""
        return Descent(self._target, self._cost, people, found.mask, found.values)

    @property
    def _is_drawn(self) -> bool:
        """Whether draws stand for what is in doubt."""
        return self._doubt.n_alternatives > 0 and not self._doubt.is_cheap

    def effort(self, count: int, n_plans: int) -> int:  # noqa: ARG002
        """Counterfactuals computed for each person, with so many drafts of each.

        Args:
            count: Drafts of each person.
            n_plans: Plans wanted of each person.
        """
        # One walk more than sets.
        return (count + 1) * (1 + self._steps) + 1

    def _walked(
        self,
        people: People,
        drafts: Drafts,
        margin: Tensor,
        hopes: Mapping[int, float],
        rivals: Rivals,
        steps: int,
    ) -> tuple[Descent, Tensor]:
        """Walks that have come to their aim, and whose each one is; see ``best``.

        Args:
            people: See ``best``.
            drafts: See ``best``.
            margin: See ``best``.
            hopes: After which steps to give walks up that stand at so many times the cost of
                another one's plan.
            rivals: See ``best``.
            steps: Of each walk.
        """
        mask, start = drafts.masks, drafts.values
        if self._steps:
            # The likeliest set once more, from where the person stands: that leads to the plan
            # nearest by, where the networks may be in two minds between one here and one there.
            again = mask[:, 0]
            if self._is_drawn:
                # All that is held where it is, leaves less in doubt.
                every = people.limits.widest
                again = torch.where(people.limits.allows(every)[:, None], every, again)
            mask = torch.cat([mask, again[:, None]], dim=1)
            start = torch.cat([start, people.x[:, None]], dim=1)
            margin = torch.cat([margin, margin[:, :1]], dim=1)
        if not self._doubt.n_alternatives:
            margin = torch.zeros_like(margin)
        n, m, _ = mask.shape
        mask, start = mask.flatten(0, 1), start.flatten(0, 1)
        walks = self._from(people.repeated(m), mask, start, margin.flatten())
        owner = torch.arange(n).repeat_interleave(m)
        for turn in range(steps):
            if turn in hopes:
                best = rivals[owner].worth(walks.best_cost)[rivals.owner[owner]]
                stands_at = rivals.spent[owner] + torch.minimum(walks.cost, walks.best_cost)
                rows = (stands_at <= hopes[turn] * best).nonzero().squeeze(1)
                walks, owner = walks.of(rows), owner[rows]
            is_looked_at = self._doubt.n_alternatives and self._doubt.is_cheap
            if turn == steps // 2 and is_looked_at:
                # So far with the margin that was foreseen, from here with the one measured.
                measured = self._doubt.of(walks.people, walks.mask, walks.values)
                walks.aim_at(self._aim(measured.margin(self._quantile)))
            walks.step()
        walks.settle(RAY)
        return walks, owner

    def _spared(self, people: People, plans: Refined) -> Refined:
        """The same plans without actions that hardly anybody would notice."""
        aim = self._aim(plans.uncertainty.margin(self._quantile))
        nothing = torch.zeros(len(people), dtype=torch.long)
        found = Found(plans.mask, plans.values, plans.cost, nothing)
        simpler = self._simpler(replace(people, aim=aim), found)
        rows = (simpler.mask != plans.mask).any(dim=1).nonzero().squeeze(1)
        if not len(rows):
            return plans
        part = self._secured(self._at(replace(people, aim=aim)[rows], simpler[rows]))
        better = part.is_sure & (part.cost <= (1 + TINY) * plans.cost[rows])
        chosen = better.nonzero().squeeze(1)
        return plans.replaced(rows[chosen], part[chosen])

    def _simpler(self, people: People, found: Found) -> Found:
        """Plans without actions that hardly anybody would notice, where these work as well.

        Setting a feature to what it is may matter: it then no longer follows its causes.
        """
        moved = (found.values - people.x).abs() / self._scale
        tiny = found.mask & (moved < TINY)
        spared = found.mask & ~tiny
        is_simpler = tiny.any(dim=1) & spared.any(dim=1) & people.limits.keeps_rules(spared)
        rows = (is_simpler & torch.isfinite(found.cost)).nonzero().squeeze(1)
        if not len(rows):
            return found
        some, mask = people[rows], spared[rows]
        walks = Descent(self._target, self._cost, some, mask, found.values[rows])
        walks.step()
        self._settle(walks)
        better = (walks.best_cost <= (1 + TINY) * found.cost[rows]).nonzero().squeeze(1)
        at, values = (rows[better],), walks.best_values[better]
        return replace(
            found,
            mask=found.mask.index_put(at, mask[better]),
            values=found.values.index_put(at, values),
            cost=found.cost.index_put(at, walks.best_cost[better]),
        )

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
        plans = replace(
            plans,
            values=torch.where(lost[:, None], values, plans.values),
            cost=torch.where(lost, cost, plans.cost),
        )
        return plans if plans.uncertainty.draws is None else self._lengthened(people, plans)

    def _secured(self, walks: Descent) -> Refined:
        mask, values, cost = walks.mask, walks.best_values.clone(), walks.best_cost.clone()
        people = walks.people
        uncertainty = self._doubt.of(people, mask, values)
        is_sure = torch.isfinite(cost)
        rows = is_sure.nonzero().squeeze(1)
        ahead = walks.best_surplus if people.aim is None else walks.best_surplus + people.aim
        rounds = ROUNDS if self._doubt.is_cheap else FEW
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
        return Refined(mask, values, cost, uncertainty, is_sure)

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
        for length in LENGTHS:
            at = (~works).nonzero().squeeze(1)
            if not len(at):
                break
            trial = self._longer(bare[at], mask[at], start[at], torch.full_like(low[at], length))
            is_enough, reached = self._measured(bare[at], mask[at], trial)
            better = is_enough | (reached > validity[at])
            best[at[better]], validity[at[better]] = trial[better], reached[better]
            high[at] = length
            low[at[~is_enough]] = length
            works[at] = is_enough
        for _ in range(HALVINGS):
            at, middle = works.nonzero().squeeze(1), (low * high).sqrt()
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
        ahead, reached = self._target.surplus_and_rows(people, mask, values)
        uncertainty = self._doubt.of(people, mask, values, reached)
        validity = torch.where(ahead >= 0, uncertainty.validity(ahead), -1.0)
        return (ahead >= 0) & (ahead >= uncertainty.margin(self._quantile)), validity

    def _from(self, people: People, mask: Tensor, start: Tensor, margin: Tensor) -> Descent:
        people = replace(people, aim=self._aim(margin))
        return Descent(self._target, self._cost, people, mask, start)

    def _settle(self, walks: Descent) -> None:
        """Bring walks to their aim, and to steps and levels."""
        walks.settle(RAY)
        self._tell(walks)

    def _tell(self, walks: Descent) -> None:
        """Bring walks to steps and levels."""
        if self._limits.has_grid:
            works = torch.isfinite(walks.best_cost)
            values = torch.where(works[:, None], walks.best_values, walks.values)
            walks.take(self._rounding.rounded(walks.people, walks.mask, values))

    def _repaired(self, walks: Descent) -> Descent:
        """Walks of which those that steps and levels made fail are brought nearer by trials."""
        rows = (~torch.isfinite(walks.best_cost)).nonzero().squeeze(1)
        if not len(rows) or not self._limits.has_grid:
            return walks
        some, each = walks.of(rows), torch.arange(len(rows))
        parts = (some.people, each, some.mask, some.values, some.best_cost, torch.zeros_like(each))
        better = self._patterns.improved(Candidates(*parts))
        values = walks.values.index_put((rows,), better.values)
        return Descent(self._target, self._cost, walks.people, walks.mask, values)

    def _polished(self, walks: Descent) -> Descent:
        """Walks on steps and levels, improved: rounding need not find the best step."""
        if not self._limits.has_grid or not self._steps:
            return walks
        walks = self._repaired(walks)
        nothing = torch.zeros_like(walks.mask[:, 0], dtype=torch.long)
        found = Found(walks.mask.clone(), walks.values.clone(), walks.best_cost.clone(), nothing)
        return self._at(walks.people, self._branching.improved(walks.people, found))


# Steps of walks with little care.
LEAST_STEPS = 2
# Walks that stand, after so many steps, at so many times the cost of a plan that another one found
# are given up.
HOPEFUL = {1: 3.0, 2: 1.5}
# Walks of each person on steps and levels that are followed to the end before any other: usually,
# and for people who are hard to find a plan for.
AT_FIRST, MORE = 2, 3
# How often the margin is measured anew, in general and where draws make that dear; and the steps to
# it.
ROUNDS, FEW, STEPS = 3, 2, 2
# Plans of each person that are lengthened where draws make them unsure, the lengths tried, and
# halvings between two of them.
LONGER = 3
LENGTHS = (1.2, 1.5, 2.0, 3.0, 5.0)
HALVINGS = 2
# Further than the margin, as it grows on the way; and than rounding can undo.
SAFETY = 0.03
SLACK = 1e-5
# Changes below this many standard deviations, and prices below this share, go unnoticed.
TINY = 2e-3
# Rounds over neighbouring sets where there are too many to propose the right one.
SEARCHES = 2
