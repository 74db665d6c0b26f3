"""Gaps filled with what a causal model expects, given everything that was observed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot
from torch.quasirandom import SobolEngine

from carma.models.linear import ridge
from carma.models.truncated import log_mass, truncated_logistic
from carma.schema import Feature
from carma.table import Encoding

__all__ = ["N_POOL", "Imputation"]

# Rows of the model from which proposals are learned.
N_POOL = 4096
# Completed rows that are computed at a time.
CHUNK = 32_000
# Widens proposals, so that none is narrower than what it stands for.
WIDER = 1.25
# Standard deviation of a standard logistic variable, and the least one of a proposal, in those
# of the column.
LOGISTIC, NARROWEST = math.pi / math.sqrt(3), 1e-4
# Share of each proposal of levels that is spread evenly over all of them.
EVEN = 0.1


class Imputation:
    """Estimates of missing values, from their causes and from their effects.

    Each row with gaps is completed many times. The missing features are drawn one after the
    other from a proposal given all that is known by then: linear regression on rows of the
    model, with logistic noise for numbers (in whole cells for integers, cut off at the bounds)
    and with clipped shares for levels. A completed row counts by its density under the model
    over that of its proposal (self-normalised importance sampling: Owen 2013, Monte Carlo
    theory, methods and examples, chapter 9). So any model that can be sampled and tells a
    density will do, and the proposal only decides how exact the answer is. Draws are a Sobol
    sequence that all rows share: a row's answer does not depend on its batch. Where only levels
    are missing and they have few combinations, each of these is completed once, with its own
    probability.

    A number is estimated by its mean (rounded for integers), a level by which one is the most
    probable. Where several features of one row are missing, each is estimated by itself. Where
    the model thinks every completed row impossible, all count the same.

    Args:
        encoding: Of the schema.
        pool: Rows sampled from the model, shape ``(m, d)``, model space.
        log_prob: Log-density of rows ``(n, d)`` under the model, up to what depends on none of some
            columns.
        n_draws: Completions of each row.

    Example:
        >>> from carma.benchmarks import load
        >>> scm = load("chain-lin", rows=200).scm
        >>> imputation = Imputation(scm.encoding, scm.sample(1000), lambda x, _: scm.log_prob(x))
        >>> row = torch.tensor([[1.0, torch.nan, 1.0, 0.0]], dtype=torch.float64)
        >>> imputation.fill(row).isfinite().all().item()
        True
    """

    def __init__(
        self,
        encoding: Encoding,
        pool: Tensor,
        log_prob: Callable[[Tensor, Sequence[int]], Tensor],
        n_draws: int = 1024,
    ) -> None:
        self._encoding, self._log_prob, self._n_draws = encoding, log_prob, n_draws
        features = encoding.schema.features
        widths = [len(feature.levels) or 1 for feature in features]
        ends = [sum(widths[: i + 1]) for i in range(len(widths))]
        self._places = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        spread_out = self._spread_out(pool)
        self._mean, std = spread_out.mean(0), spread_out.std(0, correction=0)
        self._std = torch.where(std > 0, std, 1.0)
        self._pool = (spread_out - self._mean) / self._std
        sobol = SobolEngine(len(features), scramble=True, seed=0)  # type: ignore[no-untyped-call]
        # The ends of the interval are no quantiles.
        margin = 0.5 / n_draws**2
        self._shares = sobol.draw(n_draws, dtype=torch.float64).clamp(margin, 1 - margin)

    def fill(self, x: Tensor) -> Tensor:
        """Fill the gaps.

        Args:
            x: Shape ``(n, d)``, model space, NaN in all columns of a feature without a value.

        Returns:
            The same shape without NaN; what was observed is unchanged.
        """
        filled = x.clone()
        for rows, absent in self._patterns(x):
            for part in torch.split(rows, max(1, CHUNK // self._n_draws)):
                completed, weights = self.draws(x[part])
                for feature in absent:
                    where = self._encoding.block(feature.name)
                    filled[part, where] = self._estimate(feature, completed[..., where], weights)
        return filled

    def draws(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Complete rows in many ways, each with its weight; all at once in memory.

        Args:
            x: Shape ``(n, d)``, model space; the same features are missing in all rows.

        Returns:
            Completed rows, ``(n, k, d)``, and weights, ``(n, k)``, which add up to 1 in each row;
            k is ``n_draws``, or the number of all combinations where all that is missing are
            levels, and these are no more.
        """
        (_, absent), *_ = self._patterns(x)
        every = self._every(absent)
        if every is not None:
            return self._weighed(x, absent, every)
        n, k = len(x), self._n_draws
        completed = x[:, None].repeat(1, k, 1)
        scaled = ((self._spread_out(x) - self._mean) / self._std)[:, None].repeat(1, k, 1)
        features = self._encoding.schema.features
        known = [place for f, place in zip(features, self._places, strict=True) if f not in absent]
        proposed = torch.zeros(n, k, dtype=torch.float64)
        for feature in absent:
            i = features.index(feature)
            centre, spread = self._regression(scaled, self._places[i], known)
            shares = self._shares[:, i].expand(n, k)
            draw = self._draw_levels if feature.has_levels else self._draw_numbers
            value, log_density = draw(feature, centre, spread, shares)
            completed[..., self._encoding.block(feature.name)] = value
            spread_out = self._indicators(feature, value) if feature.has_levels else value
            place = self._places[i]
            scaled[..., place] = (spread_out - self._mean[place]) / self._std[place]
            known.append(place)
            proposed = proposed + log_density
        return completed, self._weights(completed, absent, proposed)

    def _weights(self, completed: Tensor, absent: Sequence[Feature], proposed: Tensor) -> Tensor:
        """Weights of completed rows ``(n, k, d)`` with some log-density of proposing each."""
        blocks = [self._encoding.block(feature.name) for feature in absent]
        columns = [column for block in blocks for column in range(block.start, block.stop)]
        log_density = self._log_prob(completed.flatten(0, 1), columns).double()
        log_weight = (log_density.view(completed.shape[:2]) - proposed).nan_to_num(nan=-torch.inf)
        is_possible = (log_weight > -torch.inf).any(dim=1, keepdim=True)
        return torch.where(is_possible, log_weight, 0.0).softmax(dim=1)

    def _every(self, absent: Sequence[Feature]) -> list[Tensor] | None:
        """All combinations of levels, the columns of each feature; ``None``: too many."""
        counts = [len(feature.levels) for feature in absent]
        if not 0 < math.prod(counts) <= self._n_draws:
            return None
        positions = torch.cartesian_prod(*map(torch.arange, counts)).view(-1, len(counts))
        return [_columns(f, own) for f, own in zip(absent, positions.T, strict=True)]

    def _weighed(
        self, x: Tensor, absent: Sequence[Feature], every: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Rows completed in all ways that there are, each as probable as it is."""
        completed = x[:, None].repeat(1, len(every[0]), 1)
        for feature, value in zip(absent, every, strict=True):
            completed[..., self._encoding.block(feature.name)] = value
        return completed, self._weights(completed, absent, x.new_zeros(()))

    def _patterns(self, x: Tensor) -> list[tuple[Tensor, list[Feature]]]:
        """Rows by which features are missing in them, those with none left out."""
        encoding = self._encoding
        order = [encoding.schema[name] for name in encoding.schema.graph.order]
        gaps = torch.stack([x[:, encoding.block(f.name)].isnan().any(dim=1) for f in order], dim=1)
        patterns, own = torch.unique(gaps, dim=0, return_inverse=True)
        return [
            (
                (own == number).nonzero().squeeze(1),
                [f for f, is_absent in zip(order, pattern, strict=True) if is_absent],
            )
            for number, pattern in enumerate(patterns.tolist())
            if any(pattern)
        ]

    def _spread_out(self, x: Tensor) -> Tensor:
        """Numbers as they are, and one 0/1 column for each level, of whatever kind."""
        parts = [(f, x[:, self._encoding.block(f.name)]) for f in self._encoding.schema.features]
        return torch.cat([self._indicators(f, v) if f.has_levels else v for f, v in parts], dim=1)

    def _indicators(self, feature: Feature, value: Tensor) -> Tensor:
        """One column for each level, from a feature's columns in model space."""
        if feature.kind == "nominal":
            return value
        codes = torch.tensor(feature.codes, dtype=value.dtype)
        return one_hot((value - codes).abs().argmin(dim=-1), len(codes)).to(value)

    def _regression(
        self, scaled: Tensor, place: slice, known: Sequence[slice]
    ) -> tuple[Tensor, Tensor]:
        """Expected value of some columns and the error's spread, original units.

        Args:
            scaled: Shape ``(n, k, q)``.
            place: Of the ``c`` columns.
            known: Of the columns that tell something of them.

        Returns:
            Shapes ``(n, k, c)`` and ``(c,)``.
        """
        columns = [i for part in known for i in range(part.start, part.stop)]
        pool, target = self._pool[:, columns], self._pool[:, place]
        share = torch.full((len(pool),), 1 / len(pool), dtype=torch.float64)
        level, slopes = ridge(pool, target, share)
        error = (target - level - pool @ slopes).square().mean(0).sqrt().clamp(min=NARROWEST)
        centre = level + scaled[..., columns] @ slopes
        mean, std = self._mean[place], self._std[place]
        return mean + std * centre, std * error

    @staticmethod
    def _draw_numbers(
        feature: Feature, centre: Tensor, spread: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Numbers, ``(n, k, 1)``, and the logarithm of their density or mass, ``(n, k)``."""
        scale = WIDER * spread / LOGISTIC
        low, high = feature.bounds or (-torch.inf, torch.inf)
        half = 0.5 if feature.kind == "integer" else 0.0
        first, last = (low - half - centre) / scale, (high + half - centre) / scale
        value = centre + scale * truncated_logistic(first, last, shares[..., None])
        within = log_mass(first, last, last - first)
        if feature.kind == "integer":
            value = value.round().clamp(low, high)
            below, above = (value - half - centre) / scale, (value + half - centre) / scale
            found = log_mass(below, above, above - below)
        else:
            value = value.clamp(low, high)
            off = (value - centre) / scale
            found = logsigmoid(off) + logsigmoid(-off) - scale.log()
        return value, (found - within).squeeze(-1)

    @staticmethod
    def _draw_levels(
        feature: Feature,
        centre: Tensor,
        spread: Tensor,  # noqa: ARG004
        shares: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Columns of levels in model space, and the logarithm of their probability, ``(n, k)``."""
        clipped = centre.clamp(EVEN / centre.shape[-1], 1.0)
        even = EVEN / centre.shape[-1]
        probability = (1 - EVEN) * clipped / clipped.sum(dim=-1, keepdim=True) + even
        below = probability.cumsum(dim=-1)[..., :-1].contiguous()
        position = (below < shares[..., None]).sum(dim=-1, keepdim=True)
        found = probability.log().gather(-1, position).squeeze(-1)
        return _columns(feature, position.squeeze(-1)), found

    def _estimate(self, feature: Feature, values: Tensor, weights: Tensor) -> Tensor:
        """Of values ``(n, k, c)``, ``(n, c)``."""
        if feature.has_levels:
            values = self._indicators(feature, values)
        mean = (values * weights[..., None]).sum(dim=1)
        if feature.has_levels:
            return _columns(feature, mean.argmax(dim=1))
        mean = mean.round() if feature.kind == "integer" else mean
        # A mean of equal values may be off by a rounding error.
        return mean.clamp(*feature.bounds) if feature.bounds else mean


def _columns(feature: Feature, positions: Tensor) -> Tensor:
    """Levels in model space, ``(...)`` to ``(..., c)``."""
    if feature.kind == "nominal":
        return one_hot(positions, len(feature.levels)).double()
    return torch.tensor(feature.codes, dtype=torch.float64)[positions, None]
