"""VACA: a variational graph autoencoder over the causal graph."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from carma.errors import NotFittedError, SchemaError, SettingsError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.models.bootstrap import bootstrap_counts, check_alternatives
from carma.models.graph_networks import GraphNetworks
from carma.models.likelihood import Likelihood
from carma.schema import Schema
from carma.state import State, prefixed, seeded, unprefixed
from carma.table import Statistics
from carma.training import History, TrainingSettings, check_at_least, split_rows, train

__all__ = ["Vaca", "VacaSettings"]


@dataclass(frozen=True)
class VacaSettings:
    """Settings of VACA; the defaults of ``n_each``, ``width`` and learning rate are the paper's.

    Args:
        n_each: Latents of each feature.
        width: Of all hidden layers.
        spread: Of the rows around the decoder's centres, in standard deviations of each column.
            It is not learned, and small: a spread that is learned takes over what the latents
            should hold, and then a person's own part of an effect is not found. While fitting
            it falls to this value from 1, so that effects are explained by their causes first,
            and by a person's own latents only as far as these do not.
        independence: Weight of the covariance between latents and ancestors of their column,
            in the loss; 0 as published.
        cuts: Probability with which the arrows into a node are cut in a row while fitting, so
            that decoding under an intervention is learned too; 0 as published.
        draws: Latents drawn for each row by ``log_prob``.
        members: Models besides the model, each fitted to its own bootstrap sample of the rows,
            from which ``alternatives`` come; 0 takes them from the model itself.
        alternatives: Latents drawn for each person by ``alternatives``, dealt out over the
            members; 0 or at least 2, and at least as many as members.
        training: How it is fitted.

    Raises:
        SettingsError: A value is out of range.

    Example:
        >>> VacaSettings(cuts=1.0)
        Traceback (most recent call last):
        carma.errors.SettingsError: VacaSettings: 'cuts' must be at least 0 and below 1; got 1.0
    """

    n_each: int = 4
    width: int = 16
    spread: float = 0.1
    independence: float = 4.0
    cuts: float = 0.2
    draws: int = 100
    members: int = 3
    alternatives: int = 12
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            epochs=50, batch_size=500, learning_rate=5e-3, patience=50
        )
    )

    def __post_init__(self) -> None:
        for name, least in (
            ("n_each", 1),
            ("width", 1),
            ("draws", 1),
            ("members", 0),
        ):
            check_at_least("VacaSettings", name, getattr(self, name), least)
        check_alternatives("VacaSettings", self.alternatives)
        rules = {
            "independence": (0 <= self.independence < math.inf, "be at least 0"),
            "spread": (0 < self.spread <= 1, "be above 0 and at most 1"),
            "cuts": (0 <= self.cuts < 1, "be at least 0 and below 1"),
            "members": (self.members <= self.alternatives, "be at most 'alternatives'"),
        }
        SettingsError.require(self, rules)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> VacaSettings:
        """Undo ``dataclasses.asdict``."""
        content = dict(content)
        training = TrainingSettings(**content.pop("training"))
        return cls(**content, training=training)


class Vaca(CausalModel):
    r"""Variational graph autoencoder fitted by the evidence lower bound; needs the extra ``vaca``.

    Each column has a few normal latents. The encoder sees the column and its causes, the decoder
    the latents of the column and of all its ancestors (``GraphNetworks``). ``abduct`` gives the
    centres of the encoder. An intervention cuts the arrows into the set columns, another cut for
    each row, in every layer; the latents of a set column are those of its new value under that
    cut, all other latents stay, and the decoder runs on the cut graph.

    What differs from a flow: the way back is not exact, so ``predict(abduct(x))`` is near ``x``
    and not equal to it, and so are counterfactuals of one's own values. ``docs/causal-models.md``
    names the laws that do not hold, and by how much. Those that the base class keeps, hold.

    While fitting, arrows are cut at random, another cut in each row, at the values that the rows
    have. A cut row says how its set columns reconstruct themselves, and how their effects follow
    from them; without it the decoder would be used on graphs that it has never seen. The loss also
    counts how far the latents of a column vary with the values of its ancestors: a latent that
    does holds what they cause, and then too little follows when they change, although rows are
    rebuilt as well as ever. The bound itself hardly sees it. Both are not in the paper;
    ``cuts = 0`` and ``independence = 0`` leave them out.

    The alternatives are counterfactuals of a few other members, each fitted from other first
    weights to its own bootstrap sample, and under each from a few latents that its encoder finds
    plausible for the person: draws around its centres, the same for everybody. So they tell what
    the data leave open, and what abduction does. What all members get wrong alike, they do not
    tell.

    Binary and ordinal features and integers are numbers to the networks, have the probability of
    their cell in the likelihood, and are snapped after prediction. ``sample`` gives the decoder's
    centres, without the spread around them. ``log_prob`` is a lower bound of the log-density in
    expectation: the logarithm of a mean of ``draws`` importance weights, with the same draws for
    every row.

    Args:
        schema: The problem; no nominal features.
        settings: See ``VacaSettings``.

    Attributes:
        history_: Losses of the fit.

    Raises:
        SchemaError: A feature is nominal.
        SettingsError: ``fit`` finds that torch_geometric is not installed.

    References:
        Sanchez-Martin, Rateike & Valera 2022, VACA: designing variational graph autoencoders for
        causal queries, AAAI, arXiv 2110.14690.
        Kingma & Welling 2014, Auto-encoding variational Bayes, arXiv 1312.6114.
        Efron & Tibshirani 1993, An introduction to the bootstrap.
        Burda, Grosse & Salakhutdinov 2016, Importance weighted autoencoders, arXiv 1509.00519.

    Example:
        >>> from carma.benchmarks import load
        >>> data = load("chain-lin", rows=400)
        >>> settings = VacaSettings(members=2, training=TrainingSettings(epochs=3))
        >>> model = Vaca(data.schema, settings).fit(data.frame("causal"))
        >>> x = data.encoded("recourse")[:2]
        >>> model.abduct(x).shape
        torch.Size([2, 16])
        >>> do = Intervention.of(model.encoding, 2, x2=1.5)
        >>> model.counterfactual(x, do)[:, 2].tolist()
        [1.5, 1.5]
    """

    kind: ClassVar[str] = "vaca"
    history_: History

    def __init__(self, schema: Schema, settings: VacaSettings | None = None) -> None:
        super().__init__(schema)
        self.settings = settings or VacaSettings()
        for feature in schema.features:
            if feature.kind == "nominal":
                rule = "not be nominal: a node of the graph is one number"
                raise SchemaError.of("Vaca", f"feature {feature.name}", rule, feature.kind)

    @property
    def n_latents(self) -> int:
        """See ``CausalModel.n_latents``; ``n_each`` for each column."""
        return self.settings.n_each * self.encoding.n_columns

    @property
    def n_alternatives(self) -> int:
        """See ``CausalModel.n_alternatives``."""
        return self.settings.alternatives

    def _fit(self, x: Tensor, statistics: Statistics, progress: bool | None) -> None:
        settings = self.settings.training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._build(statistics)
        rows, held_out = split_rows(len(x), settings.validation_fraction, settings.seed)
        counts = bootstrap_counts(rows, len(x), len(self._members), seeded(settings.seed + 2))
        histories = []
        members = [self._networks, *self._others]
        for networks, count in zip(members, counts.long(), strict=True):
            own = x[torch.arange(len(x)).repeat_interleave(count)]
            histories.append(self._train(networks, own, x[held_out], progress))
        self.history_ = histories[0]
        self._members.requires_grad_(False)

    def _train(
        self, networks: GraphNetworks, x: Tensor, held_out: Tensor, progress: bool | None
    ) -> History:
        settings = self.settings.training
        noise, falling = seeded(settings.seed), self._falling(settings.epochs)
        spread = 1.0

        def loss(batch: Tensor) -> Tensor:
            return self._loss(networks, x[batch], spread, noise)

        def score() -> float:
            nonlocal spread
            spread = next(falling)
            same = seeded(settings.seed + 1)
            return float(self._loss(networks, held_out, self.settings.spread, same))

        return train(networks, len(x), loss, score, settings, description="vaca", progress=progress)

    def _falling(self, epochs: int) -> Iterator[float]:
        """Spread of each epoch after the first."""
        last = max(1, round(FALLING * epochs))
        return (self.settings.spread ** min(1.0, epoch / last) for epoch in range(1, epochs + 1))

    def _loss(
        self, networks: GraphNetworks, x: Tensor, spread: float, noise: torch.Generator
    ) -> Tensor:
        """Negative evidence lower bound under cuts at random, and dependence, a scalar."""
        mask = torch.rand(x.shape, generator=noise) < self.settings.cuts
        edges = networks.cut(mask)
        centre, log_spread = networks.encode(self._scale(x), edges)
        z = centre + log_spread.exp() * torch.randn(centre.shape, generator=noise)
        apart = centre.square() + (2 * log_spread).exp() - 1 - 2 * log_spread
        likely = self._likelihood(networks.decode(z, edges), x, spread)
        bound = likely - 0.5 * apart.sum(dim=(1, 2))
        return self.settings.independence * self._dependence(x, centre, mask) - bound.mean()

    def _dependence(self, x: Tensor, centre: Tensor, mask: Tensor) -> Tensor:
        """Sum of the squared covariances of latents with what the ancestors are, a scalar.

        Each square is the product of what two halves of the rows say, so that chance adds
        nothing on average. Nodes that are cut do not count: their latents hold all of them.
        """
        seen = self._scale(x)
        seen = torch.stack([seen, seen.square(), seen.relu()], dim=2)
        seen = (seen - seen.mean(dim=0)) / (seen.std(dim=0, correction=0) + TINY)
        halves = []
        for half in (slice(None, None, 2), slice(1, None, 2)):
            weight = (~mask[half]).to(seen.dtype)
            weight = (weight / weight.sum(dim=0).clamp(min=1))[..., None]
            apart = centre[half] - (weight * centre[half]).sum(dim=0)
            halves.append(torch.einsum("nik,njf->ijkf", weight * apart, seen[half]))
        product: Tensor = (halves[0] * halves[1]).sum(dim=(2, 3))
        return product[self.encoding.reachability].sum()

    def _abduct(self, x: Tensor) -> Tensor:
        return self._networks.encode(self._scale(x), self._networks.edges)[0].flatten(1)

    def _predict(
        self,
        u: Tensor,
        intervention: Intervention | None,
        start: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        z, edges = self._by_node(u.to(self._dtype)), self._networks.edges
        if intervention is not None:
            edges = self._networks.cut(intervention.mask)
            is_set = intervention.mask[..., None]
            given, _ = self._encode_set(self._networks, intervention, edges)
            z = torch.where(is_set, given, z)
        return self._unscale(self._networks.decode(z, edges))

    def _encode_set(
        self, networks: GraphNetworks, intervention: Intervention, edges: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Latents of set values under their cuts; what is not set may hold anything."""
        mask, values = intervention.mask, intervention.values
        return networks.encode(torch.where(mask, self._scale(values), 0.0), edges)

    def _alternatives(self, x: Tensor, intervention: Intervention) -> Tensor:
        others = self._others or [self._networks]
        parts = self._noise(self.n_alternatives).tensor_split(len(others))
        pairs = zip(others, parts, strict=True)
        return torch.cat([self._drawn(*pair, x, intervention) for pair in pairs])

    def _drawn(
        self, networks: GraphNetworks, noise: Tensor, x: Tensor, intervention: Intervention
    ) -> Tensor:
        """Counterfactuals of other latents, shape ``(draws, n, d)``."""
        a, (n, d) = len(noise), x.shape
        edges, is_set = networks.cut(intervention.mask), intervention.mask[..., None]
        own = networks.encode(self._scale(x), networks.edges)
        given = self._encode_set(networks, intervention, edges)
        centre, log_spread = (torch.where(is_set, *pair) for pair in zip(given, own, strict=True))
        z = centre + log_spread.exp() * noise
        found = networks.decode(z.flatten(0, 1), edges.repeat(a, 1, 1))
        return self._unscale(found).view(a, n, d)

    def _sample_latent(self, n: int) -> Tensor:
        return torch.randn(n, self.n_latents, dtype=self._dtype)

    def _log_prob(self, x: Tensor) -> Tensor:
        rows = max(1, CHUNK // self.settings.draws)
        return torch.cat([self._weighed(part) for part in torch.split(x, rows)])

    def _weighed(self, x: Tensor) -> Tensor:
        """Logarithm of the mean importance weight of each row, ``(n,)``, float64."""
        networks, draws = self._networks, self.settings.draws
        centre, log_spread = networks.encode(self._scale(x), networks.edges)
        noise = self._noise(draws)
        z = centre + log_spread.exp() * noise
        decoded = networks.decode(z.flatten(0, 1), networks.edges).view(draws, *x.shape)
        # Prior over posterior; their constants cancel.
        ratio = (0.5 * (noise.square() - z.square()) + log_spread).sum(dim=(2, 3))
        weight = (self._likelihood(decoded, x, self.settings.spread) + ratio).double()
        return weight.logsumexp(dim=0) - math.log(draws)

    def _noise(self, draws: int) -> Tensor:
        """Standard normal draws, the same for every row, shape ``(draws, 1, d, n_each)``."""
        shape = (draws, 1, self.encoding.n_columns, self.settings.n_each)
        drawn = torch.randn(shape, generator=seeded(self.settings.training.seed))
        return drawn.to(self._dtype)

    def state(self) -> State:
        """See ``CausalModel.state``."""
        if not self.is_fitted:
            raise NotFittedError.of("Vaca", "state")
        config = {"settings": asdict(self.settings), "best_epoch": self.history_.best_epoch}
        tensors = {
            **prefixed("statistics", self.statistics_.as_tensors()),
            **prefixed("networks", self._members.state_dict()),
        }
        return State(config, tensors)

    @classmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """See ``CausalModel.from_state``."""
        model = cls(schema, VacaSettings.from_dict(state.config["settings"]))
        statistics = Statistics(**unprefixed("statistics", state.tensors))
        # New layers draw their weights before these are replaced.
        with torch.random.fork_rng(devices=[]):
            model._build(statistics)
        weights = unprefixed("networks", state.tensors)
        if any(weight.dtype == torch.float64 for weight in weights.values()):
            model._to_double()
        model._members.load_state_dict(weights)
        model._members.requires_grad_(False)
        model.history_ = History(best_epoch=state.config["best_epoch"])
        model.statistics_ = statistics
        return model

    def to_float64(self) -> Self:
        """Compute in double precision from now on (the default is single inside)."""
        if not self.is_fitted:
            raise NotFittedError.of("Vaca", "to_float64")
        self._to_double()
        return self

    def _to_double(self) -> None:
        self._members.double()
        self._dtype = torch.float64

    def _build(self, statistics: Statistics) -> None:
        n_steps = max(1, self.schema.graph.longest_path)
        shape = self.settings.n_each, self.settings.width, n_steps
        members = [
            GraphNetworks(self.encoding.adjacency, *shape) for _ in range(1 + self.settings.members)
        ]
        # The first is the model itself; the others are for the alternatives.
        self._networks, self._others = members[0], members[1:]
        self._members = nn.ModuleList(members)
        self._likelihood = Likelihood(self.encoding, statistics)
        self._mean, self._std = statistics.mean, statistics.std
        self._dtype = torch.float32

    def _by_node(self, u: Tensor) -> Tensor:
        return u.view(len(u), self.encoding.n_columns, self.settings.n_each)

    def _scale(self, x: Tensor) -> Tensor:
        return ((x - self._mean) / self._std).to(self._dtype)

    def _unscale(self, x: Tensor) -> Tensor:
        return self.encoding.snap(x.double() * self._std + self._mean)


# Share of the epochs over which the spread falls.
FALLING = 0.7
TINY = 1e-6
# Rows times latents that are computed at a time.
CHUNK = 50_000
