"""The contract of a solver, and the check that every plan passes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import PlanLimits
from carma.costs import SquaredCost
from carma.errors import NotFittedError, SchemaError, TableError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.recourse.plans import Plans
from carma.recourse.result import RecourseResult
from carma.recourse.status import Status
from carma.state import State

__all__ = ["Solver"]

CHUNK = 4096


class Solver(ABC):
    """Finds plans: which features to set, and to what.

    A subclass implements ``_propose``, ``_fit``, ``state`` and ``restore``; the checks are
    here, once, for all.

    Args:
        causal_model: Fitted; tells what follows from an action.
        classifier: Decides.
        cost: What plans cost; by default on the scale of the causal model's training table.

    Raises:
        SchemaError: The parts describe different problems, no feature is actionable, or an
            actionable feature is nominal.
        NotFittedError: The causal model has seen no table.
    """

    kind: ClassVar[str]
    found: ClassVar[Status]

    def __init__(
        self,
        causal_model: CausalModel,
        classifier: Classifier,
        *,
        cost: SquaredCost | None = None,
    ) -> None:
        owner = type(self).__name__
        self.schema = causal_model.schema
        if classifier.schema != self.schema:
            rule = "have the schema of the causal model"
            raise SchemaError.of(owner, "classifier", rule, classifier.schema.names)
        if not hasattr(causal_model, "statistics_"):
            raise NotFittedError.of(type(causal_model).__name__, owner)
        if not self.schema.actionable:
            raise SchemaError.of(owner, "schema", "have an actionable feature", self.schema.names)
        for name in self.schema.actionable:
            if self.schema[name].kind == "nominal":
                rule = "not be nominal: set it to 'mutable', or make its levels ordinal"
                raise SchemaError.of(owner, "actionable feature", rule, name)
        self.causal_model = causal_model
        self.classifier = classifier
        self.encoding = causal_model.encoding
        self.cost = cost or SquaredCost(self.encoding, causal_model.statistics_)
        self.limits = PlanLimits(self.encoding, causal_model.statistics_)

    @property
    @abstractmethod
    def is_fitted(self) -> bool:
        """True when ``recommend`` can be called."""

    def fit(self, rejected: Any, *, progress: bool | None = None) -> Self:
        """Learn where there is something to learn.

        Args:
            rejected: DataFrame in original units, or a tensor ``(n, d)`` in model space.
                Accepted rows are left out.
            progress: Show a bar; ``None`` shows it on a terminal.

        Returns:
            The solver itself.

        Raises:
            TableError: The table does not fit the schema, or nobody in it is rejected.
            ClassifierError: The classifier gives NaN or one and the same probability.
        """
        x = rejected if isinstance(rejected, Tensor) else self.encoding.encode(rejected)
        self.classifier.check_on(x)
        with torch.no_grad():
            is_rejected = self.classifier.probability(x) < self.classifier.threshold
        if int(is_rejected.sum()) < 2:
            rule = f"hold at least two people below the threshold {self.classifier.threshold}"
            raise TableError.of(type(self).__name__, "rejected", rule, int(is_rejected.sum()))
        self._fit(x[is_rejected], progress)
        return self

    def recommend(self, people: Any) -> RecourseResult:
        """Find a plan for every person.

        Args:
            people: DataFrame in original units.

        Returns:
            One record a person, in the same order and with the same index.

        Raises:
            TableError: The table does not fit the schema.
            NotFittedError: ``fit`` was not called.
        """
        if not self.is_fitted:
            raise NotFittedError.of(type(self).__name__, "recommend")
        x = self.encoding.encode(people)
        start = time.perf_counter()
        plans = self.solve(x)
        seconds = time.perf_counter() - start
        return RecourseResult.of(
            self.encoding, people, x, plans, self.classifier.threshold, seconds
        )

    def solve(self, x: Tensor) -> Plans:
        """The same as ``recommend`` on tensors: the one hot path for one person or a million.

        Args:
            x: Shape ``(n, d)``, model space.

        Returns:
            Checked plans. Memory stays bounded: people are taken in chunks.
        """
        with torch.inference_mode():
            return Plans.joined([self._solve_chunk(part) for part in x.split(CHUNK)])

    @abstractmethod
    def state(self) -> State:
        """Settings and tensors from which ``restore`` rebuilds the solver."""

    @classmethod
    @abstractmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: SquaredCost, state: State
    ) -> Self:
        """Rebuild a fitted solver."""

    @abstractmethod
    def _fit(self, x: Tensor, progress: bool | None) -> None: ...

    @abstractmethod
    def _propose(self, x: Tensor) -> Intervention:
        """Propose a plan for each (rejected) row, inside the limits where it can."""

    def _solve_chunk(self, x: Tensor) -> Plans:
        before = self.classifier.probability(x)
        is_open = ~(before >= self.classifier.threshold)
        rows = is_open.nonzero().squeeze(1)
        status = torch.full((len(x),), Status.ALREADY_ACCEPTED.code)
        mask = torch.zeros_like(x, dtype=torch.bool)
        values, counterfactual = x.clone(), x.clone()
        cost, after = torch.zeros_like(before), before.clone()
        if len(rows):
            mine = x[rows]
            proposal = self._propose(mine)
            reached, probability, verdict = self._check_plans(mine, proposal)
            has_plan = verdict == self.found.code
            kept = proposal.mask & has_plan[:, None]
            status[rows], mask[rows] = verdict, kept
            values[rows] = torch.where(kept, proposal.values, mine)
            counterfactual[rows] = torch.where(has_plan[:, None], reached, mine)
            price = self.cost.of(mine, proposal)
            cost[rows] = torch.where(has_plan, price, torch.nan)
            after[rows] = torch.where(has_plan, probability, before[rows])
        return Plans(status, mask, values, counterfactual, cost, before, after)

    def _check_plans(self, x: Tensor, proposal: Intervention) -> tuple[Tensor, Tensor, Tensor]:
        """Counterfactual, its probability and the verdict on each proposal."""
        reached = self.causal_model.counterfactual(x, proposal)
        probability = self.classifier.probability(reached)
        permitted = self.limits.permits(x, proposal, self.limits.around(x))
        # Later lines overrule earlier ones.
        verdict = torch.full((len(x),), self.found.code)
        verdict[probability < self.classifier.threshold] = Status.STILL_REJECTED.code
        verdict[~permitted] = Status.OUTSIDE_LIMITS.code
        verdict[~proposal.mask.any(dim=1)] = Status.NO_ACTION.code
        is_finite = torch.isfinite(probability) & torch.isfinite(reached).all(dim=1)
        verdict[~is_finite] = Status.UNDEFINED.code
        return reached, probability, verdict
