"""Plans where facts leave several counterfactuals: how often they hold in the true world."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from carma import (
    Carma,
    CarmaSettings,
    CausalGraph,
    ExactSettings,
    ExactSolver,
    Feature,
    Intervention,
    MixedFlow,
    MixedSettings,
    Schema,
    TrainingSettings,
)
from carma.classifiers.network import Input, NetworkClassifier
from carma.recourse.plans import Plans
from carma.recourse.yardstick import least_cost_as_sure

SCHEMA = Schema(
    (
        Feature("skill", role="actionable"),
        Feature("job", "nominal", levels=("none", "clerk", "judge")),
        Feature("owner", "binary"),
        Feature("rank", "ordinal", levels=(0, 1, 2)),
        Feature("hours", role="actionable"),
    ),
    CausalGraph.from_parents(
        {"job": ["skill"], "owner": ["skill", "job"], "rank": ["owner", "hours"]},
        ["skill", "job", "owner", "rank", "hours"],
    ),
)
# Log-odds: skill, the three jobs, owner, rank, hours.
WEIGHTS, BIAS = [0.4, 0.0, 0.6, 2.0, 1.2, 0.7, 0.3], -3.5
N_WORLDS = 20_000
Rows = NDArray[np.float64]


def follow(skill: Rows, hours: Rows, noise: Rows) -> Rows:
    """The true mechanisms: rows of model space, for noise ``(n, 5)``."""
    says = np.stack([0 * skill, 0.6 * skill, 1.2 * skill - 0.5], axis=-1) + noise[..., :3]
    job = np.eye(3)[says.argmax(axis=-1)]
    owner = 0.9 * skill + job @ [0.0, 0.3, 1.0] + noise[..., 3] > 1.0
    latent = 1.2 * owner + 0.8 * hours + noise[..., 4]
    rank = (latent > 0.0).astype(float) + (latent > 2.0)
    parts = [skill[..., None], job, owner[..., None], rank[..., None], hours[..., None]]
    return np.concatenate(parts, axis=-1)


def draw(n: int, rng: np.random.Generator) -> Rows:
    return np.concatenate([rng.gumbel(size=(n, 3)), rng.logistic(size=(n, 2))], axis=1)


def people(n: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return follow(rng.normal(size=n), rng.normal(size=n), draw(n, rng))


@cache
def fitted() -> tuple[MixedFlow, NetworkClassifier]:
    quick = TrainingSettings(epochs=30, batch_size=500, learning_rate=1e-2)
    model = MixedFlow(SCHEMA, MixedSettings((8,), quick, alternatives=4, draws=16))
    model.fit(model.encoding.decode(torch.from_numpy(people(4000, 0))))
    inputs = [Input(i) for i in range(len(WEIGHTS))]
    weights, biases = [torch.tensor([WEIGHTS])], [torch.tensor([BIAS])]
    return model, NetworkClassifier(SCHEMA, inputs, weights, biases)


@cache
def solver(validity: float) -> Carma:
    model, classifier = fitted()
    quick = TrainingSettings(epochs=5)
    settings = CarmaSettings(validity=validity, lessons=100, training=quick, rehearsal=quick)
    return Carma(model, classifier, settings=settings).fit(torch.from_numpy(people(400, 1)))


@cache
def solved(validity: float) -> tuple[Tensor, Plans]:
    """Some rejected people, and their plans."""
    x = torch.from_numpy(people(200, 2))
    x = x[fitted()[1].logit(x) < 0][:100]
    return x, solver(validity).solve(x)


def shares(x: Tensor, plans: Plans) -> Rows:
    """How often each plan is accepted, over noise that agrees with the facts, by rejection."""
    values = torch.where(plans.mask, plans.values, x)
    noise = draw(N_WORLDS, np.random.default_rng(3))
    found = []
    for row, do in zip(x.numpy(), values.numpy(), strict=True):
        now = follow(np.full(N_WORLDS, row[0]), np.full(N_WORLDS, row[6]), noise)
        own = noise[(now == row).all(axis=1)]
        after = follow(np.full(len(own), do[0]), np.full(len(own), do[6]), own)
        found.append((after @ WEIGHTS + BIAS >= 0).mean() if len(own) > 100 else np.nan)
    return np.array(found)


@pytest.mark.parametrize("validity", [0.75, 0.9])
def test_plans_hold_in_the_true_world_as_often_as_was_asked_for(validity: float) -> None:
    x, plans = solved(validity)
    held, told = shares(x, plans), plans.expected_validity.numpy()
    is_known = np.isfinite(held) & np.isfinite(told)
    is_sure = is_known & (told >= validity)
    assert is_sure.sum() >= 60
    assert held[is_sure].mean() >= validity
    # What is told is what happens, on average and from plan to plan.
    assert abs(held[is_known].mean() - told[is_known].mean()) < 0.03
    assert np.abs(held - told)[is_known].mean() < 0.05


def test_more_certainty_costs_more() -> None:
    (_, less), (_, more) = solved(0.75), solved(0.9)
    both = torch.isfinite(less.cost) & torch.isfinite(more.cost)
    assert float(more.cost[both].mean()) > float(less.cost[both].mean())


# So close to the least cost a search comes where what follows jumps.
N_SEARCHED, NEAR = 6, 1e-2


def test_a_search_that_is_asked_for_sure_plans_finds_them() -> None:
    model, classifier = fitted()
    x, _ = solved(0.9)
    plain, sure = (
        ExactSolver(model, classifier, settings=ExactSettings(validity=validity))
        for validity in (None, 0.9)
    )
    bare, asked = plain.solve(x[:N_SEARCHED]), sure.solve(x[:N_SEARCHED])
    # Within reach there is a sure plan for everybody here, and few of the cheapest are sure.
    assert (asked.expected_validity >= 0.9).all()
    assert (bare.expected_validity >= 0.9).sum() <= N_SEARCHED / 2
    assert (asked.cost >= bare.cost * (1 - NEAR)).all()
    again = bare.expected_validity >= 0.9
    assert torch.allclose(asked.cost[again], bare.cost[again])


def test_where_no_plan_is_sure_the_search_tells_the_one_that_works() -> None:
    model, classifier = fitted()
    x = solved(0.9)[0][:N_SEARCHED]
    plain = ExactSolver(model, classifier).solve(x)
    # Only a hair further than the cheapest plan goes: what works is within reach, no sure plan is.
    reach = (plain.values - x).abs().where(plain.mask, 0.0) * (1 + 1e-6)
    limits = ExactSolver(model, classifier).limits.around(x)
    tight = type(limits)(
        torch.maximum(limits.lower, x - reach), torch.minimum(limits.upper, x + reach), plain.mask
    )
    settings = ExactSettings(validity=0.9)
    asked = ExactSolver(model, classifier, settings=settings).solve(x, tight)
    is_short = plain.expected_validity < 0.9
    assert is_short.any()
    assert asked.has_plan.all()
    assert (asked.expected_validity[is_short] < 0.9).all()
    assert torch.allclose(asked.cost, plain.cost, rtol=NEAR)


def test_no_sure_plan_is_cheaper_than_the_yardstick() -> None:
    x, plans = solved(0.9)
    x, plans = x[:N_SEARCHED], plans[torch.arange(N_SEARCHED)]
    search = ExactSolver(*fitted())
    least = least_cost_as_sure(search, x, Intervention(plans.mask, plans.values), 0.9)
    is_sure = plans.expected_validity >= 0.9
    assert is_sure.sum() >= N_SEARCHED / 2
    assert (least[is_sure] <= plans.cost[is_sure] * (1 + 1e-9)).all()
    assert (least[is_sure] >= search.solve(x).cost[is_sure] * (1 - NEAR)).all()


def test_whoever_wants_no_plans_of_others_kept_has_none() -> None:
    settings = replace(solver(0.9).settings, precedents=0)
    carma = Carma(*fitted(), settings=settings).fit(torch.from_numpy(people(400, 1)))
    assert carma._memory is None
    assert not any(name.startswith("memory") for name in carma.state().tensors)
    again = Carma.restore(*fitted(), carma.cost, carma.state())
    x, _ = solved(0.9)
    assert torch.equal(again.solve(x).cost, carma.solve(x).cost)


def test_what_is_known_of_others_makes_plans_cheaper_and_no_less_sure() -> None:
    carma, (x, plans) = solver(0.9), solved(0.9)
    alone = Carma.restore(*fitted(), carma.cost, carma.state())
    assert torch.equal(alone.solve(x).cost, plans.cost)
    alone._memory = None
    without = alone.solve(x)
    assert int(plans.has_plan.sum()) >= int(without.has_plan.sum())
    is_sure = plans.expected_validity >= 0.9 - 1e-9
    was_sure = without.expected_validity >= 0.9 - 1e-9
    # Searches that bring next to nothing are left out: of the sure plans, one in a hundred may go.
    assert int(is_sure.sum()) >= 0.98 * int(was_sure.sum())
    both = is_sure & was_sure
    assert float(plans.cost[both].mean()) <= 1.02 * float(without.cost[both].mean())


def test_where_what_is_foreseen_is_not_trusted_people_are_searched_for_as_well() -> None:
    carma, (x, _) = solver(0.9), solved(0.9)
    careful = Carma.restore(*fitted(), carma.cost, carma.state())
    assert careful._memory is not None
    careful._memory.is_trusted = torch.tensor(False)
    plans = careful.solve(x)
    careful._memory = None
    without = careful.solve(x)
    assert torch.equal(plans.has_plan | without.has_plan, plans.has_plan)
    is_sure = without.expected_validity >= 0.9 - 1e-9
    assert (plans.cost[is_sure] <= without.cost[is_sure] * (1 + 1e-9)).all()
