"""CARMA as published on problems whose answers are known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from carma import (
    CausalGraph,
    Feature,
    Intervention,
    PublishedCarma,
    PublishedSettings,
    RecourseResult,
    Schema,
    SquaredCost,
    StructuralCausalModel,
    TrainingSettings,
    additive,
)
from carma.benchmarks import Benchmark
from carma.classifiers.network import NetworkClassifier
from carma.constraints import PlanLimits
from carma.errors import SettingsError
from carma.recourse.target import People

LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]
TINY = PublishedSettings(
    mask_hidden=(8,),
    action_hidden=(8,),
    training=TrainingSettings(epochs=2, batch_size=64, learning_rate=1e-2),
)


def chain_optimum(data: Benchmark, classifier: NetworkClassifier, x: Tensor) -> Tensor:
    """Least cost of acceptance over all masks and values, without limits, (n,).

    With linear mechanisms a change of the set columns by delta moves the log-odds by
    effect . delta; the least sum of q_i delta_i^2 for a shortfall g is g^2 / sum(effect^2 / q).
    """
    weights = classifier.weights[0][0]
    one = torch.ones(1, 4).bool()
    unit = torch.ones(1, 4).double()
    q = torch.stack([data.cost(0 * unit, one & (torch.arange(4) == i), unit)[0] for i in range(4)])
    shortfall = -classifier.logit(x)
    best = torch.full_like(shortfall, torch.inf)
    for mask in itertools.product([False, True], repeat=3):
        if not any(mask):
            continue
        wide = torch.tensor([[False, *mask]])
        effects = []
        for i in (1, 2, 3):
            step = torch.zeros(1, 4).double()
            step[0, i] = 1.0
            start = torch.zeros(1, 4).double()
            moved = data.scm.counterfactual(start, Intervention(wide, step))
            effects.append((moved[0] @ weights) if mask[i - 1] else torch.tensor(0.0).double())
        gain = (torch.stack(effects).square() / q[1:]).sum()
        best = torch.minimum(best, shortfall.square() / gain)
    return best


def test_plans_are_valid_and_never_cheaper_than_the_optimum(
    chain: Benchmark, chain_classifier: NetworkClassifier, chain_solver: PublishedCarma
) -> None:
    result = chain_solver.recommend(chain.frame("recourse", "test"))
    found = torch.tensor([answer.status.has_plan for answer in result])
    rejected = chain_classifier.probability(result.x) < 0.5
    assert float(found[rejected].double().mean()) > 0.9
    x, cost = result.x[found], result.plans.cost[found]
    optimum = chain_optimum(chain, chain_classifier, x)
    assert (cost >= optimum * (1 - 1e-9)).all()
    assert float(cost.mean() / optimum.mean()) < 6
    do = Intervention(result.plans.mask[found], result.plans.values[found])
    reached = chain.scm.counterfactual(x, do)
    assert (chain_classifier.probability(reached) >= 0.5).all()
    torch.testing.assert_close(chain.cost.of(x, do), cost, atol=1e-12, rtol=1e-9)


def test_the_policy_used_is_the_policy_trained(
    chain: Benchmark, chain_solver: PublishedCarma
) -> None:
    x = chain.encoded("recourse", "test")
    z = chain.scm.abduct(x)
    networks = chain_solver._networks
    pair = networks.mask_network(networks._scaled(z)).view(len(x), 3, 2)
    likelier = pair.softmax(dim=-1).argmax(dim=-1).bool()
    top = (pair[..., 1] - pair[..., 0]).argmax(dim=1, keepdim=True)
    everybody = People(x, z, chain_solver.limits.around(x))
    proposal = chain_solver._propose(everybody, 1).intervention
    assert torch.equal(proposal.mask[:, 1:], likelier.scatter(1, top, True))
    assert not proposal.mask[:, 0].any()


def test_every_plan_stays_inside_limits_and_is_accepted(
    mixed_solver: PublishedCarma, mixed_people: pd.DataFrame, mixed_outcome: RecourseResult
) -> None:
    frame = mixed_outcome.to_frame()
    frame = frame[frame["status"] == "amortized"]
    people = mixed_people.loc[frame.index]
    assert len(frame) > 50
    hours, debt, course = frame["do_hours"], frame["do_debt"], frame["do_course"]
    assert ((hours.isna()) | ((hours % 5 == 0) & hours.between(0, 60))).all()
    assert ((hours.isna()) | (hours >= people["hours"])).all()
    assert ((debt.isna()) | (debt.between(0, 50) & (debt <= people["debt"]))).all()
    assert (course.isna() | course.isin(["none", "basic", "full"])).all()
    # What the table says is enough to check it: read it back and ask the classifier.
    after = people[["age"]].assign(
        **{name: frame[f"after_{name}"] for name in people.columns if name != "age"}
    )
    after["member"] = after["member"].astype(bool)
    probability = mixed_solver.classifier.probability(mixed_solver.encoding.encode(after))
    np.testing.assert_allclose(probability.numpy(), frame["probability_after"], atol=1e-9)
    assert (probability.numpy() >= 0.6).all()


def test_the_table_alone_gives_the_same_counterfactual(
    mixed_solver: PublishedCarma, mixed_people: pd.DataFrame, mixed_outcome: RecourseResult
) -> None:
    frame = mixed_outcome.to_frame()
    frame = frame[frame["status"] == "amortized"]
    encoding, people = mixed_solver.encoding, mixed_people.loc[frame.index]
    set_to, mask = people.copy(), torch.zeros(len(people), 6, dtype=torch.bool)
    for name in ("course", "hours", "debt"):
        chosen = frame[f"do_{name}"].notna()
        mask[:, encoding.column(name)] = torch.tensor(chosen.to_numpy())
        set_to.loc[chosen, name] = frame.loc[chosen, f"do_{name}"]
    x, values = encoding.encode(people), encoding.encode(set_to)
    do = Intervention(mask, values)
    reached = encoding.decode(mixed_solver.causal_model.counterfactual(x, do), people.index)
    np.testing.assert_allclose(reached["income"], frame["after_income"], rtol=1e-5)
    assert (reached["member"] == frame["after_member"]).all()
    np.testing.assert_allclose(mixed_solver.cost.of(x, do), frame["cost"], atol=1e-12)
    assert (
        PlanLimits(encoding, mixed_solver.causal_model.statistics_)
        .permits(x, do, mixed_solver.limits.around(x))
        .all()
    )


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)


def test_answers_do_not_depend_on_order_company_or_chunks(
    mixed_solver: PublishedCarma,
    mixed_people: pd.DataFrame,
    mixed_outcome: RecourseResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = mixed_outcome.to_frame()
    shuffled = mixed_people.sample(frac=1.0, random_state=1)
    same(mixed_solver.recommend(shuffled).to_frame(), whole.loc[shuffled.index])
    for start, stop in ((0, 1), (17, 18), (100, 137)):
        part = mixed_people.iloc[start:stop]
        same(mixed_solver.recommend(part).to_frame(), whole.iloc[start:stop])
    monkeypatch.setattr(PublishedCarma, "at_once", 7)
    same(mixed_solver.recommend(mixed_people).to_frame(), whole)


def test_everybody_rejected_and_everybody_accepted(
    chain: Benchmark, chain_classifier: NetworkClassifier, chain_solver: PublishedCarma
) -> None:
    people = chain.frame("recourse", "test")
    rejected = (chain_classifier.probability(chain.encoding.encode(people)) < 0.5).numpy()
    solver = PublishedCarma(chain.scm, chain_classifier, cost=chain.cost, settings=TINY)
    solver.fit(people[rejected])
    assert "already_accepted" not in solver.recommend(people[rejected]).counts()
    result = chain_solver.recommend(people[~rejected])
    assert result.counts() == {"already_accepted": int((~rejected).sum())}
    assert (result.to_frame()["cost"] == 0).all()
    assert not result.plans.mask.any()


def test_accepted_people_teach_nothing(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    people = chain.frame("recourse")
    rejected = (chain_classifier.probability(chain.encoding.encode(people)) < 0.5).numpy()
    fits = [
        PublishedCarma(chain.scm, chain_classifier, settings=TINY).fit(table).state()
        for table in (people, people[rejected], chain.encoding.encode(people))
    ]
    for state in fits[1:]:
        for name, tensor in state.tensors.items():
            assert torch.equal(tensor, fits[0].tensors[name])


def test_a_fit_follows_from_its_seed_and_leaves_the_global_one_alone(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    def weights(seed: int) -> Tensor:
        training = TrainingSettings(epochs=2, batch_size=64, seed=seed)
        settings = PublishedSettings((8,), (8,), training=training)
        solver = PublishedCarma(chain.scm, chain_classifier, settings=settings)
        tensors = solver.fit(chain.frame("recourse")).state().tensors
        return torch.cat([tensors[name].flatten() for name in sorted(tensors)])

    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]
    assert random.getstate() == before[2]
    torch.manual_seed(77)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)


class Interrupting(NetworkClassifier):
    """Raises what Ctrl-C does once it has been asked often enough."""

    calls_left = 10**9

    def _logit(self, x: Tensor) -> Tensor:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise KeyboardInterrupt
        return super()._logit(x)


def test_an_interrupted_fit_leaves_the_solver_unfitted(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    c = chain_classifier
    classifier = Interrupting(c.schema, c.inputs, c.weights, c.biases)
    solver = PublishedCarma(chain.scm, classifier, settings=TINY)
    classifier.calls_left = 8
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        solver.fit(chain.frame("recourse"))
    assert not solver.is_fitted
    assert torch.equal(torch.get_rng_state(), before)
    classifier.calls_left = 10**9
    assert solver.fit(chain.frame("recourse")).is_fitted


@pytest.fixture(scope="module")
def twins(linear: LinearClassifier) -> tuple[StructuralCausalModel, NetworkClassifier, Any]:
    """Two features without effects on each other that help equally."""
    names = ("a", "b")
    schema = Schema(tuple(Feature(n, role="actionable") for n in names), CausalGraph(names))
    noise = Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    scm = StructuralCausalModel(schema, {n: additive(lambda _: 0.0, noise) for n in names})
    table = scm.encoding.decode(scm.sample(500, seed=1))
    return scm.fit(table), linear(schema, [2.0, 2.0], -3.0), table


def share_of_b(
    twins: tuple[StructuralCausalModel, NetworkClassifier, Any], weight: float, **settings: Any
) -> float:
    scm, classifier, table = twins
    cost = SquaredCost(scm.encoding, scm.statistics_, {"a": 1.0, "b": weight})
    training = TrainingSettings(epochs=30, batch_size=64, learning_rate=1e-2)
    chosen = PublishedSettings((16,), (16, 16), training=training, **settings)
    result = PublishedCarma(scm, classifier, cost=cost, settings=chosen).fit(table).recommend(table)
    found = torch.tensor([answer.status.has_plan for answer in result])
    assert float(found.double().mean()) > 0.5
    return float(result.plans.mask[found, 1].double().mean())


def test_what_costs_more_is_chosen_less_often(
    twins: tuple[StructuralCausalModel, NetworkClassifier, Any],
) -> None:
    strong = {"kl_weight": 1.0}
    assert share_of_b(twins, 2.0, **strong) < share_of_b(twins, 1.0, **strong) - 0.1


def test_the_prior_is_divided_by_the_weight(
    twins: tuple[StructuralCausalModel, NetworkClassifier, Any],
) -> None:
    scm, classifier, _ = twins
    cost = SquaredCost(scm.encoding, scm.statistics_, {"a": 1.0, "b": 4.0})
    solver = PublishedCarma(scm, classifier, cost=cost, settings=PublishedSettings(prior=0.4))
    prior = torch.tensor([0.4, 0.1])
    assert solver._divergence(torch.logit(prior)[None]).item() == pytest.approx(0.0, abs=1e-6)
    p = torch.tensor([0.3, 0.6])
    expected = (p * (p / prior).log() + (1 - p) * ((1 - p) / (1 - prior)).log()).sum()
    found = solver._divergence(torch.logit(p)[None])
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_history_holds_the_multiplier(chain_solver: PublishedCarma) -> None:
    records = chain_solver.history_.records
    assert len(records) == 40
    assert {"loss", "score", "multiplier"} <= set(records[0])
    scores = [record["score"] for record in records]
    assert chain_solver.history_.best_epoch == scores.index(min(scores))
    assert records[-1]["multiplier"] > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"margin": 1.0}, "'margin' must be at least 0 and below 1; got 1.0"),
        ({"margin": -0.1}, "'margin' must be at least 0"),
        ({"margin": float("nan")}, "'margin' must be at least 0"),
        ({"temperature": 0.0}, "'temperature' must be above 0; got 0.0"),
        ({"prior": 1.0}, "'prior' must lie strictly between 0 and 1"),
        ({"kl_weight": -1.0}, "'kl_weight' must be at least 0"),
        ({"damping": -1.0}, "'damping' must be at least 0"),
        ({"rate": 0.0}, "'rate' must be above 0"),
        ({"mask_hidden": (0,)}, "'mask_hidden' must be at least 1; got 0"),
        ({"action_hidden": (8, -1)}, "'action_hidden' must be at least 1; got -1"),
    ],
)
def test_settings_check_themselves(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        PublishedSettings(**settings)


def test_settings_survive_a_dictionary() -> None:
    settings = PublishedSettings.table_5("loan")
    assert PublishedSettings.from_dict(asdict(settings)) == settings
    hidden: Any = [8, 8]
    assert PublishedSettings(mask_hidden=hidden).mask_hidden == (8, 8)


# Learning rate, mask and action widths, epochs, batch, margin, temperature: the paper's Table 5.
PUBLISHED = {
    "triangle-lin": (5e-3, (32,), (8,) * 4, 500, 32, 0.007, 0.55),
    "collider-lin": (5e-3, (32,), (32,) * 4, 350, 256, 0.013, 0.31),
    "chain-lin": (5e-3, (16,), (8,) * 2, 150, 128, 0.004, 0.87),
    "triangle-nlin": (5e-3, (32,) * 3, (8,) * 4, 450, 256, 0.003, 0.2),
    "collider-nlin": (1e-2, (16,) * 3, (8,) * 3, 250, 64, 0.002, 0.83),
    "chain-nlin": (5e-3, (32,) * 3, (32,) * 4, 250, 256, 0.007, 0.08),
    "loan": (5e-3, (32,) * 2, (32,) * 3, 450, 256, 0.011, 0.45),
    "loan-weighted": (1e-3, (16,) * 3, (32,) * 4, 450, 256, 0.007, 0.33),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name: str) -> None:
    found = PublishedSettings.table_5(name)
    training = found.training
    assert (
        training.learning_rate,
        found.mask_hidden,
        found.action_hidden,
        training.epochs,
        training.batch_size,
        found.margin,
        found.temperature,
    ) == PUBLISHED[name]
    assert (found.prior, found.kl_weight, found.rate, found.damping) == (0.5, 1.0, 1.0, 10.0)


def test_unknown_published_settings() -> None:
    with pytest.raises(SettingsError, match=r"'name' must be one of triangle-lin.*got 'lone'"):
        PublishedSettings.table_5("lone")
