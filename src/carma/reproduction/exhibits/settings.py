"""Tables 4 to 6: the settings of the paper, and the presets that hold them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from carma.recourse.dice_vae import DiceVaeSettings
from carma.recourse.published import PublishedSettings
from carma.reproduction.claim import Claim
from carma.reproduction.exhibit import Exhibit
from carma.reproduction.paper import published
from carma.reproduction.results import Results

__all__ = ["TABLE_4", "TABLE_5", "TABLE_6"]

# The paper's row and the preset's.
Pair = tuple[dict[str, Any], dict[str, Any]]


def _dice_vae(name: str) -> Pair:
    paper, preset = published()["table4_dice_vae"], DiceVaeSettings.table_4(name)
    epochs = paper["epochs"]
    theirs = {
        "learning rate": paper["learning_rate"],
        "hidden": tuple(paper["hidden"]),
        "epochs": epochs.get(name, epochs["default"]),
        "batch": paper["batch_size"],
        "hinge margin": paper["hinge_margin"][name],
    }
    ours = {
        "learning rate": preset.training.learning_rate,
        "hidden": preset.encoder_hidden,
        "epochs": preset.training.epochs,
        "batch": preset.training.batch_size,
        "hinge margin": preset.margin,
    }
    return theirs, ours


def _carma(paper: dict[str, Any], preset: PublishedSettings) -> Pair:
    theirs = {
        "learning rate": paper["lr"],
        "mask network": tuple(paper["mask"]),
        "action network": tuple(paper["action"]),
        "epochs": paper["epochs"],
        "batch": paper["batch"],
        "hinge margin": paper["margin"],
        "temperature": paper["tau"],
    }
    ours = {
        "learning rate": preset.training.learning_rate,
        "mask network": preset.mask_hidden,
        "action network": preset.action_hidden,
        "epochs": preset.training.epochs,
        "batch": preset.training.batch_size,
        "hinge margin": preset.margin,
        "temperature": preset.temperature,
    }
    return theirs, ours


def _rows_4() -> dict[str, Pair]:
    return {name: _dice_vae(name) for name in published()["table4_dice_vae"]["hinge_margin"]}


def _rows_5() -> dict[str, Pair]:
    table = published()["table5_carma_flow"]
    return {n: _carma(row, PublishedSettings.table_5(n)) for n, row in table.items()}


def _rows_6() -> dict[str, Pair]:
    table = published()["table6_carma_vaca"]
    return {n: _carma(row, PublishedSettings.table_6()) for n, row in table.items()}


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _exhibit(name: str, title: str, rows: Any, call: str) -> Exhibit:
    def table(_: Results) -> pd.DataFrame:
        shown = [{"set": n} | ours for n, (_, ours) in rows().items()]
        return pd.DataFrame([{k: _text(v) for k, v in row.items()} for row in shown])

    def claims(_: Results) -> list[Claim]:
        equal = [theirs == ours for theirs, ours in rows().values()]
        says = "The settings of the paper can be used here as they are"
        counted = f"{sum(equal)} of {len(equal)} rows equal `{call}`"
        return [Claim(says, f"{len(equal)} rows", counted, all(equal))]

    return Exhibit(name, title, (), table, None, claims)


TABLE_4 = _exhibit("table4", "DiCE-VAE: settings", _rows_4, "DiceVaeSettings.table_4(name)")
TABLE_5 = _exhibit(
    "table5", "CARMA on causal flows: settings", _rows_5, "PublishedSettings.table_5(name)"
)
TABLE_6 = _exhibit("table6", "CARMA on VACA: settings", _rows_6, "PublishedSettings.table_6()")
