"""The examples run on real rows, and what they answer can be acted on."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from carma import CarmaSettings, ClassifierSettings, MixedSettings, TrainingSettings
from carma.benchmarks import read_real
from carma.evaluation.violations import violations
from carma.problem import Problem
from carma.recourse.status import Status
from carma.schema import Feature

CHECKOUT = Path(__file__).parents[1]
EXAMPLE = CHECKOUT / "examples" / "south_german_credit.py"
REAL = Path(os.environ.get("CARMA_DATA", CHECKOUT.parent / "shared" / "data" / "real"))
CREDIT = REAL / "german_credit.csv"

needs_table = pytest.mark.skipif(
    not CREDIT.exists(), reason="the South German Credit table is not next to the checkout"
)


def _with_plan(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[Status(status).has_plan for status in frame["status"]]]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return _load(EXAMPLE)


def _quick(path: Path) -> Problem:
    """The example's problem with short fits, which serve for the laws of plans."""
    few = TrainingSettings(epochs=20, batch_size=128)
    small = CarmaSettings(lessons=60, mask_hidden=(16,), action_hidden=(16,))
    return replace(
        Problem.from_toml(path),
        classifier=ClassifierSettings((8,), TrainingSettings(epochs=40)),
        causal_model=MixedSettings(hidden=(4,), training=few, alternatives=3, draws=2),
        solver=replace(small, training=few, rehearsal=few),
    )


@pytest.fixture(scope="module")
def outcome(example: ModuleType) -> Any:
    problem = _quick(EXAMPLE.with_suffix(".toml"))
    return example.run(example.read_credit(CREDIT), problem=problem)


@pytest.fixture(scope="module")
def plans(outcome: Any) -> pd.DataFrame:
    return _with_plan(outcome.result.to_frame())


@pytest.fixture(scope="module")
def reached(outcome: Any, plans: pd.DataFrame) -> pd.DataFrame:
    """The people as they are after their plans, told by the frame alone."""
    people: pd.DataFrame = outcome.people.loc[plans.index, list(outcome.schema.names)].copy()
    for name in people.columns:
        if f"after_{name}" in plans:
            people[name] = plans[f"after_{name}"].astype("int64")
    return people


def test_without_a_network_the_example_says_what_to_do(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(example, "fetch_openml", fail)
    with pytest.raises(SystemExit, match=r"pass it with --data"):
        example.read_credit(None)


def test_another_table_is_refused_with_the_missing_columns(
    example: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("laufkont,laufzeit\n1,2\n")
    with pytest.raises(SystemExit, match=r"lacks .*'credit_history'"):
        example.read_credit(path)


@needs_table
def test_the_original_file_with_german_names_is_read_too(
    example: ModuleType, tmp_path: Path
) -> None:
    english = example.read_credit(CREDIT)
    german = english.rename(columns={new: old for old, new in example.ENGLISH.items()})
    path = tmp_path / "SouthGermanCredit.asc"
    german.to_csv(path, sep=" ", index=False)
    pd.testing.assert_frame_equal(example.read_credit(path), english)


@needs_table
def test_everyone_asked_was_rejected_and_has_a_status(outcome: Any, plans: pd.DataFrame) -> None:
    frame = outcome.result.to_frame()
    assert list(frame.index) == list(outcome.people.index)
    assert sum(outcome.result.counts().values()) == len(frame) == outcome.metrics.n_people
    assert (frame["probability_before"] < outcome.schema.threshold).all()
    assert frame.loc[~frame.index.isin(plans.index), "after_duration"].isna().all()
    assert len(plans) >= 0.8 * len(frame)


@needs_table
def test_the_pipeline_itself_accepts_every_plan(
    outcome: Any, plans: pd.DataFrame, reached: pd.DataFrame
) -> None:
    favourable = list(outcome.pipeline.classes_).index(outcome.schema.favourable)
    probability = outcome.pipeline.predict_proba(reached)[:, favourable]
    assert (probability >= outcome.schema.threshold).all()
    told = plans["probability_after"].to_numpy(dtype=float)
    assert probability == pytest.approx(told, abs=1e-6)


@needs_table
def test_every_plan_can_be_done(outcome: Any, plans: pd.DataFrame) -> None:
    schema = outcome.schema
    for name in schema.actionable:
        feature = schema[name]
        actions = plans[f"do_{name}"].dropna().astype("int64")
        own = outcome.people.loc[actions.index, name]
        assert _exists(feature, actions, own).all(), name
        if feature.direction == "up":
            assert (actions >= own).all(), name
        if feature.moves:
            costs = pd.DataFrame(feature.move_costs, feature.levels, feature.levels)
            pairs = zip(own, actions, strict=True)
            assert all(costs.loc[pair] < float("inf") for pair in pairs), name
        assert (actions == plans.loc[actions.index, f"after_{name}"]).all(), name


@needs_table
def test_what_follows_exists_and_the_rest_stays(
    outcome: Any, plans: pd.DataFrame, reached: pd.DataFrame
) -> None:
    people = outcome.people.loc[reached.index]
    for name in ("personal_status_sex", "foreign_worker"):
        assert (reached[name] == people[name]).all(), name
    stays = plans["do_employment_duration"].isna()
    assert (reached["age"] == people["age"])[stays].all()
    for feature in outcome.schema.features:
        if feature.has_levels:
            assert reached[feature.name].isin(feature.levels).all(), feature.name
        elif feature.bounds is not None:
            assert reached[feature.name].between(*feature.bounds).all(), feature.name
    assert violations(outcome.schema, people, plans).empty


@needs_table
def test_the_example_prints_a_summary_and_one_plan(
    example: ModuleType,
    outcome: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(example, "run", lambda *_: outcome)
    monkeypatch.setattr(sys, "argv", ["south_german_credit.py", "--data", str(CREDIT)])
    example.main()
    printed = capsys.readouterr().out
    assert f"Rejected held-out applicants: {outcome.metrics.n_people}" in printed
    assert "What to do:" in printed


@pytest.mark.parametrize("name", ["adult", "taiwan_credit"])
def test_the_other_examples_answer_with_plans_that_hold(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (REAL / "graphs.json").exists():
        pytest.skip("the real tables are not next to the checkout")
    module = _load(CHECKOUT / "examples" / f"{name}.py")
    problem = _quick(module.PROBLEM)
    table = read_real(name, REAL).sample(1000, random_state=0)
    found = module.run(problem, table, "logistic", 20)
    plans = _with_plan(found.result.to_frame())
    assert len(plans) > 0
    assert violations(problem.schema, found.people, plans).empty
    assert (plans["probability_after"] >= problem.schema.threshold).all()
    monkeypatch.setattr(module, "run", lambda *_: found)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--data-dir", str(REAL), "--rows", "100"])
    module.main()
    assert "What to do:" in capsys.readouterr().out


def _exists(feature: Feature, values: pd.Series[Any], own: pd.Series[Any]) -> pd.Series[Any]:
    """Whether each value is a level or a step inside the bounds, or the person's own."""
    if feature.has_levels:
        return values.isin(feature.levels)
    assert feature.bounds is not None
    low, high = feature.bounds
    is_inside = (values >= low) & (values <= high)
    return is_inside & ((values - low) % (feature.step or 1) == 0) | (values == own)
