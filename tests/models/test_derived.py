"""Derived columns follow their formulas, whatever the model around which they are computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.distributions import Normal

import carma
from carma import (
    AdditiveNoiseModel,
    AdditiveNoiseSettings,
    CausalFlow,
    CausalGraph,
    CausalModel,
    ClassifierSettings,
    DiceVae,
    DiceVaeSettings,
    ExactSettings,
    ExactSolver,
    Feature,
    FlowSettings,
    GridOracle,
    GridSettings,
    Intervention,
    MixedFlow,
    MixedSettings,
    NonCausalOptimum,
    PublishedCarma,
    PublishedSettings,
    Schema,
    Solver,
    StructuralCausalModel,
    TrainingSettings,
    Vaca,
    VacaSettings,
    WithDerived,
    fit_classifier,
    from_estimator,
    linear,
)
from carma.errors import BundleError, ConstraintError, NotFittedError, SchemaError
from carma.evaluation.fidelity import Fidelity
from carma.problem import Problem
from carma.recourse.best_first import LocalModel
from carma.recourse.target import People
from carma.table import Encoding

QUICK = TrainingSettings(epochs=5, batch_size=100, learning_rate=1e-2)
PROBLEM = """
outcome = "paid"
favourable = 1

[graph]
amount = ["income"]
risk = ["rate", "region"]

[features.region]
kind = "nominal"
levels = ["north", "east", "south"]
role = "immutable"

[features.rate]
formula = "amount / duration"

[features.income]
bounds = [1, 500]
role = "actionable"

[features.amount]
bounds = [1, 5000]
role = "actionable"

[features.duration]
kind = "integer"
bounds = [1, 60]
role = "actionable"

[features.band]
kind = "ordinal"
levels = ["low", "middle", "high"]
formula = "bin(burden, 0.02, 0.05)"

[features.burden]
formula = "rate / income"

[features.risk]

[classifier]
hidden = []

[classifier.training]
epochs = 20

[causal_model]
kind = "mixed"
hidden = [8]
alternatives = 2
draws = 1

[causal_model.training]
epochs = 5

[solver]
lessons = 40
mask_hidden = [8]
action_hidden = [8]

[solver.training]
epochs = 2

[solver.rehearsal]
epochs = 2
"""
DERIVED = ["rate", "band", "burden"]


@cache
def problem() -> Problem:
    return Problem.from_toml(PROBLEM)


@cache
def people(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Without the derived columns."""
    rng = np.random.default_rng(seed)
    income = rng.uniform(20, 100, n)
    amount = np.clip(10 * income + 100 * rng.normal(size=n), 1, 5000)
    duration = rng.integers(1, 61, n)
    region = rng.integers(0, 3, n)
    risk = amount / duration / 50 + region + 0.3 * rng.normal(size=n)
    paid = (0.03 * income - risk + rng.logistic(size=n) > 0).astype(int)
    return pd.DataFrame(
        {
            "region": np.array(["north", "east", "south"])[region],
            "income": income,
            "amount": amount,
            "duration": duration,
            "risk": risk,
            "paid": paid,
        }
    )


NEW: dict[str, Callable[[Schema], CausalModel]] = {
    "mixed": lambda s: MixedFlow(s, MixedSettings((8,), QUICK, alternatives=2, draws=2)),
    "flow": lambda s: CausalFlow(s, FlowSettings(hidden=(8,), training=QUICK, alternatives=2)),
    "additive": lambda s: AdditiveNoiseModel(s, AdditiveNoiseSettings((8,), QUICK, alternatives=2)),
    "vaca": lambda s: Vaca(s, VacaSettings(training=QUICK, draws=5, members=2, alternatives=2)),
}


def schema_for(name: str) -> Schema:
    """Without the nominal feature where the model takes none."""
    schema = problem().schema
    if name != "vaca":
        return schema
    kept = tuple(f for f in schema.features if f.name != "region")
    names = [f.name for f in kept]
    edges = [edge for edge in schema.graph.edges if "region" not in edge]
    graph = CausalGraph.from_edges(edges, names)
    return replace(schema, features=kept, graph=graph, ignore=("region",))


@cache
def fitted(name: str) -> WithDerived:
    schema = schema_for(name)
    return WithDerived(schema, NEW[name](schema.base)).fit(people())


@pytest.fixture(params=NEW)
def model(request: pytest.FixtureRequest) -> WithDerived:
    return fitted(request.param)


def actions(model: WithDerived, n: int) -> Intervention:
    generator = torch.Generator().manual_seed(1)
    amount = 100 + 900 * torch.rand(n, generator=generator, dtype=torch.float64)
    amount[::3] = torch.nan
    duration = torch.randint(1, 60, (n,), generator=generator).double()
    duration[::2] = torch.nan
    return Intervention.of(model.encoding, n, amount=amount, duration=duration)


def test_the_base_problem_puts_inputs_in_the_place_of_derived_causes() -> None:
    schema = problem().schema
    assert list(schema.formulas) == ["rate", "burden", "band"]
    assert schema.graph.parents("burden") == ("rate", "income")
    assert schema.graph.parents("band") == ("burden",)
    base = schema.base
    assert base.names == ("region", "income", "amount", "duration", "risk")
    assert base.graph.parents("risk") == ("region", "amount", "duration")
    assert base.graph.parents("amount") == ("income",)
    assert base.base is base
    whole = CausalGraph(schema.names, schema.graph.edges).reachability
    kept = [schema.names.index(name) for name in base.names]
    assert np.array_equal(whole[np.ix_(kept, kept)], base.graph.reachability)


def test_files_do_not_list_the_causes_of_derived_features() -> None:
    job = problem()
    content = job.schema.to_dict()
    assert set(content["graph"]) == {"amount", "risk"}
    assert Problem.from_toml(job.to_toml()) == job
    assert Schema.from_toml(job.schema.to_toml()).graph == job.schema.graph
    assert replace(job.schema, threshold=0.4).graph == job.schema.graph


def test_derived_columns_equal_their_formulas_everywhere(model: WithDerived) -> None:
    encoding = model.encoding
    x = encoding.encode(people(60, 3))
    do = actions(model, len(x))
    reached = model.counterfactual(x, do)
    drawn = model.sample(len(x), do, seed=2)
    for rows in (x, reached, drawn, model.sample(50), *model.alternatives(x, do)):
        assert torch.equal(encoding.derive(rows), rows)
        table = encoding.decode(rows)
        rate = table["amount"] / table["duration"]
        np.testing.assert_allclose(table["rate"], rate, rtol=1e-12)
        np.testing.assert_allclose(table["burden"], rate / table["income"], rtol=1e-12)
        position = np.digitize(table["burden"], [0.02, 0.05])
        assert table["band"].tolist() == np.array(["low", "middle", "high"])[position].tolist()
    assert torch.equal(model.counterfactual(x, Intervention.none(x)), x)


def test_an_action_on_an_input_moves_what_is_derived_and_its_effects(model: WithDerived) -> None:
    encoding = model.encoding
    x = encoding.encode(people(60, 3))
    longer = Intervention.of(encoding, len(x), duration=59.0)
    reached = model.counterfactual(x, longer)
    moved = reached != x
    acted = x[:, encoding.column("duration")] != 59
    for name in ("rate", "burden", "risk"):
        assert bool(moved[acted, encoding.column(name)].all())
    for name in {"region", "income", "amount"} & set(model.schema.names):
        assert not moved[:, encoding.block(name)].any()


def test_slopes_pass_through_formulas() -> None:
    model = fitted("additive")
    encoding = model.encoding
    x = encoding.encode(people(5, 3))
    do = Intervention.of(encoding, len(x), amount=x[:, encoding.column("amount")])
    values = do.values.clone().requires_grad_()
    reached = model.counterfactual(x, Intervention(do.mask, values))
    (slopes,) = torch.autograd.grad(reached[:, encoding.column("rate")].sum(), values)
    expected = 1 / x[:, encoding.column("duration")]
    torch.testing.assert_close(slopes[:, encoding.column("amount")], expected)


def test_the_inner_model_is_what_is_learned(model: WithDerived) -> None:
    inner = model.inner
    x = model.encoding.encode(people(20, 3))
    rows = inner.encoding.encode(people(20, 3))
    assert torch.equal(model.log_prob(x), inner.log_prob(rows))
    assert model.n_latents * inner.encoding.n_columns == inner.n_latents * model.encoding.n_columns
    u = model.abduct(x)
    assert u.shape == (20, model.n_latents)
    n_each = model.n_latents // x.shape[1]
    is_derived = model.encoding.is_derived.repeat_interleave(n_each)
    assert torch.equal(u[:, ~is_derived], inner.abduct(rows))
    assert not u[:, is_derived].any()


def test_no_intervention_sets_a_derived_column(model: WithDerived) -> None:
    x = model.encoding.encode(people(4, 3))
    do = Intervention.of(model.encoding, 4, burden=0.1)
    calls: list[Callable[[], Tensor]] = [
        lambda: model.counterfactual(x, do),
        lambda: model.alternatives(x, do),
        lambda: model.sample(4, do),
    ]
    for call in calls:
        with pytest.raises(ConstraintError, match=r"not set a derived column.*got 'burden'"):
            call()


@pytest.mark.parametrize("name", NEW)
def test_a_learned_model_alone_says_what_to_do(name: str) -> None:
    with pytest.raises(SchemaError, match=r"make WithDerived\(schema, \w+\(schema.base, ...\)\)"):
        NEW[name](problem().schema)


def test_problems_without_derived_features_need_no_wrapper() -> None:
    base = problem().schema.base
    with pytest.raises(SchemaError, match="have a derived feature"):
        WithDerived(base, MixedFlow(base))
    with pytest.raises(SchemaError, match=r"be a model of schema\.base"):
        WithDerived(problem().schema, MixedFlow(replace(base, threshold=0.4)))
    plain = Problem.from_toml(base.to_toml()).new_causal_model()
    assert isinstance(plain, CausalFlow)


def test_fit_comes_first() -> None:
    schema = problem().schema
    model = WithDerived(schema, MixedFlow(schema.base))
    x = model.encoding.encode(people(3))
    none = Intervention.none(x)
    calls: dict[str, Callable[[], Any]] = {
        "abduct": lambda: model.abduct(x),
        "counterfactual": lambda: model.counterfactual(x, none),
        "sample": lambda: model.sample(3),
        "log_prob": lambda: model.log_prob(x),
        "state": model.state,
    }
    for name, call in calls.items():
        with pytest.raises(NotFittedError, match=f"WithDerived: call 'fit' before '{name}'"):
            call()


def test_state_round_trip(model: WithDerived) -> None:
    again = WithDerived.from_state(model.schema, model.state())
    x = model.encoding.encode(people(20, 3))
    do = actions(model, 20)
    assert torch.equal(model.counterfactual(x, do), again.counterfactual(x, do))
    assert torch.equal(model.alternatives(x, do), again.alternatives(x, do))
    assert again.state().fingerprint() == model.state().fingerprint()


class Own(AdditiveNoiseModel):
    kind: ClassVar[str] = "own"


def test_an_inner_model_of_ones_own_is_handed_in() -> None:
    schema = problem().schema
    settings = AdditiveNoiseSettings((), QUICK, alternatives=0)
    model = WithDerived(schema, Own(schema.base, settings)).fit(people())
    with pytest.raises(BundleError, match="own causal model, of kind 'own'"):
        WithDerived.from_state(schema, model.state())
    assert isinstance(WithDerived.from_state(schema, model.state(), Own).inner, Own)


def known() -> WithDerived:
    """b = 2 a + u, c = a + b."""
    features = (Feature("a", role="actionable"), Feature("b"), Feature("c", formula="a + b"))
    schema = Schema(features, CausalGraph(("a", "b", "c"), (("a", "b"),)))
    noise = Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    equations = {"a": linear({}, noise), "b": linear({"a": 2.0}, noise)}
    model = WithDerived(schema, StructuralCausalModel(schema.base, equations))
    return model.fit(model.encoding.decode(model.sample(50)))


def test_known_equations_with_derived_columns() -> None:
    model = known()
    x = model.sample(20, seed=1)
    rise = model.counterfactual(x, Intervention.of(model.encoding, 20, a=x[:, 0] + 1)) - x
    torch.testing.assert_close(rise, torch.tensor([[1.0, 2.0, 3.0]]).double().expand(20, 3))
    found = Fidelity.of(model, model, x)
    assert found.rmse == {"b": 0, "c": 0}
    assert found.composition == pytest.approx(0, abs=1e-12)


def test_known_equations_cannot_be_stored() -> None:
    model = known()
    assert model.direct_effects is None
    with pytest.raises(BundleError, match="bundle cannot hold equations"):
        model.state()


def test_a_whole_job_with_derived_features(tmp_path: Path) -> None:
    job = problem()
    train, held_out = job.split(people())
    causal_model, classifier = job.fit_parts(train, progress=False)
    assert isinstance(causal_model, WithDerived)
    solver = job.new_solver(causal_model, classifier).fit(train, progress=False)
    result = solver.recommend(held_out)
    after = result.to_frame()
    has_plan = after["after_rate"].notna()
    assert has_plan.any()
    assert not {f"do_{name}" for name in DERIVED} & set(after)
    some = after[has_plan].astype({"after_amount": float, "after_duration": float})
    rate = some["after_amount"] / some["after_duration"]
    np.testing.assert_allclose(some["after_rate"].astype(float), rate, rtol=1e-9)
    assert any("rate" in answer.consequences for answer in result)
    path = carma.save(solver, tmp_path / "job.carma")
    again = carma.load(path).recommend(held_out)
    pd.testing.assert_frame_equal(
        again.to_frame().drop(columns="n_evaluations"), after.drop(columns="n_evaluations")
    )


def test_slopes_around_a_person_count_derived_columns_once() -> None:
    model = fitted("additive")
    classifier = fit_classifier(model.schema, people(), ClassifierSettings((), QUICK))
    solver = ExactSolver(model, classifier)
    x = model.encoding.encode(people(8, 3))
    person = People(x, model.abduct(x), solver.limits.around(x))
    local = LocalModel.around(model.counterfactual, solver._target, person, x)
    rate, amount, duration = (model.encoding.column(n) for n in ("rate", "amount", "duration"))
    torch.testing.assert_close(local.effects[:, rate, amount], 1 / x[:, duration])
    assert not local.slope[:, model.encoding.is_derived].any()
    # What all features together tell, is the slope of the surplus along the whole counterfactual.
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, amount] = True
    _, slope = solver._target.surplus_and_slope(person, mask, x)
    risk = model.encoding.column("risk")
    passed = local.slope[:, amount] + local.effects[:, risk, amount] * local.slope[:, risk]
    torch.testing.assert_close(passed, slope[:, amount])


@pytest.mark.parametrize(
    "new",
    [
        lambda *parts: ExactSolver(*parts),
        lambda *parts: ExactSolver(*parts, settings=ExactSettings(max_subsets=3)),
        lambda *parts: GridOracle(*parts, settings=GridSettings(bins=4)),
        lambda *parts: NonCausalOptimum(*parts),
        lambda *parts: DiceVae(*parts, settings=DiceVaeSettings(training=QUICK)),
        lambda *parts: PublishedCarma(*parts, settings=PublishedSettings(training=QUICK)),
    ],
    ids=["exact", "best-first", "grid", "noncausal", "dice-vae", "published"],
)
def test_every_solver_derives(new: Callable[..., Solver]) -> None:
    model = fitted("mixed")
    settings = ClassifierSettings((), replace(QUICK, epochs=20))
    classifier = fit_classifier(model.schema, people(), settings, progress=False)
    x = model.encoding.encode(people(60, 3))
    x = x[classifier.probability(x) < classifier.threshold]
    plans = new(model, classifier).fit(x, progress=False).solve(x)
    assert plans.has_plan.any()
    torch.testing.assert_close(model.encoding.derive(plans.counterfactual), plans.counterfactual)
    is_derived = model.encoding.is_derived
    assert not plans.mask[:, is_derived].any()
    assert bool((plans.counterfactual != x)[:, is_derived].any())


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(5, random_state=0),
    ],
)
def test_classifiers_see_derived_columns_that_their_table_lacks(estimator: Any) -> None:
    base = people()
    schema = problem().schema
    names = [f.name for f in schema.features if not f.has_levels]
    kept = tuple(replace(schema[name]) for name in names)
    edges = [e for e in schema.graph.edges if set(e) <= set(names)]
    numbers = replace(schema, features=kept, graph=CausalGraph.from_edges(edges, names))
    table = base.drop(columns="region")
    whole = Encoding(numbers).completed(table)
    assert set(whole) == {*names, "paid"}
    estimator.fit(whole[names].to_numpy(), whole["paid"])
    classifier = from_estimator(estimator, numbers, rows=table)
    expected = estimator.predict_proba(whole[names].to_numpy())[:, 1]
    x = classifier.encoding.encode(table)
    np.testing.assert_allclose(classifier.probability(x), expected, atol=1e-5)
