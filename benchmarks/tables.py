"""Write the README's result tables from the JSON in ``benchmarks/results``.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- results: start -->", "<!-- results: end -->"
# Majumdar & Valera 2024, Tables 1 and 2.
PAPER = {
    "triangle-lin": (11.36, -5.71),
    "triangle-nlin": (8.95, -4.56),
    "collider-lin": (10.36, -5.70),
    "collider-nlin": (4.19, -4.56),
    "chain-lin": (10.62, -5.70),
    "chain-nlin": (11.81, -5.71),
    "loan": (6.69, -13.6),
}


def main() -> None:
    """Replace the block between the markers."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    block = f"{START}\n{quality()}\n\n{speed()}\n{END}"
    readme.write_text(before + block + after, encoding="utf-8")


def quality() -> str:
    """The table of sets."""
    by_set: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in (RESULTS / "published.jsonl").read_text().splitlines():
        record = json.loads(line)
        by_set[record["dataset"]].append(record)
    lines = [
        "| set | cost x 100 | the paper's | coverage % | causal validity % | actions "
        "| log-likelihood | the paper's | fit s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (cost, log_prob) in PAPER.items():
        records = by_set[name]
        cells = [
            name,
            spread(records, "cost_x100", 2),
            f"{cost:.2f}",
            f"{spread(records, 'coverage', 2)}",
            f"{spread(records, 'causal_validity', 2)}",
            spread(records, "actions", 2),
            f"{mean(r['log_prob_paper_convention'] for r in records):.2f}",
            f"{log_prob:.2f}",
            f"{mean(r['fit_seconds'] for r in records):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(records: list[dict[str, Any]], key: str, digits: int) -> str:
    """Mean and standard deviation over seeds."""
    values = [r[key] for r in records]
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def speed() -> str:
    """The table of times."""
    record = json.loads((RESULTS / "speed.json").read_text())
    rows = {
        "one person, tensor in, plan checked (median, 1 thread)": (
            f"{record['one_person_ms_median']:.2f} ms"
        ),
        "one person, DataFrame in, result out (median, 1 thread)": (
            f"{record['one_person_dataframe_ms_median']:.2f} ms"
        ),
        f"a million people, checked ({record['batch_threads']} threads)": (
            f"{record['batch_people_per_second']:,.0f} a second"
        ),
        "`import carma` and its solver, on top of torch": (
            f"{record['import_seconds_on_top_of_torch']:.2f} s"
        ),
        "`carma --help`": f"{record['help_seconds']:.2f} s",
    }
    lines = ["| what | time |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {value} |" for what, value in rows.items())])


if __name__ == "__main__":
    main()
