"""Plans that were written to a file and read back: does what they ask for still work?"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.column_rules import ColumnRules
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.recourse.result import RecourseResult
from carma.schema import Feature
from carma.table import Encoding

__all__ = ["accepted", "reread"]


def accepted(
    x: Tensor, intervention: Intervention, causal_model: CausalModel, classifier: Classifier
) -> Tensor:
    """Whether people are accepted once they have set what a plan asks for, shape ``(n,)``, bool.

    Time that an action takes passes. Gaps are filled in by the causal model, but for those that
    the classifier is to see.

    Args:
        x: Factual rows, shape ``(n, d)``, model space; NaN where a value is missing.
        intervention: What they do; with nothing set, it is about the rows as they are.
        causal_model: Tells what follows.
        classifier: Decides.
    """
    encoding = causal_model.encoding
    with torch.no_grad():
        own = causal_model.impute(x)
        mask, values = ColumnRules(encoding).with_time(
            own, intervention.mask, torch.where(intervention.mask, intervention.values, own)
        )
        reached = causal_model.counterfactual(own, Intervention(mask, values))
        gaps = encoding.passed(x) & ~mask
        if classifier.takes_gaps and bool(gaps.any()):
            reached = encoding.derive(torch.where(gaps, torch.nan, reached))
        return classifier.accepts(reached)


def reread(result: RecourseResult) -> tuple[Tensor, Intervention]:
    """Write people and plans as comma-separated text, and read both back.

    Args:
        result: One plan a person.

    Returns:
        The factual rows, shape ``(n, d)``, model space, with NaN for what was missing, and what
        the plans set, as the text says it: as somebody would act who has nothing but the file.
        What passing time moves is no action, and not among it; see ``accepted``.

    Example:
        >>> from carma import ClassifierSettings, ExactSolver, TrainingSettings, fit_classifier
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=200), TrainingSettings(epochs=5)
        >>> rows = data.frame("classifier")
        >>> classifier = fit_classifier(data.schema, rows, ClassifierSettings((), quick))
        >>> result = ExactSolver(data.scm, classifier).recommend(data.frame("recourse", "test"))
        >>> x, do = reread(result)
        >>> bool(accepted(x, do, data.scm, classifier)[result.plans.has_plan].all())
        True
    """
    encoding = result.encoding
    schema = encoding.schema
    own = torch.where(result.missing, torch.nan, result.x)
    people = _parsed(encoding, _through_text(encoding.decode(own)))
    plans = result.to_frame()
    told = _through_text(pd.DataFrame(plans, columns=[f"do_{n}" for n in schema.actionable]))
    after = people.copy()
    mask = torch.zeros_like(result.x, dtype=torch.bool)
    for name in schema.actionable:
        column = told[f"do_{name}"]
        acts = np.array(column != "", dtype=bool)
        if acts.any():
            values = after[name].astype(object)
            values[acts] = [_value(schema[name], text) for text in column[acts]]
            after[name] = values.infer_objects()
        mask[:, encoding.block(name)] = torch.from_numpy(acts)[:, None]
    return encoding.encode(people), Intervention(mask, encoding.encode(after))


def _through_text(frame: pd.DataFrame) -> pd.DataFrame:
    stream = io.StringIO()
    frame.to_csv(stream, index=False)
    stream.seek(0)
    # Text as it stands in the file: "None" may be a level. An empty line would be skipped.
    return pd.read_csv(stream, dtype=str, keep_default_na=False, skip_blank_lines=False)


def _parsed(encoding: Encoding, text: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for feature in encoding.schema.features:
        if feature.formula is not None:
            # Computed anew: an action changes it.
            continue
        found = [_value(feature, value) for value in text[feature.name]]
        is_text = any(isinstance(level, str) for level in feature.levels)
        columns[feature.name] = np.array(found, dtype=object) if is_text else found
    return pd.DataFrame(columns)


def _value(feature: Feature, text: str) -> Any:
    if text == "" and "" not in feature.levels:
        return None
    if not feature.has_levels:
        return int(float(text)) if feature.kind == "integer" else float(text)
    said = {str(level): level for level in feature.levels}
    # In a column with gaps, whole numbers are told as decimals.
    said |= {str(float(v)): v for v in feature.levels if type(v) is int}
    return said[text]
