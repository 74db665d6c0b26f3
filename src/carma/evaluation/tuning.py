"""Tune the settings of a solver on one problem: cost down, coverage up."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from carma.classifiers.base import Classifier
from carma.errors import SettingsError, TableError, TrainingError
from carma.evaluation.metrics import evaluate
from carma.evaluation.spaces import Settings, chosen, space_of
from carma.evaluation.trials import Trial, Tuned
from carma.models.base import CausalModel
from carma.problem import Problem
from carma.progress import track
from carma.state import State, canonical_json
from carma.table import Encoding, labels, to_pandas
from carma.training import check_at_least, split_rows

__all__ = ["COVERAGE", "tune"]

# Percent of people whom the chosen settings shall cover.
COVERAGE = 99.9
# Share of the rejected people whom no trial is trained on.
VALIDATION = 0.25
# Two to train on, and one to measure.
LEAST_PEOPLE = 3


def tune(
    problem: Problem,
    table: Any,
    *,
    trials: int = 50,
    study: str | Path | None = None,
    coverage: float = COVERAGE,
    timeout: float | None = None,
    progress: bool | None = None,
) -> Tuned:
    """Try settings of the problem's solver by TPE with two objectives, and choose among them.

    Classifier and causal model are fitted once, on the rows on which ``carma fit`` fits them.
    The rejected people among those rows are split: each trial trains the solver on three
    quarters of them, and mean cost and coverage are measured on the others. The rows that
    ``carma fit`` holds out are never looked at, so what it measures on them stays honest. The
    settings as given are measured first, and may be the best ones.

    Args:
        problem: What is tuned, and over which values, follows from its solver; see
            ``carma.evaluation.spaces``. Its seed is that of the split and of all draws.
        table: DataFrame with the outcome column.
        trials: In the whole study, the settings as given not counted: finished ones are not
            made again.
        study: File that keeps the trials, so that a study can be interrupted and go on. Without
            it, nothing is kept.
        coverage: Percent of people whom the chosen settings shall cover.
        timeout: Seconds after which no new trial is begun.
        progress: Show bars; ``None`` shows them on a terminal.

    Returns:
        All trials, the front, and the choice.

    Raises:
        SettingsError: An argument is out of range, or Optuna is not installed.
        FileError: ``study`` cannot be used, or belongs to another problem, table or seed.
        TableError: The table does not fit, or has too few rejected people.
        TrainingError: No trial gave a plan. One that fails is recorded, and the next begun.

    Example:
        >>> from carma import CarmaSettings, ClassifierSettings, FlowSettings, TrainingSettings
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=200), TrainingSettings(epochs=5)
        >>> parts = ClassifierSettings((), quick), FlowSettings(training=quick, alternatives=0)
        >>> settings = CarmaSettings(lessons=20, training=quick, rehearsal=quick)
        >>> problem = Problem(data.schema, None, *parts, settings)
        >>> found = tune(problem, data.frame("classifier"), trials=1)
        >>> [trial.number for trial in found.trials], found.best in found.front
        ([0, 1], True)
    """
    _check(trials, coverage, timeout)
    try:
        from carma.evaluation.study import Study, quiet
    except ModuleNotFoundError as error:
        rule = "be installed: pip install 'carma-recourse[tune]'"
        raise SettingsError.of("tune", "optuna", rule, None) from error
    start = time.monotonic()
    frame = to_pandas(table)
    train, _ = problem.split(frame)
    given = problem.solver
    kept = Study(space_of(given), _made_for(problem, frame), problem.seed, study)
    missing = max(0, trials - len(kept.finished))
    with quiet():
        if missing or kept.given is None:
            ground = _Ground.of(problem, train, progress)
            if kept.given is None:
                kept.tell_given(ground.measured(given))
            for _ in track(range(missing), "tune", total=missing, show=progress):
                if timeout is not None and time.monotonic() - start >= timeout:
                    break
                asked = kept.ask()
                kept.tell(asked, ground.measured(chosen(given, asked.choices)))
        found = [(given, kept.given or {})]
        found += [(chosen(given, done.choices), done.measured) for done in kept.finished]
    return _tuned(problem, found, coverage)


@dataclass(frozen=True, eq=False)
class _Ground:
    """What all trials share: the fitted parts and the people."""

    problem: Problem
    causal_model: CausalModel
    classifier: Classifier
    training: pd.DataFrame
    validation: pd.DataFrame

    @classmethod
    def of(cls, problem: Problem, rows: pd.DataFrame, progress: bool | None) -> _Ground:
        model, classifier = problem.fit_parts(rows, progress=progress)
        x = model.encoding.encode(rows)
        x = torch.where(model.encoding.passed(x), x, model.impute(x))
        with torch.no_grad():
            is_rejected = classifier.rejects(x)
        rejected = rows[is_rejected.numpy()]
        if len(rejected) < LEAST_PEOPLE:
            rule = f"hold at least {LEAST_PEOPLE} people whom the classifier rejects"
            raise TableError.of("tune", "table", rule, len(rejected))
        parts = split_rows(len(rejected), VALIDATION, problem.seed)
        training, validation = (rejected.iloc[sorted(part.tolist())] for part in parts)
        return cls(problem, model, classifier, training, validation)

    def measured(self, settings: Settings) -> dict[str, Any]:
        """Fit a solver and measure it; ``error`` says why there is nothing to measure."""
        job = Problem(self.problem.schema, solver=settings)
        solver = job.new_solver(self.causal_model, self.classifier)
        start = time.perf_counter()
        try:
            solver.fit(self.training, progress=False)
        except TrainingError as error:
            return {"error": str(error)}
        seconds = time.perf_counter() - start
        metrics = evaluate(solver.recommend(self.validation, progress=False), solver.cost)
        if metrics.cost_x100 is None:
            return {"error": "nobody got a plan"}
        names = ("n_people", "cost_x100", "coverage", "actions", "ms_per_person")
        return {name: getattr(metrics, name) for name in names} | {"fit_seconds": seconds}


def _tuned(
    problem: Problem, found: list[tuple[Settings, dict[str, Any]]], coverage: float
) -> Tuned:
    trials, failures, n_people = [], dict[int, str](), 0
    for number, (settings, measured) in enumerate(found):
        if "error" in measured:
            failures[number] = measured["error"]
        else:
            numbers = dict(measured)
            n_people = numbers.pop("n_people")
            trials.append(Trial(number, settings, **numbers))
    return Tuned(problem, tuple(trials), n_people, coverage, failures)


def _made_for(problem: Problem, table: pd.DataFrame) -> dict[str, Any]:
    """What a study belongs to: its trials compare only where all of this is the same."""
    parts = {
        "schema": problem.schema.to_dict(),
        "classifier": _classifier_of(problem),
        "causal_model": asdict(problem.causal_model),
        "solver": asdict(problem.solver),
        "search space": {name: repr(v) for name, v in space_of(problem.solver).items()},
    }
    rows = {
        "features": Encoding(problem.schema).encode(table),
        "outcome": labels(problem.schema, table),
    }
    digests = {name: hashlib.sha256(canonical_json(c).encode()) for name, c in parts.items()}
    hashes = {name: digest.hexdigest() for name, digest in digests.items()}
    return {"seed": problem.seed, **hashes, "table": State({}, rows).fingerprint()}


def _classifier_of(problem: Problem) -> dict[str, Any]:
    decision = {} if problem.decision is None else {"decision": asdict(problem.decision)}
    file = problem.classifier_file
    if file is None:
        return asdict(problem.classifier) | decision
    content = file.path.read_bytes() if file.path.is_file() else b""
    digest = hashlib.sha256(content).hexdigest()
    return {"file": digest, "score_of": file.score_of} | decision


def _check(trials: int, coverage: float, timeout: float | None) -> None:
    check_at_least("tune", "trials", trials, 1)
    if not 0 <= coverage <= 100:
        rule = "be a percentage, at least 0 and at most 100"
        raise SettingsError.of("tune", "coverage", rule, coverage)
    if timeout is not None and not timeout > 0:
        raise SettingsError.of("tune", "timeout", "be above 0", timeout)
