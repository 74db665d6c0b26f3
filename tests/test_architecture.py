"""The house's own rules: imports go one way, no cycles, exports agree."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

import carma

SOURCE = Path(carma.__file__).parent

# A module may import from its own layer's earlier lines and from every layer above.
LAYERS = [
    {"errors"},
    {"decision", "files", "formula", "graph", "progress", "rules", "state"},
    {"schema"},
    {"table", "training"},
    {"column_rules", "interventions", "draft"},
    {"models", "classifiers", "costs", "constraints"},
    {"personal"},
    {"benchmarks", "recourse"},
    {"evaluation", "bundle", "problem"},
    {"report"},
    {"reproduction"},
    {"cli"},
]
STRANGERS = [{"models"}, {"classifiers"}, {"costs"}, {"constraints"}]
OPTIONAL = {
    "sklearn": {"carma.classifiers.sklearn"},
    "dice_ml": {"carma.recourse.dice"},
    "raiutils": {"carma.recourse.dice"},
    "lightgbm": {"carma.classifiers.named"},
    "xgboost": {"carma.classifiers.named"},
    "onnxruntime": {"carma.classifiers.onnx"},
    "skops": {"carma.classifiers.skops"},
    "matplotlib": {
        f"carma.report.{name}"
        for name in ("bands", "bars", "changes", "front", "graphs", "histograms", "style")
    },
    "jinja2": {"carma.reproduction.page"},
    "optuna": {"carma.evaluation.study"},
    "pydot": {"carma.graph"},
    "polars": set[str](),
    "torch_geometric": {"carma.models.graph_networks"},
}


def modules() -> dict[str, Path]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = ("carma", *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def layer(module: str) -> int:
    part = module.split(".")[1]
    return next(i for i, names in enumerate(LAYERS) if part in names)


def inner() -> dict[str, set[str]]:
    known = modules()
    return {
        name: {n for n in imports(path) if n in known and n not in ("carma", name)}
        for name, path in known.items()
        if name != "carma"
    }


def test_imports_go_one_way() -> None:
    for name, used in inner().items():
        for other in used:
            assert layer(other) <= layer(name), f"{name} imports {other}"
            parts = {name.split(".")[1]}, {other.split(".")[1]}
            if parts[0] != parts[1]:
                assert not (parts[0] in STRANGERS and parts[1] in STRANGERS), f"{name}, {other}"


def test_recourse_knows_only_base_classes_of_models_and_classifiers() -> None:
    for name, used in inner().items():
        if name.startswith("carma.recourse"):
            for other in used:
                if other.split(".")[1] in ("models", "classifiers") and other.count(".") > 1:
                    assert other.endswith(".base"), f"{name} imports {other}"


def test_no_import_cycles() -> None:
    graph = nx.DiGraph((a, b) for a, used in inner().items() for b in used)
    assert list(nx.simple_cycles(graph)) == []


@pytest.mark.parametrize("package", sorted(OPTIONAL))
def test_optional_packages_stay_in_their_module(package: str) -> None:
    users = {
        name
        for name, path in modules().items()
        if any(n == package or n.startswith(f"{package}.") for n in imports(path))
    }
    assert users <= OPTIONAL[package]


def test_exports_exist_and_agree() -> None:
    assert set(carma.__all__) <= set(dir(carma))
    for name in carma.__all__:
        home = importlib.import_module(carma._HOMES[name])
        assert getattr(carma, name) is getattr(home, name)
        assert name in home.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        carma.nonsense  # noqa: B018


def test_every_module_declares_its_exports() -> None:
    for info in pkgutil.walk_packages(carma.__path__, "carma."):
        module = importlib.import_module(info.name)
        if not info.ispkg:
            assert set(module.__all__) <= set(vars(module)), info.name
        assert module.__doc__, info.name


def test_no_pickle_anywhere() -> None:
    for path in modules().values():
        assert not {"pickle", "joblib", "torch.load", "cloudpickle"} & imports(path)
        assert "torch.load(" not in path.read_text(encoding="utf-8")


def test_import_carma_is_lazy() -> None:
    code = "import sys, carma; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603
