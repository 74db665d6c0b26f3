"""What CARMA's networks learn from: the best plans of many sets of features, for many people."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from carma.costs import Cost
from carma.recourse.candidates import Found
from carma.recourse.descent import Descent
from carma.recourse.doubt import Doubt
from carma.recourse.neighbours import Neighbours
from carma.recourse.subsets import all_subsets, n_subsets, set_codes
from carma.recourse.target import Follow, People, Target
from carma.recourse.walks import WalkSearch

__all__ = ["MOST_SETS", "Lessons", "Teacher", "wishful"]


@dataclass(frozen=True)
class Lessons:
    """Plans of m sets of features for each of n people.

    Args:
        people: The people, n of them.
        masks: The sets, shape ``(n, m, d)``, bool.
        values: Of each set's best plan, shape ``(n, m, d)``.
        cost: Of these, shape ``(n, m)``, infinite where the set has no plan.
        margin: Log-odds past the threshold that they need, shape ``(n, m)``; see ``Doubt``.
        slope: Of the surplus in the values, at the plan, shape ``(n, m, d)``.
    """

    people: People
    masks: Tensor
    values: Tensor
    cost: Tensor
    margin: Tensor
    slope: Tensor

    def __len__(self) -> int:
        """Number of people."""
        return len(self.cost)

    def __getitem__(self, rows: Tensor) -> Lessons:
        """The lessons of some people."""
        return Lessons(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    @classmethod
    def joined(cls, parts: list[Lessons]) -> Lessons:
        """Put batches one after the other."""
        people = People.joined([part.people for part in parts])
        names = [entry.name for entry in fields(cls)[1:]]
        return cls(people, *(torch.cat([getattr(p, name) for p in parts]) for name in names))


class Teacher:
    """Finds the best plans of many sets of features, past the margin that each one needs.

    With few features every set is taught; with many, those that a local search visits on its way
    from "everything" to the best one (``Neighbours``).

    Args:
        follow: What is believed to follow.
        target: What to reach without a margin.
        cost: What plans cost.
        doubt: Tells how sure a plan is.
        quantile: Margin in spreads.
        columns: The actionable columns.
        shares: Starts of the walks, see ``WalkSearch``.
    """

    def __init__(
        self,
        follow: Follow,
        target: Target,
        cost: Cost,
        doubt: Doubt,
        quantile: float,
        columns: Tensor,
        shares: Tensor,
    ) -> None:
        self._target, self._cost = target, cost
        self._doubt, self._quantile = doubt, quantile
        self._walks = WalkSearch(target, cost, shares, EXPLORE, len(shares), REFINE)
        self._every = None
        if n_subsets(len(columns)) <= MOST_SETS:
            self._every = all_subsets(columns, shares.shape[1])
        self._neighbours = Neighbours(follow, target, cost, columns, shares.shape[1])

    def lessons(self, people: People) -> Lessons:
        """Find the plans.

        Args:
            people: Rejected people; call it with few enough, memory grows with their number.
        """
        if self._every is not None:
            every = self._every.expand(len(people), -1, -1)
            return self._taught(people, every & people.limits.allows(every)[..., None])
        everything = people.limits.widest
        found = self._walks.candidates(people, everything[:, None]).best()
        visited = [found, *self._neighbours.improved(people, found, ROUNDS)][-VISITED:]
        # Found no plan: nothing is taught.
        visited += [Found.none(people)] * (VISITED - len(visited))
        masks = torch.stack([plans.mask for plans in visited], dim=1)
        codes = set_codes(masks)
        earlier = torch.ones(VISITED, VISITED, dtype=torch.bool).tril(-1)
        is_repeated = ((codes[:, :, None] == codes[:, None]) & earlier).any(dim=2)
        return self._taught(people, masks & ~is_repeated[..., None])

    def _taught(self, people: People, masks: Tensor) -> Lessons:
        parts = [self._one_set(people, masks[:, i]) for i in range(masks.shape[1])]
        stacked = (torch.stack(column, dim=1) for column in zip(*parts, strict=True))
        return Lessons(people, masks, *stacked)

    def _one_set(self, people: People, mask: Tensor) -> tuple[Tensor, ...]:
        """Values, cost, margin and slope of the best plan over one set for each person."""
        found = self._walks.candidates(people, mask[:, None]).best()
        values, cost = found.values, found.cost
        margin = self._margin(people, mask, values)
        for _ in range(MARGINS if self._doubt.n_alternatives else 0):
            some = replace(people, aim=margin)
            walks = Descent(self._target, self._cost, some, mask, values)
            for _ in range(STEPS):
                walks.step()
            walks.settle()
            # Without a plan that far past the threshold, the set is no lesson.
            cost = walks.best_cost
            values = torch.where(torch.isfinite(cost)[:, None], walks.best_values, values)
            margin = self._margin(people, mask, values)
        _, slope = self._target.surplus_and_slope(people, mask, values)
        return values, cost, margin, slope

    def _margin(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        return self._doubt.of(people, mask, values).margin(self._quantile).clamp(max=HIGHEST)


def wishful(people: People, columns: Tensor, draws: torch.Generator) -> People:
    """The same people with random wishes: features frozen, limits narrowed, other weights.

    Args:
        people: n of them, without weights.
        columns: The actionable columns.
        draws: Of the wishes.
    """
    n, d = people.x.shape
    box = people.limits

    def chance(share: float) -> Tensor:
        return torch.rand(n, d, generator=draws) < share

    frozen = chance(FROZEN)
    # Nobody freezes everything.
    spared = columns[torch.randint(len(columns), (n,), generator=draws)]
    frozen[torch.arange(n), spared] = False
    shares = torch.rand(2, n, d, generator=draws, dtype=torch.float64)
    shares = torch.where(chance(NARROWED), shares, 1.0)
    rise, fall = (share.masked_fill(chance(ONE_WAY), 0.0) for share in shares)
    limits = replace(
        box,
        lower=torch.where(fall == 1, box.lower, people.x - fall * (people.x - box.lower)),
        upper=torch.where(rise == 1, box.upper, people.x + rise * (box.upper - people.x)),
        may_act=box.may_act & ~frozen,
    )
    weights = (WEIGHTS * torch.randn(n, d, generator=draws, dtype=torch.float64)).exp()
    weights = torch.where(torch.rand(n, 1, generator=draws) < WEIGHED, weights, 1.0)
    return replace(people, limits=limits, weights=weights)


# All sets are taught up to so many; else the last ones that so many rounds of search visit.
MOST_SETS = 63
ROUNDS = 8
VISITED = 4
# Steps of the walks, and how often the margin is measured anew, with steps in between.
EXPLORE, REFINE = 4, 8
MARGINS, STEPS = 2, 4
# Log-odds that no margin exceeds.
HIGHEST = 30.0
# Random wishes: chances of each, and the spread of the logarithm of weights.
FROZEN, NARROWED, ONE_WAY, WEIGHED, WEIGHTS = 0.25, 0.4, 0.1, 0.4, 0.7
