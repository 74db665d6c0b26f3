"""What plans as sure as given ones cost at least: the exact search, with a margin for each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from carma.interventions import Intervention
from carma.recourse.doubt import Doubt, quantile
from carma.recourse.exact import ExactSolver
from carma.recourse.target import People

__all__ = ["least_cost_as_sure"]


def least_cost_as_sure(
    search: ExactSolver, x: Tensor, plans: Intervention, validity: float
) -> Tensor:
    """Least cost of going as far past the threshold as each plan has to.

    A plan that shall hold with a given probability has to go past the threshold by a margin of
    its own (``Doubt``). The search aims for the same; where the plan falls short of it, for as
    far as the plan goes. So the plan itself is one of those that the search looks for.

    Args:
        search: Its causal model, classifier and cost.
        x: Factual rows of rejected people, shape ``(n, d)``, model space.
        plans: What is to be compared; a row that sets nothing is no plan.
        validity: See ``CarmaSettings``.

    Returns:
        Shape ``(n,)``; NaN where there is no plan, or the search finds none.

    Example:
        >>> from carma import ClassifierSettings, TrainingSettings, fit_classifier
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=200), TrainingSettings(epochs=5)
        >>> rows = data.frame("classifier")
        >>> classifier = fit_classifier(data.schema, rows, ClassifierSettings((), quick))
        >>> search, x = ExactSolver(data.scm, classifier), data.encoded("recourse", "test")
        >>> x = x[classifier.probability(x) < classifier.threshold]
        >>> found = search.solve(x)
        >>> least = least_cost_as_sure(search, x, Intervention(found.mask, found.values), 0.99)
        >>> torch.allclose(least, found.cost)    # known equations leave no doubt
        True
    """
    model, classifier = search.causal_model, search.classifier
    least = torch.full((len(x),), torch.nan, dtype=torch.float64)
    rows = plans.mask.any(dim=1).nonzero().squeeze(1)
    with torch.inference_mode(False), torch.no_grad():
        for some in torch.split(rows, search.at_once):
            own, mask, values = (t[some].clone() for t in (x, plans.mask, plans.values))
            people = People(own, model.abduct(own), search.limits.around(own))
            doubt = Doubt(model, classifier).of(people, mask, values)
            needed = doubt.margin(quantile(validity, model.n_alternatives))
            logit = classifier.logit(model.counterfactual(own, Intervention(mask, values)))
            ahead = logit - math.log(classifier.threshold / (1 - classifier.threshold))
            aim = torch.minimum(needed, (1 - ROUNDING) * ahead).clamp(min=0)
            aimed = People(own, people.u, people.limits, aim=aim)
            found = search._propose(aimed, 1).intervention
            price = search.cost(own, found.mask, found.values, None).double()
            least[some] = torch.where(found.mask.any(dim=1), price, torch.nan)
    return least


# Share of the way past the threshold that rounding may lose.
ROUNDING = 1e-9
