"""Causal models against the true one, and CARMA on each: one JSON line for each set, seed, model.

    python benchmarks/causal_models.py --json benchmarks/results/causal_models.jsonl

``fidelity``: see ``carma.evaluation.fidelity.Fidelity``. ``carma``, ``carma-single`` and
``carma-published``: records of these methods on the model, on the same people and classifier; see
``carma.evaluation.records.FIELDS``. Finished lines in the file are skipped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from carma.benchmarks import NAMES, load
from carma.evaluation.arena import Arena, standard_problem
from carma.evaluation.comparison import measure
from carma.evaluation.fidelity import Fidelity
from carma.evaluation.methods import METHODS
from carma.problem import CAUSAL_MODELS

ON_EACH = ("carma", "carma-single", "carma-published")


def main() -> None:
    """Run what is missing from the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", choices=NAMES, default=["loan"])
    parser.add_argument("--models", nargs="+", choices=list(CAUSAL_MODELS), default=CAUSAL_MODELS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--people", type=int, default=2_000)
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
                    line = json.dumps(compared(name, seed, kind, options.people))
                    with options.json.open("a") as file:
                        file.write(line + "\n")
                    print(line, flush=True)


def compared(name: str, seed: int, kind: str, n_people: int) -> dict[str, Any]:
    """One set, seed and kind of causal model."""
    data = load(name, seed=seed)
    problem = replace(standard_problem(data), causal_model=CAUSAL_MODELS[kind][1])
    arena = Arena(data, problem.with_seed(seed), n_people)
    people = data.encoded("causal", "test")
    fidelity = Fidelity.of(arena.causal_model, data.scm, people, seed=seed)
    return {
        "dataset": name,
        "seed": seed,
        "model": kind,
        "fidelity": fidelity.to_dict(),
        **{method: measure(arena, METHODS[method]) for method in ON_EACH},
    }


if __name__ == "__main__":
    main()
