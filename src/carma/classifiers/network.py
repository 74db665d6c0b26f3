"""A feed-forward network on table columns: what is trained here and converted to here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from carma.classifiers.base import Classifier
from carma.errors import ClassifierError
from carma.schema import Schema
from carma.state import State

__all__ = ["Activation", "Input", "NetworkClassifier"]

Activation = Literal["relu", "tanh", "logistic", "identity"]

# Share of a layer's absolute terms by which bounds are widened; its rounding errors stay below
# that up to some 4,000 inputs.
ROUNDING = 1e-12

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "identity": nn.Identity,
}


@dataclass(frozen=True)
class Input:
    """One number that the first layer sees.

    Args:
        column: Position in model space.
        hat: ``None`` passes the value on. A triple ``(left, peak, right)`` gives the
            indicator of the level ``peak``: 1 there, falling linearly to 0 at its
            neighbours, so that it is exact at every level and has a slope in between.
    """

    column: int
    hat: tuple[float, float, float] | None = None


class NetworkClassifier(Classifier):
    """Linear layers with one activation, in float64; one linear layer is logistic regression.

    Args:
        schema: The problem.
        inputs: What the first layer sees.
        weights: One matrix ``(out, in)`` a layer; the last has one row.
        biases: One vector ``(out,)`` a layer.
        activation: Between layers.

    Raises:
        ClassifierError: The shapes do not chain, or an input or the activation is unknown.

    Example:
        >>> from carma import CausalGraph, Feature
        >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
        >>> classifier = NetworkClassifier(
        ...     schema, [Input(0)], [torch.tensor([[2.0]])], [torch.tensor([-1.0])]
        ... )
        >>> classifier.logit(torch.tensor([[3.0]], dtype=torch.float64)).tolist()
        [5.0]
    """

    kind: ClassVar[str] = "network"

    def __init__(
        self,
        schema: Schema,
        inputs: Sequence[Input],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        activation: Activation = "relu",
    ) -> None:
        super().__init__(schema)
        owner = "NetworkClassifier"
        if activation not in _ACTIVATIONS:
            rule = f"be one of {', '.join(_ACTIVATIONS)}"
            raise ClassifierError.of(owner, "activation", rule, activation)
        if len(weights) != len(biases) or not weights:
            rule = "hold one entry a layer each"
            raise ClassifierError.of(owner, "weights, biases", rule, (len(weights), len(biases)))
        for entry in inputs:
            if not 0 <= entry.column < self.encoding.n_columns:
                rule = f"lie in 0 to {self.encoding.n_columns - 1}"
                raise ClassifierError.of(owner, "input column", rule, entry.column)
            if entry.hat is not None and not entry.hat[0] < entry.hat[1] < entry.hat[2]:
                raise ClassifierError.of(owner, "input hat", "rise", entry.hat)
        self.inputs, self.activation = tuple(inputs), activation
        widths = [len(self.inputs), *(len(bias) for bias in biases)]
        for weight, (n_in, n_out) in zip(weights, pairwise(widths), strict=True):
            if tuple(weight.shape) != (n_out, n_in):
                rule = f"have shape ({n_out}, {n_in})"
                raise ClassifierError.of("NetworkClassifier", "weights", rule, tuple(weight.shape))
        if widths[-1] != 1:
            raise ClassifierError.of("NetworkClassifier", "biases", "end in one number", widths)
        self.weights = [w.detach().double().clone() for w in weights]
        self.biases = [b.detach().double().clone() for b in biases]
        self._act = _ACTIVATIONS[activation]()
        self._columns = torch.tensor([i.column for i in self.inputs], dtype=torch.long)
        self._is_identity = self._columns.tolist() == list(range(self.encoding.n_columns))
        hats = [(k, i.hat) for k, i in enumerate(self.inputs) if i.hat is not None]
        self._hat_inputs = torch.tensor([k for k, _ in hats], dtype=torch.long)
        self._hats = torch.tensor([hat for _, hat in hats], dtype=torch.float64).reshape(-1, 3)

    @property
    def linear_weights(self) -> tuple[Tensor, float] | None:
        """See ``Classifier.linear_weights``; known for one layer without hats."""
        if len(self.weights) > 1 or len(self._hat_inputs):
            return None
        weights = torch.zeros(self.encoding.n_columns, dtype=torch.float64)
        return weights.index_add(0, self._columns, self.weights[0][0]), self.biases[0].item()

    def _logit(self, x: Tensor) -> Tensor:
        h = x.double()
        if not self._is_identity:
            h = h[:, self._columns]
        if len(self._hat_inputs):
            h = h.index_copy(1, self._hat_inputs, self._height(h[:, self._hat_inputs]))
        *hidden, (weight, bias) = zip(self.weights, self.biases, strict=True)
        for w, b in hidden:
            h = self._act(nn.functional.linear(h, w, b))
        return nn.functional.linear(h, weight, bias).squeeze(1)

    def _bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Interval arithmetic (Gowal et al. 2018, arXiv 1810.12715)."""
        lower, upper = lower[:, self._columns], upper[:, self._columns]
        if len(self._hat_inputs):
            k = self._hat_inputs
            ends = self._height(lower[:, k]), self._height(upper[:, k])
            top = self._height(self._hats[:, 1].clamp(lower[:, k], upper[:, k]))
            lower = lower.index_copy(1, k, torch.minimum(*ends))
            upper = upper.index_copy(1, k, top)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i:
                lower, upper = self._act(lower), self._act(upper)
            lower, upper = _affine_bounds(lower, upper, weight, bias)
        return lower.squeeze(1), upper.squeeze(1)

    def _height(self, value: Tensor) -> Tensor:
        left, peak, right = self._hats.unbind(dim=1)
        rising = (value - left) / (peak - left)
        falling = (right - value) / (right - peak)
        return torch.minimum(rising, falling).clamp(0, 1)

    def state(self) -> State:
        """See ``Classifier.state``."""
        config = {"inputs": [asdict(i) for i in self.inputs], "activation": self.activation}
        layers = enumerate(zip(self.weights, self.biases, strict=True))
        tensors = {f"{n}.{i}": t for i, pair in layers for n, t in zip("wb", pair, strict=True)}
        return State({**config, "n_layers": len(self.weights)}, tensors)

    @classmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """See ``Classifier.from_state``."""
        inputs = [
            Input(i["column"], None if i["hat"] is None else tuple(i["hat"]))
            for i in state.config["inputs"]
        ]
        layers = range(state.config["n_layers"])
        weights = [state.tensors[f"w.{i}"] for i in layers]
        biases = [state.tensors[f"b.{i}"] for i in layers]
        return cls(schema, inputs, weights, biases, state.config["activation"])


def _affine_bounds(
    lower: Tensor, upper: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of ``weight @ h + bias`` over boxes of h, a little wider than rounding needs."""
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    signed = torch.cat(
        [torch.cat([positive, negative], dim=1), torch.cat([negative, positive], dim=1)]
    )
    ends, shift = torch.cat([lower, upper], dim=1), torch.cat([bias, bias])
    infinite = ends.isinf()
    finite = ends.masked_fill(infinite, 0.0)
    reached = nn.functional.linear(finite, signed, shift)
    slack = ROUNDING * nn.functional.linear(finite.abs(), signed.abs(), shift.abs())
    # An infinite end counts unless its weight is 0, where 0 * inf would give nan.
    is_open = nn.functional.linear(infinite.double(), (signed != 0).double()) > 0
    is_open |= ~slack.isfinite()
    n_out = len(bias)
    low = (reached - slack)[:, :n_out].masked_fill(is_open[:, :n_out], -torch.inf)
    high = (reached + slack)[:, n_out:].masked_fill(is_open[:, n_out:], torch.inf)
    return low, high
