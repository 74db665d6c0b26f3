"""Table 7, Figures 4 and 5: preferences of the population on Loan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from carma.reproduction.claim import Claim
from carma.reproduction.exhibit import Exhibit
from carma.reproduction.exhibits.comparison import method_rows
from carma.reproduction.exhibits.shifts import FEATURES, mean_shift, shift_figure, shift_rows
from carma.reproduction.exhibits.targets import share_rows, shares
from carma.reproduction.paper import published
from carma.reproduction.results import Results

if TYPE_CHECKING:
    from carma.report.style import Figure

__all__ = ["FIGURE_4", "FIGURE_5", "TABLE_7"]

METHODS = ("grid-true", "exact-true", "carma-published", "carma-single", "carma")
SERIES = {
    "as published, unweighted": ("carma-published", "plain"),
    "as published, weighted": ("carma-published", "weighted"),
    "CARMA, unweighted": ("carma", "plain"),
    "CARMA, weighted": ("carma", "weighted"),
}
# The published method in blues, ours in greens; the weighted one is the darker.
COLOURS = {
    "as published, unweighted": "#8FC1E3",
    "as published, weighted": "#0072B2",
    "CARMA, unweighted": "#8FD6BF",
    "CARMA, weighted": "#007A59",
}
SPECS = tuple(("loan", variant, method) for method, variant in SERIES.values())


def _table_7(results: Results) -> pd.DataFrame:
    paper = published()["table7_loan_weighted"]
    return pd.DataFrame(method_rows(results, "loan", METHODS, "weighted", paper))


def _claims_7(results: Results) -> list[Claim]:
    def of(field: str, method: str) -> float:
        return results.of(field, "loan", method, "weighted").mean

    paper = published()["table7_loan_weighted"]
    ratio = of("cost_x100", "carma-published") / of("cost_x100_rejected", "grid-true")
    optimum = of("cost_x100", "carma-published") / of("cost_x100", "exact-true")
    ours = of("cost_x100", "carma") / of("cost_x100", "exact-true")
    return [
        Claim(
            "With preferences CARMA costs about what the oracle does",
            f"{paper['carma']['cost'][0]:g} against {paper['oracle']['cost']:g}, on two scales",
            f"{ratio:.2f} times on the paper's two scales; on one scale {optimum:.2f} times the "
            f"optimum, and {ours:.2f} times by default",
            ratio <= 1.1,
            "As for Table 1: two scales, and a coarse grid.",
        ),
        Claim(
            "Coverage and causal validity stay near 100 %",
            "99.97 and 99.88 %",
            f"{of('coverage', 'carma-published'):.2f} and "
            f"{of('causal_validity', 'carma-published'):.2f} %; by default "
            f"{of('coverage', 'carma'):.2f} and {of('causal_validity', 'carma'):.2f} %",
            min(of("coverage", "carma-published"), of("causal_validity", "carma-published")) >= 99,
            "Nothing in the published method sees to either.",
        ),
    ]


def _table_4(results: Results) -> pd.DataFrame:
    return pd.DataFrame(share_rows(results, "loan", SERIES))


def _draw_4(results: Results) -> Figure:
    from carma.report.bars import plot_bars

    panels = {
        title: {
            label: shares(results, name, "loan", method, variant)
            for label, (method, variant) in SERIES.items()
        }
        for title, name in (
            ("number of features acted on", "sizes"),
            ("features acted on (weights 3, 2, 2, 1)", "targets"),
        )
    }
    title = "Loan: what preferences change"
    return plot_bars(panels, COLOURS, y="plans (%)", title=title, most=2)


def _claims_4(results: Results) -> list[Claim]:
    paper = published()["figure4_preferences"]

    def pair(field: str, method: str, part: str | None = None) -> tuple[float, float]:
        plain, weighted = (
            results.of(field, "loan", method, variant, part).mean
            for variant in ("plain", "weighted")
        )
        return plain, weighted

    actions, ours = pair("actions", "carma-published"), pair("actions", "carma")
    education = pair("targets", "carma-published", "education")
    savings = pair("targets", "carma-published", "savings")
    own = {n: pair("targets", "carma", n) for n in ("education", "savings")}
    why = (
        "Table 5 has other settings with preferences than without, so that a difference shows the "
        "settings too; by default nothing but the weights differs."
    )
    return [
        Claim(
            "Preferences make plans sparser",
            f"{paper['mean_actions']['unweighted']} to {paper['mean_actions']['weighted']} actions",
            f"{_change(actions)} as published, {_change(ours)} by default",
            actions[1] < actions[0],
            why,
        ),
        Claim(
            "The dearest feature, education, is used less",
            "42 to 11 % of the plans",
            f"{_change(education)} as published, {_change(own['education'])} by default",
            education[1] < education[0],
            why,
        ),
        Claim(
            "The cheapest feature, savings, is used more",
            "37 to 50 % of the plans",
            f"{_change(savings)} as published, {_change(own['savings'])} by default",
            savings[1] > savings[0],
            why,
        ),
    ]


def _claims_5(results: Results) -> list[Claim]:
    def shift(method: str, name: str) -> tuple[float, float]:
        return mean_shift(results, method, name), mean_shift(results, method, name, "weighted")

    published_ones = {n: shift("carma-published", n) for n in FEATURES}
    ours = {n: shift("carma", n) for n in FEATURES}
    dear = [n for n in ("loan_amount", "income") if published_ones[n][1] < published_ones[n][0]]
    savings = published_ones["savings"]
    own = ", ".join(f"{n.replace('_', ' ')} {_change(ours[n])}" for n in FEATURES)
    why = "Other settings are behind the two; by default: " + own + "."
    return [
        Claim(
            "Loan amount and income (weight 2) move less",
            "less",
            ", ".join(
                f"{n.replace('_', ' ')} {_change(published_ones[n])}"
                for n in ("loan_amount", "income")
            ),
            len(dear) == 2,
            why,
        ),
        Claim(
            "Savings (weight 1) move more",
            "more",
            f"{_change(savings)} as published, {_change(ours['savings'])} by default",
            savings[1] > savings[0],
            why,
        ),
    ]


def _change(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.3g} to {pair[1]:.3g}"


TABLE_7 = Exhibit(
    "table7",
    "Loan with preferences; the paper's numbers in brackets",
    tuple(("loan", "weighted", method) for method in METHODS),
    _table_7,
    None,
    _claims_7,
)
FIGURE_4 = Exhibit("figure4", "Loan: what preferences change", SPECS, _table_4, _draw_4, _claims_4)
FIGURE_5 = Exhibit(
    "figure5",
    "Loan: how far plans move each feature, with preferences and without",
    SPECS,
    lambda results: pd.DataFrame(shift_rows(results, SERIES)),
    lambda results: shift_figure(
        results, SERIES, COLOURS, "Loan: shifts with preferences and without"
    ),
    _claims_5,
)
