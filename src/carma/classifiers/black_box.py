"""Any classifier that scores rows in original units: nothing else of it is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.errors import BundleError, CarmaError, ClassifierError
from carma.schema import Schema
from carma.state import State

__all__ = ["BlackBoxClassifier", "ScoreOf", "check_score_of"]

Score = Callable[[pd.DataFrame], Any]
DirectScore = Callable[[NDArray[np.float64]], Any]
ScoreOf = Literal["favourable", "unfavourable"]

# Probabilities closer than this to 0 or 1 count as that close: log-odds of 14.
EPS = 1e-6
# A float32 softmax may sum to a little more than 1.
SLACK = 1e-6
# Log-odds by which the two sides of an edge of the decision are kept apart.
HAIR = 1e-9
# Rows by which a bundle knows the classifier again, and how far answers may be apart.
PROBES = 32
TOLERANCE = 1e-6
# Digits of one less a probability.
DIGITS = 15
# Rows named where the classifier raises.
NAMED = 3


class BlackBoxClassifier(Classifier):
    """A function from tables to probabilities, without slopes.

    ``Carma`` learns from a surrogate of it and refines and checks every plan on the function
    itself; ``ExactSolver`` and ``GridOracle`` search without slopes.

    Args:
        schema: The problem.
        score: Takes a DataFrame in original units, the schema's features as columns in the
            schema's order, and gives the probability of the favourable outcome, one number a
            row. A row's answer must not depend on the other rows; equal rows are asked about
            once. NaN stands for "unknown": such a person gets the status ``undefined``. Where a
            feature has ``missing = "pass"``, the DataFrame may have NaN in its column.
        score_of: ``unfavourable`` where ``score`` gives a risk: the probability of the outcome
            that people fear. One less that is then the probability here.
        direct: A faster way to the same numbers, which takes rows of model space, shape
            ``(n, d)``, instead of a DataFrame. It is asked first; where it raises, ``score`` is.

    Raises:
        ClassifierError: ``score`` is not callable, or ``score_of`` is neither of the two; later,
            when it is asked: it raises, gives another number of answers, or something that is no
            probability.

    Example:
        >>> from carma import CausalGraph, Feature
        >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
        >>> classifier = BlackBoxClassifier(schema, lambda rows: rows["income"] >= 40)
        >>> classifier.probability(torch.tensor([[30.0], [50.0]])).round(decimals=3).tolist()
        [0.0, 1.0]
    """

    kind: ClassVar[str] = "black_box"
    has_slope: bool = False
    takes_gaps: ClassVar[bool] = True

    def __init__(
        self,
        schema: Schema,
        score: Score,
        *,
        score_of: ScoreOf = "favourable",
        direct: DirectScore | None = None,
    ) -> None:
        super().__init__(schema)
        is_function: bool = callable(score)
        if not is_function:
            rule = "be callable: rows of a DataFrame to probabilities"
            raise ClassifierError.of("BlackBoxClassifier", "score", rule, score)
        check_score_of("BlackBoxClassifier", score_of)
        self._score, self.score_of, self._direct = score, score_of, direct
        self._probe: tuple[Tensor, Tensor] | None = None

    def check_on(self, x: Tensor) -> None:
        """See ``Classifier.check_on``; some of the rows are kept, to know the classifier by."""
        super().check_on(x)
        rows = x[:PROBES].detach().clone().double()
        self._probe = rows, self.probability(rows)

    def state(self) -> State:
        """Rows and their probabilities, by which a bundle knows the classifier again: no code.

        Raises:
            BundleError: It has not been tried on any rows yet.
        """
        if self._probe is None:
            rule = "have been tried on rows: call fit of the solver, or check_on"
            raise BundleError.of("BlackBoxClassifier", "classifier", rule, None)
        rows, probability = self._probe
        return State({}, {"rows": rows.clone(), "probability": probability.clone()})

    @classmethod
    def from_state(cls, schema: Schema, state: State, own: Classifier | None = None) -> Self:
        """Know a classifier again.

        Args:
            schema: The problem.
            state: What ``state`` returned.
            own: The classifier that was saved, which a bundle cannot hold.

        Raises:
            BundleError: ``own`` is absent, no black box, of another schema, or gives other
                probabilities for the rows that were kept.
        """
        if own is None:
            rule = (
                "be handed in, as carma.load(path, classifier=...): a bundle holds no code, and "
                "this classifier is known by its answers only"
            )
            raise BundleError.of("load", "classifier", rule, None)
        if not isinstance(own, cls):
            raise BundleError.of("load", "classifier", f"be a {cls.__name__}", own)
        if own.schema != schema:
            rule = "have the schema of the bundle"
            raise BundleError.of("load", "classifier", rule, own.schema.names)
        rows, saved = state.tensors["rows"], state.tensors["probability"]
        given = own.probability(rows)
        apart = float((given - saved).abs().max())
        if not apart <= TOLERANCE:
            rule = (
                f"be the one that was saved: on the {len(rows)} rows that were kept, "
                "probabilities differ by up to"
            )
            raise BundleError.of("load", "classifier", rule, apart)
        own._probe = rows, saved
        return own

    def _logit(self, x: Tensor) -> Tensor:
        exact = x.detach().double()
        is_real = np.isfinite(exact.numpy()).all(axis=1)
        if not is_real.all():
            is_real = (exact.isfinite() | self.encoding.passed(exact)).all(dim=1).numpy()
        places = torch.from_numpy(np.flatnonzero(is_real))
        probability = torch.full((len(x),), torch.nan, dtype=torch.float64)
        if len(places):
            probability[places] = self._answers(exact[places], places)
        logit = torch.logit(probability, eps=EPS)
        # Where p is an edge itself, the way to log-odds and back must not decide.
        low, high = self.decision.edges()
        hair = HAIR / (1 - self.decision.low)
        is_enough = probability >= self.decision.low
        logit = torch.where(is_enough, logit.clamp(min=low + hair), logit.clamp(max=low - hair))
        if math.isinf(high):
            return logit
        hair = HAIR / (1 - self.decision.high)
        is_more = probability > self.decision.high
        return torch.where(is_more, logit.clamp(min=high + hair), logit.clamp(max=high - hair))

    def _answers(self, x: Tensor, places: Tensor) -> Tensor:
        """Probabilities of rows without gaps but those that are passed, shape ``(n,)``."""
        first, which = _distinct(x)
        answer = self._asked(x[first], places[first])
        return torch.from_numpy(self._checked(answer, len(first)))[which]

    def _asked(self, x: Tensor, places: Tensor) -> Any:
        if self._direct is not None:
            # Where it raises, the table tells on which row.
            with suppress(Exception):
                return self._direct(x.numpy())
        frame = self.encoding.decode(x)
        try:
            return self._score(frame)
        except CarmaError:
            raise
        except Exception as error:
            raise self._refusal(frame, places, error) from error

    def _checked(self, answer: Any, n: int) -> NDArray[np.float64]:
        """Probabilities of the favourable outcome, from an answer about ``n`` rows."""
        owner, argument = "BlackBoxClassifier", "score"
        try:
            scores = np.asarray(answer, dtype=np.float64)
        except (TypeError, ValueError) as error:
            rule = f"give numbers ({error})"
            raise ClassifierError.of(owner, argument, rule, type(answer).__name__) from error
        if scores.shape != (n,):
            rule = (
                f"give shape ({n},), one number a row; of several class columns, the favourable one"
            )
            raise ClassifierError.of(owner, argument, rule, scores.shape)
        outside = (scores < -SLACK) | (scores > 1 + SLACK)
        if outside.any():
            rule = "give probabilities, between 0 and 1: for log-odds s, 1 / (1 + exp(-s))"
            raise ClassifierError.of(owner, argument, rule, scores[outside][0])
        scores = scores.clip(0, 1)
        # 1 - 0.7 is to be 0.3, not a hair more: edges are inside.
        return scores if self.score_of == "favourable" else np.round(1 - scores, DIGITS)

    def _refusal(self, frame: pd.DataFrame, places: Tensor, error: Exception) -> ClassifierError:
        said = f"{type(error).__name__}: {error}"
        bad = self._raising(frame, 0)
        if not bad:
            rule = f"answer for {len(frame)} rows at once; it raises {said}"
            return ClassifierError.of("BlackBoxClassifier", "score", rule, len(frame))
        rows = ", ".join(str(int(places[row])) for row in bad)
        gaps = frame.columns[frame.iloc[bad].isna().any()].tolist()
        advice = f"; where it takes no gaps, declare missing = 'impute' for {gaps}" if gaps else ""
        rule = (
            "answer for every row that the schema allows: give the features the bounds or levels "
            "that it was fitted on, give from_estimator the rows for their column types, or let it "
            f"give NaN where it knows nothing{advice}; it raises on row {rows} (the first ones, "
            f"counted from 0): {said}"
        )
        return ClassifierError.of("BlackBoxClassifier", "score", rule, frame.iloc[bad[0]].to_dict())

    def _raising(self, frame: pd.DataFrame, start: int) -> list[int]:
        """The first rows that raise by themselves, found by halving."""
        try:
            self._score(frame)
        except Exception:
            if len(frame) == 1:
                return [start]
            half = len(frame) // 2
            first = self._raising(frame.iloc[:half], start)
            if len(first) < NAMED:
                first += self._raising(frame.iloc[half:], start + half)
            return first[:NAMED]
        return []


def _distinct(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where each distinct row is first, rising, and which of these every row equals."""
    rows = np.ascontiguousarray(x.numpy())
    whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    _, first, which = np.unique(whole, return_index=True, return_inverse=True)
    order = first.argsort()
    return torch.from_numpy(first[order]), torch.from_numpy(order.argsort()[which])


def check_score_of(owner: str, score_of: str) -> None:
    """Refuse what is neither of the two outcomes.

    Raises:
        ClassifierError: It is.
    """
    if score_of not in get_args(ScoreOf):
        raise ClassifierError.of(owner, "score_of", "be favourable or unfavourable", score_of)
