"""How long runs will take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean
from typing import Any

from carma.reproduction.run import Run

__all__ = ["expected_seconds"]

# One core, full scale, with what had to be fitted for the first run of a group: seconds by method
# on the synthetic sets. Measured by `carma reproduce all --seeds 1` on 2 x86-64 cores.
TYPICAL = {
    "causal-model": 25.0,
    "grid-true": 20.0,
    "exact-true": 6.0,
    "dice-vae": 25.0,
    "dice-vae-published": 25.0,
    "carma-published": 35.0,
    "carma-single": 3.0,
    "carma": 45.0,
}
# Loan has more features; quick runs have fewer rows.
LOAN, QUICK = 1.6, 0.35


def expected_seconds(
    runs: Iterable[Run], records: Iterable[dict[str, Any]], processes: int
) -> float:
    """Estimate the time of runs from finished ones of their kind, or from typical ones.

    Args:
        runs: What is missing.
        records: What is finished.
        processes: That share the runs.

    Example:
        >>> expected_seconds([Run("chain-lin", "plain", "carma", 0, "full")], [], 1)
        45.0
    """
    known: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for record in records:
        run = Run.of(record)
        known[run.dataset, run.variant, run.method, run.scale].append(record["seconds"])
    total = 0.0
    for run in runs:
        seen = known.get((run.dataset, run.variant, run.method, run.scale))
        if seen:
            total += mean(seen)
        else:
            factor = (LOAN if run.dataset == "loan" else 1.0) * (
                QUICK if run.scale == "quick" else 1.0
            )
            total += TYPICAL[run.method] * factor
    return total / processes
