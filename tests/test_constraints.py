"""Projection lands on what can be said and done, and the check agrees with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from carma.constraints import Limits, PlanLimits
from carma.graph import CausalGraph
from carma.interventions import Intervention
from carma.rules import ActionRules, SumLimit
from carma.schema import Feature, Kind, Schema
from carma.state import seeded
from carma.table import Encoding, Statistics

NUMBERS = st.floats(-1e4, 1e4, allow_subnormal=False)


@dataclass(frozen=True)
class Case:
    """A problem, people, and values proposed to them."""

    limits: PlanLimits
    features: tuple[Feature, ...]
    x: Tensor
    values: Tensor

    @property
    def projected(self) -> Tensor:
        return self.limits.project(self.x, self.values, self.limits.around(self.x))

    def columns(self) -> list[tuple[Feature, list[tuple[float, ...]]]]:
        """For each feature, (own, proposed, projected, lower, upper) of each person."""
        box = self.limits.around(self.x)
        parts = (self.x, self.values, self.projected, box.lower, box.upper)
        stacked = torch.stack(parts, dim=2)
        return [
            (f, [tuple(r) for r in stacked[:, i].tolist()]) for i, f in enumerate(self.features)
        ]


def build(features: tuple[Feature, ...], low: list[float], high: list[float]) -> PlanLimits:
    encoding = Encoding(Schema(features, CausalGraph(tuple(f.name for f in features))))
    minimum = torch.tensor(low, dtype=torch.float64)
    maximum = torch.tensor(high, dtype=torch.float64)
    ones = torch.ones_like(minimum)
    return PlanLimits(encoding, Statistics(minimum, ones, minimum, maximum))


@st.composite
def cases(draw: DrawFn) -> Case:
    n = draw(st.integers(1, 4))
    features, low, high, own, proposed = [], [], [], [], []
    for name in "abc"[: draw(st.integers(1, 3))]:
        feature = draw(_features(name))
        observed = sorted(draw(st.lists(_values(feature), min_size=2, max_size=2)))
        features.append(feature)
        low.append(observed[0])
        high.append(observed[1])
        own.append(draw(st.lists(_values(feature), min_size=n, max_size=n)))
        near = st.sampled_from([*own[-1], *observed]) | _values(feature) | NUMBERS
        proposed.append(draw(st.lists(near, min_size=n, max_size=n)))
    x, values = (torch.tensor(t, dtype=torch.float64).T.contiguous() for t in (own, proposed))
    return Case(build(tuple(features), low, high), tuple(features), x, values)


@st.composite
def _features(draw: DrawFn, name: str) -> Feature:
    kinds: tuple[Kind, ...] = ("continuous", "integer", "binary", "ordinal")
    kind = draw(st.sampled_from(kinds))
    settings: dict[str, Any] = {"direction": draw(st.sampled_from(["any", "up", "down"]))}
    if kind == "binary":
        settings["levels"] = draw(st.sampled_from([(0, 1), (1, 0), ("a", "b"), (7.5, -1e7)]))
    elif kind == "ordinal":
        levels = st.lists(st.integers(-(10**7), 10**7), min_size=2, max_size=5, unique=True)
        scale = draw(st.sampled_from([1, 1e-7]))
        settings["levels"] = tuple(level * scale for level in sorted(draw(levels)))
    else:
        ends: Any = st.integers(-1000, 1000) if kind == "integer" else NUMBERS
        pair = draw(st.none() | st.lists(ends, min_size=2, max_size=2, unique=True))
        settings["bounds"] = None if pair is None else tuple(sorted(pair))
        steps: Any = st.integers(1, 3000) if kind == "integer" else st.floats(0.01, 3000)
        settings["step"] = draw(st.none() | steps)
    return Feature(name, kind, role="actionable", **settings)


def _values(feature: Feature) -> st.SearchStrategy[float]:
    if feature.has_levels:
        return st.sampled_from(feature.codes)
    low, high = feature.bounds or (-1e4, 1e4)
    if feature.kind == "integer":
        return st.integers(int(low), int(high)).map(float)
    return st.floats(low, high, allow_subnormal=False)


def step_of(feature: Feature) -> float:
    return feature.step or (1.0 if feature.kind == "integer" else 0.0)


@given(cases())
def test_the_box_holds_the_own_value_and_follows_the_direction(case: Case) -> None:
    for feature, rows in case.columns():
        falls = bool(feature.codes) and feature.codes[0] > feature.codes[-1]
        up, down = ("down", "up") if falls else ("up", "down")
        for own, _, projected, low, high in rows:
            assert low <= own <= high
            assert low <= projected <= high
            if feature.direction == up:
                assert low == own <= projected
            if feature.direction == down:
                assert projected <= own == high
            if feature.bounds is not None:
                assert feature.bounds[0] <= projected <= feature.bounds[1]


@given(cases())
def test_every_projected_plan_is_permitted(case: Case) -> None:
    box = case.limits.around(case.x)
    every = torch.ones_like(case.x, dtype=torch.bool)
    assert case.limits.permits(case.x, Intervention(every, case.projected), box).all()
    assert case.limits.permits(case.x, Intervention(every, case.x), box).all()


@given(cases())
def test_projecting_twice_changes_nothing(case: Case) -> None:
    again = Case(case.limits, case.features, case.x, case.projected).projected
    assert torch.equal(again, case.projected)


@given(cases())
def test_own_values_stay(case: Case) -> None:
    assert torch.equal(Case(case.limits, case.features, case.x, case.x).projected, case.x)


@given(cases())
def test_each_value_is_projected_by_itself(case: Case) -> None:
    first = Case(case.limits, case.features, case.x[:1], case.values[:1]).projected
    assert torch.equal(first, case.projected[:1])


@given(cases())
def test_values_move_away_from_the_own_value_to_a_step(case: Case) -> None:
    for feature, rows in case.columns():
        step = step_of(feature)
        if feature.has_levels or not step:
            continue
        origin = feature.bounds[0] if feature.bounds else 0.0
        for own, value, projected, low, high in rows:
            wanted = min(max(value, low), high)
            assert (projected - own) * (wanted - own) >= 0
            if projected == own:
                continue
            count = (projected - origin) / step
            assert abs(count - round(count)) < 1e-5
            sign = 1 if wanted > own else -1
            short = (wanted - projected) * sign
            assert short < step
            if short > 1e-5 * step:
                assert not low <= projected + sign * step * (1 - 1e-5) <= high
            else:
                assert -short < step * (1 + 1e-5)


@given(cases())
def test_values_move_away_from_the_own_value_to_a_level(case: Case) -> None:
    for feature, rows in case.columns():
        if not feature.has_levels:
            continue
        for own, value, projected, low, high in rows:
            wanted = min(max(value, low), high)
            slack = 1e-6 * min(b - a for a in feature.codes for b in feature.codes if b > a)
            if wanted >= own:
                expected = min(c for c in feature.codes if c >= wanted - slack)
            else:
                expected = max(c for c in feature.codes if c <= wanted + slack)
            assert projected == expected


@given(cases())
def test_without_steps_the_box_alone_decides(case: Case) -> None:
    for feature, rows in case.columns():
        if feature.kind == "continuous" and feature.step is None:
            assert all(p == min(max(v, low), high) for _, v, p, low, high in rows)


@given(cases())
def test_gradients_pass_straight_through_and_change_no_value(case: Case) -> None:
    values = case.values.clone().requires_grad_()
    projected = Case(case.limits, case.features, case.x, values).projected
    (gradient,) = torch.autograd.grad(projected.sum(), values)
    assert torch.equal(gradient, torch.ones_like(values))
    assert torch.equal(projected.detach(), case.projected)


FEATURES = (
    Feature("income", role="actionable", bounds=(0, 100)),
    Feature("savings", role="actionable", direction="up", bounds=(0, 100), step=10),
    Feature("debt", role="actionable", direction="down"),
    Feature("children", "integer", role="actionable"),
    Feature("degree", "ordinal", levels=("none", "school", "study"), role="actionable"),
    Feature("age"),
    Feature("sex", "binary", role="immutable"),
)
OWN = [50.0, 25.0, 5.0, 2.0, 1.0, 30.0, 0.0]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("income", 0.0, True),
        ("income", 100.0, True),
        ("income", -0.001, False),
        ("income", 100.001, False),
        ("income", math.nan, False),
        ("income", math.inf, False),
        ("savings", 30.0, True),
        ("savings", 25.0, True),
        ("savings", 20.0, False),
        ("savings", 35.0, False),
        ("savings", 110.0, False),
        ("debt", -10.0, True),
        ("debt", 5.0, True),
        ("debt", 5.1, False),
        ("debt", -10.1, False),
        ("children", 3.0, True),
        ("children", 2.5, False),
        ("children", 11.0, False),
        ("children", math.nan, False),
        ("degree", 2.0, True),
        ("degree", 0.0, True),
        ("degree", 1.5, False),
        ("degree", 3.0, False),
        ("degree", math.nan, False),
        ("age", 30.0, False),
        ("age", 31.0, False),
        ("sex", 0.0, False),
        ("sex", 1.0, False),
    ],
)
def test_what_is_permitted(name: str, value: float, allowed: bool) -> None:
    limits = build(FEATURES, [-10.0] * 7, [10.0] * 7)
    x = torch.tensor([OWN, OWN], dtype=torch.float64)
    column = limits.encoding.column(name)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[0, column] = True
    values = x.clone()
    values[:, column] = value
    permitted = limits.permits(x, Intervention(mask, values), limits.around(x))
    assert permitted.tolist() == [allowed, True]


def test_one_bad_value_spoils_the_plan() -> None:
    limits = build(FEATURES, [-10.0] * 7, [10.0] * 7)
    x = torch.tensor([OWN], dtype=torch.float64)
    values = torch.tensor([[60.0, 30.0, 4.0, 3.0, 2.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True] * 5 + [False] * 2])
    box = limits.around(x)
    assert limits.permits(x, Intervention(mask, values), box).all()
    for column, bad in enumerate([101.0, 31.0, 6.0, 3.5, 0.5]):
        broken = values.clone()
        broken[0, column] = bad
        assert not limits.permits(x, Intervention(mask, broken), box).any()


@pytest.mark.parametrize(
    ("value", "expected"), [(2.39, 2.3), (2.2, 2.0), (1.9, 2.0), (2.3, 2.3), (9.0, 2.3)]
)
def test_a_step_that_does_not_fit_between_own_value_and_box_leaves_it(
    value: float, expected: float
) -> None:
    limits = build((Feature("a", role="actionable", step=0.5),), [1.9], [2.4])
    x = torch.tensor([[2.3]], dtype=torch.float64)
    proposed = torch.tensor([[value]], dtype=torch.float64)
    projected = limits.project(x, proposed, limits.around(x))
    assert projected.item() == expected


def test_the_box_may_end_off_the_last_step_by_rounding_only() -> None:
    feature = Feature("a", role="actionable", bounds=(0.0, 0.3), step=0.1)
    limits = build((feature,), [0.0], [0.3])
    x = torch.zeros(1, 1, dtype=torch.float64)
    projected = limits.project(x, x + 0.25, limits.around(x))
    assert projected.item() == 0.3 < 3 * 0.1


def test_missing_proposals_stay_missing() -> None:
    limits = build(FEATURES, [-10.0] * 7, [10.0] * 7)
    x = torch.tensor([OWN], dtype=torch.float64)
    projected = limits.project(x, torch.full_like(x, math.nan), limits.around(x))
    assert projected[:, limits.encoding.actionable].isnan().all()


@pytest.mark.parametrize(
    ("name", "value", "possible"),
    [
        ("income", 100.0, True),
        ("income", 100.001, False),
        ("income", -0.001, False),
        ("savings", 33.3, True),
        ("debt", 1e9, True),
        ("age", -1e9, True),
        ("income", math.nan, False),
        ("income", math.inf, False),
        ("debt", math.nan, False),
        ("debt", -math.inf, False),
    ],
)
def test_consequences_stay_within_declared_bounds(name: str, value: float, possible: bool) -> None:
    limits = build(FEATURES, [-10.0] * 7, [10.0] * 7)
    x = torch.tensor([OWN, OWN], dtype=torch.float64)
    x[0, limits.encoding.column(name)] = value
    assert limits.can_exist(x, x).tolist() == [possible, True]


@given(cases(), st.sampled_from([-1.0, 1.0]))
def test_gradients_cannot_push_chosen_columns_out_of_the_box(case: Case, slope: float) -> None:
    values = case.values.clone().requires_grad_()
    box = case.limits.around(case.x)
    mask = torch.arange(values.numel()).reshape(values.shape) % 3 > 0
    held = case.limits.hold_inside(values * 1.0, box, mask)
    assert torch.equal(held, case.values)
    (gradient,) = torch.autograd.grad(slope * held.sum(), values)
    # A descent step goes against the gradient.
    outward = values <= box.lower if slope > 0 else values >= box.upper
    expected = torch.where(mask & outward, 0.0, slope)
    assert torch.equal(gradient, expected.to(gradient.dtype))


CAUSES = Schema(
    (
        Feature("work", bounds=(0, 40), role="actionable"),
        Feature("study", "integer", role="actionable", direction="up"),
        Feature("age", "integer", bounds=(18, 99), role="immutable"),
        Feature("pay", bounds=(-5.0, 30.0)),
        Feature("home", "nominal", levels=("rent", "own", "none")),
        Feature("grade", "ordinal", levels=("low", "mid", "high")),
        Feature("joy"),
    ),
    CausalGraph.from_parents(
        {"pay": ["work", "age"], "home": ["pay"], "grade": ["study"], "joy": ["pay", "work"]},
        ("work", "study", "age", "pay", "home", "grade", "joy"),
    ),
)


def consequences(draws: torch.Generator, n: int) -> Tensor:
    """Rows as they may follow: inside declared bounds and levels, any number where none are."""
    home = torch.eye(3)[torch.randint(0, 3, (n,), generator=draws)]
    pay = 35 * torch.rand(n, 1, generator=draws) - 5
    grade = torch.randint(0, 3, (n, 1), generator=draws)
    joy = 1e4 * torch.randn(n, 1, generator=draws)
    zeros = torch.zeros(n, 3)
    return torch.cat([zeros, pay, home, grade, joy], dim=1).double()


@pytest.mark.parametrize("has_statistics", [True, False])
def test_no_plan_leaves_what_is_reachable(has_statistics: bool) -> None:
    encoding, draws, n = Encoding(CAUSES), seeded(0), 400
    low = torch.tensor([5.0, 0, 20, -1, 0, 0, 0, 0, -3]).double()
    high = torch.tensor([20.0, 9, 60, 9, 1, 1, 1, 2, 3]).double()
    known = Statistics(low, torch.ones_like(low), low, high) if has_statistics else None
    limits = PlanLimits(encoding, known)
    x = torch.tensor([[10.0, 4, 30, 2, 1, 0, 0, 1, 0.5]]).double().expand(n, -1)
    box = limits.around(x)
    # Half of the people may not work.
    may_act = box.may_act.clone()
    may_act[::2, 0] = False
    box = Limits(box.lower, box.upper, may_act)
    follows = (may_act.double() @ encoding.reach_weights) > 0
    least, greatest = limits.reachable(x, box, follows)
    share = torch.rand(x.shape, generator=draws, dtype=torch.float64)
    ends = [t.clamp(-1e5, 1e5) for t in (box.lower, box.upper)]
    mask = may_act & (torch.rand(x.shape, generator=draws) < 0.5)
    reached = torch.where(mask, ends[0] + share * (ends[1] - ends[0]), x)
    moved = follows & ~mask
    reached = torch.where(moved, consequences(draws, n), reached)
    assert ((least <= reached) & (reached <= greatest)).all()
    # What nothing moves is a single point, and what has levels stays among them.
    still = ~may_act & ~follows
    assert torch.equal(least[still], x[still])
    assert torch.equal(greatest[still], x[still])
    assert least[1].tolist()[3:] == [-5.0, 0, 0, 0, 0, -math.inf]
    assert greatest[1].tolist()[3:] == [30.0, 1, 1, 1, 2, math.inf]


def test_room_is_negative_exactly_where_a_row_cannot_exist() -> None:
    limits = build(FEATURES, [-10.0] * 7, [10.0] * 7)
    x = torch.tensor([OWN], dtype=torch.float64).repeat(300, 1)
    x[:, :2] = 160 * torch.rand(300, 2, generator=seeded(0), dtype=torch.float64) - 30
    room = limits.room(x, x)
    assert torch.equal(room >= 0, limits.can_exist(x, x))
    assert 50 < (room >= 0).sum() < 250
    x[0, :2] = torch.tensor([10.0, 60.0])
    x[1, :2] = torch.tensor([50.0, 125.0])
    x[2, :2] = torch.tensor([100.0, 1.0])
    assert limits.room(x, x)[:3].tolist() == pytest.approx([0.1, -0.25, 0.0])


def test_without_declared_bounds_there_is_room_without_end() -> None:
    limits = build((Feature("a", role="actionable"), Feature("b")), [0.0] * 2, [1.0] * 2)
    x = torch.tensor([[5.0, -7.0], [0.0, 1e9]], dtype=torch.float64)
    assert limits.room(x, x).tolist() == [math.inf] * 2
    assert limits.room(x, x).dtype == x.dtype
    assert not limits.is_bounded.any()
    assert limits.can_exist(x, x).all()


def test_steps_codes_and_bounds_of_each_column() -> None:
    uneven = Feature("score", "ordinal", levels=(1, 4, 6, 20), role="actionable")
    limits = build((*FEATURES, uneven), [-10.0] * 8, [10.0] * 8)
    assert [limits.step(i) for i in range(8)] == [0.0, 10.0, 0.0, 1.0, 1.0, 0.0, 1.0, 2.0]
    codes = [limits.codes(i) for i in range(8)]
    rising = [None if c is None else c.tolist() for c in codes]
    assert rising == [None] * 4 + [[0, 1, 2], None, [0, 1], [1, 4, 6, 20]]
    assert limits.is_bounded.tolist() == [True, True] + [False] * 6


def test_falling_levels_are_told_rising() -> None:
    feature = Feature("a", "binary", levels=(7.5, -2.0), role="actionable")
    limits = build((feature,), [-2.0], [7.5])
    codes = limits.codes(0)
    assert codes is not None
    assert codes.tolist() == sorted(feature.codes)
    assert limits.step(0) == max(feature.codes) - min(feature.codes)


@pytest.mark.parametrize(
    ("feature", "has_grid"),
    [
        (Feature("a", role="actionable"), False),
        (Feature("a", role="actionable", step=0.1), True),
        (Feature("a", "integer", role="actionable"), True),
        (Feature("a", "ordinal", levels=("x", "y"), role="actionable"), True),
        (Feature("a", "binary", levels=(0, 1), role="actionable"), True),
        (Feature("a", "integer"), False),
        (Feature("a", "ordinal", levels=("x", "y")), False),
        (Feature("a", step=0.1, role="immutable"), False),
        (Feature("a", "nominal", levels=("x", "y", "z")), False),
    ],
)
def test_only_what_may_be_set_makes_a_grid(feature: Feature, has_grid: bool) -> None:
    other = Feature("b", role="actionable")
    encoding = Encoding(Schema((feature, other), CausalGraph(("a", "b"))))
    assert PlanLimits(encoding, None).has_grid is has_grid


def test_without_a_training_table_only_what_is_declared_bounds_a_plan() -> None:
    encoding = Encoding(Schema(FEATURES, CausalGraph(tuple(f.name for f in FEATURES))))
    limits = PlanLimits(encoding, None)
    x = torch.tensor([OWN], dtype=torch.float64)
    box = limits.around(x)
    inf = math.inf
    assert box.lower.tolist() == [[0, 25, -inf, -inf, 0, -inf, 0]]
    assert box.upper.tolist() == [[100, 100, 5, inf, 2, inf, 1]]
    values = torch.tensor([[50.0, 41.0, -1e6, 1e6 + 0.5, 0.0, 30.0, 0.0]], dtype=torch.float64)
    projected = limits.project(x, values, box)
    assert projected.tolist() == [[50.0, 50.0, -1e6, 1e6 + 1, 0.0, 30.0, 0.0]]
    assert limits.permits(x, Intervention(box.may_act, projected), box).all()
    wild = limits.project(x, torch.full_like(x, 1e300), box)
    assert not wild.isnan().any()


def test_narrowed_is_what_both_allow() -> None:
    draws = seeded(0)
    boxes = []
    for _ in range(2):
        pair = torch.randn(2, 3, 4, generator=draws, dtype=torch.float64)
        may_act = torch.rand(3, 4, generator=draws) < 0.5
        boxes.append(Limits(pair.amin(dim=0) - 1, pair.amax(dim=0) + 1, may_act))
    first, second = boxes
    for both in (first.narrowed(second), second.narrowed(first)):
        points = 3 * torch.randn(50, 3, 4, generator=draws, dtype=torch.float64)
        inside = [(points >= b.lower) & (points <= b.upper) for b in (first, second, both)]
        assert torch.equal(inside[0] & inside[1], inside[2])
        assert torch.equal(both.may_act, first.may_act & second.may_act)


def test_boxes_of_some_people_are_those_of_the_whole() -> None:
    limits = build(FEATURES, [-10.0] * 7, [10.0] * 7)
    x = torch.tensor([OWN], dtype=torch.float64) + torch.arange(4.0)[:, None]
    box = limits.around(x)
    rows: list[Tensor | slice] = [
        torch.tensor([3, 1, 1]),
        slice(1, 3),
        torch.tensor([True, False, False, True]),
    ]
    for some in rows:
        part, alone = box[some], limits.around(x[some])
        assert torch.equal(part.lower, alone.lower)
        assert torch.equal(part.upper, alone.upper)
        assert torch.equal(part.may_act, alone.may_act)


@st.composite
def boxes(draw: DrawFn) -> tuple[Limits, Tensor]:
    """Boxes of a few people, some without room, and sets of columns for each."""
    n, d, m = (draw(st.integers(1, 4)) for _ in range(3))
    seed = draw(st.integers(0, 10**6))
    draws = seeded(seed)
    low = torch.rand(n, d, generator=draws, dtype=torch.float64)
    room = torch.rand(n, d, generator=draws, dtype=torch.float64)
    room = torch.where(torch.rand(n, d, generator=draws) < 0.3, 0.0, room)
    may_act = torch.rand(n, d, generator=draws) < 0.7
    most = torch.randint(1, d + 1, (n,), generator=draws) if draw(st.booleans()) else None
    masks = torch.rand(n, m, d, generator=draws) < 0.5
    return Limits(low, low + room, may_act, most), masks


@given(boxes())
def test_a_set_is_allowed_where_every_column_and_their_number_are(
    drawn: tuple[Limits, Tensor],
) -> None:
    limits, masks = drawn
    allowed = limits.allows(masks)
    assert allowed.shape == masks.shape[:2]
    for i, sets in enumerate(masks.tolist()):
        may_act = limits.may_act[i].tolist()
        most = len(may_act) if limits.max_actions is None else int(limits.max_actions[i])
        for j, chosen in enumerate(sets):
            fits = all(may or not acts for may, acts in zip(may_act, chosen, strict=True))
            assert bool(allowed[i, j]) == (fits and sum(chosen) <= most)
    # One set a person is the same as a list of one.
    assert torch.equal(limits.allows(masks[:, 0]), allowed[:, 0])
    assert limits.allows(torch.zeros_like(masks)).all()


@given(boxes())
def test_who_can_move_may_act_and_has_room(drawn: tuple[Limits, Tensor]) -> None:
    limits, _ = drawn
    can_move = limits.can_move.tolist()
    for i, row in enumerate(can_move):
        for j, moves in enumerate(row):
            has_room = float(limits.lower[i, j]) < float(limits.upper[i, j])
            assert moves == (bool(limits.may_act[i, j]) and has_room)


@given(boxes(), st.integers(0, 3))
def test_boxes_taken_apart_and_joined_are_the_same(
    drawn: tuple[Limits, Tensor], first: int
) -> None:
    limits, masks = drawn
    again = Limits.joined([limits[:first], limits[first:]])
    for name in ("lower", "upper", "may_act"):
        assert torch.equal(getattr(again, name), getattr(limits, name))
    assert torch.equal(again.allows(masks), limits.allows(masks))
    if limits.max_actions is None:
        assert again.max_actions is None
    else:
        assert again.max_actions is not None
        assert torch.equal(again.max_actions, limits.max_actions)


@given(boxes(), st.integers(0, 10**6))
def test_narrowing_allows_what_both_allow(drawn: tuple[Limits, Tensor], seed: int) -> None:
    one, masks = drawn
    shape = one.lower.shape
    may_act = torch.rand(shape, generator=seeded(seed)) < 0.7
    most = torch.randint(1, shape[1] + 1, shape[:1], generator=seeded(seed))
    for other in (Limits(one.lower, one.upper, may_act, most), replace(one, may_act=may_act)):
        both = one.narrowed(other)
        assert torch.equal(both.allows(masks), one.allows(masks) & other.allows(masks))
        # Narrowing twice is narrowing once, and the order does not matter.
        twice, turned = both.narrowed(other), other.narrowed(one)
        for same in (twice, turned):
            assert torch.equal(same.may_act, both.may_act)
            assert torch.equal(same.allows(masks), both.allows(masks))


def test_each_does_the_same_to_every_tensor() -> None:
    ones = torch.ones(3, 2, dtype=torch.float64)
    limits = Limits(-ones, ones, ones.bool(), torch.tensor([1, 2, 1]))
    turned = limits.each(lambda t: t.flip(0))
    assert turned.max_actions is not None
    assert turned.max_actions.tolist() == [1, 2, 1]
    assert limits[1:].each(torch.clone).lower.shape == (2, 2)
    assert replace(limits, max_actions=None).each(torch.clone).max_actions is None


def test_more_actions_than_are_allowed_are_not_permitted() -> None:
    features = tuple(Feature(name, role="actionable") for name in "ab")
    limits = build(features, [0.0, 0.0], [1.0, 1.0])
    x = torch.zeros(3, 2, dtype=torch.float64)
    box = replace(limits.around(x), max_actions=torch.tensor([1, 2, 1]))
    mask = torch.tensor([[True, True], [True, True], [False, True]])
    assert limits.permits(x, Intervention(mask, x + 0.5), box).tolist() == [False, True, True]


def by_level() -> PlanLimits:
    """A job of three levels, schooling that only rises, a plan to pay, savings and debt."""
    features = (
        Feature("job", "nominal", levels=("cook", "clerk", "judge"), role="actionable"),
        Feature("school", "ordinal", levels=("a", "b"), role="actionable", moves=(("a", "b"),)),
        Feature("savings", role="actionable"),
        Feature("debt", role="actionable"),
        Feature("income"),
    )
    names = tuple(f.name for f in features)
    rules = ActionRules(
        requires=[("savings", "school")],
        exclusive=[("savings", "debt")],
        sums=[SumLimit({"debt": 1, "income": -0.5}, 10)],
    )
    return PlanLimits(Encoding(Schema(features, CausalGraph(names), rules=rules)), None)


WORKER = [1.0, 0.0, 0.0, 0.0, 5.0, 8.0, 20.0]


@pytest.mark.parametrize(
    ("actions", "fine"),
    [
        ({"job": 1.0}, True),
        ({"job": 2.0, "school": 1.0, "savings": 9.0}, True),
        ({"job": 0.0}, True),
        ({"school": 1.0}, True),
        ({"school": 0.5}, False),
        ({"savings": 9.0}, False),
        ({"savings": 9.0, "school": 1.0}, True),
        ({"savings": 9.0, "debt": 1.0, "school": 1.0}, False),
        ({"debt": 1.0}, True),
        ({"income": 30.0}, False),
    ],
)
def test_moves_and_rules_that_are_permitted(actions: dict[str, float], fine: bool) -> None:
    limits, x = by_level(), torch.tensor([WORKER], dtype=torch.float64)
    do = Intervention.of(limits.encoding, 1, **actions)
    assert limits.permits(x, do, limits.around(x)).tolist() == [fine]
    frozen = limits.around(x)
    may_act = frozen.may_act.clone()
    may_act[:, :4] = False
    moves = bool({"job", "school"} & set(actions))
    frozen = replace(frozen, may_act=may_act)
    assert limits.permits(x, do, frozen).tolist() == [fine and not moves]


def test_levels_are_set_whole() -> None:
    limits, x = by_level(), torch.tensor([WORKER], dtype=torch.float64)
    whole = Intervention.of(limits.encoding, 1, job=1)
    part = Intervention(whole.mask & (torch.arange(7) != 2), whole.values)
    two, half = whole.values.clone(), whole.values.clone()
    two[0, :3], half[0, :3] = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.5, 0.5, 0.0])
    for do in (part, Intervention(whole.mask, two), Intervention(whole.mask, half)):
        assert not limits.permits(x, do, limits.around(x)).any()


def test_only_the_moves_that_are_listed_are_permitted() -> None:
    limits, x = by_level(), torch.tensor([WORKER], dtype=torch.float64)
    x[0, 3] = 1.0
    do = Intervention.of(limits.encoding, 1, school=0.0)
    assert not limits.permits(x, do, limits.around(x)).any()


def test_a_move_counts_once() -> None:
    limits, x = by_level(), torch.tensor([WORKER], dtype=torch.float64)
    do = Intervention.of(limits.encoding, 1, job=1, school=1, savings=9.0)
    for most in (1, 2, 3):
        box = replace(limits.around(x), max_actions=torch.tensor([most]))
        assert limits.permits(x, do, box).tolist() == [most == 3]


def test_columns_of_levels_have_no_box() -> None:
    limits, x = by_level(), torch.tensor([WORKER], dtype=torch.float64)
    box = limits.around(x)
    assert torch.equal(box.lower[:, :4], x[:, :4])
    assert torch.equal(box.upper[:, :4], x[:, :4])
    assert box.can_move[0].tolist() == [False] * 4 + [True, True, False]
    assert torch.equal(limits.project(x, x + 0.7, box)[:, :4], x[:, :4])
    # Saving excludes paying back, but wants schooling.
    assert box.widest[0].nonzero().flatten().tolist() == [5]
    school = torch.zeros_like(box.may_act)
    school[:, 3] = True
    schooled = replace(box, given=school)
    assert schooled.widest[0].nonzero().flatten().tolist() == [4]


def test_sums_bind_what_follows() -> None:
    limits, x = by_level(), torch.tensor([WORKER, WORKER], dtype=torch.float64)
    reached = x.clone()
    # 8 - 10 = -2 today; 10 at most.
    reached[0, 6], reached[1, 6] = -4.0, -4.1
    assert limits.can_exist(x, reached).tolist() == [True, False]
    assert (limits.room(x, reached) >= 0).tolist() == [True, False]
    beyond = x.clone()
    beyond[:, 6] = -10.0
    reached = beyond.clone()
    reached[1, 5] += 0.1
    assert limits.can_exist(beyond, beyond).all()
    assert limits.can_exist(beyond, reached).tolist() == [True, False]
