from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import carma
from carma.benchmarks import load
from carma.classifiers.file import ClassifierFile
from carma.classifiers.network import Input, NetworkClassifier
from carma.costs import AbsoluteCost
from carma.problem import CAUSAL_MODELS, Problem

SCHEMA = """
[graph]
savings = ["income"]

[features.income]
role = "actionable"

[features.savings]
"""

PUBLISHED = "[solver]\nmethod = 'published'\n"


def test_defaults_without_sections() -> None:
    problem = Problem.from_toml(SCHEMA)
    assert problem.solver == carma.CarmaSettings()
    assert problem.causal_model == carma.FlowSettings()
    assert problem.data is None


def test_sections_reach_their_settings_and_data_is_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    sections = """
[data]
path = "rows.csv"
[classifier]
hidden = [8, 4]
[causal_model]
transform = "spline"
[solver]
validity = 0.9
fallback = false
[solver.training]
learning_rate = 1e-3
[solver.rehearsal]
epochs = 7
"""
    path.write_text(SCHEMA + sections)
    problem = Problem.from_toml(path)
    assert problem.data == tmp_path / "rows.csv"
    assert problem.classifier.hidden == (8, 4)
    assert problem.causal_model == carma.FlowSettings(transform="spline")
    assert type(problem.new_causal_model()) is carma.CausalFlow
    assert isinstance(problem.solver, carma.CarmaSettings)
    assert problem.solver.validity == 0.9
    assert problem.solver.fallback is False
    assert problem.solver.training.learning_rate == 1e-3
    assert problem.solver.training.epochs == carma.CarmaSettings().training.epochs
    assert problem.solver.rehearsal == replace(carma.CarmaSettings().rehearsal, epochs=7)


def test_the_published_method_has_settings_of_its_own() -> None:
    section = '[solver]\nmethod = "published"\ntemperature = 1\ntraining = { epochs = 9 }'
    solver = Problem.from_toml(SCHEMA + section).solver
    usual = carma.PublishedSettings()
    training = replace(usual.training, epochs=9)
    assert solver == replace(usual, temperature=1.0, training=training)
    assert isinstance(solver, carma.PublishedSettings)
    assert isinstance(solver.temperature, float)
    named = Problem.from_toml(SCHEMA + '[solver]\nmethod = "carma"').solver
    assert named == carma.CarmaSettings()


def test_an_additive_noise_model_has_settings_of_its_own() -> None:
    section = '[causal_model]\nkind = "additive_noise"\nhidden = []\ntraining = { epochs = 9 }'
    problem = Problem.from_toml(SCHEMA + section).with_seed(3)
    usual = carma.AdditiveNoiseSettings()
    training = replace(usual.training, epochs=9, seed=3)
    assert problem.causal_model == replace(usual, hidden=(), training=training)
    model = problem.new_causal_model()
    assert isinstance(model, carma.AdditiveNoiseModel)
    assert model.settings == problem.causal_model
    assert not model.is_fitted
    named = Problem.from_toml(SCHEMA + '[causal_model]\nkind = "causal_flow"').causal_model
    assert named == carma.FlowSettings()


@pytest.mark.parametrize(
    ("section", "kind", "settings"),
    [
        ("", carma.CausalFlow, carma.FlowSettings()),
        ("kind = 'causal_flow'\nhidden = [3]", carma.CausalFlow, carma.FlowSettings(hidden=(3,))),
        ("kind = 'mixed'\ndraws = 2", carma.MixedFlow, carma.MixedSettings(draws=2)),
        ("kind = 'vaca'\nn_each = 2", carma.Vaca, carma.VacaSettings(n_each=2)),
    ],
)
def test_the_causal_model_asked_for_is_the_one_made(
    section: str, kind: type[carma.CausalModel], settings: Any
) -> None:
    problem = Problem.from_toml(SCHEMA + "[causal_model]\n" + section)
    assert problem.causal_model == settings
    model: Any = problem.new_causal_model()
    assert model.settings == settings
    assert not model.is_fitted
    assert type(model) is kind
    assert problem.with_seed(5).causal_model.training.seed == 5


def test_with_seed_reaches_every_part() -> None:
    problem = Problem.from_toml(SCHEMA).with_seed(7)
    parts = (problem.classifier, problem.causal_model, problem.solver)
    assert [p.training.seed for p in parts] == [7, 7, 7]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("[solver]\nvalidty = 0.1", "'key' must be one of candidates"),
        ("[solver]\nvalidity = 'wide'", "'validity' must be of type float"),
        ("[solver]\nvalidity = 2.0", "'validity' must be at least 0.5 and below 1"),
        ("[solver]\nfallback = 1", "'fallback' must be of type bool"),
        ("[solver]\nlessons = true", "'lessons' must be of type int"),
        ("[solver]\nmargin = 0.1", "'key' must be one of candidates"),
        (PUBLISHED + "margn = 0.1", "'key' must be one of mask_hidden"),
        (PUBLISHED + "margin = 'wide'", "'margin' must be of type float"),
        (PUBLISHED + "margin = 2.0", "'margin' must be at least 0 and below 1"),
        (PUBLISHED + "validity = 0.9", "'key' must be one of mask_hidden"),
        ("[solver]\nmethod = 'magic'", "'method' must be carma or published; got 'magic'"),
        ("[solver]\ntraining = 3", "'training' must be a table"),
        ("[causal_model]\ntransform = 'cubic'", "'transform' must be affine or spline"),
        (
            "[causal_model]\nkind = 'oracle'",
            "'kind' must be causal_flow or .* or vaca; got",
        ),
        (
            "[causal_model]\nkind = ['x']",
            "'kind' must be causal_flow or .* or vaca; got",
        ),
        ("[causal_model]\nkind = 'additive_noise'\ntransform = 'affine'", "be one of hidden"),
        ("[causal_model]\nkind = 'vaca'\nhidden = [8]", "'key' must be one of n_each"),
        ("[classifier]\nhidden = 8", "'hidden' must be a list"),
        ("[data]\nurl = 'x'", "'key' must be path"),
        ("[data]\npath = 3", "'path' must be text"),
        ("data = 3\n" + SCHEMA, "'data' must be a table"),
    ],
)
def test_bad_sections_are_named(section: str, message: str) -> None:
    text = section if section.startswith("data") else SCHEMA + section
    with pytest.raises(carma.CarmaError, match=message.replace("[", r"\[")):
        Problem.from_toml(text)


def test_the_solver_asked_for_is_the_one_made() -> None:
    data = load("chain-lin", rows=100)
    inputs = [Input(i) for i in range(4)]
    weights = [torch.tensor([[0.0, 1.0, 0.5, 1.0]])]
    classifier = NetworkClassifier(data.schema, inputs, weights, [torch.tensor([-0.25])])
    section = "[solver]\ncandidates = 2\nvalidity = 0.9\n"
    problem = Problem.from_toml(SCHEMA + section)
    own = problem.new_solver(data.scm, classifier)
    assert type(own) is carma.Carma
    assert own.settings == problem.solver == carma.CarmaSettings(candidates=2, validity=0.9)
    assert not own.is_fitted
    assert own.causal_model is data.scm
    assert own.classifier is classifier
    assert isinstance(own.cost, carma.SquaredCost)
    published = Problem.from_toml(SCHEMA + PUBLISHED + "margin = 0.02")
    cost = AbsoluteCost(data.encoding, data.scm.statistics_)
    other = published.new_solver(data.scm, classifier, cost)
    assert type(other) is carma.PublishedCarma
    assert other.settings == published.solver
    assert other.settings.margin == 0.02
    assert other.cost is cost
    assert published.seed == published.solver.training.seed == 0
    assert published.with_seed(5).seed == 5
    assert isinstance(published.with_seed(5).solver, carma.PublishedSettings)


@pytest.mark.parametrize("method", ["carma", "published"])
@pytest.mark.parametrize("kind", CAUSAL_MODELS)
def test_a_problem_file_written_is_the_problem_read(method: str, kind: str) -> None:
    text = f"""outcome = "granted"
favourable = "yes"
{SCHEMA}
step = 0.1
[classifier]
hidden = []
[causal_model]
kind = "{kind}"
[causal_model.training]
seed = 4
[solver]
method = "{method}"
action_hidden = [7, 9]
training = {{ epochs = 3, learning_rate = 0.1 }}
"""
    problem = Problem.from_toml(text)
    assert Problem.from_toml(problem.to_toml()) == problem


def test_the_data_path_is_relative_to_where_the_file_is_written(tmp_path: Path) -> None:
    for name in ("data", "jobs/new"):
        (tmp_path / name).mkdir(parents=True)
    source = tmp_path / "data" / "rows.csv"
    problem = replace(Problem.from_toml(SCHEMA), data=source)
    out = tmp_path / "jobs" / "new" / "tuned.toml"
    out.write_text(problem.to_toml(out))
    assert '"../../data/rows.csv"' in out.read_text()
    read = Problem.from_toml(out)
    assert read.data is not None
    assert read.data.resolve() == source.resolve()
    moved = tmp_path.rename(tmp_path.with_name("moved")) / "jobs" / "new" / "tuned.toml"
    again = Problem.from_toml(moved)
    assert again.data is not None
    assert again.data.resolve().parts[-3:] == ("moved", "data", "rows.csv")


def test_split_holds_a_fifth_out_by_the_seed_and_checks_the_table() -> None:
    data = load("chain-lin", rows=200)
    table, problem = data.frame("classifier"), Problem(data.schema)
    train, held_out = problem.split(table)
    assert (len(train), len(held_out)) == (round(0.8 * len(table)), round(0.2 * len(table)))
    assert sorted([*train.index, *held_out.index]) == sorted(table.index)
    assert list(problem.split(table)[1].index) == list(held_out.index)
    assert list(problem.with_seed(1).split(table)[1].index) != list(held_out.index)
    with pytest.raises(carma.errors.TableError, match="vary"):
        problem.split(table.assign(x1=1.0))
    with pytest.raises(carma.errors.TableError, match="outcome"):
        problem.split(table.drop(columns=data.schema.outcome))


def test_split_takes_some_gaps_where_they_are_imputed() -> None:
    data = load("chain-lin", rows=200)
    features = tuple(replace(f, missing="impute") for f in data.schema.features)
    table, problem = data.frame("classifier"), Problem(replace(data.schema, features=features))
    gaps = table.assign(x1=table["x1"].mask(table["x2"] > table["x2"].median()))
    train, held_out = problem.split(gaps)
    assert train["x1"].isna().any()
    assert held_out["x1"].isna().any()
    with pytest.raises(carma.errors.TableError, match="column x1 has no value in"):
        problem.split(table.assign(x1=float("nan")))


DECISIONS = {
    "band": ("at_least = 0.4\nat_most = 0.7", carma.Decision(at_least=0.4, at_most=0.7)),
    "rate": ("reject_rate = 0.3", carma.Decision(reject_rate=0.3)),
    "platt": (
        "threshold = 0.6\ncalibrated = true",
        carma.Decision(threshold=0.6, calibrated="platt"),
    ),
    "isotonic": (
        'at_least = 0.2\nat_most = 0.7\ncalibrated = "isotonic"',
        carma.Decision(at_least=0.2, at_most=0.7, calibrated="isotonic"),
    ),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_are_read_and_written(name: str) -> None:
    text, decision = DECISIONS[name]
    problem = Problem.from_toml(f"{SCHEMA}[decision]\n{text}\n")
    assert problem.decision == decision
    assert Problem.from_toml(problem.to_toml()) == problem
    assert problem.schema.threshold == (decision.threshold or 0.5)


def test_a_threshold_is_one_thing_wherever_it_stands() -> None:
    head = Problem.from_toml(f"threshold = 0.7\n{SCHEMA}")
    section = Problem.from_toml(f"{SCHEMA}[decision]\nthreshold = 0.7\n")
    assert head == section
    assert head.decision is None
    assert head.schema.threshold == 0.7
    assert carma.Schema.from_toml(f"{SCHEMA}[decision]\nthreshold = 0.7\n") == head.schema
    assert replace(head, decision=carma.Decision(threshold=0.7)) == head
    with pytest.raises(carma.CarmaError, match="be given once, at the head or under"):
        Problem.from_toml(f"threshold = 0.7\n{SCHEMA}[decision]\nthreshold = 0.7\n")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("reject_rate = 0.3\nthreshold = 0.5", "exactly one of"),
        ("calibrated = true", "exactly one of"),
        ("reject_rate = 1.5", "strictly between 0 and 1"),
        ("at_least = 0.5\nat_most = 0.5", "lie below at_most"),
        ("share = 0.5", "'key' must be one of threshold, at_least, at_most, reject_rate"),
    ],
)
def test_bad_decisions_are_refused(section: str, words: str) -> None:
    with pytest.raises(carma.CarmaError, match=words):
        Problem.from_toml(f"{SCHEMA}[decision]\n{section}\n")


def test_a_fit_settles_the_decision_on_its_rows() -> None:
    data = load("chain-lin", rows=600)
    quick = carma.TrainingSettings(epochs=30)
    parts: dict[str, Any] = {
        "classifier": carma.ClassifierSettings((), quick),
        "causal_model": carma.FlowSettings(
            alternatives=0, training=carma.TrainingSettings(epochs=1)
        ),
    }
    rows, x = data.frame("classifier"), data.encoded("classifier")
    _, plain = Problem(data.schema, **parts).fit_parts(rows)
    rate = Problem(data.schema, **parts, decision=carma.Decision(reject_rate=0.8))
    _, classifier = rate.fit_parts(rows)
    assert float(classifier.rejects(x).double().mean()) == pytest.approx(0.8, abs=1 / len(x))
    assert torch.equal(classifier.probability(x), plain.probability(x))
    calibrated = Problem(
        data.schema, **parts, decision=carma.Decision(threshold=0.6, calibrated="platt")
    )
    _, honest = calibrated.fit_parts(rows)
    # A part of the rows is left to the calibration: the network inside has not seen them.
    assert honest.kind == "calibrated"
    assert honest.threshold == 0.6
    assert not torch.equal(honest.probability(x).argsort(), plain.probability(x).argsort())


def test_outcomes_are_asked_for_before_a_fit_where_a_file_is_to_be_calibrated() -> None:
    file = ClassifierFile(Path("c.onnx"), score_of="unfavourable")
    decision = carma.Decision(threshold=0.5, calibrated=True)
    data = load("chain-lin", rows=200)
    rows = data.frame("classifier").drop(columns="label")
    assert len(Problem(data.schema, classifier_file=file).split(rows)) == 2
    with pytest.raises(carma.CarmaError, match="include the outcome"):
        Problem(data.schema, classifier_file=file, decision=decision).split(rows)
    problem = Problem(data.schema, classifier_file=file, decision=decision)
    assert Problem.from_toml(problem.to_toml()) == problem


def test_a_risk_is_said_under_classifier() -> None:
    section = '[classifier]\npath = "risk.onnx"\nscore_of = "unfavourable"\n'
    file = Problem.from_toml(SCHEMA + section).classifier_file
    assert file == ClassifierFile(Path("risk.onnx"), score_of="unfavourable")
    with pytest.raises(carma.CarmaError, match="be favourable or unfavourable; got 'bad'"):
        Problem.from_toml(SCHEMA + section.replace("unfavourable", "bad"))
    with pytest.raises(carma.CarmaError, match="the estimator tells its classes"):
        Problem.from_toml(SCHEMA + section.replace("onnx", "skops"))
