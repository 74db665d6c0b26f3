"""Speed, memory and accuracy of the grid oracle and the exact solver, as one JSON object.

    python benchmarks/solvers.py --json benchmarks/results/solvers.json

For every set: milliseconds a person in one batch, on the true and on the learned causal model,
mean cost (x 100), and how far the exact solver is from a run with 20 times the starts. Then the
greatest memory of a process that serves more and more people.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

import carma
from carma.benchmarks import NAMES, load
from carma.evaluation.arena import Arena, standard_problem

MANY_STARTS = 20
MEMORY_PEOPLE = (500, 2_500, 50_000)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sets", nargs="+", choices=NAMES, help="renew only these in the file")
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--check-people", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory-of", nargs=2, metavar=("SOLVER", "PEOPLE"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        name, people = options.memory_of
        print(json.dumps(memory(name, int(people))))
        return
    if options.sets:
        record = json.loads(options.json.read_text())
        record["sets"] |= {name: measure(name, options) for name in options.sets}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
        return
    record = {
        "sets": {name: measure(name, options) for name in NAMES},
        "memory_mb": {
            f"{name} {people}": in_a_process(name, people)
            for name in ("grid", "exact", "carma")
            for people in MEMORY_PEOPLE[: 3 if name == "carma" else 2]
        },
        "people": options.people,
        "check_people": options.check_people,
        "threads": options.threads,
        "versions": {p: version(p) for p in ("carma-recourse", "torch", "zuko")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    text = json.dumps(record, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One set."""
    arena = arena_of(name, options.people)
    x, classifier, cost = arena.people, arena.classifier, arena.cost
    bins = 15 if name == "loan" else 25
    record: dict[str, Any] = {"n_people": len(x), "bins": bins, "threads": options.threads}
    for model, suffix in ((arena.true_model, "true"), (arena.causal_model, "learned")):
        exact = carma.ExactSolver(model, classifier, cost=cost)
        grid = carma.GridOracle(
            model, classifier, cost=cost, settings=carma.GridSettings(bins=bins)
        ).fit(arena.training)
        for label, solver in (("exact", exact), ("grid", grid)):
            seconds, plans = [], solver.solve(x[:20])
            for _ in range(options.runs):
                start = time.perf_counter()
                plans = solver.solve(x)
                seconds.append(time.perf_counter() - start)
            record[f"{label}_{suffix}_ms"] = 1000 * median(seconds) / len(x)
            record[f"{label}_{suffix}_cost_x100"] = mean_cost(plans.cost)
    few = x[: options.check_people]
    usual = carma.ExactSettings(closed_form=False)
    more = carma.ExactSettings(
        closed_form=False, starts=MANY_STARTS * usual.starts, keep=MANY_STARTS * usual.keep
    )
    found, best = (
        carma.ExactSolver(arena.true_model, classifier, cost=cost, settings=s).solve(few).cost
        for s in (usual, more)
    )
    record["search_cost_x100"] = mean_cost(found)
    record["search_20_times_starts_cost_x100"] = mean_cost(best)
    record["search_above_20_times_starts_percent"] = 100 * float(found.mean() / best.mean() - 1)
    record["grid_over_exact"] = record["grid_true_cost_x100"] / record["exact_true_cost_x100"]
    print(name, json.dumps(record), file=sys.stderr, flush=True)
    return record


def arena_of(name: str, people: int) -> Arena:
    """Seed 0, settings as everywhere."""
    data = load(name)
    return Arena(data, standard_problem(data), n_people=people)


def mean_cost(cost: torch.Tensor) -> float:
    """Mean over people with a plan, times 100."""
    return 100 * float(cost[torch.isfinite(cost)].mean())


def memory(name: str, people: int) -> dict[str, float]:
    """Peak memory of this process, before and after serving ``people`` of the Loan set."""
    arena = arena_of("loan", 1 << 20)
    model, classifier, cost = arena.causal_model, arena.classifier, arena.cost
    solver: carma.Solver
    if name == "exact":
        solver = carma.ExactSolver(model, classifier, cost=cost)
    elif name == "grid":
        settings = carma.GridSettings(bins=15)
        solver = carma.GridOracle(model, classifier, cost=cost, settings=settings)
        solver.fit(arena.training)
    else:
        quick = carma.TrainingSettings(epochs=5)
        chosen = carma.CarmaSettings(training=quick)
        solver = carma.Carma(model, classifier, cost=cost, settings=chosen).fit(arena.training)
    x = arena.people.repeat(1 + people // len(arena.people), 1)[:people]
    before = peak_mb()
    solver.solve(x)
    return {"before": before, "after": peak_mb()}


def peak_mb() -> float:
    """Greatest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(name: str, people: int) -> dict[str, float]:
    """``memory`` in a fresh interpreter."""
    command = [sys.executable, __file__, "--memory-of", name, str(people)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, float] = json.loads(done.stdout)
    print(name, people, found, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
