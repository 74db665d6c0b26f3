"""Classifiers from ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper

from carma import CausalGraph, Feature, Schema, from_onnx
from carma.errors import ClassifierError, FileError

NAMES = ("income", "savings")
SCHEMA = Schema(
    tuple(Feature(name, role="actionable") for name in NAMES),
    CausalGraph(NAMES),
    outcome="paid",
    favourable="yes",
)
X = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0]], dtype=torch.float64)
WEIGHTS = np.array([[2.0], [-1.0]], dtype=np.float32)


def written(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Path:
    weights = helper.make_tensor("w", TensorProto.FLOAT, (2, 1), WEIGHTS.ravel())
    graph = helper.make_graph(nodes, "classifier", inputs, outputs, [weights])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def tensor(name: str, width: int | None) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])


SCORE = [
    helper.make_node("MatMul", ["x", "w"], ["s"]),
    helper.make_node("Sigmoid", ["s"], ["p"]),
]
BOTH = [
    *SCORE,
    helper.make_node("Neg", ["s"], ["t"]),
    helper.make_node("Sigmoid", ["t"], ["q"]),
    helper.make_node("Concat", ["p", "q"], ["both"], axis=1),
]
EXPECTED = torch.sigmoid(X @ torch.from_numpy(WEIGHTS).double()).squeeze(1)


def test_one_matrix_and_one_probability(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", SCORE, [tensor("x", 2)], [tensor("p", 1)])
    classifier = from_onnx(path, SCHEMA)
    torch.testing.assert_close(classifier.probability(X), EXPECTED, atol=2e-6, rtol=0)
    assert classifier.probability(X[:0]).shape == (0,)


def test_one_input_a_feature(tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", ["income", "savings"], ["x"], axis=1), *SCORE]
    inputs = [tensor("savings", 1), tensor("income", 1)]
    path = written(tmp_path / "m.onnx", nodes, inputs, [tensor("p", 1)])
    classifier = from_onnx(path, SCHEMA)
    torch.testing.assert_close(classifier.probability(X), EXPECTED, atol=2e-6, rtol=0)


def test_a_matrix_of_classes_needs_the_favourable_column(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", BOTH, [tensor("x", 2)], [tensor("both", 2)])
    for column, expected in ((0, EXPECTED), (1, 1 - EXPECTED)):
        classifier = from_onnx(path, SCHEMA, favourable=column)
        torch.testing.assert_close(classifier.probability(X), expected, atol=2e-6, rtol=0)
    for wrong in (None, 2, "yes", True):
        with pytest.raises(ClassifierError, match="number of the favourable class's column, 0 to"):
            from_onnx(path, SCHEMA, favourable=wrong).probability(X)


def test_probabilities_by_class_are_looked_up(tmp_path: Path) -> None:
    zipped = helper.make_node(
        "ZipMap", ["both"], ["by_class"], domain="ai.onnx.ml", classlabels_strings=["yes", "no"]
    )
    entry = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    maps = helper.make_map_type_proto(TensorProto.STRING, entry)
    output = helper.make_value_info("by_class", helper.make_sequence_type_proto(maps))
    outputs = [tensor("s", 1), output]
    path = written(tmp_path / "m.onnx", [*BOTH, zipped], [tensor("x", 2)], outputs)
    classifier = from_onnx(path, SCHEMA)
    torch.testing.assert_close(classifier.probability(X), EXPECTED, atol=2e-6, rtol=0)
    with pytest.raises(ClassifierError, match=r"model's classes \['no', 'yes'\]"):
        from_onnx(path, SCHEMA, favourable="maybe").probability(X)
    with pytest.raises(ClassifierError, match="between 0 and 1"):
        from_onnx(path, SCHEMA, output="s").probability(torch.tensor([[9.0, 0.0]]))
    with pytest.raises(ClassifierError, match="'output' must be one of"):
        from_onnx(path, SCHEMA, output="p")


def test_a_model_for_other_columns_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", SCORE, [tensor("x", 2)], [tensor("p", 1)])
    names = (*NAMES, "age")
    wide = Schema(tuple(Feature(name) for name in names), CausalGraph(names))
    with pytest.raises(ClassifierError, match="have 3 columns, the schema's features"):
        from_onnx(path, wide)
    nodes = [helper.make_node("Concat", ["income", "rent"], ["x"], axis=1), *SCORE]
    inputs = [tensor("income", 1), tensor("rent", 1)]
    path = written(tmp_path / "other.onnx", nodes, inputs, [tensor("p", 1)])
    with pytest.raises(ClassifierError, match=r"other columns \(unknown to the schema: \['rent'\]"):
        from_onnx(path, SCHEMA)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="be an ONNX model"):
        from_onnx(tmp_path / "absent.onnx", SCHEMA)
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(FileError, match="be an ONNX model"):
        from_onnx(tmp_path / "text.onnx", SCHEMA)


def test_rows_reach_it_in_original_units(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", SCORE, [tensor("x", 2)], [tensor("p", 1)])
    classifier = from_onnx(path, SCHEMA)
    people = pd.DataFrame({"savings": [3.0], "income": [0.5]})
    probability = classifier.probability(classifier.encoding.encode(people))
    assert float(probability[0]) == pytest.approx(float(EXPECTED[1]), abs=2e-6)


def test_only_floats_are_passed_gaps(tmp_path: Path) -> None:
    features = tuple(Feature(name, missing="pass") for name in NAMES)
    schema = Schema(features, CausalGraph(NAMES), outcome="paid", favourable="yes")
    path = written(tmp_path / "m.onnx", SCORE, [tensor("x", 2)], [tensor("p", 1)])
    x = X.clone()
    x[0, 1] = torch.nan
    from_onnx(path, schema).check_on(X)
    assert from_onnx(path, schema).probability(x).isnan().tolist() == [True, False, False]
    whole = helper.make_tensor_value_info("n", TensorProto.INT64, ["n", 2])
    cast = [helper.make_node("Cast", ["n"], ["x"], to=TensorProto.FLOAT), *SCORE]
    path = written(tmp_path / "n.onnx", cast, [whole], [tensor("p", 1)])
    from_onnx(path, SCHEMA)
    with pytest.raises(ClassifierError, match=r"'input n' must be of floats .* income, savings"):
        from_onnx(path, schema)


def test_a_single_number_may_be_a_risk(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", SCORE, [tensor("x", 2)], [tensor("p", 1)])
    risk = from_onnx(path, SCHEMA, score_of="unfavourable")
    torch.testing.assert_close(risk.probability(X), 1 - EXPECTED, atol=2e-6, rtol=0)
    both = written(tmp_path / "b.onnx", BOTH, [tensor("x", 2)], [tensor("both", 2)])
    chosen = from_onnx(both, SCHEMA, favourable=0, score_of="unfavourable")
    with pytest.raises(ClassifierError, match="'score_of' must be absent where the file gives one"):
        chosen.probability(X)
