"""Groups of runs, side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import defaultdict
from collections.abc import Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from threading import Thread
from typing import Any

from carma.reproduction.measurement import measured
from carma.reproduction.run import Run

__all__ = ["records_of"]


def records_of(runs: Iterable[Run], processes: int) -> Generator[dict[str, Any]]:
    """Carry out runs, each process one group at a time; see ``measured``.

    Groups start in the order of their first runs. Records come as groups finish; where one fails,
    or the caller leaves, those that run are ended.

    Args:
        runs: What to measure.
        processes: At most so many; 1 stays in this process, where every record comes at once.

    Raises:
        CarmaError: A fit failed; the message names the run.
    """
    groups: dict[tuple[str, int, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.group].append(run)
    if processes == 1 or len(groups) <= 1:
        for group in groups.values():
            yield from measured(group)
        return
    # Children that are copies of this process would share its locks.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_serve)
    try:
        pending = [pool.submit(_group, group) for group in groups.values()]
        for done in as_completed(pending):
            yield from done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()


def _group(runs: list[Run]) -> list[dict[str, Any]]:
    return list(measured(runs))


def _serve() -> None:
    # Ctrl-C goes to all processes of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed can end nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101
    parent.join()
    os._exit(1)
