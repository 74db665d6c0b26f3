"""``carma reproduce`` as a user calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from carma.cli.app import main
from carma.reproduction import reproduce as module


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["carma", "reproduce", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_it_says_what_it_will_do_and_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("table5", "figure1", "--out", tmp_path / "new" / "folder") == 0
    said = capsys.readouterr().out
    assert "All 0 runs are there." in said
    assert "8 of 8 rows equal" in said
    assert (tmp_path / "new" / "folder" / "index.html").exists()


def test_json_is_one_object_and_quiet_is_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("table4", "--json", "--out", tmp_path) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["page"] == str(tmp_path / "index.html")
    assert [claim["verdict"] for claim in content["claims"]] == ["holds"]
    assert run("table4", "--quiet", "--out", tmp_path) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("table8",), "'exhibits' must be all, or of table1"),
        (("all", "--seeds", 0), "'seeds' must be at least 1"),
        (("all", "--processes", -2), "'processes' must be at least 1"),
        (("figure1", "--out", __file__), "'out' must be a folder"),
    ],
)
def test_bad_usage_ends_with_code_2(
    arguments: tuple[object, ...],
    rule: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert rule in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("a_package_that_is_not_there",))
    assert run("figure1", "--out", tmp_path / "out") == 2
    assert "pip install 'carma-recourse[reproduce]'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
