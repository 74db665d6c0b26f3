"""The metrics of the paper's Table 1, and regret where an optimum is known."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.costs import Cost
from carma.errors import InputError
from carma.evaluation.regret import Regret
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.recourse.result import RecourseResult
from carma.recourse.status import Status

__all__ = ["Metrics", "evaluate"]


@dataclass(frozen=True)
class Metrics:
    """Averages over rejected people; cost, actions and probability over those with a plan.

    Args:
        n_people: Rejected people who asked.
        cost_x100: Mean cost of a plan times 100.
        coverage: Percent of people with a checked plan.
        actions: Mean number of features acted on.
        probability: Mean probability of the method's own counterfactual.
        ms_per_person: Time of the whole call over all people asked, milliseconds.
        causal_validity: Percent of plans accepted when the values are set under the true
            causal model; ``None`` when that is not known.
        regret: Cost against the least cost of the same people, with intervals; ``None`` when no
            optimum is given.

    References:
        Majumdar & Valera 2024, CARMA, Table 1.
    """

    n_people: int
    cost_x100: float | None
    coverage: float | None
    actions: float | None
    probability: float | None
    ms_per_person: float
    causal_validity: float | None = None
    regret: Regret | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        return content | {"regret": None if self.regret is None else self.regret.to_dict()}


def evaluate(
    result: RecourseResult,
    cost: Cost,
    *,
    true_model: CausalModel | None = None,
    classifier: Classifier | None = None,
    optimum: Tensor | None = None,
) -> Metrics:
    """Measure a result of any solver.

    Args:
        result: Of ``Solver.recommend``.
        cost: The scale on which every method is priced.
        true_model: Known causal model for causal validity; needs ``classifier``.
        classifier: The one that decides.
        optimum: Least cost for each person on the same scale, shape ``(n,)``; NaN where there
            is none, or where it is not known.

    Returns:
        The averages; ``None`` where there is nobody to average over.

    Raises:
        InputError: ``true_model`` without ``classifier``, or ``optimum`` of another length.

    Example:
        >>> from carma import Carma, CarmaSettings, ClassifierSettings, TrainingSettings
        >>> from carma import fit_classifier
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=400), TrainingSettings(epochs=5)
        >>> rows = data.frame("classifier")
        >>> classifier = fit_classifier(data.schema, rows, ClassifierSettings((), quick))
        >>> solver = Carma(data.scm, classifier, settings=CarmaSettings(training=quick))
        >>> result = solver.fit(data.frame("recourse")).recommend(data.frame("recourse", "test"))
        >>> evaluate(result, data.cost).n_people + result.counts().get("already_accepted", 0)
        100
    """
    if true_model is not None and classifier is None:
        raise InputError.of("evaluate", "classifier", "be given with true_model", None)
    if optimum is not None and optimum.shape != (len(result),):
        rule = f"have shape ({len(result)},)"
        raise InputError.of("evaluate", "optimum", rule, tuple(optimum.shape))
    plans = result.plans
    is_open = plans.status != Status.ALREADY_ACCEPTED.code
    has_plan = plans.has_plan
    x = result.x[has_plan]
    do = Intervention(plans.mask[has_plan], plans.values[has_plan])
    price = cost.of(x, do)
    validity = regret = None
    if true_model is not None and classifier is not None:
        with torch.no_grad():
            reached = true_model.counterfactual(x, do)
            if classifier.takes_gaps:
                reached = result.seen(reached, has_plan)
            accepted = classifier.accepts(reached)
        validity = _mean(100.0 * accepted)
    if optimum is not None:
        paid = torch.full((len(result),), torch.nan, dtype=torch.float64)
        paid[has_plan] = price.double()
        regret = Regret.of(paid, optimum)
    return Metrics(
        n_people=int(is_open.sum()),
        cost_x100=_mean(100.0 * price),
        coverage=_mean(100.0 * has_plan[is_open]),
        actions=_mean(do.mask[:, result.encoding.actions].sum(dim=1)),
        probability=_mean(plans.probability_after[has_plan]),
        ms_per_person=1000.0 * result.seconds / max(1, len(result)),
        causal_validity=validity,
        regret=regret,
    )


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
