"""Plans of others: who is alike, and what is tried of what worked for them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from carma import ClassifierSettings, TrainingSettings, fit_classifier
from carma.benchmarks import Benchmark, load
from carma.classifiers.base import Classifier
from carma.constraints import PlanLimits
from carma.recourse.doubt import Doubt
from carma.recourse.precedents import Precedents
from carma.recourse.recall import Recall
from carma.recourse.target import People, Target
from carma.state import seeded


def drawn(m: int, d: int = 3, q: int = 5, seed: int = 0) -> Precedents:
    draws = seeded(seed)
    mask = torch.rand(m, d, generator=draws) < 0.6
    values = torch.randn(m, d, generator=draws, dtype=torch.float64)
    return Precedents(torch.randn(m, q, generator=draws), mask, values, mask & (values > 1))


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_near_are_those_at_the_least_distance(m: int, count: int, seed: int) -> None:
    known, seen = drawn(m, seed=seed), torch.randn(7, 5, generator=seeded(seed + 1))
    near = known.near(seen, count)
    assert near.shape == (7, min(m, count))
    distance = torch.cdist(seen.double(), known.seen.double())
    expected = distance.sort(dim=1).values[:, : near.shape[1]]
    torch.testing.assert_close(distance.gather(1, near), expected, atol=1e-5, rtol=0)


def test_who_is_near_depends_on_nobody_else_in_the_batch() -> None:
    known, seen = drawn(300), torch.randn(1500, 5, generator=seeded(3))
    near, order = known.near(seen, 20), torch.randperm(1500, generator=seeded(4))
    assert torch.equal(known.near(seen[order], 20), near[order])
    assert torch.equal(torch.cat([known.near(row[None], 20) for row in seen[:50]]), near[:50])


def test_who_is_as_near_comes_in_order() -> None:
    known = drawn(6)
    known = replace(known, seen=torch.zeros_like(known.seen))
    assert known.near(torch.ones(1, 5), 4).tolist() == [[0, 1, 2, 3]]


def test_they_come_back_from_tensors_and_join() -> None:
    known = drawn(9)
    again = Precedents.from_tensors(known.as_tensors())
    assert all(
        torch.equal(a, b) for a, b in zip(vars(again).values(), vars(known).values(), strict=True)
    )
    both = Precedents.joined([known, again])
    assert len(both) == 18
    assert torch.equal(both.values[9:], known.values)


@cache
def world() -> tuple[Benchmark, Classifier]:
    data = load("chain-lin", rows=1500)
    settings = ClassifierSettings((), TrainingSettings(epochs=5))
    return data, fit_classifier(data.schema, data.frame("classifier"), settings)


def people(n: int) -> People:
    data, classifier = world()
    x = data.encoded("recourse", "test")
    x = x[classifier.rejects(x)][:n]
    limits = PlanLimits(data.encoding, data.scm.statistics_)
    return People(x, data.scm.abduct(x), limits.around(x))


def recall(near: tuple[int, int]) -> tuple[Recall, Target]:
    data, classifier = world()
    limits = PlanLimits(data.encoding, data.scm.statistics_)
    target = Target(data.scm.counterfactual, classifier, limits, 0.0)
    return Recall(target, data.cost, limits, Doubt(data.scm, classifier), 0.0, near), target


def known_plans(m: int = 30) -> Precedents:
    data, _ = world()
    draws, d = seeded(0), data.encoding.n_columns
    mask = torch.rand(m, d, generator=draws) < 0.6
    mask[:, data.encoding.actionable[0]] = True
    far = torch.randn(m, d, generator=draws, dtype=torch.float64)
    values = data.scm.statistics_.mean + 3 * far * data.scm.statistics_.std
    nothing = torch.zeros_like(mask)
    mask &= torch.zeros(d, dtype=torch.bool).index_fill(0, data.encoding.actionable, True)
    return Precedents(torch.randn(m, 2, generator=draws), mask, values, nothing)


@pytest.mark.parametrize("near", [(30, 0), (5, 25), (1, 29)])
def test_the_cheapest_that_works_is_taken(near: tuple[int, int]) -> None:
    data, _ = world()
    some, known = people(40), known_plans()
    searcher, target = recall(near)
    found = searcher.best(some, torch.zeros(len(some), 2), known)
    limits, least = PlanLimits(data.encoding, data.scm.statistics_), []
    for row in range(len(some)):
        own = some[torch.tensor([row])].repeated(len(known))
        values = torch.where(known.mask, limits.project(own.x, known.values, own.limits), own.x)
        works = target.surplus(own, known.mask, values) >= 0
        least.append(torch.where(works, data.cost(own.x, known.mask, values), torch.inf).min())
    expected = torch.stack(least)
    assert torch.equal(found.owner, torch.isfinite(expected).nonzero().squeeze(1))
    assert len(found.owner) > 0
    price = data.cost.of(some.x[found.owner], found.do)
    torch.testing.assert_close(price, expected[found.owner])
    assert bool((target.surplus(some[found.owner], found.do.mask, found.do.values) >= 0).all())


def test_what_others_held_is_held_where_each_person_stands() -> None:
    data, _ = world()
    some, known = people(40), known_plans()
    last = data.encoding.actionable[-1]
    held = torch.zeros_like(known.mask)
    held[:, last] = True
    known = replace(known, mask=known.mask | held, is_held=held)
    found = recall((30, 0))[0].best(some, torch.zeros(len(some), 2), known)
    assert len(found.owner)
    assert bool(found.do.mask[:, last].all())
    assert torch.equal(found.do.values[:, last], some.x[found.owner, last])


def test_nobody_is_given_what_they_may_not_do() -> None:
    data, _ = world()
    some, first = people(40), data.encoding.actionable[0]
    box = some.limits
    may_act = box.may_act.clone()
    may_act[::2, first] = False
    some = replace(some, limits=replace(box, may_act=may_act))
    found = recall((30, 0))[0].best(some, torch.zeros(len(some), 2), known_plans())
    assert len(found.owner)
    assert bool((found.owner % 2 == 1).all())


def test_answers_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    some, known, searcher = people(60), known_plans(), recall((10, 20))[0]
    seen: Tensor = torch.randn(len(some), 2, generator=seeded(5))
    whole = searcher.best(some, seen, known)
    monkeypatch.setattr("carma.recourse.recall.AT_ONCE", 7)
    parts = searcher.best(some, seen, known)
    assert torch.equal(whole.owner, parts.owner)
    assert torch.equal(whole.do.mask, parts.do.mask)
    torch.testing.assert_close(whole.do.values, parts.do.values)
