"""What plans bring, told at a glance by a network that has seen many of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from carma.classifiers.base import Classifier
from carma.constraints import PlanLimits
from carma.interventions import Intervention
from carma.recourse.outcomes import Outcomes
from carma.recourse.policy import smooth_mlp
from carma.recourse.target import People, Target
from carma.table import Statistics
from carma.training import History, TrainingSettings, split_rows, train

__all__ = ["Forecast", "ForecastTarget"]


class Forecast(nn.Module):
    """A network that tells how far past the decision plans lead, without following what follows.

    It sees a person, what a plan sets, and how far past the decision they were if nothing followed
    from it. It tells what all that follows adds to that: under the causal model, and beyond the
    margin that is asked of the plan for what is in doubt. To follow a plan under all alternatives
    of a causal model takes a hundred times as long.

    Args:
        columns: Those that plans may act on, int64.
        statistics: Of the causal model's training table: the scale of rows and changes.
        u: Exogenous values of training people, shape ``(n, n_latents)``: the scale of theirs.
        steepness: Log-odds that people typically lack, above 0.
        hidden: Hidden widths.
    """

    centre: Tensor
    scale: Tensor
    width: Tensor
    steepness: Tensor

    def __init__(
        self,
        columns: Tensor,
        statistics: Statistics,
        u: Tensor,
        steepness: float,
        hidden: tuple[int, ...],
    ) -> None:
        super().__init__()
        d = len(statistics.std)
        self._columns = columns
        spread = torch.cat([statistics.std, u.std(0, correction=0)])
        self.register_buffer("centre", torch.cat([statistics.mean, u.mean(0)]).float())
        self.register_buffer("scale", torch.where(spread > TINY, spread, 1.0).float())
        self.register_buffer("width", self.scale[:d][columns].clone())
        self.register_buffer("steepness", torch.tensor(steepness, dtype=torch.float64))
        self.network = smooth_mlp(d + u.shape[1] + 2 * len(columns) + 1, hidden, 2)

    def describe(self, people: People, do: Intervention, bare: Tensor) -> Tensor:
        """What the network sees, shape ``(n, inputs)``, float32.

        Args:
            people: n rows.
            do: All that is set for each.
            bare: How far past the decision they were if nothing followed, shape ``(n,)``.
        """
        columns = self._columns
        who = torch.cat([people.x.float(), people.u.float()], dim=1)
        who = who.sub_(self.centre).div_(self.scale)
        mask, now = do.mask[:, columns], people.x[:, columns]
        moved = torch.where(mask, do.values[:, columns] - now, 0.0).float() / self.width
        far = (bare / self.steepness)[:, None].float()
        return torch.cat([who, mask.float(), moved, far], dim=1).clamp_(-FAR, FAR)

    def forward(self, seen: Tensor) -> Tensor:
        """What follows adds, to be sure and not, in log-odds, shape ``(n, 2)``, float64."""
        added: Tensor = self.network(seen)
        return added.double() * self.steepness

    def learn(
        self, outcomes: Outcomes, settings: TrainingSettings, progress: bool | None
    ) -> History:
        """Train on what plans brought; keep the epoch that is best on held-out ones.

        Args:
            outcomes: At least two.
            settings: Epochs, batches, learning rate, seed.
            progress: See ``track``.
        """
        rows, held_out = split_rows(len(outcomes), settings.validation_fraction, settings.seed)
        added = outcomes.ahead - outcomes.bare[:, None]
        wanted = (added / self.steepness).clamp(-FAR, FAR).float()

        def loss(chosen: Tensor) -> Tensor:
            found = self.network(outcomes.seen[chosen])
            return smooth_l1_loss(found, wanted[chosen], beta=OUTLIER)

        self.requires_grad_(True)
        history = train(
            self.network,
            len(rows),
            lambda batch: loss(rows[batch]),
            lambda: float(loss(held_out)),
            settings,
            description="carma: what plans bring",
            progress=progress,
        )
        self.requires_grad_(False)
        return history


class ForecastTarget(Target):
    """Tells how far past the decision and its margin plans lead, by a forecast.

    Args:
        classifier: Decides.
        limits: Its declared bounds hold for what is set.
        forecast: Of what follows.
    """

    def __init__(self, classifier: Classifier, limits: PlanLimits, forecast: Forecast) -> None:
        encoding = limits.encoding

        def alone(x: Tensor, do: Intervention, u: Tensor) -> Tensor:  # noqa: ARG001
            return encoding.derive(torch.where(do.mask, do.values, x))

        super().__init__(alone, classifier, limits, 0.0)
        self._forecast = forecast

    @property
    def unit(self) -> float:
        """Log-odds that people typically lack."""
        return float(self._forecast.steepness)

    def described(self, people: People, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """How far past the decision plans lead if nothing follows, and what the network sees.

        Args:
            people: n rows.
            mask: Columns set, shape ``(n, d)``, bool.
            values: Same shape.

        Returns:
            Shapes ``(n,)`` and ``(n, inputs)``.
        """
        do = people.do(mask, values)
        bare = super()._reached_by(people, do)[1]
        return bare, self._forecast.describe(people, do, bare)

    def standing(self, people: People) -> Tensor:
        """How far past the decision people are before they do anything, shape ``(n,)``."""
        nothing = Intervention.none(people.x)
        return super()._reached_by(people, people.do(nothing.mask, nothing.values))[1]

    def outlook(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        """How far past the decision plans lead, and how far past their margin, ``(n, 2)``.

        Args:
            people: n rows.
            mask: Columns set, shape ``(n, d)``, bool.
            values: Same shape.
        """
        bare, seen = self.described(people, mask, values)
        ahead = bare[:, None] + self._forecast(seen)
        told: Tensor = ahead.nan_to_num(-torch.inf, neginf=-torch.inf)
        return told

    def _reached_by(self, people: People, do: Intervention) -> tuple[Tensor, Tensor]:
        reached, bare = super()._reached_by(people, do)
        added: Tensor = self._forecast(self._forecast.describe(people, do, bare))[:, 1]
        return reached, bare + added


# Spreads beyond which inputs, and log-odds beyond which outcomes look the same; errors from which
# on more of them costs no more than in proportion.
FAR, OUTLIER = 8.0, 0.1
TINY = 1e-6
