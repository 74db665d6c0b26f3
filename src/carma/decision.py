"""Whom a classifier accepts: from a threshold on, in a band, or all but a share of the people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from carma.errors import SettingsError

__all__ = ["Calibrated", "Decision"]

Calibrated = Literal["platt", "isotonic"]

# Bands are at least so wide: what rounding takes at two edges is far less.
NARROWEST = 1e-6


@dataclass(frozen=True)
class Decision:
    """Which probabilities of the favourable outcome are accepted; edges belong to them.

    Exactly one of ``threshold``, the pair ``at_least`` and ``at_most``, and ``reject_rate``.

    Args:
        threshold: From this probability on.
        at_least: Lower edge of a band.
        at_most: Upper edge of that band.
        reject_rate: Share of a table that is turned down; ``decided`` looks for the cut-off.
        calibrated: ``platt`` (also ``True``) or ``isotonic``: how ``decided`` calibrates the
            probabilities, on labelled rows, before threshold or band are asked.
        cut_off: Probability from which people are accepted so that ``reject_rate`` is met on
            that table; ``decided`` fills it in.

    Raises:
        SettingsError: None or several of the three are given, a number does not lie strictly
            between 0 and 1, a band has no width, or a reject rate is to be calibrated, which
            keeps the order of people and so would change nobody's answer.

    Example:
        >>> band = Decision(at_least=0.4, at_most=0.7)
        >>> band.accepts(torch.tensor([0.3, 0.4, 0.5, 0.7, 0.8], dtype=torch.float64)).tolist()
        [False, True, True, True, False]
        >>> band.say()
        'accepted between 40% and 70%'
        >>> Decision(threshold=0.6, reject_rate=0.3)
        Traceback (most recent call last):
        carma.errors.SettingsError: Decision: 'kind' must be exactly one of ...
    """

    threshold: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    reject_rate: float | None = None
    calibrated: Calibrated | bool = False
    cut_off: float | None = None

    def __post_init__(self) -> None:
        for name in ("threshold", "at_least", "at_most", "reject_rate", "cut_off"):
            self._check_share(name)
        kinds = {
            "threshold": self.threshold is not None,
            "at_least and at_most": self.at_least is not None or self.at_most is not None,
            "reject_rate": self.reject_rate is not None,
        }
        given = [name for name, is_given in kinds.items() if is_given]
        if len(given) != 1:
            rule = f"be exactly one of {', '.join(kinds)}"
            raise SettingsError.of("Decision", "kind", rule, given)
        if given == ["at_least and at_most"]:
            self._check_band()
        if self.cut_off is not None and self.reject_rate is None:
            rule = "be absent but for a reject_rate"
            raise SettingsError.of("Decision", "cut_off", rule, self.cut_off)
        if self.calibrated is True:
            object.__setattr__(self, "calibrated", "platt")
        if self.calibrated is not False and self.calibrated not in get_args(Calibrated):
            rule = "be true, false, platt or isotonic"
            raise SettingsError.of("Decision", "calibrated", rule, self.calibrated)
        if self.calibrated and self.reject_rate is not None:
            rule = "be absent with reject_rate: it keeps the order of people"
            raise SettingsError.of("Decision", "calibrated", rule, self.calibrated)

    @property
    def is_settled(self) -> bool:
        """True where it can be asked, and needs no table first."""
        return not self.calibrated and (self.reject_rate is None or self.cut_off is not None)

    @property
    def low(self) -> float:
        """Least probability that is accepted.

        Raises:
            SettingsError: The cut-off of a reject rate is not known yet.
        """
        for edge in (self.threshold, self.at_least, self.cut_off):
            if edge is not None:
                return edge
        rule = "be turned into a cut-off first: decided(classifier, decision, rows)"
        raise SettingsError.of("Decision", "reject_rate", rule, self.reject_rate)

    @property
    def high(self) -> float:
        """Greatest probability that is accepted; 1 where there is no upper edge."""
        return 1.0 if self.at_most is None else self.at_most

    def edges(self, margin: float = 0.0) -> tuple[float, float]:
        """Both edges as log-odds, moved inwards; the upper one is infinite where there is none.

        Args:
            margin: By how much, as a probability; see ``has_room``.

        Example:
            >>> Decision(threshold=0.5).edges()
            (0.0, inf)
        """
        low = self.low + margin
        if self.at_most is None:
            return math.log(low / (1 - low)), math.inf
        high = self.at_most - margin
        return math.log(low / (1 - low)), math.log(high / (1 - high))

    def has_room(self, margin: float) -> bool:
        """Whether any probability lies that far past every edge."""
        if self.at_most is None:
            return self.low + margin < 1
        return self.low + margin < self.at_most - margin

    def accepts(self, probability: Tensor) -> Tensor:
        """Who is accepted, bool; nobody whose probability is NaN.

        Args:
            probability: Of the favourable outcome, any shape.
        """
        enough = probability >= self.low
        return enough if self.at_most is None else enough & (probability <= self.at_most)

    def rejects(self, probability: Tensor) -> Tensor:
        """Who is turned down, bool; nobody whose probability is NaN.

        Args:
            probability: Of the favourable outcome, any shape.
        """
        short = probability < self.low
        return short if self.at_most is None else short | (probability > self.at_most)

    def ahead(self, logit: Tensor) -> Tensor:
        """Log-odds past the nearest edge, at least 0 where accepted; same shape.

        Args:
            logit: Log-odds of the favourable outcome, any shape.

        Example:
            >>> band = Decision(at_least=0.5, at_most=0.9)
            >>> logit = torch.tensor([-1.0, 0.5, 2.5], dtype=torch.float64)
            >>> band.ahead(logit).round(decimals=2).tolist()
            [-1.0, 0.5, -0.3]
        """
        low, high = self.edges()
        past = logit - low
        return past if self.at_most is None else torch.minimum(past, high - logit)

    def say(self) -> str:
        """The decision in words."""
        if self.at_most is not None:
            return f"accepted between {_percent(self.low)} and {_percent(self.high)}"
        if self.reject_rate is None:
            return f"accepted from {_percent(self.low)}"
        share = f"so that {_percent(self.reject_rate)} are turned down"
        found = "a cut-off" if self.cut_off is None else _percent(self.cut_off)
        return f"accepted from {found}, {share}"

    def _check_share(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        value = value.item() if getattr(value, "ndim", None) == 0 else value
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 < value < 1:
            rule = "lie strictly between 0 and 1"
            raise SettingsError.of("Decision", name, rule, value)
        object.__setattr__(self, name, float(value))

    def _check_band(self) -> None:
        for name, other in (("at_least", "at_most"), ("at_most", "at_least")):
            if getattr(self, name) is None:
                rule = f"be given with {other}; for one edge, give threshold"
                raise SettingsError.of("Decision", name, rule, None)
        low, high = cast("float", self.at_least), cast("float", self.at_most)
        if high - low < NARROWEST:
            rule = f"lie below at_most, {high:g}"
            raise SettingsError.of("Decision", "at_least", rule, low)


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"
