"""Classifiers by name learn from tables with levels of every kind, and say the same as theirs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from carma import CausalGraph, ClassifierSettings, Feature, Schema, TrainingSettings
from carma.classifiers.named import CLASSIFIERS, fit_named
from carma.errors import SettingsError

SCHEMA = Schema(
    (
        Feature("job", "nominal", levels=("cook", "clerk", "judge", "none"), role="immutable"),
        Feature("rank", "ordinal", levels=("low", "high"), role="actionable"),
        Feature("code", "nominal", levels=(3, 1, 2)),
        Feature("income", role="actionable"),
    ),
    CausalGraph(("job", "rank", "code", "income")),
    outcome="late",
    favourable="no",
)
SETTINGS = ClassifierSettings((8,), TrainingSettings(epochs=60, batch_size=64))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    draws = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            # "none" is never seen, but may be asked about.
            "job": draws.choice(["cook", "clerk", "judge"], 400),
            "rank": draws.choice(["low", "high"], 400),
            "code": draws.choice([1, 2, 3], 400),
            "income": draws.normal(0, 1, 400),
        }
    )
    score = table["income"] + (table["rank"] == "high") - (table["job"] == "cook")
    table["late"] = np.where(score + draws.normal(0, 0.3, 400) > 0, "no", "yes")
    return table


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_learns_who_is_accepted(name: str, table: pd.DataFrame) -> None:
    if name in ("lightgbm", "xgboost"):
        pytest.importorskip(name)
    classifier = fit_named(name, SCHEMA, table, SETTINGS)
    assert classifier.has_slope == (name in ("logistic", "mlp"))
    x = classifier.encoding.encode(table)
    is_right = (classifier.probability(x).numpy() >= 0.5) == (table["late"] == "no")
    assert is_right.mean() > 0.85
    strange = table.head(5).assign(job="none")
    probability = classifier.probability(classifier.encoding.encode(strange))
    assert bool(((probability > 0) & (probability < 1)).all())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_same_seed_gives_the_same_classifier(name: str, table: pd.DataFrame) -> None:
    if name in ("lightgbm", "xgboost"):
        pytest.importorskip(name)
    first, second = (fit_named(name, SCHEMA, table, SETTINGS) for _ in range(2))
    x = first.encoding.encode(table)
    assert (first.probability(x) == second.probability(x)).all()


def test_other_names_are_refused(table: pd.DataFrame) -> None:
    with pytest.raises(SettingsError, match="'name' must be one of logistic, mlp, lightgbm"):
        fit_named("oracle", SCHEMA, table)
