"""Causal algorithmic recourse at scale: what would this person have to change?

Names are imported when first used, so that ``import carma`` and the command line stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carma.bundle import Bundle as Bundle
    from carma.bundle import load as load
    from carma.bundle import load_bundle as load_bundle
    from carma.bundle import save as save
    from carma.classifiers.base import Classifier as Classifier
    from carma.classifiers.black_box import BlackBoxClassifier as BlackBoxClassifier
    from carma.classifiers.decided import decided as decided
    from carma.classifiers.estimator import from_estimator as from_estimator
    from carma.classifiers.neural import ClassifierSettings as ClassifierSettings
    from carma.classifiers.neural import fit_classifier as fit_classifier
    from carma.classifiers.onnx import from_onnx as from_onnx
    from carma.classifiers.sklearn import from_sklearn as from_sklearn
    from carma.classifiers.skops import from_skops as from_skops
    from carma.classifiers.torch_module import TorchClassifier as TorchClassifier
    from carma.costs import AbsoluteCost as AbsoluteCost
    from carma.costs import Cost as Cost
    from carma.costs import FunctionCost as FunctionCost
    from carma.costs import LargestShift as LargestShift
    from carma.costs import SquaredCost as SquaredCost
    from carma.costs import TotalLogShift as TotalLogShift
    from carma.decision import Decision as Decision
    from carma.draft import draft_schema as draft_schema
    from carma.errors import CarmaError as CarmaError
    from carma.evaluation.comparison import compare as compare
    from carma.evaluation.metrics import Metrics as Metrics
    from carma.evaluation.metrics import evaluate as evaluate
    from carma.evaluation.regret import Regret as Regret
    from carma.evaluation.trials import Tuned as Tuned
    from carma.evaluation.tuning import tune as tune
    from carma.graph import CausalGraph as CausalGraph
    from carma.interventions import Intervention as Intervention
    from carma.models.anm import AdditiveNoiseModel as AdditiveNoiseModel
    from carma.models.anm import AdditiveNoiseSettings as AdditiveNoiseSettings
    from carma.models.base import CausalModel as CausalModel
    from carma.models.derived import WithDerived as WithDerived
    from carma.models.flow import CausalFlow as CausalFlow
    from carma.models.flow import FlowSettings as FlowSettings
    from carma.models.mixed import MixedFlow as MixedFlow
    from carma.models.mixed import MixedSettings as MixedSettings
    from carma.models.scm import Equation as Equation
    from carma.models.scm import StructuralCausalModel as StructuralCausalModel
    from carma.models.scm import additive as additive
    from carma.models.scm import linear as linear
    from carma.models.vaca import Vaca as Vaca
    from carma.models.vaca import VacaSettings as VacaSettings
    from carma.personal import Constraints as Constraints
    from carma.recourse.base import Solver as Solver
    from carma.recourse.carma import Carma as Carma
    from carma.recourse.carma_settings import CarmaSettings as CarmaSettings
    from carma.recourse.dice_vae import DiceVae as DiceVae
    from carma.recourse.dice_vae import DiceVaeSettings as DiceVaeSettings
    from carma.recourse.exact import ExactSettings as ExactSettings
    from carma.recourse.exact import ExactSolver as ExactSolver
    from carma.recourse.grid import GridOracle as GridOracle
    from carma.recourse.grid import GridSettings as GridSettings
    from carma.recourse.noncausal import NonCausalOptimum as NonCausalOptimum
    from carma.recourse.published import PublishedCarma as PublishedCarma
    from carma.recourse.published import PublishedSettings as PublishedSettings
    from carma.recourse.result import RecourseResult as RecourseResult
    from carma.recourse.status import Status as Status
    from carma.rules import ActionRules as ActionRules
    from carma.rules import SumLimit as SumLimit
    from carma.rules import TimeLink as TimeLink
    from carma.schema import Feature as Feature
    from carma.schema import Schema as Schema
    from carma.training import TrainingSettings as TrainingSettings

_HOMES = {
    "AbsoluteCost": "carma.costs",
    "ActionRules": "carma.rules",
    "AdditiveNoiseModel": "carma.models.anm",
    "AdditiveNoiseSettings": "carma.models.anm",
    "BlackBoxClassifier": "carma.classifiers.black_box",
    "Bundle": "carma.bundle",
    "Carma": "carma.recourse.carma",
    "CarmaError": "carma.errors",
    "CarmaSettings": "carma.recourse.carma_settings",
    "CausalFlow": "carma.models.flow",
    "CausalGraph": "carma.graph",
    "CausalModel": "carma.models.base",
    "Classifier": "carma.classifiers.base",
    "ClassifierSettings": "carma.classifiers.neural",
    "Constraints": "carma.personal",
    "Cost": "carma.costs",
    "Decision": "carma.decision",
    "DiceVae": "carma.recourse.dice_vae",
    "DiceVaeSettings": "carma.recourse.dice_vae",
    "Equation": "carma.models.scm",
    "ExactSettings": "carma.recourse.exact",
    "ExactSolver": "carma.recourse.exact",
    "Feature": "carma.schema",
    "FlowSettings": "carma.models.flow",
    "FunctionCost": "carma.costs",
    "GridOracle": "carma.recourse.grid",
    "GridSettings": "carma.recourse.grid",
    "Intervention": "carma.interventions",
    "LargestShift": "carma.costs",
    "Metrics": "carma.evaluation.metrics",
    "MixedFlow": "carma.models.mixed",
    "MixedSettings": "carma.models.mixed",
    "NonCausalOptimum": "carma.recourse.noncausal",
    "PublishedCarma": "carma.recourse.published",
    "PublishedSettings": "carma.recourse.published",
    "RecourseResult": "carma.recourse.result",
    "Regret": "carma.evaluation.regret",
    "Schema": "carma.schema",
    "Solver": "carma.recourse.base",
    "SquaredCost": "carma.costs",
    "Status": "carma.recourse.status",
    "StructuralCausalModel": "carma.models.scm",
    "SumLimit": "carma.rules",
    "TimeLink": "carma.rules",
    "TorchClassifier": "carma.classifiers.torch_module",
    "TotalLogShift": "carma.costs",
    "TrainingSettings": "carma.training",
    "Tuned": "carma.evaluation.trials",
    "Vaca": "carma.models.vaca",
    "VacaSettings": "carma.models.vaca",
    "WithDerived": "carma.models.derived",
    "additive": "carma.models.scm",
    "compare": "carma.evaluation.comparison",
    "decided": "carma.classifiers.decided",
    "draft_schema": "carma.draft",
    "evaluate": "carma.evaluation.metrics",
    "fit_classifier": "carma.classifiers.neural",
    "from_estimator": "carma.classifiers.estimator",
    "from_onnx": "carma.classifiers.onnx",
    "from_sklearn": "carma.classifiers.sklearn",
    "from_skops": "carma.classifiers.skops",
    "linear": "carma.models.scm",
    "load": "carma.bundle",
    "load_bundle": "carma.bundle",
    "save": "carma.bundle",
    "tune": "carma.evaluation.tuning",
}

__all__ = [
    "AbsoluteCost",
    "ActionRules",
    "AdditiveNoiseModel",
    "AdditiveNoiseSettings",
    "BlackBoxClassifier",
    "Bundle",
    "Carma",
    "CarmaError",
    "CarmaSettings",
    "CausalFlow",
    "CausalGraph",
    "CausalModel",
    "Classifier",
    "ClassifierSettings",
    "Constraints",
    "Cost",
    "Decision",
    "DiceVae",
    "DiceVaeSettings",
    "Equation",
    "ExactSettings",
    "ExactSolver",
    "Feature",
    "FlowSettings",
    "FunctionCost",
    "GridOracle",
    "GridSettings",
    "Intervention",
    "LargestShift",
    "Metrics",
    "MixedFlow",
    "MixedSettings",
    "NonCausalOptimum",
    "PublishedCarma",
    "PublishedSettings",
    "RecourseResult",
    "Regret",
    "Schema",
    "Solver",
    "SquaredCost",
    "Status",
    "StructuralCausalModel",
    "SumLimit",
    "TimeLink",
    "TorchClassifier",
    "TotalLogShift",
    "TrainingSettings",
    "Tuned",
    "Vaca",
    "VacaSettings",
    "WithDerived",
    "additive",
    "compare",
    "decided",
    "draft_schema",
    "evaluate",
    "fit_classifier",
    "from_estimator",
    "from_onnx",
    "from_sklearn",
    "from_skops",
    "linear",
    "load",
    "load_bundle",
    "save",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'carma' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
