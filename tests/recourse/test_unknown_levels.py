"""Nobody is told to move to a level that no training row has, and who is there is told why."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests.cli.test_commands import run

import carma
from carma import (
    CarmaSettings,
    CausalGraph,
    CausalModel,
    ExactSolver,
    Feature,
    Intervention,
    MixedFlow,
    MixedSettings,
    NonCausalOptimum,
    Schema,
    Solver,
    Status,
    TrainingSettings,
    WithDerived,
    from_estimator,
)
from carma.table import Encoding

QUICK = TrainingSettings(epochs=3, batch_size=256)
JOBS = ("clerk", "cook", "nurse")
INCOME = "income"


def features(*, derived: bool) -> tuple[Feature, ...]:
    own = (
        Feature("job", "nominal", levels=JOBS, role="actionable"),
        Feature(INCOME, role="actionable", direction="up"),
    )
    return (*own, Feature("monthly", formula="income / 12")) if derived else own


def schema(*, derived: bool = False) -> Schema:
    some = features(derived=derived)
    graph = CausalGraph(tuple(f.name for f in some), (("job", INCOME),))
    return Schema(some, graph, outcome="paid", favourable=1)


def people(n: int = 400) -> pd.DataFrame:
    draws = np.random.default_rng(0)
    job = draws.choice(JOBS, n)
    income = draws.normal(40, 10, n) + 8 * (job == "nurse")
    table = pd.DataFrame({"job": job, INCOME: income})
    return table.assign(paid=(table[INCOME] + draws.normal(0, 3, n) > 50).astype(int))


@cache
def model(*, derived: bool = False) -> CausalModel:
    own = schema(derived=derived)
    made: CausalModel = MixedFlow(own.base if derived else own, MixedSettings(training=QUICK))
    made = WithDerived(own, made) if derived else made
    return made.fit(people().query("job != 'nurse'"))


def classifier() -> carma.Classifier:
    table = people()
    encoder = make_column_transformer((OneHotEncoder(), ["job"]), remainder="passthrough")
    pipeline = make_pipeline(encoder, LogisticRegression(max_iter=1000))
    # A nurse is accepted with less: a move to that job is the cheapest plan of many.
    decided = (table[INCOME] + 6 * (table["job"] == "nurse") > 50).astype(int)
    return from_estimator(pipeline.fit(table[["job", INCOME]], decided), schema())


def solvers() -> list[Solver]:
    parts: tuple[Any, ...] = (model(), classifier())
    learned = carma.Carma(*parts, settings=CarmaSettings(lessons=40, training=QUICK))
    return [learned, ExactSolver(*parts), NonCausalOptimum(*parts)]


@pytest.mark.parametrize("derived", [False, True])
def test_a_causal_model_tells_what_it_has_not_learned(*, derived: bool) -> None:
    made = model(derived=derived)
    unknown = made.unknown_levels.nonzero().squeeze(1).tolist()
    assert [made.encoding.columns[column] for column in unknown] == ["job=nurse"]


@pytest.mark.parametrize("place", range(3))
def test_nobody_is_sent_where_nobody_was_and_who_is_there_is_told(place: int) -> None:
    table, solver = people(), solvers()[place]
    solver.fit(table.query("job != 'nurse'"), progress=False)
    ask = table.head(150)
    result = solver.recommend(ask, progress=False)
    statuses = result.statuses
    before = solver.classifier.accepts(solver.encoding.encode(ask)).numpy()
    is_nurse = (ask["job"] == "nurse").to_numpy()
    assert (is_nurse & ~before).any()
    assert (statuses[is_nurse & ~before] == Status.UNKNOWN_LEVEL.value).all()
    assert (statuses[~is_nurse] != Status.UNKNOWN_LEVEL.value).all()
    assert (statuses[before] == Status.ALREADY_ACCEPTED.value).all()
    plans = result.to_frame()
    assert not (plans["after_job"] == "nurse").any()
    moves = plans.get("do_job", pd.Series(dtype=object)).dropna()
    assert set(moves) <= {"clerk", "cook"}
    row = int(np.flatnonzero(statuses == Status.UNKNOWN_LEVEL.value)[0])
    assert "merge the level with another one" in result.explain(ask.index[row])


def test_a_move_there_is_outside_the_limits() -> None:
    solver = ExactSolver(model(), classifier())
    encoding: Encoding = solver.encoding
    x = encoding.encode(people().query("job == 'clerk'").head(2))
    for code, expected in ((1.0, True), (2.0, False)):
        do = Intervention.of(encoding, 2, job=code)
        assert solver.limits.permits(x, do, solver.limits.around(x)).tolist() == 2 * [expected]
    assert solver.limits.moves["job"].tolist() == 3 * [[True, True, False]]


def test_a_menu_holds_the_reason_once() -> None:
    solver = ExactSolver(model(), classifier())
    rows = people().query("job == 'nurse' and income < 20").head(3)
    menus = solver.menu(solver.encoding.encode(rows), n_plans=2)
    codes = [plans.status.tolist() for plans in menus]
    expected = (Status.UNKNOWN_LEVEL, Status.NO_OTHER)
    assert codes == [[status.code] * len(rows) for status in expected]
    assert torch.isnan(menus[0].cost).all()


def test_the_fit_of_a_problem_names_the_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = people().query("job != 'nurse'")
    table.to_csv(tmp_path / "people.csv", index=False)
    toml = schema().to_toml()
    fits = "[{0}]\n{1}training = {{ epochs = 40, learning_rate = 0.05 }}\n"
    parts = (("classifier", "hidden = []\n"), ("causal_model", 'kind = "mixed"\n'))
    text = "\n".join(
        [toml, *(fits.format(*part) for part in parts), fits.format("solver", "lessons = 40\n")]
    )
    (tmp_path / "problem.toml").write_text(text + '\n[data]\npath = "people.csv"\n')
    fit = ("fit", tmp_path / "problem.toml", "--out", tmp_path / "b.carma")
    assert run(*fit) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Nothing was learned about job=nurse, which no row has" in said
    assert run(*fit, "--json") == 0
    assert json.loads(capsys.readouterr().out)["unknown_levels"] == ["job=nurse"]
