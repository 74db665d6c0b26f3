"""Quality of CARMA as published, default settings: one JSON line for each set and seed.

    python benchmarks/published.py --json benchmarks/results/published.jsonl

Finished (set, seed) pairs in the file are skipped; records are appended whole. Every number is
on the paper's scale (``carma.SquaredCost`` on the whole recourse training split).
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

import carma
from carma.benchmarks import NAMES, load
from carma.evaluation.fidelity import Fidelity
from carma.problem import Problem


def main() -> None:
    """Run what is missing from the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    done = set()
    if options.json.exists():
        records = map(json.loads, options.json.read_text().splitlines())
        done = {(r["dataset"], r["seed"]) for r in records}
    for name in options.datasets:
        for seed in range(options.seeds):
            if (name, seed) not in done:
                record = measure(name, seed) | {"threads": options.threads}
                with options.json.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(json.dumps(record), flush=True)


def measure(name: str, seed: int) -> dict[str, Any]:
    """Fit everything with one seed and measure on the recourse test split."""
    data = load(name, seed=seed)
    problem = Problem(data.schema, classifier=data.classifier_settings).with_seed(seed)
    classifier = carma.fit_classifier(data.schema, data.frame("classifier"), problem.classifier)
    start = time.perf_counter()
    flow = problem.new_causal_model().fit(data.frame("causal"))
    flow_seconds = time.perf_counter() - start
    start = time.perf_counter()
    settings = carma.PublishedSettings()
    settings = replace(settings, training=replace(settings.training, seed=seed))
    solver = carma.PublishedCarma(flow, classifier, cost=data.cost, settings=settings)
    solver.fit(data.frame("recourse"))
    fit_seconds = time.perf_counter() - start
    result = solver.recommend(data.frame("recourse", "test"))
    metrics = carma.evaluate(result, data.cost, true_model=data.scm, classifier=classifier)
    fidelity = Fidelity.of(flow, data.scm, data.encoded("causal", "test"))
    return {
        "dataset": name,
        "method": "carma-published",
        "seed": seed,
        **metrics.to_dict(),
        "log_prob": fidelity.log_prob,
        "log_prob_paper_convention": fidelity.log_prob_normal_root,
        "flow_seconds": flow_seconds,
        "fit_seconds": fit_seconds,
        "versions": {p: version(p) for p in ("carma-recourse", "torch", "zuko")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


if __name__ == "__main__":
    main()
