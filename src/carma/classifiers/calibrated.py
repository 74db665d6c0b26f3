"""A classifier whose probabilities are those that labelled rows bear out."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from carma.classifiers.base import Classifier
from carma.classifiers.calibration import Calibration
from carma.errors import BundleError
from carma.schema import Schema
from carma.state import State, prefixed, unprefixed

__all__ = ["CalibratedClassifier"]


class CalibratedClassifier(Classifier):
    """Another classifier, its log-odds led through a ``Calibration``.

    It orders people as the other one does, and has slopes where that has some.

    Args:
        classifier: The other one.
        calibration: Fitted to rows that it was not trained on.

    Example:
        >>> import torch
        >>> from carma import CausalGraph, Feature
        >>> from carma.classifiers.network import Input, NetworkClassifier
        >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
        >>> layers = [torch.tensor([[2.0]])], [torch.tensor([-1.0])]
        >>> classifier = NetworkClassifier(schema, [Input(0)], *layers)
        >>> halved = Calibration(torch.zeros(1), torch.ones(1), 0.5)
        >>> CalibratedClassifier(classifier, halved).logit(torch.tensor([[3.0]])).tolist()
        [3.5]
    """

    kind: ClassVar[str] = "calibrated"

    def __init__(self, classifier: Classifier, calibration: Calibration) -> None:
        super().__init__(classifier.schema)
        self.classifier, self.calibration = classifier, calibration
        self.has_slope = classifier.has_slope

    @property
    def linear_weights(self) -> tuple[Tensor, float] | None:
        """See ``Classifier.linear_weights``; known where both parts are straight."""
        own, line = self.classifier.linear_weights, self.calibration.line
        if own is None or line is None:
            return None
        return line[0] * own[0], line[0] * own[1] + line[1]

    def check_on(self, x: Tensor) -> None:
        """See ``Classifier.check_on``."""
        self.classifier.check_on(x)
        super().check_on(x)

    def state(self) -> State:
        """See ``Classifier.state``; that of the other classifier is in it."""
        own, curve = self.classifier.state(), self.calibration
        config = {"kind": self.classifier.kind, "config": own.config, "slope": curve.slope}
        knots = {"given": curve.given.clone(), "meant": curve.meant.clone()}
        return State(config, knots | prefixed("classifier", own.tensors))

    @staticmethod
    def part(state: State) -> tuple[str, State]:
        """Kind and state of the other classifier."""
        tensors = unprefixed("classifier", state.tensors)
        return state.config["kind"], State(state.config["config"], tensors)

    @classmethod
    def from_state(cls, schema: Schema, state: State, classifier: Classifier | None = None) -> Self:
        """Put the calibration around the classifier that it was fitted for.

        Args:
            schema: The problem.
            state: What ``state`` returned.
            classifier: Rebuilt from ``part``.

        Raises:
            BundleError: ``classifier`` is absent, or of another schema.
        """
        if classifier is None or classifier.schema != schema:
            rule = "be rebuilt first, with the schema of the bundle"
            raise BundleError.of("CalibratedClassifier", "classifier", rule, classifier)
        knots = state.tensors["given"], state.tensors["meant"]
        return cls(classifier, Calibration(*knots, state.config["slope"]))

    def _logit(self, x: Tensor) -> Tensor:
        return self.calibration(self.classifier.logit(x).double())

    def _bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (self.calibration(end) for end in self.classifier.bounds(lower, upper))
        return low - ROUNDING * (1 + low.abs()), high + ROUNDING * (1 + high.abs())


# Share of the log-odds by which bounds are widened: the line between two knots is rounded.
ROUNDING = 1e-12
