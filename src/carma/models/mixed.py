"""Causal model for columns of every kind: thresholds, Gumbel-max and a flow in one graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softmax

from carma.errors import NotFittedError
from carma.interventions import Intervention
from carma.models.affine import Affine
from carma.models.base import CausalModel
from carma.models.bootstrap import bootstrap_counts, check_alternatives
from carma.models.conditioner import EVERY, OTHERS, OWN, Conditioner
from carma.models.discrete import (
    cells,
    draw_levels,
    has_discrete_effects,
    level_roots,
    log_frequencies,
    root_frequencies,
)
from carma.models.scores import Scores
from carma.models.thresholds import Thresholds
from carma.models.truncated import log_mass, truncated_gumbels, truncated_logistic
from carma.schema import Feature, Schema
from carma.state import State, prefixed, seeded, unprefixed
from carma.table import Statistics
from carma.training import (
    History,
    TrainingSettings,
    check_at_least,
    check_widths,
    split_rows,
    train,
)

__all__ = ["MixedFlow", "MixedSettings"]

# Further out than any threshold, and the least width of an interval of the latent.
ENDLESS, NARROWEST = 1e6, 1e-6


@dataclass(frozen=True)
class MixedSettings:
    """Settings of a causal model for columns of every kind.

    Args:
        hidden: Widths of the hidden layers of each feature's network.
        training: How it is fitted.
        alternatives: Number of models fitted to bootstrap samples besides the model; 0 or at
            least 2.
        draws: Of the noise that what was observed leaves open, from each of these models, or
            from the model itself where there are none; 1 where every effect is continuous, since
            nothing is open then.
        most_steps: Optimiser steps at most: tables of many rows take fewer epochs.

    Raises:
        SettingsError: A value is out of range.

    Example:
        >>> MixedSettings(draws=0)
        Traceback (most recent call last):
        carma.errors.SettingsError: MixedSettings: 'draws' must be at least 1; got 0
    """

    hidden: tuple[int, ...] = (16, 16)
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            epochs=60, batch_size=1000, learning_rate=1e-2, patience=60
        )
    )
    alternatives: int = 12
    draws: int = 2
    most_steps: int = 800

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_widths("MixedSettings", "hidden", self.hidden)
        check_alternatives("MixedSettings", self.alternatives)
        check_at_least("MixedSettings", "most_steps", self.most_steps, 1)
        check_at_least("MixedSettings", "draws", self.draws, 1)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> MixedSettings:
        """Undo ``dataclasses.asdict``."""
        content = dict(content)
        training = TrainingSettings(**content.pop("training"))
        return cls(**content, training=training)


@dataclass(frozen=True)
class _Kinds:
    """Which of some columns are what.

    Args:
        continuous: Positions of those with normal noise, shape ``(c,)``, int64.
        ordered: Positions of those with thresholds, shape ``(m,)``, int64.
        numbers: Of these columns in ``Thresholds``.
        nominal: Each nominal feature's columns: where they are among these, and where among all.
    """

    continuous: Tensor
    ordered: Tensor
    numbers: list[int]
    nominal: list[tuple[slice, slice]]


class MixedFlow(CausalModel):
    r"""Structural causal model whose columns are of any kind, fitted by maximum likelihood.

    A small network for each feature with causes gives the parameters of its mechanism:

    - continuous: location and scale of normal noise, as in an affine ``CausalFlow``;
    - binary, ordinal, integer: a latent with logistic noise passes thresholds that rise with the
      value (ordered logit, with location and scale; ``Thresholds``);
    - nominal: a logit for each level, and Gumbel noise on each; the largest sum wins.

    What was observed of a discrete column leaves its noise open. ``abduct`` takes the median of
    what is left: of the truncated logistic, of the largest Gumbel sum and of each truncated one.
    So ``counterfactual`` is one plausible answer; with two levels it is the likelier one.
    ``draw_counterfactuals`` gives many, which are as frequent as they are probable, and so do the
    alternatives: ``draws`` from each of an ensemble fitted to bootstrap samples (``CausalFlow``).
    Draws are quantiles that all people share, so that the same person has the same ones in every
    batch. What follows from the data and what is assumed is in ``docs/mixed-types.md``.

    A binary, ordinal or nominal root keeps its observed frequencies and is its own latent.
    Slopes pass straight through thresholds (``Encoding.snap``), and through the softmax of the
    sums for nominal columns. The answers are computed in double precision.

    Args:
        schema: The problem. A nominal feature is set by setting all of its columns.
        settings: See ``MixedSettings``.

    Attributes:
        history_: Losses of the fit.

    References:
        McCullagh 1980, Regression models for ordinal data, for ordered logit with a scale.
        Oberst & Sontag 2019, Counterfactual off-policy evaluation with Gumbel-max structural
        causal models, arXiv 1905.05824.
        Javaloy, Sanchez-Martin & Valera 2023, Causal normalizing flows, arXiv 2306.05415.

    Example:
        >>> import pandas as pd
        >>> from carma import CausalGraph, Feature
        >>> jobs = Feature("job", "nominal", levels=("clerk", "cook", "none"))
        >>> schema = Schema(
        ...     (Feature("degree", "binary"), jobs),
        ...     CausalGraph.from_edges([("degree", "job")]),
        ... )
        >>> rows = [(0, "cook"), (0, "none"), (1, "clerk"), (1, "cook")]
        >>> table = pd.DataFrame(rows * 50, columns=["degree", "job"])
        >>> quick = MixedSettings(training=TrainingSettings(epochs=10))
        >>> model = MixedFlow(schema, quick).fit(table)
        >>> x = model.encoding.encode(table.head(2))
        >>> do = Intervention.of(model.encoding, 2, degree=1)
        >>> model.encoding.decode(model.counterfactual(x, do))["job"].tolist()
        ['cook', 'clerk']
    """

    kind: ClassVar[str] = "mixed"
    history_: History
    _frequencies: dict[str, Tensor]

    def __init__(self, schema: Schema, settings: MixedSettings | None = None) -> None:
        super().__init__(schema)
        self.settings = settings or MixedSettings()
        self._is_level_root = level_roots(self.encoding)
        kinds = [schema.features[owner].kind for owner in self.encoding.owners]
        followers = [i for i, is_root in enumerate(self._is_level_root.tolist()) if not is_root]
        ordered = ("binary", "ordinal", "integer")
        self._ordered = [i for i in followers if kinds[i] in ordered]
        self._continuous = [i for i in followers if kinds[i] == "continuous"]
        features = schema.features
        self._blocks = [
            list(range(self.encoding.n_columns))[self.encoding.block(f.name)]
            for f in features
            if f.kind == "nominal" and schema.graph.parents(f.name)
        ]
        owners = [features[self.encoding.owners[i]] for i in self._ordered]
        self._codes = [torch.tensor(sorted(f.codes)).double() for f in owners]
        ends = [_ends(feature) for feature in owners]
        self._least, self._most = torch.tensor(ends, dtype=torch.float64).view(-1, 2).unbind(dim=1)
        self._is_open = has_discrete_effects(schema)
        self._kinds: dict[tuple[int, ...], _Kinds] = {}

    @property
    def n_alternatives(self) -> int:
        """See ``CausalModel.n_alternatives``; draws of the noise are counted."""
        if not self.settings.alternatives and self._n_draws == 1:
            return 0
        return max(1, self.settings.alternatives) * self._n_draws

    @property
    def is_point_identified(self) -> bool:
        """See ``CausalModel.is_point_identified``: where every effect is continuous."""
        return not self._is_open

    @property
    def _n_draws(self) -> int:
        return self.settings.draws if self._is_open else 1

    def draw_counterfactuals(
        self, x: Tensor, intervention: Intervention, n_draws: int, *, seed: int = 0
    ) -> Tensor:
        """Counterfactuals under the model, as frequent as they are probable.

        Args:
            x: Factual rows, shape ``(n, d)``, model space.
            intervention: Another one for each row.
            n_draws: Of the noise that agrees with the facts, for each row; all at once in
                memory.
            seed: Of the draws, which are stratified: one in each of ``n_draws`` equal shares.

        Returns:
            Shape ``(n_draws, n, d)``, model space, under the laws of the class.

        Raises:
            TableError: A shape is another one.
        """
        self._check("draw_counterfactuals", x)
        self._check_intervention(intervention, len(x))
        return self._draw(x, intervention, OWN, self._shares(1, n_draws, seed))

    def _fit(self, x: Tensor, statistics: Statistics, progress: bool | None) -> None:
        settings = self.settings.training
        n_members = 1 + self.settings.alternatives
        rows, held_out = split_rows(len(x), settings.validation_fraction, settings.seed)
        counts = bootstrap_counts(rows, len(x), n_members, seeded(settings.seed + 2))
        encoding, std = self.encoding, statistics.std
        self._frequencies = root_frequencies(x, encoding)
        self._build(statistics, Thresholds.of(x[rows], encoding, self._ordered, std, n_members))
        self._scores = Scores.of(x, encoding, statistics)
        low, high = cells(x, encoding)
        steps = math.ceil(len(rows) / settings.rows_a_step(len(rows)))
        epochs = min(settings.epochs, max(1, self.settings.most_steps // steps))

        def loss(batch: Tensor) -> Tensor:
            chosen = rows[batch]
            return self._loss(x[chosen], (low[chosen], high[chosen]), counts[:, chosen])

        def score() -> float:
            return float(-self._log_likelihood(x[held_out]).mean())

        self.history_ = train(
            nn.ModuleList([self._conditioner, self._thresholds]),
            len(rows),
            loss,
            score,
            replace(settings, epochs=epochs),
            clip=None,  # The norm of all members would couple them to each other.
            description="mixed causal flow",
            progress=progress,
        )
        self._freeze()

    def _loss(self, x: Tensor, ends: tuple[Tensor, Tensor], counts: Tensor) -> Tensor:
        """The model's negative log-likelihood; its slopes are those of all members.

        Args:
            x: Shape ``(b, d)``, model space.
            ends: Of each value's cell, both of shape ``(b, d)``.
            counts: Weights of the rows in each member, shape ``(1 + alternatives, b)``.
        """
        conditioner = self._conditioner
        roots = [i for i in conditioner.roots if not self._is_level_root[i]]
        constant = self._root_parameters(roots).permute(0, 3, 1, 2).expand(-1, len(x), -1, -1)
        root = -self._log_likelihoods(constant, x, ends, roots, OWN).mean()
        losses = torch.zeros(len(counts))
        if conditioner.nodes:
            parameters = conditioner(self._seen(x), range(len(conditioner.nodes)), EVERY)
            each = self._log_likelihoods(parameters, x, ends, conditioner.nodes, EVERY)
            losses = -(each * counts).mean(dim=1)
        total = losses.sum() + root
        return (losses[0] + root).detach() + (total - total.detach())

    def _log_likelihoods(
        self,
        parameters: Tensor,
        x: Tensor,
        ends: tuple[Tensor, Tensor],
        columns: Sequence[int],
        members: slice,
    ) -> Tensor:
        """Log-likelihood of some columns given their causes; of scaled values where continuous.

        Args:
            parameters: Of the ``k`` columns, shape ``(a, n, k, 2)``.
            x: Shape ``(n, d)``, model space.
            ends: Of each value's cell, both of shape ``(n, d)``.
            columns: Which; roots that have levels count for nothing.
            members: Whose thresholds.

        Returns:
            Their sum, shape ``(a, n)``.
        """
        kinds = self._kinds_of(columns)
        found = parameters.new_zeros(parameters.shape[:2])
        if len(kinds.continuous):
            value = self._scale(x)[:, [columns[k] for k in kinds.continuous.tolist()]]
            affine = Affine(*parameters.index_select(2, kinds.continuous).unbind(-1))
            z = affine(value)
            density = affine.log_abs_det_jacobian(value, z) - 0.5 * z.square()
            found = found + density.sum(dim=2) - 0.5 * math.log(2 * math.pi) * value.shape[1]
        if kinds.numbers:
            affine = Affine(*parameters[:, :, kinds.ordered].unbind(-1))
            own = [self._ordered[number] for number in kinds.numbers]
            value, *between = (t[:, own] for t in (x, *ends))
            low, high, width = self._intervals(affine, value, between, kinds.numbers, members)
            found = found + log_mass(low, high, width).sum(dim=2)
        for where, block in kinds.nominal:
            logits = parameters[:, :, where, 0]
            chosen = x[:, block].argmax(dim=1, keepdim=True).expand(len(found), -1, -1)
            found = found + logits.gather(2, chosen)[..., 0] - logits.logsumexp(dim=2)
        return found

    def _intervals(
        self,
        affine: Affine,
        x: Tensor,
        ends: Sequence[Tensor],
        numbers: list[int],
        members: slice,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ends of the latent's interval for some ordered columns, and its width, ``(a, n, m)``.

        Args:
            affine: With parameters of shape ``(a, n, m)``.
            x: Values of these columns, shape ``(n, m)``, model space.
            ends: Of each value's cell, both of shape ``(n, m)``.
            numbers: Of the columns in ``Thresholds``.
            members: Whose thresholds.
        """
        below, above = (self._thresholds(end, numbers, members) for end in ends)
        low, high = affine(below), affine(above)
        # A rounding error in one of two ends is more than some cells are wide.
        steepness = affine.log_abs_det_jacobian(below, low).exp()
        width = (steepness * (above - below)).clamp(min=NARROWEST)
        is_first, is_last = x <= self._least[numbers], x >= self._most[numbers]
        low, high = torch.where(is_first, -ENDLESS, low), torch.where(is_last, ENDLESS, high)
        return low, high, torch.where(is_first | is_last, high - low, width)

    def _abduct(self, x: Tensor) -> Tensor:
        half = torch.full((1, 1, x.shape[1]), 0.5, dtype=torch.float64)
        roots = [i for i in self._conditioner.roots if not self._is_level_root[i]]
        nodes = range(len(self._conditioner.nodes))
        # Roots that have levels are their own latents.
        u = x.clone()
        if roots:
            found = self._noise(self._root_parameters(roots), x, roots, OWN, half)
            u = u.index_copy(1, torch.tensor(roots), found[0, :, 0].T)
        if nodes:
            found = self._node_noise(x, nodes, OWN, half)
            u = u.index_copy(1, torch.tensor(self._conditioner.nodes), found[0, :, 0].T)
        return u

    def _node_noise(
        self, x: Tensor, chosen: Sequence[int], members: slice, shares: Tensor
    ) -> Tensor:
        """Noise of some nodes that agrees with the facts, shape ``(a, k, s, n)``.

        Args:
            x: Shape ``(n, d)``, model space.
            chosen: Numbers of the ``k`` nodes, ascending.
            members: Whose mechanisms.
            shares: See ``_noise``.
        """
        columns = [self._conditioner.nodes[node] for node in chosen]
        seen = self._seen_by(x, self._looked_at(chosen, members))
        parameters = self._parameters(seen, chosen, members)
        return self._noise(parameters, x, columns, members, shares)

    def _parameters(self, seen: Tensor, chosen: Sequence[int], members: slice) -> Tensor:
        """Of some nodes, shape ``(a, k, p, n)``; ``p`` is 1 where all of them are nominal.

        Args:
            seen: Scores of the ``c`` columns that they look at, shape ``(c, n)`` or
                ``(a, c, n)``.
            chosen: Numbers of the nodes, ascending.
            members: Whose mechanisms.
        """
        kinds = self._kinds_of([self._conditioner.nodes[node] for node in chosen])
        p = 2 if kinds.numbers or len(kinds.continuous) else 1
        return self._conditioner.across(seen, chosen, members, p)

    def _noise(
        self,
        parameters: Tensor,
        x: Tensor,
        columns: Sequence[int],
        members: slice,
        shares: Tensor,
    ) -> Tensor:
        """Noise that agrees with the facts, for some columns.

        Rows are last in memory: then every step runs over neighbours.

        Args:
            parameters: Of the ``k`` columns, shape ``(a, k, p, n)`` or ``(a, k, p, 1)``.
            x: Shape ``(n, d)``, model space.
            columns: Which; none of them a root that has levels.
            members: Whose thresholds.
            shares: Quantiles of what the facts leave open, shape ``(a, s, d)``.

        Returns:
            Shape ``(a, k, s, n)``.
        """
        kinds, s = self._kinds_of(columns), shares.shape[1]
        own = x.T.index_select(0, torch.tensor(columns))
        shares = shares[:, :, list(columns)].mT[..., None]
        found: list[tuple[int, Tensor]] = []
        if len(kinds.continuous):
            where = [columns[k] for k in kinds.continuous.tolist()]
            value = own.index_select(0, kinds.continuous)
            value = (value - self._mean[where, None]) / self._std[where, None]
            exact = Affine(*parameters.index_select(1, kinds.continuous).unbind(2))(value)
            exact = exact[:, :, None].expand(-1, -1, s, -1)
            found += zip(kinds.continuous.tolist(), torch.split(exact, 1, dim=1), strict=True)
        if kinds.numbers:
            value = own.index_select(0, kinds.ordered).T
            ends = cells(value, self.encoding, [columns[k] for k in kinds.ordered.tolist()])
            affine = Affine(*(t.mT for t in parameters.index_select(1, kinds.ordered).unbind(2)))
            low, high, _ = self._intervals(affine, value, ends, kinds.numbers, members)
            low, high = low.mT[:, :, None], high.mT[:, :, None]
            drawn = truncated_logistic(low, high, shares.index_select(1, kinds.ordered))
            found += zip(kinds.ordered.tolist(), torch.split(drawn, 1, dim=1), strict=True)
        for block, _ in kinds.nominal:
            logits = log_softmax(parameters[:, block, 0], dim=1)[:, :, None]
            chosen = own[block].argmax(dim=0)[None, None, None]
            found.append((block.start, truncated_gumbels(logits, chosen, shares[:, block], 1)))
        noise = _in_turn(found)
        if not x.requires_grad:
            return noise
        # Slopes in a discrete column itself pass straight through, as in ``Encoding.snap``.
        through = (own - own.detach()).index_fill(0, kinds.continuous, 0.0)
        return noise + through[:, None]

    def _values(
        self, parameters: Tensor, u: Tensor, columns: Sequence[int], members: slice
    ) -> Tensor:
        """What follows from noise, model space, shape ``(a, k, s, n)``.

        Args:
            parameters: Of the ``k`` columns, shape ``(a, k, p, s, n)``, the last two of them
                maybe 1.
            u: Shape ``(a, k, s, n)``.
            columns: Which; none of them a root that has levels.
            members: Whose thresholds.
        """
        kinds = self._kinds_of(columns)
        found: list[tuple[int, Tensor]] = []
        if len(kinds.continuous):
            affine = Affine(*parameters.index_select(1, kinds.continuous).unbind(2))
            latent = affine.inv(u.index_select(1, kinds.continuous))
            own = [columns[k] for k in kinds.continuous.tolist()]
            value = latent * self._std[own, None, None] + self._mean[own, None, None]
            found += zip(kinds.continuous.tolist(), torch.split(value, 1, dim=1), strict=True)
        if kinds.numbers:
            affine = Affine(*parameters.index_select(1, kinds.ordered).unbind(2))
            latent = affine.inv(u.index_select(1, kinds.ordered))
            height = latent.flatten(2).mT
            value = self._thresholds.inverse(height, kinds.numbers, members).mT.view(latent.shape)
            least, most = (t[kinds.numbers, None, None] for t in (self._least, self._most))
            value = torch.minimum(torch.maximum(value, least), most)
            found += (
                (k, _nearest(each, self._codes[number]))
                for k, number, each in zip(
                    kinds.ordered.tolist(), kinds.numbers, torch.split(value, 1, dim=1), strict=True
                )
            )
        for where, _ in kinds.nominal:
            total = parameters[:, where, 0] + u[:, where]
            value = _winners(total)
            if total.requires_grad:
                soft = softmax(total, dim=1)
                value = value + (soft - soft.detach())
            found.append((where.start, value))
        return _in_turn(found)

    def _predict(
        self, u: Tensor, intervention: Intervention | None, start: Tensor | None
    ) -> Tensor:
        now = self._roots(u) if start is None else start
        do = Intervention.none(now) if intervention is None else intervention
        moves = ~do.mask if start is None else self._moves(do)
        generations = [*self._conditioner.moving(moves)]
        noise = [u.T.index_select(0, columns)[None, :, None] for _, columns in generations]
        return self._follow(generations, noise, now, do, moves, OWN, 1, 1)[0]

    def _counterfactual(self, x: Tensor, intervention: Intervention, u: Tensor | None) -> Tensor:
        if u is not None:
            return self._predict(u, intervention, x)
        half = torch.full((1, 1, x.shape[1]), 0.5, dtype=torch.float64)
        return self._draw(x, intervention, OWN, half)[0]

    def _lawful_alternatives(self, x: Tensor, intervention: Intervention) -> Tensor:
        a, s = max(1, self.settings.alternatives), self._n_draws
        members = OTHERS if self.settings.alternatives else OWN
        shares = self._shares(a, s, self.settings.training.seed)
        return self._draw(x, intervention, members, shares)

    def _draw(
        self, x: Tensor, intervention: Intervention, members: slice, shares: Tensor
    ) -> Tensor:
        """Counterfactuals of ``a`` members with ``s`` draws each, shape ``(a * s, n, d)``.

        Args:
            x: Shape ``(n, d)``.
            intervention: Another one for each row.
            members: Whose mechanisms.
            shares: See ``_noise``.
        """
        (a, s, _), moves = shares.shape, self._moves(intervention)
        generations = [*self._conditioner.moving(moves)]
        noise: Sequence[Tensor] = ()
        if generations:
            chosen = [node for nodes, _ in generations for node in nodes]
            whole = self._node_noise(x, chosen, members, shares)
            noise = torch.split(whole, [len(nodes) for nodes, _ in generations], dim=1)
        return self._follow(generations, noise, x, intervention, moves, members, a, s)

    def _follow(
        self,
        generations: Sequence[tuple[Sequence[int], Tensor]],
        noise: Sequence[Tensor],
        x: Tensor,
        intervention: Intervention,
        moves: Tensor,
        members: slice,
        a: int,
        s: int,
    ) -> Tensor:
        """Run the mechanisms of ``a`` members in causal order, with ``s`` draws each.

        Args:
            generations: Nodes that move, and their columns; see ``Conditioner.moving``.
            noise: Of the columns of each generation, shape ``(a, k, s, n)``.
            x: What is neither set nor moves, shape ``(n, d)``.
            intervention: Another one for each row.
            moves: Columns to predict in each row, shape ``(n, d)``, bool.
            members: Whose mechanisms.
            a: Number of members.
            s: Number of draws.

        Returns:
            Shape ``(a * s, n, d)``.
        """
        fixed = torch.where(intervention.mask, intervention.values, x)
        if not generations:
            return fixed.repeat(a * s, 1, 1)
        looked = [self._looked_at(chosen, members) for chosen, _ in generations]
        union = sorted({column for columns in looked for column in columns})
        now = self._real(fixed, intervention.mask, union)
        seen = self._seen_by(now, union)
        reached = fixed.expand(a, s, -1, -1).clone()
        # What later generations see of those before.
        moved: dict[int, Tensor] = {}
        for step, ((chosen, columns), own) in enumerate(zip(generations, noise, strict=True)):
            where = columns.tolist()
            places = [union.index(column) for column in looked[step]]
            before = seen if places == [*range(len(union))] else seen[places]
            moved_here = {k: moved[c] for k, c in enumerate(looked[step]) if c in moved}
            if moved_here:
                before = _replaced(before, moved_here)
            parameters = self._parameters(before, chosen, members)
            rows = (s if moved_here else 1, len(x))
            parameters = parameters.view(*parameters.shape[:3], *rows)
            found = self._values(parameters, own, where, members)
            is_free = moves.T.index_select(0, columns)[:, None]
            is_whole = bool(is_free.all())
            if {column for columns in looked[step + 1 :] for column in columns}.intersection(where):
                held = now.T.index_select(0, columns)[:, None]
                free = found if is_whole else torch.where(is_free, found, held)
                scores = self._scores(free.movedim(1, -1), where).movedim(-1, 1)
                moved |= zip(where, scores.unbind(dim=1), strict=True)
            if not is_whole:
                found = torch.where(is_free, found, fixed.T.index_select(0, columns)[:, None])
            for run in _runs(where):
                there = slice(where[run.start], where[run.stop - 1] + 1)
                reached[..., there] = found[:, run].permute(0, 2, 3, 1)
        return reached.view(a * s, *x.shape)

    def _real(self, x: Tensor, mask: Tensor, looked: Sequence[int]) -> Tensor:
        """Rows in which what is set is the nearest value that exists, as mechanisms see it.

        Args:
            x: Shape ``(n, d)``.
            mask: Columns set, same shape, bool.
            looked: Columns that mechanisms look at; the others are left alone.
        """
        some = torch.tensor(looked, dtype=torch.long)
        is_set = mask.index_select(1, some).any(dim=0)
        among = torch.zeros(x.shape[1], dtype=torch.bool).index_copy(0, some, is_set)
        exact = self.encoding.snap(x, among.tolist())
        return x if exact is x else torch.where(mask, exact, x)

    def _roots(self, u: Tensor) -> Tensor:
        """Rows in which the columns without causes are right; the others may hold anything."""
        columns = [i for i in self._conditioner.roots if not self._is_level_root[i]]
        if not columns:
            return u
        own = u.T[None, columns, None]
        parameters = self._root_parameters(columns)[..., None]
        found = self._values(parameters, own, columns, OWN)
        return u.index_copy(1, torch.tensor(columns), found[0, :, 0].T)

    def _root_parameters(self, columns: Sequence[int]) -> Tensor:
        """Constant parameters of some columns without causes, shape ``(1, k, 2, 1)``."""
        roots = self._conditioner.roots
        constant = self._conditioner.root_constant[[roots.index(i) for i in columns]]
        return constant[None, ..., None]

    def _sample_latent(self, n: int) -> Tensor:
        u = torch.zeros(n, self.encoding.n_columns, dtype=torch.float64)
        # Strictly between 0 and 1.
        share = torch.rand(u.shape, dtype=torch.float64).clamp(min=2.0**-54)
        u[:, self._continuous] = torch.randn(n, len(self._continuous), dtype=torch.float64)
        u[:, self._ordered] = share[:, self._ordered].logit()
        for block in self._blocks:
            u[:, block] = -torch.log(-share[:, block].log())
        for name, frequency in self._frequencies.items():
            u[:, self.encoding.block(name)] = draw_levels(frequency, n, self.schema[name])
        return u

    def _log_prob(self, x: Tensor) -> Tensor:
        units = self._std[self._continuous].log().sum()
        roots = log_frequencies(x, self.encoding, self._frequencies)
        return self._log_likelihood(x).double() - units + roots

    def _log_prob_of(self, x: Tensor, columns: Sequence[int]) -> Tensor:
        conditioner, among = self._conditioner, list(columns)
        depends = self.adjacency[:, among].any(dim=1)
        depends[among] = True
        nodes = [node for node, column in enumerate(conditioner.nodes) if depends[column]]
        if any(not self._is_level_root[i] for i in conditioner.roots if depends[i]):
            return self._log_prob(x)
        found = log_frequencies(x, self.encoding, self._frequencies)
        if nodes:
            where = [conditioner.nodes[node] for node in nodes]
            seen = self._seen_by(x, self._looked_at(nodes, OWN))
            parameters = self._parameters(seen, nodes, OWN).permute(0, 3, 1, 2)
            # Only where there are ordered ones among them, it matters where their cells end.
            ends = cells(x, self.encoding) if self._kinds_of(where).numbers else (x, x)
            found = found + self._log_likelihoods(parameters, x, ends, where, OWN)[0].double()
        return found

    def _log_likelihood(self, x: Tensor) -> Tensor:
        """The model's own of rows without the roots that have levels, shape ``(n,)``."""
        parameters = self._conditioner.everywhere(self._seen(x))[None]
        ends = cells(x, self.encoding)
        return self._log_likelihoods(parameters, x, ends, range(x.shape[1]), OWN)[0]

    def state(self) -> State:
        """See ``CausalModel.state``."""
        if not self.is_fitted:
            raise NotFittedError.of("MixedFlow", "state")
        config = {"settings": asdict(self.settings), "best_epoch": self.history_.best_epoch}
        tensors = {
            **prefixed("statistics", self.statistics_.as_tensors()),
            **prefixed("conditioner", self._conditioner.state_dict()),
            **prefixed("thresholds", self._thresholds.state_dict()),
            **prefixed("scores", self._scores.as_tensors()),
            **prefixed("frequency", self._frequencies),
        }
        return State(config, tensors)

    @classmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """See ``CausalModel.from_state``."""
        model = cls(schema, MixedSettings.from_dict(state.config["settings"]))
        statistics = Statistics(**unprefixed("statistics", state.tensors))
        heights = unprefixed("thresholds", state.tensors)
        n_members = 1 + model.settings.alternatives
        model._build(statistics, Thresholds(heights["knots"], heights["rise"], n_members))
        model._scores = Scores(statistics, **unprefixed("scores", state.tensors))
        model._freeze()
        model._conditioner.load_state_dict(unprefixed("conditioner", state.tensors))
        model._thresholds.load_state_dict(heights)
        model._frequencies = unprefixed("frequency", state.tensors)
        model.history_ = History(best_epoch=state.config["best_epoch"])
        model.statistics_ = statistics
        return model

    def _build(self, statistics: Statistics, thresholds: Thresholds) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.training.seed)
            self._conditioner = Conditioner(
                self.encoding.adjacency,
                2,
                self.settings.hidden,
                has_skip=True,
                n_members=1 + self.settings.alternatives,
                owners=self.encoding.owners,
            )
        self._thresholds = thresholds
        self._mean, self._std = statistics.mean, statistics.std

    def _freeze(self) -> None:
        """End of the fit: no more slopes in the weights, and double precision."""
        self._conditioner.double()
        self._conditioner.freeze()
        self._thresholds.double().freeze()

    def _shares(self, a: int, s: int, seed: int) -> Tensor:
        """Quantiles for ``s`` draws from each of ``a`` members, shape ``(a, s, d)``.

        A Latin hypercube: in every column each of the ``a * s`` equal shares has one draw.
        """
        generator, n = seeded(seed), a * s
        columns = [torch.randperm(n, generator=generator) for _ in self.encoding.columns]
        return ((torch.stack(columns, dim=1).double() + 0.5) / n).view(a, s, -1)

    def _kinds_of(self, columns: Sequence[int]) -> _Kinds:
        """Which of some columns are what; remembered."""
        key = tuple(columns)
        if key not in self._kinds:
            number = {column: k for k, column in enumerate(self._ordered)}
            ordered = [k for k, column in enumerate(key) if column in number]
            continuous = [k for k, column in enumerate(key) if column in self._continuous]
            # The columns of a feature are next to each other among all, and among the nodes.
            blocks = [
                (slice(k := key.index(block[0]), k + len(block)), slice(block[0], block[-1] + 1))
                for block in self._blocks
                if block[0] in key
            ]
            # What is made in inference mode could not be used outside of it.
            with torch.inference_mode(False):
                self._kinds[key] = _Kinds(
                    torch.tensor(continuous, dtype=torch.long),
                    torch.tensor(ordered, dtype=torch.long),
                    [number[key[k]] for k in ordered],
                    blocks,
                )
        return self._kinds[key]

    def _scale(self, x: Tensor) -> Tensor:
        return ((x - self._mean) / self._std).to(self._conditioner.constant.dtype)

    def _seen(self, x: Tensor) -> Tensor:
        """What networks see of rows."""
        return self._scores(x, range(x.shape[1])).to(self._conditioner.constant.dtype)

    def _looked_at(self, chosen: Sequence[int], members: slice) -> list[int]:
        """Columns that some nodes look at, ascending."""
        columns = self._conditioner.columns(chosen, members)
        return [*range(self.encoding.n_columns)] if columns is None else columns.tolist()

    def _seen_by(self, x: Tensor, columns: list[int]) -> Tensor:
        """What networks see of some columns, rows last, shape ``(c, n)``."""
        return self._scores(x.T.index_select(0, torch.tensor(columns)).T, columns).T


def _ends(feature: Feature) -> tuple[float, float]:
    """Least and greatest value of an ordered feature; infinite where it has no bounds."""
    if feature.has_levels:
        return min(feature.codes), max(feature.codes)
    return feature.bounds or (-math.inf, math.inf)


def _nearest(value: Tensor, codes: Tensor) -> Tensor:
    """The code next to each value, the whole number where there are none; slopes pass."""
    free = value.detach()
    exact = (
        codes[torch.bucketize(free.contiguous(), codes.unfold(0, 2, 1).mean(dim=1))]
        if len(codes)
        else free.round()
    )
    return exact + (value - free) if value.requires_grad else exact


def _runs(columns: Sequence[int]) -> list[slice]:
    """Where in an ascending list each run of neighbouring columns is."""
    ends = [k + 1 for k, (a, b) in enumerate(pairwise(columns)) if b != a + 1]
    return [slice(a, b) for a, b in pairwise([0, *ends, len(columns)])]


def _replaced(seen: Tensor, moved: dict[int, Tensor]) -> Tensor:
    """Scores some of which are other ones for each member and draw.

    Args:
        seen: Shape ``(c, n)``.
        moved: Those that differ, each of shape ``(a, s, n)``, by position among the ``c``.

    Returns:
        Shape ``(a, c, s * n)``, without the first of one member.
    """
    values = torch.stack([*moved.values()], dim=1)
    a, _, s, _ = values.shape
    whole = seen[:, None].expand(a, -1, s, -1).clone()
    whole = whole.index_copy_(1, torch.tensor([*moved]), values).flatten(2)
    return whole[0] if a == 1 else whole


def _in_turn(parts: list[tuple[int, Tensor]]) -> Tensor:
    """Join parts of the second dimension, each of which comes with where it starts."""
    if len(parts) == 1:
        return parts[0][1]
    return torch.cat([part for _, part in sorted(parts, key=itemgetter(0))], dim=1)


def _winners(total: Tensor) -> Tensor:
    """1 at the largest along the second dimension, the first of equals, 0 elsewhere."""
    total = total.detach()
    is_most = total == total.amax(dim=1, keepdim=True)
    if int(is_most.count_nonzero()) * total.shape[1] == total.numel():
        return is_most.to(total.dtype)
    # Some are equal, or no numbers.
    return torch.zeros_like(total).scatter(1, total.argmax(dim=1, keepdim=True), 1.0)
