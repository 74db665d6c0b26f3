"""Methods on one scale: what they share, what is refused, and what a record holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import Any, ClassVar, NoReturn, Self

import pytest
import torch
from rich.console import Console
from torch import Tensor

from carma import (
    CarmaSettings,
    Classifier,
    ClassifierSettings,
    FlowSettings,
    Intervention,
    PublishedCarma,
    PublishedSettings,
    Solver,
    Status,
    TrainingSettings,
    compare,
)
from carma.benchmarks import NAMES, OWN_NAMES, Benchmark, load
from carma.classifiers.network import Input, NetworkClassifier
from carma.costs import Cost
from carma.errors import SettingsError, TableError, TrainingError
from carma.evaluation import arena as home_of_arenas
from carma.evaluation import comparison
from carma.evaluation.arena import Arena, standard_problem
from carma.evaluation.methods import METHODS, Method
from carma.evaluation.records import FIELDS, Key
from carma.models.base import CausalModel
from carma.models.flow import CausalFlow
from carma.problem import Problem
from carma.recourse.carma import Carma
from carma.recourse.dice_vae import DiceVae
from carma.recourse.grid import GridOracle
from carma.recourse.proposal import Proposal
from carma.recourse.target import People
from carma.report.text import comparison_table
from carma.state import State

ON_THE_TRUE_MODEL = {"exact-true", "grid-true"}
SEARCHES = {"exact", "grid", "exact-true", "grid-true", "noncausal"}
ROWS, PEOPLE = 200, 8


def quick(data: Benchmark) -> Problem:
    training = TrainingSettings(epochs=4)
    return Problem(
        data.schema,
        classifier=ClassifierSettings((), TrainingSettings(epochs=20)),
        causal_model=FlowSettings(training=training),
        solver=CarmaSettings(lessons=60, training=training, rehearsal=training),
    )


def arena(name: str = "chain-lin", seed: int = 0) -> Arena:
    data = load(name, seed=seed, rows=ROWS)
    return Arena(data, quick(data).with_seed(seed), PEOPLE)


def records(*methods: str, **options: Any) -> list[dict[str, Any]]:
    usual: dict[str, Any] = {"people": PEOPLE, "rows": ROWS, "problem": quick, "progress": False}
    return list(compare(["chain-lin"], methods or None, **(usual | options)))


class Idle(Solver):
    """Finds nothing."""

    kind: ClassVar[str] = "idle"
    found: ClassVar[Status] = Status.SEARCHED
    is_fitted = True
    margin = 0.0

    def _fit(self, x: Tensor, progress: bool | None) -> None: ...

    def _propose(self, people: People, n_plans: int) -> Proposal:  # noqa: ARG002
        x = people.x
        nothing = Intervention(torch.zeros_like(x, dtype=torch.bool), x)
        return Proposal(nothing, torch.zeros(len(x), dtype=torch.long))

    def state(self) -> State:
        raise NotImplementedError

    @classmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: Cost, state: State
    ) -> Self:
        raise NotImplementedError


def idle(shared: Arena, margin: float | None) -> Solver:
    return Idle(shared.data.scm, shared.classifier, cost=shared.cost)


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[list[dict[str, Any]], list[tuple[Arena, Solver]], list[str]]]:
    """All methods once: records, what each was made from, and which shared parts were fitted."""
    made: list[tuple[Arena, Solver]] = []
    fitted: list[str] = []

    def seen(method: Method) -> Method:
        def make(shared: Arena, margin: float | None) -> Solver:
            solver = method.make(shared, margin)
            made.append((shared, solver))
            return solver

        return replace(method, make=make)

    with pytest.MonkeyPatch.context() as patch:
        for home, name in ((home_of_arenas, "fit_classifier"), (Problem, "new_causal_model")):
            original = getattr(home, name)

            def counted(*a: Any, _name: str = name, _original: Any = original, **o: Any) -> Any:
                fitted.append(_name)
                return _original(*a, **o)

            patch.setattr(home, name, counted)
        for name, method in METHODS.items():
            patch.setitem(METHODS, name, seen(method))
        yield records(), made, fitted


def test_all_methods_share_people_classifier_causal_model_and_cost(watched: Any) -> None:
    found, made, fitted = watched
    assert [r["method"] for r in found] == list(METHODS)
    assert sorted(fitted) == ["fit_classifier", "new_causal_model"]
    shared = made[0][0]
    for other, solver in made:
        assert other is shared
        assert solver.classifier is shared.classifier
        assert solver.cost is shared.cost
    for record, (_, solver) in zip(found, made, strict=True):
        is_true = record["method"] in ON_THE_TRUE_MODEL
        assert solver.causal_model is (shared.true_model if is_true else shared.causal_model)
        assert (record["model_seconds"] is None) == is_true
    assert {r["n_people"] for r in found} == {PEOPLE}
    assert len({r["classifier_seconds"] for r in found}) == 1
    assert len({r["model_seconds"] for r in found}) == 2


def test_people_are_the_first_rejected_ones_of_the_test_split() -> None:
    shared = arena()
    x = shared.data.encoded("recourse", "test")
    rejected = [row for row in x if shared.classifier.probability(row[None])[0] < 0.5]
    assert shared.people.equal(torch.stack(rejected[:PEOPLE]))
    data = shared.data
    everybody = Arena(data, shared.problem, 10**6)
    assert everybody.people.equal(torch.stack(rejected))
    assert (shared.classifier.probability(shared.training) < 0.5).all()


def test_parts_are_fitted_once_and_only_when_needed() -> None:
    shared = arena()
    assert shared.seconds == {}
    assert shared.classifier is shared.classifier
    assert list(shared.seconds) == ["classifier"]
    assert shared.optimum(0.1) is shared.optimum(0.1)
    assert (shared.optimum(0.1) > shared.optimum()).all()
    assert list(shared.seconds) == ["classifier"]


def test_records_hold_what_is_documented_and_nothing_that_json_lacks(watched: Any) -> None:
    for record in watched[0]:
        assert set(record) == set(FIELDS)
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert sum(record["statuses"].values()) == record["n_people"]
        assert record["ms_single"] > 0
        assert record["us_batched"] > 0
        assert record["threads"] == torch.get_num_threads()
        assert set(record["versions"]) == {"carma-recourse", "scipy", "torch", "zuko"}
        assert Key.of(record) == Key("chain-lin", record["method"], 0, PEOPLE, None, ROWS)


def test_the_optimum_has_ratio_one(watched: Any) -> None:
    (optimum,) = (r for r in watched[0] if r["method"] == "exact-true")
    for name in ("cost_ratio", "cost_ratio_low", "cost_ratio_high", "cost_ratio_same_margin"):
        assert optimum[name] == pytest.approx(1, abs=1e-9)
    assert optimum["causal_validity"] == optimum["coverage"] == 100
    assert optimum["regret"]["share_optimal"] == 100
    assert not {"cost_ratio", "per_person"} & set(optimum["regret"])


def test_a_ratio_is_of_mean_costs_of_the_same_people(watched: Any) -> None:
    found, made, _ = watched
    position = list(METHODS).index("grid-true")
    shared, solver = made[position]
    plans = solver.solve(shared.people)
    has_plan = plans.cost.isfinite()
    expected = plans.cost[has_plan].mean() / shared.optimum()[has_plan].mean()
    assert found[position]["cost_ratio"] == pytest.approx(float(expected))
    assert found[position]["n_evaluations"] == plans.n_evaluations.double().mean()


def test_a_margin_goes_to_the_searches_alone(watched: Any) -> None:
    own = {r["method"]: r["margin"] for r in watched[0]}
    some = ("exact-true", "grid-true", "noncausal", "carma")
    for record in records(*some, margin=0.1):
        method = record["method"]
        assert record["margin"] == (0.1 if method in SEARCHES else own[method])
        assert record["margin_asked"] == 0.1
        if method == "exact-true":
            assert record["cost_ratio"] > 1.01
            assert record["cost_ratio_same_margin"] == pytest.approx(1, abs=1e-9)
            assert record["probability"] >= 0.6 - 1e-9
    assert {own[name] for name in SEARCHES} == {0.0}


def test_every_method_takes_the_margin_asked_for() -> None:
    shared = arena()
    for name in SEARCHES:
        assert METHODS[name].make(shared, 0.2).margin == 0.2


def test_grids_are_the_papers() -> None:
    for name, bins in (("chain-lin", 25), ("loan", 15)):
        solver = METHODS["grid-true"].make(arena(name), None)
        assert isinstance(solver, GridOracle)
        assert solver.settings.bins == bins
        assert not solver.settings.bounded


@pytest.mark.parametrize("name", [*NAMES, *OWN_NAMES])
def test_settings_of_learned_methods(name: str) -> None:
    shared = arena(name, seed=3)
    published = METHODS["carma-published"].make(shared, None)
    assert isinstance(published, PublishedCarma)
    preset = name if name in NAMES else "triangle-lin"
    expected = PublishedSettings.table_5(preset)
    assert published.settings == replace(expected, training=replace(expected.training, seed=3))
    given = shared.problem.solver
    assert isinstance(given, CarmaSettings)
    assert given.training.seed == 3
    single = replace(given, candidates=1, refine_steps=0, fallback=False)
    for method, settings in (("carma", given), ("carma-single", single)):
        solver = METHODS[method].make(shared, 0.3)
        assert isinstance(solver, Carma)
        assert solver.settings == settings
        assert solver.margin is None
    dice = METHODS["dice-vae"].make(shared, None)
    assert isinstance(dice, DiceVae)
    assert dice.settings.training.seed == 3


def test_standard_problem_is_the_papers_classifier_and_defaults() -> None:
    data = load("loan", rows=ROWS)
    problem = standard_problem(data)
    assert problem.classifier.hidden == (32, 32)
    assert problem.solver == CarmaSettings()
    assert problem.causal_model == FlowSettings()


def test_seeds_reach_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    arenas: list[Arena] = []

    def make(shared: Arena, margin: float | None) -> Solver:
        arenas.append(shared)
        return idle(shared, margin)

    monkeypatch.setitem(METHODS, "idle", Method("idle", "finds nothing", make))
    found = records("idle", "grid-true", seeds=(2, 5))
    assert [(r["seed"], r["method"]) for r in found] == [
        (seed, method) for seed in (2, 5) for method in ("idle", "grid-true")
    ]
    for shared, seed in zip(arenas, (2, 5), strict=True):
        assert shared.seed == seed
        assert shared.problem.classifier.training.seed == seed
        assert shared.problem.causal_model.training.seed == seed
        assert shared.data.encoded("causal").equal(
            load("chain-lin", seed=seed, rows=ROWS).encoded("causal")
        )


def test_a_method_is_one_entry_and_may_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "idle", Method("idle", "finds nothing", idle))
    (record,) = records("idle")
    assert set(record) == set(FIELDS)
    assert record["coverage"] == 0
    assert record["statuses"] == {"no_action": PEOPLE}
    for name in ("cost_x100", "cost_ratio", "cost_ratio_low", "regret", "causal_validity"):
        assert record[name] is None
    json.dumps(record, allow_nan=False)
    assert "idle" in shown([record])


def test_finished_ones_are_skipped_and_none_comes_twice() -> None:
    first = records("grid-true", "grid-true")
    assert len(first) == 1
    done = {Key.of(r) for r in first}
    rest = records("grid-true", "exact-true", done=done)
    assert [r["method"] for r in rest] == ["exact-true"]
    assert records("grid-true", done=done) == []
    assert len(records("grid-true", done=done, people=3)) == 1
    assert len(records("grid-true", done=done, margin=0.0)) == 1


def test_nothing_is_drawn_or_fitted_when_all_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_work(monkeypatch)
    done = {Key("loan", name, s, 500, None, None) for name in METHODS for s in (0, 1)}
    assert list(compare(["loan"], seeds=(0, 1), done=done)) == []


def forbid_work(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("work before the checks")

    patch.setattr(comparison, "load", fail)
    patch.setattr(home_of_arenas, "fit_classifier", fail)
    patch.setattr(CausalFlow, "fit", fail)
    patch.setattr(Solver, "fit", fail)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"datasets": ["loan", "adult"]}, "'datasets' must be of triangle-lin, .*; got 'adult'"),
        ({"datasets": []}, "'datasets' must name at least one"),
        ({"methods": ["carma", "magic"]}, "'methods' must be of exact, grid, .*; got 'magic'"),
        ({"methods": []}, "'methods' must name at least one"),
        ({"seeds": []}, "'seeds' must name at least one"),
        ({"seeds": [0, -1]}, "'seeds' must be a whole number of at least 0; got -1"),
        ({"people": 0}, "'people' must be a whole number of at least 1; got 0"),
        ({"people": 2.5}, "'people' must be a whole number"),
        ({"rows": 19}, "'rows' must be a whole number of at least 20; got 19"),
        ({"margin": 0.5}, "'margin' must be at least 0 and below 0.5, .*; got 0.5"),
        ({"margin": -0.1}, "'margin' must be at least 0"),
        ({"margin": math.nan}, "'margin' must be at least 0 .*; got nan"),
    ],
)
def test_bad_input_is_refused_at_once_and_before_any_fit(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], part: str
) -> None:
    forbid_work(monkeypatch)
    with pytest.raises(SettingsError, match=part):
        compare(**options)


def test_a_failure_names_set_method_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise TrainingError("no finite score")

    monkeypatch.setattr(Carma, "_fit", fail)
    found = compare(["chain-lin"], ["grid-true", "carma"], people=PEOPLE, rows=ROWS, problem=quick)
    assert next(found)["method"] == "grid-true"
    with pytest.raises(TrainingError, match="chain-lin, carma, seed 0: no finite score"):
        next(found)


def test_nobody_to_help_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(schema: Any, *_: Any, **__: Any) -> Classifier:
        inputs = [Input(i) for i in range(4)]
        weights, bias = torch.full((1, 4), 1e-6), torch.tensor([9.0])
        return NetworkClassifier(schema, inputs, [weights], [bias])

    monkeypatch.setattr(home_of_arenas, "fit_classifier", generous)
    rule = r"chain-lin, exact-true, seed 0: .*somebody who is rejected"
    with pytest.raises(TableError, match=rule):
        records("exact-true")


def shown(found: list[dict[str, Any]]) -> str:
    console = Console(width=250, file=StringIO())
    with console.capture() as capture:
        console.print(comparison_table(found))
    return capture.get()


def test_table_has_mean_and_spread_over_seeds() -> None:
    row = {"dataset": "loan", "method": "carma", "cost_x100": 3.0, "coverage": None}
    rows = [row, row | {"cost_x100": 5.0}, row | {"cost_x100": None}]
    alone = row | {"method": "exact", "cost_ratio": 1.25}
    elsewhere = row | {"dataset": "chain-lin", "cost_x100": 7.0}
    lines = shown([*rows, alone, elsewhere]).splitlines()
    (mean,) = (line for line in lines if "carma" in line and "loan" in line)
    assert "4.00 ± 1.41" in mean
    assert " 3 " in mean
    assert "nan" not in mean
    (single,) = (line for line in lines if "exact" in line)
    assert "loan" not in single
    assert "3.00" in single
    assert "1.250" in single
    assert "±" not in single
    assert any("chain-lin" in line and "7.00" in line for line in lines)


def test_table_of_real_records_names_all_methods(watched: Any) -> None:
    text = shown(watched[0])
    assert all(f" {name} " in text for name in METHODS)
    assert text.count("chain-lin") == 1
