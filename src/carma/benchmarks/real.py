"""Three real tables: South German Credit, Adult, and credit card clients in Taiwan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from carma.benchmarks.data import Split
from carma.costs import SquaredCost
from carma.errors import FileError, SettingsError
from carma.schema import Schema
from carma.table import Encoding, Statistics

__all__ = ["REAL_NAMES", "RealBenchmark", "data_folder", "load_real", "problem_file", "read_real"]

FILES = {
    "south_german_credit": "german_credit.csv",
    "adult": "adult.csv",
    "taiwan_credit": "credit_default_taiwan.csv",
}
REAL_NAMES = tuple(FILES)
VARIABLE = "CARMA_DATA"

# Share of the rows that are asked for recourse; nothing is fitted on them.
ASKED = 0.2
LEAST_ROWS = 20


@dataclass(frozen=True)
class RealBenchmark:
    """One real table, and what its rows are for.

    A fifth of the rows are people who ask (``recourse``, ``test``). The others are the past:
    classifier and solver learn from all of them, the causal model (``causal``) from one half, and
    a second causal model (``rival``) from the other, so that the two share no row.

    Args:
        name: Of the set.
        schema: The problem.
        table: All rows, as they are used, with the outcome.
        order: Positions of the rows, shuffled, shape ``(n,)``.
    """

    name: str
    schema: Schema
    table: pd.DataFrame
    order: tuple[int, ...]

    @cached_property
    def encoding(self) -> Encoding:
        """Map between tables and tensors."""
        return Encoding(self.schema)

    @cached_property
    def cost(self) -> SquaredCost:
        """Cost on the scale of the past."""
        past = self.encoded("recourse")
        statistics = Statistics.of(past[self.encoding.complete(past)], self.encoding)
        return SquaredCost(self.encoding, statistics)

    def encoded(self, part: str, split: Split = "train") -> Tensor:
        """Rows of one part, shape ``(n, d)``, model space; NaN in gaps."""
        return self.encoding.encode(self.frame(part, split))

    def frame(self, part: str, split: Split = "train") -> pd.DataFrame:
        """Rows of one part with the outcome, original units; the index is the row's number.

        Args:
            part: ``classifier``, ``causal``, ``rival`` or ``recourse``.
            split: ``train``, or ``test`` for the people who ask (``recourse``).

        Raises:
            SettingsError: There is no such part.
        """
        n_past = len(self.order) - round(ASKED * len(self.order))
        ends = {
            ("classifier", "train"): (0, n_past),
            ("causal", "train"): (0, n_past // 2),
            ("rival", "train"): (n_past // 2, n_past),
            ("recourse", "train"): (0, n_past),
            ("recourse", "test"): (n_past, len(self.order)),
        }
        if (part, split) not in ends:
            rule = f"be of {', '.join(' '.join(pair) for pair in ends)}"
            raise SettingsError.of("RealBenchmark", "part, split", rule, (part, split))
        return self.table.iloc[list(self.order[slice(*ends[part, split])])]


def data_folder(folder: str | Path | None = None) -> Path:
    """Where the tables are: as given, else as the environment variable ``CARMA_DATA`` says.

    Raises:
        FileError: Neither names a folder.

    Example:
        >>> data_folder("nowhere")
        Traceback (most recent call last):
        carma.errors.FileError: real tables: 'folder' must be an existing folder, given here or ...
    """
    named = folder or os.environ.get(VARIABLE)
    if named is None or not Path(named).is_dir():
        rule = (
            f"be an existing folder, given here or by the environment variable {VARIABLE}, that "
            f"holds {', '.join(FILES.values())}"
        )
        raise FileError.of("real tables", "folder", rule, None if named is None else str(named))
    return Path(named)


def problem_file(name: str) -> Path:
    """The problem file of a set: in an installed package, or the examples of a checkout.

    Raises:
        SettingsError: The name is unknown.

    Example:
        >>> Schema.from_toml(problem_file("taiwan_credit")).actionable
        ('PAY_AMT1', 'PAY_0', 'BILL_AMT1')
    """
    if name not in FILES:
        raise SettingsError.of("real tables", "name", f"be one of {', '.join(FILES)}", name)
    packaged = Path(__file__).parent / "problems" / f"{name}.toml"
    checkout = Path(__file__).parents[3] / "examples" / f"{name}.toml"
    return packaged if packaged.exists() else checkout


def read_real(name: str, folder: str | Path | None = None) -> pd.DataFrame:
    """Read the table of a set as its problem file describes it.

    Args:
        name: Of ``REAL_NAMES``.
        folder: See ``data_folder``.

    Returns:
        The whole; in Adult, ``native_country`` has two levels, and its gaps stay gaps.

    Raises:
        SettingsError: The name is unknown.
        FileError: The table is not there.
    """
    problem_file(name)
    path = data_folder(folder) / FILES[name]
    if not path.is_file():
        raise FileError.of("real tables", "path", "be an existing file", str(path))
    table = pd.read_csv(path)
    if name == "adult":
        country = table["native_country"]
        is_elsewhere = country.notna() & (country != "United-States")
        table["native_country"] = country.mask(is_elsewhere, "elsewhere")
    return table


def load_real(
    name: str, folder: str | Path | None = None, *, seed: int = 0, rows: int | None = None
) -> RealBenchmark:
    """Read a real table and share out its rows.

    Args:
        name: Of ``REAL_NAMES``.
        folder: See ``data_folder``.
        seed: Of the shares.
        rows: So many rows at most, drawn at random; by default all.

    Raises:
        SettingsError: The name is unknown, or ``rows`` is below 20.
        FileError: The table is not there.
    """
    if rows is not None and rows < LEAST_ROWS:
        raise SettingsError.of("load_real", "rows", f"be at least {LEAST_ROWS}", rows)
    table = read_real(name, folder)
    draws = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(table), generator=draws)[:rows]
    schema = Schema.from_toml(problem_file(name))
    return RealBenchmark(name, schema, table, tuple(order.tolist()))
