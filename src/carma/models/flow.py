"""Causal normalizing flow: a monotone transform for each column, given its causes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from zuko.transforms import MonotonicRQSTransform

from carma.errors import NotFittedError, SettingsError
from carma.interventions import Intervention
from carma.models.affine import Affine
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
from carma.models.linear import LinearMechanism
from carma.models.selection import MECHANISMS, Mechanism, select_simplest
from carma.schema import Schema
from carma.state import State, prefixed, seeded, unprefixed
from carma.table import Statistics
from carma.training import (
    History,
    TrainingSettings,
    check_widths,
    split_rows,
    train,
)

__all__ = ["CausalFlow", "FlowSettings"]

SPLINE_BINS = 8
# Place of the network behind its two simpler rivals.
NETWORK = 2


@dataclass(frozen=True)
class FlowSettings:
    """Settings of a causal flow.

    Args:
        transform: ``affine`` (as in the paper: each mechanism is location and scale) or
            ``spline`` (monotone rational-quadratic, Durkan et al. 2019).
        hidden: Widths of the hidden layers of each column's network.
        training: How it is fitted.
        select_simple: Whether an ``affine`` mechanism becomes linear, quadratic or additive,
            with noise of one width, where its network is not clearly better on rows that were
            not seen.
        alternatives: Number of models fitted to bootstrap samples besides the model; 0 or at
            least 2.

    Raises:
        SettingsError: A value is unknown or out of range.
    """

    transform: Literal["affine", "spline"] = "affine"
    hidden: tuple[int, ...] = (16, 16)
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            epochs=60, batch_size=500, learning_rate=1e-2, patience=60
        )
    )
    select_simple: bool = True
    alternatives: int = 12

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.transform not in ("affine", "spline"):
            raise SettingsError.of(
                "FlowSettings", "transform", "be affine or spline", self.transform
            )
        check_widths("FlowSettings", "hidden", self.hidden)
        if not isinstance(self.select_simple, bool):
            raise SettingsError.of(
                "FlowSettings", "select_simple", "be true or false", self.select_simple
            )
        check_alternatives("FlowSettings", self.alternatives)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FlowSettings:
        """Undo ``dataclasses.asdict``."""
        content = dict(content)
        training = TrainingSettings(**content.pop("training"))
        return cls(**content, training=training)


class CausalFlow(CausalModel):
    r"""Causal normalizing flow fitted by maximum likelihood.

    One transform :math:`z_i = t(x_i; \theta_i(x_{pa(i)}))` in the abductive direction, whose
    Jacobian has the graph's zeros, with a standard normal base. A small network for each
    column with causes gives :math:`\theta_i`. Values are set in feature space: prediction goes
    through the generations once, ``x_i <- where(mask, value, t^-1(z_i; theta_i(x)))``, so
    ``z`` is never touched and every row may have another mask.

    Each network has two simpler rivals with noise of one width, fitted by least squares. The
    first is linear in the causes or, where products of two of them are significant, quadratic
    (for at most eight columns of causes). The second is additive: linear in the causes and in
    the network's last hidden layer. The simplest of the three that none of the others outdoes
    on rows that were not seen, by more than two standard errors, is used (``select_simplest``).

    The alternatives are an ensemble in which each member repeats the whole procedure, first
    weights, fit and choice of mechanisms, on its own bootstrap sample of the training
    rows (Efron & Tibshirani 1993; Lakshminarayanan et al. 2017 for the random first weights).
    All are fitted at once, each as if alone.

    Discrete columns: a binary, ordinal or nominal root keeps its observed frequencies exactly
    and is its own latent. Integers, and binary or ordinal features with causes, are spread
    uniformly over their cell while fitting (seeded dequantisation), seen clean by their
    effects, abducted at the cell's centre and snapped after prediction. ``log_prob`` is taken
    at the cell's centre, and counts the probability of a root with levels.

    Args:
        schema: The problem. Nominal features must be roots.
        settings: See ``FlowSettings``.

    Attributes:
        history_: Losses of the fit.
        mechanisms_: What was chosen for each feature with causes.

    Raises:
        SchemaError: A nominal feature has a cause.

    References:
        Javaloy, Sanchez-Martin & Valera 2023, Causal normalizing flows, arXiv 2306.05415.
        Efron & Tibshirani 1993, An introduction to the bootstrap.
        Lakshminarayanan, Pritzel & Blundell 2017, Simple and scalable predictive uncertainty
        estimation using deep ensembles, arXiv 1612.01474.

    Example:
        >>> from carma.benchmarks import load
        >>> data = load("chain-lin", rows=400)
        >>> settings = FlowSettings(training=TrainingSettings(epochs=3))
        >>> flow = CausalFlow(data.schema, settings).fit(data.frame("causal"))
        >>> x = data.encoded("recourse")[:2]
        >>> do = Intervention.of(flow.encoding, 2, x2=1.5)
        >>> flow.counterfactual(x, do)[:, 2].tolist()
        [1.5, 1.5]
    """

    kind: ClassVar[str] = "causal_flow"
    history_: History
    _frequencies: dict[str, Tensor]

    def __init__(self, schema: Schema, settings: FlowSettings | None = None) -> None:
        super().__init__(schema)
        self.settings = settings or FlowSettings()
        check_nominal_roots("CausalFlow", schema)
        self._is_level_root = level_roots(self.encoding)

    @property
    def mechanisms_(self) -> dict[str, Mechanism]:
        """What was chosen for each feature with causes, in the table's order.

        ``linear``, ``quadratic``, ``additive`` or ``network``; always ``network`` without
        ``select_simple`` and for the ``spline`` transform. An alternative may have chosen
        otherwise.
        """
        if not self.is_fitted:
            raise NotFittedError.of("CausalFlow", "mechanisms_")
        conditioner = self._conditioner
        chosen = dict(zip(conditioner.nodes, conditioner.choices[0].tolist(), strict=True))
        return {self.encoding.columns[i]: MECHANISMS[chosen[i]] for i in sorted(chosen)}

    @property
    def n_alternatives(self) -> int:
        """See ``CausalModel.n_alternatives``."""
        return self.settings.alternatives

    def _fit(self, x: Tensor, statistics: Statistics, progress: bool | None) -> None:
        settings = self.settings.training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._build(statistics)
            self._frequencies = root_frequencies(x, self.encoding)
            rows, held_out = split_rows(len(x), settings.validation_fraction, settings.seed)
            n_members = 1 + self.settings.alternatives
            counts = bootstrap_counts(rows, len(x), n_members, seeded(settings.seed + 2))
            low, high = cells(x, self.encoding)
            noise = seeded(settings.seed)

            def spread(chosen: Tensor, generator: torch.Generator) -> Tensor:
                share = torch.rand(len(chosen), x.shape[1], generator=generator)
                return low[chosen] + share * (high[chosen] - low[chosen])

            def loss(batch: Tensor) -> Tensor:
                chosen = rows[batch]
                return self._loss(x[chosen], spread(chosen, noise), counts[:, chosen])

            fixed = spread(torch.arange(len(x)), seeded(settings.seed + 1))

            def score() -> float:
                return float(-self._density(x[held_out], fixed[held_out]).mean())

            self.history_ = train(
                self._conditioner,
                len(rows),
                loss,
                score,
                settings,
                clip=None,  # The norm of all members would couple them to each other.
                description="causal flow",
                progress=progress,
            )
            self._conditioner.freeze()
            is_affine = self.settings.transform == "affine"
            if is_affine and self.settings.select_simple and self._conditioner.nodes:
                self._select_simple(self._scale(x), self._scale(fixed), counts)

    def _loss(self, clean: Tensor, spread: Tensor, counts: Tensor) -> Tensor:
        """The model's negative log-likelihood; its slopes are those of all members.

        Args:
            clean: Shape ``(b, d)``, model space.
            spread: The same rows, spread over their cells.
            counts: Weights of the rows in each member, shape ``(1 + alternatives, b)``.
        """
        conditioner, value = self._conditioner, self._scale(spread)
        root = -self._root_density(value).mean()
        losses = torch.zeros(len(counts), dtype=self._dtype)
        if conditioner.nodes:
            nodes = range(len(conditioner.nodes))
            parameters = conditioner(self._scale(clean), nodes, EVERY)
            # Rows last: that is how the parameters lie in memory.
            across = value.T[list(conditioner.nodes)].T.expand(parameters.shape[:-1])
            each = self._log_densities(parameters, across).sum(dim=-1)
            losses = -(each * counts).mean(dim=1)
        total = losses.sum() + root
        return (losses[0] + root).detach() + (total - total.detach())

    def _root_density(self, value: Tensor) -> Tensor:
        """Log-density of the roots without levels for scaled rows, shape ``(n,)``."""
        columns = [i for i in self._conditioner.roots if not self._is_level_root[i]]
        kept = [k for k, i in enumerate(self._conditioner.roots) if not self._is_level_root[i]]
        constant = self._conditioner.root_constant[kept]
        found = self._log_densities(constant.expand(len(value), -1, -1), value[:, columns])
        return found.sum(dim=1)

    def _select_simple(self, clean: Tensor, value: Tensor, counts: Tensor) -> None:
        """Replace each network that does not clearly outdo a simpler mechanism.

        Args:
            clean: Scaled rows, shape ``(n, d)``.
            value: The same rows, spread over their cells.
            counts: See ``_loss``, for all rows.
        """
        conditioner = self._conditioner
        nodes = range(len(conditioner.nodes))
        targets = [value[:, column] for column in conditioner.nodes]
        features = [conditioner.features(clean, node) for node in nodes]

        def simple(node: int, weights: Tensor) -> LinearMechanism:
            n_causes = len(conditioner.causes[node])
            return LinearMechanism.fit(features[node], targets[node], weights, n_causes)

        def hidden(member: int, rows: Tensor) -> list[Tensor]:
            layers = conditioner.hidden(clean[rows], member).unbind()
            causes = [clean[rows][:, columns] for columns in conditioner.causes]
            return [torch.cat(pair, dim=1) for pair in zip(causes, layers, strict=True)]

        everybody = torch.arange(len(clean))

        def additive(member: int, weights: Tensor) -> list[LinearMechanism]:
            seen = zip(hidden(member, everybody), targets, strict=True)
            return [LinearMechanism.ridge(layer, target, weights) for layer, target in seen]

        fitted = [
            ([simple(k, weights) for k in nodes], additive(member, weights))
            for member, weights in enumerate(counts)
        ]

        def likelihood(member: int, rows: Tensor) -> Tensor:
            network = conditioner(clean[rows], nodes, slice(member, member + 1))[0]
            plain, layered = fitted[member]
            parameters = [
                torch.stack([m.parameters(features[k][rows]) for k, m in enumerate(plain)], dim=1),
                torch.stack(
                    [
                        mechanism.parameters(seen)
                        for mechanism, seen in zip(layered, hidden(member, rows), strict=True)
                    ],
                    dim=1,
                ),
                network.double(),
            ]
            across = value[rows][:, conditioner.nodes]
            return torch.stack([self._log_densities(p, across) for p in parameters], dim=2)

        chosen = select_simplest(counts, len(nodes), 3, likelihood)
        # The model's own have all rows, also those that were held out.
        ones = torch.ones(len(clean))
        fitted[0] = ([simple(k, ones) for k in nodes], additive(0, ones))
        for member, picks in enumerate(chosen.tolist()):
            for node, pick in enumerate(picks):
                if pick < NETWORK:
                    mechanism = fitted[member][pick][node]
                    replace = (conditioner.simplify, conditioner.make_additive)[pick]
                    replace(member, node, mechanism.constant, mechanism.slopes)

    def _abduct(self, x: Tensor) -> Tensor:
        scaled = self._scale(x)
        z = self._univariate(self._conditioner.everywhere(scaled))(scaled)
        return torch.where(self._is_level_root, scaled, z)

    def _predict(
        self, u: Tensor, intervention: Intervention | None, start: Tensor | None
    ) -> Tensor:
        u = u.to(self._dtype)
        if start is not None and intervention is not None:
            x, moves = self._scale(start), self._effects(intervention)
        else:
            x, moves = self._roots(u), torch.ones_like(u, dtype=torch.bool)
        if intervention is not None:
            x = torch.where(intervention.mask, self._scale(intervention.values), x)
            moves = moves & ~intervention.mask
        x = self._snap_scaled(x)
        conditioner = self._conditioner
        for chosen, columns in conditioner.moving(moves):
            transform = self._univariate(conditioner(x, chosen, OWN)[0])
            found = transform.inv(u[:, columns])
            found = torch.where(moves[:, columns], found, x[:, columns])
            x = self._snap_scaled(x.index_copy(1, columns, found))
        x = self._unscale(x)
        # Standardising and back in single precision misses the levels by a rounding error.
        return self.encoding.snap(x) if self._snaps else x

    def _alternatives(self, x: Tensor, intervention: Intervention) -> Tensor:
        a, (n, d) = self.n_alternatives, x.shape
        conditioner = self._conditioner
        factual = self._scale(x)
        moves = self._effects(intervention) & ~intervention.mask
        now = torch.where(intervention.mask, self._scale(intervention.values), factual)
        now = self._snap_scaled(now).expand(a, n, d)
        for chosen, columns in conditioner.moving(moves):
            value = factual[:, columns].expand(a, n, -1)
            u = self._univariate(conditioner(factual, chosen, OTHERS))(value)
            found = self._univariate(conditioner(now, chosen, OTHERS)).inv(u)
            found = torch.where(moves[:, columns], found, now[..., columns])
            now = now.index_copy(2, columns, found)
            now = self._snap_scaled(now.reshape(a * n, d)).view(a, n, d)
        now = self._unscale(now)
        return self.encoding.snap(now.reshape(a * n, d)).view(a, n, d) if self._snaps else now

    def _roots(self, u: Tensor) -> Tensor:
        """Scaled rows in which the columns without causes are right, and the others are zero."""
        conditioner = self._conditioner
        columns = torch.tensor(conditioner.roots)
        found = self._univariate(conditioner.root_constant).inv(u[:, columns])
        found = torch.where(self._is_level_root[columns], u[:, columns], found)
        return torch.zeros_like(u).index_copy(1, columns, found)

    def _sample_latent(self, n: int) -> Tensor:
        z = torch.randn(n, self.encoding.n_columns, dtype=self._dtype)
        for name, frequency in self._frequencies.items():
            where = self.encoding.block(name)
            codes = draw_levels(frequency, n, self.schema[name])
            z[:, where] = ((codes - self._mean[where]) / self._std[where]).to(z.dtype)
        return z

    def _log_prob(self, x: Tensor) -> Tensor:
        total = self._density(x, x).double() - self._std.log()[~self._is_level_root].sum()
        return total + log_frequencies(x, self.encoding, self._frequencies)

    def state(self) -> State:
        """See ``CausalModel.state``."""
        if not self.is_fitted:
            raise NotFittedError.of("CausalFlow", "state")
        config = {"settings": asdict(self.settings), "best_epoch": self.history_.best_epoch}
        tensors = {
            **prefixed("statistics", self.statistics_.as_tensors()),
            **prefixed("conditioner", self._conditioner.state_dict()),
            **prefixed("frequency", self._frequencies),
        }
        return State(config, tensors)

    @classmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """See ``CausalModel.from_state``."""
        model = cls(schema, FlowSettings.from_dict(state.config["settings"]))
        statistics = Statistics(**unprefixed("statistics", state.tensors))
        weights = unprefixed("conditioner", state.tensors)
        # New layers draw their weights before these are replaced.
        with torch.random.fork_rng(devices=[]):
            model._build(statistics)
            model._conditioner.freeze()
        if weights["constant"].dtype == torch.float64:
            model._to_double()
        model._conditioner.load_state_dict(weights)
        model._conditioner.forget()
        model._frequencies = unprefixed("frequency", state.tensors)
        model.history_ = History(best_epoch=state.config["best_epoch"])
        model.statistics_ = statistics
        return model

    def to_float64(self) -> Self:
        """Compute in double precision from now on (the default is single inside)."""
        if not self.is_fitted:
            raise NotFittedError.of("CausalFlow", "to_float64")
        self._to_double()
        return self

    def _to_double(self) -> None:
        self._conditioner.double()
        self._conditioner.forget()
        self._dtype = torch.float64

    def _build(self, statistics: Statistics) -> None:
        is_affine = self.settings.transform == "affine"
        self._conditioner = Conditioner(
            self.encoding.adjacency,
            2 if is_affine else 3 * SPLINE_BINS - 1,
            self.settings.hidden,
            has_skip=is_affine,
            n_members=1 + self.settings.alternatives,
            owners=self.encoding.owners,
        )
        self._mean, self._std = statistics.mean, statistics.std
        self._dtype = torch.float32

    def _univariate(self, parameters: Tensor) -> Any:
        """The elementwise transform with parameters in the last dimension."""
        if self.settings.transform == "affine":
            return Affine(*parameters.unbind(-1))
        shapes = [SPLINE_BINS, SPLINE_BINS, SPLINE_BINS - 1]
        return MonotonicRQSTransform(*torch.split(parameters, shapes, dim=-1))

    def _log_densities(self, parameters: Tensor, value: Tensor) -> Tensor:
        """Log-density of scaled values, the shape of ``value``."""
        transform = self._univariate(parameters)
        z = transform(value)
        ladj = transform.log_abs_det_jacobian(value, z)
        density: Tensor = ladj - 0.5 * (z.square() + math.log(2 * math.pi))
        return density

    def _density(self, clean: Tensor, spread: Tensor) -> Tensor:
        """Log-density in standardised space without the roots that have levels, ``(n,)``."""
        parameters = self._conditioner.everywhere(self._scale(clean))
        each = self._log_densities(parameters, self._scale(spread))
        return torch.where(self._is_level_root, torch.zeros_like(each), each).sum(dim=1)

    def _snap_scaled(self, x: Tensor) -> Tensor:
        if not self._snaps:
            return x
        return self._scale(self.encoding.snap(self._unscale(x)))

    @cached_property
    def _snaps(self) -> bool:
        return has_discrete_effects(self.schema)

    def _scale(self, x: Tensor) -> Tensor:
        return ((x - self._mean) / self._std).to(self._dtype)

    def _unscale(self, x: Tensor) -> Tensor:
        return x.double() * self._std + self._mean
