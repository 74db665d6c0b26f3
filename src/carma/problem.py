"""A whole job in one TOML file: the schema, where the rows are, and how to fit."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import tomli_w

from carma.classifiers.base import Classifier
from carma.classifiers.decided import decided
from carma.classifiers.file import ClassifierFile
from carma.classifiers.neural import ClassifierSettings, fit_classifier
from carma.costs import Cost
from carma.decision import Decision
from carma.errors import SettingsError
from carma.models.anm import AdditiveNoiseModel, AdditiveNoiseSettings
from carma.models.base import CausalModel
from carma.models.derived import WithDerived
from carma.models.flow import CausalFlow, FlowSettings
from carma.models.mixed import MixedFlow, MixedSettings
from carma.models.vaca import Vaca, VacaSettings
from carma.recourse.carma import Carma
from carma.recourse.carma_settings import CarmaSettings
from carma.recourse.published import PublishedCarma, PublishedSettings
from carma.schema import Schema, read_toml
from carma.table import Encoding, Statistics, labels
from carma.training import TrainingSettings, split_rows

__all__ = ["Problem"]

CausalSettings = FlowSettings | AdditiveNoiseSettings | MixedSettings | VacaSettings
S = TypeVar(
    "S",
    ClassifierSettings,
    CausalSettings,
    CarmaSettings,
    PublishedSettings,
    TrainingSettings,
)
# Kinds of ``[causal_model]``: the model and its default settings.
CAUSAL_MODELS: dict[str, tuple[Callable[[Schema, Any], CausalModel], CausalSettings]] = {
    CausalFlow.kind: (CausalFlow, FlowSettings()),
    AdditiveNoiseModel.kind: (AdditiveNoiseModel, AdditiveNoiseSettings()),
    MixedFlow.kind: (MixedFlow, MixedSettings()),
    Vaca.kind: (Vaca, VacaSettings()),
}

# Share of the rows that nothing is fitted on, and of the others, that a fit is calibrated on.
HELD_OUT = 0.2
TO_CALIBRATE = 0.2


@dataclass(frozen=True)
class Problem:
    """What ``carma fit`` does.

    Args:
        schema: Features, graph, outcome, threshold.
        data: Table with the outcome column; from ``[data] path``, relative to the file.
        classifier: From ``[classifier]``.
        causal_model: From ``[causal_model]``; ``kind`` in it says which model, a
            causal flow by default.
        solver: From ``[solver]``; with ``method = "published"`` in it, CARMA as published.
        classifier_file: From ``[classifier] path``: a fitted classifier, in place of one that is
            fitted here.
        decision: From ``[decision]``, where that says more than ``threshold``: a plain threshold
            is the schema's.

    Example:
        >>> problem = Problem.from_toml('''
        ... [graph]
        ... savings = ["income"]
        ... [features.income]
        ... role = "actionable"
        ... [features.savings]
        ... [solver]
        ... validity = 0.99
        ... [solver.training]
        ... epochs = 50
        ... ''')
        >>> problem.solver.validity, problem.solver.training.epochs, problem.solver.candidates
        (0.99, 50, 3)
    """

    schema: Schema
    data: Path | None = None
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    causal_model: CausalSettings = field(default_factory=FlowSettings)
    solver: CarmaSettings | PublishedSettings = field(default_factory=CarmaSettings)
    classifier_file: ClassifierFile | None = None
    decision: Decision | None = None

    def __post_init__(self) -> None:
        if self.decision is None:
            return
        # Where no threshold decides, that of the schema has no meaning.
        given = self.decision.threshold
        threshold = Schema.threshold if given is None else given
        object.__setattr__(self, "schema", replace(self.schema, threshold=threshold))
        if self.decision == Decision(threshold=threshold):
            object.__setattr__(self, "decision", None)

    @classmethod
    def from_toml(cls, source: str | Path) -> Problem:
        """Read a problem file.

        Args:
            source: Path of a ``.toml`` file, or TOML text.

        Raises:
            FileError: The file cannot be read or is no TOML.
            SchemaError: The schema breaks a rule.
            SettingsError: A setting is unknown or breaks a rule.
        """
        content = read_toml(source)
        schema = Schema.from_dict(content)
        data = _section(content, "data")
        unknown = sorted(set(data) - {"path"})
        if unknown:
            raise SettingsError.of("[data]", "key", "be path", unknown[0])
        path = data.get("path")
        if path is not None and not isinstance(path, str):
            raise SettingsError.of("[data]", "path", "be text", path)
        base = Path() if "\n" in str(source) else Path(source).parent
        section = _section(content, "classifier")
        file = _classifier_file(section, base) if "path" in section else None
        section = {} if file else section
        return cls(
            schema,
            None if path is None else base / path,
            _settings(ClassifierSettings(), section, "[classifier]"),
            _causal_model_settings(_section(content, "causal_model")),
            _solver_settings(_section(content, "solver")),
            file,
            _decision(_section(content, "decision")),
        )

    def to_toml(self, path: str | Path | None = None) -> str:
        """Write the whole job as TOML text that ``from_toml`` reads back, every setting named.

        Args:
            path: Where the text is going to be: ``[data] path`` is relative to its folder;
                without it, to the working folder.

        Example:
            >>> problem = Problem.from_toml('''
            ... [graph]
            ... [features.age]
            ... [data]
            ... path = "people.csv"
            ... ''')
            >>> Problem.from_toml(problem.to_toml()) == problem
            True
        """
        content = self.schema.to_dict()
        folder = Path() if path is None else Path(path).parent
        if self.decision is not None:
            del content["threshold"]
            content["decision"] = _written(asdict(self.decision))
        if self.data is not None:
            content["data"] = {"path": _relative(self.data, folder)}
        for name in ("classifier", "causal_model", "solver"):
            content[name] = _written(asdict(getattr(self, name)))
        if self.classifier_file is not None:
            file = _written(asdict(self.classifier_file))
            content["classifier"] = file | {"path": _relative(self.classifier_file.path, folder)}
        content["causal_model"]["kind"] = self._causal_kind
        if isinstance(self.solver, PublishedSettings):
            content["solver"]["method"] = "published"
        return tomli_w.dumps(content)

    @property
    def seed(self) -> int:
        """The solver's seed, which also splits the table."""
        return self.solver.training.seed

    def new_causal_model(self) -> CausalModel:
        """The causal model that ``[causal_model]`` asks for, not fitted.

        Inside ``WithDerived`` where the schema has derived features.
        """
        model, _ = CAUSAL_MODELS[self._causal_kind]
        inner = model(self.schema.base, self.causal_model)
        return WithDerived(self.schema, inner) if self.schema.formulas else inner

    @property
    def _calibrates(self) -> bool:
        return self.decision is not None and bool(self.decision.calibrated)

    @property
    def _causal_kind(self) -> str:
        kinds = {type(defaults): kind for kind, (_, defaults) in CAUSAL_MODELS.items()}
        return kinds[type(self.causal_model)]

    def split(self, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Check a table, and split it at random.

        Args:
            table: With the outcome column.

        Returns:
            Rows to fit on, and rows held out to measure what was fitted.

        Raises:
            TableError: Something is wrong with the table that would end a fit.
            SchemaError: The schema names no outcome.
        """
        encoding = Encoding(self.schema)
        x = encoding.encode(table)
        Statistics.of(x[encoding.complete(x)], encoding)
        if self.classifier_file is None or self._calibrates:
            labels(self.schema, table)
        chosen, rest = split_rows(len(table), HELD_OUT, self.seed)
        train, held_out = (table.iloc[sorted(part.tolist())] for part in (chosen, rest))
        return train, held_out

    def fit_parts(
        self, rows: pd.DataFrame, *, progress: bool | None = None
    ) -> tuple[CausalModel, Classifier]:
        """Fit causal model and classifier; or read the classifier, where it is in a file.

        A reject rate is met on these rows. To calibrate a classifier that is fitted here, a part
        of them is left to it; one from a file is calibrated on all of them.

        Args:
            rows: First part of ``split``.
            progress: See ``track``.

        Raises:
            TrainingError: A fit failed.
            FileError: The classifier's file cannot be read.
            ClassifierError: The classifier in it does not fit the schema, or the decision cannot
                be fitted; see ``decided``.
        """
        classifier: Classifier
        reference = rows
        if self.classifier_file is not None:
            classifier = self.classifier_file.read(self.schema, rows)
        else:
            learned = rows
            if self._calibrates:
                parts = split_rows(len(rows), TO_CALIBRATE, self.seed)
                learned, reference = (rows.iloc[sorted(part.tolist())] for part in parts)
            classifier = fit_classifier(self.schema, learned, self.classifier, progress=progress)
        if self.decision is not None:
            classifier = decided(classifier, self.decision, reference)
        model = self.new_causal_model().fit(rows, progress=progress)
        return model, classifier

    def new_solver(
        self, causal_model: CausalModel, classifier: Classifier, cost: Cost | None = None
    ) -> Carma | PublishedCarma:
        """The solver that ``[solver]`` asks for, not fitted.

        Args:
            causal_model: Fitted.
            classifier: Decides.
            cost: See ``Solver``.
        """
        if isinstance(self.solver, CarmaSettings):
            return Carma(causal_model, classifier, cost=cost, settings=self.solver)
        return PublishedCarma(causal_model, classifier, cost=cost, settings=self.solver)

    def with_seed(self, seed: int | None) -> Problem:
        """The same job with another seed for every part, or itself for ``None``."""
        if seed is None:
            return self
        seeded = {
            name: replace(part, training=replace(part.training, seed=seed))
            for name in ("classifier", "causal_model", "solver")
            for part in [getattr(self, name)]
        }
        return replace(self, **seeded)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _classifier_file(given: Mapping[str, Any], base: Path) -> ClassifierFile:
    allowed = [f.name for f in fields(ClassifierFile)]
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        rule = f"be one of {', '.join(allowed)} where path names a fitted classifier"
        raise SettingsError.of("[classifier]", "key", rule, unknown[0])
    path, favourable = given["path"], given.get("favourable")
    if not isinstance(path, str):
        raise SettingsError.of("[classifier]", "path", "be text", path)
    if favourable is not None and not isinstance(favourable, (str, int, float)):
        rule = "be text, a number or a boolean"
        raise SettingsError.of("[classifier]", "favourable", rule, favourable)
    trusted = given.get("trusted", [])
    if not isinstance(trusted, list) or not all(isinstance(name, str) for name in trusted):
        raise SettingsError.of("[classifier]", "trusted", "be a list of texts", trusted)
    score_of = given.get("score_of", "favourable")
    return ClassifierFile(base / path, favourable, tuple(trusted), score_of)


def _decision(given: Mapping[str, Any]) -> Decision | None:
    allowed = [f.name for f in fields(Decision)]
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise SettingsError.of("[decision]", "key", f"be one of {', '.join(allowed)}", unknown[0])
    return Decision(**given) if given else None


def _written(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as TOML has them: without ``None``, which is what an absent key means."""
    return {
        name: _written(value)
        if isinstance(value, Mapping)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in content.items()
        if value is not None
    }


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name, {})
    if not isinstance(section, Mapping):
        raise SettingsError.of("problem file", name, f"be a table [{name}]", section)
    return section


def _causal_model_settings(given: Mapping[str, Any]) -> CausalSettings:
    content = dict(given)
    kind = content.pop("kind", CausalFlow.kind)
    if kind not in tuple(CAUSAL_MODELS):
        rule = f"be {' or '.join(CAUSAL_MODELS)}"
        raise SettingsError.of("[causal_model]", "kind", rule, kind)
    return _settings(CAUSAL_MODELS[kind][1], content, "[causal_model]")


def _solver_settings(given: Mapping[str, Any]) -> CarmaSettings | PublishedSettings:
    content = dict(given)
    method = content.pop("method", "carma")
    if method == "carma":
        return _settings(CarmaSettings(), content, "[solver]")
    if method == "published":
        return _settings(PublishedSettings(), content, "[solver]")
    raise SettingsError.of("[solver]", "method", "be carma or published", method)


def _settings(defaults: S, given: Mapping[str, Any], owner: str) -> S:
    """Replace the given fields of a settings dataclass, section by section."""
    allowed = [f.name for f in fields(defaults)]
    hints = typing.get_type_hints(type(defaults))
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name not in allowed:
            raise SettingsError.of(owner, "key", f"be one of {', '.join(allowed)}", name)
        default = getattr(defaults, name)
        if isinstance(default, TrainingSettings):
            if not isinstance(value, Mapping):
                raise SettingsError.of(owner, name, "be a table", value)
            changes[name] = _settings(default, value, f"{owner}.{name}")
        elif isinstance(default, tuple):
            if not isinstance(value, list):
                raise SettingsError.of(owner, name, "be a list", value)
            changes[name] = tuple(value)
        else:
            is_float = hints[name] in (float, float | None)
            expected = (int, float) if is_float else type(default)
            is_right = isinstance(value, expected)
            if not is_right or (isinstance(value, bool) and expected is not bool):
                rule = f"be of type {getattr(hints[name], '__name__', 'text')}"
                raise SettingsError.of(owner, name, rule, value)
            changes[name] = float(value) if is_float else value
    return replace(defaults, **changes)
