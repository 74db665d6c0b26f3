"""Lines with the band of their spread (needs the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from carma.report.style import Panels, legend

__all__ = ["plot_bands"]


def plot_bands(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]],
    colours: Mapping[str, str],
    *,
    x: str,
    title: str = "",
) -> Figure:
    """Draw means over a quantity, with a band of one standard deviation on each side.

    Args:
        panels: What is measured, with unit, to series to (place, mean, standard deviation).
        colours: Of the series.
        x: The quantity, with unit.
        title: Above all.

    Example:
        >>> points = [(0.1, 4.0, 0.5), (1.0, 3.0, 0.1)]
        >>> figure = plot_bands({"cost": {"CARMA": points}}, {"CARMA": "#0072B2"}, x="share")
        >>> len(figure.axes[0].lines)
        1
    """
    grid = Panels(len(panels), title=title)
    for name, series in panels.items():
        axis = grid.start(x=x, y=name)
        for one in colours:
            if one in series:
                at, mean, spread = np.array(sorted(series[one])).T
                axis.fill_between(
                    at, mean - spread, mean + spread, color=colours[one], alpha=0.2, linewidth=0
                )
                axis.plot(at, mean, color=colours[one], linewidth=2, marker="o", markersize=4)
        axis.margins(y=0.15)
        axis.ticklabel_format(axis="y", useOffset=False)
    legend(grid.figure, {n: c for n, c in colours.items() if any(n in p for p in panels.values())})
    return grid.figure
