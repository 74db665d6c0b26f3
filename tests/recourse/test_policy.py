"""What the networks see has no units, and what they draft can be done."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from carma.benchmarks import Benchmark, random_benchmark
from carma.classifiers.network import Input, NetworkClassifier
from carma.constraints import Limits, PlanLimits
from carma.recourse.lessons import wishful
from carma.recourse.policy import LEAST, WIDEST, Policy, _held, smooth_mlp
from carma.recourse.target import People
from carma.state import seeded
from carma.table import Statistics


def logistic(data: Benchmark, weights: Tensor, bias: Tensor) -> NetworkClassifier:
    inputs = [Input(i) for i in range(len(weights))]
    return NetworkClassifier(data.schema, inputs, [weights[None]], [bias.reshape(1)])


def stirred(policy: Policy, seed: int = 0) -> Policy:
    """Random weights: untrained networks propose nothing."""
    draws = seeded(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draws))
    return policy


@pytest.fixture(scope="module")
def data() -> Benchmark:
    return random_benchmark(6, 4, seed=2, rows=400, nonlinear=False)


@pytest.fixture(scope="module")
def weights(data: Benchmark) -> Tensor:
    return torch.randn(6, generator=seeded(4), dtype=torch.float64)


def new_policy(data: Benchmark, classifier: NetworkClassifier, x: Tensor, u: Tensor) -> Policy:
    statistics = Statistics.of(x, data.encoding)
    policy = Policy(classifier, data.encoding.actionable, statistics, u, (8,), (8, 8))
    return stirred(policy)


@pytest.fixture(scope="module")
def policy(data: Benchmark, weights: Tensor) -> Policy:
    x = data.encoded("recourse")
    classifier = logistic(data, weights, torch.tensor(-0.5).double())
    made = new_policy(data, classifier, x, data.scm.abduct(x))
    made.scale_to(plain(data), torch.ones(40), 2.0)
    return made


def plain(data: Benchmark, n: int = 40) -> People:
    x = data.encoded("recourse")[:n]
    limits = PlanLimits(data.encoding, data.scm.statistics_).around(x)
    return People(x, data.scm.abduct(x), limits)


def wishes(data: Benchmark) -> People:
    """Frozen features, narrow limits, prices, and all people may act on few features only."""
    people = wishful(plain(data), data.encoding.actionable, seeded(3))
    most = torch.randint(1, 4, (len(people),), generator=seeded(4))
    return replace(people, limits=replace(people.limits, max_actions=most))


def in_units(people: People, factor: Tensor, shift: Tensor) -> People:
    """The same people in other units; mechanisms are linear with additive noise."""
    box = people.limits
    limits = Limits(
        box.lower * factor + shift, box.upper * factor + shift, box.may_act, box.max_actions
    )
    return replace(people, x=people.x * factor + shift, u=people.u * factor, limits=limits)


def test_units_do_not_matter(data: Benchmark, weights: Tensor) -> None:
    factor = torch.tensor([1e3, 1.0, 0.01, 7.0, 1e-4, 50.0], dtype=torch.float64)
    shift = torch.tensor([0.0, 5.0, -2.0, 100.0, 0.3, -1e3], dtype=torch.float64)
    x, bias = data.encoded("recourse"), torch.tensor(-0.5).double()
    u = data.scm.abduct(x)
    one = new_policy(data, logistic(data, weights, bias), x, u)
    turned = logistic(data, weights / factor, bias - (weights * shift / factor).sum())
    other = new_policy(data, turned, x * factor + shift, u * factor)
    people = wishes(data)
    there = in_units(people, factor, shift)
    one.scale_to(people, torch.ones(len(people)), 2.0)
    other.scale_to(there, torch.ones(len(there)), 2.0)
    torch.testing.assert_close(one.describe(people), other.describe(there), rtol=1e-5, atol=1e-5)
    (a, own), (b, same) = one.drafts_and_margins(people, 4), other.drafts_and_margins(there, 4)
    assert torch.equal(a.masks, b.masks)
    back = (b.values - shift) / factor
    torch.testing.assert_close(a.values, back, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own, same, rtol=1e-4, atol=1e-5)


def test_only_what_is_dear_beside_the_rest_is_seen(data: Benchmark, policy: Policy) -> None:
    people = wishes(data)
    assert people.weights is not None
    seen = policy.describe(people)
    for factor in (1e-3, 0.5, 40.0):
        scaled = replace(people, weights=factor * people.weights)
        torch.testing.assert_close(policy.describe(scaled), seen, rtol=1e-5, atol=1e-5)
    # Weights of one are no weights; those of one feature against the others count.
    ones = replace(people, weights=torch.ones_like(people.x))
    assert torch.equal(policy.describe(ones), policy.describe(replace(people, weights=None)))
    free = plain(data)
    dear = torch.ones_like(free.x)
    dear[:, data.encoding.actionable[0]] = 4.0
    differs = policy.describe(replace(free, weights=dear)) != policy.describe(free)
    assert differs.any(dim=1).all()


def test_what_may_not_be_acted_on_has_no_room_and_no_price(data: Benchmark, policy: Policy) -> None:
    people = plain(data)
    column = int(data.encoding.actionable[1])
    may_act = people.limits.may_act.clone()
    may_act[:, column] = False
    ones = torch.ones_like(people.x)
    first = replace(people, limits=replace(people.limits, may_act=may_act), weights=ones)
    wide, dear = people.limits.upper.clone(), ones.clone()
    wide[:, column] += 3
    dear[:, column] = 9.0
    limits = replace(people.limits, may_act=may_act, upper=wide)
    second = replace(people, limits=limits, weights=dear)
    assert torch.equal(policy.describe(first), policy.describe(second))


def test_infinite_room_and_rows_far_out_are_seen_as_numbers(
    data: Benchmark, policy: Policy
) -> None:
    people = plain(data)
    endless = torch.full_like(people.x, torch.inf)
    limits = replace(people.limits, lower=-endless, upper=endless)
    weights = torch.ones_like(people.x)
    weights[:, data.encoding.actionable[0]] = 1e-300
    far = replace(people, x=people.x * 1e6, limits=limits, weights=weights)
    seen = policy.describe(far)
    assert seen.dtype == torch.float32
    assert torch.isfinite(seen).all()
    assert float(seen.abs().max()) <= 10


@pytest.mark.parametrize("count", [1, 3, 8])
def test_drafts_can_be_done(data: Benchmark, policy: Policy, count: int) -> None:
    for people in (plain(data), wishes(data)):
        drafts, margin = policy.drafts_and_margins(people, count)
        n, d = people.x.shape
        assert drafts.masks.shape == drafts.values.shape == (n, count, d)
        assert margin.shape == (n, count)
        assert ((margin >= 0) & (margin <= WIDEST)).all()
        only = policy.drafts(people, count)
        assert torch.equal(only.masks, drafts.masks)
        assert torch.equal(only.values, drafts.values)
        box = people.limits
        assert people.limits.allows(drafts.masks).all()
        assert not (drafts.masks & ~box.can_move[:, None]).any()
        inside = (drafts.values >= box.lower[:, None]) & (drafts.values <= box.upper[:, None])
        assert inside.all()
        own = people.x[:, None].expand_as(drafts.values)
        assert torch.equal(drafts.values[~drafts.masks], own[~drafts.masks])
        # Everybody who can move something gets something to try, no two alike.
        assert torch.equal(drafts.masks[:, 0].any(dim=1), box.can_move.any(dim=1))
        for sets in drafts.masks:
            tried = sets[sets.any(dim=1)]
            assert len(torch.unique(tried, dim=0)) == len(tried)


def test_a_person_with_few_sets_has_empty_drafts_behind(data: Benchmark, policy: Policy) -> None:
    people = plain(data, 3)
    columns = data.encoding.actionable
    may_act = torch.zeros_like(people.limits.may_act)
    may_act[1, columns[:1]] = True
    may_act[2, columns[:2]] = True
    people = replace(people, limits=replace(people.limits, may_act=may_act))
    assert policy.drafts(people, 5).masks.any(dim=2).int().tolist() == [
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0],
    ]


def test_a_person_is_described_and_drafted_for_alone(data: Benchmark, policy: Policy) -> None:
    people = wishes(data)
    seen, (drafts, margin) = policy.describe(people), policy.drafts_and_margins(people, 3)
    for i in (0, 7, 39):
        rows = torch.tensor([i])
        torch.testing.assert_close(policy.describe(people[rows])[0], seen[i], rtol=1e-6, atol=1e-6)
        alone, own_margin = policy.drafts_and_margins(people[rows], 3)
        assert torch.equal(alone.masks[0], drafts.masks[i])
        torch.testing.assert_close(alone.values[0], drafts.values[i], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own_margin[0], margin[i], rtol=1e-5, atol=1e-5)


def test_nobody_gets_no_draft(data: Benchmark, policy: Policy) -> None:
    nobody = plain(data)[:0]
    drafts, margin = policy.drafts_and_margins(nobody, 3)
    assert drafts.masks.shape == drafts.values.shape == (0, 3, 6)
    assert margin.shape == (0, 3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slopes_lead_back_into_the_box_and_not_out_of_it(sign: float) -> None:
    lower, upper = torch.tensor([[-1.0] * 5]), torch.tensor([[1.0] * 5])
    leaf = torch.tensor([[-2.0, -1.0, 0.3, 1.0, 2.0]], requires_grad=True)
    # A hook needs a result, as the network's are.
    values = 1.0 * leaf
    held = _held(values, lower, upper)
    assert torch.equal(held.detach(), values.detach().clamp(-1, 1))
    (sign * held).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    # Going down is going against the slope: out of the lower end with +1, of the upper with -1.
    expected = [0, 0, 1, 1, 1] if sign > 0 else [-1, -1, -1, 0, 0]
    assert leaf.grad.tolist() == [expected]
    assert not _held(leaf.detach(), lower, upper).requires_grad


def test_drafts_have_slopes_in_the_action_network(data: Benchmark, policy: Policy) -> None:
    drafts = policy.drafts(plain(data), 1)
    slopes = torch.autograd.grad(drafts.values.sum(), list(policy.action_network.parameters()))
    assert all(torch.isfinite(slope).all() for slope in slopes)
    assert any(slope.any() for slope in slopes)


def test_a_new_network_proposes_no_change() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = smooth_mlp(3, (5, 5), 2)
    out = network(torch.randn(7, 3, generator=seeded(0)))
    assert torch.equal(out, torch.zeros(7, 2))


def test_margins_are_none_below_the_least_and_bounded(data: Benchmark, policy: Policy) -> None:
    people = plain(data)
    last = policy.margin_network[-1]
    assert isinstance(last, torch.nn.Linear)
    weight, bias = last.weight.detach().clone(), last.bias.detach().clone()
    try:
        with torch.no_grad():
            last.weight[-1], last.bias[-1] = 0.0, torch.tensor(0.5 * LEAST).log()
            assert (policy.drafts_and_margins(people, 2)[1] == 0).all()
            last.bias[-1] = 80.0
            assert (policy.drafts_and_margins(people, 2)[1] == WIDEST).all()
            last.bias[-1] = torch.tensor(2.0 + LEAST).log()
            margin = policy.drafts_and_margins(people, 2)[1]
        torch.testing.assert_close(margin, torch.full_like(margin, 2.0), rtol=1e-5, atol=0)
    finally:
        with torch.no_grad():
            last.weight.copy_(weight)
            last.bias.copy_(bias)
