"""Every set of features once, their number without listing them, and the likeliest of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from carma.recourse.subsets import all_subsets, most_probable, n_subsets
from carma.state import seeded

MOST = st.none() | st.integers(1, 12)


@given(st.integers(0, 80), st.none() | st.integers(1, 90))
def test_the_number_of_sets_is_a_sum_of_binomials(n_features: int, most: int | None) -> None:
    largest = n_features if most is None else min(n_features, most)
    expected = sum(math.comb(n_features, size) for size in range(1, largest + 1))
    assert n_subsets(n_features, most) == expected


@given(st.lists(st.integers(0, 9), max_size=7, unique=True), MOST)
def test_every_set_comes_once_and_small_ones_first(columns: list[int], most: int | None) -> None:
    masks = all_subsets(torch.tensor(columns, dtype=torch.long), 10, most)
    assert masks.shape == (n_subsets(len(columns), most), 10)
    assert masks.dtype == torch.bool
    sets = [frozenset(mask.nonzero().flatten().tolist()) for mask in masks]
    assert len(set(sets)) == len(sets)
    sizes = [len(s) for s in sets]
    assert sizes == sorted(sizes)
    assert all(1 <= size <= (most or 10) for size in sizes)
    assert all(s <= set(columns) for s in sets)


LOGIT = st.floats(-6, 6, allow_subnormal=False) | st.just(-math.inf)
LOGITS = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.lists(LOGIT, min_size=k, max_size=k), min_size=1, max_size=4)
)


def scores(logits: Tensor, most: int) -> list[float]:
    """Log-probabilities of all sets that are nonempty, usable and small, the likeliest first.

    Up to a constant, that of a set of independent features is the sum of its logits.
    """
    k = len(logits)
    sets = [s for size in range(1, most + 1) for s in itertools.combinations(range(k), size)]
    every = [float(logits[list(s)].sum()) for s in sets]
    return sorted((score for score in every if math.isfinite(score)), reverse=True)


@given(LOGITS, st.integers(1, 9))
def test_the_likeliest_sets_are_those_that_trying_all_finds(
    rows: list[list[float]], count: int
) -> None:
    logits = torch.tensor(rows, dtype=torch.float64)
    masks = most_probable(logits, count)
    assert masks.dtype == torch.bool
    assert masks.shape[0] == len(rows)
    assert masks.shape[1] == min(count, 2 ** logits.shape[1])
    for own, chosen in zip(logits, masks, strict=True):
        expected = scores(own, len(own))[:count]
        found = chosen[chosen.any(dim=1)]
        # What is left over comes last, and is empty.
        assert torch.equal(found, chosen[: len(found)])
        assert len(torch.unique(found, dim=0)) == len(found) == len(expected)
        assert [float(own[mask].sum()) for mask in found] == pytest.approx(expected, abs=1e-9)


@given(
    st.lists(st.floats(-6, 6, allow_subnormal=False), min_size=2, max_size=6, unique=True),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 5),
)
def test_sets_stay_as_small_as_asked_and_the_first_is_the_likeliest(
    row: list[float], most: int, count: int, n_frozen: int
) -> None:
    logits = torch.tensor([row], dtype=torch.float64)
    # Differences that rounding swallows are none.
    logits = logits + 1e-3 * torch.arange(len(row))
    logits[0, : min(n_frozen, len(row) - 1)] = -math.inf
    chosen = most_probable(logits, count, torch.tensor([most]))[0]
    found = chosen[chosen.any(dim=1)]
    assert len(found) >= 1
    assert torch.equal(found, chosen[: len(found)])
    assert len(torch.unique(found, dim=0)) == len(found)
    assert int(found.sum(dim=1).max()) <= most
    achieved = [float(logits[0][mask].sum()) for mask in found]
    assert all(math.isfinite(score) for score in achieved)
    assert achieved[0] == pytest.approx(scores(logits[0], min(most, len(row)))[0], abs=1e-9)


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_features_that_are_equally_likely_leave_a_set(most: int, count: int, logit: float) -> None:
    chosen = most_probable(torch.full((1, 6), logit), count, torch.tensor([most]))[0]
    assert chosen[0].any()
    assert int(chosen.sum(dim=1).max()) <= most


def test_each_row_has_sets_of_its_own() -> None:
    logits = torch.randn(40, 5, generator=seeded(0), dtype=torch.float64)
    most = torch.randint(1, 6, (40,), generator=seeded(1))
    together = most_probable(logits, 4, most)
    for i in range(len(logits)):
        assert torch.equal(most_probable(logits[i : i + 1], 4, most[i : i + 1])[0], together[i])
    assert most_probable(logits[:0], 4, most[:0]).shape == (0, 4, 5)
