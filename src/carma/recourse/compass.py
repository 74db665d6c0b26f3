"""Which moves between levels a plan best starts with, learned from finished plans."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from carma.recourse.journeys import Journeys
from carma.recourse.policy import HEAVY, smooth_mlp
from carma.recourse.target import People
from carma.training import History, TrainingSettings, split_rows, train

__all__ = ["Compass"]


class Compass(nn.Module):
    """A network that tells from which places plans best start: home, or after which moves.

    It sees a person as the policy's networks do, and what moves cost them beside all else.

    Args:
        describe: What the policy's networks see of people, shape ``(n, n_inputs)``, float32.
        numbers: Columns set to numbers, int64.
        switches: First column of each feature that is set level by level, int64.
        n_inputs: Of it.
        n_places: Home, and combinations of moves.
        hidden: Hidden widths.
    """

    def __init__(
        self,
        describe: Callable[[People], Tensor],
        numbers: Tensor,
        switches: Tensor,
        n_inputs: int,
        n_places: int,
        hidden: tuple[int, ...],
    ) -> None:
        super().__init__()
        self._describe = describe
        self._numbers, self._switches = numbers, switches
        self.network = smooth_mlp(n_inputs + len(switches), hidden, n_places)

    def describe(self, people: People) -> Tensor:
        """What the network sees of each person, shape ``(n, inputs)``, float32."""
        seen = self._describe(people)
        price = people.x.new_zeros(len(people), len(self._switches))
        if people.weights is not None:
            log = people.weights.log()
            usable = people.limits.may_act[:, self._numbers]
            usual = torch.where(usable, log[:, self._numbers], 0.0).sum(dim=1, keepdim=True)
            usual = usual / usable.sum(dim=1, keepdim=True).clamp(min=1)
            price = (log[:, self._switches] - usual).clamp(-HEAVY, HEAVY)
        return torch.cat([seen, price.float()], dim=1)

    def likely(self, people: People, is_open: Tensor, count: int) -> Tensor:
        """The places most worth starting from, shape ``(n, p)``, bool.

        Args:
            people: n of them, at home.
            is_open: Places where their plans may start, shape ``(n, p)``, bool.
            count: How many of each person; fewer where not so many are open.
        """
        logits = self.network(self.describe(people)).masked_fill(~is_open, -torch.inf)
        top = logits.topk(min(count, logits.shape[1]), dim=1).indices
        return torch.zeros_like(is_open).scatter_(1, top, True) & is_open

    def learn(
        self, journeys: Journeys, settings: TrainingSettings, progress: bool | None
    ) -> History:
        """Train; keep the epoch that is best on held-out people.

        Args:
            journeys: At least two, each with a plan from somewhere.
            settings: Epochs, batches, learning rate, seed.
            progress: See ``track``.
        """
        rows, held_out = split_rows(len(journeys), settings.validation_fraction, settings.seed)
        target = journeys.shares
        with torch.no_grad():
            seen = self.describe(journeys.people)

        def loss(chosen: Tensor) -> Tensor:
            logits = self.network(seen[chosen])
            logits = logits.masked_fill(~journeys.is_open[chosen], SHUT)
            return -(target[chosen] * log_softmax(logits, dim=1)).sum(dim=1).mean()

        return train(
            self.network,
            len(rows),
            lambda batch: loss(rows[batch]),
            lambda: float(loss(held_out)),
            settings,
            description="carma: where plans start",
            progress=progress,
        )


# Log-odds of a place where no plan may start.
SHUT = -1e4
