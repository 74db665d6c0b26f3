"""What a move between levels costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from carma.costs import (
    COSTS,
    AbsoluteCost,
    Cost,
    FunctionCost,
    LargestShift,
    SquaredCost,
    TotalLogShift,
    cost_from_state,
)
from carma.graph import CausalGraph
from carma.schema import Feature, Schema
from carma.table import Encoding, Statistics

NUMBERS = (Feature("income", role="actionable", cost_weight=3.0), Feature("age"))
MEMBER = Feature("member", "binary", role="actionable", cost_weight=2.0)
JOB = Feature(
    "job",
    "nominal",
    levels=("cook", "clerk", "judge"),
    role="actionable",
    cost_weight=2.0,
    moves=(("cook", "clerk"), ("cook", "judge", 5.0), ("clerk", "cook", 0.5)),
)
EVEN_MOVE = {"squared": 2.0, "absolute": 1.0, "largest_shift": 0.5, "total_log_shift": math.log(2)}
every = pytest.mark.parametrize("kind", COSTS)


def encoding_of(*features: Feature) -> Encoding:
    return Encoding(Schema(features, CausalGraph(tuple(f.name for f in features))))


def cost_of(kind: str, encoding: Encoding, rows: Tensor, *settings: Any) -> Cost:
    given: Any = rows if "shift" in kind else Statistics.of(rows)
    return COSTS[kind](encoding, given, *settings)


def rows_of(encoding: Encoding) -> Tensor:
    """Forty people, half of them members."""
    draws = torch.Generator().manual_seed(0)
    rows = torch.rand(40, encoding.n_columns, generator=draws, dtype=torch.float64)
    if "member" in encoding.schema.names:
        rows[:, encoding.column("member")] = torch.arange(40) % 2
    return rows


def of_job(own: int, to: int, income: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """A person, a plan that sets the job, and the income where it is not 0."""
    x = torch.zeros(1, 5, dtype=torch.float64)
    values = x.clone()
    x[0, own], values[0, to], values[0, 3] = 1.0, 1.0, income
    mask = torch.tensor([[True, True, True, income != 0, False]])
    return x, mask, values


JOBS = encoding_of(JOB, *NUMBERS)


@pytest.mark.parametrize("kind", ["squared", "absolute"])
@given(income=st.floats(-5, 5), personal=st.floats(0.1, 10))
def test_an_even_binary_feature_costs_the_same_either_way(
    kind: str, income: float, personal: float
) -> None:
    plain = encoding_of(MEMBER, *NUMBERS)
    switch = encoding_of(
        Feature("member", "binary", role="actionable", cost_weight=2.0, moves=((0, 1), (1, 0))),
        *NUMBERS,
    )
    rows = rows_of(plain)
    x, values = rows[:2], 1 - rows[:2]
    values[:, 1] = income
    weights = torch.tensor([[personal, 1.0, 1.0]], dtype=torch.float64)
    for mask in torch.cartesian_prod(*[torch.tensor([False, True])] * 3):
        chosen = mask.expand(2, 3)
        one, other = (
            cost_of(kind, e, rows, None, 0.1)(x, chosen, values, weights) for e in (plain, switch)
        )
        torch.testing.assert_close(one, other)


@every
def test_moves_are_priced_by_their_cost_and_weights(kind: str) -> None:
    cost = cost_of(kind, JOBS, rows_of(JOBS))
    share = 2 if kind in ("squared", "absolute") else 1
    for own, to, factor in ((0, 1, 1.0), (0, 2, 5.0), (1, 0, 0.5), (0, 0, 0.0)):
        expected = EVEN_MOVE[kind] * 2.0 * factor / share
        assert cost(*of_job(own, to)).item() == pytest.approx(expected)
        dear = torch.tensor([3.0, 9.0, 9.0, 1.0, 1.0], dtype=torch.float64)
        assert cost(*of_job(own, to), dear).item() == pytest.approx(3 * expected)
        other = cost_of(kind, JOBS, rows_of(JOBS), {"job": 7.0})
        assert other(*of_job(own, to)).item() == pytest.approx(3.5 * expected)


@every
def test_moves_and_numbers_together(kind: str) -> None:
    cost = cost_of(kind, JOBS, rows_of(JOBS))
    x, mask, values = of_job(0, 1, income=0.4)
    number = mask & (torch.arange(5) == 3)
    alone, move = cost(x, number, values).item(), cost(*of_job(0, 1)).item()
    expected = max(alone, move) if kind == "largest_shift" else alone + move
    assert cost(x, mask, values).item() == pytest.approx(expected)
    # What is left of a row costs the same under every move.
    free = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cost(x, mask, free).sum(), free)
    assert not slope[0, [0, 1, 2, 4]].any()


def test_the_largest_of_both_counts() -> None:
    cost = cost_of("largest_shift", JOBS, rows_of(JOBS))
    x, mask, values = of_job(0, 2, income=0.99)
    assert cost(x, mask, values).item() == pytest.approx(5.0)
    x, mask, values = of_job(1, 0, income=0.99)
    income = cost(x, mask & (torch.arange(5) == 3), values)
    assert income.item() > 2
    assert torch.equal(cost(x, mask, values), income)


@every
def test_an_action_is_a_feature_whatever_its_columns(kind: str) -> None:
    rows = rows_of(JOBS)
    free, dear = cost_of(kind, JOBS, rows), cost_of(kind, JOBS, rows, None, 0.25)
    for plan, n_actions in ((of_job(0, 1), 1), (of_job(0, 1, income=0.4), 2)):
        assert (dear(*plan) - free(*plan)).item() == pytest.approx(0.25 * n_actions)


@every
def test_moves_need_no_scale_and_no_frequency(kind: str) -> None:
    """A level that nobody has yet can be moved to."""
    rows = rows_of(JOBS)
    rows[:, :3] = torch.tensor([1.0, 0.0, 0.0])
    cost = cost_of(kind, JOBS, rows)
    assert cost(*of_job(0, 1)).item() == cost_of(kind, JOBS, rows_of(JOBS))(*of_job(0, 1)).item()


@every
def test_columns_of_moves_have_the_price_of_what_cannot_be_set(kind: str) -> None:
    cost = cost_of(kind, JOBS, rows_of(JOBS))
    x, mask, values = of_job(0, 1, income=0.4)
    price = cost.prices(x, mask, values)
    assert torch.equal(price[0, [0, 1, 2, 4]], torch.ones(4, dtype=price.dtype))
    assert price[0, 3] != 1


@every
def test_saved_and_reloaded(kind: str) -> None:
    cost = cost_of(kind, JOBS, rows_of(JOBS), {"job": 4.0}, 0.5)
    again = cost_from_state(JOBS, cost.state())
    for plan in (of_job(0, 1), of_job(0, 2, income=0.4)):
        assert torch.equal(again(*plan), cost(*plan))


@every
def test_a_problem_of_moves_alone(kind: str) -> None:
    encoding = encoding_of(JOB, Feature("age"))
    cost = cost_of(kind, encoding, rows_of(encoding))
    x, mask, values = (t[:, [0, 1, 2, 4]] for t in of_job(0, 1))
    assert cost(x, mask, values).item() == pytest.approx(EVEN_MOVE[kind] * 2.0)
    assert cost.prices(x, mask, values).tolist() == [[1.0] * 4]


def test_a_function_sees_the_cost_of_the_move_in_its_weights() -> None:
    seen: list[Tensor] = []

    def distance(x: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        seen.append(weights)
        return (weights * (values - x).abs()).sum(dim=1)

    cost = FunctionCost(JOBS, distance)
    personal = torch.tensor([[3.0, 3.0, 3.0, 2.0, 1.0]], dtype=torch.float64)
    x, mask, values = of_job(0, 2, income=0.5)
    # Two columns of the job change by 1 each, and share weight 2 times move 5 times person 3.
    assert cost(x, mask, values, personal).item() == pytest.approx(30 + 0.5 * 3 * 2)
    assert seen[-1].tolist() == [[15.0, 15.0, 15.0, 6.0, 0.0]]
    switch = Feature("member", "binary", role="actionable", cost_weight=2.0, moves=((0, 1, 4.0),))
    cost = FunctionCost(encoding_of(switch, *NUMBERS), distance)
    x = torch.zeros(1, 3, dtype=torch.float64)
    mask = torch.tensor([[True, False, False]])
    assert cost(x, mask, x + 1).item() == pytest.approx(8.0)


def test_the_kinds_with_a_price_of_moves() -> None:
    kinds = (SquaredCost, AbsoluteCost, LargestShift, TotalLogShift)
    assert set(EVEN_MOVE) == {cost.kind for cost in kinds} == set(COSTS)
