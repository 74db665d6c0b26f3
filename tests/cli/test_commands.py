from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import carma
from carma import ClassifierSettings, TrainingSettings
from carma.benchmarks import Benchmark
from carma.cli.app import main
from carma.problem import Problem

PROBLEM = """
outcome = "granted"
favourable = 1
ignore = ["id"]

[graph]
savings = ["income"]

[features.income]
role = "actionable"
direction = "up"
unit = "kEUR"

[features.savings]
role = "actionable"
direction = "up"

[features.children]
kind = "integer"
bounds = [0, 9]
role = "immutable"

[data]
path = "people.csv"

[classifier]
hidden = []
training = { epochs = 30 }

[causal_model]
training = { epochs = 30 }

[solver]
lessons = 60
training = { epochs = 10 }
rehearsal = { epochs = 5 }
"""


def people(n: int = 600, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    income = rng.normal(40, 10, n).round(2)
    savings = (0.5 * income + rng.normal(0, 5, n)).round(2)
    children = rng.integers(0, 5, n)
    granted = (0.2 * (income - 42) + 0.3 * (savings - 21) + rng.logistic(0, 1, n) > 0).astype(int)
    return pd.DataFrame(
        {"income": income, "savings": savings, "children": children, "granted": granted}
    )


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["carma", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("job")
    people().to_csv(path / "people.csv", index=False)
    people(50, seed=1).drop(columns="granted").to_csv(path / "new.csv", index=False)
    (path / "problem.toml").write_text(PROBLEM)
    assert run("fit", path / "problem.toml", "--out", path / "b.carma", "--quiet") == 0
    return path


def test_fit_reports_json_and_is_reproducible(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again.carma"
    assert run("fit", folder / "problem.toml", "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["held_out"]["n_people"] + report["statuses"]["already_accepted"] == 120
    new = pd.read_csv(folder / "new.csv")
    first, second = (carma.load(p).recommend(new).to_frame() for p in (folder / "b.carma", out))
    pd.testing.assert_frame_equal(first, second)


def test_fit_with_an_additive_noise_model(folder: Path, tmp_path: Path) -> None:
    text = (folder / "problem.toml").read_text()
    kind = '[causal_model]\nkind = "additive_noise"\nalternatives = 3\n'
    (folder / "noise.toml").write_text(text.replace("[causal_model]\n", kind))
    assert run("fit", folder / "noise.toml", "--out", tmp_path / "b.carma", "--quiet") == 0
    solver = carma.load(tmp_path / "b.carma")
    assert type(solver.causal_model) is carma.AdditiveNoiseModel
    result = solver.recommend(pd.read_csv(folder / "new.csv"))
    assert set(result.counts()) & {"refined", "searched"}


def test_fit_says_what_decides_and_the_bundle_keeps_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (folder / "problem.toml").read_text()
    path, out = folder / "rate.toml", tmp_path / "rate.carma"
    path.write_text(f"{text}\n[decision]\nreject_rate = 0.3\n")
    assert run("fit", path, "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)["decision"]
    decision = carma.load(out).classifier.decision
    assert decision.reject_rate == report["reject_rate"] == 0.3
    assert decision.cut_off == report["cut_off"]
    assert 0.15 < report["rejected_share"] < 0.45
    assert run("explain", out, folder / "new.csv") == 0
    assert decision.say() in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_recommend_writes_every_format(folder: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"plans.{suffix}"
    assert run("recommend", folder / "b.carma", folder / "new.csv", "--out", out, "-q") == 0
    expected = carma.load(folder / "b.carma").recommend(pd.read_csv(folder / "new.csv"))
    if suffix == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [r["status"] for r in rows] == list(expected.statuses)
        assert rows == [json.loads(line) for line in expected.to_json().splitlines()]
    else:
        read = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
        assert list(read["status"]) == list(expected.statuses)
        np.testing.assert_allclose(read["do_income"], expected.to_frame()["do_income"])


def test_recommend_keeps_ignored_columns_to_tell_who_is_who(folder: Path, tmp_path: Path) -> None:
    table = pd.read_csv(folder / "new.csv")
    table.insert(0, "id", [f"p{i}" for i in range(len(table))])
    table.to_csv(tmp_path / "named.csv", index=False)
    out = tmp_path / "plans.csv"
    assert run("recommend", folder / "b.carma", tmp_path / "named.csv", "--out", out, "-q") == 0
    plans = pd.read_csv(out)
    assert list(plans.columns[:2]) == ["id", "status"]
    assert list(plans["id"]) == list(table["id"])


def test_recommend_takes_constraints_and_gives_menus(folder: Path, tmp_path: Path) -> None:
    table = pd.read_csv(folder / "new.csv")
    table.insert(0, "id", [f"p{i}" for i in range(len(table))])
    table.to_csv(tmp_path / "named.csv", index=False)
    wishes = pd.DataFrame({"freeze_income": [1, None] * (len(table) // 2)})
    wishes.to_csv(tmp_path / "wishes.csv", index=False)
    out = tmp_path / "plans.csv"
    asked = [folder / "b.carma", tmp_path / "named.csv", "--constraints", tmp_path / "wishes.csv"]
    assert run("recommend", *asked, "--plans", 2, "--out", out, "-q") == 0
    plans = pd.read_csv(out)
    result = carma.load(folder / "b.carma").recommend(table.drop(columns="id"), wishes, 2)
    expected = result.to_frame()
    assert list(plans.columns[:3]) == ["id", "plan", "status"]
    assert list(plans["status"]) == list(expected["status"])
    assert list(plans["id"]) == [f"p{i}" for i in expected.index]
    assert plans.loc[plans["id"].str[1:].astype(int) % 2 == 0, "do_income"].isna().all()
    assert plans["do_income"].notna().any()
    assert (plans["plan"] == 2).any()


def test_recommend_refuses_constraints_for_other_people(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plans.csv"
    for wishes, words in (
        (pd.DataFrame({"freeze_income": [1, 0]}), "'--constraints' must have one row a person, 50"),
        (pd.DataFrame({"freeze_incme": [1] * 50}), "did you mean 'freeze_income'"),
        (pd.DataFrame({"weight_income": [0] * 50}), "column weight_income, row 0"),
    ):
        wishes.to_csv(tmp_path / "wishes.csv", index=False)
        asked = [folder / "b.carma", folder / "new.csv", "--constraints", tmp_path / "wishes.csv"]
        assert run("recommend", *asked, "--out", out) == 2
        assert words in " ".join(capsys.readouterr().err.split())
        assert not out.exists()


def test_recommend_prints_without_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recommend", folder / "b.carma", folder / "new.csv") == 0
    assert capsys.readouterr().out.startswith("status,cost,probability_before")
    assert run("recommend", folder / "b.carma", folder / "new.csv", "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 50


def test_explain_says_what_to_do_and_what_follows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = carma.load(folder / "b.carma").recommend(pd.read_csv(folder / "new.csv"))
    row = int(result.plans.mask.any(dim=1).nonzero()[0])
    assert run("explain", folder / "b.carma", folder / "new.csv", "--row", row) == 0
    assert "What to do:" in capsys.readouterr().out
    assert run("explain", folder / "b.carma", folder / "new.csv", "--row", row, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["plan"]
    assert answer["status"] in ("refined", "searched")
    assert run("explain", folder / "b.carma", folder / "new.csv", "--row", 50) == 2
    assert "'--row' must lie in 0 to 49; got 50" in capsys.readouterr().err


def test_evaluate_reports_metrics(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", folder / "b.carma", folder / "new.csv", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert 0 <= report["metrics"]["coverage"] <= 100
    assert sum(report["statuses"].values()) == 50


def test_init_writes_a_draft_that_fits_after_editing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tmp_path / "draft.toml"
    options = ("--outcome", "granted", "--actionable", "income", "--immutable", "children")
    assert run("init", folder / "people.csv", "--out", draft, *options) == 0
    schema = carma.Schema.from_toml(draft)
    assert schema.actionable == ("income",)
    assert schema["children"].role == "immutable"
    assert schema.favourable == 1
    assert run("init", folder / "people.csv", "--out", draft, *options) == 2
    assert "--force" in capsys.readouterr().err
    both = ("--outcome", "granted", "--actionable", "income", "--immutable", "income")
    assert run("init", folder / "people.csv", "--out", tmp_path / "no.toml", *both) == 2
    assert not (tmp_path / "no.toml").exists()


def test_demo_on_own_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("demo", "--problem", folder / "problem.toml", "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metrics"]["n_people"] > 0
    assert {p.name for p in out.iterdir()} == {"bundle.carma", "plans.csv", "changes.png"}
    assert (out / "changes.png").read_bytes().startswith(b"\x89PNG")


def test_quiet_says_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", folder / "b.carma", folder / "new.csv", "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_bad_table_is_refused_before_work_and_nothing_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = people()
    table.loc[7, "income"] = np.nan
    table.to_csv(tmp_path / "gap.csv", index=False)
    out = tmp_path / "b.carma"
    code = run("fit", folder / "problem.toml", "--data", tmp_path / "gap.csv", "--out", out)
    assert code == 2
    message = capsys.readouterr().err.replace("\n", " ")
    assert "column income, row 7" in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("[graph]", "[graph]\nincome = ['savings']"), "cycle"),
        (("[solver]", "[solver]\nmargn = 1"), "margn"),
        (("favourable = 1", "favourable = 1\nthreshold = 1.5"), "threshold"),
        (('role = "immutable"', 'role = "untouchable"'), "role"),
        (("training = { epochs = 10 }", "training = { epochs = 0 }"), "epochs"),
        (("rehearsal = { epochs = 5 }", "rehearsal = { epochs = 0 }"), "epochs"),
        (("[classifier]", "[classifier]\nhidden = 3\n[x]"), "hidden"),
    ],
)
def test_bad_problem_files_exit_with_2(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    part: str,
) -> None:
    text = PROBLEM.replace(*change)
    if part == "hidden":
        text = PROBLEM.replace("hidden = []", "hidden = 3")
    path = tmp_path / "problem.toml"
    path.write_text(text)
    out = tmp_path / "b.carma"
    assert run("fit", path, "--data", folder / "people.csv", "--out", out) == 2
    assert part in capsys.readouterr().err
    assert not out.exists()


def test_usage_errors_exit_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recommend") == 2
    assert run("fit", folder / "problem.toml", "--seed", "-1") == 2
    assert run("recommend", folder / "new.csv", folder / "new.csv") == 2
    assert run("recommend", folder / "b.carma", folder / "absent.csv") == 2
    capsys.readouterr()


def test_unwritable_outputs_are_refused_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "no-such-folder" / "x.carma"
    assert run("fit", folder / "problem.toml", "--out", out) == 2
    assert "folder that exists" in capsys.readouterr().err.replace("\n", " ")


def test_interrupt_leaves_nothing_half_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("carma.recourse.apprenticeship.train", interrupt)
        out = tmp_path / "b.carma"
        assert run("fit", folder / "problem.toml", "--out", out, "--quiet") == 1
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()


TRIAL = ("benchmark", "--datasets", "chain-lin", "--rows", 200, "--people", 6)


def quick(data: Benchmark) -> Problem:
    training = TrainingSettings(epochs=3)
    return Problem(
        data.schema,
        classifier=ClassifierSettings((), TrainingSettings(epochs=20)),
        causal_model=carma.FlowSettings(training=training),
        solver=carma.CarmaSettings(lessons=60, training=training, rehearsal=training),
    )


@pytest.fixture
def quick_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carma.evaluation.comparison.standard_problem", quick)


@pytest.mark.usefixtures("quick_fits")
def test_benchmark_keeps_records_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    methods = ("--methods", "grid-true", "carma")
    assert run(*TRIAL, *methods, "--json", path) == 0
    first = path.read_bytes()
    found = [json.loads(line) for line in first.splitlines()]
    assert [r["method"] for r in found] == ["grid-true", "carma"]
    shown = capsys.readouterr()
    assert "2 new records" in shown.out
    assert shown.err == ""
    assert run(*TRIAL, *methods, "--seeds", 2, "--json", path) == 0
    assert path.read_bytes().startswith(first)
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [0, 0, 1, 1]
    out = capsys.readouterr().out
    assert "2 new records" in out
    (row,) = (line for line in out.splitlines() if " carma " in line)
    assert "\u00b1" in row

    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert run(*TRIAL, *methods, "--seeds", 2, "--json", path) == 0
    assert "was cut short" in capsys.readouterr().out
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [0, 0, 1, 1]

    monkeypatch.setattr("carma.evaluation.comparison.load", None)
    whole = path.read_bytes()
    assert run(*TRIAL, "--methods", "carma", "--json", path) == 0
    out = capsys.readouterr().out
    assert "0 new records" in out
    assert "grid-true" not in out
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("methods", ["grid-true,exact-true", "exact-true grid-true"])
def test_benchmark_table_without_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], methods: str
) -> None:
    before = torch.get_num_threads()
    assert run(*TRIAL, "--datasets", "collider-lin", "--methods", methods, "--threads", 1) == 0
    assert torch.get_num_threads() == before
    lines = capsys.readouterr().out.splitlines()
    for name in ("chain-lin", "collider-lin"):
        assert sum(name in line for line in lines) == 1
    for name in ("grid-true", "exact-true"):
        assert sum(name in line for line in lines) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick_fits")
def test_benchmark_can_be_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "records.jsonl"
    assert run(*TRIAL, "--methods", "grid-true", "--json", path, "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert json.loads(path.read_text())["margin_asked"] is None
    assert run(*TRIAL, "--methods", "grid-true", "--margin", 0.1, "--json", path, "-q") == 0
    assert [json.loads(line)["margin"] for line in path.read_text().splitlines()] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--datasets", "titanic"), "'datasets' must be of"),
        (("--methods", "carma,magic"), "got 'magic'"),
        (("--methods", ","), "'methods' must name at least one"),
        (("--people", 0), "--people"),
        (("--seeds", 0), "--seeds"),
        (("--threads", 0), "--threads"),
        (("--rows", 5), "'rows' must be"),
        (("--margin", 0.5), "'margin' must be"),
        (("--json", "no-such-folder/records.jsonl"), "folder that exists"),
        (("--json", __file__), "hold records of this kind only"),
        (("loan",), "unexpected"),
    ],
)
def test_benchmark_refuses_bad_options_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    part: str,
) -> None:
    monkeypatch.setattr("carma.evaluation.comparison.load", None)
    assert run("benchmark", *options) == 2
    assert part in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("quick_fits")
def test_benchmark_interrupted_keeps_what_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "records.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("carma.recourse.apprenticeship.train", interrupt)
        assert run(*TRIAL, "--methods", "grid-true", "carma", "--json", path) == 1
    assert json.loads(path.read_text())["method"] == "grid-true"
    assert list(tmp_path.iterdir()) == [path]
    assert "interrupted" in capsys.readouterr().err


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['carma', '--help']\n"
        "from carma.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # noqa: S603
