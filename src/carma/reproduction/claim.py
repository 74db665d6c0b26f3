"""What the paper says, and whether it holds here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Claim"]


@dataclass(frozen=True)
class Claim:
    """One statement of the paper beside our numbers.

    Args:
        says: The statement, in our words.
        paper: Its numbers.
        ours: Ours.
        holds: Whether ours bear it out.
        why: What explains the difference; shown where it does not hold.

    Example:
        >>> Claim("cheap", "6.69", "4.32", True, "").verdict
        'holds'
    """

    says: str
    paper: str
    ours: str
    holds: bool
    why: str = ""

    @property
    def verdict(self) -> str:
        """One word."""
        return "holds" if self.holds else "differs"
