"""What people say narrows the schema's limits, in whichever form they say it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from carma.constraints import Limits, PlanLimits
from carma.errors import ConstraintError
from carma.graph import CausalGraph
from carma.personal import Constraints, PersonalLimits, personal_limits
from carma.schema import Feature, Schema
from carma.table import Encoding, Statistics

MIXED = (
    Feature("age", "integer", bounds=(18, 99), role="immutable"),
    Feature("course", "ordinal", levels=("none", "basic", "full"), role="actionable"),
    Feature("hours", "integer", bounds=(0, 60), step=5, role="actionable", direction="up"),
    Feature("debt", bounds=(0.0, 50.0), role="actionable", direction="down"),
    Feature("grade", "ordinal", levels=(1, 2.5, 10), role="actionable"),
    # Codes fall: up is towards 0.
    Feature("smokes", "binary", levels=(1, 0), role="actionable"),
    Feature("job", "nominal", levels=("clerk", "cook", "smith"), role="actionable"),
    Feature("income"),
    Feature("member", "binary", levels=(False, True)),
)
NUMERIC = (
    Feature("lowest_a", role="actionable"),
    Feature("a", role="actionable"),
    Feature("b", bounds=(-5.0, 5.0), role="actionable"),
)


class People:
    """A table of people, and what the schema allows them."""

    def __init__(self, features: tuple[Feature, ...], frame: pd.DataFrame) -> None:
        names = tuple(f.name for f in features)
        self.encoding = Encoding(Schema(features, CausalGraph(names)))
        self.frame, self.x = frame, self.encoding.encode(frame)
        d = self.encoding.n_columns
        wide = torch.full((d,), 20.0, dtype=torch.float64)
        self.own = PlanLimits(self.encoding, Statistics(torch.zeros(d), torch.ones(d), -wide, wide))

    def limits(self, constraints: Any) -> PersonalLimits:
        return personal_limits(self.encoding, self.x, self.frame.index, constraints, self.own)

    def column(self, part: Tensor, name: str) -> Any:
        return part[:, self.encoding.column(name)].tolist()


def draw_people(features: tuple[Feature, ...], n: int, seed: int, prefix: str = "p") -> People:
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {}
    for f in features:
        low, high = f.bounds or (-20, 20)
        if f.has_levels:
            data[f.name] = [f.levels[i] for i in rng.integers(0, len(f.levels), n)]
        elif f.kind == "integer":
            data[f.name] = rng.integers(int(low), int(high) + 1, n)
        else:
            data[f.name] = rng.uniform(low, high, n)
    return People(features, pd.DataFrame(data, index=[f"{prefix}{i}" for i in range(n)]))


@pytest.fixture
def three() -> People:
    frame = pd.DataFrame(
        {
            "age": [30, 40, 50],
            "course": ["none", "basic", "full"],
            "hours": [10, 20, 30],
            "debt": [5.0, 10.0, 15.0],
            "grade": [1, 2.5, 10],
            "smokes": [1, 0, 1],
            "job": ["cook", "clerk", "smith"],
            "income": [1.0, 2.0, 3.0],
            "member": [True, False, True],
        },
        index=["ann", "bob", "cy"],
    )
    return People(MIXED, frame)


def parts(found: PersonalLimits) -> dict[str, Tensor | None]:
    box = found.limits
    return {
        "lower": box.lower,
        "upper": box.upper,
        "may_act": box.may_act,
        "max_actions": box.max_actions,
        "weights": found.weights,
    }


def assert_same(found: PersonalLimits, other: PersonalLimits) -> None:
    for (name, a), b in zip(parts(found).items(), parts(other).values(), strict=True):
        if a is None or b is None:
            assert a is b, name
        else:
            assert a.dtype == b.dtype, name
            assert torch.equal(a, b), name


def as_table(told: Sequence[Constraints | None], labels: pd.Index[Any]) -> pd.DataFrame:
    """One row a person who says something, all others left out."""
    rows = []
    for wishes in told:
        row: dict[str, Any] = {}
        if wishes is not None:
            row |= {f"freeze_{name}": True for name in wishes.freeze}
            for name, (low, high) in wishes.bounds.items():
                row |= {f"lowest_{name}": low, f"highest_{name}": high}
            row |= {f"direction_{name}": way for name, way in wishes.directions.items()}
            row |= {f"weight_{name}": w for name, w in wishes.cost_weights.items()}
            row["max_actions"] = wishes.max_actions
        rows.append(row)
    columns = sorted({name for row in rows for name in row})
    data = {c: pd.Series([row.get(c) for row in rows], dtype=object) for c in columns}
    table = pd.DataFrame(data, index=range(len(rows))).set_axis(labels)
    return table.infer_objects()


@st.composite
def cases(draw: DrawFn) -> tuple[People, list[Constraints | None]]:
    features = draw(st.sampled_from([MIXED, NUMERIC]))
    people = draw_people(features, draw(st.integers(1, 6)), draw(st.integers(0, 1000)))
    told = [
        draw(st.none() | constraints(features, row))
        for row in people.frame.to_dict(orient="records")
    ]
    return people, told


@st.composite
def constraints(draw: DrawFn, features: tuple[Feature, ...], own: Mapping[Any, Any]) -> Constraints:
    freeze: list[str] = []
    directions: dict[str, Any] = {}
    bounds, weights = {}, {}
    for feature in features:
        name = feature.name
        if draw(st.integers(0, 3)) == 0:
            freeze.append(name)
        if feature.role != "actionable":
            continue
        if draw(st.booleans()):
            weights[name] = draw(st.floats(0.1, 10))
        if feature.kind == "nominal":
            continue
        if draw(st.booleans()):
            directions[name] = draw(st.sampled_from(["up", "down"]))
        if draw(st.booleans()):
            bounds[name] = draw(pairs(feature, own[name]))
    most = draw(st.none() | st.integers(1, 20))
    return Constraints(tuple(freeze), bounds, directions, most, weights)


@st.composite
def pairs(draw: DrawFn, feature: Feature, own: Any) -> tuple[Any, Any]:
    if feature.has_levels:
        at = feature.levels.index(own)
        low: Any = feature.levels[draw(st.integers(0, at))]
        high: Any = feature.levels[draw(st.integers(at, len(feature.levels) - 1))]
    else:
        low = own - draw(st.integers(0, 30))
        high = own + draw(st.integers(0, 30))
    low, high = draw(st.sampled_from([None, low])), draw(st.sampled_from([None, high]))
    # All levels, where their codes fall; of two numbers, the lower has to be first.
    return (low, None) if (low, high) == (1, 0) else (low, high)


class TestConstraints:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"freeze": "debt"}, r"'freeze' must be a list of features; got 'debt'"),
            ({"freeze": {"debt": True}}, r"'freeze' must be a list of features; got \{"),
            ({"freeze": 3}, r"'freeze' must be a list of features; got 3"),
            ({"freeze": ("debt", 3)}, r"'freeze' must be a list of names of features; got \("),
            ({"bounds": [("a", (1, 2))]}, r"'bounds' must be a mapping from features; got \["),
            ({"bounds": {3: (1, 2)}}, r"'bounds' must have names of features as keys; got 3"),
            ({"bounds": {"a": 1}}, r"\"bounds\['a'\]\" must be a pair: .*; got 1"),
            ({"bounds": {"a": "ab"}}, r"\"bounds\['a'\]\" must be a pair: .*; got 'ab'"),
            ({"bounds": {"a": (1, 2, 3)}}, r"must be a pair: .*; got \(1, 2, 3\)"),
            ({"bounds": {"a": (2, 1)}}, r"must not have its lowest above its highest; got \(2, 1"),
            ({"bounds": {"a": (math.nan, 1)}}, r"hold finite numbers, levels or None; got \(nan"),
            ({"bounds": {"a": (1, math.inf)}}, r"hold finite numbers, levels or None; got \(1, i"),
            ({"bounds": {"a": (10**400, None)}}, r"hold finite numbers, levels or None"),
            ({"bounds": {"a": ([], None)}}, r"hold finite numbers, levels or None; got \(\[\]"),
            ({"directions": "up"}, r"'directions' must be a mapping from features; got 'up'"),
            ({"directions": {"a": "any"}}, r"\"directions\['a'\]\" must be up or down; got 'any'"),
            ({"directions": {"a": ""}}, r"must be up or down; got ''"),
            ({"directions": {"a": ["up"]}}, r"must be up or down; got \['up'\]"),
            ({"max_actions": 0}, r"'max_actions' must be a whole number of at least 1, .*; got 0"),
            ({"max_actions": True}, r"'max_actions' must be a whole .*; got True"),
            ({"max_actions": 1.5}, r"'max_actions' must be a whole .*; got 1.5"),
            ({"max_actions": math.nan}, r"'max_actions' must be a whole .*; got nan"),
            ({"max_actions": "2"}, r"'max_actions' must be a whole .*; got '2'"),
            ({"cost_weights": [2]}, r"'cost_weights' must be a mapping from features; got \[2\]"),
            ({"cost_weights": {"a": 0}}, r"\"cost_weights\['a'\]\" must be a finite .*; got 0"),
            ({"cost_weights": {"a": -1.0}}, r"must be a finite number above 0; got -1.0"),
            ({"cost_weights": {"a": math.inf}}, r"must be a finite number above 0; got inf"),
            ({"cost_weights": {"a": math.nan}}, r"must be a finite number above 0; got nan"),
            ({"cost_weights": {"a": True}}, r"must be a finite number above 0; got True"),
            ({"cost_weights": {"a": "2"}}, r"must be a finite number above 0; got '2'"),
        ],
    )
    def test_a_broken_rule_is_named(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ConstraintError, match=r"^Constraints: .*" + message):
            Constraints(**arguments)

    def test_values_become_plain(self) -> None:
        told = Constraints(
            freeze=["a", "b", "a"],  # type: ignore[arg-type]
            bounds={"c": [np.int64(1), np.float64(2)], "d": (torch.tensor(3.0), None)},  # type: ignore[dict-item]
            max_actions=np.int64(2),  # type: ignore[arg-type]
            cost_weights={"e": np.float32(0.5)},  # type: ignore[dict-item]
        )
        assert told.freeze == ("a", "b")
        assert told.bounds == {"c": (1, 2.0), "d": (3.0, None)}
        assert json.loads(json.dumps(told.to_dict())) == told.to_dict()
        assert Constraints(max_actions=2.0) == Constraints(max_actions=2)  # type: ignore[arg-type]
        assert type(Constraints(max_actions=2.0).max_actions) is int  # type: ignore[arg-type]

    def test_equal_ends_and_one_action_are_allowed(self) -> None:
        told = Constraints(bounds={"a": (2, 2), "b": (True, False)}, max_actions=1)
        assert told.bounds["a"] == (2, 2)

    def test_later_changes_of_the_callers_mapping_change_nothing(self) -> None:
        weights = {"a": 2.0}
        told = Constraints(cost_weights=weights)
        weights["a"] = -1.0
        assert told.cost_weights == {"a": 2.0}

    @given(constraints(MIXED, {f.name: f.levels[0] if f.levels else 20 for f in MIXED}))
    def test_round_trip_through_json(self, told: Constraints) -> None:
        assert Constraints.from_dict(json.loads(json.dumps(told.to_dict()))) == told

    def test_nothing_said_is_empty(self) -> None:
        assert Constraints().to_dict() == {}
        assert Constraints.from_dict({}) == Constraints()
        assert list(Constraints().said()) == []

    def test_from_dict_refuses_what_it_does_not_know(self) -> None:
        with pytest.raises(
            ConstraintError, match=r"'key' must .*did you mean 'freeze'\?; got 'fre"
        ):
            Constraints.from_dict({"freez": []})
        with pytest.raises(ConstraintError, match=r"'content' must be a mapping; got \[\]"):
            Constraints.from_dict([])  # type: ignore[arg-type]


class TestLimits:
    def test_nothing_said_changes_nothing(self, three: People) -> None:
        box = three.own.around(three.x)
        for nothing in (Constraints(), [None] * 3, {}, {"ann": None}, pd.DataFrame()):
            assert_same(three.limits(nothing), PersonalLimits(box, None))

    def test_frozen_features_stay(self, three: People) -> None:
        box = three.limits({"bob": Constraints(freeze=("debt", "job"))}).limits
        assert three.column(box.may_act, "debt") == [True, False, True]
        assert three.column(box.may_act, "job")[1] is False
        assert three.column(box.lower, "debt") == [0.0, 10.0, 0.0]
        assert three.column(box.upper, "debt") == [5.0, 10.0, 15.0]
        where = three.encoding.block("job")
        assert torch.equal(box.lower[1, where], three.x[1, where])
        assert torch.equal(box.upper[1, where], three.x[1, where])

    def test_freezing_what_no_plan_sets_is_harmless(self, three: People) -> None:
        box = three.limits(Constraints(freeze=("age", "income"))).limits
        assert torch.equal(box.may_act, three.own.around(three.x).may_act)

    def test_everything_may_be_frozen(self, three: People) -> None:
        names = three.encoding.schema.names
        assert not three.limits(Constraints(freeze=names)).limits.may_act.any()

    def test_bounds_clamp(self, three: People) -> None:
        told = [
            Constraints(bounds={"debt": (2, 100), "hours": (None, 40)}),
            None,
            Constraints(bounds={"debt": (15.0, 15)}),
        ]
        box = three.limits(told).limits
        assert three.column(box.lower, "debt") == [2.0, 0.0, 15.0]
        assert three.column(box.upper, "debt") == [5.0, 10.0, 15.0]
        assert three.column(box.upper, "hours") == [40.0, 60.0, 60.0]

    def test_bounds_of_levels_are_codes(self, three: People) -> None:
        told = {
            "ann": Constraints(bounds={"course": (None, "basic"), "grade": (1, 2.5)}),
            "cy": Constraints(bounds={"course": ("basic", "full"), "grade": (2.5, None)}),
        }
        box = three.limits(told).limits
        assert three.column(box.lower, "course") == [0.0, 0.0, 1.0]
        assert three.column(box.upper, "course") == [1.0, 2.0, 2.0]
        assert three.column(box.lower, "grade") == [1.0, 1.0, 2.5]
        assert three.column(box.upper, "grade") == [2.5, 10.0, 10.0]

    def test_levels_are_in_their_own_order_where_codes_fall(self, three: People) -> None:
        told = [
            Constraints(bounds={"smokes": (1, 1)}),
            Constraints(bounds={"smokes": (0, None)}),
            Constraints(bounds={"smokes": (None, 0)}),
        ]
        box = three.limits(told).limits
        assert three.column(box.lower, "smokes") == [1.0, 0.0, 0.0]
        assert three.column(box.upper, "smokes") == [1.0, 0.0, 1.0]
        backwards = pd.DataFrame({"lowest_smokes": [0], "highest_smokes": [1]}, index=["ann"])
        with pytest.raises(ConstraintError, match=r"lowest above its highest; got \(0, 1\)"):
            three.limits(backwards)

    @pytest.mark.parametrize("way", ["up", "down"])
    def test_directions(self, three: People, way: Any) -> None:
        told = Constraints(directions=dict.fromkeys(("course", "smokes", "grade"), way))
        box, wide = three.limits(told).limits, three.own.around(three.x)
        for name, rises in (("course", True), ("grade", True), ("smokes", False)):
            held, free = ("lower", "upper") if rises == (way == "up") else ("upper", "lower")
            x = three.column(three.x, name)
            assert three.column(getattr(box, held), name) == x
            expected = three.column(getattr(wide, free), name)
            assert three.column(getattr(box, free), name) == expected

    def test_directions_agree_with_the_schemas(self) -> None:
        ways: tuple[Literal["up", "down"], ...] = ("up", "down")
        for way in ways:
            free = draw_people((Feature("s", "binary", levels=(1, 0), role="actionable"),), 4, 0)
            said = free.limits(Constraints(directions={"s": way})).limits
            feature = Feature("s", "binary", levels=(1, 0), role="actionable", direction=way)
            declared = People((feature,), free.frame).own.around(free.x)
            assert torch.equal(said.lower, declared.lower)
            assert torch.equal(said.upper, declared.upper)

    def test_the_way_that_the_schema_forbids_leaves_the_own_value(self, three: People) -> None:
        box = three.limits(Constraints(directions={"debt": "up"})).limits
        assert three.column(box.lower, "debt") == three.column(three.x, "debt")
        assert three.column(box.upper, "debt") == three.column(three.x, "debt")

    def test_most_actions(self, three: People) -> None:
        most = three.limits([Constraints(max_actions=2), None, Constraints(max_actions=10**30)])
        d = three.encoding.n_columns
        assert most.limits.max_actions is not None
        assert most.limits.max_actions.tolist() == [2, d, d]
        assert most.limits.max_actions.dtype == torch.int64
        assert three.limits([None, Constraints(freeze=("debt",)), None]).limits.max_actions is None

    def test_weights(self, three: People) -> None:
        told = {"cy": Constraints(cost_weights={"debt": 3}), "ann": Constraints(max_actions=1)}
        weights = three.limits(told).weights
        assert weights is not None
        assert weights.dtype == torch.float64
        assert three.column(weights, "debt") == [1.0, 1.0, 3.0]
        assert weights.sum() == weights.numel() + 2
        assert three.limits([Constraints(max_actions=1)] * 3).weights is None
        for_all = three.limits(Constraints(cost_weights={"job": 2.0})).weights
        assert for_all is not None
        assert (for_all[:, three.encoding.block("job")] == 2).all()

    def test_the_callers_box_is_not_touched(self, three: People) -> None:
        before = three.own.around(three.x)
        three.limits(Constraints(freeze=("debt",), bounds={"hours": (None, 50)}))
        after = three.own.around(three.x)
        assert torch.equal(before.lower, after.lower)
        assert torch.equal(before.may_act, after.may_act)


class TestRules:
    @pytest.mark.parametrize(
        ("told", "message"),
        [
            (Constraints(freeze=("dept",)), r"\"freeze of person 'bob'\" must name"),
            (Constraints(freeze=("dept",)), r"name a feature \(age, .*did you mean 'debt'\?; got"),
            (Constraints(bounds={"dept": (1, 2)}), r"bounds\['dept'\] of person 'bob'.* name a"),
            (Constraints(directions={"dept": "up"}), r"directions\['dept'\] of person 'bob'"),
            (Constraints(cost_weights={"dept": 2}), r"cost_weights\['dept'\] of person 'bob'"),
            (Constraints(bounds={"age": (None, None)}), r"only name actionable features \(course"),
            (Constraints(bounds={"income": (1, 2)}), r"only name actionable .*; got 'income'"),
            (Constraints(directions={"income": "up"}), r"only name actionable .*; got 'income'"),
            (Constraints(cost_weights={"income": 2}), r"only name actionable .*; got 'income'"),
            (
                Constraints(bounds={"job": ("cook", None)}),
                r"not name a feature that is set level by level.*'job'",
            ),
            (
                Constraints(directions={"job": "up"}),
                r"not name a feature that is set level by level.*'job'",
            ),
            (
                Constraints(bounds={"course": ("half", None)}),
                r"bounds\['course'\] of person 'bob'.* levels \(none, basic, full\); got 'half'",
            ),
            (Constraints(bounds={"course": (0, None)}), r"be one of its levels .*; got 0"),
            (
                Constraints(bounds={"course": ("full", "none")}),
                r"above its highest; got \('full', ",
            ),
            (
                Constraints(bounds={"debt": ("low", None)}),
                r"bounds\['debt'\] .* a number; got 'low'",
            ),
            (Constraints(bounds={"debt": (True, None)}), r"must be a number; got True"),
            (
                Constraints(bounds={"debt": (None, 9.5)}),
                r"bounds\['debt'\] of person 'bob'.* must hold the person's own value 10.0, or "
                r"freeze the feature; got \(None, 9.5\)",
            ),
            (Constraints(bounds={"hours": (25, None)}), r"own value 20, or .*; got \(25, None\)"),
            (Constraints(bounds={"course": (None, "none")}), r"own value 'basic', or .*'none'\)"),
            (Constraints(bounds={"smokes": (None, 1)}), r"own value 0, or .*; got \(None, 1\)"),
        ],
    )
    def test_a_broken_rule_names_argument_and_person(
        self, three: People, told: Constraints, message: str
    ) -> None:
        for given_as in ([None, told, None], {"bob": told}):
            with pytest.raises(ConstraintError, match=r"^Constraints: .*" + f"({message})"):
                three.limits(given_as)

    def test_for_everybody_no_person_is_to_blame_for_the_feature(self, three: People) -> None:
        with pytest.raises(ConstraintError, match=r"^Constraints: \"bounds\['dept'\]\" must name"):
            three.limits(Constraints(bounds={"dept": (1, 2)}))
        with pytest.raises(ConstraintError, match=r"\"bounds\['debt'\] of person 'cy'\" .* 15.0"):
            three.limits(Constraints(bounds={"debt": (None, 12)}))

    def test_bounds_need_not_hold_what_is_frozen(self, three: People) -> None:
        told = Constraints(freeze=("debt",), bounds={"debt": (None, 9.5)})
        box = three.limits({"bob": told}).limits
        assert three.column(box.lower, "debt")[1] == three.column(box.upper, "debt")[1] == 10.0

    @pytest.mark.parametrize(
        ("column", "values", "message"),
        [
            (
                "freeze_debt",
                ["yes", None],
                r"column freeze_debt, row 'cy'.* true or false; got 'yes'",
            ),
            ("freeze_debt", [None, 2], r"row 'ann'.* true or false; got"),
            ("freeze_debt", [True, [1]], r"row 'ann'.* true or false; got \[1\]"),
            (
                "lowest_debt",
                [1.0, math.inf],
                r"column lowest_debt, row 'ann'.* finite number; got inf",
            ),
            ("lowest_debt", [None, "much"], r"column lowest_debt, row 'ann'.* number; got 'much'"),
            ("lowest_debt", [10**400, None], r"column lowest_debt, row 'cy'.* finite number; got"),
            ("highest_debt", ["a", "b"], r"row 'cy'.* number \(and 1 more people\); got 'a'"),
            ("highest_debt", [20, 3], r"column highest_debt, row 'ann'.* own value 5.0, or freeze"),
            ("highest_debt", [True, False], r"must be a number .*; got (np.)?True"),
            ("lowest_debt", [16, 0], r"column lowest_debt, row 'cy'.* own value 15.0, or freeze"),
            (
                "lowest_course",
                ["none", "half"],
                r"row 'ann'.* levels \(none, basic, full\); got 'half'",
            ),
            ("lowest_smokes", [None, 0], r"column lowest_smokes, row 'ann'.* own value 1, or"),
            ("direction_debt", ["up", "left"], r"row 'ann'.* be up, down or empty; got 'left'"),
            ("direction_debt", [1, 2], r"row 'cy'.* be up, down or empty \(and 1 more people\)"),
            ("weight_debt", [2, 0], r"column weight_debt, row 'ann'.* above 0; got"),
            ("weight_debt", [-1.0, math.nan], r"row 'cy'.* above 0; got -1.0"),
            ("weight_debt", [1.0, math.inf], r"row 'ann'.* above 0; got inf"),
            ("weight_debt", ["2", "3"], r"row 'cy'.* be a number .*; got '2'"),
            (
                "max_actions",
                [0, 1],
                r"column max_actions, row 'cy'.* whole number of at least 1; g",
            ),
            ("max_actions", [2, 1.5], r"row 'ann'.* whole number of at least 1; got 1.5"),
            ("max_actions", [math.inf, math.nan], r"row 'cy'.* at least 1; got inf"),
            ("max_actions", ["2", None], r"row 'cy'.* be a number; got '2'"),
            (
                "lowest_dept",
                [1, 2],
                r"must be max_actions, or freeze_, .* mean 'lowest_debt'\?; got",
            ),
            ("lowest", [1, 2], r"must be max_actions, or freeze_, .*; got 'lowest'"),
            ("debt", [1, 2], r"must be max_actions, or freeze_, .*; got 'debt'"),
            (3, [1, 2], r"must be max_actions, or freeze_, .*; got 3"),
            ("max_actions_debt", [1, 2], r"must be max_actions, or .*; got 'max_actions_debt'"),
            ("lowest_age", [None, None], r"'column lowest_age' must only name actionable features"),
            (
                "direction_job",
                [None, None],
                r"'column direction_job' must not name a feature that is set",
            ),
        ],
    )
    def test_a_tables_cell_is_named(
        self, three: People, column: Any, values: list[Any], message: str
    ) -> None:
        table = pd.DataFrame({column: values}, index=["cy", "ann"])
        with pytest.raises(ConstraintError, match=r"(?s)^constraints table: .*" + message):
            three.limits(table)

    @pytest.mark.parametrize(
        "cells", [[True, False], [1, 0], [1.0, np.nan], ["True", "false"], ["true", None]]
    )
    def test_true_and_false_are_read_as_files_hold_them(self, three: People, cells: Any) -> None:
        table = pd.DataFrame({"freeze_debt": cells}, index=["cy", "ann"])
        may_act = three.column(three.limits(table).limits.may_act, "debt")
        assert may_act == [name != "cy" for name in three.frame.index]

    def test_columns_have_different_names(self, three: People) -> None:
        table = pd.DataFrame([[1, 2]], columns=["max_actions"] * 2, index=["ann"])
        with pytest.raises(ConstraintError, match="have different names; got 'max_actions'"):
            three.limits(table)

    @pytest.mark.parametrize("given_as", [None, 3, "ann", object()])
    def test_other_forms_are_refused(self, three: People, given_as: Any) -> None:
        with pytest.raises(ConstraintError, match="must be Constraints, a list of them, a mapping"):
            three.limits(given_as)

    def test_lengths(self, three: People) -> None:
        for given_as in ([], [None] * 2, [None] * 4):
            with pytest.raises(
                ConstraintError, match=r"have one entry a person, 3; got '. entries'"
            ):
                three.limits(given_as)
        with pytest.raises(ConstraintError, match=r"have one row a person, 3, where .*'2 rows'"):
            three.limits(pl.DataFrame({"max_actions": [1, 2]}))

    def test_entries_are_constraints(self, three: People) -> None:
        entry = {"freeze": ["debt"]}
        for given_as in ([None, entry, None], {"bob": entry}):
            with pytest.raises(
                ConstraintError, match=r"of person 'bob'.* must be Constraints or No"
            ):
                three.limits(given_as)

    def test_unknown_people_are_named(self, three: People) -> None:
        labels = ["zoe", "ann", "yan", "xi", "wu"]
        message = r"constraints for unknown people \(4\); got \['zoe', 'yan', 'xi'\]"
        with pytest.raises(ConstraintError, match=message):
            three.limits(dict.fromkeys(labels, Constraints()))
        with pytest.raises(ConstraintError, match=message):
            three.limits(pd.DataFrame({"max_actions": 1}, index=labels))
        # A table without an index of its own is for people named 0, 1, 2.
        with pytest.raises(ConstraintError, match=r"unknown people \(3\); got \[0, 1, 2\]"):
            three.limits(pd.DataFrame({"max_actions": [1, 1, 1]}))

    def test_labels_differ(self, three: People) -> None:
        with pytest.raises(ConstraintError, match=r"'index of the table' must have .*; got 'ann'"):
            three.limits(pd.DataFrame({"max_actions": 1}, index=["ann", "bob", "ann"]))
        twice = pd.Index(["ann", "bob", "ann"])
        arguments = three.encoding, three.x, twice
        for given_as in ({"bob": Constraints()}, pd.DataFrame({"max_actions": 1}, index=["bob"])):
            with pytest.raises(ConstraintError, match=r"'index of the people' must .*; got 'ann'"):
                personal_limits(*arguments, given_as, three.own)
        in_order = personal_limits(*arguments, [None, Constraints(max_actions=1), None], three.own)
        assert in_order.limits.max_actions is not None


class TestForms:
    @given(cases())
    def test_all_forms_say_the_same(self, case: tuple[People, list[Constraints | None]]) -> None:
        people, told = case
        index = people.frame.index
        expected = people.limits(told)
        labelled = dict(zip(index, told, strict=True))
        assert_same(people.limits(tuple(told)), expected)
        assert_same(people.limits(labelled), expected)
        assert_same(people.limits(dict(reversed(labelled.items()))), expected)
        assert_same(people.limits({k: c for k, c in labelled.items() if c}), expected)
        table = as_table(told, index)
        assert_same(people.limits(table), expected)
        assert_same(people.limits(table[::-1]), expected)
        assert_same(people.limits(table[[c is not None for c in told]]), expected)
        if len(table.columns):
            columns = {c: table[c].tolist() for c in table.columns}
            gaps = {c: [None if pd.isna(v) else v for v in vs] for c, vs in columns.items()}
            assert_same(people.limits(pl.DataFrame(gaps, strict=False)), expected)

    @given(cases())
    def test_narrower_and_never_without_the_own_value(
        self, case: tuple[People, list[Constraints | None]]
    ) -> None:
        people, told = case
        found, wide = people.limits(told).limits, people.own.around(people.x)
        assert (found.lower >= wide.lower).all()
        assert (found.upper <= wide.upper).all()
        assert (found.may_act <= wide.may_act).all()
        assert (found.lower <= people.x).all()
        assert (people.x <= found.upper).all()

    @given(cases(), st.randoms(use_true_random=False))
    def test_the_order_of_people_does_not_matter(
        self, case: tuple[People, list[Constraints | None]], random: Any
    ) -> None:
        people, told = case
        order = list(range(len(told)))
        random.shuffle(order)
        moved = People(people.encoding.schema.features, people.frame.iloc[order])
        labelled = dict(zip(people.frame.index, told, strict=True))
        expected = people.limits(told)
        for given_as in (labelled, as_table(told, people.frame.index), [told[i] for i in order]):
            found = parts(moved.limits(given_as))
            for name, part in parts(expected).items():
                other = found[name]
                assert (part is None) == (other is None), name
                if part is not None and other is not None:
                    assert torch.equal(part[order], other), name

    @given(cases())
    def test_one_for_everybody_is_the_same_for_each(
        self, case: tuple[People, list[Constraints | None]]
    ) -> None:
        people, told = case
        alone = People(people.encoding.schema.features, people.frame[:1])
        if told[0] is not None:
            assert_same(alone.limits(told[0]), alone.limits(told[:1]))

    def test_for_everybody(self, three: People) -> None:
        told = Constraints(("job",), {"debt": (5, 20)}, {"grade": "up"}, 3, {"hours": 2})
        assert_same(three.limits(told), three.limits([told] * 3))

    @pytest.mark.parametrize("dtype", ["float32", "Float64", "object", "category"])
    def test_number_columns_of_any_type(self, three: People, dtype: Any) -> None:
        values = pd.Series([2.0, None, 8.0], index=["ann", "bob", "cy"]).astype(dtype)
        box = three.limits(pd.DataFrame({"lowest_debt": values})).limits
        assert three.column(box.lower, "debt") == [2.0, 0.0, 8.0]

    def test_decimals_and_missing_values_of_any_kind(self, three: People) -> None:
        table = pd.DataFrame(
            {
                "lowest_debt": [Decimal("2.5"), None, pd.NA],
                "freeze_hours": [np.bool_(True), None, pd.NA],
                "direction_grade": ["", "up", math.nan],
                "lowest_course": [None, "basic", pd.NA],
            },
            index=["ann", "bob", "cy"],
        )
        box = three.limits(table).limits
        assert three.column(box.lower, "debt") == [2.5, 0.0, 0.0]
        assert three.column(box.may_act, "hours") == [False, True, True]
        assert three.column(box.lower, "grade") == [1.0, 2.5, 1.0]
        assert three.column(box.lower, "course") == [0.0, 1.0, 0.0]

    def test_a_column_without_values_says_nothing(self, three: People) -> None:
        names = ["freeze_age", "lowest_debt", "highest_course", "direction_debt", "weight_debt"]
        table = pd.DataFrame(dict.fromkeys([*names, "max_actions"]), index=three.frame.index)
        expected = PersonalLimits(three.own.around(three.x), None)
        assert_same(three.limits(table), expected)
        assert_same(three.limits(table[:0]), expected)
        assert_same(three.limits(pl.DataFrame(dict.fromkeys(names, [None] * 3))), expected)

    def test_a_polars_table_is_in_order_and_names_the_callers_people(self, three: People) -> None:
        table = pl.DataFrame({"lowest_debt": [1.0, None, 16.0], "freeze_job": [None, True, None]})
        with pytest.raises(
            ConstraintError, match=r"column lowest_debt, row 'cy'.* 15.0, or freeze"
        ):
            three.limits(table)
        box = three.limits(table.with_columns(lowest_debt=pl.Series([1.0, None, 2.0]))).limits
        assert three.column(box.lower, "debt") == [1.0, 0.0, 2.0]
        assert three.column(box.may_act, "job")[1] is False

    def test_names_that_look_like_columns(self) -> None:
        people = draw_people(NUMERIC, 2, 0)
        table = pd.DataFrame({"weight_lowest_a": [2.0], "weight_a": [3.0]}, index=["p1"])
        weights = people.limits(table).weights
        assert weights is not None
        assert weights.tolist() == [[1.0, 1.0, 1.0], [2.0, 3.0, 1.0]]

    def test_labels_of_two_parts(self, three: People) -> None:
        index = pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)])
        told = Constraints(max_actions=1)
        table = pd.DataFrame({"max_actions": [1]}, index=index[2:])
        for given_as in ({("b", 1): told}, table):
            found = personal_limits(three.encoding, three.x, index, given_as, three.own)
            assert found.limits.max_actions is not None
            assert found.limits.max_actions.argmin() == 2
        with pytest.raises(ConstraintError, match=r"unknown people \(1\); got \[\('b', 2\)\]"):
            personal_limits(three.encoding, three.x, index, {("b", 2): told}, three.own)

    def test_labels_that_are_pairs(self, three: People) -> None:
        index = pd.Index([("a", 1), ("a", 2), "c"], tupleize_cols=False)
        told = {("a", 2): Constraints(max_actions=1)}
        found = personal_limits(three.encoding, three.x, index, told, three.own)
        assert found.limits.max_actions is not None
        assert found.limits.max_actions.argmin() == 1

    def test_many_people_at_once(self) -> None:
        n = 50_000
        people = draw_people(MIXED, n, 0)
        rng = np.random.default_rng(1)
        frame = people.frame
        table = pd.DataFrame(
            {
                "freeze_debt": rng.random(n) < 0.5,
                "lowest_debt": frame["debt"] - rng.random(n),
                "highest_course": frame["course"].where(rng.random(n) < 0.5),
                "direction_grade": rng.choice(["up", "down", ""], n),
                "weight_hours": rng.uniform(0.5, 2, n),
                "max_actions": pd.Series(rng.integers(1, 5, n), frame.index).astype("Int64"),
            }
        ).sample(frac=1, random_state=0)
        found = people.limits(table)
        aligned = table.loc[frame.index]
        assert found.limits.max_actions is not None
        assert found.weights is not None
        assert found.limits.max_actions.tolist() == aligned["max_actions"].tolist()
        assert people.column(found.weights, "hours") == aligned["weight_hours"].tolist()
        frozen = ~found.limits.may_act[:, people.encoding.column("debt")].numpy()
        assert (frozen == aligned["freeze_debt"].to_numpy()).all()
        lower = found.limits.lower[:, people.encoding.column("debt")].numpy()
        expected = np.where(frozen, frame["debt"], aligned["lowest_debt"].clip(lower=0))
        assert (lower == expected).all()


def test_limits_are_those_that_solvers_take(three: People) -> None:
    found = three.limits([None, Constraints(max_actions=1, freeze=("debt",)), None]).limits
    assert isinstance(found, Limits)
    kept = found[torch.tensor([1])]
    assert kept.lower.shape == (1, three.encoding.n_columns)
    assert kept.max_actions is not None
    assert kept.max_actions.tolist() == [1]
