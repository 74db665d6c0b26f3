"""Compare methods, keep the records in a file, and sum them up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from carma.benchmarks import NAMES
from carma.cli.jobs import Report
from carma.errors import SettingsError
from carma.evaluation.comparison import compare
from carma.evaluation.methods import METHODS
from carma.evaluation.records import Key, RecordFile
from carma.report.text import comparison_table

__all__ = ["run"]


def run(
    datasets: Sequence[str] | None,
    methods: Sequence[str] | None,
    n_seeds: int,
    *,
    people: int,
    margin: float | None,
    rows: int | None,
    out: Path | None,
    threads: int | None,
    progress: bool | None,
) -> Report:
    """Measure what the file lacks; the table covers all that it holds of the same kind."""
    sets = _words(datasets) if datasets else list(NAMES)
    names = _words(methods) if methods else list(METHODS)
    file = None if out is None else RecordFile(out, Key)
    records = [] if file is None else file.records
    n_before = len(records)
    with _threads(threads):
        for record in compare(
            sets,
            names,
            range(n_seeds),
            people=people,
            margin=margin,
            rows=rows,
            done=set() if file is None else file.keys,
            progress=progress,
        ):
            if file is None:
                records.append(record)
            else:
                file.append(record)
    found = {Key.of(record): record for record in records}
    asked = people, margin, rows
    keys = [
        key for key in found if key.dataset in sets and key.method in names and key[3:] == asked
    ]
    keys.sort(key=lambda key: (sets.index(key.dataset), names.index(key.method), key.seed))
    shown = [found[key] for key in keys]
    parts: list[Any] = [comparison_table(shown)]
    if file is not None:
        if file.was_cut_short:
            parts.append(f"The last line of {out} was cut short, and is left out.")
        parts.append(f"{len(records) - n_before} new records in {out}; it holds {len(records)}.")
    return Report({"records": shown}, parts)


def _words(given: Sequence[str]) -> list[str]:
    """Names that may come together in one word, with commas or spaces between."""
    return [name for word in given for name in re.split(r"[,\s]+", word) if name]


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    if n is not None and n < 1:
        raise SettingsError.of("carma benchmark", "--threads", "be at least 1", n)
    before = torch.get_num_threads()
    torch.set_num_threads(before if n is None else n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
