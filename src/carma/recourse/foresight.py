"""Plans found on a forecast, and checked on what they bring."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.interventions import Intervention
from carma.recourse.branching import Branching
from carma.recourse.candidates import Candidates, Found, lowest
from carma.recourse.descent import Descent
from carma.recourse.doubt import Doubt, Uncertainty
from carma.recourse.forecast import ForecastTarget
from carma.recourse.foreseen import Foreseen
from carma.recourse.outcomes import Outcomes
from carma.recourse.pattern import PatternSearch
from carma.recourse.precedents import Precedents
from carma.recourse.recall import Recall
from carma.recourse.retrieval import Retrieval, Tried
from carma.recourse.rounding import Rounding
from carma.recourse.target import People, Target

__all__ = ["Foresight"]

# Owner, mask and values of plans on the way; with what each start aims at.
Notes = list[tuple[Tensor, Tensor, Tensor]]
Starts = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class _Trials:
    """Plans under way.

    Args:
        owner: Whose each is, rising, shape ``(w,)``, int64.
        people: Who they are, after the moves between levels that the plan holds, and their aims.
        spent: Cost of these moves, ``(w,)``.
        mask: Of numbers on top, shape ``(w, d)``, bool.
        values: Same shape.
        price: Cost of the numbers, ``(w,)``; infinite where the aim is thought to be missed.
    """

    owner: Tensor
    people: People
    spent: Tensor
    mask: Tensor
    values: Tensor
    price: Tensor

    def __getitem__(self, rows: Tensor) -> _Trials:
        """Some of them, by position, rising."""
        return _Trials(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    @property
    def cost(self) -> Tensor:
        """Of the whole plans, shape ``(w,)``."""
        return (self.spent + self.price).double()

    @property
    def whole(self) -> tuple[Tensor, Tensor]:
        """Mask and values of all that people do, shape ``(w, d)``."""
        given = self.people.given
        assert given is not None  # noqa: S101
        return self.mask | given.mask, torch.where(given.mask, given.values, self.values)


class Foresight:
    """Finds plans on a forecast, in steps that cost next to nothing, and checks them for real.

    Plans that worked for others are where it starts: those that two networks pick, and without
    slopes those of people who are alike as well. With slopes, walks go from the most promising of
    them, with and without their moves between levels, to the cheapest plan that is thought to hold,
    and on to steps and levels. Without, the cheapest that are thought to hold are checked one after
    the other, and the best is improved by trials. Whatever is found is then followed under the
    causal model and its alternatives; what the forecast got wrong about it is added to the aim, and
    the plan moved a little further, or less far, a few times.

    Args:
        recall: Plans of others.
        retrieval: Tells which of them are worth a look.
        target: What to reach, by the classifier itself.
        forecast: The same beyond all margin, as it is foreseen.
        cost: What plans cost.
        limits: What plans may set.
        doubt: Measures how sure plans are, by the classifier itself.
        quantile: Margin in spreads.
        patterns: Improve plans on the forecast by trials, at first and later; ``None`` where there
            are slopes.
        scale: Spread of each column, above 0, shape ``(d,)``.
    """

    def __init__(
        self,
        recall: Recall,
        retrieval: Retrieval,
        target: Target,
        forecast: ForecastTarget,
        cost: Cost,
        limits: PlanLimits,
        doubt: Doubt,
        quantile: float,
        patterns: tuple[PatternSearch, ...] | None,
        scale: Tensor,
    ) -> None:
        self._recall, self._retrieval = recall, retrieval
        self._target, self._forecast = target, forecast
        self._cost, self._limits = cost, limits
        self._doubt, self._quantile, self._patterns = doubt, quantile, patterns
        self._near = NEAR if patterns is None else NEAR_BLIND
        self._spare = SPARE * forecast.unit
        self._scale = scale
        self._rounding = Rounding(forecast, cost, limits, SHARES)
        self._branching = Branching(forecast, cost, limits, self._rounding)
        encoding = limits.encoding
        self._is_number = torch.zeros(encoding.n_columns, dtype=torch.bool)
        self._is_number[encoding.actionable] = True

    @property
    def effort(self) -> int:
        """Counterfactuals computed for each person at most, but for those under doubt."""
        return TURNS if self._patterns is None else TURNS + MEASURED[0] + OTHERWISE

    def best(
        self,
        people: People,
        seen: Tensor,
        known: Precedents,
        *,
        times: int = 1,
        notes: Notes | None = None,
    ) -> Foreseen:
        """The cheapest sure plan that is found for each person.

        Args:
            people: n of them, at home.
            seen: What ``Precedents`` compares people by, shape ``(n, inputs)``.
            known: At least one.
            times: How many times the usual plans of others are tried; where it is more than 1,
                those that are thought to hold are checked first, with slopes, too.
            notes: Where to put owner, mask and values of plans on the way, to learn from.
        """
        n, starts = len(people), []
        walks, checks = self._patterns is None and times == 1, MEASURED[min(times, 2) - 1]
        found = Foreseen.none(people, self._doubt)
        near = self.near(seen, known, times * self._near)
        for rows in torch.split(torch.arange(n), max(1, AT_ONCE // (times * self._near))):
            some = people[rows]
            plans, _ = self._recall.fitted(some, near[rows], known)
            outlook = self._forecast.outlook(some[plans.owner], plans.mask, plans.values)
            looks_sure = outlook[:, 1] >= SAFE * self._forecast.unit
            found.expect(rows, plans, outlook, looks_sure=looks_sure)
            if walks:
                own = self._promising(plans, outlook[:, 1], looks_sure)
            else:
                own = self._likely(plans, outlook, checks)
            starts.append((rows[own[0]], *own[1:]))
        owner, mask, values, aim = (torch.cat(parts) for parts in zip(*starts, strict=True))
        if walks:
            trials = self._walked(self._trials(people, owner, mask, values, aim), n, notes)
        else:
            sure = self._sure(people, (owner, mask, values, aim), found, checks)
            trials = self._improved(self._trials(people, *sure), people, 0)
        self._settle(trials, people, found, notes)
        return found

    def _settle(
        self, trials: _Trials, people: People, found: Foreseen, notes: Notes | None
    ) -> None:
        """Check trials, and move them a little as long as that pays; keep the best.

        Args:
            trials: At most one of each person.
            people: All of them.
            found: Where to put what is better.
            notes: See ``best``.
        """
        for turn in range(TURNS):
            trials = trials[(trials.cost < found.least[trials.owner]).nonzero().squeeze(1)]
            if notes is not None:
                notes.append((trials.owner, *trials.whole))
            if not len(trials.owner):
                break
            ahead, margin, off, uncertainty = self._checked(trials)
            own = (*trials.whole, trials.cost)
            found.take(trials.owner, own, ahead, margin, uncertainty)
            beyond = ahead - margin
            is_off = (beyond < 0) | (beyond > self._spare)
            if turn + 1 >= FAILURES:
                is_off &= found.is_sure[trials.owner]
            rows = is_off.nonzero().squeeze(1)
            if turn + 1 == TURNS or not len(rows):
                break
            further = self._further(trials[rows], off[rows], people, found)
            trials = self._improved(further, people, turn + 1)

    def near(self, seen: Tensor, known: Precedents, count: int) -> Tensor:
        """Positions of the plans of others that are looked at, shape ``(n, count)``.

        Args:
            seen: See ``best``.
            known: See ``best``.
            count: Plans of each person; fewer where not so many are known.
        """
        if self._patterns is None:
            return self._retrieval.best(seen, known, count)
        alike = known.near(seen, count - count // 2)
        return torch.cat([alike, self._retrieval.best(seen, known, count // 2, alike)], dim=1)

    def tried(self, people: People, at: Tensor, known: Precedents) -> Tried:
        """How plans of others suit people, on the forecast.

        Args:
            people: n of them, at home.
            at: Positions of plans to try on each, shape ``(n, k)``, int64.
            known: All plans.
        """
        parts = []
        for rows in torch.split(torch.arange(len(people)), max(1, AT_ONCE // at.shape[1])):
            some = people[rows]
            plans, place = self._recall.fitted(some, at[rows], known)
            beyond = self._forecast.outlook(some[plans.owner], plans.mask, plans.values)[:, 1]
            is_sure = beyond >= SAFE * self._forecast.unit
            costs = (self._promise(plans, beyond), plans.cost.where(is_sure, torch.inf))
            table = torch.full((2, at[rows].numel()), torch.inf)
            table[:, place] = torch.stack(costs).float()
            parts.append(Tried(at[rows], *table.view(2, *at[rows].shape)))
        return Tried.joined(parts)

    def outcomes(self, people: People, mask: Tensor, values: Tensor) -> Outcomes:
        """What plans bring, followed for real.

        Args:
            people: n rows, at home.
            mask: Shape ``(n, d)``, bool.
            values: Same shape.
        """
        parts = []
        for rows in torch.split(torch.arange(len(mask)), AT_ONCE):
            some = people[rows]
            bare, seen = self._forecast.described(some, mask[rows], values[rows])
            ahead, margin, _ = self._followed(some, mask[rows], values[rows])
            parts.append(Outcomes(seen, bare, torch.stack([ahead, ahead - margin], dim=1)))
        return Outcomes.joined(parts)

    def _followed(
        self, people: People, mask: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Uncertainty]:
        """How far past the decision plans really lead, and the margin that each needs."""
        bare = replace(people, aim=None)
        ahead, reached = self._target.surplus_and_rows(bare, mask, values)
        uncertainty = self._doubt.of(people, mask, values, reached)
        return ahead, uncertainty.margin(self._quantile), uncertainty

    def _checked(self, trials: _Trials) -> tuple[Tensor, Tensor, Tensor, Uncertainty]:
        """How far plans really lead and have to; by how much the forecast exceeds that."""
        parts = (replace(trials.people, aim=None), trials.mask, trials.values)
        ahead, margin, uncertainty = self._followed(*parts)
        off = self._forecast.surplus(*parts) - (ahead - margin)
        return ahead, margin, off.nan_to_num(0.0, MOST_OFF, -MOST_OFF), uncertainty

    def _promising(self, plans: Candidates, beyond: Tensor, looks_sure: Tensor) -> Starts:
        """Plans of others that look cheapest, done as far as it takes, and staying where one is.

        Among them the cheapest that looks sure as it is: there is something to end with. Walks
        without moves between levels start at the numbers of the plan that leads farthest: where
        people stand, slopes may lead nowhere.

        Args:
            plans: Of n people.
            beyond: How far past their margin these are thought to lead.
            looks_sure: Whether that is far enough, bool.

        Returns:
            Owner, mask, values and aim of each start.
        """
        people, owner, n = plans.people, plans.owner, len(plans.people)
        promise = self._promise(plans, beyond)
        as_is = torch.where(looks_sure, plans.cost, torch.inf)
        top = _joined(_cheapest(promise, owner, n, STARTS), _cheapest(as_is, owner, n, 1))
        ahead, far = people.x.clone(), _cheapest(-beyond, owner, n, 1)
        whose = owner[far]
        ahead[whose] = torch.where(self._is_number, plans.values[far], people.x[whose])
        every = people.limits.widest
        home = people.limits.allows(every).nonzero().squeeze(1)
        owner = torch.cat([owner[top], home])
        order = owner.argsort(stable=True)
        mask = torch.cat([plans.mask[top], every[home]])[order]
        values = torch.cat([plans.values[top], ahead[home]])[order]
        return owner[order], mask, values, torch.full_like(values[:, 0], SLACK)

    def _promise(self, plans: Candidates, beyond: Tensor) -> Tensor:
        """What plans cost done as far as it takes; infinite where they do not lead there."""
        lacks = -self._forecast.standing(plans.people).clamp(max=-SLACK)
        share = (beyond / lacks[plans.owner] + 1).clamp(min=SLACK, max=MOST_SHARE)
        promise = plans.cost * share.pow(-self._cost.degree)
        return torch.where(share < LEAST_SHARE, torch.inf, promise)

    def _likely(self, plans: Candidates, outlook: Tensor, count: int) -> Starts:
        """Plans of others that are likely to be sure, the cheapest of each person, and safer ones.

        And some that are less likely to be, but so cheap that a check is worth its time, as in
        expected improvement (Jones, Schonlau & Welch 1998, Journal of Global Optimization 13). Of
        whom none is likely, the surest ones, and those that lead farthest.

        Args:
            plans: Of n people.
            outlook: How far past the decision, and past their margin, these are thought to lead.
            count: Plans of each person.

        Returns:
            Owner, mask, values and outlook of each.
        """
        owner, n, (ahead, beyond) = plans.owner, len(plans.people), outlook.unbind(dim=1)
        is_likely, cost = beyond >= -self._spare, plans.cost.double()
        rank = torch.where(is_likely, cost, torch.inf)
        least = rank.new_full((n,), torch.inf).scatter_reduce(0, owner, rank, "amin")[owner]
        has_likely = torch.isfinite(least)
        hoped = torch.where(has_likely, self._hoped(cost, least, beyond), -torch.inf)
        rank = torch.where(has_likely, rank, FAR - beyond)
        chosen = [_cheapest(rank, owner, n, count), _cheapest(-beyond, owner, n, 1)]
        for share in SAFER:
            safe = torch.where(beyond >= share * self._forecast.unit, cost, torch.inf)
            chosen.append(_cheapest(safe, owner, n, 1))
        farthest = torch.where(has_likely, torch.inf, -ahead)
        chosen.append(_cheapest(-hoped, owner, n, BOLD))
        top = _joined(*chosen, _cheapest(farthest, owner, n, OTHERWISE))
        return owner[top], plans.mask[top], plans.values[top], outlook[top]

    def _hoped(self, cost: Tensor, least: Tensor, beyond: Tensor) -> Tensor:
        """Share of the cost of what is likely to be sure that each plan is hoped to save.

        Plans that are thought to fall short a little save much, or are not sure. Minus infinity
        where that does not pay.
        """
        hoped = (1 - cost / least) * torch.sigmoid(beyond / (DOUBTED * self._forecast.unit))
        return torch.where(hoped >= WORTH, hoped, -torch.inf)

    def _sure(self, people: People, likely: Starts, best: Foreseen, checks: int) -> Starts:
        """The cheapest of each person that turns out to be sure.

        Whose plan brings less than was thought, needs one that is thought to bring so much more.

        Args:
            people: n of them.
            likely: See ``_likely``.
            best: Where to put the best of each person.
            checks: Of each person's plans, at most; the cheapest come first.
        """
        owner, mask, values, outlook = likely
        hoped, beyond = outlook.unbind(dim=1)
        some, n = people[owner], len(people)
        cost = self._cost(some.x, mask, values, some.weights).double()
        is_open, aim = torch.ones_like(owner, dtype=torch.bool), torch.full_like(beyond, torch.inf)
        worst = torch.full((n,), -torch.inf, dtype=beyond.dtype)
        shown = torch.full_like(best.outlook, -torch.inf)
        for turn in range(checks + OTHERWISE):
            rank = torch.where(beyond >= worst[owner], cost, FAR - beyond)
            if turn == MEASURED[0]:
                # Whose plans have all failed so far, hardly ever has one that does not.
                is_open &= best.is_sure[owner] | ~torch.isfinite(best.cost[owner])
            if turn >= checks:
                is_open &= ~torch.isfinite(best.cost[owner])
                rank = -hoped
            rank = torch.where(is_open, rank, torch.inf)
            rows = lowest(rank, owner, n, 1)
            rows = rows[is_open[rows]]
            if not len(rows):
                break
            own = (mask[rows], values[rows], cost[rows])
            ahead, margin, uncertainty = self._followed(some[rows], *own[:2])
            best.take(owner[rows], own, ahead, margin, uncertainty)
            off, whose = beyond[rows] - ahead + margin, owner[rows]
            fails = ahead < margin
            aim[rows] = torch.where(fails, torch.inf, off)
            worst[whose] = torch.where(fails, torch.maximum(worst[whose], off), -torch.inf)
            real = torch.stack([ahead, ahead - margin], dim=1)
            shown[whose] = torch.maximum(shown[whose], real)
            is_open[rows] = False
            is_open &= cost < best.least[owner]
        best.outlook[owner] = shown[owner]
        top = _cheapest(torch.where(torch.isfinite(aim), cost, torch.inf), owner, n, 1)
        return owner[top], mask[top], values[top], _bounded(aim[top])

    def _trials(
        self, people: People, owner: Tensor, mask: Tensor, values: Tensor, aim: Tensor
    ) -> _Trials:
        """Plans of some people, split into moves between levels and numbers on top."""
        some = people[owner]
        moves, numbers = mask & ~self._is_number, mask & self._is_number
        given = Intervention(moves, torch.where(moves, values, some.x))
        spent = self._cost.of(some.x, given, some.weights)
        worlds = replace(some.after(given), aim=aim)
        price = self._cost(some.x, numbers, values, some.weights)
        return _Trials(owner, worlds, spent, numbers, values, price)

    def _walked(self, trials: _Trials, n: int, notes: Notes | None) -> _Trials:
        """Walks from all starts, and where the best one of each person ends on the grid."""
        walks, owner, spent = self._walks(trials), trials.owner, trials.spent
        nobody = walks.cost.new_full((n,), torch.inf)
        for step in range(STEPS):
            if step:
                best = nobody.scatter_reduce(0, owner, spent + walks.best_cost, "amin")
                stands_at = spent + torch.minimum(walks.cost, walks.best_cost)
                rows = (stands_at <= HOPEFUL * best[owner]).nonzero().squeeze(1)
                walks, owner, spent = walks.of(rows), owner[rows], spent[rows]
            walks.step(is_last=step + 1 == STEPS)
        walks.settle(PUSHES)
        if notes is not None:
            price = walks.cost
            every = _Trials(owner, walks.people, spent, walks.mask, _reached(walks), price)
            notes.append((owner, *every.whole))
        top = lowest(spent + walks.promise, owner, n, 1)
        walks, owner, spent = walks.of(top), owner[top], spent[top]
        smooth = walks.best_cost
        self._tell(walks)
        nothing = torch.zeros_like(owner)
        found = Found(walks.mask.clone(), _reached(walks), walks.best_cost.clone(), nothing)
        if self._limits.has_grid:
            rows = (found.cost > COARSE * smooth).nonzero().squeeze(1)
            found.put(rows, self._branching.improved(walks.people[rows], found[rows]))
        mask, values = self._spared(walks.people, found.mask, found.values)
        price = self._cost(walks.people.x, mask, values, walks.people.weights)
        return _Trials(owner, walks.people, spent, mask, values, price)

    def _spared(self, people: People, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Plans without actions that hardly anybody would notice, where they do without."""
        moved = (values - people.x).abs() / self._scale
        spared = mask & (moved >= TINY)
        may = (spared != mask).any(dim=1) & spared.any(dim=1) & people.limits.keeps_rules(spared)
        rows = may.nonzero().squeeze(1)
        if len(rows):
            fewer = torch.where(spared[rows], values[rows], people.x[rows])
            works = self._forecast.surplus(people[rows], spared[rows], fewer) >= 0
            rows, fewer = rows[works], fewer[works]
            mask = mask.index_put((rows,), spared[rows])
            values = values.index_put((rows,), fewer)
        return mask, values

    def _improved(self, trials: _Trials, people: People, turn: int) -> _Trials:
        """A little closer to what the aim asks for, the cheapest of each person."""
        if self._patterns is None:
            walks = self._walks(trials)
            for step in range(FEW_STEPS):
                walks.step(is_last=step + 1 == FEW_STEPS)
            walks.settle(PUSHES)
            self._tell(walks)
            values = _reached(walks)
            price = self._cost(walks.people.x, walks.mask, values, walks.people.weights)
            trials = replace(trials, values=values, price=price)
            return trials[lowest(trials.cost, trials.owner, len(people), 1)]
        surplus = self._forecast.surplus(trials.people, trials.mask, trials.values)
        price = torch.where(surplus >= 0, trials.price, torch.inf)
        each = torch.arange(len(price))
        parts = (trials.people, each, trials.mask, trials.values, price, torch.zeros_like(each))
        better = self._patterns[min(turn, 1)].improved(Candidates(*parts))
        trials = replace(trials, values=better.values, price=better.cost)
        return trials[lowest(trials.cost, trials.owner, len(people), 1)]

    def _further(self, trials: _Trials, off: Tensor, people: People, found: Foreseen) -> _Trials:
        """Plans that aim as much further as the forecast exceeds what they bring.

        Where a plan is not sure but another one is, that is what is started from: trials may lead
        back to where the forecast is wrong.
        """
        owner = trials.owner
        is_sure = found.is_sure[owner][:, None]
        mask, values = trials.whole
        mask = torch.where(is_sure, found.mask[owner], mask)
        values = torch.where(is_sure, found.values[owner], values)
        return self._trials(people, owner, mask, values, _bounded(off))

    def _walks(self, trials: _Trials) -> Descent:
        return Descent(self._forecast, self._cost, trials.people, trials.mask, trials.values)

    def _tell(self, walks: Descent) -> None:
        """Bring walks to steps and levels."""
        if self._limits.has_grid:
            walks.take(self._rounding.rounded(walks.people, walks.mask, _reached(walks)))


def _cheapest(rank: Tensor, owner: Tensor, n: int, count: int) -> Tensor:
    """``lowest`` without those that are infinite."""
    top = lowest(rank, owner, n, count)
    return top[torch.isfinite(rank[top])]


def _joined(*positions: Tensor) -> Tensor:
    """All positions once, rising."""
    joined: Tensor = torch.unique(torch.cat(positions))
    return joined


def _reached(walks: Descent) -> Tensor:
    """The best plans of walks that have one, else where they stand."""
    works = torch.isfinite(walks.best_cost)[:, None]
    return torch.where(works, walks.best_values, walks.values)


def _bounded(off: Tensor) -> Tensor:
    """What to aim at where a forecast is so much too high."""
    return off.clamp(-LEAST_OFF, MOST_OFF) + SLACK


# Plans of others that are tried at once, as many as stay in the processor's cache; plans tried on
# each person, with slopes and without.
AT_ONCE, NEAR, NEAR_BLIND = 1 << 13, 12, 112
# Walks of each person that start at one of these, besides that which looks sure as it is.
STARTS = 1
# Steps of these walks, and of those after a check; how many times the cost of another one's plan
# walks may stand at after the first.
STEPS, FEW_STEPS, HOPEFUL = 2, 1, 3.0
# Shares by which numbers on steps are drawn back, one after the other.
SHARES = (0.3, 0.0, 0.0)
# How much dearer plans are on steps and levels than between them where others are tried.
COARSE = 1.5
# How much longer plans are made that stop a hair before their aim.
PUSHES = (1e-5, 3e-3, 0.1)
# Checks of each person's plans at most, and where none of them shows one to be sure; what past
# the margin is not worth another one, as a share of the log-odds that people typically lack.
TURNS, FAILURES, SPARE = 4, 2, 0.03
# Plans of others that are checked for each person before one is improved, usually and where more
# are tried; more for those who have no plan at all.
MEASURED, OTHERWISE = (7, 10), 2
# Of these, at most, those that are less likely to be sure but hoped to save this share of the cost;
# how far forecasts are off, as a share of the log-odds that people typically lack.
BOLD, WORTH, DOUBTED = 3, 0.02, 0.1
# What a plan is thought to have beyond its margin where it looks sure, and where it is ever safer,
# as shares of the log-odds that people typically lack.
SAFE, SAFER = 0.05, (0.1, 0.25, 0.5, 1.0)
# Log-odds by which forecasts are corrected at most, down and up, and that are asked for besides.
LEAST_OFF, MOST_OFF, SLACK = 2.0, 4.0, 1e-4
# Shares of what a person lacks that a plan of another one has to make up for, and that count.
LEAST_SHARE, MOST_SHARE = 0.3, 1.7
# Ranks plans that are likely not to be sure behind all that are.
FAR = 1e9
# Changes below this many standard deviations go unnoticed.
TINY = 2e-3
