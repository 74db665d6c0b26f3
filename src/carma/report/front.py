"""What tuning found, as a Pareto front (needs the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from carma.evaluation.trials import Trial, Tuned
from carma.report.style import INK, PALETTE

__all__ = ["plot_front"]

FRONT, CHOSEN, BEATEN, GIVEN = PALETTE[0], PALETTE[4], "#999999", PALETTE[2]
# Dearest over cheapest trial from which on a logarithmic axis is easier to read.
WIDE = 10.0


def plot_front(tuned: Tuned, *, title: str = "What tuning found") -> Figure:
    """Draw cost and coverage of every trial, and the front of those that no other beats.

    Args:
        tuned: Of ``tune``.
        title: Above the picture.

    Returns:
        A matplotlib figure. Cheaper is to the left, more coverage is up. The line is the most
        coverage to be had at each cost; the axis of costs is logarithmic where they differ much.
    """
    figure = Figure(figsize=(7.6, 5.4), layout="constrained")
    axis: Any = figure.subplots()
    front, best = tuned.front, tuned.best
    beaten = [trial for trial in tuned.trials if trial not in front]
    axis.scatter(*_places(beaten), s=34, color=BEATEN, alpha=0.5, linewidth=0, label="beaten")
    cost, coverage = _places(front)
    dearest = max(trial.cost_x100 for trial in tuned.trials)
    steps = {"drawstyle": "steps-post", "color": FRONT, "linewidth": 1.6, "zorder": 2}
    axis.plot([*cost, dearest], [*coverage, coverage[-1]], **steps)
    axis.scatter(cost, coverage, s=44, color=FRONT, zorder=3, label="not beaten by any")
    given = [trial for trial in tuned.trials if trial.number == 0]
    if given:
        style = {"marker": "s", "facecolor": "none", "edgecolor": GIVEN, "linewidth": 2.0}
        axis.scatter(*_places(given), s=110, zorder=4, label="settings as given", **style)
    style = {"marker": "*", "color": CHOSEN, "edgecolor": "white", "linewidth": 0.8}
    label = f"chosen: {best.cost_x100:.3g} at {best.coverage:.4g} %"
    axis.scatter(*_places([best]), s=260, zorder=5, label=label, **style)
    axis.axhline(tuned.least_coverage, color=INK, linewidth=0.9, linestyle=":", zorder=1)
    reached = tuned.least_coverage == tuned.coverage
    asked = f"{tuned.coverage:.4g} % asked for" if reached else "the most that any covers"
    above = {"xytext": (5, 4), "textcoords": "offset points"}
    place = {"xy": (0.0, tuned.least_coverage), "xycoords": axis.get_yaxis_transform()}
    axis.annotate(asked, **place, **above, fontsize=9, color=INK)
    if min(cost) > 0 and dearest / min(cost) > WIDE:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 1)))
        axis.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 1)))
    axis.margins(x=0.08, y=0.12)
    axis.set_title(title, fontsize=14, color=INK)
    axis.set_xlabel("mean cost of a plan x 100 (no unit)", fontsize=11)
    axis.set_ylabel(f"coverage of {tuned.n_people:,} validation people (%)", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=10)
    axis.ticklabel_format(axis="y", useOffset=False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def _places(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [trial.cost_x100 for trial in trials], [trial.coverage for trial in trials]
