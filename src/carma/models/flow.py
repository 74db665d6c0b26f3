"""Causal normalizing flow: one masked autoregressive layer that follows the graph."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.flows.gaussianization import ElementWiseTransform
from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

from carma.errors import NotFittedError, SchemaError, SettingsError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.schema import Feature, Schema
from carma.state import State, prefixed, seeded, unprefixed
from carma.table import Statistics
from carma.training import History, TrainingSettings, check_widths, split_rows, train

__all__ = ["CausalFlow", "FlowSettings"]

SPLINE_BINS = 8


@dataclass(frozen=True)
class FlowSettings:
    """Settings of a causal flow.

    Args:
        transform: ``affine`` (as in the paper: each mechanism is location and scale) or
            ``spline`` (monotone rational-quadratic, Durkan et al. 2019).
        hidden: Widths of the conditioner's hidden layers.
        training: How it is fitted.

    Raises:
        SettingsError: A value is unknown or out of range.
    """

    transform: Literal["affine", "spline"] = "affine"
    hidden: tuple[int, ...] = (64, 64)
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=200, batch_size=1000, patience=200)
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.transform not in ("affine", "spline"):
            raise SettingsError.of(
                "FlowSettings", "transform", "be affine or spline", self.transform
            )
        check_widths("FlowSettings", "hidden", self.hidden)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FlowSettings:
        """Undo ``dataclasses.asdict``."""
        content = dict(content)
        training = TrainingSettings(**content.pop("training"))
        return cls(**content, training=training)


class CausalFlow(CausalModel):
    r"""Causal normalizing flow fitted by maximum likelihood.

    One transform :math:`z_i = t(x_i; \theta_i(x_{pa(i)}))` in the abductive direction, whose
    Jacobian has the graph's zeros, with a standard normal base. Values are set in feature
    space: prediction repeats ``x <- where(mask, value, t^-1(z; theta(x)))`` once a generation,
    so ``z`` is never touched and every row may have another mask.

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

    Raises:
        SchemaError: A nominal feature has a cause.

    References:
        Javaloy, Sanchez-Martin & Valera 2023, Causal normalizing flows, arXiv 2306.05415.

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

    def __init__(self, schema: Schema, settings: FlowSettings | None = None) -> None:
        super().__init__(schema)
        self.settings = settings or FlowSettings()
        for feature in schema.features:
            causes = schema.graph.parents(feature.name)
            if feature.kind == "nominal" and causes:
                rule = f"have no cause when its kind is nominal (causes: {', '.join(causes)})"
                raise SchemaError.of("CausalFlow", f"feature {feature.name}", rule, feature.kind)
        self._is_level_root = torch.tensor(
            [
                schema.features[owner].has_levels
                and not schema.graph.parents(schema.features[owner].name)
                for owner in self.encoding.owners
            ]
        )
        self._passes = schema.graph.longest_path

    def _fit(self, x: Tensor, statistics: Statistics, progress: bool | None) -> None:
        settings = self.settings.training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._build(statistics)
            self._learn_frequencies(x)
            rows, held_out = split_rows(len(x), settings.validation_fraction, settings.seed)
            low, high = self._cells(x)
            noise = seeded(settings.seed)

            def spread(chosen: Tensor, generator: torch.Generator) -> Tensor:
                share = torch.rand(len(chosen), x.shape[1], generator=generator)
                return low[chosen] + share * (high[chosen] - low[chosen])

            def loss(batch: Tensor) -> Tensor:
                chosen = rows[batch]
                return -self._density(x[chosen], spread(chosen, noise)).mean()

            fixed = spread(held_out, seeded(settings.seed + 1))

            def score() -> float:
                return float(-self._density(x[held_out], fixed).mean())

            self.history_ = train(
                self._transform,
                len(rows),
                loss,
                score,
                settings,
                description="causal flow",
                progress=progress,
            )
            self._freeze()

    def _abduct(self, x: Tensor) -> Tensor:
        scaled = self._scale(x)
        z = self._univariate(scaled)(scaled)
        return torch.where(self._is_level_root, scaled, z)

    def _predict(
        self, u: Tensor, intervention: Intervention | None, start: Tensor | None
    ) -> Tensor:
        u = u.to(self._dtype)
        if intervention is None:
            held = self._is_level_root
            fixed = u
        else:
            held = intervention.mask | self._is_level_root
            fixed = torch.where(intervention.mask, self._scale(intervention.values), u)
        if start is None:
            x = torch.where(held, fixed, torch.zeros_like(u))
            passes = self._passes + 1
        else:
            x = torch.where(held, fixed, self._scale(start))
            passes = self._passes
        for _ in range(passes):
            x = torch.where(held, fixed, self._univariate(x).inv(u))
            x = self._snap_scaled(x)
        x = self._unscale(x)
        # Standardising and back in single precision misses the levels by a rounding error.
        return self.encoding.snap(x) if self._snaps else x

    def _sample_latent(self, n: int) -> Tensor:
        z = torch.randn(n, self.encoding.n_columns, dtype=self._dtype)
        for name, frequency in self._frequencies.items():
            feature, where = self.schema[name], self.encoding.block(name)
            drawn = torch.multinomial(frequency, n, replacement=True)
            if feature.kind == "nominal":
                codes = nn.functional.one_hot(drawn, len(feature.levels)).double()
            else:
                codes = torch.tensor(feature.codes, dtype=torch.float64)[drawn, None]
            z[:, where] = ((codes - self._mean[where]) / self._std[where]).to(z.dtype)
        return z

    def _log_prob(self, x: Tensor) -> Tensor:
        total = self._density(x, x).double() - self._std.log()[~self._is_level_root].sum()
        for name, frequency in self._frequencies.items():
            total = total + frequency.log()[self._positions(self.schema[name], x)]
        return total

    def state(self) -> State:
        """See ``CausalModel.state``."""
        if not self.is_fitted:
            raise NotFittedError.of("CausalFlow", "state")
        config = {"settings": asdict(self.settings), "best_epoch": self.history_.best_epoch}
        tensors = {
            **prefixed("statistics", self.statistics_.as_tensors()),
            **prefixed("transform", self._transform.state_dict()),
            **prefixed("frequency", self._frequencies),
        }
        return State(config, tensors)

    @classmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """See ``CausalModel.from_state``."""
        model = cls(schema, FlowSettings.from_dict(state.config["settings"]))
        statistics = Statistics(**unprefixed("statistics", state.tensors))
        # New layers draw their weights before these are replaced.
        with torch.random.fork_rng(devices=[]):
            model._build(statistics)
            model._freeze()
        if any(t.dtype == torch.float64 for t in unprefixed("transform", state.tensors).values()):
            model._to_double()
        model._transform.load_state_dict(unprefixed("transform", state.tensors))
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
        self._transform.double()
        self._dtype = torch.float64

    def _build(self, statistics: Statistics) -> None:
        d = self.encoding.n_columns
        options: dict[str, Any] = {}
        if self.settings.transform == "spline":
            options["univariate"] = MonotonicRQSTransform
            options["shapes"] = [(SPLINE_BINS,), (SPLINE_BINS,), (SPLINE_BINS - 1,)]
        adjacency = self.encoding.adjacency
        if int(adjacency.sum()) == d:
            self._transform: nn.Module = ElementWiseTransform(d, **options)
        else:
            self._transform = MaskedAutoregressiveTransform(
                d,
                adjacency=adjacency,
                hidden_features=self.settings.hidden,
                activation=nn.ELU,
                **options,
            )
        self._mean, self._std = statistics.mean, statistics.std
        self._dtype = torch.float32

    def _freeze(self) -> None:
        """Multiply the graph's zeros into the weights once, for speed and for good."""
        hyper = getattr(self._transform, "hyper", None)
        if hyper is not None:
            layers: list[nn.Module] = []
            for layer in hyper:
                if isinstance(layer, nn.Linear):
                    plain = nn.Linear(layer.in_features, layer.out_features)
                    zeros = layer.get_buffer("mask")
                    with torch.no_grad():
                        plain.weight.copy_(layer.weight * zeros)
                        plain.bias.copy_(layer.bias)
                    layers.append(plain)
                else:
                    layers.append(layer)
            self._transform.hyper = nn.Sequential(*layers)
        self._transform.requires_grad_(False)

    def _univariate(self, scaled: Tensor) -> Any:
        """The elementwise transform whose parameters the causes in ``scaled`` choose."""
        if not isinstance(self._transform, MaskedAutoregressiveTransform):
            return self._transform(None).base
        if self.settings.transform == "affine":
            # What ``meta`` does for two scalars, without its cost on a single row.
            shift, scale = self._transform.hyper(scaled).view(*scaled.shape, 2).unbind(-1)
            return MonotonicAffineTransform(shift, scale)
        return self._transform.meta(None, scaled).base

    def _density(self, clean: Tensor, spread: Tensor) -> Tensor:
        """Log-density in standardised space without the roots that have levels, ``(n,)``."""
        transform = self._univariate(self._scale(clean))
        value = self._scale(spread)
        z = transform(value)
        ladj = transform.log_abs_det_jacobian(value, z)
        each = ladj - 0.5 * (z.square() + math.log(2 * math.pi))
        return torch.where(self._is_level_root, torch.zeros_like(each), each).sum(dim=1)

    def _learn_frequencies(self, x: Tensor) -> None:
        self._frequencies: dict[str, Tensor] = {}
        for name in self.schema.graph.roots:
            feature = self.schema[name]
            if feature.has_levels:
                counts = torch.bincount(
                    self._positions(feature, x), minlength=len(feature.levels)
                ).double()
                self._frequencies[name] = counts / counts.sum()

    def _positions(self, feature: Feature, x: Tensor) -> Tensor:
        where = self.encoding.block(feature.name)
        if feature.kind == "nominal":
            return x[:, where].argmax(dim=1)
        codes = torch.tensor(feature.codes, dtype=x.dtype)
        return (x[:, where] - codes).abs().argmin(dim=1)

    def _cells(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the cell that each value stands for; equal if continuous."""
        low, high = x.clone(), x.clone()
        for feature in self.schema.features:
            if feature.kind not in ("integer", "binary", "ordinal"):
                continue
            i = self.encoding.column(feature.name)
            if feature.kind == "integer":
                low[:, i] -= 0.5
                high[:, i] += 0.5
            else:
                codes = torch.tensor(sorted(feature.codes), dtype=x.dtype)
                middle = (codes[1:] + codes[:-1]) / 2
                first, last = 2 * codes[:1] - middle[:1], 2 * codes[-1:] - middle[-1:]
                edges = torch.cat([first, middle, last])
                position = (x[:, i, None] - codes).abs().argmin(dim=1)
                low[:, i], high[:, i] = edges[position], edges[position + 1]
        return low, high

    def _snap_scaled(self, x: Tensor) -> Tensor:
        if not self._snaps:
            return x
        return self._scale(self.encoding.snap(self._unscale(x)))

    @cached_property
    def _snaps(self) -> bool:
        return any(
            f.is_discrete and self.schema.graph.parents(f.name) for f in self.schema.features
        )

    def _scale(self, x: Tensor) -> Tensor:
        return ((x - self._mean) / self._std).to(self._dtype)

    def _unscale(self, x: Tensor) -> Tensor:
        return x.double() * self._std + self._mean
