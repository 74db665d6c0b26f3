"""Metrics and counts as text tables."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from carma.evaluation.metrics import Metrics
from carma.recourse.status import Status

__all__ = ["counts_table", "metrics_table"]

ROWS = (
    ("n_people", "rejected people", "{:,}"),
    ("coverage", "coverage (%)", "{:.2f}"),
    ("cost_x100", "cost x 100", "{:.2f}"),
    ("actions", "actions a plan", "{:.2f}"),
    ("probability", "probability after", "{:.3f}"),
    ("causal_validity", "causal validity (%)", "{:.2f}"),
    ("regret", "cost over the optimum", "{:.3f}"),
    ("ms_per_person", "time a person (ms)", "{:.4f}"),
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
