"""What tuning found: the trials, which of them no other beats, and the one to take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from carma.errors import TrainingError
from carma.evaluation.spaces import Settings
from carma.problem import Problem

__all__ = ["Trial", "Tuned", "pareto_front"]


@dataclass(frozen=True)
class Trial:
    """Settings that were fitted, and what they reached on the validation people.

    Args:
        number: 0 for the settings as given, then 1, 2, ... in the order of the study.
        settings: Of the solver.
        cost_x100: Mean cost of a plan times 100, over those who have one.
        coverage: Percent of people with a checked plan.
        actions: Mean number of features acted on.
        ms_per_person: Time of the whole call over all people, milliseconds.
        fit_seconds: Time of the fit.
    """

    number: int
    settings: Settings
    cost_x100: float
    coverage: float
    actions: float
    ms_per_person: float
    fit_seconds: float

    def dominates(self, other: Trial) -> bool:
        """Whether it is no dearer, covers no fewer, and is better in one of the two."""
        is_as_good = self.cost_x100 <= other.cost_x100 and self.coverage >= other.coverage
        is_better = self.cost_x100 < other.cost_x100 or self.coverage > other.coverage
        return is_as_good and is_better

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content."""
        return asdict(self)


def pareto_front(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trials that no other dominates, the cheapest first.

    Args:
        trials: In any order.

    Example:
        >>> from carma import CarmaSettings
        >>> found = [(3.0, 99.0), (2.0, 90.0), (3.5, 98.0)]
        >>> same = CarmaSettings()
        >>> trials = [Trial(i, same, *pair, 1.0, 1.0, 1.0) for i, pair in enumerate(found)]
        >>> [trial.number for trial in pareto_front(trials)]
        [1, 0]
    """
    trials = tuple(trials)
    best = (t for t in trials if not any(other.dominates(t) for other in trials))
    return tuple(sorted(best, key=lambda t: (t.cost_x100, t.number)))


@dataclass(frozen=True)
class Tuned:
    """What ``tune`` found.

    Args:
        problem: As given.
        trials: Those that gave plans, in order of their number.
        n_people: Validation people of every trial.
        coverage: Percent of people whom the chosen settings shall cover.
        failures: Number of each other trial, and why it gave none.

    Raises:
        TrainingError: No trial gave a plan.
    """

    problem: Problem
    trials: tuple[Trial, ...]
    n_people: int
    coverage: float
    failures: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.trials:
            reason = next(iter(self.failures.values()), "there was none")
            raise TrainingError(f"tune: no trial gave a plan; the first one: {reason}")

    @cached_property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other dominates, the cheapest first."""
        return pareto_front(self.trials)

    @property
    def least_coverage(self) -> float:
        """What the chosen trial has to cover: what was asked for, or the most there is."""
        return min(self.coverage, max(trial.coverage for trial in self.trials))

    @cached_property
    def best(self) -> Trial:
        """The cheapest trial that covers enough; of several, the first of the front.

        Mean costs compare only where about the same people have a plan: leaving out those who
        are hard to help makes the mean cheap.
        """
        return next(trial for trial in self.front if trial.coverage >= self.least_coverage)

    @property
    def saving(self) -> float | None:
        """Percent that the best costs less than the settings as given, at enough coverage.

        ``None`` where the settings as given gave no plan or do not cover enough.
        """
        given = self.trials[0]
        if given.number or given.coverage < self.least_coverage or not given.cost_x100:
            return None
        return 100.0 * (1.0 - self.best.cost_x100 / given.cost_x100)

    @property
    def best_problem(self) -> Problem:
        """The same job with the chosen settings."""
        return replace(self.problem, solver=self.best.settings)
