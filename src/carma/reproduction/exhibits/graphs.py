"""Figures 1 and 6: the causal graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from carma.benchmarks import NAMES, structural_model
from carma.reproduction.exhibit import Exhibit
from carma.reproduction.results import Results
from carma.schema import Schema

if TYPE_CHECKING:
    from carma.report.style import Figure

__all__ = ["FIGURE_1", "FIGURE_6"]


def _exhibit(name: str, title: str, sets: tuple[str, ...]) -> Exhibit:
    def schemas() -> dict[str, Schema]:
        return {one: structural_model(one).schema for one in sets}

    def table(_: Results) -> pd.DataFrame:
        rows = [
            {
                "set": one,
                "feature": feature.name,
                "causes": ", ".join(schema.graph.parents(feature.name)) or "-",
                "role": feature.role,
            }
            for one, schema in schemas().items()
            for feature in schema.features
        ]
        return pd.DataFrame(rows)

    def draw(_: Results) -> Figure:
        from carma.report.graphs import plot_graphs

        return plot_graphs(schemas(), title=title)

    return Exhibit(name, title, (), table, draw)


FIGURE_1 = _exhibit("figure1", "Causal graph of Loan", ("loan",))
FIGURE_6 = _exhibit("figure6", "Causal graphs of the seven sets", NAMES)
