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
from carma.state import State, one_thread

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

    @one_thread()
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
            return Plans.joined([self._solve_chunk(part) for part in torch.split(x, CHUNK)])

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
    def _propose(self, x: Tensor, u: Tensor) -> Intervention:
        """Propose a plan for each (rejected) row ``x`` with exogenous ``u``."""

    def _solve_chunk(self, x: Tensor) -> Plans:
        before = self.classifier.probability(x)
        is_open = ~(before >= self.classifier.threshold)
        if bool(is_open.all()):
            return self._answer(x, before)
        plans = Plans.nothing_to_do(x, before)
        if bool(is_open.any()):
            plans.put(is_open, self._answer(x[is_open], before[is_open]))
        return plans

    def _answer(self, x: Tensor, before: Tensor) -> Plans:
        """Propose, check, and keep what passes, for rejected rows."""
        u = self.causal_model.abduct(x)
        proposal = self._propose(x, u)
        reached = self.causal_model.counterfactual(x, proposal, u)
        probability = self.classifier.probability(reached)
        status = self._judge(x, proposal, reached, probability)
        status[~torch.isfinite(before)] = Status.UNDEFINED.code
        has_plan = status == self.found.code
        kept = proposal.mask & has_plan[:, None]
        return Plans(
            status,
            kept,
            torch.where(kept, proposal.values, x),
            torch.where(has_plan[:, None], reached, x),
            torch.where(has_plan, self.cost.of(x, proposal), torch.nan),
            before,
            torch.where(has_plan, probability, before),
        )

    def _judge(
        self, x: Tensor, proposal: Intervention, reached: Tensor, probability: Tensor
    ) -> Tensor:
        """Status of each proposal; later lines overrule earlier ones."""
        permitted = self.limits.permits(x, proposal, self.limits.around(x))
        permitted &= self.limits.can_exist(reached)
        is_finite = torch.isfinite(probability) & torch.isfinite(reached).all(dim=1)
        status = torch.full((len(x),), self.found.code)
        status[probability < self.classifier.threshold] = Status.STILL_REJECTED.code
        status[~permitted] = Status.OUTSIDE_LIMITS.code
        status[~proposal.mask.any(dim=1)] = Status.NO_ACTION.code
        status[~is_finite] = Status.UNDEFINED.code
        return status
