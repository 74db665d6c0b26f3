"""Where plans start: what finished plans say of it, and that it is learned from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from carma import TrainingSettings
from carma.constraints import PlanLimits
from carma.graph import CausalGraph
from carma.recourse.compass import Compass
from carma.recourse.journeys import Journeys
from carma.recourse.target import People
from carma.schema import Feature, Schema
from carma.state import seeded
from carma.table import Encoding

JOB = Feature("job", "binary", role="actionable")
ENCODING = Encoding(
    Schema((JOB, Feature("hours", role="actionable")), CausalGraph(("job", "hours")))
)
QUICK = TrainingSettings(epochs=40, batch_size=64, learning_rate=1e-2)


def people(n: int = 400) -> People:
    x = torch.randn(n, 2, generator=seeded(1), dtype=torch.float64)
    x[:, 0] = 0
    limits = PlanLimits(ENCODING, None).around(x)
    return People(x, x, limits, torch.ones_like(x))


def describe(some: People) -> Tensor:
    return some.x.float()


def compass(places: int = 2) -> Compass:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Compass(describe, torch.tensor([1]), torch.tensor([0]), 2, places, (16,))


def journeys(cost: Tensor, validity: Tensor | None = None) -> Journeys:
    some = people(len(cost))
    validity = torch.ones_like(cost) if validity is None else validity
    everywhere = torch.ones_like(cost, dtype=torch.bool)
    return Journeys(some, everywhere, cost, validity, validity > 0.9)


def test_the_cheapest_sure_plan_counts_most() -> None:
    inf = torch.inf
    cost = torch.tensor([[1.0, 2.0, inf], [1.0, 1.01, 9.0], [0.1, 5.0, 5.0], [0.0, 0.0, 1.0]])
    validity = torch.tensor([[1.0, 1, 0], [1, 1, 1], [0.5, 0.95, 0.95], [1, 1, 1]])
    shares = journeys(cost.double(), validity.double()).shares
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(4))
    assert shares[0].argmax() == 0
    assert shares[0, 2] == 0
    assert shares[1, 0] > shares[1, 1] > 100 * shares[1, 2]
    # What is cheap but not sure is of no use to those who have something that is.
    assert shares[2].tolist() == pytest.approx([0, 0.5, 0.5], abs=1e-6)
    assert shares[3].tolist() == pytest.approx([0.5, 0.5, 0], abs=1e-6)


def test_of_people_without_a_sure_plan_the_surest_one_counts() -> None:
    cost = torch.tensor([[1.0, 5.0, torch.inf]]).double()
    shares = journeys(cost, torch.tensor([[0.2, 0.8, 0.0]]).double()).shares
    assert shares[0, 1] > 0.99
    assert shares[0, 2] == 0


def test_some_of_them_and_all_together() -> None:
    every = journeys(torch.rand(40, 3, generator=seeded(2), dtype=torch.float64))
    parts = [every[torch.arange(0, 15)], every[torch.arange(15, 40)]]
    joined = Journeys.joined(parts)
    assert len(joined) == len(every) == 40
    assert torch.equal(joined.is_sure, every.is_sure)
    assert torch.equal(joined.shares, every.shares)
    assert torch.equal(joined.people.x, every.people.x)


def test_it_learns_where_plans_start_from_what_people_are() -> None:
    some = people()
    right = (some.x[:, 1] > 0).long()
    cost = torch.ones(400, 2, dtype=torch.float64)
    cost[torch.arange(400), right] = 0.5
    one, other = compass(), compass()
    histories = [c.learn(journeys(cost), QUICK, progress=False) for c in (one, other)]
    assert histories[0].records[-1]["score"] < 0.5 * histories[0].records[0]["score"]
    everywhere = torch.ones(400, 2, dtype=torch.bool)
    likely = one.likely(some, everywhere, 1)
    assert torch.equal(likely.sum(dim=1), torch.ones(400, dtype=torch.long))
    assert (likely[:, 1] == right.bool()).double().mean() > 0.95
    # The same seed gives the same bits.
    assert torch.equal(likely, other.likely(some, everywhere, 1))


def test_it_never_points_to_where_nobody_may_go() -> None:
    some, pointer = people(30), compass(5)
    for weight in pointer.parameters():
        torch.nn.init.normal_(weight, generator=seeded(3))
    is_open = torch.rand(30, 5, generator=seeded(4)) < 0.5
    is_open[:, 0] = True
    for count in (1, 2, 7):
        likely = pointer.likely(some, is_open, count)
        assert not (likely & ~is_open).any()
        assert torch.equal(likely.sum(dim=1), is_open.sum(dim=1).clamp(max=count))


def test_only_what_moves_cost_beside_all_else_is_seen() -> None:
    some, pointer = people(30), compass()
    weights = torch.rand(30, 2, generator=seeded(5), dtype=torch.float64) + 0.5
    seen = pointer.describe(replace(some, weights=weights))
    assert seen.dtype == torch.float32
    torch.testing.assert_close(pointer.describe(replace(some, weights=40 * weights)), seen)
    assert not torch.equal(seen, pointer.describe(some))
    torch.testing.assert_close(
        pointer.describe(replace(some, weights=None)), pointer.describe(some)
    )
