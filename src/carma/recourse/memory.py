"""What CARMA remembers of training people: plans that worked, and what plans bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn

from carma.progress import track
from carma.recourse.findings import Findings
from carma.recourse.forecast import Forecast
from carma.recourse.foreseen import Foreseen
from carma.recourse.foresight import Foresight, Notes
from carma.recourse.outcomes import Outcomes
from carma.recourse.precedents import Precedents
from carma.recourse.recall import Recall
from carma.recourse.retrieval import Retrieval, Tried
from carma.recourse.target import People
from carma.state import prefixed, unprefixed
from carma.training import TrainingSettings

__all__ = ["Memory"]


class Memory:
    """Plans of others, and a forecast of what plans bring, by which new people get theirs.

    Args:
        known: Plans of training people.
        forecast: Of what plans bring.
        foresight: Finds plans on it.
        recall: Fits plans of others to new people.
        retrieval: Tells which of them are worth a look.
        describe: What people are compared by, shape ``(n, inputs)``.
        has_wishes: Who may do less than others in their place, or finds it dearer, ``(n,)``, bool.

    Attributes:
        dear: What most plans that were searched for cost at most.
        most: What nearly all of them do.
        is_trusted: Whether foreseen plans cost training people about as little as those that were
            searched for them; if not, new people are searched for as well.
    """

    def __init__(
        self,
        known: Precedents,
        forecast: Forecast,
        foresight: Foresight,
        recall: Recall,
        retrieval: Retrieval,
        describe: Callable[[People], Tensor],
        has_wishes: Callable[[People], Tensor],
    ) -> None:
        self.known = known
        # Of each step, for those with and without wishes, to any plan and to a sure one.
        self.gates = torch.full((len(STEPS), 2, 2), -torch.inf, dtype=torch.float64)
        self.dear = self.most = torch.tensor(torch.inf, dtype=torch.float64)
        self.is_trusted = torch.tensor(False)
        self._forecast, self._foresight = forecast, foresight
        self._recall, self._retrieval = recall, retrieval
        self._describe, self._has_wishes = describe, has_wishes

    @property
    def effort(self) -> int:
        """See ``Foresight.effort``."""
        return self._foresight.effort

    def best(self, people: People) -> Foreseen:
        """The best plans that are found; see ``Foresight.best``."""
        return self._best(people, self._describe(people), self.known)

    def _best(self, people: People, seen: Tensor, known: Precedents) -> Foreseen:
        found = self._foresight.best(people, seen, known)
        lost = (self._may(people, found, AGAIN) | self._is_dear(found)).nonzero().squeeze(1)
        if len(lost):
            self._again(found, people, seen, known, lost)
        return found

    def _again(
        self, found: Foreseen, people: People, seen: Tensor, known: Precedents, lost: Tensor
    ) -> None:
        """Try more plans of others on some people, by position."""
        again = self._foresight.best(people[lost], seen[lost], known, times=MORE)
        found.take_better(lost, again)

    def _is_dear(self, foreseen: Foreseen) -> Tensor:
        """Whose plan may be cheaper: it is dear beside another one, or beside all others."""
        return foreseen.is_dear | _exceeds(foreseen, self.dear)

    def has_hope(self, people: People, foreseen: Foreseen) -> Tensor:
        """For whom walks may find what was not foreseen: a sure plan, or any; ``(n,)``, bool.

        And a cheaper one for the few whose plan is dear beside all others.
        """
        return _exceeds(foreseen, self.most) | self._may(people, foreseen, SOUGHT)

    def has_last_hope(self, people: People, foreseen: Foreseen) -> Tensor:
        """For whom only a search may find that, where walks do not either; ``(n,)``, bool."""
        return self._may(people, foreseen, SEARCHED)

    def _may(self, people: People, foreseen: Foreseen, step: int) -> Tensor:
        """Who has no sure plan, but an outlook on one, or on any, ``(n,)``, bool."""
        gates = self.gates[step][self._has_wishes(people).long()]
        may, has_one = foreseen.outlook >= gates, torch.isfinite(foreseen.cost)
        return ~foreseen.is_sure & torch.where(has_one, may[:, 1], may.any(dim=1))

    def learn(
        self,
        people: People,
        found: Findings,
        others: list[People],
        draws: torch.Generator,
        settings: TrainingSettings,
        progress: bool | None,
    ) -> None:
        """Learn what plans bring, which of them suit whom, and whom there is no hope for.

        Plans may be tried on anybody: what that brings is had a thousand times as fast as plans of
        their own, and whoever was tried on is less of a surprise later.

        Args:
            people: Who was searched for, at home; the plans known are their sure ones, in order.
            found: For them.
            others: Who was not, at home, any number in batches.
            draws: Of plans to learn from.
            settings: Whose seed counts, and whose epochs at most.
            progress: See ``track``.
        """
        forecasts, suits = (
            replace(schedule, epochs=min(settings.epochs, schedule.epochs), seed=settings.seed)
            for schedule in (FORECASTS, SUITS)
        )
        everybody = People.joined([people, *others])
        is_sure = torch.zeros(len(everybody), dtype=torch.bool)
        is_sure[: len(people)] = found.is_sure
        with torch.no_grad():
            seen = self._describe(everybody)
            near = self.known.near(seen[: len(people)], NEAR)
            outcomes = [self._varied(people, near, VARIED, draws, progress)]
        some, known_of = people, found.is_sure
        for turn in range(1 + TURNS):
            if turn:
                some, known_of = everybody, is_sure
                with torch.no_grad():
                    near = self._foresight.near(seen, self.known, NEAR)
                    outcomes.append(self._varied(some, near, VARIED_LATER, draws, progress))
                    outcomes += self._noted(some, seen, self._folds(is_sure))
            self._forecast.learn(Outcomes.joined(outcomes), forecasts, progress)
            with torch.no_grad():
                tried = self._tried(some, known_of, draws, progress)
            self._retrieval.learn(seen[: len(some)], self.known, tried, suits, progress)
        with torch.no_grad():
            own = seen[: len(people)]
            self._examine(people, own, self._folds(found.is_sure), found)

    def _noted(
        self, people: People, seen: Tensor, folds: list[tuple[Tensor, Precedents]]
    ) -> list[Outcomes]:
        """What plans bring that people are led to."""
        outcomes = []
        for rows, known in folds:
            notes: Notes = []
            some = people[rows]
            self._foresight.best(some, seen[rows], known, notes=notes)
            owner, mask, values = (torch.cat(parts) for parts in zip(*notes, strict=True))
            outcomes.append(self._foresight.outcomes(some[owner], mask, values))
        return outcomes

    def _folds(self, is_sure: Tensor) -> list[tuple[Tensor, Precedents]]:
        """People by position, each time with plans of the others only: nobody knows their own."""
        fold = torch.arange(len(is_sure)) % FOLDS
        known = [self.known[(fold[is_sure] != k).nonzero().squeeze(1)] for k in range(FOLDS)]
        return [((fold == k).nonzero().squeeze(1), own) for k, own in enumerate(known) if len(own)]

    def _examine(
        self,
        people: People,
        seen: Tensor,
        folds: list[tuple[Tensor, Precedents]],
        found: Findings,
    ) -> None:
        """Compare with what searches found: whether it is as cheap, and where it is all there is.

        Where the outlook is worse than the gates, next to nothing more was found for them.
        """
        shape = (len(STEPS), 2, len(people))
        outlook = torch.full(shape, -torch.inf, dtype=torch.float64)
        lacks, missed = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
        paid = torch.full_like(found.cost, torch.inf)
        had = torch.stack([torch.isfinite(found.cost), found.is_sure])
        if bool(found.is_sure.any()):
            self.dear, self.most = found.cost[found.is_sure].quantile(USUAL)
        for rows, known in folds:
            some, own = people[rows], seen[rows]
            foreseen = self._foresight.best(some, own, known)
            for step in range(len(STEPS)):
                if step == SOUGHT:
                    again = (~foreseen.is_sure | self._is_dear(foreseen)).nonzero().squeeze(1)
                    self._again(foreseen, some, own, known, again)
                without = ~torch.stack([torch.isfinite(foreseen.cost), foreseen.is_sure])
                lost = had[:, rows] & without
                outlook[step][:, rows], lacks[step][:, rows] = foreseen.outlook.T, without
                missed[step][:, rows] = lost & found.is_last[rows] if step == SEARCHED else lost
            paid[rows] = foreseen.least
        wishes = self._has_wishes(people)
        for (step, rule), wish, place in product(enumerate(STEPS), range(2), range(2)):
            group = wishes == bool(wish)
            rows = (lacks[step, place] & group).nonzero().squeeze(1)
            if len(rows) < rule.rare * int(group.sum()):
                # Too few to learn from, and too few to matter for what it takes.
                self.gates[step, wish, place] = -torch.inf
                continue
            most_lost = rule.lost * int((had[place] & group).sum())
            parts = (outlook[step, place, rows], missed[step, place, rows])
            self.gates[step, wish, place] = rule.gate(*parts, most_lost)
        both = found.is_sure & torch.isfinite(paid)
        is_dear = float(paid[both].sum()) > DEARER * float(found.cost[both].sum())
        self.is_trusted.fill_(bool(both.any()) and not is_dear)

    def _tried(
        self, people: People, is_sure: Tensor, draws: torch.Generator, progress: bool | None
    ) -> Tried:
        """How plans of others, drawn at random, suit each person; nobody's own counts."""
        count = min(DRAWN, len(self.known))
        own = torch.where(is_sure, is_sure.cumsum(0) - 1, -1)
        rows, parts = torch.split(torch.arange(len(people)), PEOPLE), []
        for at in track(rows, "carma: plans of others, tried", total=len(rows), show=progress):
            drawn = torch.rand(len(at), len(self.known), generator=draws)
            # One's own comes last; who has none does without the first.
            drawn.scatter_(1, own[at].clamp(min=0)[:, None], -1.0)
            parts.append(self._foresight.tried(people[at], drawn.topk(count).indices, self.known))
        tried = Tried.joined(parts)
        is_own = tried.at == own[:, None]
        costs = (torch.where(is_own, torch.inf, cost) for cost in (tried.promise, tried.price))
        return Tried(tried.at, *costs)

    def _varied(
        self,
        people: People,
        near: Tensor,
        rounds: int,
        draws: torch.Generator,
        progress: bool | None,
    ) -> Outcomes:
        """What comes of so many of these plans of others for each, done by less or more."""
        turns, parts = range(rounds), []
        for _ in track(turns, "carma: plans of others, varied", total=rounds, show=progress):
            which = torch.randint(near.shape[1], (len(near), 1), generator=draws)
            at = near.gather(1, which).squeeze(1)
            mask, values = self._recall.varied(people, at, self.known, draws)
            parts.append(self._foresight.outcomes(people, mask, values))
        return Outcomes.joined(parts)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take what was learned before; see ``tensors``."""
        self.gates, self.dear, self.most = (tensors[name] for name in ("gates", "dear", "most"))
        self.is_trusted = tensors["is_trusted"]
        for name, network in self._networks.items():
            network.load_state_dict(unprefixed(name, tensors))
            network.requires_grad_(False)

    def tensors(self) -> dict[str, Tensor]:
        """All that is remembered, by name."""
        known = prefixed("precedents", self.known.as_tensors())
        own = {"gates": self.gates, "is_trusted": self.is_trusted}
        own |= {"dear": self.dear, "most": self.most}
        for name, network in self._networks.items():
            own |= prefixed(name, network.state_dict())
        return known | own

    @property
    def _networks(self) -> dict[str, nn.Module]:
        return {"forecast": self._forecast, "retrieval": self._retrieval}


def _exceeds(foreseen: Foreseen, usual: Tensor) -> Tensor:
    """Whose sure plan costs more than is usual, bool."""
    return foreseen.is_sure & (foreseen.cost > usual)


@dataclass(frozen=True)
class _Step:
    """When it pays to do more for somebody.

    Args:
        chance: That it finds something, at least.
        lost: Share of all plans that may be lost by not doing it, at most.
        caution: How many times as far from acceptance as where it did, it may still find some.
        rare: Share of people without a plan below which it is done for all of them.
    """

    chance: float
    lost: float
    caution: float = 1.0
    rare: float = 0.0

    def gate(self, outlook: Tensor, is_found: Tensor, most_lost: float) -> float:
        """Outlook from which on it pays.

        Args:
            outlook: Of people for whom it was done, shape ``(n,)``.
            is_found: Whether that found something, bool.
            most_lost: Plans that may be lost at most.

        Returns:
            At most 0: where a plan is thought to be, it is looked for.
        """
        order = outlook.argsort(descending=True)
        found = torch.cat([torch.zeros(1), is_found[order].cumsum(0)])
        lost = found[-1] - found
        price = lost + self.chance * torch.arange(len(found))
        best = int(torch.where(lost <= most_lost, price, torch.inf).argmin())
        worst = float(outlook[order[best - 1]]) if best else 0.0
        return min(self.caution * worst, 0.0)


# Plans of so many others who are most alike, or that suit best; how many of these each person
# follows for us to learn what that brings, at first and, with many more people, later.
NEAR, VARIED, VARIED_LATER = 64, 20, 6
# Plans of others that are tried on each person to learn which of them suit, and people at once.
DRAWN, PEOPLE = 256, 100
# How many times as many plans of others are tried for those for whom none is sure.
MORE = 3
# What is done for those for whom no sure plan is foreseen: more plans of others are tried, plans
# are sought, and searched for.
AGAIN, SOUGHT, SEARCHED = 0, 1, 2
STEPS = (_Step(0.02, 0.001, 2.0, 0.01), _Step(0.1, 0.002, rare=0.005), _Step(0.2, 0.002))
# Shares of the plans found that cost no more than what is dear, and than nearly all do.
USUAL = torch.tensor([0.95, 0.99], dtype=torch.float64)
# How many times as dear foreseen plans may be on the whole.
DEARER = 1.02
# Parts of the people, each of which is foreseen by plans of the others.
FOLDS = 5
# How often what this leads to is learned from, and how both networks learn.
TURNS = 1
FORECASTS = TrainingSettings(
    epochs=30, learning_rate=6e-3, weight_decay=1e-4, validation_fraction=0.05
)
SUITS = TrainingSettings(
    epochs=16, batch_size=128, learning_rate=6e-3, weight_decay=1e-2, validation_fraction=0.05
)
