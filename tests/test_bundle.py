"""A bundle gives the same answers again, or refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from carma import (
    AdditiveNoiseModel,
    AdditiveNoiseSettings,
    BlackBoxClassifier,
    Carma,
    CarmaSettings,
    CausalFlow,
    CausalGraph,
    CausalModel,
    Classifier,
    ClassifierSettings,
    Decision,
    ExactSettings,
    ExactSolver,
    Feature,
    FlowSettings,
    MixedFlow,
    MixedSettings,
    PublishedCarma,
    PublishedSettings,
    Schema,
    Solver,
    SquaredCost,
    StructuralCausalModel,
    TorchClassifier,
    TrainingSettings,
    Vaca,
    VacaSettings,
    additive,
    decided,
    fit_classifier,
    from_sklearn,
    load,
    load_bundle,
    save,
)
from carma.benchmarks import Benchmark
from carma.benchmarks import load as load_benchmark
from carma.errors import BundleError, ClassifierError, FileError, NotFittedError

TINY = TrainingSettings(epochs=2, batch_size=64, learning_rate=1e-2)


@pytest.fixture(scope="module")
def loan() -> Benchmark:
    """Its features are not in alphabetical order, which a manifest must not change."""
    return load_benchmark("loan", rows=400)


def quick(mask_hidden: tuple[int, ...], action_hidden: tuple[int, ...]) -> CarmaSettings:
    return CarmaSettings(
        lessons=40,
        mask_hidden=mask_hidden,
        action_hidden=action_hidden,
        training=TINY,
        rehearsal=TINY,
    )


def flow(data: Benchmark) -> CausalFlow:
    settings = FlowSettings(hidden=(4,), training=TINY)
    return CausalFlow(data.schema, settings).fit(data.frame("causal"))


def vaca(data: Benchmark) -> Vaca:
    settings = VacaSettings(
        members=1, alternatives=3, training=TrainingSettings(epochs=10, batch_size=64)
    )
    return Vaca(data.schema, settings).fit(data.frame("causal"))


def additive_noise(data: Benchmark) -> AdditiveNoiseModel:
    settings = AdditiveNoiseSettings((4,), TINY, alternatives=3)
    return AdditiveNoiseModel(data.schema, settings).fit(data.frame("causal"))


def mixed(data: Benchmark) -> MixedFlow:
    settings = MixedSettings((4,), TINY, alternatives=2, draws=2)
    return MixedFlow(data.schema, settings).fit(data.frame("causal"))


class OwnModel(AdditiveNoiseModel):
    kind: ClassVar[str] = "own_model"


def network(data: Benchmark) -> Classifier:
    training = TrainingSettings(epochs=60, batch_size=64, learning_rate=1e-2)
    settings = ClassifierSettings(hidden=(4,), training=training)
    return fit_classifier(data.schema, data.frame("classifier"), settings)


def converted(data: Benchmark) -> Classifier:
    table = data.frame("classifier")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    pipeline.fit(table[list(data.schema.names)], table["label"])
    return from_sklearn(pipeline, data.schema, check=table.drop(columns="label"))


def architecture() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 1))


def module(data: Benchmark) -> Classifier:
    torch.manual_seed(0)
    return TorchClassifier(data.schema, architecture())


def solved(data: Benchmark, model: CausalModel, classifier: Classifier) -> Carma:
    settings = quick((4,), (4,))
    weights = {"savings": 2.0, "education": 3.0}
    cost = SquaredCost(data.encoding, data.scm.statistics_, weights)
    return Carma(model, classifier, cost=cost, settings=settings).fit(data.frame("recourse"))


def as_published(data: Benchmark, model: CausalModel) -> Solver:
    settings = PublishedSettings((4,), (4,), training=TINY)
    solver = PublishedCarma(model, network(data), settings=settings)
    return solver.fit(data.frame("recourse"))


SOLVERS: dict[str, Callable[[Benchmark], Solver]] = {
    "flow-network": lambda data: solved(data, flow(data), network(data)),
    "float64-flow": lambda data: solved(data, flow(data).to_float64(), network(data)),
    "additive-noise": lambda data: solved(data, additive_noise(data), network(data)),
    "mixed": lambda data: solved(data, mixed(data), network(data)),
    "scm-network": lambda data: solved(data, data.scm, network(data)),
    "flow-sklearn": lambda data: solved(data, flow(data), converted(data)),
    "flow-torch": lambda data: solved(data, flow(data), module(data)),
    "published": lambda data: as_published(data, flow(data)),
    "vaca-network": lambda data: solved(data, vaca(data), network(data)),
    "published-vaca": lambda data: as_published(data, vaca(data)),
}


@pytest.fixture(scope="module")
def small() -> Carma:
    """Few tensors, so that a file has few bytes."""
    schema = Schema(
        (Feature("b", role="actionable"), Feature("a")), CausalGraph.from_edges([("b", "a")])
    )
    rng = np.random.default_rng(0)
    b = rng.normal(size=100)
    table = pd.DataFrame({"b": b, "a": b + rng.normal(size=100)})
    model = CausalFlow(schema, FlowSettings(hidden=(2,), training=TINY)).fit(table)
    classifier = TorchClassifier(schema, tiny_module(0))
    return Carma(model, classifier, settings=quick((), ())).fit(table)


def tiny_module(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(2, 1)


@pytest.fixture(scope="module")
def saved(small: Carma, tmp_path_factory: pytest.TempPathFactory) -> Path:
    metrics = {"cost_x100": 3.25, "coverage": None, "n_people": 7}
    return save(small, tmp_path_factory.mktemp("b") / "small.carma", metrics=metrics, seed=11)


def answers(solver: Any, x: Tensor) -> list[Tensor]:
    plans = solver.solve(x)
    return [getattr(plans, name) for name in plans.__dataclass_fields__]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_loaded_solver_gives_equal_answers_bit_for_bit(
    name: str, loan: Benchmark, tmp_path: Path
) -> None:
    solver = SOLVERS[name](loan)
    path = save(solver, tmp_path / "loan.carma")
    own_module = architecture() if name == "flow-torch" else None
    state = torch.get_rng_state()
    again = load(path, module=own_module)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.schema == solver.schema
    assert again.schema.names == solver.schema.names
    x = loan.encoded("recourse", "test")
    assert solver.solve(x).has_plan.any()
    assert same(answers(solver, x), answers(again, x))
    assert again.cost.state().config == solver.cost.state().config
    assert type(again) is type(solver)
    people = loan.frame("recourse", "test")
    pd.testing.assert_frame_equal(
        again.recommend(people).to_frame(), solver.recommend(people).to_frame()
    )
    assert type(again.causal_model) is type(solver.causal_model)
    assert torch.equal(again.causal_model.log_prob(x[:5]), solver.causal_model.log_prob(x[:5]))


def test_saving_what_was_loaded_keeps_all_of_it(loan: Benchmark, tmp_path: Path) -> None:
    solver = SOLVERS["flow-network"](loan)
    first = save(solver, tmp_path / "first.carma", seed=1)
    second = save(load(first), tmp_path / "second.carma", seed=1)
    (manifest, tensors), (again, others) = unpacked(first), unpacked(second)
    assert again == manifest
    assert list(again["schema"]["features"]) == list(loan.schema.names)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_a_loaded_solver_can_learn_on(loan: Benchmark, tmp_path: Path) -> None:
    solver = SOLVERS["scm-network"](loan)
    again = load(save(solver, tmp_path / "loan.carma"))
    x = loan.encoded("recourse", "test")
    again.fit(loan.frame("recourse"))
    assert same(answers(solver, x), answers(again, x))


def test_metrics_seed_and_versions_are_kept(saved: Path) -> None:
    bundle = load_bundle(saved, module=tiny_module(3))
    assert bundle.metrics == {"cost_x100": 3.25, "coverage": None, "n_people": 7}
    assert bundle.manifest["seed"] == 11
    assert bundle.manifest["format"] == 4
    assert {"carma-recourse", "torch", "zuko", "python"} <= set(bundle.manifest["versions"])
    kinds = {name: part["kind"] for name, part in bundle.manifest["parts"].items()}
    assert kinds == {
        "causal_model": "causal_flow",
        "classifier": "torch_module",
        "cost": "squared",
        "solver": "carma",
    }


def test_a_module_of_ones_own_must_be_handed_in(saved: Path, small: Carma) -> None:
    x = small.encoding.encode(pd.DataFrame({"b": [-1.0, 2.0], "a": [0.0, -1.0]}))
    assert same(answers(load(saved, module=tiny_module(9)), x), answers(small, x))
    with pytest.raises(BundleError, match="be handed in"):
        load(saved)
    with pytest.raises(BundleError, match="saved architecture"):
        load(saved, module=nn.Linear(3, 1))


def test_a_causal_model_of_ones_own_must_be_handed_in(loan: Benchmark, tmp_path: Path) -> None:
    model = OwnModel.from_state(loan.schema, additive_noise(loan).state())
    solver = solved(loan, model, converted(loan))
    path = save(solver, tmp_path / "own.carma")
    again = load(path, causal_model=OwnModel)
    assert type(again.causal_model) is OwnModel
    x = loan.encoded("recourse", "test")[:50]
    assert same(answers(again, x), answers(solver, x))
    for wrong in (None, AdditiveNoiseModel):
        with pytest.raises(BundleError, match=r"'causal_model' must be handed in: .* 'own_model'"):
            load(path, causal_model=wrong)
        with pytest.raises(BundleError, match="be handed in"):
            load_bundle(path, causal_model=wrong)


def test_a_class_that_is_not_needed_does_no_harm(saved: Path) -> None:
    again = load(saved, module=tiny_module(3), causal_model=OwnModel)
    assert type(again.causal_model) is CausalFlow


def reload(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return load_bundle(path, module=tiny_module(3))


@given(position=st.integers(0, 2**32), bit=st.integers(0, 7))
@example(position=0, bit=0)
@example(position=7, bit=7)
@settings(max_examples=150)
def test_a_flipped_bit_anywhere_is_refused(
    position: int, bit: int, saved: Path, small: Carma
) -> None:
    content = bytearray(saved.read_bytes())
    content[position % len(content)] ^= 1 << bit
    with pytest.raises(BundleError):
        reload(saved.with_name("flipped.carma"), bytes(content))


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40)
def test_a_truncated_file_is_refused(share: float, saved: Path) -> None:
    content = saved.read_bytes()
    with pytest.raises(BundleError, match="truncated or damaged"):
        reload(saved.with_name("cut.carma"), content[: int(share * len(content))])


def test_added_bytes_are_refused(saved: Path) -> None:
    with pytest.raises(BundleError):
        reload(saved.with_name("long.carma"), saved.read_bytes() + b"\0")


def unpacked(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["manifest"]), tensors


def packed(manifest: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """A file whose manifest hash is right, whatever it says."""
    text = json.dumps(manifest)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return safetensors.torch.save(tensors, {"manifest": text, "sha256": sha256})


def test_a_repacked_file_is_read(saved: Path) -> None:
    assert reload(saved.with_name("repacked.carma"), packed(*unpacked(saved))).metrics


def test_a_changed_tensor_is_refused_under_a_right_manifest_hash(saved: Path) -> None:
    manifest, tensors = unpacked(saved)
    for name, tensor in tensors.items():
        changed = tensor.clone()
        first = changed.view(-1)[:1]
        first.copy_(~first if first.dtype is torch.bool else first + 1)
        with pytest.raises(BundleError, match=r"not match (its|their) fingerprint"):
            reload(saved.with_name("t.carma"), packed(manifest, tensors | {name: changed}))
        fewer = {n: t for n, t in tensors.items() if n != name}
        with pytest.raises(BundleError):
            reload(saved.with_name("t.carma"), packed(manifest, fewer))
        with pytest.raises(BundleError):
            reload(saved.with_name("t.carma"), packed(manifest, tensors | {name: tensor[None]}))


def test_a_changed_setting_is_refused_under_a_right_manifest_hash(saved: Path) -> None:
    manifest, tensors = unpacked(saved)
    manifest["parts"]["cost"]["config"]["weights"]["b"] = 2.0
    with pytest.raises(BundleError, match="part 'cost' does not match"):
        reload(saved.with_name("s.carma"), packed(manifest, tensors))


@pytest.mark.parametrize("key", ["parts", "schema", "statistics", "metrics"])
def test_an_incomplete_manifest_is_refused(key: str, saved: Path) -> None:
    manifest, tensors = unpacked(saved)
    del manifest[key]
    with pytest.raises(BundleError):
        reload(saved.with_name("i.carma"), packed(manifest, tensors))


@pytest.mark.parametrize("part", ["causal_model", "classifier", "solver"])
def test_an_unknown_kind_of_part_is_refused(part: str, saved: Path) -> None:
    manifest, tensors = unpacked(saved)
    manifest["parts"][part]["kind"] = "oracle"
    with pytest.raises(BundleError, match="oracle"):
        reload(saved.with_name("k.carma"), packed(manifest, tensors))


@pytest.mark.parametrize("version", [0, 1, 2, None, "3"])
def test_another_format_is_refused(version: Any, saved: Path) -> None:
    manifest, tensors = unpacked(saved)
    manifest["format"] = version
    with pytest.raises(BundleError, match="'format' must have format 4"):
        reload(saved.with_name("v.carma"), packed(manifest, tensors))


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="be an existing file"):
        load(tmp_path / "absent.carma")
    with pytest.raises(BundleError, match="be an existing file"):
        load(tmp_path)
    path = tmp_path / "other.carma"
    plain = safetensors.torch.save({"w": torch.ones(2)})
    for content, words in (
        (b"", "truncated or damaged"),
        (b"age,income\n1,2\n" * 20, "truncated or damaged"),
        (plain, "the manifest is missing"),
    ):
        with pytest.raises(BundleError, match=words):
            reload(path, content)


def test_an_unwritable_path_is_refused(small: Carma, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="lie in a folder that exists"):
        save(small, tmp_path / "absent" / "small.carma")
    with pytest.raises(FileError, match="not a folder"):
        save(small, tmp_path)


def test_the_old_file_is_intact_when_saving_fails(
    small: Carma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(small, tmp_path / "small.carma")
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", fail)
        with pytest.raises(FileError, match="disk full"):
            save(small, path, seed=5)
    with pytest.raises(NotFittedError, match="Carma: call 'fit'"):
        save(Carma(small.causal_model, small.classifier), path)
    for metrics in ({"cost": float("nan")}, {"cost": torch.tensor(1.0)}):
        with pytest.raises(BundleError, match="'metrics' must"):
            save(small, path, metrics=metrics)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["small.carma"]


def test_python_functions_cannot_be_stored(small: Carma, tmp_path: Path) -> None:
    noise = torch.distributions.Normal(0.0, 1.0)
    equations = {"b": additive(lambda _: 0.0, noise), "a": additive(lambda p: p["b"], noise)}
    scm = StructuralCausalModel(small.schema, equations)
    table = scm.encoding.decode(scm.sample(100))
    settings = quick((), ())
    solver = Carma(scm.fit(table), small.classifier, settings=settings).fit(table)
    with pytest.raises(BundleError, match="cannot hold Python functions"):
        save(solver, tmp_path / "own.carma")
    assert not list(tmp_path.iterdir())


def test_a_module_that_keeps_more_than_tensors_cannot_be_stored(
    small: Carma, tmp_path: Path
) -> None:
    class Noted(nn.Linear):
        def get_extra_state(self) -> str:
            return "note"

    torch.manual_seed(0)
    classifier = TorchClassifier(small.schema, Noted(2, 1))
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"b": rng.normal(size=100), "a": rng.normal(size=100)})
    settings = quick((), ())
    solver = Carma(small.causal_model, classifier, settings=settings).fit(table)
    with pytest.raises(ClassifierError, match="tensors only"):
        save(solver, tmp_path / "noted.carma")


DECISIONS = {
    "band": Decision(at_least=0.3, at_most=0.8),
    "rate": Decision(reject_rate=0.6),
    "platt": Decision(threshold=0.6, calibrated="platt"),
    "isotonic": Decision(threshold=0.55, calibrated="isotonic"),
}


@pytest.mark.parametrize("name", DECISIONS)
@pytest.mark.parametrize("is_function", [False, True])
def test_a_decision_is_kept(tmp_path: Path, loan: Benchmark, name: str, is_function: bool) -> None:
    plain: Classifier = network(loan)
    if is_function:
        inside = plain
        plain = BlackBoxClassifier(
            loan.schema, lambda rows: inside.probability(inside.encoding.encode(rows)).numpy()
        )
    classifier = decided(plain, DECISIONS[name], loan.frame("classifier"))
    solver: Solver = ExactSolver(loan.scm, classifier, settings=ExactSettings(starts=2))
    solver.fit(loan.frame("recourse"))
    path = save(solver, tmp_path / "b.carma")
    again = load(path, classifier=plain if is_function else None)
    assert again.classifier.decision == classifier.decision
    x = loan.encoded("recourse", "test")
    assert torch.equal(again.classifier.probability(x), classifier.probability(x))
    people = loan.frame("recourse", "test").head(4)
    first, second = (s.recommend(people) for s in (solver, again))
    pd.testing.assert_frame_equal(first.to_frame(), second.to_frame())
    assert first.explain(0) == second.explain(0)
    if is_function:
        # The classifier that decided is as good as the one inside.
        assert load(path, classifier=classifier).classifier.decision == classifier.decision
        with pytest.raises(BundleError, match="be handed in"):
            load(path)
