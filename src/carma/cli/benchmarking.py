"""Compare methods, keep the records in a file, and sum them up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from carma.benchmarks import NAMES, REAL_NAMES
from carma.cli.jobs import Report
from carma.errors import SettingsError
from carma.evaluation.comparison import compare
from carma.evaluation.methods import METHODS
from carma.evaluation.real_arena import REAL_METHODS
from carma.evaluation.real_comparison import RealKey, compare_real
from carma.evaluation.records import Key, RecordFile
from carma.report.text import comparison_table, real_table

__all__ = ["run"]

# Stands for every real table.
REAL = "real"


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
    classifiers: Sequence[str] | None = None,
    folder: Path | None = None,
    search_people: int | None = None,
) -> Report:
    """Measure what the file lacks; the table covers all that it holds of the same kind."""
    sets = _words(datasets) if datasets else list(NAMES)
    if any(name in (REAL, *REAL_NAMES) for name in sets):
        sets = [n for name in sets for n in (REAL_NAMES if name == REAL else (name,))]
        real_asked = people, margin, rows, 20 if search_people is None else search_people
        decide = _words(classifiers) if classifiers else ["mlp"]
        wanted = list(dict.fromkeys(sets)), _words(methods or list(REAL_METHODS)), decide
        with _threads(threads):
            return _on_real_tables(wanted, n_seeds, real_asked, folder, out, progress)
    only_real = {
        "--classifier": classifiers,
        "--data-dir": folder,
        "--search-people": search_people,
    }
    for option, given in only_real.items():
        if given:
            rule = f"be left out: the sets are no real tables ({', '.join((REAL, *REAL_NAMES))})"
            raise SettingsError.of("carma benchmark", option, rule, str(given))
    names = _words(methods) if methods else list(METHODS)
    file = None if out is None else RecordFile(out, Key)
    records = [] if file is None else file.records
    n_before = len(records)
    keep = records.append if file is None else file.append
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
            keep(record)
    found = {Key.of(record): record for record in records}
    asked = people, margin, rows
    keys = [
        key for key in found if key.dataset in sets and key.method in names and key[3:] == asked
    ]
    keys.sort(key=lambda key: (sets.index(key.dataset), names.index(key.method), key.seed))
    shown = [found[key] for key in keys]
    return Report({"records": shown}, [comparison_table(shown), *_remarks(file, n_before)])


def _on_real_tables(
    wanted: tuple[list[str], list[str], list[str]],
    n_seeds: int,
    asked: tuple[int, float | None, int | None, int],
    folder: Path | None,
    out: Path | None,
    progress: bool | None,
) -> Report:
    """The same for real tables, whose records say other things."""
    (sets, names, classifiers), (people, margin, rows, search_people) = wanted, asked
    file = None if out is None else RecordFile(out, RealKey)
    records = [] if file is None else file.records
    n_before = len(records)
    keep = records.append if file is None else file.append
    for record in compare_real(
        sets,
        names,
        classifiers,
        range(n_seeds),
        folder=folder,
        people=people,
        margin=margin,
        rows=rows,
        search_people=search_people,
        done=set() if file is None else file.keys,
        progress=progress,
    ):
        keep(record)
    found = {RealKey.of(record): record for record in records}
    keys = [
        key
        for key in found
        if key.dataset in sets
        and key.method in names
        and key.classifier in classifiers
        and key[4:] == asked
    ]
    keys.sort(
        key=lambda key: (
            sets.index(key.dataset),
            classifiers.index(key.classifier),
            names.index(key.method),
            key.seed,
        )
    )
    shown = [found[key] for key in keys]
    return Report({"records": shown}, [real_table(shown), *_remarks(file, n_before)])


def _remarks(file: RecordFile[Any] | None, n_before: int) -> list[str]:
    if file is None:
        return []
    n_now = len(file.records)
    parts = [f"{n_now - n_before} new records in {file.path}; it holds {n_now}."]
    if file.was_cut_short:
        parts.insert(0, f"The last line of {file.path} was cut short, and is left out.")
    return parts


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
