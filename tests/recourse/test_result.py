"""Answers in original units: tables, JSON, words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from torch import Tensor

from carma import (
    CausalModel,
    Classifier,
    ExactSettings,
    ExactSolver,
    Intervention,
    PublishedCarma,
    RecourseResult,
    Solver,
    Status,
)
from carma.benchmarks import Benchmark
from carma.classifiers.network import NetworkClassifier

Proposal = Callable[[Tensor, Tensor], Intervention]
MakeStub = Callable[[CausalModel, Classifier, Proposal], Solver]


def strict(text: str) -> Any:
    """JSON as other languages read it: without NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def acts(mixed_outcome: RecourseResult) -> list[int]:
    """Positions of the people who got a plan."""
    found = [i for i, answer in enumerate(mixed_outcome) if answer.status.has_plan]
    assert len(found) > 50
    return found


def test_the_callers_index_is_kept(
    mixed_outcome: RecourseResult, mixed_people: pd.DataFrame
) -> None:
    frame = mixed_outcome.to_frame()
    assert frame.index.equals(mixed_people.index)
    assert mixed_outcome.statuses.index.equals(mixed_people.index)
    assert [answer.label for answer in mixed_outcome] == mixed_people.index.tolist()
    assert len(mixed_outcome) == len(mixed_people)
    assert mixed_outcome.counts() == frame["status"].value_counts().to_dict()


def test_columns_and_dtypes(mixed_outcome: RecourseResult) -> None:
    frame = mixed_outcome.to_frame()
    # pandas 2 and 3 name the type of text differently.
    dtypes = frame.dtypes.astype(str).replace("str", "object")
    assert dtypes.to_dict() == {
        "status": "object",
        "cost": "float64",
        "probability_before": "float64",
        "probability_after": "float64",
        "expected_validity": "float64",
        "n_actions": "int64",
        "n_evaluations": "int64",
        "do_course": "object",
        "do_hours": "Int64",
        "do_debt": "float64",
        "after_course": "object",
        "after_hours": "Int64",
        "after_debt": "float64",
        "after_income": "float64",
        "after_member": "boolean",
    }


def test_cells_are_missing_where_there_is_nothing_to_say(mixed_outcome: RecourseResult) -> None:
    frame = mixed_outcome.to_frame()
    has_plan = frame["status"] == "amortized"
    accepted = frame["status"] == "already_accepted"
    assert 0 < has_plan.sum() < len(frame)
    assert 0 < accepted.sum() < len(frame)
    for name in ("cost", "probability_after"):
        assert (frame[name].notna() == (has_plan | accepted)).all()
    assert (frame.loc[accepted, "cost"] == 0).all()
    doing = frame.filter(like="do_").notna()
    assert (doing.sum(axis=1) == frame["n_actions"]).all()
    assert (doing.any(axis=1) == has_plan).all()
    for name in frame.filter(like="after_"):
        assert (frame[name].notna() == has_plan).all()


def test_a_table_of_polars_gives_one_back(
    mixed_solver: PublishedCarma, mixed_people: pd.DataFrame, mixed_outcome: RecourseResult
) -> None:
    given = pl.from_pandas(mixed_people)
    frame = mixed_solver.recommend(given).to_frame()
    assert isinstance(frame, pl.DataFrame)
    expected = mixed_outcome.to_frame()
    assert frame.columns == list(expected.columns)
    assert frame["status"].to_list() == expected["status"].tolist()
    assert frame.schema["do_hours"] == pl.Int64
    assert frame.schema["after_member"] == pl.Boolean
    assert frame["do_course"].null_count() == expected["do_course"].isna().sum()
    np.testing.assert_array_equal(frame["cost"].to_numpy(), expected["cost"].to_numpy())


def test_answers_agree_with_the_table(mixed_outcome: RecourseResult, acts: list[int]) -> None:
    frame, people = mixed_outcome.to_frame(), mixed_outcome.encoding.decode(mixed_outcome.x)
    for i in acts:
        answer, row = mixed_outcome[i], frame.iloc[i]
        assert row["n_actions"] == len(answer.actions)
        assert row["cost"] == answer.cost
        for name, change in answer.actions.items():
            assert change.before == people[name].iloc[i]
            assert change.after == row[f"do_{name}"] == row[f"after_{name}"]
        for name, change in answer.consequences.items():
            assert change.before != change.after == row[f"after_{name}"]
        assert not set(answer.actions) & set(answer.consequences)
        still = set(people.columns) - set(answer.actions) - set(answer.consequences) - {"age"}
        for name in still:
            before, after = people[name].iloc[i], row[f"after_{name}"]
            assert before == after or after == pytest.approx(before, rel=1e-5)


def test_values_keep_their_kind(mixed_outcome: RecourseResult, acts: list[int]) -> None:
    kinds = {"course": str, "hours": int, "debt": float, "income": float, "member": bool}
    seen = set()
    for i in acts:
        answer = mixed_outcome[i]
        for name, change in [*answer.actions.items(), *answer.consequences.items()]:
            assert type(change.before) is type(change.after) is kinds[name]
            seen.add(name)
    assert {"debt", "income"} <= seen
    assert seen & {"course", "hours"}


def test_positions(mixed_outcome: RecourseResult) -> None:
    n = len(mixed_outcome)
    assert mixed_outcome[-1] == mixed_outcome[n - 1]
    for position in (n, -n - 1):
        with pytest.raises(IndexError, match=f"position {position} of {n} people"):
            mixed_outcome[position]


def test_json_lines(mixed_outcome: RecourseResult) -> None:
    lines = mixed_outcome.to_json().split("\n")
    assert len(lines) == len(mixed_outcome)
    for line, answer in zip(lines, mixed_outcome, strict=True):
        content = strict(line)
        assert content == answer.to_dict()
        assert content["person"] == answer.label
        assert content["reason"] == answer.status.message
        assert (content["cost"] is None) == (answer.cost is None)
        for name, change in content["plan"].items():
            assert change["from"] == answer.actions[name].before
            assert change["to"] == answer.actions[name].after


def test_labels_of_other_types_become_json(
    mixed_solver: PublishedCarma, mixed_people: pd.DataFrame
) -> None:
    few = mixed_people.head(3)
    whole = mixed_solver.recommend(few.reset_index(drop=True))
    assert [strict(line)["person"] for line in whole.to_json().split("\n")] == [0, 1, 2]
    dated = mixed_solver.recommend(few.set_index(pd.date_range("2024-01-01", periods=3)))
    assert strict(dated.to_json().split("\n")[1])["person"].startswith("2024-01-02")


@pytest.fixture(scope="module")
def told(stub: MakeStub, chain: Benchmark, chain_classifier: NetworkClassifier) -> RecourseResult:
    """The first holds x2 still while x1 rises; the second sets x1; the third gets nothing."""

    def say(x: Tensor, u: Tensor) -> Intervention:
        values, mask = x.clone(), torch.zeros_like(x, dtype=torch.bool)
        values[:, 1] = torch.tensor([3.0, 2.0, 2.0])
        mask[:2, 1] = True
        mask[0, 2] = True
        return Intervention(mask, values)

    people = pd.DataFrame(
        {"s": 0, "x1": [-1.0, -1.0, -1.0, 3.0], "x2": 0.5, "x3": [0.25, 0.25, 0.25, 0.25]},
        index=["ann", "ben", "cem", "dan"],
    )
    return stub(chain.scm, chain_classifier, say).recommend(people)


def test_words_tell_action_from_consequence(told: RecourseResult) -> None:
    first, second, third, fourth = (told.explain(i).split("\n") for i in range(4))
    assert first[0].startswith("Person ann: chance of a favourable outcome ")
    assert first[0].endswith("(accepted from 50%).")
    assert first[1:4] == ["What to do:", "  - raise x1 from -1 to 3", "  - keep x2 at 0.50"]
    # x3 follows x2 alone, which is held.
    assert "What follows by itself:" not in first
    assert second[1:] == [
        "What to do:",
        "  - raise x1 from -1 to 2",
        "What follows by itself:",
        "  - x2 rises from 0.50 to 2",
        "  - x3 rises from 0.25 to 1",
        second[-1],
    ]
    assert second[-1].startswith("Then the chance is ")
    assert ": accepted. Cost x 100: " in second[-1]
    assert third[1:] == [f"No plan: {Status.NO_ACTION.message}."]
    assert fourth[1:] == [f"No plan: {Status.ALREADY_ACCEPTED.message}."]


def test_keeping_a_value_is_an_action(told: RecourseResult) -> None:
    answer = told[0]
    assert answer.actions["x2"].before == answer.actions["x2"].after == 0.5
    assert told.to_frame().loc["ann", "do_x2"] == 0.5
    assert not answer.consequences


def test_words_for_levels_and_units(mixed_outcome: RecourseResult, acts: list[int]) -> None:
    texts = [mixed_outcome.explain(i) for i in acts]
    joined = "\n".join(texts)
    assert "EUR" in joined
    assert "- lower debt from " in joined
    assert " h\n" in joined or "change course from " in joined
    for i, text in zip(acts, texts, strict=True):
        assert text.count("  - ") == len(mixed_outcome[i].actions) + len(
            mixed_outcome[i].consequences
        )


def test_no_number_is_not_written_as_one(
    stub: MakeStub, chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    class Silent(NetworkClassifier):
        def _logit(self, x: Tensor) -> Tensor:
            return torch.full_like(x[:, 0], torch.nan)

    c = chain_classifier
    silent = Silent(c.schema, c.inputs, c.weights, c.biases)
    solver = stub(chain.scm, silent, lambda x, _: Intervention.none(x))
    result = solver.recommend(pd.DataFrame({"s": [0], "x1": 1.0, "x2": 1.0, "x3": 1.0}))
    content = strict(result.to_json())
    assert content["status"] == "undefined"
    assert content["probability_before"] is None
    assert content["cost"] is None
    assert "chance of a favourable outcome unknown" in result.explain(0)
    assert "nan" not in result.explain(0)


@pytest.fixture(scope="module")
def menus(
    mixed_solver: PublishedCarma, mixed_people: pd.DataFrame
) -> tuple[RecourseResult, RecourseResult]:
    """The best plans, and three a person."""
    solver = ExactSolver(
        mixed_solver.causal_model,
        mixed_solver.classifier,
        settings=ExactSettings(starts=2, explore_steps=3, keep=4, refine_steps=6, polish_rounds=3),
    )
    people = mixed_people.head(40)
    return solver.recommend(people), solver.recommend(people, n_plans=3)


def test_a_menu_is_every_plan_of_a_person_the_cheapest_first(
    menus: tuple[RecourseResult, RecourseResult],
) -> None:
    single, several = menus
    assert len(several.others) == 2
    sizes = set()
    for i in range(len(several)):
        plans = several.menu(i)
        assert plans[0] == several[i] == several.menu(i - len(several))[0]
        assert [single[i]] == single.menu(i)
        sizes.add(len(plans))
        if len(plans) > 1:
            assert all(plan.status.has_plan for plan in plans)
            costs = [plan.cost for plan in plans if plan.cost is not None]
            assert costs == sorted(costs)
            assert len(costs) == len(plans)
            assert len({frozenset(plan.actions) for plan in plans}) == len(plans)
    assert {1, 3} <= sizes
    with pytest.raises(IndexError):
        several.menu(len(several))


def test_a_table_of_menus_has_a_row_for_each_plan(
    menus: tuple[RecourseResult, RecourseResult],
) -> None:
    single, several = menus
    frame = several.to_frame()
    assert list(frame.columns) == ["plan", *single.to_frame().columns]
    assert "plan" not in single.to_frame()
    position = 0
    for i in range(len(several)):
        for place, answer in enumerate(several.menu(i), start=1):
            row = frame.iloc[position]
            assert frame.index[position] == answer.label
            assert row["plan"] == place
            assert row["status"] == answer.status.value
            assert row["n_actions"] == len(answer.actions)
            for value, told in (
                (row["cost"], answer.cost),
                (row["expected_validity"], answer.expected_validity),
            ):
                assert pd.isna(value) if told is None else value == told
            for name, change in answer.actions.items():
                assert row[f"do_{name}"] == change.after
            position += 1
    assert position == len(frame) > len(several)
    assert str(frame["do_hours"].dtype) == "Int64"


def test_json_holds_the_other_plans(menus: tuple[RecourseResult, RecourseResult]) -> None:
    single, several = menus
    for i, line in enumerate(several.to_json().split("\n")):
        content = strict(line)
        best, *others = several.menu(i)
        assert content["others"] == [strict(json.dumps(o.to_dict())) for o in others]
        assert content["plan"] == best.to_dict()["plan"]
    assert all("others" not in strict(line) for line in single.to_json().split("\n"))


def test_how_sure_a_plan_is_is_told_where_it_is_known(
    menus: tuple[RecourseResult, RecourseResult], mixed_outcome: RecourseResult
) -> None:
    known = 0
    for i, answer in enumerate(menus[0]):
        if answer.status is Status.ALREADY_ACCEPTED:
            assert answer.expected_validity == 1
        elif answer.status.has_plan:
            assert answer.expected_validity is not None
            assert 0 <= answer.expected_validity <= 1
            assert answer.to_dict()["expected_validity"] == answer.expected_validity
            said = menus[0].explain(i).split("\n")[-1]
            shown = float(said.removeprefix("How sure the plan is to work: ").removesuffix(" %."))
            # Never rounded up.
            assert shown / 100 <= answer.expected_validity + 1e-12
            assert shown / 100 > answer.expected_validity - 1.001e-3
            known += 1
        else:
            assert answer.expected_validity is None
    assert known > 10
    for i, answer in enumerate(mixed_outcome):
        if answer.status.has_plan:
            assert answer.expected_validity is None
            assert "How sure" not in mixed_outcome.explain(i)
