"""Speed of one person, of batches, of imports and of the command line, as one JSON object.

    python benchmarks/speed.py --json benchmarks/results/speed.json

The solver is fitted on the Loan set with few epochs: speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

import carma
from carma.benchmarks import load
from carma.problem import Problem


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load("loan")
    problem = Problem(data.schema, classifier=data.classifier_settings)
    classifier = carma.fit_classifier(data.schema, data.frame("classifier"), problem.classifier)
    flow = carma.CausalFlow(data.schema).fit(data.frame("causal"))
    solver = carma.Carma(flow, classifier, cost=data.cost).fit(data.frame("recourse"))
    single = solver.using(candidates=1, refine_steps=0, fallback=False)
    x = data.encoded("recourse", "test")
    rejected = x[classifier.probability(x) < classifier.threshold]
    frame = solver.encoding.decode(rejected)
    people = 1_000_000
    many = rejected.repeat(people // len(rejected) + 1, 1)[:people]
    torch.set_num_threads(1)
    frames = [frame.iloc[i : i + 1] for i in range(500)]
    rows = torch.split(rejected[:500], 1)
    figures = {}
    for name, asked, amount in (("refined", solver, 100_000), ("single_pass", single, people)):
        torch.set_num_threads(1)
        asked.solve(rows[0])
        one = [1000 * seconds(partial(asked.solve, row)) for row in rows]
        by_frame = [1000 * seconds(partial(asked.recommend, f)) for f in frames]
        torch.set_num_threads(options.threads)
        asked.solve(many[:20_000])
        some = many[:amount]
        figures[name] = {
            "one_person_ms_median": median(one),
            "one_person_dataframe_ms_median": median(by_frame),
            "people_per_second": median(
                amount / seconds(partial(asked.solve, some)) for _ in range(3)
            ),
            "people": amount,
        }
    bare = median(process("import torch") for _ in range(5))
    whole = median(process("import torch, carma; carma.Carma; carma.load") for _ in range(5))
    script = [str(Path(sys.executable).with_name("carma")), "--help"]
    record = {
        **figures,
        "import_seconds_on_top_of_torch": whole - bare,
        "help_seconds": median(
            seconds(lambda: subprocess.run(script, check=True, capture_output=True))  # noqa: S603
            for _ in range(5)
        ),
        "batch_threads": options.threads,
        "versions": {p: version(p) for p in ("carma-recourse", "torch", "zuko", "pandas")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def process(code: str) -> float:
    """Wall time of a fresh interpreter that runs ``code``."""
    command = [sys.executable, "-c", code]
    return seconds(lambda: subprocess.run(command, check=True))  # noqa: S603


if __name__ == "__main__":
    main()
