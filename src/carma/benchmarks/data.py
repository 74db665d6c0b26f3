"""Sampled rows of a benchmark set: three purposes, each with its splits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pandas as pd
from torch import Tensor

from carma.benchmarks.sets import score, structural_model
from carma.classifiers.neural import ClassifierSettings
from carma.costs import SquaredCost
from carma.errors import SettingsError
from carma.models.scm import StructuralCausalModel
from carma.schema import Schema
from carma.state import one_thread
from carma.table import Encoding, Statistics

__all__ = ["Benchmark", "Part", "Split", "load"]

Part = Literal["classifier", "causal", "recourse"]
Split = Literal["train", "validation", "test"]

ROWS: dict[str, int] = {"classifier": 20_000, "causal": 25_000, "recourse": 20_000}
SHARES: dict[str, tuple[float, float]] = {
    "classifier": (0.5, 0.25),
    "causal": (0.8, 0.1),
    "recourse": (0.5, 0.25),
}


@dataclass(frozen=True)
class Benchmark:
    """One set: its exact model and the rows drawn from it.

    Each part (``classifier``, ``causal``, ``recourse``) is drawn independently and split into
    ``train``, ``validation`` and ``test`` as in the paper.

    Args:
        name: One of ``carma.benchmarks.NAMES``.
        scm: The exact causal model; its statistics are those of the recourse training split.
        parts: Rows in model space and labels by part.
    """

    name: str
    scm: StructuralCausalModel
    parts: dict[str, tuple[Tensor, Tensor]]

    @property
    def schema(self) -> Schema:
        """The problem."""
        return self.scm.schema

    @property
    def encoding(self) -> Encoding:
        """Map between tables and tensors."""
        return self.scm.encoding

    @cached_property
    def cost(self) -> SquaredCost:
        """Cost on the paper's scale: that of the whole recourse training split."""
        return SquaredCost(self.encoding, self.scm.statistics_)

    @property
    def classifier_settings(self) -> ClassifierSettings:
        """The paper's classifier: logistic regression, 16 hidden, or 32, 32 for Loan."""
        if self.name == "loan":
            return ClassifierSettings(hidden=(32, 32))
        return ClassifierSettings(hidden=(16,) if self.name.endswith("-nlin") else ())

    def encoded(self, part: Part, split: Split = "train") -> Tensor:
        """Rows of one split, shape ``(n, d)``, model space."""
        return self.parts[part][0][self._rows(part, split)]

    def frame(self, part: Part, split: Split = "train") -> pd.DataFrame:
        """Rows of one split with the label, original units; the index is the row's number."""
        rows = self._rows(part, split)
        x, y = self.parts[part]
        frame = self.encoding.decode(x[rows], pd.RangeIndex(rows.start, rows.stop))
        assert self.schema.outcome is not None  # noqa: S101
        frame[self.schema.outcome] = y[rows].int().numpy()
        return frame

    def _rows(self, part: Part, split: Split) -> slice:
        if part not in SHARES or split not in ("train", "validation", "test"):
            rule = "be a part and a split of the benchmark"
            raise SettingsError.of("Benchmark", "part, split", rule, (part, split))
        n = len(self.parts[part][0])
        first, second = SHARES[part]
        ends = [0, round(n * first), round(n * (first + second)), n]
        position = ("train", "validation", "test").index(split)
        return slice(ends[position], ends[position + 1])


@one_thread()
def load(name: str, *, seed: int = 0, rows: int | None = None) -> Benchmark:
    """Draw a benchmark set.

    Args:
        name: One of ``carma.benchmarks.NAMES``.
        seed: Of all draws.
        rows: Rows of each part; without it, the paper's (20,000, 25,000 and 20,000).

    Returns:
        The set.

    Raises:
        SettingsError: The name is unknown or ``rows`` is below 20.

    Example:
        >>> data = load("loan", rows=400)
        >>> len(data.frame("recourse", "test")), data.schema.actionable
        (100, ('education', 'loan_amount', 'income', 'savings'))
    """
    scm = structural_model(name)
    if rows is not None and rows < 20:
        raise SettingsError.of("load", "rows", "be at least 20", rows)
    parts = {}
    for position, (part, n) in enumerate(ROWS.items()):
        x = scm.sample(rows or n, seed=3 * seed + position)
        u = scm.abduct(x)
        columns = dict(zip(scm.schema.names, x.unbind(dim=1), strict=True))
        # The published data reuse x1's noise as the label's, so the label follows from u.
        parts[part] = (x, score(name, columns, u[:, 1]) >= 0)
    benchmark = Benchmark(name, scm, parts)
    scm.statistics_ = Statistics.of(benchmark.encoded("recourse"), scm.encoding)
    return benchmark
