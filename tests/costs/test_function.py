"""A user's own cost is asked the right question, and tried before it is trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from carma.costs import COSTS, FunctionCost, SquaredCost
from carma.errors import BundleError, SettingsError
from carma.graph import CausalGraph
from carma.schema import Feature, Schema
from carma.state import State
from carma.table import Encoding, Statistics

FEATURES = (
    Feature("income", role="actionable", cost_weight=2.0, bounds=(0.0, 100.0)),
    Feature("job", "nominal", levels=("a", "b")),
    Feature("rooms", "ordinal", levels=(1, 2, 5), role="actionable"),
    Feature("age", role="immutable"),
)
ENCODING = Encoding(Schema(FEATURES, CausalGraph(("income", "job", "rooms", "age"))))
D = ENCODING.n_columns
TABLE = torch.rand(9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
X, VALUES = torch.rand(2, 4, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MASK = torch.rand(4, D, generator=torch.Generator().manual_seed(2)) < 0.5


def squares(x: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    return (weights * (values - x).square()).sum(dim=1)


def test_it_is_asked_about_whole_plans() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(x: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        seen.append((x, values, weights))
        return squares(x, values, weights)

    cost = FunctionCost(ENCODING, watch, {"rooms": 3.0})
    seen.clear()
    personal = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]
    cost(X.expand(2, -1, -1), MASK.expand(2, -1, -1), VALUES.expand(2, -1, -1), personal)
    ((x, values, weights),) = seen
    assert torch.equal(x, X.repeat(2, 1))
    assert torch.equal(values, torch.where(MASK, VALUES, X).repeat(2, 1))
    assert torch.equal(weights, (personal * torch.tensor([2.0, 0, 0, 3.0, 0])).repeat(2, 1))


def test_the_same_formula_is_the_same_cost() -> None:
    known = SquaredCost(ENCODING, Statistics.of(TABLE))
    unit = known.scale / torch.tensor([2.0, 1, 1, 1, 1])

    def formula(x: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        return squares(x, values, unit * weights)

    for statistics in (None, Statistics.of(TABLE)):
        cost = FunctionCost(ENCODING, formula, per_action=0.1, statistics=statistics)
        expected = known(X, MASK, VALUES) + 0.1 * (MASK & (unit > 0)).sum(dim=1)
        torch.testing.assert_close(cost(X, MASK, VALUES), expected)
        everything = torch.ones_like(MASK)
        torch.testing.assert_close(
            cost.prices(X, everything, VALUES), known.prices(X, everything, VALUES)
        )


def test_a_function_without_a_slope_at_a_plan_has_usable_prices() -> None:
    def upwards(x: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        return (weights * (values - x).clamp(min=0)).sum(dim=1)

    price = FunctionCost(ENCODING, upwards).prices(X, torch.ones_like(MASK), X - 1)
    assert (price > 0).all()
    assert torch.isfinite(price).all()

    def steep(x: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        # Of no finite slope where the income rises by exactly 0.5.
        past = (values - x)[:, 0] - 0.5
        return squares(x, values, weights) + past.abs().sqrt()

    half = X.clone()
    half[:, 0] = 0.5
    cost = FunctionCost(ENCODING, steep, statistics=Statistics.of(TABLE))
    price = cost.prices(half - 0.5 * (half == 0.5), torch.ones_like(MASK), half)
    assert (price > 0).all()
    assert torch.isfinite(price).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3, "be a function of x, values and weights; got 3"),
        (lambda _x, values: values.sum(1), r"run on .* of shape \(3, 5\); got TypeError"),
        (lambda *_: 1.0, r"return a tensor of shape \(3,\); got 1.0"),
        (lambda x, values, _weights: (values - x) ** 2, r"of shape \(3,\); got \(3, 5\)"),
        (lambda x, values, weights: squares(x, values, weights) * math.nan, "finite numbers"),
        (lambda x, values, weights: -squares(x, values, weights), "at least 0"),
        (lambda x, values, _weights: (values - x).sum(1) ** 2 + x[:, 0], "ask the same"),
        (lambda *_: torch.zeros(3), "differentiable in values by torch"),
        (
            lambda x, values, weights: squares(
                x, values.detach(), weights.clone().requires_grad_()
            ),
            "differentiable in values by torch",
        ),
        (lambda x, values, _weights: (values - x).round().sum(1) ** 2, "have a slope in the"),
        (lambda x, values, weights: squares(x, values, weights).sqrt(), "finite slope in values"),
    ],
)
def test_unusable_functions(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"FunctionCost: 'function' must .*{message}"):
        FunctionCost(ENCODING, function)


def test_made_up_rows_are_possible_people() -> None:
    rows: list[Tensor] = []

    def watch(x: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        rows.extend([x, values.detach()])
        return squares(x, values, weights)

    FunctionCost(ENCODING, watch)
    least, most = torch.cat(rows).amin(0).tolist(), torch.cat(rows).amax(0).tolist()
    assert list(zip(least, most, strict=True)) == [(0, 100), (0, 1), (0, 1), (1, 5), (1, 2)]
    rows.clear()
    FunctionCost(ENCODING, watch, statistics=Statistics.of(TABLE))
    assert torch.equal(torch.cat(rows).amin(0), TABLE.amin(0))
    assert torch.equal(torch.cat(rows).amax(0), TABLE.amax(0))


def test_it_cannot_be_stored() -> None:
    cost = FunctionCost(ENCODING, squares)
    with pytest.raises(BundleError, match="a Python function cannot be stored"):
        cost.state()
    with pytest.raises(BundleError, match="a Python function cannot be stored"):
        FunctionCost.from_state(ENCODING, State({"kind": "function"}))
    assert FunctionCost.kind not in COSTS
