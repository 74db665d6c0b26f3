"""Methods on a real table: what is measured, what is refused, what the command prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from carma import CarmaSettings, ClassifierSettings, MixedSettings, TrainingSettings
from carma.benchmarks import data_folder, load_real, problem_file
from carma.benchmarks.real import FILES
from carma.cli.app import app
from carma.errors import FileError, SettingsError
from carma.evaluation.real_arena import REAL_METHODS, RealArena
from carma.evaluation.real_comparison import REAL_FIELDS, RealKey, compare_real, measure_real
from carma.evaluation.survival import reread
from carma.problem import Problem
from carma.recourse.result import RecourseResult

TAIWAN = "taiwan_credit"
PEOPLE, SEARCHED = 4, 3


def quick(name: str) -> Problem:
    few = TrainingSettings(epochs=6, batch_size=128)
    small = CarmaSettings(lessons=30, mask_hidden=(8,), action_hidden=(8,))
    return replace(
        Problem.from_toml(problem_file(name)),
        classifier=ClassifierSettings((4,), TrainingSettings(epochs=15)),
        causal_model=MixedSettings(hidden=(4,), training=few, alternatives=2, draws=1),
        solver=replace(small, training=few, rehearsal=few),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up table with the columns of the Taiwanese one: late payers default."""
    draws, n = np.random.default_rng(0), 600
    late = draws.choice([-2, -1, 0, 1, 2, 3], n)
    table = pd.DataFrame(
        {
            "SEX": draws.integers(1, 3, n),
            "AGE": draws.integers(21, 70, n),
            "EDUCATION": draws.integers(0, 7, n),
            "MARRIAGE": draws.integers(0, 4, n),
            "LIMIT_BAL": 10_000 * draws.integers(1, 60, n),
            "PAY_AMT2": draws.integers(0, 9_000, n),
            "PAY_2": np.clip(late + draws.integers(-1, 2, n), -2, 8),
            "BILL_AMT2": draws.integers(-500, 90_000, n),
            "PAY_AMT1": draws.integers(0, 9_000, n),
            "PAY_0": late,
            "BILL_AMT1": draws.integers(-500, 90_000, n),
        }
    )
    table["default"] = (late + draws.normal(0, 1, n) > 1.2).astype(int)
    path = tmp_path_factory.mktemp("real")
    table.to_csv(path / FILES[TAIWAN], index=False)
    return path


@pytest.fixture(scope="module")
def arena(folder: Path) -> RealArena:
    return RealArena(load_real(TAIWAN, folder), quick(TAIWAN), "logistic", PEOPLE, SEARCHED)


@pytest.fixture(autouse=True, scope="module")
def calls() -> Iterator[None]:
    """One call is timed alone, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("carma.evaluation.real_comparison.SINGLE", 1)
        yield


@pytest.fixture(scope="module")
def records(folder: Path) -> dict[str, dict[str, Any]]:
    found = compare_real(
        [TAIWAN],
        ["exact", "carma", "noncausal"],
        ["logistic"],
        folder=folder,
        people=PEOPLE,
        search_people=SEARCHED,
        problem=quick,
        progress=False,
    )
    return {record["method"]: record for record in found}


def test_records_hold_every_field_and_are_json(records: dict[str, dict[str, Any]]) -> None:
    assert list(records) == ["exact", "carma", "noncausal"]
    for method, record in records.items():
        assert set(record) == set(REAL_FIELDS)
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert record["n_people"] == (PEOPLE if method == "carma" else SEARCHED)
        assert record["n_searched"] == SEARCHED
        assert record["violations"] == 0 == record["lost_in_file"]
        assert 0 <= record["verified"] <= record["coverage"] <= 100


def test_the_search_is_its_own_yardstick(records: dict[str, dict[str, Any]]) -> None:
    exact = records["exact"]
    assert exact["cost_ratio"] == exact["cost_ratio_same_margin"] == pytest.approx(1.0)
    assert exact["coverage_of_search"] == exact["validity"] == 100.0
    assert records["carma"]["cost_ratio"] >= 1 - 1e-9


def test_finished_records_are_skipped(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    done = {RealKey.of(record) for record in records.values()}
    again = compare_real(
        [TAIWAN],
        list(records),
        ["logistic"],
        folder=folder,
        people=PEOPLE,
        search_people=SEARCHED,
        problem=quick,
        done=done,
        progress=False,
    )
    assert list(again) == []


def test_the_rival_has_seen_other_rows(arena: RealArena) -> None:
    result = arena.carma.recommend(arena.people)
    own, other = arena.works(result), arena.works(result, arena.rival)
    assert torch.equal(own, result.plans.has_plan)
    assert (other <= result.plans.has_plan).all()
    told = zip(result.plans.expected_validity.tolist(), other.tolist(), own.tolist(), strict=True)
    known = [(validity, agrees) for validity, agrees, has_plan in told if has_plan]
    sure = [agrees for validity, agrees in known if validity > arena.settings.validity - 1e-6]
    assert sure
    record = measure_real(arena, REAL_METHODS["carma"])
    assert record["agreement"] == pytest.approx(100 * sum(a for _, a in known) / len(known))
    assert record["agreement_at_target"] == pytest.approx(100 * sum(sure) / len(sure))
    frames = [arena.data.frame(part) for part in ("causal", "rival")]
    assert set(frames[0].index).isdisjoint(frames[1].index)
    x = arena.data.encoded("causal")[:50]
    apart = arena.causal_model.log_prob(x) - arena.rival.log_prob(x)
    assert float(apart.abs().max()) > 1e-3


def test_plans_that_break_a_limit_are_not_verified(
    arena: RealArena,
    records: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = RecourseResult.to_frame

    def bent(result: RecourseResult) -> Any:
        frame = original(result)
        frame["after_AGE"] = frame["after_AGE"] + 1
        return frame

    before = records["exact"]
    monkeypatch.setattr(RecourseResult, "to_frame", bent)
    after = measure_real(arena, REAL_METHODS["exact"])
    n_plans = round(before["coverage"] * before["n_people"] / 100)
    assert n_plans > 0
    assert after["violation_rules"] == {"moved": n_plans}
    assert (before["verified"], after["verified"]) == (before["coverage"], 0.0)


def test_plans_that_a_file_rounds_off_are_counted(
    arena: RealArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undone(result: RecourseResult) -> Any:
        x, do = reread(result)
        return x, type(do)(torch.zeros_like(do.mask), x)

    monkeypatch.setattr("carma.evaluation.real_comparison.reread", undone)
    record = measure_real(arena, REAL_METHODS["exact"])
    assert record["lost_in_file"] > 0
    assert record["verified"] == 0.0


def test_wrong_names_and_numbers_are_refused_before_any_fit(folder: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"datasets": ["loan"]}, "'datasets' must be of south_german_credit"),
        ({"methods": ["grid"]}, "'methods' must be of exact"),
        ({"classifiers": []}, "'classifiers' must name at least one"),
        ({"people": 0}, "'people' must be at least 1"),
        ({"rows": 3}, "'rows' must be at least 20"),
        ({"search_people": 0}, "'search_people' must be at least 1"),
    ):
        with pytest.raises(SettingsError, match=message):
            compare_real(**{"folder": folder, **options})  # type: ignore[arg-type]
    with pytest.raises(FileError, match="'folder' must be an existing folder"):
        compare_real([TAIWAN], folder=tmp_path / "nowhere")
    assert data_folder(folder) == folder


def test_the_command_measures_and_goes_on_later(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carma.evaluation.real_comparison._own_problem", quick)
    out = tmp_path / "real.jsonl"
    words = f"benchmark --datasets {TAIWAN} --methods exact --classifier logistic --people 3"
    words += " --search-people 2"
    words += f" --data-dir {folder} --json {out}"
    first = CliRunner().invoke(app, words.split())
    assert first.exit_code == 0, first.output
    assert "1 new records" in first.output
    assert "Real tables" in first.output
    assert "0 new records" in CliRunner().invoke(app, words.split()).output
    (line,) = out.read_text().splitlines()
    assert json.loads(line)["n_people"] == 2


def test_the_command_refuses_a_mixture(folder: Path) -> None:
    for words, message in (
        (f"--datasets real loan --data-dir {folder}", "'datasets' must be of south_german_credit"),
        ("--datasets loan --classifier mlp", "'--classifier' must be left out"),
        ("--datasets loan --search-people 9", "'--search-people' must be left out"),
    ):
        found = CliRunner().invoke(app, ["benchmark", *words.split()])
        assert isinstance(found.exception, SettingsError)
        assert message in str(found.exception)


def test_adult_with_gaps_goes_through_moves_and_years_included(
    folder: Path, tmp_path: Path
) -> None:
    """A made-up Adult: managers and doctors earn more, and some cells are empty."""
    schema = Problem.from_toml(problem_file("adult")).schema
    draws, n = np.random.default_rng(0), 400
    table = pd.DataFrame(
        {
            f.name: draws.choice(list(f.levels), n) if f.has_levels else draws.integers(20, 60, n)
            for f in schema.features
        }
    )
    good = 0.6 * table["education_num"] + 1.5 * (table["occupation"] == "Exec-managerial")
    table["income"] = np.where(good + draws.normal(0, 1, n) > 6.5, ">50K", "<=50K")
    for name in ("workclass", "occupation", "native_country"):
        table[name] = table[name].astype(object).mask(draws.random(n) < 0.1)
    table.to_csv(tmp_path / FILES["adult"], index=False)
    adult = RealArena(load_real("adult", tmp_path), quick("adult"), "logistic", 20, 1)
    record = measure_real(adult, REAL_METHODS["carma"])
    assert record["violation_rules"] == {}
    assert record["lost_in_file"] == 0
    assert record["verified"] == record["coverage"] > 0
    asked = adult.people
    assert asked[["workclass", "occupation", "native_country"]].isna().any(axis=None)
    plans = adult.answers(adult.carma).to_frame()
    plans = plans[plans["cost"].notna()]
    studies = plans["do_education_num"].notna()
    own = asked.loc[plans.index]
    years = (plans["after_education_num"] - own["education_num"]).where(studies, 0)
    assert (plans["after_age"] - own["age"] == years).all()
    assert studies.any()
    assert plans[["do_workclass", "do_occupation"]].notna().any(axis=None)
