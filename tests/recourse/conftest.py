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
    Carma,
    CarmaSettings,
    CausalFlow,
    CausalGraph,
    CausalModel,
    Classifier,
    Feature,
    FlowSettings,
    Intervention,
    Schema,
    Solver,
    SquaredCost,
    Status,
    TrainingSettings,
)
from carma.benchmarks import Benchmark, load
from carma.classifiers.network import Input, NetworkClassifier
from carma.constraints import Limits
from carma.recourse.proposal import Proposal
from carma.state import State

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

    def _propose(self, x: Tensor, u: Tensor, limits: Limits) -> Proposal:
        assert limits.lower.shape == x.shape
        return Proposal(self.say(x, u), torch.ones(len(x), dtype=torch.long))

    def state(self) -> State:
        return State({})

    @classmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: SquaredCost, state: State
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
def chain_solver(chain: Benchmark, chain_classifier: NetworkClassifier) -> Carma:
    """Known equations and logistic regression: the optimum has a closed form."""
    settings = CarmaSettings(
        mask_hidden=(16,),
        action_hidden=(16, 16),
        training=TrainingSettings(epochs=40, batch_size=64, learning_rate=1e-2),
    )
    solver = Carma(chain.scm, chain_classifier, cost=chain.cost, settings=settings)
    return solver.fit(chain.frame("recourse"), progress=False)


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
def mixed_solver(mixed_people: pd.DataFrame, linear: LinearClassifier) -> Carma:
    """A learned model with whole numbers, levels, steps, bounds and directions."""
    quick = TrainingSettings(epochs=30, batch_size=64, learning_rate=1e-2)
    flow = CausalFlow(MIXED, FlowSettings(hidden=(16,), training=quick)).fit(mixed_people)
    classifier = linear(MIXED, [0.0, 0.2, 0.05, -0.3, 0.2, 0.5], -3.0)
    settings = CarmaSettings(mask_hidden=(16,), action_hidden=(16, 16), training=quick)
    return Carma(flow, classifier, settings=settings).fit(mixed_people, progress=False)


@pytest.fixture(scope="session")
def mixed_outcome(mixed_solver: Carma, mixed_people: pd.DataFrame) -> Any:
    return mixed_solver.recommend(mixed_people)
