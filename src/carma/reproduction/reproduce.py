"""Run exhibits, and write what they show."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from carma.errors import FileError, InputError, SettingsError
from carma.evaluation.records import RecordFile
from carma.files import write_whole
from carma.progress import track
from carma.report.text import markdown_table
from carma.reproduction.claim import Claim
from carma.reproduction.duration import expected_seconds
from carma.reproduction.exhibit import Exhibit
from carma.reproduction.exhibits.catalogue import EXHIBITS
from carma.reproduction.results import Results
from carma.reproduction.run import Run
from carma.reproduction.section import Section
from carma.reproduction.workers import records_of
from carma.training import check_at_least

__all__ = ["chosen_exhibits", "reproduce"]

# What the extra brings.
PACKAGES = ("matplotlib", "jinja2", "torch_geometric")


def chosen_exhibits(names: Sequence[str]) -> list[Exhibit]:
    """Studies by name, in the paper's order; ``all`` is every one.

    Raises:
        SettingsError: A name is unknown.

    Example:
        >>> [exhibit.name for exhibit in chosen_exhibits(["figure2", "table1"])]
        ['table1', 'figure2']
    """
    for name in names:
        if name != "all" and name not in EXHIBITS:
            rule = f"be all, or of {', '.join(EXHIBITS)}"
            raise SettingsError.of("carma reproduce", "exhibits", rule, name)
    return [s for s in EXHIBITS.values() if not names or "all" in names or s.name in names]


def reproduce(
    names: Sequence[str],
    out: str | Path,
    *,
    n_seeds: int = 1,
    quick: bool = False,
    processes: int | None = None,
    progress: bool | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> list[Claim]:
    """Run what exhibits need and ``out`` lacks, and write their tables, pictures and page.

    ``out`` then holds ``runs.jsonl`` (or ``runs-quick.jsonl``: every run, which the next call goes
    on from), ``NAME.json``, ``NAME.csv`` and ``NAME.md`` of each exhibit, ``NAME.png`` and
    ``NAME.svg`` where it has a picture, ``claims.md`` and ``index.html``.

    Args:
        names: Studies; see ``chosen_exhibits``.
        out: Folder, made if need be.
        n_seeds: Seeds 0, 1, ... so many.
        quick: Fewer rows and people: to see that all works, not to quote.
        processes: At once, each on one thread; ``None`` takes one for each core.
        progress: See ``track``.
        announce: Told what will be done, before it is.

    Returns:
        All claims.

    Raises:
        InputError: A package of the extra ``reproduce`` is not installed.
        SettingsError: An exhibit is unknown, or a number below 1.
        FileError: The folder, or a file in it, cannot be written.
        CarmaError: A fit failed; what was finished before is kept.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            rule = "be installed, with the extra: pip install 'carma-recourse[reproduce]'"
            raise InputError.of("carma reproduce", package, rule, None)
    exhibits = chosen_exhibits(names)
    check_at_least("carma reproduce", "seeds", n_seeds, 1)
    processes = (os.cpu_count() or 1) if processes is None else processes
    processes = (os.cpu_count() or 1) if processes is None else processes
    check_at_least("carma reproduce", "processes", processes, 1)
    folder, scale = Path(out), "quick" if quick else "full"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        rule = f"be a folder, or be one that can be made ({error.strerror or error})"
        raise FileError.of("carma reproduce", "out", rule, str(folder)) from error
    file = RecordFile(folder / ("runs-quick.jsonl" if quick else "runs.jsonl"), Run)
    wanted = list(
        dict.fromkeys(run for exhibit in exhibits for run in exhibit.runs(n_seeds, scale))
    )
    done = file.keys
    missing = sorted((run for run in wanted if run not in done), key=lambda run: run.seed)
    announce(_plan(wanted, missing, file.records, processes))
    found = records_of(missing, processes)
    for record in track(found, "reproduce", total=len(missing), show=progress):
        file.append(record)
    kept = {Run.of(record): record for record in file.records}
    results = Results(kept[run] for run in wanted)
    sections = [_written(exhibit, results, folder) for exhibit in exhibits]
    from carma.reproduction.page import page

    facts = _facts([kept[run] for run in wanted], n_seeds, scale)
    write_whole(folder / "claims.md", _claims_page(sections, facts).encode())
    write_whole(folder / "index.html", page(sections, facts).encode())
    return [claim for section in sections for claim in section.claims]


def _plan(
    wanted: list[Run], missing: list[Run], records: list[dict[str, Any]], processes: int
) -> str:
    if not missing:
        return f"All {len(wanted)} runs are there."
    seconds = expected_seconds(missing, records, processes)
    took = f"{max(1, seconds / 60):.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
    return (
        f"{len(missing)} of {len(wanted)} runs to do, about {took} with {processes} "
        f"process{'es' if processes > 1 else ''}. Interrupt at any time: the same command goes on."
    )


def _written(exhibit: Exhibit, results: Results, folder: Path) -> Section:
    table, claims = exhibit.table(results), exhibit.claims(results)
    content = {
        "exhibit": exhibit.name,
        "title": exhibit.title,
        "rows": table.to_dict("records"),
        "claims": [asdict(claim) | {"verdict": claim.verdict} for claim in claims],
    }
    base = folder / exhibit.name
    write_whole(base.with_suffix(".json"), _json(content))
    write_whole(base.with_suffix(".csv"), table.to_csv(index=False).encode())
    text = f"# {exhibit.title}\n\n{markdown_table(table)}\n"
    write_whole(base.with_suffix(".md"), text.encode())
    picture = None
    if exhibit.draw is not None:
        from carma.report.style import save_figure

        figure = exhibit.draw(results)
        for kind in (".png", ".svg"):
            save_figure(figure, base.with_suffix(kind))
        picture = _inline(base.with_suffix(".svg").read_text(encoding="utf-8"), exhibit.name)
    return Section(exhibit.name, exhibit.title, table, picture, claims)


def _inline(svg: str, name: str) -> str:
    """A picture inside a page: without file header, its names apart from other pictures'."""
    svg = svg[svg.index("<svg") :]
    for start in ('id="', "url(#", 'href="#'):
        svg = svg.replace(start, f"{start}{name}-")
    return svg


def _facts(records: list[dict[str, Any]], n_seeds: int, scale: str) -> dict[str, str]:
    machines = sorted({record["machine"] for record in records})
    versions = {p: version(p) for p in ("carma-recourse", "torch")}
    return {
        "seeds": f"0 to {n_seeds - 1}" if n_seeds > 1 else "0",
        "scale": "quick: 6,000 rows a part, 200 people" if scale == "quick" else "the paper's",
        "machine": "; ".join(machines) or f"{platform.machine()}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "threads": "1 for each process; times were taken with all processes at work",
    }


def _claims_page(sections: Iterable[Section], facts: dict[str, str]) -> str:
    rows = [
        {
            "where": section.name,
            "the paper says": claim.says,
            "paper": claim.paper,
            "here": claim.ours,
            "": claim.verdict if claim.holds or not claim.why else f"differs: {claim.why}",
            "command": f"`{section.command}`",
        }
        for section in sections
        for claim in section.claims
    ]
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    return "\n".join(["# Claims", "", *lines, "", markdown_table(pd.DataFrame(rows)), ""])


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
