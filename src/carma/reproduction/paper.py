"""The published numbers, as read from the paper's tables and plots."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["published"]


@cache
def published() -> dict[str, Any]:
    """Content of ``paper.json``: one entry a table or figure.

    Costs are times 100, times in milliseconds a person on the authors' machine; ``[mean, standard
    deviation]`` over 10 seeds where the paper gives a spread.

    References:
        Majumdar & Valera 2024, CARMA, FAccT, Tables 1 to 7, Figures 3, 4 and 8.

    Example:
        >>> published()["table1"]["loan"]["carma"]["cost"]
        [6.69, 1.36]
    """
    content: dict[str, Any] = json.loads(
        files("carma.reproduction").joinpath("paper.json").read_text(encoding="utf-8")
    )
    return content
