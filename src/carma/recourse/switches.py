"""Moves between levels: what a plan may start with, before it sets any number."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations, product

import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.interventions import Intervention
from carma.recourse.target import Follow, People
from carma.schema import Feature

__all__ = ["Switches"]


class Switches:
    """All combinations of moves of the features that are set level by level.

    A plan is one combination and numbers set on top of it. Combinations of few features come
    first; where there are too many, those of more features are left out.

    Args:
        limits: Which moves are open.
        follow: What the solver believes to follow.

    Example:
        >>> from carma import CausalGraph, Feature, Schema
        >>> from carma.table import Encoding
        >>> job = Feature("job", "nominal", levels=("clerk", "cook", "nurse"), role="actionable")
        >>> phone = Feature("phone", "binary", role="actionable", moves=((0, 1),))
        >>> encoding = Encoding(Schema((job, phone), CausalGraph(("job", "phone"))))
        >>> len(Switches(PlanLimits(encoding, None), lambda x, do, u: x))
        7
    """

    def __init__(self, limits: PlanLimits, follow: Follow) -> None:
        self._encoding, self._follow = limits.encoding, follow
        encoding, self._moves = limits.encoding, limits.moves
        features = encoding.schema.switches
        targets = {
            f.name: [to for to in range(len(f.levels)) if int(self._moves[f.name][:, to].sum()) > 1]
            for f in features
        }
        self._combinations: list[tuple[tuple[Feature, int], ...]] = []
        for size in range(1, len(features) + 1):
            of_size = chain.from_iterable(
                product(*([(f, to) for to in targets[f.name]] for f in chosen))
                for chosen in combinations(features, size)
            )
            found = list(of_size)
            if size > 1 and len(self._combinations) + len(found) > MOST:
                break
            self._combinations += found
        d, m = encoding.n_columns, len(self._combinations)
        self._mask = torch.zeros(m, d, dtype=torch.bool)
        self._values = torch.zeros(m, d, dtype=torch.float64)
        self._size = torch.tensor([len(c) for c in self._combinations], dtype=torch.long)
        for row, combination in enumerate(self._combinations):
            for feature, to in combination:
                where = encoding.block(feature.name)
                self._mask[row, where] = True
                self._values[row, where] = encoding.at_level(feature, to)

    def __len__(self) -> int:
        """Number of combinations."""
        return len(self._combinations)

    def open_to(self, people: People) -> Tensor:
        """Which combinations each person may move to, shape ``(n, m)``, bool."""
        limits = people.limits
        may = torch.ones(len(people), len(self), dtype=torch.bool)
        for column, combination in enumerate(self._combinations):
            for feature, to in combination:
                own = self._encoding.level(people.x, feature)
                can = self._moves[feature.name][own, to] & (own != to)
                may[:, column] &= can & limits.may_act[:, self._encoding.column(feature.name)]
        if limits.max_actions is not None:
            may &= self._size <= limits.max_actions[:, None]
        return may

    def worlds(self, people: People, chosen: Tensor) -> tuple[People, Tensor]:
        """People after the moves, with what is left to them.

        Args:
            people: n of them.
            chosen: Which combinations of each, shape ``(n, m)``, bool.

        Returns:
            One row for each combination chosen, and whose it is, ``(w,)``.
        """
        owner, which = chosen.nonzero(as_tuple=True)
        some = people[owner]
        given = Intervention(self._mask[which], self._values[which])
        limits = some.limits
        if limits.max_actions is not None:
            left = limits.max_actions - self._size[which]
            # Whoever may do no more has no room for it.
            has_room = (left > 0)[:, None]
            lower = torch.where(has_room, limits.lower, some.x)
            upper = torch.where(has_room, limits.upper, some.x)
            limits = replace(limits, max_actions=left.clamp(min=1), lower=lower, upper=upper)
        return self._moved(replace(some, limits=limits), given), owner

    def places(self, people: People, chosen: Tensor) -> tuple[People, Tensor]:
        """People as they are and after moves, those of one person next to each other.

        Args:
            people: n of them.
            chosen: Who is to stay, and which combinations of each, shape ``(n, 1 + m)``, bool.

        Returns:
            One row for each choice, and whose it is, rising, ``(w,)``.
        """
        home = chosen[:, 0].nonzero().squeeze(1)
        moved, owner = self.worlds(people, chosen[:, 1:])
        every = People.joined([self.stay(people[home]), moved])
        owners = torch.cat([home, owner])
        order = owners.argsort(stable=True)
        return every[order], owners[order]

    def place_of(self, do: Intervention) -> Tensor:
        """Which place each plan starts from: 0 is home, then the combinations, ``(n,)``, int64.

        Args:
            do: n plans.
        """
        mask = do.mask & self._mask.any(dim=0)
        found = torch.zeros(len(mask), dtype=torch.long)
        for place, (own, values) in enumerate(zip(self._mask, self._values, strict=True), start=1):
            is_it = (mask == own).all(dim=1) & ((do.values == values) | ~own).all(dim=1)
            found[is_it] = place
        return found

    @property
    def columns(self) -> Tensor:
        """The column that tells of each feature whether it may move, and its weight, int64."""
        names = [feature.name for feature in self._encoding.schema.switches]
        return torch.tensor([self._encoding.column(name) for name in names], dtype=torch.long)

    def after(self, people: People, do: Intervention) -> People:
        """People after the moves that their plans hold, one plan of each.

        Args:
            people: n of them.
            do: n plans; what else they set is left out.
        """
        mask = do.mask & self._mask.any(dim=0)
        return self._moved(people, Intervention(mask, torch.where(mask, do.values, people.x)))

    def stay(self, people: People) -> People:
        """The same people after no move at all, to be joined with those who moved."""
        given = Intervention.none(people.x)
        limits = replace(people.limits, given=given.mask)
        return replace(people, limits=limits, given=given, start=people.x)

    def drawn(self, people: People, share: float, draws: torch.Generator) -> People:
        """The same people, some of them after a random combination of moves.

        Args:
            people: n of them.
            share: Of those who move.
            draws: Of the moves.
        """
        if not len(self):
            return people
        may = self.open_to(people)
        moves = may.any(dim=1) & (torch.rand(len(people), generator=draws) < share)
        weight = torch.where(moves[:, None], may, True).double()
        which = torch.multinomial(weight, 1, generator=draws).squeeze(1)
        mask = self._mask[which] & moves[:, None]
        values = torch.where(mask, self._values[which], people.x)
        return self._moved(people, Intervention(mask, values))

    def _moved(self, people: People, given: Intervention) -> People:
        moved = people.after(given)
        nothing = torch.zeros_like(given.mask)
        start = self._follow(people.x, moved.do(nothing, people.x), people.u)
        return replace(moved, start=start)


# Combinations at most; single moves are all tried, however many there are.
MOST = 40
