"""Classifiers trained here."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from carma import CausalGraph, Feature, Schema
from carma.classifiers.network import NetworkClassifier
from carma.classifiers.neural import ClassifierSettings, fit_classifier
from carma.errors import ClassifierError, SchemaError, SettingsError, TableError
from carma.training import TrainingSettings

NAMES = ("income", "age", "job", "education")
SCHEMA = Schema(
    (
        Feature("income"),
        Feature("age", "integer"),
        Feature("job", "nominal", levels=("cook", "clerk", "nurse")),
        Feature("education", "ordinal", levels=("school", "bachelor", "master")),
    ),
    CausalGraph(NAMES),
    "granted",
    "yes",
)


@cache
def people(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "income": rng.normal(3000, 500, rows),
            "age": rng.integers(20, 60, rows),
            "job": rng.choice(SCHEMA["job"].levels, rows),
            "education": rng.choice(SCHEMA["education"].levels, rows),
        }
    )
    score = (
        (frame["income"] - 3000) / 250
        - (frame["age"] - 40) / 20
        + (frame["job"] == "nurse")
        + (frame["education"] == "master")
    )
    luck = rng.logistic(size=rows)
    return frame.assign(granted=np.where(score.to_numpy() + luck > 0.5, "yes", "no"))


def quick(hidden: tuple[int, ...] = (), epochs: int = 8, **options: Any) -> ClassifierSettings:
    options = {"batch_size": 128, "learning_rate": 0.1, **options}
    return ClassifierSettings(hidden, TrainingSettings(epochs=epochs, **options))


def fit(
    frame: pd.DataFrame | None = None,
    chosen: ClassifierSettings | None = None,
    schema: Schema = SCHEMA,
) -> NetworkClassifier:
    table = people() if frame is None else frame
    return fit_classifier(schema, table, chosen or quick(), progress=False)


@cache
def learned(hidden: tuple[int, ...] = ()) -> NetworkClassifier:
    return fit(chosen=quick(hidden))


def probabilities(classifier: NetworkClassifier, frame: pd.DataFrame) -> torch.Tensor:
    return classifier.probability(classifier.encoding.encode(frame))


class TestLearning:
    @pytest.mark.parametrize("hidden", [(), (8,), (8, 8)])
    def test_tells_accepted_from_refused(self, hidden: tuple[int, ...]) -> None:
        classifier = learned(hidden)
        fresh = people(seed=3)
        accepted = probabilities(classifier, fresh) >= classifier.threshold
        right = accepted.numpy() == (fresh["granted"] == "yes").to_numpy()
        assert right.mean() > 0.75
        assert len(classifier.weights) == len(hidden) + 1
        assert classifier.activation == "relu"

    def test_no_hidden_layer_is_logistic_regression(self) -> None:
        classifier = fit(chosen=quick(epochs=20))
        frame = people()
        x = classifier.encoding.encode(frame).numpy()
        scaled = (x - x.mean(0)) / x.std(0)
        reference = LogisticRegression(C=1e6).fit(scaled, frame["granted"] == "yes")
        expected = torch.from_numpy(reference.predict_proba(scaled)[:, 1].copy())
        # One row in ten is held out here and not there.
        torch.testing.assert_close(probabilities(classifier, frame), expected, rtol=0, atol=0.08)

    def test_probability_is_that_of_the_favourable_outcome(self) -> None:
        better = people().assign(income=lambda t: t["income"] + 1000)
        for favourable, sign in (("yes", 1), ("no", -1)):
            schema = Schema(SCHEMA.features, SCHEMA.graph, "granted", favourable)
            classifier = fit(schema=schema)
            gain = probabilities(classifier, better) - probabilities(classifier, people())
            assert bool((sign * gain > 0).all())

    def test_gradient_is_the_slope(self) -> None:
        classifier = learned((8,))
        x = classifier.encoding.encode(people())[:5].requires_grad_()
        assert torch.autograd.gradcheck(classifier.logit, x, eps=1e-5)

    def test_state_round_trip_answers_the_same(self) -> None:
        classifier = learned((8,))
        again = NetworkClassifier.from_state(SCHEMA, classifier.state())
        assert torch.equal(probabilities(again, people()), probabilities(classifier, people()))

    def test_level_that_no_row_has_is_no_obstacle(self) -> None:
        frame = people()[people()["job"] != "clerk"]
        probability = probabilities(fit(frame, quick(epochs=2)), people())
        assert bool(torch.isfinite(probability).all())

    def test_default_settings_are_the_papers_for_loan(self) -> None:
        assert ClassifierSettings().hidden == (32, 32)


class TestReproducibility:
    def test_same_seed_same_weights(self) -> None:
        first, second = (fit(chosen=quick((4,), epochs=3)).state() for _ in range(2))
        assert first.fingerprint() == second.fingerprint()

    def test_other_seed_other_weights(self) -> None:
        first, second = (fit(chosen=quick((4,), epochs=3, seed=s)).state() for s in (0, 1))
        assert first.fingerprint() != second.fingerprint()

    def test_global_random_state_is_left_alone(self) -> None:
        torch.manual_seed(11)
        expected = torch.rand(3)
        torch.manual_seed(11)
        fit(chosen=quick((4,), epochs=2))
        assert torch.equal(torch.rand(3), expected)

    def test_table_is_left_as_it_was(self) -> None:
        frame = people().copy()
        fit(frame, quick(epochs=1))
        pd.testing.assert_frame_equal(frame, people())

    @pytest.mark.parametrize(("scale", "shift"), [(1024.0, 0.0), (1.0, 5e4), (1e-4, -3.0)])
    def test_units_do_not_matter(self, scale: float, shift: float) -> None:
        frame = people()
        moved = frame.assign(income=frame["income"] * scale + shift)
        chosen = quick((4,), epochs=3)
        torch.testing.assert_close(
            probabilities(fit(moved, chosen), moved),
            probabilities(fit(frame, chosen), frame),
            rtol=0,
            atol=1e-3,
        )

    def test_order_of_columns_does_not_matter(self) -> None:
        frame = people()[["granted", *NAMES[::-1]]]
        chosen = quick(epochs=3)
        assert fit(frame, chosen).state().fingerprint() == fit(chosen=chosen).state().fingerprint()


class TestBadInput:
    @pytest.mark.parametrize("width", [0, -3, 2.5, True])
    def test_layer_without_width(self, width: Any) -> None:
        with pytest.raises(SettingsError, match="'hidden' must be at least 1"):
            ClassifierSettings(hidden=(8, width))

    def test_schema_without_outcome(self) -> None:
        schema = Schema(SCHEMA.features, SCHEMA.graph)
        frame = people().drop(columns="granted")
        with pytest.raises(SchemaError, match="name the outcome column"):
            fit(frame, schema=schema)

    def test_table_without_outcome(self) -> None:
        with pytest.raises(TableError, match="include the outcome; got 'granted'"):
            fit(people().drop(columns="granted"))

    @pytest.mark.parametrize("only", ["yes", "no"])
    def test_one_class(self, only: str) -> None:
        with pytest.raises(TableError, match="hold both the favourable value 'yes' and another"):
            fit(people().assign(granted=only))

    def test_outcome_with_gaps(self) -> None:
        frame = people().copy()
        frame.loc[5, "granted"] = None
        with pytest.raises(TableError, match=r"column granted.*have no gaps; first at row 5"):
            fit(frame)

    @pytest.mark.parametrize("constant", [{"income": 1.0}, {"job": "cook"}])
    def test_column_that_never_varies(self, constant: dict[str, Any]) -> None:
        name = next(iter(constant))
        with pytest.raises(TableError, match=f"column {name}.*constant column teaches nothing"):
            fit(people().assign(**constant))

    def test_table_that_does_not_fit_the_schema(self) -> None:
        with pytest.raises(TableError, match=r"missing; got \['age'\]"):
            fit(people().drop(columns="age"))


def test_rows_with_gaps_are_left_out() -> None:
    features = tuple(replace(feature, missing="impute") for feature in SCHEMA.features)
    schema, table = replace(SCHEMA, features=features), people().astype({"age": float})
    table.loc[::4, "age"] = np.nan
    whole = table[table["age"].notna()]
    one, other = (fit_classifier(schema, rows, quick()) for rows in (table, whole))
    assert one.state().fingerprint() == other.state().fingerprint()
    with pytest.raises(TableError, match=r"half of all 100.*column age has no value in 100"):
        fit_classifier(schema, table.iloc[::4], quick())


def test_a_network_is_passed_no_gaps() -> None:
    features = (replace(SCHEMA.features[0], missing="pass"), *SCHEMA.features[1:])
    schema = replace(SCHEMA, features=features)
    message = r"income may have \(missing = 'pass'\): declare 'impute'.*LightGBM"
    with pytest.raises(ClassifierError, match=message):
        fit_classifier(schema, people(), quick())
    rows = people()
    fitted = fit_classifier(SCHEMA, rows, quick())
    again = NetworkClassifier.from_state(schema, fitted.state())
    x = fitted.encoding.encode(rows)
    fitted.check_on(x)
    with pytest.raises(ClassifierError, match=message):
        again.check_on(x)
