"""How sure a plan is: Student's t around the mean of all models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from carma import Intervention, StructuralCausalModel
from carma.benchmarks import Benchmark
from carma.classifiers.network import NetworkClassifier
from carma.constraints import Limits, PlanLimits
from carma.recourse.doubt import Doubt, Uncertainty, quantile
from carma.recourse.target import People
from carma.schema import Schema

NUMBERS = st.floats(-5, 5, allow_subnormal=False)
SPREADS = st.floats(0.01, 5, allow_subnormal=False)
VALIDITIES = st.floats(0.51, 0.9999)
LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]


def one(bias: float, spread: float, n_models: int) -> Uncertainty:
    return Uncertainty(torch.tensor([bias]).double(), torch.tensor([spread]).double(), n_models)


@given(VALIDITIES, st.integers(2, 40))
def test_the_quantile_is_that_of_students_t(validity: float, n_models: int) -> None:
    expected = stats.t.ppf(validity, n_models - 1)
    assert quantile(validity, n_models) == pytest.approx(expected, rel=1e-6)


def test_the_quantile_of_many_models_is_that_of_the_normal_law() -> None:
    assert quantile(0.975, 10**6) == pytest.approx(1.959964, rel=1e-4)
    assert quantile(0.999, 0) == 0.0
    assert quantile(0.5, 12) == pytest.approx(0.0, abs=1e-9)


@given(NUMBERS, SPREADS, st.integers(2, 30), st.lists(NUMBERS, min_size=2, max_size=20))
def test_validity_rises_with_what_a_plan_is_ahead(
    bias: float, spread: float, n_models: int, ahead: list[float]
) -> None:
    found = [float(one(bias, spread, n_models).validity(torch.tensor([a]))) for a in sorted(ahead)]
    assert found == sorted(found)
    assert all(0 <= share <= 1 for share in found)


@given(NUMBERS, SPREADS, VALIDITIES, st.integers(2, 30))
def test_at_the_margin_the_validity_is_the_one_asked_for(
    bias: float, spread: float, validity: float, n_models: int
) -> None:
    doubt, spreads = one(bias, spread, n_models), quantile(validity, n_models)
    margin = doubt.margin(spreads)
    assert float(margin) >= 0
    reached = float(doubt.validity(margin))
    if bias + spreads * spread >= 0:
        assert reached == pytest.approx(validity, abs=1e-6)
    else:
        assert reached >= validity
    # The median of what is believed is the mean of all models.
    assert float(doubt.validity(torch.tensor([bias]).double())) == pytest.approx(0.5)


@given(st.lists(NUMBERS, min_size=1, max_size=5), st.sampled_from([0, 12]))
def test_where_nothing_is_in_doubt_a_plan_holds_or_does_not(
    ahead: list[float], n_models: int
) -> None:
    nothing = torch.zeros(len(ahead), dtype=torch.float64)
    doubt = Uncertainty(nothing, nothing, n_models)
    assert doubt.margin(4.5).tolist() == [0.0] * len(ahead)
    expected = [float(a >= 0) for a in ahead]
    assert doubt.validity(torch.tensor(ahead, dtype=torch.float64)).tolist() == expected


def test_what_is_no_number_asks_for_more_than_there_is() -> None:
    doubt = Uncertainty(torch.tensor([0.0, math.nan]), torch.tensor([math.inf, 1.0]), 5)
    assert (doubt.margin(2.0) > 1e30).all()


def test_some_of_the_plans_can_be_taken_and_replaced() -> None:
    doubt = Uncertainty(torch.arange(4.0), torch.arange(4.0) + 1, 7)
    rows = torch.tensor([2, 0])
    part = doubt[rows]
    assert (part.bias.tolist(), part.spread.tolist(), part.n_models) == ([2, 0], [3, 1], 7)
    doubt.put(rows, Uncertainty(torch.tensor([9.0, 8.0]), torch.tensor([0.5, 0.25]), 7))
    assert doubt.bias.tolist() == [8, 1, 9, 3]
    assert doubt.spread.tolist() == [0.25, 2, 0.5, 4]


def of_draws(*draws: list[float]) -> Uncertainty:
    offsets = torch.tensor(draws).double().sort(dim=1).values
    nothing = torch.zeros(len(draws)).double()
    return Uncertainty(nothing, torch.ones(len(draws)).double(), len(draws[0]), offsets)


def test_of_draws_the_share_that_is_accepted_is_told() -> None:
    # Two humps, as of an effect with two levels: the mean and the spread say little.
    doubt = of_draws([-3.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.3], [0.0] * 8)
    found = doubt.validity(torch.tensor([1.0, 1.0]))
    assert found.tolist() == [8 / 10, 9 / 10]
    assert doubt.validity(torch.tensor([-0.15, -0.05])).tolist() == [3 / 10, 1 / 10]


@given(
    st.lists(st.lists(NUMBERS, min_size=24, max_size=24), min_size=1, max_size=3),
    st.floats(0.51, 0.96),
)
def test_the_margin_of_draws_is_the_least_at_which_their_share_is_the_one_asked_for(
    draws: list[list[float]], validity: float
) -> None:
    doubt = of_draws(*draws)
    margin = doubt.margin(quantile(validity, 24))
    assert (margin >= 0).all()
    assert (doubt.validity(margin) >= validity - 1e-6).all()
    below = doubt.validity(margin - 1e-9)
    assert ((below < validity) | (margin == 0)).all()


def test_where_no_number_of_draws_is_enough_all_must_be_accepted() -> None:
    doubt = of_draws([-2.0, 1.0, 1.0], [0.5, 0.5, 0.5])
    assert doubt.margin(quantile(0.999, 3)).tolist() == [2.0, 0.0]


def test_draws_can_be_taken_replaced_and_joined() -> None:
    doubt = of_draws([1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    rows = torch.tensor([2, 0])
    part = doubt[rows]
    assert part.draws is not None
    assert doubt.draws is not None
    assert part.draws.tolist() == [[5, 6], [1, 2]]
    both = Uncertainty.joined([doubt, part]).draws
    assert both is not None
    assert both.shape == (5, 2)
    doubt.put(rows, of_draws([7.0, 8.0], [9.0, 9.5]))
    assert doubt.draws.tolist() == [[9, 9.5], [3, 4], [7, 8]]


class Shifted(StructuralCausalModel):
    """Its alternatives add known numbers to the last column, wherever that is an effect."""

    shifts: ClassVar[tuple[float, ...]] = (-1.0, 0.5, 0.5, 2.0)

    @property
    def n_alternatives(self) -> int:
        return len(self.shifts)

    def _alternatives(self, x: Tensor, intervention: Intervention) -> Tensor:
        moved = self.counterfactual(x, intervention).repeat(len(self.shifts), 1, 1)
        moved[..., -1] += torch.tensor(self.shifts, dtype=x.dtype)[:, None]
        return moved


class Open(Shifted):
    """The same, but its alternatives are draws from what the facts leave open."""

    @property
    def is_point_identified(self) -> bool:
        return False


@pytest.fixture(scope="module")
def shifted(chain: Benchmark) -> Shifted:
    model = Shifted(chain.scm.schema, chain.scm.equations)
    model.statistics_ = chain.scm.statistics_
    return model


def plans(data: Benchmark, model: StructuralCausalModel) -> tuple[People, Tensor, Tensor]:
    """Set x1, set x2, set x1 and x2, set x3 as well, one person each."""
    x = data.encoded("recourse")[:4]
    box: Limits = PlanLimits(data.encoding, model.statistics_).around(x)
    mask = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 1]]).bool()
    return People(x, model.abduct(x), box), mask, x + 0.5


def test_known_disagreement_gives_its_mean_and_standard_deviation(
    chain: Benchmark, shifted: Shifted, linear: LinearClassifier
) -> None:
    classifier = linear(chain.schema, [0.0, 1.0, 0.5, 3.0], -0.25)
    doubt = Doubt(shifted, classifier)
    assert doubt.n_alternatives == 4
    found = doubt.of(*plans(chain, shifted))
    assert found.n_models == 4
    logit = 3.0 * torch.tensor(Shifted.shifts, dtype=torch.float64)
    # The model itself is one more draw, at 0; the mean exceeds it by so much.
    bias = -float(logit.sum()) / 5
    spread = float(logit.std())
    torch.testing.assert_close(found.bias, torch.tensor([bias] * 3 + [0.0]).double())
    # In the last row x3 is set: all models agree.
    torch.testing.assert_close(found.spread, torch.tensor([spread] * 3 + [0.0]).double())


def test_many_people_are_compared_in_parts(
    chain: Benchmark,
    shifted: Shifted,
    linear: LinearClassifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doubt = Doubt(shifted, linear(chain.schema, [0.3, 1.0, 0.5, 3.0], -0.25))
    whole = doubt.of(*plans(chain, shifted))
    monkeypatch.setattr("carma.recourse.doubt.TOGETHER", 3 * len(Shifted.shifts))
    parts = doubt.of(*plans(chain, shifted))
    torch.testing.assert_close(parts.bias, whole.bias)
    torch.testing.assert_close(parts.spread, whole.spread)


def test_rows_that_are_known_already_are_not_computed_again(
    chain: Benchmark, shifted: Shifted, linear: LinearClassifier
) -> None:
    doubt = Doubt(shifted, linear(chain.schema, [0.3, 1.0, 0.5, 3.0], -0.25))
    people, mask, values = plans(chain, shifted)
    reached = shifted.counterfactual(people.x, people.do(mask, values), people.u)
    known, alone = doubt.of(people, mask, values, reached), doubt.of(people, mask, values)
    assert torch.equal(known.bias, alone.bias)
    assert torch.equal(known.spread, alone.spread)


def test_what_all_models_share_is_not_in_doubt(
    chain: Benchmark, shifted: Shifted, linear: LinearClassifier
) -> None:
    blind = linear(chain.schema, [0.0, 1.0, 0.5, 0.0], -0.25)
    found = Doubt(shifted, blind).of(*plans(chain, shifted))
    assert (found.bias == 0).all()
    assert (found.spread == 0).all()


def test_a_known_model_leaves_no_doubt(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    doubt = Doubt(chain.scm, chain_classifier)
    people, mask, values = plans(chain, chain.scm)
    found = doubt.of(people, mask, values)
    assert (doubt.n_alternatives, found.n_models) == (0, 0)
    assert found.margin(4.5).tolist() == [0.0] * 4
    assert found.validity(torch.tensor([1.0, -1.0, 0.0, 2.0])).tolist() == [1, 0, 1, 1]


def test_whoever_believes_in_the_model_has_no_doubt(
    chain: Benchmark, shifted: Shifted, chain_classifier: NetworkClassifier
) -> None:
    people, mask, values = plans(chain, shifted)
    assert Doubt(shifted, chain_classifier, 0).of(people, mask, values).n_models == 0
    nobody = torch.zeros(0, dtype=torch.long)
    none = Doubt(shifted, chain_classifier).of(people[nobody], mask[:0], values[:0])
    assert none.margin(2.0).shape == none.validity(torch.zeros(0)).shape == (0,)


def test_draws_are_the_log_odds_past_the_models_own(
    chain: Benchmark, linear: LinearClassifier
) -> None:
    model = Open(chain.scm.schema, chain.scm.equations)
    model.statistics_ = chain.scm.statistics_
    classifier = linear(chain.schema, [0.0, 1.0, 0.5, 3.0], -0.25)
    found = Doubt(model, classifier).of(*plans(chain, model))
    expected = 3.0 * torch.tensor(sorted(Shifted.shifts)).double()
    assert found.draws is not None
    torch.testing.assert_close(found.draws[:3], expected.expand(3, 4))
    # One of four is a rejection; x3 is set in the last row, and nothing follows from that.
    assert found.validity(torch.full((4,), 2.0)).tolist() == [4 / 6, 4 / 6, 4 / 6, 1.0]
    # Draws that agree by chance are no proof.
    blind = linear(chain.schema, [0.0, 1.0, 0.5, 0.0], -0.25)
    same = Doubt(model, blind).of(*plans(chain, model))
    assert same.validity(torch.full((4,), 2.0)).tolist() == [5 / 6, 5 / 6, 5 / 6, 1.0]
    assert same.margin(quantile(0.9, 4)).tolist() == [0.0] * 4
