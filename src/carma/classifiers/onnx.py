"""Classifiers from ONNX files; needs the extra ``onnx``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd

from carma.classifiers.black_box import BlackBoxClassifier, ScoreOf
from carma.errors import ClassifierError, FileError
from carma.schema import Level, Schema

__all__ = ["from_onnx"]

_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": object,
}


def from_onnx(
    path: str | Path,
    schema: Schema,
    *,
    favourable: Level | None = None,
    output: str | None = None,
    score_of: ScoreOf = "favourable",
) -> BlackBoxClassifier:
    """Run a classifier from an ONNX file; the file holds no code that could do anything else.

    Args:
        path: A model that takes either one matrix, whose columns are the schema's features in
            their order, or one input a feature, of the feature's name and shape ``(n, 1)`` or
            ``(n,)``. In original units.
        schema: The problem.
        favourable: Whose probability is given: where the file lists probabilities by class, the
            class (``schema.favourable`` by default); where it gives a matrix, the number of the
            column, counted from 0.
        output: Name of the output that holds probabilities; by default the last one. A single
            column is taken as the favourable probability.
        score_of: ``unfavourable`` where a single column is a risk: the probability of the
            outcome that people fear.

    Raises:
        FileError: The file cannot be read as an ONNX model.
        ClassifierError: The model has other inputs or outputs.

    Example:
        >>> from carma import CausalGraph, Feature
        >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
        >>> from_onnx("absent.onnx", schema)
        Traceback (most recent call last):
        carma.errors.FileError: from_onnx: 'path' must be an ONNX model ...
    """
    owner = "from_onnx"
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        # The runtime's exceptions have no common base of their own.
        reason = str(error).splitlines()[0]
        raise FileError.of(owner, "path", f"be an ONNX model ({reason})", str(path)) from error
    inputs, outputs = session.get_inputs(), [entry.name for entry in session.get_outputs()]
    names = [entry.name for entry in inputs]
    unknown = [name for name in names if name not in schema.names]
    if len(inputs) != 1 and unknown:
        rule = (
            "be one matrix, or one input for each feature; this model was made for other columns "
            f"(unknown to the schema: {unknown})"
        )
        raise ClassifierError.of(owner, "inputs", rule, names)
    takes_matrix = len(inputs) == 1 and (bool(unknown) or len(schema.names) > 1)
    if takes_matrix:
        width = inputs[0].shape[-1]
        if isinstance(width, int) and width != len(schema.names):
            rule = f"have {len(schema.names)} columns, the schema's features in their order"
            raise ClassifierError.of(owner, f"input {names[0]}", rule, inputs[0].shape)
    for entry in inputs:
        if entry.type not in _TYPES:
            rule = f"be of one of the types {', '.join(_TYPES)}"
            raise ClassifierError.of(owner, f"input {entry.name}", rule, entry.type)
        _check_gaps(entry, schema, list(schema.names) if takes_matrix else [entry.name])
    asked = outputs[-1] if output is None else output
    if asked not in outputs:
        raise ClassifierError.of(owner, "output", f"be one of {outputs}", output)
    wanted = schema.favourable if favourable is None else favourable

    def score(frame: pd.DataFrame) -> Any:
        if takes_matrix:
            feed = {names[0]: frame.to_numpy().astype(_TYPES[inputs[0].type])}
        else:
            feed = {entry.name: _column(frame, entry) for entry in inputs}
        (answer,) = session.run([asked], feed)
        if isinstance(answer, list):
            _refuse_risk(score_of, "probabilities by class")
            return _by_class(answer, wanted)
        table = np.asarray(answer)
        if table.ndim > 1 and table.shape[1] > 1:
            _refuse_risk(score_of, "one column a class")
        return _by_column(table, favourable)

    return BlackBoxClassifier(schema, score, score_of=score_of)


def _refuse_risk(score_of: ScoreOf, given: str) -> None:
    if score_of != "favourable":
        rule = f"be absent where the file gives {given}: 'favourable' chooses"
        raise ClassifierError.of("from_onnx", "score_of", rule, score_of)


def _check_gaps(entry: Any, schema: Schema, names: list[str]) -> None:
    passed = [name for name in names if schema[name].missing == "pass"]
    if passed and entry.type not in ("tensor(float)", "tensor(double)"):
        rule = f"be of floats to take the missing values of {', '.join(passed)}: no other has NaN"
        raise ClassifierError.of("from_onnx", f"input {entry.name}", rule, entry.type)


def _column(frame: pd.DataFrame, entry: Any) -> Any:
    values = frame[entry.name].to_numpy().astype(_TYPES[entry.type])
    return values[:, None] if len(entry.shape) == 2 else values


def _by_class(answer: list[Mapping[Any, float]], wanted: Level | None) -> list[float]:
    classes = list(answer[0])
    if wanted not in classes:
        rule = f"be one of the model's classes {classes}: pass from_onnx(..., favourable=...)"
        raise ClassifierError.of("from_onnx", "favourable", rule, wanted)
    return [row[wanted] for row in answer]


def _by_column(answer: np.ndarray[Any, Any], favourable: Level | None) -> Any:
    if answer.ndim == 1 or (answer.ndim == 2 and answer.shape[1] == 1):
        return answer.reshape(-1)
    if answer.ndim != 2:
        rule = "give one probability a row, or one column a class"
        raise ClassifierError.of("from_onnx", "output", rule, answer.shape)
    is_place = isinstance(favourable, int) and not isinstance(favourable, bool)
    if not (isinstance(favourable, int) and is_place and favourable in range(answer.shape[1])):
        rule = (
            f"be the number of the favourable class's column, 0 to {answer.shape[1] - 1}: the "
            "file gives probabilities without the classes' names"
        )
        raise ClassifierError.of("from_onnx", "favourable", rule, favourable)
    return answer[:, favourable]
