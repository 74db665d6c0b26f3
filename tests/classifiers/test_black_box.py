"""Any function from tables to probabilities as a classifier."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carma import BlackBoxClassifier, CausalGraph, Feature, Schema
from carma.errors import BundleError, ClassifierError

SCHEMA = Schema(
    (
        Feature("job", "nominal", levels=("clerk", "cook"), role="immutable"),
        Feature("course", "ordinal", levels=("none", "basic", "full"), role="actionable"),
        Feature("children", "integer", bounds=(0, 9)),
        Feature("income", role="actionable"),
    ),
    CausalGraph(("job", "course", "children", "income")),
    outcome="paid",
    favourable="yes",
    threshold=0.6,
)
PEOPLE = pd.DataFrame(
    {
        "job": ["cook", "clerk", "cook"],
        "course": ["none", "full", "basic"],
        "children": [0, 3, 1],
        "income": [10.0, 25.5, 40.0],
    }
)


def test_it_is_asked_in_original_units() -> None:
    seen: list[pd.DataFrame] = []

    def score(rows: pd.DataFrame) -> Any:
        seen.append(rows)
        return rows["income"] / 100

    classifier = BlackBoxClassifier(SCHEMA, score)
    probability = classifier.probability(classifier.encoding.encode(PEOPLE))
    pd.testing.assert_frame_equal(seen[0], PEOPLE)
    assert probability.tolist() == pytest.approx([0.1, 0.255, 0.4])
    assert not classifier.has_slope


def constant(value: float, rows: pd.DataFrame) -> Any:
    return np.full(len(rows), value)


@given(st.floats(0, 1), st.floats(0.01, 0.99))
def test_it_decides_as_the_function_does(p: float, threshold: float) -> None:
    """Also where the probability is the threshold itself, or 0, or 1."""
    schema = Schema((Feature("a"),), CausalGraph(("a",)), threshold=threshold)
    for value in (p, threshold):
        classifier = BlackBoxClassifier(schema, partial(constant, value))
        probability = classifier.probability(torch.zeros(1, 1))
        assert bool(probability >= threshold) == (value >= threshold)
        assert float(probability) == pytest.approx(value, abs=2e-6)
        assert torch.isfinite(classifier.logit(torch.zeros(1, 1))).all()


def test_what_cannot_be_said_is_not_asked() -> None:
    classifier = BlackBoxClassifier(SCHEMA, lambda rows: np.full(len(rows), 0.5))
    x = classifier.encoding.encode(PEOPLE)
    x[1, 3] = torch.nan
    x[2, 4] = torch.inf
    probability = classifier.probability(x)
    assert probability.isnan().tolist() == [False, True, True]
    assert classifier.probability(x[:0]).shape == (0,)


def test_equal_rows_are_asked_about_once() -> None:
    asked: list[list[float]] = []

    def score(rows: pd.DataFrame) -> Any:
        asked.append(rows["income"].tolist())
        return rows["income"] / 100

    classifier = BlackBoxClassifier(SCHEMA, score)
    x = classifier.encoding.encode(PEOPLE)[[2, 0, 2, 1, 0, 0]]
    probability = classifier.probability(x)
    assert asked == [[40.0, 10.0, 25.5]]
    assert probability.tolist() == pytest.approx([0.4, 0.1, 0.4, 0.255, 0.1, 0.1])


def direct(rows: Any) -> Any:
    """Of ``income``, which is the last column."""
    return rows[:, -1] / 100


def refusing(rows: pd.DataFrame) -> Any:
    raise AssertionError("asked with a table")


def test_it_may_be_asked_in_model_space() -> None:
    """Equal rows once, too; gaps and what cannot be said are the same as with a table."""
    x = BlackBoxClassifier(SCHEMA, refusing).encoding.encode(PEOPLE)[[2, 0, 2, 1]]
    asked: list[Any] = []

    def kept(rows: Any) -> Any:
        asked.append(rows[:, -1].tolist())
        return direct(rows)

    classifier = BlackBoxClassifier(SCHEMA, refusing, direct=kept)
    assert classifier.probability(x).tolist() == pytest.approx([0.4, 0.1, 0.4, 0.255])
    assert asked == [[40.0, 10.0, 25.5]]
    risk = BlackBoxClassifier(SCHEMA, refusing, score_of="unfavourable", direct=direct)
    assert risk.probability(x).tolist() == pytest.approx([0.6, 0.9, 0.6, 0.745])
    x[1, 0] = torch.nan
    assert classifier.probability(x).isnan().tolist() == [False, True, False, False]
    features = (replace(SCHEMA["job"], missing="pass"), *SCHEMA.features[1:])
    taking = BlackBoxClassifier(replace(SCHEMA, features=features), refusing, direct=direct)
    x[1, :2] = torch.nan
    assert taking.probability(x).tolist() == pytest.approx([0.4, 0.1, 0.4, 0.255])


def test_what_is_said_in_model_space_is_checked() -> None:
    x = BlackBoxClassifier(SCHEMA, refusing).encoding.encode(PEOPLE)
    with pytest.raises(ClassifierError, match=r"give shape \(3,\), one number a row"):
        BlackBoxClassifier(SCHEMA, refusing, direct=lambda rows: rows).probability(x)
    with pytest.raises(ClassifierError, match=r"between 0 and 1: .*; got 10.0"):
        BlackBoxClassifier(SCHEMA, refusing, direct=lambda rows: rows[:, -1]).probability(x)


def test_where_model_space_raises_the_table_is_asked() -> None:
    def failing(rows: Any) -> Any:
        raise ValueError("no such rows")

    x = BlackBoxClassifier(SCHEMA, refusing).encoding.encode(PEOPLE)
    classifier = BlackBoxClassifier(SCHEMA, lambda rows: rows["income"] / 100, direct=failing)
    assert classifier.probability(x).tolist() == pytest.approx([0.1, 0.255, 0.4])
    with pytest.raises(ClassifierError, match=r"on row 0, 1, 2 .*asked with a table"):
        BlackBoxClassifier(SCHEMA, refusing, direct=failing).probability(x)


def test_where_it_raises_the_rows_are_named() -> None:
    def picky(rows: pd.DataFrame) -> Any:
        if (rows["children"] > 2).any():
            raise KeyError("three children were never seen")
        return np.full(len(rows), 0.5)

    classifier = BlackBoxClassifier(SCHEMA, picky)
    many = pd.concat([PEOPLE] * 5, ignore_index=True)
    many["income"] += np.arange(15)
    x = classifier.encoding.encode(many)
    # Rows that are not asked about count, too; so do those that an earlier one equals.
    x[1] = torch.nan
    x[7] = x[4]
    with pytest.raises(ClassifierError) as caught:
        classifier.probability(x)
    message = str(caught.value)
    assert "it raises on row 4, 10, 13 (" in message
    assert "three children were never seen" in message
    assert "'children': 3" in message
    assert "bounds or levels" in message
    assert isinstance(caught.value.__cause__, KeyError)


def test_where_it_raises_on_many_rows_at_once_it_says_so() -> None:
    def small(rows: pd.DataFrame) -> Any:
        if len(rows) > 1:
            raise MemoryError("too many")
        return [0.5]

    classifier = BlackBoxClassifier(SCHEMA, small)
    with pytest.raises(ClassifierError, match="answer for 3 rows at once; it raises MemoryError"):
        classifier.probability(classifier.encoding.encode(PEOPLE))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.full((3, 2), 0.5), r"give shape \(3,\), one number a row; of several class columns"),
        ([0.5], r"give shape \(3,\)"),
        ([0.5, torch.inf, 0.1], r"between 0 and 1: .*; got inf"),
        ([0.5, 2.0, 0.1], r"between 0 and 1: .*; got 2.0"),
        ([0.5, -1.0, 0.1], r"between 0 and 1: .*; got -1.0"),
        (["yes", "no", "no"], "give numbers"),
    ],
)
def test_an_answer_that_is_no_probability_is_refused(answer: Any, words: str) -> None:
    classifier = BlackBoxClassifier(SCHEMA, lambda _: answer)
    with pytest.raises(ClassifierError, match=words):
        classifier.probability(classifier.encoding.encode(PEOPLE))


def test_who_is_unknown_is_not_learned_from() -> None:
    classifier = BlackBoxClassifier(
        SCHEMA, lambda rows: np.where(rows["children"] > 2, np.nan, 0.5)
    )
    x = classifier.encoding.encode(PEOPLE)
    assert classifier.probability(x).isnan().tolist() == [False, True, False]
    with pytest.raises(ClassifierError, match=r"leave such rows out.*; row 1 of 3 gives; got nan"):
        classifier.check_on(x)


def test_what_is_no_function_is_refused() -> None:
    wrong: Any = 3
    with pytest.raises(ClassifierError, match="'score' must be callable"):
        BlackBoxClassifier(SCHEMA, wrong)


def test_it_is_known_again_by_its_answers() -> None:
    def score(rows: pd.DataFrame) -> Any:
        return rows["income"] / 100

    classifier = BlackBoxClassifier(SCHEMA, score)
    with pytest.raises(BundleError, match="have been tried on rows: call fit"):
        classifier.state()
    classifier.check_on(classifier.encoding.encode(PEOPLE))
    state = classifier.state()
    again = BlackBoxClassifier(SCHEMA, score)
    assert BlackBoxClassifier.from_state(SCHEMA, state, again) is again
    assert again.state().fingerprint() == state.fingerprint()
    other = BlackBoxClassifier(SCHEMA, lambda rows: rows["income"] / 200)
    with pytest.raises(BundleError, match=r"be the one that was saved: .* differ by .* got 0.2"):
        BlackBoxClassifier.from_state(SCHEMA, state, other)
    with pytest.raises(BundleError, match="be handed in, as"):
        BlackBoxClassifier.from_state(SCHEMA, state)
    narrow = Schema((Feature("income"),), CausalGraph(("income",)))
    with pytest.raises(BundleError, match="have the schema of the bundle"):
        BlackBoxClassifier.from_state(SCHEMA, state, BlackBoxClassifier(narrow, score))
