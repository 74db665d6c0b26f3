"""People a second on the real tables, with one process and with one for each core, as JSON.

    OMP_NUM_THREADS=1 python benchmarks/real_speed.py --data-dir FOLDER \
        --json benchmarks/results/real_speed.json

Fits what ``carma benchmark --datasets real`` fits, and solves for the same crowd: rejected people
of the table, and where these are too few, others drawn from the causal model. On two cores two
processes with one thread each are faster than one with two. Each process has its own share of the
people; the time is that from the start of the first to the end of the last.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from importlib.metadata import version
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carma.benchmarks import REAL_NAMES
from carma.benchmarks.real import load_real, problem_file
from carma.evaluation.real_arena import TIMES, RealArena
from carma.problem import Problem
from carma.recourse.carma import Carma

CLASSIFIERS = ("mlp", "lightgbm")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=REAL_NAMES, choices=REAL_NAMES)
    parser.add_argument("--classifier", nargs="+", default=CLASSIFIERS, choices=CLASSIFIERS)
    parser.add_argument("--people", type=int, default=32000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("error: processes are forked; set OMP_NUM_THREADS=1, so that none has threads")
    torch.set_num_threads(1)
    records = []
    for dataset in options.datasets:
        for classifier in options.classifier:
            data, problem = load_real(dataset, options.data_dir), problem_file(dataset)
            few = math.ceil(options.people / TIMES)
            arena = RealArena(data, Problem.from_toml(problem), classifier, few)
            solver, crowd = arena.carma, arena.crowd[: options.people]
            record = measured(solver, crowd, options.processes)
            records.append({"dataset": dataset, "classifier": classifier, **record})
            print(json.dumps(records[-1]), flush=True)
            options.json.write_text(json.dumps(records, indent=1) + "\n")


def measured(solver: Carma, crowd: Tensor, processes: int) -> dict[str, Any]:
    """People a second with one process and with several."""
    solver.solve(crowd[:100], progress=False)
    rates = {str(k): len(crowd) / seconds(solver, crowd, k) for k in (1, processes)}
    return {
        "people": len(crowd),
        "people_per_second_by_processes": rates,
        "versions": {p: version(p) for p in ("carma-recourse", "torch", "lightgbm")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def seconds(solver: Carma, crowd: Tensor, processes: int) -> float:
    """Time from the start of the first process to the end of the last."""
    fork = multiprocessing.get_context("fork")
    start, end = fork.Barrier(processes + 1), fork.Barrier(processes + 1)
    workers = [
        fork.Process(target=work, args=(solver, part, start, end))
        for part in crowd.chunk(processes)
    ]
    for worker in workers:
        worker.start()
    start.wait()
    begin = time.perf_counter()
    end.wait()
    taken = time.perf_counter() - begin
    for worker in workers:
        worker.join()
    return taken


def work(solver: Carma, people: Tensor, start: Barrier, end: Barrier) -> None:
    """Solve for some of the people."""
    start.wait()
    solver.solve(people, progress=False)
    end.wait()


if __name__ == "__main__":
    main()
