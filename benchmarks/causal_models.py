"""Causal models against the true one, and CARMA on each: one JSON line for each set, seed, model.

    python benchmarks/causal_models.py --json benchmarks/results/causal_models.jsonl

``log_prob``: mean log-likelihood of held-out rows. ``error``: root mean square distance of
counterfactuals from those of the true causal model, for each column that follows, in standard
deviations of the column, when some of the actionable columns, at random, are set to values that
another person has. ``breaks``: the same distance for laws that a model may break: from the facts,
after the way there and back (``round_trip``) and when set columns are set to what they are
(``own_values``); and from the first answer, when what followed is set too (``composition``).
``carma`` and ``published``: both methods on the model, ``us_batched`` for each person,
measured once. Finished lines in the file are skipped.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import carma
from carma.benchmarks import NAMES, Benchmark, load
from carma.problem import CAUSAL_MODELS, Problem
from carma.state import seeded


def main() -> None:
    """Run what is missing from the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", choices=NAMES, default=["loan"])
    parser.add_argument("--models", nargs="+", choices=list(CAUSAL_MODELS), default=CAUSAL_MODELS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    done = set()
    if options.json.exists():
        lines = options.json.read_text().splitlines()
        done = {(r["dataset"], r["seed"], r["model"]) for r in map(json.loads, lines)}
    for seed in range(options.seeds):
        for name in options.datasets:
            for kind in options.models:
                if (name, seed, kind) not in done:
                    line = json.dumps(measure(name, seed, kind, options.people))
                    with options.json.open("a") as file:
                        file.write(line + "\n")
                    print(line, flush=True)


def measure(name: str, seed: int, kind: str, n_people: int) -> dict[str, Any]:
    """One set, seed and kind of causal model."""
    data = load(name, seed=seed)
    problem = Problem(
        data.schema, classifier=data.classifier_settings, causal_model=CAUSAL_MODELS[kind][1]
    ).with_seed(seed)
    start = time.perf_counter()
    model = problem.new_causal_model().fit(data.frame("causal"), progress=False)
    seconds = time.perf_counter() - start
    classifier = carma.fit_classifier(
        data.schema, data.frame("classifier"), problem.classifier, progress=False
    )
    published = carma.PublishedSettings()
    published = replace(published, training=replace(published.training, seed=seed))
    return {
        "dataset": name,
        "seed": seed,
        "model": kind,
        "fit_seconds": seconds,
        "log_prob": float(model.log_prob(data.encoded("causal", "test")).mean()),
        **quality(model, data, seed),
        "carma": recourse(problem.new_solver(model, classifier, data.cost), data, n_people),
        "published": recourse(
            carma.PublishedCarma(model, classifier, cost=data.cost, settings=published),
            data,
            n_people,
        ),
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in ("carma-recourse", "torch", "torch_geometric")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def quality(model: carma.CausalModel, data: Benchmark, seed: int) -> dict[str, Any]:
    """How far counterfactuals are off, and by how much the model breaks laws."""
    x = data.encoded("recourse", "test")
    do = interventions(x, data.encoding.actionable, seed)
    reach = model.encoding.reach_weights
    own = carma.Intervention(do.mask, x)
    with torch.no_grad():
        reached, expected = (m.counterfactual(x, do) for m in (model, data.scm))
        follows = (do.mask.double() @ reach > 0) & ~do.mask
        # Half of what followed, at random, is set to what it came to.
        more = do.mask | (follows & (torch.rand(x.shape, generator=seeded(seed + 1)) < 0.5))
        again = model.counterfactual(x, carma.Intervention(more, reached))
        everywhere = torch.ones_like(follows)
        breaks = {
            "round_trip": (model.predict(model.abduct(x)) - x, everywhere),
            "own_values": (model.counterfactual(x, own) - x, follows),
            "composition": (again - reached, follows & ~more),
        }
    std, columns = model.statistics_.std, model.encoding.columns
    return {
        "error": by_column((reached - expected) / std, follows, columns),
        "breaks": {
            law: by_column(off / std, where, columns) for law, (off, where) in breaks.items()
        },
    }


def interventions(x: Tensor, actionable: Tensor, seed: int) -> carma.Intervention:
    """Another set of the actionable columns for each row, at the values of another row."""
    draws = seeded(seed)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, actionable] = torch.rand(len(x), len(actionable), generator=draws) < 0.5
    return carma.Intervention(mask, x[torch.randperm(len(x), generator=draws)])


def by_column(off: Tensor, where: Tensor, columns: tuple[str, ...]) -> dict[str, float]:
    """Root mean square of each column over the rows that count, where there are any."""
    return {
        name: float(off[where[:, i], i].square().mean().sqrt())
        for i, name in enumerate(columns)
        if where[:, i].any()
    }


def recourse(solver: carma.Solver, data: Benchmark, n_people: int) -> dict[str, Any]:
    """Fit on the recourse split; measure on the first people of its test split."""
    start = time.perf_counter()
    solver.fit(data.frame("recourse"), progress=False)
    seconds = time.perf_counter() - start
    x = data.encoded("recourse", "test")
    with torch.no_grad():
        x = x[solver.classifier.probability(x) < solver.classifier.threshold][:n_people]
    solver.solve(x[:64], progress=False)
    start = time.perf_counter()
    plans = solver.solve(x, progress=False)
    taken = time.perf_counter() - start
    has_plan = plans.has_plan
    do = carma.Intervention(plans.mask[has_plan], plans.values[has_plan])
    with torch.no_grad():
        reached = data.scm.counterfactual(x[has_plan], do)
        holds = solver.classifier.probability(reached) >= solver.classifier.threshold
    return {
        "n_people": len(x),
        "coverage": 100 * float(has_plan.double().mean()),
        "cost_x100": 100 * float(data.cost.of(x[has_plan], do).mean()),
        "causal_validity": 100 * float(holds.double().mean()),
        "us_batched": 1e6 * taken / len(x),
        "fit_seconds": seconds,
    }


if __name__ == "__main__":
    main()
