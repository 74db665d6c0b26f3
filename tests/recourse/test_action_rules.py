"""Moves between levels and rules between actions, from a table to plans."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import (
    Carma,
    CarmaSettings,
    CausalFlow,
    CausalGraph,
    Constraints,
    DiceVae,
    DiceVaeSettings,
    ExactSettings,
    ExactSolver,
    Feature,
    FlowSettings,
    GridOracle,
    GridSettings,
    Intervention,
    PublishedCarma,
    PublishedSettings,
    Schema,
    Solver,
    Status,
    TrainingSettings,
    load,
    save,
)
from carma.classifiers.network import Input, NetworkClassifier
from carma.recourse.plans import Plans
from carma.rules import ActionRules, SumLimit, TimeLink

JOBS, LEVELS = ("clerk", "cook", "nurse"), ("none", "school", "college")
YEARS = (0.0, 1.5, 4.0)
SCHOOLING = {("none", "school"): 1.0, ("none", "college"): 2.5, ("school", "college"): 2.0}
RULES = ActionRules(
    requires=[("debt", "plan")],
    together=[("plan", "savings")],
    exclusive=[("job", "education")],
    sums=[SumLimit({"savings": 1.0, "income": -0.5}, 6.0)],
    time=[TimeLink("education", "age", YEARS)],
)
FREE = ActionRules(sums=RULES.sums, time=RULES.time)
N_PEOPLE = 14
QUICK = TrainingSettings(epochs=15, batch_size=64, learning_rate=1e-2)
LIGHT = ExactSettings(
    starts=4, explore_steps=3, keep=6, refine_steps=8, polish_rounds=4, search_rounds=8
)


def schema_of(rules: ActionRules, role: Any = "actionable") -> Schema:
    moves = tuple((*pair, cost) for pair, cost in SCHOOLING.items())
    levels: dict[str, Any] = {"kind": "ordinal", "levels": LEVELS, "role": role}
    plan: dict[str, Any] = {"kind": "binary", "role": role}
    if role == "actionable":
        levels["moves"], plan["moves"] = moves, ((0, 1, 0.5),)
    features = (
        Feature("job", "nominal", levels=JOBS, role=role, cost_weight=0.6),
        Feature("education", **levels),
        Feature("plan", **plan),
        Feature("savings", bounds=(0, 30), role="actionable", direction="up"),
        Feature("debt", bounds=(0, 30), role="actionable", direction="down"),
        Feature("age", "integer", bounds=(18, 70)),
        Feature("income"),
    )
    causes = {"income": ["job", "education", "age"]}
    names = tuple(f.name for f in features)
    return Schema(features, CausalGraph.from_parents(causes, names), rules=rules)


def table_of(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    job, education = rng.integers(0, 3, n), rng.integers(0, 3, n)
    age = rng.integers(18, 68, n)
    wage = np.array([10.0, 9.0, 14.0])[job]
    return pd.DataFrame(
        {
            "job": np.array(JOBS)[job],
            "education": np.array(LEVELS)[education],
            "plan": rng.integers(0, 2, n),
            "savings": np.clip(8 + 4 * rng.normal(size=n), 0, 30),
            "debt": np.clip(10 + 5 * rng.normal(size=n), 0, 30),
            "age": age,
            "income": wage + 2 * education + 0.1 * age + 1.5 * rng.normal(size=n),
        },
        index=[f"person {i}" for i in range(n)],
    )


@dataclass(frozen=True)
class World:
    """A fitted causal model, a classifier, and people who are rejected."""

    flow: CausalFlow
    classifier: NetworkClassifier
    table: pd.DataFrame
    people: pd.DataFrame

    @property
    def x(self) -> Tensor:
        return self.flow.encoding.encode(self.people)

    @property
    def age(self) -> int:
        return self.flow.encoding.column("age")


@cache
def world(rules: str = "all", role: str = "actionable") -> World:
    schema = schema_of(
        {"all": RULES, "free": FREE, "sums": ActionRules(sums=RULES.sums)}[rules], role
    )
    table = table_of(400, seed=0)
    settings = FlowSettings(hidden=(8,), training=QUICK, alternatives=3)
    flow = CausalFlow(schema, settings).fit(table, progress=False).to_float64()
    # The three columns of job, education, plan, savings, debt, age, income.
    weights = [0.0, 0.3, 1.0, 0.8, 0.8, 0.15, -0.15, -0.02, 0.25]
    inputs = [Input(i) for i in range(len(weights))]
    weight, bias = (torch.tensor(v, dtype=torch.float64) for v in ([weights], [-6.5]))
    classifier = NetworkClassifier(schema, inputs, [weight], [bias])
    new = table_of(200, seed=1)
    rejected = classifier.probability(flow.encoding.encode(new)) < 0.5
    return World(flow, classifier, table, new[rejected.numpy()].head(N_PEOPLE))


SOLVERS: dict[str, Callable[[World], Solver]] = {
    "exact": lambda w: ExactSolver(w.flow, w.classifier, settings=LIGHT),
    "grid": lambda w: GridOracle(w.flow, w.classifier, settings=GridSettings(7)),
    "carma": lambda w: Carma(
        w.flow,
        w.classifier,
        settings=CarmaSettings(
            lessons=80,
            mask_hidden=(16,),
            action_hidden=(16, 16),
            training=QUICK,
            rehearsal=replace(QUICK, epochs=5),
        ),
    ),
    "published": lambda w: PublishedCarma(
        w.flow, w.classifier, settings=PublishedSettings((8,), (8,), training=QUICK)
    ),
    "dice": lambda w: DiceVae(
        w.flow, w.classifier, settings=DiceVaeSettings((8,), (8,), training=QUICK)
    ),
}
every = pytest.mark.parametrize("name", SOLVERS)


@cache
def solved(name: str, rules: str = "all") -> Solver:
    w = world(rules)
    return SOLVERS[name](w).fit(w.table, progress=False)


def rules_hold(people: pd.DataFrame, frame: pd.DataFrame, *, follows: bool = True) -> int:
    """Check plans in original units, by nothing but the words of the rules; how many there are.

    Without ``follows`` the solver believes that income stays as it is.
    """
    frame = frame[frame["do_job"].notna() | (frame["n_actions"] > 0)]
    for label, plan in frame.iterrows():
        own = people.loc[str(label)]
        names = ("job", "education", "plan", "savings", "debt")
        acts = {name for name in names if not pd.isna(plan[f"do_{name}"])}
        assert plan["n_actions"] == len(acts) > 0
        assert "debt" not in acts or "plan" in acts
        assert ("plan" in acts) == ("savings" in acts)
        assert not {"job", "education"} <= acts
        for name in names:
            after = plan[f"after_{name}"]
            assert after == (plan[f"do_{name}"] if name in acts else own[name])
        if "job" in acts:
            assert plan["do_job"] != own["job"]
        if "education" in acts:
            assert (own["education"], plan["do_education"]) in SCHOOLING
        if "plan" in acts:
            assert (own["plan"], plan["do_plan"]) == (0, 1)
        assert own["savings"] <= plan["after_savings"] <= 30
        assert 0 <= plan["after_debt"] <= own["debt"]
        steps = [LEVELS.index(e) for e in (own["education"], plan["after_education"])]
        years = math.ceil(YEARS[steps[1]] - YEARS[steps[0]])
        assert plan["after_age"] == own["age"] + years <= 70
        most = max(6.0, own["savings"] - 0.5 * own["income"])
        assert plan["after_savings"] - 0.5 * plan["after_income"] <= most + 1e-6
        if not follows:
            assert plan["after_income"] == own["income"]
    return len(frame)


@every
def test_every_plan_keeps_every_rule(name: str) -> None:
    people, solver = world().people, solved(name)
    for n_plans in (1, 3):
        frame = solver.recommend(people, n_plans=n_plans).to_frame()
        n = rules_hold(people, frame, follows=name != "dice")
        assert n >= (N_PEOPLE * 0.7 if name in ("exact", "grid", "carma") else 1)
        assert frame["do_job"].notna().any()
        assert (frame["status"] != Status.OUTSIDE_LIMITS.value).all() or name in (
            "published",
            "dice",
        )


def test_the_same_seed_learns_the_same_moves() -> None:
    before = torch.random.get_rng_state()
    one = solved("carma").state().tensors
    torch.manual_seed(99)
    w = world()
    other = SOLVERS["carma"](w).fit(w.table, progress=False).state().tensors
    torch.random.set_rng_state(before)
    assert any(name.startswith("compass.") for name in one)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def reached_by_hand(w: World, do: Intervention) -> Tensor:
    """What follows from actions, with the years of schooling set as an intervention on age."""
    education = w.flow.encoding.column("education")
    years = torch.tensor(YEARS, dtype=torch.float64)
    x, after = w.x, torch.where(do.mask, do.values, w.x)
    passed = (years[after[:, education].long()] - years[x[:, education].long()]).ceil()
    mask, values = do.mask.clone(), do.values.clone()
    mask[:, w.age] = passed > 0
    values[:, w.age] = x[:, w.age] + passed
    return w.flow.counterfactual(x, Intervention(mask, values))


def brute_force(w: World, solver: Solver) -> Tensor:
    """Least cost over all levels and a fine grid of savings, infinite where there is none."""
    x, encoding = w.x, w.flow.encoding
    saves = encoding.column("savings")
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    rising = torch.linspace(0, 1, 201, dtype=torch.float64)
    for job, education, plan in product((None, 0, 1, 2), (None, 1, 2), (None, 1)):
        if job is not None and education is not None:
            continue
        levels = {"job": job, "education": education, "plan": plan}
        chosen = {n: float(to) for n, to in levels.items() if to is not None}
        do = Intervention.of(encoding, len(x), **chosen)
        fine = solver.limits.permits(x, do, replace(solver.limits.around(x), rules=None))
        # An own level is no move.
        moved = torch.where(do.mask, do.values, x) != x
        for name in chosen:
            fine &= moved[:, encoding.block(name)].any(dim=1)
        for share in rising if plan is not None else [None]:
            mask, values = do.mask.clone(), do.values.clone()
            if share is not None:
                mask[:, saves], values[:, saves] = True, x[:, saves] + share * (30 - x[:, saves])
            elif not chosen:
                continue
            tried = Intervention(mask, values)
            reached = reached_by_hand(w, tried)
            income = encoding.column("income")
            sums, own = (r[:, saves] - 0.5 * r[:, income] for r in (reached, x))
            works = fine & (w.classifier.probability(reached) >= 0.5)
            works &= (sums <= own.clamp(min=6.0) + 1e-9) & (reached[:, w.age] <= 70)
            cost = torch.where(works, solver.cost.of(x, tried), torch.inf)
            best = torch.minimum(best, cost)
    return best


def test_the_search_finds_the_optimum_over_moves_and_a_number() -> None:
    w, solver = world(), solved("exact")
    limits = solver.limits.around(w.x)
    may_act = limits.may_act.clone()
    may_act[:, w.flow.encoding.column("debt")] = False
    plans = solver.solve(w.x, replace(limits, may_act=may_act))
    best = brute_force(w, solver)
    assert torch.equal(plans.has_plan, torch.isfinite(best))
    assert plans.has_plan.sum() > N_PEOPLE / 2
    found = plans.has_plan
    assert (plans.cost[found] <= best[found] * (1 + 1e-9)).all()
    # The grid is 1/200 of the way wide.
    assert (plans.cost[found] >= best[found] * 0.97).all()


def test_actions_of_all_kinds_are_in_use() -> None:
    solver = solved("exact")
    frame = solver.recommend(world().people, n_plans=4).to_frame()
    for name in ("job", "education", "plan", "savings"):
        assert frame[f"do_{name}"].notna().any(), name


@pytest.mark.parametrize("name", ["exact", "grid", "carma", "published"])
def test_time_passes_and_its_effects_follow(name: str) -> None:
    w, solver = world(), solved(name)
    # Nothing but schooling.
    people = Constraints(freeze=("job", "plan", "savings", "debt"))
    plans = solver.recommend(w.people, people).plans
    studies = plans.mask[:, w.flow.encoding.column("education")]
    assert torch.equal(studies, plans.has_plan)
    assert studies.any()
    acts = plans.mask.clone()
    acts[:, w.age] = False
    expected = reached_by_hand(w, Intervention(acts, plans.values))
    torch.testing.assert_close(
        plans.counterfactual[studies], expected[studies], rtol=1e-9, atol=1e-9
    )
    income = w.flow.encoding.column("income")
    still = plans.mask & ~acts
    assert still.any()
    unaged = w.flow.counterfactual(w.x, Intervention(acts, plans.values))
    differs = (unaged[:, income] - plans.counterfactual[:, income]).abs() > 1e-9
    assert torch.equal(differs[studies], still.any(dim=1)[studies])


@every
def test_menus_rise_in_cost_and_act_on_other_features(name: str) -> None:
    w, solver = world(), solved(name)
    menus = solver.menu(w.x, n_plans=3)
    actions = w.flow.encoding.actions
    for place, plans in enumerate(menus):
        offered = plans.has_plan
        for earlier in menus[:place]:
            assert earlier.has_plan[offered].all()
            assert (earlier.cost <= plans.cost)[offered].all()
            spared = earlier.mask[:, actions] & ~plans.mask[:, actions]
            assert spared[offered].any(dim=1).all()
    if name in ("exact", "carma"):
        assert menus[1].has_plan.any()


def assert_same_answers(one: Plans, other: Plans) -> None:
    assert one.status.tolist() == other.status.tolist()
    torch.testing.assert_close(one.cost, other.cost, rtol=1e-6, atol=1e-12, equal_nan=True)


@every
def test_an_answer_does_not_depend_on_order_company_or_chunks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, solver = world().x, solved(name)
    whole = solver.solve(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for rows in (order, torch.tensor([3]), torch.tensor([7, 11])):
        assert_same_answers(solver.solve(x[rows]), whole[rows])
    monkeypatch.setattr(solver, "at_once", 6)
    assert_same_answers(solver.solve(x), whole)


@every
def test_a_plan_applied_again_leads_to_the_same_place(name: str) -> None:
    w, solver = world(), solved(name)
    for plans in solver.menu(w.x, n_plans=2):
        do = Intervention(plans.mask, plans.values)
        again = solver._follow(w.x, do, w.flow.abduct(w.x))
        found = plans.has_plan
        torch.testing.assert_close(plans.counterfactual[found], again[found], rtol=1e-9, atol=1e-9)
        probability = w.classifier.probability(again)[found]
        torch.testing.assert_close(plans.probability_after[found], probability)
        assert (plans.probability_after[found] >= 0.5).all()
        price = solver.cost(w.x, plans.mask, plans.values)
        assert torch.equal(plans.cost[found], price[found])


@pytest.mark.parametrize("name", ["exact", "grid"])
def test_who_has_no_open_move_is_answered_as_without_moves(name: str) -> None:
    w, plain = world("free"), world("sums", "mutable")
    assert torch.equal(w.x, plain.x)
    solver, without = solved(name, "free"), SOLVERS[name](plain).fit(plain.table, progress=False)
    frozen = solver.limits.around(w.x)
    may_act = frozen.may_act & ~w.flow.encoding.moved_by_level
    one = solver.solve(w.x, replace(frozen, may_act=may_act))
    other = without.solve(w.x)
    assert one.status.tolist() == other.status.tolist()
    assert one.has_plan.any()
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.values, other.values, rtol=1e-6, atol=1e-6)
    # The cost is a mean over actionable features: 5 of them, and 2.
    torch.testing.assert_close(one.cost * 5, other.cost * 2, equal_nan=True)


@every
def test_frozen_levels_stay(name: str) -> None:
    w, solver = world("free"), solved(name, "free")
    for freeze in (("job",), ("education", "plan"), ("job", "education", "plan")):
        frame = solver.recommend(w.people, Constraints(freeze=freeze), n_plans=2).to_frame()
        for feature in freeze:
            assert frame[f"do_{feature}"].isna().all()
    last = solver.recommend(w.people, Constraints(freeze=w.flow.schema.actionable))
    assert set(last.counts()) == {"infeasible"}


@every
@pytest.mark.parametrize("most", [1, 2])
def test_a_feature_is_one_action_however_many_columns_it_has(name: str, most: int) -> None:
    w, solver = world("free"), solved(name, "free")
    result = solver.recommend(w.people, Constraints(max_actions=most), n_plans=2)
    frame = result.to_frame()
    assert frame["n_actions"].max() <= most
    if name in ("exact", "grid", "carma"):
        assert (frame["n_actions"] == most).any()
        assert most == 1 or frame["do_job"].notna().any()


def test_the_settings_of_a_search_count_moves_as_well() -> None:
    w = world("free")
    settings: dict[str, Solver] = {
        "exact": ExactSolver(w.flow, w.classifier, settings=replace(LIGHT, max_actions=1)),
        "grid": GridOracle(w.flow, w.classifier, settings=GridSettings(7, max_actions=1)),
    }
    for name, solver in settings.items():
        asked = solved(name, "free").recommend(w.people, Constraints(max_actions=1))
        result = solver.fit(w.table).recommend(w.people)
        assert result.to_frame()["n_actions"].max() == 1
        assert_same_answers(result.plans, asked.plans)


@pytest.mark.parametrize("margin", [0.1, 0.3])
def test_a_search_keeps_its_margin_also_where_moves_are_enough(margin: float) -> None:
    w = world("free")
    solver = ExactSolver(w.flow, w.classifier, settings=replace(LIGHT, margin=margin))
    plans = solver.solve(w.x)
    assert plans.has_plan.any()
    assert (plans.probability_after[plans.has_plan] >= 0.5 + margin - 1e-12).all()
    assert torch.isfinite(plans.expected_validity[plans.has_plan]).all()


@pytest.mark.parametrize("name", ["exact", "grid"])
def test_a_search_needs_no_number_to_set(name: str) -> None:
    features = tuple(
        replace(f, role="mutable", direction="any") if f.name in ("savings", "debt") else f
        for f in schema_of(FREE).features
    )
    w = world("free")
    schema = replace(w.flow.schema, features=features)
    classifier = NetworkClassifier(
        schema, w.classifier.inputs, w.classifier.weights, w.classifier.biases
    )
    flow = CausalFlow(schema, w.flow.settings).fit(w.table, progress=False).to_float64()
    solver = SOLVERS[name](World(flow, classifier, w.table, w.people)).fit(w.table)
    plans = solver.solve(w.x)
    best = torch.full((len(w.x),), torch.inf, dtype=torch.float64)
    for job, education, plan in product((None, 0, 1, 2), (None, 1, 2), (None, 1)):
        levels = {"job": job, "education": education, "plan": plan}
        chosen = {n: float(to) for n, to in levels.items() if to is not None}
        do = Intervention.of(flow.encoding, len(w.x), **chosen)
        fine = solver.limits.permits(w.x, do, solver.limits.around(w.x))
        changed = torch.where(do.mask, do.values, w.x) != w.x
        for feature in chosen:
            fine &= changed[:, flow.encoding.block(feature)].any(dim=1)
        reached = reached_by_hand(replace(w, flow=flow), do)
        fine &= (classifier.probability(reached) >= 0.5) & (reached[:, w.age] <= 70)
        best = torch.minimum(best, torch.where(fine, solver.cost.of(w.x, do), torch.inf))
    assert torch.equal(plans.has_plan, torch.isfinite(best))
    torch.testing.assert_close(plans.cost[plans.has_plan], best[plans.has_plan])
    assert plans.has_plan.any()


def test_a_bundle_keeps_rules_and_moves(tmp_path: Path) -> None:
    w, solver = world(), solved("carma")
    loaded = load(save(solver, tmp_path / "solver.carma"))
    assert loaded.schema == solver.schema
    assert loaded.schema.rules == RULES
    assert loaded.schema["education"].moves == solver.schema["education"].moves
    for one, other in zip(loaded.menu(w.x, n_plans=2), solver.menu(w.x, n_plans=2), strict=True):
        for entry in fields(Plans):
            a, b = getattr(one, entry.name), getattr(other, entry.name)
            assert a.numpy().tobytes() == b.numpy().tobytes(), entry.name


def test_table_words_and_json_say_the_same() -> None:
    w, solver = world(), solved("exact")
    result = solver.recommend(w.people)
    frame = result.to_frame()
    lines = [json.loads(line) for line in result.to_json().splitlines()]
    assert len(lines) == len(frame) == N_PEOPLE
    for i, (content, (label, plan)) in enumerate(zip(lines, frame.iterrows(), strict=True)):
        assert content["person"] == label
        told = {k.removeprefix("do_"): v for k, v in plan.items() if str(k).startswith("do_")}
        acts = {str(k): v for k, v in told.items() if not pd.isna(v)}
        assert {n: c["to"] for n, c in content["plan"].items()} == acts
        assert {n: c["from"] for n, c in content["plan"].items()} == {
            n: w.people.loc[label, n] for n in acts
        }
        for n, change in content["follows"].items():
            assert n in ("age", "income")
            assert change == {"from": w.people.loc[label, n], "to": plan[f"after_{n}"]}
        words = result.explain(i)
        if "job" in acts:
            assert f"change job from {w.people.loc[label, 'job']} to {acts['job']}" in words
        if "education" in acts:
            before, after = w.people.loc[label, "education"], acts["education"]
            assert f"change education from {before} to {after}" in words
            grown = f"age rises from {w.people.loc[label, 'age']} to {plan['after_age']}"
            assert (grown in words) == (plan["after_age"] > w.people.loc[label, "age"])
        assert ("What follows by itself" in words) == bool(content["follows"])
    assert any("age" in content["follows"] for content in lines)
