"""What plans as sure as given ones cost at least: the exact search, with a margin for each."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from carma.interventions import Intervention
from carma.progress import track
from carma.recourse.doubt import Doubt, quantile
from carma.recourse.exact import ExactSolver
from carma.recourse.target import People

__all__ = ["least_cost_as_sure"]


def least_cost_as_sure(
    search: ExactSolver,
    x: Tensor,
    plans: Intervention,
    validity: float,
    *,
    progress: bool | None = False,
) -> Tensor:
    """Least cost of going as far past the threshold as each plan has to.

    A plan that shall hold with a given probability has to go past the threshold by a margin of
    its own (``Doubt``). The search aims for the same; where the plan falls short of it, for as
    far as the plan goes. So the plan itself is one of those that the search looks for.

    Args:
        search: Its causal model, classifier and cost.
        x: Factual rows of rejected people, shape ``(n, d)``, model space; NaN where a value is
            missing.
        plans: What is to be compared; a row that sets nothing is no plan.
        validity: See ``CarmaSettings``.
        progress: See ``track``.

    Returns:
        Shape ``(n,)``; NaN where there is no plan, or the search finds none.

    Example:
        >>> from carma import ClassifierSettings, TrainingSettings, fit_classifier
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=200), TrainingSettings(epochs=5)
        >>> rows = data.frame("classifier")
        >>> classifier = fit_classifier(data.schema, rows, ClassifierSettings((), quick))
        >>> search, x = ExactSolver(data.scm, classifier), data.encoded("recourse", "test")
        >>> x = x[classifier.rejects(x)]
        >>> found = search.solve(x)
        >>> least = least_cost_as_sure(search, x, Intervention(found.mask, found.values), 0.99)
        >>> torch.allclose(least, found.cost)    # known equations leave no doubt
        True
    """
    model, classifier = search.causal_model, search.classifier
    least = torch.full((len(x),), torch.nan, dtype=torch.float64)
    rows = plans.mask.any(dim=1).nonzero().squeeze(1)
    parts = [part for part in torch.split(rows, search.at_once) if len(part)]
    with torch.inference_mode(False), torch.no_grad():
        for some in track(parts, "search as sure", total=len(parts), show=progress):
            asked, mask, values = (t[some].clone() for t in (x, plans.mask, plans.values))
            own, gaps = search._filled(asked), search.encoding.passed(asked)
            limits = search.limits.around(own)
            people = People(own, model.abduct(own), limits, gaps=gaps if gaps.any() else None)
            doubt = Doubt(model, classifier).of(people, mask, values)
            needed = doubt.margin(quantile(validity, model.n_alternatives))
            do = people.do(mask, values)
            reached = model.counterfactual(own, do, people.u)
            ahead = classifier.ahead(search._seen(people, reached, do.mask))
            aim = torch.minimum(needed, (1 - ROUNDING) * ahead).clamp(min=0)
            today = search._seen(people, own, torch.zeros_like(mask))
            aimed = replace(people, aim=aim)
            least[some] = search._answer(aimed, classifier.probability(today), 1)[0].cost.double()
    return least


# Share of the way past the threshold that rounding may lose.
ROUNDING = 1e-9
