"""Run the paper's tables and figures, and sum up which claims hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from carma.cli.jobs import Report
from carma.reproduction.reproduce import reproduce

__all__ = ["run"]


def run(
    exhibits: Sequence[str],
    out: Path,
    *,
    n_seeds: int,
    quick: bool,
    processes: int | None,
    progress: bool | None,
    announce: Callable[[str], None],
) -> Report:
    """See ``carma.reproduction.reproduce.reproduce``."""
    claims = reproduce(
        exhibits,
        out,
        n_seeds=n_seeds,
        quick=quick,
        processes=processes,
        progress=progress,
        announce=announce,
    )
    table = Table(title="Claims", title_justify="left")
    for heading in ("the paper says", "paper", "here", ""):
        table.add_column(heading)
    for claim in claims:
        table.add_row(claim.says, claim.paper, claim.ours, claim.verdict)
    page = out / "index.html"
    content = {"page": str(page), "claims": [asdict(c) | {"verdict": c.verdict} for c in claims]}
    return Report(content, [*([table] if claims else []), f"Open {page}."])
