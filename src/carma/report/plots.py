"""Pictures of what plans change and of what tuning found (needs the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter

from carma.evaluation.trials import Trial, Tuned
from carma.files import write_whole
from carma.recourse.result import RecourseResult

__all__ = ["plot_changes", "plot_front", "save_figure"]

# Okabe & Ito's colours, told apart with every kind of colour vision.
ACTION, CONSEQUENCE, INK = "#0072B2", "#E69F00", "#333333"
FRONT, CHOSEN, BEATEN, GIVEN = "#0072B2", "#D55E00", "#999999", "#009E73"
# Dearest over cheapest trial from which on a logarithmic axis is easier to read.
WIDE = 10.0


def plot_changes(result: RecourseResult, *, title: str = "What plans change") -> Figure:
    """Draw, for each feature that moves, how far people act on it and how far it follows.

    Args:
        result: Of ``Solver.recommend``; people with a plan are shown.
        title: Above the picture.

    Returns:
        A matplotlib figure with one panel a feature, original units (for ordinal features:
        model-space codes).

    Raises:
        ValueError: Nobody has a plan.
    """
    plans, encoding = result.plans, result.encoding
    has_plan = plans.mask.any(dim=1)
    if not bool(has_plan.any()):
        raise ValueError("plot_changes: 'result' must hold at least one plan; got none")
    shift = (plans.counterfactual - result.x)[has_plan].numpy()
    acted = plans.mask[has_plan].numpy()
    panels = [
        (f, i)
        for f in encoding.schema.features
        for i in [encoding.column(f.name)]
        if f.kind != "nominal" and np.abs(shift[:, i]).max() > 0
    ]
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 2.9 * n_rows + 0.9), layout="constrained")
    axes: Any = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis, (feature, i) in zip(axes.flat, panels, strict=False):
        chosen = acted[:, i]
        followed = ~chosen & (np.abs(shift[:, i]) > 0)
        low, high = np.quantile(shift[:, i], [0.002, 0.998])
        pad = 0.04 * (high - low) or 0.5
        bins = np.linspace(min(low, 0.0) - pad, max(high, 0.0) + pad, 41)
        groups = [shift[chosen, i], shift[followed, i]]
        axis.hist(groups, bins=bins, stacked=True, color=[ACTION, CONSEQUENCE], linewidth=0)
        axis.axvline(0.0, color=INK, linewidth=1.0, linestyle=":")
        unit = f" ({feature.unit})" if feature.unit else ""
        axis.set_title(feature.name.replace("_", " "), fontsize=12, color=INK, pad=20)
        axis.set_xlabel(f"change{unit}", fontsize=10)
        axis.set_ylabel("people", fontsize=10)
        share = f"acted on by {chosen.mean():.0%}, follows for {followed.mean():.0%}"
        axis.text(0.5, 1.03, share, transform=axis.transAxes, ha="center", fontsize=9, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title, fontsize=14, color=INK)
    handles = [Patch(color=ACTION), Patch(color=CONSEQUENCE)]
    names = ["what people do", "what follows by itself"]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    return figure


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


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure whole; the extension (png, svg, pdf) gives the format.

    Raises:
        FileError: The path cannot be written.
    """
    buffer = BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:] or "png", dpi=130)
    return write_whole(path, buffer.getvalue())
