"""What all methods of one benchmark set and seed share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from carma.benchmarks import Benchmark
from carma.classifiers.base import Classifier
from carma.classifiers.neural import fit_classifier
from carma.costs import Cost, SquaredCost
from carma.errors import SettingsError, TableError
from carma.models.base import CausalModel
from carma.problem import Problem
from carma.recourse.carma import Carma
from carma.recourse.carma_settings import CarmaSettings
from carma.recourse.exact import ExactSettings, ExactSolver

__all__ = ["Arena", "standard_problem"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Arena:
    """What all methods of one set and seed share; each part is fitted when first asked for.

    Args:
        data: The set.
        problem: Settings of classifier, causal model and CARMA; their seed is the arena's.
        n_people: People at most.
        weights: Preferences of the population, by feature, in the cost; see ``SquaredCost``.
        fraction: Share of the rejected training rows that solvers learn from, above 0.

    Attributes:
        seconds: How long the fits took, by part: ``classifier``, ``causal_model``, ``carma``.

    Example:
        >>> from carma import ClassifierSettings, TrainingSettings
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=400), TrainingSettings(epochs=5)
        >>> problem = Problem(data.schema, classifier=ClassifierSettings((), quick))
        >>> arena = Arena(data, problem, n_people=10)
        >>> arena.people.shape, list(arena.seconds)
        (torch.Size([10, 4]), ['classifier'])
    """

    data: Benchmark
    problem: Problem
    n_people: int = 500
    weights: Mapping[str, float] | None = None
    fraction: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _optima: dict[float, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            rule = "be above 0 and at most 1"
            raise SettingsError.of("Arena", "fraction", rule, self.fraction)

    def variant(
        self, *, weights: Mapping[str, float] | None = None, fraction: float = 1.0
    ) -> Arena:
        """The same people, classifier and causal model, with another cost or fewer rows.

        Args:
            weights: See the class.
            fraction: See the class.

        Raises:
            SettingsError: A weight or the fraction is out of range.
        """
        other = Arena(self.data, self.problem, self.n_people, weights, fraction)
        # Cached properties: what is here is not fitted again.
        vars(other).update(classifier=self.classifier, causal_model=self.causal_model)
        other.seconds.update({n: s for n, s in self.seconds.items() if n != "carma"})
        return other

    @property
    def seed(self) -> int:
        """Of everything that is fitted."""
        return self.problem.seed

    @cached_property
    def cost(self) -> Cost:
        """The one scale: that of the whole recourse training split."""
        if self.weights is None:
            return self.data.cost
        return SquaredCost(self.data.encoding, self.data.scm.statistics_, self.weights)

    @cached_property
    def classifier(self) -> Classifier:
        """Decides about everybody."""
        table = self.data.frame("classifier")
        settings = self.problem.classifier
        return self._timed(
            "classifier",
            lambda: fit_classifier(self.data.schema, table, settings, progress=False),
        )

    @cached_property
    def causal_model(self) -> CausalModel:
        """The learned causal model."""
        table = self.data.frame("causal")
        model = self.problem.new_causal_model()
        return self._timed("causal_model", lambda: model.fit(table, progress=False))

    @cached_property
    def true_model(self) -> CausalModel:
        """The true causal model; plans range over the learned one's table with it too."""
        return copy(self.data.scm).fit(self.data.frame("causal"))

    @cached_property
    def people(self) -> Tensor:
        """The first rejected people of the recourse test split, shape ``(n, d)``, model space.

        Raises:
            TableError: Nobody there is rejected.
        """
        people = self._rejected(self.data.encoded("recourse", "test"))
        if not len(people):
            rule = f"hold somebody who is rejected ({self.classifier.decision.say()})"
            raise TableError.of("Arena", "people", rule, 0)
        return people[: self.n_people]

    @cached_property
    def training(self) -> Tensor:
        """The rejected people of the recourse training split, for solvers that learn."""
        rejected = self._rejected(self.data.encoded("recourse"))
        return rejected[: max(1, round(self.fraction * len(rejected)))]

    @cached_property
    def carma(self) -> Carma:
        """CARMA, fitted; with default settings where the problem asks for the published method."""
        settings = self.problem.solver
        if not isinstance(settings, CarmaSettings):
            settings = CarmaSettings()
            settings = replace(settings, training=replace(settings.training, seed=self.seed))
        solver = Carma(self.causal_model, self.classifier, cost=self.cost, settings=settings)
        return self._timed("carma", lambda: solver.fit(self.training, progress=False))

    def optimum(self, margin: float = 0.0) -> Tensor:
        """Least cost of every person under the true causal model, by the exact solver.

        Args:
            margin: Aim this far past the threshold, as a probability.

        Returns:
            Shape ``(n,)``; NaN where no plan was found.

        Raises:
            SettingsError: The margin leaves no probability to aim at.
        """
        if margin not in self._optima:
            settings = ExactSettings(margin=margin)
            solver = ExactSolver(
                self.true_model, self.classifier, cost=self.cost, settings=settings
            )
            solver.fit(self.training, progress=False)
            self._optima[margin] = solver.solve(self.people, progress=False).cost
        return self._optima[margin]

    def _rejected(self, x: Tensor) -> Tensor:
        # Fitted on first use, which takes gradients.
        classifier = self.classifier
        with torch.no_grad():
            return x[classifier.rejects(x)]

    def _timed(self, part: str, fit: Callable[[], T]) -> T:
        start = time.perf_counter()
        fitted = fit()
        self.seconds[part] = time.perf_counter() - start
        return fitted


def standard_problem(data: Benchmark) -> Problem:
    """Default settings for a set, with the classifier that suits it."""
    return Problem(data.schema, classifier=data.classifier_settings)
