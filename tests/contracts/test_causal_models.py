"""Every causal model goes through the same laws (Pearl 2009, chapter 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from carma import (
    AdditiveNoiseModel,
    AdditiveNoiseSettings,
    CausalFlow,
    CausalGraph,
    CausalModel,
    Equation,
    Feature,
    FlowSettings,
    Intervention,
    MixedFlow,
    MixedSettings,
    Schema,
    StructuralCausalModel,
    TrainingSettings,
    Vaca,
    VacaSettings,
    WithDerived,
    additive,
)
from carma.benchmarks import NAMES, OWN_NAMES, random_scm, structural_model
from carma.errors import BundleError, NotFittedError, TableError

QUICK = TrainingSettings(epochs=8, batch_size=100, learning_rate=1e-2)
SMALL_FLOW = FlowSettings(hidden=(16, 16), training=QUICK, alternatives=5)
SMALL_MIXED = MixedSettings((16, 16), QUICK, alternatives=5, draws=2)
SMALL_ADDITIVE = AdditiveNoiseSettings((16, 16), QUICK, alternatives=5)
N_ROWS = 24
STORED = (*NAMES, *OWN_NAMES)


@dataclass(frozen=True)
class Case:
    """A fitted model, rows to try it on, and how exactly it can answer."""

    model: CausalModel
    x: Tensor
    atol: float
    n_alternatives: int = 5

    @property
    def settable(self) -> list[int]:
        """Columns that can be set one by one (a nominal feature cannot, a derived one never)."""
        encoding = self.model.encoding
        features = self.model.schema.features
        names = [f.name for f in features if f.kind != "nominal" and f.formula is None]
        return [encoding.column(name) for name in names]

    @property
    def discrete(self) -> list[int]:
        owners, features = self.model.encoding.owners, self.model.schema.features
        return [i for i, owner in enumerate(owners) if features[owner].is_discrete]

    def intervention(self, seed: int = 0) -> Intervention:
        """Random masks, another one for each row, with values that other people have."""
        x = self.x
        generator = torch.Generator().manual_seed(seed)
        mask = torch.zeros_like(x, dtype=torch.bool)
        mask[:, self.settable] = torch.rand(len(x), len(self.settable), generator=generator) < 0.4
        return Intervention(mask, x[torch.randperm(len(x), generator=generator)])

    def of(self, name: str, value: Tensor) -> Intervention:
        return Intervention.of(self.model.encoding, len(self.x), **{name: value})


def own_scm() -> StructuralCausalModel:
    """A diamond whose columns are not in causal order; one mechanism is heteroscedastic."""
    standard = Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())

    def width(p: Any) -> Tensor:
        return 0.5 + torch.sigmoid(p["a"])

    names = ("d", "b", "a", "c")
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    schema = Schema(
        tuple(Feature(name, role="actionable") for name in names),
        CausalGraph.from_edges(edges, names),
    )
    equations = {
        "a": additive(lambda _: 0.5, standard),
        "b": Equation(
            lambda p, u: 0.8 * p["a"] + width(p) * u,
            lambda p, x: (x - 0.8 * p["a"]) / width(p),
            standard,
        ),
        "c": additive(lambda p: torch.tanh(p["a"]), standard),
        "d": additive(lambda p: p["b"] + 0.5 * p["c"] ** 2, standard),
    }
    return StructuralCausalModel(schema, equations)


def discrete_schema() -> Schema:
    """Every kind of feature; the nominal one is a root, the others have causes."""
    features = (
        Feature("savings", role="mutable"),
        Feature("region", "nominal", levels=("north", "east", "south")),
        Feature("member", "binary", levels=("no", "yes"), role="actionable"),
        Feature("years", "integer", role="actionable"),
        Feature("rank", "ordinal", levels=(1, 2, 5), role="actionable"),
        Feature("income", role="actionable"),
    )
    parents = {
        "years": ["region"],
        "rank": ["years", "member"],
        "income": ["region", "rank", "years"],
        "savings": ["income"],
    }
    return Schema(features, CausalGraph.from_parents(parents, [f.name for f in features]))


def discrete_table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    region = rng.integers(0, 3, n)
    member = rng.integers(0, 2, n)
    years = np.rint(10 + 3 * region + 3 * rng.normal(size=n)).astype(int)
    rank = np.array([1, 2, 5])[np.digitize(years / 5 + member + rng.normal(size=n), [2.5, 4.0])]
    income = 20 + 2 * region + rank + 0.5 * years + 2 * rng.normal(size=n)
    return pd.DataFrame(
        {
            "savings": 0.3 * income + rng.normal(size=n),
            "region": np.array(["north", "east", "south"])[region],
            "member": np.array(["no", "yes"])[member],
            "years": years,
            "rank": rank,
            "income": income,
        }
    )


def edgeless_schema() -> Schema:
    names = ("a", "b", "c")
    return Schema(tuple(Feature(n, role="actionable") for n in names), CausalGraph(names))


def flow_case(transform: Any) -> Case:
    scm = own_scm()
    table = scm.encoding.decode(scm.sample(400, seed=1))
    flow = CausalFlow(scm.schema, FlowSettings(transform, (16, 16), QUICK, alternatives=5))
    flow.fit(table)
    return Case(flow, scm.sample(N_ROWS, seed=2), 1e-5)


def discrete_case(model: CausalModel, atol: float) -> Case:
    model.fit(discrete_table(400, 1))
    return Case(model, model.encoding.encode(discrete_table(N_ROWS, 2)), atol)


def edgeless_case(model: CausalModel, atol: float) -> Case:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=list("abc"))
    model.fit(table)
    return Case(model, model.encoding.encode(table)[:N_ROWS], atol)


def network_case(hidden: tuple[int, ...]) -> Case:
    """No mechanism made linear, and depths other than the usual two layers."""
    settings = FlowSettings("affine", hidden, QUICK, select_simple=False, alternatives=5)
    scm = own_scm()
    flow = CausalFlow(scm.schema, settings).fit(scm.encoding.decode(scm.sample(400, seed=1)))
    return Case(flow, scm.sample(N_ROWS, seed=2), 1e-5)


def additive_noise_case(hidden: tuple[int, ...]) -> Case:
    scm = own_scm()
    model = AdditiveNoiseModel(scm.schema, AdditiveNoiseSettings(hidden, QUICK, alternatives=5))
    model.fit(scm.encoding.decode(scm.sample(400, seed=1)))
    return Case(model, scm.sample(N_ROWS, seed=2), 1e-9)


def mixed_case() -> Case:
    scm = own_scm()
    model = MixedFlow(scm.schema, SMALL_MIXED).fit(scm.encoding.decode(scm.sample(400, seed=1)))
    return Case(model, scm.sample(N_ROWS, seed=2), 1e-9)


def mixed_schema() -> Schema:
    """Every kind of feature as a cause and as an effect, an integer among the roots too."""
    features = (
        Feature("savings"),
        Feature("region", "nominal", levels=("north", "east", "south")),
        Feature("member", "binary", levels=("no", "yes"), role="actionable"),
        Feature("job", "nominal", levels=("cook", "clerk", "guard", "none")),
        Feature("age", "integer", bounds=(18, 70)),
        Feature("years", "integer", role="actionable"),
        Feature("rank", "ordinal", levels=(1, 2, 5), role="actionable"),
        Feature("income", role="actionable"),
        Feature("owner", "binary"),
    )
    parents = {
        "years": ["region", "age"],
        "job": ["region", "years", "member"],
        "rank": ["job", "years"],
        "income": ["job", "rank"],
        "owner": ["income", "age"],
        "savings": ["income", "owner"],
    }
    return Schema(features, CausalGraph.from_parents(parents, [f.name for f in features]))


def mixed_table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    region, member = rng.integers(0, 3, n), rng.integers(0, 2, n)
    age = rng.integers(18, 71, n)
    years = np.rint(0.3 * age + region + 3 * rng.normal(size=n)).astype(int)
    says = np.stack([0.1 * years, 1.0 * member, 0.5 * region, 0.0 * age], axis=1)
    job = (says + rng.gumbel(size=(n, 4))).argmax(axis=1)
    rank = np.digitize(0.2 * years + (job == 1) + rng.normal(size=n), [2.0, 4.0])
    income = 20 + 3 * rank + 2 * job + 2 * rng.normal(size=n)
    owner = (0.2 * income + 0.05 * age + rng.logistic(size=n) > 7).astype(int)
    return pd.DataFrame(
        {
            "savings": 0.3 * income + 2 * owner + rng.normal(size=n),
            "region": np.array(["north", "east", "south"])[region],
            "member": np.array(["no", "yes"])[member],
            "job": np.array(["cook", "clerk", "guard", "none"])[job],
            "age": age,
            "years": years,
            "rank": np.array([1, 2, 5])[rank],
            "income": income,
            "owner": owner,
        }
    )


def discrete_mixed_case() -> Case:
    model = MixedFlow(mixed_schema(), SMALL_MIXED).fit(mixed_table(400, 1))
    x = model.encoding.encode(mixed_table(N_ROWS, 2))
    return Case(model, x, 1e-9, n_alternatives=10)


VACA = VacaSettings(training=QUICK, draws=10, members=2, alternatives=5)


def vaca_case() -> Case:
    scm = own_scm()
    model = Vaca(scm.schema, VACA).fit(scm.encoding.decode(scm.sample(400, seed=1)))
    return Case(model, scm.sample(N_ROWS, seed=2), 1e-5)


def discrete_vaca_case() -> Case:
    """Every kind but nominal."""
    schema = discrete_schema()
    kept = [feature for feature in schema.features if feature.kind != "nominal"]
    names = [feature.name for feature in kept]
    edges = [edge for edge in schema.graph.edges if set(edge) <= set(names)]
    schema = Schema(tuple(kept), CausalGraph.from_edges(edges, names))
    model = Vaca(schema, VACA).fit(discrete_table(400, 1)[names])
    return Case(model, model.encoding.encode(discrete_table(N_ROWS, 2)[names]), 2e-5)


def derived_case(new: Callable[[Schema], CausalModel], atol: float, n_alternatives: int) -> Case:
    """The diamond with a ratio and a product of its columns, the ratio in the place of a cause."""
    scm = own_scm()
    features = (
        Feature("product", formula="ratio * d"),
        *scm.schema.features,
        Feature("ratio", formula="b / (1 + exp(c))"),
    )
    names = tuple(f.name for f in features)
    edges = [("a", "b"), ("a", "c"), ("ratio", "d")]
    schema = Schema(features, CausalGraph.from_edges(edges, names))
    model = WithDerived(schema, new(schema.base))
    model.fit(scm.encoding.decode(scm.sample(400, seed=1)))
    x = model.encoding.encode(scm.encoding.decode(scm.sample(N_ROWS, seed=2)))
    return Case(model, x, atol, n_alternatives)


def scm_case(scm: StructuralCausalModel) -> Case:
    scm.fit(scm.encoding.decode(scm.sample(200)))
    return Case(scm, scm.sample(N_ROWS, seed=2), 1e-9, n_alternatives=0)


CASES: dict[str, Callable[[], Case]] = {
    "affine-flow": lambda: flow_case("affine"),
    "spline-flow": lambda: flow_case("spline"),
    "network-flow": lambda: network_case((6, 5, 4)),
    "shallow-flow": lambda: network_case(()),
    "discrete-flow": lambda: discrete_case(CausalFlow(discrete_schema(), SMALL_FLOW), 2e-5),
    "edgeless-flow": lambda: edgeless_case(CausalFlow(edgeless_schema(), SMALL_FLOW), 1e-5),
    "additive-noise": lambda: additive_noise_case((6, 5)),
    "linear-additive-noise": lambda: additive_noise_case(()),
    "discrete-additive-noise": lambda: discrete_case(
        AdditiveNoiseModel(discrete_schema(), SMALL_ADDITIVE), 1e-9
    ),
    "edgeless-additive-noise": lambda: edgeless_case(
        AdditiveNoiseModel(edgeless_schema(), SMALL_ADDITIVE), 1e-9
    ),
    "mixed-flow": mixed_case,
    "discrete-mixed-flow": discrete_mixed_case,
    "edgeless-mixed-flow": lambda: edgeless_case(MixedFlow(edgeless_schema(), SMALL_MIXED), 1e-9),
    "vaca": vaca_case,
    "discrete-vaca": discrete_vaca_case,
    "derived-mixed-flow": lambda: derived_case(lambda s: MixedFlow(s, SMALL_MIXED), 1e-9, 5),
    "derived-additive-noise": lambda: derived_case(
        lambda s: AdditiveNoiseModel(s, SMALL_ADDITIVE), 1e-9, 5
    ),
    "derived-scm": lambda: derived_case(
        lambda s: StructuralCausalModel(s, own_scm().equations), 1e-9, 0
    ),
    "own-scm": lambda: scm_case(own_scm()),
    "random-scm": lambda: scm_case(random_scm(8, 3)),
    "random-linear-scm": lambda: scm_case(random_scm(8, 3, nonlinear=False)),
    **{
        name: lambda name=name: scm_case(structural_model(name))  # type: ignore[misc]
        for name in STORED
    },
}
# Rounding to steps and levels has no derivative that differences could find.
SMOOTH = [name for name in CASES if not name.startswith("discrete-")]
LEARNED = [name for name in CASES if name.endswith(("-flow", "-noise", "vaca"))]
# Why these laws do not bind a model whose way back is another network than the way there.
# tests/models/test_vaca.py bounds by how much a fitted one breaks them.
NOT_EXACT = "a decoder undoes its encoder only nearly"


@cache
def fitted(name: str) -> Case:
    return CASES[name]()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return fitted(request.param)


@pytest.fixture(params=CASES)
def exact(request: pytest.FixtureRequest) -> Case:
    found = fitted(request.param)
    if isinstance(found.model, Vaca):
        pytest.skip(NOT_EXACT)
    return found


@pytest.fixture(params=LEARNED)
def learned_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def in_float64(case: Case) -> CausalModel:
    """The same model in double precision, the shared one left as it is."""
    model = case.model
    if isinstance(model, CausalFlow | Vaca):
        return type(model).from_state(model.schema, model.state()).to_float64()
    return model


def test_no_intervention_gives_x_back(case: Case) -> None:
    same = case.model.counterfactual(case.x, Intervention.none(case.x))
    assert torch.equal(same, case.x)


def test_a_set_column_has_exactly_its_value(case: Case) -> None:
    do = case.intervention()
    reached = case.model.counterfactual(case.x, do)
    assert torch.equal(reached[do.mask], do.values[do.mask])


def test_what_is_no_effect_does_not_move(case: Case) -> None:
    graph, encoding = case.model.schema.graph, case.model.encoding
    do = case.intervention(seed=1)
    reached = case.model.counterfactual(case.x, do)
    for row in range(len(case.x)):
        chosen = [n for n in graph.nodes if do.mask[row, encoding.block(n)].any()]
        moved = set(chosen).union(*(graph.descendants(n) for n in chosen))
        for name in set(graph.nodes) - moved:
            where = encoding.block(name)
            assert torch.equal(reached[row, where], case.x[row, where])


def test_consistency_setting_ones_own_values_changes_nothing(exact: Case) -> None:
    do = Intervention(exact.intervention(seed=2).mask, exact.x)
    reached = exact.model.counterfactual(exact.x, do)
    torch.testing.assert_close(reached, exact.x, atol=exact.atol, rtol=exact.atol)


def test_composition_setting_what_follows_anyway_changes_nothing(exact: Case) -> None:
    do = exact.intervention(seed=3)
    reached = exact.model.counterfactual(exact.x, do)
    more = do.mask | exact.intervention(seed=4).mask
    again = exact.model.counterfactual(exact.x, Intervention(more, reached))
    torch.testing.assert_close(again, reached, atol=exact.atol, rtol=exact.atol)


def test_discrete_features_take_values_that_exist(case: Case) -> None:
    model = case.model
    for x in (
        model.counterfactual(case.x, case.intervention(seed=5)),
        model.sample(50, seed=3),
        model.sample(N_ROWS, case.intervention(seed=6), seed=3),
    ):
        assert torch.equal(model.encoding.snap(x), x)
        assert torch.equal(model.encoding.encode(model.encoding.decode(x)), x)


def test_alternatives_keep_the_laws(case: Case) -> None:
    model, do = case.model, case.intervention(seed=7)
    found = model.alternatives(case.x, do)
    assert found.shape == (model.n_alternatives, *case.x.shape)
    assert found.dtype == torch.float64
    assert model.n_alternatives == case.n_alternatives
    effects = (do.mask.double() @ model.encoding.reach_weights) > 0
    kept = torch.where(do.mask, do.values, case.x)
    is_fixed = (do.mask | ~effects).expand_as(found)
    assert torch.equal(found[is_fixed], kept.expand_as(found)[is_fixed])
    for other in found:
        # The mask is of single columns, so that no nominal block is half set.
        assert torch.equal(model.encoding.snap(other), other)
    nothing = model.alternatives(case.x, Intervention.none(case.x))
    assert torch.equal(nothing, case.x.expand_as(nothing))


def test_an_alternative_gives_the_facts_back_for_ones_own_values(exact: Case) -> None:
    do = Intervention(exact.intervention(seed=2).mask, exact.x)
    found = exact.model.alternatives(exact.x, do)
    torch.testing.assert_close(found, exact.x.expand_as(found), atol=exact.atol, rtol=exact.atol)


def test_alternatives_do_not_depend_on_the_batch(case: Case) -> None:
    model, do = case.model, case.intervention()
    whole = model.alternatives(case.x, do)
    for rows in (torch.arange(3), torch.tensor([7])):
        part = model.alternatives(case.x[rows], Intervention(do.mask[rows], do.values[rows]))
        torch.testing.assert_close(part, whole[:, rows], atol=case.atol, rtol=case.atol)


def test_answers_are_the_same_in_inference_mode(case: Case) -> None:
    model, do = case.model, case.intervention()
    with torch.inference_mode():
        reached, others = model.counterfactual(case.x, do), model.alternatives(case.x, do)
    assert torch.equal(reached, model.counterfactual(case.x, do))
    assert torch.equal(others, model.alternatives(case.x, do))


def test_alternatives_have_slopes_in_the_values_of_effects_only(learned_name: str) -> None:
    case = fitted(learned_name)
    model = in_float64(case)
    reach = model.encoding.reachability
    for j in case.settable:
        mask = torch.zeros_like(case.x, dtype=torch.bool)
        mask[:, j] = True
        values = case.x.roll(1, dims=0).requires_grad_()
        found = model.alternatives(case.x, Intervention(mask, values))
        for i in range(case.x.shape[1]):
            (slopes,) = torch.autograd.grad(found[..., i].sum(), values, retain_graph=True)
            assert bool((slopes[:, j] != 0).any()) == (i == j or bool(reach[i, j]))
            assert not slopes[~mask].any()


def test_jacobian_of_abduction_has_the_zeros_of_the_graph(case: Case) -> None:
    model = in_float64(case)
    columns = range(model.encoding.n_columns)
    n_each = model.n_latents // len(columns)

    def latents(x: Tensor) -> Tensor:
        # Of a column with several, another weight for each, so that none hides another.
        each = model.abduct(x).view(len(x), -1, n_each)
        return each @ torch.arange(1, n_each + 1).to(each)

    slopes = torch.stack([slope(latents, case.x, i) for i in columns], dim=1)
    found = (slopes != 0).any(dim=0)
    expected = model.adjacency
    if isinstance(model, WithDerived):
        # Latents are of the columns that are not derived, and know no others.
        expected = torch.zeros_like(found)
        kept = ~model.encoding.is_derived
        expected[kept.outer(kept)] = model.inner.adjacency.flatten()
    assert torch.equal(found, expected)


def test_jacobian_of_the_counterfactual_has_the_zeros_of_the_graph(case: Case) -> None:
    model = in_float64(case)
    reach = model.encoding.reachability
    for j in case.settable:
        found = counterfactual_slopes(model, case.x, j)
        expected = reach[:, j].clone()
        expected[j] = True
        assert torch.equal((found != 0).any(dim=0), expected)


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_of_the_counterfactual_equal_differences(name: str) -> None:
    case, step = fitted(name), 1e-5
    model = in_float64(case)
    discrete = set(case.discrete)
    for j in set(case.settable) - discrete:
        exact = counterfactual_slopes(model, case.x, j)
        column = model.encoding.columns[j]
        ahead, behind = (
            model.counterfactual(case.x, case.of(column, case.x[:, j] + shift))
            for shift in (step, -step)
        )
        torch.testing.assert_close(exact, (ahead - behind) / (2 * step), atol=1e-5, rtol=1e-4)


def counterfactual_slopes(model: CausalModel, x: Tensor, j: int) -> Tensor:
    """Derivative of every column with respect to the value that column j is set to, (n, d)."""
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, j] = True
    rows = []
    for i in range(x.shape[1]):

        def answer(values: Tensor) -> Tensor:
            return model.counterfactual(x, Intervention(mask, values))

        rows.append(slope(answer, x, i)[:, j])
    return torch.stack(rows, dim=1)


def slope(function: Callable[[Tensor], Tensor], at: Tensor, i: int) -> Tensor:
    """Derivative of column i of the answer with respect to every column, (n, d)."""
    at = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(at)[:, i].sum(), at, allow_unused=True)
    return torch.zeros_like(at) if found is None else found


def test_round_trip(exact: Case) -> None:
    for model, atol in (
        (exact.model, max(exact.atol, 1e-9)),
        (in_float64(exact), 1e-8),
    ):
        back = model.predict(model.abduct(exact.x))
        torch.testing.assert_close(back, exact.x, atol=atol, rtol=atol)


def test_log_prob_is_one_finite_number_a_row(case: Case) -> None:
    found = case.model.log_prob(case.x)
    assert found.shape == (len(case.x),)
    assert torch.isfinite(found).all()


def test_rows_that_differ_in_one_feature_differ_in_what_depends_on_it(case: Case) -> None:
    model, x = case.model, case.x
    if isinstance(model, Vaca):
        pytest.skip("its density is estimated by draws")
    for feature in model.schema.features:
        block = model.encoding.block(feature.name)
        columns = range(block.start, block.stop)
        # Others' values of this feature; what is computed from it stays.
        other = x.clone()
        other[:, block] = x.roll(1, 0)[:, block]
        whole = model.log_prob(other) - model.log_prob(x)
        part = model._log_prob_of(other, columns) - model._log_prob_of(x, columns)
        is_possible = torch.isfinite(whole)
        assert torch.allclose(part[is_possible], whole[is_possible], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("double", [False, True])
def test_state_round_trip_gives_equal_answers(learned_name: str, double: bool) -> None:
    case = fitted(learned_name)
    model = in_float64(case) if double else case.model
    again = type(model).from_state(model.schema, model.state())
    assert_same_answers(model, again, case)
    assert again.state().fingerprint() == model.state().fingerprint()


@pytest.mark.parametrize("name", STORED)
def test_a_benchmark_model_is_rebuilt_from_its_name(name: str) -> None:
    case = fitted(name)
    assert_same_answers(case.model, structural_model(case.model.state().config["name"]), case)


def test_equations_of_ones_own_cannot_be_stored() -> None:
    model = fitted("own-scm").model
    with pytest.raises(BundleError, match="cannot hold Python functions"):
        model.state()
    with pytest.raises(BundleError):
        StructuralCausalModel.from_state(model.schema, fitted("loan").model.state())


def assert_same_answers(model: CausalModel, again: CausalModel, case: Case) -> None:
    do = case.intervention()
    assert torch.equal(model.abduct(case.x), again.abduct(case.x))
    assert torch.equal(model.counterfactual(case.x, do), again.counterfactual(case.x, do))
    assert torch.equal(model.log_prob(case.x), again.log_prob(case.x))
    assert torch.equal(model.sample(20, seed=4), again.sample(20, seed=4))
    assert torch.equal(model.alternatives(case.x, do), again.alternatives(case.x, do))


def test_an_answer_does_not_depend_on_the_batch(case: Case) -> None:
    model, do = case.model, case.intervention()
    whole = model.counterfactual(case.x, do)
    order = torch.randperm(len(case.x), generator=torch.Generator().manual_seed(0))
    for rows in (order, torch.arange(3), torch.tensor([7])):
        part = model.counterfactual(case.x[rows], Intervention(do.mask[rows], do.values[rows]))
        torch.testing.assert_close(part, whole[rows], atol=case.atol, rtol=case.atol)


def test_different_masks_in_one_batch_equal_each_mask_by_itself(case: Case) -> None:
    model, do = case.model, case.intervention()
    whole = model.counterfactual(case.x, do)
    for mask in do.mask:
        rows = (do.mask == mask).all(dim=1)
        alone = model.counterfactual(case.x, Intervention(mask.expand_as(do.mask), do.values))
        torch.testing.assert_close(alone[rows], whole[rows], atol=case.atol, rtol=case.atol)


def test_known_exogenous_values_give_the_same_answer(case: Case) -> None:
    do = case.intervention()
    with_u = case.model.counterfactual(case.x, do, case.model.abduct(case.x))
    assert torch.equal(with_u, case.model.counterfactual(case.x, do))


def test_a_sample_holds_set_values(case: Case) -> None:
    do = case.intervention()
    drawn = case.model.sample(len(case.x), do, seed=5)
    assert torch.equal(drawn[do.mask], do.values[do.mask])
    assert torch.isfinite(drawn).all()


def test_a_sample_follows_from_its_seed_alone(case: Case) -> None:
    state = torch.get_rng_state()
    first = case.model.sample(30, seed=6)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(first, case.model.sample(30, seed=6))
    assert not torch.equal(first, case.model.sample(30, seed=7))


def test_shapes_are_checked(case: Case) -> None:
    model, x = case.model, case.x
    for bad in (x[:, 1:], x[0], x[None]):
        for method in (model.abduct, model.predict, model.log_prob):
            with pytest.raises(TableError, match=r"have shape \(n, \d+\)"):
                method(bad)
        with pytest.raises(TableError, match="have shape"):
            model.counterfactual(bad, Intervention.none(bad))
        with pytest.raises(TableError, match="have shape"):
            model.alternatives(bad, Intervention.none(bad))
    with pytest.raises(TableError, match="have shape"):
        model.counterfactual(x, Intervention.none(x[1:]))
    with pytest.raises(TableError, match="have shape"):
        model.alternatives(x, Intervention.none(x[1:]))
    for n in (1, len(x) + 1):
        with pytest.raises(TableError, match="intervention"):
            model.sample(n, Intervention.none(x))


def test_fit_comes_first(learned_name: str) -> None:
    case = fitted(learned_name)
    schema = case.model.schema
    inner = [MixedFlow(schema.base)] if isinstance(case.model, WithDerived) else []
    model: Any = type(case.model)(schema, *inner)
    assert not model.is_fitted
    none = Intervention.none(case.x)
    calls: dict[str, Callable[[], Any]] = {
        "abduct": lambda: model.abduct(case.x),
        "predict": lambda: model.predict(case.x),
        "counterfactual": lambda: model.counterfactual(case.x, none),
        "alternatives": lambda: model.alternatives(case.x, none),
        "log_prob": lambda: model.log_prob(case.x),
        "sample": lambda: model.sample(3),
        "state": model.state,
    }
    if isinstance(model, CausalFlow):
        calls |= {"mechanisms_": lambda: model.mechanisms_, "to_float64": model.to_float64}
    for name, call in calls.items():
        with pytest.raises(NotFittedError, match=f"call 'fit' before '{name}'"):
            call()


def units_flow(schema: Schema, transform: Any) -> CausalModel:
    settings = FlowSettings(transform, (16,), replace(QUICK, epochs=4))
    return CausalFlow(schema, settings)


def units_additive_noise(schema: Schema) -> CausalModel:
    return AdditiveNoiseModel(schema, AdditiveNoiseSettings((16,), replace(QUICK, epochs=4)))


@pytest.mark.parametrize(
    "new",
    [
        lambda schema: units_flow(schema, "affine"),
        lambda schema: units_flow(schema, "spline"),
        units_additive_noise,
    ],
    ids=["affine-flow", "spline-flow", "additive-noise"],
)
def test_the_units_of_a_table_do_not_matter(new: Callable[[Schema], CausalModel]) -> None:
    scm = own_scm()
    x, people = scm.sample(300, seed=1), scm.sample(N_ROWS, seed=2)
    factor = torch.tensor([4.0, 0.5, 1024.0, 2.0]).double()
    shift = torch.tensor([3.0, -1.0, 64.0, 0.0]).double()
    plain = new(scm.schema).fit(scm.encoding.decode(x))
    other = new(scm.schema).fit(scm.encoding.decode(x * factor + shift))
    case = Case(plain, people, 1e-3)
    do = case.intervention()
    moved = other.counterfactual(
        people * factor + shift, Intervention(do.mask, do.values * factor + shift)
    )
    expected = plain.counterfactual(people, do)
    torch.testing.assert_close((moved - shift) / factor, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        other.log_prob(people * factor + shift) + factor.log().sum(),
        plain.log_prob(people),
        atol=1e-3,
        rtol=1e-3,
    )
