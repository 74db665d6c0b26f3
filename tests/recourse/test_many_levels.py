"""More sets of features than can be tried, on steps and levels, with a nominal effect."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from carma import (
    Carma,
    CarmaSettings,
    CausalGraph,
    ExactSettings,
    ExactSolver,
    Feature,
    MixedSettings,
    Schema,
    TrainingSettings,
)
from carma.classifiers.network import Input, NetworkClassifier
from carma.models.mixed import MixedFlow

NAMES = tuple(f"x{i}" for i in range(7))
SCHEMA = Schema(
    (
        *(Feature(n, "ordinal", (0, 1, 2, 3), role="actionable") for n in NAMES),
        Feature("job", "nominal", levels=("cook", "clerk", "judge")),
    ),
    CausalGraph.from_parents({"job": ["x0", "x1"]}, [*NAMES, "job"]),
)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    draws = np.random.default_rng(0)
    table = pd.DataFrame({name: draws.integers(0, 4, 240) for name in NAMES})
    best = (table[["x0", "x1"]].sum(axis=1) / 2 + draws.normal(0, 0.5, 240)).round().clip(0, 2)
    table["job"] = np.array(["cook", "clerk", "judge"])[best.astype(int)]
    return table


@pytest.fixture(scope="module")
def parts(table: pd.DataFrame) -> tuple[MixedFlow, NetworkClassifier]:
    few = TrainingSettings(epochs=8, batch_size=64)
    settings = MixedSettings(hidden=(4,), training=few, alternatives=2, draws=1)
    model = MixedFlow(SCHEMA, settings).fit(table)
    weights = torch.tensor([[0.9, 0.7, 0.31, 0.23, 0.17, 0.11, 0.05, -1.0, 0.0, 1.0]])
    inputs = [Input(i) for i in range(10)]
    return model, NetworkClassifier(SCHEMA, inputs, [weights], [torch.tensor([-5.5])])


def test_carma_names_levels_only(
    table: pd.DataFrame, parts: tuple[MixedFlow, NetworkClassifier]
) -> None:
    few = TrainingSettings(epochs=8, batch_size=64)
    small = CarmaSettings(lessons=40, action_hidden=(16,), training=few, rehearsal=few)
    result = Carma(*parts, settings=small).fit(table).recommend(table.head(60))
    assert set(result.counts()) <= {"already_accepted", "refined", "searched"}
    named = result.plans.values[result.plans.mask]
    assert len(named) > 0
    assert torch.equal(named, named.round())


def test_the_search_sets_a_nominal_effect_as_a_whole(
    table: pd.DataFrame, parts: tuple[MixedFlow, NetworkClassifier]
) -> None:
    quick = ExactSettings(starts=2, keep=4, max_subsets=16)
    result = ExactSolver(*parts, settings=quick).recommend(table.head(20))
    jobs = result.plans.counterfactual[:, 7:]
    assert torch.equal(jobs.sum(dim=1), torch.ones(20, dtype=torch.float64))
    assert set(result.counts()) <= {"already_accepted", "searched"}
