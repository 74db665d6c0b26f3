"""Menus: the plans of each person that are worth a choice, the cheapest first."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.recourse.candidates import lowest
from carma.recourse.plans import Plans
from carma.recourse.status import Status

__all__ = ["falls_short", "menus_of"]


def menus_of(
    plans: Plans,
    owner: Tensor,
    x: Tensor,
    before: Tensor,
    n_plans: int,
    actions: Tensor,
    validity: float | None,
) -> list[Plans]:
    """The cheapest plans of each person that no cheaper one makes useless.

    Args:
        plans: Checked ones, those of one person next to each other.
        owner: Whose each plan is, rising, int64.
        x: Factual rows of the n people, model space.
        before: Their probabilities today, shape ``(n,)``.
        n_plans: Plans wanted of each.
        actions: First column of each actionable feature: what passing time moves is no action.
        validity: Probability with which plans shall hold; what falls short of it is for those
            only who have nothing that does not. ``None``: none is asked for.

    Returns:
        ``n_plans`` answers: every person's best plan first.
    """
    n = len(x)
    rank = plans.cost.nan_to_num(torch.inf)
    if validity is not None:
        is_short = falls_short(plans, validity)
        has_sure = torch.zeros(n, dtype=torch.bool)
        has_sure[owner[torch.isfinite(rank) & ~is_short]] = True
        rank = torch.where(is_short & has_sure[owner], torch.inf, rank)
    if n_plans == 1:
        return [plans[lowest(rank, owner, n, 1)]]
    sizes = torch.bincount(owner, minlength=n)
    each = int(sizes.max())
    nth = torch.arange(len(owner)) - (sizes.cumsum(0) - sizes)[owner]
    row = torch.zeros(n, each, dtype=torch.long)
    cost = torch.full((n, each), torch.inf, dtype=rank.dtype)
    row[owner, nth], cost[owner, nth] = torch.arange(len(owner)), rank
    order = cost.argsort(dim=1, stable=True)
    cost, row = cost.gather(1, order), row.gather(1, order)
    mask = plans.mask[row][..., actions]
    within = ~(mask[:, :, None] & ~mask[:, None]).any(dim=3)
    earlier = torch.ones(each, each, dtype=torch.bool).triu(1)
    works = torch.isfinite(cost)
    is_useless = (within & earlier & works[:, :, None]).any(dim=1)
    rank = torch.where(works & ~is_useless, 0, 1).argsort(dim=1, stable=True)
    row, offered = row.gather(1, rank), (works & ~is_useless).gather(1, rank)
    menus = [plans[row[:, 0]]]
    for k in range(1, n_plans):
        further = Plans.without(x, before, Status.NO_OTHER)
        if k < each:
            has_it = offered[:, k]
            further.put(has_it, plans[row[has_it, k]])
        menus.append(further)
    return menus


def falls_short(plans: Plans, validity: float) -> Tensor:
    """Which plans are less likely to hold than asked for, bool; not those of which it is unknown.

    Args:
        plans: n of them.
        validity: Probability asked for.
    """
    return plans.expected_validity < validity - ROUNDING


# Of a probability.
ROUNDING = 1e-6
