"""An intervention is a value that checks itself."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carma.errors import ConstraintError, SchemaError
from carma.graph import CausalGraph
from carma.interventions import Intervention
from carma.schema import Feature, Schema
from carma.table import Encoding

ENCODING = Encoding(
    Schema(
        (Feature("job", "nominal", levels=("a", "b")), Feature("age"), Feature("income")),
        CausalGraph(("job", "age", "income")),
    )
)


def test_none_sets_nothing() -> None:
    x = torch.ones(3, 4, dtype=torch.float64)
    nothing = Intervention.none(x)
    assert nothing.n_actions.tolist() == [0, 0, 0]
    assert nothing.values.dtype == x.dtype


@given(st.lists(st.floats(-1e9, 1e9) | st.just(math.nan), min_size=1, max_size=6))
def test_values_by_name_land_in_their_column_and_nan_leaves_alone(values: list[float]) -> None:
    n = len(values)
    do = Intervention.of(ENCODING, n, income=torch.tensor(values, dtype=torch.float64), age=2.0)
    for row, value in enumerate(values):
        is_set = not math.isnan(value)
        assert do.mask[row].tolist() == [False, False, True, is_set]
        assert do.values[row].tolist() == [0.0, 0.0, 2.0, value if is_set else 0.0]
    assert do.n_actions.tolist() == do.mask.sum(1).tolist()
    assert do.values.dtype == torch.float64


def test_gradients_reach_the_values() -> None:
    wage = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    do = Intervention.of(ENCODING, 2, income=wage)
    (gradient,) = torch.autograd.grad(do.values.sum(), wage)
    assert gradient.tolist() == [1.0, 1.0]


def test_a_nominal_feature_is_set_as_a_whole() -> None:
    do = Intervention.of(ENCODING, 3, job=torch.tensor([0.0, math.nan, 1.0]))
    assert do.mask[:, :2].tolist() == [[True, True], [False, False], [True, True]]
    assert do.values[:, :2].tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ConstraintError, match="'job' must be one of the codes 0, 1"):
        Intervention.of(ENCODING, 1, job=2)


def test_bad_input() -> None:
    values = torch.zeros(2, 3)
    with pytest.raises(ConstraintError, match="'mask' must be boolean"):
        Intervention(values, values)
    with pytest.raises(ConstraintError, match=r"one shape; got \(\(2, 2\), \(2, 3\)\)"):
        Intervention(torch.ones(2, 2, dtype=torch.bool), values)
    with pytest.raises(SchemaError, match="be one of job, age, income; got 'wage'"):
        Intervention.of(ENCODING, 1, wage=1.0)
    with pytest.raises(ConstraintError, match=r"'income' must be .* 2 rows; got \(3,\)"):
        Intervention.of(ENCODING, 2, income=torch.zeros(3))
