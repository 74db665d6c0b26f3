"""Search without slopes: along coordinates and directions, many plans in one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.recourse.candidates import Candidates, lowest
from carma.recourse.target import People, Target
from carma.state import seeded

__all__ = ["PatternSearch"]


class PatternSearch:
    """Improves plans by trial: for classifiers without slopes, and for steps and levels.

    Every round tries, for each plan, moves of one coordinate towards the person (one step, a
    part of the way, all of it), the whole plan drawn towards the person, and random directions.
    A trial of a plan that works is first scaled to cost a little less than that plan, so that
    one evaluation tells whether it is better; one that does not work yet tries to come nearer.
    The best trial is taken; how far trials reach adapts to each plan's success.

    Args:
        target: What to reach.
        cost: What plans cost.
        limits: Moves values to steps and levels.
        shares: Starts as shares of the box, shape ``(s, d)``.
        keep: Plans of each person that are improved.
        rounds: Rounds of trials.
        reach: How far first trials go, as a share of the box.
        seed: Of the directions, which are the same for every person.

    References:
        Kolda, Lewis & Torczon 2003, Optimization by direct search, SIAM Review 45(3).
    """

    def __init__(
        self,
        target: Target,
        cost: Cost,
        limits: PlanLimits,
        shares: Tensor,
        keep: int,
        rounds: int,
        reach: float = 0.2,
        seed: int = 0,
    ) -> None:
        self._target, self._cost, self._limits = target, cost, limits
        self._shares, self._keep, self._seed = shares, keep, seed
        self._rounds, self._reach = rounds, reach
        steps = [limits.step(column) for column in range(limits.encoding.n_columns)]
        self._least = torch.tensor(steps, dtype=torch.float64)

    @property
    def n_trials(self) -> int:
        """Counterfactuals computed to improve one plan."""
        return 1 + self._rounds * (INWARD + OUTWARD + 1 + N_DIRECTIONS)

    def candidates(self, people: People, masks: Tensor) -> Candidates:
        """Scan the box from every start, draw what works towards the person, improve the best.

        See ``WalkSearch.candidates``.
        """
        n, s = len(people), len(self._shares)
        person, subset = masks.any(dim=2).nonzero(as_tuple=True)
        owner = person.repeat_interleave(s)
        some = people[owner]
        mask = masks[person, subset].repeat_interleave(s, 0)
        share = self._shares.repeat(len(person), 1)
        start = some.limits.lower + share * (some.limits.upper - some.limits.lower)
        values, surplus = self._drawn_in(some, mask, start)
        cost = torch.where(surplus >= 0, self._cost(some.x, mask, values, some.weights), torch.inf)
        # Among plans that do not work, those that come nearest.
        rank = torch.where(surplus >= 0, cost, FAR - surplus.clamp(min=-FAR))
        group = torch.arange(len(person)).repeat_interleave(s)
        chosen = lowest(rank, group, len(person), -(-s // PER_SET))
        chosen = chosen[lowest(rank[chosen], owner[chosen], n, self._keep)]
        effort = (2 + HALVINGS) * torch.bincount(owner, minlength=n)
        return self.improved(
            Candidates(people, owner[chosen], mask[chosen], values[chosen], cost[chosen], effort)
        )

    def improved(self, plans: Candidates) -> Candidates:
        """Improve given plans, which may not work or not lie on steps and levels yet."""
        people, mask = plans.people[plans.owner], plans.mask
        x, box = people.x, people.limits
        if not bool(mask.any()):
            return plans
        width = torch.where(mask, (box.upper - box.lower).clamp(max=WIDEST), 0.0)
        values = self._said(people, mask, plans.values)
        surplus = self._target.surplus(people, mask, values)
        weights = people.weights
        cost = self._cost(x, mask, values, weights)
        each_weight = None if weights is None else weights[:, None]
        fixed = self._cost.per_action * mask.sum(dim=1, keepdim=True)
        draws, tried = seeded(self._seed), 1
        reach = torch.full_like(cost, self._reach)
        for turn in range(self._rounds):
            trials = self._trials(people, mask, values, width, reach, turn, draws)
            k = trials.shape[1]
            tried += k
            works = (surplus >= 0)[:, None]
            own = cost[:, None].expand(-1, k)
            each = mask[:, None].expand_as(trials)
            here = x[:, None].expand_as(trials)
            asked = (1 - GAIN * reach[:, None]) * own
            price = self._cost(here, each, trials, each_weight)
            # The cost of x + t (v - x) grows with t to the power of its degree.
            share = (asked - fixed).clamp(min=0) / (price - fixed).clamp(min=1e-300)
            shrink = share.pow(1 / self._cost.degree).clamp(max=1)
            trials = torch.where(
                works[..., None], here + shrink[..., None] * (trials - here), trials
            )
            many = people.repeated(k)
            flat = self._said(many, each.flatten(0, 1), trials.flatten(0, 1))
            got = self._target.surplus(many, each.flatten(0, 1), flat).view(-1, k)
            trials = flat.view_as(trials)
            price = self._cost(here, each, trials, each_weight)
            better = torch.where(
                works, (got >= 0) & (price < own), (got > surplus[:, None]) | (got >= 0)
            )
            rank = torch.where(got >= 0, price, FAR - got.clamp(min=-FAR))
            best = torch.where(better, rank, torch.inf).argmin(dim=1)
            row = torch.arange(len(best))
            moved = better.any(dim=1)
            values = torch.where(moved[:, None], trials[row, best], values)
            cost = torch.where(moved, price[row, best], cost)
            surplus = torch.where(moved, got[row, best], surplus)
            reach = torch.where(moved, (1.5 * reach).clamp(max=1), (0.7 * reach).clamp(min=1e-9))
        n_plans = torch.bincount(plans.owner, minlength=len(plans.people))
        effort = plans.n_evaluations + tried * n_plans
        cost = torch.where(surplus >= 0, cost, torch.inf)
        return Candidates(plans.people, plans.owner, mask, values, cost, effort)

    def _trials(
        self,
        people: People,
        mask: Tensor,
        values: Tensor,
        width: Tensor,
        reach: Tensor,
        turn: int,
        draws: torch.Generator,
    ) -> Tensor:
        """Trial values, shape ``(w, k, d)``."""
        x = people.x
        far = reach[:, None]
        # The columns that a plan sets take turns: its own ones, whatever other plans set.
        own = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        j = own.gather(1, turn % mask.sum(dim=1, keepdim=True).clamp(min=1))
        gap = (values - x).gather(1, j)
        least = self._least[j]
        trials = [values]
        for part in (far * gap.abs(), 0.5 * gap.abs(), gap.abs()):
            inward = torch.minimum(torch.maximum(part, least), gap.abs())
            trials.append(values.scatter_add(1, j, -gap.sign() * inward))
        outward = torch.maximum(far * width.gather(1, j), least)
        trials += [values.scatter_add(1, j, move) for move in (outward, -outward)]
        directions = torch.randn(N_DIRECTIONS, x.shape[1], generator=draws, dtype=x.dtype)
        trials += [values + far * width * direction for direction in directions]
        box = people.limits
        stacked = torch.stack(trials, dim=1)
        inside = torch.clamp(stacked, box.lower[:, None], box.upper[:, None])
        return torch.where(mask[:, None], inside, x[:, None])

    def _drawn_in(self, people: People, mask: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Plans halved in on the boundary between the person and each start that works."""
        x = people.x
        values = self._said(people, mask, start)
        surplus = self._target.surplus(people, mask, values)
        works = surplus >= 0
        low, high = torch.zeros_like(surplus), torch.ones_like(surplus)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            trial = self._said(people, mask, x + middle[:, None] * (start - x))
            is_enough = self._target.surplus(people, mask, trial) >= 0
            high = torch.where(is_enough & works, middle, high)
            low = torch.where(is_enough, low, middle)
        values = self._said(people, mask, x + high[:, None] * (start - x))
        return values, self._target.surplus(people, mask, values)

    def _said(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        """Values that can be said: inside the box, on steps and levels."""
        said = self._limits.project(people.x, values, people.limits)
        return torch.where(mask, said, people.x)


HALVINGS = 8
# Trials of each round: along the plan, towards the person, away from them, anywhere.
INWARD, OUTWARD = 3, 2
PER_SET = 4
N_DIRECTIONS = 4
# How much cheaper a trial has to be, as a share of its reach.
GAIN = 0.2
# Ranks plans that do not work behind all that do.
FAR = 1e9
WIDEST = 1e9
