"""The cheapest change inside a box that a linear condition asks for, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cheapest_change"]


def cheapest_change(
    price: Tensor, slope: Tensor, needed: Tensor, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Minimise a separable quadratic under one linear inequality and bounds.

    .. math:: \min_\delta \sum_i p_i \delta_i^2 \quad \text{subject to} \quad
              a \cdot \delta \ge r, \; l \le \delta \le u

    The minimiser is :math:`\delta_i = \text{clip}(\mu a_i / p_i, l_i, u_i)`, where
    :math:`a \cdot \delta` rises with the multiplier in straight pieces: sorting where each
    coordinate meets its bound finds the piece, hence no iteration. Coordinates do not see each
    other's rows.

    Args:
        price: Above 0, shape ``(d,)`` or ``(n, d)``.
        slope: a, shape ``(n, d)``.
        needed: r, shape ``(n,)``.
        lower: At most 0, shape ``(n, d)``; may be infinite.
        upper: At least 0, shape ``(n, d)``; may be infinite.

    Returns:
        The change ``(n, d)`` and the multiplier :math:`\mu` ``(n,)``. Where no change is enough,
        the one that comes nearest.

    Example:
        >>> one = torch.ones(1, 2)
        >>> change, _ = cheapest_change(one, one, torch.tensor([3.0]), -one, 2 * one)
        >>> change.tolist()
        [[1.5, 1.5]]
    """
    if slope.numel() < MANY:
        return _cheapest(price, slope, needed, lower, upper)
    # Often few columns have a slope in any row, and sorting is what takes long.
    at = slope.count_nonzero(dim=0).nonzero().squeeze(1)
    if not len(at):
        at = torch.zeros(1, dtype=torch.long)
    few = [t.index_select(-1, at) for t in (price, slope, lower, upper)]
    change, multiplier = _cheapest(few[0], few[1], needed, few[2], few[3])
    return torch.zeros_like(slope).index_copy_(1, at, change), multiplier


def _cheapest(
    price: Tensor, slope: Tensor, needed: Tensor, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    rate = slope / price
    bound = torch.where(slope > 0, upper, lower)
    helps = slope * bound > 0
    meets = torch.where(helps, bound / torch.where(helps, rate, 1.0), 0.0)
    meets, order = meets.sort(dim=-1)
    reach = torch.where(helps, slope * bound, 0.0).gather(-1, order)
    speed = torch.where(helps, slope * rate, 0.0).gather(-1, order)
    # Before the k-th meeting: what the coordinates at their bounds give, how fast the rest gain.
    # No difference of sums, as a bound may be infinite.
    given = torch.cat([torch.zeros_like(reach[..., :1]), reach[..., :-1].cumsum(-1)], dim=-1)
    gains = speed.flip(-1).cumsum(-1).flip(-1)
    total = given + meets * gains
    asked = needed.unsqueeze(-1)
    piece = (total < asked).sum(-1, keepdim=True)
    is_short = piece == slope.shape[-1]
    piece = piece.clamp(max=slope.shape[-1] - 1)
    inside = (asked - given.gather(-1, piece)) / gains.gather(-1, piece).clamp(min=1e-300)
    multiplier = torch.where(is_short, meets[..., -1:], inside)
    multiplier = torch.where(asked <= 0, 0.0, multiplier)
    change = torch.where(helps, torch.clamp(multiplier * rate, lower, upper), 0.0)
    return change, multiplier.squeeze(-1)


# Numbers from which on it pays to look for columns without slopes.
MANY = 10_000
