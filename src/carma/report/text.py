"""Metrics and counts as text tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean, stdev
from typing import Any

import pandas as pd
from rich.table import Table

from carma.evaluation.metrics import Metrics
from carma.evaluation.trials import Trial, Tuned
from carma.recourse.status import Status

__all__ = [
    "comparison_table",
    "counts_table",
    "markdown_table",
    "metrics_table",
    "real_table",
    "tuning_table",
]

ROWS = (
    ("n_people", "rejected people", "{:,}"),
    ("coverage", "coverage (%)", "{:.2f}"),
    ("cost_x100", "cost x 100", "{:.2f}"),
    ("actions", "actions a plan", "{:.2f}"),
    ("probability", "probability after", "{:.3f}"),
    ("causal_validity", "causal validity (%)", "{:.2f}"),
    ("ms_per_person", "time a person (ms)", "{:.4f}"),
)
RANGES = (
    ("cost_ratio", "cost over the optimum", "{:.3f}"),
    ("mean_x100", "regret x 100, mean", "{:.2f}"),
)
COLUMNS = (
    ("cost_x100", "cost x 100", "{:.2f}"),
    ("cost_ratio", "over the optimum", "{:.3f}"),
    ("cost_ratio_same_margin", "over that at its margin", "{:.3f}"),
    ("coverage", "coverage (%)", "{:.1f}"),
    ("causal_validity", "causal validity (%)", "{:.1f}"),
    ("actions", "actions a plan", "{:.2f}"),
    ("margin", "margin", "{:.3f}"),
    ("ms_single", "one person (ms)", "{:.2f}"),
    ("us_batched", "batch (us a person)", "{:.1f}"),
    ("fit_seconds", "fit (s)", "{:.1f}"),
)
REAL_COLUMNS = (
    ("n_people", "people", "{:.0f}"),
    ("verified", "verified (%)", "{:.1f}"),
    ("n_searched", "searched", "{:.0f}"),
    ("coverage_of_search", "of the search's (%)", "{:.1f}"),
    ("validity", "causal validity (%)", "{:.1f}"),
    ("agreement", "second model (%)", "{:.1f}"),
    ("agreement_at_target", "of sure plans (%)", "{:.1f}"),
    ("violations", "violations", "{:.0f}"),
    ("lost_in_file", "lost in the file", "{:.0f}"),
    ("cost_x100", "cost x 100", "{:.2f}"),
    ("cost_ratio", "over the search's", "{:.3f}"),
    ("cost_ratio_same_margin", "over that as sure", "{:.3f}"),
    ("fit_seconds", "fit (s)", "{:.1f}"),
    ("people_per_second", "people a second", "{:,.1f}"),
)

TRIAL_COLUMNS = (
    ("coverage", "coverage (%)", "{:.2f}"),
    ("cost_x100", "cost x 100", "{:.3f}"),
    ("actions", "actions a plan", "{:.2f}"),
    ("ms_per_person", "time a person (ms)", "{:.3f}"),
    ("fit_seconds", "fit (s)", "{:.1f}"),
)


def metrics_table(metrics: Metrics) -> Table:
    """The metrics of one method, one a row; unknown ones are left out."""
    table = Table(title="Metrics", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, label, pattern in ROWS:
        value = getattr(metrics, name)
        if value is not None:
            table.add_row(label, pattern.format(value))
    if metrics.regret is not None:
        for name, label, pattern in RANGES:
            value = getattr(metrics.regret, name)
            if value is not None:
                ends = (getattr(metrics.regret, f"{name}_{end}") for end in ("low", "high"))
                low, high = ("no limit" if e is None else pattern.format(e) for e in ends)
                table.add_row(label, f"{pattern.format(value)} ({low} to {high})")
    return table


def counts_table(counts: Mapping[str, int]) -> Table:
    """How many people have which status, and what it means."""
    table = Table(title="People", title_justify="left")
    table.add_column("status")
    table.add_column("people", justify="right")
    table.add_column("meaning")
    for status in Status:
        if counts.get(status.value):
            table.add_row(status.value, f"{counts[status.value]:,}", status.message)
    return table


def comparison_table(records: Iterable[Mapping[str, Any]]) -> Table:
    """Methods by set, mean and standard deviation over seeds, in the order of the records.

    Args:
        records: Of ``carma.compare``.

    Example:
        >>> record = {"dataset": "loan", "method": "exact", "cost_x100": 3.0}
        >>> comparison_table([record, record | {"cost_x100": 4.0}]).row_count
        1
    """
    return _grouped(records, ("dataset", "method"), COLUMNS, "Comparison")


def real_table(records: Iterable[Mapping[str, Any]]) -> Table:
    """Methods by real table and classifier, mean and standard deviation over seeds.

    Args:
        records: Of ``carma.evaluation.real_comparison.compare_real``.

    Example:
        >>> record = {"dataset": "adult", "classifier": "mlp", "method": "dice", "verified": 90.0}
        >>> real_table([record, record | {"classifier": "xgboost"}]).row_count
        2
    """
    return _grouped(records, ("dataset", "classifier", "method"), REAL_COLUMNS, "Real tables")


def _grouped(
    records: Iterable[Mapping[str, Any]],
    by: tuple[str, ...],
    columns: Iterable[tuple[str, str, str]],
    title: str,
) -> Table:
    """One row for each group, the last of ``by`` in every row and the others where they change."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        groups[tuple(record[name] for name in by)].append(record)
    table = Table(title=title, title_justify="left")
    for position, name in enumerate(by):
        label = "set" if name == "dataset" else name
        width = max((len(names[position]) for names in groups), default=0)
        table.add_column(label, min_width=width)
    for label in ("seeds", *(label for _, label, _ in columns)):
        table.add_column(label, justify="right")
    last: tuple[str, ...] = ()
    for names, group in groups.items():
        place = names[:-1]
        if last not in ((), place):
            table.add_section()
        shown = ["" if place[: i + 1] == last[: i + 1] else name for i, name in enumerate(place)]
        cells = [_mean_and_spread([r.get(n) for r in group], p) for n, _, p in columns]
        table.add_row(*shown, names[-1], str(len(group)), *cells)
        last = place
    return table


def tuning_table(tuned: Tuned) -> Table:
    """The settings as given, and every trial that no other beats; the chosen one is marked.

    Args:
        tuned: Of ``tune``.
    """
    table = Table(title=f"Trials, on {tuned.n_people:,} validation people", title_justify="left")
    table.add_column("trial")
    for _, label, _ in TRIAL_COLUMNS:
        table.add_column(label, justify="right")
    table.add_column("")
    shown = {trial.number: trial for trial in tuned.trials if trial.number == 0}
    for trial in (shown | {trial.number: trial for trial in tuned.front}).values():
        cells = [pattern.format(getattr(trial, name)) for name, _, pattern in TRIAL_COLUMNS]
        table.add_row(str(trial.number), *cells, _remark(tuned, trial))
    return table


def _remark(tuned: Tuned, trial: Trial) -> str:
    remarks = ("as given", trial.number == 0), ("chosen", trial == tuned.best)
    return ", ".join(remark for remark, applies in remarks if applies)


def _mean_and_spread(values: Iterable[float | None], pattern: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    centre = pattern.format(mean(known))
    return centre if len(known) < 2 else f"{centre} ± {pattern.format(stdev(known))}"


def markdown_table(table: pd.DataFrame) -> str:
    """A table in Markdown, cells as they print.

    Example:
        >>> print(markdown_table(pd.DataFrame({"set": ["loan"], "cost": [2.5]})))
        | set | cost |
        |---|---|
        | loan | 2.5 |
    """
    rows = [list(table.columns), *table.itertuples(index=False)]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    head, *body = ("| " + " | ".join(row) + " |" for row in cells)
    return "\n".join([head, "|" + "---|" * len(table.columns), *body])
