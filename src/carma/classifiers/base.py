"""The contract of a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from carma.errors import ClassifierError, TableError
from carma.schema import Level, Schema
from carma.state import State
from carma.table import Encoding

__all__ = ["Classifier"]


class Classifier(ABC):
    """Gives every person the probability of the favourable outcome.

    A subclass implements ``_logit``, ``state`` and ``from_state``.

    Args:
        schema: The problem; its ``threshold`` decides, its ``favourable`` value is the class
            whose probability is given.
    """

    kind: ClassVar[str]

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.encoding = Encoding(schema)

    @property
    def threshold(self) -> float:
        """A person is accepted when the probability is at least this."""
        return self.schema.threshold

    @property
    def favourable(self) -> Level | None:
        """The outcome whose probability is given."""
        return self.schema.favourable

    def logit(self, x: Tensor) -> Tensor:
        """Log-odds of the favourable outcome, differentiable in ``x``.

        Args:
            x: Shape ``(n, d)``, model space.

        Returns:
            Shape ``(n,)``.

        Raises:
            ClassifierError: The output has another shape.
        """
        if x.ndim != 2 or x.shape[1] != self.encoding.n_columns:
            rule = f"have shape (n, {self.encoding.n_columns})"
            raise TableError.of(type(self).__name__, "x", rule, tuple(x.shape))
        logit = self._logit(x)
        if logit.shape != x.shape[:1]:
            rule = f"give one number a row, shape {tuple(x.shape[:1])}"
            raise ClassifierError.of(type(self).__name__, "output", rule, tuple(logit.shape))
        return logit

    def probability(self, x: Tensor) -> Tensor:
        """Probability of the favourable outcome, shape ``(n,)``."""
        return torch.sigmoid(self.logit(x))

    def check_on(self, x: Tensor) -> None:
        """Refuse a classifier that cannot be steered, before any long work.

        Args:
            x: Rows to try it on, shape ``(n, d)``.

        Raises:
            ClassifierError: It gives NaN, or the same probability for every row.
        """
        with torch.no_grad():
            probability = self.probability(x)
        broken = ~torch.isfinite(probability)
        if bool(broken.any()):
            row = int(broken.nonzero()[0])
            rule = f"be a number; row {row} of {len(x)} gives"
            raise ClassifierError.of("classifier", "output", rule, probability[row].item())
        if len(x) > 1 and bool((probability == probability[0]).all()):
            rule = "differ between people; every row gives"
            raise ClassifierError.of("classifier", "output", rule, probability[0].item())

    @abstractmethod
    def state(self) -> State:
        """Settings and tensors from which ``from_state`` rebuilds the classifier."""

    @classmethod
    @abstractmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """Rebuild a classifier."""

    @abstractmethod
    def _logit(self, x: Tensor) -> Tensor: ...
