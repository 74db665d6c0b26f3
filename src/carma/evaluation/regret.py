"""How much more plans cost than the cheapest ones for the same people."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from carma.errors import InputError

__all__ = ["Regret"]

Numbers: TypeAlias = npt.NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
TAIL = 0.025
TOLERANCE = 0.01
# Draws that are held at one time, whatever the number of people and of resamples.
BLOCK = 2**16


@dataclass(frozen=True)
class Regret:
    """Cost over the least cost, of people for whom both are known.

    The regret of one person is the difference ``cost - optimum``. It is negative where a plan is
    cheaper than the optimum given, which happens when that one was found on another model or by
    a search that misses.

    The ratio is one of means, not a mean of ratios: people who are nearly accepted have an
    optimum close to 0, and a single such person can have a ratio in the thousands for a regret
    that is nothing. In a ratio of means every person counts by cost.

    The ends of an interval are those of a 95 % percentile bootstrap over people: cost and
    optimum are drawn together. The interval speaks of other people of the same kind, not of
    another training run.

    Args:
        n_people: People with a plan and an optimum.
        cost_ratio: Mean cost over mean optimum (1 is optimal); ``None`` when the mean optimum is
            not above 0.
        cost_ratio_low: Lower end; ``None`` without a ratio.
        cost_ratio_high: Upper end; ``None`` without a ratio, or without a bound because more
            than 2.5 % of the resamples hold only people whose optimum is 0.
        mean_x100: Mean regret times 100.
        mean_x100_low: Lower end.
        mean_x100_high: Upper end.
        quantiles_x100: Quantiles of the regret times 100, from ``"0.05"`` to ``"1.0"``.
        share_optimal: Percent of people whose cost is within 1 % of their optimum, on either
            side of it.
        per_person: Regret of each person, shape ``(n,)`` with the rows of the result; NaN
            without a plan or an optimum. Not part of ``to_dict``.

    References:
        Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """

    n_people: int
    cost_ratio: float | None
    cost_ratio_low: float | None
    cost_ratio_high: float | None
    mean_x100: float
    mean_x100_low: float
    mean_x100_high: float
    quantiles_x100: dict[str, float] = field(hash=False)
    share_optimal: float
    per_person: Tensor = field(repr=False, compare=False)

    @classmethod
    def of(
        cls, cost: Tensor, optimum: Tensor, *, seed: int = 0, n_resamples: int = 2000
    ) -> Regret | None:
        """Compare costs with the least ones.

        Args:
            cost: Of each person's plan, shape ``(n,)``; NaN without a plan.
            optimum: Least cost of the same people, shape ``(n,)``; NaN or infinite where it is
                not known, or where no plan exists.
            seed: Of the resamples.
            n_resamples: For the intervals, at least 40.

        Returns:
            The regret; ``None`` when nobody has both numbers. The order of the people does not
            matter.

        Raises:
            InputError: The shapes are not those, or there are too few resamples.

        Example:
            >>> cost = torch.tensor([0.50, 0.75, torch.nan, 1.00], dtype=torch.float64)
            >>> optimum = torch.tensor([0.50, 0.50, 0.25, torch.nan], dtype=torch.float64)
            >>> regret = Regret.of(cost, optimum)
            >>> regret.n_people, regret.cost_ratio, regret.mean_x100, regret.share_optimal
            (2, 1.25, 12.5, 50.0)
            >>> regret.per_person.tolist()
            [0.0, 0.25, nan, nan]
        """
        if cost.ndim != 1:
            raise InputError.of("Regret", "cost", "have shape (n,)", tuple(cost.shape))
        if optimum.shape != cost.shape:
            rule = f"have shape ({len(cost)},), like the cost"
            raise InputError.of("Regret", "optimum", rule, tuple(optimum.shape))
        if n_resamples < 40:
            rule = "be at least 40 for an interval of 95 %"
            raise InputError.of("Regret", "n_resamples", rule, n_resamples)
        cost, optimum = cost.detach().cpu().double(), optimum.detach().cpu().double()
        known = cost.isfinite() & optimum.isfinite()
        if not bool(known.any()):
            return None
        per_person = torch.where(known, cost - optimum, torch.nan)
        paid, least = cost[known].numpy(), optimum[known].numpy()
        # Sorted, so that a seed draws the same people whatever the order of the table.
        order = np.lexsort((paid, least))
        paid, least = paid[order], least[order]
        ratios, means = _ratios_and_means(paid[None], least[None])
        has_ratio = math.isfinite(ratios[0])
        drawn_ratios, drawn_means = _resampled(paid, least, seed, n_resamples)
        low, high = _interval(drawn_ratios)
        regret = paid - least
        quantiles = np.quantile(100.0 * regret, QUANTILES)
        is_optimal = np.abs(regret) <= TOLERANCE * np.abs(least)
        mean_low, mean_high = _interval(drawn_means)
        return cls(
            n_people=len(paid),
            cost_ratio=float(ratios[0]) if has_ratio else None,
            cost_ratio_low=low if has_ratio and math.isfinite(low) else None,
            cost_ratio_high=high if has_ratio and math.isfinite(high) else None,
            mean_x100=100.0 * float(means[0]),
            mean_x100_low=100.0 * mean_low,
            mean_x100_high=100.0 * mean_high,
            quantiles_x100={str(q): float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
            share_optimal=100.0 * float(is_optimal.mean()),
            per_person=per_person,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content, without the values per person."""
        names = [f.name for f in fields(self) if f.name != "per_person"]
        content = {name: getattr(self, name) for name in names}
        return content | {"quantiles_x100": dict(self.quantiles_x100)}


def _resampled(
    paid: Numbers, least: Numbers, seed: int, n_resamples: int
) -> tuple[Numbers, Numbers]:
    """Ratio and mean regret of every resample, each shape ``(n_resamples,)``."""
    generator, n = np.random.default_rng(seed), len(paid)
    n_rows = max(1, BLOCK // n)
    parts = []
    for start in range(0, n_resamples, n_rows):
        shape = (min(n_rows, n_resamples - start), n)
        drawn = generator.integers(n, size=shape)
        parts.append(_ratios_and_means(paid[drawn], least[drawn]))
    ratios, means = zip(*parts, strict=True)
    return np.concatenate(ratios), np.concatenate(means)


def _ratios_and_means(paid: Numbers, least: Numbers) -> tuple[Numbers, Numbers]:
    """Of each row of people; a ratio is infinite where the mean optimum is not above 0."""
    means = (paid - least).mean(axis=1)
    below = least.mean(axis=1)
    ratios = np.full(len(paid), np.inf)
    # A denominator close to the smallest number that there is leaves the ratio without a bound.
    with np.errstate(over="ignore"):
        np.divide(paid.mean(axis=1), below, out=ratios, where=below > 0)
    return ratios, means


def _interval(drawn: Numbers) -> tuple[float, float]:
    """Order statistics: no interpolation, so that an infinite one stays in its place."""
    ordered, tail = np.sort(drawn), int(TAIL * len(drawn))
    return float(ordered[tail]), float(ordered[-1 - tail])
