"""The branch and bound over sets of features: its bounds are true and its list the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from carma import Intervention, SquaredCost
from carma.benchmarks import random_scm
from carma.classifiers.network import Input, NetworkClassifier
from carma.constraints import Limits, PlanLimits
from carma.recourse import best_first
from carma.recourse.best_first import FAR, IN, OUT, UNDECIDED, BestFirst, LocalModel
from carma.recourse.halfspace import cheapest_change
from carma.recourse.linear import total_effects
from carma.recourse.subsets import all_subsets
from carma.recourse.target import People, Target
from carma.state import seeded
from carma.table import Encoding

LinearProblem = tuple[Target, SquaredCost, PlanLimits, People, Tensor, Tensor]
MakeProblem = Callable[..., LinearProblem]
K = 7


def dense(linear_problem: MakeProblem, seed: int) -> tuple[People, SquaredCost, LocalModel]:
    """People whose features all act on each other, in the order of the columns."""
    _, cost, _, people, _, _ = linear_problem(seed, K, K, n=8)
    draws = seeded(seed)
    effects = torch.randn(8, K, K, generator=draws, dtype=torch.float64).tril(-1)
    slope = torch.randn(8, K, generator=draws, dtype=torch.float64)
    # From easy to out of reach.
    needed = torch.tensor([0.1, 1, 3, 6, 10, 20, 40, 1e4], dtype=torch.float64)
    return people, cost, LocalModel(effects, slope, needed)


def search(
    cost: SquaredCost, rounds: int = 200, count: int = 8, most: int | None = None
) -> BestFirst:
    return BestFirst(cost, torch.arange(K), list(range(K)), count, most, rounds)


def prices(people: People, cost: SquaredCost, model: LocalModel, masks: Tensor) -> Tensor:
    """Cost of the best plan of each set, infinite where it cannot reach, ``masks.shape[:2]``."""
    n, m = masks.shape[:2]
    mask = masks.flatten(0, 1)
    box, x = people.repeated(m).limits, people.repeated(m).x
    slope = total_effects(
        model.effects.repeat_interleave(m, 0), model.slope.repeat_interleave(m, 0), mask
    )
    lower = torch.where(mask, box.lower - x, 0.0)
    upper = torch.where(mask, box.upper - x, 0.0)
    needed = model.needed.repeat_interleave(m)
    price = torch.where(cost.scale > 0, cost.scale, 1.0)
    change, _ = cheapest_change(price, slope, needed, lower, upper)
    reached = (slope * change).sum(dim=1) >= needed * (1 - 1e-12)
    paid = (price * change.square()).sum(dim=1)
    return torch.where(reached & mask.any(dim=1), paid, torch.inf).view(n, m)


def every(people: People, most: int | None = None) -> Tensor:
    masks = all_subsets(torch.arange(K), K, most)
    return masks.expand(len(people), *masks.shape)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [None, 3])
def test_no_set_below_a_node_is_cheaper_than_its_bound(
    linear_problem: MakeProblem, seed: int, most: int | None
) -> None:
    people, cost, model = dense(linear_problem, seed)
    choice = torch.randint(0, 3, (8, 60, K), generator=seeded(seed)).to(torch.int8)
    bound, _, _ = search(cost, most=most)._bounds(people, model, choice)
    masks = every(people, most)
    price = prices(people, cost, model, masks)
    wrong = (choice[:, :, None] == IN) & ~masks[:, None]
    wrong |= (choice[:, :, None] == OUT) & masks[:, None]
    below = torch.where(wrong.any(dim=3), torch.inf, price[:, None]).amin(dim=2)
    assert (bound <= below * (1 + 1e-9)).all()
    assert bound[(choice == IN).sum(dim=2) > (most or K)].isinf().all()
    # Not so low that it says nothing.
    tight = (bound >= 0.5 * below) & torch.isfinite(below)
    assert tight.sum() > 0.3 * torch.isfinite(below).sum() > 10


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_of_a_decided_node_is_its_price(linear_problem: MakeProblem, seed: int) -> None:
    people, cost, model = dense(linear_problem, seed)
    masks = every(people)
    decided = torch.where(masks, IN, OUT).to(torch.int8)
    bound, sets, worth = search(cost)._bounds(people, model, decided)
    price = prices(people, cost, model, masks)
    works = torch.isfinite(price)
    torch.testing.assert_close(bound[works], price[works], rtol=1e-9, atol=1e-12)
    assert (bound[~works] >= FAR).all()
    assert torch.equal(sets, masks)
    assert worth.isneginf().all()


@pytest.mark.parametrize("seed", range(3))
def test_deciding_more_never_lowers_the_bound(linear_problem: MakeProblem, seed: int) -> None:
    people, cost, model = dense(linear_problem, seed)
    draws = seeded(seed)
    choice = torch.randint(0, 3, (8, 40, K), generator=draws).to(torch.int8)
    column = torch.randint(0, K, (8, 40, 1), generator=draws)
    choice = choice.scatter(2, column, UNDECIDED)
    nodes = search(cost)
    parent, sets, worth = nodes._bounds(people, model, choice)
    assert (sets | (choice != IN)).all()
    assert not (sets & (choice == OUT)).any()
    for decision in (IN, OUT):
        child, _, _ = nodes._bounds(people, model, choice.scatter(2, column, decision))
        assert (child >= parent * (1 - 1e-9)).all()
    # What can be split is undecided.
    assert (choice == UNDECIDED)[worth > -torch.inf].all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most", [None, 2, 4])
@pytest.mark.parametrize(("beam", "frontier"), [(8, 256), (2, 6)])
def test_where_it_says_so_the_first_set_is_the_cheapest_of_all(
    linear_problem: MakeProblem,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    most: int | None,
    beam: int,
    frontier: int,
) -> None:
    monkeypatch.setattr(best_first, "BEAM", beam)
    monkeypatch.setattr(best_first, "FRONTIER", frontier)
    people, cost, model = dense(linear_problem, seed)
    sets, is_sure = search(cost, most=most).subsets(people, model)
    least = prices(people, cost, model, every(people, most)).amin(dim=1)
    listed = prices(people, cost, model, sets)
    torch.testing.assert_close(listed[is_sure, 0], least[is_sure], rtol=1e-9, atol=0)
    assert (listed >= least[:, None] * (1 - 1e-9)).all()
    reachable = torch.isfinite(least)
    assert 4 <= reachable.sum() < 8
    if frontier == 256:
        assert is_sure[reachable].all()


def test_it_is_not_sure_too_early(linear_problem: MakeProblem) -> None:
    n_sure, n_best = [], []
    for rounds in (1, 6, 10, 20):
        sure, best = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
        for seed in range(8):
            people, cost, model = dense(linear_problem, seed)
            sets, sure[seed] = search(cost, rounds).subsets(people, model)
            least = prices(people, cost, model, every(people)).amin(dim=1)
            best[seed] = prices(people, cost, model, sets)[:, 0] <= least * (1 + 1e-9)
        assert best[sure].all()
        n_sure.append(int(sure.sum()))
        n_best.append(int(best.sum()))
    assert n_sure == sorted(n_sure)
    assert n_sure[0] < n_sure[1] < n_sure[-1]
    assert n_best == sorted(n_best)
    assert n_best[0] < n_best[-1] == 64


@pytest.mark.parametrize(("seed", "n_actionable"), [(0, 3), (1, 5), (2, 6), (3, 8)])
def test_random_causal_models_are_solved(
    linear_problem: MakeProblem, seed: int, n_actionable: int
) -> None:
    target, cost, limits, people, _, _ = linear_problem(seed, 8, n_actionable, n=20)
    columns = limits.encoding.actionable
    order = [limits.encoding.column(name) for name in limits.encoding.schema.graph.order]
    follow = target._follow
    model = LocalModel.around(follow, target, people, people.x)
    sets, is_sure = BestFirst(cost, columns, order, 4, None, 200).subsets(people, model)
    masks = all_subsets(columns, 8)
    price = prices(people, cost, model, masks.expand(len(people), *masks.shape))
    least = price.amin(dim=1)
    first = prices(people, cost, model, sets)[:, 0]
    assert is_sure.all()
    torch.testing.assert_close(first, least, rtol=1e-9, atol=0)
    assert torch.isfinite(least).sum() > 5


@pytest.mark.parametrize("most", [1, 2, 3])
def test_sets_are_no_larger_than_allowed(linear_problem: MakeProblem, most: int) -> None:
    people, cost, model = dense(linear_problem, 0)
    sets, _ = search(cost, most=most, count=20).subsets(people, model)
    sizes = sets.sum(dim=2)
    assert sizes.amax() == most
    n_sets = (sizes > 0).sum(dim=1)
    assert (n_sets >= min(4, K)).all()


def test_forbidden_features_are_in_no_set(linear_problem: MakeProblem) -> None:
    people, cost, model = dense(linear_problem, 1)
    may_act = torch.rand(8, K, generator=seeded(1)) < 0.6
    may_act[0] = False
    box = replace(people.limits, may_act=may_act)
    people = replace(people, limits=box)
    sets, is_sure = search(cost, count=16).subsets(people, model)
    assert not (sets & ~may_act[:, None]).any()
    assert not sets[0].any()
    masks = every(people) & ~(every(people) & ~may_act[:, None]).any(dim=2, keepdim=True)
    least = prices(people, cost, model, masks).amin(dim=1)
    first = prices(people, cost, model, sets)[:, 0]
    assert is_sure[torch.isfinite(least)].all()
    torch.testing.assert_close(first, least, rtol=1e-9, atol=0)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_features_that_do_not_act_on_each_other_are_no_shortcut(
    linear_problem: MakeProblem, most: int
) -> None:
    """Every slope is known, yet what brings most without a limit need not be what to keep."""
    n_missed = 0
    for seed in range(6):
        people, cost, model = dense(linear_problem, seed)
        ends = torch.stack([people.limits.lower, people.limits.upper]) - people.x
        top = (model.slope * ends).amax(dim=0).topk(most, dim=1).values.sum(dim=1)
        alone = LocalModel(0 * model.effects, model.slope, 0.9 * top)
        sets, is_sure = search(cost, most=most).subsets(people, alone)
        least = prices(people, cost, alone, every(people, most)).amin(dim=1)
        first = prices(people, cost, alone, sets)[:, 0]
        assert is_sure[torch.isfinite(least)].all()
        torch.testing.assert_close(first, least, rtol=1e-9, atol=0)
        # One round offers the set that the first bound suggests.
        once, _ = search(cost, most=most, rounds=1, count=1).subsets(people, alone)
        n_missed += int((prices(people, cost, alone, once)[:, 0] > least * (1 + 1e-9)).sum())
    assert n_missed > 0


@pytest.mark.parametrize("count", [1, 5, 40])
def test_sets_are_different_and_the_cheapest_come_first(
    linear_problem: MakeProblem, count: int
) -> None:
    people, cost, model = dense(linear_problem, 2)
    sets, _ = search(cost, count=count).subsets(people, model)
    assert sets.shape == (8, count, K)
    price = prices(people, cost, model, sets)
    for own, paid in zip(sets.tolist(), price, strict=True):
        full = [tuple(s) for s in own if any(s)]
        assert len(set(full)) == len(full)
        assert own[: len(full)] == [list(s) for s in full]
        works = paid[torch.isfinite(paid)]
        assert (works.diff() >= -1e-12).all()
        # Sets that fall short come last.
        assert torch.isfinite(paid[: len(works)]).all()


@pytest.mark.parametrize("scale", [1e-6, 1e9])
def test_the_unit_of_cost_does_not_matter(linear_problem: MakeProblem, scale: float) -> None:
    people, cost, model = dense(linear_problem, 3)
    state = cost.state()
    scaled = SquaredCost.from_state(
        cost_encoding(linear_problem), replace(state, tensors={"scale": scale * cost.scale})
    )
    sets, is_sure = search(cost).subsets(people, model)
    others, too = search(scaled).subsets(people, model)
    assert torch.equal(sets[:, 0], others[:, 0])
    assert torch.equal(is_sure, too)


def cost_encoding(linear_problem: MakeProblem) -> Encoding:
    return linear_problem(3, K, K, n=8)[2].encoding


def test_a_set_that_falls_just_short_does_not_hide_one_that_works(
    linear_problem: MakeProblem,
) -> None:
    people, cost, _ = dense(linear_problem, 0)
    one = people[:1]
    wide = torch.zeros(1, K, dtype=torch.float64)
    wide[0, 0], wide[0, 1] = 1.0, 1e6
    box = Limits(one.x - 0 * wide, one.x + wide, one.limits.may_act)
    slope = torch.zeros(1, K, dtype=torch.float64)
    # The first feature brings 1 - 1e-9 for little, the second all for much.
    slope[0, 0], slope[0, 1] = 1 - 1e-9, 1e-3
    model = LocalModel(torch.zeros(1, K, K, dtype=torch.float64), slope, torch.ones(1).double())
    sets, is_sure = search(cost).subsets(replace(one, limits=box), model)
    price = prices(replace(one, limits=box), cost, model, sets)
    masks = every(one)
    least = prices(replace(one, limits=box), cost, model, masks).amin()
    assert price[0, 0] == pytest.approx(least.item())
    assert is_sure.all()


def test_people_do_not_see_each_other(linear_problem: MakeProblem) -> None:
    people, cost, model = dense(linear_problem, 4)
    sets, is_sure = search(cost).subsets(people, model)
    for rows in ([3], [5, 0], [7, 6, 2]):
        pick = torch.tensor(rows)
        some = LocalModel(model.effects[pick], model.slope[pick], model.needed[pick])
        alone, sure_alone = search(cost).subsets(people[pick], some)
        assert torch.equal(alone, sets[pick])
        assert torch.equal(sure_alone, is_sure[pick])


def test_boxes_may_be_without_end(linear_problem: MakeProblem) -> None:
    people, cost, model = dense(linear_problem, 5)
    wide = torch.full_like(people.x, torch.inf)
    free = replace(people, limits=Limits(-wide, wide, people.limits.may_act))
    sets, is_sure = search(cost).subsets(free, model)
    # Without bounds, a set costs r^2 / sum(a^2 / p).
    masks = every(people)
    m = masks.shape[1]
    slope = total_effects(
        model.effects.repeat_interleave(m, 0),
        model.slope.repeat_interleave(m, 0),
        masks.flatten(0, 1),
    ).view(8, m, K)
    price = model.needed[:, None].square() / (slope.square() / cost.scale).sum(dim=2)
    assert is_sure.all()
    first = (masks == sets[:, :1]).all(dim=2)
    torch.testing.assert_close(price[first], price.amin(dim=1), rtol=1e-9, atol=0)


def test_the_local_model_of_a_linear_problem_is_the_problem(linear_problem: MakeProblem) -> None:
    for seed in range(4):
        target, _, _, people, effects, weights = linear_problem(seed, 7, 3, n=5)
        at = people.x + torch.randn(people.x.shape, generator=seeded(seed), dtype=torch.float64)
        model = LocalModel.around(target._follow, target, people, at)
        each = effects.expand_as(model.effects)
        torch.testing.assert_close(model.effects, each, rtol=0, atol=1e-12)
        torch.testing.assert_close(model.slope, weights.expand_as(at), rtol=0, atol=1e-12)
        logit = target._classifier.logit(at)
        torch.testing.assert_close(model.needed, target.logit - logit, rtol=1e-12, atol=1e-12)


def test_the_local_model_has_the_slopes_where_it_was_taken() -> None:
    scm = random_scm(6, 6, seed=2, expected_parents=3)
    draws = seeded(2)
    layers = [torch.randn(4, 6, generator=draws), torch.randn(1, 4, generator=draws)]
    classifier = NetworkClassifier(
        scm.schema, [Input(i) for i in range(6)], layers, [torch.zeros(4), torch.zeros(1)], "tanh"
    )
    x = scm.sample(3, seed=2)
    limits = PlanLimits(scm.encoding, None)
    people = People(x, scm.abduct(x), limits.around(x))
    target = Target(scm.counterfactual, classifier, limits, 0.0)
    at = x + torch.randn(3, 6, generator=draws, dtype=torch.float64)
    model = LocalModel.around(scm.counterfactual, target, people, at)
    assert model.effects.abs().amax(dim=(1, 2)).gt(0.1).all()
    step = 1e-5
    for j in range(6):
        unit = step * torch.eye(6, dtype=torch.float64)[j]
        ends = torch.stack([classifier.logit(at + unit), classifier.logit(at - unit)])
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(model.slope[:, j], slope, rtol=1e-6, atol=1e-8)
        for i in range(6):
            mask = torch.ones_like(at, dtype=torch.bool)
            mask[:, i] = False
            up, down = (
                scm.counterfactual(x, Intervention(mask, at + move), people.u)[:, i]
                for move in (unit, -unit)
            )
            expected = (up - down) / (2 * step)
            torch.testing.assert_close(model.effects[:, i, j], expected, rtol=1e-6, atol=1e-8)


def test_meeting_a_plan_needs_as_much_as_the_plan_brings(linear_problem: MakeProblem) -> None:
    target, _, limits, people, _, _ = linear_problem(1, n=4)
    model = LocalModel.around(target._follow, target, people, people.x)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:, limits.encoding.actionable[:2]] = True
    values = people.x + 1.0
    met = model.meeting(mask, torch.where(mask, values - people.x, 0.0))
    brought = target.surplus(people, mask, values) + model.needed
    torch.testing.assert_close(met.needed, brought, rtol=1e-9, atol=1e-9)
    assert torch.equal(met.effects, model.effects)
    assert torch.equal(met.slope, model.slope)
