"""An exhibit: one table or figure of the paper, from runs to claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from carma.reproduction.claim import Claim
from carma.reproduction.results import Results
from carma.reproduction.run import Run

if TYPE_CHECKING:
    from carma.report.style import Figure

__all__ = ["Exhibit"]


@dataclass(frozen=True)
class Exhibit:
    """How one table or figure is made.

    Args:
        name: ``table1``, ``figure2``, ...
        title: What it shows.
        specs: Dataset, variant and method of each run that it needs.
        table: Its numbers, ours and the paper's side by side.
        draw: Its picture; ``None`` for a table alone.
        claims: What the paper says about it.
    """

    name: str
    title: str
    specs: tuple[tuple[str, str, str], ...]
    table: Callable[[Results], pd.DataFrame]
    draw: Callable[[Results], Figure] | None = None
    claims: Callable[[Results], list[Claim]] = lambda _: []

    def runs(self, n_seeds: int, scale: str) -> list[Run]:
        """The runs of all seeds, seed by seed.

        Args:
            n_seeds: Seeds 0, 1, ... so many.
            scale: Of ``SCALES``.
        """
        return [
            Run(dataset, variant, method, seed, scale)
            for seed in range(n_seeds)
            for dataset, variant, method in self.specs
        ]
