"""Forecasts of what plans bring, and plans that are found on them."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tests.recourse.test_recall import known_plans, limits_of, people, recall, world
from torch import Tensor

import carma.recourse.memory as memories
from carma import TrainingSettings
from carma.recourse.candidates import Candidates
from carma.recourse.doubt import Doubt
from carma.recourse.findings import Findings
from carma.recourse.forecast import Forecast, ForecastTarget
from carma.recourse.foreseen import Foreseen
from carma.recourse.foresight import Foresight
from carma.recourse.memory import STEPS, Memory, _Step
from carma.recourse.pattern import PatternSearch
from carma.recourse.retrieval import Retrieval
from carma.recourse.starts import spread_evenly
from carma.recourse.target import People, Target
from carma.state import seeded

LEARNING = TrainingSettings(epochs=30)


def parts(*, blind: bool = False) -> tuple[Forecast, ForecastTarget, Foresight, Target]:
    data, classifier = world()
    limits, some = limits_of(data), people(60)
    columns = data.encoding.actionable
    torch.manual_seed(0)
    forecast = Forecast(columns, data.scm.statistics_, some.u, 1.0, (32, 32)).requires_grad_(False)
    foreseen = ForecastTarget(classifier, limits, forecast)
    target = Target(data.scm.counterfactual, classifier, limits, 0.0)
    patterns = None
    if blind:
        shares = spread_evenly(4, columns, data.encoding.n_columns)
        patterns = (PatternSearch(foreseen, data.cost, limits, shares, 3, 6),) * 2
    more = (data.cost, limits, Doubt(data.scm, classifier, n_alternatives=0), 0.0, patterns)
    statistics = data.scm.statistics_
    retrieval = Retrieval(columns, statistics, 2).requires_grad_(False)
    foresight = Foresight(recall(), retrieval, target, foreseen, *more, statistics.std)
    return forecast, foreseen, foresight, target


def describe(some: People) -> Tensor:
    return some.x[:, :2].float()


def has_wishes(some: People) -> Tensor:
    return torch.arange(len(some)) % 3 == 2


def memory(*, blind: bool = False) -> tuple[Memory, Foresight, ForecastTarget, Target]:
    forecast, foreseen, foresight, target = parts(blind=blind)
    others = (recall(), foresight._retrieval)
    made = Memory(known_plans(), forecast, foresight, *others, describe, has_wishes)
    return made, foresight, foreseen, target


@cache
def learned(*, blind: bool = False) -> tuple[Memory, Foresight, ForecastTarget, Target]:
    made = memory(blind=blind)
    some = people(60)
    made[0].learn(some, findings(), [], seeded(0), LEARNING, progress=False)
    return made


def findings() -> Findings:
    cost, is_sure = torch.ones(60, dtype=torch.float64), torch.arange(60) % 4 < 2
    return Findings(cost, is_sure, torch.arange(60) % 2 == 0)


def test_before_it_has_learned_nothing_follows_from_plans() -> None:
    data, classifier = world()
    _, foreseen, _, _ = parts()
    some, known = people(20), known_plans(20)
    mask, values = recall().varied(some, torch.arange(20), known, seeded(1))
    expected = classifier.ahead(torch.where(mask, values, some.x))
    told = foreseen.outlook(some, mask, values)
    torch.testing.assert_close(told, expected[:, None].expand(-1, 2), check_dtype=False)
    torch.testing.assert_close(foreseen.surplus(some, mask, values), expected, check_dtype=False)
    assert data.scm.is_fitted


def test_it_learns_what_follows() -> None:
    _, foresight, foreseen, target = learned()
    some, known = people(60), known_plans(60)
    mask, values = recall().varied(some, torch.arange(60), known, seeded(2))
    real = target.surplus(some, mask, values)
    bare = parts()[1].surplus(some, mask, values)
    off = (foreseen.surplus(some, mask, values) - real).abs().mean()
    assert float(off) < 0.3 * float((bare - real).abs().mean())
    outcomes = foresight.outcomes(some, mask, values)
    torch.testing.assert_close(outcomes.ahead[:, 0], real, check_dtype=False)
    torch.testing.assert_close(outcomes.bare, bare, check_dtype=False)


@pytest.mark.parametrize("blind", [False, True])
def test_more_people_to_try_plans_on_make_forecasts_better(*, blind: bool) -> None:
    every, known = people(160), known_plans(60)
    asked, others, new = every[slice(0, 60)], every[slice(60, 120)], every[slice(120, 160)]
    assert len(new) == 40
    at = torch.arange(40)
    mask, values = recall().varied(new, at, known, seeded(5))
    off = []
    for batches in ([], [others[slice(0, 35)], others[slice(35, 60)]]):
        made, foresight, foreseen, target = memory(blind=blind)
        made.learn(asked, findings(), batches, seeded(0), LEARNING, progress=False)
        real = target.surplus(new, mask, values)
        off.append(float((foreseen.surplus(new, mask, values) - real).abs().mean()))
        near = foresight.near(describe(new), made.known, 10)
        assert all(len(set(row)) == len(row) for row in near.tolist())
    assert off[1] < off[0]


def test_slopes_are_those_of_what_is_foreseen() -> None:
    data, _ = world()
    _, _, foreseen, _ = learned()
    some, known = people(5), known_plans(5)
    mask, values = recall().varied(some, torch.arange(5), known, seeded(3))
    surplus, slope = foreseen.surplus_and_slope(some, mask, values)
    column, step = int(data.encoding.actionable[0]), 1e-3
    further = values.clone()
    further[:, column] += step
    found = (foreseen.surplus(some, mask, further) - surplus) / step
    # The network is in single precision.
    torch.testing.assert_close(found, slope[:, column], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("times", [1, 4])
def test_plans_that_are_called_sure_are_and_cost_what_they_cost(*, blind: bool, times: int) -> None:
    data, _ = world()
    remembered, foresight, _, target = learned(blind=blind)
    some = people(60)
    found = foresight.best(some, describe(some), remembered.known, times=times)
    rows = found.is_sure.nonzero().squeeze(1)
    assert len(rows) > 30
    own, mask, values = some[rows], found.mask[rows], found.values[rows]
    assert bool((target.surplus(own, mask, values) >= 0).all())
    torch.testing.assert_close(found.cost[rows], data.cost(own.x, mask, values), check_dtype=False)
    assert bool(((own.limits.lower <= values) & (values <= own.limits.upper)).all())
    assert torch.equal(values[~mask], own.x[~mask])
    assert bool((found.validity[rows] == 1).all())
    assert bool(torch.isinf(found.cost[~found.is_sure & (found.validity < 0)]).all())


def test_walks_make_plans_cheaper_than_those_of_others() -> None:
    remembered, foresight, _, target = learned()
    some, known = people(60), remembered.known
    found = foresight.best(some, describe(some), known)
    plans, _ = recall().fitted(some, torch.arange(len(known)).expand(60, -1), known)
    works = target.surplus(some[plans.owner], plans.mask, plans.values) >= 0
    price = torch.where(works, plans.cost, torch.inf)
    least = torch.full((60,), torch.inf, dtype=price.dtype)
    least = least.scatter_reduce(0, plans.owner, price, "amin")
    both = torch.isfinite(least) & found.is_sure
    assert int(both.sum()) > 30
    assert float(found.cost[both].mean()) < 0.8 * float(least[both].mean())


@pytest.mark.parametrize("blind", [False, True])
def test_answers_do_not_depend_on_the_batch(*, blind: bool) -> None:
    remembered, foresight, _, _ = learned(blind=blind)
    some = people(60)
    whole = foresight.best(some, describe(some), remembered.known)
    order = torch.randperm(60, generator=seeded(4))
    halves = [
        foresight.best(some[rows], describe(some[rows]), remembered.known)
        for rows in torch.split(order, 23)
    ]
    cost = torch.cat([part.cost for part in halves])
    assert torch.equal(torch.isfinite(cost), torch.isfinite(whole.cost[order]))
    torch.testing.assert_close(cost, whole.cost[order], rtol=1e-4, atol=0)


def test_the_surest_plan_is_told_of_whom_none_is_sure() -> None:
    some = people(2)
    data, classifier = world()
    doubt = Doubt(data.scm, classifier, n_alternatives=0)
    found = Foreseen.none(some, doubt)
    nothing, of_one = doubt.nothing(2), doubt.nothing(1)
    mask, cost = torch.ones_like(some.limits.may_act), torch.tensor([2.0, 3.0])
    ahead, margin = torch.tensor([0.5, -0.1]), torch.tensor([1.0, 0.0])
    found.take(torch.tensor([0, 1]), (mask, some.x, cost), ahead, margin, nothing)
    assert torch.isfinite(found.cost).tolist() == [True, False]
    assert not found.is_sure.any()
    found.take(torch.tensor([0]), (mask[:1], some.x[:1], cost[1:]), margin[:1], margin[:1], of_one)
    assert found.is_sure.tolist() == [True, False]
    assert found.least.tolist() == [3.0, torch.inf]
    # A sure plan gives way to a cheaper one that is sure as well, and to nothing else.
    found.take(torch.tensor([0]), (mask[:1], some.x[:1], cost[:1]), ahead[:1], margin[:1], of_one)
    assert found.cost[0] == 3.0
    found.take(torch.tensor([0]), (mask[:1], some.x[:1], cost[:1]), margin[:1], margin[:1], of_one)
    assert found.cost[0] == 2.0


def test_of_two_answers_the_surer_is_taken_and_of_two_sure_ones_the_cheaper() -> None:
    some = people(4)
    data, classifier = world()
    ours, theirs = (
        Foreseen.none(some, Doubt(data.scm, classifier, n_alternatives=0)) for _ in range(2)
    )
    for found, validity, cost, is_sure in (
        (ours, [0.5, 0.9, 1.0, 1.0], [1.0, 1.0, 2.0, 1.0], [False, False, True, True]),
        (theirs, [0.8, 0.4, 1.0, 0.9], [2.0, 1.0, 1.0, 0.5], [False, False, True, False]),
    ):
        found.validity[:], found.cost[:] = torch.tensor(validity), torch.tensor(cost)
        found.is_sure[:] = torch.tensor(is_sure)
    theirs.outlook[:] = 1.0
    ours.take_better(torch.arange(4), theirs)
    assert ours.cost.tolist() == [2.0, 1.0, 1.0, 1.0]
    assert ours.is_sure.tolist() == [False, False, True, True]
    assert (ours.outlook == 1.0).all()


def test_nobody_is_examined_with_their_own_plan() -> None:
    remembered = learned()[0]
    is_sure = torch.arange(60) % 4 < 2
    owners = is_sure.nonzero().squeeze(1)
    everyone: list[int] = []
    for rows, known in remembered._folds(is_sure):
        place = {tuple(seen.tolist()): k for k, seen in enumerate(remembered.known.seen)}
        theirs = {int(owners[place[tuple(seen.tolist())]]) for seen in known.seen}
        assert not theirs & set(rows.tolist())
        everyone += rows.tolist()
    assert sorted(everyone) == list(range(60))


def test_nobody_learns_from_their_own_plan_which_of_others_suit() -> None:
    remembered = learned()[0]
    is_sure = torch.arange(60) % 4 < 2
    tried = remembered._tried(people(60), is_sure, seeded(0), progress=False)
    assert tried.at.shape == (60, len(remembered.known))
    own = torch.where(is_sure, is_sure.cumsum(0) - 1, -1)
    is_own = tried.at == own[:, None]
    assert torch.equal(is_own.any(dim=1), is_sure)
    assert torch.isinf(tried.promise[is_own]).all()
    assert torch.isinf(tried.price[is_own]).all()
    assert torch.isfinite(tried.promise[~is_own]).any()
    # Whoever may follow a plan as it is, may go as far as it takes, which is no further.
    is_sure_there = torch.isfinite(tried.price)
    assert is_sure_there.any()
    assert (tried.promise <= tried.price * (1 + 1e-6))[is_sure_there].all()


def test_there_is_hope_where_the_outlook_is_no_worse_than_where_more_was_found() -> None:
    remembered = memory()[0]
    data, classifier = world()
    some = people(4)
    found = Foreseen.none(some, Doubt(data.scm, classifier, n_alternatives=0))
    found.outlook[:] = torch.tensor([[-2.0, -3.0], [-0.5, -3.0], [-0.5, -3.0], [0.5, 0.5]])
    assert remembered.has_hope(some, found).all()
    remembered.gates[1, 0] = torch.tensor([-1.0, -1.0])
    found.cost[1], found.cost[3], found.is_sure[3] = 1.0, 1.0, True
    # Neither any plan nor a sure one; no sure one for who has one; a wish; and who has a sure one.
    assert remembered.has_hope(some, found).tolist() == [False, False, True, False]
    assert remembered.has_last_hope(some, found).tolist() == [True, True, True, False]
    found.cost[1] = torch.inf
    assert remembered.has_hope(some, found).tolist() == [False, True, True, False]
    # A sure plan that is dear beside all that were searched for.
    remembered.most = torch.tensor(0.9)
    assert remembered.has_hope(some, found)[3]
    remembered.most = torch.tensor(1.0)
    assert not remembered.has_hope(some, found)[3]


@pytest.mark.parametrize("blind", [False, True])
def test_for_dear_plans_more_of_others_are_tried(
    monkeypatch: pytest.MonkeyPatch, *, blind: bool
) -> None:
    remembered = without_gates(learned(blind=blind)[0])
    some = people(60)
    before = remembered.best(some)
    tried: list[Tensor] = []
    again = Memory._again

    def noted(*parts: Any) -> None:
        tried.append(parts[-1])
        again(*parts)

    monkeypatch.setattr(Memory, "_again", noted)
    remembered.dear = before.least[before.is_sure].median()
    after = remembered.best(some)
    is_dear = before.is_sure & (before.cost > remembered.dear)
    assert torch.equal(torch.cat(tried), (is_dear | before.is_dear).nonzero().squeeze(1))
    assert bool((after.least <= before.least).all())


def without_gates(remembered: Memory) -> Memory:
    """A copy that tries more for nobody without a sure plan."""
    made = copy(remembered)
    made.gates = torch.full_like(remembered.gates, torch.inf)
    made.dear = torch.tensor(torch.inf)
    return made


def test_nothing_is_looked_for_where_looking_has_found_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memories, "STEPS", tuple(replace(step, rare=0.0) for step in STEPS))
    remembered, _, _, _ = memory()
    some = people(60)
    nothing = torch.zeros(60, dtype=torch.bool)
    found = Findings(torch.full((60,), torch.inf, dtype=torch.float64), nothing, nothing)
    folds = remembered._folds(findings().is_sure)
    remembered._examine(some, describe(some), folds, found)
    assert torch.equal(remembered.gates, torch.zeros_like(remembered.gates))
    assert not remembered.is_trusted


def test_where_hardly_anybody_goes_without_all_are_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remembered = copy(learned()[0])
    remembered.gates = remembered.gates.clone()
    some, found = people(60), findings()
    monkeypatch.setattr(memories, "STEPS", tuple(replace(step, rare=1.1) for step in STEPS))
    remembered._examine(some, describe(some), remembered._folds(found.is_sure), found)
    assert bool(torch.isneginf(remembered.gates).all())
    monkeypatch.setattr(memories, "STEPS", tuple(replace(step, rare=0.0) for step in STEPS))
    remembered._examine(some, describe(some), remembered._folds(found.is_sure), found)
    assert not torch.isneginf(remembered.gates).any()


def test_gates_are_where_so_many_of_the_plans_that_were_found_are_kept() -> None:
    remembered, _, _, _ = learned()
    some, found = people(60), findings()
    folds, seen = remembered._folds(found.is_sure), describe(some)
    for rows, known in folds:
        foreseen = remembered._best(some[rows], seen[rows], known)
        is_missed = found.is_sure[rows] & ~foreseen.is_sure
        # With so few people, nobody may be lost.
        assert bool((remembered.has_hope(some[rows], foreseen) | ~is_missed).all())


@pytest.mark.parametrize(
    ("chance", "most_lost", "expected"),
    [
        # The last plan is worth three looks in vain, or not; the first two are always worth it.
        (0.1, 3.0, -0.8),
        (0.3, 3.0, -0.2),
        (0.9, 3.0, -0.2),
        # No more may be lost, whatever it takes.
        (0.9, 0.0, -0.8),
    ],
)
def test_gates_weigh_what_is_found_against_looking_in_vain(
    chance: float, most_lost: float, expected: float
) -> None:
    outlook = torch.tensor([-0.9, -0.2, -0.5, -0.1, -0.8, -0.7, -0.6], dtype=torch.float64)
    is_found = torch.tensor([False, True, False, True, True, False, False])
    step = _Step(chance, 0.0)
    assert step.gate(outlook, is_found, most_lost) == pytest.approx(expected)
    assert _Step(chance, 0.0, 2.0).gate(outlook, is_found, most_lost) == pytest.approx(2 * expected)
    # Where a plan is thought to be, it is looked for.
    assert step.gate(outlook + 5, is_found, most_lost) == 0.0
    assert step.gate(outlook[:0], is_found[:0], most_lost) == 0.0


def test_who_pays_more_than_others_seem_to_gets_more_plans_of_others() -> None:
    data, classifier = world()
    some = people(3)
    found = Foreseen.none(some, Doubt(data.scm, classifier, n_alternatives=0))
    owner = torch.tensor([0, 0, 1, 1])
    cost = torch.tensor([1.0, 4.0, 1.0, 4.0], dtype=torch.float64)
    rows = some[owner]
    nothing, tried = rows.limits.may_act, torch.zeros(3, dtype=torch.long)
    plans = Candidates(some, owner, nothing, rows.x, cost, tried)
    outlook = torch.tensor([[0.1, -0.1], [0.3, 0.2], [-0.5, -0.6], [-0.1, -0.2]])
    looks_sure = torch.tensor([False, True, False, False])
    found.expect(torch.arange(3), plans, outlook.double(), looks_sure=looks_sure)
    # The cheapest that looks sure; three times the usual cost; and nobody to compare with.
    torch.testing.assert_close(found.hoped, torch.tensor([4.0, 6.0, torch.inf]).double())
    torch.testing.assert_close(found.outlook[:2], torch.tensor([[0.3, 0.2], [-0.1, -0.2]]).double())
    found.cost[:], found.is_sure[:] = torch.tensor([4.7, 7.3, 9e9]), True
    assert found.is_dear.tolist() == [False, True, False]
    found.is_sure[1] = False
    assert not found.is_dear.any()


class TooHigh(ForecastTarget):
    """Promises more than plans bring."""

    def outlook(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        return super().outlook(people, mask, values) + 2.0


def test_who_was_promised_too_much_still_gets_a_sure_plan() -> None:
    remembered, foresight, _, _ = learned(blind=True)
    some = people(60)
    usual = foresight.best(some, describe(some), remembered.known)
    told = foresight._forecast
    too_high = TooHigh(world()[1], limits_of(world()[0]), remembered._forecast)
    try:
        foresight._forecast = too_high
        found = foresight.best(some, describe(some), remembered.known)
    finally:
        foresight._forecast = told
    assert int(usual.is_sure.sum()) > 30
    assert int(found.is_sure.sum()) >= 0.9 * int(usual.is_sure.sum())


def test_what_may_save_much_is_checked_though_it_may_not_be_sure() -> None:
    foresight = parts(blind=True)[2]
    unit = foresight._forecast.unit
    owner = torch.tensor([0, 0, 0, 0, 1, 1])
    cost = torch.tensor([9.0, 2.0, 3.0, 8.9, 2.0, 9.0], dtype=torch.float64)
    beyond = torch.tensor([0.3, -0.1, -3.0, -0.1, -0.1, -0.2], dtype=torch.float64) * unit
    # The chance that a forecast is off by as much, times what would be saved.
    chance = 1 / (1 + torch.e)
    expected = torch.tensor([-torch.inf, chance * 7 / 9] + 2 * [-torch.inf], dtype=torch.float64)
    told = foresight._hoped(cost[:4], torch.full((4,), 9.0).double(), beyond[:4])
    torch.testing.assert_close(told, expected)
    # Of whom nothing is likely to be sure, nothing is known that it would save.
    rows = people(2)[owner]
    actions, tried = rows.limits.may_act, torch.zeros(2, dtype=torch.long)
    plans = Candidates(people(2), owner, actions, rows.x + cost[:, None], cost, tried)
    outlook = torch.stack([beyond, beyond], dim=1)
    whose, _, values, _ = foresight._likely(plans, outlook, 1)
    chosen = {(int(i), float(v)) for i, v in zip(whose, values[:, 0], strict=True)}
    added = rows.x[:, 0] + cost
    assert chosen == {(int(owner[row]), float(added[row])) for row in (0, 1, 4, 5)}


def test_what_was_learned_comes_back() -> None:
    remembered, _, foreseen, _ = learned()
    again, _, other, _ = memory()
    tensors = remembered.tensors()
    again.restore({n: t for n, t in tensors.items() if not n.startswith("precedents")})
    some, known = people(10), known_plans(10)
    mask, values = recall().varied(some, torch.arange(10), known, seeded(5))
    assert torch.equal(other.surplus(some, mask, values), foreseen.surplus(some, mask, values))
    assert torch.equal(again.gates, remembered.gates)
    assert torch.equal(again.most, remembered.most)
    assert torch.isfinite(again.most)
    assert torch.equal(again.is_trusted, remembered.is_trusted)
