"""Bars side by side, with their spread (needs the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from carma.report.style import INK, Panels, legend

__all__ = ["plot_bars"]


def plot_bars(
    panels: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]],
    colours: Mapping[str, str],
    *,
    y: str | Mapping[str, str],
    title: str = "",
    most: int = 3,
) -> Figure:
    """Draw one bar for each label and series, and the standard deviation as a whisker.

    Args:
        panels: Title to series to label to (mean, standard deviation).
        colours: Of the series, in the order of the bars.
        y: What the bars measure, with unit; or one for each panel.
        title: Above all.
        most: Panels in a row at most.

    Example:
        >>> share = {"1": (60.0, 2.0), "2": (40.0, 2.0)}
        >>> figure = plot_bars({"loan": {"CARMA": share}}, {"CARMA": "#0072B2"}, y="people (%)")
        >>> len(figure.axes)
        1
    """
    grid = Panels(len(panels), most=most, title=title)
    for name, series in panels.items():
        axis = grid.start(name, y=y if isinstance(y, str) else y[name])
        shown = [one for one in colours if one in series]
        labels = list(dict.fromkeys(label for one in shown for label in series[one]))
        width = 0.8 / len(shown)
        top = max(sum(values) for one in shown for values in series[one].values())
        for place, one in enumerate(shown):
            at = [i - 0.4 + width * (place + 0.5) for i in range(len(labels))]
            means, spreads = zip(
                *(series[one].get(label, (0.0, 0.0)) for label in labels), strict=True
            )
            bars = axis.bar(at, means, 0.9 * width, color=colours[one], linewidth=0)
            if any(spreads):
                axis.errorbar(at, means, spreads, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
            if len(shown) * len(labels) <= NUMBERED:
                texts = [_short(mean) for mean in means]
                heights = [sum(pair) for pair in zip(means, spreads, strict=True)]
                for bar, text, height in zip(bars, texts, heights, strict=True):
                    spot = (bar.get_x() + bar.get_width() / 2, height + 0.015 * top)
                    axis.annotate(text, spot, ha="center", va="bottom", fontsize=8, color=INK)
        axis.set_xticks(range(len(labels)), labels if any(labels) else [""] * len(labels))
        axis.set_ylim(0, 1.12 * top or 1)
    legend(grid.figure, {one: c for one, c in colours.items() if _is_shown(one, panels)})
    return grid.figure


# Bars of a panel up to which there is room for numbers.
NUMBERED = 9


def _is_shown(series: str, panels: Mapping[str, Mapping[str, object]]) -> bool:
    return any(series in panel for panel in panels.values())


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 20 else f"{value:.3g}"
