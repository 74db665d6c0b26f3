"""Moves between levels: which are open to whom, and where people stand after them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from carma.constraints import PlanLimits
from carma.graph import CausalGraph
from carma.interventions import Intervention
from carma.recourse import switches
from carma.recourse.switches import Switches
from carma.recourse.target import People
from carma.rules import ActionRules, TimeLink
from carma.schema import Feature, Schema
from carma.state import seeded
from carma.table import Encoding

EDUCATION = Feature(
    "education",
    "ordinal",
    levels=("none", "school", "college"),
    role="actionable",
    moves=(("none", "school"), ("none", "college", 3), ("school", "college", 2)),
)
FEATURES = (
    Feature("job", "nominal", levels=("clerk", "cook", "nurse"), role="actionable"),
    EDUCATION,
    Feature("plan", "binary", role="actionable", moves=((0, 1),)),
    Feature("savings", role="actionable"),
    Feature("age"),
    Feature("income"),
)
SCHEMA = Schema(
    FEATURES,
    CausalGraph.from_parents(
        {"income": ["job", "education", "age"]}, tuple(f.name for f in FEATURES)
    ),
    rules=ActionRules(time=[TimeLink("education", "age", (0, 1, 4))]),
)
ENCODING = Encoding(SCHEMA)
JOB, EDU, PLAN, SAVINGS, AGE, INCOME = slice(0, 3), 3, 4, 5, 6, 7
# Three for job, two for education, one for plan: alone, in pairs, and all at once.
N_COMBINATIONS = 6 + (3 * 2 + 3 * 1 + 2 * 1) + 3 * 2 * 1


def follow(x: Tensor, do: Intervention, u: Tensor) -> Tensor:
    """Income is wages of the job, plus what education and age bring, plus u."""
    row = torch.where(do.mask, do.values, x)
    wages = torch.tensor([1.0, 2.0, 4.0], dtype=x.dtype)
    income = row[:, JOB] @ wages + 3 * row[:, EDU] + 0.1 * row[:, AGE] + u[:, INCOME]
    return torch.where(do.mask[:, INCOME], row[:, INCOME], income)[:, None] * (
        torch.arange(8) == INCOME
    ) + row * (torch.arange(8) != INCOME)


def everybody() -> People:
    """Every mix of levels once."""
    rows = []
    for job, education, plan in product(range(3), range(3), range(2)):
        rows.append([*torch.eye(3)[job].tolist(), education, plan, 5.0 + job, 30.0, 0.0])
    x = torch.tensor(rows, dtype=torch.float64)
    u = torch.zeros_like(x)
    u[:, INCOME] = torch.arange(len(x)) / 10
    x = follow(x, Intervention.none(x), u)
    return People(x, u, PlanLimits(ENCODING, None).around(x))


def made() -> Switches:
    return Switches(PlanLimits(ENCODING, None), follow)


def listed() -> list[dict[str, int]]:
    """The combinations in order: feature to position of its new level."""
    targets = {"job": (0, 1, 2), "education": (1, 2), "plan": (1,)}
    return [
        dict(zip(chosen, levels, strict=True))
        for size in (1, 2, 3)
        for chosen in combinations(targets, size)
        for levels in product(*(targets[name] for name in chosen))
    ]


def is_open(row: Tensor, combination: dict[str, int]) -> bool:
    own = {"job": int(row[JOB].argmax()), "education": int(row[EDU]), "plan": int(row[PLAN])}
    return all(
        to != own[name] and (name == "job" or to > own[name]) for name, to in combination.items()
    )


def test_moves_that_are_open() -> None:
    people, every = everybody(), listed()
    assert len(made()) == len(every) == N_COMBINATIONS
    expected = [[is_open(row, combination) for combination in every] for row in people.x]
    assert made().open_to(people).tolist() == expected
    some = torch.tensor([5, 0, 5])
    assert made().open_to(people[some]).tolist() == [expected[i] for i in some]


def test_frozen_features_and_few_actions() -> None:
    people, every = everybody(), listed()
    may_act = people.limits.may_act.clone()
    may_act[:, JOB] = False
    frozen = replace(people, limits=replace(people.limits, may_act=may_act))
    has_job = torch.tensor(["job" in combination for combination in every])
    before = made().open_to(people)
    assert torch.equal(made().open_to(frozen), before & ~has_job)
    most = torch.arange(len(people)) % 3 + 1
    few = replace(people, limits=replace(people.limits, max_actions=most))
    size = torch.tensor([len(combination) for combination in every])
    assert torch.equal(made().open_to(few), before & (size <= most[:, None]))


def test_worlds() -> None:
    people, every = everybody(), listed()
    chosen = made().open_to(people)
    worlds, owner = made().worlds(people, chosen)
    assert len(worlds) == len(owner) == int(chosen.sum())
    assert worlds.given is not None
    assert worlds.limits.given is not None
    assert torch.equal(worlds.x, people.x[owner])
    which = chosen.nonzero()[:, 1]
    for i, combination in enumerate(which.tolist()):
        moves, row = every[combination], worlds.x[i]
        mask = torch.zeros(8, dtype=torch.bool)
        values = row.clone()
        for name, to in moves.items():
            where = ENCODING.block(name)
            mask[where] = True
            values[where] = torch.eye(3)[to].double() if name == "job" else float(to)
        assert torch.equal(worlds.given.mask[i], mask)
        assert torch.equal(worlds.given.values[i][mask], values[mask])
        assert torch.equal(worlds.limits.given[i], mask)
        # Schooling takes time, and income follows from all of it.
        times = (0.0, 1.0, 4.0)
        if "education" in moves:
            values[AGE] += times[moves["education"]] - times[int(row[EDU])]
        wage = (1.0, 2.0, 4.0)[int(values[JOB].argmax())]
        values[INCOME] = wage + 3 * values[EDU] + 0.1 * values[AGE] + worlds.u[i, INCOME]
        torch.testing.assert_close(worlds.stand[i], values)


def test_after_the_moves_that_plans_hold() -> None:
    people = everybody()
    worlds, owner = made().worlds(people, made().open_to(people))
    assert worlds.given is not None
    # What plans set besides is none of their moves.
    mask, values = worlds.given.mask.clone(), worlds.given.values.clone()
    mask[:, SAVINGS], values[:, SAVINGS] = True, 9.0
    after = made().after(people[owner], Intervention(mask, values))
    assert after.given is not None
    assert after.limits.given is not None
    assert torch.equal(after.given.mask, worlds.given.mask)
    assert torch.equal(after.limits.given, worlds.given.mask)
    torch.testing.assert_close(after.stand, worlds.stand)


def test_actions_that_are_left() -> None:
    people = everybody()
    for most in (1, 2, 3):
        limits = replace(people.limits, max_actions=torch.full((len(people),), most))
        asked = replace(people, limits=limits)
        worlds, _ = made().worlds(asked, made().open_to(asked))
        assert worlds.given is not None
        assert worlds.limits.max_actions is not None
        moved = worlds.given.mask[:, [0, EDU, PLAN]].sum(dim=1)
        left = most - moved
        assert (left >= 0).all()
        assert torch.equal(worlds.limits.can_move[:, SAVINGS], left > 0)
        assert worlds.limits.may_act[:, [0, EDU, PLAN]].all()
        assert torch.equal(worlds.limits.max_actions, left.clamp(min=1))


def test_nobody_moves() -> None:
    people = everybody()
    worlds, owner = made().worlds(people, made().open_to(people) & False)
    assert len(worlds) == len(owner) == 0
    stays = made().stay(people)
    assert stays.given is not None
    assert not stays.given.mask.any()
    assert torch.equal(stays.stand, people.x)
    joined = People.joined([stays, made().worlds(people, made().open_to(people))[0]])
    assert joined.given is not None
    assert joined.limits.given is not None
    assert torch.equal(joined.given.mask, joined.limits.given)


def test_combinations_of_many_features_are_left_out() -> None:
    plans = tuple(
        Feature(f"plan {i}", "binary", role="actionable", moves=((0, 1),)) for i in range(9)
    )
    for n, expected in ((2, 3), (3, 7), (5, 31), (6, 21), (8, 36), (9, 9)):
        some = plans[:n]
        graph = CausalGraph(tuple(f.name for f in some))
        limits = PlanLimits(Encoding(Schema(some, graph)), None)
        assert len(Switches(limits, follow)) == expected
    wide = Feature("job", "nominal", levels=tuple(range(switches.MOST + 5)), role="actionable")
    limits = PlanLimits(Encoding(Schema((wide,), CausalGraph(("job",)))), None)
    assert len(Switches(limits, follow)) == len(wide.levels)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_drawn_moves(share: float) -> None:
    people = everybody()[torch.arange(18).repeat(50)]
    drawn = made().drawn(people, share, seeded(3))
    again = made().drawn(people, share, seeded(3))
    assert drawn.given is not None
    assert again.given is not None
    assert torch.equal(drawn.given.mask, again.given.mask)
    assert torch.equal(drawn.stand, again.stand)
    assert torch.equal(drawn.x, people.x)
    assert drawn.limits.given is not None
    assert torch.equal(drawn.limits.given, drawn.given.mask)
    moves = drawn.given.mask.any(dim=1)
    can = made().open_to(people).any(dim=1)
    assert not (moves & ~can).any()
    assert moves[can].double().mean().item() == pytest.approx(share, abs=0.06)
    assert torch.equal(drawn.stand[~moves], people.x[~moves])
    # All that is drawn is open, and all that is open is drawn.
    worlds, owner = made().worlds(people[:18], made().open_to(people[:18]))
    possible = {(int(i), *row) for i, row in zip(owner, worlds.stand.tolist(), strict=True)}
    rows = moves.nonzero().squeeze(1)
    seen = {(int(i) % 18, *drawn.stand[i].tolist()) for i in rows}
    assert seen <= possible
    if share == 1:
        assert len(seen) > 0.9 * len(possible)


def test_places_are_home_and_the_worlds_of_each_in_a_row() -> None:
    people = everybody()
    home = torch.arange(len(people)) % 2 == 0
    chosen = torch.cat([home[:, None], made().open_to(people)], dim=1)
    every, owner = made().places(people, chosen)
    assert torch.equal(owner, chosen.nonzero()[:, 0])
    assert every.given is not None
    stays = ~every.given.mask.any(dim=1)
    assert torch.equal(owner[stays], home.nonzero().squeeze(1))
    assert torch.equal(every.stand[stays], people.x[home])
    worlds, whose = made().worlds(people, chosen[:, 1:])
    assert torch.equal(owner[~stays], whose)
    torch.testing.assert_close(every.stand[~stays], worlds.stand)


def test_the_place_of_a_plan_is_where_its_moves_lead() -> None:
    people = everybody()
    chosen = torch.cat([torch.ones(18, 1, dtype=torch.bool), made().open_to(people)], dim=1)
    every, owner = made().places(people, chosen)
    assert every.given is not None
    # What is set besides, or would be set if it were, does not matter.
    mask, values = every.given.mask.clone(), every.given.values.clone()
    values = torch.where(mask, values, people.x[owner] + 7)
    mask[::2, SAVINGS] = True
    found = made().place_of(Intervention(mask, values))
    assert torch.equal(found, chosen.nonzero()[:, 1])


def test_the_columns_that_tell_of_each_feature() -> None:
    assert made().columns.tolist() == [0, EDU, PLAN]
