"""Distribution functions agree with counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from carma.costs.percentiles import Percentiles

ROWS = st.lists(st.integers(-20, 20), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1)


def column(values: list[int] | list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


@given(ROWS)
def test_every_value_has_the_share_at_or_below_it(values: list[int]) -> None:
    percentiles = Percentiles.of(column(values))
    for value in values:
        share = sum(other <= value for other in values) / len(values)
        assert percentiles(column([value])).item() == pytest.approx(share)


@given(ROWS, ROWS)
def test_columns_do_not_see_each_other(a: list[int], b: list[int]) -> None:
    n = min(len(a), len(b))
    a, b = [*a[:n], 50, -50], [*b[:n], 60, -60]
    both = Percentiles.of(torch.cat([column(a), column(b)], dim=1))
    at = torch.linspace(-99, 99, 60, dtype=torch.float64)[:, None]
    expected = torch.cat([Percentiles.of(column(v))(at) for v in (a, b)], dim=1)
    torch.testing.assert_close(both(at.expand(-1, 2)), expected)
    torch.testing.assert_close(both(at.expand(-1, 2).reshape(3, 20, 2)).reshape(60, 2), expected)


@given(ROWS, st.sampled_from([1.0, 0.99]))
def test_rising_and_continuous(values: list[int], top: float) -> None:
    percentiles = Percentiles.of(column(values), top)
    at = torch.linspace(-70, 70, 1401, dtype=torch.float64)[:, None]
    stands = percentiles(at)[:, 0]
    steps = stands.diff()
    assert (steps > 0).all()
    # Between neighbours on the grid, at least 1 apart in the population, no piece is steeper.
    assert (steps <= 0.1 + 1e-9).all()
    assert percentiles(column([max(values)])).item() == pytest.approx(top)


def test_beyond_the_ends_it_grows_by_a_tenth_a_range() -> None:
    percentiles = Percentiles.of(column([0.0, 1.0, 2.0, 4.0]))
    stands = percentiles(column([-8.0, -4.0, 0.0, 4.0, 8.0, 12.0]))[:, 0].tolist()
    assert stands == pytest.approx([0.05, 0.15, 0.25, 1.0, 1.1, 1.2])
    assert percentiles.spread.tolist() == [4.0]
    assert percentiles.top.tolist() == [1.0]


def test_many_values_are_thinned_to_quantiles() -> None:
    drawn = np.random.default_rng(0).lognormal(size=5003)
    percentiles = Percentiles.of(torch.from_numpy(drawn)[:, None])
    assert percentiles.knots.shape == (1, 201)
    assert percentiles.knots[0, 0] == drawn.min()
    assert percentiles.knots[0, -1] == drawn.max()
    exact = (drawn[:, None] <= np.sort(drawn)).mean(axis=0)
    stands = percentiles(torch.from_numpy(np.sort(drawn))[:, None])[:, 0].numpy()
    assert np.abs(stands - exact).max() < 1 / 200 + 1 / 5003
    at_knots = percentiles(percentiles.knots.T)[:, 0].numpy()
    counted = (drawn[:, None] <= percentiles.knots.numpy()).mean(axis=0)
    np.testing.assert_allclose(at_knots, counted, rtol=1e-12)


def test_equal_values_up_to_rounding_are_one() -> None:
    percentiles = Percentiles.of(column([0.0, 0.1 + 0.2, 0.3, 1.0]))
    assert percentiles.knots.tolist() == [[0.0, 0.3, 1.0]]
    assert percentiles.levels.tolist() == [[0.25, 0.75, 1.0]]


def test_slopes_are_those_of_the_pieces() -> None:
    percentiles = Percentiles.of(column([0.0, 1.0, 5.0]))
    at = column([-1.0, 0.5, 3.0, 9.0]).requires_grad_()
    (slope,) = torch.autograd.grad(percentiles(at).sum(), at)
    assert slope[:, 0].tolist() == pytest.approx([0.02, 1 / 3, 1 / 12, 0.02])
