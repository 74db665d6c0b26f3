"""Recourse for rejected loan applicants, decided by a scikit-learn pipeline, or another classifier.

Run ``python examples/south_german_credit.py`` to fetch the table from OpenML, or name a copy of it
with ``--data``: a comma-separated file with English column names, or the original
``SouthGermanCredit.asc`` of doi 10.24432/C5QG88. ``--classifier`` takes another than the
scikit-learn pipeline. Needs the extra ``sklearn``, and ``lightgbm`` or ``xgboost`` where asked for.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import fetch_openml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from carma import Classifier, Metrics, RecourseResult, Schema, evaluate, from_sklearn
from carma.classifiers.named import CLASSIFIERS, fit_named
from carma.problem import Problem

PROBLEM = Path(__file__).with_suffix(".toml")
OPENML_NAME = "SouthGermanCredit"

# The original column names are abbreviated German.
ENGLISH = {
    "laufkont": "status",
    "laufzeit": "duration",
    "moral": "credit_history",
    "verw": "purpose",
    "hoehe": "amount",
    "sparkont": "savings",
    "beszeit": "employment_duration",
    "rate": "installment_rate",
    "famges": "personal_status_sex",
    "buerge": "other_debtors",
    "wohnzeit": "present_residence",
    "verm": "property",
    "alter": "age",
    "weitkred": "other_installment_plans",
    "wohn": "housing",
    "bishkred": "number_credits",
    "beruf": "job",
    "pers": "people_liable",
    "telef": "telephone",
    "gastarb": "foreign_worker",
    "kredit": "credit_risk",
}


@dataclass(frozen=True)
class Outcome:
    """What the example found.

    Args:
        schema: The problem.
        classifier: Decides.
        pipeline: The bank's classifier, as scikit-learn fitted it; ``None`` for another one.
        people: Held-out applicants whom the classifier rejects.
        result: Their answers.
        metrics: Averages over them.
        accuracy: Balanced accuracy of the classifier's decisions on all held-out applicants.
    """

    schema: Schema
    classifier: Classifier
    pipeline: Any
    people: pd.DataFrame
    result: RecourseResult
    metrics: Metrics
    accuracy: float


def read_credit(path: Path | None) -> pd.DataFrame:
    """Read the table from a file, or fetch it by name.

    Args:
        path: A copy of the table; ``None`` asks OpenML.

    Returns:
        Whole numbers under the English column names.
    """
    table = _fetched() if path is None else pd.read_csv(path, sep=r"[,\s]+", engine="python")
    table = table.rename(columns=ENGLISH)
    missing = [name for name in ENGLISH.values() if name not in table.columns]
    if missing:
        sys.exit(f"error: this is not the South German Credit table; it lacks {missing}")
    try:
        return table[list(ENGLISH.values())].astype("int64")
    except ValueError as error:
        sys.exit(f"error: this is not the South German Credit table: {error}")


def _fetched() -> pd.DataFrame:
    try:
        table: pd.DataFrame = fetch_openml(OPENML_NAME, as_frame=True, parser="auto").frame
    except (OSError, ValueError) as error:
        sys.exit(
            f"error: could not fetch {OPENML_NAME!r} from OpenML ({error}). Download the table "
            "from https://doi.org/10.24432/C5QG88 and pass it with --data"
        )
    return table


def bank_classifier(schema: Schema, rows: pd.DataFrame) -> Any:
    """Fit the kind of classifier that a bank might already have."""
    nominal = [feature for feature in schema.features if feature.kind == "nominal"]
    one_hot = OneHotEncoder(categories=[list(feature.levels) for feature in nominal])
    names = [feature.name for feature in nominal]
    encode = ColumnTransformer([("one_hot", one_hot, names)], remainder=StandardScaler())
    pipeline = make_pipeline(encode, LogisticRegression())
    return pipeline.fit(rows[list(schema.names)], rows[schema.outcome])


def run(
    table: pd.DataFrame, classifier_name: str = "sklearn", problem: Problem | None = None
) -> Outcome:
    """Fit everything on 70 % of the table and answer the rejected among the others."""
    problem = problem or Problem.from_toml(PROBLEM)
    schema = problem.schema
    past, new = train_test_split(
        table, test_size=0.3, random_state=0, stratify=table[schema.outcome]
    )
    pipeline = bank_classifier(schema, past) if classifier_name == "sklearn" else None
    if pipeline is None:
        classifier = fit_named(classifier_name, schema, past, problem.classifier)
    else:
        classifier = from_sklearn(pipeline, schema, check=table)

    causal_model = problem.new_causal_model().fit(past)
    carma = problem.new_solver(causal_model, classifier).fit(past)

    is_accepted = classifier.accepts(classifier.encoding.encode(new)).numpy()
    people = new[~is_accepted]
    result = carma.recommend(people)
    accuracy = balanced_accuracy_score(new[schema.outcome] == schema.favourable, is_accepted)
    metrics = evaluate(result, carma.cost)
    return Outcome(schema, classifier, pipeline, people, result, metrics, float(accuracy))


def main() -> None:
    """Run the example and print what it found."""
    parser = argparse.ArgumentParser(description="Recourse on South German Credit.")
    parser.add_argument("--data", type=Path, help="the table; without it, OpenML is asked")
    parser.add_argument("--classifier", choices=("sklearn", *CLASSIFIERS), default="sklearn")
    asked = parser.parse_args()
    table = read_credit(asked.data)
    start = time.perf_counter()
    outcome = run(table, asked.classifier)
    seconds = time.perf_counter() - start

    metrics, result = outcome.metrics, outcome.result
    print(f"Balanced accuracy of the classifier on held-out applicants: {outcome.accuracy:.2f}")
    print(f"Rejected held-out applicants: {metrics.n_people}")
    for status, count in result.counts().items():
        print(f"  {status}: {count}")
    print(f"With a checked plan: {metrics.coverage:.1f} %")
    has_plan = result.plans.mask.any(dim=1).nonzero().flatten().tolist()
    if has_plan:
        print(f"Cost x 100: {metrics.cost_x100:.2f}; features acted on: {metrics.actions:.2f}")
        print(
            f"Mean chance after the plan: {metrics.probability:.1%} "
            f"({outcome.classifier.decision.say()}; what is above it is paid for)\n"
        )
        print(result.explain(has_plan[0]))
    print(f"\nFitted and answered in {seconds:.0f} s. All of it holds under the graph in use.")


if __name__ == "__main__":
    main()
