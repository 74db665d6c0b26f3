"""Several recourse methods on one scale: the same people, classifier, causal model and cost."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor

from carma.benchmarks import NAMES, OWN_NAMES, Benchmark, load, structural_model
from carma.classifiers.base import Classifier
from carma.classifiers.neural import fit_classifier
from carma.costs import Cost
from carma.errors import CarmaError, SettingsError, TableError
from carma.evaluation.metrics import Metrics, evaluate
from carma.evaluation.records import Key
from carma.models.base import CausalModel
from carma.problem import Problem
from carma.progress import track
from carma.recourse.base import Solver
from carma.recourse.carma import Carma, CarmaSettings
from carma.recourse.dice_vae import DiceVae, DiceVaeSettings
from carma.recourse.exact import ExactSettings, ExactSolver
from carma.recourse.grid import GridOracle, GridSettings
from carma.recourse.noncausal import NonCausalOptimum
from carma.recourse.plans import Plans
from carma.recourse.published import TABLE_5, PublishedCarma, PublishedSettings
from carma.recourse.result import RecourseResult

__all__ = ["METHODS", "Arena", "Method", "compare", "measure", "standard_problem"]

T = TypeVar("T")

# People whose calls are timed one by one.
SINGLE = 20
# What Benchmark.draw asks for.
LEAST_ROWS = 20


@dataclass(frozen=True, eq=False)
class Arena:
    """What all methods of one set and seed share; each part is fitted when first asked for.

    Args:
        data: The set.
        problem: Settings of classifier, causal model and CARMA; their seed is the arena's.
        n_people: People at most.

    Attributes:
        seconds: How long the fits took, by part: ``classifier``, ``causal_model``, ``carma``.

    Example:
        >>> from carma import ClassifierSettings, TrainingSettings
        >>> data, quick = load("chain-lin", rows=400), TrainingSettings(epochs=5)
        >>> problem = Problem(data.schema, classifier=ClassifierSettings((), quick))
        >>> arena = Arena(data, problem, n_people=10)
        >>> arena.people.shape, list(arena.seconds)
        (torch.Size([10, 4]), ['classifier'])
    """

    data: Benchmark
    problem: Problem
    n_people: int = 500
    seconds: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _optima: dict[float, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def seed(self) -> int:
        """Of everything that is fitted."""
        return self.problem.seed

    @property
    def cost(self) -> Cost:
        """The one scale: that of the whole recourse training split."""
        return self.data.cost

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
            rule = f"hold somebody below the threshold {self.classifier.threshold}"
            raise TableError.of("Arena", "people", rule, 0)
        return people[: self.n_people]

    @cached_property
    def training(self) -> Tensor:
        """The rejected people of the recourse training split, for solvers that learn."""
        return self._rejected(self.data.encoded("recourse"))

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
            solver = _exact(self, self.true_model, margin).fit(self.training, progress=False)
            self._optima[margin] = solver.solve(self.people, progress=False).cost
        return self._optima[margin]

    def _rejected(self, x: Tensor) -> Tensor:
        classifier = self.classifier
        with torch.no_grad():
            return x[classifier.probability(x) < classifier.threshold]

    def _timed(self, part: str, fit: Callable[[], T]) -> T:
        start = time.perf_counter()
        fitted = fit()
        self.seconds[part] = time.perf_counter() - start
        return fitted


@dataclass(frozen=True)
class Method:
    """One way to recourse.

    Args:
        name: In tables, records and on the command line.
        description: One line.
        make: Arena and the margin asked for (``None``: the method's own) to a solver, which is
            fitted where methods share one fit.
    """

    name: str
    description: str
    make: Callable[[Arena, float | None], Solver]


def _exact(arena: Arena, model: CausalModel, margin: float | None) -> Solver:
    settings = ExactSettings(margin=margin or 0.0)
    return ExactSolver(model, arena.classifier, cost=arena.cost, settings=settings)


def _grid(arena: Arena, model: CausalModel, margin: float | None) -> Solver:
    bins = 15 if arena.data.name == "loan" else 25
    settings = GridSettings(bins=bins, margin=margin or 0.0)
    return GridOracle(model, arena.classifier, cost=arena.cost, settings=settings)


def _non_causal(arena: Arena, margin: float | None) -> Solver:
    settings = ExactSettings(margin=margin or 0.0)
    return NonCausalOptimum(
        arena.causal_model, arena.classifier, cost=arena.cost, settings=settings
    )


def _published(arena: Arena) -> Solver:
    name = arena.data.name if arena.data.name in TABLE_5 else "triangle-lin"
    settings = PublishedSettings.table_5(name)
    settings = replace(settings, training=replace(settings.training, seed=arena.seed))
    return PublishedCarma(arena.causal_model, arena.classifier, cost=arena.cost, settings=settings)


def _dice_vae(arena: Arena) -> Solver:
    settings = DiceVaeSettings()
    settings = replace(settings, training=replace(settings.training, seed=arena.seed))
    return DiceVae(arena.causal_model, arena.classifier, cost=arena.cost, settings=settings)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "exact",
            "the least cost on the learned causal model",
            lambda arena, margin: _exact(arena, arena.causal_model, margin),
        ),
        Method(
            "grid",
            "the paper's grid search on the learned causal model",
            lambda arena, margin: _grid(arena, arena.causal_model, margin),
        ),
        Method(
            "exact-true",
            "the least cost on the true causal model",
            lambda arena, margin: _exact(arena, arena.true_model, margin),
        ),
        Method(
            "grid-true",
            "the paper's oracle M*: its grid search on the true causal model",
            lambda arena, margin: _grid(arena, arena.true_model, margin),
        ),
        Method(
            "noncausal",
            "the least cost when nothing follows from an action",
            _non_causal,
        ),
        Method(
            "carma",
            "CARMA with its default settings",
            lambda arena, _: arena.carma,
        ),
        Method(
            "carma-single",
            "CARMA in one forward pass, without search",
            lambda arena, _: arena.carma.using(candidates=1, refine_steps=0, fallback=False),
        ),
        Method(
            "carma-published",
            "CARMA with the settings of the paper's Table 5 (triangle-lin's for other sets)",
            lambda arena, _: _published(arena),
        ),
        Method(
            "dice-vae",
            "DiCE-VAE: one forward pass without causal knowledge",
            lambda arena, _: _dice_vae(arena),
        ),
    )
}


def standard_problem(data: Benchmark) -> Problem:
    """Default settings for a set, with the classifier that suits it."""
    return Problem(data.schema, classifier=data.classifier_settings)


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
    threshold = arena.classifier.threshold
    index = pd.RangeIndex(len(people))
    result = RecourseResult(solver.encoding, people, plans, index, threshold, seconds)

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
    ratios = {n: regret.pop(n, None) for n in ("cost_ratio", "cost_ratio_low", "cost_ratio_high")}
    is_learned = solver.causal_model is not arena.true_model
    record = {
        **content,
        **ratios,
        "cost_ratio_same_margin": None if same is None else same.cost_ratio,
        "regret": regret or None,
        "margin": solver.margin,
        "statuses": result.counts(),
        "n_evaluations": float(plans.n_evaluations.double().mean()),
        "ms_single": 1e3 * single,
        "us_batched": 1e6 * seconds / len(people),
        "fit_seconds": fit_seconds,
        "model_seconds": arena.seconds.get("causal_model") if is_learned else None,
        "classifier_seconds": arena.seconds["classifier"],
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in ("carma-recourse", "torch", "zuko", "scipy")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    finite: dict[str, Any] = _finite(record)
    return finite


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
