"""The optimum of someone who knows no causes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from carma import (
    CausalFlow,
    CausalGraph,
    ClassifierSettings,
    ExactSettings,
    ExactSolver,
    FlowSettings,
    Intervention,
    NonCausalOptimum,
    Status,
    StructuralCausalModel,
    TrainingSettings,
    fit_classifier,
    linear,
)
from carma.benchmarks import Benchmark, load
from carma.classifiers.network import Input, NetworkClassifier
from carma.constraints import Limits

QUICK = TrainingSettings(epochs=10, batch_size=64, learning_rate=2e-2)
# The scores from which the sets draw their labels.
WEIGHTS = {
    "snowball": ([0.0, 0.0, 0.25, 0.25, 0.25, 0.25, 1.0], 0.0),
    "tradeoff": ([0.0, 0.0, 0.5, 1.0, 0.5, 0.25, 1.5], 1.5),
}
SEARCHED = Status.SEARCHED.code


def logistic(data: Benchmark) -> NetworkClassifier:
    weights, bias = WEIGHTS[data.name]
    inputs = [Input(i) for i in range(len(weights))]
    layers = [torch.tensor([weights]).double()], [torch.tensor([bias]).double()]
    return NetworkClassifier(data.schema, inputs, *layers)


def trained(data: Benchmark) -> NetworkClassifier:
    settings = ClassifierSettings(data.classifier_settings.hidden, QUICK)
    return fit_classifier(data.schema, data.frame("classifier"), settings, progress=False)


def rejected(data: Benchmark, classifier: NetworkClassifier, count: int) -> Tensor:
    x = data.encoded("recourse", "test")
    return x[classifier.probability(x) < classifier.threshold][:count]


@pytest.mark.parametrize("name", ["loan", "chain-lin", "tradeoff", "collider-nlin"])
@pytest.mark.parametrize(
    "settings",
    [ExactSettings(), ExactSettings(max_actions=2, margin=0.1), ExactSettings(max_subsets=3)],
    ids=["plain", "two-actions", "best-first"],
)
def test_it_is_the_exact_solver_in_a_world_without_causes(
    name: str, settings: ExactSettings
) -> None:
    data = load(name, rows=300)
    classifier = trained(data)
    x = rejected(data, classifier, 6)
    schema = replace(data.schema, graph=CausalGraph(data.schema.names))
    noise = Normal(torch.zeros(()).double(), torch.ones(()).double())
    edgeless = StructuralCausalModel(schema, {n: linear({}, noise) for n in schema.names})
    edgeless.statistics_ = data.scm.statistics_
    c = classifier
    same = NetworkClassifier(schema, c.inputs, c.weights, c.biases)
    one = NonCausalOptimum(data.scm, classifier, settings=settings).solve(x)
    other = ExactSolver(edgeless, same, settings=settings).solve(x)
    assert (one.status == SEARCHED).sum() >= 4
    for entry in ("status", "mask", "values", "counterfactual", "probability_after"):
        assert torch.equal(getattr(one, entry), getattr(other, entry)), entry
    torch.testing.assert_close(one.cost, other.cost, rtol=0, atol=0, equal_nan=True)


def test_in_the_snowball_it_pays_more_than_three_times_the_optimum() -> None:
    data = load("snowball", rows=400)
    for classifier in (logistic(data), trained(data)):
        x = rejected(data, classifier, 40)
        exact = ExactSolver(data.scm, classifier).solve(x)
        blind = NonCausalOptimum(data.scm, classifier).solve(x)
        both = (exact.status == SEARCHED) & (blind.status == SEARCHED)
        assert int(both.sum()) > 30
        assert (blind.cost > 3 * exact.cost)[both].all()
        # What follows helps here, so its plans work all the same.
        truth = data.scm.counterfactual(x, Intervention(blind.mask, blind.values))
        assert (classifier.probability(truth) >= 0.5)[both].all()


def test_in_the_tradeoff_most_of_its_plans_fail() -> None:
    data = load("tradeoff", rows=400)
    classifier = logistic(data)
    x = rejected(data, classifier, 40)
    exact = ExactSolver(data.scm, classifier).solve(x)
    blind = NonCausalOptimum(data.scm, classifier).solve(x)
    holds = {}
    for name, plans in (("exact", exact), ("blind", blind)):
        assert (plans.status == SEARCHED).all()
        truth = data.scm.counterfactual(x, Intervention(plans.mask, plans.values))
        holds[name] = float((classifier.probability(truth) >= 0.5).double().mean())
    assert holds["exact"] == 1.0
    assert holds["blind"] < 0.4


@pytest.mark.parametrize("name", ["loan", "tradeoff"])
def test_the_causal_model_only_gives_schema_and_scale(name: str) -> None:
    data = load(name, rows=300)
    classifier = trained(data)
    x = rejected(data, classifier, 6)
    flow = CausalFlow(data.schema, FlowSettings(hidden=(4,), training=replace(QUICK, epochs=1)))
    flow.fit(data.frame("causal"), progress=False)
    flow.statistics_ = data.scm.statistics_
    true, learned = (NonCausalOptimum(model, classifier).solve(x) for model in (data.scm, flow))
    assert (true.status == SEARCHED).all()
    assert torch.equal(true.mask, learned.mask)
    assert torch.equal(true.values, learned.values)
    assert torch.equal(true.counterfactual, torch.where(true.mask, true.values, x))
    # The exact solver does see the difference.
    one, other = (ExactSolver(model, classifier).solve(x) for model in (data.scm, flow))
    assert float((one.cost / other.cost - 1).abs().max()) > 0.01


def test_nothing_follows_so_bounds_of_the_classifier_prove_more() -> None:
    data = load("loan", rows=300)
    classifier = trained(data)
    x = rejected(data, classifier, 6)
    # Only the amount may be changed, and that a little: duration, which it drives, is unbounded.
    may_act = torch.zeros_like(x, dtype=torch.bool)
    may_act[:, data.encoding.column("loan_amount")] = True
    limits = Limits(x - 1e-3, x + 1e-3, may_act)
    blind = NonCausalOptimum(data.scm, classifier).solve(x, limits)
    exact = ExactSolver(data.scm, classifier).solve(x, limits)
    hopeless = classifier.probability(x) < 0.45
    assert hopeless.any()
    assert (blind.status == Status.INFEASIBLE.code)[hopeless].all()
    assert (exact.status == Status.NOT_FOUND.code)[hopeless].all()
