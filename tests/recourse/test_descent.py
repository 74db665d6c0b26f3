"""Sequential quadratic steps: exact where all is linear, downhill and inside everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from carma import CausalGraph, Feature, SquaredCost, StructuralCausalModel, additive
from carma.classifiers.base import Classifier
from carma.classifiers.network import NetworkClassifier
from carma.constraints import Limits, PlanLimits
from carma.recourse.descent import Descent
from carma.recourse.linear import LinearSearch
from carma.recourse.subsets import all_subsets
from carma.recourse.target import People, Target
from carma.schema import Schema
from carma.state import State, seeded
from carma.table import Encoding, Statistics

LinearProblem = tuple[Target, SquaredCost, PlanLimits, People, Tensor, Tensor]
CurvedProblem = tuple[Target, SquaredCost, PlanLimits, People]


class Concave(Classifier):
    """Minus a log-sum of exponentials: the plans that work are a convex set."""

    kind = "concave"

    def __init__(self, schema: Schema, weights: Tensor, bias: float) -> None:
        super().__init__(schema)
        self.weights, self.bias = weights, bias

    def _logit(self, x: Tensor) -> Tensor:
        return self.bias - (x @ self.weights.T).logsumexp(dim=1)

    def state(self) -> State:
        raise NotImplementedError

    @classmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        raise NotImplementedError


class Undefined(NetworkClassifier):
    """Gives no number where the first column is above 0."""

    def _logit(self, x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, torch.nan, super()._logit(x))


class Flat(NetworkClassifier):
    """The same number everywhere, with a gradient of 0."""

    def _logit(self, x: Tensor) -> Tensor:
        return 0.0 * super()._logit(x) - 1.0


def crossed(people: People, limits: PlanLimits, seed: int) -> tuple[People, Tensor, Tensor]:
    """Every person with every set, and a start of each drawn from the whole box."""
    masks = all_subsets(limits.encoding.actionable, people.x.shape[1])
    many = people.repeated(len(masks))
    share = torch.rand(many.x.shape, generator=seeded(seed), dtype=torch.float64)
    box = many.limits
    return many, masks.repeat(len(people), 1), box.lower + share * (box.upper - box.lower)


def start_at(kind: str, people: People, drawn: Tensor) -> Tensor:
    return {
        "person": people.x,
        "anywhere": drawn,
        "lower": people.limits.lower,
        "upper": people.limits.upper,
    }[kind]


@pytest.mark.parametrize("kind", ["person", "anywhere", "lower", "upper"])
@pytest.mark.parametrize(("seed", "room"), [(0, 1.0), (3, 0.3), (7, 0.3), (11, 0.7)])
def test_where_all_is_linear_one_step_from_anywhere_is_the_optimum(
    linear_problem: Callable[..., LinearProblem], kind: str, seed: int, room: float
) -> None:
    target, cost, limits, people, effects, weights = linear_problem(seed, room=room)
    many, mask, drawn = crossed(people, limits, seed)
    exact = LinearSearch(target, cost, effects, weights).candidates(many, mask[:, None])
    walks = Descent(target, cost, many, mask, start_at(kind, many, drawn))
    walks.step()
    torch.testing.assert_close(walks.best_cost, exact.cost, rtol=1e-8, atol=1e-15)
    works = torch.isfinite(exact.cost)
    assert works.any()
    torch.testing.assert_close(walks.best_values[works], exact.values[works], rtol=1e-8, atol=1e-8)
    # Where nothing is enough, the walk goes where least is missing.
    torch.testing.assert_close(walks.values, exact.values, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_every_step_lowers_the_merit_or_is_not_taken(
    curved_problem: Callable[..., CurvedProblem], seed: int
) -> None:
    target, cost, limits, people = curved_problem(seed)
    many, mask, start = crossed(people, limits, seed)
    walks = Descent(target, cost, many, mask, start)
    n_taken = n_refused = 0
    for _ in range(12):
        before, best, penalty = walks.values, walks.best_cost, walks._penalty
        walks.step()
        moved = (walks.values != before).any(dim=1)
        # Penalties rise; the merit before and after is that of one and the same penalty.
        assert (walks._penalty >= penalty).all()
        merits = [
            cost(many.x, mask, v) + walks._penalty * (-target.surplus(many, mask, v)).clamp(min=0)
            for v in (before, walks.values)
        ]
        assert (merits[1] < merits[0])[moved].all()
        assert (walks.best_cost <= best).all()
        n_taken += int(moved.sum())
        n_refused += int((~moved).sum())
    assert n_taken > 100
    assert n_refused > 100


@pytest.mark.parametrize("seed", range(2))
def test_a_last_step_leads_where_any_step_does(
    curved_problem: Callable[..., CurvedProblem], seed: int
) -> None:
    target, cost, limits, people = curved_problem(seed)
    many, mask, start = crossed(people, limits, seed)
    walks, others = (Descent(target, cost, many, mask, start) for _ in range(2))
    walks.step()
    others.step(is_last=True)
    assert (walks.values != start).any()
    for name in ("values", "cost", "best_values", "best_cost", "best_surplus"):
        assert torch.equal(getattr(walks, name), getattr(others, name))


@pytest.mark.parametrize("seed", range(2))
def test_walks_go_on_from_given_values_as_if_they_started_there(
    curved_problem: Callable[..., CurvedProblem], seed: int
) -> None:
    target, cost, limits, people = curved_problem(seed)
    many, mask, start = crossed(people, limits, seed)
    fresh = Descent(target, cost, many, mask, start)
    walks = Descent(target, cost, many, mask, many.x)
    walks.take(fresh.values)
    for each in (fresh, walks):
        each.step()
    assert (walks.values != start).any()
    assert torch.equal(walks.values, fresh.values)
    assert torch.equal(walks.best_cost, fresh.best_cost)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_plan_works_costs_what_it_says_and_obeys_the_limits(
    curved_problem: Callable[..., CurvedProblem], seed: int
) -> None:
    target, cost, limits, people = curved_problem(seed)
    many, mask, start = crossed(people, limits, seed)
    walks = Descent(target, cost, many, mask, start)
    for turn in range(8):
        walks.settle() if turn == 7 else walks.step()
        for values in (walks.values, walks.best_values):
            assert ((values >= many.limits.lower) & (values <= many.limits.upper)).all()
            assert torch.equal(values[~mask], many.x[~mask])
        found = torch.isfinite(walks.best_cost)
        surplus = target.surplus(many, mask, walks.best_values)
        assert (surplus[found] >= 0).all()
        paid = cost(many.x, mask, walks.best_values)
        assert torch.equal(paid[found], walks.best_cost[found])
    assert found.sum() > 10


@pytest.mark.parametrize("seed", range(4))
def test_a_smooth_convex_problem_is_solved_as_by_a_general_solver(
    linear_problem: Callable[..., LinearProblem], seed: int
) -> None:
    linear, cost, limits, people, _, _ = linear_problem(seed, 6, 4, n=5)
    schema = limits.encoding.schema
    weights = 0.2 * torch.randn(3, 6, generator=seeded(seed), dtype=torch.float64)
    score = (people.x @ weights.T).logsumexp(dim=1)
    classifier = Concave(schema, weights, float(score.min()) - 0.1)
    target = Target(linear._follow, classifier, limits, 0.0)
    mask = torch.zeros_like(people.x, dtype=torch.bool)
    mask[:, limits.encoding.actionable] = True
    walks = Descent(target, cost, people, mask, people.x)
    for _ in range(150):
        walks.step()
    walks.settle()
    each = [reference(target, cost, people[i : i + 1], mask[:1]) for i in range(5)]
    least = torch.tensor(each, dtype=torch.float64)
    works = torch.isfinite(least)
    assert works.sum() >= 2
    assert torch.equal(torch.isfinite(walks.best_cost), works)
    torch.testing.assert_close(walks.best_cost[works], least[works], rtol=1e-4, atol=0)


def reference(target: Target, cost: SquaredCost, person: People, mask: Tensor) -> float:
    """Cost of the optimum by sequential least squares; infinite where it finds no plan."""
    columns = mask[0].nonzero().squeeze(1)
    price = cost.scale[columns].numpy()
    x = person.x[0, columns].numpy()
    lower, upper = (t[0, columns].numpy() - x for t in (person.limits.lower, person.limits.upper))

    def at(v: NDArray[np.float64]) -> Tensor:
        values = person.x.clone()
        values[0, columns] += torch.from_numpy(v)
        return values

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = minimize(
            lambda v: 10 * float(price @ v**2),
            np.zeros(len(price)),
            jac=lambda v: 20 * price * v,
            bounds=list(zip(lower, upper, strict=True)),
            constraints={
                "type": "ineq",
                "fun": lambda v: target.surplus(person, mask, at(v)).item(),
                "jac": lambda v: target.surplus_and_slope(person, mask, at(v))[1][
                    0, columns
                ].numpy(),
            },
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 300},
        )
    is_enough = target.surplus(person, mask, at(found.x)).item() > -1e-8
    return float(price @ found.x**2) if is_enough else np.inf


def test_walks_that_are_kept_go_on_as_they_were(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    target, cost, limits, people = curved_problem(1)
    many, mask, start = crossed(people, limits, 1)
    all_, some = (Descent(target, cost, many, mask, start) for _ in range(2))
    rows = torch.tensor([0, 3, 4, 17, 30])
    for turn in range(6):
        if turn == 3:
            some.keep(rows)
            assert len(some) == 5
            assert torch.equal(some.mask, mask[rows])
        all_.step()
        some.step()
    torch.testing.assert_close(some.values, all_.values[rows], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(some.best_cost, all_.best_cost[rows], rtol=1e-9, atol=0)
    torch.testing.assert_close(some.best_values, all_.best_values[rows], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(some.promise, all_.promise[rows], rtol=1e-9, atol=1e-9)


def test_without_a_slope_nobody_moves_and_nothing_breaks(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    target, cost, limits, people = curved_problem(0, wrap=Flat)
    many, mask, start = crossed(people, limits, 0)
    walks = Descent(target, cost, many, mask, many.x)
    elsewhere = Descent(target, cost, many, mask, start)
    for _ in range(3):
        walks.step()
        elsewhere.step()
    walks.settle()
    assert torch.equal(walks.values, many.x)
    for each in (walks, elsewhere):
        assert each.best_cost.isinf().all()
        assert torch.isfinite(each.values).all()
        assert torch.isfinite(each.promise).all()


def test_walks_leave_places_where_nothing_is_defined(
    curved_problem: Callable[..., CurvedProblem],
) -> None:
    target, cost, limits, people = curved_problem(1, n=200, wrap=Undefined)
    rows = (people.x[:, 0] <= 0).nonzero().squeeze(1)[:20]
    assert len(rows) == 20
    assert limits.encoding.schema.features[0].role == "actionable"
    many, mask, start = crossed(people[rows], limits, 1)
    walks = Descent(target, cost, many, mask, start)
    is_lost = target.surplus(many, mask, walks.values).isneginf()
    assert is_lost.sum() > 10
    for _ in range(10):
        walks.step()
        assert torch.isfinite(walks.promise).all()
        assert torch.isfinite(walks.values).all()
    assert (target.surplus(many, mask, walks.values) > -torch.inf).all()
    assert torch.isfinite(walks.best_cost[is_lost]).any()


def test_a_plan_a_hair_short_is_pushed_over_the_boundary(
    linear_problem: Callable[..., LinearProblem],
) -> None:
    target, cost, limits, people, effects, weights = linear_problem(1, n=10)
    mask = torch.zeros_like(people.x, dtype=torch.bool)
    mask[:, limits.encoding.actionable] = True
    exact = LinearSearch(target, cost, effects, weights).candidates(people, mask[:, None])
    walks = Descent(target, cost, people, mask, people.x + (1 - 1e-6) * (exact.values - people.x))
    assert walks.best_cost.isinf().all()
    walks.settle()
    torch.testing.assert_close(walks.best_cost, exact.cost, rtol=1e-4, atol=0)


def test_what_works_ranks_first_then_what_comes_nearest(
    linear_problem: Callable[..., LinearProblem],
) -> None:
    target, cost, limits, people, effects, weights = linear_problem(1, n=1)
    three = people.repeated(3)
    mask = torch.zeros_like(three.x, dtype=torch.bool)
    mask[:, limits.encoding.actionable] = True
    exact = LinearSearch(target, cost, effects, weights).candidates(three, mask[:, None])
    share = torch.tensor([[0.9], [1.0], [0.5]], dtype=torch.float64)
    walks = Descent(target, cost, three, mask, three.x + share * (exact.values - three.x))
    walks._penalty = torch.ones(3, dtype=torch.float64) * 1e3
    assert walks.promise.argsort().tolist() == [1, 0, 2]
    assert walks.promise[1] == walks.best_cost[1] < 1e6 < walks.promise[0]


@pytest.mark.parametrize("seed", [1, 5, 6])
def test_a_declared_bound_that_is_not_in_the_way_changes_nothing(
    curved_problem: Callable[..., CurvedProblem], seed: int
) -> None:
    """Not even where a person stands on it, with a feature that no plan moves."""
    target, cost, limits, people = curved_problem(seed)
    schema = limits.encoding.schema
    column = next(
        i
        for i, f in enumerate(schema.features)
        if not limits.encoding.reachability[i, limits.encoding.actionable].any()
        and f.role != "actionable"
    )
    standing = people.x.clone()
    standing[:, column] = standing[0, column]
    people = replace(people, x=standing, limits=limits.around(standing))
    end = standing[0, column].item()
    declared = tuple(
        replace(f, bounds=(end, end + 50)) if i == column else f
        for i, f in enumerate(schema.features)
    )
    bounded = PlanLimits(Encoding(replace(schema, features=declared)), None)
    assert (bounded.room(standing, standing) == 0).all()
    many, mask, start = crossed(people, limits, seed)
    walks = []
    for each in (limits, bounded):
        aim = Target(target._follow, target._classifier, each, 0.0)
        walks.append(Descent(aim, cost, many, mask, start))
        for _ in range(8):
            walks[-1].step()
    assert torch.equal(walks[0].best_cost, walks[1].best_cost)
    assert torch.isfinite(walks[0].best_cost).sum() > 10


def test_a_plan_may_end_on_a_declared_bound(
    linear: Callable[[Schema, list[float], float], NetworkClassifier],
) -> None:
    """x + (bound - x) may lie past the bound, where no plan would work."""
    bound, n = 0.3, 400
    features = (
        Feature("a", role="actionable", bounds=(-9.0, bound)),
        Feature("b", role="actionable", cost_weight=50.0),
    )
    schema = Schema(features, CausalGraph(("a", "b")))
    noise = torch.distributions.Normal(0.0, 1.0)
    scm = StructuralCausalModel(schema, {name: additive(lambda _: 0.0, noise) for name in "ab"})
    x = torch.randn(n, 2, generator=seeded(0), dtype=torch.float64).clamp(max=0)
    statistics = Statistics.of(x)
    limits, cost = PlanLimits(scm.encoding, statistics), SquaredCost(scm.encoding, statistics)
    box = Limits(x - 9, torch.tensor([bound, 9.0], dtype=torch.float64).expand(n, 2), x < 9)
    target = Target(scm.counterfactual, linear(schema, [1.0, 1.0], -1.5), limits, 0.0)
    walks = Descent(target, cost, People(x, x, box), x < 9, x)
    walks.step()
    # What a cannot give, b has to, which is dear.
    a, b = walks.best_values.unbind(dim=1)
    ends = (a - bound).abs() < 1e-12
    assert ends.sum() > 0.9 * n
    torch.testing.assert_close(b[ends], torch.full_like(b[ends], 1.5 - bound))
    assert torch.isfinite(walks.best_cost).all()
    assert (x[:, 0] + (bound - x[:, 0]) > bound)[ends].any()
