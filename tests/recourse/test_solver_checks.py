"""Every solver's plans pass the same check; what fails it has a status that says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import (
    Carma,
    CausalFlow,
    CausalGraph,
    CausalModel,
    Classifier,
    Feature,
    FlowSettings,
    Intervention,
    PublishedCarma,
    Schema,
    Solver,
    Status,
    TrainingSettings,
)
from carma.benchmarks import Benchmark
from carma.classifiers.network import NetworkClassifier
from carma.errors import ClassifierError, NotFittedError, SchemaError, TableError

Proposal = Callable[[Tensor, Tensor], Intervention]
MakeStub = Callable[[CausalModel, Classifier, Proposal], Solver]
LinearClassifier = Callable[[Schema, list[float], float], NetworkClassifier]

S, X1, X2, X3 = range(4)


class Moody(NetworkClassifier):
    """Gives no number for people whose x1 is 0.125 or 7.125."""

    def _logit(self, x: Tensor) -> Tensor:
        odd = (x[:, X1] == 0.125) | (x[:, X1] == 7.125)
        return torch.where(odd, torch.nan, super()._logit(x))


@pytest.fixture(scope="module")
def moody(chain_classifier: NetworkClassifier) -> Moody:
    c = chain_classifier
    return Moody(c.schema, c.inputs, c.weights, c.biases)


def script(mask: list[list[int]], values: list[list[float]]) -> Proposal:
    """A proposal for each rejected row, in order."""

    def say(x: Tensor, u: Tensor) -> Intervention:
        wide = torch.tensor(values, dtype=torch.float64)
        return Intervention(torch.tensor(mask, dtype=torch.bool), wide)

    return say


def people(*x1: float) -> pd.DataFrame:
    n = len(x1)
    return pd.DataFrame({"s": [0] * n, "x1": x1, "x2": [0.0] * n, "x3": [0.0] * n})


@pytest.mark.parametrize(
    ("x1", "mask", "values", "status"),
    [
        (2.0, None, None, Status.ALREADY_ACCEPTED),
        (-1.0, [0, 1, 0, 0], [0, 2.0, 0, 0], Status.AMORTIZED),
        (-1.0, [0, 1, 0, 0], [0, -0.9, 0, 0], Status.STILL_REJECTED),
        (-1.0, [0, 1, 0, 0], [0, 1e6, 0, 0], Status.OUTSIDE_LIMITS),
        (-1.0, [1, 1, 0, 0], [1, 2.0, 0, 0], Status.OUTSIDE_LIMITS),
        (-1.0, [0, 1, 1, 0], [0, 2.0, -1e6, 0], Status.OUTSIDE_LIMITS),
        (-1.0, [0, 0, 0, 0], [0, 2.0, 0, 0], Status.NO_ACTION),
        (-1.0, [0, 1, 0, 0], [0, 7.125, 0, 0], Status.UNDEFINED),
        (-1.0, [0, 1, 0, 0], [0, torch.nan, 0, 0], Status.UNDEFINED),
        (-1.0, [0, 1, 0, 0], [0, torch.inf, 0, 0], Status.UNDEFINED),
        (0.125, [0, 1, 0, 0], [0, 2.0, 0, 0], Status.UNDEFINED),
    ],
)
def test_status(
    stub: MakeStub,
    chain: Benchmark,
    moody: Moody,
    x1: float,
    mask: list[int],
    values: list[float],
    status: Status,
) -> None:
    solver = stub(chain.scm, moody, script([mask], [values]))
    result = solver.recommend(people(x1))
    answer = result[0]
    assert answer.status is status
    assert result.counts() == {status.value: 1}
    assert (answer.probability_after is not None) == (
        status in (Status.AMORTIZED, Status.ALREADY_ACCEPTED)
    )
    assert bool(answer.actions) == status.has_plan
    if not status.has_plan:
        assert torch.equal(result.plans.counterfactual, result.x)
        assert not result.plans.mask.any()


def test_one_person_without_a_number_spoils_nobody_else(
    stub: MakeStub, chain: Benchmark, moody: Moody
) -> None:
    act = script([[0, 1, 0, 0]] * 3, [[0, 2.0, 0, 0], [0, 7.125, 0, 0], [0, 2.0, 0, 0]])
    result = stub(chain.scm, moody, act).recommend(people(-1.0, 3.0, -1.0, -2.0))
    assert result.statuses.tolist() == ["amortized", "already_accepted", "undefined", "amortized"]


def test_every_status_says_something_of_its_own() -> None:
    assert len({status.message for status in Status}) == len(Status)
    assert [status.code for status in Status] == list(range(len(Status)))


def test_nobody_is_asked_for_a_plan_who_needs_none(
    stub: MakeStub, chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    def refuse(x: Tensor, u: Tensor) -> Intervention:
        raise AssertionError("nobody is rejected")

    result = stub(chain.scm, chain_classifier, refuse).recommend(people(3.0, 4.0))
    assert result.counts() == {"already_accepted": 2}
    assert result.plans.cost.tolist() == [0.0, 0.0]


def test_the_solver_is_given_the_rejected_and_what_is_particular_to_them(
    stub: MakeStub, chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def record(x: Tensor, u: Tensor) -> Intervention:
        seen.append((x, u))
        return Intervention.none(x)

    stub(chain.scm, chain_classifier, record).recommend(people(-1.0, 3.0, -2.0))
    ((x, u),) = seen
    assert x[:, X1].tolist() == [-1.0, -2.0]
    assert torch.equal(u, chain.scm.abduct(x))


def test_fit_needs_rejected_people(
    stub: MakeStub, chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    solver = stub(chain.scm, chain_classifier, lambda x, _: Intervention.none(x))
    for table in (people(3.0, 4.0), people(3.0, 4.0, -1.0)):
        with pytest.raises(TableError, match=r"at least two rejected people \(accepted from 50%\)"):
            solver.fit(table)
    assert solver.fit(people(-1.0, -2.0)) is solver
    assert solver.fit(chain.encoding.encode(people(-1.0, -2.0, 3.0))) is solver


def test_a_classifier_that_cannot_be_steered_is_refused_before_training(
    chain: Benchmark, linear: LinearClassifier, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("training has started")

    monkeypatch.setattr(Carma, "_fit", refuse)
    constant = linear(chain.schema, [0.0] * 4, -1.0)
    with pytest.raises(ClassifierError, match="differ between people"):
        Carma(chain.scm, constant).fit(people(-1.0, 2.0))
    broken = linear(chain.schema, [torch.nan] * 4, -1.0)
    with pytest.raises(ClassifierError, match="be a number"):
        Carma(chain.scm, broken).fit(people(-1.0, 2.0))
    with pytest.raises(ClassifierError, match="row 1 of 3"):
        Carma(chain.scm, moody).fit(people(-1.0, 0.125, 3.0))


def test_the_parts_must_describe_one_problem(chain: Benchmark, linear: LinearClassifier) -> None:
    names = chain.schema.names
    other = Schema(tuple(Feature(n) for n in names), CausalGraph(names))
    with pytest.raises(SchemaError, match="have the schema of the causal model"):
        Carma(chain.scm, linear(other, [1.0] * 4, 0.0))


def root_only(*features: Feature) -> Schema:
    return Schema(features, CausalGraph(tuple(f.name for f in features)))


def test_something_must_be_actionable(linear: LinearClassifier) -> None:
    schema = root_only(Feature("a"), Feature("b", role="immutable"))
    flow = CausalFlow(schema)
    classifier = linear(schema, [1.0, 1.0], 0.0)
    with pytest.raises(NotFittedError, match="CausalFlow: call 'fit' before 'Carma'"):
        Carma(flow, classifier)
    with pytest.raises(SchemaError, match="have an actionable feature"):
        Carma(fitted(schema, {"a": [1.0, 2.0, 4.0], "b": [0.0, 1.0, 0.5]}), classifier)


@pytest.mark.parametrize("kind", [Carma, PublishedCarma])
def test_policies_need_a_number_to_set(
    kind: type[Carma | PublishedCarma], linear: LinearClassifier
) -> None:
    job = Feature("job", "nominal", levels=("clerk", "cook"), role="actionable")
    schema = root_only(Feature("a"), job)
    classifier = linear(schema, [1.0, 0.0, 1.0], 0.0)
    model = fitted(schema, {"a": [1.0, 2.0, 4.0], "job": ["cook", "clerk", "cook"]})
    with pytest.raises(SchemaError, match="have an actionable feature that is set to a number"):
        kind(model, classifier)


def fitted(schema: Schema, table: dict[str, list[Any]]) -> CausalFlow:
    settings = FlowSettings(hidden=(4,), training=TrainingSettings(epochs=1))
    return CausalFlow(schema, settings).fit(pd.DataFrame(table))


def test_fit_comes_before_recommend(chain: Benchmark, chain_classifier: NetworkClassifier) -> None:
    solver = Carma(chain.scm, chain_classifier)
    assert not solver.is_fitted
    for method, call in {
        "recommend": lambda: solver.recommend(people(-1.0)),
        "state": solver.state,
    }.items():
        with pytest.raises(NotFittedError, match=f"Carma: call 'fit' before '{method}'"):
            call()
