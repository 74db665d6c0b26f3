"""The hard limits of a plan: check them and project onto them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from carma.column_rules import ColumnRules
from carma.interventions import Intervention
from carma.rules import ActionRules
from carma.table import Encoding, Statistics

__all__ = ["Limits", "PlanLimits", "are_finite", "joined_or_none", "taking"]

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Limits:
    """The box that one batch of people may move in.

    Args:
        lower: Shape ``(n, d)``, model space; equals the person's own value where it may not
            fall.
        upper: Shape ``(n, d)``, model space; equals the person's own value where it may not
            rise.
        may_act: Columns that the person may act on, shape ``(n, d)``, bool.
        max_actions: Act on at most so many features, shape ``(n,)``, int64; ``None`` is no limit.
        rules: Between actions; ``None`` is none.
        given: Columns that are set in any case, shape ``(n, d)``, bool; ``None`` is none.

    Columns of features that are set level by level never move inside a box: what may be set there
    is in ``may_act``, and ``given`` says what is.
    """

    lower: Tensor
    upper: Tensor
    may_act: Tensor
    max_actions: Tensor | None = None
    rules: ColumnRules | None = None
    given: Tensor | None = None

    def narrowed(self, other: Limits) -> Limits:
        """What both allow."""
        fewest = [m for m in (self.max_actions, other.max_actions) if m is not None]
        return Limits(
            torch.maximum(self.lower, other.lower),
            torch.minimum(self.upper, other.upper),
            self.may_act & other.may_act,
            torch.stack(fewest).amin(dim=0) if fewest else None,
            self.rules or other.rules,
            self.given,
        )

    def __getitem__(self, rows: Tensor | slice) -> Limits:
        """The boxes of some of the people."""
        return self.each(taking(rows))

    def each(self, function: Callable[[Tensor], Tensor]) -> Limits:
        """The same function of every tensor."""
        most = None if self.max_actions is None else function(self.max_actions)
        given = None if self.given is None else function(self.given)
        box = function(self.lower), function(self.upper), function(self.may_act)
        return Limits(*box, most, self.rules, given)

    @classmethod
    def joined(cls, parts: list[Limits]) -> Limits:
        """Put batches one after the other; what one of them leaves open, all must."""
        return cls(
            torch.cat([part.lower for part in parts]),
            torch.cat([part.upper for part in parts]),
            torch.cat([part.may_act for part in parts]),
            joined_or_none([part.max_actions for part in parts]),
            parts[0].rules,
            joined_or_none([part.given for part in parts]),
        )

    def allows(self, masks: Tensor) -> Tensor:
        """Which sets of columns may be acted on: bool, the shape of ``masks`` without its last.

        Args:
            masks: Shape ``(n, d)`` or ``(n, m, d)``, bool.
        """
        may_act, most = self.may_act, self.max_actions
        if masks.ndim == 3:
            may_act = may_act[:, None]
            most = None if most is None else most[:, None]
        allowed = ~(masks & ~may_act).any(dim=-1)
        if most is not None:
            allowed &= masks.sum(dim=-1) <= most
        return allowed & self.keeps_rules(masks)

    def keeps_rules(self, masks: Tensor) -> Tensor:
        """Which sets of columns keep the rules between actions; see ``allows``."""
        if self.rules is None or not self.rules.bind_sets:
            return torch.ones(masks.shape[:-1], dtype=torch.bool)
        given = self.given
        if given is not None:
            masks = masks | (given[:, None] if masks.ndim == 3 else given)
        return self.rules.allow(masks)

    @property
    def can_move(self) -> Tensor:
        """Columns that the person can set to another number, shape ``(n, d)``, bool."""
        return self.may_act & (self.lower < self.upper)

    @property
    def widest(self) -> Tensor:
        """As many of the columns that can move as the rules allow at once, ``(n, d)``, bool."""
        everything = self.can_move
        if self.rules is None or not self.rules.bind_sets:
            return everything
        if self.given is None:
            return self.rules.repaired(everything)
        return self.rules.repaired(everything | self.given) & everything


def joined_or_none(parts: list[Tensor | None]) -> Tensor | None:
    """All parts as one tensor; ``None`` where none is given."""
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None


def taking(rows: Tensor | slice) -> Callable[[Tensor], Tensor]:
    """A function that takes some rows of any tensor.

    Args:
        rows: Positions, ``(k,)``, a slice, or bool, ``(n,)``.

    Example:
        >>> taking(torch.tensor([True, False, True]))(torch.tensor([[1.0], [2.0], [3.0]])).tolist()
        [[1.0], [3.0]]
    """
    if isinstance(rows, slice):
        return lambda tensor: tensor[rows]
    at = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
    return lambda tensor: tensor.index_select(0, at)


def are_finite(rows: Tensor) -> Tensor:
    """Which rows hold finite numbers only, bool, ``(n, d)`` to ``(n,)``."""
    # NaN counts as the largest.
    return rows.detach().abs().amax(dim=1) < torch.inf


class PlanLimits:
    """What a schema allows: declared bounds, directions, steps and levels.

    A feature without declared bounds may move within the range of the training table, and a
    nominal one to the levels that somebody has there. A person's own value is always inside the
    box, also when it lies outside that range.

    Args:
        encoding: Of the schema.
        statistics: Of the training table; without it, a feature without declared bounds may
            move anywhere.

    Attributes:
        moves: Which moves between levels are open, bool, ``(from, to)``; by feature.

    Example:
        >>> from carma.benchmarks import load
        >>> data = load("loan", rows=500)
        >>> limits = PlanLimits(data.encoding, data.scm.statistics_)
        >>> x = data.encoded("recourse")[:1]
        >>> box = limits.around(x)
        >>> bool((box.lower <= x).all() and (x <= box.upper).all())
        True
    """

    def __init__(self, encoding: Encoding, statistics: Statistics | None) -> None:
        self.encoding = encoding
        d = encoding.n_columns
        self._lower = torch.full((d,), -torch.inf, dtype=torch.float64)
        self._upper = torch.full((d,), torch.inf, dtype=torch.float64)
        if statistics is not None:
            self._lower, self._upper = statistics.minimum.clone(), statistics.maximum.clone()
        self.rules = ColumnRules(encoding)
        self._has_rules = encoding.schema.rules != ActionRules()
        absent = torch.zeros(d, dtype=torch.bool)
        if statistics is not None:
            absent = statistics.absent(encoding)
        self.moves: dict[str, Tensor] = {}
        self._switches = []
        for feature in encoding.schema.switches:
            is_open = torch.tensor(feature.move_costs, dtype=torch.float64).isfinite()
            self.moves[feature.name] = is_open & ~absent[encoding.block(feature.name)]
            levels = [encoding.at_level(feature, i) for i in range(len(feature.levels))]
            self._switches.append((feature, torch.stack(levels)))
        self._by_level = encoding.moved_by_level
        self._width = torch.ones(d, dtype=torch.float64)
        if statistics is not None:
            self._width = torch.where(statistics.std > 0, statistics.std, 1.0)
        digits = _digits(self._width, self._lower, self._upper)
        self._may_act = torch.zeros(d, dtype=torch.bool)
        self._may_fall = torch.ones(d, dtype=torch.bool)
        self._may_rise = torch.ones(d, dtype=torch.bool)
        self._step = torch.zeros(d, dtype=torch.float64)
        self._origin = torch.zeros(d, dtype=torch.float64)
        self._least = torch.full((d,), -torch.inf, dtype=torch.float64)
        self._greatest = torch.full((d,), torch.inf, dtype=torch.float64)
        levelled: list[int] = []
        for feature in encoding.schema.features:
            i = encoding.column(feature.name)
            self._may_act[encoding.block(feature.name)] = feature.role == "actionable"
            self._may_fall[i] = feature.direction != "up"
            self._may_rise[i] = feature.direction != "down"
            if feature.kind == "nominal":
                continue
            if feature.has_levels:
                self._lower[i], self._upper[i] = min(feature.codes), max(feature.codes)
                if not self._may_fall[i] or not self._may_rise[i]:
                    self._orient(i, feature.codes)
                if not feature.is_switch:
                    levelled.append(i)
            elif feature.bounds is not None:
                self._lower[i], self._upper[i] = feature.bounds
                self._least[i], self._greatest[i] = feature.bounds
                self._origin[i] = feature.bounds[0]
            if feature.step is not None or feature.kind == "integer":
                self._step[i] = feature.step or 1.0
        self._least_ever, self._greatest_ever = self._least.clone(), self._greatest.clone()
        for feature in encoding.schema.features:
            if feature.has_levels:
                where = encoding.block(feature.name)
                codes = (0.0, 1.0) if feature.kind == "nominal" else feature.codes
                self._least_ever[where], self._greatest_ever[where] = min(codes), max(codes)
        self._bounded = torch.isfinite(self._least).nonzero().squeeze(1)
        self._bounds = self._least[self._bounded], self._greatest[self._bounded]
        self._codes = {
            i: torch.tensor(
                sorted(encoding.schema.features[encoding.owners[i]].codes), dtype=torch.float64
            )
            for i in levelled
        }
        # Least and greatest numbers wherever a person stands; what may not move stays there.
        holds_low = ~self._may_fall | self._by_level
        holds_high = ~self._may_rise | self._by_level
        self._floor = torch.where(holds_low, torch.inf, self._lower)
        self._ceiling = torch.where(holds_high, -torch.inf, self._upper)
        # All that a box lets move: numbers without steps, then those with steps, then levels.
        own = encoding.actionable.tolist()
        on_levels = [i for i in own if i in self._codes]
        on_steps = [i for i in own if i not in on_levels and self._step[i] > 0]
        free = [i for i in own if i not in on_levels and i not in on_steps]
        self._columns = torch.tensor(free + on_steps + on_levels, dtype=torch.long)
        self._on_grid = self._columns[len(free) :]
        self._n_free, self._n_steps, self._n_levels = len(free), len(on_steps), len(on_levels)
        # Levels have a step of 1 that nobody reads.
        self._steps = self._step[self._on_grid]
        self._steps[len(on_steps) :] = 1.0
        self._origins = self._origin[self._on_grid]
        # One row a column, filled up with infinities.
        sizes = [len(self._codes[i]) for i in on_levels]
        shape = len(sizes), max(sizes, default=0)
        self._levels = torch.full(shape, torch.inf, dtype=torch.float64)
        for row, i in enumerate(on_levels):
            self._levels[row, : sizes[row]] = self._codes[i]
        self._last_level = torch.tensor(sizes, dtype=torch.long)[:, None] - 1
        slack = [NEAR * float(self._codes[i].diff().min()) for i in on_levels]
        self._level_slack = torch.tensor(slack, dtype=torch.float64)[:, None]
        # A power of ten is exact, a tenth is not: divide where there are decimals.
        by = torch.pow(10.0, digits.abs().double())
        self._by = torch.where(digits >= 0, by, 1.0)[self._columns]
        self._over = torch.where(digits >= 0, 1.0, by)[self._columns]

    def around(self, x: Tensor) -> Limits:
        """The box of each person.

        Args:
            x: Factual rows, shape ``(n, d)``, model space.

        Returns:
            Bounds of the same shape.
        """
        lower, upper = torch.minimum(self._floor, x), torch.maximum(self._ceiling, x)
        rules = self.rules if self._has_rules else None
        return Limits(lower, upper, self._may_act.expand_as(x), rules=rules)

    def project(self, x: Tensor, values: Tensor, limits: Limits) -> Tensor:
        """Move values to the nearest plan that can be said and done.

        Values are clamped to the box, then moved to a step or level **away** from the
        person's own value, so that rounding does not undo a flip; where the box ends before
        that, back to the last step or level inside it, at most to the person's own value.
        Gradients pass straight through.

        Args:
            x: Factual rows, shape ``(n, d)``.
            values: Proposed values, same shape.
            limits: The boxes.

        Returns:
            The same shape; what is not actionable is clamped only.
        """
        exact = values.detach().clamp(limits.lower, limits.upper)
        at = self._on_grid
        if len(at):
            parts = (x, exact, limits.lower, limits.upper)
            own, value, low, high = (t.index_select(1, at) for t in parts)
            said = self._to_step(own, value, low, high) if self._n_steps else value
            if self._n_levels:
                grid = (own, value, low, high)
                said[:, self._n_steps :] = self._to_level(*(t[:, self._n_steps :] for t in grid))
            exact.index_copy_(1, at, said)
        # Adding an exact 0, where values + (exact - values) would round off the level.
        return exact + (values - values.detach()) if values.requires_grad else exact

    @property
    def is_coarse(self) -> Tensor:
        """Columns whose least move is much of their spread, shape ``(d,)``, bool."""
        steps = torch.tensor([self.step(i) for i in range(self.encoding.n_columns)])
        return steps.double() > COARSE * self._width

    def step(self, column: int) -> float:
        """Least move of a column: its step or narrowest level, 0 where it takes any number."""
        codes = self._codes.get(column)
        return float(self._step[column] if codes is None else codes.diff().min())

    def codes(self, column: int) -> Tensor | None:
        """The levels that a column may take, rising; ``None`` where it is a number."""
        return self._codes.get(column)

    def stays(self, x: Tensor, values: Tensor) -> Tensor:
        """Columns of features set level by level that are at the same level in two rows.

        Args:
            x: Factual rows, shape ``(n, d)``.
            values: Same shape.

        Returns:
            The same shape, bool.
        """
        found = torch.zeros_like(x, dtype=torch.bool)
        for feature, _ in self._switches:
            where = self.encoding.block(feature.name)
            found[:, where] = (values[:, where] == x[:, where]).all(dim=1, keepdim=True)
        return found

    @property
    def acted_on(self) -> Tensor:
        """Columns of actionable features, shape ``(d,)``, bool."""
        return self._may_act

    @property
    def has_grid(self) -> bool:
        """True when a feature that may be acted on takes steps or levels only."""
        return len(self._on_grid) > 0

    def permits(self, x: Tensor, intervention: Intervention, limits: Limits) -> Tensor:
        """Check what plans act on against every limit.

        Args:
            x: Factual rows, shape ``(n, d)``.
            intervention: The actions, without what time moves.
            limits: The boxes; with ``given``, they count the actions that are left besides it.

        Returns:
            Shape ``(n,)``, bool.
        """
        mask, values = intervention.mask, intervention.values
        parts = (x, values, limits.lower, limits.upper, mask)
        own, value, low, high, is_set = (t.index_select(1, self._columns) for t in parts)
        slack = TOLERANCE * (1 + own.abs())
        fits = (value >= low - slack) & (value <= high + slack) & torch.isfinite(value)
        if len(self._on_grid):
            fits &= self._exists(own, value)
        permitted = (fits | ~is_set).all(dim=1)
        free = mask & ~self._by_level
        if limits.given is None:
            # Moves between levels count, too; otherwise they have been counted.
            if limits.max_actions is not None:
                permitted &= mask[:, self.encoding.actions].sum(dim=1) <= limits.max_actions
            limits = replace(limits, given=mask & self._by_level)
        permitted &= limits.allows(free)
        for feature, rows in self._switches:
            where = self.encoding.block(feature.name)
            moves = mask[:, where].any(dim=1).nonzero().squeeze(1)
            if not len(moves):
                continue
            held, there = mask[moves, where], values[moves]
            to = self.encoding.level(there, feature)
            is_said = (rows[to] == there[:, where]).all(dim=1) & held.all(dim=1)
            is_open_to = self.moves[feature.name][self.encoding.level(x[moves], feature), to]
            permitted[moves] &= is_said & is_open_to & limits.may_act[moves, where.start]
        return permitted

    def can_exist(self, x: Tensor, reached: Tensor) -> Tensor:
        """Check whole rows against bounds and linear limits: what follows must be possible too.

        Args:
            x: Factual rows, shape ``(n, d)``, model space.
            reached: What they become, same shape.

        Returns:
            Shape ``(n,)``, bool.
        """
        possible = are_finite(reached)
        if len(self._bounded):
            bounded, (least, greatest) = reached.index_select(1, self._bounded), self._bounds
            slack = TOLERANCE * (1 + bounded.abs())
            possible &= ((bounded >= least - slack) & (bounded <= greatest + slack)).all(dim=1)
        if self.rules.bind_sums:
            possible &= self.rules.room(x, reached, self._width) >= 0
        return possible

    @property
    def is_bounded(self) -> Tensor:
        """Columns with declared bounds, shape ``(d,)``, bool."""
        return torch.isfinite(self._least)

    def reachable(self, x: Tensor, limits: Limits, follows: Tensor) -> tuple[Tensor, Tensor]:
        """A box that no plan leaves.

        Args:
            x: Factual rows, shape ``(n, d)``.
            limits: The boxes of what may be set.
            follows: Columns that may move as a consequence, shape ``(n, d)``, bool.

        Returns:
            Least and greatest values, ``(n, d)`` each; infinite where what follows is bounded by
            nothing but its causes.
        """
        lower = torch.where(limits.may_act, limits.lower, x)
        upper = torch.where(limits.may_act, limits.upper, x)
        lower = torch.where(follows, torch.minimum(lower, self._least_ever), lower)
        return lower, torch.where(follows, torch.maximum(upper, self._greatest_ever), upper)

    def room(self, x: Tensor, reached: Tensor) -> Tensor:
        """How far inside bounds and linear limits whole rows lie, shape ``(n,)``.

        As a share of a bound's width, for the column nearest to one of its bounds; negative
        outside; infinite where nothing is bounded.

        Args:
            x: Factual rows, shape ``(n, d)``, model space.
            reached: What they become, same shape.
        """
        room = torch.full((len(reached),), torch.inf, dtype=reached.dtype)
        if len(self._bounded):
            bounded, (least, greatest) = reached.index_select(1, self._bounded), self._bounds
            nearest = torch.minimum(bounded - least, greatest - bounded)
            room = (nearest / (greatest - least)).amin(dim=1)
        if self.rules.bind_sums:
            room = torch.minimum(room, self.rules.room(x, reached, self._width))
        return room

    def hold_inside(self, values: Tensor, limits: Limits, mask: Tensor) -> Tensor:
        """Return ``values``; their gradient cannot push chosen columns further out of the box.

        Args:
            values: Shape ``(n, d)``.
            limits: The boxes.
            mask: Chosen columns, shape ``(n, d)``, bool.
        """
        if values.requires_grad:
            low = mask & (values <= limits.lower)
            high = mask & (values >= limits.upper)

            def without_outward(gradient: Tensor) -> Tensor:
                outward = (low & (gradient > 0)) | (high & (gradient < 0))
                return gradient.masked_fill(outward, 0.0)

            values.register_hook(without_outward)  # type: ignore[no-untyped-call]
        return values

    def inward(self, x: Tensor, values: Tensor, share: float) -> Tensor:
        """Values a share, at least one step or level, nearer to the person's own, at most at it.

        Args:
            x: Factual rows, shape ``(n, d)``.
            values: On steps and levels, same shape.
            share: By which columns without levels come nearer, in whole steps if they have steps.

        Returns:
            The same shape; what is not actionable stays.
        """
        own, value = (t.index_select(1, self._columns) for t in (x, values))
        gap = value - own
        nearer = value - share * gap
        if self._n_steps:
            at = slice(self._n_free, None)
            stride = (share / self._steps * gap[:, at].abs()).floor().clamp(min=1) * self._steps
            taken = value[:, at] - gap[:, at].sign() * stride
            is_far = gap[:, at].abs() > self._steps * (1 + TOLERANCE)
            nearer[:, at] = torch.where(is_far, taken, own[:, at])
        if self._n_levels:
            at = slice(self._n_free + self._n_steps, None)
            here, way = value[:, at].T.contiguous(), gap[:, at].T
            place = torch.searchsorted(self._levels, here) - way.sign().long()
            level = self._levels.gather(1, place.clamp(min=0).minimum(self._last_level))
            nearer[:, at] = torch.where(way == 0, own[:, at].T, level).T
        return values.index_copy(1, self._columns, nearer)

    def said(self, x: Tensor, values: Tensor, limits: Limits) -> Tensor:
        """Round values to decimals that a file can hold, away from the person's own value.

        A number that is printed and read again is the same number: at most 15 digits, about eleven
        of them finer than a standard deviation.

        Args:
            x: Factual rows, shape ``(n, d)``.
            values: Of a plan, same shape.
            limits: The boxes; rounding never leaves them.

        Returns:
            The same shape; what is not actionable stays.
        """
        parts = (x, values, limits.lower, limits.upper)
        own, value, low, high = (t.index_select(1, self._columns) for t in parts)
        count = value * self._by / self._over
        near = count.round()
        outward = torch.where(value >= own, count.ceil(), count.floor())
        kept = torch.where((count - near).abs() < ALMOST, near, outward)
        rounded = kept / self._by * self._over
        is_told = (rounded >= low) & (rounded <= high) & (value != own)
        told = torch.where(is_told, rounded, value)
        return values.index_copy(1, self._columns, told)

    def _exists(self, own: Tensor, value: Tensor) -> Tensor:
        """True where a value lies on the feature's steps or levels, or is the person's own.

        Args:
            own: Of the columns that a box lets move, shape ``(n, k)``.
            value: Set there, same shape.
        """
        is_own = value == own
        exists = torch.ones_like(is_own)
        if self._n_steps:
            at = slice(self._n_free, None)
            count = (value[:, at] - self._origins) / self._steps
            exists[:, at] = (count - count.round()).abs() < NEAR
        if self._n_levels:
            at = slice(self._n_free + self._n_steps, None)
            here = value[:, at].T.contiguous()
            place = torch.searchsorted(self._levels, here).minimum(self._last_level)
            exists[:, at] = (self._levels.gather(1, place) == here).T
        return exists | is_own

    def _to_step(self, own: Tensor, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        step, origin = self._steps, self._origins
        count = (value - origin) / step
        rises = value >= own
        outward = torch.where(rises, (count - NEAR).ceil(), (count + NEAR).floor())
        last = ((high - origin) / step + NEAR).floor()
        first = ((low - origin) / step - NEAR).ceil()
        moved = (origin + outward.clamp(first, last) * step).clamp(low, high)
        turned = torch.where(rises, moved < own, moved > own)
        return torch.where((first > last) | turned | (value == own), own, moved)

    def _to_level(self, own: Tensor, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        own, value, low, high = (t.T.contiguous() for t in (own, value, low, high))
        levels, slack = self._levels, self._level_slack
        rises = value >= own
        least, most = low - slack, high + slack
        least = torch.where(rises, torch.maximum(value - slack, least), least)
        most = torch.where(rises, most, torch.minimum(value + slack, most))
        # The first level on the way, where there is one before the box ends.
        first = torch.searchsorted(levels, least)
        last = (torch.searchsorted(levels, most, right=True) - 1).minimum(self._last_level)
        place = torch.where(rises, first, last).clamp(0, levels.shape[1] - 1)
        kept = torch.where(first <= last, levels.gather(1, place), own)
        return torch.where(value.isnan(), value, kept).T

    def _orient(self, i: int, codes: tuple[float, ...]) -> None:
        """Up means towards the last level, also when codes fall."""
        if codes[0] > codes[-1]:
            fall, rise = bool(self._may_fall[i]), bool(self._may_rise[i])
            self._may_fall[i], self._may_rise[i] = rise, fall


def _digits(width: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Decimals of each column's values, negative for multiples of powers of ten, ``(d,)``."""
    largest = torch.maximum(lower.abs(), upper.abs())
    largest = torch.where(torch.isfinite(largest), largest, width)
    finest = torch.maximum(FINEST * width, SHORTEST * torch.maximum(largest, width))
    return -finest.log10().ceil().long()


# Shares of a standard deviation and of the largest value: what plans are rounded to.
FINEST, SHORTEST = 1e-11, 1e-15
ALMOST = 1e-3
COARSE = 0.1
# Share of a step or of the narrowest level that rounding may take.
NEAR = 1e-6
