"""The networks of CARMA: which features a person acts on, how far, and with what margin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carma.classifiers.base import Classifier
from carma.constraints import Limits
from carma.recourse.subsets import most_probable
from carma.recourse.target import People
from carma.table import Statistics

__all__ = ["LEAST", "WIDEST", "Drafts", "Policy"]


@dataclass(frozen=True)
class Drafts:
    """Plans as the networks see them, m for each of n people, the likeliest set first.

    Args:
        masks: Shape ``(n, m, d)``, bool; no two of a person alike, empty where there are no more.
        values: Shape ``(n, m, d)``, inside the person's limits.
    """

    masks: Tensor
    values: Tensor


class Policy(nn.Module):
    """Networks on a person, what the person may do, and what it costs them.

    What a person is, is the row and its exogenous values, both standardised; what they may do,
    is the room to either side of each actionable feature, in standard deviations and squashed
    to below 1 (0 where they may not act); what it costs them, the logarithm of their personal
    weights. The mask network tells the features to act on. Action network and margin network see a
    set of features too, so that one network serves all sets: they tell its cheapest plan, and how
    far past the threshold that has to go.

    Args:
        classifier: Decides; how far a person is from its threshold is part of what is seen.
        columns: The K actionable columns, int64.
        statistics: Of the causal model's training table: the scale of rows and changes.
        u: Exogenous values of training people, shape ``(n, n_latents)``: the scale of theirs.
        mask_hidden: Hidden widths of the mask network, and of the margin network.
        action_hidden: Hidden widths of the action network.

    Attributes:
        n_inputs: Numbers that the networks see of each person.
    """

    centre: Tensor
    scale: Tensor
    width: Tensor
    steepness: Tensor
    rate: Tensor

    def __init__(
        self,
        classifier: Classifier,
        columns: Tensor,
        statistics: Statistics,
        u: Tensor,
        mask_hidden: tuple[int, ...],
        action_hidden: tuple[int, ...],
    ) -> None:
        super().__init__()
        d, k = len(statistics.std), len(columns)
        self._columns, self._classifier = columns, classifier
        self.n_inputs = n_inputs = 1 + d + u.shape[1] + 3 * k
        self.mask_network = smooth_mlp(n_inputs, mask_hidden, k)
        self.action_network = smooth_mlp(n_inputs + k, action_hidden, k)
        self.margin_network = smooth_mlp(n_inputs + k, mask_hidden, 1)
        spread = torch.cat([statistics.std, u.std(0, correction=0)])
        centre = torch.cat([statistics.mean, u.mean(0)])
        self.register_buffer("centre", centre)
        self.register_buffer("scale", torch.where(spread > 0, spread, 1.0))
        self.register_buffer("width", self.scale[:d][columns].clone())
        self.register_buffer("steepness", torch.ones((), dtype=torch.float64))
        self.register_buffer("rate", torch.ones((), dtype=torch.float64))

    def scale_to(self, people: People, least: Tensor, degree: float) -> None:
        """Take the scale of the log-odds, and of costs, from training people.

        Args:
            people: n of them.
            least: Cost of their cheapest plans, shape ``(n,)``.
            degree: Of the cost.
        """
        self.steepness.copy_(self._classifier.logit(people.stand).double().square().mean().sqrt())
        lacks = -self._classifier.ahead(people.stand).double().clamp(max=-CLOSE)
        self.rate.copy_((least / lacks.pow(degree)).median())

    def describe(self, people: People) -> Tensor:
        """What the networks see of each person, shape ``(n, inputs)``, float32."""
        who = (torch.cat([people.stand, people.u], dim=1) - self.centre) / self.scale
        limits: Limits = people.limits
        x, columns = people.x[:, self._columns], self._columns
        usable = limits.may_act[:, columns]
        rise = torch.where(usable, limits.upper[:, columns] - x, 0.0) / self.width
        fall = torch.where(usable, x - limits.lower[:, columns], 0.0) / self.width
        # Infinite room squashes to 1.
        room = torch.cat([-torch.expm1(-rise / ROOM), -torch.expm1(-fall / ROOM)], dim=1)
        price = torch.zeros_like(x)
        if people.weights is not None:
            price = torch.where(usable, people.weights[:, columns].log(), 0.0)
            # What matters is what is dear beside the rest.
            price = price - price.sum(dim=1, keepdim=True) / usable.sum(dim=1, keepdim=True).clamp(
                min=1
            )
            price = torch.where(usable, price, 0.0).clamp(-HEAVY, HEAVY)
        far = self._classifier.logit(people.stand)[:, None] / self.steepness
        seen = torch.cat([who.clamp(-FAR, FAR), far.clamp(-FAR, FAR), room, price], dim=1)
        return seen.float()

    def drafts(self, people: People, count: int) -> Drafts:
        """Plans of the likeliest sets, one forward pass.

        Args:
            people: n of them.
            count: Sets for each; fewer where there are not so many.
        """
        return self._drafts(people, self.describe(people), count)

    def drafts_and_margins(self, people: People, count: int) -> tuple[Drafts, Tensor]:
        """The same, and the log-odds past the threshold that each one needs, ``(n, m)``.

        See ``Doubt``.
        """
        seen = self.describe(people)
        drafts = self._drafts(people, seen, count)
        masks = drafts.masks[..., self._columns]
        n, m, _ = masks.shape
        repeated = seen if m == 1 else seen.repeat_interleave(m, 0)
        log_margin = self.log_margin(repeated, masks.flatten(0, 1).float())
        margin = (log_margin.double().exp() - LEAST).clamp(0, WIDEST)
        return drafts, margin.view(n, m)

    def _drafts(self, people: People, seen: Tensor, count: int) -> Drafts:
        columns = self._columns
        usable = people.limits.can_move[:, columns]
        logits = self.logits(seen).masked_fill(~usable, -torch.inf)
        rules = people.limits.rules
        allows = None if rules is None or not rules.bind_sets else self._keeper(people)
        masks = most_probable(logits, count, people.limits.max_actions, allows)
        n, m, _ = masks.shape
        flat = masks.flatten(0, 1)
        repeated = seen if m == 1 else seen.repeat_interleave(m, 0)
        change = self.width * self.plan(repeated, flat.float())
        wide = torch.zeros(n, m, people.x.shape[1], dtype=people.x.dtype)
        wide[..., columns] = change.view(n, m, len(columns))
        limits, wide_masks = people.limits, torch.zeros_like(wide, dtype=torch.bool)
        wide_masks[..., columns] = masks
        inside = _held(people.x[:, None] + wide, limits.lower[:, None], limits.upper[:, None])
        return Drafts(wide_masks, inside)

    def _keeper(self, people: People) -> Callable[[Tensor], Tensor]:
        def keeps(masks: Tensor) -> Tensor:
            wide = torch.zeros(*masks.shape[:2], people.x.shape[1], dtype=torch.bool)
            wide[..., self._columns] = masks
            return people.limits.keeps_rules(wide)

        return keeps

    def logits(self, seen: Tensor) -> Tensor:
        """Log-odds that the cheapest plan acts on each feature, ``(n, K)``."""
        logits: Tensor = self.mask_network(seen)
        return logits

    def plan(self, seen: Tensor, mask: Tensor) -> Tensor:
        """Cheapest plan of a set of features.

        Args:
            seen: From ``describe``, shape ``(n, inputs)``.
            mask: The set, 0/1, shape ``(n, K)``, float32.

        Returns:
            Change of each feature in standard deviations, ``(n, K)``, 0 outside the set.
        """
        change: Tensor = self.action_network(torch.cat([seen, mask], dim=1))
        return change * mask

    def log_margin(self, seen: Tensor, mask: Tensor) -> Tensor:
        """Logarithm of the margin that the cheapest plan of a set needs, in log-odds, ``(n,)``.

        Args:
            seen: See ``plan``.
            mask: See ``plan``.
        """
        log_margin: Tensor = self.margin_network(torch.cat([seen, mask], dim=1))
        return log_margin.squeeze(1)


def _held(values: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Values inside the limits, whose gradient can draw them in again but not push them out."""
    inside = torch.clamp(values.detach(), lower, upper)
    if not values.requires_grad:
        return inside
    low, high = values.detach() <= lower, values.detach() >= upper

    def without_outward(gradient: Tensor) -> Tensor:
        return gradient.masked_fill((low & (gradient > 0)) | (high & (gradient < 0)), 0.0)

    values.register_hook(without_outward)  # type: ignore[no-untyped-call]
    return inside + (values - values.detach())


def smooth_mlp(n_in: int, hidden: tuple[int, ...], n_out: int) -> nn.Sequential:
    """Linear layers with SiLU in between; it starts at 0, so that seeds start alike."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_in, width), nn.SiLU()]
        n_in = width
    last = nn.Linear(n_in, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


# Margins below this are as good as none; those beyond are asked of nobody.
LEAST, WIDEST = 1e-3, 30.0
# Standard deviations of room that count as much; beyond these, a row or a weight looks the same.
ROOM = 2.0
FAR = 8.0
HEAVY = 3.0
# Log-odds that everybody lacks at least, where the price of one is told.
CLOSE = 0.1
