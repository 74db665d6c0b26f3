"""The causal flow learns what it should: likelihoods, frequencies, counterfactuals."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
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
        ({"select_simple": 1}, "'select_simple' must be true or false; got 1"),
        ({"alternatives": -1}, "'alternatives' must be at least 0; got -1"),
    ],
)
def test_settings_check_themselves(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        FlowSettings(**settings)


def test_settings_survive_json() -> None:
    settings = FlowSettings("spline", (4, 4), TrainingSettings(epochs=7, seed=3), False, 3)
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


def linear_table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a, b = 3 + 2 * rng.normal(size=n), rng.normal(size=n)
    c = 1.5 * a - 0.5 * b + 0.7 * rng.normal(size=n)
    return pd.DataFrame({"c": c, "a": a, "b": b, "d": 2 - 0.8 * c + 0.3 * rng.normal(size=n)})


def curved_table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = linear_table(n, seed)
    return table.assign(d=np.sin(table["c"]) + 0.3 * rng.normal(size=n))


SCHEMA = Schema(
    tuple(Feature(name, role="actionable") for name in ("c", "a", "b", "d")),
    CausalGraph.from_edges([("a", "c"), ("b", "c"), ("c", "d")], ("c", "a", "b", "d")),
)
TRAINING = TrainingSettings(epochs=15, batch_size=200, learning_rate=1e-2)


def test_linear_mechanisms_are_found_and_are_nearly_exact() -> None:
    flow = CausalFlow(SCHEMA, FlowSettings(training=TRAINING)).fit(linear_table(8000, 0))
    assert flow.mechanisms_ == {"c": "linear", "d": "linear"}
    x = flow.encoding.encode(linear_table(50, 1))
    shifted = x[:, 1] + 10.0
    moved = flow.counterfactual(x, Intervention.of(flow.encoding, 50, a=shifted)) - x
    slopes = moved / 10.0
    torch.testing.assert_close(slopes[:, 0], torch.full((50,), 1.5).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(slopes[:, 3], torch.full((50,), -1.2).double(), atol=0.02, rtol=0)
    # The noise of c has a width of 0.7, that of d of 0.3: abduction divides by it.
    u, more = flow.abduct(x), flow.abduct(x + torch.tensor([0.0, 0, 0, 0.3]).double())
    torch.testing.assert_close((more - u)[:, 3], torch.ones(50), atol=0.03, rtol=0)


def test_hidden_layers_stay_where_the_data_are_curved() -> None:
    table, training = curved_table(4000, 0), replace(TRAINING, epochs=30)
    flow = CausalFlow(SCHEMA, FlowSettings(training=training)).fit(table)
    assert flow.mechanisms_["c"] == "linear"
    assert flow.mechanisms_["d"] in ("additive", "network")
    off = CausalFlow(SCHEMA, FlowSettings(training=training, select_simple=False)).fit(table)
    assert off.mechanisms_ == {"c": "network", "d": "network"}
    x = flow.encoding.encode(curved_table(200, 1))
    for model in (flow, off):
        moved = model.counterfactual(x, Intervention.of(model.encoding, 200, c=x[:, 0] + 1.0)) - x
        exact = torch.sin(x[:, 0] + 1.0) - torch.sin(x[:, 0])
        assert (moved[:, 3] - exact).abs().median() < 0.15


@pytest.mark.parametrize(("width", "chosen"), [(0.0, "additive"), (0.4, "network")])
def test_noise_has_one_width_unless_the_data_say_otherwise(width: float, chosen: str) -> None:
    table, rng = linear_table(4000, 0), np.random.default_rng(1)
    c, drawn = table["c"].to_numpy(), rng.normal(size=4000)

    def equation(c: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        curved: np.ndarray = 3 * np.tanh(c - 4) + (0.3 + width * np.abs(c)) * drawn
        return curved

    table = table.assign(d=equation(c, drawn))
    settings = FlowSettings(training=replace(TRAINING, epochs=40), alternatives=4)
    flow = CausalFlow(SCHEMA, settings).fit(table)
    assert flow.mechanisms_ == {"c": "linear", "d": chosen}
    x = flow.encoding.encode(table.head(200))
    do = Intervention.of(flow.encoding, 200, c=x[:, 0] + 1.0)
    exact = torch.from_numpy(equation(c[:200] + 1, drawn[:200]))
    off = (flow.counterfactual(x, do)[:, 3] - exact).abs()
    assert off.median() < 0.1 * table["d"].std()
    if chosen == "additive":
        again = CausalFlow.from_state(flow.schema, flow.state())
        assert torch.equal(again.counterfactual(x, do), flow.counterfactual(x, do))
        assert again.mechanisms_ == flow.mechanisms_
        moved = flow.counterfactual(x, do)[:, 3] - x[:, 3]
        same = flow.counterfactual(x + torch.tensor([0, 0, 0, 5.0]), do)[:, 3] - x[:, 3] - 5.0
        torch.testing.assert_close(same, moved, atol=1e-4, rtol=0)


def test_linear_mechanisms_with_a_nominal_cause_and_without_noise() -> None:
    region = Feature("region", "nominal", levels=("n", "e", "s"))
    edges = [("region", "income"), ("income", "tax")]
    features = (region, Feature("income", role="actionable"), Feature("tax"))
    schema = Schema(features, CausalGraph.from_edges(edges, ("region", "income", "tax")))
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 2000)
    income = 10 + 4 * codes + rng.normal(size=2000)
    people = {"region": np.array(["n", "e", "s"])[codes], "income": income, "tax": 0.25 * income}
    flow = CausalFlow(schema, FlowSettings(training=TRAINING)).fit(pd.DataFrame(people))
    assert flow.mechanisms_["income"] == "linear"
    x = flow.encoding.encode(pd.DataFrame(people).head(20))
    do = Intervention.of(flow.encoding, 20, income=x[:, 3] + 1.0)
    moved = flow.counterfactual(x, do) - x
    torch.testing.assert_close(moved[:, 4], torch.full((20,), 0.25).double(), atol=0.02, rtol=0)
    assert torch.isfinite(flow.alternatives(x, do)).all()


def test_a_weak_interaction_is_found() -> None:
    data = load("loan", rows=20_000)
    training = TrainingSettings(epochs=15, batch_size=500, learning_rate=1e-2, weight_decay=0.05)
    flow = CausalFlow(data.schema, FlowSettings(training=training, alternatives=4))
    found = flow.fit(data.frame("causal")).mechanisms_
    expected = {"loan_amount": "quadratic", "duration": "linear"}
    expected["savings"] = found["savings"]
    assert found == {"education": found["education"], "income": "quadratic", **expected}
    assert list(found) == ["education", "loan_amount", "duration", "income", "savings"]


@pytest.mark.parametrize("name", ["chain-lin", "collider-lin", "triangle-lin"])
def test_what_is_linear_stays_linear(name: str) -> None:
    data = load(name, rows=6000)
    settings = FlowSettings(training=TRAINING, alternatives=4)
    found = CausalFlow(data.schema, settings).fit(data.frame("causal")).mechanisms_
    assert found == {"x1": "linear", "x2": "linear", "x3": "linear"}


def test_a_quadratic_mechanism_is_far_nearer_than_its_network(collider: Benchmark) -> None:
    x = collider.encoded("recourse")[:500]
    do = Intervention.of(collider.encoding, 500, x1=x.flip(0)[:, 1], x2=x.roll(7, 0)[:, 2])
    errors = {}
    for select in (True, False):
        settings = FlowSettings(training=TRAINING, select_simple=select, alternatives=2)
        flow = CausalFlow(collider.schema, settings).fit(collider.frame("causal"))
        assert flow.mechanisms_["x3"] == ("quadratic" if select else "network")
        away = flow.counterfactual(x, do) - collider.scm.counterfactual(x, do)
        errors[select] = float(away[:, 3].square().mean().sqrt())
    assert errors[True] < 0.4 * errors[False]


@pytest.fixture(scope="module")
def collider() -> Benchmark:
    return load("collider-nlin", rows=8000)


def test_a_quadratic_mechanism_survives_its_state(collider: Benchmark) -> None:
    flow = CausalFlow(collider.schema, QUICK).fit(collider.frame("causal").head(1000))
    assert flow.mechanisms_["x3"] == "quadratic"
    x = collider.encoded("recourse")[:20]
    do = Intervention.of(collider.encoding, 20, x1=1.0)
    again = CausalFlow.from_state(flow.schema, flow.state())
    assert again.mechanisms_ == flow.mechanisms_
    assert torch.equal(again.counterfactual(x, do), flow.counterfactual(x, do))
    assert torch.equal(again.alternatives(x, do), flow.alternatives(x, do))
    state = flow.state()
    state.tensors["conditioner.curves"][1:] = torch.nan
    broken = CausalFlow.from_state(flow.schema, state)
    assert torch.equal(broken.counterfactual(x, do), flow.counterfactual(x, do))
    exact = again.to_float64().counterfactual(x, do)
    torch.testing.assert_close(exact, flow.counterfactual(x, do), atol=1e-5, rtol=1e-5)


def test_a_spline_keeps_its_networks(chain: Benchmark) -> None:
    settings = FlowSettings("spline", (8,), QUICK.training, alternatives=2)
    flow = CausalFlow(chain.schema, settings).fit(chain.frame("causal").head(300))
    assert flow.mechanisms_ == {"x1": "network", "x2": "network", "x3": "network"}


def spread(flow: CausalFlow, x: torch.Tensor, do: Intervention) -> torch.Tensor:
    """Root mean square of the alternatives' distance from the counterfactual, (n, d)."""
    away = flow.alternatives(x, do) - flow.counterfactual(x, do)
    return away.square().mean(0).sqrt()


def test_alternatives_follow_from_the_seed(chain: Benchmark) -> None:
    table, x = chain.frame("causal").head(300), chain.encoded("recourse")[:10]
    do = Intervention.of(chain.encoding, 10, x1=1.0)

    def answers(seed: int, n: int) -> torch.Tensor:
        training = TrainingSettings(epochs=2, batch_size=100, seed=seed)
        settings = FlowSettings(hidden=(8,), training=training, alternatives=n)
        return CausalFlow(chain.schema, settings).fit(table).alternatives(x, do)

    assert torch.equal(answers(0, 3), answers(0, 3))
    assert not torch.equal(answers(0, 3), answers(1, 3))
    assert answers(0, 0).shape == (0, 10, 4)
    one, other, _ = answers(0, 3)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("transform", ["affine", "spline"])
def test_the_number_of_alternatives_does_not_change_the_networks(
    chain: Benchmark, transform: Any
) -> None:
    table, x = chain.frame("causal").head(300), chain.encoded("recourse")[:10]
    found = []
    for n in (0, 2, 4):
        settings = FlowSettings(transform, training=TRAINING, select_simple=False, alternatives=n)
        flow = CausalFlow(chain.schema, settings).fit(table)
        found.append(flow.abduct(x))
        assert flow.alternatives(x, Intervention.none(x)).shape == (n, 10, 4)
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[2], found[0], atol=1e-4, rtol=1e-4)


def test_more_alternatives_leave_the_first_ones_as_they_are(chain: Benchmark) -> None:
    table, x = chain.frame("causal").head(300), chain.encoded("recourse")[:10]
    do = Intervention.of(chain.encoding, 10, x1=1.0)
    few, many = (
        CausalFlow(chain.schema, FlowSettings(training=QUICK.training, alternatives=n))
        .fit(table)
        .alternatives(x, do)
        for n in (2, 5)
    )
    torch.testing.assert_close(many[:2], few, atol=1e-4, rtol=1e-4)


def test_a_model_without_alternatives_still_finds_what_is_linear() -> None:
    settings = FlowSettings(training=TRAINING, alternatives=0)
    flow = CausalFlow(SCHEMA, settings).fit(curved_table(4000, 0))
    assert flow.mechanisms_["c"] == "linear"
    assert flow.mechanisms_["d"] != "linear"


def test_answers_of_the_model_run_no_alternative(chain: Benchmark) -> None:
    table, x = chain.frame("causal").head(300), chain.encoded("recourse")[:10]
    flow = CausalFlow(chain.schema, QUICK).fit(table)
    do = Intervention.of(chain.encoding, 10, x1=1.0)
    expected = flow.counterfactual(x, do), flow.abduct(x), flow.log_prob(x)
    state = flow.state()
    for name in ("constant", "skip", "last", "curves"):
        state.tensors[f"conditioner.{name}"][1:] = torch.nan
    broken = CausalFlow.from_state(flow.schema, state)
    found = broken.counterfactual(x, do), broken.abduct(x), broken.log_prob(x)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert broken.alternatives(x, do).isnan().any()


def test_many_rows_are_taken_in_parts(chain: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = CausalFlow(chain.schema, QUICK).fit(chain.frame("causal").head(300))
    x = chain.encoded("recourse")[:50]
    do = Intervention.of(chain.encoding, 50, x1=1.0)
    whole = flow.alternatives(x, do)
    monkeypatch.setattr("carma.models.base.CHUNK", 7 * flow.n_alternatives)
    torch.testing.assert_close(flow.alternatives(x, do), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("transform", ["affine", "spline"])
def test_the_spread_of_alternatives_shrinks_with_more_rows(transform: Any) -> None:
    training = TrainingSettings(epochs=12, batch_size=200, learning_rate=1e-2)
    settings = FlowSettings(transform, training=training, select_simple=False)
    x = torch.from_numpy(curved_table(100, 2).to_numpy(dtype=np.float64))
    found = []
    for n in (1000, 16_000):
        flow = CausalFlow(SCHEMA, settings).fit(curved_table(n, 0))
        do = Intervention.of(flow.encoding, len(x), a=3.0, b=0.0)
        found.append(spread(flow, x, do)[:, [0, 3]].median(dim=0).values)
    assert (found[1] < 0.6 * found[0]).all()
    assert (found[1] > 0.02 * found[0]).all()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("name", "transform"), [("chain-lin", "affine"), ("loan", "affine"), ("loan", "spline")]
)
def test_the_spread_of_alternatives_is_the_size_of_the_error(
    name: str, transform: Any, seed: int
) -> None:
    data = load(name, rows=5000, seed=seed)
    training = TrainingSettings(epochs=30, batch_size=500, learning_rate=1e-2, seed=seed)
    flow = CausalFlow(data.schema, FlowSettings(transform, training=training))
    flow.fit(data.frame("causal"))
    x = data.encoded("recourse")[:500]
    generator = torch.Generator().manual_seed(seed)
    columns = data.encoding.actionable
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, columns] = torch.rand(len(x), len(columns), generator=generator) < 0.5
    do = Intervention(mask, x[torch.randperm(len(x), generator=generator)])
    error = data.scm.counterfactual(x, do) - flow.counterfactual(x, do)
    expected = spread(flow, x, do)
    # A value set to what it was moves its effects by a rounding error only.
    moves = expected > 1e-5
    ratio = float((error[moves] / expected[moves]).square().mean().sqrt())
    # Few slopes are behind all rows of one fit: their errors are that many draws.
    assert 0.2 < ratio < 3.0
