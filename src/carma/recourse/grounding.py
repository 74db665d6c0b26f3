"""From drafts to plans where the classifier has no slopes: guided by a surrogate, held to it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.recourse.branching import Branching
from carma.recourse.candidates import Candidates, Found, lowest
from carma.recourse.care import Care
from carma.recourse.descent import Descent
from carma.recourse.doubt import Doubt
from carma.recourse.neighbours import Neighbours
from carma.recourse.pattern import PatternSearch
from carma.recourse.policy import WIDEST, Drafts
from carma.recourse.refined import Refined
from carma.recourse.refinement import SAFETY, SLACK
from carma.recourse.rivals import Rivals
from carma.recourse.rounding import Rounding
from carma.recourse.subsets import set_codes
from carma.recourse.target import People, Target

__all__ = ["Grounding"]


class Grounding:
    """Refines drafts by steps on a surrogate, and finishes them on the classifier itself.

    Steps lead to the surrogate's optimum. There the classifier is asked, and the walk aims as
    much further (or less far) as the surrogate was wrong, a few times over. Then each plan is
    made longer and shorter until the classifier itself changes its mind, and the cheapest are
    improved by trials without slopes. What is returned works for the classifier.

    Args:
        guide: What to reach, by the surrogate.
        target: What to reach, by the classifier.
        cost: What plans cost.
        limits: Steps and levels.
        doubt: Measures how sure plans are, by the classifier.
        quantile: Margin in spreads.
        steps: Steps from each draft.
        trials: On the classifier, for the most promising plans.
        polish: On the classifier, for the best of these.
        neighbours: On the surrogate, where there are too many sets of features to propose the
            right one; else ``None``.
        scale: See ``Refinement``.
        likely: Drafts of each person where one plan is wanted.

    References:
        Bandler et al. 2004, Space mapping: the state of the art, IEEE Transactions on Microwave
        Theory and Techniques 52(1), for correcting a surrogate where it leads.
    """

    def __init__(
        self,
        guide: Target,
        target: Target,
        cost: Cost,
        limits: PlanLimits,
        doubt: Doubt,
        quantile: float,
        steps: int,
        trials: PatternSearch,
        polish: PatternSearch,
        neighbours: Neighbours | None,
        scale: Tensor,
        likely: int,
    ) -> None:
        self._likely = likely
        self._guide, self._target = guide, target
        self._cost, self._limits = cost, limits
        self._doubt, self._quantile, self._steps = doubt, quantile, steps
        self._trials, self._polish, self._neighbours = trials, polish, neighbours
        self._scale = scale
        self._rounding = Rounding(guide, cost, limits)
        self._branching = Branching(guide, cost, limits, self._rounding)

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
        """See ``Refinement.best``."""
        n = len(people)
        plans = self._walked(people, drafts, margin)
        each = len(plans.cost) // max(1, n)
        owner = torch.arange(n).repeat_interleave(each)
        if n_plans > 1:
            every = self._finished(self._improved(self._trials, self._on_ray(plans, RAYS)))
            # A menu starts with nothing dearer than what is found for one plan.
            few = slice(None), slice(self._likely)
            some = Drafts(drafts.masks[few], drafts.values[few])
            one = self.best(people, some, margin[few], 1, rivals, care=care)
            return every.with_further(one, owner).sure_ones(each + 1)
        is_alone = rivals is None
        rivals = rivals or Rivals.none(n, plans.cost)
        spent, group = rivals.spent[owner], rivals.owner[owner]
        rows = (spent + CHEAPER * plans.rank < rivals.least[group]).nonzero().squeeze(1)

        def leading(some: _Plans, rows: Tensor, count: int) -> Tensor:
            return lowest(spent[rows] + some.rank, group[rows], rivals.count, count)

        times = MORE if care is Care.MUCH else 1
        top = leading(plans[rows], rows, times * HOPEFUL)
        rows = rows[top]
        plans = self._on_ray(plans[rows], RAYS)
        top = leading(plans, rows, times * TOP)
        rows, plans = rows[top], self._improved(self._trials, plans[top])
        top = leading(plans, rows, 1)
        found = self._finished(plans[top])
        found = Refined.none(people, self._doubt).or_better(found, owner[rows[top]])
        if not is_alone:
            return found
        for probes in self._probed(people, found.worth):
            rows = (probes.cost < found.worth).nonzero().squeeze(1)
            if len(rows):
                further = self._finished(self._on_ray(probes[rows], RAYS))
                found = found.or_better(further, rows)
        return found

    def secured(self, people: People, mask: Tensor, values: Tensor, cost: Tensor) -> Refined:
        """See ``Refinement.secured``."""
        return self._sure(_Plans(people, mask, values, cost, torch.zeros_like(cost)))

    def effort(self, count: int, n_plans: int) -> int:
        """See ``Refinement.effort``."""
        walks = count + 1 if self._steps else count
        hopeful, tried, polished = (HOPEFUL, TOP, 1) if n_plans == 1 else (walks,) * 3
        guided = walks * (1 + self._steps + ROUNDS * (2 + STEPS))
        trials = tried * self._trials.n_trials + polished * self._polish.n_trials
        return guided + hopeful * (len(RAYS) + HALVINGS) + trials

    def _walked(self, people: People, drafts: Drafts, margin: Tensor) -> _Plans:
        """Where the corrected surrogate leads."""
        mask, start = drafts.masks, drafts.values
        if self._steps:
            # From where the person stands, too; see Refinement.
            mask = torch.cat([mask, mask[:, :1]], dim=1)
            start = torch.cat([start, people.x[:, None]], dim=1)
            margin = torch.cat([margin, margin[:, :1]], dim=1)
        if not self._doubt.n_alternatives:
            margin = torch.zeros_like(margin)
        m = mask.shape[1]
        many = people.repeated(m)
        mask, start = mask.flatten(0, 1), start.flatten(0, 1)
        aim = self._aim(margin.flatten())
        if not self._steps:
            values = torch.where(mask, start, many.x)
            return self._priced(replace(many, aim=aim), mask, values, torch.zeros_like(aim))
        # Whom the surrogate accepts as they are, it flatters at least by what they lack.
        nothing = torch.zeros_like(people.limits.may_act)
        off = self._flattery(people, nothing, people.x)
        believed = self._guide.surplus(people, nothing, people.x)
        off = torch.where(believed >= 0, off, 0.0).repeat_interleave(m)
        walks = Descent(self._guide, self._cost, replace(many, aim=aim + off), mask, start)
        for _ in range(self._steps):
            walks.step()
        for _ in range(ROUNDS):
            off = self._flattery(many, mask, self._standing(walks))
            walks.aim_at(aim + off)
            for _ in range(STEPS):
                walks.step()
        values = self._standing(walks)
        lacks = -self._guide.surplus(replace(many, aim=aim + off), mask, values)
        plans = self._priced(replace(many, aim=aim), mask, values, NEARLY - lacks)
        if self._limits.has_grid:
            plans = self._branched(people, plans, aim + off)
        if self._neighbours is None:
            return plans
        cost = plans.cost
        # Better sets in the place of each person's best one.
        n = len(people)
        top = lowest(cost, torch.arange(n).repeat_interleave(m), n, 1)
        found = Found(mask[top], plans.values[top], cost[top], torch.zeros_like(top))
        some = replace(people, aim=(aim + off)[top])
        better = [found, *self._neighbours.improved(some, found, SEARCHES)][-1]
        return replace(
            plans,
            mask=mask.index_put((top,), better.mask),
            values=plans.values.index_put((top,), better.values),
            cost=cost.index_put((top,), better.cost),
        )

    def _probed(self, people: People, least: Tensor) -> tuple[_Plans, _Plans]:
        """The cheapest plans of each person that move a few features, if any work.

        The edge of a tree may be a step away where the surrogate sees a slope only. What moves
        one feature and looks most promising, is where the next one is moved from.

        Args:
            people: n of them.
            least: What their plans may cost at most, shape ``(n,)``.

        Returns:
            Those that are sure enough, and those that cost less but are not.
        """
        columns = self._limits.encoding.actionable
        k = 2 * len(columns) * len(PROBES)
        each = columns.repeat_interleave(2 * len(PROBES))
        far = torch.tensor([side * share for side in (1.0, -1.0) for share in PROBES])
        move = torch.zeros(k, people.x.shape[1], dtype=people.x.dtype)
        move[torch.arange(k), each] = far.double().repeat(len(columns)) * self._scale[each]
        best = []
        for rows in torch.split(torch.arange(len(people)), max(1, PROBED // (BEAM * k))):
            some = replace(people[rows], aim=torch.zeros(len(rows), dtype=people.x.dtype))
            nothing = torch.zeros_like(some.limits.may_act)
            lacks = -self._target.surplus(some, nothing, some.x).clamp(max=-SLACK)
            sure = short = self._priced(some, nothing, some.x, -lacks)
            mask, values = nothing[:, None], some.x[:, None]
            for _ in range(MOVED):
                most = torch.minimum(least[rows], sure.cost)
                mask, values, price, ahead = self._moved(some, mask, values, move, most)
                cost = torch.where(ahead >= 0, price, torch.inf)
                sure, short = self._told_apart(sure, short, mask, values, cost, ahead)
                # What it would cost to go on like that.
                gain = (ahead + lacks[:, None]).clamp(min=SLACK)
                promise = price * (lacks[:, None] / gain).pow(self._cost.degree)
                top = promise.topk(min(BEAM, promise.shape[1]), dim=1, largest=False).indices
                row = torch.arange(len(rows))[:, None]
                mask, values = mask[row, top], values[row, top]
            best.append((sure, short))
        sure_ones, others = zip(*best, strict=True)
        return sure_ones[0].joined(*sure_ones[1:]), others[0].joined(*others[1:])

    def _told_apart(
        self,
        sure: _Plans,
        short: _Plans,
        mask: Tensor,
        values: Tensor,
        cost: Tensor,
        ahead: Tensor,
    ) -> tuple[_Plans, _Plans]:
        """The cheapest plans that are sure enough, and the cheapest that are not.

        Args:
            sure: One of each person so far.
            short: The same.
            mask: Of further plans, shape ``(n, m, d)``, those that move a feature one way by less
                and more next to each other.
            values: Same shape.
            cost: Infinite where a plan does not work, ``(n, m)``.
            ahead: Their surplus, same shape.
        """
        n, m = cost.shape
        # One of each way to move.
        cost, place = cost.view(n, -1, len(PROBES)).min(dim=2)
        place = place + len(PROBES) * torch.arange(m // len(PROBES))
        cost, top = cost.topk(min(MEASURED, cost.shape[1]), dim=1, largest=False)
        person, rank = torch.isfinite(cost).nonzero(as_tuple=True)
        at = place.gather(1, top)[person, rank]
        mask, values, cost = mask[person, at], values[person, at], cost[person, rank]
        some, is_sure = sure.people[person], torch.ones_like(person, dtype=torch.bool)
        if self._doubt.n_alternatives:
            margin = self._doubt.of(some, mask, values).margin(self._quantile)
            is_sure = ahead[person, at] >= margin
        further = _Plans(some, mask, values, cost, torch.zeros_like(cost))
        found = []
        for plans, is_it in ((sure, is_sure), (short, ~is_sure)):
            price = torch.where(is_it, cost, torch.inf)
            first = lowest(price, person, n, 1)
            better = first[price[first] < plans.cost[person[first]]]
            found.append(plans.replaced(person[better], further[better]))
        return found[0], found[1]

    def _moved(
        self, people: People, mask: Tensor, values: Tensor, move: Tensor, most: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every plan of each person with one feature moved instead.

        Args:
            people: n of them.
            mask: Shape ``(n, b, d)``, bool.
            values: Shape ``(n, b, d)``.
            move: From where people stand, shape ``(k, d)``; 0 but for one column.
            most: Cost from which on plans are of no use, shape ``(n,)``.

        Returns:
            Mask and values, ``(n, b * k, d)``; cost, infinite where it may not be, and surplus,
            minus infinity where it is of no use, ``(n, b * k)``.
        """
        n, b, d = mask.shape
        k = len(move)
        many = people.repeated(b * k)
        is_moved = move != 0
        masks = (mask[:, :, None] | is_moved).view(-1, d)
        there = torch.where(is_moved, people.x[:, None, None] + move, values[:, :, None])
        flat = self._said(many, masks, there.reshape(-1, d))
        masks = masks & many.limits.can_move & (flat != many.x)
        may = many.limits.allows(masks) & masks.any(dim=1)
        price = self._cost(many.x, masks, flat, many.weights)
        price = torch.where(may, price, torch.inf)
        rows = (price < most.repeat_interleave(b * k)).nonzero().squeeze(1)
        ahead = torch.full_like(price, -torch.inf)
        # What follows from one set of features is computed for all who move it at once.
        codes, order = set_codes(masks[rows]).sort(stable=True)
        sizes = torch.unique_consecutive(codes, return_counts=True)[1]
        for some in torch.split(rows[order], sizes.tolist()):
            ahead[some] = self._target.surplus(many[some], masks[some], flat[some]).to(price)
        shape = (n, b * k)
        return masks.view(*shape, d), flat.view(*shape, d), price.view(shape), ahead.view(shape)

    def _branched(self, people: People, plans: _Plans, aim: Tensor) -> _Plans:
        """Plans that do a step less, in the place of the dearest one of each person.

        Args:
            people: n of them.
            plans: m for each.
            aim: Of each walk, as far as the surrogate has to be led.
        """
        n = len(people)
        each = len(plans.cost) // max(1, n)
        owner = torch.arange(n).repeat_interleave(each)
        top = lowest(plans.cost, owner, n, 1)
        some = replace(people, aim=aim[top])
        rounded = self._rounding.rounded(some, plans.mask[top], plans.values[top])
        surplus = self._guide.surplus(some, plans.mask[top], rounded)
        price = self._cost(some.x, plans.mask[top], rounded, some.weights)
        price = torch.where(surplus >= 0, price, torch.inf)
        nothing = torch.zeros_like(top)
        found = Found(plans.mask[top].clone(), rounded, price, nothing)
        found = self._branching.improved(some, found)
        worst = plans.cost.view(n, each).argmax(dim=1) + each * torch.arange(n)
        rows = worst[torch.isfinite(found.cost)]
        kept = torch.isfinite(found.cost)
        return replace(
            plans,
            mask=plans.mask.index_put((rows,), found.mask[kept]),
            values=plans.values.index_put((rows,), found.values[kept]),
            cost=plans.cost.index_put((rows,), found.cost[kept]),
        )

    def _standing(self, walks: Descent) -> Tensor:
        """Where walks stand, in small steps.

        A classifier without slopes may tell apart two places that are one but for rounding, and
        rounding depends on who else is in the batch; walks make much of it under learned models.
        """
        people = walks.people
        moved = (walks.values - people.x) / (GRAIN * self._scale)
        values = people.x + GRAIN * self._scale * moved.round()
        return self._said(people, walks.mask, values)

    def _flattery(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        """By how much the surrogate's log-odds exceed the classifier's, ``(n,)``."""
        bare = replace(people, aim=None)
        believed = self._guide.surplus(bare, mask, values)
        found = self._target.surplus(bare, mask, values)
        is_known = torch.isfinite(believed) & torch.isfinite(found)
        return torch.where(is_known, believed - found, 0.0).clamp(-FARTHEST, FARTHEST)

    def _on_ray(self, plans: _Plans, lengths: tuple[float, ...]) -> _Plans:
        """Each plan as long as the classifier asks for."""
        people, mask, values, k = plans.people, plans.mask, plans.values, len(lengths)
        length = torch.tensor(lengths, dtype=values.dtype)
        many, wide = people.repeated(k), mask.repeat_interleave(k, 0)
        start = values.repeat_interleave(k, 0)
        trial = self._longer(many, wide, start, length.repeat(len(values))[:, None])
        surplus = self._target.surplus(many, wide, trial).view(-1, k)
        works = surplus >= 0
        # The shortest that works, else the one that comes nearest.
        place = torch.where(works.any(dim=1), works.int().argmax(dim=1), surplus.argmax(dim=1))
        row = torch.arange(len(values))
        best, ahead = trial.view(len(values), k, values.shape[1])[row, place], surplus[row, place]
        low, high = length[(place - 1).clamp(min=0)], length[place]
        is_between = (ahead >= 0) & (place > 0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            trial = self._longer(people, mask, values, middle[:, None])
            got = self._target.surplus(people, mask, trial)
            is_enough = is_between & (got >= 0)
            best = torch.where(is_enough[:, None], trial, best)
            ahead = torch.where(is_enough, got, ahead)
            high, low = torch.where(is_enough, middle, high), torch.where(is_enough, low, middle)
        return self._priced(people, mask, best, ahead)

    def _finished(self, plans: _Plans) -> Refined:
        """Improve plans by trials, past the margin that they need."""
        if self._doubt.n_alternatives:
            measured = self._doubt.of(plans.people, plans.mask, plans.values)
            aim = self._aim(measured.margin(self._quantile))
            plans = replace(plans, people=replace(plans.people, aim=aim))
        return self._sure(self._improved(self._polish, plans))

    def _improved(self, patterns: PatternSearch, plans: _Plans) -> _Plans:
        each = torch.arange(len(plans.cost))
        parts = (plans.people, each, plans.mask, plans.values, plans.cost, torch.zeros_like(each))
        better = patterns.improved(Candidates(*parts))
        return replace(plans, values=better.values, cost=better.cost)

    def _sure(self, plans: _Plans) -> Refined:
        """Plans as they are, moved further where they are not sure enough."""
        bare, mask, values = replace(plans.people, aim=None), plans.mask, plans.values
        ahead = self._target.surplus(bare, mask, values)
        cost = self._priced(bare, mask, values, ahead).cost
        uncertainty = self._doubt.of(bare, mask, values)
        margin = uncertainty.margin(self._quantile)
        for _ in range(TURNS if self._doubt.n_alternatives else 0):
            rows = (torch.isfinite(cost) & (ahead < margin)).nonzero().squeeze(1)
            if not len(rows):
                break
            some = replace(bare[rows], aim=self._aim(margin[rows]))
            short = _Plans(some, mask[rows], values[rows], cost[rows], torch.zeros_like(cost[rows]))
            longer = self._improved(self._polish, self._on_ray(short, LONGER)).values
            reached = self._target.surplus(bare[rows], mask[rows], longer)
            # What comes no nearer must not be dearer either.
            better = reached > ahead[rows]
            rows, longer, reached = rows[better], longer[better], reached[better]
            values, ahead = values.index_put((rows,), longer), ahead.index_put((rows,), reached)
            part = self._doubt.of(bare[rows], mask[rows], longer)
            uncertainty.put(rows, part)
            margin = uncertainty.margin(self._quantile)
            cost = self._priced(bare, mask, values, ahead).cost
        is_sure = torch.isfinite(cost) & (ahead >= margin)
        return Refined(mask, values, cost, uncertainty, is_sure)

    def _priced(self, people: People, mask: Tensor, values: Tensor, ahead: Tensor) -> _Plans:
        """Plans with their cost: infinite where they do not reach their aim."""
        price = self._cost(people.x, mask, values, people.weights)
        works = mask.any(dim=1) & (ahead >= 0)
        lacks = torch.where(works, 0.0, -ahead.clamp(max=0)).nan_to_num(FAR, FAR)
        return _Plans(people, mask, values, torch.where(works, price, torch.inf), lacks)

    def _longer(self, people: People, mask: Tensor, values: Tensor, length: Tensor) -> Tensor:
        return self._said(people, mask, people.x + length * (values - people.x))

    def _said(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        said = self._limits.project(people.x, values, people.limits)
        return torch.where(mask, said, people.x)

    def _aim(self, margin: Tensor) -> Tensor:
        if not self._doubt.n_alternatives:
            return torch.zeros_like(margin)
        return (1 + SAFETY) * margin.clamp(max=WIDEST) + SLACK


@dataclass(frozen=True)
class _Plans:
    """Plans, each with its person and what that person aims at.

    Args:
        people: One row a plan.
        mask: Shape ``(w, d)``, bool.
        values: Shape ``(w, d)``.
        cost: Infinite where the plan is not known to work, ``(w,)``.
        lacks: Log-odds that it was last seen to stop short by, ``(w,)``.
    """

    people: People
    mask: Tensor
    values: Tensor
    cost: Tensor
    lacks: Tensor

    def __getitem__(self, rows: Tensor) -> _Plans:
        """Some of the plans, by position."""
        return _Plans(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    def joined(self, *others: _Plans) -> _Plans:
        """These plans and then others."""
        people = People.joined([self.people, *(other.people for other in others)])
        names = [entry.name for entry in fields(self)[1:]]
        every = (self, *others)
        return _Plans(people, *(torch.cat([getattr(p, name) for p in every]) for name in names))

    def replaced(self, rows: Tensor, part: _Plans) -> _Plans:
        """The same plans but for some, by position; the people stay the same."""
        names = [entry.name for entry in fields(self)[1:]]
        return _Plans(
            self.people,
            *(getattr(self, n).index_put((rows,), getattr(part, n)) for n in names),
        )

    @property
    def rank(self) -> Tensor:
        """The cost, and for plans that stop short, by far more, ``(w,)``."""
        return torch.where(torch.isfinite(self.cost), self.cost, FAR + self.lacks)


# How far probes move a feature, in standard deviations, and how many of them at once.
PROBES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6)
PROBED = 1 << 16
# Features that probes move at most, and plans of each person that they go on from.
MOVED, BEAM = 3, 5
# Plans of each person that are measured after each of these, of different ways to move.
MEASURED = 6
# How often the surrogate is corrected, and the steps after that; log-odds of a correction.
ROUNDS, STEPS = 2, 2
FARTHEST = 6.0
# Log-odds by which a walk may stop short of its aim; share of a spread that places are rounded to.
NEARLY = 0.1
GRAIN = 5e-3
# Lengths of each plan that the classifier is asked about, and halvings in between.
RAYS = (0.02, 0.15, 0.4, 0.7, 0.85, 0.95, 1.0, 1.05, 1.15, 1.35, 1.8)
LONGER = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4, 1.8)
HALVINGS = 3
# Plans of each person that the classifier is asked about, those of them that are improved by
# trials; how often the margin is measured anew.
HOPEFUL, TOP = 5, 4
TURNS = 2
# How many times that for people who are hard to find a plan for.
MORE = 2
# Of what a plan is thought to cost, the share that it may come to in the end; ranks plans that stop
# short behind all others.
CHEAPER = 0.7
FAR = 1e9
# Rounds over neighbouring sets where there are too many to propose the right one.
SEARCHES = 2
