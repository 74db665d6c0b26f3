"""Learning from lessons: what is asked of the networks, and that they get better at it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carma import TrainingSettings
from carma.benchmarks import Benchmark
from carma.classifiers.network import NetworkClassifier
from carma.constraints import PlanLimits
from carma.recourse.apprenticeship import Apprenticeship, Homework
from carma.recourse.doubt import Doubt
from carma.recourse.lessons import Lessons, Teacher
from carma.recourse.policy import LEAST, Policy
from carma.recourse.starts import spread_evenly
from carma.recourse.target import People, Target

STUDIES = TrainingSettings(epochs=15, batch_size=32, learning_rate=3e-3)
REHEARSAL = TrainingSettings(epochs=15, batch_size=32, learning_rate=3e-3)


@pytest.fixture(scope="module")
def target(chain: Benchmark, chain_classifier: NetworkClassifier) -> Target:
    limits = PlanLimits(chain.encoding, chain.scm.statistics_)
    return Target(chain.scm.counterfactual, chain_classifier, limits, 0.0)


@pytest.fixture(scope="module")
def lessons(chain: Benchmark, chain_classifier: NetworkClassifier, target: Target) -> Lessons:
    x = chain.encoded("recourse")
    x = x[chain_classifier.probability(x) < 0.5][:120]
    limits = PlanLimits(chain.encoding, chain.scm.statistics_).around(x)
    people = People(x, chain.scm.abduct(x), limits, torch.ones_like(x))
    columns = chain.encoding.actionable
    shares = spread_evenly(4, columns, 4)
    doubt = Doubt(chain.scm, chain_classifier)
    teacher = Teacher(chain.scm.counterfactual, target, chain.cost, doubt, 0.0, columns, shares)
    taught = teacher.lessons(people)
    return taught[torch.isfinite(taught.cost).any(dim=1).nonzero().squeeze(1)]


def new_policy(chain: Benchmark, classifier: NetworkClassifier, lessons: Lessons) -> Policy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        columns, statistics = chain.encoding.actionable, chain.scm.statistics_
        return Policy(classifier, columns, statistics, lessons.people.u, (16,), (32, 32))


def test_homework_is_in_shares_and_standard_deviations(
    chain: Benchmark, chain_classifier: NetworkClassifier, lessons: Lessons
) -> None:
    policy = new_policy(chain, chain_classifier, lessons)
    columns = chain.encoding.actionable
    homework = Homework.of(lessons, policy, columns, chain.cost)
    for tensor in vars(homework).values():
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()
    works = torch.isfinite(lessons.cost)
    torch.testing.assert_close(homework.chance.sum(dim=1), torch.ones(len(lessons)))
    assert (homework.chance[~works] == 0).all()
    best = lessons.cost.argmin(dim=1)
    assert torch.equal(homework.chance.argmax(dim=1), best)
    assert ((homework.presence >= 0) & (homework.presence <= 1)).all()
    assert (homework.price >= 0).all()
    torch.testing.assert_close(homework.log_margin.exp(), (lessons.margin + LEAST).float())
    # The change in standard deviations leads from the person to the plan.
    back = lessons.people.x[:, None, columns] + homework.change.double() * policy.width
    torch.testing.assert_close(
        back[works], lessons.values[..., columns][works], rtol=1e-4, atol=1e-4
    )
    # Everything that brings a plan past the threshold is its own whole gain.
    gained = (homework.slope * homework.change).sum(dim=2)
    moved = works & (homework.change.abs().sum(dim=2) > 0.1)
    torch.testing.assert_close(gained[moved], torch.ones(int(moved.sum())), rtol=1e-3, atol=1e-3)


def taught(
    chain: Benchmark, classifier: NetworkClassifier, target: Target, lessons: Lessons
) -> tuple[Policy, list[Tensor]]:
    policy = new_policy(chain, classifier, lessons)
    school = Apprenticeship(policy, chain.encoding.actionable, chain.cost, target, compiles=False)
    school.teach(lessons, STUDIES, REHEARSAL, progress=False)
    return policy, [p.detach().clone() for p in policy.parameters()]


def test_single_passes_get_better_and_the_same_seed_gives_the_same_bits(
    chain: Benchmark, chain_classifier: NetworkClassifier, target: Target, lessons: Lessons
) -> None:
    new = new_policy(chain, chain_classifier, lessons)
    state = torch.random.get_rng_state()
    policy, weights = taught(chain, chain_classifier, target, lessons)
    _, again = taught(chain, chain_classifier, target, lessons)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))
    with torch.no_grad():
        drafts = policy.drafts(lessons.people, 1)
    masks, values = drafts.masks[:, 0], drafts.values[:, 0]
    works = target.surplus(lessons.people, masks, values) >= 0
    assert works.double().mean() > 0.8
    # A new network changes nothing, so that nobody is accepted.
    with torch.no_grad():
        first = new.drafts(lessons.people, 1)
    untaught = target.surplus(lessons.people, first.masks[:, 0], first.values[:, 0])
    assert (untaught < 0).all()
    cost, least = chain.cost(lessons.people.x, masks, values), lessons.cost.amin(dim=1)
    assert float(cost[works].sum()) <= 1.5 * float(least[works].sum())
    # The likeliest set is mostly the best one.
    best = lessons.masks[torch.arange(len(lessons)), lessons.cost.argmin(dim=1)]
    assert (masks == best).all(dim=1).double().mean() > 0.7


def test_rehearsal_leaves_the_mask_network_alone(
    chain: Benchmark, chain_classifier: NetworkClassifier, target: Target, lessons: Lessons
) -> None:
    tensors = []
    for epochs in (1, 4):
        policy = new_policy(chain, chain_classifier, lessons)
        columns = chain.encoding.actionable
        school = Apprenticeship(policy, columns, chain.cost, target, compiles=False)
        studied, rehearsed = school.teach(
            lessons,
            TrainingSettings(epochs=3, batch_size=32),
            TrainingSettings(epochs=epochs, batch_size=32),
            progress=False,
        )
        assert len(studied.records) == 3
        assert len(rehearsed.records) == epochs
        assert all(0 <= record["coverage"] <= 1 for record in rehearsed.records)
        tensors.append([p.detach().clone() for p in policy.mask_network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
