"""Progress bars: on a terminal only, and never when told to be quiet."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["track"]

T = TypeVar("T")


def track(
    items: Iterable[T], description: str, *, total: int, show: bool | None = None
) -> Iterator[T]:
    """Yield ``items`` with a progress bar on standard error.

    Args:
        items: What to go through.
        description: Shown before the bar.
        total: Number of items.
        show: ``None`` shows the bar where standard error is a terminal.

    Yields:
        The items.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield from items
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)
