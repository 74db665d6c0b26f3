"""Plans of others are found by what matters, not by who is alike."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from carma import TrainingSettings
from carma.recourse.precedents import Precedents
from carma.recourse.retrieval import WAYS, Retrieval, Tried
from carma.state import seeded
from carma.table import Statistics

SETTINGS = TrainingSettings(epochs=40, batch_size=128, learning_rate=6e-3, weight_decay=1e-2)
N_KNOWN, N_INPUTS = 200, 6


def statistics() -> Statistics:
    one = torch.ones(3, dtype=torch.float64)
    return Statistics(0 * one, one, -3 * one, 3 * one)


def seen_of(n: int, seed: int) -> Tensor:
    return torch.randn(n, N_INPUTS, generator=seeded(seed))


@cache
def known() -> Precedents:
    """Plans that set the second column to what only the first input of their people tells."""
    seen = seen_of(N_KNOWN, 0)
    mask = torch.zeros(N_KNOWN, 3, dtype=torch.bool)
    mask[:, 1] = True
    values = torch.where(mask, 1 + seen[:, :1].double().abs(), 0.0)
    return Precedents(seen, mask, values, torch.zeros_like(mask))


def cost_of(seen: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """As far as it takes, and as it is: who needs more than a plan sets, may not follow it."""
    needed, told = 1 + seen[:, :1].abs(), known().values[:, 1].float()[at]
    return 0.01 + (told - needed).abs(), torch.where(told >= needed, told, torch.inf)


@cache
def learned() -> Retrieval:
    torch.manual_seed(0)
    retrieval, seen = Retrieval(torch.tensor([1]), statistics(), N_INPUTS), seen_of(1500, 1)
    at = torch.rand(1500, N_KNOWN, generator=seeded(2)).topk(100).indices
    assert retrieval.learn(seen, known(), Tried(at, *cost_of(seen, at)), SETTINGS, progress=False)
    return retrieval


@pytest.mark.parametrize("way", [0, 1])
def test_what_suits_is_found_and_who_is_alike_does_not_matter(way: int) -> None:
    seen = seen_of(400, 3)
    every = cost_of(seen, torch.arange(N_KNOWN).expand(400, -1))[way]
    least = every.amin(dim=1)
    assert int(torch.isfinite(least).sum()) > 350
    chosen, near = (
        every.gather(1, at).amin(dim=1)
        for at in (learned().best(seen, known(), 9), known().near(seen, 9))
    )
    # Where no plan is sure, nothing is to be found.
    some = torch.isfinite(least)
    lost = {name: (found - least)[some] for name, found in (("suits", chosen), ("near", near))}
    assert float(torch.isfinite(lost["suits"]).double().mean()) > 0.97
    both = torch.isfinite(lost["suits"]) & torch.isfinite(lost["near"])
    assert float(lost["suits"][both].mean()) < 0.5 * float(lost["near"][both].mean())


@pytest.mark.parametrize("count", [1, 2, len(WAYS), 10, N_KNOWN, 10 * N_KNOWN])
def test_no_plan_is_found_twice_and_there_are_as_many_as_asked_for(count: int) -> None:
    at = learned().best(seen_of(5, 4), known(), count)
    assert at.shape == (5, min(count, N_KNOWN))
    assert all(len(set(row)) == len(row) for row in at.tolist())


@pytest.mark.parametrize("count", [0, 1, 10, N_KNOWN])
def test_what_is_there_already_is_not_found_again(count: int) -> None:
    seen, best = seen_of(5, 4), learned().best(seen_of(5, 4), known(), N_KNOWN)
    alike = known().near(seen, 30)
    at = learned().best(seen, known(), count, alike)
    assert at.shape == (5, min(count, N_KNOWN - 30))
    both = torch.cat([alike, at], dim=1).tolist()
    assert all(len(set(row)) == len(row) for row in both)
    if count == 1:
        # The best of the first way, but for those that are there.
        for row, had, ranked in zip(at.tolist(), alike.tolist(), best.tolist(), strict=True):
            first_way = ranked[: -(-N_KNOWN // len(WAYS))]
            assert row[0] == next(plan for plan in first_way if plan not in had)


def test_answers_do_not_depend_on_the_batch() -> None:
    seen = seen_of(300, 5)
    whole = learned().best(seen, known(), 12)
    order = torch.randperm(300, generator=seeded(6))
    parts = [learned().best(seen[rows], known(), 12) for rows in torch.split(order, 37)]
    assert torch.equal(torch.cat(parts), whole[order])


def test_plans_that_were_not_there_to_learn_from_are_found_as_well() -> None:
    rows = torch.arange(0, N_KNOWN, 2)
    seen = seen_of(200, 7)
    at = rows[learned().best(seen, known()[rows], 9)]
    promise = cost_of(seen, at)[0].amin(dim=1)
    least = cost_of(seen, rows.expand(200, -1))[0].amin(dim=1)
    assert float((promise - least).mean()) < 0.1


def test_nothing_is_learned_where_no_plan_suits_anybody() -> None:
    retrieval, seen = Retrieval(torch.tensor([1]), statistics(), N_INPUTS), seen_of(50, 1)
    before = {name: tensor.clone() for name, tensor in retrieval.state_dict().items()}
    nowhere = torch.full((50, 4), torch.inf)
    tried = Tried(torch.arange(4).expand(50, -1), nowhere, nowhere)
    assert retrieval.learn(seen, known(), tried, SETTINGS, progress=False) is None
    assert all(torch.equal(before[name], now) for name, now in retrieval.state_dict().items())
