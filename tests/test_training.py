"""The fit loop: seeded, keeps the best state, leaves the world as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from carma.errors import SettingsError, TrainingError
from carma.training import History, TrainingSettings, check_widths, split_rows, train

SETTINGS = TrainingSettings(epochs=8, batch_size=16, learning_rate=0.05, seed=3)
ROWS = torch.linspace(-1, 1, 100, dtype=torch.float64)[:, None]


class Line(nn.Module):
    """y = a x + b with a buffer that counts, to be fitted to 2 x - 1."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.register_buffer("steps", torch.tensor(0))

    def loss(self, rows: Tensor) -> Tensor:
        self.steps.add_(1)
        x = ROWS[rows]
        return (self.weights[0] * x + self.weights[1] - (2 * x - 1)).square().mean()

    def score(self) -> float:
        return float((self.weights - torch.tensor([2.0, -1.0])).abs().sum())


def fit(settings: TrainingSettings = SETTINGS, **options: Any) -> tuple[Line, History]:
    line = Line()
    chosen: dict[str, Any] = {"loss": line.loss, "score": line.score, **options}
    return line, train(line, len(ROWS), settings=settings, progress=False, **chosen)


@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
def test_finds_the_minimum(schedule: Any) -> None:
    line, history = fit(replace(SETTINGS, epochs=60, schedule=schedule))
    torch.testing.assert_close(
        line.weights.detach(), torch.tensor([2.0, -1.0]).double(), atol=0.02, rtol=0
    )
    assert len(history.records) == 60
    assert history.seconds > 0


@pytest.mark.parametrize(("clip", "norm"), [(10.0, 10.0), (0.5, 0.5), (None, 2000.0)])
def test_the_gradient_is_cut_to_the_limit(clip: float | None, norm: float) -> None:
    line, norms = Line(), []

    def loss(rows: Tensor) -> Tensor:
        return 2000.0 * line.weights[0] + 0.0 * len(rows)

    def look() -> None:
        assert line.weights.grad is not None
        norms.append(float(line.weights.grad.norm()))

    settings = replace(SETTINGS, epochs=1)
    train(line, 32, loss, line.score, settings, clip=clip, after_step=look, progress=False)
    assert norms == pytest.approx([norm] * len(norms), rel=1e-4)


def test_a_seed_decides_everything() -> None:
    line, history = fit()
    again, same = fit()
    other, different = fit(replace(SETTINGS, seed=4))
    assert torch.equal(line.weights, again.weights)
    assert (history.records, history.best_epoch) == (same.records, same.best_epoch)
    assert not torch.equal(line.weights, other.weights)
    assert history.records != different.records


def test_every_row_is_seen_once_an_epoch_in_even_batches() -> None:
    seen: list[Tensor] = []
    line = Line()

    def loss(rows: Tensor) -> Tensor:
        seen.append(rows)
        return line.loss(rows)

    settings = replace(SETTINGS, epochs=2)
    train(line, len(ROWS), loss, line.score, settings, progress=False)
    assert [len(rows) for rows in seen] == 2 * [*([16] * 6), 4]
    epochs = torch.cat(seen).view(2, -1)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(len(ROWS)).expand(2, -1))
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "largest"),
    [(1, 1000, 1), (20, 1000, 20), (300, 1000, 37), (800, 16, 16), (80_000, 1000, 1000)],
)
def test_small_tables_use_smaller_batches(n_rows: int, batch_size: int, largest: int) -> None:
    sizes: list[int] = []
    line = Line()

    def loss(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return line.weights.sum()

    settings = TrainingSettings(epochs=1, batch_size=batch_size)
    train(line, n_rows, loss, line.score, settings, progress=False)
    assert (max(sizes), sum(sizes)) == (largest, n_rows)


def scripted(scores: list[float], line: Line, kept: list[Tensor]) -> Callable[[], float]:
    """Scores that follow a script; the state of each epoch goes to ``kept``."""

    def score() -> float:
        kept.append(line.weights.detach().clone())
        return scores[len(kept) - 1]

    return score


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, math.nan]), min_size=1, max_size=8))
def test_the_best_state_is_kept(scores: list[float]) -> None:
    line, kept = Line(), list[Tensor]()
    settings = replace(SETTINGS, epochs=len(scores), batch_size=50)
    score = scripted(scores, line, kept)
    if all(map(math.isnan, scores)):
        with pytest.raises(TrainingError, match="score were never finite"):
            train(line, len(ROWS), line.loss, score, settings, progress=False)
        assert not line.weights.any()
        return
    history = train(line, len(ROWS), line.loss, score, settings, progress=False)
    least = min(s for s in scores if not math.isnan(s))
    assert history.best_epoch == scores.index(least)
    assert torch.equal(line.weights, kept[history.best_epoch])
    assert line.steps == math.ceil(100 / 32) * (history.best_epoch + 1)
    assert [str(record["score"]) for record in history.records] == [str(s) for s in scores]


@pytest.mark.parametrize("n_epochs", [0, 2])
def test_a_loss_that_is_no_number_ends_the_fit_at_the_best_state(n_epochs: int) -> None:
    line, kept = Line(), list[Tensor]()

    def loss(rows: Tensor) -> Tensor:
        return line.loss(rows) * (math.nan if len(kept) == n_epochs else 1.0)

    score = scripted([1.0, 2.0], line, kept)
    if not n_epochs:
        with pytest.raises(TrainingError, match="lower the learning rate"):
            train(line, len(ROWS), loss, score, SETTINGS, progress=False)
        assert not line.weights.any()
        return
    history = train(line, len(ROWS), loss, score, SETTINGS, progress=False)
    assert (len(history.records), history.best_epoch) == (2, 0)
    assert torch.equal(line.weights, kept[0])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (50, 6)])
def test_patience_counts_from_the_best_epoch(patience: int, epochs: int) -> None:
    line, kept = Line(), list[Tensor]()
    score = scripted([3.0, 1.0, 2.0, 1.0, 1.5, 1.2], line, kept)
    settings = replace(SETTINGS, epochs=6, patience=patience)
    history = train(line, len(ROWS), line.loss, score, settings, progress=False)
    assert (len(history.records), history.best_epoch) == (epochs, 1)


@pytest.mark.parametrize("n_epochs", [0, 1, 3])
def test_an_interrupt_leaves_the_best_state_and_goes_on(n_epochs: int) -> None:
    line, kept = Line(), list[Tensor]()
    score = scripted([2.0, 1.0, 3.0], line, kept)

    def loss(rows: Tensor) -> Tensor:
        if len(kept) == n_epochs and line.steps % 7 == 2:
            raise KeyboardInterrupt
        return line.loss(rows)

    with pytest.raises(KeyboardInterrupt):
        train(line, len(ROWS), loss, score, SETTINGS, progress=False)
    states = [Line().weights.detach(), *kept]
    assert torch.equal(line.weights, states[min(n_epochs, 2)])
    assert line.steps == 7 * min(n_epochs, 2)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    fit()
    split_rows(50, 0.3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_hooks_see_every_step_and_epoch() -> None:
    line, steps = Line(), list[int]()
    history = train(
        line,
        len(ROWS),
        line.loss,
        line.score,
        SETTINGS,
        after_step=lambda: steps.append(1),
        log=lambda: {"n_steps": float(len(steps))},
        progress=False,
    )
    per_epoch = math.ceil(len(ROWS) / SETTINGS.batch_size)
    logged = [record["n_steps"] for record in history.records]
    assert logged == [per_epoch * (epoch + 1) for epoch in range(SETTINGS.epochs)]


def test_scores_are_taken_without_gradients_and_losses_averaged_over_rows() -> None:
    line = Line()
    is_on: list[bool] = []

    def score() -> float:
        is_on.append(torch.is_grad_enabled())
        return 0.0

    def loss(rows: Tensor) -> Tensor:
        return 0 * line.weights.sum() + rows.double().mean()

    history = train(line, len(ROWS), loss, score, SETTINGS, progress=False)
    assert is_on == [False] * SETTINGS.epochs
    assert [r["loss"] for r in history.records] == [pytest.approx(49.5)] * SETTINGS.epochs


def test_weight_decay_is_decoupled_from_the_gradient() -> None:
    line = Line()
    nn.init.constant_(line.weights, 4.0)
    settings = TrainingSettings(
        epochs=5, batch_size=100, schedule="constant", learning_rate=0.1, weight_decay=0.5
    )
    scores = iter(range(0, -5, -1))
    train(
        line,
        20,
        lambda _: 0 * line.weights.sum(),
        lambda: next(scores),
        settings,
        progress=False,
    )
    expected = torch.full((2,), 4 * (1 - 0.1 * 0.5) ** 5, dtype=torch.float64)
    torch.testing.assert_close(line.weights.detach(), expected)


@given(st.integers(2, 200), st.floats(0.001, 0.999), st.integers(0, 9))
def test_split_is_a_partition(n: int, fraction: float, seed: int) -> None:
    kept, held_out = split_rows(n, fraction, seed)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(n))
    assert min(len(kept), len(held_out)) >= 1
    assert abs(len(held_out) - n * fraction) <= 1
    again = split_rows(n, fraction, seed)
    assert torch.equal(again[0], kept)
    assert torch.equal(again[1], held_out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "'epochs' must be at least 1; got 0"),
        ({"epochs": 1.5}, "'epochs' must be at least 1; got 1.5"),
        ({"epochs": True}, "'epochs' must be at least 1; got True"),
        ({"batch_size": 0}, "'batch_size' must be at least 1; got 0"),
        ({"patience": 0}, "'patience' must be at least 1; got 0"),
        ({"seed": -1}, "'seed' must be at least 0; got -1"),
        ({"learning_rate": 0.0}, "'learning_rate' must be above 0; got 0.0"),
        ({"learning_rate": math.nan}, "'learning_rate' must be above 0; got nan"),
        ({"learning_rate": math.inf}, "'learning_rate' must be above 0; got inf"),
        ({"learning_rate": "0.1"}, "'learning_rate' must be above 0; got '0.1'"),
        ({"schedule": "cosine"}, "'schedule' must be onecycle or constant; got 'cosine'"),
        ({"weight_decay": -0.1}, "'weight_decay' must be at least 0; got -0.1"),
        ({"weight_decay": None}, "'weight_decay' must be at least 0; got None"),
        ({"validation_fraction": 0}, "strictly between 0 and 1; got 0"),
        ({"validation_fraction": 1.0}, "strictly between 0 and 1; got 1.0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainingSettings(**settings)


def test_bad_widths() -> None:
    check_widths("Net", "hidden", ())
    with pytest.raises(SettingsError, match="Net: 'hidden' must be at least 1; got 0"):
        check_widths("Net", "hidden", (8, 0))
