"""A differentiable stand-in for a classifier without slopes."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from carma.classifiers.base import Classifier
from carma.constraints import PlanLimits
from carma.costs import Cost
from carma.decision import Decision
from carma.models.base import CausalModel
from carma.recourse.descent import Descent
from carma.recourse.policy import smooth_mlp
from carma.recourse.switches import Switches
from carma.recourse.target import People, Target
from carma.schema import Schema
from carma.state import State, seeded
from carma.training import TrainingSettings, split_rows, train

__all__ = ["Fidelity", "Surrogate"]


@dataclass(frozen=True)
class Fidelity:
    """How well a surrogate stands in for the classifier, on people it was not fitted on.

    Args:
        n_rows: Rows compared: factual ones, and what follows from interventions.
        agreement: Percent of rows on which both decide alike.
        r2: Share of the variance of the classifier's log-odds (no further than 8 from the
            threshold) that the surrogate explains.
    """

    n_rows: int
    agreement: float
    r2: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"The classifier has no slopes: training was guided by a surrogate that decides as "
            f"it does on {self.agreement:.1f} % of {self.n_rows:,} held-out rows (R2 of the "
            f"log-odds {self.r2:.3f}); every plan was refined and checked on the classifier."
        )


class Surrogate(Classifier):
    """A small smooth network with the scores of another classifier.

    It is fitted on rejected people, on what follows from random interventions of theirs, and
    then once more with rows around the plans to which the first fit leads: where it matters.

    Args:
        schema: The problem.
        decision: Of the other classifier.
        network: Standardised columns to log-odds past the threshold (of a band, its lower
            edge), in units of ``steepness``.
        centre: Of each column, shape ``(d,)``.
        scale: Of each column, above 0, shape ``(d,)``.
        steepness: Typical size of the log-odds.
        fidelity: Measured on held-out people.

    References:
        Ribeiro et al. 2016, arXiv 1602.04938, for surrogates and their fidelity; Ross et al.
        2011, arXiv 1011.0686, for fitting anew where the first fit leads.

    Example:
        >>> from carma.benchmarks import load
        >>> from carma.classifiers.black_box import BlackBoxClassifier
        >>> from carma.costs import SquaredCost
        >>> data = load("chain-lin", rows=400)
        >>> steps = BlackBoxClassifier(data.schema, lambda rows: 0.45 + 0.4 * (rows["x3"] > 0))
        >>> limits = PlanLimits(data.encoding, data.scm.statistics_)
        >>> x = data.encoded("recourse")
        >>> rejected = x[steps.probability(x) < 0.5]
        >>> surrogate = Surrogate.of(steps, data.scm, data.cost, limits, rejected, seed=0)
        >>> surrogate.has_slope, surrogate.fidelity.agreement > 80
        (True, True)
    """

    kind: ClassVar[str] = "surrogate"

    def __init__(
        self,
        schema: Schema,
        decision: Decision,
        network: nn.Sequential,
        centre: Tensor,
        scale: Tensor,
        steepness: float,
        fidelity: Fidelity,
    ) -> None:
        super().__init__(schema)
        self.decision = decision
        self._network = network.double().eval().requires_grad_(False)
        self._centre, self._scale, self._steepness = centre, scale, steepness
        self._at, _ = decision.edges()
        self.fidelity = fidelity

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        causal_model: CausalModel,
        cost: Cost,
        limits: PlanLimits,
        x: Tensor,
        *,
        seed: int,
        progress: bool | None = None,
    ) -> Self:
        """Fit a surrogate.

        Args:
            classifier: Whose scores are learned.
            causal_model: Says what follows from interventions.
            cost: Of the plans around which it is fitted more closely.
            limits: Of these.
            x: Rejected people, shape ``(n, d)``, n at least 2.
            seed: Of interventions, initial weights and batches.
            progress: See ``track``.
        """
        draws = seeded(seed)
        with torch.no_grad():
            people = People(x, causal_model.abduct(x), limits.around(x))
        switches = Switches(limits, causal_model.counterfactual)
        learned, held_out = split_rows(len(x), HELD_OUT, seed)
        rows = _Rows(classifier)
        for part, is_held_out in ((learned, False), (held_out, True)):
            wide = max(1, round(SPREAD_ROWS / len(x)))
            some = switches.drawn(people[part].repeated(min(SPREAD, wide)), MOVED, draws)
            rows.add(x[part], is_held_out)
            rows.add(_scattered(causal_model, limits, some, draws), is_held_out)
        first = cls._fitted(rows, None, seed, progress)
        target = Target(causal_model.counterfactual, first, limits, 0.0)
        for part, is_held_out in ((learned, False), (held_out, True)):
            wide = max(1, round(NEAR_ROWS / len(x)))
            some = switches.drawn(people[part].repeated(min(NEAR, wide)), MOVED, draws)
            rows.add(_around_plans(causal_model, limits, target, cost, some, draws), is_held_out)
        return cls._fitted(rows, first, seed, progress)

    @classmethod
    def _fitted(cls, rows: _Rows, start: Self | None, seed: int, progress: bool | None) -> Self:
        x, y = rows.x, rows.ahead
        learned = ~rows.is_held_out
        if start is None:
            spread = x[learned].std(0, correction=0)
            centre, scale = x[learned].mean(0), torch.where(spread > 0, spread, 1.0)
            steepness = float(y[learned].square().mean().sqrt().clamp(min=LEAST))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = smooth_mlp(x.shape[1], HIDDEN, 1)
        else:
            centre, scale, steepness = start._centre, start._scale, start._steepness
            network = deepcopy(start._network).float().requires_grad_(True)
        seen = ((x - centre) / scale).clamp(-FAR, FAR).float()
        wanted = (y / steepness).float()
        # What lies far from every edge need not be met as closely.
        weight = 1 / (1 + torch.minimum(y, rows.width - y).abs().float())
        chosen, held_out = learned.nonzero().squeeze(1), rows.is_held_out.nonzero().squeeze(1)

        def loss(batch: Tensor) -> Tensor:
            part = chosen[batch]
            error = network(seen[part]).squeeze(1) - wanted[part]
            weighted: Tensor = weight[part] * error.square()
            return weighted.mean()

        def score() -> float:
            error = network(seen[held_out]).squeeze(1) - wanted[held_out]
            return float((weight[held_out] * error.square()).mean())

        with torch.enable_grad():
            train(
                network,
                len(chosen),
                loss,
                score,
                TrainingSettings(
                    epochs=EPOCHS, batch_size=512, learning_rate=5e-3, patience=EPOCHS, seed=seed
                ),
                description="carma: surrogate",
                progress=progress,
            )
        given = steepness * network(seen[held_out]).squeeze(1).double().detach()
        asked = y[held_out]
        ours, theirs = (torch.minimum(t, rows.width - t) >= 0 for t in (given, asked))
        agreement = 100.0 * float((ours == theirs).double().mean())
        total = (asked - asked.mean()).square().sum()
        r2 = 1.0 - float((asked - given).square().sum() / total.clamp(min=1e-300))
        fidelity = Fidelity(len(held_out), agreement, r2)
        return cls(rows.schema, rows.decision, network, centre, scale, steepness, fidelity)

    def _logit(self, x: Tensor) -> Tensor:
        seen = ((x.double() - self._centre) / self._scale).clamp(-FAR, FAR)
        ahead: Tensor = self._network(seen).squeeze(1)
        logit: Tensor = self._at + self._steepness * ahead
        return logit

    def state(self) -> State:
        """See ``Classifier.state``."""
        config = {"steepness": self._steepness, "fidelity": self.fidelity.to_dict()}
        config["decision"] = asdict(self.decision)
        tensors = {"centre": self._centre, "scale": self._scale, **self._network.state_dict()}
        return State(config, tensors)

    @classmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """See ``Classifier.from_state``."""
        tensors = dict(state.tensors)
        centre, scale = tensors.pop("centre"), tensors.pop("scale")
        with torch.random.fork_rng(devices=[]):
            network = smooth_mlp(len(centre), HIDDEN, 1).double()
        network.load_state_dict(tensors)
        fidelity = Fidelity(**state.config["fidelity"])
        decision = Decision(**state.config["decision"])
        return cls(schema, decision, network, centre, scale, state.config["steepness"], fidelity)


class _Rows:
    """Rows with how far past the threshold, or a band's lower edge, the classifier puts them."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier, self.schema = classifier, classifier.schema
        self.decision = classifier.decision
        self._at, high = self.decision.edges()
        self.width = high - self._at
        d = classifier.encoding.n_columns
        self.x = torch.zeros(0, d, dtype=torch.float64)
        self.ahead = torch.zeros(0, dtype=torch.float64)
        self.is_held_out = torch.zeros(0, dtype=torch.bool)

    def add(self, x: Tensor, is_held_out: bool) -> None:
        """Ask for the scores of more rows; those without a finite one are left out."""
        with torch.no_grad():
            logit = self._classifier.logit(x.detach()).double()
        is_known = torch.isfinite(logit) & torch.isfinite(x).all(dim=1)
        most = WIDEST if math.isinf(self.width) else self.width + WIDEST
        ahead = (logit - self._at).clamp(-WIDEST, most)
        self.x = torch.cat([self.x, x.double()[is_known]])
        self.ahead = torch.cat([self.ahead, ahead[is_known]])
        side = torch.full((int(is_known.sum()),), is_held_out)
        self.is_held_out = torch.cat([self.is_held_out, side])


def _scattered(
    causal_model: CausalModel, limits: PlanLimits, people: People, draws: torch.Generator
) -> Tensor:
    """What follows from random interventions, more of them near the people than far away."""
    x, box = people.x, people.limits
    mask = _random_sets(box.can_move, draws)
    width = x.std(0, correction=0).clamp(min=1e-6)
    lower = torch.where(box.lower.isfinite(), box.lower, x - OPEN * width)
    upper = torch.where(box.upper.isfinite(), box.upper, x + OPEN * width)
    place = torch.rand(x.shape, generator=draws, dtype=x.dtype)
    share = torch.rand(len(x), 1, generator=draws, dtype=x.dtype)
    values = x + share * (lower + place * (upper - lower) - x)
    return _reached(causal_model, limits, people, mask, values)


def _around_plans(
    causal_model: CausalModel,
    limits: PlanLimits,
    target: Target,
    cost: Cost,
    people: People,
    draws: torch.Generator,
) -> Tensor:
    """What follows from plans of random sets of features, somewhat shorter and longer."""
    mask = _random_sets(people.limits.can_move, draws)
    with torch.no_grad():
        walks = Descent(target, cost, people, mask, people.x)
        for _ in range(STEPS):
            walks.step()
        length = 0.5 + torch.rand(len(people), 1, generator=draws, dtype=torch.float64)
        values = people.x + length * (walks.values - people.x)
    return _reached(causal_model, limits, people, mask, values)


def _random_sets(can_move: Tensor, draws: torch.Generator) -> Tensor:
    """A random part of the columns that can move, of any size alike."""
    share = torch.rand(len(can_move), 1, generator=draws)
    return can_move & (torch.rand(can_move.shape, generator=draws) < share)


def _reached(
    causal_model: CausalModel, limits: PlanLimits, people: People, mask: Tensor, values: Tensor
) -> Tensor:
    with torch.no_grad():
        said = torch.where(mask, limits.project(people.x, values, people.limits), people.x)
        return causal_model.counterfactual(people.x, people.do(mask, said), people.u)


# Hidden widths, epochs of either fit, and the share of people held out.
HIDDEN = (64, 64)
EPOCHS = 40
HELD_OUT = 0.15
# Random interventions of each person, and rows around plans, at most; in all, about so many rows.
SPREAD, NEAR = 32, 24
SPREAD_ROWS, NEAR_ROWS = 16000, 12000
# Share of people who make moves between levels first.
MOVED = 0.5
# Steps to these plans; spreads that count as all room where a feature has no bound.
STEPS = 4
OPEN = 4.0
# Log-odds past the threshold beyond which all is alike; least steepness.
WIDEST = 8.0
LEAST = 1e-3
# Standard deviations beyond which rows look the same.
FAR = 8.0
