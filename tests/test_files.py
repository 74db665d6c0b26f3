"""Files appear whole or not at all; tables come back as they were written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
import pandas as pd
import pytest

from carma.errors import FileError
from carma.files import check_writable, read_table, write_table, write_whole

FORMATS = ("csv", "parquet", "jsonl")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def people() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": ["Zoë", 'a "b", c', "line\nbreak", "001"],
            "income": [1 / 3, 1e-17, 123456789.123456789, -0.1],
            "age": [30, 2**53 + 1, -1, 0],
            "member": [True, False, True, True],
            "gap": [1.0, np.nan, 2.5, np.nan],
            "modified_at": [5, 6, 7, 8],
            "2020": [1, 2, 3, 4],
        }
    )


def test_writes_bytes_or_through_a_function(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    assert write_whole(path, b"first") == path
    assert path.read_bytes() == b"first"
    write_whole(str(path), lambda stream: stream.writelines([b"sec", b"ond"]))
    assert path.read_bytes() == b"second"
    assert names(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt(), OSError("full")])
def test_a_writer_that_fails_half_way_leaves_nothing_behind(
    tmp_path: Path, error: BaseException
) -> None:
    def fail(stream: IO[bytes]) -> NoReturn:
        stream.write(b"x" * 100_000)
        stream.flush()
        raise error

    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    expected = FileError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.bin"]


def test_new_files_get_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert write_whole(tmp_path / "whole", b"").stat().st_mode == plain.stat().st_mode


def test_a_long_name_that_fits_can_be_written(tmp_path: Path) -> None:
    path = write_whole(tmp_path / ("x" * 250), b"content")
    assert path.read_bytes() == b"content"


def test_unwritable_destinations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="be a file, not a folder"):
        write_whole(tmp_path, b"")
    with pytest.raises(FileError, match=r"lie in a folder that exists; got .*absent"):
        write_whole(tmp_path / "absent" / "out", b"")
    with pytest.raises(FileError, match="be writable"):
        write_whole(tmp_path / ("x" * 300), b"")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(FileError, match="lie in a folder that can be written"):
        check_writable(tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="lie in a folder that can be written"):
        write_whole(tmp_path / "out", b"")


@pytest.mark.parametrize("suffix", [*FORMATS, "CSV"])
def test_tables_round_trip_exactly(tmp_path: Path, people: pd.DataFrame, suffix: str) -> None:
    if suffix.lower() == "csv":
        people["name"] = people["name"].replace("001", "x")
    path = write_table(people, tmp_path / f"people.{suffix}")
    pd.testing.assert_frame_equal(read_table(path), people, check_exact=True)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_index_is_written_on_demand(tmp_path: Path, suffix: str) -> None:
    people = pd.DataFrame({"income": [1.5, 2.5]}, index=pd.Index(["ann", "bob"], name="id"))
    path = write_table(people, tmp_path / f"people.{suffix}", index=True)
    again = read_table(path)
    assert (again if suffix == "parquet" else again.set_index("id")).equals(people)
    assert list(read_table(write_table(people, path)).columns) == ["income"]


def test_unknown_extensions(tmp_path: Path) -> None:
    for name in ("people.xlsx", "people"):
        with pytest.raises(FileError, match=r"end in \.csv, \.parquet, \.jsonl; got .*people"):
            read_table(tmp_path / name)
        with pytest.raises(FileError, match=r"end in \.csv, \.parquet, \.jsonl"):
            write_table(pd.DataFrame(), tmp_path / name)


@pytest.mark.parametrize("suffix", FORMATS)
def test_tables_that_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"people.{suffix}"
    with pytest.raises(FileError, match="be an existing file"):
        read_table(path)
    path.write_bytes(b"" if suffix == "csv" else b"{broken")
    with pytest.raises(FileError, match=r"with a header and rows|be a readable"):
        read_table(path)
    path.write_bytes(b'"\xff\xfe",\n')
    with pytest.raises(FileError, match=f"be a readable {suffix} file"):
        read_table(path)


def test_parquet_says_what_it_cannot_store(tmp_path: Path) -> None:
    mixed = pd.DataFrame({"from": ["rent", 2.5]})
    with pytest.raises(FileError, match="'columns' must hold what parquet can store"):
        write_table(mixed, tmp_path / "plans.parquet")
    assert names(tmp_path) == []
    assert read_table(write_table(mixed, tmp_path / "plans.jsonl")).equals(mixed)
