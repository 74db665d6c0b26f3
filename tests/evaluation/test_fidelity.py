"""What a model's error is, on models whose error is known."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from carma import CausalGraph, Feature, Intervention, Schema, StructuralCausalModel
from carma.benchmarks import load
from carma.evaluation.fidelity import Fidelity, random_interventions
from carma.models.scm import linear
from carma.table import Statistics


def chain(slope: float) -> StructuralCausalModel:
    """b = slope * a + u."""
    features = (Feature("a", role="actionable"), Feature("b"))
    schema = Schema(features, CausalGraph.from_edges([("a", "b")]))
    noise = torch.distributions.Normal(0.0, 1.0)
    model = StructuralCausalModel(
        schema, {"a": linear({}, noise), "b": linear({"a": slope}, noise)}
    )
    model.statistics_ = Statistics.of(model.sample(5_000, seed=0))
    return model


def test_the_error_of_a_wrong_slope_is_known() -> None:
    truth, wrong = chain(1.0), chain(1.5)
    x = truth.sample(20_000, seed=1)
    found = Fidelity.of(wrong, truth, x)
    do = random_interventions(wrong, x, seed=0)
    # b is off by half of how far a moves.
    shift = (do.values - x)[:, 0][do.mask[:, 0]]
    expected = 0.5 * float(shift.square().mean().sqrt()) / float(wrong.statistics_.std[1])
    assert found.rmse == {"b": pytest.approx(expected, rel=1e-6)}
    # Laws hold for wrong equations too.
    assert max(found.own_values, found.composition, found.round_trip) < 1e-12


def test_the_truth_fits_better_than_a_wrong_model() -> None:
    truth = chain(1.0)
    x = truth.sample(5_000, seed=1)
    right, wrong = (Fidelity.of(model, truth, x) for model in (truth, chain(1.5)))
    assert right.log_prob > wrong.log_prob
    entropy = math.log(2 * math.pi * math.e)
    assert right.log_prob == pytest.approx(-entropy, abs=0.05)


def test_a_binary_root_counts_as_the_paper_counts_it() -> None:
    data = load("loan", rows=2_000)
    x = data.encoded("causal", "test")
    found = Fidelity.of(data.scm, data.scm, x)
    share = float(data.scm.statistics_.mean[0])
    ones = float(x[:, 0].mean())
    probability = ones * math.log(share) + (1 - ones) * math.log(1 - share)
    spread = math.sqrt(share * (1 - share))
    away = (x[:, 0] - share) / spread
    normal = float(-away.square().mean() / 2) - math.log(spread * math.sqrt(2 * math.pi))
    assert found.log_prob_normal_root - found.log_prob == pytest.approx(
        normal - probability, abs=1e-6
    )


def test_broken_laws_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, broken = chain(1.0), chain(1.0)
    x = truth.sample(2_000, seed=1)
    std = broken.statistics_.std

    def counterfactual(
        model: StructuralCausalModel, x: Tensor, do: Intervention, u: Tensor | None = None
    ) -> Tensor:
        return torch.where(do.mask, do.values, truth.counterfactual(x, do) + 0.1 * std)

    monkeypatch.setattr(broken, "counterfactual", partial(counterfactual, broken))
    found = Fidelity.of(broken, truth, x)
    assert found.rmse["b"] == pytest.approx(0.1)
    assert found.own_values == pytest.approx(0.1)
    assert found.round_trip < 1e-12


def test_interventions_are_random_sets_at_values_of_others() -> None:
    data = load("loan", rows=400)
    x = data.encoded("causal")
    do = random_interventions(data.scm, x, seed=3)
    columns = data.encoding.actionable
    assert not do.mask[:, [i for i in range(7) if i not in columns.tolist()]].any()
    assert do.mask[:, columns].double().mean() == pytest.approx(0.5, abs=0.1)
    for i in columns.tolist():
        assert torch.isin(do.values[do.mask[:, i], i], x[:, i]).all()
    again = random_interventions(data.scm, x, seed=3)
    assert torch.equal(do.mask, again.mask)
    assert not torch.equal(do.mask, random_interventions(data.scm, x, seed=4).mask)
