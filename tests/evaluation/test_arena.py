"""Variants of an arena change what they say and nothing else."""

from __future__ import annotations

import pytest
import torch

from carma import ClassifierSettings, FlowSettings, TrainingSettings
from carma.benchmarks import load
from carma.errors import SettingsError
from carma.evaluation.arena import Arena
from carma.evaluation.comparison import Attempt
from carma.evaluation.methods import METHODS
from carma.problem import Problem
from carma.recourse.dice_vae import DiceVae, DiceVaeSettings
from carma.recourse.published import PublishedCarma, PublishedSettings

WEIGHTS = {"education": 3.0, "loan_amount": 2.0, "income": 2.0, "savings": 1.0}


@pytest.fixture(scope="module")
def base() -> Arena:
    data, quick = load("loan", rows=300), TrainingSettings(epochs=4)
    problem = Problem(
        data.schema,
        classifier=ClassifierSettings((), quick),
        causal_model=FlowSettings(hidden=(4,), training=quick, alternatives=0),
    )
    return Arena(data, problem.with_seed(2), n_people=20)


def test_a_variant_shares_people_classifier_and_causal_model(base: Arena) -> None:
    other = base.variant(weights=WEIGHTS, fraction=0.5)
    assert other.classifier is base.classifier
    assert other.causal_model is base.causal_model
    assert torch.equal(other.people, base.people)
    assert other.seconds == base.seconds
    assert set(other.seconds) == {"classifier", "causal_model"}


def test_weights_multiply_prices(base: Arena) -> None:
    other = base.variant(weights=WEIGHTS)
    x = base.people
    mask = torch.zeros_like(x, dtype=torch.bool)
    for name, weight in WEIGHTS.items():
        i = base.data.encoding.column(name)
        one = mask.clone()
        one[:, i] = True
        plain, weighted = (arena.cost(x, one, x + 1.0) for arena in (base, other))
        torch.testing.assert_close(weighted, weight * plain)
    assert (other.optimum() >= base.optimum() - 1e-9).all()


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_a_fraction_takes_the_first_rows(base: Arena, share: float) -> None:
    rows = base.variant(fraction=share).training
    assert len(rows) == max(1, round(share * len(base.training)))
    assert torch.equal(rows, base.training[: len(rows)])


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(base: Arena, share: float) -> None:
    with pytest.raises(SettingsError, match="'fraction' must be above 0 and at most 1"):
        base.variant(fraction=share)


def test_the_published_settings_follow_the_variant(base: Arena) -> None:
    for arena, name in ((base, "loan"), (base.variant(weights=WEIGHTS), "loan-weighted")):
        solver = METHODS["carma-published"].make(arena, None)
        assert isinstance(solver, PublishedCarma)
        expected = PublishedSettings.table_5(name)
        assert solver.settings.mask_hidden == expected.mask_hidden
        assert solver.settings.training.learning_rate == expected.training.learning_rate
        assert solver.settings.training.seed == 2
    solver = METHODS["dice-vae-published"].make(base, None)
    assert isinstance(solver, DiceVae)
    assert solver.settings.margin == DiceVaeSettings.table_4("loan").margin
    with pytest.raises(SettingsError, match="'name' must be one of triangle-lin"):
        DiceVaeSettings.table_4("lone")


def test_an_attempt_prices_with_the_variants_cost(base: Arena) -> None:
    other = base.variant(weights=WEIGHTS)
    attempt = Attempt.of(other, METHODS["exact-true"])
    record = attempt.record()
    assert record["cost_ratio"] == pytest.approx(1.0)
    assert record["cost_x100"] == pytest.approx(100 * float(other.optimum().nanmean()))
