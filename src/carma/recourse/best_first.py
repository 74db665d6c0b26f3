"""The most promising sets of features, where there are too many to try them all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from carma.costs import Cost
from carma.recourse.halfspace import cheapest_change
from carma.recourse.linear import total_effects
from carma.recourse.subsets import set_codes
from carma.recourse.target import Follow, People, Target

__all__ = ["BestFirst", "LocalModel"]

UNDECIDED, IN, OUT = 0, 1, 2


@dataclass(frozen=True)
class LocalModel:
    """The linear problem that a person's own looks like around one point.

    Args:
        effects: Direct effects ``[p, i, j]`` of column j on column i, shape ``(n, d, d)``.
        slope: Of the surplus in each column, all others held, ``(n, d)``.
        needed: How much the surplus has to rise, ``(n,)``.
    """

    effects: Tensor
    slope: Tensor
    needed: Tensor

    @classmethod
    def around(cls, follow: Follow, target: Target, people: People, at: Tensor) -> LocalModel:
        """Take every mechanism's and the classifier's slopes at given rows.

        Args:
            follow: What the solver believes to follow.
            target: What to reach.
            people: n of them.
            at: Where to take the slopes, shape ``(n, d)``; ``needed`` is measured from there.
        """
        everything = target.settable.expand_as(at)
        surplus, slope = target.surplus_and_slope(people, everything, at)
        effects = torch.zeros(*at.shape, at.shape[1], dtype=at.dtype)
        for i in range(at.shape[1]):
            mask = everything.clone()
            # A nominal feature is set as a whole, or not at all.
            mask[:, target.owners == target.owners[i]] = False
            with torch.enable_grad():
                values = at.detach().requires_grad_()
                moved = follow(people.x, people.do(mask, values), people.u)[:, i]
                if moved.requires_grad:
                    (slopes,) = torch.autograd.grad(moved.sum(), values, allow_unused=True)
                    if slopes is not None:
                        effects[:, i] = slopes.nan_to_num(0.0, 0.0, 0.0)
        return cls(effects, slope, -surplus)

    def meeting(self, mask: Tensor, change: Tensor) -> LocalModel:
        """The same slopes, with as much needed as one plan brings that just works."""
        totals = total_effects(self.effects, self.slope, mask)
        return LocalModel(self.effects, self.slope, (totals * change).sum(dim=1))


class BestFirst:
    """Best-first branch and bound over sets of features on a ``LocalModel``.

    A node has decided for some features whether they are acted on. What one unit of a feature
    brings then lies in an interval: on every path, an undecided feature may block or pass on.
    The cheapest plan with the best of each interval bounds the cost of every set below the node.
    The node with the lowest bound is split at the feature that matters most; every node also
    offers the set that its bound suggests. In a linear problem the bound is a true one, so the
    cheapest set listed is the optimum once no open node is below it; elsewhere it is a guide.

    Args:
        cost: What plans cost.
        columns: The columns that may be set, int64.
        order: All columns, causes before effects.
        count: Sets wanted for each person.
        max_actions: Largest set.
        rounds: At most so many rounds.

    References:
        Land & Doig 1960, Econometrica 28(3).
    """

    def __init__(
        self,
        cost: Cost,
        columns: Tensor,
        order: list[int],
        count: int,
        max_actions: int | None,
        rounds: int,
    ) -> None:
        self._cost = cost
        self._columns, self._order = columns, order
        self._count, self._rounds = count, rounds
        self._max_actions = max_actions or len(columns)

    def subsets(self, people: People, model: LocalModel) -> tuple[Tensor, Tensor]:
        """List sets.

        Args:
            people: n of them; features that a person may not act on are left out.
            model: Their local models.

        Returns:
            Masks ``(n, count, d)``, the most promising first, empty where there are no more;
            and whether no other set can be cheaper in the local model, ``(n,)``, bool.
        """
        n, d = people.x.shape
        choice = torch.full((n, 1, d), OUT, dtype=torch.int8)
        may_act = people.limits.may_act[:, self._columns]
        choice[:, 0, self._columns] = torch.where(may_act, UNDECIDED, OUT).to(torch.int8)
        pool = torch.zeros(n, self._count, d, dtype=torch.bool)
        pool_cost = torch.full((n, self._count), torch.inf, dtype=torch.float64)
        bound, sets, worth = self._bounds(people, model, choice)
        dropped = torch.full((n,), torch.inf, dtype=torch.float64)
        for _ in range(self._rounds):
            pool, pool_cost = self._offered(people, model, sets, pool, pool_cost)
            # Closed: nothing is undecided, or nothing below can beat the best set.
            open_nodes = (choice == UNDECIDED).any(dim=2) & torch.isfinite(worth.amax(dim=2))
            bound = torch.where(open_nodes & (bound < pool_cost[:, :1]), bound, torch.inf)
            if not bool(torch.isfinite(bound).any()):
                break
            top = bound.topk(min(BEAM, bound.shape[1]), dim=1, largest=False)
            picked = choice.gather(1, top.indices[..., None].expand(-1, -1, d))
            value = worth.gather(1, top.indices[..., None].expand(-1, -1, d))
            split = value.argmax(dim=2, keepdim=True)
            children = torch.cat(
                [picked.scatter(2, split, IN), picked.scatter(2, split, OUT)], dim=1
            )
            below, sets, child_worth = self._bounds(people, model, children)
            # A bound never falls below the parent's; a closed parent has no children.
            parent = top.values.repeat(1, 2)
            below, sets = torch.maximum(below, parent), sets & torch.isfinite(parent)[..., None]
            bound = bound.scatter(1, top.indices, torch.inf)
            bound = torch.cat([bound, below], dim=1)
            choice = torch.cat([choice, children], dim=1)
            worth = torch.cat([worth, child_worth], dim=1)
            if bound.shape[1] > FRONTIER:
                kept = bound.sort(dim=1, stable=True)
                dropped = torch.minimum(dropped, kept.values[:, FRONTIER:].amin(dim=1))
                rows = kept.indices[:, :FRONTIER]
                bound = kept.values[:, :FRONTIER]
                choice = choice.gather(1, rows[..., None].expand(-1, -1, d))
                worth = worth.gather(1, rows[..., None].expand(-1, -1, d))
        pool, pool_cost = self._offered(people, model, sets, pool, pool_cost)
        left = torch.minimum(bound.amin(dim=1), dropped)
        return pool, left >= pool_cost[:, 0]

    def _bounds(
        self, people: People, model: LocalModel, choice: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bound of each node, the set it suggests, and what deciding each feature is worth."""
        n, f, d = choice.shape
        low = torch.zeros(n, f, d, dtype=torch.float64)
        high = torch.zeros_like(low)
        passed_low, passed_high = torch.zeros_like(low), torch.zeros_like(low)
        positive = model.effects.clamp(min=0)
        negative = model.effects.clamp(max=0)
        for j in reversed(self._order):
            # Effects of j on its children, (n, 1, d).
            up, down = positive[:, None, :, j], negative[:, None, :, j]
            own = model.slope[:, j, None]
            low[..., j] = own + (up * passed_low + down * passed_high).sum(dim=2)
            high[..., j] = own + (up * passed_high + down * passed_low).sum(dim=2)
            is_in, is_open = choice[..., j] == IN, choice[..., j] == UNDECIDED
            least, most = low[..., j].clone(), high[..., j].clone()
            passed_low[..., j] = torch.where(is_open, least.clamp(max=0), least).masked_fill(
                is_in, 0
            )
            passed_high[..., j] = torch.where(is_open, most.clamp(min=0), most).masked_fill(
                is_in, 0
            )
        usable = choice != OUT
        up_box = torch.where(usable, (people.limits.upper - people.x)[:, None], 0.0)
        down_box = torch.where(usable, (people.limits.lower - people.x)[:, None], 0.0)
        zero = torch.zeros_like(up_box)
        slope = torch.cat([high.clamp(min=0), low.clamp(max=0)], dim=2).flatten(0, 1)
        lower = torch.cat([zero, down_box], dim=2).flatten(0, 1)
        upper = torch.cat([up_box, zero], dim=2).flatten(0, 1)
        price = self._prices(people).repeat(1, 2).repeat_interleave(f, 0)
        needed = model.needed[:, None].expand(n, f).flatten()
        change, _ = cheapest_change(price, slope, needed, lower, upper)
        cost = (price * change.square()).sum(dim=1)
        short = (needed - (slope * change).sum(dim=1)) / (1 + needed.abs())
        # Sets that fall short come behind all that do not, whatever the scale of cost.
        bound = torch.where(short > ROUNDING, FAR * (1 + short), cost).view(n, f)
        moved = change.abs().view(n, f, 2, d).sum(dim=2)
        n_in = (choice == IN).sum(dim=2)
        bound = bound + self._cost.per_action * n_in
        most = self._most(people)
        bound = bound.masked_fill(n_in > most, torch.inf)
        gain = moved * torch.maximum(high.abs(), low.abs())
        sets = (choice == IN) | ((choice == UNDECIDED) & (moved > 0))
        sets = self._at_most(most, sets, gain.masked_fill(choice == IN, torch.inf))
        # A feature matters by what it may pass on, or, where nothing passes, by what it brings.
        inflow = (model.effects.abs() * self._reaches(people)[:, None]).sum(dim=2)
        worth = (passed_high - passed_low) * inflow[:, None] + 1e-6 * gain + 1e-12
        is_sure = ((high - low).abs() * usable).amax(dim=2, keepdim=True) <= 0
        fits = usable.sum(dim=2, keepdim=True) <= most[..., None]
        worth = worth.masked_fill((choice != UNDECIDED) | (is_sure & fits), -torch.inf)
        return bound, sets, worth

    def _reaches(self, people: People) -> Tensor:
        width = people.limits.upper - people.limits.lower
        return torch.where(people.limits.may_act, width.clamp(max=1e9), 0.0)

    def _prices(self, people: People) -> Tensor:
        """Prices of squared changes; where these vary, those of moving well into the box."""
        box = people.limits
        far = people.x + MOVE * (box.upper - people.x).clamp(max=1e9)
        every = torch.ones_like(box.may_act)
        return self._cost.prices(people.x, every, far, people.weights)

    def _most(self, people: People) -> Tensor:
        """Largest set of each person, shape ``(n, 1)``."""
        most = torch.full((len(people), 1), self._max_actions)
        own = people.limits.max_actions
        return most if own is None else torch.minimum(most, own[:, None])

    def _at_most(self, most: Tensor, sets: Tensor, gain: Tensor) -> Tensor:
        """Keep the features of a set that bring most, as many as a plan may have."""
        if bool((most >= len(self._columns)).all()):
            return sets
        rank = gain.masked_fill(~sets, -1.0).argsort(dim=2, descending=True, stable=True)
        place = torch.empty_like(rank)
        place.scatter_(2, rank, torch.arange(sets.shape[2]).expand_as(rank).contiguous())
        return sets & (place < most[..., None])

    def _offered(
        self, people: People, model: LocalModel, sets: Tensor, pool: Tensor, pool_cost: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Price the suggested sets and keep the best different ones."""
        decided = torch.where(sets, IN, OUT).to(torch.int8)
        cost, _, _ = self._bounds(people, model, decided)
        cost = cost.masked_fill(~sets.any(dim=2), torch.inf)
        every = torch.cat([pool, sets], dim=1)
        price = torch.cat([pool_cost, cost], dim=1)
        code = set_codes(every)
        same = code[:, :, None] == code[:, None]
        earlier = torch.ones(same.shape[1:], dtype=torch.bool).tril(-1)
        repeats = (same & earlier & torch.isfinite(price)[:, None]).any(dim=2)
        best = price.masked_fill(repeats, torch.inf).sort(dim=1, stable=True)
        rows = best.indices[:, : self._count]
        kept = every.gather(1, rows[..., None].expand(-1, -1, every.shape[2]))
        price = best.values[:, : self._count]
        return kept & torch.isfinite(price)[..., None], price


# Nodes split at once and kept open for each person.
BEAM = 8
FRONTIER = 256
# Share of the box at which prices are taken.
MOVE = 0.2
# Falling short by less is rounding; prices of sets that fall short begin at FAR.
ROUNDING = 1e-12
FAR = 1e100
