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
YARDSTICK_START, YARDSTICK_END = "<!-- yardstick: start -->", "<!-- yardstick: end -->"
COLUMNS = {
    ("exact-true", None): "exact, true model",
    ("grid-true", None): "grid M*, true model",
    ("exact", None): "exact",
    ("exact", 0.3): "exact, margin 0.3",
    ("carma", None): "CARMA",
    ("carma-single", None): "CARMA, single pass",
    ("carma-published", None): "CARMA, Table 5",
    ("dice-vae", None): "DiCE-VAE",
    ("noncausal", None): "without causes",
    ("noncausal", 0.3): "without causes, margin 0.3",
}
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
    text = before + block + after
    before, rest = text.split(YARDSTICK_START)
    after = rest.split(YARDSTICK_END)[1]
    parts = "\n\n".join((amortized(), constrained(), ratios(), times(), solvers()))
    block = f"{YARDSTICK_START}\n{parts}\n{YARDSTICK_END}"
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


def compared() -> dict[tuple[str, str, float | None], list[dict[str, Any]]]:
    """Records of the comparison by set, method and margin asked for."""
    groups: dict[tuple[str, str, float | None], list[dict[str, Any]]] = defaultdict(list)
    for line in (RESULTS / "comparison.jsonl").read_text().splitlines():
        record = json.loads(line)
        groups[record["dataset"], record["method"], record["margin_asked"]].append(record)
    return groups


def amortized() -> str:
    """CARMA on every set: cost over the optimum, coverage, causal validity, times."""
    groups = compared()
    lines = [
        "| set | seeds | cost over the optimum | dearest seed | coverage % | causal validity % "
        "| worst seed | single pass: cost | coverage % | fit s | flow s |",
        "|" + "---|" * 11,
    ]
    for name in PAPER:
        records = groups.get((name, "carma", None), [])
        single = groups.get((name, "carma-single", None), [])
        if len(records) < 2 or len(single) < 2:
            continue
        cells = [
            name,
            str(len(records)),
            spread(records, "cost_ratio", 3),
            f"{max(r['cost_ratio'] for r in records):.3f}",
            f"{mean(r['coverage'] for r in records):.2f}",
            f"{mean(r['causal_validity'] for r in records):.2f}",
            f"{min(r['causal_validity'] for r in records):.1f}",
            f"{mean(r['cost_ratio'] for r in single):.2f}",
            f"{mean(r['coverage'] for r in single):.2f}",
            f"{mean(r['fit_seconds'] for r in records):.0f}",
            f"{mean(r['model_seconds'] for r in records):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def constrained() -> str:
    """CARMA where every person has constraints of their own."""
    source = RESULTS / "constrained.jsonl"
    records = [json.loads(line) for line in source.read_text().splitlines()]
    lines = [
        "| own constraints | people | reachable | coverage of these % | cost over the constrained "
        "optimum | causal validity % | violations |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in sorted(records, key=lambda r: (list(PAPER).index(r["dataset"]), r["seed"])):
        cells = [
            r["dataset"],
            str(r["n_people"]),
            str(r["reachable"]),
            f"{r['coverage']:.2f}",
            f"{r['cost_ratio']:.3f}",
            f"{r['causal_validity']:.2f}",
            str(r["violations"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios() -> str:
    """Cost over the optimum, and causal validity in brackets, of every method on every set."""
    groups = compared()
    names = list(dict.fromkeys(name for name, _, _ in groups))
    lines = [
        "| set | " + " | ".join(COLUMNS.values()) + " |",
        "|" + "---|" * (1 + len(COLUMNS)),
    ]
    for name in names:
        cells = [ratio(groups.get((name, *column), [])) for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(records: list[dict[str, Any]]) -> str:
    """Mean over seeds of the cost ratio, with causal validity in percent."""
    if not records:
        return ""
    value = mean(r["cost_ratio"] for r in records)
    return f"{value:.2f} ({mean(r['causal_validity'] for r in records):.1f})"


def times() -> str:
    """Time of each method on Loan."""
    groups = compared()
    lines = [
        "| on Loan | one person (ms) | batch (us a person) | fit (s) | aims past the threshold by "
        "| cost over the optimum at that margin |",
        "|---|---|---|---|---|---|",
    ]
    for (method, margin), label in COLUMNS.items():
        records = groups.get(("loan", method, margin))
        if records:
            cells = [
                averaged(records, key, pattern)
                for key, pattern in (
                    ("ms_single", ".2f"),
                    ("us_batched", ",.0f"),
                    ("fit_seconds", ".0f"),
                    ("margin", ".3f"),
                    ("cost_ratio_same_margin", ".2f"),
                )
            ]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def averaged(records: list[dict[str, Any]], key: str, pattern: str) -> str:
    """Mean over seeds; nothing where a method has no such number."""
    values = [r[key] for r in records if r[key] is not None]
    return f"{mean(values):{pattern}}" if values else ""


def solvers() -> str:
    """Time and accuracy of the two searches."""
    record = json.loads((RESULTS / "solvers.json").read_text())
    lines = [
        "| set | grid (ms a person) | exact (ms) | exact, learned model (ms) "
        "| grid's cost over the exact | search above 20 times the starts (%) |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in record["sets"].items():
        cells = [
            f"{found['grid_true_ms']:.1f}",
            f"{found['exact_true_ms']:.2f}",
            f"{found['exact_learned_ms']:.1f}",
            f"{found['grid_over_exact']:.2f}",
            f"{found['search_above_20_times_starts_percent']:.2f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    threads = max(found.get("threads", 1) for found in record["sets"].values())
    peak = max(entry["after"] for entry in record["memory_mb"].values())
    note = (
        f"Batches of {record['people']}, {threads} threads. The greatest memory of any "
        f"solver's process, whatever the number of people: {peak:,.0f} MB."
    )
    return "\n".join([*lines, "", note])


def speed() -> str:
    """The table of times."""
    record = json.loads((RESULTS / "speed.json").read_text())
    rows: dict[str, str] = {}
    for name, label in (("refined", "refined"), ("single_pass", "single pass")):
        found = record[name]
        rows |= {
            f"one person, {label}, tensor in, plan checked (median, 1 thread)": (
                f"{found['one_person_ms_median']:.2f} ms"
            ),
            f"one person, {label}, DataFrame in, result out (median, 1 thread)": (
                f"{found['one_person_dataframe_ms_median']:.2f} ms"
            ),
            f"{found['people']:,} people, {label}, checked ({record['batch_threads']} threads)": (
                f"{found['people_per_second']:,.0f} a second"
            ),
        }
    rows |= {
        "`import carma` and its solver, on top of torch": (
            f"{record['import_seconds_on_top_of_torch']:.2f} s"
        ),
        "`carma --help`": f"{record['help_seconds']:.2f} s",
    }
    lines = ["| what | time |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {value} |" for what, value in rows.items())])


if __name__ == "__main__":
    main()
