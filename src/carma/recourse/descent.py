"""Sequential quadratic steps towards the cheapest plan, many walks in one batch."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from carma.costs import Cost
from carma.recourse.halfspace import cheapest_change
from carma.recourse.target import People, Target

__all__ = ["PUSHES", "Descent"]

# How much longer plans get that stopped a hair before the boundary.
PUSHES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)


class Descent:
    """Walks to the cheapest plan of a given set of features, each from its own start.

    Every step linearises the surplus where the walk stands, takes the quadratic around the person
    that has the cost's slope there (``Cost.prices``), solves the problem that results (cheapest
    plan past the linearised boundary, inside the person's box) in closed form, and goes to its
    solution. The step is taken only if it lowers an exact penalty function, cost
    plus multiplier times shortfall. Where it lowers that by much less than the linear problem
    promised, the next step is pulled three times as strongly to where the walk stands: along the
    boundary first, and towards it only after several such steps. Every plan on the way that
    works competes for the best.

    Args:
        target: What to reach.
        cost: What plans cost.
        people: One row a walk.
        mask: Features set, shape ``(n, d)``.
        start: Values to start from, shape ``(n, d)``.

    Attributes:
        best_cost: Of the best plan so far that works, infinite without one, ``(n,)``.
        best_values: Its values, ``(n, d)``.
        best_surplus: Its surplus, ``(n,)``; minus infinity without a plan.

    References:
        Nocedal & Wright 2006, Numerical Optimization, chapter 18;
        Drusvyatskiy & Paquette 2019, Mathematical Programming 178 (the pull).
    """

    def __init__(
        self, target: Target, cost: Cost, people: People, mask: Tensor, start: Tensor
    ) -> None:
        self._target, self._people, self._price_of = target, people, cost
        self.mask = mask
        self.values = torch.where(mask, start, people.x)
        self._slope: Tensor | None
        self._surplus, self._slope = target.surplus_and_slope(people, mask, self.values)
        self._cost = self._cost_of(self.values)
        self._penalty = torch.zeros_like(self._cost)
        self._length = torch.ones_like(self._cost)
        works = self._surplus >= 0
        self.best_cost = torch.where(works, self._cost, torch.inf)
        self.best_values = self.values
        self.best_surplus = torch.where(works, self._surplus, -torch.inf)

    def __len__(self) -> int:
        """Number of walks."""
        return len(self.values)

    @property
    def promise(self) -> Tensor:
        """What to rank walks by, ``(n,)``: the best plan's cost, else by far more the merit."""
        works = torch.isfinite(self.best_cost)
        return torch.where(works, self.best_cost, FAR + self._merit(self._cost, self._surplus))

    @property
    def cost(self) -> Tensor:
        """Of where the walks stand, whether that works or not, ``(n,)``."""
        return self._cost

    @property
    def people(self) -> People:
        """Whose walks these are, with what they aim at."""
        return self._people

    def aim_at(self, aim: Tensor) -> None:
        """Go on from where the walks stand, to another aim; see ``People.aim``."""
        before = self._people.aim
        ahead = self.best_surplus - aim if before is None else self.best_surplus + (before - aim)
        is_kept = ahead >= 0
        self.best_cost = torch.where(is_kept, self.best_cost, torch.inf)
        self.best_surplus = torch.where(is_kept, ahead, -torch.inf)
        self._people = replace(self._people, aim=aim)
        self._surplus = self._target.surplus(self._people, self.mask, self.values)
        self._note(self.values, self._surplus, self._cost)
        self._length = torch.ones_like(self._cost)

    def step(self, *, is_last: bool = False) -> None:
        """Take one step in every walk.

        Args:
            is_last: Whether nothing but ``settle`` and ``take`` follows: slopes where it leads
                are then spared, and ``settle`` goes by those where it started.
        """
        box, length, slopes = self._people.limits, self._length[:, None], self._slopes
        # Cost plus a pull to where the walk stands is least at a point on the way to the person.
        goal = self.values + length * (self._people.x - self.values)
        # Branches pin values that people do not have.
        goal = goal.clamp(box.lower, box.upper)
        needed = (slopes * (self.values - goal)).sum(dim=1) - self._surplus
        slack = SLACK * (1 + needed.abs())
        lower = torch.where(self.mask, (box.lower - goal).clamp(max=0), 0.0)
        upper = torch.where(self.mask, (box.upper - goal).clamp(min=0), 0.0)
        prices = self._price_of.prices(self._people.x, self.mask, self.values, self._people.weights)
        change, multiplier = cheapest_change(prices, slopes, needed + slack, lower, upper)
        # The multiplier is half the price of surplus, of which the pull leaves out a part: twice
        # that price makes the penalty exact.
        price = 2 * multiplier / self._length
        self._penalty = torch.maximum(self._penalty, 2 * price).clamp(max=HIGHEST)
        share = (PATIENCE * length).clamp(max=1)
        trial = self._inside(self.values + share * (goal + change - self.values))
        slope = None
        if is_last:
            surplus = self._target.surplus(self._people, self.mask, trial)
        else:
            surplus, slope = self._target.surplus_and_slope(self._people, self.mask, trial)
        cost = self._cost_of(trial)
        merit = self._merit(self._cost, self._surplus)
        expected = self._surplus + (slopes * (trial - self.values)).sum(dim=1)
        promised = merit - self._merit(cost, expected)
        gained = merit - self._merit(cost, surplus)
        # Without a price, merit alone would take every plan that works back to the person.
        is_lost = (self._penalty == 0) & (self._surplus >= 0) & (surplus < 0)
        taken = (gained > 0) & ~is_lost
        self._note(trial, surplus, cost)
        self._surplus = torch.where(taken, surplus, self._surplus)
        self._cost = torch.where(taken, cost, self._cost)
        self.values = torch.where(taken[:, None], trial, self.values)
        if slope is not None:
            self._slope = torch.where(taken[:, None], slope, slopes)
        is_poor = ~taken | (gained < POOR * promised)
        longer = torch.where(gained > GOOD * promised, 2 * self._length, self._length)
        self._length = torch.where(is_poor, self._length / 3, longer).clamp(SHORTEST, 1)

    def settle(self, pushes: tuple[float, ...] = PUSHES) -> Tensor:
        """Push walks that stopped a hair before the boundary over it.

        Args:
            pushes: How much longer plans get, as shares, one after the other.

        Returns:
            How many were tried for each walk, shape ``(n,)``, int64.
        """
        tried = torch.zeros(len(self), dtype=torch.long)
        is_short = (self._surplus < 0) & (self._cost < self.best_cost)
        # Where slopes say that it takes several times the longest push, none is tried.
        gained = (self._slopes * (self.values - self._people.x)).sum(dim=1).clamp(min=0)
        is_near = -self._surplus <= HAIR + TRUST * pushes[-1] * gained
        rows = (is_short & is_near).nonzero().squeeze(1)
        if not len(rows):
            return tried
        k = len(pushes)
        tried[rows] = k
        people, mask = self._people[rows].repeated(k), self.mask[rows].repeat_interleave(k, 0)
        start, x, box = self.values[rows].repeat_interleave(k, 0), people.x, people.limits
        push = torch.tensor(pushes, dtype=x.dtype).repeat(len(rows))[:, None]
        further = (x + (1 + push) * (start - x)).clamp(box.lower, box.upper)
        trial = torch.where(mask, further, x)
        surplus = self._target.surplus(people, mask, trial)
        cost = self._price_of(x, mask, trial, people.weights)
        cost = torch.where(surplus >= 0, cost, torch.inf).view(-1, k)
        least, place = cost.min(dim=1)
        better = least < self.best_cost[rows]
        chosen, to = (place + k * torch.arange(len(rows)))[better], (rows[better],)
        self.best_cost = self.best_cost.index_put(to, least[better])
        self.best_values = self.best_values.index_put(to, trial[chosen])
        self.best_surplus = self.best_surplus.index_put(to, surplus[chosen])
        return tried

    def take(self, values: Tensor) -> None:
        """Go to given values, and forget the best plans so far."""
        self.values = values
        self._surplus, self._slope = self._target.surplus(self._people, self.mask, values), None
        self._cost = self._cost_of(values)
        works = self._surplus >= 0
        self.best_cost = torch.where(works, self._cost, torch.inf)
        self.best_values = self.values
        self.best_surplus = torch.where(works, self._surplus, -torch.inf)

    @property
    def _slopes(self) -> Tensor:
        """Of the surplus where the walks stand, shape ``(n, d)``."""
        if self._slope is None:
            found = self._target.surplus_and_slope(self._people, self.mask, self.values)
            self._slope = found[1]
        return self._slope

    def keep(self, rows: Tensor) -> None:
        """Go on with these walks only."""
        self._people = self._people[rows]
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])

    def of(self, rows: Tensor) -> Descent:
        """Some of the walks, which then go on by themselves."""
        some = copy(self)
        some.keep(rows)
        return some

    def _note(self, values: Tensor, surplus: Tensor, cost: Tensor) -> None:
        better = (surplus >= 0) & (cost < self.best_cost)
        self.best_cost = torch.where(better, cost, self.best_cost)
        self.best_values = torch.where(better[:, None], values, self.best_values)
        self.best_surplus = torch.where(better, surplus, self.best_surplus)

    def _inside(self, values: Tensor) -> Tensor:
        # Not x + (bound - x), which rounds past the bound: no plan there would work.
        box = self._people.limits
        return torch.where(self.mask, values.clamp(box.lower, box.upper), self._people.x)

    def _merit(self, cost: Tensor, surplus: Tensor) -> Tensor:
        # Infinitely short where nothing is defined; 0 times that would be NaN.
        return cost + self._penalty * (-surplus).clamp(min=0, max=FAR)

    def _cost_of(self, values: Tensor) -> Tensor:
        return self._price_of(self._people.x, self.mask, values, self._people.weights)


# Aim this far past the linearised boundary, relative to the distance.
SLACK = 1e-9
# Ranks walks without a plan behind all that have one.
FAR = 1e9
# Of the penalty, which would be infinite where all slopes vanish.
HIGHEST = 1e100
# Log-odds that pushes are tried for in any case; how often slopes are taken to be too flat.
HAIR, TRUST = 1e-6, 3.0
# How small steps along the boundary get before those towards it become smaller too.
PATIENCE = 81
# Shares of what was promised; least length of a step, from which on nothing is to be gained.
POOR, GOOD = 0.1, 0.5
SHORTEST = 1e-6
