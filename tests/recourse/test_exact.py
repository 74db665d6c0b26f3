"""The exact solver against the closed form, the grid, more effort, and proofs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from carma import (
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
    Schema,
    SquaredCost,
    Status,
    StructuralCausalModel,
    TorchClassifier,
    TrainingSettings,
    additive,
    fit_classifier,
    linear,
)
from carma.benchmarks import NAMES, OWN_NAMES, Benchmark, load, random_benchmark
from carma.classifiers.network import Input, NetworkClassifier
from carma.constraints import Limits
from carma.errors import SettingsError
from carma.recourse.plans import Plans

QUICK = TrainingSettings(epochs=10, batch_size=64, learning_rate=2e-2)
LINEAR = [*(name for name in NAMES if name.endswith("-lin")), "snowball"]
N_PEOPLE = 6
SEARCHED, INFEASIBLE = Status.SEARCHED.code, Status.INFEASIBLE.code
NOT_FOUND = Status.NOT_FOUND.code


@dataclass(frozen=True)
class Problem:
    """A causal model, a classifier, and people whom it rejects."""

    model: CausalModel
    classifier: NetworkClassifier
    x: Tensor
    rows: Tensor

    def solve(self, x: Tensor | None = None, **settings: Any) -> Plans:
        solver = ExactSolver(self.model, self.classifier, settings=ExactSettings(**settings))
        return solver.solve(self.x if x is None else x)

    def grid(self, **settings: Any) -> Plans:
        oracle = GridOracle(self.model, self.classifier, settings=GridSettings(**settings))
        return oracle.fit(self.rows).solve(self.x)


def problem_of(data: Benchmark, model: CausalModel | None = None) -> Problem:
    settings = ClassifierSettings(data.classifier_settings.hidden, QUICK)
    classifier = fit_classifier(data.schema, data.frame("classifier"), settings, progress=False)
    x = data.encoded("recourse", "test")
    x = x[classifier.probability(x) < classifier.threshold]
    return Problem(model or data.scm, classifier, x, data.encoded("recourse"))


@cache
def problem(name: str, seed: int = 0) -> Problem:
    p = problem_of(load(name, seed=seed, rows=300))
    return replace(p, x=p.x[:N_PEOPLE])


@cache
def random_problem(n: int, k: int, seed: int, nonlinear: bool) -> Problem:
    p = problem_of(random_benchmark(n, k, seed=seed, rows=300, nonlinear=nonlinear))
    return replace(p, x=p.x[:N_PEOPLE])


def logistic(schema: Schema, weights: list[float], bias: float) -> NetworkClassifier:
    inputs = [Input(i) for i in range(len(weights))]
    weight, shift = (torch.tensor(v, dtype=torch.float64) for v in ([weights], [bias]))
    return NetworkClassifier(schema, inputs, [weight], [shift])


def everything(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def free(x: Tensor) -> Limits:
    far = torch.full_like(x, torch.inf)
    return Limits(-far, far, everything(x))


def assert_found(plans: Plans) -> None:
    assert (plans.status == SEARCHED).all()


NO_NUMBERS = ("cost", "probability_before", "probability_after", "expected_validity")


def assert_numbers(plans: Plans) -> None:
    """No NaN or infinity but cost and validity of people without a plan."""
    has_cost = plans.status == SEARCHED
    has_cost |= plans.status == Status.ALREADY_ACCEPTED.code
    assert torch.equal(torch.isnan(plans.cost), ~has_cost)
    for entry in fields(Plans):
        if entry.name not in NO_NUMBERS:
            assert torch.isfinite(getattr(plans, entry.name)).all()
    validity = plans.expected_validity
    assert torch.equal(torch.isnan(validity), ~has_cost)
    assert ((validity[has_cost] >= 0) & (validity[has_cost] <= 1)).all()


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("settings", [{}, {"max_actions": 2}, {"margin": 0.1}], ids=str)
def test_walks_find_what_the_closed_form_says(name: str, settings: dict[str, Any]) -> None:
    p = problem(name)
    exact = p.solve(**settings)
    found = p.solve(**settings, closed_form=False)
    assert torch.equal(exact.status == SEARCHED, found.status == SEARCHED)
    assert (exact.status == SEARCHED).sum() >= N_PEOPLE - 1
    torch.testing.assert_close(found.cost, exact.cost, rtol=1e-4, atol=0, equal_nan=True)
    # The closed form asks one candidate a set; had it not run, the two would be the same.
    assert (exact.n_evaluations < found.n_evaluations).all()


def pair(effect: float, bounds: tuple[float, float] | None = None) -> StructuralCausalModel:
    """``a`` acts on ``b``; the box is -4 to 4 for both unless a has bounds."""
    schema = Schema(
        (Feature("a", role="actionable", bounds=bounds), Feature("b", role="actionable")),
        CausalGraph.from_edges([("a", "b")]),
    )
    one = Normal(torch.zeros(()).double(), torch.ones(()).double())
    model = StructuralCausalModel(schema, {"a": linear({}, one), "b": linear({"a": effect}, one)})
    rows = torch.tensor([[-4.0, 4.0], [4.0, -4.0], [1.0, -1.0], [0.0, 2.0]]).double()
    if bounds is not None:
        rows[:, 0] = rows[:, 0].clamp(*bounds)
    return model.fit(model.encoding.decode(rows))


def by_hand(
    model: CausalModel, effect: float, weights: tuple[float, float], shortfall: float, high: Tensor
) -> float:
    """Least cost over the three sets, with upper limits of the change; weights are positive."""
    statistics = model.statistics_
    price_a, price_b = (
        1 / (2 * statistics.std * (statistics.maximum - statistics.minimum))
    ).tolist()
    wa, wb = weights
    high_a, high_b = high.tolist()
    costs = []
    # Only a: b follows, so a unit of a brings both.
    change = shortfall / (wa + effect * wb)
    if 0 <= change <= high_a:
        costs.append(price_a * change**2)
    change = shortfall / wb
    if change <= high_b:
        costs.append(price_b * change**2)
    # Both: b is set, so a brings its own weight only; Lagrange, then one at its limit.
    scale = shortfall / (wa**2 / price_a + wb**2 / price_b)
    a, b = scale * wa / price_a, scale * wb / price_b
    if a > high_a:
        a, b = high_a, (shortfall - wa * high_a) / wb
    elif b > high_b:
        a, b = (shortfall - wb * high_b) / wa, high_b
    if a <= high_a + 1e-12 and b <= high_b + 1e-12:
        costs.append(price_a * a**2 + price_b * b**2)
    return min(costs, default=math.nan)


@pytest.mark.parametrize("effect", [0.5, 2.0, -0.3])
@pytest.mark.parametrize("closed_form", [True, False])
def test_two_features_by_hand(effect: float, closed_form: bool) -> None:
    model = pair(effect)
    kinds = set()
    for weights, bias in itertools.product([(1.0, 0.5), (0.3, 1.5), (1.0, 1.0)], [-1.0, -3.5]):
        classifier = logistic(model.schema, list(weights), bias)
        x = torch.tensor([[0.0, 0.0], [-1.0, 0.5], [1.5, -2.0], [-0.5, 3.9]]).double()
        x = x[classifier.probability(x) < 0.5]
        solver = ExactSolver(model, classifier, settings=ExactSettings(closed_form=closed_form))
        for upper in (4.0, 1.1):
            limits = replace(free(x), upper=x + upper)
            plans = solver.solve(x, limits)
            assert_numbers(plans)
            for i, person in enumerate(x):
                shortfall = -float(classifier.logit(person[None]))
                high = (torch.full_like(person, 4.0) - person).clamp(max=upper)
                cost = by_hand(model, effect, weights, shortfall, high)
                assert float(plans.cost[i]) == pytest.approx(cost, rel=1e-5, nan_ok=True)
                if math.isnan(cost) and closed_form:
                    assert int(plans.status[i]) == INFEASIBLE
                kinds.add(tuple(plans.mask[i].tolist()))
    # With b following strongly it is left alone; where it falls behind a, it is held.
    neither, a_alone, both = (False, False), (True, False), (True, True)
    expected = {0.5: {neither, a_alone, both}, 2.0: {neither, a_alone}, -0.3: {neither, both}}
    assert kinds == expected[effect]


@pytest.mark.parametrize("name", [*NAMES, *OWN_NAMES])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_grid_finds_a_cheaper_plan(name: str, seed: int) -> None:
    p = problem(name, seed)
    n_actionable = len(p.model.schema.actionable)
    every: list[dict[str, Any]] = [{}, {"max_actions": 2, "margin": 0.05}]
    for settings in every:
        grid = p.grid(bins=25 if n_actionable == 3 else 11, bounded=True, **settings)
        exact = p.solve(**settings)
        has_plan = grid.status == SEARCHED
        assert int(has_plan.sum()) >= 3
        assert (exact.status == SEARCHED)[has_plan].all()
        assert (exact.cost <= grid.cost * (1 + 1e-6))[has_plan].all()


@pytest.mark.parametrize("name", ["loan", "collider-nlin", "tradeoff"])
def test_far_more_starts_bring_next_to_nothing(name: str) -> None:
    p = problem(name, 1)
    usual, more = p.solve(), p.solve(starts=320, keep=240)
    assert_found(usual)
    assert_found(more)
    assert (more.n_evaluations > 10 * usual.n_evaluations).all()
    assert float(usual.cost.mean()) <= 1.005 * float(more.cost.mean())
    # Nor may more starts crowd out what fewer found.
    alone = p.solve(starts=320)
    assert float(alone.cost.mean()) <= 1.005 * float(usual.cost.mean())


def relu_pair(
    bounds_a: tuple[float, float] | None, bounds_b: tuple[float, float] | None, bias: float
) -> Problem:
    """``a`` raises ``b``, which nobody can set; the log-odds are relu(b) + bias."""
    schema = Schema(
        (Feature("a", role="actionable", bounds=bounds_a), Feature("b", bounds=bounds_b)),
        CausalGraph.from_edges([("a", "b")]),
    )
    one = Normal(torch.zeros(()).double(), torch.ones(()).double())
    equations = {"a": linear({}, one), "b": additive(lambda p: torch.tanh(p["a"]), one)}
    model = StructuralCausalModel(schema, equations)
    rows = torch.tensor([[0.1, 0.2], [0.9, 1.1], [0.5, 0.0], [0.4, 0.7]]).double()
    model.fit(model.encoding.decode(rows))
    layers = [torch.tensor([[0.0, 1.0]]), torch.ones(1, 1)], [torch.zeros(1), torch.tensor([bias])]
    classifier = NetworkClassifier(schema, [Input(0), Input(1)], *layers)
    return Problem(model, classifier, rows, rows)


@pytest.mark.parametrize("settings", [{}, {"max_subsets": 1}, {"margin": 0.2}], ids=str)
def test_infeasible_is_said_with_proof_only(settings: dict[str, Any]) -> None:
    proven = relu_pair((0.0, 1.0), (0.0, 5.0), -6.0).solve(**settings)
    assert (proven.status == INFEASIBLE).all()
    assert (proven.n_evaluations == 0).all()
    # The same people and plans, but for all that is declared, b could be anything.
    unbounded = relu_pair((0.0, 1.0), None, -6.0).solve(**settings)
    assert (unbounded.status == NOT_FOUND).all()
    assert (unbounded.n_evaluations > 0).all()
    # b could be 5 by its bounds; that a cannot take it there is not seen by them.
    in_reach = relu_pair((0.0, 1.0), (0.0, 5.0), -4.0).solve(**settings)
    assert (in_reach.status == NOT_FOUND).all()
    # Past the threshold, by the bounds, but not past every margin.
    near = relu_pair((0.0, 1.0), (0.0, 5.0), -4.5).solve(**settings)
    assert (near.status == NOT_FOUND).all()
    for plans in (proven, unbounded, in_reach, near):
        assert_numbers(plans)


def test_a_person_near_the_edge_of_their_reach_has_a_plan() -> None:
    p = relu_pair((0.0, 1.0), (0.0, 5.0), -1.0)
    p = replace(p, x=torch.tensor([[0.4, 0.7], [0.4, 0.5], [0.1, 1.1]]).double())
    # b rises by tanh(1) - tanh(0.4) = 0.382 at most, and has to reach 1.
    plans = p.solve()
    assert plans.status.tolist() == [SEARCHED, NOT_FOUND, Status.ALREADY_ACCEPTED.code]
    assert float(plans.values[0, 0]) == pytest.approx(math.atanh(math.tanh(0.4) + 0.3), rel=1e-6)


def test_the_closed_form_proves_without_declared_bounds() -> None:
    p = problem("chain-lin")
    p = replace(p, classifier=shifted(p.classifier, -1000.0))
    assert (p.solve().status == INFEASIBLE).all()
    searched = p.solve(closed_form=False)
    # x3 follows from the others and has no bounds.
    assert (searched.status == NOT_FOUND).all()


def shifted(classifier: NetworkClassifier, by: float) -> NetworkClassifier:
    *biases, last = classifier.biases
    return NetworkClassifier(
        classifier.schema, classifier.inputs, classifier.weights, [*biases, last + by]
    )


def test_missing_the_margin_is_no_proof_of_missing_the_threshold() -> None:
    model = pair(0.5)
    classifier = logistic(model.schema, [1.0, 1.0], -6.0)
    x = torch.zeros(2, 2).double()
    # Box: at most 4 + 4 - 6 = 2 past the threshold, a probability of 0.88.
    margins = [0.0, 0.37, 0.39]
    statuses = [
        ExactSolver(model, classifier, settings=ExactSettings(margin=m)).solve(x).status.tolist()
        for m in margins
    ]
    assert statuses == [[SEARCHED] * 2, [SEARCHED] * 2, [NOT_FOUND] * 2]
    limits = replace(free(x), upper=torch.tensor([[4.0, 4.0], [1.0, 4.0]]).double())
    plans = ExactSolver(model, classifier, settings=ExactSettings(margin=0.39)).solve(x, limits)
    assert plans.status.tolist() == [NOT_FOUND, INFEASIBLE]


@pytest.mark.parametrize("name", ["chain-lin", "loan", "snowball", "tradeoff"])
@pytest.mark.parametrize("settings", [{}, {"closed_form": False}, {"max_subsets": 2}], ids=str)
def test_who_may_do_nothing_is_proven_beyond_help(name: str, settings: dict[str, Any]) -> None:
    p = problem(name)
    solver = ExactSolver(p.model, p.classifier, settings=ExactSettings(**settings))
    nothing = Limits(p.x - 1, p.x + 1, ~everything(p.x))
    no_width = Limits(p.x, p.x, everything(p.x))
    for limits in (nothing, no_width):
        plans = solver.solve(p.x, limits)
        assert (plans.status == INFEASIBLE).all()
        assert not plans.mask.any()


class Opaque(nn.Module):
    """Wraps an answer so that nothing is known of it but single values."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.answer: Callable[[Tensor], Tensor] = classifier.logit

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


class Constant(nn.Module):
    """One number for everybody, with a slope of 0 or without any."""

    def __init__(self, has_graph: bool) -> None:
        super().__init__()
        self.has_graph = has_graph

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.sum(dim=1) - 1 if self.has_graph else torch.full((len(x),), -1.0)


def test_without_bounds_of_the_classifier_nothing_is_proven() -> None:
    p = problem("loan")
    unreachable = shifted(p.classifier, -1e4)
    opaque = TorchClassifier(unreachable.schema, Opaque(unreachable))
    plans = ExactSolver(p.model, opaque).solve(p.x)
    assert (plans.status == NOT_FOUND).all()
    assert (plans.n_evaluations > 0).all()
    opaque = TorchClassifier(p.classifier.schema, Opaque(p.classifier))
    plans = ExactSolver(p.model, opaque).solve(p.x)
    torch.testing.assert_close(plans.cost, p.solve().cost, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["chain-lin", "tradeoff"])
@pytest.mark.parametrize("settings", [{}, {"max_subsets": 2}, {"search_rounds": 0}], ids=str)
def test_a_constant_classifier_is_no_accident(name: str, settings: dict[str, Any]) -> None:
    p = problem(name)
    n_columns = p.model.encoding.n_columns
    never = logistic(p.model.schema, [0.0] * n_columns, -1.0)
    plans = replace(p, classifier=never).solve(**settings)
    assert (plans.status == INFEASIBLE).all()
    for has_graph in (False, True):
        module = TorchClassifier(p.model.schema, Constant(has_graph))
        solver = ExactSolver(p.model, module, settings=ExactSettings(**settings))
        plans = solver.solve(p.x)
        assert (plans.status == NOT_FOUND).all()
        assert (plans.n_evaluations > 0).all()
        assert_numbers(plans)


class Moody(NetworkClassifier):
    """Gives no number to people whose first feature is 0.125."""

    def _logit(self, x: Tensor) -> Tensor:
        return torch.where(x[:, 0] == 0.125, torch.nan, super()._logit(x))


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_subsets": 2}, {"max_actions": 1, "polish_rounds": 0}, {"margin": 0.3}],
    ids=str,
)
def test_people_of_all_kinds_at_once(settings: dict[str, Any]) -> None:
    p = problem_of(load("loan", seed=3, rows=300))
    c = p.classifier
    classifier = Moody(c.schema, c.inputs, c.weights, c.biases)
    rejected = p.x[:9]
    accepted = p.rows[c.probability(p.rows) >= 0.5][:2]
    x = torch.cat([rejected, accepted, rejected[:2], rejected[:1]])
    limits = free(x)
    lower, upper, may_act = limits.lower.clone(), limits.upper.clone(), limits.may_act.clone()
    lower[0:2], upper[0:2] = x[0:2], x[0:2]
    may_act[2:4] = False
    lower[4], upper[4] = x[4] - 1e-6, x[4] + 1e-6
    x[11:13, 0] = 0.125
    lower[13], upper[13] = x[13], torch.inf
    solver = ExactSolver(p.model, classifier, settings=ExactSettings(**settings))
    plans = solver.solve(x, Limits(lower, upper, may_act))
    assert_numbers(plans)
    accepted_code, undefined = Status.ALREADY_ACCEPTED.code, Status.UNDEFINED.code
    assert plans.status[:4].tolist() == [INFEASIBLE] * 4
    assert int(plans.status[4]) in (INFEASIBLE, NOT_FOUND)
    if settings.get("max_actions") != 1:
        assert plans.status[5:9].tolist() == [SEARCHED] * 4
    assert plans.status[9:11].tolist() == [accepted_code] * 2
    assert plans.status[11:13].tolist() == [undefined] * 2
    assert torch.isnan(plans.probability_before[11:13]).all()
    assert torch.isfinite(plans.probability_before[:11]).all()
    for i in (5, 7):
        alone = solver.solve(x[i : i + 1], Limits(lower, upper, may_act)[i : i + 1])
        torch.testing.assert_close(
            alone.cost, plans.cost[i : i + 1], rtol=1e-6, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("name", ["snowball", "loan", "chain-nlin"])
def test_a_margin_is_kept_and_paid_for(name: str) -> None:
    p = problem(name)
    before = torch.zeros(len(p.x)).double()
    for margin in (0.0, 0.1, 0.2, 0.4):
        plans = p.solve(margin=margin)
        found = plans.status == SEARCHED
        assert found.sum() >= 3
        assert (plans.probability_after >= 0.5 + margin)[found].all()
        # No further than asked: the boundary is where the optimum lies.
        assert float(plans.probability_after[found].median()) < 0.5 + margin + 1e-3
        dearer = plans.cost.nan_to_num(torch.inf)
        assert (dearer >= before * (1 - 1e-3)).all()
        assert (dearer > before * (1 + 1e-3)).all()
        before = dearer


def test_a_margin_past_certainty_is_refused() -> None:
    p = problem("chain-lin")
    for margin in (0.5, 0.9):
        with pytest.raises(SettingsError, match=r"ExactSolver: 'margin' must stay below 1 - 0\.5"):
            p.solve(margin=margin)
    strict = replace(p.model.schema, threshold=0.9)
    model = StructuralCausalModel(strict, load("chain-lin", rows=300).scm.equations)
    model.statistics_ = p.model.statistics_
    with pytest.raises(SettingsError, match=r"below 1 - 0\.9"):
        ExactSolver(model, logistic(strict, [1.0] * 4, 0.0), settings=ExactSettings(margin=0.2))


@pytest.mark.parametrize(
    ("name", "max_subsets"), [("snowball", 64), ("snowball", 3), ("loan", 64), ("tradeoff", 3)]
)
def test_fewer_actions_never_cost_less(name: str, max_subsets: int) -> None:
    p = problem(name)
    unlimited = p.solve(max_subsets=max_subsets)
    before = torch.full_like(unlimited.cost, torch.inf)
    for most in (1, 2, 3, 4):
        plans = p.solve(max_actions=most, max_subsets=max_subsets)
        assert int(plans.mask.sum(dim=1).max()) <= most
        cost = plans.cost.nan_to_num(torch.inf)
        assert (cost <= before * (1 + 1e-4)).all()
        before = cost
    torch.testing.assert_close(before, unlimited.cost, rtol=1e-9, atol=0)
    assert int(unlimited.mask.sum(dim=1).max()) > 1


@pytest.mark.parametrize(("n", "k", "seed"), [(8, 6, 3), (10, 7, 1), (12, 8, 2)])
def test_best_first_comes_near_all_sets(n: int, k: int, seed: int) -> None:
    p = random_problem(n, k, seed, True)
    every, some = p.solve(max_subsets=2**k), p.solve(max_subsets=8)
    assert_found(every)
    assert_found(some)
    assert float(some.cost.mean()) <= 1.02 * float(every.cost.mean())
    assert (some.cost <= 1.05 * every.cost).all()


@pytest.mark.parametrize(("n", "k", "seed"), [(8, 6, 0), (10, 7, 0), (12, 8, 1), (14, 8, 4)])
@pytest.mark.parametrize("closed_form", [True, False])
def test_best_first_is_exact_where_all_is_linear(
    n: int, k: int, seed: int, closed_form: bool
) -> None:
    p = random_problem(n, k, seed, False)
    every = p.solve(max_subsets=2**k)
    some = p.solve(max_subsets=8, closed_form=closed_form)
    assert_found(every)
    rtol = 1e-9 if closed_form else 1e-4
    torch.testing.assert_close(some.cost, every.cost, rtol=rtol, atol=0)
    assert every.n_evaluations.tolist() == [2**k - 1] * len(p.x)
    if closed_form:
        assert (some.n_evaluations <= 8).all()


def test_best_first_keeps_steps_and_levels() -> None:
    p = problem("loan")
    stepped = tuple(
        replace(f, step=0.25) if f.name in ("income", "savings") else f
        for f in p.model.schema.features
    )
    schema = replace(p.model.schema, features=stepped)
    model = StructuralCausalModel(schema, load("loan", rows=300).scm.equations)
    model.statistics_ = p.model.statistics_
    c = p.classifier
    classifier = NetworkClassifier(schema, c.inputs, c.weights, c.biases)
    q = replace(p, model=model, classifier=classifier, x=p.x[:4])
    every = q.solve()
    grid = q.grid(bins=9, bounded=True)
    assert_found(every)
    assert (every.cost <= grid.cost * (1 + 1e-6)).all()
    for max_subsets in (1, 5):
        plans = q.solve(max_subsets=max_subsets)
        assert_found(plans)
        assert float(plans.cost.mean()) <= 1.15 * float(every.cost.mean())
    for plans in (every, q.solve(max_subsets=5)):
        for column in (5, 6):
            value = plans.values[plans.mask[:, column], column] / 0.25
            own = q.x[plans.mask[:, column], column] / 0.25
            assert (((value - value.round()).abs() < 1e-6) | (value == own)).all()


def staircase_world() -> Problem:
    """Every plan is one of a few hundred: levels and steps only, and a curved classifier."""
    features = (
        Feature("course", "ordinal", levels=(0, 1, 3), role="actionable"),
        Feature("hours", bounds=(0.0, 60.0), step=5, role="actionable"),
        Feature("rent", step=0.5, role="actionable", direction="down"),
        Feature("income"),
    )
    names = tuple(f.name for f in features)
    parents = {"rent": ["hours"], "income": ["course", "hours", "rent"]}
    schema = Schema(features, CausalGraph.from_parents(parents, names))
    one = Normal(torch.zeros(()).double(), torch.ones(()).double())
    equations = {
        "course": linear({}, one),
        "hours": linear({}, one),
        "rent": additive(lambda p: 0.05 * p["hours"], one),
        "income": additive(lambda p: 2 * torch.tanh(p["course"]) + 0.1 * p["hours"], one),
    }
    model = StructuralCausalModel(schema, equations)
    draws = torch.Generator().manual_seed(0)
    wide = torch.randn(80, 4, generator=draws, dtype=torch.float64)
    course = torch.tensor([0.0, 1.0, 3.0]).double()[torch.randint(0, 3, (80,), generator=draws)]
    hours = (5 * (6 + 2 * wide[:, 1]).round()).clamp(0, 60)
    rent = (2 * (3 + wide[:, 2])).round() / 2
    income = 2 * torch.tanh(course) + 0.1 * hours + wide[:, 3]
    rows = torch.stack([course, hours, rent, income], dim=1)
    model.fit(model.encoding.decode(rows))
    weights = [
        torch.tensor([[0.4, 0.02, -1.0, 0.4], [-0.3, 0.05, 0.5, 0.6], [0.5, -0.05, -0.5, 0.5]]),
        torch.tensor([[1.5, 1.0, 1.2]]),
    ]
    biases = [torch.tensor([1.0, -3.0, 0.5]), torch.tensor([-4.0])]
    classifier = NetworkClassifier(schema, [Input(i) for i in range(4)], weights, biases)
    x = rows[classifier.probability(rows) < 0.5]
    return Problem(model, classifier, x[:30], rows)


def cheapest_of_all(p: Problem, x: Tensor) -> float:
    """By trying every plan there is."""
    statistics = p.model.statistics_
    low, high = (float(end[2]) for end in (statistics.minimum, statistics.maximum))
    rents = [i / 2 for i in range(math.ceil(2 * low), math.floor(2 * high) + 1)]
    options: list[list[float]] = [
        [math.nan, 0.0, 1.0, 3.0],
        [math.nan, *(5.0 * i for i in range(13))],
        [math.nan, *(r for r in rents if r <= float(x[2]))],
    ]
    values = torch.tensor(list(itertools.product(*options, [math.nan]))).double()
    mask = ~values.isnan()
    people = x.expand(len(values), -1)
    reached = p.model.counterfactual(people, Intervention(mask, values))
    works = mask.any(dim=1) & (p.classifier.probability(reached) >= 0.5)
    cost = ExactSolver(p.model, p.classifier).cost(people, mask, values)
    return float(torch.where(works, cost, torch.inf).min())


def test_of_all_steps_and_levels_the_best_ones_are_found() -> None:
    p = staircase_world()
    plans = p.solve()
    optimum = torch.tensor([cheapest_of_all(p, x) for x in p.x], dtype=torch.float64)
    assert_found(plans)
    assert (plans.cost >= optimum * (1 - 1e-9)).all()
    assert float(plans.cost.mean()) <= 1.005 * float(optimum.mean())
    assert ((plans.cost / optimum) < 1 + 1e-9).double().mean() > 0.9


def test_best_first_searches_where_all_slopes_are_nought() -> None:
    """Far below a relu there is no slope to list sets by; a plan needs three features at once."""
    names = ("a", "b", "c", "d")
    schema = Schema(tuple(Feature(n, role="actionable") for n in names), CausalGraph(names))
    one = Normal(torch.zeros(()).double(), torch.ones(()).double())
    model = StructuralCausalModel(schema, {n: linear({}, one) for n in names})
    rows = torch.tensor([[-3.0] * 4, [3.0] * 4, [0.0] * 4]).double()
    model.fit(model.encoding.decode(rows))
    weights = [torch.tensor([[1.0, 1.0, 1.0, 0.0]]), torch.ones(1, 1)]
    biases = [torch.tensor([-1.5]), torch.tensor([-1.0])]
    classifier = NetworkClassifier(schema, [Input(i) for i in range(4)], weights, biases)
    x = torch.tensor([[0.0] * 4, [-1.0, 1.0, 0.0, 0.0]]).double()
    # The three have to reach 2.5 in all, each the same at equal prices.
    cost = ExactSolver(model, classifier).cost
    assert isinstance(cost, SquaredCost)
    price = cost.scale[0].item()
    for settings in (
        ExactSettings(),
        ExactSettings(max_subsets=2),
        ExactSettings(max_actions=3, max_subsets=4),
    ):
        for kind in (NetworkClassifier, WithoutSlopes):
            same = kind(schema, classifier.inputs, classifier.weights, classifier.biases)
            plans = ExactSolver(model, same, settings=settings).solve(x)
            assert_found(plans)
            assert (plans.n_evaluations > 0).all()
            assert float(plans.cost[0]) == pytest.approx(2.5**2 / 3 * price, rel=0.01)


class WithoutSlopes(NetworkClassifier):
    """A network whose slopes must not be used."""

    has_slope: bool = False


class Steps(WithoutSlopes):
    """A staircase of a network, as a forest gives it."""

    def _logit(self, x: Tensor) -> Tensor:
        return (2 * super()._logit(x).detach()).floor() / 2

    def _bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = super()._bounds(lower, upper)
        return low - 0.5, high

    @property
    def linear_weights(self) -> tuple[Tensor, float] | None:
        return None


@pytest.mark.parametrize("name", ["loan", "collider-nlin", "chain-nlin", "random"])
def test_the_search_without_slopes_is_nearly_as_good(name: str) -> None:
    p = random_problem(8, 6, 3, True) if name == "random" else problem(name)
    c = p.classifier
    without = replace(p, classifier=WithoutSlopes(c.schema, c.inputs, c.weights, c.biases))
    usual, plain = p.solve(), without.solve(closed_form=False)
    assert_found(usual)
    assert_found(plain)
    assert float(plain.cost.mean()) <= 1.02 * float(usual.cost.mean())


@pytest.mark.parametrize("max_subsets", [64, 4])
def test_a_staircase_is_climbed_no_worse_than_on_the_grid(max_subsets: int) -> None:
    p = problem("loan")
    c = p.classifier
    stairs = replace(p, classifier=Steps(c.schema, c.inputs, c.weights, c.biases))
    plans, grid = stairs.solve(max_subsets=max_subsets), stairs.grid(bins=9, bounded=True)
    assert_found(plans)
    assert (plans.cost <= grid.cost * (1 + 1e-6)).all()


def test_a_frozen_feature_is_one_that_cannot_be_set() -> None:
    data = load("loan", rows=300)
    p = problem("loan")
    column = data.encoding.column("income")
    may_act = everything(p.x)
    may_act[:, column] = False
    frozen = ExactSolver(p.model, p.classifier).solve(p.x, replace(free(p.x), may_act=may_act))
    assert_found(frozen)
    assert not frozen.mask[:, column].any()
    features = tuple(
        replace(f, role="mutable") if f.name == "income" else f for f in data.schema.features
    )
    schema = replace(data.schema, features=features)
    model = StructuralCausalModel(schema, data.scm.equations)
    model.statistics_ = data.scm.statistics_
    c = p.classifier
    other = replace(
        p, model=model, classifier=NetworkClassifier(schema, c.inputs, c.weights, c.biases)
    ).solve()
    # Cost is divided by the number of actionable features, 4 and 3.
    torch.testing.assert_close(4 * frozen.cost, 3 * other.cost, rtol=1e-4, atol=0)
    free_cost = p.solve().cost
    assert (frozen.cost >= free_cost * (1 - 1e-4)).all()
    assert (frozen.cost > free_cost * 1.01).any()


@pytest.mark.parametrize("name", ["loan", "collider-nlin", "tradeoff", "chain-lin"])
def test_narrower_limits_never_make_a_plan_cheaper(name: str) -> None:
    p = problem(name)
    solver = ExactSolver(p.model, p.classifier)
    width, before = p.model.statistics_.std, solver.solve(p.x).cost
    draws = torch.Generator().manual_seed(0)
    down, up = (torch.rand(p.x.shape, generator=draws).double() for _ in range(2))
    whole = before
    for share in (2.0, 1.0, 0.6):
        limits = Limits(p.x - share * down * width, p.x + share * up * width, everything(p.x))
        plans = solver.solve(p.x, limits)
        cost = plans.cost.nan_to_num(torch.inf)
        assert (cost >= before * (1 - 1e-4)).all()
        inside = (plans.values >= limits.lower - 1e-9) & (plans.values <= limits.upper + 1e-9)
        assert (inside | ~plans.mask).all()
        before = cost
    assert (before > whole * 1.01).any()


@pytest.mark.parametrize("name", ["chain-lin", "loan"])
def test_a_learned_model_in_single_precision_serves_one_person_as_it_serves_many(name: str) -> None:
    """Plans end on the boundary, where the last bits depend on the size of the batch."""
    data = load(name, rows=300)
    flow = CausalFlow(data.schema, FlowSettings(hidden=(16, 16), training=QUICK))
    p = problem_of(data, flow.fit(data.frame("causal"), progress=False))
    p = replace(p, x=p.x[:8])
    solver = ExactSolver(flow, p.classifier)
    whole = solver.solve(p.x)
    assert_found(whole)
    for i in range(len(p.x)):
        alone = solver.solve(p.x[i : i + 1])
        assert_found(alone)
        assert float(alone.cost[0]) == pytest.approx(float(whole.cost[i]), rel=1e-4)


def test_what_follows_stays_within_declared_bounds() -> None:
    """The cheapest plan would push b past its bound; the next best leaves it just inside."""
    schema = Schema(
        (Feature("a", role="actionable"), Feature("b", bounds=(-5.0, 1.0))),
        CausalGraph.from_edges([("a", "b")]),
    )
    one = Normal(torch.zeros(()).double(), torch.ones(()).double())
    model = StructuralCausalModel(schema, {"a": linear({}, one), "b": linear({"a": 1.0}, one)})
    rows = torch.tensor([[-4.0, -1.0], [4.0, 1.0], [0.0, 0.5]]).double()
    model.fit(model.encoding.decode(rows))
    x = torch.tensor([[0.0, 0.0], [0.0, 0.5]]).double()
    solver = ExactSolver(model, logistic(schema, [1.0, 1.0], -1.4))
    plans = solver.solve(x)
    # a by 0.7 brings the sum to 1.4; with b at 0.5 half of the rest is enough, and takes b to 0.95.
    assert plans.status.tolist() == [SEARCHED, SEARCHED]
    torch.testing.assert_close(plans.values[:, 0], torch.tensor([0.7, 0.45]).double())
    assert (plans.counterfactual[:, 1] <= 1 + 1e-9).all()
    harder = ExactSolver(model, logistic(schema, [1.0, 1.0], -1.6)).solve(x)
    # 0.8 still; but 0.55 would take b to 1.05.
    assert harder.status[0] == SEARCHED
    assert harder.status[1] in (NOT_FOUND, INFEASIBLE)


def test_keeping_a_feature_where_it_is_can_be_the_best_action() -> None:
    """``a`` helps, but drags down ``b`` where ``b`` is not held."""
    model = pair(-1.0)
    classifier = logistic(model.schema, [1.0, 0.9], -1.0)
    x = torch.zeros(1, 2).double()
    limits = replace(free(x), lower=torch.tensor([[-4.0, 0.0]]), upper=torch.tensor([[4.0, 0.0]]))
    for closed_form in (True, False):
        solver = ExactSolver(model, classifier, settings=ExactSettings(closed_form=closed_form))
        plans = solver.solve(x, limits)
        assert plans.mask.tolist() == [[True, True]]
        torch.testing.assert_close(plans.values, torch.tensor([[1.0, 0.0]]).double())
        alone = solver.solve(x, replace(limits, may_act=torch.tensor([[True, False]])))
        # 0.1 for each unit: 10 are needed, 4 are there.
        assert alone.status[0] != SEARCHED


@pytest.mark.parametrize(
    "settings",
    [
        {"polish_rounds": 0},
        {"search_rounds": 0},
        {"starts": 1, "keep": 1, "explore_steps": 1, "refine_steps": 0},
        {"max_subsets": 1},
        {"max_subsets": 1, "max_actions": 1},
    ],
    ids=str,
)
def test_the_least_of_every_setting_still_gives_plans(settings: dict[str, Any]) -> None:
    p = problem("collider-nlin")
    plans = p.solve(**settings)
    assert_numbers(plans)
    assert (plans.status == SEARCHED).sum() >= 4
    least = p.solve(max_actions=settings.get("max_actions"))
    found = plans.status == SEARCHED
    assert (plans.cost <= 1.3 * least.cost)[found].all()


def test_a_plan_does_what_its_counterfactual_says() -> None:
    p = problem("tradeoff")
    plans = p.solve()
    reached = p.model.counterfactual(p.x, Intervention(plans.mask, plans.values))
    assert torch.equal(reached, plans.counterfactual)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"starts": 0}, "'starts' must be at least 1; got 0"),
        ({"explore_steps": 0}, "'explore_steps' must be at least 1"),
        ({"keep": 0}, "'keep' must be at least 1"),
        ({"refine_steps": -1}, "'refine_steps' must be at least 0"),
        ({"polish_rounds": -1}, "'polish_rounds' must be at least 0"),
        ({"search_rounds": -1}, "'search_rounds' must be at least 0"),
        ({"max_actions": 0}, "'max_actions' must be at least 1"),
        ({"max_subsets": 0}, "'max_subsets' must be at least 1"),
        ({"margin": 1.0}, "'margin' must be at least 0 and below 1; got 1.0"),
        ({"margin": math.nan}, "'margin' must be at least 0"),
        ({"validity": 0.4}, "'validity' must be at least 0.5 and below 1; got 0.4"),
        ({"validity": 1.0}, "'validity' must be at least 0.5 and below 1; got 1.0"),
    ],
)
def test_settings_check_themselves(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=f"ExactSettings: {words}"):
        ExactSettings(**settings)
