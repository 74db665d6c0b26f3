"""Known equations: exact abduction and densities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from carma import (
    CausalGraph,
    Equation,
    Feature,
    Intervention,
    Schema,
    StructuralCausalModel,
    additive,
)
from carma.benchmarks import NAMES, structural_model
from carma.errors import SchemaError, TableError

WEIGHTS = torch.tensor([[0, 0, 0], [0.7, 0, 0], [-0.4, 1.5, 0]], dtype=torch.float64)
SHIFTS = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
SPREADS = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)


def gaussian() -> Normal:
    return Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())


def linear_gaussian() -> StructuralCausalModel:
    """x = WEIGHTS x + SHIFTS + SPREADS * u, u standard normal."""
    names = ("a", "b", "c")
    graph = CausalGraph.from_parents({"b": ["a"], "c": ["a", "b"]}, names)
    schema = Schema(tuple(Feature(n, role="actionable") for n in names), graph)

    def mechanism(i: int) -> Equation:
        def mean(p: object) -> Tensor:
            values = dict(p)  # type: ignore[call-overload]
            total: Tensor = SHIFTS[i]
            for j, name in enumerate(names[:i]):
                total = total + WEIGHTS[i, j] * values[name]
            return total

        return Equation(
            lambda p, u: mean(p) + SPREADS[i] * u,
            lambda p, x: (x - mean(p)) / SPREADS[i],
            gaussian(),
        )

    return StructuralCausalModel(schema, {n: mechanism(i) for i, n in enumerate(names)})


@pytest.mark.parametrize("name", NAMES)
def test_abduction_finds_the_noise_that_was_drawn(name: str) -> None:
    scm = structural_model(name)
    torch.manual_seed(0)
    u = torch.stack(
        [scm.equations[n].noise.sample(torch.Size((500,))).double() for n in scm.schema.names],
        dim=1,
    )
    torch.testing.assert_close(scm.abduct(scm.predict(u)), u, atol=1e-9, rtol=1e-9)


def test_log_prob_of_linear_gaussian_equations_is_the_multivariate_normals() -> None:
    scm = linear_gaussian()
    mix = torch.linalg.inv(torch.eye(3).double() - WEIGHTS)
    joint = MultivariateNormal(mix @ SHIFTS, mix @ torch.diag(SPREADS**2) @ mix.T)
    x = scm.sample(300, seed=1)
    expected = joint.log_prob(x)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(scm.log_prob(x), expected, atol=1e-9, rtol=1e-9)
    drawn = scm.sample(50_000, seed=2)
    torch.testing.assert_close(drawn.mean(0), joint.mean, atol=0.05, rtol=0.0)
    torch.testing.assert_close(drawn.T.cov(), joint.covariance_matrix, atol=0.1, rtol=0.05)


def test_counterfactual_of_linear_equations_in_closed_form() -> None:
    scm = linear_gaussian()
    x = scm.sample(50, seed=3)
    do = Intervention.of(scm.encoding, 50, a=2.0)
    change = 2.0 - x[:, 0]
    expected = x + change[:, None] * torch.tensor([1.0, 0.7, -0.4 + 1.5 * 0.7], dtype=torch.float64)
    torch.testing.assert_close(scm.counterfactual(x, do), expected, atol=1e-9, rtol=1e-9)


def test_an_intervention_cuts_the_causes_of_what_it_sets() -> None:
    scm = linear_gaussian()
    x = scm.sample(50, seed=3)
    both = scm.counterfactual(x, Intervention.of(scm.encoding, 50, a=2.0, b=0.0))
    expected = x[:, 2] - 0.4 * (2.0 - x[:, 0]) + 1.5 * (0.0 - x[:, 1])
    torch.testing.assert_close(both[:, 2], expected, atol=1e-9, rtol=1e-9)


def test_fit_only_records_statistics() -> None:
    scm = linear_gaussian()
    assert scm.is_fitted
    table = scm.encoding.decode(scm.sample(100))
    x = scm.encoding.encode(table)
    assert scm.fit(table) is scm
    torch.testing.assert_close(scm.statistics_.mean, x.mean(0))
    torch.testing.assert_close(scm.statistics_.std, x.std(0, correction=0))
    with pytest.raises(TableError, match="a constant column teaches nothing"):
        scm.fit(table.assign(b=1.0))


def test_equations_must_fit_the_schema() -> None:
    scm = linear_gaussian()
    noise = gaussian()
    with pytest.raises(SchemaError, match="exactly one equation"):
        StructuralCausalModel(scm.schema, {"a": scm.equations["a"]})
    nominal = Schema((Feature("a", "nominal", levels=("x", "y")),), CausalGraph(("a",)))
    with pytest.raises(SchemaError, match="not be nominal"):
        StructuralCausalModel(nominal, {"a": additive(lambda _: 0.0, noise)})
