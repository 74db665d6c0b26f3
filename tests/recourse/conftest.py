"""Small problems and a solver that proposes what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import (
    CausalFlow,
    CausalGraph,
    CausalModel,
    Classifier,
    Feature,
    FlowSettings,
    Intervention,
    PublishedCarma,
    PublishedSettings,
    Schema,
    Solver,
    SquaredCost,
    Status,
    TrainingSettings,
)
from carma.benchmarks import Benchmark, load, random_scm
from carma.classifiers.network import Activation, Input, NetworkClassifier
from carma.constraints import Limits, PlanLimits
from carma.costs import Cost
from carma.recourse.proposal import Proposal
from carma.recourse.target import People, Target
from carma.state import State, seeded
from carma.table import Statistics

Say = Callable[[Tensor, Tensor], Intervention]
MakeStub = Callable[[CausalModel, Classifier, Say], Solver]


class StubSolver(Solver):
    """Proposes what a function says."""

    kind: ClassVar[str] = "stub"
    found: ClassVar[Status] = Status.AMORTIZED

    def __init__(self, causal_model: CausalModel, classifier: Classifier, say: Say) -> None:
        super().__init__(causal_model, classifier)
        self.say = say

    @property
    def is_fitted(self) -> bool:
        return True

    def _fit(self, x: Tensor, progress: bool | None) -> None: ...

    @property
    def margin(self) -> float:
        return 0.0

    def _propose(self, people: People, n_plans: int) -> Proposal:  # noqa: ARG002
        assert people.limits.lower.shape == people.x.shape
        return Proposal(self.say(people.x, people.u), torch.ones(len(people), dtype=torch.long))

    def state(self) -> State:
        return State({})

    @classmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: Cost, state: State
    ) -> Self:
        raise NotImplementedError


@pytest.fixture(scope="session")
def stub() -> MakeStub:
    return StubSolver


LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]


@pytest.fixture(scope="session")
def linear() -> LinearClassifier:
    """Logistic regression with given weights, one for each column, and bias."""

    def build(schema: Schema, weights: list[float], bias: float) -> NetworkClassifier:
        inputs = [Input(i) for i in range(len(weights))]
        return NetworkClassifier(schema, inputs, [torch.tensor([weights])], [torch.tensor([bias])])

    return build


@pytest.fixture(scope="session")
def chain() -> Benchmark:
    return load("chain-lin", rows=800)


@pytest.fixture(scope="session")
def chain_classifier(chain: Benchmark, linear: LinearClassifier) -> NetworkClassifier:
    return linear(chain.schema, [0.0, 1.0, 0.5, 1.0], -0.25)


@pytest.fixture(scope="session")
def chain_solver(chain: Benchmark, chain_classifier: NetworkClassifier) -> PublishedCarma:
    """Known equations and logistic regression: the optimum has a closed form."""
    settings = PublishedSettings(
        mask_hidden=(16,),
        action_hidden=(16, 16),
        training=TrainingSettings(epochs=40, batch_size=64, learning_rate=1e-2),
    )
    solver = PublishedCarma(chain.scm, chain_classifier, cost=chain.cost, settings=settings)
    return solver.fit(chain.frame("recourse"), progress=False)


LinearProblem = tuple[Target, SquaredCost, PlanLimits, People, Tensor, Tensor]


@pytest.fixture(scope="session")
def linear_problem(linear: LinearClassifier) -> Callable[..., LinearProblem]:
    """A random linear problem: target, cost, limits, rejected people, effects and weights.

    ``room`` shrinks the boxes, so that more of the bounds are met.
    """

    def build(
        seed: int, n_features: int = 6, n_actionable: int = 4, n: int = 12, room: float = 1.0
    ) -> LinearProblem:
        scm = random_scm(n_features, n_actionable, seed=seed, expected_parents=2, nonlinear=False)
        rows = scm.sample(200, seed=seed)
        scm.statistics_ = Statistics.of(rows)
        weights = torch.randn(n_features, generator=seeded(seed), dtype=torch.float64)
        bias = -float((rows @ weights).quantile(0.8))
        classifier = linear(scm.schema, weights.tolist(), bias)
        exact = classifier.linear_weights
        effects = scm.direct_effects
        assert exact is not None
        assert effects is not None
        limits = PlanLimits(scm.encoding, scm.statistics_)
        x = rows[classifier.probability(rows) < 0.5][:n]
        box = limits.around(x)
        narrow = Limits(x + room * (box.lower - x), x + room * (box.upper - x), box.may_act)
        people = People(x, scm.abduct(x), narrow)
        target = Target(scm.counterfactual, classifier, limits, 0.0)
        cost = SquaredCost(scm.encoding, scm.statistics_)
        return target, cost, limits, people, effects, exact[0]

    return build


CurvedProblem = tuple[Target, SquaredCost, PlanLimits, People]


@pytest.fixture(scope="session")
def curved_problem() -> Callable[..., CurvedProblem]:
    """A random smooth problem: target, cost, limits and rejected people.

    ``wrap`` makes the classifier from a network's schema, inputs, weights and biases.
    """

    def build(
        seed: int,
        n_features: int = 6,
        n_actionable: int = 3,
        n: int = 8,
        wrap: type[NetworkClassifier] = NetworkClassifier,
        activation: Activation = "tanh",
    ) -> CurvedProblem:
        scm = random_scm(n_features, n_actionable, seed=seed, expected_parents=2)
        rows = scm.sample(200, seed=seed)
        scm.statistics_ = Statistics.of(rows)
        draws = seeded(seed)
        layers = [torch.randn(8, n_features, generator=draws), torch.randn(1, 8, generator=draws)]
        biases = [torch.randn(8, generator=draws), torch.zeros(1)]
        inputs = [Input(i) for i in range(n_features)]
        plain = NetworkClassifier(scm.schema, inputs, layers, biases, activation)
        biases[1] = -plain.logit(rows).quantile(0.8)[None]
        classifier = wrap(scm.schema, inputs, layers, biases, activation)
        limits = PlanLimits(scm.encoding, scm.statistics_)
        x = rows[classifier.probability(rows) < 0.5][:n]
        people = People(x, scm.abduct(x), limits.around(x))
        target = Target(scm.counterfactual, classifier, limits, 0.0)
        return target, SquaredCost(scm.encoding, scm.statistics_), limits, people

    return build


MIXED = Schema(
    (
        Feature("age", "integer", bounds=(18, 99), role="immutable"),
        Feature("course", "ordinal", levels=("none", "basic", "full"), role="actionable"),
        Feature(
            "hours", "integer", bounds=(0, 60), step=5, role="actionable", direction="up", unit="h"
        ),
        Feature("debt", bounds=(0.0, 50.0), role="actionable", direction="down"),
        Feature("income", unit="EUR"),
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


@pytest.fixture(scope="session")
def mixed_people() -> pd.DataFrame:
    """People described by every kind of feature, with names as the index."""
    rng = np.random.default_rng(0)
    n = 400
    age = rng.integers(18, 80, n)
    course = rng.integers(0, 3, n)
    hours = np.clip(5 * np.rint((30 + 0.1 * age + 8 * rng.normal(size=n)) / 5), 0, 60).astype(int)
    income = 10 + 0.1 * age + 4 * course + 0.5 * hours + 2 * rng.normal(size=n)
    return pd.DataFrame(
        {
            "age": age,
            "course": np.array(["none", "basic", "full"])[course],
            "hours": hours,
            "debt": np.clip(20 + 8 * rng.normal(size=n), 0, 50),
            "income": income,
            "member": income + 4 * rng.normal(size=n) > 35,
        },
        index=[f"person {i}" for i in range(n)],
    )


@pytest.fixture(scope="session")
def mixed_solver(mixed_people: pd.DataFrame, linear: LinearClassifier) -> PublishedCarma:
    """A learned model with whole numbers, levels, steps, bounds and directions."""
    quick = TrainingSettings(epochs=30, batch_size=64, learning_rate=1e-2)
    flow = CausalFlow(MIXED, FlowSettings(hidden=(16,), training=quick)).fit(mixed_people)
    classifier = linear(MIXED, [0.0, 0.2, 0.05, -0.3, 0.2, 0.5], -3.0)
    settings = PublishedSettings(mask_hidden=(16,), action_hidden=(16, 16), training=quick)
    return PublishedCarma(flow, classifier, settings=settings).fit(mixed_people, progress=False)


@pytest.fixture(scope="session")
def mixed_outcome(mixed_solver: PublishedCarma, mixed_people: pd.DataFrame) -> Any:
    return mixed_solver.recommend(mixed_people)
