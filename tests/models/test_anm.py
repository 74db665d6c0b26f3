"""The additive-noise model learns slopes, functions and the shape of the noise."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import (
    AdditiveNoiseModel,
    AdditiveNoiseSettings,
    CausalGraph,
    Feature,
    Intervention,
    Schema,
    TrainingSettings,
)
from carma.benchmarks import Benchmark, load
from carma.errors import SchemaError, SettingsError
from carma.models.noise import SmoothedNoise

LINEAR = AdditiveNoiseSettings(hidden=(), alternatives=0)
TINY = TrainingSettings(epochs=3, batch_size=100)


def schema(**parents: list[str]) -> Schema:
    """Continuous columns in alphabetical order, which is not the causal one."""
    names = sorted({*parents, *(cause for causes in parents.values() for cause in causes)})
    features = tuple(Feature(name, role="actionable") for name in names)
    return Schema(features, CausalGraph.from_parents(parents, names))


@pytest.fixture(scope="module")
def noisy() -> pd.DataFrame:
    """c causes b, both cause a; the noise of b is skewed."""
    rng = np.random.default_rng(0)
    c = rng.normal(2.0, 3.0, 3000)
    b = 100 - 20 * c + 10 * rng.exponential(size=3000)
    return pd.DataFrame({"a": 0.5 * b + 4 * c + rng.normal(size=3000), "b": b, "c": c})


@pytest.fixture(scope="module")
def linear(noisy: pd.DataFrame) -> AdditiveNoiseModel:
    return AdditiveNoiseModel(schema(a=["b", "c"], b=["c"]), LINEAR).fit(noisy)


def slopes(model: AdditiveNoiseModel, x: Tensor, cause: str) -> Tensor:
    """Change of every column for one unit more of a cause, shape ``(n, d)``."""
    column = model.encoding.column(cause)
    do = [
        Intervention.of(model.encoding, len(x), **{cause: x[:, column] + more}) for more in (0, 1)
    ]
    before, after = (model.counterfactual(x, each) for each in do)
    return after - before


def test_slopes_of_a_linear_model_are_least_squares_and_near_the_truth(
    linear: AdditiveNoiseModel, noisy: pd.DataFrame
) -> None:
    x = linear.encoding.encode(noisy)[:50]
    found = {name: slopes(linear, x, name) for name in ("b", "c")}
    design = np.column_stack([np.ones(len(noisy)), noisy["c"]])
    of_c = np.linalg.lstsq(design, noisy["b"], rcond=None)[0][1]
    design = np.column_stack([design, noisy["b"]])
    _, of_c_on_a, of_b_on_a = np.linalg.lstsq(design, noisy["a"], rcond=None)[0]
    total = of_c_on_a + of_b_on_a * of_c
    for name, expected in (("b", (of_b_on_a, 1.0, 0.0)), ("c", (total, of_c, 1.0))):
        wanted = torch.tensor(expected).double().expand_as(x)
        torch.testing.assert_close(found[name], wanted, atol=1e-3, rtol=1e-4)
    assert (of_b_on_a, of_c, total) == pytest.approx((0.5, -20, -6), abs=0.2)


def test_noise_is_the_residual_and_a_root_is_its_own(
    linear: AdditiveNoiseModel, noisy: pd.DataFrame
) -> None:
    u = linear.abduct(linear.encoding.encode(noisy)).numpy()
    np.testing.assert_array_equal(u[:, 2], noisy["c"])
    design = np.column_stack([np.ones(len(noisy)), noisy["c"]])
    fitted = design @ np.linalg.lstsq(design, noisy["b"], rcond=None)[0]
    np.testing.assert_allclose(u[:, 1], noisy["b"] - fitted, atol=1e-3)
    # Least squares leaves nothing that the causes could tell.
    assert abs(u[:, :2].mean(axis=0)).max() < 1e-3
    assert abs(np.corrcoef(u.T)[2, :2]).max() < 1e-4


def test_samples_have_the_moments_and_the_shape_of_the_rows(
    linear: AdditiveNoiseModel, noisy: pd.DataFrame
) -> None:
    x, drawn = linear.encoding.encode(noisy), linear.sample(20_000, seed=1)
    spread = x.std(dim=0)
    torch.testing.assert_close(drawn.mean(0) / spread, x.mean(0) / spread, atol=0.05, rtol=0.0)
    torch.testing.assert_close(drawn.T.cov(), x.T.cov(), atol=0.0, rtol=0.06)

    def skewness(u: Tensor) -> float:
        return float(((u - u.mean()) / u.std()).pow(3).mean())

    assert skewness(linear.abduct(drawn)[:, 1]) == pytest.approx(2.0, abs=0.4)
    do = Intervention.of(linear.encoding, 20_000, b=10.0)
    moved = linear.sample(20_000, do, seed=1)
    # a = 0.5 b + 4 c + noise, with c around 2.
    assert float(moved[:, 0].mean()) == pytest.approx(0.5 * 10 + 4 * noisy["c"].mean(), abs=0.5)


def test_the_density_of_a_model_integrates_to_one() -> None:
    rng = np.random.default_rng(1)
    b = rng.choice([-1.0, 1.0], 400) * rng.normal(2.0, 0.3, 400)
    table = pd.DataFrame({"a": np.sin(b) + rng.uniform(-1, 1, 400), "b": b})
    settings = AdditiveNoiseSettings(hidden=(8,), training=TINY, alternatives=0)
    model = AdditiveNoiseModel(schema(a=["b"]), settings).fit(table)
    axes = torch.linspace(-6, 6, 400).double(), torch.linspace(-5, 5, 400).double()
    area = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    assert float(model.log_prob(torch.cartesian_prod(*axes)).exp().sum()) * area == pytest.approx(
        1.0, abs=1e-3
    )


def test_smoothed_noise_is_near_a_normal_density_and_draws_from_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = 3 * torch.randn(20_000, 1, generator=generator).double() + 7
    noise = SmoothedNoise.of(seen)
    assert noise.centres.shape == (200, 1)
    at = torch.linspace(1, 13, 50).double()[:, None]
    exact = (-((at[:, 0] - 7) / 3).square() / 2).exp() / (3 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(noise.log_prob(at).exp(), exact, atol=0.008, rtol=0.0)
    torch.manual_seed(0)
    drawn = noise.sample(20_000)
    # The mean log-density of what is drawn is the negative entropy, as on a grid.
    grid = torch.linspace(-12, 26, 4000).double()[:, None]
    density = noise.log_prob(grid)
    entropy = -(density.exp() * density).sum() * (grid[1, 0] - grid[0, 0])
    assert float(-noise.log_prob(drawn).mean()) == pytest.approx(float(entropy), abs=0.03)
    assert float(entropy) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 9), abs=0.03)


def test_noise_of_few_or_mostly_equal_values_has_a_width() -> None:
    for seen in ([0.0, 1.0, 5.0], [2.0] * 30 + [3.0]):
        noise = SmoothedNoise.of(torch.tensor(seen).double()[:, None])
        assert noise.centres.shape == (len(seen), 1)
        assert (noise.width > 0).all()
        assert torch.isfinite(noise.log_prob(torch.tensor([[0.0], [9.0]]).double())).all()


def test_a_mechanism_without_noise_is_no_error() -> None:
    b = np.random.default_rng(0).normal(size=200)
    model = AdditiveNoiseModel(schema(a=["b"]), LINEAR).fit(pd.DataFrame({"a": 2 * b, "b": b}))
    x = torch.tensor([[1.0, 0.5]]).double()
    assert torch.isfinite(model.log_prob(x)).all()
    do = Intervention.of(model.encoding, 1, b=-3.0)
    torch.testing.assert_close(model.counterfactual(x, do)[0, 0].item(), -6.0, atol=1e-3, rtol=0.0)


@pytest.fixture(scope="module")
def chain() -> Benchmark:
    return load("chain-nlin", rows=6000)


@pytest.fixture(scope="module")
def learned(chain: Benchmark) -> AdditiveNoiseModel:
    training = TrainingSettings(epochs=25, batch_size=200, learning_rate=1e-2)
    settings = AdditiveNoiseSettings(training=training, alternatives=4)
    return AdditiveNoiseModel(chain.schema, settings).fit(chain.frame("causal"))


def test_counterfactuals_are_near_those_of_the_true_model(
    chain: Benchmark, learned: AdditiveNoiseModel
) -> None:
    x = chain.encoded("recourse", "test")
    spread = chain.scm.statistics_.std
    x1, x2 = chain.encoding.column("x1"), chain.encoding.column("x2")
    for name, column in (("x1", x1), ("x2", x2)):
        do = Intervention.of(chain.encoding, len(x), **{name: x[:, column].roll(1)})
        exact = chain.scm.counterfactual(x, do)
        error = ((learned.counterfactual(x, do) - exact) / spread).square().mean().sqrt()
        others = ((learned.alternatives(x, do) - exact) / spread).square().mean(dim=(1, 2)).sqrt()
        moved = ((exact - x) / spread).square().mean().sqrt()
        assert moved > 0.5
        assert error < 0.05
        assert others.max() < 0.1
        assert others.min() > 0


def test_alternatives_differ_from_each_other_where_something_follows(
    chain: Benchmark, learned: AdditiveNoiseModel
) -> None:
    x = chain.encoded("recourse", "test")[:100]
    found = learned.alternatives(x, Intervention.of(chain.encoding, len(x), x1=1.0))
    is_moved = (found.std(dim=0) > 1e-6).all(dim=0)
    assert [chain.encoding.columns[i] for i in is_moved.nonzero()[:, 0]] == ["x2", "x3"]


def test_the_round_trip_is_exact_far_from_every_row(
    chain: Benchmark, learned: AdditiveNoiseModel
) -> None:
    for scale in (1.0, 100.0):
        x = scale * chain.encoded("recourse", "test")
        x[:, 0] = x[:, 0].sign().clamp(min=0)
        back = learned.predict(learned.abduct(x))
        torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)


def test_a_member_does_not_depend_on_how_many_come_after_it(chain: Benchmark) -> None:
    x, table = chain.encoded("recourse", "test")[:20], chain.frame("causal").head(300)
    do = Intervention.of(chain.encoding, 20, x1=1.0)

    def fitted(alternatives: int) -> AdditiveNoiseModel:
        settings = AdditiveNoiseSettings(training=TINY, alternatives=alternatives)
        return AdditiveNoiseModel(chain.schema, settings).fit(table)

    few, many = fitted(2), fitted(4)
    torch.testing.assert_close(
        few.counterfactual(x, do), many.counterfactual(x, do), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        few.alternatives(x, do), many.alternatives(x, do)[:2], atol=1e-4, rtol=1e-4
    )
    assert fitted(0).alternatives(x, do).shape == (0, 20, 4)


def test_a_fit_follows_from_its_seed_and_leaves_the_global_random_state_alone(
    chain: Benchmark,
) -> None:
    table = chain.frame("causal").head(300)

    def fingerprint(seed: int) -> str:
        training = TrainingSettings(epochs=2, batch_size=100, seed=seed)
        settings = AdditiveNoiseSettings((8,), training, alternatives=2)
        return AdditiveNoiseModel(chain.schema, settings).fit(table).state().fingerprint()

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fingerprint(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert fingerprint(0) == first
    assert fingerprint(1) != first


def test_steps_reduce_the_loss_and_a_linear_model_takes_none(
    learned: AdditiveNoiseModel, linear: AdditiveNoiseModel
) -> None:
    losses = [record["loss"] for record in learned.history_.records]
    assert len(losses) == 25
    assert losses[-1] < 0.5 * losses[0]
    assert linear.history_.records == []


def discrete() -> tuple[Schema, pd.DataFrame]:
    """A nominal root, an integer and a binary effect."""
    features = (
        Feature("region", "nominal", levels=("north", "east", "south")),
        Feature("years", "integer", role="actionable"),
        Feature("member", "binary", levels=("no", "yes")),
    )
    parents = {"years": ["region"], "member": ["years"]}
    rng = np.random.default_rng(0)
    region = rng.choice(3, 2000, p=[0.2, 0.3, 0.5])
    years = np.rint(10 + 3 * region + 2 * rng.normal(size=2000)).astype(int)
    member = (years + rng.normal(size=2000) > 14).astype(int)
    table = pd.DataFrame(
        {
            "region": np.array(["north", "east", "south"])[region],
            "years": years,
            "member": np.array(["no", "yes"])[member],
        }
    )
    return Schema(features, CausalGraph.from_parents(parents, [f.name for f in features])), table


def test_discrete_columns_keep_levels_frequencies_and_effects() -> None:
    problem, table = discrete()
    training = TrainingSettings(epochs=15, batch_size=200, learning_rate=1e-2)
    model = AdditiveNoiseModel(problem, AdditiveNoiseSettings((8,), training, alternatives=2))
    model.fit(table)
    x = model.encoding.encode(table)
    assert torch.equal(model.predict(model.abduct(x)), x)
    drawn = model.encoding.decode(model.sample(20_000, seed=2))
    for name in ("north", "east", "south"):
        share = (table["region"] == name).mean()
        assert (drawn["region"] == name).mean() == pytest.approx(share, abs=0.015)
        seen = table.loc[table["region"] == name, "years"]
        again = drawn.loc[drawn["region"] == name, "years"]
        assert again.mean() == pytest.approx(seen.mean(), abs=0.2)
        assert again.std() == pytest.approx(seen.std(), rel=0.15)
    assert (drawn["member"] == "yes").mean() == pytest.approx(
        (table["member"] == "yes").mean(), abs=0.06
    )
    for years, share in ((5, 0.0), (25, 1.0)):
        do = Intervention.of(model.encoding, len(x), years=years)
        reached = model.encoding.decode(model.counterfactual(x, do))
        # Who was a member already may stay one whom the causes alone would not make one.
        assert (reached["member"] == "yes").mean() == pytest.approx(share, abs=0.05)
    density = model.log_prob(x)
    assert torch.isfinite(density).all()
    # Over all rows that exist, densities at the centres are nearly probabilities.
    every = product(("north", "east", "south"), range(-5, 35), ("no", "yes"))
    rows = pd.DataFrame(every, columns=["region", "years", "member"])
    total = float(model.log_prob(model.encoding.encode(rows)).exp().sum())
    assert total == pytest.approx(1.0, abs=0.1)


def test_a_nominal_feature_with_a_cause_is_refused() -> None:
    features = (Feature("age"), Feature("region", "nominal", levels=("n", "s")))
    problem = Schema(features, CausalGraph.from_edges([("age", "region")]))
    with pytest.raises(SchemaError, match=r"AdditiveNoiseModel: 'feature region' must have no"):
        AdditiveNoiseModel(problem)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": (0,)}, "'hidden' must be at least 1"),
        ({"alternatives": 1}, "'alternatives' must be 0 or at least 2"),
        ({"alternatives": -1}, "'alternatives' must be at least 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"AdditiveNoiseSettings: {message}"):
        AdditiveNoiseSettings(**settings)
