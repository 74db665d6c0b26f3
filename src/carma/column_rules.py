"""The rules between actions, on the columns of model space."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.rules import ActionRules
from carma.table import Encoding

__all__ = ["ColumnRules"]


class ColumnRules:
    """``ActionRules`` as masks and values see them.

    Args:
        encoding: Of the schema, whose rules these are.

    Example:
        >>> from carma import CausalGraph, Feature, Schema
        >>> features = [Feature(name, role="actionable") for name in ("rent", "buy")]
        >>> rules = ActionRules(exclusive=[("rent", "buy")])
        >>> schema = Schema(features, CausalGraph(("rent", "buy")), rules=rules)
        >>> sets = torch.tensor([[True, False], [True, True]])
        >>> ColumnRules(Encoding(schema)).allow(sets).tolist()
        [True, False]
    """

    def __init__(self, encoding: Encoding) -> None:
        rules: ActionRules = encoding.schema.rules
        column, d = encoding.column, encoding.n_columns
        self._requires = [(column(a), column(b)) for a, b in rules.requires]
        self._together = [torch.tensor([column(n) for n in group]) for group in rules.together]
        self._exclusive = [torch.tensor([column(n) for n in group]) for group in rules.exclusive]
        self._weights = torch.zeros(len(rules.sums), d, dtype=torch.float64)
        for row, limit in enumerate(rules.sums):
            for name, weight in limit.of.items():
                self._weights[row, column(name)] = weight
        self._at_most = torch.tensor([s.at_most for s in rules.sums], dtype=torch.float64)
        self._links = []
        for link in rules.time:
            feature = encoding.schema[link.action]
            knots = None
            if isinstance(link.takes, tuple):
                # Codes may fall where levels rise.
                pairs = sorted(zip(feature.codes, link.takes, strict=True))
                knots = tuple(
                    torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True)
                )
            step = encoding.schema[link.moves].step or 0.0
            if encoding.schema[link.moves].kind == "integer":
                step = step or 1.0
            falls = feature.has_levels and feature.codes[0] > feature.codes[-1]
            rate = link.takes if isinstance(link.takes, float) else 0.0
            self._links.append(
                (column(link.action), column(link.moves), knots, -rate if falls else rate, step)
            )

    @property
    def bind_sets(self) -> bool:
        """Whether any rule is about which features are acted on."""
        return bool(self._requires or self._together or self._exclusive)

    @property
    def bind_sums(self) -> bool:
        """Whether there is a linear limit."""
        return len(self._at_most) > 0

    @property
    def take_time(self) -> bool:
        """Whether an action takes time."""
        return bool(self._links)

    @property
    def timed(self) -> list[tuple[int, int]]:
        """Column of each action that takes time, and the column that time moves."""
        return [(action, moved) for action, moved, *_ in self._links]

    def allow(self, masks: Tensor) -> Tensor:
        """Which sets of columns keep the rules: bool, the shape of ``masks`` without its last."""
        allowed = torch.ones(masks.shape[:-1], dtype=torch.bool)
        for action, also in self._requires:
            allowed &= ~masks[..., action] | masks[..., also]
        for group in self._together:
            chosen = masks[..., group]
            allowed &= chosen.all(dim=-1) | ~chosen.any(dim=-1)
        for group in self._exclusive:
            allowed &= masks[..., group].sum(dim=-1) <= 1
        return allowed

    def repaired(self, masks: Tensor) -> Tensor:
        """Sets without the columns that break a rule; of those that exclude each other, the first.

        Args:
            masks: Shape ``(..., d)``, bool.

        Returns:
            The same shape; every set is allowed.
        """
        # What cannot stay in any case must not keep out what it excludes.
        masks = self._complete(masks.clone())
        for group in self._exclusive:
            chosen = masks[..., group]
            masks[..., group] = chosen & (chosen.cumsum(dim=-1) == 1)
        return self._complete(masks)

    def _complete(self, masks: Tensor) -> Tensor:
        """Drop, in place, what lacks a condition or the rest of its group."""
        # Dropping one feature may take another one's condition away.
        for _ in range(len(self._requires) + len(self._together)):
            for action, also in self._requires:
                masks[..., action] &= masks[..., also]
            for group in self._together:
                masks[..., group] &= masks[..., group].all(dim=-1, keepdim=True)
        return masks

    def with_time(self, x: Tensor, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mask and values together with what passing time sets.

        Args:
            x: Factual rows, shape ``(n, d)``.
            mask: Columns acted on, same shape, bool.
            values: Set there; differentiable.
        """
        passed: dict[int, Tensor] = {}
        for action, moved, knots, rate, step in self._links:
            is_set = mask[:, action]
            after = torch.where(is_set, values[:, action], x[:, action])
            if knots is None:
                time = rate * (after - x[:, action])
            else:
                time = _between(after, *knots) - _between(x[:, action], *knots)
            time = time.clamp(min=0)
            if step:
                whole = (time.detach() / step - 1e-9).ceil() * step
                time = whole + (time - time.detach()) if time.requires_grad else whole
            time = torch.where(is_set, time, 0.0)
            passed[moved] = torch.maximum(passed[moved], time) if moved in passed else time
        if not passed:
            return mask, values
        at, time = torch.tensor(list(passed)), torch.stack(list(passed.values()), dim=1)
        takes_time = time.detach() > 0
        later = torch.where(takes_time, x[:, at] + time, values[:, at])
        return mask.index_copy(1, at, takes_time), values.index_copy(1, at, later)

    def room(self, x: Tensor, reached: Tensor, width: Tensor) -> Tensor:
        """How far inside the linear limits rows lie, in typical widths, shape ``(n,)``.

        Args:
            x: Factual rows, which may be beyond a limit as far as they are.
            reached: What they become, shape ``(n, d)``.
            width: Of each column, above 0.
        """
        scale = (self._weights * width).norm(dim=1)
        at_most = torch.maximum(self._at_most, x @ self._weights.T)
        room = (at_most - reached @ self._weights.T) / scale
        # To rounding, on the limit is inside.
        return torch.where(room.detach() > -ROUNDING, room.clamp(min=0), room).amin(dim=1)


def _between(value: Tensor, knots: Tensor, heights: Tensor) -> Tensor:
    """Straight lines between knots, level beyond the ends."""
    right = torch.searchsorted(knots, value.detach().contiguous()).clamp(1, len(knots) - 1)
    share = (value - knots[right - 1]) / (knots[right] - knots[right - 1])
    return heights[right - 1] + share.clamp(0, 1) * (heights[right] - heights[right - 1])


ROUNDING = 1e-9
