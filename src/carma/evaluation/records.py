"""Records of a comparison, and the JSON Lines file that they are kept in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from carma.errors import FileError
from carma.files import check_writable, write_whole

__all__ = ["FIELDS", "Key", "RecordFile"]

FIELDS = {
    "dataset": "benchmark set",
    "method": "name in the registry",
    "seed": "of data, classifier, causal model and solver",
    "people": "people asked for",
    "margin_asked": "margin asked for; null: each method's own",
    "rows": "rows of each part; null: the paper's",
    "n_people": "rejected people measured",
    "cost_x100": "mean cost of a plan times 100",
    "coverage": "percent of people with a checked plan",
    "actions": "mean number of features acted on",
    "probability": "mean probability of the method's own counterfactual",
    "causal_validity": "percent of plans accepted under the true causal model",
    "cost_ratio": "mean cost over the mean least cost, true causal model, no margin",
    "cost_ratio_low": "lower end of its bootstrap interval over people",
    "cost_ratio_high": "upper end",
    "cost_ratio_same_margin": "the same over the least cost at the method's own margin",
    "regret": "the rest of Regret: against the least cost without a margin",
    "margin": "how far past the threshold the method aims, as a probability",
    "statuses": "number of people by status",
    "n_evaluations": "mean number of counterfactuals computed for a person",
    "ms_single": "median milliseconds of a call for one person",
    "us_batched": "microseconds a person of one call for all",
    "fit_seconds": "fit of the solver alone",
    "model_seconds": "fit of the causal model, shared; null where the true one is given",
    "classifier_seconds": "fit of the classifier, shared",
    "threads": "of torch while solving; fits take one",
    "versions": "of the packages",
    "machine": "processor architecture and Python",
}
# How every record starts; tells a line cut short from a file of something else.
START = '{"dataset": "'


class Key(NamedTuple):
    """What was asked for: two records with one key measure the same thing.

    Args:
        dataset: Benchmark set.
        method: Name in the registry.
        seed: Of every part.
        people: People asked for.
        margin: Margin asked for; ``None`` leaves each method its own.
        rows: Rows of each part; ``None`` for the paper's.

    Example:
        >>> Key("loan", "carma", 0, 500, None, None).asked["margin_asked"] is None
        True
    """

    dataset: str
    method: str
    seed: int
    people: int
    margin: float | None
    rows: int | None

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """Key of a finished record.

        Raises:
            KeyError: It is no record of a comparison.
            TypeError: The same, by the type of a value.
        """
        key = cls(*(record[name] for name in NAMES))
        for value, kinds in zip(key, KINDS, strict=True):
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise TypeError(value)
        return key

    @property
    def asked(self) -> dict[str, Any]:
        """The fields of a record that the key is rebuilt from."""
        return dict(zip(NAMES, self, strict=True))


NAMES = ("dataset", "method", "seed", "people", "margin_asked", "rows")
KINDS: tuple[Any, ...] = (str, str, int, int, int | float | None, int | None)


class Identity(Protocol):
    """What a record measures, rebuilt from the record."""

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """See ``Key.of``."""


K = TypeVar("K", bound=Identity)


class RecordFile(Generic[K]):
    """A JSON Lines file of records: read when opened, then appended to, one whole line a record.

    A last line that a killed run left unfinished is left out of ``records``, and the file is
    rewritten without it before the next record is appended. Nothing is written before that.

    Args:
        path: The file; it need not exist.
        key: What tells records apart: its ``of`` takes a record, and refuses one of another kind
            with ``KeyError`` or ``TypeError``. Records start with ``dataset``.

    Attributes:
        records: All finished records, those appended included.
        was_cut_short: Whether the last line was unfinished.

    Raises:
        FileError: The file cannot be read or written, or holds anything but such records.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "records.jsonl"
        ...     RecordFile(path, Key).append(Key("loan", "carma", 0, 500, None, None).asked)
        ...     len(RecordFile(path, Key).records)
        1
    """

    def __init__(self, path: str | Path, key: type[K]) -> None:
        self.path, self._key = Path(path), key
        check_writable(self.path)
        self.records: list[dict[str, Any]] = []
        self.was_cut_short = False
        self._repaired: bytes | None = None
        if self.path.exists():
            self._read()

    @property
    def keys(self) -> set[K]:
        """What is finished."""
        return {self._key.of(record) for record in self.records}

    def append(self, record: dict[str, Any]) -> None:
        """Add one record; once this returns, it is on the disk.

        Raises:
            FileError: The file cannot be written.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        if self._repaired is not None:
            write_whole(self.path.resolve(), self._repaired)
            self._repaired = None
        try:
            with self.path.open("ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise self._refused(f"be writable ({error.strerror or error})") from error
        self.records.append(record)

    def _read(self) -> None:
        if not self.path.is_file():
            raise self._refused("be a regular file")
        if not os.access(self.path, os.W_OK):
            raise self._refused("be writable")
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise self._refused(f"be readable ({error.strerror or error})") from error
        lines = content.splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                self._key.of(record)
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines) and _is_cut_short(line):
                    self.was_cut_short = True
                    self._repaired = content[: -len(line)]
                    return
                rule = f"hold records of this kind only, one a line; line {number} is none"
                raise self._refused(rule) from error
            self.records.append(record)
        if content and not content.endswith(b"\n"):
            self._repaired = content + b"\n"

    def _refused(self, rule: str) -> FileError:
        return FileError.of("records", "path", rule, str(self.path))


def _is_cut_short(line: bytes) -> bool:
    """Whether a line that is no record is how one of ours starts."""
    try:
        json.loads(line)
    except ValueError:
        start = START.encode()
        is_ours = line.startswith(start) or start.startswith(line)
        return is_ours and not line.endswith(b"\n")
    return False
