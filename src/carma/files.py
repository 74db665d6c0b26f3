"""Files that appear whole or not at all, and tables by their file extension."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pandas as pd
import pyarrow as pa

from carma.errors import FileError

__all__ = ["check_writable", "read_table", "write_table", "write_whole"]

TABLE_FORMATS = (".csv", ".parquet", ".jsonl")


def write_whole(path: str | Path, content: bytes | Callable[[IO[bytes]], None]) -> Path:
    """Write a file next to its destination, then move it there in one step.

    Args:
        path: Destination; an existing file is replaced.
        content: The bytes, or a function that writes them to the open file it is given.

    Returns:
        The destination.

    Raises:
        FileError: The destination cannot be written; nothing has changed then.
    """
    target = Path(path)
    check_writable(target)
    try:
        handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def _unwritable(path: Path, error: OSError) -> FileError:
    return FileError.of("output", "path", f"be writable ({error.strerror or error})", str(path))


def check_writable(path: str | Path) -> None:
    """Fail now rather than after the work, when ``path`` cannot be written.

    Raises:
        FileError: The folder does not exist or may not be written, or ``path`` is a folder.
    """
    target = Path(path)
    try:
        is_folder = target.is_dir()
    except OSError as error:
        raise _unwritable(target, error) from error
    if is_folder:
        raise FileError.of("output", "path", "be a file, not a folder", str(path))
    if not target.parent.is_dir():
        raise FileError.of("output", "path", "lie in a folder that exists", str(path))
    if not os.access(target.parent, os.W_OK):
        raise FileError.of("output", "path", "lie in a folder that can be written", str(path))


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table; the format follows from the extension (csv, parquet, jsonl).

    Raises:
        FileError: The file cannot be read as that format.
    """
    source = Path(path)
    suffix = _table_format(source)
    try:
        if suffix == ".csv":
            return pd.read_csv(source)
        if suffix == ".parquet":
            return pd.read_parquet(source)
        with source.open(encoding="utf-8") as lines:
            return pd.DataFrame([json.loads(line) for line in lines if line.strip()])
    except FileNotFoundError as error:
        raise FileError.of("table", "path", "be an existing file", str(path)) from error
    except pd.errors.EmptyDataError as error:
        raise FileError.of(
            "table", "path", "be a file with a header and rows", str(path)
        ) from error
    except (OSError, ValueError) as error:
        rule = f"be a readable {suffix[1:]} file ({error})"
        raise FileError.of("table", "path", rule, str(path)) from error


def write_table(frame: pd.DataFrame, path: str | Path, *, index: bool = False) -> Path:
    """Write a table whole; the format follows from the extension (csv, parquet, jsonl).

    Raises:
        FileError: The extension is unknown, the path cannot be written, or parquet has no type
            for a column (text mixed with numbers, say).
    """
    target = Path(path)
    suffix = _table_format(target)
    if suffix == ".csv":
        return write_whole(target, frame.to_csv(index=index, lineterminator="\n").encode("utf-8"))
    if suffix == ".parquet":
        try:
            return write_whole(target, lambda stream: frame.to_parquet(stream, index=index))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            rule = f"hold what parquet can store ({error})"
            raise FileError.of("table", "columns", rule, str(path)) from error
    rows = frame.reset_index() if index else frame
    # Not DataFrame.to_json, which rounds floats to 10 decimals.
    records = rows.astype(object).where(rows.notna(), None).to_dict("records")
    lines = [json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records]
    return write_whole(target, "".join(lines).encode("utf-8"))


def _table_format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in TABLE_FORMATS:
        rule = f"end in {', '.join(TABLE_FORMATS)}"
        raise FileError.of("table", "path", rule, str(path))
    return suffix
