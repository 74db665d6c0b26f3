"""What all methods of one real table, classifier and seed share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

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
from carma.recourse.carma import Carma, CarmaSettings
from carma.recourse.dice import Dice, DiceSettings
from carma.recourse.exact import ExactSettings, ExactSolver
from carma.recourse.noncausal import NonCausalOptimum
from carma.recourse.plans import Plans
from carma.recourse.result import RecourseResult
from carma.recourse.yardstick import least_cost_as_sure

__all__ = ["REAL_METHODS", "RealArena", "RealMethod"]

T = TypeVar("T")


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

    Attributes:
        seconds: How long the fits took, by part: ``classifier``, ``causal_model``, ``rival``,
            ``carma``.
    """

    data: RealBenchmark
    problem: Problem
    classifier_name: str = "mlp"
    n_people: int = 500
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
    def people(self) -> pd.DataFrame:
        """The first rejected people of those who ask, original units.

        Raises:
            TableError: Nobody there is rejected.
        """
        asked = self.data.frame("recourse", "test")
        with torch.no_grad():
            probability = self.classifier.probability(self.data.encoding.encode(asked))
        rejected = asked[(probability < self.classifier.threshold).numpy()]
        if not len(rejected):
            rule = f"hold somebody below the threshold {self.classifier.threshold}"
            raise TableError.of("RealArena", "people", rule, 0)
        return rejected[: self.n_people]

    @cached_property
    def training(self) -> Tensor:
        """Rows of the past, for solvers that learn: shape ``(n, d)``, model space."""
        return self.data.encoded("recourse")

    @cached_property
    def carma(self) -> Carma:
        """CARMA, fitted."""
        settings = self.problem.solver
        if not isinstance(settings, CarmaSettings):
            settings = CarmaSettings(training=replace(settings.training, seed=self.seed))
        solver = Carma(self.causal_model, self.classifier, cost=self.cost, settings=settings)
        return self._timed("carma", lambda: solver.fit(self.training, progress=False))

    def searched(self, margin: float = 0.0) -> Plans:
        """What the search finds for everybody, on the same model, classifier and cost.

        Args:
            margin: Aim this far past the threshold, as a probability.

        Raises:
            SettingsError: The margin leaves no probability to aim at.
        """
        if margin not in self._searched:
            x = self.data.encoding.encode(self.people)
            self._searched[margin] = _exact(self, margin).solve(x, progress=False)
        return self._searched[margin]

    def least_cost(self, solver: Solver, result: RecourseResult) -> Tensor:
        """What the search pays that goes as far past the threshold as the method has to.

        Args:
            solver: The method.
            result: Its answers to ``people``.

        Returns:
            Shape ``(n,)``; NaN where there is nothing to compare.
        """
        if not isinstance(solver, Carma):
            return self.searched(solver.margin or 0.0).cost
        do = Intervention(result.plans.mask, result.plans.values)
        search = _exact(self, None)
        return least_cost_as_sure(search, result.x, do, solver.settings.validity)

    def works(self, result: RecourseResult, causal_model: CausalModel | None = None) -> Tensor:
        """Who is accepted with the plan in the result, under a causal model: ``(n,)``, bool.

        Args:
            result: For ``people``.
            causal_model: By default the learned one.
        """
        plans = result.plans
        do = Intervention(plans.mask, plans.values)
        model = causal_model or self.causal_model
        return plans.has_plan & accepted(result.x, do, model, self.classifier)

    def violations(self, result: RecourseResult) -> pd.DataFrame:
        """See ``carma.evaluation.violations``."""
        return violations(self.data.schema, self.people, result.to_frame())

    def _model(self, part: str, rows: str) -> CausalModel:
        model = self.problem.new_causal_model()
        table = self.data.frame(rows)
        return self._timed(part, lambda: model.fit(table, progress=False))

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


def _exact(arena: RealArena, margin: float | None) -> ExactSolver:
    settings = ExactSettings(margin=margin or 0.0)
    parts = arena.causal_model, arena.classifier
    return ExactSolver(*parts, cost=arena.cost, settings=settings)


def _non_causal(arena: RealArena, margin: float | None) -> Solver:
    settings = ExactSettings(margin=margin or 0.0)
    parts = arena.causal_model, arena.classifier
    return NonCausalOptimum(*parts, cost=arena.cost, settings=settings)


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
