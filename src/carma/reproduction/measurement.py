"""What one run measures, as a record."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch

from carma.benchmarks import load
from carma.costs import SquaredCost
from carma.errors import CarmaError
from carma.evaluation.arena import Arena, standard_problem
from carma.evaluation.comparison import Attempt
from carma.evaluation.fidelity import Fidelity
from carma.evaluation.methods import METHODS
from carma.models.vaca import VacaSettings
from carma.reproduction.run import CAUSAL_MODEL, PREFERENCES, Run
from carma.table import Statistics

__all__ = ["SCALES", "Scale", "measured"]

# People whose shifts a record keeps.
SHOWN = 500


@dataclass(frozen=True)
class Scale:
    """How much of the data is used.

    Args:
        rows: Of each part of a set; ``None`` for the paper's.
        people: Rejected people of the test split at most.
    """

    rows: int | None
    people: int


SCALES = {"full": Scale(None, 1_000_000), "quick": Scale(6_000, 200)}


def measured(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Carry out runs of one group, on one thread.

    Args:
        runs: They share data, classifier and causal model; see ``Run.group``.

    Yields:
        A record of each, in order: the run's own fields, ``seconds`` with all that had to be
        fitted for it, and what ``Attempt.record`` and ``Fidelity`` tell. Records of methods also
        have ``cost_x100_rejected`` (the scale of the paper's oracle: the range over rejected rows
        alone), ``sizes`` and ``targets`` (percent of the plans by number of actions, and acting
        on each feature) and ``shifts`` (what plans change, by feature, of the first people).

    Raises:
        CarmaError: A fit failed; the message names the run.
    """
    base: Arena | None = None
    variants: dict[str, Arena] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in runs:
            start = time.perf_counter()
            try:
                base = base or _arena(run)
                if run.variant not in variants:
                    # The last variant's solvers are let go.
                    variants = {run.variant: _variant(base, run)}
                found = _measure(variants[run.variant], run)
            except CarmaError as error:
                raise type(error)(f"{' '.join(map(str, run))}: {error}") from error
            yield run._asdict() | {"seconds": time.perf_counter() - start} | found
    finally:
        torch.set_num_threads(threads)


def _arena(run: Run) -> Arena:
    scale = SCALES[run.scale]
    data = load(run.dataset, seed=run.seed, rows=scale.rows)
    problem = standard_problem(data)
    if run.variant == "vaca":
        problem = replace(problem, causal_model=VacaSettings())
    return Arena(data, problem.with_seed(run.seed), scale.people)


def _variant(base: Arena, run: Run) -> Arena:
    if run.variant == "weighted":
        return base.variant(weights=PREFERENCES)
    return base.variant(fraction=run.fraction) if run.has_fraction else base


def _measure(arena: Arena, run: Run) -> dict[str, Any]:
    if run.method == CAUSAL_MODEL:
        people = arena.data.encoded("causal", "test")
        fidelity = Fidelity.of(arena.causal_model, arena.data.scm, people, seed=run.seed)
        return fidelity.to_dict() | {
            "model_seconds": arena.seconds["causal_model"],
            "versions": {p: version(p) for p in ("carma-recourse", "torch")},
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        }
    attempt = Attempt.of(arena, METHODS[run.method])
    return attempt.record() | _details(attempt)


def _details(attempt: Attempt) -> dict[str, Any]:
    arena, plans, x = attempt.arena, attempt.result.plans, attempt.result.x
    has_plan = plans.has_plan
    mask, values, x = plans.mask[has_plan], plans.values[has_plan], x[has_plan]
    encoding, n = arena.data.encoding, max(1, len(x))
    sizes = mask.sum(dim=1)
    changes = (plans.counterfactual[has_plan] - x)[:SHOWN]
    columns = {name: encoding.column(name) for name in arena.data.schema.actionable}
    counts = range(1, len(columns) + 1)
    return {
        "cost_x100_rejected": 100 * float(_rejected_scale(arena)(x, mask, values).sum()) / n,
        "sizes": {str(k): 100 * float((sizes == k).sum()) / n for k in counts},
        "targets": {name: 100 * float(mask[:, i].sum()) / n for name, i in columns.items()},
        "shifts": {
            name: [float(f"{value:.4g}") for value in changes[:, i].tolist()]
            for name, i in columns.items()
        },
    }


def _rejected_scale(arena: Arena) -> SquaredCost:
    """Ranges of the rejected training rows, all else as ever."""
    whole = arena.data.scm.statistics_
    rejected = Statistics.of(arena.training)
    scale = replace(whole, minimum=rejected.minimum, maximum=rejected.maximum)
    return SquaredCost(arena.data.encoding, scale, arena.weights)
