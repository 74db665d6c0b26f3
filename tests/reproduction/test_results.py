from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carma.errors import SettingsError
from carma.reproduction.duration import expected_seconds
from carma.reproduction.results import Results
from carma.reproduction.run import FRACTIONS, Run, fraction_variant

MakeRecord = Callable[..., dict[str, Any]]


def run(seed: int, variant: str = "plain") -> Run:
    return Run("loan", variant, "carma", seed, "full")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_means_and_spreads_are_those_of_the_seeds(made_up: MakeRecord, values: list[float]) -> None:
    results = Results(made_up(run(i), cost_x100=v) for i, v in enumerate(values))
    found = results.of("cost_x100", "loan", "carma")
    assert found.mean == pytest.approx(fmean(values), abs=1e-6)
    assert found.std == pytest.approx(pstdev(values), abs=1e-6)
    assert found.n == len(values)


def test_unknown_values_are_left_out_and_lists_are_joined(made_up: MakeRecord) -> None:
    records = [
        made_up(run(0), cost_ratio=None, shifts={"income": [1.0]}, targets={"income": 10.0}),
        made_up(run(1), cost_ratio=2.0, shifts={"income": [2.0]}, targets={"income": 30.0}),
    ]
    results = Results(records)
    assert results.of("cost_ratio", "loan", "carma") == (2.0, 0.0, 1)
    assert results.of("targets", "loan", "carma", part="income").mean == 20.0
    assert results.pooled("shifts", "loan", "carma") == {"income": [1.0, 2.0]}


def test_what_was_not_run_is_said(made_up: MakeRecord) -> None:
    results = Results([made_up(run(0), cost_ratio=None)])
    with pytest.raises(SettingsError, match="hold this run"):
        results.records("loan", "carma", "vaca")
    with pytest.raises(SettingsError, match="be known for a seed"):
        results.of("cost_ratio", "loan", "carma")


def test_variants_by_fraction() -> None:
    assert [run(0, fraction_variant(share)).fraction for share in FRACTIONS] == [*FRACTIONS]
    assert run(0, fraction_variant(0.1)).group == run(0).group == run(0, "weighted").group
    assert run(0, "vaca").group != run(0).group


@pytest.mark.parametrize("bad", [{"seed": "0"}, {"dataset": 3}])
def test_a_record_of_another_kind_is_none(bad: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Run.of(run(0)._asdict() | bad)
    with pytest.raises(KeyError):
        Run.of({"dataset": "loan"})


def test_time_is_told_from_finished_runs_of_the_kind(made_up: MakeRecord) -> None:
    finished = [made_up(run(0), seconds=10.0), made_up(run(1), seconds=30.0)]
    assert expected_seconds([run(2), run(3)], finished, 2) == 20.0
    typical = expected_seconds([run(2)], [], 1)
    quick = run(2)._replace(scale="quick")
    assert 0 < expected_seconds([quick], finished, 1) < typical
