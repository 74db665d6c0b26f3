"""Rules on columns: which sets keep them, what time adds, and how much room sums leave."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from carma.column_rules import ColumnRules
from carma.graph import CausalGraph
from carma.rules import ActionRules, SumLimit, TimeLink
from carma.schema import Feature, Schema
from carma.table import Encoding

NAMES = tuple("abcde")
# The first column of the nominal feature c stands for it.
FIRST = (0, 1, 2, 5, 6)
D = 7


def rules_on(rules: ActionRules) -> ColumnRules:
    features = tuple(
        Feature(name, "nominal", levels=("x", "y", "z"), role="actionable")
        if name == "c"
        else Feature(name, role="actionable")
        for name in NAMES
    )
    return ColumnRules(Encoding(Schema(features, CausalGraph(NAMES), rules=rules)))


@st.composite
def set_rules(draw: DrawFn) -> ActionRules:
    def groups(least: int, most: int) -> Any:
        group = st.lists(st.sampled_from(NAMES), min_size=least, max_size=most, unique=True)
        return draw(st.lists(group, max_size=3))

    return ActionRules(groups(2, 2), groups(2, 4), groups(2, 4))


def every_set() -> Tensor:
    """All sets of the five features, on columns, shape ``(32, 7)``."""
    masks = torch.zeros(32, D, dtype=torch.bool)
    for row, chosen in enumerate(product((False, True), repeat=5)):
        masks[row, list(FIRST)] = torch.tensor(chosen)
        masks[row, 2:5] = chosen[2]
    return masks


def keeps(rules: ActionRules, mask: Tensor) -> bool:
    acts = {name for name, i in zip(NAMES, FIRST, strict=True) if mask[i]}
    return (
        all(b in acts for a, b in rules.requires if a in acts)
        and all(len(acts & set(group)) in (0, len(group)) for group in rules.together)
        and all(len(acts & set(group)) <= 1 for group in rules.exclusive)
    )


@given(rules=set_rules())
def test_sets_that_keep_the_rules(rules: ActionRules) -> None:
    columns, masks = rules_on(rules), every_set()
    expected = [keeps(rules, mask) for mask in masks]
    assert columns.allow(masks).tolist() == expected
    assert columns.allow(masks.view(4, 8, D)).tolist() == [
        expected[i : i + 8] for i in range(0, 32, 8)
    ]
    assert columns.bind_sets == bool(rules.requires or rules.together or rules.exclusive)
    assert not columns.bind_sums
    assert not columns.take_time
    if not columns.bind_sets:
        assert all(expected)


@given(rules=set_rules())
def test_repaired_sets_keep_the_rules(rules: ActionRules) -> None:
    columns, masks = rules_on(rules), every_set()
    before = masks.clone()
    repaired = columns.repaired(masks)
    assert torch.equal(masks, before)
    assert columns.allow(repaired).all()
    assert not (repaired & ~masks).any()
    assert torch.equal(columns.repaired(repaired), repaired)
    fine = columns.allow(masks)
    assert torch.equal(repaired[fine], masks[fine])


def test_a_chain_of_conditions_falls_as_a_whole() -> None:
    rules = ActionRules(requires=[("a", "b"), ("b", "d"), ("d", "e")])
    mask = torch.tensor([[True, True, False, False, False, True, False]])
    assert not rules_on(rules).repaired(mask).any()


def test_what_cannot_stay_excludes_nothing() -> None:
    rules = rules_on(ActionRules(requires=[("a", "b")], exclusive=[("a", "d")]))
    mask = torch.tensor([[True, False, False, False, False, True, False]])
    assert rules.repaired(mask).nonzero()[:, 1].tolist() == [5]


LEVELS = ("none", "basic", "full")


def timed(*links: TimeLink, age: Feature | None = None) -> ColumnRules:
    """On columns: course, switch (whose code falls), hours, age, height."""
    features = (
        Feature("course", "ordinal", levels=LEVELS, role="actionable"),
        Feature("switch", "binary", levels=(1, 0), role="actionable"),
        Feature("hours", role="actionable"),
        age or Feature("age"),
        Feature("height"),
    )
    graph = CausalGraph(tuple(f.name for f in features))
    return ColumnRules(Encoding(Schema(features, graph, rules=ActionRules(time=links))))


def passed(rules: ColumnRules, x: list[float], **values: float) -> tuple[list[bool], list[float]]:
    order = ("course", "switch", "hours", "age", "height")
    row = torch.tensor([x], dtype=torch.float64)
    mask = torch.tensor([[name in values for name in order]])
    set_to = torch.tensor([[values.get(name, 77.0) for name in order]], dtype=torch.float64)
    mask, set_to = rules.with_time(row, mask, set_to)
    return mask[0].tolist(), set_to[0].tolist()


@pytest.mark.parametrize(
    ("takes", "start", "end", "years"),
    [
        ((0, 1.5, 4), 0, 1, 1.5),
        ((0, 1.5, 4), 0, 2, 4),
        ((0, 1.5, 4), 1, 2, 2.5),
        ((0, 1.5, 4), 2, 0, 0),
        ((0, 1.5, 4), 1, 1, 0),
        ((3, 4, 4), 0, 1, 1),
        ((3, 4, 4), 1, 2, 0),
        (2, 0, 2, 4),
        (2, 2, 1, 0),
        (0, 0, 2, 0),
    ],
)
def test_only_the_way_up_takes_time(takes: Any, start: float, end: float, years: float) -> None:
    rules = timed(TimeLink("course", "age", takes))
    mask, values = passed(rules, [start, 1, 5, 30, 170], course=end)
    assert mask == [True, False, False, years > 0, False]
    if years:
        assert values[3] == pytest.approx(30 + years, abs=1e-12)
    assert values[0] == end


def test_up_is_towards_the_last_level_also_where_codes_fall() -> None:
    for takes in (3, (0, 3)):
        rules = timed(TimeLink("switch", "age", takes))
        assert passed(rules, [0, 1, 5, 30, 170], switch=0)[1][3] == 33
        assert not passed(rules, [0, 0, 5, 30, 170], switch=1)[0][3]


def test_the_longest_counts() -> None:
    links = (TimeLink("course", "age", (0, 1, 4)), TimeLink("hours", "age", 0.5))
    for rules in (timed(*links), timed(*reversed(links))):
        assert passed(rules, [0, 1, 5, 30, 170], course=1, hours=6)[1][3] == 31
        assert passed(rules, [0, 1, 5, 30, 170], course=1, hours=9)[1][3] == 32
        assert passed(rules, [0, 1, 5, 30, 170], hours=9)[1][3] == 32
        assert passed(rules, [0, 1, 5, 30, 170], course=2, hours=0)[1][3] == 34


def test_times_of_two_features_do_not_mix() -> None:
    rules = timed(TimeLink("course", "age", 1), TimeLink("hours", "height", 2))
    mask, values = passed(rules, [0, 1, 5, 30, 170], course=2, hours=6)
    assert mask == [True, False, True, True, True]
    assert values[3:] == [32, 172]
    assert rules.timed == [(0, 3), (2, 4)]
    assert rules.take_time
    assert not rules.bind_sets


@pytest.mark.parametrize(
    ("age", "hours", "years"),
    [
        (Feature("age", "integer"), 1.0, 1),
        (Feature("age", "integer"), 1.2, 2),
        (Feature("age", "integer"), 0.1, 1),
        (Feature("age", "integer"), 0.1 + 0.2 - 0.3 + 3.0, 3),
        (Feature("age", "integer", step=5), 1.2, 5),
        (Feature("age", step=0.5), 1.2, 1.5),
        (Feature("age"), 1.2, 1.2),
    ],
)
def test_time_that_does_not_end_on_a_step_lasts_until_the_next(
    age: Feature, hours: float, years: float
) -> None:
    rules = timed(TimeLink("hours", "age", 1), age=age)
    assert passed(rules, [0, 1, 0, 30, 170], hours=hours)[1][3] == pytest.approx(30 + years)


def test_nobody_acts_and_no_time_passes() -> None:
    rules = timed(TimeLink("course", "age", 1))
    mask, _ = passed(rules, [0, 1, 5, 30, 170], switch=0, hours=9)
    assert mask == [False, True, True, False, False]
    plain = timed()
    x, some = torch.rand(3, 5).double(), torch.ones(3, 5, dtype=torch.bool)
    mask_now, values = plain.with_time(x, some, x + 1)
    assert mask_now is some
    assert torch.equal(values, x + 1)


@pytest.mark.parametrize("age", [Feature("age"), Feature("age", "integer")])
@given(start=st.floats(0, 2), end=st.floats(0, 2))
def test_slopes_of_time(age: Feature, start: float, end: float) -> None:
    rules = timed(TimeLink("course", "age", (0, 1, 4)), TimeLink("hours", "age", 0.7), age=age)
    x = torch.tensor([[start, 1, 0, 30, 170]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True, False, False]])
    values = x.clone()
    values[0, 0], values[0, 2] = end, 2.0
    free = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(rules.with_time(x, mask, free)[1][0, 3], free)
    course = sum(min(max(end - low, 0), 1) * rate for low, rate in ((0, 1), (1, 3)))
    course -= sum(min(max(start - low, 0), 1) * rate for low, rate in ((0, 1), (1, 3)))
    if abs(course - 1.4) < 1e-6 or min(abs(end - knot) for knot in (0, 1, 2)) < 1e-6:
        return
    whole = math.ceil if age.kind == "integer" else (lambda years: years)
    if whole(course) == whole(1.4):
        return
    if course > 1.4:
        assert slope[0, 0] == pytest.approx(3.0 if end > 1 else 1.0)
        assert slope[0, 2] == 0
    else:
        assert slope[0, 2] == pytest.approx(0.7)
        assert slope[0, 0] == 0


def limited(*limits: SumLimit) -> ColumnRules:
    features = (Feature("a", role="actionable"), Feature("b", role="actionable"), Feature("c"))
    graph = CausalGraph(("a", "b", "c"))
    return ColumnRules(Encoding(Schema(features, graph, rules=ActionRules(sums=limits))))


LIMITS = (SumLimit({"a": 1, "b": 2}, 3), SumLimit({"c": -1}, 4))
GRID = st.integers(-40, 40).map(lambda i: i / 4)
ROWS = st.lists(GRID, min_size=3, max_size=3)


@given(own=ROWS, reached=ROWS)
def test_room_is_negative_exactly_beyond_a_limit(own: list[float], reached: list[float]) -> None:
    rules, width = limited(*LIMITS), torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    x, there = (torch.tensor([row], dtype=torch.float64) for row in (own, reached))
    room = rules.room(x, there, width).item()

    def sums(row: list[float]) -> tuple[float, float]:
        return row[0] + 2 * row[1], -row[2]

    # Who is beyond a limit may stay as far beyond it.
    most = [max(limit, now) for limit, now in zip((3, 4), sums(own), strict=True)]
    spare = [limit - s for limit, s in zip(most, sums(reached), strict=True)]
    assert (room >= 0) == all(s >= 0 for s in spare)
    assert room == pytest.approx(min(spare[0] / math.hypot(2, 1), spare[1]))


def test_rounding_leaves_no_limit() -> None:
    rules, width = limited(SumLimit({"a": 0.1, "b": 0.2}, 0.3)), torch.ones(3).double()
    there = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0 + 1e-6, 0.0]], dtype=torch.float64)
    assert (rules.room(torch.zeros_like(there), there, width) >= 0).tolist() == [True, False]
    assert rules.bind_sums
    assert not limited().bind_sums


def test_room_has_the_slope_of_the_nearest_limit() -> None:
    rules, width = limited(*LIMITS), torch.ones(3).double()
    there = torch.tensor([[5.0, 2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    room = rules.room(torch.zeros_like(there), there, width)
    (slope,) = torch.autograd.grad(room.sum(), there)
    expected = -torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64) / math.sqrt(5)
    torch.testing.assert_close(slope, expected)
