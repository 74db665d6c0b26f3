"""Classifiers in files on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from skops import io as skops_io

from carma.cli.app import main
from carma.problem import Problem

PROBLEM = """
outcome = "granted"
favourable = "yes"

[graph]
savings = ["income"]

[features.income]
role = "actionable"
direction = "up"

[features.savings]
role = "actionable"
direction = "up"

[data]
path = "people.csv"

[classifier]
path = "model.skops"
trusted = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]

[causal_model]
training = { epochs = 20 }
alternatives = 0

[solver]
lessons = 60
training = { epochs = 10 }
rehearsal = { epochs = 5 }
"""
NAMES = ["income", "savings"]


def people(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    income = rng.normal(40, 10, n).round(2)
    return pd.DataFrame({"income": income, "savings": 0.5 * income + rng.normal(0, 5, n).round(2)})


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["carma", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table has no outcome: the classifier is given."""
    path = tmp_path_factory.mktemp("job")
    people(600, 0).to_csv(path / "people.csv", index=False)
    people(60, 1).to_csv(path / "new.csv", index=False)
    table = people(600, 2)
    granted = np.where(table["income"] + table["savings"] > 63, "yes", "no")
    model = HistGradientBoostingClassifier(max_iter=15).fit(table, granted)
    skops_io.dump(model, path / "model.skops")
    skops_io.dump(LogisticRegression().fit(table, granted), path / "linear.skops")
    (path / "problem.toml").write_text(PROBLEM)
    return path


def test_fit_tells_fidelity_and_later_commands_ask_for_the_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem, bundle = folder / "problem.toml", tmp_path / "b.carma"
    assert run("fit", problem, "--out", bundle, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["surrogate"]["agreement"] > 90
    assert report["held_out"]["coverage"] == 100
    assert run("recommend", bundle, folder / "new.csv") == 2
    assert "be handed in" in capsys.readouterr().err.replace("\n", " ")
    assert run("recommend", bundle, folder / "new.csv", "--problem", problem, "--json") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 60
    file = Problem.from_toml(problem).classifier_file
    assert file is not None
    model = skops_io.load(file.path, trusted=list(file.trusted))
    planned = [answer for answer in answers if answer["plan"]]
    assert planned
    for answer in planned:
        row = people(60, 1).loc[answer["person"]]
        for change in ("plan", "follows"):
            for name, values in answer[change].items():
                row[name] = values["to"]
        assert model.predict(pd.DataFrame([row]))[0] == "yes"
    assert run("evaluate", bundle, folder / "new.csv", "--problem", problem) == 0
    assert "held-out rows" in capsys.readouterr().out.replace("\n", " ")
    assert run("explain", bundle, folder / "new.csv", "--problem", problem, "--row", 1) == 0
    capsys.readouterr()


def test_what_is_converted_exactly_is_stored(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem, bundle = folder / "linear.toml", tmp_path / "b.carma"
    problem.write_text(PROBLEM.replace("model.skops", "linear.skops"))
    assert run("fit", problem, "--out", bundle, "--json") == 0
    assert "surrogate" not in json.loads(capsys.readouterr().out)
    assert run("evaluate", bundle, folder / "new.csv", "--quiet") == 0
    (folder / "plain.toml").write_text(PROBLEM[: PROBLEM.index("[classifier]")])
    code = run("evaluate", bundle, folder / "new.csv", "--problem", folder / "plain.toml")
    assert code == 2
    assert "[classifier] path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("model.skops", "model.pkl"), "no pickle is read"),
        (("model.skops", "absent.skops"), "be a skops file"),
        (('path = "model.skops"', 'path = "model.skops"\nhidden = [3]'), "got 'hidden'"),
        (('path = "model.skops"', "path = 3"), "'path' must be text"),
        (("trusted = [", "trusted = [3, "), "be a list of texts"),
        (('path = "model.skops"', 'path = "model.skops"\nfavourable = []'), "'favourable' must"),
        (('favourable = "yes"', "favourable = 1"), "be one of the estimator's classes"),
    ],
)
def test_bad_sections_exit_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], part: str
) -> None:
    path = folder / "bad.toml"
    path.write_text(PROBLEM.replace(*change))
    assert run("fit", path, "--out", folder / "bad.carma", "--quiet") == 2
    assert part in " ".join(capsys.readouterr().err.split())


def test_a_problem_written_names_the_file(folder: Path, tmp_path: Path) -> None:
    problem = Problem.from_toml(folder / "problem.toml")
    (tmp_path / "again.toml").write_text(problem.to_toml(tmp_path / "again.toml"))
    again = Problem.from_toml(tmp_path / "again.toml")
    assert again.classifier_file is not None
    assert problem.classifier_file is not None
    assert again.classifier_file.path.resolve() == problem.classifier_file.path.resolve()
    assert again.classifier_file.trusted == problem.classifier_file.trusted
