"""The closed form: linear mechanisms, linear classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.costs import Cost
from carma.recourse.candidates import Candidates
from carma.recourse.halfspace import cheapest_change
from carma.recourse.target import People, Target

__all__ = ["LinearSearch", "total_effects"]


class LinearSearch:
    """The optimum of every set of features where everything is linear.

    With direct effects A, the total effect of setting the features S is
    :math:`(I - A_S)^{-1}`, where A_S has no arrows into S (``total_effects``). The log-odds
    are then linear in the values set, and the cheapest plan is that of ``cheapest_change``.

    Args:
        target: What to reach.
        cost: What plans cost, quadratic.
        effects: Direct effects, ``[i, j]`` of column j on column i, shape ``(d, d)``.
        weights: Of the classifier's log-odds, shape ``(d,)``.
    """

    def __init__(self, target: Target, cost: Cost, effects: Tensor, weights: Tensor) -> None:
        self._target, self._cost = target, cost
        self._effects, self._weights = effects, weights

    def candidates(self, people: People, masks: Tensor) -> Candidates:
        """The best plan of each set; see ``WalkSearch.candidates``."""
        person, subset = masks.any(dim=2).nonzero(as_tuple=True)
        mask = masks[person, subset]
        kinds, kind = torch.unique(mask, dim=0, return_inverse=True)
        d = len(self._weights)
        each = len(kinds)
        effects, weights = self._effects.expand(each, d, d), self._weights.expand(each, d)
        slope = total_effects(effects, weights, kinds)[kind]
        some = people[person]
        # Who is past the upper edge of a band has to come down.
        slope = slope * self._target.side(some.x)[:, None]
        nothing = torch.zeros_like(mask)
        needed = -self._target.surplus(some, nothing, some.x)
        lower = torch.where(mask, some.limits.lower - some.x, 0.0)
        upper = torch.where(mask, some.limits.upper - some.x, 0.0)
        slack = SLACK * (1 + needed.abs())
        prices = self._cost.prices(some.x, mask, some.x, some.weights)
        change, _ = cheapest_change(prices, slope, needed + slack, lower, upper)
        reached = (slope * change).sum(dim=1) >= needed
        values = torch.where(
            mask, (some.x + change).clamp(some.limits.lower, some.limits.upper), some.x
        )
        cost = torch.where(reached, self._cost(some.x, mask, values, some.weights), torch.inf)
        effort = torch.bincount(person, minlength=len(people))
        return Candidates(people, person, mask, values, cost, effort)


def total_effects(effects: Tensor, weights: Tensor, masks: Tensor) -> Tensor:
    """Change of a linear score per unit of each value set.

    Args:
        effects: Direct effects ``[n, i, j]`` of column j on column i, shape ``(n, d, d)``.
        weights: Of the score, shape ``(n, d)``.
        masks: Columns set, shape ``(n, d)``, bool: nothing acts on them.

    Returns:
        Shape ``(n, d)``, 0 where nothing is set.

    Example:
        >>> effects = torch.tensor([[[0.0, 0.0], [0.5, 0.0]]])
        >>> total_effects(effects, torch.ones(1, 2), torch.tensor([[True, False]])).tolist()
        [[1.5, 0.0]]
    """
    cut = effects.masked_fill(masks[:, :, None], 0.0)
    eye = torch.eye(effects.shape[1], dtype=cut.dtype)
    # The row vector w (I - A_S)^-1.
    total = torch.linalg.solve(eye - cut, weights[:, None], left=False)
    return torch.where(masks, total.squeeze(1), 0.0)


SLACK = 1e-9
