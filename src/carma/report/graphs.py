"""Causal graphs as pictures (needs the extra ``plots``)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import networkx as nx
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from carma.report.style import INK, PALETTE, Panels, legend
from carma.schema import Schema

__all__ = ["plot_graphs"]

ROLES = {
    "actionable": ("a plan may set it", PALETTE[0]),
    "mutable": ("moves by itself only", PALETTE[1]),
    "immutable": ("never moves", "#888888"),
}


def plot_graphs(schemas: Mapping[str, Schema], *, title: str = "", most: int = 3) -> Figure:
    """Draw the causal graph of each schema: causes come first, clockwise from the left.

    Args:
        schemas: Title to schema.
        title: Above all.
        most: Panels in a row at most.

    Example:
        >>> from carma.benchmarks import structural_model
        >>> figure = plot_graphs({"chain": structural_model("chain-lin").schema})
        >>> len(figure.axes[0].texts)
        4
    """
    grid = Panels(len(schemas), most=most, width=3.6, height=2.7, title=title)
    for name, schema in schemas.items():
        axis = grid.start(name)
        axis.set_axis_off()
        axis.set_aspect("equal")
        places = _places(schema)
        for cause, effect in schema.graph.edges:
            arrow = FancyArrowPatch(
                places[cause],
                places[effect],
                arrowstyle="-|>",
                mutation_scale=12,
                shrinkA=9,
                shrinkB=9,
                color="#777777",
                linewidth=1.1,
            )
            axis.add_patch(arrow)
        for feature in schema.features:
            across, up = places[feature.name]
            _, colour = ROLES[feature.role]
            axis.plot(across, up, "o", markersize=14, color=colour, zorder=3)
            side = "center" if abs(across) < NEAR else "left" if across > 0 else "right"
            axis.text(
                1.22 * across,
                1.25 * up,
                feature.name.replace("_", " "),
                ha=side,
                va="center",
                fontsize=10,
                color=INK,
            )
        axis.set_xlim(-2.1, 2.1)
        axis.set_ylim(-1.4, 1.4)
    legend(grid.figure, ROLES.values())
    return grid.figure


def _places(schema: Schema) -> dict[str, tuple[float, float]]:
    """On a circle, causes first, clockwise from the left: no arrow then hides behind a feature."""
    graph = schema.graph.to_networkx()
    order = list(nx.lexicographical_topological_sort(graph, key=schema.names.index))
    turns = [math.pi * (1 - 2 * (i + 0.5) / len(order)) for i in range(len(order))]
    return {name: (math.cos(t), math.sin(t)) for name, t in zip(order, turns, strict=True)}


# Closer to the middle than this, a name stands above or below its feature.
NEAR = 0.3
