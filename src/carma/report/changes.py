"""Pictures of what plans change and of what tuning found (needs the extra ``plots``)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from carma.recourse.result import RecourseResult
from carma.report.style import INK, PALETTE, Panels, legend

__all__ = ["plot_changes"]

ACTION, CONSEQUENCE = PALETTE[:2]


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
    grid = Panels(len(panels), width=4.2, title=title)
    for feature, i in panels:
        unit = f" ({feature.unit})" if feature.unit else ""
        name = feature.name.replace("_", " ")
        axis = grid.start(name, x=f"change{unit}", y="people")
        # What passing time moves is set, too, but nobody acts on it.
        chosen = acted[:, i] & (feature.role == "actionable")
        followed = ~chosen & (np.abs(shift[:, i]) > 0)
        low, high = np.quantile(shift[:, i], [0.002, 0.998])
        pad = 0.04 * (high - low) or 0.5
        bins = np.linspace(min(low, 0.0) - pad, max(high, 0.0) + pad, 41)
        groups = [shift[chosen, i], shift[followed, i]]
        axis.hist(groups, bins=bins, stacked=True, color=[ACTION, CONSEQUENCE], linewidth=0)
        axis.axvline(0.0, color=INK, linewidth=1.0, linestyle=":")
        axis.set_title(name, fontsize=12, color=INK, pad=20)
        share = f"acted on by {chosen.mean():.0%}, follows for {followed.mean():.0%}"
        axis.text(0.5, 1.03, share, transform=axis.transAxes, ha="center", fontsize=9, color=INK)
    names = ("what people do", "what follows by itself")
    legend(grid.figure, zip(names, (ACTION, CONSEQUENCE), strict=True))
    return grid.figure
