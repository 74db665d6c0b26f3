"""A fitted classifier in a file, as a problem file names it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carma.classifiers.base import Classifier
from carma.classifiers.black_box import ScoreOf, check_score_of
from carma.errors import FileError, SettingsError
from carma.schema import Level, Schema

__all__ = ["ClassifierFile"]

SUFFIXES = (".skops", ".onnx")


@dataclass(frozen=True)
class ClassifierFile:
    """Where a fitted classifier is, and how to read it.

    Args:
        path: Ends in ``.skops`` or ``.onnx``; of no other format is it certain that reading it
            runs no code.
        favourable: See ``from_estimator`` and ``from_onnx``.
        trusted: See ``from_skops``; without meaning for ONNX.
        score_of: See ``from_onnx``; an estimator in a skops file tells its classes.

    Raises:
        SettingsError: The path ends otherwise, or ``score_of`` is given for a skops file.
        ClassifierError: ``score_of`` is neither of its two.

    Example:
        >>> ClassifierFile(Path("model.pkl"))
        Traceback (most recent call last):
        carma.errors.SettingsError: ClassifierFile: 'path' must end in .skops or .onnx: ...
    """

    path: Path
    favourable: Level | None = None
    trusted: tuple[str, ...] = ()
    score_of: ScoreOf = "favourable"

    def __post_init__(self) -> None:
        object.__setattr__(self, "trusted", tuple(self.trusted))
        if self.path.suffix.lower() not in SUFFIXES:
            rule = (
                f"end in {' or '.join(SUFFIXES)}: no pickle is read, it could run any code; "
                "write the estimator with skops.io.dump, or export it to ONNX"
            )
            raise SettingsError.of("ClassifierFile", "path", rule, str(self.path))
        check_score_of("ClassifierFile", self.score_of)
        if self.score_of != "favourable" and self.path.suffix.lower() != ".onnx":
            rule = "be absent: the estimator tells its classes, and 'favourable' chooses"
            raise SettingsError.of("ClassifierFile", "score_of", rule, self.score_of)

    def read(self, schema: Schema, rows: Any = None) -> Classifier:
        """Read the file.

        Args:
            schema: The problem.
            rows: See ``from_estimator``; not needed for ONNX.

        Raises:
            FileError: The file cannot be read, or the package that reads it is not installed.
            ClassifierError: The classifier does not fit the schema.
        """
        extra = self.path.suffix.lower().removeprefix(".")
        try:
            if extra == "onnx":
                from carma.classifiers.onnx import from_onnx

                return from_onnx(
                    self.path, schema, favourable=self.favourable, score_of=self.score_of
                )
            from carma.classifiers.skops import from_skops

            return from_skops(
                self.path, schema, rows=rows, favourable=self.favourable, trusted=self.trusted
            )
        except ModuleNotFoundError as error:
            rule = (
                f"be read with the extra '{extra}': pip install 'carma-recourse[{extra}]' ({error})"
            )
            raise FileError.of("ClassifierFile", "path", rule, str(self.path)) from error
