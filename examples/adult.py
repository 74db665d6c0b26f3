"""Recourse for people of whom a classifier says that they earn at most 50,000 dollars.

Run ``python examples/adult.py --data-dir FOLDER``: the folder holds ``adult.csv``, both parts of
the table of doi 10.24432/C5XW20 joined, with a header. ``--classifier`` is ``logistic``, ``mlp``,
``lightgbm`` or ``xgboost``; the last two need the package of that name.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from carma import Classifier, Metrics, RecourseResult, evaluate
from carma.benchmarks import read_real
from carma.classifiers.named import CLASSIFIERS, fit_named
from carma.problem import Problem
from carma.report.text import counts_table, metrics_table

PROBLEM = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Outcome:
    """What the example found.

    Args:
        classifier: Decides.
        people: Held-out people whom it rejects.
        result: Their answers.
        metrics: Averages over them.
    """

    classifier: Classifier
    people: pd.DataFrame
    result: RecourseResult
    metrics: Metrics


def run(problem: Problem, table: pd.DataFrame, classifier_name: str, n_people: int) -> Outcome:
    """Fit everything on 80 % of the table, and answer rejected people among the others."""
    past, new = problem.split(table)
    classifier = fit_named(classifier_name, problem.schema, past, problem.classifier)
    causal_model = problem.new_causal_model().fit(past)
    carma = problem.new_solver(causal_model, classifier).fit(past)

    asked = causal_model.impute(classifier.encoding.encode(new))
    people = new[classifier.rejects(asked).numpy()].head(n_people)
    result = carma.recommend(people)
    return Outcome(classifier, people, result, evaluate(result, carma.cost))


def main() -> None:
    """Run the example and print what it found."""
    parser = argparse.ArgumentParser(description="Recourse on Adult.")
    parser.add_argument("--data-dir", type=Path, help="folder of adult.csv; else CARMA_DATA")
    parser.add_argument("--classifier", choices=CLASSIFIERS, default="mlp")
    parser.add_argument("--rows", type=int, help="a random part of the table; else all")
    parser.add_argument("--people", type=int, default=500, help="answered at most")
    asked = parser.parse_args()
    # With two levels of native_country; see the problem file.
    table = read_real("adult", asked.data_dir)
    if asked.rows is not None:
        table = table.sample(asked.rows, random_state=0)
    outcome = run(Problem.from_toml(PROBLEM), table, asked.classifier, asked.people)
    console = Console()
    console.print(counts_table(outcome.result.counts()))
    console.print(metrics_table(outcome.metrics))
    has_plan = outcome.result.plans.has_plan.nonzero().flatten().tolist()
    if has_plan:
        console.print(outcome.result.explain(has_plan[0]), highlight=False)
    console.print("All of it holds under the graph in use.")


if __name__ == "__main__":
    main()
