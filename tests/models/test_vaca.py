"""VACA: what its networks see, what its likelihood is, what it learns, what it is refused."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from carma import CausalGraph, Feature, Intervention, Schema, TrainingSettings, Vaca, VacaSettings
from carma.benchmarks import Benchmark, load
from carma.errors import NotFittedError, SchemaError, SettingsError
from carma.models.graph_networks import GraphNetworks
from carma.models.likelihood import Likelihood
from carma.state import State, seeded
from carma.table import Encoding, Statistics

QUICK = VacaSettings(
    draws=10, members=2, alternatives=3, training=TrainingSettings(epochs=4, batch_size=200)
)
OTHERS = ("networks.1.", "networks.2.")
# a -> b -> c -> e, a -> e, and d by itself.
NAMES = ("a", "b", "c", "d", "e")
GRAPH = CausalGraph.from_edges([("a", "b"), ("b", "c"), ("c", "e"), ("a", "e")], NAMES)
ADJACENCY = torch.from_numpy(GRAPH.adjacency)


@pytest.fixture(scope="module")
def loan() -> Benchmark:
    return load("loan", rows=2_000)


@pytest.fixture(scope="module")
def vaca(loan: Benchmark) -> Vaca:
    """Shared: tests leave it as it is."""
    return Vaca(loan.schema, QUICK).fit(loan.frame("causal"))


@pytest.fixture(scope="module")
def networks() -> GraphNetworks:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = GraphNetworks(ADJACENCY, n_each=2, width=8, n_steps=GRAPH.longest_path)
    return found.double()


def rows(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=seeded(seed), dtype=torch.float64)


def influence(function: Any, at: Tensor) -> Tensor:
    """Whether node j of the argument moves node i of the answer in any row, ``(d, d)`` bool."""
    at = at.clone().requires_grad_()
    found = function(at)
    found = found.flatten(2).sum(dim=2) if found.ndim > 2 else found
    seen = []
    for i in range(found.shape[1]):
        (slopes,) = torch.autograd.grad(found[:, i].sum(), at, retain_graph=True)
        seen.append((slopes.flatten(2) if slopes.ndim > 2 else slopes[..., None]).abs().sum((0, 2)))
    return torch.stack(seen) > 0


def test_a_latent_sees_its_column_and_the_causes_of_it(networks: GraphNetworks) -> None:
    def centres(x: Tensor) -> Tensor:
        return networks.encode(x, networks.edges)[0]

    def spreads(x: Tensor) -> Tensor:
        return networks.encode(x, networks.edges)[1]

    for part in (centres, spreads):
        assert torch.equal(influence(part, rows(30, 5)), ADJACENCY)


def test_the_decoder_reaches_along_the_longest_path(networks: GraphNetworks) -> None:
    seen = influence(lambda z: networks.decode(z, networks.edges), rows(30, 5, 2))
    assert torch.equal(seen, torch.from_numpy(GRAPH.reachability) | torch.eye(5, dtype=torch.bool))
    assert GRAPH.longest_path == 3


def test_one_step_less_would_not_reach(networks: GraphNetworks) -> None:
    short = GraphNetworks(ADJACENCY, n_each=2, width=8, n_steps=2).double()
    without = CausalGraph.from_edges([("a", "b"), ("b", "c"), ("c", "e")], NAMES)
    edges = torch.from_numpy(without.adjacency).double() - torch.eye(5).double()
    seen = influence(lambda z: short.decode(z, edges[None]), rows(30, 5, 2))
    a, e = NAMES.index("a"), NAMES.index("e")
    assert without.reachability[e, a]
    assert not seen[e, a]


def test_no_cause_reaches_a_node_whose_arrows_are_cut(networks: GraphNetworks) -> None:
    c = NAMES.index("c")
    mask = torch.zeros(30, 5, dtype=torch.bool)
    mask[:, c] = True
    edges = networks.cut(mask)
    for seen in (
        influence(lambda x: networks.encode(x, edges)[0], rows(30, 5)),
        influence(lambda z: networks.decode(z, edges), rows(30, 5, 2)),
    ):
        assert seen[c].nonzero().flatten().tolist() == [c]
    # What is cut is only what goes in.
    seen = influence(lambda z: networks.decode(z, edges), rows(30, 5, 2))
    assert seen[NAMES.index("e"), c]


def test_cuts_of_one_batch_equal_each_row_by_itself(networks: GraphNetworks) -> None:
    x, z = rows(20, 5), rows(20, 5, 2, seed=1)
    mask = torch.rand(20, 5, generator=seeded(2)) < 0.4
    edges = networks.cut(mask)
    encoded, decoded = networks.encode(x, edges)[0], networks.decode(z, edges)
    for row in range(20):
        one = slice(row, row + 1)
        alone = networks.cut(mask[one])
        torch.testing.assert_close(networks.encode(x[one], alone)[0], encoded[one])
        torch.testing.assert_close(networks.decode(z[one], alone), decoded[one])


def test_without_cuts_the_graph_is_whole(networks: GraphNetworks) -> None:
    x, none = rows(4, 5), torch.zeros(4, 5, dtype=torch.bool)
    whole = networks.encode(x, networks.edges)[0]
    torch.testing.assert_close(networks.encode(x, networks.cut(none))[0], whole)


def likelihood(*features: Feature) -> Callable[[Tensor, Tensor], Tensor]:
    names = [f.name for f in features]
    encoding = Encoding(Schema(features, CausalGraph(tuple(names))))
    d = len(features)
    middle, width = torch.full((d,), 1.5), torch.full((d,), 2.0)
    statistics = Statistics(middle, width, middle - 5, middle + 5)
    found = Likelihood(encoding, statistics)
    return lambda centre, x: found(centre, x, 0.3)


def test_the_density_of_a_number_integrates_to_one() -> None:
    found = likelihood(Feature("a"))
    grid = torch.linspace(-8, 12, 20_001, dtype=torch.float64)[:, None]
    for centre in (-0.7, 0.0, 1.3):
        density = found(torch.full_like(grid, centre), grid).exp()
        assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1, abs=1e-6)
        assert float(grid[density.argmax()]) == pytest.approx(1.5 + 2 * centre, abs=1e-2)


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (Feature("a", "binary", levels=("no", "yes")), None),
        (Feature("a", "ordinal", levels=(1, 2, 5)), None),
        (Feature("a", "integer"), list(range(-60, 60))),
    ],
)
def test_the_probabilities_of_levels_sum_to_one(feature: Feature, values: list[int] | None) -> None:
    found = likelihood(feature)
    codes = feature.codes if values is None else values
    x = torch.tensor(codes, dtype=torch.float64)[:, None]
    for centre in (-0.9, 0.1, 1.2):
        probability = found(torch.full_like(x, centre), x).exp()
        assert float(probability.sum()) == pytest.approx(1, abs=1e-6)


def test_the_likelihood_takes_many_draws_at_once() -> None:
    found = likelihood(Feature("a"), Feature("b", "integer"))
    x, centres = torch.round(rows(6, 2)), rows(4, 6, 2, seed=1)
    together = found(centres, x)
    assert together.shape == (4, 6)
    for draw in range(4):
        torch.testing.assert_close(found(centres[draw], x), together[draw])


@pytest.fixture(scope="module")
def learned() -> tuple[Vaca, Benchmark]:
    """Fitted well enough for its numbers to mean something."""
    data = load("chain-lin", rows=5_000)
    training = TrainingSettings(epochs=50, batch_size=200, learning_rate=5e-3)
    return Vaca(data.schema, VacaSettings(members=0, training=training)).fit(
        data.frame("causal")
    ), data


def distance(model: Vaca, one: Tensor, other: Tensor) -> float:
    """Root mean square in standard deviations of the columns."""
    return float(((one - other) / model.statistics_.std).square().mean().sqrt())


def test_laws_that_do_not_bind_it_hold_nearly(learned: tuple[Vaca, Benchmark]) -> None:
    model, data = learned
    x = data.encoded("recourse", "test")[:500]
    x1 = model.encoding.column("x1")
    reached = model.counterfactual(x, Intervention.of(model.encoding, 500, x1=1.0))
    both = Intervention.of(model.encoding, 500, x1=1.0, x2=reached[:, x1 + 1])
    breaks = {
        "round trip": distance(model, model.predict(model.abduct(x)), x),
        "own values": distance(
            model,
            model.counterfactual(x, Intervention.of(model.encoding, 500, x1=x[:, x1])),
            x,
        ),
        "composition": distance(model, model.counterfactual(x, both), reached),
    }
    for law, found in breaks.items():
        assert 1e-6 < found < 0.08, law


def test_counterfactuals_are_near_those_of_the_true_model(
    learned: tuple[Vaca, Benchmark],
) -> None:
    model, data = learned
    x = data.encoded("recourse", "test")[:500]
    do = Intervention(
        torch.tensor([False, True, False, False]).expand_as(x),
        x[torch.randperm(len(x), generator=seeded(0))],
    )
    expected = data.scm.counterfactual(x, do)
    error = distance(model, model.counterfactual(x, do), expected)
    assert error < 0.12 * distance(model, x, expected)


def test_latents_do_not_depend_on_ancestors(learned: tuple[Vaca, Benchmark]) -> None:
    model, data = learned
    x = data.encoded("recourse")[:1_000]
    x1, x2 = model.encoding.column("x1"), model.encoding.column("x2")
    own = model.abduct(x).view(len(x), x.shape[1], -1)[:, x2].double()
    cause = (x[:, x1] - x[:, x1].mean()) / x[:, x1].std()
    covariance = ((own - own.mean(dim=0)) * cause[:, None]).mean(dim=0)
    assert float(covariance.square().sum()) < 0.05


def test_more_draws_bring_the_log_density_up(vaca: Vaca, loan: Benchmark) -> None:
    x = loan.encoded("causal", "test")[:200]
    means = [float(with_settings(vaca, draws=n).log_prob(x).mean()) for n in (1, 10, 100)]
    assert means == sorted(means)
    assert means[2] > means[0] + 0.1


def with_settings(model: Vaca, **changes: Any) -> Vaca:
    """The same networks under other settings of use."""
    again = Vaca.from_state(model.schema, model.state())
    again.settings = replace(again.settings, **changes)
    return again


def test_a_fit_follows_from_its_seed_alone(loan: Benchmark, vaca: Vaca) -> None:
    state = torch.get_rng_state()
    again = Vaca(loan.schema, QUICK).fit(loan.frame("causal"))
    assert torch.equal(torch.get_rng_state(), state)
    assert again.state().fingerprint() == vaca.state().fingerprint()
    training = replace(QUICK.training, seed=1)
    other = Vaca(loan.schema, replace(QUICK, training=training)).fit(loan.frame("causal"))
    assert other.state().fingerprint() != vaca.state().fingerprint()


@pytest.mark.parametrize("double", [False, True])
def test_state_round_trip(vaca: Vaca, loan: Benchmark, double: bool) -> None:
    model = Vaca.from_state(vaca.schema, vaca.state())
    if double:
        model.to_float64()
    again = Vaca.from_state(model.schema, model.state())
    x = loan.encoded("recourse")[:20]
    do = Intervention.of(model.encoding, 20, income=1.0)
    assert torch.equal(model.abduct(x), again.abduct(x))
    assert torch.equal(model.counterfactual(x, do), again.counterfactual(x, do))
    assert torch.equal(model.alternatives(x, do), again.alternatives(x, do))
    assert torch.equal(model.log_prob(x), again.log_prob(x))
    assert again.settings == model.settings
    assert again.abduct(x).dtype == (torch.float64 if double else torch.float32)


def test_fit_comes_first(loan: Benchmark) -> None:
    model = Vaca(loan.schema)
    for name, call in {"state": model.state, "to_float64": model.to_float64}.items():
        with pytest.raises(NotFittedError, match=f"call 'fit' before '{name}'"):
            call()


def test_latents_of_a_column_are_next_to_each_other(vaca: Vaca, loan: Benchmark) -> None:
    x = loan.encoded("recourse")[:50]
    moved = x.clone()
    savings = vaca.encoding.column("savings")
    moved[:, savings] += 1
    changed = (vaca.abduct(x) != vaca.abduct(moved)).any(dim=0)
    n = vaca.settings.n_each
    assert vaca.n_latents == n * x.shape[1]
    assert set(changed.nonzero().flatten().tolist()) <= set(range(savings * n, savings * n + n))
    assert changed.any()


def test_alternatives_differ_where_something_follows(vaca: Vaca, loan: Benchmark) -> None:
    x = loan.encoded("recourse")[:50]
    do = Intervention.of(vaca.encoding, 50, income=2.0)
    found = vaca.alternatives(x, do)
    spread = found.std(dim=0)
    savings = vaca.encoding.column("savings")
    assert (spread[:, savings] > 0).all()
    assert not spread[:, [i for i in range(x.shape[1]) if i != savings]].any()


def test_alternatives_come_from_the_other_members(vaca: Vaca, loan: Benchmark) -> None:
    x = loan.encoded("recourse")[:50]
    do = Intervention.of(vaca.encoding, 50, income=2.0)
    savings = vaca.encoding.column("savings")
    state = vaca.state()
    alone = Vaca.from_state(
        vaca.schema,
        State(
            {**state.config, "settings": {**state.config["settings"], "members": 0}},
            {name: t for name, t in state.tensors.items() if not name.startswith(OTHERS)},
        ),
    )
    assert torch.equal(alone.counterfactual(x, do), vaca.counterfactual(x, do))
    own, others = alone.alternatives(x, do), vaca.alternatives(x, do)
    assert float(own[..., savings].std(dim=0).mean()) < float(
        others[..., savings].std(dim=0).mean()
    )


def test_a_nominal_feature_is_refused() -> None:
    features = (Feature("a", "nominal", levels=("x", "y", "z")), Feature("b"))
    schema = Schema(features, CausalGraph.from_edges([("a", "b")], ("a", "b")))
    with pytest.raises(SchemaError, match=r"feature a.*must not be nominal"):
        Vaca(schema)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("n_each", 0, "be at least 1"),
        ("width", 0, "be at least 1"),
        ("draws", 0, "be at least 1"),
        ("alternatives", 1, "be 0 or at least 2"),
        ("alternatives", -1, "be at least 0"),
        ("spread", 0.0, "be above 0 and at most 1"),
        ("spread", math.nan, "be above 0 and at most 1"),
        ("independence", -1.0, "be at least 0"),
        ("members", 13, "be at most 'alternatives'"),
        ("members", -1, "be at least 0"),
        ("cuts", 1.0, "be at least 0 and below 1"),
    ],
)
def test_settings_check_themselves(name: str, value: Any, rule: str) -> None:
    with pytest.raises(SettingsError, match=f"VacaSettings: '{name}' must {rule}"):
        VacaSettings(**{name: value})


def test_without_the_extra_the_error_says_what_to_install(
    loan: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torch_geometric"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingsError, match=r"pip install 'carma-recourse\[vaca\]'"):
        Vaca(loan.schema, QUICK).fit(loan.frame("causal"))
