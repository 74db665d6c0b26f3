"""Random causal models: legal at every size, of one scale, the same from the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carma import Intervention, StructuralCausalModel
from carma.benchmarks import random_benchmark, random_scm
from carma.errors import BundleError, SettingsError
from carma.state import seeded

SIZES = [(2, 1), (5, 3), (5, 5), (12, 6), (40, 3), (40, 30)]

every_size = pytest.mark.parametrize(("n_features", "n_actionable"), SIZES)
either_form = pytest.mark.parametrize("nonlinear", [True, False])


def assert_legal(scm: StructuralCausalModel, n_features: int, n_actionable: int) -> None:
    schema, graph = scm.schema, scm.schema.graph
    assert schema.names == tuple(f"x{i}" for i in range(n_features))
    assert len(schema.actionable) == n_actionable
    moved = set().union(*(graph.descendants(name) for name in schema.actionable))
    for feature in schema.features:
        assert len(graph.parents(feature.name)) <= 3
        if feature.role != "actionable":
            assert feature.role == ("mutable" if feature.name in moved else "immutable")


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_every_size_is_legal(data: st.DataObject) -> None:
    n_features = data.draw(st.integers(2, 40))
    n_actionable = data.draw(st.integers(1, n_features))
    seed = data.draw(st.integers(0, 10_000))
    parents = data.draw(st.floats(0, 3))
    scm = random_scm(n_features, n_actionable, seed=seed, expected_parents=parents)
    assert_legal(scm, n_features, n_actionable)


@every_size
@either_form
class TestLaws:
    def test_mean_and_spread(self, n_features: int, n_actionable: int, nonlinear: bool) -> None:
        x = random_scm(n_features, n_actionable, seed=3, nonlinear=nonlinear).sample(20_000)
        assert x.mean(0).abs().max() < 0.15
        assert x.std(0).min() > 0.95
        assert x.std(0).max() < 2.05

    def test_round_trip(self, n_features: int, n_actionable: int, nonlinear: bool) -> None:
        scm = random_scm(n_features, n_actionable, seed=4, nonlinear=nonlinear)
        x = scm.sample(200)
        torch.testing.assert_close(scm.predict(scm.abduct(x)), x, atol=1e-9, rtol=1e-9)
        chosen = torch.rand(x.shape, generator=seeded(0)) < 0.4
        again = scm.counterfactual(x, Intervention(chosen, x))
        torch.testing.assert_close(again, x, atol=1e-9, rtol=1e-9)

    def test_seeds(self, n_features: int, n_actionable: int, nonlinear: bool) -> None:
        before = torch.get_rng_state()
        scms = [
            random_scm(n_features, n_actionable, seed=seed, nonlinear=nonlinear)
            for seed in (1, 1, 2)
        ]
        assert torch.equal(torch.get_rng_state(), before)
        first, same, other = (scm.sample(20) for scm in scms)
        assert scms[0].schema == scms[1].schema
        assert torch.equal(first, same)
        assert not torch.equal(first, other)

    def test_mechanisms_read_exactly_their_causes(
        self, n_features: int, n_actionable: int, nonlinear: bool
    ) -> None:
        scm = random_scm(n_features, n_actionable, seed=5, nonlinear=nonlinear)
        x = scm.sample(20)
        for j in range(n_features):
            moved = x.clone()
            moved[:, j] += 1.0
            differ = (scm.abduct(moved) != scm.abduct(x)).any(dim=0)
            assert torch.equal(differ, scm.adjacency[:, j])


@pytest.mark.parametrize("seed", range(3))
def test_direct_effects_of_linear_ones_give_every_counterfactual(seed: int) -> None:
    scm = random_scm(10, 5, seed=seed, nonlinear=False)
    effects = scm.direct_effects
    assert effects is not None
    assert torch.equal(effects != 0, scm.adjacency & ~torch.eye(10).bool())
    x = scm.sample(20)
    chosen = torch.rand(10, generator=seeded(seed)) < 0.3
    moved = scm.counterfactual(x, Intervention(chosen.expand_as(x), x + 1.0)) - x
    held = torch.where(chosen.unsqueeze(1), 0.0, effects)
    expected = torch.linalg.solve(torch.eye(10).double() - held, chosen.double())
    torch.testing.assert_close(moved, expected.expand_as(moved), atol=1e-9, rtol=1e-9)
    assert random_scm(10, 5, seed=seed).direct_effects is None


def test_number_of_parents() -> None:
    def n_edges(expected: float) -> int:
        return sum(
            len(random_scm(30, 3, seed=seed, expected_parents=expected).schema.graph.edges)
            for seed in range(5)
        )

    assert n_edges(0) == 0
    assert n_edges(3) == 5 * (1 + 2 + 27 * 3)
    assert n_edges(1.5) / 150 == pytest.approx(1.5, abs=0.3)


def test_a_bundle_cannot_hold_it() -> None:
    with pytest.raises(BundleError, match="cannot hold Python functions"):
        random_scm(5, 3).state()


@either_form
class TestBenchmark:
    @pytest.mark.parametrize(("n_features", "n_actionable"), [(5, 3), (40, 30)])
    def test_about_half_are_refused(
        self, n_features: int, n_actionable: int, nonlinear: bool
    ) -> None:
        for seed in range(3):
            data = random_benchmark(n_features, n_actionable, seed=seed, nonlinear=nonlinear)
            for part, n in (("classifier", 20_000), ("causal", 25_000), ("recourse", 20_000)):
                x, label = data.parts[part]
                assert x.shape == (n, n_features)
                assert 0.4 < label.double().mean() < 0.5

    def test_seeds(self, nonlinear: bool) -> None:
        first, same, other = (
            random_benchmark(6, 3, seed=seed, rows=100, nonlinear=nonlinear) for seed in (1, 1, 2)
        )
        for part, (x, label) in first.parts.items():
            assert torch.equal(x, same.parts[part][0])
            assert torch.equal(label, same.parts[part][1])
            assert not torch.equal(x, other.parts[part][0])
        scm = random_scm(6, 3, seed=1, nonlinear=nonlinear)
        assert first.schema == scm.schema
        assert torch.equal(first.scm.sample(20), scm.sample(20))

    def test_form(self, nonlinear: bool) -> None:
        data = random_benchmark(6, 3, rows=100, nonlinear=nonlinear)
        assert data.classifier_settings.hidden == ((16,) if nonlinear else ())
        assert data.name == f"random-{'nlin' if nonlinear else 'lin'}-6-3-0"
        frame = data.frame("recourse", "test")
        assert torch.equal(data.encoding.encode(frame), data.encoded("recourse", "test"))
        torch.testing.assert_close(data.scm.statistics_.mean, data.encoded("recourse").mean(0))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"n_features": 1}, "'n_features' must be at least 2; got 1"),
        ({"n_actionable": 0}, "'n_actionable' must lie in 1 to 6, the number of features; got 0"),
        ({"n_actionable": 7}, "'n_actionable' must lie in 1 to 6, the number of features; got 7"),
        ({"expected_parents": 3.5}, "'expected_parents' must lie in 0 to 3; got 3.5"),
        ({"expected_parents": float("nan")}, "'expected_parents' must lie in 0 to 3; got nan"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, float], reason: str) -> None:
    call = {"n_features": 6, "n_actionable": 3, **arguments}
    with pytest.raises(SettingsError, match=reason):
        random_scm(**call)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=reason):
        random_benchmark(**call)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="'rows' must be at least 20; got 19"):
        random_benchmark(6, 3, rows=19)
