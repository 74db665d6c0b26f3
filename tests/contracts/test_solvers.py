"""Every solver goes through the same laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from carma import (
    ActionRules,
    Carma,
    CarmaSettings,
    CausalFlow,
    CausalGraph,
    CausalModel,
    Classifier,
    ClassifierSettings,
    ExactSettings,
    ExactSolver,
    Feature,
    FlowSettings,
    GridOracle,
    GridSettings,
    Intervention,
    NonCausalOptimum,
    PublishedCarma,
    PublishedSettings,
    Schema,
    Solver,
    SquaredCost,
    Status,
    StructuralCausalModel,
    SumLimit,
    TimeLink,
    TrainingSettings,
    fit_classifier,
    linear,
    load,
    save,
)
from carma.benchmarks import load as load_benchmark
from carma.benchmarks import random_benchmark
from carma.classifiers.network import Input, NetworkClassifier
from carma.constraints import Limits
from carma.errors import BundleError, ConstraintError, NotFittedError, TableError
from carma.recourse.lessons import wishful
from carma.recourse.plans import Plans
from carma.recourse.target import People
from carma.table import Encoding

QUICK = TrainingSettings(epochs=10, batch_size=64, learning_rate=2e-2)
# The laws hold however little is searched.
LIGHT = ExactSettings(
    starts=4, explore_steps=3, keep=6, refine_steps=8, polish_rounds=4, search_rounds=8
)
N_PEOPLE = 16


class WithoutSlopes(NetworkClassifier):
    """A network whose slopes a solver must not use."""

    has_slope: bool = False

    @classmethod
    def of(cls, classifier: Classifier) -> NetworkClassifier:
        assert isinstance(classifier, NetworkClassifier)
        return cls(classifier.schema, classifier.inputs, classifier.weights, classifier.biases)


@dataclass(frozen=True)
class World:
    """A problem: people on both sides of the threshold, and rows that solvers are fitted on."""

    model: CausalModel
    classifier: NetworkClassifier
    rows: Tensor
    x: Tensor

    @property
    def is_accepted(self) -> Tensor:
        return self.classifier.probability(self.x) >= self.classifier.threshold


def world(model: CausalModel, classifier: NetworkClassifier, rows: Tensor, test: Tensor) -> World:
    """Mostly rejected people, the accepted ones in between."""
    accepted = classifier.probability(test) >= classifier.threshold
    some = torch.cat([test[~accepted][: N_PEOPLE - 4], test[accepted][:4]])
    order = torch.randperm(len(some), generator=torch.Generator().manual_seed(0))
    assert len(some) == N_PEOPLE
    return World(model, classifier, rows, some[order])


def logistic(schema: Schema, weights: list[float], bias: float) -> NetworkClassifier:
    inputs = [Input(i) for i in range(len(weights))]
    weight, shift = (torch.tensor(v, dtype=torch.float64) for v in ([weights], [bias]))
    return NetworkClassifier(schema, inputs, [weight], [shift])


def chain_world() -> World:
    data = load_benchmark("chain-lin", rows=400)
    classifier = logistic(data.schema, [0.0, 1.0, 0.5, 1.0], -0.25)
    rows, test = data.encoded("recourse"), data.encoded("recourse", "test")
    return world(data.scm, classifier, rows, test)


def loan_world() -> World:
    data = load_benchmark("loan", rows=400)
    settings = ClassifierSettings((12,), QUICK)
    classifier = fit_classifier(data.schema, data.frame("classifier"), settings, progress=False)
    rows, test = data.encoded("recourse"), data.encoded("recourse", "test")
    return world(data.scm, classifier, rows, test)


def random_world() -> World:
    data = random_benchmark(8, 4, seed=1, rows=400)
    settings = ClassifierSettings((8,), QUICK)
    classifier = fit_classifier(data.schema, data.frame("classifier"), settings, progress=False)
    rows, test = data.encoded("recourse"), data.encoded("recourse", "test")
    return world(data.scm, classifier, rows, test)


MIXED = Schema(
    (
        Feature("age", "integer", bounds=(18, 99), role="immutable"),
        Feature("course", "ordinal", levels=("none", "basic", "full"), role="actionable"),
        Feature(
            "hours", "integer", bounds=(0, 60), step=5, role="actionable", direction="up", unit="h"
        ),
        Feature("debt", bounds=(0.0, 50.0), role="actionable", direction="down", cost_weight=2.0),
        Feature("income", bounds=(0.0, 75.0)),
        Feature("member", "binary", levels=(False, True)),
    ),
    CausalGraph.from_parents(
        {"hours": ["age"], "income": ["age", "course", "hours"], "member": ["income"]},
        ("age", "course", "hours", "debt", "income", "member"),
    ),
    outcome="granted",
    favourable="yes",
    threshold=0.6,
)


def mixed_world() -> World:
    """Levels, steps, bounds, directions, a weight, and a learned model in double precision."""
    rng = np.random.default_rng(0)
    n = 300
    age = rng.integers(18, 80, n)
    course = rng.integers(0, 3, n)
    hours = np.clip(5 * np.rint((30 + 0.1 * age + 8 * rng.normal(size=n)) / 5), 0, 60)
    income = 10 + 0.1 * age + 4 * course + 0.5 * hours + 2 * rng.normal(size=n)
    table = pd.DataFrame(
        {
            "age": age,
            "course": np.array(["none", "basic", "full"])[course],
            "hours": hours.astype(int),
            "debt": np.clip(20 + 8 * rng.normal(size=n), 0, 50),
            "income": income,
            "member": income + 4 * rng.normal(size=n) > 35,
        }
    )
    settings = FlowSettings(hidden=(16,), training=replace(QUICK, epochs=30))
    flow = CausalFlow(MIXED, settings).fit(table, progress=False).to_float64()
    classifier = logistic(MIXED, [0.0, 0.2, 0.05, -0.3, 0.2, 0.5], -3.0)
    x = flow.encoding.encode(table)
    return world(flow, classifier, x[:200], x[200:])


MOVES = Schema(
    (
        Feature("job", "nominal", levels=("clerk", "cook", "nurse"), role="actionable"),
        Feature(
            "school",
            "ordinal",
            levels=("none", "basic", "full"),
            role="actionable",
            cost_weight=0.5,
            moves=(("none", "basic"), ("none", "full", 3), ("basic", "full", 1.5)),
        ),
        Feature("savings", bounds=(0, 40), role="actionable", direction="up"),
        Feature("debt", bounds=(0, 40), role="actionable", direction="down"),
        Feature("rent", bounds=(0, 40), role="actionable"),
        Feature("age", "integer", bounds=(18, 70)),
        Feature("income"),
    ),
    CausalGraph.from_parents(
        {"income": ["job", "school", "age"]},
        ("job", "school", "savings", "debt", "rent", "age", "income"),
    ),
    rules=ActionRules(
        requires=[("debt", "savings")],
        exclusive=[("job", "school"), ("savings", "rent")],
        sums=[SumLimit({"savings": 1, "income": -0.5}, 8)],
        time=[TimeLink("school", "age", (0, 1.5, 4))],
    ),
)


def moves_world() -> World:
    """Features that are set level by level, and rules between actions."""
    rng = np.random.default_rng(0)
    n = 300
    job, school, age = rng.integers(0, 3, n), rng.integers(0, 3, n), rng.integers(18, 68, n)
    wage = np.array([10, 9, 14])[job]
    table = pd.DataFrame(
        {
            "job": np.array(["clerk", "cook", "nurse"])[job],
            "school": np.array(["none", "basic", "full"])[school],
            "savings": np.clip(8 + 4 * rng.normal(size=n), 0, 40),
            "debt": np.clip(10 + 5 * rng.normal(size=n), 0, 40),
            "rent": np.clip(12 + 4 * rng.normal(size=n), 0, 40),
            "age": age,
            "income": wage + 2 * school + 0.1 * age + 1.5 * rng.normal(size=n),
        }
    )
    settings = FlowSettings(hidden=(8,), training=QUICK, alternatives=3)
    flow = CausalFlow(MOVES, settings).fit(table, progress=False).to_float64()
    weights = [0.0, 0.3, 1.0, 0.8, 0.2, -0.15, -0.15, -0.02, 0.25]
    x = flow.encoding.encode(table)
    return world(flow, logistic(MOVES, weights, -3.5), x[:200], x[200:])


WORLDS: dict[str, Callable[[], World]] = {
    "chain": chain_world,
    "loan": loan_world,
    "mixed": mixed_world,
    "moves": moves_world,
    "random": random_world,
}


def published(w: World) -> Solver:
    settings = PublishedSettings((8,), (8,), training=replace(QUICK, epochs=20))
    return PublishedCarma(w.model, w.classifier, settings=settings)


def carma(w: World, **changes: Any) -> Solver:
    settings = CarmaSettings(
        lessons=60, training=TrainingSettings(epochs=10), rehearsal=TrainingSettings(epochs=5)
    )
    return Carma(w.model, w.classifier, settings=replace(settings, **changes))


def single_pass(w: World) -> Solver:
    rehearsal = TrainingSettings(epochs=60)
    return carma(w, candidates=1, refine_steps=0, fallback=False, rehearsal=rehearsal)


def without_slopes(w: World) -> Solver:
    return carma(replace(w, classifier=WithoutSlopes.of(w.classifier)))


SOLVERS: dict[str, Callable[[World], Solver]] = {
    "grid": lambda w: GridOracle(w.model, w.classifier, settings=GridSettings(6)),
    "grid-bounded": lambda w: GridOracle(
        w.model, w.classifier, settings=GridSettings(6, bounded=True, margin=0.02)
    ),
    "exact": lambda w: ExactSolver(w.model, w.classifier, settings=LIGHT),
    "exact-by-search": lambda w: ExactSolver(
        w.model, w.classifier, settings=replace(LIGHT, closed_form=False)
    ),
    "exact-without-slopes": lambda w: ExactSolver(
        w.model, WithoutSlopes.of(w.classifier), settings=replace(LIGHT, closed_form=False)
    ),
    "exact-best-first": lambda w: ExactSolver(
        w.model, w.classifier, settings=replace(LIGHT, max_subsets=3)
    ),
    "exact-two-actions": lambda w: ExactSolver(
        w.model, w.classifier, settings=replace(LIGHT, max_actions=2, margin=0.01)
    ),
    "noncausal": lambda w: NonCausalOptimum(w.model, w.classifier, settings=LIGHT),
    "carma": carma,
    "carma-single": single_pass,
    "carma-without-slopes": without_slopes,
    "carma-published": published,
}
# One forward pass each: nothing is tried again where it fails.
SINGLE_PASSES = ("carma-single", "carma-published")
LOOKS_FURTHER = ("carma", "carma-without-slopes", "exact-best-first")
STATUSES = {
    "carma": {Status.REFINED, Status.SEARCHED},
    "carma-single": {Status.AMORTIZED},
    "carma-without-slopes": {Status.REFINED, Status.SEARCHED},
    "carma-published": {Status.AMORTIZED},
}
# Only on the chain is everything linear, so only there does the closed form differ from search.
CASES = [
    (problem, name)
    for problem in WORLDS
    for name in SOLVERS
    if problem == "chain" or name != "exact-by-search"
]


@dataclass(frozen=True)
class Case:
    """A fitted solver with its answers to everybody at once."""

    world: World
    solver: Solver
    plans: Plans
    name: str

    @property
    def has_plan(self) -> Tensor:
        return self.plans.has_plan

    @property
    def acts(self) -> Tensor:
        """Columns of what the plans act on, without what time moves, shape ``(n, d)``."""
        encoding = self.solver.encoding
        acts = torch.zeros_like(self.plans.mask)
        for name in self.solver.schema.actionable:
            acts[:, encoding.block(name)] = self.plans.mask[:, encoding.block(name)]
        return acts

    @property
    def n_actions(self) -> Tensor:
        return self.plans.mask[:, self.solver.encoding.actions].sum(dim=1)

    @property
    def is_single_pass(self) -> bool:
        return self.name in SINGLE_PASSES


@cache
def made(problem: str) -> World:
    return WORLDS[problem]()


@cache
def solved(problem: str, name: str) -> Case:
    w = made(problem)
    solver = SOLVERS[name](w).fit(w.rows, progress=False)
    return Case(w, solver, solver.solve(w.x), name)


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest) -> Case:
    problem, name = request.param
    return solved(problem, name)


def assert_equal(one: Plans, other: Plans) -> None:
    for entry in fields(Plans):
        a, b = getattr(one, entry.name), getattr(other, entry.name)
        assert a.dtype == b.dtype, entry.name
        assert a.numpy().tobytes() == b.numpy().tobytes(), entry.name


def assert_same_answers(one: Plans, other: Plans) -> None:
    """Equal statuses and costs; of two plans that cost the same, either will do."""
    assert one.status.tolist() == other.status.tolist()
    torch.testing.assert_close(one.cost, other.cost, rtol=1e-6, atol=1e-12, equal_nan=True)


def rows_of(plans: Plans, rows: Tensor) -> Plans:
    return Plans(*(getattr(plans, entry.name)[rows] for entry in fields(Plans)))


def allowed_values(case: Case, feature: Feature, own: float) -> Callable[[float], bool]:
    """What a plan may set a feature to, from the words of the schema alone."""
    column = case.solver.encoding.column(feature.name)
    statistics = case.world.model.statistics_
    least, greatest = float(statistics.minimum[column]), float(statistics.maximum[column])
    if feature.has_levels:
        least, greatest = min(feature.codes), max(feature.codes)
    elif feature.bounds is not None:
        least, greatest = feature.bounds
    elif isinstance(case.solver, GridOracle) and not case.solver.settings.bounded:
        least, greatest = -math.inf, math.inf
    least, greatest = min(least, own), max(greatest, own)
    if feature.direction == "up":
        least = own
    if feature.direction == "down":
        greatest = own
    step = feature.step or (1.0 if feature.kind == "integer" else None)
    origin = feature.bounds[0] if feature.bounds else 0.0

    def is_allowed(value: float) -> bool:
        slack = 1e-9 * (1 + abs(own))
        inside = least - slack <= value <= greatest + slack
        if feature.has_levels:
            return inside and (value in feature.codes)
        count = 0.0 if step is None else (value - origin) / step
        return inside and (value == own or abs(count - round(count)) < 1e-6)

    return is_allowed


def test_most_people_get_a_plan(case: Case) -> None:
    """Else the laws below would say nothing."""
    least = 1 if case.is_single_pass else (N_PEOPLE - 4) // 2
    assert int(case.has_plan.sum()) >= least
    allowed = STATUSES.get(case.name, {Status.SEARCHED})
    assert set(case.plans.status[case.has_plan].tolist()) <= {status.code for status in allowed}


def test_plans_set_what_may_be_set_to_values_that_may_be_had(case: Case) -> None:
    schema, plans, x = case.solver.schema, case.plans, case.world.x
    for person in case.has_plan.nonzero().squeeze(1).tolist():
        assert plans.mask[person].any()
        for feature in schema.features:
            column = case.solver.encoding.column(feature.name)
            if not plans.mask[person, column]:
                continue
            if feature.name == "age" and schema.rules.time:
                assert case.acts[person].any()
                continue
            assert feature.role == "actionable"
            if feature.is_switch:
                encoding, rows = case.solver.encoding, (x[person], plans.values[person])
                one, other = (int(encoding.level(row, feature)) for row in rows)
                assert one != other
                assert math.isfinite(feature.move_costs[one][other])
                continue
            own, value = float(x[person, column]), float(plans.values[person, column])
            assert allowed_values(case, feature, own)(value), (feature.name, own, value)
    limit = getattr(getattr(case.solver, "settings", None), "max_actions", None)
    if limit is not None:
        assert int(case.n_actions.max()) <= limit
    rules, encoding = case.solver.limits.rules, case.solver.encoding
    assert rules.allow(plans.mask).all()
    for limit in schema.rules.sums:
        before, after = (
            sum(w * t[:, encoding.column(name)] for name, w in limit.of.items())
            for t in (x, plans.counterfactual)
        )
        assert isinstance(before, Tensor)
        assert (after <= before.clamp(min=limit.at_most) + 1e-6).all()


def test_what_follows_can_exist(case: Case) -> None:
    schema, encoding = case.solver.schema, case.solver.encoding
    reached, x = case.plans.counterfactual[case.has_plan], case.world.x[case.has_plan]
    for feature in schema.features:
        column = encoding.column(feature.name)
        values = reached[:, column]
        if feature.bounds is not None:
            low, high = feature.bounds
            assert ((values >= low - 1e-7) & (values <= high + 1e-7)).all()
        if feature.has_levels:
            assert set(values.tolist()) <= set(feature.codes)
        if feature.role == "immutable":
            assert torch.equal(values, x[:, column])


def test_a_plan_is_accepted_under_the_belief_of_its_solver(case: Case) -> None:
    plans, found, x = case.plans, case.has_plan, case.world.x
    do = Intervention(plans.mask, plans.values)
    if isinstance(case.solver, NonCausalOptimum):
        believed = torch.where(plans.mask, plans.values, x)
    else:
        believed = case.world.model.counterfactual(x, do)
    torch.testing.assert_close(plans.counterfactual[found], believed[found], rtol=1e-9, atol=1e-9)
    probability = case.world.classifier.probability(believed)[found]
    assert (probability >= case.solver.schema.threshold - 1e-9).all()
    torch.testing.assert_close(plans.probability_after[found], probability, rtol=1e-9, atol=1e-9)
    assert (plans.probability_after[found] >= case.solver.schema.threshold).all()
    if case.solver.margin is not None and not case.is_single_pass:
        aim = case.solver.schema.threshold + case.solver.margin
        assert (plans.probability_after[found] >= aim - 1e-12).all()


def test_cost_is_the_one_cost(case: Case) -> None:
    plans, found, x = case.plans, case.has_plan, case.world.x
    again = case.solver.cost(x, plans.mask, plans.values)
    assert torch.equal(plans.cost[found], again[found])
    statistics, schema = case.world.model.statistics_, case.solver.schema
    by_hand = torch.zeros(len(x), dtype=torch.float64)
    for name in schema.actionable:
        i = case.solver.encoding.column(name)
        if schema[name].is_switch:
            own, to = (case.solver.encoding.level(t, schema[name]) for t in (x, plans.values))
            price = torch.tensor(schema[name].move_costs, dtype=torch.float64)[own, to]
            by_hand += 2 * schema[name].cost_weight * price / len(schema.actionable)
            continue
        spread = statistics.std[i] * (statistics.maximum[i] - statistics.minimum[i])
        moved = torch.where(plans.mask[:, i], plans.values[:, i] - x[:, i], 0.0)
        by_hand += schema[name].cost_weight * moved.square() / spread / len(schema.actionable)
    torch.testing.assert_close(plans.cost[found], by_hand[found])


def test_accepted_people_need_nothing(case: Case) -> None:
    plans, accepted = case.plans, case.world.is_accepted
    assert int(accepted.sum()) == 4
    assert torch.equal(plans.status == Status.ALREADY_ACCEPTED.code, accepted)
    assert (plans.cost[accepted] == 0).all()
    assert (plans.n_evaluations[accepted] == 0).all()
    assert not plans.mask[accepted].any()
    assert torch.equal(plans.counterfactual[accepted], case.world.x[accepted])
    assert torch.equal(plans.probability_after[accepted], plans.probability_before[accepted])


def test_every_number_is_one_but_the_cost_of_no_plan(case: Case) -> None:
    plans = case.plans
    for entry in fields(Plans):
        if entry.name not in ("cost", "expected_validity"):
            assert torch.isfinite(getattr(plans, entry.name)).all(), entry.name
    is_answered = case.has_plan | case.world.is_accepted
    assert torch.equal(torch.isnan(plans.cost), ~is_answered)
    assert torch.isfinite(plans.cost[is_answered]).all()
    validity = plans.expected_validity
    assert torch.isnan(validity[~is_answered]).all()
    assert (validity[case.world.is_accepted] == 1).all()
    known = validity[case.has_plan]
    if case.is_single_pass or isinstance(case.solver, (PublishedCarma, GridOracle)):
        # Of moves alone it is known.
        by_level = case.solver.encoding.moved_by_level
        has_numbers = (case.acts & ~by_level)[case.has_plan].any(dim=1)
        assert torch.isnan(known[has_numbers]).all()
    else:
        # Whoever believes in the model alone may be more likely wrong than right.
        least = 0.5 if isinstance(case.solver, Carma) else 0.0
        assert ((known >= least) & (known <= 1)).all()
    assert not plans.mask[~is_answered].any()
    assert torch.equal(plans.counterfactual[~is_answered], case.world.x[~is_answered])
    assert torch.equal(
        plans.probability_after[~is_answered], plans.probability_before[~is_answered]
    )


def test_a_search_that_claims_no_proof_says_how_hard_it_tried(case: Case) -> None:
    plans = case.plans
    tried = plans.n_evaluations > 0
    is_proven = plans.status == Status.INFEASIBLE.code
    assert (tried | is_proven | case.world.is_accepted).all()


def test_an_answer_does_not_depend_on_order_company_or_chunks(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, whole = case.world.x, case.plans
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for rows in (order, (~case.world.is_accepted).nonzero()[5]):
        assert_same_answers(case.solver.solve(x[rows]), rows_of(whole, rows))
    monkeypatch.setattr(case.solver, "at_once", 6)
    assert_same_answers(case.solver.solve(x), whole)


def test_the_same_call_twice_gives_the_same_bits(case: Case) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(3)
    again = case.solver.solve(case.world.x)
    torch.set_rng_state(state)
    assert_equal(again, case.plans)


def narrow(case: Case, seed: int) -> Limits:
    """Another box around every person, which some features must not leave at all."""
    x = case.world.x
    generator = torch.Generator().manual_seed(seed)
    down, up, choice = (torch.rand(x.shape, generator=generator).double() for _ in range(3))
    width = case.world.model.statistics_.std
    encoding = case.solver.encoding
    stays = choice < 0.15
    lower = torch.where(stays, x, x - 2 * down * width)
    upper = torch.where(stays, x, x + 2 * up * width)
    far = torch.where(encoding.moved_by_level, torch.inf, 0.0)
    return Limits(lower - far, upper + far, whole(encoding, choice < 0.75))


def whole(encoding: Encoding, may_act: Tensor) -> Tensor:
    """All columns of a feature as its first."""
    first = [encoding.block(encoding.schema.features[i].name).start for i in encoding.owners]
    return may_act[:, first]


def assert_inside(case: Case, limits: Limits) -> None:
    x, plans = case.world.x, case.plans
    assert not (case.acts & ~limits.may_act).any()
    slack = 1e-9 * (1 + x.abs())
    inside = (plans.values >= limits.lower - slack) & (plans.values <= limits.upper + slack)
    assert (inside | ~case.acts | case.solver.encoding.moved_by_level).all()


def test_personal_limits_hold(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    x, limits = case.world.x, narrow(case, 0)
    plans = case.solver.solve(x, limits)
    if not case.is_single_pass:
        assert plans.has_plan.any()
    narrowed = replace(case, plans=plans)
    assert_inside(narrowed, limits)
    test_plans_set_what_may_be_set_to_values_that_may_be_had(narrowed)
    test_a_plan_is_accepted_under_the_belief_of_its_solver(narrowed)
    test_accepted_people_need_nothing(narrowed)
    test_every_number_is_one_but_the_cost_of_no_plan(narrowed)
    monkeypatch.setattr(case.solver, "at_once", 9)
    assert_same_answers(case.solver.solve(x, limits), plans)


def test_limits_as_wide_as_can_be_change_nothing(case: Case) -> None:
    x = case.world.x
    far = torch.full_like(x, torch.inf)
    wide = Limits(-far, far, torch.ones_like(x, dtype=torch.bool))
    assert_equal(case.solver.solve(x, wide), case.plans)


def everything(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def test_who_can_move_nothing_is_beyond_help(case: Case) -> None:
    x, accepted = case.world.x, case.world.is_accepted
    far = torch.full_like(x, torch.inf)
    for limits in (
        Limits(-far, far, ~everything(x)),
        # Moves between levels know no box.
        Limits(x, x, everything(x) & ~case.solver.encoding.moved_by_level),
        Limits(-far, far, everything(x) & False, torch.ones(len(x), dtype=torch.long)),
    ):
        menus = case.solver.menu(x, limits, n_plans=2)
        assert (menus[0].status[~accepted] == Status.INFEASIBLE.code).all()
        assert (menus[1].status == Status.NO_OTHER.code).all()
        for plans in menus:
            assert not plans.mask.any()
            assert torch.equal(plans.counterfactual, x)
        test_accepted_people_need_nothing(replace(case, plans=menus[0]))


@dataclass(frozen=True)
class Wishes:
    """What each person cannot or will not do, and what it costs them."""

    limits: Limits
    weights: Tensor


def wishes(case: Case, seed: int) -> Wishes:
    """Features frozen, limits narrowed, few actions, other weights, all at random."""
    w, encoding = case.world, case.solver.encoding
    draws = torch.Generator().manual_seed(seed)
    people = People(w.x, w.model.abduct(w.x), case.solver.limits.around(w.x))
    wished = wishful(people, encoding.actionable, draws)
    most = torch.randint(1, len(encoding.actionable) + 1, (len(w.x),), generator=draws)
    assert wished.weights is not None
    may_act = whole(encoding, wished.limits.may_act)
    return Wishes(replace(wished.limits, max_actions=most, may_act=may_act), wished.weights)


def assert_wishes_hold(case: Case, wish: Wishes) -> None:
    """The plans of the case keep to the wishes, and to all that holds without any."""
    x, plans, limits = case.world.x, case.plans, wish.limits
    assert limits.max_actions is not None
    assert_inside(case, limits)
    assert (case.n_actions <= limits.max_actions).all()
    again = case.solver.cost(x, plans.mask, plans.values, wish.weights)
    torch.testing.assert_close(plans.cost[case.has_plan], again[case.has_plan], rtol=1e-12, atol=0)
    test_plans_set_what_may_be_set_to_values_that_may_be_had(case)
    test_a_plan_is_accepted_under_the_belief_of_its_solver(case)
    test_what_follows_can_exist(case)


@pytest.mark.parametrize("seed", range(3))
def test_wishes_are_never_broken(case: Case, seed: int) -> None:
    wish = wishes(case, seed)
    plans = case.solver.solve(case.world.x, wish.limits, wish.weights)
    wished = replace(case, plans=plans)
    if not case.is_single_pass:
        assert wished.has_plan.any()
    assert_wishes_hold(wished, wish)
    test_accepted_people_need_nothing(wished)
    test_every_number_is_one_but_the_cost_of_no_plan(wished)


@pytest.mark.parametrize("with_wishes", [False, True])
def test_a_menu_offers_plans_that_differ_and_cost_more_and_more(
    case: Case, with_wishes: bool
) -> None:
    x = case.world.x
    wish = wishes(case, 5) if with_wishes else None
    asked = (x, wish.limits, wish.weights) if wish else (x,)
    menus = case.solver.menu(*asked, n_plans=3)
    assert len(menus) == 3
    best = case.solver.solve(*asked)
    if case.name in LOOKS_FURTHER:
        # More sets are tried for a menu, so its first plan may be a better one. With moves, it may
        # be a surer one, for people for whom nothing sure was found without a search. Who has none
        # is searched for, which may prove that there is none.
        assert (menus[0].has_plan | ~best.has_plan).all()
        alike = (menus[0].status == best.status) | ~menus[0].has_plan
        assert alike.all() or case.solver.schema.switches
        assert (menus[0].cost <= best.cost * (1 + 1e-6))[best.has_plan & alike].all()
    elif case.name != "carma-single":
        assert_same_answers(menus[0], best)
        assert torch.equal(menus[0].mask, best.mask)
    for place, plans in enumerate(menus):
        offered = plans.has_plan
        if place:
            other = plans.status == Status.NO_OTHER.code
            assert (offered | other).all()
            assert other[case.world.is_accepted].all()
            assert torch.isnan(plans.cost[other]).all()
            assert torch.isnan(plans.expected_validity[other]).all()
            assert not plans.mask[other].any()
            assert torch.equal(plans.counterfactual[other], x[other])
        part = replace(case, plans=plans)
        if wish:
            assert_wishes_hold(part, wish)
        else:
            test_plans_set_what_may_be_set_to_values_that_may_be_had(part)
            test_a_plan_is_accepted_under_the_belief_of_its_solver(part)
            test_what_follows_can_exist(part)
        for earlier in menus[:place]:
            # There is no third plan without a second one.
            assert earlier.has_plan[offered].all()
            assert (earlier.cost <= plans.cost)[offered].all()
            spared = replace(case, plans=earlier).acts & ~part.acts
            assert spared[offered].any(dim=1).all()
    if case.name in ("exact", "carma") and not wish:
        assert menus[1].has_plan.any()


def test_weights_of_one_change_nothing(case: Case) -> None:
    x = case.world.x
    assert_equal(case.solver.solve(x, None, torch.ones_like(x)), case.plans)


def test_doubled_weights_double_the_cost_and_leave_the_plan(case: Case) -> None:
    if isinstance(case.solver, Carma):
        pytest.skip("which sets its networks propose depends on the weights")
    x = case.world.x
    for weights in (torch.ones_like(x), wishes(case, 7).weights):
        once, twice = (case.solver.solve(x, None, factor * weights) for factor in (1, 2))
        assert once.status.tolist() == twice.status.tolist()
        torch.testing.assert_close(twice.cost, 2 * once.cost, rtol=1e-6, atol=1e-12, equal_nan=True)
        assert torch.equal(once.mask, twice.mask)
        torch.testing.assert_close(once.values, twice.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_weights_that_are_no_prices_are_refused(case: Case, wrong: float) -> None:
    weights = torch.ones_like(case.world.x)
    weights[7, 2] = wrong
    with pytest.raises(ConstraintError, match=r"'weights' must be finite and above 0; row 7"):
        case.solver.solve(case.world.x, None, weights)
    for part in (weights[1:], weights[:, 1:], weights[0]):
        with pytest.raises(ConstraintError, match=r"'weights' must have the shape of x"):
            case.solver.solve(case.world.x, None, part)


def test_a_number_of_actions_below_one_is_refused(case: Case) -> None:
    x = case.world.x
    far, most = torch.full_like(x, torch.inf), torch.ones(len(x), dtype=torch.long)
    for wrong in (most - 1, most[1:], most[:, None]):
        with pytest.raises(ConstraintError, match=r"'limits.max_actions' must be at least 1"):
            case.solver.solve(x, Limits(-far, far, everything(x), wrong))


@pytest.mark.parametrize("name", ["exact", "exact-two-actions", "exact-best-first"])
def test_narrower_limits_never_make_the_closed_form_cheaper(name: str) -> None:
    case = solved("chain", name)
    x = case.world.x
    for seed in range(4):
        limits = narrow(case, seed)
        wide = case.plans.cost
        middle = Limits(2 * limits.lower - x, 2 * limits.upper - x, limits.may_act)
        for box in (middle, limits):
            plans = case.solver.solve(x, box)
            found = plans.status == Status.SEARCHED.code
            assert (wide[found] <= plans.cost[found] * (1 + 1e-9)).all()
            wide = plans.cost.nan_to_num(torch.inf)


def test_limits_that_contradict_a_person_are_refused(case: Case) -> None:
    x = case.world.x
    good = Limits(x - 1, x + 1, torch.ones_like(x, dtype=torch.bool))
    above, below = x - 1, x + 1
    above[7, 2], below[7, 2] = x[7, 2] + 0.5, x[7, 2] - 0.5
    for bad in (
        replace(good, lower=above),
        replace(good, upper=below),
        replace(good, upper=torch.full_like(x, torch.nan)),
    ):
        with pytest.raises(ConstraintError, match="hold the person's own value"):
            case.solver.solve(x, bad)
    with pytest.raises(ConstraintError, match="row 7, column 2"):
        case.solver.solve(x, replace(good, lower=above))
    for name in ("lower", "upper", "may_act"):
        for part in (getattr(good, name)[1:], getattr(good, name)[:, 1:], getattr(good, name)[0]):
            with pytest.raises(ConstraintError, match=rf"limits\.{name}.*have the shape of x"):
                case.solver.solve(x, replace(good, **{name: part}))


def test_nobody_gets_no_answer(case: Case) -> None:
    none = case.solver.solve(case.world.x[:0])
    for entry in fields(Plans):
        a, b = getattr(none, entry.name), getattr(case.plans, entry.name)
        assert (a.dtype, a.shape) == (b.dtype, (0, *b.shape[1:])), entry.name
    table = case.solver.encoding.decode(case.world.x)
    with pytest.raises(TableError, match="'rows' must be at least one"):
        case.solver.recommend(table.iloc[:0])
    frame = case.solver.recommend(table).to_frame()
    assert len(frame) == N_PEOPLE


@pytest.mark.parametrize("name", ["grid", "carma", "carma-published"])
def test_fit_comes_first_where_there_is_something_to_learn(name: str) -> None:
    w = made("chain")
    solver = SOLVERS[name](w)
    assert not solver.is_fitted
    calls: dict[str, Callable[[], object]] = {
        "solve": lambda: solver.solve(w.x),
        "recommend": lambda: solver.recommend(solver.encoding.decode(w.x)),
        "state": solver.state,
    }
    with pytest.raises(NotFittedError, match="call 'fit' before 'solve'"):
        solver.menu(w.x, n_plans=2)
    for method, call in calls.items():
        with pytest.raises(NotFittedError, match=f"call 'fit' before '{method}'"):
            call()


@pytest.mark.parametrize(
    ("problem", "name"),
    [(p, n) for p, n in CASES if p != "random" and "without-slopes" not in n],
)
def test_a_bundle_answers_as_its_solver_does(problem: str, name: str, tmp_path: Path) -> None:
    case = solved(problem, name)
    weights = dict.fromkeys(case.solver.schema.actionable, 1.5)
    cost = SquaredCost(case.solver.encoding, case.world.model.statistics_, weights)
    solver = type(case.solver).restore(
        case.solver.causal_model, case.solver.classifier, cost, case.solver.state()
    )
    loaded = load(save(solver, tmp_path / "solver.carma"))
    assert type(loaded) is type(solver)
    assert vars(loaded)["settings"] == vars(solver)["settings"]
    assert loaded.margin == solver.margin
    plans = loaded.solve(case.world.x)
    assert_equal(plans, solver.solve(case.world.x))
    # The cost is that of the bundle, not the default one.
    assert (plans.cost == cost(case.world.x, plans.mask, plans.values))[case.has_plan].any()


def test_a_random_model_has_no_name_that_a_bundle_could_hold(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot hold Python functions"):
        save(solved("random", "exact").solver, tmp_path / "solver.carma")


UNITS: dict[str, Callable[[CausalModel, Classifier], Solver]] = {
    "closed form": ExactSolver,
    "walks": lambda m, c: ExactSolver(m, c, settings=ExactSettings(closed_form=False)),
    "best-first": lambda m, c: ExactSolver(m, c, settings=ExactSettings(max_subsets=2)),
    "best-first walks": lambda m, c: ExactSolver(
        m, c, settings=ExactSettings(max_subsets=2, closed_form=False)
    ),
    "without slopes": lambda m, c: ExactSolver(
        m, WithoutSlopes.of(c), settings=ExactSettings(closed_form=False, search_rounds=20)
    ),
    "noncausal": NonCausalOptimum,
    "grid": lambda m, c: GridOracle(m, c, settings=GridSettings(8)),
    "grid-bounded": lambda m, c: GridOracle(m, c, settings=GridSettings(8, bounded=True)),
}


def in_units(scale: Tensor, shift: Tensor) -> tuple[StructuralCausalModel, NetworkClassifier]:
    """One linear problem, its columns measured as ``scale * x + shift``."""
    effects = {("a", "b"): 0.7, ("a", "d"): -0.4, ("b", "c"): 0.9, ("c", "d"): 0.5}
    names, weights = ("a", "b", "c", "d"), [0.5, 0.25, -0.5, 1.0]
    unit = dict(zip(names, scale.tolist(), strict=True))
    zero = dict(zip(names, shift.tolist(), strict=True))
    schema = Schema(
        tuple(Feature(n, role="mutable" if n == "d" else "actionable") for n in names),
        CausalGraph.from_edges(list(effects), names),
    )
    equations = {}
    for name in names:
        slopes = {
            cause: effect * unit[name] / unit[cause]
            for (cause, to), effect in effects.items()
            if to == name
        }
        start = zero[name] - sum(slope * zero[cause] for cause, slope in slopes.items())
        noise = Normal(torch.zeros(()).double(), torch.tensor(unit[name]).double())
        equations[name] = linear(slopes, noise, start)
    scaled = [weight / unit[n] for weight, n in zip(weights, names, strict=True)]
    bias = -0.25 - sum(w * zero[n] for w, n in zip(scaled, names, strict=True))
    return StructuralCausalModel(schema, equations), logistic(schema, scaled, bias)


@pytest.mark.parametrize("name", UNITS)
def test_the_units_of_a_feature_do_not_matter(name: str) -> None:
    plain = torch.ones(4).double(), torch.zeros(4).double()
    other = torch.tensor([3.0, 0.1, 1000.0, 0.7]), torch.tensor([3.0, -1.0, 50.0, 0.2])
    if name == "without slopes":
        # Any rounding sends its trials elsewhere; powers of two round nothing.
        other = torch.tensor([4.0, 0.125, 1024.0, 0.5]), torch.zeros(4)
    x = in_units(*plain)[0].sample(60, seed=1)
    answers = []
    for scale, shift in (plain, other):
        model, classifier = in_units(scale, shift)
        rows = scale * x + shift
        model.fit(model.encoding.decode(rows))
        solver = UNITS[name](model, classifier).fit(rows)
        is_open = classifier.probability(rows) < 0.5
        answers.append(solver.solve(rows[is_open][:10]))
    assert int((answers[0].status == Status.SEARCHED.code).sum()) >= 5
    assert_same_answers(answers[1], answers[0])
