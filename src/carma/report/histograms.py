"""Distributions over each other, one panel a feature (needs the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from carma.report.style import INK, Panels, legend

__all__ = ["plot_distributions"]


def plot_distributions(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    colours: Mapping[str, str],
    *,
    x: str,
    title: str = "",
    most: int = 2,
) -> Figure:
    """Draw the share of people by value as outlines, one colour a series.

    Args:
        panels: Title to series to values, one a person.
        colours: Of the series.
        x: What the values are, with unit.
        title: Above all.
        most: Panels in a row at most.

    Example:
        >>> figure = plot_distributions(
        ...     {"income": {"CARMA": [0.0, 1.0, 1.5]}}, {"CARMA": "#0072B2"}, x="change"
        ... )
        >>> len(figure.axes)
        1
    """
    grid = Panels(len(panels), most=most, width=5.2, height=3.0, title=title)
    for name, series in panels.items():
        axis = grid.start(name.replace("_", " "), x=x, y="people (%)")
        shown = {one: np.asarray(series[one], float) for one in colours if one in series}
        everything = np.concatenate(list(shown.values()))
        low, high = np.quantile(everything, [0.002, 0.998]) if len(everything) else (0.0, 0.0)
        pad = 0.04 * (high - low) or 0.5
        edges = np.linspace(min(low, 0.0) - pad, max(high, 0.0) + pad, 41)
        for one, values in shown.items():
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            share = 100.0 * counts / max(1, len(values))
            axis.stairs(share, edges, color=colours[one], linewidth=1.8)
            axis.stairs(share, edges, color=colours[one], fill=True, alpha=0.18, linewidth=0)
        axis.axvline(0.0, color=INK, linewidth=0.9, linestyle=":")
        axis.set_ylim(bottom=0)
    legend(grid.figure, {n: c for n, c in colours.items() if any(n in p for p in panels.values())})
    return grid.figure
