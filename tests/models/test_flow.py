"""The causal flow learns what it should: likelihoods, frequencies, counterfactuals."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from carma import (
    CausalFlow,
    CausalGraph,
    Feature,
    FlowSettings,
    Intervention,
    Schema,
    TrainingSettings,
)
from carma.benchmarks import Benchmark, load
from carma.errors import NotFittedError, SchemaError, SettingsError, TableError

QUICK = FlowSettings(hidden=(8,), training=TrainingSettings(epochs=3, batch_size=100))


@pytest.fixture(scope="module")
def chain() -> Benchmark:
    return load("chain-lin", rows=6000)


@pytest.fixture(scope="module")
def learned(chain: Benchmark) -> CausalFlow:
    training = TrainingSettings(epochs=25, batch_size=200, learning_rate=1e-2)
    settings = FlowSettings(hidden=(16, 16), training=training)
    return CausalFlow(chain.schema, settings).fit(chain.frame("causal"))


def test_held_out_likelihood_is_near_the_best_that_an_affine_flow_can_reach(
    chain: Benchmark, learned: CausalFlow
) -> None:
    x = chain.encoded("causal", "test")
    reached = float(learned.log_prob(x).mean())
    # x1 is a mixture of variance 4.3125, which location and scale see as one normal.
    best = math.log(0.5) - 0.5 * (3 * math.log(2 * math.pi * math.e) + math.log(4.3125))
    assert reached == pytest.approx(best, abs=0.08)
    assert reached < float(chain.scm.log_prob(x).mean())


def test_learned_linear_gaussian_counterfactual_is_near_the_closed_form(
    chain: Benchmark, learned: CausalFlow
) -> None:
    x = chain.encoded("recourse", "test")
    for name, value in (("x1", 1.0), ("x2", -0.5)):
        do = Intervention.of(chain.encoding, len(x), **{name: value})
        exact = chain.scm.counterfactual(x, do)
        error = (learned.counterfactual(x, do) - exact).abs().mean(dim=0)
        assert error.max() < 0.15
        assert (exact - x).abs().mean(dim=0)[3] > 0.4


def test_learned_population_under_intervention(chain: Benchmark, learned: CausalFlow) -> None:
    do = Intervention.of(chain.encoding, 4000, x2=3.0)
    exact, drawn = chain.scm.sample(4000, do, seed=1), learned.sample(4000, do, seed=1)
    torch.testing.assert_close(drawn.mean(0), exact.mean(0), atol=0.15, rtol=0.0)
    torch.testing.assert_close(drawn.std(0), exact.std(0), atol=0.15, rtol=0.0)


def test_a_nominal_feature_with_a_cause_is_refused() -> None:
    features = (Feature("age"), Feature("region", "nominal", levels=("n", "s")))
    schema = Schema(features, CausalGraph.from_edges([("age", "region")]))
    with pytest.raises(SchemaError, match=r"'feature region' must have no cause .*causes: age"):
        CausalFlow(schema)


def test_a_fit_follows_from_its_seed(chain: Benchmark) -> None:
    table = chain.frame("causal").head(300)

    def fingerprint(seed: int) -> str:
        training = TrainingSettings(epochs=2, batch_size=100, seed=seed)
        flow = CausalFlow(chain.schema, FlowSettings(hidden=(8,), training=training))
        return weights(flow.fit(table))

    first = fingerprint(0)
    torch.manual_seed(99)
    assert fingerprint(0) == first
    assert fingerprint(1) != first


def weights(flow: CausalFlow) -> str:
    tensors = flow.state().tensors
    return str([(name, tensors[name].tolist()) for name in sorted(tensors)])


def test_a_fit_leaves_the_global_random_state_alone(chain: Benchmark) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    CausalFlow(chain.schema, QUICK).fit(chain.frame("causal").head(200))
    assert torch.equal(torch.get_rng_state(), before)


def one_root(kind: Any, levels: tuple[Any, ...]) -> Schema:
    features = (Feature("group", kind, levels=levels), Feature("age"))
    return Schema(features, CausalGraph(("group", "age")))


@pytest.mark.parametrize("kind", ["nominal", "ordinal"])
def test_frequencies_of_a_root_with_levels_are_exact(kind: str) -> None:
    counts = {"a": 60, "b": 30, "c": 10}
    groups = [level for level, n in counts.items() for _ in range(n)]
    ages = np.random.default_rng(0).normal(size=100)
    flow = CausalFlow(one_root(kind, tuple(counts)), QUICK)
    flow.fit(pd.DataFrame({"group": groups, "age": ages}))
    same_age = pd.DataFrame({"group": list(counts), "age": 0.3})
    log_prob = flow.log_prob(flow.encoding.encode(same_age))
    ratios = (log_prob - log_prob[0]).exp()
    torch.testing.assert_close(ratios, torch.tensor([1.0, 0.5, 1 / 6]).double())
    drawn = flow.encoding.decode(flow.sample(20_000, seed=1))["group"].value_counts()
    assert [drawn[level] / 20_000 for level in counts] == pytest.approx([0.6, 0.3, 0.1], abs=0.015)


def test_the_probabilities_of_a_whole_number_add_up_to_one() -> None:
    schema = Schema((Feature("years", "integer"), Feature("age")), CausalGraph(("years", "age")))
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"years": rng.integers(0, 20, 500), "age": rng.normal(size=500)})
    training = TrainingSettings(epochs=40, batch_size=100, learning_rate=5e-2)
    flow = CausalFlow(schema, FlowSettings(training=training)).fit(table)
    people = pd.DataFrame({"years": range(-40, 60), "age": 0.0})
    log_prob = flow.log_prob(flow.encoding.encode(people))
    grid = torch.linspace(-8, 8, 2001).double()
    ages = torch.stack([torch.full_like(grid, 3.0), grid], dim=1)
    # P(years = 3) = p(3, age) integrated over the age = share of 3 at any age.
    alone = torch.trapezoid(flow.log_prob(ages).exp(), grid)
    torch.testing.assert_close(alone, log_prob.softmax(0)[43], atol=1e-4, rtol=0.0)


class Stop(KeyboardInterrupt):
    pass


def test_an_interrupted_fit_leaves_the_flow_unfitted(
    chain: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = chain.frame("causal").head(200)
    flow = CausalFlow(chain.schema, QUICK).fit(table)

    def interrupt(*_: object) -> None:
        raise Stop

    monkeypatch.setattr(flow, "_density", interrupt)
    with pytest.raises(Stop):
        flow.fit(table)
    assert not flow.is_fitted
    with pytest.raises(NotFittedError):
        flow.abduct(chain.encoded("causal"))
    monkeypatch.undo()
    assert flow.fit(table).is_fitted


def test_a_table_that_cannot_be_learned_from_changes_nothing(chain: Benchmark) -> None:
    table = chain.frame("causal").head(200)
    flow = CausalFlow(chain.schema, QUICK)
    for bad, words in (
        (table.head(1), "be at least two"),
        (table.assign(x2=1.5), "column x2.*must vary"),
        (table.drop(columns="x3"), "include every feature"),
    ):
        with pytest.raises(TableError, match=words):
            flow.fit(bad)
        assert not flow.is_fitted


def test_history_shows_that_the_loss_fell(learned: CausalFlow) -> None:
    records = learned.history_.records
    assert len(records) == 25
    assert records[-1]["loss"] < records[0]["loss"]
    scores = [record["score"] for record in records]
    assert learned.history_.best_epoch == scores.index(min(scores))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transform": "cubic"}, "'transform' must be affine or spline; got 'cubic'"),
        ({"hidden": (0,)}, "'hidden' must be at least 1; got 0"),
        ({"hidden": (8, 2.5)}, "'hidden' must be at least 1; got 2.5"),
    ],
)
def test_settings_check_themselves(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        FlowSettings(**settings)


def test_settings_survive_json() -> None:
    settings = FlowSettings("spline", (4, 4), TrainingSettings(epochs=7, seed=3))
    assert FlowSettings.from_dict(asdict(settings)) == settings


def test_a_fit_depends_on_its_seed_and_not_on_the_number_of_threads() -> None:
    data = load("loan", rows=3000)
    settings = FlowSettings(training=TrainingSettings(epochs=2))
    before = torch.get_num_threads()
    learned = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            flow = CausalFlow(data.schema, settings).fit(data.frame("causal"))
            learned.append(flow.state().fingerprint())
    finally:
        torch.set_num_threads(before)
    assert learned[0] == learned[1]
