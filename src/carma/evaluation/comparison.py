"""Several recourse methods on one scale: the same people, classifier, causal model and cost."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from carma.benchmarks import NAMES, OWN_NAMES, Benchmark, load, structural_model
from carma.errors import CarmaError, SettingsError
from carma.evaluation.arena import Arena, standard_problem
from carma.evaluation.methods import METHODS, Method
from carma.evaluation.metrics import Metrics, evaluate
from carma.evaluation.records import Key
from carma.problem import Problem
from carma.progress import track
from carma.recourse.base import Solver
from carma.recourse.carma import Carma
from carma.recourse.plans import Plans
from carma.recourse.result import RecourseResult

__all__ = ["Attempt", "compare", "measure"]

# People whose calls are timed one by one.
SINGLE = 20
# What Benchmark.draw asks for.
LEAST_ROWS = 20


@dataclass(frozen=True, eq=False)
class Attempt:
    """One method, fitted, and what it answered to the people of an arena.

    Args:
        arena: Shared by all methods.
        solver: The method.
        result: Its plans for ``arena.people``.
        fit_seconds: Of the solver alone.
        single_seconds: Median time of a call for one person.
    """

    arena: Arena
    solver: Solver
    result: RecourseResult
    fit_seconds: float
    single_seconds: float

    @classmethod
    def of(cls, arena: Arena, method: Method, margin: float | None = None) -> Attempt:
        """Fit a method and ask it.

        Args:
            arena: Shared by all methods.
            method: The one.
            margin: See ``compare``.

        Raises:
            CarmaError: A fit failed.
        """
        solver = method.make(arena, margin)
        training, people = arena.training, arena.people
        if isinstance(solver, Carma):
            fit_seconds = arena.seconds["carma"]
        else:
            start = time.perf_counter()
            solver.fit(training, progress=False)
            fit_seconds = time.perf_counter() - start
        solver.solve(people[:1])
        single = statistics.median(
            _call(solver, person)[1] for person in torch.split(people[:SINGLE], 1)
        )
        plans, seconds = _call(solver, people)
        decision, index = arena.classifier.decision, pd.RangeIndex(len(people))
        result = RecourseResult(solver.encoding, people, plans, index, decision, seconds)
        return cls(arena, solver, result, fit_seconds, single)

    def record(self) -> dict[str, Any]:
        """The measures; see ``carma.evaluation.records.FIELDS``."""
        arena, solver, result = self.arena, self.solver, self.result

        def measured(optimum: Tensor) -> Metrics:
            truth, classifier = arena.data.scm, arena.classifier
            return evaluate(
                result, arena.cost, true_model=truth, classifier=classifier, optimum=optimum
            )

        metrics = measured(arena.optimum())
        same = None
        if solver.margin is not None:
            same = measured(arena.optimum(solver.margin)).regret
        content = metrics.to_dict()
        regret = content.pop("regret") or {}
        del content["ms_per_person"]
        ends = ("cost_ratio", "cost_ratio_low", "cost_ratio_high")
        ratios = {n: regret.pop(n, None) for n in ends}
        is_learned = solver.causal_model is not arena.true_model
        record = {
            **content,
            **ratios,
            "cost_ratio_same_margin": None if same is None else same.cost_ratio,
            "regret": regret or None,
            "margin": solver.margin,
            "statuses": result.counts(),
            "n_evaluations": float(result.plans.n_evaluations.double().mean()),
            "ms_single": 1e3 * self.single_seconds,
            "us_batched": 1e6 * result.seconds / len(result),
            "fit_seconds": self.fit_seconds,
            "model_seconds": arena.seconds.get("causal_model") if is_learned else None,
            "classifier_seconds": arena.seconds["classifier"],
            "threads": torch.get_num_threads(),
            "versions": {p: version(p) for p in ("carma-recourse", "torch", "zuko", "scipy")},
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        }
        finite: dict[str, Any] = _finite(record)
        return finite


def compare(
    datasets: Sequence[str] = NAMES,
    methods: Sequence[str] | None = None,
    seeds: Iterable[int] = (0,),
    *,
    people: int = 500,
    margin: float | None = None,
    rows: int | None = None,
    done: Collection[Key] = (),
    progress: bool | None = None,
    problem: Callable[[Benchmark], Problem] | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure methods on benchmark sets, all of one set and seed on the same footing.

    Everything that is wrong with the arguments is found at once, before the first fit. Records
    come as they finish; whoever keeps them can go on later, with ``done``.

    Args:
        datasets: Of ``carma.benchmarks.NAMES`` and ``OWN_NAMES``.
        methods: Names in ``METHODS``; by default all.
        seeds: Of data, classifier, causal model and solver.
        people: Rejected people of the recourse test split, the first so many.
        margin: Of the methods that search (``exact``, ``grid``, their versions on the true
            model, ``noncausal``), as a probability; by default their own, which is 0. The
            others have a margin of their own in any case.
        rows: Rows of each part of the data; by default the paper's.
        done: Keys of finished records: these are skipped.
        progress: See ``track``.
        problem: Settings of the parts that are fitted, seeds apart; see ``standard_problem``.

    Returns:
        One record for each set, seed and method, in this order; see
        ``carma.evaluation.records.FIELDS``.

    Raises:
        SettingsError: A name is unknown or a number is out of range.
        CarmaError: While iterating: a fit failed; the message names set, method and seed.

    Example:
        >>> from carma import ClassifierSettings, TrainingSettings
        >>> def quick(data):
        ...     return Problem(data.schema, classifier=ClassifierSettings((), five))
        >>> five = TrainingSettings(epochs=5)
        >>> records = compare(["chain-lin"], ["exact-true"], people=5, rows=400, problem=quick)
        >>> [(r["method"], r["n_people"], r["cost_ratio"]) for r in records]
        [('exact-true', 5, 1.0)]
    """
    methods, seeds = tuple(METHODS if methods is None else methods), tuple(seeds)
    datasets = tuple(datasets)
    _check(datasets, methods, seeds, people, margin, rows)
    keys = (
        Key(dataset, method, seed, people, margin, rows)
        for dataset in datasets
        for seed in seeds
        for method in methods
    )
    missing = [key for key in dict.fromkeys(keys) if key not in done]
    return _measured(missing, problem or standard_problem, progress)


def measure(arena: Arena, method: Method, margin: float | None = None) -> dict[str, Any]:
    """Fit one method and measure it on the people of an arena.

    Args:
        arena: Shared by all methods.
        method: The one.
        margin: See ``compare``.

    Returns:
        A record without what was asked for; see ``carma.evaluation.records.FIELDS``.

    Raises:
        CarmaError: A fit failed.
    """
    return Attempt.of(arena, method, margin).record()


def _measured(
    keys: list[Key], problem: Callable[[Benchmark], Problem], progress: bool | None
) -> Iterator[dict[str, Any]]:
    arenas: dict[tuple[str, int], Arena] = {}
    for key in track(keys, "benchmark", total=len(keys), show=progress):
        pair = key.dataset, key.seed
        try:
            if pair not in arenas:
                data = load(key.dataset, seed=key.seed, rows=key.rows)
                # One at a time: the last one's rows and models are let go.
                arenas = {pair: Arena(data, problem(data).with_seed(key.seed), key.people)}
            found = measure(arenas[pair], METHODS[key.method], key.margin)
        except CarmaError as error:
            where = f"{key.dataset}, {key.method}, seed {key.seed}"
            raise type(error)(f"{where}: {error}") from error
        yield key.asked | found


def _check(
    datasets: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    people: int,
    margin: float | None,
    rows: int | None,
) -> None:
    """Refuse what cannot be measured, before the first fit."""
    known = {"datasets": (*NAMES, *OWN_NAMES), "methods": tuple(METHODS)}
    for argument, given in (("datasets", datasets), ("methods", methods), ("seeds", seeds)):
        if not given:
            raise SettingsError.of("compare", argument, "name at least one", given)
        for value in given if argument in known else ():
            if value not in known[argument]:
                rule = f"be of {', '.join(known[argument])}"
                raise SettingsError.of("compare", argument, rule, value)
    least = [("seeds", seed, 0) for seed in seeds] + [("people", people, 1)]
    least += [] if rows is None else [("rows", rows, LEAST_ROWS)]
    for argument, number, lowest in least:
        if not isinstance(number, int) or isinstance(number, bool) or number < lowest:
            rule = f"be a whole number of at least {lowest}"
            raise SettingsError.of("compare", argument, rule, number)
    if margin is not None:
        room = 1 - max(structural_model(name).schema.threshold for name in datasets)
        if not 0 <= margin < room:
            rule = f"be at least 0 and below {room:g}, what is left above the threshold"
            raise SettingsError.of("compare", "margin", rule, margin)


def _call(solver: Solver, people: Tensor) -> tuple[Plans, float]:
    start = time.perf_counter()
    plans = solver.solve(people, progress=False)
    return plans, time.perf_counter() - start


def _finite(content: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    return None if isinstance(content, float) and not math.isfinite(content) else content
