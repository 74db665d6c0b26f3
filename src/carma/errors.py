"""Every exception that carma raises on purpose, in one tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

__all__ = [
    "BundleError",
    "CarmaError",
    "ClassifierError",
    "ConstraintError",
    "FileError",
    "GraphError",
    "InputError",
    "NotFittedError",
    "SchemaError",
    "SettingsError",
    "TableError",
    "TrainingError",
]


class CarmaError(Exception):
    """Root of the tree: catch this to catch everything that carma raises on purpose."""


class InputError(CarmaError, ValueError):
    """Something the caller passed in breaks a rule; the job has not started.

    The message names the owner, the argument, the rule and the value received.

    Example:
        >>> InputError.of("Schema", "threshold", "lie strictly between 0 and 1", 1.5)
        InputError("Schema: 'threshold' must lie strictly between 0 and 1; got 1.5")
    """

    @classmethod
    def of(cls, owner: str, argument: str, rule: str, value: Any) -> Self:
        """Build the standard message.

        Args:
            owner: Class or function that checks.
            argument: Name of the argument.
            rule: What must hold, in the form that follows "must".
            value: The value received; its ``repr`` is shown, cut after 120 characters.

        Returns:
            An exception of the class it is called on, ready to be raised.
        """
        # A bare number reads the same whether it came from Python, numpy or torch.
        shown = repr(value.item() if getattr(value, "ndim", None) == 0 else value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return cls(f"{owner}: {argument!r} must {rule}; got {shown}")


class SchemaError(InputError):
    """The description of the problem contradicts itself or the data."""


class GraphError(SchemaError):
    """The causal graph is not a directed acyclic graph over the features."""


class TableError(InputError):
    """A table does not fit the schema; the message names column and row."""


class SettingsError(InputError):
    """A setting is unknown or out of range."""

    @classmethod
    def require(cls, settings: Any, rules: Mapping[str, tuple[bool, str]]) -> None:
        """Raise for the first rule that does not hold.

        Args:
            settings: Whose fields are checked.
            rules: Field to whether its rule holds, and the rule.
        """
        for name, (holds, rule) in rules.items():
            if not holds:
                raise cls.of(type(settings).__name__, name, rule, getattr(settings, name))


class ConstraintError(InputError):
    """A limit on plans contradicts itself."""


class ClassifierError(InputError):
    """A classifier cannot be used or converted."""


class FileError(InputError):
    """A file cannot be read or written."""


class BundleError(FileError):
    """A bundle is damaged, altered, or of a format this version does not read."""


class TrainingError(CarmaError):
    """A fit never reached a finite held-out score; nothing usable was learned."""


class NotFittedError(CarmaError):
    """A method was called before ``fit``.

    Example:
        >>> raise NotFittedError.of("CausalFlow", "abduct")
        Traceback (most recent call last):
        carma.errors.NotFittedError: CausalFlow: call 'fit' before 'abduct'
    """

    @classmethod
    def of(cls, owner: str, method: str) -> Self:
        """Build the standard message for a call of ``method`` on an unfitted ``owner``."""
        return cls(f"{owner}: call 'fit' before {method!r}")
