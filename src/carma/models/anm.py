"""Additive-noise model: a function of the causes for each column, plus noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from carma.errors import NotFittedError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.models.bootstrap import bootstrap_counts, check_alternatives
from carma.models.conditioner import EVERY, OTHERS, OWN, Conditioner
from carma.models.discrete import (
    cells,
    check_nominal_roots,
    draw_levels,
    has_discrete_effects,
    level_roots,
    log_frequencies,
    root_frequencies,
)
from carma.models.linear import ridge
from carma.models.noise import SmoothedNoise
from carma.schema import Schema
from carma.state import State, prefixed, seeded, unprefixed
from carma.table import Statistics
from carma.training import History, TrainingSettings, check_widths, split_rows, train

__all__ = ["AdditiveNoiseModel", "AdditiveNoiseSettings"]


@dataclass(frozen=True)
class AdditiveNoiseSettings:
    """Settings of an additive-noise model.

    Args:
        hidden: Widths of the hidden layers of each column's network; without any, every
            mechanism is linear.
        training: How it is fitted.
        alternatives: Number of models fitted to bootstrap samples besides the model; 0 or at
            least 2.

    Raises:
        SettingsError: A value is out of range.

    Example:
        >>> AdditiveNoiseSettings(alternatives=1)
        Traceback (most recent call last):
        carma.errors.SettingsError: AdditiveNoiseSettings: 'alternatives' must be 0 or at least 2...
    """

    hidden: tuple[int, ...] = (16, 16)
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            epochs=60, batch_size=500, learning_rate=1e-2, patience=60
        )
    )
    alternatives: int = 12

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_widths("AdditiveNoiseSettings", "hidden", self.hidden)
        check_alternatives("AdditiveNoiseSettings", self.alternatives)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> AdditiveNoiseSettings:
        """Undo ``dataclasses.asdict``."""
        content = dict(content)
        training = TrainingSettings(**content.pop("training"))
        return cls(**content, training=training)


class AdditiveNoiseModel(CausalModel):
    r"""Mechanisms :math:`x_i = f_i(x_{pa(i)}) + u_i`, fitted by least squares.

    Each :math:`f_i` is a linear function of the causes plus a small network; the networks of all
    columns are fitted at once, on standardised columns. Abduction is exact,
    :math:`u_i = x_i - f_i(x_{pa(i)})` in the units of the column, and a column without causes is
    its own ``u``. So who is 3 above what their causes say stays 3 above it, whatever is done:
    noise has one width and one shape for everybody. Where that is wrong, ``CausalFlow`` fits
    better. The answers are computed in double precision.

    Nothing is assumed about the shape of the noise. For ``sample`` and ``log_prob`` the ``u`` of
    each column has the distribution of 200 quantiles of the training rows' ``u``, smoothed by a
    normal kernel (``SmoothedNoise``); counterfactuals do not use it.

    The alternatives are an ensemble, as in ``CausalFlow``: each member has its own first weights
    and its own bootstrap sample of the training rows.

    Discrete columns, as in ``CausalFlow``: a binary, ordinal or nominal root keeps its observed
    frequencies. Integers, and binary or ordinal features with causes, are regressed on their
    causes as the numbers that they are, and snapped after prediction; their ``u`` is that of the
    centre of their cell, and for ``sample`` and ``log_prob`` it is spread over the cell.

    Args:
        schema: The problem. Nominal features must be roots.
        settings: See ``AdditiveNoiseSettings``.

    Attributes:
        history_: Losses of the fit: ``loss`` is the squared error of all members together,
            ``score`` that of the model on rows held out. Empty where there is no network.

    Raises:
        SchemaError: A nominal feature has a cause.

    References:
        Hoyer, Janzing, Mooij, Peters & Scholkopf 2009, Nonlinear causal discovery with additive
        noise models, NeurIPS 21.

    Example:
        >>> from carma.benchmarks import load
        >>> data = load("triangle-nlin", rows=400)
        >>> settings = AdditiveNoiseSettings(training=TrainingSettings(epochs=3))
        >>> model = AdditiveNoiseModel(data.schema, settings).fit(data.frame("causal"))
        >>> x = data.encoded("recourse")[:2]
        >>> torch.allclose(model.predict(model.abduct(x)), x)
        True
    """

    kind: ClassVar[str] = "additive_noise"
    history_: History
    _frequencies: dict[str, Tensor]
    _noise: SmoothedNoise

    def __init__(self, schema: Schema, settings: AdditiveNoiseSettings | None = None) -> None:
        super().__init__(schema)
        self.settings = settings or AdditiveNoiseSettings()
        check_nominal_roots("AdditiveNoiseModel", schema)
        self._has_density = ~level_roots(self.encoding)
        self._snaps = has_discrete_effects(schema)

    @property
    def n_alternatives(self) -> int:
        """See ``CausalModel.n_alternatives``."""
        return self.settings.alternatives

    def _fit(self, x: Tensor, statistics: Statistics, progress: bool | None) -> None:
        seed = self.settings.training.seed
        self._build(statistics)
        self.history_ = History()
        if self._conditioner.nodes:
            self._fit_mechanisms((x - self._mean) / self._std, progress)
        self._frequencies = root_frequencies(x, self.encoding)
        low, high = cells(x, self.encoding)
        share = torch.rand(x.shape, generator=seeded(seed), dtype=x.dtype)
        spread = low + share * (high - low)
        self._noise = SmoothedNoise.of((self._abduct(x) + spread - x)[:, self._has_density])

    def _fit_mechanisms(self, scaled: Tensor, progress: bool | None) -> None:
        """Fit all members: the networks by steps, then their last layers exactly.

        Args:
            scaled: Shape ``(n, d)``, double precision.
            progress: See ``fit``.
        """
        settings, n = self.settings.training, len(scaled)
        rows, held_out = split_rows(n, settings.validation_fraction, settings.seed)
        n_members = 1 + self.settings.alternatives
        counts = bootstrap_counts(rows, n, n_members, seeded(settings.seed + 1))
        if self.settings.hidden:
            # Steps need no more than single precision.
            self._conditioner.float()
            self.history_ = self._learn(scaled.float(), rows, held_out, counts, progress)
            self._conditioner.double()
        self._conditioner.freeze()
        # The model's own last layers see all rows, also those that were held out.
        counts[0] = 1.0
        self._solve_last_layers(scaled, counts)

    def _learn(
        self, scaled: Tensor, rows: Tensor, held_out: Tensor, counts: Tensor, progress: bool | None
    ) -> History:
        """Fit the networks of all members, each as if alone.

        Args:
            scaled: Shape ``(n, d)``, single precision.
            rows: Positions of the training rows.
            held_out: Positions of the others.
            counts: Weights of all rows in each member, shape ``(1 + alternatives, n)``.
            progress: See ``fit``.
        """
        conditioner = self._conditioner
        nodes = range(len(conditioner.nodes))
        # Rows last: that is how what the networks say lies in memory.
        targets = scaled.T[list(conditioner.nodes)]

        def errors(chosen: Tensor, members: slice) -> Tensor:
            found: Tensor = conditioner(scaled[chosen], nodes, members)[..., 0]
            return (found - targets[:, chosen].T).square().sum(dim=2)

        def loss(batch: Tensor) -> Tensor:
            chosen = rows[batch]
            return (errors(chosen, EVERY) * counts[:, chosen]).mean(dim=1).sum()

        def score() -> float:
            return float(errors(held_out, OWN).mean())

        return train(
            conditioner,
            len(rows),
            loss,
            score,
            self.settings.training,
            clip=None,  # The norm of all members would couple them to each other.
            description="additive-noise model",
            progress=progress,
        )

    def _solve_last_layers(self, scaled: Tensor, counts: Tensor) -> None:
        """Given the hidden layers, find the least squares exactly.

        Args:
            scaled: Shape ``(n, d)``, double precision.
            counts: See ``_learn``.
        """
        conditioner = self._conditioner
        replace = conditioner.make_additive if self.settings.hidden else conditioner.simplify
        for member, weights in enumerate(counts.double()):
            share = weights / weights.sum()
            for node, layer in enumerate(conditioner.hidden(scaled, member)):
                features = torch.cat([scaled[:, conditioner.causes[node]], layer], dim=1)
                target = scaled[:, conditioner.nodes[node]]
                constant, slopes = ridge(features, target, share)
                replace(member, node, constant[None], slopes)

    def _abduct(self, x: Tensor) -> Tensor:
        return self._residuals(x, OWN)[0]

    def _predict(
        self, u: Tensor, intervention: Intervention | None, start: Tensor | None
    ) -> Tensor:
        if start is None or intervention is None:
            # Roots are their own noise; columns with causes are replaced in their turn.
            now, moves = self.encoding.snap(u), torch.ones_like(u, dtype=torch.bool)
        else:
            now, moves = start, self._effects(intervention)
        if intervention is not None:
            now = torch.where(intervention.mask, intervention.values, now)
            moves = moves & ~intervention.mask
        return self._follow(u[None], now, moves, OWN)[0]

    def _alternatives(self, x: Tensor, intervention: Intervention) -> Tensor:
        now = torch.where(intervention.mask, intervention.values, x)
        moves = self._effects(intervention) & ~intervention.mask
        return self._follow(self._residuals(x, OTHERS), now, moves, OTHERS)

    def _residuals(self, x: Tensor, members: slice) -> Tensor:
        """Noise under the mechanisms of ``a`` members, shape ``(a, n, d)``, for rows ``(n, d)``."""
        a = len(range(1 + self.n_alternatives)[members])
        own, nodes = x.expand(a, *x.shape), self._conditioner.nodes
        if not nodes:
            return own
        columns = torch.tensor(nodes)
        found = x[:, columns] - self._means(x, range(len(nodes)), columns, members)
        return own.index_copy(2, columns, found)

    def _follow(self, u: Tensor, now: Tensor, moves: Tensor, members: slice) -> Tensor:
        """Run the mechanisms of ``a`` members in causal order.

        Args:
            u: Noise, shape ``(a, n, d)``.
            now: What does not move, shape ``(n, d)``.
            moves: Columns to predict in each row, shape ``(n, d)``, bool.
            members: Whose mechanisms.

        Returns:
            Shape ``(a, n, d)``.
        """
        now = self._snap(now.expand(u.shape))
        for chosen, columns in self._conditioner.moving(moves):
            found = self._means(now, chosen, columns, members) + u[..., columns]
            found = torch.where(moves[:, columns], found, now[..., columns])
            now = self._snap(now.index_copy(2, columns, found))
        return now

    def _means(self, x: Tensor, chosen: Sequence[int], columns: Tensor, members: slice) -> Tensor:
        """What the causes say about some nodes, model space, shape ``(a, n, k)``.

        Args:
            x: Shape ``(n, d)``, or ``(a, n, d)`` with other rows for each member.
            chosen: Numbers of the ``k`` nodes, ascending.
            columns: Their columns.
            members: Whose mechanisms.
        """
        found: Tensor = self._conditioner((x - self._mean) / self._std, chosen, members)[..., 0]
        return found * self._std[columns] + self._mean[columns]

    def _snap(self, x: Tensor) -> Tensor:
        """Move discrete columns of rows ``(a, n, d)`` to what exists, if any is an effect."""
        return self.encoding.snap(x.flatten(0, 1)).view(x.shape) if self._snaps else x

    def _sample_latent(self, n: int) -> Tensor:
        u = torch.zeros(n, self.encoding.n_columns, dtype=torch.float64)
        u[:, self._has_density] = self._noise.sample(n)
        for name, frequency in self._frequencies.items():
            u[:, self.encoding.block(name)] = draw_levels(frequency, n, self.schema[name])
        return u

    def _log_prob(self, x: Tensor) -> Tensor:
        density = self._noise.log_prob(self._abduct(x)[:, self._has_density])
        return density + log_frequencies(x, self.encoding, self._frequencies)

    def state(self) -> State:
        """See ``CausalModel.state``."""
        if not self.is_fitted:
            raise NotFittedError.of("AdditiveNoiseModel", "state")
        config = {"settings": asdict(self.settings), "best_epoch": self.history_.best_epoch}
        tensors = {
            **prefixed("statistics", self.statistics_.as_tensors()),
            **prefixed("conditioner", self._conditioner.state_dict()),
            **prefixed("frequency", self._frequencies),
            **prefixed("noise", self._noise.as_tensors()),
        }
        return State(config, tensors)

    @classmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """See ``CausalModel.from_state``."""
        model = cls(schema, AdditiveNoiseSettings.from_dict(state.config["settings"]))
        statistics = Statistics(**unprefixed("statistics", state.tensors))
        model._build(statistics)
        model._conditioner.load_state_dict(unprefixed("conditioner", state.tensors))
        model._conditioner.freeze()
        model._frequencies = unprefixed("frequency", state.tensors)
        model._noise = SmoothedNoise(**unprefixed("noise", state.tensors))
        model.history_ = History(best_epoch=state.config["best_epoch"])
        model.statistics_ = statistics
        return model

    def _build(self, statistics: Statistics) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.training.seed)
            self._conditioner = Conditioner(
                self.encoding.adjacency,
                1,
                self.settings.hidden,
                has_skip=True,
                n_members=1 + self.settings.alternatives,
                owners=self.encoding.owners,
            ).double()
        self._mean, self._std = statistics.mean, statistics.std
