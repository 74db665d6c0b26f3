"""CARMA against the exact solver where every person has constraints of their own.

    python benchmarks/constrained.py --json benchmarks/results/constrained.jsonl

Each person freezes one or two features (never all) and has the room of the others narrowed at
random. ``cost_ratio``: mean cost over the least cost under the true causal model within the same
limits, without a margin. ``coverage``: share of the people for whom the exact solver finds a plan
on CARMA's own causal model. ``violations``: plans that break a limit, checked here by themselves.
Finished sets in the file are skipped.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import carma
from carma.benchmarks import NAMES, load
from carma.constraints import Limits, PlanLimits
from carma.evaluation.arena import Arena, standard_problem
from carma.state import seeded


def main() -> None:
    """Run what is missing from the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    done = set()
    if options.json.exists():
        lines = options.json.read_text().splitlines()
        done = {(r["dataset"], r["seed"]) for r in map(json.loads, lines)}
    for seed in range(options.seeds):
        for name in options.datasets:
            if (name, seed) not in done:
                line = json.dumps(measure(name, seed, options.people))
                with options.json.open("a") as file:
                    file.write(line + "\n")
                print(line, flush=True)


def wishes(own: PlanLimits, x: Tensor, seed: int) -> Limits:
    """One or two features frozen, the room of the others narrowed."""
    draws = seeded(seed)
    box, columns = own.around(x), own.encoding.actionable
    n, k = len(x), len(columns)
    order = torch.rand(n, k, generator=draws).argsort(dim=1)
    n_frozen = torch.randint(1, min(2, k - 1) + 1, (n, 1), generator=draws)
    may_act = box.may_act.clone()
    may_act[:, columns] = order >= n_frozen
    share = 0.5 + 0.5 * torch.rand(2, *x.shape, generator=draws, dtype=torch.float64)
    lower = x - share[0] * (x - box.lower)
    return Limits(lower, x + share[1] * (box.upper - x), may_act)


def measure(name: str, seed: int, n_people: int) -> dict[str, Any]:
    """One set and seed."""
    data = load(name, seed=seed)
    arena = Arena(data, standard_problem(data).with_seed(seed), n_people)
    x, solver = arena.people, arena.carma
    limits = wishes(solver.limits, x, seed)
    start = time.perf_counter()
    plans = solver.solve(x, limits, progress=False)
    seconds = time.perf_counter() - start
    own, true = (
        carma.ExactSolver(model, arena.classifier, cost=arena.cost).solve(x, limits, progress=False)
        for model in (arena.causal_model, arena.true_model)
    )
    has_plan = plans.has_plan
    do = carma.Intervention(plans.mask, plans.values)
    outside = (plans.values < limits.lower) | (plans.values > limits.upper) | ~limits.may_act
    both = has_plan & true.has_plan
    with torch.no_grad():
        reached = arena.true_model.counterfactual(x, do)
        holds = arena.classifier.probability(reached) >= arena.classifier.threshold
    return {
        "dataset": name,
        "seed": seed,
        "n_people": len(x),
        "reachable": int(own.has_plan.sum()),
        "coverage": 100 * float(has_plan[own.has_plan].double().mean()),
        "cost_ratio": float(plans.cost[both].mean() / true.cost[both].mean()),
        "causal_validity": 100 * float(holds[has_plan].double().mean()),
        "violations": int((outside & plans.mask).any(dim=1).sum()),
        "us_batched": 1e6 * seconds / len(x),
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in ("carma-recourse", "torch")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


if __name__ == "__main__":
    main()
