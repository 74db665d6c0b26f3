"""Thresholds of ordered columns: rising functions, and their inverse."""

from __future__ import annotations

import pandas as pd
import torch

from carma import CausalGraph, Feature, Schema
from carma.models.conditioner import EVERY, OWN
from carma.models.thresholds import Thresholds
from carma.table import Encoding, Statistics

NAMES = ("flag", "rank", "count", "salary")
SCHEMA = Schema(
    (
        Feature("flag", "binary", levels=("no", "yes")),
        Feature("rank", "ordinal", levels=(1, 2, 5)),
        Feature("count", "integer"),
        Feature("salary", "integer"),
    ),
    CausalGraph(NAMES),
)
TABLE = pd.DataFrame(
    {
        "flag": ["no", "yes", "no", "no"] * 50,
        "rank": [1, 2, 5, 5] * 50,
        "count": [0, 1, 2, 4] * 50,
        "salary": [10 * i for i in range(200)],
    }
)
ENCODING = Encoding(SCHEMA)
X = ENCODING.encode(TABLE)
ALL = [0, 1, 2, 3]


def thresholds(n_members: int = 1) -> Thresholds:
    return Thresholds.of(X, ENCODING, ALL, Statistics.of(X).std, n_members).double()


def test_there_is_a_knot_between_all_levels_and_around_the_quantiles_of_whole_numbers() -> None:
    knots = thresholds().knots
    assert 0.5 in knots[0]
    assert {1.5, 3.5} <= set(knots[1].tolist())
    assert {-0.5, 0.5, 1.5, 2.5, 3.5, 4.5} <= set(knots[2].tolist())
    assert {-0.5, 0.5, 1989.5, 1990.5} <= set(knots[3].tolist())
    assert bool((knots.diff(dim=1) > 0).all())


def test_the_first_thresholds_say_how_often_less_was_seen() -> None:
    """Without causes the chance to be below a threshold is its logistic function."""
    ends = torch.tensor([[0.5, 3.5, 1.5, 999.5]]).double()
    found = thresholds()(ends, ALL, OWN)[0, 0].sigmoid()
    expected = torch.tensor([0.75, 0.5, 0.5, 0.5]).double()
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_they_rise_everywhere_and_by_one_a_deviation_beyond_the_knots() -> None:
    found = thresholds()
    values = torch.linspace(-5000, 5000, 4001, dtype=torch.float64)[:, None].expand(-1, 4)
    height = found(values, ALL, OWN)[0]
    assert bool((height.diff(dim=0) > 0).all())
    slopes = height[[1, -1]] - height[[0, -2]]
    torch.testing.assert_close(slopes, (2.5 * found.rise).expand(2, -1), atol=1e-9, rtol=0)


def test_the_inverse_undoes_them_for_each_member() -> None:
    found = thresholds(3)
    with torch.no_grad():
        found.first.add_(torch.tensor([0.0, 1.0, -2.0])[:, None])
        more = torch.randn(found.steps.shape, generator=torch.Generator().manual_seed(0))
        found.steps.add_(more)
    values = torch.linspace(-3000, 3000, 301, dtype=torch.float64)[:, None].expand(-1, 2)
    for chosen in ([1, 2], [0, 3]):
        height = found(values, chosen, EVERY)
        assert height.shape == (3, 301, 2)
        torch.testing.assert_close(found.inverse(height, chosen, EVERY), values.expand(3, -1, -1))


def test_members_start_alike_and_have_slopes_of_their_own() -> None:
    found = thresholds(2)
    height = found(X[:5], ALL, EVERY)
    assert torch.equal(height[0], height[1])
    torch.autograd.backward(height[1].sum())
    assert found.first.grad is not None
    assert found.first.grad[0].abs().sum() == 0
    assert found.first.grad[1].abs().sum() > 0
