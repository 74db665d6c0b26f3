"""What is shown of one table or figure."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from carma.reproduction.claim import Claim

__all__ = ["Section"]


@dataclass(frozen=True)
class Section:
    """What the page shows of one exhibit.

    Args:
        name: Of the exhibit.
        title: Of the exhibit.
        table: Its numbers.
        picture: SVG; ``None`` where there is none.
        claims: What the paper says, and what we found.
    """

    name: str
    title: str
    table: pd.DataFrame
    picture: str | None
    claims: list[Claim]

    @property
    def command(self) -> str:
        """What makes it."""
        return f"carma reproduce {self.name}"
