"""The grid oracle finds the very plan that plain nested loops find."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from carma import (
    CausalFlow,
    CausalGraph,
    CausalModel,
    Classifier,
    ClassifierSettings,
    Feature,
    FlowSettings,
    GridOracle,
    GridSettings,
    Intervention,
    Schema,
    Status,
    StructuralCausalModel,
    TrainingSettings,
    fit_classifier,
    linear,
)
from carma.benchmarks import Benchmark, load, random_benchmark
from carma.classifiers.network import Input, NetworkClassifier
from carma.constraints import Limits
from carma.errors import SettingsError
from carma.recourse import grid
from carma.recourse.plans import Plans

QUICK = TrainingSettings(epochs=10, batch_size=64, learning_rate=2e-2)
N_PEOPLE = 6


@dataclass(frozen=True)
class Problem:
    """Parts, rows that give the range, and rejected people."""

    model: CausalModel
    classifier: Classifier
    rows: Tensor
    people: Tensor

    def oracle(self, **settings: Any) -> GridOracle:
        oracle = GridOracle(self.model, self.classifier, settings=GridSettings(**settings))
        return oracle.fit(self.rows)


def rejected(classifier: Classifier, x: Tensor) -> Tensor:
    return x[classifier.probability(x) < classifier.threshold]


def problem_of(data: Benchmark, model: CausalModel) -> Problem:
    settings = ClassifierSettings(data.classifier_settings.hidden, QUICK)
    classifier = fit_classifier(data.schema, data.frame("classifier"), settings, progress=False)
    people = rejected(classifier, data.encoded("recourse", "test"))[:N_PEOPLE]
    assert len(people) == N_PEOPLE
    return Problem(model, classifier, data.encoded("recourse"), people)


def learned(data: Benchmark) -> CausalFlow:
    settings = FlowSettings(hidden=(8,), training=QUICK)
    return CausalFlow(data.schema, settings).fit(data.frame("causal"), progress=False)


def stepped() -> Problem:
    """Levels, steps, bounds and directions; two features come after others."""
    features = (
        Feature("course", "ordinal", levels=("none", "basic", "full"), role="actionable"),
        Feature("hours", bounds=(0.0, 60.0), step=5, role="actionable", direction="up"),
        Feature("debt", bounds=(0.0, 50.0), role="actionable", direction="down"),
        Feature("visits", step=0.5, role="actionable"),
        Feature("income", bounds=(-5.0, 80.0)),
    )
    names = tuple(f.name for f in features)
    parents = {"debt": ["hours"], "income": ["course", "hours", "visits"]}
    schema = Schema(features, CausalGraph.from_parents(parents, names))

    def noise(std: float) -> Normal:
        return Normal(torch.zeros(()).double(), torch.tensor(std).double())

    equations = {
        "course": linear({}, noise(1.0), 1.0),
        "hours": linear({}, noise(8.0), 30.0),
        "debt": linear({"hours": -0.1}, noise(8.0), 23.0),
        "visits": linear({}, noise(1.0)),
        "income": linear({"course": 4.0, "hours": 0.5, "visits": 1.0}, noise(2.0), 10.0),
    }
    model = StructuralCausalModel(schema, equations)
    draws = torch.Generator().manual_seed(0)
    wide = torch.randn(120, 5, generator=draws, dtype=torch.float64)
    course = torch.randint(0, 3, (120,), generator=draws).double()
    hours = (5 * (6 + 1.6 * wide[:, 1]).round()).clamp(0, 60)
    debt = (20 + 8 * wide[:, 2]).clamp(0, 50)
    visits = (2 * wide[:, 3]).round() / 2
    income = 10 + 4 * course + 0.5 * hours + visits + 2 * wide[:, 4]
    rows = torch.stack([course, hours, debt, visits, income], dim=1)
    model.fit(model.encoding.decode(rows))
    weights = torch.tensor([[0.2, 0.01, -0.2, 0.1, 0.2]]).double()
    inputs = [Input(i) for i in range(5)]
    classifier = NetworkClassifier(schema, inputs, [weights], [torch.tensor([-4.0])])
    return Problem(model, classifier, rows, rejected(classifier, rows)[: 2 * N_PEOPLE])


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "chain": lambda: problem_of(load("chain-lin", rows=300), load("chain-lin", rows=300).scm),
    "collider": lambda: problem_of(
        load("collider-nlin", seed=1, rows=300), load("collider-nlin", seed=1, rows=300).scm
    ),
    "loan": lambda: problem_of(load("loan", rows=300), load("loan", rows=300).scm),
    "learned-triangle": lambda: problem_of(
        load("triangle-nlin", rows=300), learned(load("triangle-nlin", rows=300))
    ),
    "learned-loan": lambda: problem_of(
        load("loan", seed=2, rows=300), learned(load("loan", seed=2, rows=300))
    ),
    **{
        f"random-{seed}": lambda seed=seed: problem_of(  # type: ignore[misc]
            random_benchmark(6, 2 + seed, seed=seed, rows=300),
            random_benchmark(6, 2 + seed, seed=seed, rows=300).scm,
        )
        for seed in range(3)
    },
    "stepped": stepped,
}


@cache
def problem(name: str) -> Problem:
    return PROBLEMS[name]()


def moved_to_step(value: float, own: float, feature: Feature, least: float, most: float) -> float:
    """The step at or beyond a value, seen from the own one; the last one inside the box."""
    step = feature.step
    if step is None or value == own:
        return value
    origin = feature.bounds[0] if feature.bounds else 0.0
    count = (value - origin) / step
    if value > own:
        outward = origin + step * math.ceil(count - 1e-9)
        return max(own, outward if outward <= most + 1e-9 else outward - step)
    outward = origin + step * math.floor(count + 1e-9)
    return min(own, outward if outward >= least - 1e-9 else outward + step)


def grid_values(
    p: Problem, settings: GridSettings, feature: Feature, own: float, box: tuple[float, float]
) -> list[float]:
    """What the paper tries for one feature of one person, as far as the schema allows it."""
    column = p.model.encoding.column(feature.name)
    accepted = p.classifier.probability(p.rows) >= p.classifier.threshold
    seen = p.rows[~accepted, column].tolist()
    statistics = p.model.statistics_
    least, most = box
    if feature.bounds is not None:
        least, most = max(least, feature.bounds[0]), min(most, feature.bounds[1])
    elif settings.bounded and not feature.has_levels:
        least = max(least, min(own, float(statistics.minimum[column])))
        most = min(most, max(own, float(statistics.maximum[column])))
    least = own if feature.direction == "up" else least
    most = own if feature.direction == "down" else most
    if feature.has_levels:
        return [code for code in feature.codes if least <= code <= most]
    low, high = own - 2 * (own - min(seen)), own + 2 * (max(seen) - own)
    if settings.bounded:
        low, high = (min(max(end, least), most) for end in (low, high))
    shares = [b / (settings.bins - 1) for b in range(settings.bins)]
    values = [low + share * (high - low) for share in shares]
    inside = [v for v in values if least - 1e-12 <= v <= most + 1e-12]
    return [moved_to_step(v, own, feature, least, most) for v in inside]


def nested_loops(
    p: Problem, settings: GridSettings, x: Tensor, limits: Limits | None = None
) -> Any:
    """The first cheapest combination that works: values by column, and its cost; or None."""
    schema, encoding = p.model.schema, p.model.encoding
    statistics = p.model.statistics_
    columns = [encoding.column(name) for name in schema.actionable]
    options: list[list[float | None]] = []
    for name, column in zip(schema.actionable, columns, strict=True):
        box, may_act = (-math.inf, math.inf), True
        if limits is not None:
            box = float(limits.lower[0, column]), float(limits.upper[0, column])
            may_act = bool(limits.may_act[0, column])
        values = grid_values(p, settings, schema[name], float(x[column]), box)
        options.append([None, *(values if may_act else [])])
    plans = []
    for choice in itertools.product(*options):
        n_actions = sum(value is not None for value in choice)
        if 1 <= n_actions <= (settings.max_actions or len(columns)):
            plans.append(choice)
    rows = x.expand(len(plans), -1).clone()
    mask = torch.zeros_like(rows, dtype=torch.bool)
    costs = []
    for row, choice in enumerate(plans):
        cost = 0.0
        for column, value in zip(columns, choice, strict=True):
            if value is not None:
                mask[row, column], rows[row, column] = True, value
                spread = statistics.std[column] * (
                    statistics.maximum[column] - statistics.minimum[column]
                )
                cost += (value - float(x[column])) ** 2 / float(spread) / len(columns)
        costs.append(cost)
    reached = p.model.counterfactual(x.expand_as(rows), Intervention(mask, rows))
    aim = p.classifier.threshold + settings.margin
    works = p.classifier.probability(reached) >= aim
    for feature in schema.features:
        if feature.bounds is not None:
            follows = reached[:, encoding.column(feature.name)]
            works &= (follows >= feature.bounds[0]) & (follows <= feature.bounds[1])
    best: Any = None
    for row, cost in enumerate(costs):
        if works[row] and (best is None or cost < best[1]):
            chosen = zip(columns, plans[row], strict=True)
            best = {column: v for column, v in chosen if v is not None}, cost
    return best


def assert_as_nested_loops(
    p: Problem, settings: GridSettings, plans: Plans, limits: Limits | None = None
) -> int:
    n_found = 0
    for i, x in enumerate(p.people):
        expected = nested_loops(p, settings, x, None if limits is None else limits[i : i + 1])
        if expected is None:
            assert int(plans.status[i]) == Status.NOT_FOUND.code
            continue
        assert int(plans.status[i]) == Status.SEARCHED.code
        values, cost = expected
        assert plans.mask[i].nonzero().squeeze(1).tolist() == sorted(values)
        for column, value in values.items():
            assert float(plans.values[i, column]) == pytest.approx(value, rel=1e-9, abs=1e-9)
        assert float(plans.cost[i]) == pytest.approx(cost, rel=1e-9)
        n_found += 1
    return n_found


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    "settings",
    [
        {"bins": 5},
        {"bins": 4, "bounded": True},
        {"bins": 6, "max_actions": 2, "margin": 0.05},
        {"bins": 5, "max_actions": 1, "bounded": True},
    ],
    ids=lambda s: "-".join(str(v) for v in s.values()),
)
def test_the_plan_is_that_of_nested_loops(name: str, settings: dict[str, Any]) -> None:
    p = problem(name)
    plans = p.oracle(**settings).solve(p.people)
    found = assert_as_nested_loops(p, GridSettings(**settings), plans)
    assert found >= (1 if "max_actions" in settings else 3)


@pytest.mark.parametrize("name", ["loan", "stepped", "learned-triangle"])
@pytest.mark.parametrize("bounded", [False, True])
def test_personal_limits_only_take_options_away(name: str, bounded: bool) -> None:
    p = problem(name)
    draws = torch.Generator().manual_seed(0)
    down, up, choice = (torch.rand(p.people.shape, generator=draws).double() for _ in range(3))
    width = p.model.statistics_.std
    lower, upper = p.people - 4 * down * width, p.people + 4 * up * width
    limits = Limits(lower, upper, choice < 0.8)
    plans = p.oracle(bins=6, bounded=bounded).solve(p.people, limits)
    found = assert_as_nested_loops(p, GridSettings(6, bounded=bounded), plans, limits)
    assert found >= 1


@pytest.mark.parametrize("name", ["loan", "stepped", "random-1"])
def test_blocks_of_any_size_give_the_same_plans(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(name)
    whole = p.oracle(bins=5).solve(p.people)
    for block, first, rows, memory in ((37, 3, 11, 50), (1, 1, 1, 1), (10**6, 2, 10**6, 10**6)):
        for size, value in zip(
            ("BLOCK", "FIRST", "ROWS", "MEMORY"), (block, first, rows, memory), strict=True
        ):
            monkeypatch.setattr(grid, size, value)
        if block == 1 and name != "random-1":
            continue
        plans = p.oracle(bins=5).solve(p.people)
        for entry in ("status", "mask", "values", "counterfactual"):
            assert torch.equal(getattr(plans, entry), getattr(whole, entry)), (block, entry)
        torch.testing.assert_close(plans.cost, whole.cost, rtol=0, atol=0, equal_nan=True)


def twins() -> Problem:
    """Two features that nothing tells apart; one of them at 1 is enough."""
    names = ("a", "b")
    schema = Schema(tuple(Feature(n, role="actionable") for n in names), CausalGraph(names))
    one = Normal(torch.zeros(()).double(), torch.ones(()).double())
    model = StructuralCausalModel(schema, {n: linear({}, one) for n in names})
    rows = torch.tensor([[-4.0, -4.0], [0.5, 0.0], [0.0, 0.5]]).double()
    model.fit(model.encoding.decode(rows))
    layers = [torch.eye(2), torch.tensor([[1.0, 1.0]])], [torch.zeros(2), torch.tensor([-0.75])]
    classifier = NetworkClassifier(schema, [Input(0), Input(1)], *layers)
    return Problem(model, classifier, rows, torch.zeros(1, 2).double())


def test_of_equally_cheap_plans_the_first_of_the_loops_is_taken() -> None:
    p = twins()
    # Whole numbers from -8 to 1; the first feature is the outer loop, and left alone first.
    plans = p.oracle(bins=10).solve(p.people)
    assert plans.mask.tolist() == [[False, True]]
    assert plans.values.tolist() == [[0.0, 1.0]]
    assert_as_nested_loops(p, GridSettings(bins=10), plans)


def test_a_person_outside_the_range_of_the_rejected_is_tried_around_that_range() -> None:
    p = replace(twins(), people=torch.tensor([[-6.0, -7.0]]).double())
    # From -6 - 2 (-6 + 4) = -2 up to -6 + 2 (0.5 + 6) = 7, and from -1 up to 8.
    for settings in (GridSettings(bins=5), GridSettings(bins=9, bounded=True)):
        oracle = GridOracle(p.model, p.classifier, settings=settings).fit(p.rows)
        found = assert_as_nested_loops(p, settings, oracle.solve(p.people))
        assert found == 1


def test_only_the_range_of_rejected_rows_counts() -> None:
    p = problem("chain")
    rejected_rows = rejected(p.classifier, p.rows)
    assert len(rejected_rows) < len(p.rows)
    one, other = p.oracle(bins=5), replace(p, rows=rejected_rows).oracle(bins=5)
    assert torch.equal(one.solve(p.people).values, other.solve(p.people).values)
    fewer = replace(p, rows=rejected_rows[:20]).oracle(bins=5)
    assert not torch.equal(one.solve(p.people).values, fewer.solve(p.people).values)


@pytest.mark.parametrize("name", ["loan", "random-2"])
def test_most_combinations_are_never_tried(name: str) -> None:
    p = problem(name)
    n_options = (1 + 9) ** len(p.model.schema.actionable)
    plans = p.oracle(bins=9).solve(p.people)
    assert (plans.status == Status.SEARCHED.code).all()
    assert int(plans.n_evaluations.max()) <= n_options
    assert int(plans.n_evaluations.min()) >= 1
    assert float(plans.n_evaluations.double().mean()) < 0.3 * n_options


def test_whoever_cannot_be_helped_has_cost_every_combination() -> None:
    p = problem("random-2")
    p = replace(p, classifier=out_of_reach(p.classifier))
    plans = p.oracle(bins=3).solve(p.people)
    assert (plans.status == Status.NOT_FOUND.code).all()
    # All but the empty one, which has no price.
    n_options = (1 + 3) ** len(p.model.schema.actionable)
    assert set(plans.n_evaluations.tolist()) <= {n_options - 1, n_options}


def out_of_reach(classifier: Classifier) -> NetworkClassifier:
    assert isinstance(classifier, NetworkClassifier)
    *biases, last = classifier.biases
    return NetworkClassifier(
        classifier.schema, classifier.inputs, classifier.weights, [*biases, last - 100]
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bins": 1}, "'bins' must be at least 2; got 1"),
        ({"max_actions": 0}, "'max_actions' must be at least 1; got 0"),
        ({"margin": 1.0}, "'margin' must be at least 0 and below 1; got 1.0"),
        ({"margin": -0.1}, "'margin' must be at least 0"),
        ({"margin": math.nan}, "'margin' must be at least 0"),
    ],
)
def test_settings_check_themselves(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=f"GridSettings: {words}"):
        GridSettings(**settings)


def test_a_margin_that_leaves_no_probability_is_refused() -> None:
    p = problem("chain")
    with pytest.raises(SettingsError, match=r"GridOracle: 'margin' must stay below 1 - 0\.5"):
        p.oracle(margin=0.5)
    assert p.oracle(margin=0.499, bins=2).margin == 0.499
