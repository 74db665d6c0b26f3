"""A whole job in one TOML file: the schema, where the rows are, and how to fit."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from carma.classifiers.neural import ClassifierSettings
from carma.errors import SettingsError
from carma.models.flow import FlowSettings
from carma.recourse.carma import CarmaSettings
from carma.schema import Schema, read_toml
from carma.training import TrainingSettings

__all__ = ["Problem"]

S = TypeVar("S", ClassifierSettings, FlowSettings, CarmaSettings, TrainingSettings)


@dataclass(frozen=True)
class Problem:
    """What ``carma fit`` does.

    Args:
        schema: Features, graph, outcome, threshold.
        data: Table with the outcome column; from ``[data] path``, relative to the file.
        classifier: From ``[classifier]``.
        causal_model: From ``[causal_model]``.
        solver: From ``[solver]``.

    Example:
        >>> problem = Problem.from_toml('''
        ... [graph]
        ... savings = ["income"]
        ... [features.income]
        ... role = "actionable"
        ... [features.savings]
        ... [solver]
        ... margin = 0.2
        ... [solver.training]
        ... epochs = 50
        ... ''')
        >>> problem.solver.margin, problem.solver.training.epochs, problem.solver.damping
        (0.2, 50, 10.0)
    """

    schema: Schema
    data: Path | None = None
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    causal_model: FlowSettings = field(default_factory=FlowSettings)
    solver: CarmaSettings = field(default_factory=CarmaSettings)

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
        return cls(
            schema,
            None if path is None else base / path,
            _settings(ClassifierSettings(), _section(content, "classifier"), "[classifier]"),
            _settings(FlowSettings(), _section(content, "causal_model"), "[causal_model]"),
            _settings(CarmaSettings(), _section(content, "solver"), "[solver]"),
        )

    @property
    def seed(self) -> int:
        """The solver's seed, which also splits the table."""
        return self.solver.training.seed

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


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name, {})
    if not isinstance(section, Mapping):
        raise SettingsError.of("problem file", name, f"be a table [{name}]", section)
    return section


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
            if not isinstance(value, expected) or isinstance(value, bool):
                rule = f"be of type {getattr(hints[name], '__name__', 'text')}"
                raise SettingsError.of(owner, name, rule, value)
            changes[name] = float(value) if is_float else value
    return replace(defaults, **changes)
