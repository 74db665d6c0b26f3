"""Pictures of what plans change (needs the extra ``plots``)."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from carma.files import write_whole
from carma.recourse.result import RecourseResult

__all__ = ["plot_changes", "save_figure"]

# Okabe & Ito's colours, told apart with every kind of colour vision.
ACTION, CONSEQUENCE, INK = "#0072B2", "#E69F00", "#333333"


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


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure whole; the extension (png, svg, pdf) gives the format.

    Raises:
        FileError: The path cannot be written.
    """
    buffer = BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:] or "png", dpi=130)
    return write_whole(path, buffer.getvalue())
