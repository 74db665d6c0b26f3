"""An Optuna study that goes on where it stopped (needs the extra ``tune``)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState

from carma.errors import FileError
from carma.evaluation.spaces import Between, Space
from carma.files import check_writable, write_whole

__all__ = ["Asked", "Finished", "Study", "quiet"]

NAME = "carma"
# Attributes of the study and of its trials.
MADE_FOR, GIVEN, MEASURED = "made_for", "given", "measured"
# How every line of a journal starts; tells one cut short from a file of something else.
START = b'{"op_code":'

Measured = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A trial to be made.

    Args:
        choices: Values by name.
        trial: Optuna's.
    """

    choices: dict[str, Any]
    trial: optuna.Trial


@dataclass(frozen=True)
class Finished:
    """A trial that was made.

    Args:
        choices: Values by name.
        measured: As told.
    """

    choices: dict[str, Any]
    measured: Measured


class Study:
    """Asks for trials by TPE, two objectives, and keeps what they reached in a journal.

    The journal is Optuna's: JSON lines, appended to, without pickle. Every trial is drawn with
    a seed of its own, made from the seed and the number of finished trials. So a study that was
    interrupted asks for the same trials as one that was not; what was begun and not finished is
    begun again.

    Args:
        space: The choices.
        made_for: What the study belongs to, as JSON, by part.
        seed: Of the draws.
        path: The journal; without it, nothing is kept.

    Raises:
        FileError: The file cannot be written, is no such journal, or belongs to something else.

    References:
        Ozaki et al. 2022, Multiobjective tree-structured Parzen estimator, JAIR 73. Akiba et al.
        2019, Optuna, KDD.

    Example:
        >>> study = Study({"width": (8, 16)}, {}, seed=0)
        >>> with quiet():
        ...     asked = study.ask()
        ...     study.tell(asked, {"error": "diverged"})
        >>> [sorted(done.choices) for done in study.finished]
        [['width']]
    """

    def __init__(
        self, space: Space, made_for: Mapping[str, Any], seed: int, path: str | Path | None = None
    ) -> None:
        self.seed = seed
        self.path = None if path is None else Path(path)
        self._space = {name: _distribution(values) for name, values in space.items()}
        with quiet():
            if self.path is None:
                self._study = _created(InMemoryStorage())
                self._study.set_user_attr(MADE_FOR, dict(made_for))
            else:
                self._open(self.path, dict(made_for))

    @property
    def given(self) -> Measured | None:
        """What the settings as given reached, once that was told."""
        return self._study.user_attrs.get(GIVEN)

    def tell_given(self, measured: Measured) -> None:
        """Keep what the settings as given reached."""
        self._study.set_user_attr(GIVEN, measured)

    @property
    def finished(self) -> list[Finished]:
        """Every trial told of, in order."""
        states = (TrialState.COMPLETE, TrialState.FAIL)
        trials = self._study.get_trials(deepcopy=False, states=states)
        return [Finished(dict(t.params), t.user_attrs[MEASURED]) for t in trials]

    def ask(self) -> Asked:
        """The next trial."""
        seeds = np.random.SeedSequence([self.seed, len(self.finished)])
        seed = int(seeds.generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=False)
        trial = self._study.ask(self._space)
        return Asked(dict(trial.params), trial)

    def tell(self, asked: Asked, measured: Measured) -> None:
        """Keep what a trial reached: ``cost_x100``, ``coverage``, or the ``error``.

        Args:
            asked: Of ``ask``.
            measured: As JSON.
        """
        asked.trial.set_user_attr(MEASURED, measured)
        if "error" in measured:
            self._study.tell(asked.trial, state=TrialState.FAIL)
        else:
            self._study.tell(asked.trial, [measured["cost_x100"], measured["coverage"]])

    def _open(self, path: Path, made_for: dict[str, Any]) -> None:
        check_writable(path)
        content = self._content(path)
        end = content.rfind(b"\n") + 1
        whole, rest = content[:end], content[end:]
        for part in (content, rest):
            if not (part.startswith(START) or START.startswith(part)):
                raise self._refused("be a study of carma tune")
        # Optuna takes its own journals for granted, and so fails in many ways on other files.
        try:
            lock = JournalFileOpenLock(str(path))
            storage = JournalStorage(JournalFileBackend(str(path), lock))
            exists = bool(storage.get_all_studies())
            if exists:
                self._study = optuna.load_study(study_name=NAME, storage=storage)
                self._check(made_for)
        except FileError:
            raise
        except Exception as error:
            raise self._refused(f"be a study of carma tune ({error!r})") from error
        if rest:
            # A killed run left it half-written.
            write_whole(path.resolve(), whole)
        if not exists:
            self._study = _created(storage)
        if MADE_FOR not in self._study.user_attrs:
            self._study.set_user_attr(MADE_FOR, made_for)

    def _check(self, made_for: dict[str, Any]) -> None:
        """Refuse a study of something else; one without a trial yet may be anybody's."""
        finished = self.finished
        found = self._study.user_attrs.get(MADE_FOR, made_for if not finished else {})
        differing = [name for name in made_for if found.get(name) != made_for[name]]
        if differing:
            rule = f"be a study of the same {', '.join(differing)}; name another file"
            raise self._refused(rule)
        for done in finished:
            if done.choices.keys() != self._space.keys():
                raise self._refused("be a study of carma tune, its trials complete")

    def _content(self, path: Path) -> bytes:
        if not path.exists():
            return b""
        if not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
            raise self._refused("be a regular file that can be read and written")
        return path.read_bytes()

    def _refused(self, rule: str) -> FileError:
        return FileError.of("study", "path", rule, str(self.path))


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing but errors in Optuna's log; afterwards as before."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _created(storage: BaseStorage) -> optuna.Study:
    directions = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    return optuna.create_study(storage=storage, study_name=NAME, directions=directions)


def _distribution(values: Between | range | tuple[int, ...]) -> BaseDistribution:
    if isinstance(values, Between):
        return FloatDistribution(values.low, values.high, log=values.is_log)
    if isinstance(values, range):
        return IntDistribution(values[0], values[-1], step=values.step)
    return CategoricalDistribution(values)
