"""Real runs, as small as they can be."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from carma import CarmaSettings, ClassifierSettings, FlowSettings, TrainingSettings
from carma.benchmarks import Benchmark
from carma.errors import TrainingError
from carma.models.vaca import VacaSettings
from carma.problem import Problem
from carma.reproduction import measurement
from carma.reproduction.measurement import Scale, measured
from carma.reproduction.run import CAUSAL_MODEL, Run
from carma.reproduction.workers import records_of

QUICK = TrainingSettings(epochs=4, batch_size=200)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def problem(data: Benchmark) -> Problem:
        solver = CarmaSettings(lessons=40, training=QUICK, rehearsal=QUICK)
        return Problem(
            data.schema,
            classifier=ClassifierSettings((), QUICK),
            causal_model=FlowSettings(hidden=(8,), training=QUICK, alternatives=2),
            solver=solver,
        )

    monkeypatch.setattr(measurement, "standard_problem", problem)
    monkeypatch.setattr(measurement, "VacaSettings", lambda: VacaSettings(training=QUICK))
    monkeypatch.setitem(measurement.SCALES, "quick", Scale(300, 12))


@cache
def records(*runs: Run) -> list[dict[str, Any]]:
    return list(measured(runs))


def run(method: str, variant: str = "plain", seed: int = 0) -> Run:
    return Run("loan", variant, method, seed, "quick")


def test_a_run_tells_all_that_exhibits_read() -> None:
    runs = [run("exact-true"), run("exact-true", "weighted"), run("exact-true", "fraction-0.5")]
    found = records(*runs)
    assert [Run.of(record) for record in found] == runs
    for record in found:
        assert record["coverage"] == 100.0
        assert sum(record["sizes"].values()) == pytest.approx(100.0)
        mean_size = sum(int(k) * share for k, share in record["sizes"].items()) / 100
        assert mean_size == pytest.approx(record["actions"])
        assert sum(record["targets"].values()) / 100 == pytest.approx(record["actions"])
        assert {len(v) for v in record["shifts"].values()} == {record["n_people"]}
        assert record["cost_ratio"] == pytest.approx(1.0)
        # The range over rejected people is at most that over everybody.
        assert record["cost_x100_rejected"] >= record["cost_x100"]
        assert record["seconds"] > 0
    plain, weighted, half = found
    # Weights of 1 to 3 make plans dearer, by 3 times at most.
    assert plain["cost_x100"] < weighted["cost_x100"] < 3 * plain["cost_x100"]
    assert half["cost_x100"] == plain["cost_x100"]


@pytest.mark.parametrize("variant", ["plain", "vaca"])
def test_a_causal_model_is_measured(variant: str) -> None:
    (record,) = records(run(CAUSAL_MODEL, variant))
    assert set(record["rmse"]) == {"duration", "income", "savings"}
    assert min(record["rmse"].values()) > 0
    broken = [record[law] > 1e-4 for law in ("round_trip", "own_values", "composition")]
    assert any(broken) == (variant == "vaca")


def test_the_order_of_runs_does_not_matter() -> None:
    one, other = run("exact-true"), run("grid-true", "weighted")
    forth, back = records(one, other), records(other, one)
    for a, b in zip(forth, reversed(back), strict=True):
        assert a["cost_x100"] == b["cost_x100"]


def test_a_failure_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise TrainingError("it diverged")

    monkeypatch.setattr(measurement, "_measure", fail)
    with pytest.raises(TrainingError, match="loan plain carma 0 quick: it diverged"):
        list(measured([run("carma")]))


def test_one_process_gives_records_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Run] = []

    def measure(arena: Any, one: Run) -> dict[str, Any]:
        seen.append(one)
        return {}

    monkeypatch.setattr(measurement, "_measure", measure)
    runs = [run("carma", seed=0), run("carma", seed=1), run("exact-true", seed=0)]
    stream = records_of(runs, 1)
    assert Run.of(next(stream)) == runs[0]
    assert seen == [runs[0]]
    # A group stays together: what it shares is fitted once.
    assert [Run.of(record) for record in stream] == [runs[2], runs[1]]
