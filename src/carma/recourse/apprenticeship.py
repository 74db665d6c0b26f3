"""How CARMA's networks learn from lessons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from carma.costs import Cost
from carma.recourse.lessons import Lessons
from carma.recourse.policy import LEAST, WIDEST, Policy
from carma.recourse.target import People, Target
from carma.training import History, TrainingSettings, split_rows, train

__all__ = ["Apprenticeship"]


class Apprenticeship:
    """Teaches a policy: first the plans of lessons, then to make its own ones cheap and sure.

    First, the action network learns the plan of a set by the cost that its error stands for,
    relative to the cost of the plan, plus the squared share by which the log-odds would miss: an
    error along the boundary is cheap, one that falls short of it is not. Sets are drawn half by
    how good they are and half evenly. The mask network learns how often each feature is in a good
    set, the margin network the margin of each set's plan. Then the action network rehearses:
    single forward passes pay their cost and, many times over, what they lack to the margin, with
    slopes through causal model and classifier.

    Args:
        policy: Its parameters are changed in place.
        columns: The K actionable columns.
        cost: What plans cost.
        target: What plans have to reach without a margin.
        compiles: Compile the action network.
    """

    def __init__(
        self,
        policy: Policy,
        columns: Tensor,
        cost: Cost,
        target: Target,
        *,
        compiles: bool,
    ) -> None:
        self._policy, self._columns = policy, columns
        self._cost, self._target = cost, target
        compiled: Any = torch.compile(policy.plan) if compiles else policy.plan
        self._plan = compiled

    def teach(
        self,
        lessons: Lessons,
        studies: TrainingSettings,
        rehearsal: TrainingSettings,
        progress: bool | None,
    ) -> tuple[History, History]:
        """Train; of either part keep the epoch that is best on held-out people.

        Args:
            lessons: Every person with at least one plan.
            studies: Epochs, batches, learning rate, seed of the first part.
            rehearsal: Of the second part.
            progress: See ``track``.
        """
        rows, held_out = split_rows(len(lessons), studies.validation_fraction, studies.seed)
        exam = lessons[held_out[:EXAMINED]]
        with torch.no_grad():
            self._policy.scale_to(lessons.people, lessons.cost.amin(dim=1), self._cost.degree)
            learned = Homework.of(lessons[rows], self._policy, self._columns, self._cost)
            examined = Homework.of(exam, self._policy, self._columns, self._cost)
            everybody = torch.arange(len(exam))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(studies.seed)
            studied = train(
                self._policy,
                len(rows),
                lambda batch: self._loss(learned, batch),
                lambda: float(self._loss(examined, everybody)),
                studies,
                description="carma: studies",
                progress=progress,
            )
            for network in (self._policy.mask_network, self._policy.margin_network):
                network.requires_grad_(False)
            people, least = lessons.people, lessons.cost.amin(dim=1)
            with torch.no_grad():
                nothing = torch.zeros_like(people.limits.may_act)
                lacks = -self._target.surplus(people, nothing, people.x).clamp(max=-CLOSE)

            def shortcomings(chosen: Tensor) -> Tensor:
                return self._shortcomings(people[chosen], least[chosen], lacks[chosen])

            rehearsed = train(
                self._policy,
                len(rows),
                lambda batch: shortcomings(rows[batch]),
                lambda: self._score(exam),
                rehearsal,
                log=lambda: {"coverage": float(self._examined(exam)[1].double().mean())},
                description="carma: rehearsal",
                clip=1.0,
                progress=progress,
            )
        return studied, rehearsed

    def _shortcomings(self, people: People, least: Tensor, lacks: Tensor) -> Tensor:
        """Cost of single forward passes, and what they lack to the margin, at many times that."""
        drafts, margins = self._policy.drafts_and_margins(people, 1)
        mask, values, margin = drafts.masks[:, 0], drafts.values[:, 0], margins[:, 0]
        surplus = self._target.surplus(people, mask, values)
        lacking = (EXTRA * lacks + margin - surplus).clamp(min=0) / lacks
        cost = self._cost(people.x, mask, values, people.weights)
        typical = least.mean()
        # It grows ever more slowly, but never stops to say which way is up.
        penalty = SEVERITY * least.clamp(min=0.1 * typical) * FAR * torch.log1p(lacking / FAR)
        return ((cost + penalty) / typical).mean()

    def _loss(self, homework: Homework, rows: Tensor) -> Tensor:
        seen = homework.seen[rows]
        drawn = torch.multinomial(homework.chance[rows], SETS, replacement=True)
        row = rows[:, None]
        mask, wanted = homework.masks[row, drawn], homework.change[row, drawn]
        flat = seen.repeat_interleave(SETS, 0), mask.flatten(0, 1)
        change = self._plan(*flat)
        error = change.view_as(wanted) - wanted * mask
        loss = (homework.price[row, drawn] * error.square()).sum(dim=2)
        across = (homework.slope[row, drawn] * error).sum(dim=2)
        loss = loss + torch.where(across < 0, SHORT, 1.0) * across.square()
        # What is far off must not drown the rest.
        loss = (loss / (1 + loss.detach())).mean()
        off = self._policy.log_margin(*flat).view(drawn.shape) - homework.log_margin[row, drawn]
        doubt = nn.functional.smooth_l1_loss(off, torch.zeros_like(off))
        logits = self._policy.logits(seen)
        masks = nn.functional.binary_cross_entropy_with_logits(
            logits, homework.presence[rows], homework.usable[rows]
        )
        total: Tensor = loss + DOUBT * doubt + MASKS * masks
        return total

    def _score(self, exam: Lessons) -> float:
        """Mean cost of single forward passes; one that fails counts as several plans."""
        cost, works = self._examined(exam)
        least = exam.cost.amin(dim=1)
        return float(torch.where(works, cost, FAILURE * least.clamp(min=least.mean())).mean())

    def _examined(self, exam: Lessons) -> tuple[Tensor, Tensor]:
        people = exam.people
        drafts = self._policy.drafts(people, 1)
        mask, values = drafts.masks[:, 0], drafts.values[:, 0]
        works = self._target.surplus(people, mask, values) >= 0
        return self._cost(people.x, mask, values, people.weights), works


class Homework:
    """Lessons as the networks take them: standard deviations, shares of cost, float32.

    Args:
        seen: Shape ``(n, inputs)``.
        masks: Shape ``(n, m, K)``, 0/1.
        change: Of the plans, standard deviations, ``(n, m, K)``.
        price: Of a squared error of each change, as a share of the plan's cost, ``(n, m, K)``.
        slope: Share of the surplus that the plan gains that an error in each change loses.
        log_margin: Shape ``(n, m)``.
        chance: Of drawing each set, ``(n, m)``.
        presence: How often each feature is in a good set, ``(n, K)``.
        usable: 1 where the person may act, ``(n, K)``.
    """

    def __init__(self, **tensors: Tensor) -> None:
        single = {name: tensor.float() for name, tensor in tensors.items()}
        self.seen, self.masks, self.change = single["seen"], single["masks"], single["change"]
        self.price, self.slope = single["price"], single["slope"]
        self.log_margin, self.chance = single["log_margin"], single["chance"]
        self.presence, self.usable = single["presence"], single["usable"]

    @classmethod
    def of(cls, lessons: Lessons, policy: Policy, columns: Tensor, cost: Cost) -> Homework:
        """Prepare lessons."""
        people, width = lessons.people, policy.width
        m = lessons.masks.shape[1]
        flat = people.repeated(m)
        values, masks = lessons.values.flatten(0, 1), lessons.masks.flatten(0, 1)
        prices = cost.prices(flat.x, masks, values, flat.weights).view(lessons.values.shape)
        works = torch.isfinite(lessons.cost)
        # People who are nearly accepted must not count a hundredfold.
        typical = lessons.cost.amin(dim=1).mean()
        own = (torch.where(works, lessons.cost, 1.0) + NEAR * typical).clamp(min=TINY)[..., None]
        change = (lessons.values - people.x[:, None])[..., columns]
        slope = lessons.slope[..., columns]
        gained = (slope * change).sum(dim=2, keepdim=True)
        least = lessons.cost.amin(dim=1, keepdim=True).clamp(min=TINY)
        worse = torch.where(works, lessons.cost / least - 1, torch.inf)
        good = torch.softmax(-worse / TEMPERATURE, dim=1)
        evenly = works / works.sum(dim=1, keepdim=True)
        chosen = lessons.masks[..., columns].double()
        safe = torch.where(works[..., None], change / width, 0.0)
        return cls(
            seen=policy.describe(people),
            masks=chosen,
            change=safe.nan_to_num(),
            price=prices[..., columns] * width.square() / own,
            slope=(slope * width / gained.clamp(min=TINY)).clamp(-STEEPEST, STEEPEST),
            log_margin=(lessons.margin.clamp(max=WIDEST) + LEAST).log(),
            chance=0.5 * good + 0.5 * evenly,
            presence=(good[..., None] * chosen).sum(dim=1).clamp(0, 1),
            usable=people.limits.can_move[:, columns],
        )


# Sets drawn for each person and step; weights of the losses of margin and masks.
SETS = 4
DOUBT, MASKS = 0.02, 0.2
SHORT = 30.0
NEAR = 0.3
# How much dearer than the best a set may be and still be good.
TEMPERATURE = 0.05
# Held-out people on whom each epoch is scored; a failure counts as so many plans.
EXAMINED = 500
FAILURE = 5.0
# What is lacking to the margin pays as many times the best plan's cost, more slowly beyond so
# many times what the person lacks today (at least this, in log-odds). Aim a little further than
# the margin.
SEVERITY = 25.0
FAR = 3.0
CLOSE = 0.5
EXTRA = 0.05
TINY = 1e-12
STEEPEST = 1e3
