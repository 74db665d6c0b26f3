r"""Time and cost of grid, exact and amortized recourse as the number of actionable features grows.

    python benchmarks/scaling.py --json benchmarks/results/scaling.jsonl \
        --plot docs/images/scaling.png

Random nonlinear additive-noise models, 5 to 40 features, 3 to 30 of them actionable. Every method
gets the true causal model, one classifier and the same people, so that a difference in cost is the
method's own. ``cost_over_best``: mean cost over the mean of the cheapest plan that any method found
for each person, over the people for whom this method found one. A method that takes longer than
``--patience`` seconds a person is not run on larger problems: that is where it stops being usable.
Finished sizes in the file are skipped.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import carma
from carma.benchmarks import random_benchmark
from carma.report.style import save_figure

SIZES = {3: 5, 5: 8, 8: 12, 10: 14, 12: 17, 16: 22, 20: 27, 25: 33, 30: 40}
GRID_BINS = 5
MOST_SETS = 4096
# Okabe & Ito's colours.
STYLES = {
    "grid": ("grid, 5 values a feature", "#D55E00", "s"),
    "exact": ("exact, best-first over sets of features", "#0072B2", "o"),
    "exact-every-set": ("exact, every set of features", "#56B4E9", "^"),
    "noncausal": ("exact without causes", "#999999", "v"),
    "carma": ("CARMA", "#009E73", "D"),
}


def main() -> None:
    """Run what is missing from the file, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--methods", nargs="+", choices=list(STYLES), default=list(STYLES))
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--patience", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    records = []
    if options.json.exists():
        records = [json.loads(line) for line in options.json.read_text().splitlines()]
    done = {(r["n_actionable"], r["seed"], r["method"]) for r in records}
    given_up = {r["method"] for r in records if r["seconds_a_person"] > options.patience}
    for size in sorted(options.sizes):
        missing = [m for m in options.methods if (size, options.seed, m) not in done]
        if missing:
            new = measure(size, options, given_up, missing)
            lines = "".join(json.dumps(record) + "\n" for record in new)
            with options.json.open("a") as file:
                file.write(lines)
            print(lines, end="", flush=True)
            records += new
    if options.plot:
        save_figure(drawn(records), options.plot)


def measure(
    size: int, options: argparse.Namespace, given_up: set[str], methods: list[str]
) -> list[dict[str, Any]]:
    """Some methods on one random problem."""
    data = random_benchmark(SIZES[size], size, seed=options.seed)
    table = data.frame("classifier")
    classifier = carma.fit_classifier(data.schema, table, data.classifier_settings)
    x, training = (rejected(classifier, data.encoded("recourse", s)) for s in ("test", "train"))
    x = x[: options.people]
    solvers: dict[str, Callable[[], carma.Solver]] = {
        "carma": lambda: carma.Carma(data.scm, classifier, cost=data.cost),
        "exact": lambda: carma.ExactSolver(data.scm, classifier, cost=data.cost),
        "noncausal": lambda: carma.NonCausalOptimum(data.scm, classifier, cost=data.cost),
        "exact-every-set": lambda: carma.ExactSolver(
            data.scm,
            classifier,
            cost=data.cost,
            settings=carma.ExactSettings(max_subsets=MOST_SETS),
        ),
        "grid": lambda: carma.GridOracle(
            data.scm, classifier, cost=data.cost, settings=carma.GridSettings(bins=GRID_BINS)
        ),
    }
    found: dict[str, tuple[Tensor, float, float, int]] = {}
    for name, make in solvers.items():
        if name not in methods or name in given_up:
            continue
        if name == "exact-every-set" and 2**size > MOST_SETS:
            continue
        start = time.perf_counter()
        solver = make().fit(training)
        fit_seconds = time.perf_counter() - start
        seconds, cost = timed(solver, x, options.patience)
        if seconds > options.patience:
            given_up.add(name)
        # Plans of somebody who knows no causes count only where they hold.
        if name == "noncausal":
            cost = held(data.scm, classifier, solver, x, cost)
        found[name] = (cost, seconds, fit_seconds, len(cost))
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for cost, *_ in found.values():
        best[: len(cost)] = torch.fmin(best[: len(cost)], cost)
    records = []
    for name, (cost, seconds, fit_seconds, n_people) in found.items():
        has_plan = torch.isfinite(cost)
        least = best[: len(cost)][has_plan].mean()
        records.append(
            {
                "n_features": SIZES[size],
                "n_actionable": size,
                "method": name,
                "seed": options.seed,
                "n_people": n_people,
                "seconds_a_person": seconds,
                "fit_seconds": fit_seconds,
                "coverage": 100 * float(has_plan.double().mean()),
                "cost_x100": 100 * float(cost[has_plan].mean()) if has_plan.any() else None,
                "cost_over_best": float(cost[has_plan].mean() / least) if has_plan.any() else None,
                "threads": options.threads,
                "versions": {p: version(p) for p in ("carma-recourse", "torch")},
                "machine": f"{platform.machine()}, Python {platform.python_version()}",
            }
        )
    return records


def timed(solver: carma.Solver, x: Tensor, patience: float) -> tuple[float, Tensor]:
    """Seconds a person in one batch, and the costs; of one person where that takes too long."""
    start = time.perf_counter()
    first = solver.solve(x[:1]).cost
    one = time.perf_counter() - start
    if one > patience:
        return one, first
    start = time.perf_counter()
    cost = solver.solve(x).cost
    return (time.perf_counter() - start) / len(x), cost


def rejected(classifier: carma.Classifier, x: Tensor) -> Tensor:
    """The rows below the threshold."""
    return x[classifier.probability(x) < classifier.threshold]


def held(
    scm: carma.CausalModel,
    classifier: carma.Classifier,
    solver: carma.Solver,
    x: Tensor,
    cost: Tensor,
) -> Tensor:
    """The costs of plans that are accepted under the true causal model, NaN elsewhere."""
    plans = solver.solve(x[: len(cost)])
    reached = scm.counterfactual(x[: len(cost)], carma.Intervention(plans.mask, plans.values))
    return torch.where(classifier.probability(reached) >= classifier.threshold, cost, torch.nan)


def drawn(records: list[dict[str, Any]]) -> Figure:
    """Time a person and cost over the best, by number of actionable features."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (label, colour, marker) in STYLES.items():
        mine = sorted((r for r in records if r["method"] == name), key=lambda r: r["n_actionable"])
        sizes = [r["n_actionable"] for r in mine]
        line = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.6}
        left.plot(sizes, [1000 * r["seconds_a_person"] for r in mine], label=label, **line)
        right.plot(sizes, [r["cost_over_best"] or float("nan") for r in mine], **line)
    left.set_yscale("log")
    left.set_ylabel("time a person in a batch (ms)")
    right.set_yscale("log")
    right.set_ylabel("mean cost over the best plan found")
    right.axhline(1.0, color="#333333", linewidth=0.8, linestyle=":")
    right.set_yticks([1, 1.5, 2, 3, 5, 10], ["1", "1.5", "2", "3", "5", "10"])
    right.minorticks_off()
    for axis in (left, right):
        axis.set_xlabel("actionable features")
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    main()
