"""Write the tables of ``docs/real-tables.md`` from ``benchmarks/results/real.jsonl``.

python benchmarks/real_tables.py
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from carma.benchmarks import REAL_NAMES
from carma.classifiers.named import CLASSIFIERS
from carma.evaluation.real_arena import REAL_METHODS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "real.jsonl"
PAGE = ROOT / "docs" / "real-tables.md"
START, END = "<!-- results: start -->", "<!-- results: end -->"
COLUMNS = (
    ("n_people", "people", ".0f"),
    ("verified", "verified %", ".1f"),
    ("n_searched", "searched", ".0f"),
    ("coverage_of_search", "of the search's %", ".1f"),
    ("validity", "causal validity %", ".1f"),
    ("agreement", "second model %", ".1f"),
    ("agreement_at_target", "of sure plans %", ".1f"),
    ("violations", "violations", ".0f"),
    ("lost_in_file", "lost in the file", ".0f"),
    ("cost_x100", "cost x 100", ".2f"),
    ("cost_ratio", "over the search's", ".2f"),
    ("cost_ratio_same_margin", "over that as sure", ".2f"),
    ("classifier_seconds", "classifier s", ".0f"),
    ("model_seconds", "causal model s", ".0f"),
    ("fit_seconds", "fit s", ".0f"),
    ("people_per_second", "people a second", ",.1f"),
)
# What adds up over seeds instead of being averaged.
SUMS = ("violations", "lost_in_file")


def main() -> None:
    """Replace the block between the markers."""
    if not RESULTS.exists():
        sys.exit(f"error: {RESULTS} is not there; docs/real-tables.md names the command")
    records = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    tables = "\n\n".join(table(name, records) for name in REAL_NAMES)
    notes = f"{tables}\n\n{machine(records)}"
    PAGE.write_text(f"{before}{START}\n{notes}\n{END}{after}", encoding="utf-8")


def table(name: str, records: list[dict[str, Any]]) -> str:
    """One real table: a row for each classifier and method, mean over seeds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["dataset"] == name:
            groups[record["classifier"], record["method"]].append(record)
    labels = " | ".join(label for _, label, _ in COLUMNS)
    lines = [
        f"**`{name}`**",
        "",
        f"| classifier | method | seeds | {labels} |",
        "|" + "---|" * (3 + len(COLUMNS)),
    ]
    for classifier in CLASSIFIERS:
        for method in REAL_METHODS:
            group = groups.get((classifier, method), [])
            if group:
                cells = [cell(group, key, pattern) for key, _, pattern in COLUMNS]
                row = [classifier, f"`{method}`", str(len(group)), *cells]
                lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def cell(group: list[dict[str, Any]], key: str, pattern: str) -> str:
    """Mean over seeds, or sum; nothing where a method has no such number."""
    values = [record[key] for record in group if record[key] is not None]
    if not values:
        return ""
    return f"{sum(values) if key in SUMS else mean(values):{pattern}}"


def machine(records: list[dict[str, Any]]) -> str:
    """What the numbers were measured with."""
    asked = sorted(
        {(r["people"], r["search_people"], r["rows"] or "all") for r in records}, key=str
    )
    people = "; ".join(f"{n} people at most, {k} of searches, {rows} rows" for n, k, rows in asked)
    machines = ", ".join(sorted({r["machine"] for r in records}))
    threads = ", ".join(sorted({str(r["threads"]) for r in records}))
    return f"Asked for: {people}. Machine: {machines}; threads while solving: {threads}."


if __name__ == "__main__":
    main()
