"""The paper's oracle: every combination of values on a grid, the cheapest that works."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import Limits, PlanLimits
from carma.costs import Cost
from carma.errors import NotFittedError, SettingsError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.recourse.base import Solver
from carma.recourse.proposal import Proposal
from carma.recourse.status import Status
from carma.recourse.target import People, Target, check_margin
from carma.state import State

__all__ = ["GridOracle", "GridSettings"]


@dataclass(frozen=True)
class GridSettings:
    """Settings of the grid oracle.

    Args:
        bins: Values tried for each feature; the paper has 25, and 15 for Loan. A feature with
            levels is tried at each of its levels.
        max_actions: Act on at most so many features.
        bounded: Lay the grid within the person's box only. As published it reaches twice as
            far from the person as the rejected people do, whatever the training table holds;
            bounds, directions, steps and levels that the schema declares hold in any case.
        margin: Aim this far past the threshold, as a probability.

    Raises:
        SettingsError: A value is out of range.
    """

    bins: int = 25
    max_actions: int | None = None
    bounded: bool = False
    margin: float = 0.0

    def __post_init__(self) -> None:
        rules = {
            "bins": (self.bins >= 2, "be at least 2"),
            "max_actions": (self.max_actions is None or self.max_actions >= 1, "be at least 1"),
            "margin": (0 <= self.margin < 1, "be at least 0 and below 1"),
        }
        SettingsError.require(self, rules)


class GridOracle(Solver):
    """Tries all combinations of grid values and of features left alone; the paper's M*.

    For each actionable feature the grid has ``bins`` equally spaced values over
    ``[x - 2 (x - min), x + 2 (max - x)]``, min and max over the rejected training rows. The
    cheapest combination that works wins, the first of equal ones in the order of nested loops
    over the features (leaving alone before the grid). Combinations are priced first and tried
    in order of cost, in batches, so that most are never evaluated; memory is bounded, whatever
    the number of people and combinations.

    Args:
        causal_model: The true model for the paper's oracle, or a learned one.
        classifier: Need not be differentiable.
        cost: See ``Solver``.
        settings: See ``GridSettings``.

    Raises:
        SettingsError: The margin leaves no probability to aim at.

    References:
        Majumdar & Valera 2024, CARMA, section 5.1; Karimi et al. 2021, arXiv 2002.06278.

    Example:
        >>> from carma import ClassifierSettings, TrainingSettings, fit_classifier
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=400), TrainingSettings(epochs=5)
        >>> rows = data.frame("classifier")
        >>> classifier = fit_classifier(data.schema, rows, ClassifierSettings((), quick))
        >>> oracle = GridOracle(data.scm, classifier, settings=GridSettings(bins=5))
        >>> result = oracle.fit(data.frame("recourse")).recommend(data.frame("recourse", "test"))
        >>> sum(result.counts().values())
        100
    """

    kind: ClassVar[str] = "grid"
    found: ClassVar[Status] = Status.SEARCHED
    at_once: ClassVar[int] = 512

    def __init__(
        self,
        causal_model: CausalModel,
        classifier: Classifier,
        *,
        cost: Cost | None = None,
        settings: GridSettings | None = None,
    ) -> None:
        super().__init__(causal_model, classifier, cost=cost)
        self.settings = settings or GridSettings()
        check_margin("GridOracle", self.settings.margin, classifier)
        self._declared = PlanLimits(self.encoding, None)
        self._target = Target(self._follow, classifier, self.limits, self.settings.margin)

    @property
    def is_fitted(self) -> bool:
        """True after ``fit``, which only records the range of the rejected people."""
        return hasattr(self, "_range")

    @property
    def margin(self) -> float:
        """See ``GridSettings``."""
        return self.settings.margin

    def _fit(self, x: Tensor, progress: bool | None) -> None:  # noqa: ARG002
        self._range = torch.stack([x.amin(0), x.amax(0)])

    @property
    def _most_actions(self) -> int | None:
        return self.settings.max_actions

    def _around(self, x: Tensor) -> Limits:
        return (self.limits if self.settings.bounded else self._declared).around(x)

    def _propose(self, people: People, n_plans: int) -> Proposal:  # noqa: ARG002
        x = people.x
        options = [self._options(people, i) for i in self.encoding.actionable.tolist()]
        sizes = [values.shape[1] for values, _ in options]
        at_once = max(1, MEMORY // min(math.prod(sizes), BLOCK))
        mask, values = torch.zeros_like(x, dtype=torch.bool), x.clone()
        tried = torch.zeros(len(x), dtype=torch.long)
        for start in range(0, len(x), at_once):
            rows = slice(start, start + at_once)
            part = [(v[rows], c[rows]) for v, c in options]
            mask[rows], values[rows], tried[rows] = self._search(people[rows], part, sizes)
        verdict = torch.full((len(x),), Status.NOT_FOUND.code)
        return Proposal(Intervention(mask, values), tried, verdict)

    def _options(self, people: People, column: int) -> tuple[Tensor, Tensor]:
        """Values of one feature, the own one first, and what each costs; ``(n, options)``."""
        x, limits = people.x, people.limits
        own = x[:, column, None]
        least, greatest = self._range[:, column]
        codes = self.limits.codes(column)
        if codes is None:
            low, high = own - 2 * (own - least), own + 2 * (greatest - own)
            box = limits.lower[:, column, None], limits.upper[:, column, None]
            if self.settings.bounded:
                low, high = low.clamp(*box), high.clamp(*box)
            share = torch.linspace(0, 1, self.settings.bins, dtype=x.dtype)
            grid = low + share * (high - low)
        else:
            grid = codes.expand(len(x), -1)
        wide = x[:, None].repeat(1, grid.shape[1], 1)
        wide[..., column] = grid
        each = _repeated(limits, grid.shape[1])
        flat, own_rows = wide.flatten(0, 1), x.repeat_interleave(grid.shape[1], 0)
        values = self.limits.project(own_rows, flat, each)
        mask = torch.zeros_like(flat, dtype=torch.bool)
        mask[:, column] = True
        price = self.cost(own_rows, mask, values)
        # Outside the box: no option. (Projecting moved values to steps, and into the box.)
        inside = (flat >= each.lower) & (flat <= each.upper)
        usable = inside[:, column] & each.may_act[:, column]
        price = torch.where(usable, price, torch.inf).view(grid.shape)
        values = values[:, column].view(grid.shape)
        return torch.cat([own, values], 1), torch.cat([torch.zeros_like(own), price], 1)

    def _search(
        self, people: People, options: list[tuple[Tensor, Tensor]], sizes: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, values and number of combinations tried for a few people."""
        n, total = len(people), math.prod(sizes)
        if not sizes:
            nothing = torch.zeros_like(people.x, dtype=torch.bool)
            return nothing, people.x, torch.zeros(n, dtype=torch.long)
        best = torch.full((n,), torch.inf, dtype=people.x.dtype)
        winner = torch.zeros(n, dtype=torch.long)
        tried = torch.zeros(n, dtype=torch.long)
        for start in range(0, total, BLOCK):
            codes = torch.arange(start, min(total, start + BLOCK))
            price = self._price(people, codes, options, sizes)
            price[price >= best[:, None]] = torch.inf
            price, order = price.sort(dim=1, stable=True)
            usable = torch.isfinite(price).sum(dim=1)
            open_rows, at, width = torch.arange(n), 0, FIRST
            while len(open_rows := open_rows[usable[open_rows] > at]):
                chosen = order[open_rows, at : at + width] + start
                works = self._works(people[open_rows], chosen, options, open_rows, sizes)
                works &= torch.isfinite(price[open_rows, at : at + width])
                hit, first = works.any(dim=1), works.int().argmax(dim=1)
                done = open_rows[hit]
                winner[done] = chosen[hit].gather(1, first[hit, None]).squeeze(1)
                best[done] = price[done, at + first[hit]]
                tried[open_rows] += chosen.shape[1]
                open_rows = open_rows[~hit]
                at += width
                width = max(FIRST, min(2 * width, ROWS // max(1, len(open_rows))))
        mask, values = self._decode(people.x, winner[:, None], options, sizes)
        found = torch.isfinite(best)[:, None]
        return mask[:, 0] & found, torch.where(found, values[:, 0], people.x), tried

    def _price(
        self, people: People, codes: Tensor, options: list[tuple[Tensor, Tensor]], sizes: list[int]
    ) -> Tensor:
        """Cost of each combination for each person, infinite where it is not allowed."""
        choice = torch.unravel_index(codes, sizes)
        price = torch.zeros(len(options[0][1]), len(codes), dtype=torch.float64)
        for (_, each), position in zip(options, choice, strict=True):
            price += each[:, position]
        n_actions = torch.stack([position > 0 for position in choice]).sum(dim=0)
        most = self.settings.max_actions or len(sizes)
        price[:, (n_actions == 0) | (n_actions > most)] = torch.inf
        limits = people.limits
        if limits.max_actions is not None or limits.rules is not None:
            masks = torch.zeros(len(codes), people.x.shape[1], dtype=torch.bool)
            for column, position in zip(self.encoding.actionable, choice, strict=True):
                masks[:, column] = position > 0
            allowed = limits.allows(masks.expand(len(people), -1, -1))
            price[~allowed] = torch.inf
        return price

    def _works(
        self,
        people: People,
        chosen: Tensor,
        options: list[tuple[Tensor, Tensor]],
        rows: Tensor,
        sizes: list[int],
    ) -> Tensor:
        mine = [(values[rows], price) for values, price in options]
        mask, values = self._decode(people.x, chosen, mine, sizes)
        flat = people.repeated(chosen.shape[1])
        surplus = self._target.surplus(flat, mask.flatten(0, 1), values.flatten(0, 1))
        return (surplus >= 0).view(chosen.shape)

    def _decode(
        self,
        x: Tensor,
        chosen: Tensor,
        options: list[tuple[Tensor, Tensor]],
        sizes: list[int],
    ) -> tuple[Tensor, Tensor]:
        """Masks and values ``(n, k, d)`` of combinations ``(n, k)``."""
        values = x[:, None].repeat(1, chosen.shape[1], 1)
        mask = torch.zeros_like(values, dtype=torch.bool)
        choice = torch.unravel_index(chosen, sizes)
        columns = self.encoding.actionable.tolist()
        for column, (each, _), position in zip(columns, options, choice, strict=True):
            values[..., column] = each.gather(1, position)
            mask[..., column] = position > 0
        return mask, values

    def state(self) -> State:
        """See ``Solver.state``."""
        if not self.is_fitted:
            raise NotFittedError.of("GridOracle", "state")
        return State(asdict(self.settings), {"range": self._range})

    @classmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: Cost, state: State
    ) -> Self:
        """See ``Solver.restore``."""
        settings = GridSettings(**state.config)
        solver = cls(causal_model, classifier, cost=cost, settings=settings)
        solver._range = state.tensors["range"]
        return solver


def _repeated(limits: Limits, times: int) -> Limits:
    return limits[torch.arange(len(limits.lower)).repeat_interleave(times)]


# Combinations priced at once for a person, in all, and evaluated at once; the first trial.
BLOCK = 1 << 18
MEMORY = 1 << 21
ROWS = 1 << 15
FIRST = 256
