"""What a plan has to reach: measured for any plan of any batch of people."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import Limits, PlanLimits, are_finite, joined_or_none, taking
from carma.errors import SettingsError
from carma.interventions import Intervention
from carma.table import Encoding

__all__ = ["People", "Target", "check_margin"]

Follow = Callable[[Tensor, Intervention, Tensor], Tensor]


@dataclass(frozen=True)
class People:
    """One batch of people, or the same people several times.

    Args:
        x: Factual rows, shape ``(n, d)``, model space.
        u: Their exogenous values, shape ``(n, n_latents)``.
        limits: Their boxes.
        weights: Personal factors on the price of each change, shape ``(n, d)``; ``None`` is 1.
        aim: Log-odds past the target's own aim that each asks for, shape ``(n,)``; ``None`` is 0.
        given: What is set in any case, besides what a plan sets; ``None`` is nothing.
        start: What follows from that alone, shape ``(n, d)``; ``None`` is ``x``.
        gaps: Missing values that ``x`` has a guess for but the classifier is to see as missing,
            shape ``(n, d)``, bool; ``None`` is none.
    """

    x: Tensor
    u: Tensor
    limits: Limits
    weights: Tensor | None = None
    aim: Tensor | None = None
    given: Intervention | None = None
    start: Tensor | None = None
    gaps: Tensor | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.x)

    def __getitem__(self, rows: Tensor | slice) -> People:
        """Some of the rows, by position, slice or bool."""
        return self._each(taking(rows))

    def cloned(self) -> People:
        """Copies that slopes can be had through, also of tensors made in inference mode."""
        return self._each(Tensor.clone)

    @classmethod
    def joined(cls, parts: list[People]) -> People:
        """Put batches one after the other; what one of them leaves open, all must."""
        limits = Limits.joined([part.limits for part in parts])
        x, u = (torch.cat([getattr(p, name) for p in parts]) for name in ("x", "u"))
        weights, aim, start, gaps = (
            joined_or_none([getattr(p, n) for p in parts])
            for n in ("weights", "aim", "start", "gaps")
        )
        given = [p.given for p in parts if p.given is not None]
        whole = Intervention.joined(given) if given else None
        return cls(x, u, limits, weights, aim, whole, start, gaps)

    @property
    def stand(self) -> Tensor:
        """Where people stand before a plan sets anything, shape ``(n, d)``."""
        return self.x if self.start is None else self.start

    def do(self, mask: Tensor, values: Tensor) -> Intervention:
        """All that is set by a plan: what is given, and what passing time moves, too.

        Args:
            mask: Columns that the plan sets, shape ``(n, d)``, bool.
            values: Same shape.
        """
        if self.given is not None:
            values = torch.where(self.given.mask, self.given.values, values)
            mask = mask | self.given.mask
        rules = self.limits.rules
        if rules is not None and rules.take_time:
            mask, values = rules.with_time(self.x, mask, values)
        return Intervention(mask, values)

    def after(self, given: Intervention) -> People:
        """The same people, for whom so much is set in any case; ``start`` stays what it was."""
        return replace(self, limits=replace(self.limits, given=given.mask), given=given)

    def repeated(self, times: int) -> People:
        """Every row ``times`` times in a row."""
        return self[torch.arange(len(self)).repeat_interleave(times)]

    def seen(self, reached: Tensor, mask: Tensor, encoding: Encoding) -> Tensor:
        """What a classifier that takes gaps sees of rows: what was missing and is not set, is.

        Args:
            reached: Rows, shape ``(n, d)``.
            mask: Columns set, same shape, bool.
            encoding: Of the schema; what is computed from a gap is one.
        """
        if self.gaps is None:
            return reached
        return encoding.derive(torch.where(self.gaps & ~mask, torch.nan, reached))

    def _each(self, function: Callable[[Tensor], Tensor]) -> People:
        done: dict[int, Tensor] = {}

        def once(tensor: Tensor) -> Tensor:
            # What is given stands in the box, too.
            if id(tensor) not in done:
                done[id(tensor)] = function(tensor)
            return done[id(tensor)]

        weights = None if self.weights is None else once(self.weights)
        aim = None if self.aim is None else once(self.aim)
        given = None if self.given is None else self.given.each(once)
        start = None if self.start is None else once(self.start)
        gaps = None if self.gaps is None else once(self.gaps)
        x, u = once(self.x), once(self.u)
        return People(x, u, self.limits.each(once), weights, aim, given, start, gaps)


class Target:
    """Tells how far past its aim a plan lands.

    Args:
        follow: ``(x, intervention, u) -> `` what the solver believes to follow.
        classifier: Decides.
        limits: Its declared bounds hold for what follows.
        margin: Aim this far past the threshold, or either edge of a band, as a probability.

    Attributes:
        owners: Position of the feature that each column belongs to, shape ``(d,)``, int64.
    """

    def __init__(
        self, follow: Follow, classifier: Classifier, limits: PlanLimits, margin: float
    ) -> None:
        self._follow, self._classifier, self._limits = follow, classifier, limits
        self.owners = torch.tensor(limits.encoding.owners)
        decision = classifier.decision
        low, high = decision.edges(margin)
        # The sigmoid of the logit of a number may fall a rounding error short of it, which takes
        # the more to mend the flatter the sigmoid is there.
        self.logit = low + 1e-12 + 1e-15 / (1 - (decision.low + margin))
        # A band has an upper edge as well.
        self.most = high
        if not math.isinf(high):
            self.most = high - 1e-12 - 1e-15 / (1 - (decision.high - margin))

    @property
    def settable(self) -> Tensor:
        """Columns that an intervention can hold: all but derived ones, shape ``(d,)``, bool."""
        return ~self._limits.encoding.is_derived

    def surplus(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        """Log-odds past the aim, shape ``(n,)``: a plan works where it is at least 0.

        Where something that follows would leave its declared bounds, how far it leaves them
        (as a share of their width, negative) if that is less. Never NaN.
        """
        if values.requires_grad:
            return self._surplus(people, mask, values)[0]
        return self.surplus_and_rows(people, mask, values)[0]

    def surplus_and_rows(
        self, people: People, mask: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The surplus, ``(n,)``, and the rows that plans lead to, ``(n, d)``.

        Args:
            people: n rows.
            mask: Columns set, shape ``(n, d)``, bool.
            values: Same shape.
        """
        if len(people) <= AT_ONCE:
            return self._surplus(people, mask, values)
        parts = [self._surplus(people[at], mask[at], values[at]) for at in _parts(len(people))]
        surplus, rows = zip(*parts, strict=True)
        return torch.cat(surplus), torch.cat(rows)

    def _surplus(self, people: People, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        reached, ahead = self._reached_by(people, people.do(mask, values))
        if people.aim is not None:
            ahead = ahead - people.aim
        room = self._limits.room(people.x, reached.detach())
        # Room that is left must not count: the slope would be that of the nearest bound, and
        # with a feature on its bound, no walk could tell how far past the aim it is.
        is_outside = room < 0
        if bool(is_outside.any()):
            if reached.requires_grad:
                room = self._limits.room(people.x, reached)
            ahead = torch.where(is_outside, torch.minimum(ahead, room), ahead)
        ahead = torch.where(are_finite(reached), ahead, -torch.inf)
        return ahead.nan_to_num(-torch.inf, neginf=-torch.inf), reached

    def _reached_by(self, people: People, do: Intervention) -> tuple[Tensor, Tensor]:
        """What follows from what is set, ``(n, d)``, and how far past the decision, ``(n,)``."""
        reached = self._follow(people.x, do, people.u)
        seen = reached
        if self._classifier.takes_gaps:
            seen = people.seen(reached, do.mask, self._limits.encoding)
        logit = self._classifier.logit(seen)
        ahead = logit - self.logit
        if not math.isinf(self.most):
            ahead = torch.minimum(ahead, self.most - logit)
        return reached, ahead

    def is_missed(self, lowest: Tensor, highest: Tensor) -> Tensor:
        """Where no log-odds between two bounds reach the aim, bool, shape ``(n,)``."""
        return (highest < self.logit) | (lowest > self.most)

    def side(self, x: Tensor) -> Tensor:
        """1 where log-odds have to rise, -1 where they are past the upper edge, ``(n,)``.

        Args:
            x: Rows, shape ``(n, d)``.
        """
        if math.isinf(self.most):
            return torch.ones_like(x[:, 0])
        return torch.where(self._classifier.logit(x) > self.most, -1.0, 1.0).to(x.dtype)

    def surplus_and_slope(
        self, people: People, mask: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The surplus and its gradient in the values set, ``(n,)`` and ``(n, d)``.

        The gradient is 0 where there is none, or where it is no number.
        """
        if len(people) <= AT_ONCE:
            return self._surplus_and_slope(people, mask, values)
        surplus, slope = zip(
            *(
                self._surplus_and_slope(people[at], mask[at], values[at])
                for at in _parts(len(people))
            ),
            strict=True,
        )
        return torch.cat(surplus), torch.cat(slope)

    def _surplus_and_slope(
        self, people: People, mask: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            free = values.detach().requires_grad_()
            surplus = self.surplus(people, mask, free)
            slope = torch.zeros_like(values)
            if surplus.requires_grad:
                (slope,) = torch.autograd.grad(surplus.sum(), free)
        return surplus.detach(), torch.where(mask, slope, 0.0).nan_to_num(0.0, 0.0, 0.0)


def _parts(n: int) -> list[slice]:
    """``n`` rows, as many at once as stay in the processor's cache between two steps."""
    return [slice(start, start + AT_ONCE) for start in range(0, n, AT_ONCE)]


# Rows for which plans are followed at once.
AT_ONCE = 8192


def check_margin(owner: str, margin: float, classifier: Classifier) -> None:
    """Refuse an aim that no probability reaches.

    Raises:
        SettingsError: ``threshold + margin`` is not below 1, or not below what half a band has.
    """
    decision = classifier.decision
    if not decision.has_room(margin):
        rule = f"stay below 1 - {decision.low:g}, what is left above the threshold"
        if decision.at_most is not None:
            rule = f"stay below half of {decision.high:g} - {decision.low:g}, the band's width"
        raise SettingsError.of(owner, "margin", rule, margin)
