"""What holds between actions: which belong together, which exclude each other, what takes time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from carma.errors import SchemaError

__all__ = ["ActionRules", "SumLimit", "TimeLink"]


@dataclass(frozen=True)
class SumLimit:
    """A linear limit across features: what they come to after a plan, weighted and added up.

    It binds what a plan sets and what follows from it. A person who is beyond the limit today may
    stay as far beyond it, but get no further.

    Args:
        of: Weight of each feature; levels count with their codes.
        at_most: Highest sum.

    Raises:
        SchemaError: No feature is named, or a number is not finite.

    Example:
        >>> SumLimit({"rent": 12, "income": -0.4}, at_most=0).at_most
        0.0
    """

    of: Mapping[str, float]
    at_most: float

    def __post_init__(self) -> None:
        if not isinstance(self.of, Mapping) or not self.of:
            raise SchemaError.of("SumLimit", "of", "give each feature a weight", self.of)
        for name, weight in self.of.items():
            if not _is_finite(weight) or weight == 0:
                rule = "be a finite number other than 0"
                raise SchemaError.of("SumLimit", f"of[{name!r}]", rule, weight)
        if not _is_finite(self.at_most):
            raise SchemaError.of("SumLimit", "at_most", "be a finite number", self.at_most)
        object.__setattr__(self, "of", {n: float(w) for n, w in self.of.items()})
        object.__setattr__(self, "at_most", float(self.at_most))


@dataclass(frozen=True)
class TimeLink:
    """An action that takes time, which moves another feature: schooling raises age.

    Only the way up takes time. Of several actions the longest counts: they go on side by side.

    Args:
        action: The feature acted on.
        moves: The feature that time moves, as by an intervention: what it causes follows.
        takes: Time for each unit that the action rises by (each step between codes, for levels);
            or, for a feature with levels, the time from the first level to each one.

    Raises:
        SchemaError: A time is not finite, is below 0, or falls from one level to the next.

    Example:
        >>> TimeLink("job", "age", takes=(0, 0.5, 1, 4)).takes
        (0.0, 0.5, 1.0, 4.0)
    """

    action: str
    moves: str
    takes: float | Sequence[float]

    def __post_init__(self) -> None:
        is_list = isinstance(self.takes, Sequence) and not isinstance(self.takes, str)
        times: Any = tuple(self.takes) if is_list else (self.takes,)  # type: ignore[arg-type]
        rule = "be a finite number of at least 0, or one for each level that never falls"
        are_times = times and all(_is_finite(t) and t >= 0 for t in times)
        if not are_times or list(times) != sorted(times):
            raise SchemaError.of("TimeLink", "takes", rule, self.takes)
        taken = tuple(float(t) for t in times)
        object.__setattr__(self, "takes", taken if is_list else taken[0])


@dataclass(frozen=True)
class ActionRules:
    """Rules between the actions of a plan.

    Args:
        requires: Pairs (A, B): who acts on A must act on B as well.
        together: Groups of features: a plan acts on all of a group, or on none.
        exclusive: Groups of features: a plan acts on at most one of a group.
        sums: Linear limits across features.
        time: Actions that take time.

    Raises:
        SchemaError: A rule has another form. That its features exist and can be acted on is
            checked by ``Schema``.

    Example:
        >>> rules = ActionRules(exclusive=[("rent", "buy")], time=[TimeLink("school", "age", 1)])
        >>> rules.to_dict()["exclusive"], ActionRules.from_dict(rules.to_dict()) == rules
        ([['rent', 'buy']], True)
    """

    requires: Sequence[Sequence[str]] = ()
    together: Sequence[Sequence[str]] = ()
    exclusive: Sequence[Sequence[str]] = ()
    sums: Sequence[SumLimit] = field(default=())
    time: Sequence[TimeLink] = field(default=())

    def __post_init__(self) -> None:
        for argument in ("requires", "together", "exclusive"):
            groups = _listed(argument, getattr(self, argument))
            read = tuple(_names(argument, group) for group in groups)
            object.__setattr__(self, argument, read)
        for argument, kind in (("sums", SumLimit), ("time", TimeLink)):
            entries = _listed(argument, getattr(self, argument))
            for entry in entries:
                if not isinstance(entry, kind):
                    raise _error(argument, f"list {kind.__name__}", entry)
            object.__setattr__(self, argument, entries)

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """Read the section ``[rules]`` of a problem file.

        Raises:
            SchemaError: A key is unknown, or a rule has another form.
        """
        if not isinstance(content, Mapping):
            raise SchemaError.of("problem file", "rules", "be a table [rules]", content)
        allowed = [f.name for f in fields(cls)]
        unknown = [key for key in content if key not in allowed]
        if unknown:
            rule = f"only have the keys {', '.join(allowed)}"
            raise SchemaError.of("problem file", "rules", rule, unknown[0])
        read = dict(content)
        for key, kind in (("sums", SumLimit), ("time", TimeLink)):
            read[key] = tuple(_entry(key, kind, e) for e in _listed(key, read.get(key, ())))
        return cls(**read)

    def to_dict(self) -> dict[str, Any]:
        """The section ``[rules]``, without what is not said; ``from_dict`` undoes it."""
        content: dict[str, Any] = {
            name: [list(group) for group in getattr(self, name)]
            for name in ("requires", "together", "exclusive")
        }
        content["sums"] = [asdict(limit) for limit in self.sums]
        content["time"] = [
            asdict(link)
            | {"takes": list(link.takes) if isinstance(link.takes, tuple) else link.takes}
            for link in self.time
        ]
        return {key: value for key, value in content.items() if value}


def _listed(argument: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, (str, Mapping)) or not isinstance(given, Sequence):
        raise _error(argument, "be a list", given)
    return tuple(given)


def _names(argument: str, given: Any) -> tuple[str, ...]:
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    names = tuple(given) if is_list else ()
    size_is_right = len(names) == 2 if argument == "requires" else len(names) >= 2
    if (
        not size_is_right
        or not all(isinstance(n, str) for n in names)
        or len(set(names)) != len(names)
    ):
        rule = "list pairs of two features" if argument == "requires" else "list groups of features"
        raise _error(argument, f"{rule}, each named once", given)
    return names


def _entry(key: str, kind: type[Any], given: Any) -> Any:
    allowed = [f.name for f in fields(kind)]
    if not isinstance(given, Mapping) or set(given) != set(allowed):
        rule = f"have exactly the keys {', '.join(allowed)}"
        raise SchemaError.of("problem file", f"rules.{key}", rule, given)
    return kind(**given)


def _error(argument: str, rule: str, given: Any) -> SchemaError:
    return SchemaError.of("ActionRules", argument, rule, given)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
