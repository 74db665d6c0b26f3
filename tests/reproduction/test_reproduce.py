"""From runs to files: what is there, what is skipped, what is refused."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from carma.benchmarks import NAMES
from carma.errors import FileError, SettingsError, TrainingError
from carma.evaluation.methods import METHODS
from carma.reproduction import reproduce as module
from carma.reproduction.exhibits.catalogue import EXHIBITS
from carma.reproduction.reproduce import chosen_exhibits, reproduce
from carma.reproduction.run import CAUSAL_MODEL, Run

MakeRecord = Callable[..., dict[str, Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, made_up: MakeRecord) -> list[list[Run]]:
    """Runs that were asked for, in every call; their records are made up."""
    calls: list[list[Run]] = []

    def records_of(runs: Iterable[Run], processes: int) -> Iterator[dict[str, Any]]:
        calls.append(list(runs))
        for run in calls[-1]:
            yield made_up(run)

    monkeypatch.setattr(module, "records_of", records_of)
    return calls


def test_every_table_and_figure_of_the_paper_is_a_exhibit() -> None:
    expected = {f"table{i}" for i in range(1, 8)} | {f"figure{i}" for i in range(1, 11)}
    assert set(EXHIBITS) == expected
    assert [s.name for s in chosen_exhibits([])] == [s.name for s in chosen_exhibits(["all"])]


@pytest.mark.parametrize("name", EXHIBITS)
def test_runs_name_what_exists(name: str) -> None:
    for run in EXHIBITS[name].runs(2, "full"):
        assert run.dataset in NAMES
        assert run.method in {*METHODS, CAUSAL_MODEL}
        assert run.variant in ("plain", "weighted", "vaca") or 0 < run.fraction < 1
        assert Run.of(run._asdict()) == run


@pytest.mark.parametrize("name", EXHIBITS)
def test_an_exhibit_writes_its_numbers_and_its_picture(
    name: str, asked: list[list[Run]], tmp_path: Path
) -> None:
    claims = reproduce([name], tmp_path, n_seeds=2)
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert content["exhibit"] == name
    assert [c["says"] for c in content["claims"]] == [c.says for c in claims]
    with (tmp_path / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{k: str(v) for k, v in row.items()} for row in content["rows"]]
    assert f"| {rows[0][next(iter(rows[0]))]} |" in (tmp_path / f"{name}.md").read_text()
    has_picture = EXHIBITS[name].draw is not None
    assert (tmp_path / f"{name}.svg").exists() == has_picture
    if has_picture:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ET.fromstring((tmp_path / f"{name}.svg").read_text())  # noqa: S314
    assert not list(tmp_path.glob("*.part"))


def test_the_page_holds_every_claim_number_and_picture(
    asked: list[list[Run]], tmp_path: Path
) -> None:
    claims = reproduce([], tmp_path)
    text = (tmp_path / "index.html").read_text()

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.ids: list[str] = []
            self.links: list[str] = []
            self.n_pictures = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.n_pictures += tag == "svg"
            self.ids += [value or "" for key, value in attrs if key == "id"]
            self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    reader = Reader()
    reader.feed(text)
    assert reader.n_pictures == sum(exhibit.draw is not None for exhibit in EXHIBITS.values())
    assert set(EXHIBITS) <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))
    assert text.count('<span class="holds">') == sum(c.holds for c in claims)
    assert text.count('<span class="differs">') == sum(not c.holds for c in claims)
    # Nothing is loaded from elsewhere.
    assert not [value for value in reader.links if not value.startswith("#")]
    for claim in claims:
        assert claim.says in (tmp_path / "claims.md").read_text()


def test_what_is_there_is_not_run_again(asked: list[list[Run]], tmp_path: Path) -> None:
    said: list[str] = []
    reproduce(["figure7"], tmp_path, announce=said.append)
    reproduce(["figure2", "figure7"], tmp_path, n_seeds=2, announce=said.append)
    reproduce(["figure7"], tmp_path, announce=said.append)
    first, second, third = asked
    assert first == EXHIBITS["figure7"].runs(1, "full")
    assert not set(first) & set(second)
    assert len(second) == len(set(second))
    assert not third
    assert "4 of 4 runs to do" in said[0]
    assert said[2] == "All 4 runs are there."


def test_quick_runs_stand_in_a_file_of_their_own(asked: list[list[Run]], tmp_path: Path) -> None:
    reproduce(["table3"], tmp_path, quick=True)
    reproduce(["table3"], tmp_path)
    assert {run.scale for run in asked[0]} == {"quick"}
    assert {run.scale for run in asked[1]} == {"full"}
    lines = (tmp_path / "runs-quick.jsonl").read_text().splitlines()
    assert {json.loads(line)["scale"] for line in lines} == {"quick"}


def test_a_failure_keeps_what_was_finished(
    monkeypatch: pytest.MonkeyPatch, made_up: MakeRecord, tmp_path: Path
) -> None:
    def records_of(runs: Iterable[Run], processes: int) -> Iterator[dict[str, Any]]:
        yield made_up(next(iter(runs)))
        raise TrainingError("no")

    monkeypatch.setattr(module, "records_of", records_of)
    with pytest.raises(TrainingError):
        reproduce(["figure7"], tmp_path)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1
    assert not (tmp_path / "figure7.json").exists()


def test_bad_input_is_refused_before_any_run(asked: list[list[Run]], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'exhibits' must be all.*got 'figure11'"):
        reproduce(["figure11"], tmp_path)
    with pytest.raises(SettingsError, match="'seeds' must be at least 1; got 0"):
        reproduce(["figure1"], tmp_path, n_seeds=0)
    with pytest.raises(SettingsError, match="'processes' must be at least 1; got -1"):
        reproduce(["figure1"], tmp_path, processes=-1)
    (tmp_path / "file").touch()
    with pytest.raises(FileError):
        reproduce(["figure1"], tmp_path / "file")
    assert not asked
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
