"""A classifier with the decision that is asked for, fitted to a table where it needs one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.classifiers.calibrated import CalibratedClassifier
from carma.classifiers.calibration import Calibration
from carma.decision import Calibrated, Decision
from carma.errors import ClassifierError, TableError
from carma.table import labels

__all__ = ["decided"]


def decided(classifier: Classifier, decision: Decision, rows: Any = None) -> Classifier:
    """The same classifier with another decision than its schema's threshold.

    Args:
        classifier: Gives probabilities; it stays as it is.
        decision: Where it needs a table, what comes back has it settled.
        rows: DataFrame in original units. For a reject rate: of whom that share is turned down,
            as nearly as equal probabilities allow. To calibrate: with the outcome column, rows
            that the classifier was not trained on.

    Raises:
        TableError: Rows are needed and absent, or do not fit the schema.
        SchemaError: To calibrate, the schema names no outcome.
        ClassifierError: All rows have one and the same probability, or the favourable outcome
            is not the more frequent the higher it is.

    Example:
        >>> from carma import BlackBoxClassifier, CausalGraph, Feature, Schema
        >>> import pandas as pd
        >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
        >>> classifier = BlackBoxClassifier(schema, lambda rows: rows["income"] / 100)
        >>> rows = pd.DataFrame({"income": range(1, 100)})
        >>> decided(classifier, Decision(reject_rate=0.3), rows).decision.say()
        'accepted from 30.5%, so that 30% are turned down'
    """
    if decision.is_settled:
        return classifier.deciding(decision)
    if rows is None:
        need = "labelled rows that the classifier was not trained on"
        rule = f"be given: {need if decision.calibrated else 'of whom the reject rate is meant'}"
        raise TableError.of("decided", "rows", rule, None)
    x = classifier.encoding.encode(rows)
    if not decision.calibrated:
        rate = 0.0 if decision.reject_rate is None else decision.reject_rate
        return classifier.deciding(replace(decision, cut_off=_cut_off(classifier, x, rate)))
    is_favourable = labels(classifier.schema, rows)
    with torch.no_grad():
        logit = classifier.logit(x)
    is_known = torch.isfinite(logit)
    kind: Calibrated = "isotonic" if decision.calibrated == "isotonic" else "platt"
    calibration = Calibration.fitted(kind, logit[is_known], is_favourable[is_known])
    calibrated = CalibratedClassifier(classifier, calibration)
    return calibrated.deciding(replace(decision, calibrated=False))


def _cut_off(classifier: Classifier, x: Tensor, rate: float) -> float:
    """Halfway between two probabilities that occur; equal ones are told apart by nothing."""
    with torch.no_grad():
        probability = classifier.probability(x).double()
    known = probability[~probability.isnan()].numpy()
    level, count = np.unique(known, return_counts=True)
    if len(level) < 2:
        rule = "differ between people; every row gives"
        raise ClassifierError.of("decided", "probability", rule, level.tolist())
    share = count.cumsum()[:-1] / count.sum()
    place = int(np.abs(share - rate).argmin())
    below, above = float(level[place]), float(level[place + 1])
    middle = (below + above) / 2
    # Between neighbours among the numbers that there are, there is none.
    return middle if middle > below else above
