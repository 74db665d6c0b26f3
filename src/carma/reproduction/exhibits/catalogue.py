"""All exhibits, in the paper's order."""

from __future__ import annotations

from carma.reproduction.exhibit import Exhibit
from carma.reproduction.exhibits import (
    comparison,
    data_fraction,
    graphs,
    likelihoods,
    preferences,
    settings,
    shifts,
    targets,
    vaca,
)

__all__ = ["EXHIBITS"]

EXHIBITS: dict[str, Exhibit] = {
    exhibit.name: exhibit
    for exhibit in (
        comparison.TABLE_1,
        likelihoods.TABLE_2,
        likelihoods.TABLE_3,
        settings.TABLE_4,
        settings.TABLE_5,
        settings.TABLE_6,
        preferences.TABLE_7,
        graphs.FIGURE_1,
        shifts.FIGURE_2,
        vaca.FIGURE_3,
        preferences.FIGURE_4,
        preferences.FIGURE_5,
        graphs.FIGURE_6,
        targets.FIGURE_7,
        data_fraction.FIGURE_8,
        targets.FIGURE_9,
        targets.FIGURE_10,
    )
}
