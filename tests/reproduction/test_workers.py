"""Processes side by side give what one gives, and leave nothing behind."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path
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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_parent_leaves_nobody_behind(tmp_path: Path) -> None:
    marks = tmp_path / "pids"
    marks.mkdir()
    code = f"""
import multiprocessing, os, signal, threading, time
from pathlib import Path
from carma.reproduction import workers

def kill_when_ready():
    while not multiprocessing.active_children():
        time.sleep(0.05)
    time.sleep(2)
    for child in multiprocessing.active_children():
        Path({str(marks)!r}, str(child.pid)).touch()
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    from carma.reproduction.run import Run
    threading.Thread(target=kill_when_ready).start()
    runs = [Run("loan", "plain", "carma", seed, "full") for seed in (0, 1)]
    list(workers.records_of(runs, 2))
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    ended = subprocess.run([sys.executable, script], check=False)  # noqa: S603
    assert ended.returncode == -signal.SIGKILL
    children = [int(path.name) for path in marks.iterdir()]
    assert children
    end = time.monotonic() + 30
    while any(map(is_running, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_running, children))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rsplit(")", 1)[1].split()[0] != "Z"


def no_children_left() -> None:
    end = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
