"""Plans that hold with a given probability: sure, and no dearer than any found by chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from carma import (
    CausalFlow,
    CausalGraph,
    Classifier,
    ExactSettings,
    ExactSolver,
    Feature,
    FlowSettings,
    Schema,
    TorchClassifier,
    TrainingSettings,
)
from carma.benchmarks import Benchmark, load
from carma.classifiers.network import NetworkClassifier
from carma.recourse.doubt import Doubt, quantile
from carma.recourse.plans import Plans
from carma.recourse.target import People
from carma.state import seeded

LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]
VALIDITY, N_PEOPLE, N_RANDOM = 0.95, 4, 1500


@pytest.fixture(scope="module")
def data() -> Benchmark:
    return load("chain-lin", rows=200)


@pytest.fixture(scope="module")
def flow(data: Benchmark) -> CausalFlow:
    quick = TrainingSettings(epochs=8, batch_size=64)
    settings = FlowSettings(hidden=(4,), training=quick, alternatives=5)
    return CausalFlow(data.schema, settings).fit(data.frame("causal"))


class Opaque(nn.Module):
    """Wraps an answer so that no slope can be had through it."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.answer: Callable[[Tensor], Tensor] = classifier.logit

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x.detach()).detach()


def measured(solver: ExactSolver, x: Tensor, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """How far plans land past the threshold, and the margin that each of them needs."""
    model, classifier = solver.causal_model, solver.classifier
    people = People(x, model.abduct(x), solver.limits.around(x))
    needed = Doubt(model, classifier).of(people, mask, values)
    reached = model.counterfactual(x, people.do(mask, values), people.u)
    return classifier.ahead(reached), needed.margin(quantile(VALIDITY, model.n_alternatives))


def cheapest_by_chance(solver: ExactSolver, x: Tensor) -> Tensor:
    """Least cost of the sure ones among many random plans of each person, ``(n,)``."""
    draws, each = seeded(2), N_RANDOM
    many = x.repeat_interleave(each, 0)
    box = solver.limits.around(many)
    mask = (torch.rand(many.shape, generator=draws) < 0.6) & box.may_act
    goal = torch.rand(many.shape, generator=draws, dtype=x.dtype)
    share = torch.rand(len(many), 1, generator=draws, dtype=x.dtype)
    values = many + share * (box.lower + goal * (box.upper - box.lower) - many)
    values = torch.where(mask, values, many)
    ahead, margin = measured(solver, many, mask, values)
    cost = solver.cost(many, mask, values)
    return torch.where(ahead >= margin, cost, torch.inf).view(len(x), each).amin(dim=1)


@pytest.mark.parametrize(
    ("has_slope", "settings"),
    [
        (True, {}),
        (True, {"closed_form": False, "max_subsets": 2}),
        (True, {"margin": 0.1}),
        (False, {}),
    ],
    ids=str,
)
def test_plans_are_sure_and_none_by_chance_is_cheaper(
    flow: CausalFlow,
    data: Benchmark,
    linear: LinearClassifier,
    has_slope: bool,
    settings: dict[str, Any],
) -> None:
    classifier: Classifier = linear(flow.schema, [0.0, 1.0, 0.5, 1.0], -0.25)
    if not has_slope:
        classifier = TorchClassifier(flow.schema, Opaque(classifier))
    asked = ExactSettings(validity=VALIDITY, **settings)
    solver = ExactSolver(flow, classifier, cost=data.cost, settings=asked)
    x = data.encoded("recourse", "test")
    x = x[classifier.rejects(x)][:N_PEOPLE]
    plans = solver.solve(x)
    assert plans.has_plan.all()
    ahead, margin = measured(solver, x, plans.mask, plans.values)
    assert (margin > 0.01).any()
    assert (ahead >= margin).all()
    assert (plans.expected_validity >= VALIDITY - 1e-6).all()
    by_chance = cheapest_by_chance(solver, x)
    assert torch.isfinite(by_chance).all()
    if not settings.get("margin"):
        assert (plans.cost <= by_chance).all()
        return
    aim = torch.logit(torch.tensor(0.6)).double()
    assert (ahead >= aim + margin - 1e-6).all()


def test_without_doubt_it_is_the_plain_search(data: Benchmark, linear: LinearClassifier) -> None:
    classifier = linear(data.schema, [0.0, 1.0, 0.5, 1.0], -0.25)
    x = data.encoded("recourse", "test")
    x = x[classifier.rejects(x)]
    plain, asked = (
        ExactSolver(data.scm, classifier, settings=ExactSettings(validity=validity)).solve(x)
        for validity in (None, 0.99)
    )
    assert torch.equal(plain.status, asked.status)
    torch.testing.assert_close(asked.cost, plain.cost)
    assert (asked.expected_validity == 1).all()


def test_of_one_that_is_in_doubt_and_a_dearer_one_that_is_not_the_latter_is_told(
    linear: LinearClassifier,
) -> None:
    # What schooling brings is learned from few rows; income itself leaves no doubt.
    schema = Schema(
        (
            Feature("school", role="actionable"),
            Feature("skill"),
            Feature("income", role="actionable", cost_weight=3.0),
        ),
        CausalGraph.from_parents({"skill": ["school"]}, ["school", "skill", "income"]),
    )
    draws = seeded(0)
    rows = torch.randn(30, 3, generator=draws, dtype=torch.float64)
    rows[:, 1] = rows[:, 0] + 3 * rows[:, 1]
    quick = TrainingSettings(epochs=60, batch_size=30, learning_rate=2e-2)
    flow = CausalFlow(schema, FlowSettings(hidden=(4,), training=quick, alternatives=8))
    flow.fit(flow.encoding.decode(rows))
    classifier = linear(schema, [0.0, 1.0, 1.0], -1.0)
    x = torch.zeros(1, 3).double()
    found: list[Plans] = []
    for validity in (None, 0.999):
        settings = ExactSettings(validity=validity)
        found.append(ExactSolver(flow, classifier, settings=settings).solve(x))
    plain, sure = found
    assert plain.mask[0, 0]
    assert plain.expected_validity[0] < 0.9
    assert sure.mask[0, 2]
    assert sure.expected_validity[0] >= 0.999 - 1e-6
    assert sure.cost > plain.cost


def test_what_moves_leave_in_doubt_is_made_up_for(linear: LinearClassifier) -> None:
    job = Feature("job", "nominal", levels=("cook", "clerk"), role="actionable")
    schema = Schema(
        (
            replace(job, moves=(("cook", "clerk", 0.01),)),
            Feature("skill"),
            Feature("savings", role="actionable"),
        ),
        CausalGraph.from_parents({"skill": ["job"]}, ["job", "skill", "savings"]),
    )
    draws, n = seeded(0), 40
    clerk = (torch.arange(n) % 2).double()
    skill = 2 * clerk + torch.randn(n, generator=draws, dtype=torch.float64)
    savings = torch.randn(n, generator=draws, dtype=torch.float64)
    rows = torch.stack([1 - clerk, clerk, skill, savings], dim=1)
    quick = TrainingSettings(epochs=60, batch_size=40, learning_rate=2e-2)
    flow = CausalFlow(schema, FlowSettings(hidden=(4,), training=quick, alternatives=8))
    flow.fit(flow.encoding.decode(rows))
    classifier = linear(schema, [0.0, 0.0, 1.0, 1.0], -1.6)
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).double()
    plain, sure = (
        ExactSolver(flow, classifier, settings=ExactSettings(validity=validity)).solve(x)
        for validity in (None, 0.99)
    )
    # Becoming a clerk brings about 2, give or take what so few rows leave open.
    assert plain.mask.tolist() == [[True, True, False, False]]
    assert 0.5 < plain.expected_validity[0] < 0.99
    assert sure.mask.tolist() == [[True, True, False, True]]
    assert sure.expected_validity[0] >= 0.99 - 1e-6
    # Whom the move alone makes sure enough, need no more.
    modest = ExactSettings(validity=0.5)
    assert torch.equal(ExactSolver(flow, classifier, settings=modest).solve(x).mask, plain.mask)
