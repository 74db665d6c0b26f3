"""The cost is the paper's formula, in any units and any order."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from carma.costs import SquaredCost
from carma.errors import SettingsError
from carma.graph import CausalGraph
from carma.interventions import Intervention
from carma.schema import Feature, Schema
from carma.table import Encoding, Statistics

FEATURES = (
    Feature("age", role="immutable"),
    Feature("income", role="actionable", cost_weight=2.0),
    Feature("job", "nominal", levels=("a", "b")),
    Feature("savings", "integer", role="actionable"),
    Feature("member", "binary", role="actionable"),
)
ENCODING = Encoding(Schema(FEATURES, CausalGraph(tuple(f.name for f in FEATURES))))
D = ENCODING.n_columns
NAMES = {1: "income", 4: "savings", 5: "member"}
NUMBERS = st.floats(-100, 100, allow_subnormal=False)


@st.composite
def tensors(draw: DrawFn, n: int) -> Tensor:
    row = st.lists(NUMBERS, min_size=D, max_size=D)
    return torch.tensor(draw(st.lists(row, min_size=n, max_size=n)), dtype=torch.float64)


@st.composite
def plans(draw: DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A training table that varies, people, masks and values."""
    table = draw(tensors(4))
    table[0], table[1] = table[0].abs() + 1, -table[1].abs() - 1
    n = draw(st.integers(1, 4))
    row = st.lists(st.booleans(), min_size=D, max_size=D)
    mask = torch.tensor(draw(st.lists(row, min_size=n, max_size=n)))
    return table, draw(tensors(n)), mask, draw(tensors(n))


def by_hand(table: Tensor, x: Tensor, mask: Tensor, values: Tensor) -> list[float]:
    """The formula as the paper prints it, one number at a time."""
    costs = []
    for row in range(len(x)):
        total = 0.0
        for i, name in NAMES.items():
            column = [float(v) for v in table[:, i]]
            mean = sum(column) / len(column)
            std = math.sqrt(sum((v - mean) ** 2 for v in column) / len(column))
            standardised = [(v - mean) / std for v in column]
            spread = max(standardised) - min(standardised)
            change = (float(values[row, i]) - mean) / std - (float(x[row, i]) - mean) / std
            if mask[row, i]:
                total += ENCODING.schema[name].cost_weight * change**2 / spread
        costs.append(total / len(NAMES))
    return costs


@given(plans())
def test_closed_form(plan: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    table, x, mask, values = plan
    cost = SquaredCost(ENCODING, Statistics.of(table))
    expected = torch.tensor(by_hand(table, x, mask, values), dtype=torch.float64)
    torch.testing.assert_close(cost(x, mask, values), expected, rtol=1e-7, atol=1e-9)
    assert torch.equal(cost.of(x, Intervention(mask, values)), cost(x, mask, values))


@given(plans(), st.lists(st.floats(0.01, 100), min_size=D, max_size=D), tensors(1))
def test_units_do_not_matter(
    plan: tuple[Tensor, Tensor, Tensor, Tensor], factors: list[float], shift: Tensor
) -> None:
    table, x, mask, values = plan
    scale = torch.tensor(factors, dtype=torch.float64)
    cost = SquaredCost(ENCODING, Statistics.of(table))
    moved = SquaredCost(ENCODING, Statistics.of(table * scale + shift))
    there = moved(x * scale + shift, mask, values * scale + shift)
    torch.testing.assert_close(there, cost(x, mask, values), rtol=1e-6, atol=1e-7)


@given(plans())
def test_laws_of_price(plan: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    table, x, mask, values = plan
    cost = SquaredCost(ENCODING, Statistics.of(table))
    paid = cost(x, mask, values)
    assert (paid >= 0).all()
    assert not cost(x, mask, x).any()
    assert not cost(x, torch.zeros_like(mask), values).any()
    others = torch.ones_like(mask)
    others[:, list(NAMES)] = False
    assert not cost(x, others, values).any()
    torch.testing.assert_close(cost(values, mask, x), paid, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(cost(x, mask, x + 3 * (values - x)), 9 * paid, rtol=1e-7, atol=1e-9)
    each = sum(cost(x, mask & (torch.arange(D) == i), values) for i in range(D))
    torch.testing.assert_close(each, paid, rtol=1e-10, atol=1e-12)


@given(plans(), st.randoms(use_true_random=False))
def test_rows_are_priced_by_themselves(
    plan: tuple[Tensor, Tensor, Tensor, Tensor], random: Any
) -> None:
    table, x, mask, values = plan
    cost = SquaredCost(ENCODING, Statistics.of(table))
    order = random.sample(range(len(x)), len(x))
    paid = cost(x, mask, values)
    assert torch.equal(cost(x[order], mask[order], values[order]), paid[order])
    assert torch.equal(cost(x[:1], mask[:1], values[:1]), paid[:1])
    assert torch.equal(cost(x[0], mask[0], values[0]), paid[0])
    stacked = cost(x.expand(3, -1, -1), mask.expand(3, -1, -1), values.expand(3, -1, -1))
    assert torch.equal(stacked, paid.expand(3, -1))
    shuffled = table[random.sample(range(len(table)), len(table))]
    again = SquaredCost(ENCODING, Statistics.of(shuffled))(x, mask, values)
    torch.testing.assert_close(again, paid, rtol=1e-9, atol=1e-12)


@given(plans(), st.sampled_from(sorted(NAMES.values())), st.floats(0.01, 100))
def test_a_weight_multiplies_its_feature_only(
    plan: tuple[Tensor, Tensor, Tensor, Tensor], name: str, factor: float
) -> None:
    table, x, mask, values = plan
    statistics = Statistics.of(table)
    plain = SquaredCost(ENCODING, statistics)
    heavy = SquaredCost(ENCODING, statistics, {name: factor * plain.weights[name]})
    only = mask & (torch.arange(D) == ENCODING.column(name))
    torch.testing.assert_close(
        heavy(x, only, values), factor * plain(x, only, values), rtol=1e-10, atol=1e-12
    )
    assert torch.equal(heavy(x, mask & ~only, values), plain(x, mask & ~only, values))


def statistics() -> Statistics:
    generator = torch.Generator().manual_seed(0)
    return Statistics.of(torch.rand(9, D, dtype=torch.float64, generator=generator))


def test_default_weights_are_those_of_the_schema() -> None:
    assert SquaredCost(ENCODING, statistics()).weights == {
        "income": 2.0,
        "savings": 1.0,
        "member": 1.0,
    }


def test_soft_masks_carry_gradients_and_bools_hide_missing_values() -> None:
    cost = SquaredCost(ENCODING, statistics())
    x = torch.zeros(1, D, dtype=torch.float64)
    mask = torch.zeros_like(x).requires_grad_()
    (gradient,) = torch.autograd.grad(cost(x, mask, x + 1).sum(), mask)
    assert (gradient[0] > 0).nonzero().flatten().tolist() == list(NAMES)
    values = torch.full_like(x, math.nan).requires_grad_()
    paid = cost(x, torch.zeros_like(x, dtype=torch.bool), values)
    (gradient,) = torch.autograd.grad(paid.sum(), values)
    assert not paid.any()
    assert not gradient.any()


@given(plans())
def test_gradient_of_a_chosen_value(plan: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    table, x, mask, values = plan
    cost = SquaredCost(ENCODING, Statistics.of(table))
    free = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cost(x, mask, free).sum(), free)
    step = 1e-3
    for i in range(D):
        side = step * (torch.arange(D) == i).double()
        difference = cost(x, mask, values + side) - cost(x, mask, values - side)
        torch.testing.assert_close(slope[:, i], difference / (2 * step), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"age": 1.0}, r"only name actionable features \(income, savings, member\); got 'age'"),
        ({"wage": 1.0}, "only name actionable features .*; got 'wage'"),
        ({"income": 0.0}, r"weights\['income'\].* must be above 0; got 0.0"),
        ({"income": -1.0}, "must be above 0; got -1.0"),
        ({"income": math.inf}, "must be above 0; got inf"),
        ({"income": math.nan}, "must be above 0; got nan"),
        ({"income": "2"}, "must be above 0; got '2'"),
    ],
)
def test_bad_weights(weights: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SquaredCost(ENCODING, statistics(), weights)


def test_a_constant_actionable_column_has_no_scale() -> None:
    table = torch.rand(5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table[:, 4] = 3.0
    with pytest.raises(SettingsError, match=r"vary in every actionable.*; got \['savings'\]"):
        SquaredCost(ENCODING, Statistics.of(table))
    table[:, 4], table[:, 0] = table[:, 1], 3.0
    SquaredCost(ENCODING, Statistics.of(table))


def test_saved_and_reloaded() -> None:
    cost = SquaredCost(ENCODING, statistics(), {"income": 5.0}, per_action=0.25)
    again = SquaredCost.from_state(ENCODING, cost.state())
    generator = torch.Generator().manual_seed(1)
    x, values = torch.rand(2, 6, D, dtype=torch.float64, generator=generator)
    mask = torch.ones(6, D, dtype=torch.bool)
    assert torch.equal(again(x, mask, values), cost(x, mask, values))
    assert again.weights == cost.weights
    assert again.per_action == cost.per_action == 0.25
    assert again.state().fingerprint() == cost.state().fingerprint()


def test_what_was_stored_before_actions_had_a_price_has_none() -> None:
    cost = SquaredCost(ENCODING, statistics())
    state = cost.state()
    del state.config["per_action"]
    assert SquaredCost.from_state(ENCODING, state).state() == cost.state()


@given(plans())
def test_its_prices_are_its_scale_anywhere(plan: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    table, x, mask, values = plan
    cost = SquaredCost(ENCODING, Statistics.of(table))
    expected = torch.where(cost.scale > 0, cost.scale, 1.0)
    assert torch.equal(cost.prices(x, mask, values), expected.expand(x.shape))
    twice = torch.full_like(x[:1], 2.0)
    doubled = torch.where(cost.scale > 0, 2 * cost.scale, 1.0)
    assert torch.equal(cost.prices(x, mask, values, twice), doubled.expand(x.shape))
