"""What the columns of a table mean, and what a person may do about them."""

from __future__ import annotations

import math
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import tomli_w

from carma.errors import FileError, GraphError, SchemaError
from carma.files import write_whole
from carma.formula import Formula
from carma.graph import CausalGraph
from carma.rules import ActionRules, TimeLink

__all__ = ["Direction", "Feature", "Kind", "Level", "Missing", "Role", "Schema"]

Kind = Literal["continuous", "integer", "binary", "ordinal", "nominal"]
Role = Literal["actionable", "mutable", "immutable"]
Direction = Literal["any", "up", "down"]
Missing = Literal["refuse", "impute", "pass"]
Level = str | int | float | bool

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Feature:
    """One column of the table, in original units.

    Args:
        name: Column name.
        kind: ``continuous``, ``integer``, ``binary``, ``ordinal`` (ordered levels) or
            ``nominal`` (unordered levels).
        levels: All values of a binary, ordinal or nominal feature; ordinal ones in rising
            order. A binary feature without levels has 0 and 1.
        bounds: Least and greatest value that can exist (numeric kinds). Rows outside are
            refused, plans never leave them. Without bounds, plans stay in the range that the
            causal model was fitted on.
        step: Plans name multiples of this, counted from the lower bound or 0 (numeric kinds).
            Integers have step 1.
        role: ``actionable``: a plan may set it; ``mutable``: it may move as a consequence;
            ``immutable``: it never moves.
        direction: Which way a plan may move it. For ordinal features, up is towards the last
            level.
        cost_weight: Multiplies the cost of acting on it; 2 = twice as hard.
        moves: For features with levels: the only moves between levels that a plan may make, each
            ``(from, to)`` or ``(from, to, cost)``; without a cost it is 1. Without ``moves``, a
            plan may move a nominal feature to any level at cost 1, and others as ``direction``
            says. A move of cost 1 is as dear as that of a binary feature whose levels are equally
            frequent. ``"*"`` stands for any level; what is said of a pair itself goes first.
        unit: Shown after values, such as ``"EUR"``.
        formula: Makes it a derived feature, which is an exact function of others (``Formula``):
            computed, not learned, and never acted on. The value is rounded if the kind is integer;
            with levels it is the code of one (``codes``). Not for nominal features.

        missing: What happens where a table has no value: ``refuse``: the table is refused;
            ``impute``: the causal model fills it in; ``pass``: the classifier sees the gap, and
            has to be one that takes gaps.

    Raises:
        SchemaError: A field contradicts another or the rules above.

    Example:
        >>> Feature("age", "integer", bounds=(18, 99), role="immutable", unit="years").role
        'immutable'
        >>> Feature("age", "integer", direction="sideways")
        Traceback (most recent call last):
        carma.errors.SchemaError: Feature 'age': 'direction' must be any, up or down; got 'sideways'
    """

    name: str
    kind: Kind = "continuous"
    levels: tuple[Level, ...] = ()
    bounds: tuple[float, float] | None = None
    step: float | None = None
    role: Role = "mutable"
    direction: Direction = "any"
    cost_weight: float = 1.0
    moves: tuple[tuple[Any, ...], ...] = ()
    unit: str = ""
    formula: str | None = None

    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SchemaError.of("Feature", "name", "be a non-empty string", self.name)
        choices = {"kind": Kind, "role": Role, "direction": Direction, "missing": Missing}
        for argument, allowed in choices.items():
            self._check_choice(argument, get_args(allowed))
        for argument in ("levels", "bounds"):
            value = getattr(self, argument)
            if value is not None:
                object.__setattr__(self, argument, self._listed(argument, value))
        for argument in ("step", "cost_weight"):
            object.__setattr__(self, argument, _plain(getattr(self, argument)))
        if not isinstance(self.unit, str):
            raise self._error("unit", "be a string", self.unit)
        if self.kind == "binary" and not self.levels:
            object.__setattr__(self, "levels", (0, 1))
        self._check_levels()
        self._check_bounds()
        self._check_step()
        self._check_moves()
        if self.kind == "nominal" and self.direction != "any":
            raise self._error("direction", "be any: nominal levels have no order", self.direction)
        if self.role == "immutable" and self.direction != "any":
            raise self._error("direction", "be any: immutable features never move", self.direction)
        if not _is_number(self.cost_weight) or self.cost_weight <= 0:
            raise self._error("cost_weight", "be a finite number above 0", self.cost_weight)
        if self.formula is not None:
            self._check_derived(Formula(self.name, self.formula))

    @property
    def has_levels(self) -> bool:
        """True for binary, ordinal and nominal features."""
        return self.kind in ("binary", "ordinal", "nominal")

    @property
    def is_discrete(self) -> bool:
        """True for every kind but continuous."""
        return self.kind != "continuous"

    @property
    def is_switch(self) -> bool:
        """True where a plan sets it level by level: actionable and nominal, or with ``moves``."""
        return self.role == "actionable" and (self.kind == "nominal" or bool(self.moves))

    @cached_property
    def move_costs(self) -> tuple[tuple[float, ...], ...]:
        """Cost of the move from each level to each level, infinite where no plan may make it.

        Example:
            >>> account = Feature("account", "ordinal", levels=(1, 2, 3), role="actionable",
            ...                   moves=((1, 3), (2, 3, 0.5)))
            >>> account.move_costs[0], account.move_costs[1]
            ((0.0, inf, 1.0), (inf, 0.0, 0.5))
        """
        open_to_all = math.inf if self.moves else 1.0
        table = {(a, b): 0.0 if a == b else open_to_all for a in self.levels for b in self.levels}
        # A pair after a pair with one star after one with two: the last word counts.
        for move in sorted(self.moves, key=lambda m: (m[0] != ANY) + (m[1] != ANY)):
            price = float((*move, 1.0)[2])
            for a, b in table:
                if a != b and move[0] in (a, ANY) and move[1] in (b, ANY):
                    table[a, b] = price
        return tuple(tuple(table[a, b] for b in self.levels) for a in self.levels)

    @cached_property
    def codes(self) -> tuple[float, ...]:
        """The number that stands for each level in model space.

        Numeric levels stand for themselves, others are counted from 0.
        """
        if all(_is_number(level) for level in self.levels):
            return tuple(float(level) for level in self.levels)
        return tuple(float(position) for position in range(len(self.levels)))

    def say(self, value: Any) -> str:
        """Write a value for a person: rounded, with its unit.

        Example:
            >>> Feature("income", unit="EUR").say(1234.5678)
            '1,235 EUR'
        """
        return f"{self._rounded(value, 0)} {self.unit}".rstrip()

    def say_change(self, before: Any, after: Any) -> tuple[str, str]:
        """Write two values with as many digits as it takes to tell them apart.

        Args:
            before: Original units.
            after: Original units.

        Example:
            >>> Feature("income", unit="EUR").say_change(1234.1, 1234.3)
            ('1,234.1 EUR', '1,234.3 EUR')
        """
        texts = self._rounded(before, 0), self._rounded(after, 0)
        if _is_number(before) and _is_number(after) and not self.has_levels and before != after:
            for digits in range(1, MOST_DIGITS):
                first, second = (float(text.replace(",", "")) for text in texts)
                if first != second:
                    break
                texts = self._rounded(before, digits), self._rounded(after, digits)
        first_text, second_text = (f"{text} {self.unit}".rstrip() for text in texts)
        return first_text, second_text

    def _rounded(self, value: Any, more_digits: int) -> str:
        if not _is_number(value) or self.has_levels:
            return str(value)
        number = float(value)
        if abs(number) < SMALL and number != 0:
            return f"{number:.{3 + more_digits}g}"
        digits = 0 if abs(number) >= 1000 or number == int(number) else 2
        return f"{number:,.{digits + more_digits}f}"

    def _check_choice(self, argument: str, choices: Sequence[str]) -> None:
        value = getattr(self, argument)
        if value not in choices:
            rule = "be " + ", ".join(choices[:-1]) + f" or {choices[-1]}"
            raise self._error(argument, rule, value)

    def _check_levels(self) -> None:
        if not self.has_levels:
            if self.levels:
                raise self._error("levels", f"be absent for kind {self.kind}", self.levels)
            return
        if not all(_is_level(level) for level in self.levels):
            raise self._error("levels", "be strings, finite numbers or booleans", self.levels)
        least = 2
        if len(self.levels) < least or len(set(self.levels)) != len(self.levels):
            raise self._error("levels", "list at least two different values", self.levels)
        if self.kind == "binary" and len(self.levels) != least:
            raise self._error("levels", "list exactly two values for kind binary", self.levels)
        if len(set(self.codes)) != len(self.codes):
            raise self._error("levels", "differ as 64-bit floats", self.levels)
        if self.kind == "ordinal" and list(self.codes) != sorted(self.codes):
            raise self._error("levels", "rise from the lowest to the highest", self.levels)

    def _check_bounds(self) -> None:
        if self.bounds is None:
            return
        if self.has_levels:
            raise self._error("bounds", f"be absent for kind {self.kind}", self.bounds)
        pair = self.bounds
        if len(pair) != 2 or not all(_is_number(bound) for bound in pair) or pair[0] >= pair[1]:
            raise self._error("bounds", "be two finite numbers, the lower first", self.bounds)
        if self.kind == "integer" and any(bound != int(bound) for bound in pair):
            raise self._error("bounds", "be whole numbers for kind integer", self.bounds)

    def _check_step(self) -> None:
        if self.step is None:
            return
        if self.has_levels:
            raise self._error("step", f"be absent for kind {self.kind}", self.step)
        if not _is_number(self.step) or self.step <= 0:
            raise self._error("step", "be a finite number above 0", self.step)
        if self.kind == "integer" and self.step != int(self.step):
            raise self._error("step", "be a whole number for kind integer", self.step)

    def _check_moves(self) -> None:
        moves = self._listed("moves", self.moves)
        object.__setattr__(self, "moves", tuple(self._listed("moves", move) for move in moves))
        if not self.moves:
            return
        if not self.has_levels or self.role != "actionable":
            rule = "be absent unless the feature has levels and is actionable"
            raise self._error("moves", rule, self.moves)
        if self.direction != "any":
            raise self._error("direction", "be any where 'moves' are given", self.direction)
        for move in self.moves:
            known = (*self.levels, ANY)
            if len(move) not in (2, 3) or any(level not in known for level in move[:2]):
                rule = f"list [from, to] or [from, to, cost] of levels {list(self.levels)} or '*'"
                raise self._error("moves", rule, list(move))
            is_same = move[0] == move[1] != ANY
            if is_same or [other[:2] for other in self.moves].count(move[:2]) > 1:
                raise self._error("moves", "join two different levels, each pair once", list(move))
            if len(move) == 3 and (not _is_number(move[2]) or move[2] <= 0):
                raise self._error("moves", "have a finite cost above 0", list(move))

    def _check_derived(self, formula: Formula) -> None:
        if self.kind == "nominal":
            raise self._error("formula", "be absent for kind nominal", formula.text)
        if self.name in formula.names:
            raise self._error("formula", "not use the feature itself", formula.text)
        if self.role == "actionable":
            raise self._error("role", "be mutable: a derived feature follows others", self.role)
        if self.direction != "any":
            rule = "be any: a derived feature is never acted on"
            raise self._error("direction", rule, self.direction)

    def _listed(self, argument: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            raise self._error(argument, "be a list, not text", value)
        try:
            return tuple(_plain(item) for item in value)
        except TypeError as error:
            raise self._error(argument, "be a list", value) from error

    def _error(self, argument: str, rule: str, value: Any) -> SchemaError:
        return SchemaError.of(f"Feature {self.name!r}", argument, rule, value)


@dataclass(frozen=True)
class Schema:
    """A whole problem: features, causal graph, and what counts as accepted.

    Args:
        features: One ``Feature`` a column, in the order of the table.
        graph: Causal graph over exactly these features. The causes of a derived feature are what
            its formula names; they are added where they are not there.
        outcome: Column with the recorded decision, if the table has one.
        favourable: The value of ``outcome`` that people hope for.
        threshold: A person is accepted when the probability of the favourable outcome is at
            least this; strictly between 0 and 1.
        ignore: Columns that may be in the table and are not used (identifiers, say).
        rules: What holds between actions; see ``ActionRules``.

    Raises:
        SchemaError: The parts contradict each other.
        GraphError: The graph names other features, or other causes of a derived feature.

    Example:
        >>> schema = Schema(
        ...     (Feature("income", role="actionable"), Feature("savings")),
        ...     CausalGraph.from_edges([("income", "savings")]),
        ... )
        >>> schema.actionable
        ('income',)
        >>> Schema.from_toml(schema.to_toml()) == schema
        True
    """

    features: tuple[Feature, ...]
    graph: CausalGraph
    outcome: str | None = None
    favourable: Level | None = None
    threshold: float = 0.5
    ignore: tuple[str, ...] = field(default=())
    rules: ActionRules = field(default_factory=ActionRules)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        ignore: Any = self.ignore
        if isinstance(ignore, str) or not isinstance(ignore, Sequence):
            raise SchemaError.of("Schema", "ignore", "be a list of column names", ignore)
        object.__setattr__(self, "ignore", tuple(self.ignore))
        for argument in ("favourable", "threshold"):
            object.__setattr__(self, argument, _plain(getattr(self, argument)))
        if not self.features:
            raise SchemaError.of("Schema", "features", "list at least one feature", ())
        repeated = sorted({n for n in self.names if self.names.count(n) > 1})
        if repeated:
            raise SchemaError.of("Schema", "features", "have different names", repeated)
        self._align_graph()
        if not _is_number(self.threshold) or not 0 < self.threshold < 1:
            rule = "lie strictly between 0 and 1"
            raise SchemaError.of("Schema", "threshold", rule, self.threshold)
        if (self.outcome is None) != (self.favourable is None):
            pair = (self.outcome, self.favourable)
            rule = "be given together with the other, or neither"
            raise SchemaError.of("Schema", "outcome and favourable", rule, pair)
        if self.outcome is not None and not isinstance(self.outcome, str):
            raise SchemaError.of("Schema", "outcome", "be the name of a column", self.outcome)
        if self.favourable is not None and not _is_level(self.favourable):
            rule = "be a string, a finite number or a boolean"
            raise SchemaError.of("Schema", "favourable", rule, self.favourable)
        taken = [n for n in (self.outcome, *self.ignore) if n in self.names]
        if taken:
            rule = "not be a feature as well"
            raise SchemaError.of("Schema", "outcome or ignore", rule, taken[0])
        self._check_roles()
        if not isinstance(self.rules, ActionRules):
            raise SchemaError.of("Schema", "rules", "be ActionRules", self.rules)
        self._check_rules()

    @classmethod
    def from_toml(cls, source: str | Path) -> Schema:
        """Read the schema part of a problem file.

        Args:
            source: Path of a ``.toml`` file, or TOML text.

        Returns:
            The schema. Sections that set up a job (``data``, ``classifier``, ``decision``,
            ``causal_model``, ``solver``) are left to ``Problem.from_toml``, but for
            ``threshold`` under ``decision``, which may stand at the head as well.

        Raises:
            FileError: The file cannot be read or is no TOML.
            SchemaError: A key is unknown or a value breaks a rule.
        """
        return cls.from_dict(read_toml(source))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """Build a schema from the content of a problem file.

        Raises:
            SchemaError: A key is unknown or missing, or a value breaks a rule.
        """
        decision = content.get("decision")
        content = {k: v for k, v in content.items() if k not in JOB_SECTIONS}
        if isinstance(decision, Mapping) and "threshold" in decision:
            if "threshold" in content:
                rule = "be given once, at the head or under [decision]"
                raise SchemaError.of("problem file", "threshold", rule, decision["threshold"])
            content["threshold"] = decision["threshold"]
        version = content.pop("version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            rule = f"be {FORMAT_VERSION}, the format this version of carma reads"
            raise SchemaError.of("problem file", "version", rule, version)
        for key in ("features", "graph"):
            if not isinstance(content.get(key), Mapping):
                rule = f"be present as a table [{key}]"
                raise SchemaError.of("problem file", key, rule, content.get(key))
        table = cast("Mapping[str, Mapping[str, Any]]", content.pop("features"))
        parents = content.pop("graph")
        allowed = {f.name for f in fields(cls)}
        unknown = sorted(set(content) - allowed)
        if unknown:
            rule = f"be one of {', '.join(sorted(allowed | JOB_SECTIONS | {'version'}))}"
            raise SchemaError.of("problem file", "key", rule, unknown[0])
        features = tuple(_feature_from_dict(name, entry) for name, entry in table.items())
        for effect, causes in parents.items():
            if isinstance(causes, str) or not isinstance(causes, Sequence):
                rule = "list the causes of each effect, as in savings = ['income']"
                raise SchemaError.of("problem file", f"graph.{effect}", rule, causes)
        graph = CausalGraph.from_parents(parents, [f.name for f in features])
        content["rules"] = ActionRules.from_dict(content.get("rules", {}))
        return cls(features, graph, **content)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a problem file; ``from_dict`` undoes it."""
        content: dict[str, Any] = {"version": FORMAT_VERSION}
        if self.outcome is not None:
            content |= {"outcome": self.outcome, "favourable": self.favourable}
        content["threshold"] = self.threshold
        if self.ignore:
            content["ignore"] = list(self.ignore)
        content["graph"] = {
            name: list(self.graph.parents(name))
            for name in self.names
            if self.graph.parents(name) and name not in self.formulas
        }
        content["features"] = {f.name: _feature_to_dict(f) for f in self.features}
        if self.rules != ActionRules():
            content["rules"] = self.rules.to_dict()
        return content

    def to_toml(self, path: str | Path | None = None) -> str:
        """Write the schema as TOML text, and to ``path`` when one is given.

        Raises:
            FileError: The path cannot be written.
        """
        text = tomli_w.dumps(self.to_dict())
        if path is not None:
            write_whole(path, text.encode("utf-8"))
        return text

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Feature names, in order."""
        return tuple(f.name for f in self.features)

    @cached_property
    def actionable(self) -> tuple[str, ...]:
        """Names of the features that a plan may set, in order."""
        return tuple(f.name for f in self.features if f.role == "actionable")

    @cached_property
    def formulas(self) -> dict[str, Formula]:
        """Formulas of the derived features by name, in an order in which they can be computed."""
        derived = {f.name: Formula(f.name, f.formula) for f in self.features if f.formula}
        return {name: derived[name] for name in self.graph.order if name in derived}

    @cached_property
    def base(self) -> Schema:
        """The same problem without its derived features; itself where there are none.

        Where one of them is a cause, what it is computed from takes its place in the graph. A
        table may still have their columns.

        Example:
            >>> rate = Feature("rate", formula="amount / duration")
            >>> parts = (Feature("amount"), Feature("duration"), rate, Feature("risk"))
            >>> graph = CausalGraph.from_parents({"risk": ["rate"]}, [f.name for f in parts])
            >>> Schema(parts, graph).base.graph.edges
            (('amount', 'risk'), ('duration', 'risk'))
        """
        if not self.formulas:
            return self
        sources: dict[str, set[str]] = {name: {name} for name in self.names}
        for name, formula in self.formulas.items():
            sources[name] = set().union(*(sources[n] for n in formula.names))
        kept = tuple(f for f in self.features if f.formula is None)
        edges = [
            (source, effect)
            for cause, effect in self.graph.edges
            if effect not in self.formulas
            for source in sources[cause]
        ]
        graph = CausalGraph.from_edges(edges, [f.name for f in kept])
        ignore = (*self.ignore, *self.formulas)
        # Rules between actions may name derived features, and mechanisms know nothing of them.
        return replace(self, features=kept, graph=graph, ignore=ignore, rules=ActionRules())

    def __getitem__(self, name: str) -> Feature:
        """Return the feature of that name."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise SchemaError.of("Schema", "name", f"be one of {', '.join(self.names)}", name)

    @cached_property
    def switches(self) -> tuple[Feature, ...]:
        """The actionable features that a plan sets level by level, in order."""
        return tuple(f for f in self.features if f.is_switch)

    def _align_graph(self) -> None:
        if not isinstance(self.graph, CausalGraph):
            raise SchemaError.of("Schema", "graph", "be a CausalGraph", self.graph)
        if set(self.graph.nodes) != set(self.names):
            strangers = [n for n in self.graph.nodes if n not in self.names]
            absent = [n for n in self.names if n not in self.graph.nodes]
            rule = "have exactly the features as nodes" + (", none missing" if absent else "")
            raise GraphError.of("Schema", "graph", rule, strangers or absent)
        if self.graph.nodes != self.names:
            object.__setattr__(self, "graph", CausalGraph(self.names, self.graph.edges))
        for feature in self.features:
            if feature.formula is not None:
                self._link(feature, Formula(feature.name, feature.formula))

    def _link(self, feature: Feature, formula: Formula) -> None:
        """Make the features that a formula names the causes of the derived one."""
        owner, argument = f"Feature {feature.name!r}", "formula"
        for name in formula.names:
            if name not in self.names:
                rule = f"only name features ({', '.join(self.names)})"
                raise SchemaError.of(owner, argument, rule, name)
            if self[name].kind == "nominal":
                rule = "not use a nominal feature: its levels are no numbers"
                raise SchemaError.of(owner, argument, rule, name)
            if name in self.graph.descendants(feature.name):
                rule = "not use what the feature acts on itself: that is a cycle"
                raise SchemaError.of(owner, argument, rule, name)
        others = [n for n in self.graph.parents(feature.name) if n not in formula.names]
        if others:
            rule = "have no cause but what its formula names"
            raise GraphError.of("Schema", f"derived feature {feature.name}", rule, others)
        added = tuple((name, feature.name) for name in formula.names)
        graph = CausalGraph(self.names, (*self.graph.edges, *added))
        object.__setattr__(self, "graph", graph)

    def _check_rules(self) -> None:
        rules = self.rules
        groups = {"requires": rules.requires, "together": rules.together}
        groups |= {"exclusive": rules.exclusive}
        groups |= {"time": tuple((link.action,) for link in rules.time)}
        for argument, listed in groups.items():
            for name in (name for group in listed for name in group):
                if name not in self.actionable:
                    rule = f"name actionable features ({', '.join(self.actionable)})"
                    raise SchemaError.of("Schema", f"rules.{argument}", rule, name)
        for name in (name for limit in rules.sums for name in limit.of):
            if name not in self.names or self[name].kind == "nominal":
                rule = "name features whose values can be added up, not nominal ones"
                raise SchemaError.of("Schema", "rules.sums", rule, name)
        for link in rules.time:
            self._check_time(link)

    def _check_time(self, link: TimeLink) -> None:
        action, place = self[link.action], "rules.time"
        if action.kind == "nominal":
            rule = "have an action that can rise; nominal levels have no order"
            raise SchemaError.of("Schema", place, rule, link.action)
        if isinstance(link.takes, tuple) and len(link.takes) != len(action.levels):
            rule = f"tell a time for each of the {len(action.levels)} levels of {link.action!r}"
            raise SchemaError.of("Schema", place, rule, link.takes)
        followers = {n for name in self.actionable for n in self.graph.descendants(name)}
        is_moved = link.moves in self.names and self[link.moves].role == "mutable"
        if is_moved:
            moved = self[link.moves]
            is_moved = not (moved.has_levels or moved.formula is not None)
        if not is_moved or link.moves in followers:
            rule = "move a mutable feature with numbers that no action moves by itself"
            raise SchemaError.of("Schema", place, rule, link.moves)
        self._check_effects(link.moves, f"time moves {link.moves!r}, which moves it")

    def _check_roles(self) -> None:
        for name in self.actionable:
            self._check_effects(name, f"acting on {name!r} moves it")

    def _check_effects(self, name: str, why: str) -> None:
        for effect in sorted(self.graph.descendants(name)):
            if self[effect].role == "immutable":
                rule = f"not be an effect of what moves: {why}; make it mutable or remove the path"
                raise SchemaError.of("Schema", "immutable feature", rule, effect)


# Any level, in moves.
ANY = "*"
JOB_SECTIONS = {"data", "classifier", "decision", "causal_model", "solver"}
# Numbers below this are told by their leading digits; others by decimals, this many more at most.
SMALL, MOST_DIGITS = 0.1, 9


def read_toml(source: str | Path) -> dict[str, Any]:
    """Read TOML from a path or, where the string has several lines, from the string itself.

    Raises:
        FileError: The file cannot be read or is no TOML.
    """
    text = str(source)
    if isinstance(source, Path) or "\n" not in text:
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise FileError.of("problem file", "path", "be a readable text file", text) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"problem file: not valid TOML: {error}") from error


def _feature_from_dict(name: str, entry: Any) -> Feature:
    if not isinstance(entry, Mapping):
        raise SchemaError.of("problem file", f"features.{name}", "be a table", entry)
    allowed = [f.name for f in fields(Feature) if f.name != "name"]
    unknown = sorted(set(entry) - set(allowed))
    if unknown:
        rule = f"only have the keys {', '.join(allowed)}"
        raise SchemaError.of("problem file", f"features.{name}", rule, unknown[0])
    settings = dict(entry)
    for key in ("levels", "bounds", "moves"):
        if isinstance(settings.get(key), list):
            settings[key] = tuple(settings[key])
    return Feature(name, **settings)


def _feature_to_dict(feature: Feature) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": feature.kind}
    for key in fields(Feature):
        value = getattr(feature, key.name)
        if key.name in ("name", "kind") or value == key.default:
            continue
        entry[key.name] = _listed(value)
    return entry


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    """A numpy or torch number as the Python one, which problem files can hold."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _is_level(value: Any) -> bool:
    return isinstance(value, (str, bool)) or _is_number(value)


def _is_number(value: Any) -> bool:
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max
