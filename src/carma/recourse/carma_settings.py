"""Settings of CARMA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from carma.errors import SettingsError
from carma.training import TrainingSettings, check_at_least, check_widths

__all__ = ["CarmaSettings"]


@dataclass(frozen=True)
class CarmaSettings:
    """Settings of CARMA; the defaults serve every set.

    Args:
        candidates: Sets of features tried for each person, the likeliest ones; with steps, the
            first also from where the person stands.
        refine_steps: Sequential quadratic steps from each proposal. With one candidate and no
            steps, an answer is one forward pass and its check.
        fallback: Search for the people for whom that finds nothing.
        validity: Probability with which plans shall hold under the true mechanisms, given what
            the data leave open about them: it decides how far past the threshold each plan goes.
        lessons: Rejected people at most whose best plans are learned from; each one twice, as
            they are and with random wishes.
        precedents: Finished plans at most that are kept, and tried on other people, where
            slopes mislead (discrete effects, classifiers without slopes); at most half as many as
            ``lessons``. With them, standardised rows of their people become part of the state.
        mask_hidden: Hidden widths of the mask network, and of the margin network.
        action_hidden: Hidden widths of the action network.
        forecast_hidden: Hidden widths of the network that foresees what plans bring, with
            ``precedents``.
        compile: Compile the training step by ``torch.compile``; pays off for long trainings only
            and needs a C++ compiler.
        training: Epochs, batches, learning rate, seed of learning from these.
        rehearsal: Of improving single forward passes afterwards; its seed is not read.

    Raises:
        SettingsError: A value is out of range.
    """

    candidates: int = 3
    refine_steps: int = 4
    fallback: bool = True
    validity: float = 0.999
    lessons: int = 4000
    precedents: int = 2000
    mask_hidden: tuple[int, ...] = (64, 64)
    action_hidden: tuple[int, ...] = (128, 128, 128)
    forecast_hidden: tuple[int, ...] = (96, 96)
    compile: bool = False
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            epochs=60, batch_size=256, learning_rate=3e-3, patience=60, validation_fraction=0.1
        )
    )
    rehearsal: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            epochs=110, batch_size=256, learning_rate=4e-3, patience=110, validation_fraction=0.1
        )
    )

    def __post_init__(self) -> None:
        for name in ("mask_hidden", "action_hidden", "forecast_hidden"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            check_widths("CarmaSettings", name, getattr(self, name))
        for name, least in (
            ("candidates", 1),
            ("refine_steps", 0),
            ("lessons", 2),
            ("precedents", 0),
        ):
            check_at_least("CarmaSettings", name, getattr(self, name), least)
        rules = {"validity": (0.5 <= self.validity < 1, "be at least 0.5 and below 1")}
        SettingsError.require(self, rules)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> CarmaSettings:
        """Undo ``dataclasses.asdict``."""
        content = dict(content)
        training = TrainingSettings(**content.pop("training"))
        rehearsal = TrainingSettings(**content.pop("rehearsal"))
        return cls(**content, training=training, rehearsal=rehearsal)
