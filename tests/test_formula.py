"""A formula computes what it says, and nothing else can be written in one."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from carma.errors import SchemaError
from carma.formula import Formula

Columns = NDArray[np.float64]
Expression = tuple[str, Callable[[Columns, Columns], Columns]]

ROWS = st.lists(
    st.tuples(st.floats(-50, 50), st.floats(-50, 50)) | st.just((0.0, 0.0)),
    min_size=1,
    max_size=5,
)


def leaf(number: float) -> Expression:
    return repr(number), lambda a, _: np.full_like(a, number)


def one(expressions: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    """What one part is put into; numpy's own words for it."""
    functions: dict[str, Callable[[Columns], Columns]] = {
        "(-{})": np.negative,
        "abs({})": np.abs,
        "log({})": lambda x: np.where(x > 0, np.log(np.where(x > 0, x, 1)), np.nan),
        "log1p({})": lambda x: np.where(x > -1, np.log1p(np.where(x > -1, x, 1)), np.nan),
        "sqrt({})": lambda x: np.sqrt(np.where(x >= 0, x, np.nan)),
        "floor({})": np.floor,
        "ceil({})": np.ceil,
        "round({})": np.round,
        "({}) ** 2": np.square,
        "({}) ** -1": lambda x: 1 / np.where(x == 0, np.nan, x),
        "bin({}, -1, 0.5, 20)": lambda x: np.where(
            np.isnan(x), np.nan, np.digitize(np.nan_to_num(x), [-1.0, 0.5, 20.0])
        ),
        "(not {})": lambda x: np.where(np.isnan(x), np.nan, x == 0),
    }

    def joined(parts: tuple[str, Expression]) -> Expression:
        form, (text, value) = parts
        return form.format(text), lambda a, b: functions[form](value(a, b))

    return st.tuples(st.sampled_from(sorted(functions)), expressions).map(joined)


def two(expressions: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    """What two parts are put into."""
    functions: dict[str, Callable[[Columns, Columns], Columns]] = {
        "({} + {})": np.add,
        "({} - {})": np.subtract,
        "({} * {})": np.multiply,
        "({} / {})": lambda x, y: x / np.where(y == 0, np.nan, y),
        "min({}, {})": np.minimum,
        "max({}, {})": np.maximum,
        "({} < {})": lambda x, y: np.where(np.isnan(x + y), np.nan, x < y),
        "({} >= {})": lambda x, y: np.where(np.isnan(x + y), np.nan, x >= y),
        "({} != {})": lambda x, y: np.where(np.isnan(x + y), np.nan, x != y),
        "where({0} > 0, {1}, {0})": lambda x, y: np.where(
            np.isnan(x), np.nan, np.where(x > 0, y, x)
        ),
    }

    def joined(parts: tuple[str, Expression, Expression]) -> Expression:
        form, (first, f), (second, g) = parts
        return form.format(first, second), lambda a, b: functions[form](f(a, b), g(a, b))

    return st.tuples(st.sampled_from(sorted(functions)), expressions, expressions).map(joined)


LEAVES: st.SearchStrategy[Expression] = st.one_of(
    st.just(("a", lambda a, _: a)),
    st.just(("`b c`", lambda _, b: b)),
    st.floats(-9, 9).map(leaf),
)
EXPRESSIONS = st.recursive(LEAVES, lambda inner: one(inner) | two(inner), max_leaves=6)


@given(expression=EXPRESSIONS, rows=ROWS)
def test_a_formula_is_what_numpy_computes(
    expression: Expression, rows: list[tuple[float, float]]
) -> None:
    text, value = expression
    a, b = np.array(rows).T.copy()
    formula = Formula("made", f"{text} + 0 * a + 0 * `b c`")
    found = formula({"a": torch.from_numpy(a), "b c": torch.from_numpy(b)}).numpy()
    with np.errstate(all="ignore"):
        expected = value(a, b)
    assert set(formula.names) == {"a", "b c"}
    finite = np.isfinite(found) & np.isfinite(expected)
    assert np.array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found[finite], expected[finite], rtol=1e-9, atol=1e-9)


def computed(text: str, **columns: list[float]) -> list[float]:
    values = {name: torch.tensor(c, dtype=torch.float64) for name, c in columns.items()}
    found: list[float] = Formula("made", text)(values).tolist()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 < a <= 3", [0, 1, 1]),
        ("a > 1 and b > 5", [0, 0, 1]),
        ("a > 2 or b == 4", [1, 0, 1]),
        ("not a > 1", [1, 0, 0]),
        ("bin(a, 2, 3)", [0, 1, 2]),
        ("a ** 0.5", [1, math.sqrt(2), math.sqrt(3)]),
        ("a ** -2", [1, 1 / 4, 1 / 9]),
        ("+a - -b", [5, 7, 9]),
        ("exp(a) - b", [math.e - 4, math.e**2 - 5, math.e**3 - 6]),
        ("min(a, b, 2)", [1, 2, 2]),
        ("a +\n  b", [5, 7, 9]),
        ("where(a == 2, 10, max(a, 2.5))", [2.5, 10, 3]),
    ],
)
def test_single_formulas(text: str, expected: list[float]) -> None:
    assert computed(text, a=[1, 2, 3], b=[4, 5, 6]) == pytest.approx(expected)


def test_what_is_undefined_is_nan_unless_it_is_not_needed() -> None:
    columns: dict[str, list[float]] = {"a": [1, 4], "b": [0, 2]}
    for text in (
        "a / b",
        "a / b > 1",
        "bin(a / b, 1)",
        "not a / b",
        "log(b)",
        "where(a / b, a, a)",
    ):
        first, second = computed(text, **columns)
        assert math.isnan(first), text
        assert not math.isnan(second), text
    assert computed("where(b > 0, a / b, -1)", **columns) == [-1, 2]
    assert computed("b > 0 and a / b > 1", **columns) == [0, 1]
    assert computed("b == 0 or a / b > 3", **columns) == [1, 0]
    assert computed("b ** 0.5", b=[0, -1])[0] == 0
    assert math.isnan(computed("b ** 0.5", b=[0, -1])[1])


@pytest.mark.parametrize(
    "text",
    [
        "where(b > 0, a / b, a)",
        "where(b > 0, log(b), a)",
        "where(b > 0, sqrt(b), a)",
        "where(b > 0, b ** -1, a)",
        "where(b > 0, log1p(b - 1), a)",
    ],
)
def test_slopes_of_what_is_left_out_are_zero(text: str) -> None:
    a = torch.tensor([3.0, 3.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(Formula("made", text)({"a": a, "b": b}).sum(), (a, b))
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
    assert slopes[0][0] == 1
    assert slopes[1][0] == 0
    assert slopes[1][1] != 0


def test_slopes_are_those_of_the_function() -> None:
    def value(a: Tensor, b: Tensor) -> Tensor:
        text = (
            "exp(a / 3) * sqrt(b) / (1 + a ** 2) - log1p(min(a * b, 2)) + where(a > b, a, b ** 3)"
        )
        return Formula("made", text)({"a": a, "b": b})

    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.rand(20, generator=generator, dtype=torch.float64).add(0.2).requires_grad_()
        for _ in range(2)
    )
    assert torch.autograd.gradcheck(value, (a, b))


def test_names_in_backquotes() -> None:
    formula = Formula("made", "`class` + `a b` - _0 * __1 + `a b`")
    assert formula.names == ("class", "a b", "_0", "__1")
    columns = [torch.tensor([number]).double() for number in (1.0, 2.0, 3.0, 4.0)]
    assert formula(dict(zip(formula.names, columns, strict=True))).tolist() == [-7.0]


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("a.real", "a.real"),
        ("a.__class__.__mro__", "a.__class__.__mro__"),
        ("__import__('os')", "__import__('os')"),
        ("eval(a)", "eval(a)"),
        ("(lambda: a)()", "(lambda: a)()"),
        ("lambda: a", "lambda: a"),
        ("a + 'text'", "'text'"),
        ("f'{a}'", "f'{a}'"),
        ("[a for a in b]", "[a for a in b]"),
        ("{a: b}", "{a: b}"),
        ("(a, b)", "(a, b)"),
        ("max(a for a in b)", "max(a for a in b)"),
        ("(a := 3) + a", "a := 3"),
        ("a[0]", "a[0]"),
        ("a if b else 3", "a if b else 3"),
        ("max(*a)", "max(*a)"),
        ("max(a, *b)", "*b"),
        ("round(a, ndigits=2)", "round(a, ndigits=2)"),
        ("a @ b", "a @ b"),
        ("a // b", "a // b"),
        ("a % b", "a % b"),
        ("a & b", "a & b"),
        ("~a", "~a"),
        ("a in b", "a in b"),
        ("a is b", "a is b"),
        ("a + True", "True"),
        ("a + None", "None"),
        ("a + 1j", "1j"),
        ("a + 1e999", "1e999"),
        ("a ** b", "b"),
        ("a ** 1e9", "1e9"),
        ("a ** -11", "-11"),
        ("2 ** 9 ** 9 + a", "9 ** 9"),
        ("abs(a, b)", "abs(a, b)"),
        ("where(a, b)", "where(a, b)"),
        ("bin(a)", "bin(a)"),
        ("log()", "log()"),
        ("`a b`.real", "`a b` .real"),
    ],
)
def test_pieces_that_are_refused(text: str, piece: str) -> None:
    with pytest.raises(SchemaError, match="Feature 'made': 'formula' must") as caught:
        Formula("made", text)
    assert str(caught.value).endswith(f"got {piece!r}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a +",
        "a b",
        "a = 3",
        "a; b",
        "import os",
        "a) + (b",
        "a # b",
        "\ufb01 + 1",
        "`a",
        "``",
        "a\0",
        "3 + 4",
        "-" * 1500 + "a",
        "(" * 500 + "a" + ")" * 500,
        "+".join(["a"] * 900),
        "a" * 3000,
    ],
)
def test_texts_that_are_refused(text: str) -> None:
    with pytest.raises(SchemaError, match="Feature 'made': 'formula' must"):
        Formula("made", text)


@pytest.mark.parametrize("value", [3, None, ["a"]])
def test_a_formula_is_text(value: Any) -> None:
    with pytest.raises(SchemaError, match="'formula' must be an expression"):
        Formula("made", value)


def test_a_formula_can_be_copied_and_sent_to_other_processes() -> None:
    formula = Formula("made", "a + `b c`")
    for again in (pickle.loads(pickle.dumps(formula)), deepcopy(formula)):  # noqa: S301
        assert again == formula
        assert again.names == formula.names
