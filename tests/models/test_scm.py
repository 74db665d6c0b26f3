"""Known equations: exact abduction and densities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import LogNormal, MultivariateNormal, Normal

from carma import (
    CausalGraph,
    Equation,
    Feature,
    Intervention,
    Schema,
    StructuralCausalModel,
    additive,
    linear,
)
from carma.benchmarks import NAMES, structural_model
from carma.errors import SchemaError, TableError
from carma.schema import Kind

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


def weighed(*, is_known: bool = True, kind: Kind = "continuous") -> StructuralCausalModel:
    """The mechanisms of ``linear_gaussian`` with noise of spread 1, the columns turned round."""
    graph = CausalGraph.from_parents({"b": ["a"], "c": ["a", "b"]}, ("c", "b", "a"))
    features = (Feature("c", kind), Feature("b", role="actionable"), Feature("a"))
    equations = {
        "a": additive(lambda _: 1.0, LogNormal(0.0, 1.0)),
        "b": linear({"a": 0.7}, gaussian(), intercept=-2.0),
        "c": linear({"a": -0.4, "b": 1.5}, gaussian(), intercept=0.5),
    }
    if not is_known:
        equations["b"] = additive(lambda p: -2.0 + 0.7 * p["a"], gaussian())
    return StructuralCausalModel(Schema(features, graph), equations)


def test_linear_is_the_additive_mechanism_of_the_same_sum() -> None:
    known, unknown = weighed(), weighed(is_known=False)
    x = known.sample(50, seed=1)
    assert torch.equal(x, unknown.sample(50, seed=1))
    torch.testing.assert_close(known.abduct(x), unknown.abduct(x))
    assert known.equations["c"].weights == {"a": -0.4, "b": 1.5}
    assert unknown.equations["b"].weights is None


def test_later_changes_of_the_given_weights_change_nothing() -> None:
    weights = {"a": 2.0}
    equation = linear(weights, gaussian())
    weights["a"] = 3.0
    assert equation.weights == {"a": 2.0}
    assert equation.forward({"a": torch.ones(1)}, torch.zeros(1)).tolist() == [2.0]


def test_direct_effects_are_the_weights_and_give_every_counterfactual() -> None:
    scm = weighed()
    effects = scm.direct_effects
    assert effects is not None
    assert effects.tolist() == [[0, 1.5, -0.4], [0, 0, 0.7], [0, 0, 0]]
    total = torch.linalg.inv(torch.eye(3) - effects)
    x = scm.sample(50, seed=2)
    moved = scm.counterfactual(x, Intervention.of(scm.encoding, 50, a=2.0)) - x
    torch.testing.assert_close(moved, moved[:, 2:] * total[:, 2])


def test_direct_effects_are_unknown_where_one_mechanism_is_or_an_effect_is_discrete() -> None:
    assert weighed(is_known=False).direct_effects is None
    assert weighed(kind="integer").direct_effects is None
    assert linear_gaussian().direct_effects is None
    known = [name for name in NAMES if structural_model(name).direct_effects is not None]
    assert known == ["triangle-lin", "collider-lin", "chain-lin"]


def test_direct_effects_are_the_derivatives_of_the_counterfactual() -> None:
    for name in ("triangle-lin", "collider-lin", "chain-lin"):
        scm = structural_model(name)
        x, effects = scm.sample(5, seed=1), scm.direct_effects
        assert effects is not None
        total = torch.linalg.inv(torch.eye(4) - effects)
        for i, column in enumerate(("x1", "x2", "x3"), start=1):
            do = Intervention.of(scm.encoding, 5, **{column: x[:, i] + 2.0})
            moved = scm.counterfactual(x, do) - x
            torch.testing.assert_close(moved, 2 * total[:, i].expand(5, 4))


def test_weights_have_to_follow_the_graph() -> None:
    scm = weighed()
    equations = {**scm.equations, "b": linear({"c": 1.0}, gaussian())}
    with pytest.raises(SchemaError, match=r"'weights of b' must only name its causes.*\['c'\]"):
        StructuralCausalModel(scm.schema, equations)
