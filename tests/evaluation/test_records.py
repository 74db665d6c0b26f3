"""A file of records: whole lines only, whatever happened to the last run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from carma.errors import FileError
from carma.evaluation.records import FIELDS, Key, RecordFile


def record(seed: int = 0, **changes: Any) -> dict[str, Any]:
    key = Key("loan", "carma", seed, 500, None, None)
    return key.asked | {"cost_x100": 3.25, "statuses": {"amortized": 7}} | changes


def filled(path: Path, n: int) -> bytes:
    file = RecordFile(path, Key)
    for seed in range(n):
        file.append(record(seed))
    return path.read_bytes()


def test_what_is_appended_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    file = RecordFile(path, Key)
    assert file.records == []
    assert not path.exists()
    file.append(record(0))
    file.append(record(1, margin_asked=0.05, rows=400))
    again = RecordFile(path, Key)
    assert again.records == file.records == [record(0), record(1, margin_asked=0.05, rows=400)]
    assert again.keys == {
        Key("loan", "carma", 0, 500, None, None),
        Key("loan", "carma", 1, 500, 0.05, 400),
    }
    assert not again.was_cut_short


def test_every_record_is_one_line_and_earlier_ones_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = filled(path, 2)
    RecordFile(path, Key).append(record(2))
    assert path.read_bytes().startswith(first)
    assert path.read_bytes().count(b"\n") == 3
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_line_cut_short_anywhere_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = filled(path, 2)
    last = len(whole.splitlines(keepends=True)[-1])
    for n_lost in range(2, last + 1):
        path.write_bytes(whole[:-n_lost])
        file = RecordFile(path, Key)
        assert file.records == [record(0)]
        assert file.was_cut_short == (n_lost < last)
        assert path.read_bytes() == whole[:-n_lost]
        file.append(record(1))
        assert path.read_bytes() == whole


def test_only_the_end_of_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = filled(path, 2)
    path.write_bytes(whole[:-1])
    file = RecordFile(path, Key)
    assert not file.was_cut_short
    assert file.records == [record(0), record(1)]
    file.append(record(2))
    assert RecordFile(path, Key).records == [record(0), record(1), record(2)]


def test_blank_lines_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\n" + filled(path, 1) + b"  \n")
    assert RecordFile(path, Key).records == [record(0)]


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize(
    "line",
    [
        b"3.11",
        b"dataset,method",
        b"[1, 2]",
        b"null",
        b"{}",
        b'{"name": "loan", "method": "ca',
        b'{"dataset": "loan", "method": "carma", "seed": 0}',
        b"\xff\xfe",
        json.dumps(record(seed=True)).encode(),
        json.dumps(record(people="all")).encode(),
        json.dumps(record(margin_asked="0.1")).encode(),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, line: bytes, end: bytes
) -> None:
    path = tmp_path / "notes.txt"
    before = filled(path, 1)
    for content, number in ((line + end, 1), (before + line + end, 2)):
        path.write_bytes(content)
        with pytest.raises(FileError, match=f"hold records .*; line {number} is none"):
            RecordFile(path, Key)
        assert path.read_bytes() == content


def test_an_unfinished_line_in_the_middle_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = filled(path, 3).splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(FileError, match=r"hold records of this kind only.*line 2 is none"):
        RecordFile(path, Key)


def test_places_that_cannot_be_written_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileError, match="folder that exists"):
        RecordFile(tmp_path / "no" / "r.jsonl", Key)
    with pytest.raises(FileError, match="not a folder"):
        RecordFile(tmp_path, Key)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="be a regular file"):
        RecordFile(tmp_path / "pipe", Key)
    path = tmp_path / "r.jsonl"
    filled(path, 1)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: p != path and allowed(p, mode))
    with pytest.raises(FileError, match="'path' must be writable"):
        RecordFile(path, Key)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    file = RecordFile(tmp_path / "r.jsonl", Key)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        file.append(record())
    assert file.records == []


def test_a_link_stays_a_link_when_its_file_is_repaired(tmp_path: Path) -> None:
    path, link = tmp_path / "r.jsonl", tmp_path / "link.jsonl"
    whole = filled(path, 2)
    link.symlink_to(path)
    path.write_bytes(whole[:-5])
    RecordFile(link, Key).append(record(1))
    assert link.is_symlink()
    assert path.read_bytes() == whole


def test_no_number_is_written_that_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = filled(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        RecordFile(path, Key).append(record(1, cost_x100=float("nan")))
    assert path.read_bytes() == whole


def test_keys_are_rebuilt_from_documented_fields() -> None:
    key = Key("chain-lin", "grid", 3, 20, 0.1, 400)
    assert set(key.asked) < set(FIELDS)
    assert Key.of(json.loads(json.dumps(key.asked))) == key
