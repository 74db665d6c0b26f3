"""One file that holds everything a recommendation needs: safetensors with a JSON manifest."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from carma.benchmarks.sets import structural_model
from carma.classifiers.base import Classifier
from carma.classifiers.black_box import BlackBoxClassifier
from carma.classifiers.calibrated import CalibratedClassifier
from carma.classifiers.network import NetworkClassifier
from carma.classifiers.torch_module import TorchClassifier
from carma.costs import cost_from_state
from carma.decision import Decision
from carma.errors import BundleError, CarmaError
from carma.files import write_whole
from carma.models.base import CausalModel
from carma.models.derived import LEARNED, WithDerived
from carma.models.scm import StructuralCausalModel
from carma.recourse.base import Solver
from carma.recourse.carma import Carma
from carma.recourse.dice_vae import DiceVae
from carma.recourse.exact import ExactSolver
from carma.recourse.grid import GridOracle
from carma.recourse.noncausal import NonCausalOptimum
from carma.recourse.published import PublishedCarma
from carma.schema import Schema
from carma.state import State, prefixed, unprefixed
from carma.table import Encoding, Statistics

__all__ = ["Bundle", "load", "load_bundle", "save"]

FORMAT = 4
PARTS = ("causal_model", "classifier", "cost", "solver")
SOLVERS: dict[str, type[Solver]] = {
    solver.kind: solver
    for solver in (Carma, DiceVae, ExactSolver, GridOracle, NonCausalOptimum, PublishedCarma)
}


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Args:
        solver: Fitted; holds the causal model, classifier and cost.
        metrics: What was measured when it was saved.
        manifest: Format, versions, seed and the fingerprint of each part.
    """

    solver: Solver
    metrics: dict[str, Any]
    manifest: dict[str, Any]


def save(
    solver: Solver,
    path: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Path:
    """Save a fitted solver with all its parts in one file.

    Args:
        solver: Fitted.
        path: Destination; replaced whole or not at all.
        metrics: Plain numbers to keep with it.
        seed: Of the fit, to keep with it.

    Returns:
        The path.

    Raises:
        BundleError: A part cannot be stored without code, or a metric is no plain number.
        NotFittedError: The solver is not fitted.
        FileError: The path cannot be written.
    """
    parts = {
        "causal_model": (solver.causal_model.kind, solver.causal_model.state()),
        "classifier": (solver.classifier.kind, solver.classifier.state()),
        "cost": (solver.cost.kind, solver.cost.state()),
        "solver": (solver.kind, solver.state()),
    }
    schema = solver.schema.to_dict()
    statistics = State({}, solver.causal_model.statistics_.as_tensors())
    manifest = {
        "format": FORMAT,
        "versions": {name: version(name) for name in ("carma-recourse", "torch", "zuko", "scipy")}
        | {"python": platform.python_version()},
        "seed": seed,
        "metrics": dict(metrics or {}),
        "schema": schema,
        "decision": asdict(solver.classifier.decision),
        "statistics": statistics.fingerprint(),
        "parts": {
            name: {"kind": kind, "config": state.config, "fingerprint": state.fingerprint()}
            for name, (kind, state) in parts.items()
        },
    }
    # Unsorted: the order of the features is part of the schema.
    try:
        text = json.dumps(manifest, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        rule = f"be plain finite numbers ({error})"
        raise BundleError.of("save", "metrics", rule, metrics) from error
    tensors: dict[str, Tensor] = prefixed("statistics", statistics.tensors)
    for name, (_, state) in parts.items():
        tensors |= prefixed(name, state.tensors)
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    metadata = {"manifest": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return write_whole(path, safetensors.torch.save(tensors, metadata))


def load(
    path: str | Path,
    *,
    module: nn.Module | None = None,
    causal_model: type[CausalModel] | None = None,
    classifier: Classifier | None = None,
) -> Solver:
    """Load a solver that answers exactly as the saved one did.

    Args:
        path: Written by ``save``.
        module: Architecture of the classifier, only where it is the caller's own
            ``torch.nn.Module``; its weights are replaced by the stored ones.
        causal_model: Class of the causal model, only where it is the caller's own.
        classifier: Only where it is a ``BlackBoxClassifier``, of which no code is stored: the
            one that was saved, which is known again by its answers on a few rows.

    Returns:
        The fitted solver.

    Raises:
        BundleError: The file is missing, truncated, altered or of another format, or a part of
            the caller's own is not handed in, or is another one than was saved.
    """
    return load_bundle(path, module=module, causal_model=causal_model, classifier=classifier).solver


def load_bundle(
    path: str | Path,
    *,
    module: nn.Module | None = None,
    causal_model: type[CausalModel] | None = None,
    classifier: Classifier | None = None,
) -> Bundle:
    """Load a bundle with its metrics and manifest; see ``load``."""
    manifest, tensors = _read(path)
    try:
        schema = Schema.from_dict(manifest["schema"])
        states = {name: _part(path, manifest, tensors, name) for name in PARTS}
        statistics = State({}, unprefixed("statistics", tensors))
        if statistics.fingerprint() != manifest["statistics"]:
            raise _refusal(path, "be unchanged; the statistics do not match their fingerprint")
        kinds = {name: manifest["parts"][name]["kind"] for name in PARTS}
        model = _causal_model(kinds["causal_model"], schema, states["causal_model"], causal_model)
        model.statistics_ = Statistics(**statistics.tensors)
        decides = _classifier(kinds["classifier"], schema, states["classifier"], module, classifier)
        decides = decides.deciding(Decision(**manifest["decision"]))
        cost = cost_from_state(Encoding(schema), states["cost"])
        solver = SOLVERS[kinds["solver"]].restore(model, decides, cost, states["solver"])
        metrics = manifest["metrics"]
    except CarmaError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _refusal(path, f"be a complete bundle ({error})") from error
    return Bundle(solver, metrics, manifest)


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    source = Path(path)
    if not source.is_file():
        raise _refusal(path, "be an existing file")
    try:
        with safetensors.safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise _refusal(path, f"be a whole bundle, not truncated or damaged ({error})") from error
    text = metadata.get("manifest")
    if text is None:
        raise _refusal(path, "be a carma bundle; the manifest is missing")
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get("sha256"):
        raise _refusal(path, "be unchanged; the manifest does not match its fingerprint")
    manifest: dict[str, Any] = json.loads(text)
    if manifest.get("format") != FORMAT:
        rule = f"have format {FORMAT}, the one this version of carma reads"
        raise BundleError.of("bundle", "format", rule, manifest.get("format"))
    return manifest, tensors


def _part(
    path: str | Path, manifest: dict[str, Any], tensors: Mapping[str, Tensor], name: str
) -> State:
    entry = manifest["parts"][name]
    state = State(entry["config"], unprefixed(name, tensors))
    if state.fingerprint() != entry["fingerprint"]:
        raise _refusal(path, f"be unchanged; part {name!r} does not match its fingerprint")
    return state


def _causal_model(
    kind: str, schema: Schema, state: State, own: type[CausalModel] | None
) -> CausalModel:
    if own is not None and own.kind == kind:
        return own.from_state(schema, state)
    if kind == StructuralCausalModel.kind:
        return structural_model(state.config["name"])
    if kind == WithDerived.kind:
        return WithDerived.from_state(schema, state, own)
    if kind not in LEARNED:
        rule = f"be handed in: the class of the caller's own causal model, of kind {kind!r}"
        raise BundleError.of("load", "causal_model", rule, own)
    return LEARNED[kind].from_state(schema, state)


def _classifier(
    kind: str, schema: Schema, state: State, module: nn.Module | None, own: Classifier | None
) -> Classifier:
    if kind == CalibratedClassifier.kind:
        # Who hands in a calibrated classifier has the one inside as well.
        own = own.classifier if isinstance(own, CalibratedClassifier) else own
        inner, part = CalibratedClassifier.part(state)
        inside = _classifier(inner, schema, part, module, own)
        return CalibratedClassifier.from_state(schema, state, inside)
    if kind == BlackBoxClassifier.kind:
        return BlackBoxClassifier.from_state(schema, state, own)
    if kind == TorchClassifier.kind:
        return TorchClassifier.from_state(schema, state, module)
    return {NetworkClassifier.kind: NetworkClassifier}[kind].from_state(schema, state)


def _refusal(path: str | Path, rule: str) -> BundleError:
    return BundleError.of("bundle", "path", rule, str(path))
