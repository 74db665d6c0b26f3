"""Climbs end where one column after the other leads no farther."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.recourse.test_recall import limits_of, people, world
from torch import Tensor

from carma.constraints import PlanLimits
from carma.recourse.climb import Climb
from carma.recourse.target import People, Target

N = 60


class _Hill(Target):
    """Leads past the decision in a small part of the box only, where one column is left alone."""

    def __init__(self, limits: PlanLimits, column: int, share: float, narrow: float) -> None:
        self._limits, self._column, self._share, self._narrow = limits, column, share, narrow

    def surplus(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
        box, column = people.limits, self._column
        low, high = box.lower[:, column], box.upper[:, column]
        top = low + self._share * (high - low)
        off = (values[:, column] - top).abs() / (high - low).clamp(min=1e-9)
        others = mask.sum(dim=1) - mask[:, column].long()
        return self._narrow - off - others


@cache
def asked() -> tuple[PlanLimits, People]:
    data, _ = world()
    limits = limits_of(data)
    some = people(N)
    can = some.limits.can_move.all(dim=1).nonzero().squeeze(1)
    return limits, some[can] if len(can) else some


def climbed(target: Target, some: People) -> tuple[Tensor, ...]:
    limits, _ = asked()
    return Climb(target, limits).farthest(some, some.limits.widest, some.x)


@given(share=st.floats(0, 1), place=st.integers(0, 10))
def test_a_hill_inside_the_box_is_found_and_other_columns_are_left_alone(
    share: float, place: int
) -> None:
    limits, some = asked()
    columns = some.limits.can_move.all(dim=0).nonzero().squeeze(1).tolist()
    column = columns[place % len(columns)]
    target = _Hill(limits, column, share, 0.06)
    mask, values, surplus = climbed(target, some)
    width = (some.limits.upper - some.limits.lower)[:, column]
    is_wide = width > 50 * limits.step(column)
    assert bool((surplus[is_wide] >= 0).all())
    torch.testing.assert_close(surplus, target.surplus(some, mask, values))
    assert not mask[:, [c for c in columns if c != column]][is_wide].any()


def test_where_it_ends_is_allowed_and_what_it_says() -> None:
    data, classifier = world()
    limits, some = asked()
    target = Target(data.scm.counterfactual, classifier, limits, 0.0)
    before = target.surplus(some, some.limits.widest, some.x)
    mask, values, surplus = climbed(target, some)
    assert bool((surplus >= before).all())
    torch.testing.assert_close(surplus, target.surplus(some, mask, values))
    box = some.limits
    assert bool(box.allows(mask).all())
    assert bool(((box.lower <= values) & (values <= box.upper))[mask].all())
    assert torch.equal(values[~mask], some.x[~mask])
    torch.testing.assert_close(limits.project(some.x, values, box)[mask], values[mask])


@pytest.mark.parametrize("most", [0, 1])
def test_no_more_features_are_set_than_may_be(most: int) -> None:
    data, classifier = world()
    limits, some = asked()
    fewest = torch.full((len(some),), most)
    few = replace(some, limits=replace(some.limits, max_actions=fewest))
    target = Target(data.scm.counterfactual, classifier, limits, 0.0)
    mask, _, surplus = climbed(target, few)
    assert int(mask.sum(dim=1).max()) <= most
    nothing = torch.zeros_like(mask)
    assert bool((surplus >= target.surplus(few, nothing, few.x)).all())


def test_who_works_does_not_go_on() -> None:
    limits, some = asked()

    class Flat(Target):
        rows = 0

        def __init__(self) -> None:
            self._limits = limits

        def surplus(self, people: People, mask: Tensor, values: Tensor) -> Tensor:
            self.rows += len(people)
            is_first = people.x[:, 0] == some.x[0, 0]
            return torch.where(is_first, 0.0, -1.0) - 0 * (mask * values).sum(dim=1)

    alone, both = Flat(), Flat()
    climbed(alone, some[torch.tensor([1])])
    climbed(both, some[torch.tensor([0, 1])])
    assert alone.rows > 1
    assert both.rows == alone.rows + 1
