"""The cheapest change past a half-space inside a box satisfies what an optimum has to."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from scipy.optimize import minimize
from torch import Tensor

from carma.recourse.halfspace import cheapest_change
from carma.state import seeded

POSITIVE = st.floats(0.01, 100)
SLOPES = st.just(0.0) | POSITIVE | POSITIVE.map(lambda v: -v)
ENDS = st.sampled_from([0.0, math.inf]) | st.floats(0.01, 10)
# How much is needed, as a share of what the box can give.
SHARES = st.sampled_from([-1.0, 0.0, 0.5, 1.01, 3.0]) | st.floats(0.01, 0.99)


@dataclass(frozen=True)
class Question:
    """One quadratic problem a row."""

    price: Tensor
    slope: Tensor
    needed: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def answer(self) -> tuple[Tensor, Tensor]:
        return cheapest_change(self.price, self.slope, self.needed, self.lower, self.upper)

    @property
    def most(self) -> Tensor:
        """The most that the box can give."""
        return capacity(self.slope, self.lower, self.upper)

    @property
    def is_reachable(self) -> Tensor:
        return self.needed <= self.most

    def cost(self, change: Tensor) -> Tensor:
        return (self.price * change.square()).sum(dim=-1)

    def gives(self, change: Tensor) -> Tensor:
        return (self.slope * change).sum(dim=-1)


def capacity(slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    end = torch.where(slope > 0, upper, lower)
    return torch.where(slope == 0, 0.0, slope * end).nan_to_num(0.0, torch.inf).sum(dim=-1)


@st.composite
def questions(draw: DrawFn) -> Question:
    n, d = draw(st.integers(1, 3)), draw(st.integers(1, 5))

    def table(entries: st.SearchStrategy[float]) -> Tensor:
        rows = st.lists(st.lists(entries, min_size=d, max_size=d), min_size=n, max_size=n)
        return torch.tensor(draw(rows), dtype=torch.float64)

    price, slope, lower, upper = table(POSITIVE), table(SLOPES), -table(ENDS), table(ENDS)
    share = torch.tensor(draw(st.lists(SHARES, min_size=n, max_size=n)), dtype=torch.float64)
    most = capacity(slope, lower, upper)
    needed = share * torch.where(most.isinf(), 10.0, most)
    is_stuck = most == 0
    return Question(price, slope, torch.where(is_stuck, share, needed), lower, upper)


@given(questions())
def test_the_change_is_enough_where_any_is_and_else_the_most_there_is(q: Question) -> None:
    change, _ = q.answer
    expected = torch.where(q.is_reachable, torch.maximum(q.needed, q.needed * 0), q.most)
    torch.testing.assert_close(q.gives(change), expected, rtol=1e-11, atol=1e-11)


@given(questions())
def test_the_change_stays_in_the_box_and_nothing_moves_in_vain(q: Question) -> None:
    change, _ = q.answer
    assert ((change >= q.lower) & (change <= q.upper)).all()
    assert (change[q.slope == 0] == 0).all()
    assert (change * q.slope >= 0).all()
    assert (change[q.needed <= 0] == 0).all()


@given(questions())
def test_the_change_is_stationary(q: Question) -> None:
    change, multiplier = q.answer
    assert torch.isfinite(multiplier).all()
    assert (multiplier >= 0).all()
    assert (multiplier[q.needed <= 0] == 0).all()
    unbound = multiplier[:, None] * q.slope / q.price
    torch.testing.assert_close(change, unbound.clamp(q.lower, q.upper), rtol=1e-12, atol=0)


@given(questions(), st.integers(0, 99))
def test_no_point_that_is_enough_costs_less(q: Question, seed: int) -> None:
    change, _ = q.answer
    far = torch.stack([q.lower, q.upper]).clamp(-20, 20)
    share = torch.rand(400, *change.shape, generator=seeded(seed), dtype=torch.float64)
    anywhere = far[0] + share * (far[1] - far[0])
    nearby = change + 0.1 * (share - 0.5) * change.abs().amax()
    points = torch.cat([anywhere, nearby]).clamp(q.lower, q.upper)
    is_enough = q.gives(points) >= q.needed
    cheapest = torch.where(is_enough, q.cost(points), torch.inf).amin(dim=0)
    reachable = q.is_reachable
    assert (q.cost(change) <= cheapest * (1 + 1e-9) + 1e-12)[reachable].all()


@pytest.mark.parametrize("seed", range(8))
def test_a_general_solver_finds_the_same(seed: int) -> None:
    draws = seeded(seed)
    d = 2 + seed % 4
    price, lower, upper = (
        0.2 + torch.rand(1, d, generator=draws, dtype=torch.float64) for _ in range(3)
    )
    slope = torch.randn(1, d, generator=draws, dtype=torch.float64)
    needed = capacity(slope, -lower, upper) * (0.2 + 0.1 * seed)
    q = Question(price, slope, needed, -lower, upper)
    p, a, r = price[0].numpy(), slope[0].numpy(), needed.item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = minimize(
            lambda v: float(p @ v**2),
            np.zeros(d),
            jac=lambda v: 2 * p * v,
            bounds=list(zip(-lower[0].numpy(), upper[0].numpy(), strict=True)),
            constraints={"type": "ineq", "fun": lambda v: a @ v - r, "jac": lambda _: a},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 200},
        )
    assert found.success
    assert q.answer[0][0].tolist() == pytest.approx(found.x.tolist(), abs=1e-6)


@given(questions())
def test_twice_the_multiplier_is_what_a_little_more_costs(q: Question) -> None:
    inside = (q.needed > 0) & (q.needed < 0.99 * q.most)
    little = 1e-6 * q.needed.abs()
    more, less = replace(q, needed=q.needed + little), replace(q, needed=q.needed - little)
    slope = (q.cost(more.answer[0]) - q.cost(less.answer[0])) / (2 * little)
    _, multiplier = q.answer
    torch.testing.assert_close(slope[inside], 2 * multiplier[inside], rtol=1e-3, atol=1e-9)


@given(questions(), st.sampled_from([1e-6, 0.3, 1e5]))
def test_the_unit_of_the_condition_does_not_matter(q: Question, unit: float) -> None:
    change, multiplier = q.answer
    scaled, other = replace(q, slope=unit * q.slope, needed=unit * q.needed).answer
    torch.testing.assert_close(scaled, change, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(unit * other, multiplier, rtol=1e-9, atol=1e-12)


@given(questions(), st.sampled_from([1e-6, 0.3, 1e5]))
def test_the_unit_of_cost_does_not_matter(q: Question, unit: float) -> None:
    change, multiplier = q.answer
    scaled, other = replace(q, price=unit * q.price).answer
    torch.testing.assert_close(scaled, change, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(other / unit, multiplier, rtol=1e-9, atol=1e-12)


@given(questions(), st.randoms(use_true_random=False))
def test_the_order_of_coordinates_does_not_matter(q: Question, shuffle: Random) -> None:
    order = list(range(q.slope.shape[1]))
    shuffle.shuffle(order)
    other = Question(
        q.price[:, order], q.slope[:, order], q.needed, q.lower[:, order], q.upper[:, order]
    )
    torch.testing.assert_close(other.answer[0], q.answer[0][:, order], rtol=1e-9, atol=1e-12)


@given(questions())
def test_up_and_down_are_alike(q: Question) -> None:
    mirrored = replace(q, slope=-q.slope, lower=-q.upper, upper=-q.lower)
    torch.testing.assert_close(mirrored.answer[0], -q.answer[0], rtol=1e-9, atol=1e-12)


@given(questions())
def test_rows_do_not_see_each_other(q: Question) -> None:
    change, multiplier = q.answer
    for i in range(len(q.needed)):
        row = slice(i, i + 1)
        alone = Question(q.price[row], q.slope[row], q.needed[row], q.lower[row], q.upper[row])
        assert torch.equal(alone.answer[0], change[row])
        assert torch.equal(alone.answer[1], multiplier[row])


def test_one_price_serves_all_rows() -> None:
    slope = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    price = torch.tensor([1.0, 4.0], dtype=torch.float64)
    wide = torch.full_like(slope, 9.0)
    q = Question(price, slope, torch.tensor([1.0, 5.0], dtype=torch.float64), -wide, wide)
    each = replace(q, price=price.expand_as(slope))
    assert torch.equal(q.answer[0], each.answer[0])
    # Without a bound in the way, the change is r (a / p) / sum(a^2 / p).
    expected = torch.tensor([[0.5, 0.25], [15 / 9.25, -1.25 / 9.25]], dtype=torch.float64)
    torch.testing.assert_close(q.answer[0], expected)


@pytest.mark.parametrize("needed", [math.inf, 1e300, 1e-300, -math.inf])
def test_what_is_beyond_all_numbers_gives_numbers(needed: float) -> None:
    slope = torch.tensor([[1e-200, -3.0, 0.0, 1e-320], [0.0] * 4], dtype=torch.float64)
    asked = torch.full((2,), needed, dtype=torch.float64)
    wide = torch.tensor([[5.0, 2.0, math.inf, 1.0]], dtype=torch.float64).expand(2, 4)
    change, _ = cheapest_change(torch.ones(4, dtype=torch.float64), slope, asked, -wide, wide)
    assert torch.isfinite(change).all()
    assert ((change >= -wide) & (change <= wide)).all()
    assert (change[1] == 0).all()


def test_no_rows_are_no_trouble() -> None:
    none = torch.zeros(0, 3, dtype=torch.float64)
    change, multiplier = cheapest_change(torch.ones(3), none, none[:, 0], none, none)
    assert change.shape == (0, 3)
    assert multiplier.shape == (0,)


def test_columns_without_a_slope_change_nothing_for_the_others() -> None:
    draws, n, d = seeded(0), 600, 30
    few = torch.tensor([3, 8, 22])
    price, low, high = torch.rand(3, n, d, generator=draws, dtype=torch.float64) + 0.1
    slope, needed = torch.zeros_like(price), price[:, 0]
    slope[:, few] = torch.randn(n, 3, generator=draws, dtype=torch.float64)
    change, multiplier = cheapest_change(price, slope, needed, -low, high)
    parts = (price, slope, -low, high)
    prices, slopes, *box = (t[:, few] for t in parts)
    alone, same = cheapest_change(prices, slopes, needed, *box)
    assert torch.equal(change[:, few], alone)
    assert torch.equal(multiplier, same)
    assert int(change.count_nonzero(dim=0).count_nonzero()) == len(few)
    nothing, _ = cheapest_change(price, torch.zeros_like(slope), needed, -low, high)
    assert not nothing.any()
