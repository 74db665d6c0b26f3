"""``carma tune`` from a problem file to one that ``carma fit`` takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from carma import PublishedSettings
from carma.cli.app import main
from carma.evaluation import spaces
from carma.evaluation.spaces import Between
from carma.problem import Problem

PROBLEM = """
outcome = "granted"
favourable = 1

[graph]
savings = ["income"]

[features.income]
role = "actionable"
direction = "up"

[features.savings]
role = "actionable"
direction = "up"

[classifier]
hidden = []
training = { epochs = 60 }

[causal_model]
alternatives = 2
training = { epochs = 30 }

[solver]
lessons = 20
training = { epochs = 3 }
rehearsal = { epochs = 2 }
"""


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["carma", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CARMA", "PUBLISHED"):
        real = getattr(spaces, name)
        small = {n: v if isinstance(v, Between) else (2, 4) for n, v in real.items()}
        monkeypatch.setattr(spaces, name, small)
    rng = np.random.default_rng(0)
    income = rng.normal(40, 10, 240).round(2)
    savings = (0.5 * income + rng.normal(0, 5, 240)).round(2)
    granted = (0.2 * (income - 42) + 0.3 * (savings - 21) + rng.logistic(0, 1, 240) > 0) * 1
    table = pd.DataFrame({"income": income, "savings": savings, "granted": granted})
    (tmp_path / "rows").mkdir()
    table.to_csv(tmp_path / "rows" / "people.csv", index=False)
    (tmp_path / "problem.toml").write_text(PROBLEM)
    return tmp_path


def asked(folder: Path, *more: object) -> list[object]:
    source = folder / "rows" / "people.csv"
    study, out = folder / "study.jsonl", folder / "tuned.toml"
    return [
        "tune",
        folder / "problem.toml",
        "--data",
        source,
        "--study",
        study,
        "--out",
        out,
        *more,
    ]


def test_tune_then_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = folder / "front.png"
    assert run(*asked(folder, "--trials", 2, "--seed", 3, "--plot", plot, "--json")) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report: dict[str, Any] = json.loads(captured.out)
    assert [t["number"] for t in report["trials"]] == [0, 1, 2]
    assert plot.read_bytes().startswith(b"\x89PNG")
    tuned = Problem.from_toml(folder / "tuned.toml")
    given = Problem.from_toml(folder / "problem.toml").with_seed(3)
    assert (tuned.schema, tuned.classifier, tuned.causal_model) == (
        given.schema,
        given.classifier,
        given.causal_model,
    )
    best = report["best"]["settings"]
    assert list(tuned.solver.action_hidden) == best["action_hidden"]
    assert tuned.solver.training.learning_rate == best["training"]["learning_rate"]
    assert run("fit", folder / "tuned.toml", "--out", folder / "b.carma", "--json") == 0
    assert json.loads(capsys.readouterr().out)["held_out"]["coverage"] > 0

    # All is there: nothing is fitted again, and more trials go on from here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("carma.problem.fit_classifier", None)
        assert run(*asked(folder, "--trials", 2, "--seed", 3)) == 0
    shown = capsys.readouterr().out
    assert "Chosen: " in shown
    assert (" less than the settings as given" in " ".join(shown.split())) == (
        report["best"]["number"] != 0 and report["saving_percent"] is not None
    )
    assert "as given" in shown
    assert run(*asked(folder, "--trials", 3, "--seed", 3, "--quiet")) == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert run(*asked(folder, "--trials", 3, "--seed", 4)) == 2
    assert "same seed" in " ".join(capsys.readouterr().err.split())


def test_the_published_method_is_tuned_and_named(folder: Path) -> None:
    text = PROBLEM[: PROBLEM.index("[solver]")] + "[solver]\nmethod = 'published'\n"
    (folder / "problem.toml").write_text(text + "training = { epochs = 3 }\nkl_weight = 1.0\n")
    assert run(*asked(folder, "--trials", 1, "--coverage", 0, "--quiet")) == 0
    tuned = Problem.from_toml(folder / "tuned.toml").solver
    assert isinstance(tuned, PublishedSettings)
    assert tuned.kl_weight == 1.0
    assert (folder / "tuned.toml").read_text().startswith("# Written by carma tune: trial ")


def test_an_interrupted_study_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from carma.evaluation.tuning import _Ground

    measured, calls = _Ground.measured, iter([False, False, True])

    def interrupted(ground: _Ground, settings: spaces.Settings) -> dict[str, Any]:
        if next(calls):
            raise KeyboardInterrupt
        return measured(ground, settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Ground, "measured", interrupted)
        assert run(*asked(folder, "--trials", 2)) == 1
    assert "interrupted" in capsys.readouterr().err
    names = {path.name for path in folder.iterdir()}
    assert names == {"rows", "problem.toml", "study.jsonl"}
    assert run(*asked(folder, "--trials", 2, "--json")) == 0
    assert [t["number"] for t in json.loads(capsys.readouterr().out)["trials"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--trials", 0), "--trials"),
        (("--coverage", 120), "'coverage' must be a percentage"),
        (("--timeout", 0), "'timeout' must be above 0"),
        (("--plot", "front.txt"), "end in .png, .svg, .pdf"),
        (("--plot", "absent/front.png"), "folder that exists"),
        (("--out", "absent/tuned.toml"), "folder that exists"),
        (("--out", "problem.toml"), "'--out' must be a file of its own"),
        (("--study", "rows/people.csv"), "'--study' must be a file of its own"),
        (("--study", "tuned.toml"), "'--out' must be a file of its own"),
        (("--study", "other.jsonl"), "be a study of carma tune"),
        (("--data", "absent.csv"), "be an existing file"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, object],
    part: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("carma.problem.fit_classifier", None)
    (folder / "other.jsonl").write_text('{"dataset": "loan"}\n')
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(*asked(folder, *options)) == 2
    assert part in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_problem_without_data_asks_for_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tune", folder / "problem.toml", "--out", folder / "t.toml") == 2
    assert "carma tune: '--data' must be given" in " ".join(capsys.readouterr().err.split())


def test_without_matplotlib_a_plot_is_refused_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "carma.report.front", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(*asked(folder, "--plot", folder / "front.png")) == 2
    assert "carma-recourse[plots]" in "".join(capsys.readouterr().err.split())
