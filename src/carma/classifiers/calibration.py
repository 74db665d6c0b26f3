"""From the log-odds that a classifier gives to those that labelled rows bear out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special
from torch import Tensor

from carma.decision import Calibrated
from carma.errors import ClassifierError

__all__ = ["Calibration"]

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A rising function of log-odds, linear between its knots and beyond them.

    Args:
        given: The classifier's log-odds at the knots, rising, shape ``(k,)``.
        meant: What they stand for, rising, shape ``(k,)``.
        slope: Beyond the first and the last knot, above 0.

    Example:
        >>> knots = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.0])
        >>> Calibration(*knots, 1.0)(torch.tensor([-1.0, 0.5, 2.0])).tolist()
        [-1.0, 1.5, 4.0]
    """

    given: Tensor
    meant: Tensor
    slope: float

    @classmethod
    def fitted(cls, kind: Calibrated, logit: Tensor, is_favourable: Tensor) -> Calibration:
        """Fit one to labelled rows that the classifier was not trained on.

        Args:
            kind: ``platt``: a straight line, by likelihood. ``isotonic``: through the steps of
                the rising function that comes nearest to the labels; needs more rows.
            logit: The classifier's log-odds, finite, shape ``(n,)``.
            is_favourable: The outcomes, bool, shape ``(n,)``, of both kinds.

        Raises:
            ClassifierError: The favourable outcome does not get more frequent as they rise.

        References:
            Platt 1999, Probabilistic outputs for support vector machines, for line and targets;
            Zadrozny & Elkan 2002, doi 10.1145/775047.775151, for isotonic regression.
        """
        score, y = logit.double().numpy(), is_favourable.numpy()
        fitted = cls._line(score, y) if kind == "platt" else cls._steps(score, y)
        if fitted is None:
            rule = (
                "rise with the share of favourable outcomes on the rows to calibrate on; do its "
                "scores stand for the other class?"
            )
            raise ClassifierError.of("Calibration", "classifier", rule, f"{len(score)} rows")
        return fitted

    @property
    def line(self) -> tuple[float, float] | None:
        """Slope and offset where it is a straight line, else ``None``."""
        if len(self.given) > 1:
            return None
        return self.slope, self.meant.item() - self.slope * self.given.item()

    def __call__(self, logit: Tensor) -> Tensor:
        """Calibrated log-odds, differentiable, any shape."""
        x, y = self.given, self.meant
        inside = logit.clamp(x[0].item(), x[-1].item())
        beyond = self.slope * (logit - inside)
        if len(x) == 1:
            return y[0] + beyond
        right = torch.searchsorted(x, inside.detach().contiguous()).clamp(1, len(x) - 1)
        share = (inside - x[right - 1]) / (x[right] - x[right - 1])
        return y[right - 1] + share * (y[right] - y[right - 1]) + beyond

    @classmethod
    def _line(cls, score: Numbers, y: NDArray[np.bool_]) -> Calibration | None:
        n_good, n_bad = int(y.sum()), int((~y).sum())
        # Not 1 and 0: else rows that a line tells apart would make it infinitely steep.
        target = np.where(y, (n_good + 1) / (n_good + 2), 1 / (n_bad + 2))
        centre, scale = score.mean(), score.std()
        if scale == 0:
            return None
        seen = (score - centre) / scale

        def loss(line: Numbers) -> tuple[float, Numbers]:
            logit = line[0] * seen + line[1]
            error = (special.expit(logit) - target) / len(seen)
            entropy = np.logaddexp(0, logit) - target * logit
            return float(entropy.mean()), np.array([error @ seen, error.sum()])

        slope, offset = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
        if not slope > FLAT:
            return None
        given, meant = torch.tensor([[centre], [offset]], dtype=torch.float64)
        return cls(given, meant, float(slope / scale))

    @classmethod
    def _steps(cls, score: Numbers, y: NDArray[np.bool_]) -> Calibration | None:
        # People with one score have one answer.
        level, place, count = np.unique(score, return_inverse=True, return_counts=True)
        share = np.bincount(place, weights=y) / count
        regression = optimize.isotonic_regression(share, weights=count)
        starts = regression.blocks[:-1]
        if len(starts) < 2:
            return None
        rows = np.add.reduceat(count, starts)
        centre = np.add.reduceat(level * count, starts) / rows
        # A share of 0 or 1 in few rows is no certainty.
        least = 0.5 / len(score)
        meant = special.logit(regression.x[starts].clip(least, 1 - least))
        return cls(torch.from_numpy(centre), torch.from_numpy(meant), 1.0)


# Change of log-odds by a standard deviation of the scores that counts as none.
FLAT = 1e-6
