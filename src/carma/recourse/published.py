"""CARMA as published: trained by multipliers, one forward pass, one plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from carma.classifiers.base import Classifier
from carma.costs import Cost
from carma.errors import NotFittedError, SchemaError, SettingsError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.recourse.base import Solver
from carma.recourse.hinge import Hinge
from carma.recourse.multipliers import Multiplier
from carma.recourse.networks import PolicyNetworks
from carma.recourse.proposal import Proposal
from carma.recourse.status import Status
from carma.recourse.target import People
from carma.state import State
from carma.training import History, TrainingSettings, check_widths, split_rows, train

__all__ = ["PublishedCarma", "PublishedSettings"]


@dataclass(frozen=True)
class PublishedSettings:
    """Settings of CARMA as published; the defaults serve every set.

    Args:
        mask_hidden: Hidden widths of the mask network.
        action_hidden: Hidden widths of the action network.
        margin: How far past the threshold training aims, on the scale p - (1 - p) of the
            hinge's p (see ``hinge_temperature``).
        hinge_temperature: Divides the log-odds in the hinge; 1 as published. ``None`` takes a
            tenth of the typical shortfall of the rejected people: then neither far-away
            people lose their slope nor does the margin depend on how steep the classifier is.
        temperature: Of the Gumbel-softmax.
        prior: Prior probability of acting on a feature of weight 1; on a feature of cost
            weight w it is ``prior / w``.
        kl_weight: Weight of the divergence from that prior.
        damping: Of the method of multipliers.
        rate: Step of the multiplier; the paper has 1, which drives it far past what
            acceptance needs and costs up.
        training: Epochs, batches, learning rate, seed.

    Raises:
        SettingsError: A value is out of range.
    """

    mask_hidden: tuple[int, ...] = (64, 64)
    action_hidden: tuple[int, ...] = (64, 64, 64)
    margin: float = 0.25
    temperature: float = 0.5
    prior: float = 0.5
    kl_weight: float = 0.01
    hinge_temperature: float | None = None
    damping: float = 10.0
    rate: float = 0.1
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            epochs=300, batch_size=256, learning_rate=5e-3, patience=300, validation_fraction=0.2
        )
    )

    def __post_init__(self) -> None:
        for name in ("mask_hidden", "action_hidden"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            check_widths("PublishedSettings", name, getattr(self, name))
        rules = {
            "margin": (0 <= self.margin < 1, "be at least 0 and below 1"),
            "temperature": (0 < self.temperature < 100, "be above 0"),
            "prior": (0 < self.prior < 1, "lie strictly between 0 and 1"),
            "hinge_temperature": (
                self.hinge_temperature is None or self.hinge_temperature > 0,
                "be above 0",
            ),
            "kl_weight": (self.kl_weight >= 0, "be at least 0"),
            "damping": (self.damping >= 0, "be at least 0"),
            "rate": (self.rate > 0, "be above 0"),
        }
        SettingsError.require(self, rules)

    @classmethod
    def table_5(cls, name: str) -> PublishedSettings:
        """Settings of the paper's Table 5.

        Args:
            name: A benchmark set, or ``loan-weighted``. The paper's margin has the scale
                p - (1 - p); prior 0.5, divergence weight 1, multiplier rate 1.

        Raises:
            SettingsError: The name is unknown.

        Example:
            >>> PublishedSettings.table_5("loan").mask_hidden
            (32, 32)
        """
        if name not in TABLE_5:
            rule = f"be one of {', '.join(TABLE_5)}"
            raise SettingsError.of("PublishedSettings", "name", rule, name)
        rate, mask, action, epochs, batch, margin, temperature = TABLE_5[name]
        training = TrainingSettings(
            epochs=epochs,
            batch_size=batch,
            learning_rate=rate,
            schedule="constant",
            validation_fraction=0.2,
            patience=epochs,
        )
        return cls(
            mask,
            action,
            margin,
            temperature,
            kl_weight=1.0,
            hinge_temperature=1.0,
            rate=1.0,
            training=training,
        )

    @classmethod
    def table_6(cls) -> PublishedSettings:
        """Settings of the paper's Table 6: Loan, on VACA.

        Example:
            >>> PublishedSettings.table_6().action_hidden
            (64, 64, 64, 64)
        """
        plain = cls.table_5("loan")
        training = replace(plain.training, learning_rate=5e-4)
        return replace(
            plain,
            mask_hidden=(64, 64, 64),
            action_hidden=(64, 64, 64, 64),
            margin=0.003,
            temperature=0.4,
            training=training,
        )

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> PublishedSettings:
        """Undo ``dataclasses.asdict``."""
        content = dict(content)
        training = TrainingSettings(**content.pop("training"))
        return cls(**content, training=training)


# Learning rate, mask layers, action layers, epochs, batch, margin, temperature.
TABLE_5: dict[str, tuple[float, tuple[int, ...], tuple[int, ...], int, int, float, float]] = {
    "triangle-lin": (5e-3, (32,), (8, 8, 8, 8), 500, 32, 0.007, 0.55),
    "collider-lin": (5e-3, (32,), (32, 32, 32, 32), 350, 256, 0.013, 0.31),
    "chain-lin": (5e-3, (16,), (8, 8), 150, 128, 0.004, 0.87),
    "triangle-nlin": (5e-3, (32, 32, 32), (8, 8, 8, 8), 450, 256, 0.003, 0.2),
    "collider-nlin": (1e-2, (16, 16, 16), (8, 8, 8), 250, 64, 0.002, 0.83),
    "chain-nlin": (5e-3, (32, 32, 32), (32, 32, 32, 32), 250, 256, 0.007, 0.08),
    "loan": (5e-3, (32, 32), (32, 32, 32), 450, 256, 0.011, 0.45),
    "loan-weighted": (1e-3, (16, 16, 16), (32, 32, 32, 32), 450, 256, 0.007, 0.33),
}


class PublishedCarma(Solver):
    """CARMA as published: recourse as one forward pass, learned without labels.

    ``z = abduct(x)``; the mask network picks the features, the action network one latent
    change each; ``z' = z + mask * change`` decodes to the values, which are moved inside the
    person's limits and onto steps and levels; then the plan is checked. Training minimises
    cost + divergence of the masks from their prior, subject to the hinge on the probability,
    by the modified differential method of multipliers. Departures from the released code: the
    policy used is the policy trained (one two-way softmax decides, the likeliest feature is
    always on), values cannot leave their limits, the damping has Platt and Barr's sign, the
    hinge keeps a slope for people far from acceptance, and the epoch with the least held-out
    cost is kept.

    Args:
        causal_model: Fitted.
        classifier: Differentiable.
        cost: See ``Solver``.
        settings: See ``PublishedSettings``.

    Raises:
        SchemaError: No actionable feature is set to a number.

    Attributes:
        history_: Loss, held-out score and multiplier of every epoch.

    References:
        Majumdar & Valera 2024, CARMA, FAccT, doi 10.1145/3630106.3659003.

    Example:
        >>> from carma import ClassifierSettings, TrainingSettings, fit_classifier
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=400), TrainingSettings(epochs=5)
        >>> rows = data.frame("classifier")
        >>> classifier = fit_classifier(data.schema, rows, ClassifierSettings((), quick))
        >>> settings = PublishedSettings(training=quick)
        >>> solver = PublishedCarma(data.scm, classifier, settings=settings)
        >>> result = solver.fit(data.frame("recourse")).recommend(data.frame("recourse", "test"))
        >>> sum(result.counts().values())
        100
    """

    kind: ClassVar[str] = "carma_published"
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
        settings: PublishedSettings | None = None,
    ) -> None:
        super().__init__(causal_model, classifier, cost=cost)
        self.settings = settings or PublishedSettings()
        self._columns = self.encoding.actionable
        if not len(self._columns):
            rule = "have an actionable feature that is set to a number; ExactSolver needs none"
            raise SchemaError.of("PublishedCarma", "schema", rule, self.schema.actionable)
        # Latents of a column are next to each other.
        self._n_each = causal_model.n_latents // self.encoding.n_columns
        self._latents = (
            self._columns[:, None] * self._n_each + torch.arange(self._n_each)
        ).flatten()

    @property
    def is_fitted(self) -> bool:
        """True after ``fit``."""
        return hasattr(self, "_networks")

    def _fit(self, x: Tensor, progress: bool | None) -> None:
        settings = self.settings
        training = settings.training
        with torch.no_grad():
            z = self.causal_model.abduct(x)
            hinge = self._new_hinge(self.classifier.logit(x))
        rows, held_out = split_rows(len(x), training.validation_fraction, training.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            networks = self._new_networks()
            networks.standardise_on(z[rows])
            multiplier = Multiplier(settings.damping, settings.rate)

            def loss(batch: Tensor) -> Tensor:
                chosen = rows[batch]
                logits = networks.logits(z[chosen])
                mask = networks.sample_mask(logits, settings.temperature)
                cost, logit = self._outcome(networks, x[chosen], z[chosen], mask)
                objective = cost.mean() + settings.kl_weight * self._divergence(logits).mean()
                return objective + multiplier.term(hinge.violation(logit).mean())

            def score() -> float:
                mask = networks.mask(z[held_out])
                cost, logit = self._outcome(networks, x[held_out], z[held_out], mask)
                fails = hinge.violation(logit) > 0
                return float(torch.where(fails, FAILURE_COST, cost).mean())

            self.history_ = train(
                networks,
                len(rows),
                loss,
                score,
                training,
                after_step=multiplier.step,
                log=lambda: {"multiplier": multiplier.value},
                description="published carma",
                progress=progress,
            )
        self._networks, self._hinge = networks.eval().requires_grad_(False), hinge

    @property
    def margin(self) -> float:
        """Where the hinge of training ends, as a probability past the threshold."""
        if not self.is_fitted:
            raise NotFittedError.of("PublishedCarma", "margin")
        return self._hinge.aim

    def _propose(self, people: People, n_plans: int) -> Proposal:  # noqa: ARG002
        x, limits = people.x, people.limits
        mask = self._networks.mask(people.u)
        decoded = self._decode(self._networks, people.u, mask)
        values = self.limits.project(x, decoded, limits)
        do = Intervention((self._spread(mask, x) > 0) & limits.may_act, values)
        return Proposal(do, torch.ones(len(x), dtype=torch.long))

    def _outcome(
        self, networks: PolicyNetworks, x: Tensor, z: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cost and log-odds of the policy's plans, differentiable in its weights."""
        wide = self._spread(mask, x)
        box = self.limits.around(x)
        decoded = self._decode(networks, z, mask)
        decoded = self.limits.hold_inside(decoded, box, wide.detach() > 0)
        values = self.limits.project(x, decoded, box)
        with torch.no_grad():
            do = Intervention(wide > 0, values.detach())
            reached = self.causal_model.counterfactual(x, do, z)
        # The plan's exact outcome, with the gradient of the decoded latents: those of features
        # left alone say what acting on them would bring.
        outcome = decoded + (reached - decoded).detach()
        return self.cost(x, wide, values), self.classifier.logit(outcome)

    def _decode(self, networks: PolicyNetworks, z: Tensor, mask: Tensor) -> Tensor:
        """Rows that the changed latents stand for, ``(n, d)``."""
        change = networks.change(z, mask) * networks.scale[self._latents]
        wide = torch.zeros_like(z).index_copy(1, self._latents, change.to(z.dtype))
        return self.causal_model.predict(z + wide)

    def _new_hinge(self, logit: Tensor) -> Hinge:
        decision, settings = self.classifier.decision, self.settings
        temperature = settings.hinge_temperature
        if temperature is None:
            temperature = Hinge.shortfall(decision, logit) / FAR_AWAY
        return Hinge(decision, settings.margin, temperature)

    def _divergence(self, logits: Tensor) -> Tensor:
        """KL of the masks' Bernoulli probabilities from their priors, ``(n,)``."""
        names = [self.encoding.columns[i] for i in self._columns.tolist()]
        weights = torch.tensor([self.cost.weights[n] for n in names])
        prior = (self.settings.prior / weights).clamp(max=0.99)
        p = torch.sigmoid(logits)
        on = nn.functional.logsigmoid(logits) - prior.log()
        off = nn.functional.logsigmoid(-logits) - torch.log1p(-prior)
        return (p * on + (1 - p) * off).sum(dim=1)

    def _spread(self, narrow: Tensor, like: Tensor) -> Tensor:
        """Put ``(n, K)`` into the actionable columns of zeros ``(n, d)``."""
        wide = torch.zeros_like(like)
        return wide.index_copy(1, self._columns, narrow.to(like.dtype))

    def _new_networks(self) -> PolicyNetworks:
        return PolicyNetworks(
            self.causal_model.n_latents,
            self._columns,
            self.settings.mask_hidden,
            self.settings.action_hidden,
            self._n_each,
        )

    def state(self) -> State:
        """See ``Solver.state``."""
        if not self.is_fitted:
            raise NotFittedError.of("PublishedCarma", "state")
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
        settings = PublishedSettings.from_dict(state.config["settings"])
        solver = cls(causal_model, classifier, cost=cost, settings=settings)
        with torch.random.fork_rng(devices=[]):
            networks = solver._new_networks()
        networks.load_state_dict(state.tensors)
        solver._networks = networks.eval().requires_grad_(False)
        temperature = state.config["hinge_temperature"]
        solver._hinge = Hinge(classifier.decision, settings.margin, temperature)
        solver.history_ = History(**state.config["history"])
        return solver


# A held-out failure weighs as much as a change of this cost (a plan costs about 0.05).
FAILURE_COST = 10.0
# Flattened log-odds at which the hinge sees a typical rejected person.
FAR_AWAY = 10.0
