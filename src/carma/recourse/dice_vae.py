"""DiCE-VAE: the non-causal baseline, a variational autoencoder whose decoder gives changes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from carma.classifiers.base import Classifier
from carma.costs import Cost
from carma.errors import NotFittedError, SettingsError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.recourse.base import Solver
from carma.recourse.hinge import Hinge
from carma.recourse.networks import mlp
from carma.recourse.proposal import Proposal
from carma.recourse.status import Status
from carma.recourse.target import People
from carma.state import State
from carma.training import History, TrainingSettings, check_widths, split_rows, train

__all__ = ["TABLE_4", "DiceVae", "DiceVaeSettings"]


@dataclass(frozen=True)
class DiceVaeSettings:
    """Settings of DiCE-VAE; the defaults serve every set.

    Args:
        encoder_hidden: Hidden widths of the encoder.
        decoder_hidden: Hidden widths of the decoder.
        margin: How far past the threshold training aims, on the scale p - (1 - p) of the
            hinge's p (see ``hinge_temperature``).
        hinge_weight: Weight of the hinge; the cost has weight 1.
        kl_weight: Weight of the divergence of the code from the standard normal.
        hinge_temperature: Divides the log-odds in the hinge. ``None`` takes the typical
            shortfall of the rejected people: with a steep classifier those far away would
            have no slope otherwise. The default margin then lies as far ahead as CARMA's.
        training: Epochs, batches, learning rate, seed.

    Raises:
        SettingsError: A value is out of range.

    Example:
        >>> DiceVaeSettings(hinge_weight=0)
        Traceback (most recent call last):
        carma.errors.SettingsError: DiceVaeSettings: 'hinge_weight' must be above 0; got 0
    """

    encoder_hidden: tuple[int, ...] = (64, 64)
    decoder_hidden: tuple[int, ...] = (64, 64)
    margin: float = 0.025
    hinge_weight: float = 10.0
    kl_weight: float = 1e-4
    hinge_temperature: float | None = None
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            epochs=300, batch_size=256, learning_rate=5e-3, patience=300, validation_fraction=0.2
        )
    )

    def __post_init__(self) -> None:
        for name in ("encoder_hidden", "decoder_hidden"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            check_widths("DiceVaeSettings", name, getattr(self, name))
        rules = {
            "margin": (0 <= self.margin < 1, "be at least 0 and below 1"),
            "hinge_weight": (0 < self.hinge_weight < math.inf, "be above 0"),
            "kl_weight": (0 <= self.kl_weight < math.inf, "be at least 0"),
            "hinge_temperature": (
                self.hinge_temperature is None or 0 < self.hinge_temperature < math.inf,
                "be above 0",
            ),
        }
        SettingsError.require(self, rules)

    @classmethod
    def table_4(cls, name: str) -> DiceVaeSettings:
        """Settings of the CARMA paper's Table 4.

        The paper does not tell the weights: the hinge's is 100, the divergence's 1 as that of the
        cost. With these the costs come near the printed ones (``carma reproduce table1``).

        Args:
            name: A benchmark set of the paper.

        Raises:
            SettingsError: The name is unknown.

        Example:
            >>> DiceVaeSettings.table_4("loan").training.epochs
            200
        """
        if name not in TABLE_4:
            rule = f"be one of {', '.join(TABLE_4)}"
            raise SettingsError.of("DiceVaeSettings", "name", rule, name)
        epochs, margin = TABLE_4[name]
        training = TrainingSettings(
            epochs=epochs,
            batch_size=128,
            learning_rate=5e-5,
            schedule="constant",
            validation_fraction=0.2,
            patience=epochs,
        )
        return cls(
            (64,),
            (64,),
            margin,
            hinge_weight=100.0,
            kl_weight=1.0,
            hinge_temperature=1.0,
            training=training,
        )

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> DiceVaeSettings:
        """Undo ``dataclasses.asdict``."""
        content = dict(content)
        training = TrainingSettings(**content.pop("training"))
        return cls(**content, training=training)


# Epochs and margin of the hinge.
TABLE_4: dict[str, tuple[int, float]] = {
    "triangle-lin": (250, 0.003),
    "collider-lin": (250, 0.003),
    "chain-lin": (250, 0.003),
    "triangle-nlin": (250, 0.042),
    "collider-nlin": (250, 0.003),
    "chain-nlin": (250, 0.012),
    "loan": (200, 0.002),
}


class DiceVae(Solver):
    """DiCE-VAE: what a learner without causal knowledge would propose, as one forward pass.

    The encoder gives a code for the person, the decoder one change for each column; added to
    the actionable columns and moved inside the limits, they are the plan, and all that the
    solver believes to follow. Every actionable column is acted on, except where its value
    stays the person's own. Training minimises cost + hinge on the probability + divergence of
    the code. The causal model only supplies schema, encoding and statistics; whether a plan
    holds under the true one is for ``evaluate`` to tell. Departures from the paper's baseline:
    the hinge keeps a slope for people far from acceptance, training starts from no change, and
    values cannot leave their limits.

    Args:
        causal_model: Fitted; its mechanisms are not used.
        classifier: Differentiable.
        cost: See ``Solver``.
        settings: See ``DiceVaeSettings``.

    Attributes:
        history_: Loss and held-out score of every epoch.

    References:
        Mahajan, Tan & Sharma 2019, Preserving causal constraints in counterfactual
        explanations, arXiv 1912.03272, as a baseline in Majumdar & Valera 2024, CARMA.

    Example:
        >>> from carma import ClassifierSettings, DiceVaeSettings, TrainingSettings
        >>> from carma import fit_classifier
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=400), TrainingSettings(epochs=5)
        >>> rows = data.frame("classifier")
        >>> classifier = fit_classifier(data.schema, rows, ClassifierSettings((), quick))
        >>> solver = DiceVae(data.scm, classifier, settings=DiceVaeSettings(training=quick))
        >>> result = solver.fit(data.frame("recourse")).recommend(data.frame("recourse", "test"))
        >>> sum(result.counts().values())
        100
    """

    kind: ClassVar[str] = "dice_vae"
    most_worlds: ClassVar[int | None] = 5
    needs_slope: ClassVar[bool] = True
    found: ClassVar[Status] = Status.AMORTIZED
    history_: History

    def __init__(
        self,
        causal_model: CausalModel,
        classifier: Classifier,
        *,
        cost: Cost | None = None,
        settings: DiceVaeSettings | None = None,
    ) -> None:
        super().__init__(causal_model, classifier, cost=cost)
        self.settings = settings or DiceVaeSettings()

    @property
    def is_fitted(self) -> bool:
        """True after ``fit``."""
        return hasattr(self, "_networks")

    @property
    def margin(self) -> float:
        """Where the hinge of training ends, as a probability past the threshold."""
        if not self.is_fitted:
            raise NotFittedError.of("DiceVae", "margin")
        return self._hinge.aim

    def _fit(self, x: Tensor, progress: bool | None) -> None:
        settings = self.settings
        training = settings.training
        with torch.no_grad():
            hinge = self._new_hinge(self.classifier.logit(x))
        rows, held_out = split_rows(len(x), training.validation_fraction, training.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            networks = self._new_networks()
            networks.standardise_on(x[rows])

            def loss(batch: Tensor) -> Tensor:
                chosen = x[rows[batch]]
                mean, log_variance = networks.encode(chosen)
                code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
                divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
                objective = self._objective(chosen, networks.change(code), hinge)
                return (objective + settings.kl_weight * divergence).mean()

            def score() -> float:
                mean, _ = networks.encode(x[held_out])
                change = networks.change(mean)
                return float(self._objective(x[held_out], change, hinge).mean())

            self.history_ = train(
                networks,
                len(rows),
                loss,
                score,
                training,
                description="dice-vae",
                progress=progress,
            )
        self._networks, self._hinge = networks.eval().requires_grad_(False), hinge

    def _propose(self, people: People, n_plans: int) -> Proposal:  # noqa: ARG002
        x, limits = people.x, people.limits
        mean, _ = self._networks.encode(x)
        values = self.limits.project(x, x + self._networks.change(mean), limits)
        do = Intervention(limits.may_act & (values != x), values)
        return Proposal(do, torch.ones(len(x), dtype=torch.long))

    def _follow(self, x: Tensor, intervention: Intervention, u: Tensor) -> Tensor:  # noqa: ARG002
        """Nothing but the values themselves, and what is derived: the method knows no effects."""
        return self.encoding.derive(torch.where(intervention.mask, intervention.values, x))

    def _objective(self, x: Tensor, change: Tensor, hinge: Hinge) -> Tensor:
        """Cost of the changed rows and weighted hinge on their probability, ``(n,)``."""
        box = self.limits.around(x)
        values = self.limits.hold_inside(x + change, box, box.may_act)
        values = self.limits.project(x, values, box)
        reached = self.encoding.derive(torch.where(box.may_act, values, x))
        logit = self.classifier.logit(reached)
        price = self.cost(x, box.may_act, values)
        return price + self.settings.hinge_weight * hinge.violation(logit)

    def _new_hinge(self, logit: Tensor) -> Hinge:
        decision, settings = self.classifier.decision, self.settings
        temperature = settings.hinge_temperature or Hinge.shortfall(decision, logit)
        return Hinge(decision, settings.margin, temperature)

    def _new_networks(self) -> ChangeNetworks:
        settings = self.settings
        n_columns = self.encoding.n_columns
        return ChangeNetworks(n_columns, settings.encoder_hidden, settings.decoder_hidden)

    def state(self) -> State:
        """See ``Solver.state``."""
        if not self.is_fitted:
            raise NotFittedError.of("DiceVae", "state")
        config = {
            "settings": asdict(self.settings),
            "history": asdict(self.history_),
            "hinge_temperature": self._hinge.temperature,
        }
        return State(config, dict(self._networks.state_dict()))

    @classmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: Cost, state: State
    ) -> Self:
        """See ``Solver.restore``."""
        settings = DiceVaeSettings.from_dict(state.config["settings"])
        solver = cls(causal_model, classifier, cost=cost, settings=settings)
        with torch.random.fork_rng(devices=[]):
            networks = solver._new_networks()
        networks.load_state_dict(state.tensors)
        solver._networks = networks.eval().requires_grad_(False)
        temperature = state.config["hinge_temperature"]
        solver._hinge = Hinge(classifier.decision, settings.margin, temperature)
        solver.history_ = History(**state.config["history"])
        return solver


class ChangeNetworks(nn.Module):
    """Encoder of rows and decoder of changes, both ReLU MLPs; a code is as wide as a row."""

    centre: Tensor
    scale: Tensor

    def __init__(
        self, n_columns: int, encoder_hidden: tuple[int, ...], decoder_hidden: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.encoder = mlp(n_columns, encoder_hidden, 2 * n_columns)
        self.decoder = mlp(n_columns, decoder_hidden, n_columns)
        # Training starts from no change and follows the slope there: which of several valleys
        # it ends in then does not hang on the seed.
        for parameter in self.decoder[-1].parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("centre", torch.zeros(n_columns))
        self.register_buffer("scale", torch.ones(n_columns))

    def standardise_on(self, x: Tensor) -> None:
        """Take centre and scale of the columns from training rows ``(n, d)``."""
        std = x.std(0, correction=0)
        self.centre.copy_(x.mean(0))
        self.scale.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code, ``(n, d)`` each."""
        scaled = (x.to(self.centre.dtype) - self.centre) / self.scale
        mean, log_variance = self.encoder(scaled).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCES)

    def change(self, code: Tensor) -> Tensor:
        """Change of each column in its own units, ``(n, d)``."""
        change: Tensor = self.decoder(code) * self.scale
        return change


# Beyond these the exponential of a far-off row would drown the loss.
LOG_VARIANCES = (-20.0, 10.0)
