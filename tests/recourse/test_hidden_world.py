"""The one move that helps looks worst before a number is set."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from carma import (
    Carma,
    CarmaSettings,
    CausalGraph,
    Feature,
    MixedFlow,
    MixedSettings,
    Schema,
    Status,
    TrainingSettings,
)
from carma.classifiers.network import Input, NetworkClassifier
from carma.recourse.result import RecourseResult

JOBS = tuple("abcdefgh")
SCHEMA = Schema(
    (
        Feature("job", "nominal", levels=JOBS, role="actionable"),
        Feature("hours", bounds=(0.0, 1.0), role="actionable"),
    ),
    CausalGraph(("job", "hours")),
)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    draws = np.random.default_rng(0)
    return pd.DataFrame({"job": draws.choice(JOBS[:-1], 300), "hours": draws.uniform(0, 0.2, 300)})


@pytest.fixture(scope="module")
def answers(table: pd.DataFrame) -> RecourseResult:
    few = TrainingSettings(epochs=8, batch_size=64)
    rows = pd.concat([table, table.head(20).assign(job="h")], ignore_index=True)
    model = MixedFlow(SCHEMA, MixedSettings(training=few, alternatives=0)).fit(rows)
    # -1 - 0.1 * hours in every job but the last, where it is -2.5 + 2.9 * hours.
    first = torch.zeros(3, 9)
    first[0, 7], first[0, 8], first[1, 7], first[2, 8] = 3.0, 3.0, 1.0, 1.0
    weights = [first, torch.tensor([[1.0, -1.5, -0.1]])]
    biases = [torch.tensor([-3.0, 0.0, 0.0]), torch.tensor([-1.0])]
    classifier = NetworkClassifier(SCHEMA, [Input(i) for i in range(9)], weights, biases)
    small = CarmaSettings(
        lessons=300, action_hidden=(16,), fallback=False, training=few, rehearsal=few
    )
    solver = Carma(model, classifier, settings=small).fit(table)
    # Fewer moves are followed up at first than there are before it.
    assert solver.most_worlds is not None
    assert solver.most_worlds < len(JOBS) - 2
    return solver.recommend(table.head(40))


def test_it_is_found_without_a_search(answers: RecourseResult) -> None:
    assert set(answers.counts()) == {Status.REFINED}
    plans = answers.plans
    assert plans.mask.all()
    assert (plans.values[:, 7] == 1).all()


def test_the_number_is_set_no_further_than_it_takes(answers: RecourseResult) -> None:
    torch.testing.assert_close(
        answers.plans.values[:, 8], torch.full((40,), 2.5 / 2.9).double(), rtol=1e-3, atol=0
    )
