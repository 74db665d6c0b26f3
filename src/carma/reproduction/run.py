"""A run: one method on one benchmark set and seed, in one variant of the problem."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

__all__ = ["CAUSAL_MODEL", "FRACTIONS", "PREFERENCES", "Run", "fraction_variant"]

# The method of runs that measure the causal model itself.
CAUSAL_MODEL = "causal-model"

# Majumdar & Valera 2024, section 5.5.
PREFERENCES = {"education": 3.0, "loan_amount": 2.0, "income": 2.0, "savings": 1.0}
# Shares of the rejected training rows in the exhibit of Figure 8.
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


class Run(NamedTuple):
    """What is measured; two records of one run measure the same thing.

    Args:
        dataset: Benchmark set.
        variant: ``plain``; ``weighted``, with the paper's preferences in the cost; ``vaca``, on
            that causal model; or ``fraction-0.1``, with that share of the training rows.
        method: Name in ``carma.evaluation.methods.METHODS``, or ``CAUSAL_MODEL`` for the fidelity
            of the causal model itself.
        seed: Of every part.
        scale: ``full`` or ``quick``.

    Example:
        >>> Run.of({"dataset": "loan", "variant": "fraction-0.1", "method": "carma", "seed": 0,
        ...     "scale": "full"}).fraction
        0.1
    """

    dataset: str
    variant: str
    method: str
    seed: int
    scale: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """Run of a finished record.

        Raises:
            KeyError: It is no record of a run.
            TypeError: The same, by the type of a value.
        """
        run = cls(*(record[name] for name in cls._fields))
        if not isinstance(run.seed, int) or not all(isinstance(run[i], str) for i in (0, 1, 2, 4)):
            raise TypeError(run)
        return run

    @property
    def fraction(self) -> float:
        """Share of the training rows."""
        return float(self.variant.removeprefix(FRACTION)) if self.has_fraction else 1.0

    @property
    def has_fraction(self) -> bool:
        """Whether the variant is one with fewer rows."""
        return self.variant.startswith(FRACTION)

    @property
    def group(self) -> tuple[str, int, str]:
        """Runs of one group share classifier and causal model."""
        shared = self.variant if self.variant == "vaca" else "plain"
        return self.dataset, self.seed, shared


FRACTION = "fraction-"


def fraction_variant(share: float) -> str:
    """The variant with this share of the training rows; all of them is ``plain``."""
    return f"{FRACTION}{share:g}" if share < 1 else "plain"
