"""What all methods of one real table, classifier and seed share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, TypeVar

import pandas as pd
import torch
from torch import Tensor

from carma.benchmarks.real import RealBenchmark
from carma.classifiers.base import Classifier
from carma.classifiers.named import fit_named
from carma.costs import Cost
from carma.errors import TableError
from carma.evaluation.survival import accepted
from carma.evaluation.violations import violations
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.problem import Problem
from carma.recourse.base import Solver
from carma.recourse.carma import Carma
from carma.recourse.carma_settings import CarmaSettings
from carma.recourse.dice import Dice, DiceSettings
from carma.recourse.exact import ExactSettings, ExactSolver
from carma.recourse.noncausal import NonCausalOptimum
from carma.recourse.plans import Plans
from carma.recourse.result import RecourseResult
from carma.recourse.yardstick import least_cost_as_sure

__all__ = ["REAL_METHODS", "RealArena", "RealMethod"]

T = TypeVar("T")
# How many times the people asked for are answered at once to measure speed, and how often as many
# are drawn to find them.
TIMES, DRAWINGS = 16, 20


@dataclass(frozen=True, eq=False)
class RealArena:
    """What all methods of one real table share; each part is fitted when first asked for.

    There is no true causal model to ask. In its place stand the learned one, which all methods
    share, and a rival that was fitted on other rows.

    Args:
        data: The table.
        problem: Settings of classifier, causal models and CARMA; their seed is the arena's.
        classifier_name: Of ``CLASSIFIERS``.
        n_people: People at most.
        n_searched: The first so many of them at most are asked of a search.
        progress: Of fits and answers; see ``track``.

    Attributes:
        seconds: How long the fits took, by part: ``classifier``, ``causal_model``, ``rival``,
            ``carma``.
    """

    data: RealBenchmark
    problem: Problem
    classifier_name: str = "mlp"
    n_people: int = 500
    n_searched: int = 20
    progress: bool | None = False
    seconds: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _searched: dict[float, Plans] = field(default_factory=dict, init=False, repr=False)

    @property
    def seed(self) -> int:
        """Of everything that is fitted."""
        return self.problem.seed

    @property
    def cost(self) -> Cost:
        """The one scale: that of the past."""
        return self.data.cost

    @cached_property
    def classifier(self) -> Classifier:
        """Decides about everybody."""
        table, name = self.data.frame("classifier"), self.classifier_name
        settings = self.problem.classifier
        return self._timed("classifier", lambda: fit_named(name, self.data.schema, table, settings))

    @cached_property
    def causal_model(self) -> CausalModel:
        """The learned causal model."""
        return self._model("causal_model", "causal")

    @cached_property
    def rival(self) -> CausalModel:
        """Another one, fitted on rows that the first has not seen."""
        return self._model("rival", "rival")

    @cached_property
    def is_accepted(self) -> Tensor:
        """Who of all that ask is accepted as they are, bool, shape ``(n,)``."""
        asked = self.data.encoded("recourse", "test")
        nothing = Intervention.none(asked)
        return accepted(asked, nothing, self.causal_model, self.classifier)

    @cached_property
    def people(self) -> pd.DataFrame:
        """The first rejected people of those who ask, original units.

        Raises:
            TableError: Nobody there is rejected.
        """
        rejected = self.data.frame("recourse", "test")[~self.is_accepted.numpy()]
        if not len(rejected):
            rule = f"hold somebody who is rejected ({self.classifier.decision.say()})"
            raise TableError.of("RealArena", "people", rule, 0)
        return rejected[: self.n_people]

    @cached_property
    def searched_people(self) -> pd.DataFrame:
        """Those of them that a search is asked about: searches take seconds each."""
        return self.people[: self.n_searched]

    @cached_property
    def crowd(self) -> Tensor:
        """Rejected people for whom speed is measured, ``(16 n_people, d)``, with their gaps.

        Those of the table, and where these are too few, more that are drawn from the causal model.
        """
        parts = [self.data.encoded("recourse", "test")[~self.is_accepted]]
        count = TIMES * self.n_people
        for turn in range(DRAWINGS):
            if sum(map(len, parts)) >= count:
                break
            drawn = self.causal_model.sample(count, seed=self.seed + turn)
            parts.append(drawn[self.classifier.rejects(drawn)])
        return torch.cat(parts)[:count]

    @cached_property
    def training(self) -> Tensor:
        """Rows of the past, gaps filled in, for solvers that learn: shape ``(n, d)``."""
        return self.causal_model.impute(self.data.encoded("recourse"))

    @property
    def settings(self) -> CarmaSettings:
        """Those of CARMA."""
        settings = self.problem.solver
        if isinstance(settings, CarmaSettings):
            return settings
        return CarmaSettings(training=replace(settings.training, seed=self.seed))

    @cached_property
    def carma(self) -> Carma:
        """CARMA, fitted; its time includes that of filling in gaps."""
        settings = self.settings
        solver = Carma(self.causal_model, self.classifier, cost=self.cost, settings=settings)
        past = self.data.encoded("recourse")
        return self._timed("carma", lambda: solver.fit(past, progress=self.progress))

    def answers(self, solver: Solver) -> RecourseResult:
        """What a method answers ``people``, or a search ``searched_people``."""
        is_search = isinstance(solver, ExactSolver)
        asked = self.searched_people if is_search else self.people
        result = solver.recommend(asked, progress=self.progress)
        if type(solver) is Search:
            self._searched[solver.margin] = result.plans
        return result

    def searched(self, margin: float = 0.0) -> Plans:
        """What the search finds for ``searched_people``, on the same model, classifier and cost.

        Args:
            margin: Aim this far past the threshold, as a probability.

        Raises:
            SettingsError: The margin leaves no probability to aim at.
        """
        if margin not in self._searched:
            x = self.data.encoding.encode(self.searched_people)
            self._searched[margin] = _exact(self, margin).solve(x, progress=self.progress)
        return self._searched[margin]

    def least_cost(self, solver: Solver, result: RecourseResult) -> Tensor:
        """What the search pays for the same: CARMA's validity, or the method's own margin.

        Args:
            solver: The method.
            result: Its answers.

        Returns:
            For ``searched_people``, shape ``(n,)``; NaN where there is nothing to compare.
        """
        if not isinstance(solver, Carma):
            return self.searched(solver.margin or 0.0).cost
        some = slice(len(self.searched_people))
        x, do = _asked(result)
        plans, validity = do.each(lambda t: t[some]), solver.settings.validity
        search = _exact(self, None)
        return least_cost_as_sure(search, x[some], plans, validity, progress=self.progress)

    def works(self, result: RecourseResult, causal_model: CausalModel | None = None) -> Tensor:
        """Who is accepted with the plan in the result, under a causal model: ``(n,)``, bool.

        Args:
            result: Answers of a method.
            causal_model: By default the learned one; it also fills in what is missing.
        """
        model = causal_model or self.causal_model
        return result.plans.has_plan & accepted(*_asked(result), model, self.classifier)

    def violations(self, result: RecourseResult) -> pd.DataFrame:
        """See ``carma.evaluation.violations``."""
        people = self.people.loc[result.index]
        return violations(self.data.schema, people, result.to_frame())

    def _model(self, part: str, rows: str) -> CausalModel:
        model = self.problem.new_causal_model()
        table = self.data.frame(rows)
        return self._timed(part, lambda: model.fit(table, progress=self.progress))

    def _timed(self, part: str, fit: Callable[[], T]) -> T:
        start = time.perf_counter()
        fitted = fit()
        self.seconds[part] = time.perf_counter() - start
        return fitted


@dataclass(frozen=True)
class RealMethod:
    """One way to recourse on a real table.

    Args:
        name: In tables, records and on the command line.
        description: One line.
        make: Arena and the margin asked for (``None``: the method's own) to a solver, which is
            fitted where methods share one fit.
    """

    name: str
    description: str
    make: Callable[[RealArena, float | None], Solver]


class Search(ExactSolver):
    """The search, a few people at a time, so that a bar tells how far it is."""

    at_once: ClassVar[int] = 4


class NonCausalSearch(NonCausalOptimum):
    """The same for the search of someone who knows no causes."""

    at_once: ClassVar[int] = 4


def _asked(result: RecourseResult) -> tuple[Tensor, Intervention]:
    """People as they asked, with their gaps, and what their plans set."""
    x = torch.where(result.missing, torch.nan, result.x)
    return x, Intervention(result.plans.mask, result.plans.values)


def _exact(arena: RealArena, margin: float | None) -> Search:
    settings = ExactSettings(margin=margin or 0.0)
    parts = arena.causal_model, arena.classifier
    return Search(*parts, cost=arena.cost, settings=settings)


def _non_causal(arena: RealArena, margin: float | None) -> Solver:
    settings = ExactSettings(margin=margin or 0.0)
    parts = arena.causal_model, arena.classifier
    return NonCausalSearch(*parts, cost=arena.cost, settings=settings)


def _dice(arena: RealArena, method: str) -> Solver:
    settings = DiceSettings(method, seed=arena.seed)
    return Dice(arena.causal_model, arena.classifier, cost=arena.cost, settings=settings)


REAL_METHODS: dict[str, RealMethod] = {
    method.name: method
    for method in (
        RealMethod("exact", "the least cost on the learned causal model, by search", _exact),
        RealMethod("carma", "CARMA", lambda arena, _: arena.carma),
        RealMethod(
            "carma-single",
            "CARMA in one forward pass, without search",
            lambda arena, _: arena.carma.using(candidates=1, refine_steps=0, fallback=False),
        ),
        RealMethod("noncausal", "the least cost when nothing follows from an action", _non_causal),
        RealMethod("dice", "DiCE's random search", lambda arena, _: _dice(arena, "random")),
        RealMethod(
            "dice-genetic", "DiCE's genetic search", lambda arena, _: _dice(arena, "genetic")
        ),
    )
}
