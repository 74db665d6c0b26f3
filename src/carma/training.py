"""The one fit loop: minibatches, a held-out score, the best state kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from carma.errors import SettingsError, TrainingError
from carma.progress import track
from carma.state import seeded

__all__ = ["History", "TrainingSettings", "split_rows", "train"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is fitted.

    Args:
        epochs: Passes over the training rows at most.
        batch_size: Rows a step at most; small tables use smaller batches.
        learning_rate: AdamW's, or the peak of the schedule.
        schedule: ``onecycle`` (Smith & Topin 2019, arXiv 1708.07120) or ``constant``.
        weight_decay: AdamW's.
        validation_fraction: Share of rows held out to choose the best epoch.
        patience: Epochs without a better held-out score before the loop stops.
        seed: Of the split, the batches, the initial weights and all noise.

    Raises:
        SettingsError: A number is out of range.

    Example:
        >>> TrainingSettings(epochs=0)
        Traceback (most recent call last):
        carma.errors.SettingsError: TrainingSettings: 'epochs' must be at least 1; got 0
    """

    epochs: int = 100
    batch_size: int = 1000
    learning_rate: float = 5e-3
    schedule: Literal["onecycle", "constant"] = "onecycle"
    weight_decay: float = 0.0
    validation_fraction: float = 0.1
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in ("epochs", "batch_size", "patience"):
            check_at_least(owner, name, getattr(self, name), 1)
        check_at_least(owner, "seed", self.seed, 0)
        ranges: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
            ("learning_rate", "be above 0", lambda v: 0 < v < math.inf),
            ("weight_decay", "be at least 0", lambda v: 0 <= v < math.inf),
            ("validation_fraction", "lie strictly between 0 and 1", lambda v: 0 < v < 1),
        )
        for name, rule, holds in ranges:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not holds(value):
                raise SettingsError.of(owner, name, rule, value)
        if self.schedule not in ("onecycle", "constant"):
            raise SettingsError.of(owner, "schedule", "be onecycle or constant", self.schedule)

    def rows_a_step(self, n_rows: int) -> int:
        """Rows of each batch of a table with ``n_rows``."""
        return max(1, min(self.batch_size, max(32, n_rows // 8)))


@dataclass
class History:
    """What happened during a fit, one record an epoch.

    Attributes:
        records: ``{"loss": ..., "score": ..., ...}`` for each epoch.
        best_epoch: The epoch (from 0) whose state was kept.
        seconds: Wall time of the loop.
    """

    records: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0


def train(
    module: nn.Module,
    n_rows: int,
    loss: Callable[[Tensor], Tensor],
    score: Callable[[], float],
    settings: TrainingSettings,
    *,
    clip: float | None = 10.0,
    after_step: Callable[[], None] | None = None,
    log: Callable[[], dict[str, float]] | None = None,
    description: str = "fit",
    progress: bool | None = None,
) -> History:
    """Minimise ``loss`` by AdamW and keep the state with the least held-out ``score``.

    Args:
        module: Its parameters are changed in place.
        n_rows: Number of training rows.
        loss: Row positions ``(b,)`` to a scalar.
        score: Held-out score, called without gradients after each epoch; lower is better.
        settings: Epochs, batches, learning rate, seed.
        clip: Largest norm of the gradient of all parameters; ``None`` is without limit.
        after_step: Called after each optimiser step (for multipliers).
        log: Extra numbers for the epoch's record.
        description: Shown before the progress bar.
        progress: See ``track``.

    Returns:
        The history. An interrupt (Ctrl-C) leaves the module with the best state so far and
        goes on to the caller.

    Raises:
        TrainingError: The held-out score was never a finite number.
    """
    batch = settings.rows_a_step(n_rows)
    steps = math.ceil(n_rows / batch)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
    )
    schedule = _schedule(optimiser, settings, steps)
    generator = seeded(settings.seed)
    history, best, best_state = History(), math.inf, deepcopy(module.state_dict())
    start = time.perf_counter()
    try:
        for epoch in track(
            range(settings.epochs), description, total=settings.epochs, show=progress
        ):
            total = 0.0
            order = torch.randperm(n_rows, generator=generator)
            for rows in torch.split(order, batch):
                optimiser.zero_grad()
                value = loss(rows)
                torch.autograd.backward(value)
                if clip is not None:
                    nn.utils.clip_grad_norm_(parameters, clip)
                optimiser.step()
                schedule.step()
                if after_step is not None:
                    after_step()
                total += float(value.detach()) * len(rows)
            if not math.isfinite(total):
                break
            with torch.no_grad():
                reached = score()
            extra = log() if log is not None else {}
            history.records.append({"loss": total / n_rows, "score": reached, **extra})
            if reached < best:
                best, best_state = reached, deepcopy(module.state_dict())
                history.best_epoch = epoch
            elif epoch - history.best_epoch >= settings.patience:
                break
    finally:
        module.load_state_dict(best_state)
        history.seconds = time.perf_counter() - start
    if math.isinf(best):
        raise TrainingError(
            f"{description}: loss and held-out score were never finite numbers; "
            "look for extreme values in the table or lower the learning rate"
        )
    return history


def split_rows(n: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split row positions at random.

    Args:
        n: Number of rows, at least 2.
        fraction: Share of the second part; each part gets at least one row.
        seed: Of the shuffle.

    Returns:
        Positions of the training part and of the held-out part.

    Example:
        >>> [len(part) for part in split_rows(10, 0.2, seed=0)]
        [8, 2]
    """
    held_out = min(max(1, round(n * fraction)), n - 1)
    order = torch.randperm(n, generator=seeded(seed))
    return order[held_out:], order[:held_out]


def check_at_least(owner: str, name: str, value: int, least: int) -> None:
    """Raise ``SettingsError`` unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingsError.of(owner, name, f"be at least {least}", value)


def check_widths(owner: str, name: str, widths: tuple[int, ...]) -> None:
    """Raise ``SettingsError`` unless every layer width is a whole number of at least 1."""
    for width in widths:
        check_at_least(owner, name, width, 1)


def _schedule(
    optimiser: torch.optim.Optimizer, settings: TrainingSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0, total_iters=0)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=settings.learning_rate, total_steps=steps * settings.epochs + 1
    )
