"""Mixed causal model: closed forms, draws, and what is assumed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import (
    CausalGraph,
    Feature,
    Intervention,
    MixedFlow,
    MixedSettings,
    Schema,
    TrainingSettings,
)
from carma.errors import NotFittedError, SettingsError, TableError
from carma.models.mixed import _winners

QUICK = TrainingSettings(epochs=25, batch_size=200, learning_rate=1e-2)
SETTINGS = MixedSettings((8,), QUICK, alternatives=2, draws=3)
N_DRAWS = 400


def schema_of(effect: Feature) -> Schema:
    """A binary cause, a continuous one, and their effect."""
    causes = (Feature("a", "binary", role="actionable"), Feature("c"))
    return Schema((*causes, effect), CausalGraph.from_parents({"b": ["a", "c"]}, ["a", "c", "b"]))


EFFECTS = {
    "binary": Feature("b", "binary"),
    "ordinal": Feature("b", "ordinal", levels=(0, 1, 5, 7)),
    "integer": Feature("b", "integer"),
    "bounded": Feature("b", "integer", bounds=(0, 3)),
    "pair": Feature("b", "nominal", levels=(0, 1)),
    "nominal": Feature("b", "nominal", levels=("x", "y", "z")),
}


def table_of(kind: str, n: int = 800, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a, c = rng.integers(0, 2, n), rng.normal(size=n)
    latent = 1.5 * a + 0.7 * c + rng.logistic(size=n)
    says = np.stack([0 * c, a + 0.5 * c, 1.5 * a - 0.5 * c], axis=1) + rng.gumbel(size=(n, 3))
    effects: dict[str, Any] = {
        "binary": (latent > 0.5).astype(int),
        "ordinal": np.array([0, 1, 5, 7])[np.digitize(latent, [-1.0, 0.5, 2.0])],
        "integer": np.rint(3 * latent).astype(int),
        "bounded": np.clip(np.rint(latent), 0, 3).astype(int),
        "pair": says[:, :2].argmax(axis=1),
        "nominal": np.array(["x", "y", "z"])[says.argmax(axis=1)],
    }
    return pd.DataFrame({"a": a, "c": c, "b": effects[kind]})


@cache
def fitted(kind: str) -> tuple[MixedFlow, Tensor]:
    """A model and 60 rows that it has not seen."""
    model = MixedFlow(schema_of(EFFECTS[kind]), SETTINGS).fit(table_of(kind))
    return model, model.encoding.encode(table_of(kind, 60, seed=1))


def switched(model: MixedFlow, x: Tensor) -> Intervention:
    """The other value of ``a`` for everybody."""
    return Intervention.of(model.encoding, len(x), a=1 - x[:, 0])


def level_rows(model: MixedFlow, x: Tensor) -> Tensor:
    """Rows with every level of ``b`` in turn, shape ``(levels, n, d)``."""
    effect = model.schema["b"]
    found = []
    for position in range(len(effect.levels)):
        row = x.clone()
        if effect.kind == "nominal":
            row[:, 2:] = 0.0
            row[:, 2 + position] = 1.0
        else:
            row[:, 2] = effect.codes[position]
        found.append(row)
    return torch.stack(found)


def chances(model: MixedFlow, x: Tensor) -> Tensor:
    """Probability of every level of ``b`` given each row's causes, shape ``(n, levels)``."""
    found = torch.stack([model.log_prob(row) for row in level_rows(model, x)], dim=1)
    return found.softmax(dim=1)


def positions(model: MixedFlow, x: Tensor) -> Tensor:
    """Number of the level of ``b`` in rows ``(..., d)``."""
    if model.schema["b"].kind == "nominal":
        return x[..., 2:].argmax(dim=-1)
    codes = torch.tensor(model.schema["b"].codes).double()
    return (x[..., 2, None] - codes).abs().argmin(dim=-1)


def frequencies(model: MixedFlow, x: Tensor, do: Intervention, n_draws: int = N_DRAWS) -> Tensor:
    """Share of the draws with every level of ``b``, shape ``(n, levels)``."""
    drawn = positions(model, model.draw_counterfactuals(x, do, n_draws))
    n_levels = len(model.schema["b"].levels)
    return torch.nn.functional.one_hot(drawn, n_levels).double().mean(dim=0)


def marginal(model: MixedFlow, x: Tensor) -> Tensor:
    """Log-density of the two causes: their frequency, and the density of the flow."""
    c = x.clone().requires_grad_()
    z = model.abduct(c)[:, 1]
    (slope,) = torch.autograd.grad(z.sum(), c)
    share = torch.as_tensor(table_of("binary")["a"].mean())
    chance = torch.where(x[:, 0] == 1, share, 1 - share)
    density = -0.5 * (z.detach().square() + math.log(2 * math.pi))
    return chance.log() + density + slope[:, 1].log()


@pytest.mark.parametrize("kind", ["binary", "ordinal", "pair", "nominal"])
def test_the_probabilities_of_all_levels_add_up_to_one(kind: str) -> None:
    model, x = fitted(kind)
    each = torch.stack([model.log_prob(row) for row in level_rows(model, x)])
    torch.testing.assert_close(each.logsumexp(dim=0), marginal(model, x))


@pytest.mark.parametrize(("kind", "span"), [("bounded", (0, 4)), ("integer", (-200, 200))])
def test_the_probabilities_of_all_whole_numbers_add_up_to_one(
    kind: str, span: tuple[int, int]
) -> None:
    model, x = fitted(kind)
    rows = x[:, None].repeat(1, span[1] - span[0], 1)
    rows[..., 2] = torch.arange(*span).double()
    each = model.log_prob(rows.flatten(0, 1)).view(rows.shape[:2])
    torch.testing.assert_close(each.logsumexp(dim=1), marginal(model, x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["binary", "ordinal", "nominal"])
def test_the_model_learns_how_often_each_level_occurs(kind: str) -> None:
    model, _ = fitted(kind)
    x = model.encoding.encode(table_of(kind))
    found, seen = chances(model, x), positions(model, x)
    for a in (0, 1):
        here = x[:, 0] == a
        shares = seen[here].bincount(minlength=found.shape[1]) / here.sum()
        torch.testing.assert_close(found[here].mean(dim=0), shares.double(), atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", ["binary", "ordinal"])
def test_draws_of_an_ordered_column_have_the_probabilities_of_the_closed_form(kind: str) -> None:
    """One latent and rising thresholds: both worlds have one quantile, uniform in its cell."""
    model, x = fitted(kind)
    do = switched(model, x)
    before = chances(model, x).cumsum(dim=1)
    after = chances(model, torch.where(do.mask, do.values, x)).cumsum(dim=1)
    zero = torch.zeros(len(x), 1).double()
    low, high = (torch.cat([zero, end], dim=1) for end in (before, after))
    own = positions(model, x)[:, None]
    start, end = low.gather(1, own), low.gather(1, own + 1)
    overlap = torch.minimum(end, high[:, 1:]) - torch.maximum(start, high[:, :-1])
    expected = overlap.clamp(min=0) / (end - start)
    # The draws are stratified: each boundary is off by one draw at most.
    found = frequencies(model, x, do)
    torch.testing.assert_close(found, expected, atol=2 / N_DRAWS, rtol=0)


def test_draws_of_two_gumbels_have_the_probabilities_of_the_closed_form() -> None:
    """A level stays with probability p'/p where it becomes rarer, and surely where not."""
    model, x = fitted("pair")
    do = switched(model, x)
    before, after = chances(model, x), chances(model, torch.where(do.mask, do.values, x))
    own = positions(model, x)[:, None]
    stays = (after.gather(1, own) / before.gather(1, own)).clamp(max=1.0)
    found = frequencies(model, x, do, 4000).gather(1, own)
    torch.testing.assert_close(found, stays, atol=0.03, rtol=0)


def test_gumbel_max_is_counterfactually_stable() -> None:
    """Nobody leaves for a level whose odds against their own have not grown."""
    model, x = fitted("nominal")
    do = switched(model, x)
    gain = chances(model, torch.where(do.mask, do.values, x)) / chances(model, x)
    own = positions(model, x)
    drawn = positions(model, model.draw_counterfactuals(x, do, N_DRAWS))
    has_moved = drawn != own
    better = gain.gather(1, drawn.T) > gain.gather(1, own[:, None])
    assert bool(has_moved.any())
    assert bool(better.T[has_moved].all())


@pytest.mark.parametrize("kind", ["binary", "pair"])
def test_of_two_levels_the_counterfactual_is_the_likelier_one(kind: str) -> None:
    model, x = fitted(kind)
    do = switched(model, x)
    share = frequencies(model, x, do, 4000)
    point = positions(model, model.counterfactual(x, do))
    is_clear = (share[:, 0] - 0.5).abs() > 0.05
    assert bool(is_clear.any())
    assert torch.equal(point[is_clear], share.argmax(dim=1)[is_clear])


@pytest.mark.parametrize("kind", EFFECTS)
def test_every_draw_gives_the_facts_back_for_ones_own_values(kind: str) -> None:
    model, x = fitted(kind)
    own = Intervention.of(model.encoding, len(x), a=x[:, 0], c=x[:, 1])
    drawn = model.draw_counterfactuals(x, own, 50)
    assert torch.equal(drawn, x.expand_as(drawn))


@pytest.mark.parametrize("kind", EFFECTS)
def test_counterfactuals_of_the_population_are_the_intervened_population(kind: str) -> None:
    """Averaged over who people are, what would have been is what happens when it is done."""
    model, _ = fitted(kind)
    n = 3000
    x = model.sample(n, seed=1)
    do = Intervention.of(model.encoding, n, a=1.0)
    drawn = model.draw_counterfactuals(x, do, 8).flatten(0, 1)
    expected = model.sample(10 * n, Intervention.of(model.encoding, 10 * n, a=1.0), seed=2)
    if kind == "integer":
        shares = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
        off = drawn[:, 2].quantile(shares) - expected[:, 2].quantile(shares)
        assert float(off.abs().max()) <= 1.0
    scale = model.statistics_.std
    torch.testing.assert_close(
        drawn.mean(dim=0) / scale, expected.mean(dim=0) / scale, atol=0.06, rtol=0
    )


def test_draws_are_the_same_in_every_batch_and_follow_from_their_seed() -> None:
    model, x = fitted("nominal")
    do = switched(model, x)
    whole = model.draw_counterfactuals(x, do, 20, seed=3)
    part = Intervention(do.mask[5:7], do.values[5:7])
    assert torch.equal(model.draw_counterfactuals(x[5:7], part, 20, seed=3), whole[:, 5:7])
    assert not torch.equal(model.draw_counterfactuals(x, do, 20, seed=4), whole)


def test_what_inference_mode_leaves_behind_does_not_stop_slopes() -> None:
    model, x = fitted("nominal")
    again = MixedFlow.from_state(model.schema, model.state())
    do = switched(again, x)
    with torch.inference_mode():
        reached = again.counterfactual(x, do)
    values = do.values.clone().requires_grad_()
    found = again.counterfactual(x, Intervention(do.mask, values))
    (slope,) = torch.autograd.grad(found[:, 2].sum(), values)
    assert torch.equal(found.detach(), reached)
    assert bool((slope[:, 0] != 0).all())


def test_many_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("integer", "nominal"):
        model, x = fitted(kind)
        do = switched(model, x)
        whole = model.alternatives(x, do)
        monkeypatch.setattr("carma.models.base.CHUNK", 7 * model.n_alternatives)
        torch.testing.assert_close(model.alternatives(x, do), whole)
        monkeypatch.undo()


def test_of_equal_sums_the_first_level_wins() -> None:
    total = torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0], [4.0, 4.0, 4.0]]).double()
    expected = torch.tensor([[0, 1, 0], [1, 0, 0], [1, 0, 0]]).double()
    torch.testing.assert_close(_winners(total.T[None])[0].T, expected)
    torch.testing.assert_close(_winners(total[1:2].T[None])[0].T, expected[1:2])


def test_a_nominal_feature_can_be_set() -> None:
    features = (Feature("job", "nominal", levels=("x", "y", "z")), Feature("wage"))
    schema = Schema(features, CausalGraph.from_edges([("job", "wage")]))
    rng = np.random.default_rng(0)
    job = rng.integers(0, 3, 600)
    wage = 3.0 * job + rng.normal(size=600)
    table = pd.DataFrame({"job": np.array(["x", "y", "z"])[job], "wage": wage})
    model = MixedFlow(schema, SETTINGS).fit(table)
    x = model.encoding.encode(table.head(30))
    moved = model.counterfactual(x, Intervention.of(model.encoding, 30, job=2))
    assert set(model.encoding.decode(moved)["job"]) == {"z"}
    expected = 3.0 * (2 - torch.from_numpy(job[:30]).double())
    torch.testing.assert_close(moved[:, 3] - x[:, 3], expected, atol=1.0, rtol=0)


def test_values_beyond_those_seen_are_possible_within_the_bounds() -> None:
    model, x = fitted("integer")
    far = x.clone()
    far[:, 2] = torch.where(far[:, 0] == 0, 500.0, -500.0)
    assert torch.isfinite(model.log_prob(far)).all()
    assert torch.equal(model.predict(model.abduct(far))[:, 2], far[:, 2])
    bounded, x = fitted("bounded")
    do = Intervention.of(bounded.encoding, len(x), c=torch.linspace(-99, 99, len(x)))
    found = bounded.draw_counterfactuals(x, do, 9)[..., 2]
    assert set(found.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_where_every_effect_is_continuous_nothing_is_open() -> None:
    schema = Schema((Feature("a", "binary"), Feature("c")), CausalGraph.from_edges([("a", "c")]))
    model = MixedFlow(schema, SETTINGS).fit(table_of("binary")[["a", "c"]])
    x = model.encoding.encode(table_of("binary", 20, seed=1)[["a", "c"]])
    do = Intervention.of(model.encoding, 20, a=1 - x[:, 0])
    drawn = model.draw_counterfactuals(x, do, 5)
    torch.testing.assert_close(drawn, model.counterfactual(x, do).expand_as(drawn))
    assert model.n_alternatives == SETTINGS.alternatives


@pytest.mark.parametrize(
    ("alternatives", "draws", "expected"), [(0, 6, 6), (0, 1, 0), (2, 1, 2), (2, 3, 6)]
)
def test_alternatives_are_draws_from_members(alternatives: int, draws: int, expected: int) -> None:
    settings = MixedSettings((4,), TrainingSettings(epochs=2), alternatives, draws)
    model = MixedFlow(schema_of(EFFECTS["binary"]), settings).fit(table_of("binary"))
    x = model.encoding.encode(table_of("binary", 10, seed=1))
    found = model.alternatives(x, switched(model, x))
    assert model.n_alternatives == expected
    assert found.shape == (expected, *x.shape)


def test_without_members_the_alternatives_are_draws_of_the_model() -> None:
    settings = MixedSettings((4,), QUICK, alternatives=0, draws=300)
    model = MixedFlow(schema_of(EFFECTS["binary"]), settings).fit(table_of("binary"))
    x = model.encoding.encode(table_of("binary", 40, seed=1))
    do = switched(model, x)
    found = model.alternatives(x, do).mean(dim=0)
    expected = model.draw_counterfactuals(x, do, 300, seed=5).mean(dim=0)
    torch.testing.assert_close(found, expected, atol=1 / 300, rtol=0)


def test_members_do_not_change_the_model() -> None:
    table, x = table_of("ordinal"), fitted("ordinal")[1]
    few, more = (
        MixedFlow(schema_of(EFFECTS["ordinal"]), MixedSettings((4,), QUICK, members)).fit(table)
        for members in (0, 3)
    )
    torch.testing.assert_close(few.log_prob(x), more.log_prob(x), atol=1e-3, rtol=1e-3)


def test_bad_input() -> None:
    model, x = fitted("binary")
    with pytest.raises(TableError, match="have shape"):
        model.draw_counterfactuals(x[:, 1:], switched(model, x), 3)
    with pytest.raises(TableError, match="have shape"):
        model.draw_counterfactuals(x, switched(model, x[1:]), 3)
    with pytest.raises(NotFittedError, match="before 'draw_counterfactuals'"):
        MixedFlow(model.schema).draw_counterfactuals(x, switched(model, x), 3)
    with pytest.raises(SettingsError, match="'alternatives' must be 0 or at least 2"):
        MixedSettings(alternatives=1)
    with pytest.raises(SettingsError, match="'hidden'"):
        MixedSettings(hidden=(0,))


def test_heavy_tails_and_a_mass_at_zero_give_no_absurd_counterfactuals() -> None:
    rng = np.random.default_rng(0)
    n = 3000
    limit = rng.normal(size=n)
    amount = np.where(rng.random(n) < 0.9, 0, np.rint(np.exp(5 + limit + 2 * rng.normal(size=n))))
    late = (rng.logistic(size=n) + 1.0 * (amount > 0) > 1).astype(int)
    bill = np.rint(0.5 * amount + np.exp(4 + rng.normal(size=n)))
    table = pd.DataFrame({"limit": limit, "amount": amount, "late": late, "bill": bill}).astype(
        {"amount": int, "bill": int}
    )
    features = (
        Feature("limit"),
        Feature("amount", "integer"),
        Feature("late", "binary"),
        Feature("bill", "integer"),
    )
    parents = {"amount": ["limit"], "late": ["amount"], "bill": ["amount", "late"]}
    schema = Schema(features, CausalGraph.from_parents(parents, [f.name for f in features]))
    model = MixedFlow(schema, SETTINGS).fit(table)
    x = model.encoding.encode(table)
    assert torch.equal(model.counterfactual(x, Intervention.none(x)), x)
    again = model.predict(model.abduct(x))
    assert torch.equal(again[:, 1:], x[:, 1:])
    torch.testing.assert_close(again[:, 0], x[:, 0], atol=1e-9, rtol=1e-9)
    assert torch.isfinite(model.log_prob(x)).all()
    do = Intervention.of(model.encoding, n, limit=x[:, 0] + 0.5)
    moved, drawn = model.counterfactual(x, do), model.draw_counterfactuals(x, do, 4)
    assert torch.isfinite(drawn).all()
    # Most who have nothing still do, and nobody gets far beyond what anybody has.
    assert float((moved[x[:, 1] == 0, 1] == 0).double().mean()) > 0.95
    for column in (1, 3):
        assert float(drawn[..., column].max()) < 2 * float(x[:, column].max())
        assert float(drawn[..., column].min()) >= 2 * float(x[:, column].min()) - 100
    sampled = model.sample(n, seed=1)
    assert abs(float((sampled[:, 1] == 0).double().mean()) - 0.9) < 0.03


def test_large_tables_take_fewer_epochs() -> None:
    settings = MixedSettings((4,), QUICK, alternatives=0, most_steps=30)
    model = MixedFlow(schema_of(EFFECTS["binary"]), settings).fit(table_of("binary", 900))
    # 810 rows to train on, 101 a step: nine steps an epoch.
    assert len(model.history_.records) == 3


def test_only_discrete_effects_leave_counterfactuals_open() -> None:
    assert not fitted("binary")[0].is_point_identified
    schema = Schema((Feature("a", "binary"), Feature("c")), CausalGraph.from_edges([("a", "c")]))
    assert MixedFlow(schema, SETTINGS).is_point_identified
