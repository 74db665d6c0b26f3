"""Records of many runs, averaged over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean, pstdev
from typing import Any, NamedTuple

from carma.errors import SettingsError
from carma.reproduction.run import Run

__all__ = ["Results", "Spread"]


class Spread(NamedTuple):
    """Mean and standard deviation over seeds.

    Example:
        >>> str(Spread(4.318, 0.2, 3)), str(Spread(100.0, 0.0, 1))
        ('4.32 ± 0.20', '100.00')
    """

    mean: float
    std: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.std:.2f}" if self.n > 1 else "")

    @property
    def pair(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        return self.mean, self.std


class Results:
    """Records of runs of one scale.

    Args:
        records: See ``measured``.

    Example:
        >>> run = Run("loan", "plain", "carma", 0, "full")
        >>> Results([run._asdict() | {"cost_x100": 2.5}]).of("cost_x100", "loan", "carma").mean
        2.5
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self._records: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
        for record in records:
            run = Run.of(record)
            self._records[run.dataset, run.method, run.variant].append(record)

    def records(self, dataset: str, method: str, variant: str = "plain") -> list[dict[str, Any]]:
        """One for each seed.

        Raises:
            SettingsError: There is none.
        """
        found = self._records.get((dataset, method, variant), [])
        if not found:
            raise SettingsError.of(
                "Results", "records", "hold this run", (dataset, method, variant)
            )
        return found

    def of(
        self, name: str, dataset: str, method: str, variant: str = "plain", part: str | None = None
    ) -> Spread:
        """One measure over the seeds; records where it is unknown are left out.

        Args:
            name: Of the measure.
            dataset: Benchmark set.
            method: See ``Run``.
            variant: See ``Run``.
            part: Entry of a measure that has several, such as a feature.

        Raises:
            SettingsError: No record knows it.
        """
        values = [record[name] for record in self.records(dataset, method, variant)]
        known = [v if part is None else v[part] for v in values if v is not None]
        if not known:
            raise SettingsError.of("Results", name, "be known for a seed", (dataset, method))
        return Spread(mean(known), pstdev(known), len(known))

    def pooled(
        self, name: str, dataset: str, method: str, variant: str = "plain"
    ) -> dict[str, list[float]]:
        """Lists of a measure with several entries, of all seeds together, by entry."""
        found: dict[str, list[float]] = defaultdict(list)
        for record in self.records(dataset, method, variant):
            for part, values in record[name].items():
                found[part] += values
        return dict(found)
