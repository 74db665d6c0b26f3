"""Every set of features once, small ones first, and their number without listing them."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from carma.recourse.subsets import all_subsets, n_subsets

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
