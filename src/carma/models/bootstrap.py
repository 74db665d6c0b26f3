"""The nonparametric bootstrap: how many members, and how often each draws each row."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.errors import SettingsError
from carma.training import check_at_least

__all__ = ["bootstrap_counts", "check_alternatives"]


def bootstrap_counts(rows: Tensor, n: int, n_members: int, generator: torch.Generator) -> Tensor:
    """Weights of all rows in each member of an ensemble.

    The first member has every training row once. Each other one has as many draws with
    replacement from them, and none of those held out.

    Args:
        rows: Positions of the training rows, shape ``(n_rows,)``.
        n: Number of all rows.
        n_members: At least 1.
        generator: Of the draws, one member after the other.

    Returns:
        Shape ``(n_members, n)``, float32.

    References:
        Efron & Tibshirani 1993, An introduction to the bootstrap, chapter 6.

    Example:
        >>> rows = torch.tensor([0, 2, 3])
        >>> counts = bootstrap_counts(rows, 5, 2, torch.Generator().manual_seed(0))
        >>> counts[0].tolist(), float(counts[1].sum()), counts[1, [1, 4]].tolist()
        ([1.0, 0.0, 1.0, 1.0, 0.0], 3.0, [0.0, 0.0])
    """
    counts = torch.zeros(n_members, n)
    counts[0, rows] = 1.0
    for member in counts[1:]:
        drawn = torch.randint(len(rows), (len(rows),), generator=generator)
        member[rows] = torch.bincount(drawn, minlength=len(rows)).float()
    return counts


def check_alternatives(owner: str, n: int) -> None:
    """Raise ``SettingsError`` unless ``n`` members besides the model have a spread, or are none."""
    check_at_least(owner, "alternatives", n, 0)
    if n == 1:
        rule = "be 0 or at least 2: one alone has no spread"
        raise SettingsError.of(owner, "alternatives", rule, n)
