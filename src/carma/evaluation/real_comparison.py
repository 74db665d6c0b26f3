"""Recourse methods on real tables: the same people, classifier, causal model and cost."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from carma.benchmarks.real import LEAST_ROWS, REAL_NAMES, data_folder, load_real, problem_file
from carma.classifiers.named import CLASSIFIERS
from carma.errors import CarmaError, SettingsError
from carma.evaluation.metrics import evaluate
from carma.evaluation.real_arena import REAL_METHODS, RealArena, RealMethod
from carma.evaluation.survival import accepted, reread
from carma.problem import Problem
from carma.recourse.base import Solver
from carma.recourse.carma import Carma
from carma.recourse.menus import falls_short
from carma.table import labels

__all__ = ["REAL_FIELDS", "RealKey", "compare_real", "measure_real"]

REAL_FIELDS = {
    "dataset": "real table",
    "method": "name in the registry",
    "classifier": "who decides",
    "seed": "of shares, classifier, causal models and solver",
    "people": "people asked for",
    "margin_asked": "margin asked for; null: each method's own",
    "rows": "rows of the table; null: all",
    "search_people": "people asked of searches, which take seconds each",
    "n_people": "rejected people measured",
    "coverage": "percent of people with a plan that the method believes in",
    "verified": "percent of people with a plan accepted under the learned causal model, without a "
    "violation, and after it was written to a file and read back",
    "n_searched": "those of them whom the search was asked about, too",
    "coverage_of_search": "percent verified of the people for whom the search finds a plan",
    "validity": "percent of plans accepted under the learned causal model",
    "agreement": "percent of plans accepted under the rival, fitted on other rows",
    "agreement_at_target": "the same without plans that hold with less than CARMA's validity "
    "under the learned model, where nothing better was found",
    "violations": "things wrong with the plans, found again from their table",
    "violation_rules": "their number by rule",
    "lost_in_file": "plans accepted before they were written and read back, and not after",
    "cost_x100": "mean cost of a plan times 100",
    "cost_ratio": "cost over the search's, people with both, whatever the margin",
    "cost_ratio_same_margin": "the same over the search that is asked for the same: a plan that "
    "itself holds with CARMA's validity, or the method's margin",
    "actions": "mean number of features acted on",
    "probability": "mean probability of the method's own counterfactual",
    "margin": "how far past the threshold the method aims, as a probability",
    "statuses": "number of people by status",
    "n_evaluations": "mean number of counterfactuals computed for a person",
    "ms_single": "median milliseconds of a call for one person",
    "people_per_second": "of one call for n_timed people",
    "n_timed": "rejected people of the table and, for CARMA, more of them drawn from the causal "
    "model where they are too few to tell how fast it is",
    "fit_seconds": "fit of the solver alone",
    "model_seconds": "fit of the causal model, shared",
    "classifier_seconds": "fit of the classifier, shared",
    "accuracy": "balanced accuracy of the classifier on all who ask",
    "threads": "of torch while solving; fits take one",
    "versions": "of the packages",
    "machine": "processor architecture and Python",
}
# People whose calls are timed one by one: searches take seconds each.
SINGLE = 5


class RealKey(NamedTuple):
    """What was asked for: two records with one key measure the same thing.

    Args:
        dataset: Real table.
        method: Name in the registry.
        classifier: Who decides.
        seed: Of every part.
        people: People asked for.
        margin: Margin asked for; ``None`` leaves each method its own.
        rows: Rows of the table; ``None`` for all.
        search_people: People asked of searches.

    Example:
        >>> key = RealKey("adult", "carma", "mlp", 0, 500, None, None, 20)
        >>> RealKey.of(key.asked) == key
        True
    """

    dataset: str
    method: str
    classifier: str
    seed: int
    people: int
    margin: float | None
    rows: int | None
    search_people: int

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """Key of a finished record.

        Raises:
            KeyError: It is no record of a real table.
            TypeError: The same, by the type of a value.
        """
        key = cls(*(record[name] for name in NAMES))
        for value, kinds in zip(key, KINDS, strict=True):
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise TypeError(value)
        return key

    @property
    def asked(self) -> dict[str, Any]:
        """The fields of a record that the key is rebuilt from."""
        return dict(zip(NAMES, self, strict=True))


ASKED = ("dataset", "method", "classifier", "seed", "people", "margin_asked")
NAMES = (*ASKED, "rows", "search_people")
KINDS: tuple[Any, ...] = (str, str, str, int, int, int | float | None, int | None, int)


def compare_real(
    datasets: Sequence[str] = REAL_NAMES,
    methods: Sequence[str] | None = None,
    classifiers: Sequence[str] = ("mlp",),
    seeds: Iterable[int] = (0,),
    *,
    folder: str | Path | None = None,
    people: int = 500,
    margin: float | None = None,
    rows: int | None = None,
    search_people: int = 20,
    done: Collection[RealKey] = (),
    progress: bool | None = None,
    problem: Callable[[str], Problem] | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure methods on real tables, all of one table, classifier and seed on one footing.

    Args:
        datasets: Of ``carma.benchmarks.REAL_NAMES``.
        methods: Names in ``REAL_METHODS``; by default all.
        classifiers: Of ``carma.classifiers.named.CLASSIFIERS``.
        seeds: Of shares, classifier, causal models and solver.
        folder: Where the tables are; see ``data_folder``.
        people: Rejected people of those who ask, the first so many.
        margin: Of the methods that search, as a probability; by default their own.
        rows: Rows of each table, drawn at random; by default all.
        search_people: The first so many people are asked of searches: of the methods that search,
            and of the search that the others are measured against.
        done: Keys of finished records: these are skipped.
        progress: Of each fit and each method's answers; see ``track``.
        problem: From the name of a table to the settings of what is fitted; by default its
            problem file's.

    Returns:
        One record for each table, classifier, seed and method, in this order; see
        ``REAL_FIELDS``.

    Raises:
        SettingsError: A name is unknown or a number is out of range.
        FileError: The tables are not there.
        CarmaError: While iterating: a fit failed; the message names what was measured.

    Example:
        >>> compare_real(["adult"], classifiers=["oracle"])
        Traceback (most recent call last):
        carma.errors.SettingsError: compare: 'classifiers' must be of logistic, mlp, ...
    """
    methods = tuple(REAL_METHODS if methods is None else methods)
    seeds = tuple(seeds)
    named = {
        "datasets": (tuple(datasets), REAL_NAMES),
        "methods": (methods, tuple(REAL_METHODS)),
        "classifiers": (tuple(classifiers), CLASSIFIERS),
    }
    for argument, (given, known) in named.items():
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            rule = f"be of {', '.join(known)}" if unknown else "name at least one"
            raise SettingsError.of("compare", argument, rule, unknown[0] if unknown else given)
    least = [("seeds", seed, 0) for seed in seeds] + [("people", people, 1)]
    least += [("search_people", search_people, 1)]
    least += [] if rows is None else [("rows", rows, LEAST_ROWS)]
    for argument, number, lowest in least:
        if number < lowest:
            raise SettingsError.of("compare", argument, f"be at least {lowest}", number)
    keys = (
        RealKey(dataset, method, classifier, seed, people, margin, rows, search_people)
        for dataset in datasets
        for classifier in classifiers
        for seed in seeds
        for method in methods
    )
    missing = [key for key in dict.fromkeys(keys) if key not in done]
    return _measured(missing, data_folder(folder), problem or _own_problem, progress)


def measure_real(
    arena: RealArena, method: RealMethod, margin: float | None = None
) -> dict[str, Any]:
    """Fit one method and measure it on the people of an arena.

    Args:
        arena: Shared by all methods.
        method: The one.
        margin: See ``compare_real``.

    Returns:
        A record without what was asked for; see ``REAL_FIELDS``.

    Raises:
        CarmaError: A fit failed.
    """
    solver = method.make(arena, margin)
    if isinstance(solver, Carma):
        fit_seconds = arena.seconds["carma"]
    else:
        start = time.perf_counter()
        solver.fit(arena.training, progress=arena.progress)
        fit_seconds = time.perf_counter() - start
    x = arena.data.encoding.encode(arena.people)
    solver.solve(x[:1])
    single = statistics.median(_seconds(solver, person) for person in torch.split(x[:SINGLE], 1))
    result = arena.answers(solver)
    plans, n_timed, seconds = result.plans, len(result), result.seconds
    if isinstance(solver, Carma):
        n_timed, seconds = len(arena.crowd), _seconds(solver, arena.crowd)
    works = arena.works(result)
    is_kept = accepted(*reread(result), arena.causal_model, arena.classifier)
    wrong = arena.violations(result)
    is_wrong = torch.from_numpy(result.index.isin(wrong["person"]))
    verified = works & is_kept & ~is_wrong
    search = arena.searched()
    some = slice(len(search.cost))
    metrics = evaluate(result, arena.cost)
    agrees = arena.works(result, arena.rival)
    is_sure = plans.has_plan & ~falls_short(plans, arena.settings.validity)
    price = torch.where(works, plans.cost, torch.nan)[some]
    return {
        "n_people": metrics.n_people,
        "coverage": metrics.coverage,
        "verified": _percent(verified),
        "n_searched": len(search.cost),
        "coverage_of_search": _percent(verified[some][search.has_plan]),
        "validity": _percent(works[plans.has_plan]),
        "agreement": _percent(agrees[plans.has_plan]),
        "agreement_at_target": _percent(agrees[is_sure]),
        "violations": len(wrong),
        "violation_rules": {str(k): int(v) for k, v in wrong["rule"].value_counts().items()},
        "lost_in_file": int((works & ~is_kept).sum()),
        "cost_x100": metrics.cost_x100,
        "cost_ratio": _ratio(price, search.cost),
        "cost_ratio_same_margin": _ratio(price, arena.least_cost(solver, result)),
        "actions": metrics.actions,
        "probability": metrics.probability,
        "margin": solver.margin,
        "statuses": result.counts(),
        "n_evaluations": float(plans.n_evaluations.double().mean()),
        "ms_single": 1e3 * single,
        "people_per_second": n_timed / seconds,
        "n_timed": n_timed,
        "fit_seconds": fit_seconds,
        "model_seconds": arena.seconds["causal_model"],
        "classifier_seconds": arena.seconds["classifier"],
        "accuracy": _accuracy(arena),
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in ("carma-recourse", "torch", "zuko", "scipy")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def _measured(
    keys: list[RealKey],
    folder: Path,
    problem: Callable[[str], Problem],
    progress: bool | None,
) -> Iterator[dict[str, Any]]:
    arenas: dict[tuple[str, str, int], RealArena] = {}
    for key in keys:
        place = key.dataset, key.classifier, key.seed
        try:
            if place not in arenas:
                arenas = {place: _arena(key, folder, problem, list(arenas.values()), progress)}
            found = measure_real(arenas[place], REAL_METHODS[key.method], key.margin)
        except CarmaError as error:
            raise type(error)(f"{', '.join(map(str, place))}, {key.method}: {error}") from error
        yield key.asked | found


def _arena(
    key: RealKey,
    folder: Path,
    problem: Callable[[str], Problem],
    before: list[RealArena],
    progress: bool | None,
) -> RealArena:
    """A new one, with the causal models of the last where only the classifier is another."""
    asked = key.classifier, key.people, key.search_people, progress
    for last in before:
        if (last.data.name, last.seed) == (key.dataset, key.seed):
            arena = RealArena(last.data, last.problem, *asked)
            # Cached properties: what is here is not fitted again.
            vars(arena).update(causal_model=last.causal_model, rival=last.rival)
            vars(arena).update(training=last.training)
            arena.seconds.update({n: last.seconds[n] for n in ("causal_model", "rival")})
            return arena
    data = load_real(key.dataset, folder, seed=key.seed, rows=key.rows)
    settings = problem(key.dataset).with_seed(key.seed)
    return RealArena(data, settings, *asked)


def _own_problem(name: str) -> Problem:
    return Problem.from_toml(problem_file(name))


def _seconds(solver: Solver, people: Tensor) -> float:
    start = time.perf_counter()
    solver.solve(people, progress=False)
    return time.perf_counter() - start


def _accuracy(arena: RealArena) -> float:
    is_good = labels(arena.data.schema, arena.data.frame("recourse", "test"))
    is_right = arena.is_accepted == is_good
    return float((is_right[is_good].double().mean() + is_right[~is_good].double().mean()) / 2)


def _percent(share: Tensor) -> float | None:
    return 100 * float(share.double().mean()) if len(share) else None


def _ratio(paid: Tensor, least: Tensor) -> float | None:
    both = torch.isfinite(paid) & torch.isfinite(least)
    if not bool(both.any()) or float(least[both].sum()) <= 0:
        return None
    return float(paid[both].sum() / least[both].sum())
