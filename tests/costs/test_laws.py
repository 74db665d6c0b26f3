"""What holds for every kind of cost."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
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
from carma.errors import BundleError, SettingsError
from carma.graph import CausalGraph
from carma.interventions import Intervention
from carma.schema import Feature, Schema
from carma.state import State
from carma.table import Encoding, Statistics

FEATURES = (
    Feature("age", role="immutable"),
    Feature("income", role="actionable", cost_weight=2.0),
    Feature("job", "nominal", levels=("a", "b")),
    Feature("savings", role="actionable"),
    Feature("debt", role="actionable", cost_weight=0.5),
)
ENCODING = Encoding(Schema(FEATURES, CausalGraph(tuple(f.name for f in FEATURES))))
D, COLUMNS = ENCODING.n_columns, [1, 4, 5]

Make = Callable[..., Cost]
Plan = tuple[Tensor, Tensor, Tensor, Tensor]


def by_function(table: Tensor, weights: Any = None, per_action: Any = 0.0) -> FunctionCost:
    """A distance on the scale of the table that is no sum over columns."""
    statistics = Statistics.of(table)
    width = statistics.maximum - statistics.minimum

    def distance(x: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        change = weights * ((values - x) / width).square()
        return change.sum(dim=1) + 0.1 * change.amax(dim=1)

    return FunctionCost(ENCODING, distance, weights, per_action, statistics)


KINDS: dict[str, Make] = {
    "squared": lambda table, *a, **k: SquaredCost(ENCODING, Statistics.of(table), *a, **k),
    "absolute": lambda table, *a, **k: AbsoluteCost(ENCODING, Statistics.of(table), *a, **k),
    "largest_shift": lambda table, *a, **k: LargestShift(ENCODING, table, *a, **k),
    "total_log_shift": lambda table, *a, **k: TotalLogShift(ENCODING, table, *a, **k),
    "function": by_function,
}
SEPARABLE = ("squared", "absolute", "total_log_shift")
every = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
storable = pytest.mark.parametrize("kind", COSTS)

TABLE = torch.rand(9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
# On a grid, so that a change of units keeps equal numbers equal.
NUMBERS = st.integers(-400, 400).map(lambda i: i / 4)


@st.composite
def tensors(draw: DrawFn, n: int) -> Tensor:
    row = st.lists(NUMBERS, min_size=D, max_size=D)
    return torch.tensor(draw(st.lists(row, min_size=n, max_size=n)), dtype=torch.float64)


@st.composite
def plans(draw: DrawFn) -> Plan:
    """A population that varies, people, masks and values."""
    table = draw(tensors(draw(st.integers(2, 6))))
    table[0], table[1] = table[0].abs() + 1, -table[1].abs() - 1
    n = draw(st.integers(1, 4))
    row = st.lists(st.booleans(), min_size=D, max_size=D)
    mask = torch.tensor(draw(st.lists(row, min_size=n, max_size=n)))
    return table, draw(tensors(n)), mask, draw(tensors(n))


@every
@given(plan=plans(), per_action=st.sampled_from([0.0, 0.1]))
def test_laws_of_price(make: Make, plan: Plan, per_action: float) -> None:
    table, x, mask, values = plan
    cost = make(table, None, per_action)
    n_actions = mask[:, COLUMNS].double().sum(dim=1)
    assert (cost(x, mask, values) >= per_action * n_actions).all()
    assert not cost(x, torch.zeros_like(mask), values).any()
    others = torch.ones_like(mask)
    others[:, COLUMNS] = False
    assert not cost(x, others, values).any()
    torch.testing.assert_close(cost(x, mask, x), per_action * n_actions)
    assert torch.equal(cost.of(x, Intervention(mask, values)), cost(x, mask, values))


@every
@given(plan=plans())
def test_more_of_the_same_costs_no_less(make: Make, plan: Plan) -> None:
    table, x, mask, values = plan
    cost = make(table)
    paid = [cost(x, mask, x + t * (values - x)) for t in (0.0, 0.25, 0.5, 1.0, 2.0, 5.0)]
    for less, more in itertools.pairwise(paid):
        assert (more >= less - 1e-12 * (1 + less)).all()
    moves = (mask & (values != x))[:, COLUMNS].any(dim=1)
    assert (paid[-1] > paid[-2])[moves].all()
    larger = torch.ones_like(mask)
    assert (cost(x, larger, values) >= paid[3] - 1e-12 * (1 + paid[3])).all()


@every
@given(
    plan=plans(),
    factors=st.lists(st.floats(0.01, 100), min_size=D, max_size=D),
    shift=tensors(1),
)
def test_units_do_not_matter(make: Make, plan: Plan, factors: list[float], shift: Tensor) -> None:
    table, x, mask, values = plan
    scale = torch.tensor(factors, dtype=torch.float64)
    here, there = make(table), make(table * scale + shift)
    plan_there = (x * scale + shift, mask, values * scale + shift)
    torch.testing.assert_close(there(*plan_there), here(x, mask, values), rtol=1e-6, atol=1e-7)


@every
@given(plan=plans(), factor=st.floats(0.01, 100))
def test_personal_weights_multiply_weights(make: Make, plan: Plan, factor: float) -> None:
    table, x, mask, values = plan
    cost, paid = make(table), make(table)(x, mask, values)
    assert torch.equal(cost(x, mask, values, torch.ones(D)), paid)
    scaled = cost(x, mask, values, torch.full((len(x), 1), factor, dtype=torch.float64))
    torch.testing.assert_close(scaled, factor * paid, rtol=1e-9, atol=1e-12)
    personal = torch.ones(len(x), D, dtype=torch.float64)
    personal[0, 1] = factor
    heavy = make(table, {"income": factor * cost.weights["income"]})
    paid_now = cost(x, mask, values, personal)
    torch.testing.assert_close(paid_now[0], heavy(x, mask, values)[0], rtol=1e-9, atol=1e-12)
    assert torch.equal(paid_now[1:], paid[1:])
    torch.testing.assert_close(
        cost.prices(x, mask, values, personal)[0], heavy.prices(x, mask, values)[0]
    )
    assert torch.equal(cost.of(x, Intervention(mask, values), personal), paid_now)


@every
@given(plan=plans(), random=st.randoms(use_true_random=False))
def test_rows_are_priced_by_themselves(make: Make, plan: Plan, random: Any) -> None:
    table, x, mask, values = plan
    cost = make(table, None, 0.1)
    order = random.sample(range(len(x)), len(x))
    for price in (cost, cost.prices):
        paid = price(x, mask, values)
        # Sums and powers of other shapes may differ in the last bit on some processors.
        pairs = [
            (price(x[order], mask[order], values[order]), paid[order]),
            (price(x[:1], mask[:1], values[:1]), paid[:1]),
            (price(x[0], mask[0], values[0]), paid[0]),
            (
                price(*(t.expand(3, *t.shape) for t in (x, mask, values))),
                paid.expand(3, *paid.shape),
            ),
        ]
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@every
def test_nobody_asks_for_nothing(make: Make) -> None:
    nobody = torch.zeros(0, D, dtype=torch.float64)
    cost = make(TABLE, None, 0.1)
    assert cost(nobody, nobody.bool(), nobody).shape == (0,)
    assert cost.prices(nobody, nobody.bool(), nobody).shape == (0, D)


@every
@given(plan=plans())
def test_values_that_are_not_read_may_be_anything(make: Make, plan: Plan) -> None:
    table, x, mask, values = plan
    cost = make(table)
    gaps = torch.where(mask, values, math.nan).requires_grad_()
    paid = cost(x, mask, gaps)
    assert torch.equal(paid, cost(x, mask, values))
    (slope,) = torch.autograd.grad(paid.sum(), gaps)
    assert not slope[~mask].any()
    assert torch.equal(cost.prices(x, mask, gaps), cost.prices(x, mask, values))


@every
@given(plan=plans())
def test_masks_of_numbers(make: Make, plan: Plan) -> None:
    table, x, mask, values = plan
    cost = make(table, None, 0.1)
    soft = mask.double().requires_grad_()
    paid = cost(x, soft, values)
    torch.testing.assert_close(paid, cost(x, mask, values), rtol=1e-9, atol=1e-9)
    (slope,) = torch.autograd.grad(paid.sum(), soft)
    assert torch.isfinite(slope).all()
    # More of an action is dearer: at least by what every action costs.
    assert (slope[:, COLUMNS] >= 0.1 - 1e-9).all()


@pytest.mark.parametrize("kind", ["squared", "absolute", "largest_shift", "total_log_shift"])
@given(plan=plans())
def test_a_mask_of_zeros_sees_what_an_action_would_cost(kind: str, plan: Plan) -> None:
    table, x, _, values = plan
    soft = torch.zeros_like(x).requires_grad_()
    (slope,) = torch.autograd.grad(KINDS[kind](table)(x, soft, values).sum(), soft)
    moves = (values != x).nonzero().tolist()
    assert {(i, j) for i, j in slope.nonzero().tolist()} == {
        (i, j) for i, j in moves if j in COLUMNS
    }
    assert (slope >= 0).all()


@pytest.mark.parametrize("kind", SEPARABLE)
@given(plan=plans())
def test_prices_have_the_slope_of_the_cost(kind: str, plan: Plan) -> None:
    table, x, mask, values = plan
    cost = KINDS[kind](table, None, 0.1)
    free = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cost(x, mask, free).sum(), free)
    with torch.no_grad():
        price = cost.prices(x, mask, values)
    assert not price.requires_grad
    width = table.amax(0) - table.amin(0)
    seen = mask & ((values - x).abs() >= 1e-3 * width)
    seen &= torch.tensor([i in COLUMNS for i in range(D)])
    torch.testing.assert_close((2 * price * (values - x))[seen], slope[seen])


@every
@given(plan=plans(), nearly=st.sampled_from([0.0, -1e-9]))
def test_prices_are_usable_anywhere(make: Make, plan: Plan, nearly: float) -> None:
    table, x, mask, values = plan
    cost = make(table)
    for there in (values, x + nearly, 1e6 * values):
        for chosen in (mask, torch.ones_like(mask), torch.zeros_like(mask)):
            price = cost.prices(x, chosen, there)
            assert price.shape == x.shape
            assert torch.isfinite(price).all()
            assert (price > 0).all()
            others = [i for i in range(D) if i not in COLUMNS]
            assert torch.equal(price[:, others], torch.ones_like(price[:, others]))


def test_a_value_that_is_unchanged_is_priced_a_small_step_up() -> None:
    table = torch.zeros(2, D, dtype=torch.float64)
    table[1] = 10.0
    cost = KINDS["absolute"](table)
    x, all_set = table[:1] + 5, torch.ones(1, D, dtype=torch.bool)
    # Slope w / (3 * 10) at a change of 1e-3 * 10, and of 0.1 * 10 where nothing is set.
    slope = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64) / 30
    torch.testing.assert_close(cost.prices(x, all_set, x)[0, COLUMNS], slope / 2 / 0.01)
    torch.testing.assert_close(cost.prices(x, ~all_set, x)[0, COLUMNS], slope / 2 / 1.0)


def test_prices_lead_to_a_balanced_plan() -> None:
    rows = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None].expand(-1, D)
    cost = LargestShift(ENCODING, rows)
    x, mask = torch.full((1, D), 0.2, dtype=torch.float64), torch.ones(1, D, dtype=torch.bool)
    values = x.clone()
    values[0, COLUMNS] += torch.tensor([0.30, 0.29, 0.10], dtype=torch.float64)
    income, savings, debt = cost.prices(x, mask, values)[0, COLUMNS].tolist()
    # Weighted shifts of 0.6, 0.29 and 0.05: only the first has a slope in the cost itself.
    assert income > 100 * savings > 0
    assert savings >= debt > 0
    free = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cost(x, mask, free).sum(), free)
    assert slope[0].nonzero().flatten().tolist() == [1]
    assert income == pytest.approx(slope[0, 1].item() / 2 / 0.3, rel=1e-3)


@storable
@given(plan=plans())
def test_saved_and_reloaded(kind: str, plan: Plan) -> None:
    table, x, mask, values = plan
    cost = KINDS[kind](table, {"income": 5.0}, 0.25)
    state = cost.state()
    stored = State(json.loads(json.dumps(state.config)), state.tensors)
    again = cost_from_state(ENCODING, stored)
    assert type(again) is type(cost)
    assert again.kind == kind
    assert again.weights == cost.weights == {"income": 5.0, "savings": 1.0, "debt": 0.5}
    assert again.per_action == 0.25
    assert torch.equal(again(x, mask, values), cost(x, mask, values))
    assert torch.equal(again.prices(x, mask, values), cost.prices(x, mask, values))
    assert again.state().fingerprint() == state.fingerprint()


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(BundleError, match=r"be one of squared, absolute, .*; got 'cubic'"):
        cost_from_state(ENCODING, State({"kind": "cubic"}))
    with pytest.raises(BundleError, match="got None"):
        cost_from_state(ENCODING, State({}))


def test_what_searches_are_told() -> None:
    assert [kind for kind, cost in COSTS.items() if cost.is_quadratic] == ["squared"]
    assert {kind: cost.degree for kind, cost in COSTS.items()} == {
        "squared": 2,
        "absolute": 1,
        "largest_shift": 1,
        "total_log_shift": 1,
    }


@every
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"age": 1.0}, r"only name actionable features \(income, savings, debt\); got 'age'"),
        ({"wage": 1.0}, "only name actionable features .*; got 'wage'"),
        ({"income": 0.0}, r"weights\['income'\].* must be above 0; got 0.0"),
        ({"income": -1.0}, "must be above 0; got -1.0"),
        ({"income": math.inf}, "must be above 0; got inf"),
        ({"income": math.nan}, "must be above 0; got nan"),
        ({"income": "2"}, "must be above 0; got '2'"),
    ],
)
def test_bad_weights(make: Make, weights: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(TABLE, weights)


@every
@pytest.mark.parametrize("price", [-0.1, math.inf, math.nan, "1", None])
def test_bad_prices_of_actions(make: Make, price: Any) -> None:
    with pytest.raises(SettingsError, match=f"'per_action' must be finite.*; got {price!r}"):
        make(TABLE, None, price)


@storable
def test_a_constant_actionable_column_has_no_scale(kind: str) -> None:
    table = TABLE.clone()
    table[:, 4] = 3.0
    owner = COSTS[kind].__name__
    with pytest.raises(SettingsError, match=rf"{owner}.*vary in every .*; got \['savings'\]"):
        KINDS[kind](table)
    table[:, 4], table[:, 0] = table[:, 1], 3.0
    KINDS[kind](table)


@storable
def test_a_problem_without_actionable_features(kind: str) -> None:
    features = (Feature("age", role="immutable"),)
    encoding = Encoding(Schema(features, CausalGraph(("age",))))
    rows = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    given = rows if "shift" in kind else Statistics.of(rows)
    cost = COSTS[kind](encoding, given)  # type: ignore[arg-type]
    mask = torch.ones(2, 1, dtype=torch.bool)
    assert cost(rows, mask, rows + 1).tolist() == [0.0, 0.0]
    assert cost.prices(rows, mask, rows + 1).tolist() == [[1.0], [1.0]]
