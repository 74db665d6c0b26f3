"""What a derived feature is computed by: one expression over other features."""

from __future__ import annotations

import ast
import functools
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from carma.errors import SchemaError

__all__ = ["Formula"]

Term = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Formula:
    """An expression in the notation of Python, over columns of numbers.

    It is read by a grammar of its own and never run as code: numbers, features, ``+ - * /``, ``**``
    with a number as exponent, comparisons, ``and``, ``or`` and ``not`` (0 or 1), and the functions
    ``min``, ``max``, ``abs``, ``log``, ``log1p``, ``exp``, ``sqrt``, ``floor``, ``ceil``,
    ``round`` (half to even), ``where(condition, a, b)`` and ``bin(value, edge, ...)``, the number
    of edges at or below the value. The name of a feature that Python could not read stands in
    backquotes. What is undefined, as a division by zero, is NaN; ``where``, ``and`` and ``or``
    leave out what they do not need.

    Args:
        feature: Name of the derived feature; for messages.
        text: The expression.

    Raises:
        SchemaError: The text is no such expression, or names no feature.

    Example:
        >>> rate = Formula("rate", "where(duration > 0, amount / duration, `first rate`)")
        >>> rate.names
        ('duration', 'amount', 'first rate')
        >>> columns = {"amount": [6.0, 1.0], "duration": [2.0, 0.0], "first rate": [9.0, 9.0]}
        >>> rate({name: torch.tensor(column) for name, column in columns.items()}).tolist()
        [3.0, 9.0]
    """

    feature: str
    text: str

    def __post_init__(self) -> None:
        if not self.names:
            rule = "name a feature: it would be a constant without"
            raise SchemaError.of(f"Feature {self.feature!r}", "formula", rule, self.text)

    @property
    def names(self) -> tuple[str, ...]:
        """Features that are needed, in the order in which they are named first."""
        return tuple(self._reader.names)

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """Compute the column.

        Args:
            values: A column for each of ``names``, shape ``(n,)`` each, model space.

        Returns:
            Shape ``(n,)``; NaN where the expression is undefined. Differentiable in the values
            where the expression is; elsewhere the slope is 0.
        """
        return self._reader.term(values)

    def __reduce__(self) -> tuple[type[Formula], tuple[str, str]]:
        """The text alone is copied: what it is read to are functions without a name."""
        return Formula, (self.feature, self.text)

    @cached_property
    def _reader(self) -> _Reader:
        return _Reader(self.feature, self.text)


class _Reader:
    """Turns text into one function of columns, or says which piece of it is not allowed."""

    def __init__(self, feature: str, text: str) -> None:
        self._feature = feature
        self.names: dict[str, None] = {}
        if not isinstance(text, str) or not text.strip():
            raise self._error("be an expression over features", text)
        if len(text) > LONGEST:
            raise self._error(f"have at most {LONGEST} characters", text)
        # Longer than any run of these in the text, so that no name of the text starts with it.
        start = "_" * (1 + max(map(len, re.findall("_+", text)), default=0))
        quoted = re.findall("`([^`]+)`", text)
        self._quoted = {f"{start}{i}": name for i, name in enumerate(quoted)}
        places = iter(self._quoted)
        plain = re.sub("`[^`]+`", lambda _: f" {next(places)} ", text)
        self._plain = " ".join(plain.split())
        if "`" in plain or "#" in plain:
            raise self._error("be one expression, names in pairs of backquotes", text)
        # Python takes letters that look alike for one.
        if not unicodedata.is_normalized("NFKC", plain):
            raise self._error("have names with letters that are not in NFKC in backquotes", text)
        try:
            tree = ast.parse(self._plain, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._error("be one expression that can be read", text) from error
        self.term = self._read(tree.body, 0)

    def _read(self, node: ast.expr, depth: int) -> Term:
        if depth > DEEPEST:
            raise self._error(f"not be nested more than {DEEPEST} deep", self._plain)
        match node:
            case ast.Constant():
                return _constant(self._number(node))
            case ast.Name(id=place):
                name = self._quoted.get(place, place)
                self.names[name] = None
                return lambda values: values[name]
            case ast.BinOp(op=ast.Pow(), left=left, right=right):
                power = self._exponent(right)
                return self._applied(lambda x: _power(x, power), [left], depth)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
                return self._applied(_OPERATORS[type(op)], [left, right], depth)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
                return self._applied(_SIGNS[type(op)], [operand], depth)
            case ast.BoolOp(op=op, values=parts):
                return self._applied(_every if isinstance(op, ast.And) else _some, parts, depth)
            case ast.Compare(left=left, ops=ops, comparators=others):
                orders = [_ORDERS[type(op)] for op in ops if type(op) in _ORDERS]
                if len(orders) == len(ops):
                    compare = functools.partial(_compared, orders)
                    return self._applied(compare, [left, *others], depth)
            case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]):
                return self._applied(self._function(name, parts, node), parts, depth)
        rule = (
            "only use numbers, features, + - * / **, comparisons, and, or, not, and the functions "
            f"{', '.join(_FUNCTIONS)}"
        )
        raise self._error(rule, self._piece(node))

    def _applied(self, function: Callable[..., Tensor], parts: list[ast.expr], depth: int) -> Term:
        terms = [self._read(part, depth + 1) for part in parts]
        return lambda values: function(*(term(values) for term in terms))

    def _function(self, name: str, parts: list[ast.expr], node: ast.expr) -> Callable[..., Tensor]:
        if name not in _FUNCTIONS:
            rule = f"only call {', '.join(_FUNCTIONS)}"
            raise self._error(rule, self._piece(node))
        function, least, most = _FUNCTIONS[name]
        if not least <= len(parts) <= most:
            count = f"{least}" if least == most else f"at least {least}"
            raise self._error(f"give {name} {count} values", self._piece(node))
        return function

    def _number(self, node: ast.Constant) -> float:
        value: Any = node.value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= sys.float_info.max:
            raise self._error("only have finite numbers as constants", self._piece(node))
        return float(value)

    def _exponent(self, node: ast.expr) -> float:
        sign, number = 1.0, node
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            sign, number = -1.0, node.operand
        if isinstance(number, ast.Constant):
            power = sign * self._number(number)
            if abs(power) <= GREATEST_POWER:
                return power
        rule = f"have numbers from -{GREATEST_POWER} to {GREATEST_POWER} as exponents"
        raise self._error(rule, self._piece(node))

    def _piece(self, node: ast.expr) -> str:
        piece = ast.get_source_segment(self._plain, node) or self._plain
        names = {place: f"`{name}`" for place, name in self._quoted.items()}
        return re.sub(r"\b_+\d+\b", lambda found: names.get(found[0], found[0]), piece)

    def _error(self, rule: str, piece: object) -> SchemaError:
        return SchemaError.of(f"Feature {self._feature!r}", "formula", rule, piece)


# Bounds on what is read: characters, levels of nesting, exponents.
LONGEST, DEEPEST, GREATEST_POWER = 2000, 100, 10


def _constant(number: float) -> Term:
    return lambda _: torch.tensor(number, dtype=torch.float64)


def _inside(
    function: Callable[[Tensor], Tensor], x: Tensor, inside: Tensor, outside: Tensor | float
) -> Tensor:
    """``function(x)`` where it is defined; no infinite slope elsewhere, which 0 times is NaN."""
    return torch.where(inside, function(torch.where(inside, x, 1.0)), outside)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return _inside(lambda divisor: a / divisor, b, b != 0, torch.nan)


def _power(x: Tensor, power: float) -> Tensor:
    is_whole = power == int(power)
    if is_whole and power >= 0:
        return torch.pow(x, power)
    outside = torch.full_like(x, torch.nan)
    if power > 0:
        # 0 has a root, but no finite slope there.
        outside = outside.masked_fill(x == 0, 0.0)
    return _inside(lambda base: torch.pow(base, power), x, x != 0 if is_whole else x > 0, outside)


def _truth(holds: Tensor, *parts: Tensor) -> Tensor:
    """0 or 1; NaN where a part is."""
    answer = holds.double()
    for part in parts:
        answer = torch.where(part.isnan(), torch.nan, answer)
    return answer


def _compared(orders: list[Callable[[Tensor, Tensor], Tensor]], *parts: Tensor) -> Tensor:
    pairs = zip(orders, parts, parts[1:], strict=False)
    return _every(*(_truth(order(a, b), a, b) for order, a, b in pairs))


def _stacked(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*parts))  # type: ignore[no-untyped-call]


def _every(*parts: Tensor) -> Tensor:
    every = _stacked(parts)
    fails = (every == 0).any(dim=0)
    return torch.where(every.isnan().any(dim=0) & ~fails, torch.nan, (~fails).double())


def _some(*parts: Tensor) -> Tensor:
    every = _stacked(parts)
    holds = ((every != 0) & ~every.isnan()).any(dim=0)
    return torch.where(every.isnan().any(dim=0) & ~holds, torch.nan, holds.double())


def _choice(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    chosen = torch.where(condition != 0, a, b)
    return torch.where(condition.isnan(), torch.nan, chosen)


def _n_edges_passed(value: Tensor, *edges: Tensor) -> Tensor:
    return sum((_truth(value >= edge, value, edge) for edge in edges), torch.zeros_like(value))


def _least(*parts: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, parts)


def _greatest(*parts: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, parts)


_OPERATORS: dict[type[ast.operator], Callable[..., Tensor]] = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: _quotient,
}
_SIGNS: dict[type[ast.unaryop], Callable[..., Tensor]] = {
    ast.USub: torch.neg,
    ast.UAdd: torch.positive,
    ast.Not: lambda x: _truth(x == 0, x),
}
_ORDERS: dict[type[ast.cmpop], Callable[[Tensor, Tensor], Tensor]] = {
    ast.Lt: torch.lt,
    ast.LtE: torch.le,
    ast.Gt: torch.gt,
    ast.GtE: torch.ge,
    ast.Eq: torch.eq,
    ast.NotEq: torch.ne,
}
# Each with the least and the greatest number of its arguments.
_FUNCTIONS: dict[str, tuple[Callable[..., Tensor], int, int]] = {
    "min": (_least, 2, LONGEST),
    "max": (_greatest, 2, LONGEST),
    "abs": (torch.abs, 1, 1),
    "log": (lambda x: _inside(torch.log, x, x > 0, torch.nan), 1, 1),
    "log1p": (lambda x: _inside(torch.log1p, x, x > -1, torch.nan), 1, 1),
    "exp": (torch.exp, 1, 1),
    "sqrt": (lambda x: _power(x, 0.5), 1, 1),
    "floor": (torch.floor, 1, 1),
    "ceil": (torch.ceil, 1, 1),
    "round": (torch.round, 1, 1),
    "where": (_choice, 3, 3),
    "bin": (_n_edges_passed, 2, LONGEST),
}
