"""CARMA from end to end: near the optimum, reproducible, sure, and within what was asked for."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from carma import (
    Carma,
    CarmaSettings,
    CausalFlow,
    CausalGraph,
    CausalModel,
    Classifier,
    ClassifierSettings,
    Constraints,
    ExactSettings,
    ExactSolver,
    Feature,
    FlowSettings,
    Intervention,
    PublishedCarma,
    Schema,
    SquaredCost,
    Status,
    StructuralCausalModel,
    TrainingSettings,
    additive,
    fit_classifier,
)
from carma import linear as linear_equation
from carma.benchmarks import Benchmark, load, random_benchmark
from carma.classifiers.network import Input, NetworkClassifier
from carma.constraints import Limits
from carma.costs import AbsoluteCost, Cost, FunctionCost, LargestShift, TotalLogShift
from carma.errors import (
    ClassifierError,
    ConstraintError,
    NotFittedError,
    SettingsError,
    TableError,
    TrainingError,
)
from carma.recourse.foreseen import Foreseen
from carma.recourse.plans import Plans
from carma.recourse.target import People

QUICK = TrainingSettings(epochs=10)
REFINED, SEARCHED, AMORTIZED = (s.code for s in (Status.REFINED, Status.SEARCHED, Status.AMORTIZED))


def small(**changes: Any) -> CarmaSettings:
    settings = CarmaSettings(lessons=100, training=QUICK, rehearsal=TrainingSettings(epochs=20))
    return replace(settings, **changes)


def rejected(classifier: Classifier, x: Tensor, n: int = 60) -> Tensor:
    return x[classifier.probability(x) < classifier.threshold][:n]


def assert_same(one: Plans, other: Plans) -> None:
    """Equal bit for bit."""
    for entry in fields(Plans):
        a, b = getattr(one, entry.name), getattr(other, entry.name)
        assert a.numpy().tobytes() == b.numpy().tobytes(), entry.name


@pytest.fixture(scope="session")
def chain_carma(chain: Benchmark, chain_classifier: NetworkClassifier) -> Carma:
    solver = Carma(chain.scm, chain_classifier, cost=chain.cost, settings=small())
    return solver.fit(chain.frame("recourse"), progress=False)


@pytest.fixture(scope="session")
def chain_people(chain: Benchmark, chain_classifier: NetworkClassifier) -> Tensor:
    return rejected(chain_classifier, chain.encoded("recourse", "test"))


@pytest.fixture(scope="session")
def loan() -> tuple[Benchmark, CausalFlow, NetworkClassifier]:
    """A learned model: what follows from a plan is in doubt."""
    data = load("loan", rows=600)
    classifier = fit_classifier(
        data.schema, data.frame("classifier"), ClassifierSettings((8,), QUICK), progress=False
    )
    assert isinstance(classifier, NetworkClassifier)
    settings = FlowSettings(hidden=(8,), training=TrainingSettings(epochs=8), alternatives=8)
    flow = CausalFlow(data.schema, settings).fit(data.frame("causal"), progress=False)
    return data, flow, classifier


def test_plans_are_next_to_the_closed_form(
    chain: Benchmark, chain_classifier: NetworkClassifier, chain_carma: Carma, chain_people: Tensor
) -> None:
    assert (chain_carma.settings.candidates, chain_carma.settings.refine_steps) == (3, 4)
    plans = chain_carma.solve(chain_people)
    exact = ExactSolver(chain.scm, chain_classifier, cost=chain.cost).solve(chain_people)
    assert len(chain_people) >= 60
    assert plans.has_plan.all()
    assert (plans.status == REFINED).all()
    assert (plans.probability_after >= 0.5).all()
    ratio = plans.cost / exact.cost
    assert (ratio >= 1 - 1e-6).all()
    assert float(plans.cost.sum() / exact.cost.sum()) <= 1.02
    # Known mechanisms: there is no doubt.
    assert (plans.expected_validity == 1).all()
    assert chain_carma.margin is None


def test_one_pass_is_one_pass(chain_carma: Carma, chain_people: Tensor) -> None:
    single = chain_carma.using(candidates=1, refine_steps=0, fallback=False)
    plans = single.solve(chain_people)
    assert set(plans.status.tolist()) <= {
        s.code for s in (Status.AMORTIZED, Status.STILL_REJECTED, Status.OUTSIDE_LIMITS)
    }
    assert (plans.status == AMORTIZED).double().mean() > 0.7
    assert (plans.n_evaluations == 1).all()
    full = chain_carma.solve(chain_people)
    found = plans.has_plan
    assert (plans.cost >= full.cost * (1 - 1e-3))[found].all()
    assert chain_carma.settings.candidates == 3
    # What was learned is shared, what was asked of it is not.
    assert single.settings == replace(
        chain_carma.settings, candidates=1, refine_steps=0, fallback=False
    )
    assert_same(single.using(candidates=3, refine_steps=4, fallback=True).solve(chain_people), full)


def broken(solver: Carma) -> Carma:
    """The same solver, whose action network proposes to change nothing."""
    state = solver.state()
    state.config["settings"] |= {"candidates": 2, "refine_steps": 0}
    for name in state.tensors:
        if name.startswith("action_network"):
            state.tensors[name] = torch.zeros_like(state.tensors[name])
    return Carma.restore(solver.causal_model, solver.classifier, solver.cost, state)


def test_who_fails_is_searched_for_if_that_is_asked_for(
    chain: Benchmark, chain_classifier: NetworkClassifier, chain_carma: Carma, chain_people: Tensor
) -> None:
    solver = broken(chain_carma)
    plans, alone = solver.solve(chain_people), solver.using(fallback=False).solve(chain_people)
    assert not alone.has_plan.any()
    assert set(alone.status.tolist()) == {Status.NOT_FOUND.code}
    assert (plans.status == SEARCHED).all()
    exact = ExactSolver(chain.scm, chain_classifier, cost=chain.cost).solve(chain_people)
    torch.testing.assert_close(plans.cost, exact.cost, rtol=1e-4, atol=1e-9)


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(
    chain: Benchmark, chain_classifier: NetworkClassifier, chain_people: Tensor
) -> None:
    def fitted(seed: int) -> Carma:
        training = TrainingSettings(epochs=3, seed=seed)
        settings = small(lessons=40, training=training, rehearsal=TrainingSettings(epochs=3))
        solver = Carma(chain.scm, chain_classifier, cost=chain.cost, settings=settings)
        return solver.fit(chain.encoded("recourse"), progress=False)

    state = torch.random.get_rng_state()
    one, other, different = fitted(3), fitted(3), fitted(4)
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = zip(one.state().tensors.items(), other.state().tensors.items(), strict=True)
    for (name, tensor), (name_too, tensor_too) in pairs:
        assert name == name_too
        assert tensor.numpy().tobytes() == tensor_too.numpy().tobytes(), name
    assert_same(one.solve(chain_people), other.solve(chain_people))
    assert one.history_.records == other.history_.records
    weights, unlike = one.state().tensors, different.state().tensors
    assert any(not torch.equal(weights[name], unlike[name]) for name in weights)


def test_order_and_company_do_not_matter(chain_carma: Carma, chain_people: Tensor) -> None:
    plans = chain_carma.solve(chain_people)
    order = torch.randperm(len(chain_people), generator=torch.Generator().manual_seed(1))
    turned = chain_carma.solve(chain_people[order])
    assert torch.equal(turned.status, plans.status[order])
    torch.testing.assert_close(turned.cost, plans.cost[order], rtol=1e-5, atol=1e-12)
    for i in (0, 5, 17):
        alone = chain_carma.solve(chain_people[i : i + 1])
        torch.testing.assert_close(alone.cost[0], plans.cost[i], rtol=1e-5, atol=1e-12)


def test_state_rebuilds_the_solver(
    chain: Benchmark, chain_classifier: NetworkClassifier, chain_carma: Carma, chain_people: Tensor
) -> None:
    state = chain_carma.state()
    again = Carma.restore(chain.scm, chain_classifier, chain.cost, state)
    assert again.settings == chain_carma.settings
    assert again.history_.records == chain_carma.history_.records
    assert again.rehearsal_.records == chain_carma.rehearsal_.records
    assert_same(again.solve(chain_people), chain_carma.solve(chain_people))


def test_what_was_learned_is_told(chain_carma: Carma) -> None:
    assert len(chain_carma.history_.records) == 10
    assert len(chain_carma.rehearsal_.records) == 20
    for record in chain_carma.rehearsal_.records:
        assert 0 <= record["coverage"] <= 1
    assert max(record["coverage"] for record in chain_carma.rehearsal_.records) > 0.5


def test_personal_constraints_of_every_kind_hold(
    chain: Benchmark, chain_classifier: NetworkClassifier, chain_carma: Carma
) -> None:
    frame = chain.frame("recourse", "test")
    p = chain_classifier.probability(chain.encoded("recourse", "test"))
    people = frame[(p < 0.5).numpy()].head(12)
    free = chain_carma.recommend(people).to_frame()
    name = next(n for n in chain.schema.actionable if free[f"do_{n}"].notna().any())
    frozen = [Constraints(freeze=(name,)) if i % 2 else None for i in range(len(people))]
    listed = chain_carma.recommend(people, frozen)
    shown = listed.to_frame()
    assert shown[f"do_{name}"][1::2].isna().all()
    pd.testing.assert_series_equal(shown[f"do_{name}"][::2].isna(), free[f"do_{name}"][::2].isna())
    table = pd.DataFrame({f"freeze_{name}": [True] * 6}, index=people.index[1::2])
    assert_same(chain_carma.recommend(people, table).plans, listed.plans)
    # Narrower limits never make a plan cheaper, but for what the search leaves.
    assert (shown["cost"].dropna() >= free["cost"][shown["cost"].notna()] * 0.98).all()
    few = chain_carma.recommend(people, Constraints(max_actions=1)).to_frame()
    assert few["n_actions"].max() == 1
    ways = chain_carma.recommend(people, Constraints(directions={name: "down"})).to_frame()
    moved = ways[f"do_{name}"].dropna()
    assert (moved <= people.loc[moved.index, name] + 1e-9).all()


def test_wishes_that_contradict_a_person_are_refused(chain: Benchmark, chain_carma: Carma) -> None:
    people = chain.frame("recourse", "test").head(3)
    name = chain.schema.actionable[0]
    above = float(people[name].max()) + 1
    with pytest.raises(ConstraintError, match="own value"):
        chain_carma.recommend(people, Constraints(bounds={name: (above, None)}))
    with pytest.raises(ConstraintError, match="one entry a person"):
        chain_carma.recommend(people, [None])
    with pytest.raises(ConstraintError, match="name"):
        chain_carma.recommend(people, Constraints(freeze=("nonsense",)))


def test_who_freezes_everything_is_proven_beyond_help(
    chain: Benchmark, chain_carma: Carma, chain_people: Tensor
) -> None:
    people = chain.encoding.decode(chain_people[:5])
    nothing = Constraints(freeze=chain.schema.actionable)
    for solver in (chain_carma, chain_carma.using(candidates=1, refine_steps=0, fallback=False)):
        result = solver.recommend(people, [nothing, None, nothing, None, None])
        infeasible = (result.statuses == "infeasible").tolist()
        assert infeasible == [True, False, True, False, False]


@pytest.mark.parametrize("n_plans", [2, 4])
def test_a_menu_offers_different_plans(
    chain_carma: Carma, chain_people: Tensor, n_plans: int
) -> None:
    menus = chain_carma.menu(chain_people, n_plans=n_plans)
    assert len(menus) == n_plans
    torch.testing.assert_close(
        menus[0].cost, chain_carma.solve(chain_people).cost, rtol=1e-2, atol=0
    )
    assert menus[1].has_plan.double().mean() > 0.8
    for place in range(1, n_plans):
        further = menus[place].has_plan
        other = ~menus[place].has_plan
        assert (menus[place].status[other] == Status.NO_OTHER.code).all()
        assert (menus[place].probability_after[further] >= 0.5).all()
        for cheaper in menus[:place]:
            assert (menus[place].cost >= cheaper.cost)[further].all()
            # It leaves alone something that the cheaper one acts on.
            assert (cheaper.mask & ~menus[place].mask).any(dim=1)[further].all()


def test_a_menu_may_ask_for_more_plans_than_there_are_sets() -> None:
    data = random_benchmark(5, 1, seed=3, rows=400)
    weights = torch.randn(1, 5, generator=torch.Generator().manual_seed(1))
    inputs = [Input(i) for i in range(5)]
    classifier = NetworkClassifier(data.schema, inputs, [weights], [torch.tensor([-0.5])])
    x = data.encoded("recourse")
    solver = Carma(data.scm, classifier, settings=small(lessons=60)).fit(x, progress=False)
    assert not solver.using(fallback=False).solve(x[:50]).has_plan.all()
    menus = solver.menu(x[:50], n_plans=3)
    assert not any(bool(plans.has_plan.any()) for plans in menus[1:])


def test_a_plan_read_back_from_a_file_still_works(
    mixed_solver: PublishedCarma, mixed_people: pd.DataFrame
) -> None:
    """Integers, steps and levels: what is told is what was checked."""
    model, classifier = mixed_solver.causal_model, mixed_solver.classifier
    solver = Carma(model, classifier, settings=small()).fit(mixed_people, progress=False)
    people = mixed_people.head(150)
    result = solver.recommend(people, n_plans=2)
    back = pd.read_csv(io.StringIO(result.to_frame().to_csv()), index_col=0)
    for place in (1, 2):
        frame = back[(back["plan"] == place) & back["status"].isin(["refined", "searched"])]
        assert len(frame) > 20
        before = people.loc[frame.index]
        set_to = before.copy()
        x = solver.encoding.encode(before)
        mask = torch.zeros_like(x, dtype=torch.bool)
        for name in solver.schema.actionable:
            chosen = frame[f"do_{name}"].notna()
            told = frame[f"do_{name}"].where(chosen, before[name])
            set_to[name] = told.astype(before[name].dtype)
            mask[:, solver.encoding.column(name)] = torch.tensor(chosen.tolist())
        values = solver.encoding.encode(set_to)
        reached = model.counterfactual(x, Intervention(mask, values))
        assert (classifier.probability(reached) >= classifier.threshold - 1e-7).all()
        assert (set_to["hours"][frame["do_hours"].notna()] % 5 == 0).all()
        cost, written = solver.cost(x, mask, values), torch.tensor(frame["cost"].tolist())
        torch.testing.assert_close(cost, written.double(), rtol=1e-5, atol=1e-7)
    assert all(back[f"do_{name}"].notna().any() for name in solver.schema.actionable)


def test_plans_under_a_learned_model_are_as_sure_as_asked_for(
    loan: tuple[Benchmark, CausalFlow, NetworkClassifier],
) -> None:
    data, flow, classifier = loan
    people = rejected(classifier, data.encoded("recourse", "test"))
    costs = []
    for validity in (0.8, 0.999):
        solver = Carma(flow, classifier, settings=small(lessons=60, validity=validity))
        solver.fit(data.frame("recourse"), progress=False)
        plans = solver.solve(people)
        found = plans.has_plan
        assert found.double().mean() > 0.9
        sure = (plans.expected_validity >= validity - 1e-6)[found]
        assert sure.double().mean() > 0.97
        costs.append(float(plans.cost[found].mean()))
        single = solver.using(candidates=1, refine_steps=0, fallback=False).solve(people)
        # One forward pass foresees, and does not measure.
        assert single.has_plan.any()
        assert single.expected_validity.isnan().all()
    # To be surer costs more.
    assert costs[0] < costs[1]


def test_who_is_searched_for_is_made_as_sure(
    loan: tuple[Benchmark, CausalFlow, NetworkClassifier],
) -> None:
    data, flow, classifier = loan
    people = rejected(classifier, data.encoded("recourse", "test"), 30)
    settings = small(lessons=20, rehearsal=TrainingSettings(epochs=1), validity=0.99)
    solver = Carma(flow, classifier, settings=settings).fit(data.frame("recourse"), progress=False)
    assert (broken(solver).solve(people).status == SEARCHED).double().mean() > 0.9
    plans = ExactSolver(flow, classifier, cost=solver.cost).solve(people)
    assert plans.has_plan.double().mean() > 0.9
    # At the threshold, a plan holds with about even odds.
    assert (plans.expected_validity < 0.9)[plans.has_plan].double().mean() > 0.9
    limits = solver.limits.around(people)
    with torch.no_grad():
        asked = People(people, flow.abduct(people), limits)
        # Of inference, which has no slopes.
        copies = (t.clone() for t in (plans.mask, plans.values, plans.cost.nan_to_num(torch.inf)))
        secured = solver._refinement.secured(asked, *copies)
        do = Intervention(secured.mask, secured.values)
        ahead = classifier.logit(flow.counterfactual(people, do))
    validity = secured.uncertainty.validity(ahead)
    assert (validity >= 0.99 - 1e-6)[secured.is_sure].all()
    assert secured.is_sure[plans.has_plan].double().mean() > 0.9


COSTS: dict[str, Callable[[Benchmark], Cost]] = {
    "absolute": lambda d: AbsoluteCost(d.encoding, d.scm.statistics_),
    "log shift": lambda d: TotalLogShift(d.encoding, d.encoded("recourse")),
    "largest shift": lambda d: LargestShift(d.encoding, d.encoded("recourse")),
    "function": lambda d: FunctionCost(
        d.encoding,
        lambda x, values, weights: (weights * (1 + (values - x).square()).log()).sum(dim=1),
        statistics=d.scm.statistics_,
    ),
    "weighted": lambda d: SquaredCost(d.encoding, d.scm.statistics_, {"x1": 20.0}),
}


@pytest.mark.parametrize("name", COSTS)
def test_any_cost_is_served_about_as_well_as_by_search(
    name: str, chain: Benchmark, chain_classifier: NetworkClassifier, chain_people: Tensor
) -> None:
    cost = COSTS[name](chain)
    people = chain_people[:30]
    solver = Carma(chain.scm, chain_classifier, cost=cost, settings=small())
    plans = solver.fit(chain.encoded("recourse"), progress=False).solve(people)
    light = ExactSettings(starts=6, keep=12, polish_rounds=5)
    exact = ExactSolver(chain.scm, chain_classifier, cost=cost, settings=light).solve(people)
    assert plans.has_plan.all()
    torch.testing.assert_close(plans.cost, cost(people, plans.mask, plans.values))
    # At a maximum, a few steps come near the balance of all changes only.
    most = 1.12 if name == "largest shift" else 1.05
    assert float(plans.cost.mean()) <= most * float(exact.cost.mean())


def test_a_price_for_each_action_makes_plans_sparser() -> None:
    data = random_benchmark(6, 4, seed=2, rows=400, nonlinear=False)
    inputs = [Input(i) for i in range(6)]
    weights = torch.tensor([[1.0, -0.8, 0.9, 1.1, -0.7, 1.0]])
    classifier = NetworkClassifier(data.schema, inputs, [weights], [torch.tensor([-1.0])])
    people = rejected(classifier, data.encoded("recourse", "test"), 30)
    sizes, fee = [], 0.0
    for _ in range(2):
        cost = SquaredCost(data.encoding, data.scm.statistics_, per_action=fee)
        solver = Carma(data.scm, classifier, cost=cost, settings=small())
        plans = solver.fit(data.encoded("recourse"), progress=False).solve(people)
        found = plans.has_plan
        exact = ExactSolver(data.scm, classifier, cost=cost).solve(people)
        assert found.double().mean() > 0.9
        assert float(plans.cost[found].mean()) <= 1.03 * float(exact.cost[found].mean())
        sizes.append(float(plans.mask[found].sum(dim=1).double().mean()))
        fee = float(plans.cost[found].mean())
    assert sizes[1] < 0.8 * sizes[0]


def test_where_nobody_can_reach_the_threshold_there_is_nothing_to_learn(
    linear: Callable[..., NetworkClassifier], chain: Benchmark
) -> None:
    hopeless = linear(chain.schema, [0.0, 1.0, 0.5, 1.0], -60.0)
    with pytest.raises(TrainingError, match="fewer than two"):
        Carma(chain.scm, hopeless, settings=small(lessons=10)).fit(
            chain.encoded("recourse"), progress=False
        )


def test_before_fit_nothing_can_be_asked(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    solver = Carma(chain.scm, chain_classifier)
    assert solver.settings == CarmaSettings()
    assert not solver.is_fitted
    for ask in (solver.state, solver.using, lambda: solver.solve(chain.encoded("recourse"))):
        with pytest.raises(NotFittedError):
            ask()
    accepted = chain.encoded("recourse")[:0]
    with pytest.raises((TableError, ClassifierError)):
        solver.fit(accepted, progress=False)


def test_nobody_gets_no_answer(chain_carma: Carma, chain_people: Tensor) -> None:
    for solver in (chain_carma, chain_carma.using(candidates=1, refine_steps=0)):
        assert [len(p.cost) for p in solver.menu(chain_people[:0], n_plans=2)] == [0, 0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"candidates": 0}, "'candidates' must be at least 1"),
        ({"refine_steps": -1}, "'refine_steps' must be at least 0"),
        ({"lessons": 1}, "'lessons' must be at least 2"),
        ({"lessons": 2.5}, "'lessons' must be at least 2"),
        ({"validity": 0.49}, "'validity' must be at least 0.5 and below 1"),
        ({"validity": 1.0}, "'validity' must be at least 0.5 and below 1"),
        ({"mask_hidden": (8, 0)}, "'mask_hidden' must be at least 1"),
        ({"action_hidden": (0,)}, "'action_hidden' must be at least 1"),
    ],
)
def test_settings_check_themselves(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        CarmaSettings(**settings)


def test_settings_survive_a_dictionary(chain_carma: Carma) -> None:
    settings = small(mask_hidden=[4, 2], validity=0.9)
    assert settings.mask_hidden == (4, 2)
    assert CarmaSettings.from_dict(asdict(settings)) == settings
    with pytest.raises(SettingsError, match="candidates"):
        chain_carma.using(candidates=0)


def pair() -> StructuralCausalModel:
    """a acts on b; both may be set."""
    schema = Schema(
        (Feature("a", role="actionable"), Feature("b", role="actionable")),
        CausalGraph.from_edges([("a", "b")]),
    )
    one = Normal(torch.zeros(()).double(), torch.ones(()).double())
    model = StructuralCausalModel(
        schema, {"a": linear_equation({}, one), "b": linear_equation({"a": 0.5}, one)}
    )
    return model.fit(model.encoding.decode(model.sample(300, seed=1)))


def test_weights_and_limits_on_tensors_move_the_plan() -> None:
    model: CausalModel = pair()
    inputs = [Input(0), Input(1)]
    classifier = NetworkClassifier(
        model.schema, inputs, [torch.tensor([[1.0, 1.0]])], [torch.tensor([-1.0])]
    )
    x = model.sample(200, seed=2)
    solver = Carma(model, classifier, settings=small()).fit(x, progress=False)
    people = rejected(classifier, x, 20)
    dear = torch.tensor([[100.0, 1.0]], dtype=torch.float64).expand(20, 2).contiguous()
    plans = solver.solve(people, weights=dear)
    exact = ExactSolver(model, classifier).solve(people, weights=dear)
    assert float(plans.cost.mean()) <= 1.02 * float(exact.cost.mean())
    moved = torch.where(plans.mask, (plans.values - people).abs(), 0.0)
    usual = solver.solve(people)
    before = torch.where(usual.mask, (usual.values - people).abs(), 0.0)
    assert (moved[:, 0] < 0.5 * before[:, 0] + 1e-9).all()
    box = solver.limits.around(people)
    only_b = Limits(box.lower, box.upper, torch.tensor([False, True]).expand(20, 2))
    assert not solver.solve(people, only_b).mask[:, 0].any()


def test_compiling_is_left_to_torch(
    chain: Benchmark, chain_classifier: NetworkClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real compiling takes half a minute."""
    compiled: list[Any] = []

    def note(function: Any) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", note)
    quick = TrainingSettings(epochs=2)
    for compiles in (False, True):
        settings = small(lessons=20, training=quick, rehearsal=quick, compile=compiles)
        solver = Carma(chain.scm, chain_classifier, settings=settings)
        solver.fit(chain.encoded("recourse"), progress=False)
        assert len(compiled) == int(compiles)


def test_a_move_that_holds_besides_what_cannot_move_is_a_plan() -> None:
    features = (
        Feature("course", "binary", role="actionable", moves=((0, 1),)),
        Feature("hours", bounds=(0.0, 10.0), role="actionable", direction="up"),
        Feature("income"),
    )
    names = tuple(feature.name for feature in features)
    schema = Schema(features, CausalGraph.from_parents({"income": names[:2]}, names))
    one = Normal(0.0, 1.0)
    equations = {name: additive(lambda _: 0.0, one) for name in names[:2]}
    equations["income"] = additive(lambda p: p["course"] + p["hours"], one)
    model = StructuralCausalModel(schema, equations)
    model.fit(pd.DataFrame({"course": [0, 1, 0], "hours": [1.0, 2.0, 4.0], "income": [2.0, 3, 4]}))
    inputs = [Input(i) for i in range(3)]
    weights, bias = [torch.tensor([[3.0, 0.0, 1.0]])], [torch.tensor([-11.0])]
    carma = Carma(model, NetworkClassifier(schema, inputs, weights, bias))
    # Nobody works for more than ten hours.
    x = torch.tensor([[0.0, 10.0, 9.0]], dtype=torch.float64)
    people = People(x, model.abduct(x), carma._around(x))
    assert not people.limits.can_move[0, 1]
    foreseen = Foreseen.none(people, carma._sureness)
    foreseen.mask[0, :2], foreseen.values[0, 0], foreseen.cost[0] = True, 1.0, 1.0
    before = carma.classifier.probability(x)
    ((plans, owner),) = carma._told_of(people, foreseen, before, 1)
    assert owner.tolist() == [0]
    assert plans.has_plan.all()
    assert plans.values[0, :2].tolist() == [1.0, 10.0]
