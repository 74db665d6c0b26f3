"""Plans of others, as new people may follow them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from carma import ClassifierSettings, TrainingSettings, fit_classifier
from carma.benchmarks import Benchmark, load
from carma.classifiers.base import Classifier
from carma.constraints import PlanLimits
from carma.recourse.precedents import Precedents
from carma.recourse.recall import Recall
from carma.recourse.target import People
from carma.state import seeded


@cache
def world() -> tuple[Benchmark, Classifier]:
    data = load("chain-lin", rows=1500)
    settings = ClassifierSettings((), TrainingSettings(epochs=5))
    return data, fit_classifier(data.schema, data.frame("classifier"), settings)


def limits_of(data: Benchmark) -> PlanLimits:
    return PlanLimits(data.encoding, data.scm.statistics_)


def people(n: int) -> People:
    data, classifier = world()
    x = data.encoded("recourse", "test")
    x = x[classifier.rejects(x)][:n]
    return People(x, data.scm.abduct(x), limits_of(data).around(x))


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


def recall() -> Recall:
    data, _ = world()
    return Recall(data.cost, limits_of(data))


def everywhere(n: int, m: int) -> torch.Tensor:
    return torch.arange(m).expand(n, m)


def test_each_plan_is_held_inside_the_limits_and_priced() -> None:
    data, _ = world()
    some, known = people(20), known_plans()
    plans, _ = recall().fitted(some, everywhere(20, len(known)), known)
    own = some[plans.owner]
    assert len(plans.owner) == 20 * len(known)
    assert bool(((own.limits.lower <= plans.values) & (plans.values <= own.limits.upper)).all())
    torch.testing.assert_close(plans.cost, data.cost(own.x, plans.mask, plans.values))
    inside = limits_of(data).project(own.x, known.values.repeat(20, 1), own.limits)
    assert torch.equal(plans.values, torch.where(known.mask.repeat(20, 1), inside, own.x))


def test_what_others_held_is_held_where_each_person_stands() -> None:
    data, _ = world()
    some, known = people(20), known_plans()
    last = data.encoding.actionable[-1]
    held = torch.zeros_like(known.mask)
    held[:, last] = True
    known = replace(known, mask=known.mask | held, is_held=held)
    plans, _ = recall().fitted(some, everywhere(20, len(known)), known)
    assert bool(plans.mask[:, last].all())
    assert torch.equal(plans.values[:, last], some.x[plans.owner, last])


def test_nobody_is_given_what_they_may_not_do() -> None:
    data, _ = world()
    some, first = people(20), data.encoding.actionable[0]
    may_act = some.limits.may_act.clone()
    may_act[::2, first] = False
    some = replace(some, limits=replace(some.limits, may_act=may_act))
    plans, _ = recall().fitted(some, everywhere(20, 30), known_plans())
    assert len(plans.owner)
    assert bool((plans.owner % 2 == 1).all())


def test_plans_to_learn_from_are_other_ones_inside_the_limits() -> None:
    some, known = people(30), known_plans()
    mask, values = recall().varied(some, torch.arange(30), known, seeded(0))
    assert torch.equal(mask, known.mask)
    assert torch.equal(values[~mask], some.x[~mask])
    assert bool(((some.limits.lower <= values) & (values <= some.limits.upper)).all())
    plain, _ = recall().fitted(some, torch.arange(30)[:, None], known)
    assert bool((values != plain.values).any(dim=1).double().mean() > 0.3)
    again = recall().varied(some, torch.arange(30), known, seeded(0))[1]
    assert torch.equal(values, again)
