"""Which settings of a solver are tuned, and over which values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from carma.recourse.carma_settings import CarmaSettings
from carma.recourse.published import PublishedSettings

__all__ = ["Between", "Settings", "Space", "chosen", "space_of"]

Settings = CarmaSettings | PublishedSettings


@dataclass(frozen=True)
class Between:
    """A real number of an interval.

    Args:
        low: Least value.
        high: Greatest value.
        is_log: Whether equal ratios, not equal differences, are equally likely at first.
    """

    low: float
    high: float
    is_log: bool = False


# Name of a choice to its values: an interval, evenly spaced whole numbers, or a few numbers.
Space = Mapping[str, Between | range | tuple[int, ...]]

# Majumdar & Valera 2024, CARMA, appendix E.3.
PUBLISHED: Space = {
    "training.learning_rate": Between(1e-5, 1e-1, is_log=True),
    "training.epochs": range(100, 501, 50),
    "training.batch_size": (8, 16, 32, 64, 128, 256),
    "mask_layers": range(1, 4),
    "mask_width": (8, 16, 32),
    "action_layers": range(2, 5),
    "action_width": (8, 16, 32),
    "margin": Between(0.001, 0.02),
    "temperature": Between(0.01, 1.0),
}
# The networks and how they learn. Effort (candidates, refine_steps, lessons) is left alone: more
# of it is never dearer, and no objective sees its time. So is validity: less of it is always
# cheaper, and no objective sees the plans that fail.
CARMA: Space = {
    "training.learning_rate": Between(5e-4, 2e-2, is_log=True),
    "training.epochs": range(20, 121, 20),
    "rehearsal.learning_rate": Between(5e-4, 2e-2, is_log=True),
    "rehearsal.epochs": range(20, 201, 20),
    "mask_layers": range(1, 4),
    "mask_width": (16, 32, 64, 128),
    "action_layers": range(2, 5),
    "action_width": (32, 64, 128, 256),
}


def space_of(settings: Settings) -> Space:
    """The choices to be made for a solver: the paper's for the published method.

    Args:
        settings: Of the solver.

    Example:
        >>> space_of(PublishedSettings())["action_width"], "margin" in space_of(CarmaSettings())
        ((8, 16, 32), False)
    """
    return CARMA if isinstance(settings, CarmaSettings) else PUBLISHED


def chosen(given: Settings, choices: Mapping[str, Any]) -> Settings:
    """Settings with choices put in.

    Args:
        given: What no choice names stays as it is here.
        choices: A value for every name of ``space_of(given)``. Patience becomes the number of
            epochs, so that none of them is cut off.

    Raises:
        SettingsError: A value is out of range.
        KeyError: A choice is missing.

    Example:
        >>> values = {name: 4 for name in space_of(CarmaSettings())}
        >>> settings = chosen(CarmaSettings(), values)
        >>> settings.mask_hidden, settings.training.epochs, settings.candidates
        ((4, 4, 4, 4), 4, 3)
    """
    changes: dict[str, Any] = {
        f"{network}_hidden": (choices[f"{network}_width"],) * choices[f"{network}_layers"]
        for network in ("mask", "action")
    }
    parts = dict[str, dict[str, Any]]()
    for name in space_of(given):
        part, _, key = name.partition(".")
        if key:
            parts.setdefault(part, {})[key] = choices[name]
        elif hasattr(given, name):
            changes[name] = choices[name]
    for part, values in parts.items():
        changes[part] = replace(getattr(given, part), patience=values["epochs"], **values)
    return replace(given, **changes)
