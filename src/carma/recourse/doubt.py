"""How sure a plan is, for what the data leave open about the mechanisms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.models.base import CausalModel
from carma.recourse.target import People

__all__ = ["Doubt", "Uncertainty", "quantile"]


@dataclass(frozen=True)
class Uncertainty:
    """How far off the log-odds after each plan may be.

    Args:
        bias: By how much the model's log-odds exceed the mean of all models', shape ``(n,)``.
        spread: Standard deviation of the other models' log-odds, shape ``(n,)``.
        n_models: Other models; 0 where nothing is in doubt.
    """

    bias: Tensor
    spread: Tensor
    n_models: int

    def __getitem__(self, rows: Tensor) -> Uncertainty:
        """That of some of the plans."""
        return Uncertainty(self.bias[rows], self.spread[rows], self.n_models)

    def put(self, rows: Tensor, part: Uncertainty) -> None:
        """Replace that of some plans, by position."""
        self.bias[rows], self.spread[rows] = part.bias, part.spread

    @classmethod
    def joined(cls, parts: list[Uncertainty]) -> Uncertainty:
        """Put batches one after the other."""
        bias = torch.cat([part.bias for part in parts])
        return cls(bias, torch.cat([part.spread for part in parts]), parts[0].n_models)

    def margin(self, quantile: float) -> Tensor:
        """Log-odds past the threshold that plans need, at least 0, ``(n,)``; see ``quantile``."""
        if not self.n_models:
            return torch.zeros_like(self.spread)
        return (self.bias + quantile * self.spread).clamp(min=0).nan_to_num(torch.inf)

    def validity(self, ahead: Tensor) -> Tensor:
        """Probability that plans hold under the true mechanisms; see ``quantile``.

        Args:
            ahead: Log-odds past the threshold under the model, shape ``(n,)``.

        Returns:
            Shape ``(n,)``, float64; 1 or 0 where nothing is in doubt.

        Example:
            >>> nought, spread = torch.zeros(3), torch.tensor([1.0, 1.0, 0.0])
            >>> Uncertainty(nought, spread, 9).validity(torch.tensor([0.0, 4.5, 1.0]))
            tensor([0.5000, 0.9990, 1.0000], dtype=torch.float64)
        """
        ahead = ahead.double() - self.bias
        is_sure = self.spread == 0
        certain = (ahead >= 0).double()
        if not self.n_models:
            return certain
        ratio = ahead / torch.where(is_sure, 1.0, self.spread)
        share = torch.from_numpy(special.stdtr(self.n_models - 1, ratio.numpy()))
        return torch.where(is_sure, certain, share.reshape(ahead.shape))


class Doubt:
    """Compares what a plan brings under one causal model with other equally plausible ones.

    Args:
        causal_model: Its ``alternatives`` are the other ones.
        classifier: Decides.
        n_alternatives: 0 for whoever believes in the causal model as it is; by default as many
            as it has.
    """

    def __init__(
        self, causal_model: CausalModel, classifier: Classifier, n_alternatives: int | None = None
    ) -> None:
        self._model, self._classifier = causal_model, classifier
        self.n_alternatives = (
            causal_model.n_alternatives if n_alternatives is None else n_alternatives
        )

    def of(self, people: People, mask: Tensor, values: Tensor) -> Uncertainty:
        """Compare the log-odds past the decision that plans bring under all models.

        Args:
            people: n rows.
            mask: Columns set, shape ``(n, d)``.
            values: Shape ``(n, d)``.
        """
        n, others = len(people), self.n_alternatives
        if not others or not n:
            nothing = torch.zeros(n, dtype=torch.float64)
            return Uncertainty(nothing, nothing.clone(), others)
        do = people.do(mask, values)
        expected = self._model.counterfactual(people.x, do, people.u)
        reached = self._model.alternatives(people.x, do)
        if self._classifier.takes_gaps and people.gaps is not None:
            parts = (expected, *reached.unbind(0))
            expected, *seen = (people.seen(p, do.mask, self._model.encoding) for p in parts)
            reached = torch.stack(seen)
        own = self._classifier.ahead(expected).double()
        ahead = self._classifier.ahead(reached.flatten(0, 1)).view(others, n).double()
        # The model is one more draw: its own estimate counts as one of the mean.
        bias = own - (own + ahead.sum(dim=0)) / (1 + others)
        spread = ahead.std(dim=0)
        # What all agree on to rounding is not in doubt.
        is_same = (ahead - own).abs().amax(dim=0) <= ROUNDING * (1 + own.abs())
        bias, spread = (torch.where(is_same, 0.0, t) for t in (bias, spread))
        return Uncertainty(bias.nan_to_num(), spread.nan_to_num(torch.inf), others)


def quantile(validity: float, n_models: int) -> float:
    """How many spreads past the threshold a plan must land to hold with a given probability.

    The true log-odds are taken as normal around the mean of all models, with a variance that is
    estimated from the others: hence Student's t with one degree of freedom less than these.

    Args:
        validity: Probability wanted, at least 0.5 and below 1.
        n_models: Other models, 0 or at least 2; 0 gives 0.

    Example:
        >>> round(quantile(0.999, 9), 2), quantile(0.999, 0)
        (4.5, 0.0)
    """
    if not n_models:
        return 0.0
    return float(special.stdtrit(n_models - 1, validity))


# Share of the log-odds that single precision may lose.
ROUNDING = 1e-6
