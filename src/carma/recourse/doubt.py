"""How sure a plan is, for what the data leave open about the mechanisms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import joined_or_none, taking
from carma.interventions import Intervention
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
        draws: By how much each of them exceeds the model's log-odds, rising, shape
            ``(n, n_models)``, where they are draws from what the facts leave open; else
            ``None``. The share of them that is accepted is then told, as such draws need not be
            normal: a discrete effect makes them jump.
    """

    bias: Tensor
    spread: Tensor
    n_models: int
    draws: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Uncertainty:
        """That of some of the plans."""
        draws = None if self.draws is None else self.draws[rows]
        return Uncertainty(self.bias[rows], self.spread[rows], self.n_models, draws)

    def put(self, rows: Tensor, part: Uncertainty) -> None:
        """Replace that of some plans, by position."""
        self.bias[rows], self.spread[rows] = part.bias, part.spread
        if self.draws is not None and part.draws is not None:
            self.draws[rows] = part.draws

    @classmethod
    def joined(cls, parts: list[Uncertainty]) -> Uncertainty:
        """Put batches one after the other."""
        bias, spread = (torch.cat([getattr(p, name) for p in parts]) for name in ("bias", "spread"))
        draws = joined_or_none([part.draws for part in parts])
        return cls(bias, spread, parts[0].n_models, draws)

    def margin(self, quantile: float) -> Tensor:
        """Log-odds past the threshold that plans need, at least 0, ``(n,)``; see ``quantile``.

        Of draws, so many must be accepted that their share is the probability to which the
        quantile belongs; where no number of them is enough, all.
        """
        if not self.n_models:
            return torch.zeros_like(self.spread)
        if self.draws is not None:
            wanted = special.stdtr(self.n_models - 1, quantile) * (self.n_models + 2) - 1
            count = min(max(1, math.ceil(wanted - TINY)), self.n_models)
            return (-self.draws[:, self.n_models - count]).clamp(min=0)
        return (self.bias + quantile * self.spread).clamp(min=0).nan_to_num(torch.inf)

    def validity(self, ahead: Tensor) -> Tensor:
        """Probability that plans hold under the true mechanisms; see ``quantile``.

        Args:
            ahead: Log-odds past the threshold under the model, shape ``(n,)``.

        Returns:
            Shape ``(n,)``, float64; 1 or 0 where nothing is in doubt. Of ``m`` draws of which
            ``k`` are accepted, ``(k + 1) / (m + 2)``.

        References:
            Laplace's rule of succession, for the share of draws: the mean of what is believed of
            a probability, of which nothing was known before them.

        Example:
            >>> nought, spread = torch.zeros(3), torch.tensor([1.0, 1.0, 0.0])
            >>> Uncertainty(nought, spread, 9).validity(torch.tensor([0.0, 4.5, 1.0]))
            tensor([0.5000, 0.9990, 1.0000], dtype=torch.float64)
        """
        own = ahead.double()
        ahead = own - self.bias
        is_sure = self.spread == 0
        certain = (ahead >= 0).double()
        if not self.n_models:
            return certain
        if self.draws is not None:
            accepted = (self.draws + own[:, None] >= 0).sum(dim=1).double()
            return torch.where(is_sure, certain, (accepted + 1) / (self.n_models + 2))
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

    Attributes:
        is_cheap: Whether it pays to look on the way: not where many draws stand for each person.
    """

    is_cheap: bool = True

    def __init__(
        self, causal_model: CausalModel, classifier: Classifier, n_alternatives: int | None = None
    ) -> None:
        self._model, self._classifier = causal_model, classifier
        self.n_alternatives = (
            causal_model.n_alternatives if n_alternatives is None else n_alternatives
        )
        self.is_cheap = causal_model.is_point_identified

    def of(
        self, people: People, mask: Tensor, values: Tensor, reached: Tensor | None = None
    ) -> Uncertainty:
        """Compare the log-odds past the decision that plans bring under all models.

        Args:
            people: n rows.
            mask: Columns set, shape ``(n, d)``.
            values: Shape ``(n, d)``.
            reached: Rows that plans lead to under the causal model itself, shape ``(n, d)``, where
                they are known already.
        """
        n, others = len(people), self.n_alternatives
        if not others or not n:
            return self.nothing(n)
        do = people.do(mask, values)
        if self._model.is_point_identified:
            own, ahead = self._ahead(people, do, reached)
            # What all agree on to rounding is not in doubt.
            is_same = ((ahead - own).abs() <= ROUNDING * (1 + own.abs())).all(dim=0)
            bias, spread = (torch.where(is_same, 0.0, t) for t in _moments(own, ahead))
            return Uncertainty(bias.nan_to_num(), spread.nan_to_num(torch.inf), others)
        found = self.nothing(n)
        bias, spread, draws = found.bias, found.spread, found.draws
        assert draws is not None  # noqa: S101
        # Nothing is drawn where nothing follows; and draws that agree by chance leave a doubt.
        rows = self._moved(do.mask).any(dim=1).nonzero().squeeze(1)
        if len(rows):
            known = None if reached is None else reached[rows]
            own, ahead = self._ahead(people[rows], do.each(taking(rows)), known)
            is_near = (ahead - own).abs() <= ROUNDING * (1 + own.abs())
            off = torch.where(is_near, 0.0, ahead - own).nan_to_num(-torch.inf, torch.inf)
            draws[rows] = off.sort(dim=0).values.T
            some_bias, some_spread = _moments(own, ahead)
            bias[rows] = some_bias.nan_to_num()
            spread[rows] = some_spread.nan_to_num(torch.inf).clamp(min=ROUNDING)
        return found

    def nothing(self, n: int) -> Uncertainty:
        """That of ``n`` plans of which nothing is in doubt."""
        bias, spread = torch.zeros(2, n, dtype=torch.float64).unbind(0)
        draws = None
        if self.n_alternatives and not self.is_cheap:
            draws = torch.zeros(n, self.n_alternatives, dtype=torch.float64)
        return Uncertainty(bias, spread, self.n_alternatives, draws)

    def _ahead(
        self, people: People, do: Intervention, reached: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Log-odds past the decision under the model, ``(n,)``, and all others, ``(others, n)``."""
        # Counterfactuals of all at once would leave the processor's cache between two steps; and
        # what moves for one of a batch is computed for all of them.
        order = self._alike(do.mask)
        parts = torch.split(order, max(1, TOGETHER // self.n_alternatives))
        found = []
        for rows in parts:
            some, known = people[rows], None if reached is None else reached[rows]
            found.append(self._ahead_of(some, do.each(taking(rows)), known))
        own, others = zip(*found, strict=True)
        back = order.argsort()
        return torch.cat(own)[back], torch.cat(others, dim=1)[:, back]

    def _alike(self, mask: Tensor) -> Tensor:
        """Positions of plans, those next to each other that move the same."""
        moved = self._moved(mask).double()
        weights = torch.full((mask.shape[1],), 0.5, dtype=torch.float64).cumprod(0)
        return (moved @ weights).argsort(stable=True)

    def _moved(self, mask: Tensor) -> Tensor:
        """What follows from what is set, shape ``(n, d)``, bool."""
        return ((mask.double() @ self._model.encoding.reach_weights) > 0) & ~mask

    def _ahead_of(
        self, people: People, do: Intervention, expected: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """``_ahead`` of a few people."""
        if expected is None:
            expected = self._model.counterfactual(people.x, do, people.u)
        reached = self._model.alternatives(people.x, do)
        if self._classifier.takes_gaps and people.gaps is not None:
            parts = (expected, *reached.unbind(0))
            expected, *seen = (people.seen(p, do.mask, self._model.encoding) for p in parts)
            reached = torch.stack(seen)
        own = self._classifier.ahead(expected).double()
        ahead = self._classifier.ahead(reached.flatten(0, 1))
        return own, ahead.view(self.n_alternatives, len(people)).double()


def _moments(own: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
    """By how much a model exceeds the mean of all, of which it is one, and the others' spread."""
    bias = own - (own + ahead.sum(dim=0)) / (1 + len(ahead))
    return bias, ahead.std(dim=0)


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


# Rows times alternatives of plans that are followed together: the fewer, the more alike they are.
TOGETHER = 8_000
# Share of the log-odds that single precision may lose.
ROUNDING = 1e-6
# Less than one draw.
TINY = 1e-6
