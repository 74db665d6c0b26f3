"""Table 1: every method on every set."""

from __future__ import annotations

from typing import Any

import pandas as pd

from carma.benchmarks import NAMES
from carma.reproduction.claim import Claim
from carma.reproduction.exhibit import Exhibit
from carma.reproduction.paper import published
from carma.reproduction.results import Results
from carma.reproduction.series import LABELS

__all__ = ["TABLE_1", "method_rows"]

METHODS = (
    "grid-true",
    "exact-true",
    "dice-vae-published",
    "dice-vae",
    "carma-published",
    "carma-single",
    "carma",
)
PAPER = {"grid-true": "oracle", "dice-vae-published": "dice_vae", "carma-published": "carma"}
COLUMNS = {
    "cost_x100": "cost",
    "cost_x100_rejected": "cost",
    "coverage": "coverage",
    "actions": "actions",
    "probability": "probability",
    "causal_validity": "validity",
    "ms_single": "ms",
}
HEADINGS = {
    "cost_x100": "cost x 100",
    "cost_x100_rejected": "the same, by the range of rejected rows",
    "coverage": "coverage (%)",
    "actions": "actions",
    "probability": "probability",
    "causal_validity": "causal validity (%)",
    "ms_single": "one person (ms)",
}


def method_rows(
    results: Results,
    dataset: str,
    methods: tuple[str, ...],
    variant: str,
    paper: dict[str, Any],
) -> list[dict[str, str]]:
    """A row for each method on one set: our number, and the paper's in brackets.

    Args:
        results: Of the runs.
        dataset: Benchmark set.
        methods: Names.
        variant: Of the problem.
        paper: Entry of Table 1 or 7.
    """
    rows = []
    for method in methods:
        row = {"set": dataset, "method": LABELS[method]}
        for field, entry in COLUMNS.items():
            text = _measure(results, field, dataset, method, variant)
            # The paper's oracle is priced by the range of rejected rows, the others by that of all.
            scale = "cost_x100_rejected" if method == "grid-true" else "cost_x100"
            theirs = paper.get(PAPER.get(method, ""), {}).get(entry)
            if entry == "cost" and field != scale:
                theirs = None
            row[HEADINGS[field]] = text if theirs is None else f"{text} [{_published(theirs)}]"
        row["cost over the optimum"] = _measure(results, "cost_ratio", dataset, method, variant)
        row["many people (µs each)"] = _measure(results, "us_batched", dataset, method, variant)
        rows.append(row)
    return rows


def _measure(results: Results, field: str, dataset: str, method: str, variant: str) -> str:
    values = [record[field] for record in results.records(dataset, method, variant)]
    return (
        "-" if all(v is None for v in values) else str(results.of(field, dataset, method, variant))
    )


def _published(entry: float | list[float]) -> str:
    mean, spread = entry if isinstance(entry, list) else (entry, None)
    return f"{mean:g}" if spread is None else f"{mean:g} ± {spread:g}"


def _table(results: Results) -> pd.DataFrame:
    rows = [
        row
        for name in NAMES
        for row in method_rows(results, name, METHODS, "plain", published()["table1"][name])
    ]
    return pd.DataFrame(rows)


def _claims(results: Results) -> list[Claim]:
    def mean(field: str, name: str, method: str) -> float:
        return results.of(field, name, method).mean

    def each(field: str, method: str) -> list[float]:
        return [mean(field, name, method) for name in NAMES]

    def ratios(field: str, one: str, other_field: str, other: str) -> list[float]:
        return [mean(field, n, one) / mean(other_field, n, other) for n in NAMES]

    paper = published()["table1"]
    printed = [paper[n]["carma"]["cost"][0] / paper[n]["oracle"]["cost"] for n in NAMES]
    two_scales = ratios("cost_x100", "carma-published", "cost_x100_rejected", "grid-true")
    one_scale = ratios("cost_x100", "carma-published", "cost_x100", "exact-true")
    grid = ratios("cost_x100", "grid-true", "cost_x100", "exact-true")
    speed = ratios("us_batched", "grid-true", "us_batched", "carma-published")
    alone = ratios("us_batched", "grid-true", "ms_single", "carma-published")
    dice = ratios("cost_x100", "dice-vae-published", "cost_x100", "carma-published")
    own_dice = ratios("cost_x100", "dice-vae", "cost_x100", "carma-published")
    paper_dice = [paper[n]["dice_vae"]["cost"][0] / paper[n]["carma"]["cost"][0] for n in NAMES]
    near = [
        mean("cost_x100", n, "dice-vae-published") / paper[n]["dice_vae"]["cost"][0] for n in NAMES
    ]
    oracle = [
        mean("cost_x100_rejected", n, "grid-true") / paper[n]["oracle"]["cost"] for n in NAMES
    ]
    ours = ratios("cost_x100", "carma", "cost_x100", "exact-true")
    validity, coverage = (
        each("causal_validity", "carma-published"),
        each("coverage", "carma-published"),
    )
    actions = [each("actions", m) for m in ("grid-true", "carma-published", "dice-vae-published")]
    loan = NAMES.index("loan")
    ahead = [each("probability", m) for m in ("grid-true", "carma-published")]
    return [
        Claim(
            "CARMA's plans cost about what the oracle's do, as the paper compares them",
            f"{_range(printed)} times the oracle's",
            f"{_range(two_scales)} times",
            max(two_scales) <= 1.25,
            "The paper prices CARMA by the range over all training rows and its oracle by the "
            "range over rejected ones; so do these numbers. What is left is how well the Table 5 "
            "settings train here, which differs widely between seeds.",
        ),
        Claim(
            "CARMA as published is near-optimal, on one scale for both",
            "not compared",
            f"{_range(one_scale)} times the continuous optimum; the oracle's grid itself pays "
            f"{_range(grid)} times",
            max(one_scale) <= 1.25,
            "The oracle's grid is coarse and its costs stand on another scale: on one scale a "
            "continuous search finds far cheaper plans.",
        ),
        Claim(
            "One forward pass is tens of thousands of times faster than the oracle",
            f"{_range([p['oracle']['ms'] / p['carma']['ms'][0] for p in paper.values()], ',.0f')} "
            "times",
            f"{_range(speed, '.0f')} times for many people at once; for one person alone "
            f"{_range([a / 1000 for a in alone])} times the oracle's speed in a batch",
            min(speed) >= 10_000,
            "The paper's oracle tries its grid one plan after the other in Python; the same grid "
            "as one batch takes milliseconds a person.",
        ),
        Claim(
            "CARMA finds a plan for nearly everybody",
            "99.74 to 100 %",
            f"{_range(coverage, '.2f')} %",
            min(coverage) >= 99.5,
            "Training without refinement leaves the people furthest from acceptance behind.",
        ),
        Claim(
            "Nearly all of CARMA's plans hold under the true causal model",
            "99.74 to 99.98 %",
            f"{_range(validity, '.2f')} %",
            min(validity) >= 99.5,
            "How far plans land past the threshold is whatever training left, another margin for "
            "each set; the causal model's error then decides.",
        ),
        Claim(
            "DiCE-VAE, without causal knowledge, costs two to three times as much as CARMA",
            f"{_range(paper_dice)} times",
            f"{_range(dice)} times with the paper's settings, {_range(own_dice)} times with ours",
            min(dice) >= 1.5,
            "DiCE-VAE's price is mostly how far it overshoots, which its settings decide: with "
            "another hinge it is as cheap as CARMA with Table 5's settings. An exact search "
            "without causal knowledge is the fairer comparison; see the README.",
        ),
        Claim(
            "The oracle's printed costs can be had, by the range of rejected rows",
            ", ".join(f"{paper[n]['oracle']['cost']:g}" for n in NAMES),
            f"{_near(oracle)} of 7 sets within 15 %; {_range(oracle)} times the printed cost",
            _near(oracle) >= 5,
            "Both the classifier and the rows are drawn anew, and the range over rejected rows is "
            "that of two extreme people: it differs from draw to draw.",
        ),
        Claim(
            "DiCE-VAE's printed costs can be had with the printed settings",
            ", ".join(f"{paper[n]['dice_vae']['cost'][0]:g}" for n in NAMES),
            f"{_near(near)} of 7 sets within 15 %; {_range(near)} times the printed cost",
            _near(near) >= 5,
            "The paper does not tell the weights of hinge and divergence; ours are 100 and 1.",
        ),
        Claim(
            "DiCE-VAE acts on every feature, the oracle on the fewest, CARMA in between",
            "oracle 1.07 to 1.88, CARMA 1.45 to 2.89, DiCE-VAE all",
            f"oracle {_range(actions[0])}, CARMA {_range(actions[1])}, DiCE-VAE "
            f"{_range(actions[2])}",
            all(a <= b <= c + 1e-6 for a, b, c in zip(*actions, strict=True)),
            "With Table 5's settings the networks sometimes settle on one feature for everybody, "
            "fewer than the oracle's.",
        ),
        Claim(
            "CARMA's plans land further past the threshold than the oracle's",
            "Loan 0.85 against 0.63",
            f"Loan {ahead[1][loan]:.2f} against {ahead[0][loan]:.2f}; "
            f"on {sum(b > a for a, b in zip(*ahead, strict=True))} of 7 sets",
            all(b > a for a, b in zip(*ahead, strict=True)),
            "The oracle's coarse grid overshoots too.",
        ),
        Claim(
            "Beyond the paper: CARMA by default, refined and with a margin learned from data",
            "-",
            f"{_range(ours, '.3f')} times the optimum, coverage at least "
            f"{min(each('coverage', 'carma')):.2f} %, causal validity at least "
            f"{min(each('causal_validity', 'carma')):.2f} %",
            max(ours) <= 1.1 and min(each("coverage", "carma")) >= 100,
            "With the few rows of a quick run the margin is larger, and with it the cost.",
        ),
    ]


def _near(ratios: list[float]) -> int:
    return sum(abs(ratio - 1) <= 0.15 for ratio in ratios)


def _range(values: list[float], pattern: str = ".2f") -> str:
    return f"{min(values):{pattern}} to {max(values):{pattern}}"


TABLE_1 = Exhibit(
    "table1",
    "Every method on every set; the paper's numbers in brackets",
    tuple((name, "plain", method) for name in NAMES for method in METHODS),
    _table,
    None,
    _claims,
)
