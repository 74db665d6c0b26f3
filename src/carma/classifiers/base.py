"""The contract of a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import ClassVar, Self

import torch
from torch import Tensor

from carma.decision import Decision
from carma.errors import ClassifierError, TableError
from carma.schema import Level, Schema
from carma.state import State
from carma.table import Encoding

__all__ = ["Classifier"]


class Classifier(ABC):
    """Gives every person the probability of the favourable outcome.

    A subclass implements ``_logit``, ``state`` and ``from_state``, and ``_bounds`` and
    ``linear_weights`` where it knows more of its logit than single values.

    Args:
        schema: The problem; its ``threshold`` decides unless another decision is asked for
            (``decided``), its ``favourable`` value is the class whose probability is given.

    Attributes:
        decision: Whom it accepts.
        has_slope: Set it to false where ``logit`` has no useful gradient (trees): solvers that
            can then search without.
        takes_gaps: Set it to true where ``logit`` takes NaN for a missing value.
    """

    kind: ClassVar[str]
    has_slope: bool = True
    takes_gaps: ClassVar[bool] = False

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.encoding = Encoding(schema)
        self.decision = Decision(threshold=schema.threshold)

    def deciding(self, decision: Decision) -> Self:
        """The same classifier with another decision; ``decided`` also takes those to be fitted.

        Args:
            decision: Settled.

        Raises:
            ClassifierError: It has to be fitted to a table first.
        """
        if not decision.is_settled:
            rule = "be fitted to a table first: decided(classifier, decision, rows)"
            raise ClassifierError.of(type(self).__name__, "decision", rule, decision)
        if decision == self.decision:
            return self
        other = copy(self)
        other.decision = decision
        return other

    @property
    def threshold(self) -> float:
        """Least probability that is accepted; a band has an upper edge, too: see ``accepts``."""
        return self.decision.low

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
        self._check_shape("x", x)
        logit = self._logit(x)
        if logit.shape != x.shape[:1]:
            rule = f"give one number a row, shape {tuple(x.shape[:1])}"
            raise ClassifierError.of(type(self).__name__, "output", rule, tuple(logit.shape))
        return logit

    def probability(self, x: Tensor) -> Tensor:
        """Probability of the favourable outcome, shape ``(n,)``."""
        return torch.sigmoid(self.logit(x))

    def accepts(self, x: Tensor) -> Tensor:
        """Who is accepted, bool, shape ``(n,)``; nobody whose probability is NaN."""
        return self.decision.accepts(self.probability(x))

    def rejects(self, x: Tensor) -> Tensor:
        """Who is turned down, bool, shape ``(n,)``; nobody whose probability is NaN."""
        return self.decision.rejects(self.probability(x))

    def ahead(self, x: Tensor) -> Tensor:
        """Log-odds past the decision's nearest edge, shape ``(n,)``; see ``Decision.ahead``."""
        return self.decision.ahead(self.logit(x))

    @property
    def linear_weights(self) -> tuple[Tensor, float] | None:
        """Weights ``(d,)`` and bias of the logit where it is linear in model space, else ``None``.

        Example:
            >>> from carma import CausalGraph, Feature
            >>> from carma.classifiers.network import Input, NetworkClassifier
            >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
            >>> layers = [torch.tensor([[2.0]])], [torch.tensor([-1.0])]
            >>> NetworkClassifier(schema, [Input(0)], *layers).linear_weights
            (tensor([2.], dtype=torch.float64), -1.0)
        """
        return None

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the logit over boxes: no x with ``lower <= x <= upper`` leaves the answer.

        Args:
            lower: Least value of each column, shape ``(n, d)``, model space; may be infinite.
            upper: Greatest value of each column, same shape; may be infinite.

        Returns:
            A lower and an upper bound for each box, ``(n,)`` each; infinite where none is known.
            They need not be the least and the greatest logit.

        Raises:
            TableError: The shapes differ from that, or ``lower`` is somewhere above ``upper``.

        Example:
            >>> from carma import CausalGraph, Feature
            >>> from carma.classifiers.network import Input, NetworkClassifier
            >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
            >>> layers = [torch.tensor([[2.0]])], [torch.tensor([-1.0])]
            >>> classifier = NetworkClassifier(schema, [Input(0)], *layers)
            >>> low, high = classifier.bounds(torch.tensor([[0.0]]), torch.tensor([[torch.inf]]))
            >>> round(low.item(), 6), high.item()
            (-1.0, inf)
        """
        self._check_shape("lower", lower)
        self._check_shape("upper", upper)
        if len(lower) != len(upper):
            rule = f"have {len(lower)} rows, as 'lower' has"
            raise TableError.of(type(self).__name__, "upper", rule, len(upper))
        wrong = ~(lower <= upper)
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            rule = f"not be above 'upper'; row {row}, column {self.encoding.columns[column]} is"
            raise TableError.of(type(self).__name__, "lower", rule, lower[row, column].item())
        return self._bounds(lower.double(), upper.double())

    def check_on(self, x: Tensor) -> None:
        """Refuse a classifier that cannot be steered, before any long work.

        Args:
            x: Rows to try it on, shape ``(n, d)``.

        Raises:
            ClassifierError: It gives NaN, or the same probability for every row, or is to be
                passed missing values and does not take them.
        """
        self.check_gaps(self.schema)
        with torch.no_grad():
            probability = self.probability(x)
        broken = ~torch.isfinite(probability)
        if bool(broken.any()):
            row = int(broken.nonzero()[0])
            rule = f"be a number (mend it, or leave such rows out); row {row} of {len(x)} gives"
            raise ClassifierError.of("classifier", "output", rule, probability[row].item())
        if len(x) > 1 and bool((probability == probability[0]).all()):
            rule = "differ between people; every row gives"
            raise ClassifierError.of("classifier", "output", rule, probability[0].item())

    @classmethod
    def check_gaps(cls, schema: Schema) -> None:
        """Refuse a schema that passes missing values on to a classifier that takes none.

        Args:
            schema: The problem.

        Raises:
            ClassifierError: It has a feature with ``missing = "pass"``, and ``takes_gaps`` is
                false.
        """
        passed = [feature.name for feature in schema.features if feature.missing == "pass"]
        if passed and not cls.takes_gaps:
            rule = (
                f"take missing values, which {', '.join(passed)} may have (missing = 'pass'): "
                "declare 'impute' there, or use a classifier that takes them, such as LightGBM, "
                "XGBoost or HistGradientBoostingClassifier, with from_estimator"
            )
            raise ClassifierError.of("missing values", "classifier", rule, cls.__name__)

    @abstractmethod
    def state(self) -> State:
        """Settings and tensors from which ``from_state`` rebuilds the classifier."""

    @classmethod
    @abstractmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """Rebuild a classifier."""

    @abstractmethod
    def _logit(self, x: Tensor) -> Tensor: ...

    def _bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds over checked boxes; where nothing is known, only a single point has any."""
        low, high = (torch.full_like(lower[:, 0], end) for end in (-torch.inf, torch.inf))
        is_point = ((lower == upper) & lower.isfinite()).all(dim=1)
        if bool(is_point.any()):
            low[is_point] = high[is_point] = self.logit(lower[is_point]).to(low)
        return low, high

    def _check_shape(self, argument: str, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.encoding.n_columns:
            rule = f"have shape (n, {self.encoding.n_columns})"
            raise TableError.of(type(self).__name__, argument, rule, tuple(x.shape))
