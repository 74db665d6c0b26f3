"""How much is done to find plans for people."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Care"]


class Care(IntEnum):
    """What a solver does for people whose plans it seeks.

    Example:
        >>> Care.LITTLE < Care.USUAL < Care.MUCH
        True
    """

    # Few steps, and nothing to make a plan simpler or cheaper in the end.
    LITTLE = 0
    USUAL = 1
    # More walks, and longer plans until they are sure.
    MUCH = 2
