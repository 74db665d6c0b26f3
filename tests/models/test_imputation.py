"""Gaps are filled from causes and effects, as the closed forms say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from carma import (
    AdditiveNoiseModel,
    AdditiveNoiseSettings,
    CausalFlow,
    CausalGraph,
    CausalModel,
    Feature,
    FlowSettings,
    MixedFlow,
    MixedSettings,
    Schema,
    StructuralCausalModel,
    TrainingSettings,
    Vaca,
    VacaSettings,
)
from carma.errors import TableError
from carma.models.imputation import Imputation
from carma.models.scm import linear
from carma.table import Encoding

NAN = torch.nan


def gaussian() -> tuple[StructuralCausalModel, Tensor, Tensor]:
    """A linear Gaussian model of four columns, a -> b -> c -> d and a -> c; mean and covariance."""
    weights: dict[str, dict[str, float]] = {
        "a": {},
        "b": {"a": 2.0},
        "c": {"a": -1.0, "b": 0.5},
        "d": {"c": 3.0},
    }
    spread = {"a": 1.0, "b": 0.5, "c": 2.0, "d": 0.2}
    start = {"a": 10.0, "b": 0.0, "c": -5.0, "d": 1.0}
    names = tuple(weights)
    edges = [(cause, effect) for effect in names for cause in weights[effect]]
    schema = Schema(
        tuple(Feature(n, missing="impute") for n in names), CausalGraph.from_edges(edges, names)
    )
    scm = StructuralCausalModel(
        schema, {n: linear(weights[n], Normal(0.0, spread[n]), start[n]) for n in names}
    )
    direct = torch.tensor([[weights[i].get(j, 0.0) for j in names] for i in names]).double()
    total = torch.linalg.inv(torch.eye(4).double() - direct)
    mean = total @ torch.tensor(list(start.values())).double()
    covariance = total @ torch.tensor(list(spread.values())).double().square().diag() @ total.T
    return scm, mean, covariance


@pytest.mark.parametrize(
    "absent", [c for size in (1, 2, 3) for c in itertools.combinations(range(4), size)]
)
def test_linear_gaussian_gaps_have_their_conditional_mean(absent: tuple[int, ...]) -> None:
    scm, mean, covariance = gaussian()
    x = scm.sample(40, seed=7)
    known, gone = [i for i in range(4) if i not in absent], list(absent)
    slopes = torch.linalg.solve(covariance[known][:, known], covariance[known][:, gone])
    expected = mean[gone] + (x[:, known] - mean[known]) @ slopes
    left = covariance[gone][:, gone] - covariance[gone][:, known] @ slopes
    x[:, gone] = NAN
    filled = scm.impute(x)
    assert torch.equal(filled[:, known], x[:, known])
    off = (filled[:, gone] - expected) / left.diagonal().sqrt()
    assert float(off.abs().max()) < 0.03


def test_effects_tell_as_much_as_causes() -> None:
    scm, _, _ = gaussian()
    x = scm.sample(200, seed=1)
    gaps = x.clone()
    gaps[:, 0] = NAN
    # Without the effects, the mean of the root would be the best guess, and 1 its error.
    error = (scm.impute(gaps)[:, 0] - x[:, 0]).square().mean().sqrt()
    assert float(error) == pytest.approx(0.24, abs=0.03)


def test_weights_give_whole_distributions() -> None:
    scm, _, covariance = gaussian()
    x = scm.sample(5, seed=3)
    x[:, [1, 3]] = NAN
    completed, weights = Imputation(
        scm.encoding, scm.sample(2000), lambda x, _: scm.log_prob(x)
    ).draws(x)
    assert completed.shape == (5, 1024, 4)
    assert weights.sum(dim=1).tolist() == pytest.approx([1.0] * 5)
    known, gone = [0, 2], [1, 3]
    slopes = torch.linalg.solve(covariance[known][:, known], covariance[known][:, gone])
    expected = covariance[gone][:, gone] - covariance[gone][:, known] @ slopes
    for row, weight in zip(completed[..., gone], weights, strict=True):
        off = row - weight @ row
        found = (off * weight[:, None]).T @ off
        np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.02)
    effective = 1 / weights.square().sum(dim=1)
    assert float(effective.min()) > 400


class Table(CausalModel):
    """A model that is nothing but the probabilities of its rows: degree -> job -> rank."""

    kind = "table"

    def __init__(self) -> None:
        super().__init__(
            Schema(
                (
                    Feature("degree", "binary", levels=("no", "yes"), missing="impute"),
                    Feature("job", "nominal", levels=("clerk", "cook", "smith"), missing="impute"),
                    Feature("rank", "ordinal", levels=(1, 2.5, 10), missing="impute"),
                ),
                CausalGraph.from_edges([("degree", "job"), ("job", "rank")]),
            )
        )
        job = {"no": (0.1, 0.5, 0.4), "yes": (0.7, 0.2, 0.1)}
        rank = {"clerk": (0.1, 0.2, 0.7), "cook": (0.6, 0.3, 0.1), "smith": (0.1, 0.8, 0.1)}
        degree, jobs, ranks = (feature.levels for feature in self.schema.features)
        self.probability = {
            (d, j, r): (0.7, 0.3)[degree.index(d)]
            * job[str(d)][jobs.index(j)]
            * rank[str(j)][ranks.index(r)]
            for d, j, r in itertools.product(degree, jobs, ranks)
        }

    @property
    def is_fitted(self) -> bool:
        return True

    def _rows(self) -> pd.DataFrame:
        return pd.DataFrame(list(self.probability), columns=list(self.schema.names))

    def sample(self, n: int, _: Any = None, *, seed: int = 0) -> Tensor:
        rows = self.encoding.encode(self._rows())
        p = torch.tensor(list(self.probability.values()))
        generator = torch.Generator().manual_seed(seed)
        return rows[torch.multinomial(p, n, replacement=True, generator=generator)]

    def _log_prob(self, x: Tensor) -> Tensor:
        keys = self.encoding.decode(x).itertuples(index=False, name=None)
        return torch.tensor([self.probability[key] for key in keys]).double().log()

    def _fit(self, x: Any, statistics: Any, progress: Any) -> None: ...
    def _abduct(self, x: Tensor) -> Tensor: ...  # type: ignore[empty-body]
    def _predict(self, u: Tensor, intervention: Any, start: Any) -> Tensor: ...  # type: ignore[empty-body]
    def _sample_latent(self, n: int) -> Tensor: ...  # type: ignore[empty-body]
    def state(self) -> Any: ...
    @classmethod
    def from_state(cls, schema: Schema, state: Any) -> Any: ...


@pytest.mark.parametrize(
    "absent", [c for size in (1, 2) for c in itertools.combinations(range(3), size)]
)
def test_levels_are_the_most_probable_ones(absent: tuple[int, ...]) -> None:
    model = Table()
    names = model.schema.names
    rows = list(model.probability)
    table = pd.DataFrame(rows, columns=list(names))
    gaps = table.astype(object)
    for i in absent:
        gaps[names[i]] = None
    filled = model.encoding.decode(model.impute(model.encoding.encode(gaps)))
    for row, answer in zip(rows, filled.itertuples(index=False, name=None), strict=True):
        agree = [r for r in rows if all(r[i] == row[i] for i in range(3) if i not in absent)]
        for i in range(3):
            if i not in absent:
                assert answer[i] == row[i]
                continue
            mass: dict[Any, float] = {}
            for r in agree:
                mass[r[i]] = mass.get(r[i], 0.0) + model.probability[r]
            assert mass[answer[i]] == max(mass.values()), (row, names[i])


def test_shares_of_levels_are_their_probabilities() -> None:
    model = Table()
    row = pd.DataFrame({"degree": ["yes"], "job": [None], "rank": [2.5]}, dtype=object)
    x = model.encoding.encode(row)
    completed, weights = Imputation(
        model.encoding, model.sample(4000), lambda x, _: model.log_prob(x)
    ).draws(x)
    found = weights[0] @ completed[0, :, model.encoding.block("job")]
    exact = torch.tensor([0.7 * 0.2, 0.2 * 0.3, 0.1 * 0.8]).double()
    np.testing.assert_allclose(found, exact / exact.sum(), atol=0.01)


def bounded() -> StructuralCausalModel:
    """Whole numbers, bounds and two levels, of normal equations."""
    schema = Schema(
        (
            Feature("years", "integer", bounds=(0, 6), missing="impute"),
            Feature("income", bounds=(0.0, 5.0), missing="impute"),
            Feature("member", "binary", missing="impute"),
        ),
        CausalGraph.from_edges([("years", "income"), ("years", "member")]),
    )
    return StructuralCausalModel(
        schema,
        {
            "years": linear({}, Normal(0.0, 1.5), 3.0),
            "income": linear({"years": 0.8}, Normal(0.0, 1.0)),
            "member": linear({"years": 0.15}, Normal(0.0, 0.3)),
        },
    )


def test_whole_numbers_weigh_cells() -> None:
    scm = bounded()
    x = torch.tensor([[NAN, 4.9, 1.0], [NAN, 0.1, 0.0]], dtype=torch.float64)
    completed, weights = Imputation(
        scm.encoding, scm.sample(2000), lambda x, _: scm.log_prob(x)
    ).draws(x)
    years = torch.arange(7).double()
    for row, own, weight in zip(x, completed[:, :, 0], weights, strict=True):
        density = (
            -0.5 * ((years - 3.0) / 1.5).square()
            - 0.5 * (row[1] - 0.8 * years).square()
            - 0.5 * ((row[2] - 0.15 * years) / 0.3).square()
        ).softmax(0)
        found = [(weight * (own == year)).sum().item() for year in years]
        np.testing.assert_allclose(found, density, atol=0.01)
        answer = scm.impute(row[None])[0, 0].item()
        assert answer == round(float(density @ years))


def test_values_are_legal_and_what_was_observed_stays() -> None:
    scm = bounded()
    x = scm.encoding.snap(scm.sample(60, seed=2))
    x[:, 0].clamp_(0, 6)
    x[:, 1].clamp_(0, 5)
    x[:, 2].clamp_(0, 1)
    is_gap = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    is_gap[is_gap.all(dim=1), 0] = False
    gaps = torch.where(is_gap, NAN, x)
    filled = scm.impute(gaps)
    assert torch.equal(filled[~is_gap], x[~is_gap])
    assert torch.equal(scm.encoding.snap(filled), filled)
    frame = scm.encoding.decode(filled)
    assert torch.equal(scm.encoding.encode(frame), filled)
    assert scm.impute(x) is x


def test_a_row_does_not_depend_on_the_others() -> None:
    scm, _, _ = gaussian()
    x = scm.sample(30, seed=5)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.4] = NAN
    filled = scm.impute(x)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(scm.impute(x[order]), filled[order], rtol=0, atol=1e-9)
    torch.testing.assert_close(scm.impute(x[:1]), filled[:1], rtol=0, atol=1e-9)
    assert torch.equal(scm.impute(x), filled)


def test_impossible_rows_are_filled_too() -> None:
    scm = bounded()
    imputation = Imputation(
        scm.encoding, scm.sample(500), lambda x, _: torch.full((len(x),), -torch.inf)
    )
    x = torch.tensor([[4.0, NAN, NAN]], dtype=torch.float64)
    _, weights = imputation.draws(x)
    assert float(weights.min()) == float(weights.max())
    assert torch.equal(scm.encoding.snap(imputation.fill(x)), imputation.fill(x))
    assert float(imputation.fill(x)[0, 1]) == pytest.approx(3.2, abs=0.3)


def test_it_works_in_inference_mode_and_afterwards() -> None:
    scm, _, _ = gaussian()
    x = scm.sample(3)
    x[:, 1] = NAN
    with torch.inference_mode():
        inside = scm.impute(x.clone())
    assert torch.equal(inside, scm.impute(x))
    inside.add_(1.0)


def people(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    degree = rng.integers(0, 2, n)
    years = rng.integers(0, 21, n)
    income = 20 + 8 * degree + 0.7 * years + rng.normal(0, 2, n)
    savings = 0.5 * income + rng.normal(0, 1, n)
    return pd.DataFrame({"degree": degree, "years": years, "income": income, "savings": savings})


SCHEMA = Schema(
    (
        Feature("degree", "binary", missing="impute"),
        Feature("years", "integer", bounds=(0, 20), missing="impute"),
        Feature("income", missing="impute"),
        Feature("savings", missing="impute"),
    ),
    CausalGraph.from_edges([("degree", "income"), ("years", "income"), ("income", "savings")]),
)
QUICK = TrainingSettings(epochs=30, batch_size=100, learning_rate=1e-2)


@pytest.mark.parametrize(
    ("make", "n"),
    [
        (lambda: CausalFlow(SCHEMA, FlowSettings(hidden=(8,), training=QUICK, alternatives=0)), 40),
        (lambda: AdditiveNoiseModel(SCHEMA, AdditiveNoiseSettings((8,), QUICK, 0)), 40),
        (lambda: MixedFlow(SCHEMA, MixedSettings((8,), QUICK, alternatives=0, draws=1)), 40),
        (lambda: Vaca(SCHEMA, VacaSettings(training=QUICK, members=0, draws=4)), 24),
    ],
)
def test_every_learned_model_imputes(make: Callable[[], CausalModel], n: int) -> None:
    table = people()
    model = make().fit(table)
    x = model.encoding.encode(table)[:n]
    for column, share in ((0, 0.8), (1, 0.9), (2, 0.45), (3, 0.45)):
        gaps = x.clone()
        gaps[:, column] = NAN
        filled = model.impute(gaps)
        assert torch.equal(model.encoding.snap(filled), filled)
        torch.testing.assert_close(model.impute(gaps[:3]), filled[:3], rtol=1e-5, atol=1e-4)
        error = (filled[:, column] - x[:, column]).square().mean().sqrt()
        # Better than the mean or the commoner level of all, by as much as the others tell.
        assert float(error) < share * max(0.5, float(x[:, column].std())), column


def test_rows_with_gaps_are_left_out_of_a_fit() -> None:
    table = people()
    gaps = table.astype({"years": float})
    gaps.loc[::3, "years"] = np.nan
    gaps.loc[1, "income"] = np.nan
    settings = FlowSettings(hidden=(8,), training=QUICK, alternatives=0)
    model = CausalFlow(SCHEMA, settings).fit(gaps)
    same = CausalFlow(SCHEMA, settings).fit(table[gaps.notna().all(axis=1)])
    assert (model.n_left_out_, same.n_left_out_) == (101, 0)
    assert model.state().fingerprint() == same.state().fingerprint()
    assert torch.equal(model.statistics_.mean, same.statistics_.mean)
    x = model.encoding.encode(gaps)
    before = model.impute(x)
    assert torch.equal(before, model.impute(x))
    # Another fit forgets what gaps were filled with.
    model.fit(table.assign(income=1000 - table["income"], savings=-table["savings"]))
    assert not torch.allclose(before[::3, 1], model.impute(x)[::3, 1], atol=1)


def test_too_many_gaps_end_a_fit() -> None:
    table = people(10)
    scm = StructuralCausalModel(
        SCHEMA, {name: linear({}, Normal(0.0, 1.0)) for name in SCHEMA.names}
    )
    half = table.assign(income=[None] * 5 + table["income"].tolist()[5:])
    assert scm.fit(half).n_left_out_ == 5
    most = table.assign(income=[None] * 6 + table["income"].tolist()[6:])
    with pytest.raises(TableError, match=r"half of all 10.*column income has no value in 6.*got 4"):
        scm.fit(most)
    with pytest.raises(
        TableError, match=r"column years has no value in 10 .*without gaps are; got 0"
    ):
        scm.fit(table.assign(years=np.nan))
    with pytest.raises(TableError, match=r"and in two.*got 1$"):
        scm.fit(half.iloc[4:6])
    with pytest.raises(TableError, match=r"'rows' must be at least two; got 1"):
        scm.fit(table.iloc[:1])


@pytest.mark.parametrize("n_draws", [64, 8])
def test_few_levels_are_all_weighed_by_their_own_density(n_draws: int) -> None:
    features = (
        Feature("sex", "binary", missing="impute"),
        Feature("job", "nominal", levels=("a", "b", "c"), missing="impute"),
        Feature("grade", "ordinal", levels=(1, 2, 4), missing="impute"),
        Feature("pay", missing="impute"),
    )
    encoding = Encoding(Schema(features, CausalGraph(("sex", "job", "grade", "pay"))))
    slope = torch.tensor([0.4, -0.3, 0.8, 0.1, 0.5, 0.2], dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    pool = torch.rand(50, 6, generator=draws, dtype=torch.float64).round()
    pool[:, 1:4] = torch.eye(3).double()[torch.randint(3, (50,), generator=draws)]
    imputation = Imputation(encoding, pool, lambda x, _: x @ slope, n_draws)
    x = torch.tensor([[NAN, NAN, NAN, NAN, 2.0, 7.0], [NAN, NAN, NAN, NAN, 4.0, -1.0]]).double()
    completed, weights = imputation.draws(x)
    assert completed.shape[1] == min(6, n_draws)
    assert len(torch.unique(completed[0], dim=0)) == 6
    # What was observed adds the same to every combination.
    torch.testing.assert_close(weights, (completed @ slope).softmax(dim=1))
    filled = imputation.fill(x)
    assert torch.equal(filled[:, :4], torch.tensor([[1.0, 0.0, 1.0, 0.0]] * 2).double())
    torch.testing.assert_close(filled[:, 4:], x[:, 4:])
