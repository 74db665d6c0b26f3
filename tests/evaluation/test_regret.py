"""Regret against its definitions, and its intervals against repeated samples."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from carma import Regret
from carma.errors import InputError
from carma.evaluation import regret as module

COSTS = st.floats(0, 1e3, allow_subnormal=False)
PEOPLE = st.lists(st.tuples(COSTS, COSTS), min_size=1, max_size=12)
GAPS = st.sampled_from([math.nan, math.inf, -math.inf])


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Optima of mean 1 and costs of mean 1.5, skewed as costs are."""
    rng = np.random.default_rng(seed)
    optimum = rng.gamma(2.0, 0.5, n)
    cost = optimum * (1 + rng.exponential(0.5, n))
    return torch.from_numpy(cost), torch.from_numpy(optimum)


def regret_of(cost: Tensor, optimum: Tensor, seed: int = 0, n_resamples: int = 100) -> Regret:
    found = Regret.of(cost, optimum, seed=seed, n_resamples=n_resamples)
    assert found is not None
    return found


def ratio_of(found: Regret) -> tuple[float, float, float]:
    """Lower end, value, upper end."""
    assert found.cost_ratio is not None
    assert found.cost_ratio_low is not None
    assert found.cost_ratio_high is not None
    return found.cost_ratio_low, found.cost_ratio, found.cost_ratio_high


@given(PEOPLE)
def test_definitions(people: list[tuple[float, float]]) -> None:
    cost, optimum = (tensor(list(column)) for column in zip(*people, strict=True))
    found = regret_of(cost, optimum)
    paid = sum(Fraction(c) for c, _ in people)
    least = sum(Fraction(o) for _, o in people)
    n = len(people)
    assert found.n_people == n
    if least > 0 and paid / least < 1e300:
        assert found.cost_ratio == pytest.approx(float(paid / least), rel=1e-12)
    else:
        assert found.cost_ratio is None
    assert found.mean_x100 == pytest.approx(float(100 * (paid - least) / n), abs=1e-9)
    regrets = sorted(100 * (c - o) for c, o in people)
    assert list(found.quantiles_x100) == ["0.05", "0.25", "0.5", "0.75", "0.95", "1.0"]
    assert found.quantiles_x100["1.0"] == pytest.approx(regrets[-1])
    middle = (regrets[(n - 1) // 2] + regrets[n // 2]) / 2
    assert found.quantiles_x100["0.5"] == pytest.approx(middle, abs=1e-9)
    n_optimal = sum(abs(c - o) <= 0.01 * o for c, o in people)
    assert found.share_optimal == pytest.approx(100 * n_optimal / n)
    assert found.per_person.tolist() == [c - o for c, o in people]


@given(PEOPLE, st.data())
def test_order_of_people_does_not_matter(
    people: list[tuple[float, float]], data: st.DataObject
) -> None:
    cost, optimum = (tensor(list(column)) for column in zip(*people, strict=True))
    order = torch.tensor(data.draw(st.permutations(range(len(people)))))
    found, moved = regret_of(cost, optimum), regret_of(cost[order], optimum[order])
    assert moved == found
    assert moved.per_person.equal(found.per_person[order])


@given(PEOPLE, st.lists(st.tuples(GAPS, COSTS) | st.tuples(COSTS, GAPS), max_size=5))
def test_people_without_a_plan_or_an_optimum_are_left_out(
    people: list[tuple[float, float]], gaps: list[tuple[float, float]]
) -> None:
    cost, optimum = (tensor(list(column)) for column in zip(*people, *gaps, strict=True))
    found = regret_of(cost, optimum)
    n = len(people)
    assert found == regret_of(cost[:n], optimum[:n])
    assert found.per_person.shape == cost.shape
    assert found.per_person[n:].isnan().all()


@given(PEOPLE)
def test_content_is_plain_json_without_the_rows(people: list[tuple[float, float]]) -> None:
    cost, optimum = (tensor(list(column)) for column in zip(*people, strict=True))
    content = regret_of(cost, optimum).to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert "per_person" not in content


def test_ratio_has_no_unit_and_regret_has_that_of_cost() -> None:
    cost, optimum = drawn(300)
    found, scaled = regret_of(cost, optimum), regret_of(8 * cost, 8 * optimum)
    assert ratio_of(scaled) == ratio_of(found)
    assert scaled.share_optimal == found.share_optimal
    assert scaled.mean_x100 == 8 * found.mean_x100
    assert (scaled.mean_x100_low, scaled.mean_x100_high) == (
        8 * found.mean_x100_low,
        8 * found.mean_x100_high,
    )
    assert scaled.quantiles_x100 == pytest.approx(
        {q: 8 * v for q, v in found.quantiles_x100.items()}
    )


@given(st.floats(-2, 2))
def test_a_constant_on_every_cost_moves_regret_by_it(extra: float) -> None:
    cost, optimum = drawn(40)
    found, moved = regret_of(cost, optimum), regret_of(cost + extra, optimum)
    for name in ("mean_x100", "mean_x100_low", "mean_x100_high"):
        assert getattr(moved, name) == pytest.approx(getattr(found, name) + 100 * extra, abs=1e-9)
    assert moved.quantiles_x100 == pytest.approx(
        {q: v + 100 * extra for q, v in found.quantiles_x100.items()}, abs=1e-9
    )


@pytest.mark.parametrize("n", [1, 2, 30, 3000])
def test_the_optimum_itself_has_ratio_one_exactly(n: int) -> None:
    _, optimum = drawn(n)
    found = regret_of(optimum, optimum.clone())
    assert ratio_of(found) == (1.0, 1.0, 1.0)
    assert (found.mean_x100_low, found.mean_x100, found.mean_x100_high) == (0.0, 0.0, 0.0)
    assert set(found.quantiles_x100.values()) == {0.0}
    assert found.share_optimal == 100.0


def test_a_regret_that_all_share_has_no_width() -> None:
    optimum = torch.arange(1.0, 9.0, dtype=torch.float64)
    for cost, mean in ((optimum + 0.25, 25.0), (optimum - 0.25, -25.0)):
        found = regret_of(cost, optimum)
        assert (found.mean_x100_low, found.mean_x100, found.mean_x100_high) == (mean,) * 3
    assert ratio_of(regret_of(2 * optimum, optimum)) == (2.0, 2.0, 2.0)


def test_one_person_is_a_point() -> None:
    found = regret_of(tensor([math.nan, 0.3]), tensor([0.1, 0.1]))
    assert ratio_of(found) == (0.3 / 0.1,) * 3
    assert found.mean_x100_low == found.mean_x100 == found.mean_x100_high
    assert len(set(found.quantiles_x100.values())) == 1
    assert found.per_person.isnan().tolist() == [True, False]


def test_negative_regret_is_kept() -> None:
    found = regret_of(tensor([0.5, 0.5]), tensor([1.0, 0.5]))
    assert found.cost_ratio == pytest.approx(2 / 3)
    assert found.mean_x100 == -25.0
    assert found.quantiles_x100["1.0"] == 0.0
    assert found.share_optimal == 50.0
    assert found.per_person.tolist() == [-0.5, 0.0]


def test_optimal_is_within_one_percent_on_either_side() -> None:
    cost = tensor([0.98, 0.995, 1.0, 1.005, 1.02, 0.0, 0.1])
    optimum = tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    assert regret_of(cost, optimum).share_optimal == pytest.approx(100 * 4 / 7)


def test_one_person_with_almost_no_optimum_does_not_rule_the_ratio() -> None:
    cost, optimum = drawn(200)
    before = regret_of(cost, optimum)
    after = regret_of(torch.cat([cost, tensor([1e-3])]), torch.cat([optimum, tensor([1e-9])]))
    assert after.cost_ratio == pytest.approx(before.cost_ratio, rel=1e-3)


def test_no_ratio_to_an_optimum_of_nothing() -> None:
    for cost in (tensor([0.0, 0.0]), tensor([0.1, 0.3])):
        found = regret_of(cost, torch.zeros(2))
        assert found.cost_ratio is found.cost_ratio_low is found.cost_ratio_high is None
        assert found.mean_x100 == pytest.approx(100 * float(cost.mean()))


def test_upper_end_is_none_when_resamples_often_have_no_optimum() -> None:
    found = regret_of(tensor([0.1, 0.1, 1.0]), tensor([0.0, 0.0, 1.0]))
    assert found.cost_ratio == pytest.approx(1.2)
    assert found.cost_ratio_low is not None
    assert found.cost_ratio_high is None
    # With enough people, those who need nothing are no obstacle.
    ratio_of(regret_of(tensor([0.1, 0.1, 1.0] * 20), tensor([0.0, 0.0, 1.0] * 20)))


def test_interval_is_that_of_resamples_drawn_one_at_a_time() -> None:
    cost, optimum = drawn(23)
    rows = sorted(zip(optimum.tolist(), cost.tolist(), strict=True))
    rng, ratios, means = np.random.default_rng(5), [], []
    for _ in range(200):
        chosen = [rows[i] for i in rng.integers(23, size=23)]
        paid, least = sum(c for _, c in chosen), sum(o for o, _ in chosen)
        ratios.append(paid / least)
        means.append(100 * (paid - least) / 23)
    found = regret_of(cost, optimum, seed=5, n_resamples=200)
    low, _, high = ratio_of(found)
    assert [low, high] == pytest.approx([sorted(ratios)[5], sorted(ratios)[-6]])
    assert [found.mean_x100_low, found.mean_x100_high] == pytest.approx(
        [sorted(means)[5], sorted(means)[-6]]
    )


@pytest.mark.parametrize("block", [1, 50, 137, 999])
def test_blocks_agree_with_one_block(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    cost, optimum = drawn(50)
    whole = regret_of(cost, optimum)
    assert module.BLOCK >= 100 * 50
    monkeypatch.setattr(module, "BLOCK", block)
    assert regret_of(cost, optimum) == whole


def test_draws_held_at_one_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = module._ratios_and_means

    def watched(
        paid: module.Numbers, least: module.Numbers
    ) -> tuple[module.Numbers, module.Numbers]:
        sizes.append(paid.size)
        return original(paid, least)

    monkeypatch.setattr(module, "_ratios_and_means", watched)
    regret_of(*drawn(5000), n_resamples=400)
    n = module.BLOCK + 1
    regret_of(torch.ones(n), torch.ones(n), n_resamples=40)
    assert max(sizes) == n
    assert len(sizes) == 1 + math.ceil(400 / (module.BLOCK // 5000)) + 1 + 40


def test_seed_decides_and_the_global_generators_are_left_alone() -> None:
    cost, optimum = drawn(60)
    state, old = torch.get_rng_state(), np.random.get_state(legacy=False)
    first = regret_of(cost, optimum, seed=1)
    assert torch.get_rng_state().equal(state)
    assert str(np.random.get_state(legacy=False)) == str(old)
    torch.manual_seed(99)
    assert regret_of(cost, optimum, seed=1) == first
    other = regret_of(cost, optimum, seed=2)
    assert ratio_of(other) != ratio_of(first)
    assert other.cost_ratio == first.cost_ratio


def test_interval_holds_the_value_and_shrinks_with_the_root_of_n() -> None:
    ratio_widths, mean_widths = [], []
    for n in (100, 1600, 25600):
        found = regret_of(*drawn(n), n_resamples=1000)
        low, value, high = ratio_of(found)
        assert low < value < high
        assert found.mean_x100_low < found.mean_x100 < found.mean_x100_high
        ratio_widths.append(high - low)
        mean_widths.append(found.mean_x100_high - found.mean_x100_low)
    for widths in (ratio_widths, mean_widths):
        shrinkage = [a / b for a, b in pairwise(widths)]
        assert shrinkage == pytest.approx([4.0, 4.0], rel=0.3)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    n_trials, ratio_hits, mean_hits = 300, 0, 0
    for trial in range(n_trials):
        found = regret_of(*drawn(150, seed=trial), seed=trial, n_resamples=400)
        low, _, high = ratio_of(found)
        ratio_hits += low <= 1.5 <= high
        mean_hits += found.mean_x100_low <= 50.0 <= found.mean_x100_high
    for hits in (ratio_hits, mean_hits):
        assert 0.91 <= hits / n_trials <= 0.98


def test_cost_and_optimum_are_drawn_together() -> None:
    cost, optimum = drawn(400)
    low, _, high = ratio_of(regret_of(cost, optimum))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    loose_low, _, loose_high = ratio_of(regret_of(cost[order], optimum))
    assert high - low < 0.7 * (loose_high - loose_low)


def test_nobody_to_compare() -> None:
    assert Regret.of(torch.zeros(0), torch.zeros(0)) is None
    assert Regret.of(tensor([math.nan, 1.0]), tensor([1.0, math.inf])) is None


def test_single_precision_and_gradients_are_taken() -> None:
    cost = torch.tensor([0.5, 1.0], requires_grad=True)
    found = regret_of(cost, torch.tensor([0.5, 0.5]))
    assert found.cost_ratio == 1.5
    assert found.per_person.dtype == torch.float64
    assert not found.per_person.requires_grad


def test_equal_regrets_hash_alike_whatever_their_rows() -> None:
    found = regret_of(*drawn(5))
    other = replace(found, per_person=torch.zeros(1))
    assert found == other
    assert hash(found) == hash(other)
    assert "per_person" not in repr(found)


def test_arguments_are_checked() -> None:
    with pytest.raises(InputError, match=r"'cost' must have shape \(n,\); got \(2, 1\)"):
        Regret.of(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(InputError, match=r"'optimum' must have shape \(2,\), .*; got \(3,\)"):
        Regret.of(torch.zeros(2), torch.zeros(3))
    with pytest.raises(InputError, match=r"'n_resamples' must be at least 40 .*; got 39"):
        Regret.of(torch.zeros(2), torch.zeros(2), n_resamples=39)
