"""What plans as sure as given ones cost at least: the exact search, asked for the same."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from carma.interventions import Intervention
from carma.progress import track
from carma.recourse.candidates import Found
from carma.recourse.doubt import quantile
from carma.recourse.exact import ExactSolver
from carma.recourse.plans import Plans
from carma.recourse.proposal import Proposal
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
    """Least cost found of plans that hold with a given probability, as the given ones do.

    The search is asked for plans that themselves hold with that probability
    (``ExactSettings.validity``), and starts from the given plans as well. A given plan that is
    as sure as was asked is thus never cheaper. One that is not is compared with the search that
    goes as far past the threshold as the plan itself does.

    Args:
        search: Its causal model, classifier, cost and settings.
        x: Factual rows of rejected people, shape ``(n, d)``, model space; NaN where a value is
            missing.
        plans: What is to be compared; a row that sets nothing is no plan.
        validity: See ``CarmaSettings``.
        progress: See ``track``.

    Returns:
        Shape ``(n,)``; NaN where there is no plan, or the search finds none that goes as far as
        one that is not sure.

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
    yardstick = _Yardstick(search, validity)
    least = torch.full((len(x),), torch.nan, dtype=torch.float64)
    rows = plans.mask.any(dim=1).nonzero().squeeze(1)
    at_once = min(search.at_once, search._rows_at_once)
    parts = [part for part in torch.split(rows, at_once) if len(part)]
    with torch.inference_mode(False), torch.no_grad():
        for some in track(parts, "search as sure", total=len(parts), show=progress):
            asked, mask, values = (t[some].clone() for t in (x, plans.mask, plans.values))
            least[some] = yardstick.least(asked, Intervention(mask, values))
    return least


class _Yardstick:
    """Two searches: one for plans that hold with a probability, one that just goes so far."""

    def __init__(self, search: ExactSolver, validity: float) -> None:
        model, classifier = search.causal_model, search.classifier
        parts, settings = (model, classifier), search.settings
        kind, cost, self._validity = type(search), search.cost, validity
        self._sure = kind(*parts, cost=cost, settings=replace(settings, validity=validity))
        self._plain = kind(*parts, cost=cost, settings=replace(settings, validity=None))
        self._doubt = self._sure._doubt
        self._quantile = quantile(validity, self._doubt.n_alternatives)

    def least(self, x: Tensor, plans: Intervention) -> Tensor:
        """Least cost, ``(n,)``; see ``least_cost_as_sure``."""
        search, classifier = self._plain, self._plain.classifier
        own, gaps = search._filled(x), search.encoding.passed(x)
        limits = search.limits.around(own)
        u = search.causal_model.abduct(own)
        people = People(own, u, limits, gaps=gaps if gaps.any() else None)
        doubt = self._doubt.of(people, plans.mask, plans.values)
        do = people.do(plans.mask, plans.values)
        reached = search._follow(own, do, people.u)
        ahead = classifier.ahead(search._seen(people, reached, do.mask))
        before = classifier.probability(search._seen(people, own, torch.zeros_like(plans.mask)))
        is_sure = (ahead >= 0) & (doubt.validity(ahead) >= self._validity - ROUNDING)
        least = torch.full((len(x),), torch.nan, dtype=torch.float64)
        sure, short = (is_it.nonzero().squeeze(1) for is_it in (is_sure, ~is_sure))
        if len(sure):
            given = plans.each(lambda t: t[sure])
            least[sure] = self._least_sure(people[sure], given, before[sure])
        if len(short):
            aim = torch.minimum(doubt.margin(self._quantile), (1 - NEARLY) * ahead).clamp(min=0)
            aimed = replace(people, aim=aim)[short]
            least[short] = search._answer(aimed, before[short], 1)[0].cost.double()
        return least

    def _least_sure(self, people: People, given: Intervention, before: Tensor) -> Tensor:
        """Least cost of plans that are as sure as was asked, which the given ones are."""
        found = self._sure._answer(people, before, 1)[0]
        least = torch.fmin(self._sure.cost.of(people.x, given), self._price(found))
        if not self._doubt.n_alternatives:
            return least
        for plans in (Intervention(found.mask, found.values), given):
            least = torch.fmin(least, self._price(self._improved(people, plans, before)))
        return least

    def _improved(self, people: People, do: Intervention, before: Tensor) -> Plans:
        """The best plans with the same moves between levels, sought from given plans."""
        search = self._sure
        world = search._switches.after(people, do)
        actionable = torch.zeros_like(do.mask)
        actionable[:, search.encoding.actionable] = True
        mask, nothing = do.mask & actionable, torch.zeros(len(people), dtype=torch.long)
        start = Found(mask, torch.where(mask, do.values, people.x), before, nothing)
        best = search._cheapest_sure(world, [], [start])
        uncertainty = self._doubt.of(world, best.mask, best.values)
        plans = Intervention(best.mask, best.values)
        proposal = Proposal(plans, best.n_evaluations, uncertainty=uncertainty)
        return search._answered(world, proposal, before)

    def _price(self, plans: Plans) -> Tensor:
        """What plans cost that are sure, NaN otherwise."""
        is_sure = plans.expected_validity >= self._validity - ROUNDING
        return torch.where(is_sure, plans.cost, torch.nan).double()


# Share of the way past the threshold that rounding may lose.
NEARLY = 1e-9
# Of a probability.
ROUNDING = 1e-6
