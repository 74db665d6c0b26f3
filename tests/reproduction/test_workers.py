"""Processes side by side give what one gives, and leave nothing behind."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import pytest

from carma.errors import SettingsError
from carma.reproduction.run import Run
from carma.reproduction.workers import records_of

RUNS = [Run("chain-lin", "plain", "exact-true", seed, "quick") for seed in (0, 1)]
TIMES = ("seconds", "ms_single", "us_batched", "fit_seconds", "classifier_seconds")


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in TIMES}


def test_two_processes_give_what_one_gives() -> None:
    alone = [without_times(record) for record in records_of(RUNS[:1], 1)]
    together = [without_times(record) for record in records_of(RUNS, 2)]
    assert {Run.of(record) for record in together} == set(RUNS)
    assert [record for record in together if record["seed"] == 0] == alone
    no_children_left()


def test_a_failure_ends_all_processes() -> None:
    bad = RUNS[0]._replace(dataset="nowhere")
    with pytest.raises(SettingsError, match="nowhere plain exact-true 0 quick"):
        list(records_of([bad, *RUNS], 2))
    no_children_left()


def test_leaving_early_ends_all_processes() -> None:
    stream = records_of(RUNS, 2)
    next(stream)
    stream.close()
    no_children_left()


def no_children_left() -> None:
    end = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
