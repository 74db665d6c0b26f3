"""Tuning: what is tried, what is kept, and which trial is taken."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carma import (
    CarmaSettings,
    ClassifierSettings,
    Decision,
    FlowSettings,
    PublishedSettings,
    TrainingSettings,
    Tuned,
    tune,
)
from carma.benchmarks import load
from carma.errors import FileError, SettingsError, TableError, TrainingError
from carma.evaluation import spaces, tuning
from carma.evaluation.metrics import Metrics
from carma.evaluation.spaces import Between, Settings, Space, chosen, space_of
from carma.evaluation.study import Study, quiet
from carma.evaluation.trials import Trial, pareto_front
from carma.problem import Problem

DATA = load("chain-lin", rows=300)
TABLE = DATA.frame("classifier")
FEW = TrainingSettings(epochs=3)
PARTS = ClassifierSettings((), TrainingSettings(epochs=20)), FlowSettings(training=FEW)
PROBLEM = Problem(DATA.schema, None, *PARTS, CarmaSettings(lessons=20, training=FEW, rehearsal=FEW))
PUBLISHED = replace(PROBLEM, solver=PublishedSettings(training=FEW))
SPACE: Space = {
    "rate": Between(1e-4, 1.0, is_log=True),
    "width": (8, 16, 32),
    "layers": range(1, 4),
}
MADE_FOR = {"problem": "this"}

costs = st.floats(0, 100, allow_nan=False)
found = st.lists(st.tuples(costs, st.sampled_from([0.0, 50.0, 99.5, 99.9, 100.0])), min_size=1)


def trial(number: int, cost: float, coverage: float) -> Trial:
    return Trial(number, CarmaSettings(), cost, coverage, 1.0, 1.0, 1.0)


def tuned(pairs: list[tuple[float, float]], coverage: float = 99.9) -> Tuned:
    trials = tuple(trial(number, *pair) for number, pair in enumerate(pairs))
    return Tuned(PROBLEM, trials, 40, coverage)


def smooth(choices: dict[str, Any]) -> dict[str, float]:
    """A cheap stand-in for a trial: dearer and safer with the rate."""
    rate = choices["rate"] * choices["width"]
    return {"cost_x100": rate + choices["layers"], "coverage": 100.0 * rate / (1 + rate)}


def searched(study: Study, n: int) -> list[dict[str, Any]]:
    with quiet():
        for _ in range(n):
            asked = study.ask()
            measured = smooth(asked.choices)
            fails = asked.choices["layers"] == 3
            study.tell(asked, {"error": "diverged"} if fails else measured)
    return [done.choices for done in study.finished]


def plain(trials: tuple[Trial, ...]) -> list[tuple[object, ...]]:
    """All but the times."""
    return [(t.number, t.settings, t.cost_x100, t.coverage, t.actions) for t in trials]


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Trials without fits: what was asked to be measured."""
    asked = list[Settings]()

    def measured(_: object, settings: Settings) -> dict[str, Any]:
        asked.append(settings)
        cost = 1000.0 * settings.training.learning_rate
        names = {"actions": 1.0, "ms_per_person": 0.1, "fit_seconds": 2.0, "n_people": 40}
        return {"cost_x100": cost, "coverage": 100.0, **names}

    monkeypatch.setattr(tuning._Ground, "measured", measured)
    monkeypatch.setattr(tuning._Ground, "of", lambda *_: object.__new__(tuning._Ground))
    return asked


@pytest.fixture
def quick_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real names with values that are fitted at once."""
    for name in ("CARMA", "PUBLISHED"):
        real = getattr(spaces, name)
        small = {n: v if isinstance(v, Between) else (2, 4) for n, v in real.items()}
        monkeypatch.setattr(spaces, name, small)


# The front and the choice.


@given(found)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(
    pairs: list[tuple[float, float]],
) -> None:
    trials = tuned(pairs).trials
    front = pareto_front(trials)
    assert front
    assert not any(other.dominates(best) for best in front for other in trials)
    for rest in set(trials) - set(front):
        assert any(best.dominates(rest) for best in front)
    assert list(front) == sorted(front, key=lambda t: t.cost_x100)
    steps = [t.coverage for t in front]
    assert steps == sorted(steps)
    assert pareto_front(front) == front


@given(found, st.floats(0, 100))
def test_the_choice_is_the_cheapest_that_covers_enough(
    pairs: list[tuple[float, float]], coverage: float
) -> None:
    result = tuned(pairs, coverage)
    enough = [t for t in result.trials if t.coverage >= coverage]
    if not enough:
        most = max(t.coverage for t in result.trials)
        enough = [t for t in result.trials if t.coverage == most]
    assert result.best.cost_x100 == min(t.cost_x100 for t in enough)
    assert result.best in enough
    assert result.best in result.front


def test_equal_trials_are_all_on_the_front_and_the_first_is_chosen() -> None:
    result = tuned([(2.0, 100.0), (1.0, 100.0), (1.0, 100.0)])
    assert [t.number for t in result.front] == [1, 2]
    assert result.best.number == 1


def test_a_cheap_mean_over_few_people_is_not_chosen() -> None:
    assert tuned([(5.0, 100.0), (0.5, 60.0)]).best.cost_x100 == 5.0
    assert tuned([(5.0, 100.0), (0.5, 60.0)], coverage=50).best.cost_x100 == 0.5


def test_the_saving_is_against_the_settings_as_given_at_enough_coverage() -> None:
    assert tuned([(4.0, 100.0), (3.0, 100.0)]).saving == pytest.approx(25.0)
    assert tuned([(4.0, 100.0), (5.0, 100.0)]).saving == 0.0
    assert tuned([(4.0, 90.0), (5.0, 100.0)]).saving is None
    assert tuned([(0.0, 100.0), (0.0, 100.0)]).saving is None
    assert Tuned(PROBLEM, (trial(1, 4.0, 100.0),), 40, 99.9, {0: "failed"}).saving is None


def test_no_trial_at_all_is_an_error_that_says_why() -> None:
    with pytest.raises(TrainingError, match="never finite"):
        Tuned(PROBLEM, (), 0, 99.9, {0: "never finite"})


# The choices.


@pytest.mark.parametrize("given_settings", [CarmaSettings(), PublishedSettings.table_5("loan")])
def test_every_corner_of_the_space_is_a_setting_that_a_problem_file_holds(
    given_settings: Settings,
) -> None:
    space = space_of(given_settings)
    for end in (0, -1):
        ends: dict[str, Any] = {
            name: ((values.low, values.high) if isinstance(values, Between) else values)[end]
            for name, values in space.items()
        }
        settings = chosen(given_settings, ends)
        assert settings.mask_hidden == (ends["mask_width"],) * ends["mask_layers"]
        assert settings.training.patience == settings.training.epochs == ends["training.epochs"]
        assert settings.training.seed == given_settings.training.seed
        content = asdict(settings)
        kept = "kl_weight" if isinstance(settings, PublishedSettings) else "validity"
        assert content[kept] == asdict(given_settings)[kept]
        problem = replace(PROBLEM, solver=settings)
        assert Problem.from_toml(problem.to_toml()) == problem


def test_the_published_space_holds_the_papers_results() -> None:
    """Every row of Table 5 can be found again."""
    space = space_of(PublishedSettings())
    for name in ("triangle-lin", "collider-nlin", "chain-nlin", "loan", "loan-weighted"):
        row = PublishedSettings.table_5(name)
        values = {
            "training.learning_rate": row.training.learning_rate,
            "training.epochs": row.training.epochs,
            "training.batch_size": row.training.batch_size,
            "mask_layers": len(row.mask_hidden),
            "mask_width": row.mask_hidden[0],
            "action_layers": len(row.action_hidden),
            "action_width": row.action_hidden[0],
            "margin": row.margin,
            "temperature": row.temperature,
        }
        assert values.keys() == space.keys()
        for key, value in values.items():
            allowed = space[key]
            if isinstance(allowed, Between):
                assert allowed.low <= value <= allowed.high
            else:
                assert value in allowed
        assert chosen(row, values) == row


# The study.


def test_a_study_that_stopped_asks_for_what_it_would_have(tmp_path: Path) -> None:
    """Past the random start of TPE, across failures, in memory or in a file."""
    once = searched(Study(SPACE, MADE_FOR, 3), 24)
    path = tmp_path / "study.jsonl"
    for n in (1, 14, 9):
        again = searched(Study(SPACE, MADE_FOR, 3, path), n)
    assert again == once
    assert searched(Study(SPACE, MADE_FOR, 4), 24) != once
    assert {3} < {choices["layers"] for choices in once}
    assert len({choices["rate"] for choices in once}) == 24


def test_a_trial_that_was_begun_and_not_finished_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    whole = searched(Study(SPACE, MADE_FOR, 0), 16)
    searched(Study(SPACE, MADE_FOR, 0, path), 12)
    with quiet():
        Study(SPACE, MADE_FOR, 0, path).ask()
    assert len(Study(SPACE, MADE_FOR, 0, path).finished) == 12
    assert searched(Study(SPACE, MADE_FOR, 0, path), 4) == whole


@pytest.mark.parametrize("n_bytes", [1, 5, 30, 200])
def test_a_journal_cut_short_goes_on(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "study.jsonl"
    searched(Study(SPACE, MADE_FOR, 0, path), 3)
    path.write_bytes(path.read_bytes()[:-n_bytes])
    study = Study(SPACE, MADE_FOR, 0, path)
    assert len(study.finished) == 2
    assert searched(study, 1) == searched(Study(SPACE, MADE_FOR, 0), 3)
    assert [json.loads(line)["op_code"] for line in path.read_text().splitlines()]


def test_a_journal_cut_anywhere_at_its_start_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    Study(SPACE, MADE_FOR, 0, path)
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        assert Study(SPACE, MADE_FOR, 0, path).finished == []
    with pytest.raises(FileError, match="same problem"):
        Study(SPACE, {"problem": "other"}, 0, path)


@pytest.mark.parametrize(
    "content",
    ["hello", "a,b\n1,2\n", '{"dataset": "loan"}\n', '{"op_code":0}\n', '{"op_code":77}\n', "\n"],
)
def test_files_of_something_else_are_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "study.jsonl"
    path.write_text(content)
    with pytest.raises(FileError, match="be a study of carma tune"):
        Study(SPACE, MADE_FOR, 0, path)
    assert path.read_text() == content


def test_studies_of_somebody_else_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    with quiet():
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        optuna.create_study(storage=storage, study_name="theirs")
    before = path.read_bytes()
    with pytest.raises(FileError, match="be a study of carma tune"):
        Study(SPACE, MADE_FOR, 0, path)
    assert path.read_bytes() == before
    with pytest.raises(FileError, match=r"be a file, not a folder"):
        Study(SPACE, MADE_FOR, 0, tmp_path)


def test_optunas_log_is_silent_and_then_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = optuna.logging.get_verbosity()
    searched(Study(SPACE, MADE_FOR, 0, tmp_path / "study.jsonl"), 2)
    assert optuna.logging.get_verbosity() == before
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


# The whole.


def test_settings_as_given_are_the_first_trial_and_trials_are_the_total(
    tmp_path: Path, measurements: list[Settings]
) -> None:
    path = tmp_path / "study.jsonl"
    first = tune(PROBLEM, TABLE, trials=2, study=path)
    assert measurements[0] == PROBLEM.solver
    assert [t.number for t in first.trials] == [0, 1, 2]
    more = tune(PROBLEM, TABLE, trials=5, study=path)
    assert len(measurements) == 6
    assert more.trials[:3] == first.trials
    assert plain(more.trials) == plain(tune(PROBLEM, TABLE, trials=5).trials)
    del measurements[:]
    assert tune(PROBLEM, TABLE, trials=3, study=path) == more
    assert measurements == []
    assert more.best_problem == replace(PROBLEM, solver=more.best.settings)


def test_interrupted_tuning_goes_on(
    tmp_path: Path, measurements: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.jsonl"
    whole = tune(PROBLEM, TABLE, trials=4)
    measured = tuning._Ground.measured
    calls = iter([False, False, False, True])

    def interrupted(ground: Any, settings: Settings) -> dict[str, Any]:
        if next(calls):
            raise KeyboardInterrupt
        return measured(ground, settings)

    with monkeypatch.context() as patch:
        patch.setattr(tuning._Ground, "measured", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(PROBLEM, TABLE, trials=4, study=path)
    assert plain(tune(PROBLEM, TABLE, trials=4, study=path).trials) == plain(whole.trials)


def test_failed_fits_are_recorded_and_the_next_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([True, False, True])

    def fit(solver: Any, *_: object, **__: object) -> Any:
        if next(calls):
            raise TrainingError("carma: never finite")
        return solver

    monkeypatch.setattr("carma.recourse.base.Solver.fit", fit)
    metrics = Metrics(40, 2.0, 100.0, 1.0, 0.6, 0.1)
    monkeypatch.setattr("carma.recourse.base.Solver.recommend", lambda *_, **__: None)
    monkeypatch.setattr(tuning, "evaluate", lambda *_: metrics)
    path = tmp_path / "study.jsonl"
    result = tune(PROBLEM, TABLE, trials=2, study=path)
    assert result.failures == {0: "carma: never finite", 2: "carma: never finite"}
    assert [t.number for t in result.trials] == [1]
    assert result.best.number == 1
    assert tune(PROBLEM, TABLE, trials=2, study=path) == result


def test_nobody_with_a_plan_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Metrics(40, None, 0.0, None, None, 0.1)
    monkeypatch.setattr("carma.recourse.base.Solver.fit", lambda solver, *_, **__: solver)
    monkeypatch.setattr("carma.recourse.base.Solver.recommend", lambda *_, **__: None)
    monkeypatch.setattr(tuning, "evaluate", lambda *_: empty)
    with pytest.raises(TrainingError, match="nobody got a plan"):
        tune(PROBLEM, TABLE, trials=1)


def test_timeout_begins_no_new_trial(measurements: list[Settings]) -> None:
    result = tune(PROBLEM, TABLE, trials=9, timeout=1e-9)
    assert [t.number for t in result.trials] == [0]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda p, t: (p.with_seed(1), t), "same seed, classifier, causal_model, solver;"),
        (lambda p, t: (replace(p, solver=CarmaSettings()), t), "same solver;"),
        (lambda _, t: (PUBLISHED, t), "same solver, search space;"),
        (lambda p, t: (replace(p, schema=replace(p.schema, threshold=0.6)), t), "same schema;"),
        (lambda p, t: (replace(p, decision=Decision(reject_rate=0.6)), t), "same classifier;"),
        (lambda p, t: (p, t.iloc[:-1]), "same table;"),
        (lambda p, t: (p, t.iloc[::-1]), "same table;"),
    ],
)
def test_a_study_of_something_else_is_refused(
    tmp_path: Path, measurements: list[Settings], change: Any, part: str
) -> None:
    path = tmp_path / "study.jsonl"
    tune(PROBLEM, TABLE, trials=1, study=path)
    before = path.read_bytes()
    del measurements[:]
    with pytest.raises(FileError, match=part):
        tune(*change(PROBLEM, TABLE), trials=2, study=path)
    assert measurements == []
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"trials": 0}, "'trials' must be at least 1"),
        ({"coverage": 101}, "'coverage' must be a percentage"),
        ({"coverage": float("nan")}, "'coverage' must be a percentage"),
        ({"timeout": 0}, "'timeout' must be above 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(SettingsError, match=part):
        tune(PROBLEM, TABLE, **options)


def test_without_optuna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "carma.evaluation.study")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"carma-recourse\[tune\]"):
        tune(PROBLEM, TABLE)


def test_too_few_rejected_people_are_refused() -> None:
    generous = replace(PROBLEM, schema=replace(DATA.schema, threshold=1e-9))
    with pytest.raises(TableError, match="whom the classifier rejects"):
        tune(generous, TABLE, trials=1)


@pytest.mark.usefixtures("quick_trials")
@pytest.mark.parametrize("problem", [PROBLEM, PUBLISHED], ids=["carma", "published"])
def test_no_row_is_used_twice_and_held_out_rows_not_at_all(
    monkeypatch: pytest.MonkeyPatch, problem: Problem
) -> None:
    seen = dict[str, pd.DataFrame]()
    measured = tuning._Ground.measured

    def watched(ground: tuning._Ground, settings: Settings) -> dict[str, Any]:
        seen.update(training=ground.training, validation=ground.validation)
        return measured(ground, settings)

    monkeypatch.setattr(tuning._Ground, "measured", watched)
    result = tune(problem, TABLE, trials=1)
    train, held_out = problem.split(TABLE)
    used = {name: set(frame.index) for name, frame in seen.items()}
    assert not used["training"] & used["validation"]
    assert used["training"] | used["validation"] <= set(train.index)
    assert not set(train.index) & set(held_out.index)
    assert len(used["validation"]) == result.n_people
    assert all(0 <= t.coverage <= 100 and t.cost_x100 > 0 for t in result.trials)
