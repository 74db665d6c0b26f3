"""Sampled rows of a benchmark set: three purposes, each with its splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, Self

import pandas as pd
from torch import Tensor

from carma.benchmarks.sets import Columns, score, structural_model
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
        name: Of the set.
        scm: The exact causal model; its statistics are those of the recourse training split.
        parts: Rows in model space and labels by part.
        classifier_settings: A classifier that suits the labels; for the paper's sets, its own.
    """

    name: str
    scm: StructuralCausalModel
    parts: dict[str, tuple[Tensor, Tensor]]
    classifier_settings: ClassifierSettings

    @classmethod
    @one_thread()
    def draw(
        cls,
        name: str,
        scm: StructuralCausalModel,
        score: Callable[[Columns, Tensor], Tensor],
        classifier_settings: ClassifierSettings,
        *,
        seed: int = 0,
        rows: int | None = None,
    ) -> Self:
        """Draw the parts of a set from its causal model, which gets its statistics.

        Args:
            name: Of the set.
            scm: The exact causal model.
            score: Columns by name and the noise of the label, ``(n,)`` each, to ``(n,)``; the
                label is favourable where it is at least 0.
            classifier_settings: A classifier that suits the labels.
            seed: Of all draws.
            rows: Rows of each part; without it, the paper's (20,000, 25,000 and 20,000).

        Raises:
            SettingsError: ``rows`` is below 20.

        Example:
            >>> scm = structural_model("chain-lin")
            >>> data = Benchmark.draw(
            ...     "first", scm, lambda x, _: x["x1"], ClassifierSettings(hidden=()), rows=100
            ... )
            >>> data.encoded("recourse").shape
            torch.Size([50, 4])
        """
        if rows is not None and rows < 20:
            raise SettingsError.of("Benchmark", "rows", "be at least 20", rows)
        parts = {}
        for position, (part, n) in enumerate(ROWS.items()):
            x = scm.sample(rows or n, seed=3 * seed + position)
            u = scm.abduct(x)
            columns = dict(zip(scm.schema.names, x.unbind(dim=1), strict=True))
            # The published data reuse x1's noise as the label's, so the label follows from u.
            parts[part] = (x, score(columns, u[:, 1]) >= 0)
        benchmark = cls(name, scm, parts, classifier_settings)
        scm.statistics_ = Statistics.of(benchmark.encoded("recourse"), scm.encoding)
        return benchmark

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


def load(name: str, *, seed: int = 0, rows: int | None = None) -> Benchmark:
    """Draw a benchmark set.

    Args:
        name: One of ``carma.benchmarks.NAMES`` or ``OWN_NAMES``.
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
    hidden = (32, 32) if name == "loan" else (16,) if name.endswith("-nlin") else ()
    settings = ClassifierSettings(hidden=hidden)
    return Benchmark.draw(name, scm, partial(score, name), settings, seed=seed, rows=rows)
