from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from rich.console import Console

from carma import CarmaSettings, Decision, Tuned
from carma.benchmarks import load
from carma.evaluation.metrics import Metrics
from carma.evaluation.regret import Regret
from carma.evaluation.trials import Trial
from carma.problem import Problem
from carma.recourse.plans import Plans
from carma.recourse.result import RecourseResult
from carma.recourse.status import Status
from carma.report.changes import plot_changes
from carma.report.front import plot_front
from carma.report.style import save_figure
from carma.report.text import counts_table, metrics_table, tuning_table


def result(n: int = 40, *, has_plan: bool = True) -> RecourseResult:
    data = load("loan", rows=4 * n)
    x = data.encoded("recourse")[:n]
    plans = Plans.nothing_to_do(x, torch.full((n,), 0.2, dtype=torch.float64))
    if has_plan:
        income, savings = data.encoding.column("income"), data.encoding.column("savings")
        plans.status.fill_(Status.AMORTIZED.code)
        plans.mask[:, income] = True
        plans.counterfactual[:, income] += 1.0
        plans.counterfactual[:, savings] += torch.linspace(0.1, 2.0, n, dtype=torch.float64)
    return RecourseResult.of(
        data.encoding, data.frame("recourse")[:n], x, (plans,), Decision(threshold=0.5), 0.1
    )


def text(table: object) -> str:
    console = Console(width=120, file=StringIO())
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_metrics_table_leaves_unknown_out() -> None:
    shown = text(metrics_table(Metrics(12, 3.456, 99.5, 2.0, 0.7, 0.01)))
    assert "3.46" in shown
    assert "99.50" in shown
    assert "causal validity" not in shown
    assert "optimum" not in shown
    assert "regret" not in shown


def test_metrics_table_shows_regret_with_its_interval() -> None:
    regret = Regret(9, 1.0834, 1.071, 1.097, 0.5149, -0.02, 1.1, {}, 40.0, torch.zeros(9))
    metrics = Metrics(12, 3.456, 99.5, 2.0, 0.7, 0.01, regret=regret)
    shown = text(metrics_table(metrics))
    assert "cost over the optimum" in shown
    assert "1.083 (1.071 to 1.097)" in shown
    assert "regret x 100, mean" in shown
    assert "0.51 (-0.02 to 1.10)" in shown
    without_bound = replace(regret, cost_ratio_high=None)
    assert "1.083 (1.071 to no limit)" in text(
        metrics_table(replace(metrics, regret=without_bound))
    )
    without_ratio = replace(regret, cost_ratio=None, cost_ratio_low=None, cost_ratio_high=None)
    shown = text(metrics_table(replace(metrics, regret=without_ratio)))
    assert "optimum" not in shown
    assert "regret x 100, mean" in shown


def test_counts_table_explains_each_status() -> None:
    shown = text(counts_table({"amortized": 3, "still_rejected": 1}))
    assert Status.AMORTIZED.message in shown
    assert "no_action" not in shown


def test_plot_has_one_panel_for_each_feature_that_moves() -> None:
    figure = plot_changes(result())
    visible = [a for a in figure.axes if a.get_visible()]
    assert [a.get_title() for a in visible] == ["income", "savings"]
    bars = [patch for patch in visible[0].patches if isinstance(patch, Rectangle)]
    counted = sum(bar.get_height() for bar in bars)
    assert counted == 40


def test_plot_needs_a_plan() -> None:
    with pytest.raises(ValueError, match="at least one plan"):
        plot_changes(result(has_plan=False))


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_save_figure(tmp_path: Path, name: str, start: bytes) -> None:
    assert save_figure(plot_changes(result()), tmp_path / name).read_bytes().startswith(start)


def tuned(*pairs: tuple[float, float]) -> Tuned:
    problem = Problem(load("chain-lin", rows=60).schema)
    trials = (Trial(i, CarmaSettings(), *p, 1.5, 0.02, 3.0) for i, p in enumerate(pairs))
    return Tuned(problem, tuple(trials), 40, 99.0)


def test_tuning_table_shows_the_front_the_given_and_the_choice() -> None:
    shown = text(tuning_table(tuned((3.0, 98.0), (2.0, 99.5), (2.5, 99.0), (1.0, 90.0))))
    assert "40 validation people" in shown
    rows = {cells[1]: cells for line in shown.splitlines() if (cells := line.split())[1:]}
    assert "given" in rows["0"]
    assert "chosen" in rows["1"]
    assert "2" not in rows
    assert {"90.00", "1.000"} <= set(rows["3"])
    only = text(tuning_table(tuned((3.0, 98.0))))
    assert "as given, chosen" in only


def test_plot_front_draws_the_most_coverage_at_each_cost(tmp_path: Path) -> None:
    found = tuned((3.0, 98.0), (2.0, 99.5), (2.5, 99.0), (1.0, 90.0), (2.2, 99.7))
    figure = plot_front(found, title="chain")
    (axis,) = figure.axes
    steps, floor = axis.lines
    corners = [[1.0, 90.0], [2.0, 99.5], [2.2, 99.7], [3.0, 99.7]]
    assert np.asarray(steps.get_xydata()).tolist() == corners
    assert steps.get_drawstyle() == "steps-post"
    assert np.asarray(floor.get_ydata()).tolist() == [99.0, 99.0]
    beaten, front, given, chosen = (np.asarray(c.get_offsets()).tolist() for c in axis.collections)
    assert beaten == [[3.0, 98.0], [2.5, 99.0]]
    assert front == [[1.0, 90.0], [2.0, 99.5], [2.2, 99.7]]
    assert given == [[3.0, 98.0]]
    assert chosen == [[2.0, 99.5]]
    assert axis.get_xscale() == "linear"
    assert "40 validation people" in axis.get_ylabel()
    assert axis.get_title() == "chain"
    path = save_figure(figure, tmp_path / "front.svg")
    assert path.read_text().startswith("<?xml")


def test_plot_front_of_one_trial_and_of_costs_that_differ_much(tmp_path: Path) -> None:
    save_figure(plot_front(tuned((3.0, 98.0))), tmp_path / "one.png")
    figure = plot_front(tuned((3.0, 98.0), (400.0, 99.5)))
    assert figure.axes[0].get_xscale() == "log"
    save_figure(figure, tmp_path / "wide.png")
    assert plot_front(tuned((0.0, 98.0), (400.0, 99.5))).axes[0].get_xscale() == "linear"
