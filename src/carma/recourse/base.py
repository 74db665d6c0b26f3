"""The contract of a solver, and the check that every plan passes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import Limits, PlanLimits
from carma.costs import SquaredCost
from carma.errors import ConstraintError, NotFittedError, SchemaError, TableError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.progress import track
from carma.recourse.plans import Plans
from carma.recourse.proposal import Proposal
from carma.recourse.result import RecourseResult
from carma.recourse.status import Status
from carma.state import State, one_thread

__all__ = ["Solver"]


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
    at_once: ClassVar[int] = 4096

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

    @property
    @abstractmethod
    def margin(self) -> float:
        """How far past the threshold plans aim, as a probability."""

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

    def recommend(
        self, people: Any, *, limits: Limits | None = None, progress: bool | None = None
    ) -> RecourseResult:
        """Find a plan for every person.

        Args:
            people: DataFrame in original units.
            limits: See ``solve``.
            progress: See ``solve``.

        Returns:
            One record a person, in the same order and with the same index.

        Raises:
            TableError: The table does not fit the schema.
            NotFittedError: ``fit`` was not called.
            ConstraintError: See ``solve``.
        """
        if not self.is_fitted:
            raise NotFittedError.of(type(self).__name__, "recommend")
        x = self.encoding.encode(people)
        start = time.perf_counter()
        plans = self.solve(x, limits, progress=progress)
        seconds = time.perf_counter() - start
        return RecourseResult.of(
            self.encoding, people, x, plans, self.classifier.threshold, seconds
        )

    def solve(
        self, x: Tensor, limits: Limits | None = None, *, progress: bool | None = None
    ) -> Plans:
        """The same as ``recommend`` on tensors: the one hot path for one person or a million.

        Args:
            x: Shape ``(n, d)``, model space.
            limits: Narrower limits of each person, shape ``(n, d)`` each; a person's own value
                lies within them. The schema's limits hold in any case.
            progress: Show a bar where there is more than one chunk of people; ``None`` shows it
                on a terminal.

        Returns:
            Checked plans. Memory stays bounded: people are taken in chunks of ``at_once``.

        Raises:
            NotFittedError: ``fit`` was not called.
            ConstraintError: ``limits`` has another shape or leaves out a person's own value.
        """
        if not self.is_fitted:
            raise NotFittedError.of(type(self).__name__, "solve")
        if limits is not None:
            self._check_limits(x, limits)
        with torch.inference_mode():
            parts = []
            starts = range(0, max(1, len(x)), self.at_once)
            show = False if len(starts) == 1 else progress
            for start in track(starts, self.kind, total=len(starts), show=show):
                rows = slice(start, start + self.at_once)
                box = self._around(x[rows])
                if limits is not None:
                    box = box.narrowed(limits[rows])
                parts.append(self._solve_chunk(x[rows], box))
            return Plans.joined(parts)

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
    def _propose(self, x: Tensor, u: Tensor, limits: Limits) -> Proposal:
        """Propose a plan for each (rejected) row ``x`` with exogenous ``u``."""

    def _around(self, x: Tensor) -> Limits:
        """The box in which plans are sought and accepted."""
        return self.limits.around(x)

    def _follow(self, x: Tensor, intervention: Intervention, u: Tensor) -> Tensor:
        """What the solver believes to follow from an intervention."""
        return self.causal_model.counterfactual(x, intervention, u)

    def _solve_chunk(self, x: Tensor, limits: Limits) -> Plans:
        before = self.classifier.probability(x)
        is_open = ~(before >= self.classifier.threshold)
        if bool(is_open.all()):
            return self._answer(x, before, limits)
        plans = Plans.nothing_to_do(x, before)
        if bool(is_open.any()):
            plans.put(is_open, self._answer(x[is_open], before[is_open], limits[is_open]))
        return plans

    def _answer(self, x: Tensor, before: Tensor, limits: Limits) -> Plans:
        """Propose, check, and keep what passes, for rejected rows."""
        u = self.causal_model.abduct(x)
        proposal = self._propose(x, u, limits)
        do = proposal.intervention
        reached = self._follow(x, do, u)
        probability = self.classifier.probability(reached)
        status = self._judge(x, proposal, limits, reached, probability)
        status[~torch.isfinite(before)] = Status.UNDEFINED.code
        has_plan = status == self.found.code
        kept = do.mask & has_plan[:, None]
        return Plans(
            status,
            kept,
            torch.where(kept, do.values, x),
            torch.where(has_plan[:, None], reached, x),
            torch.where(has_plan, self.cost.of(x, do), torch.nan),
            before,
            torch.where(has_plan, probability, before),
            proposal.n_evaluations,
        )

    def _judge(
        self, x: Tensor, proposal: Proposal, limits: Limits, reached: Tensor, probability: Tensor
    ) -> Tensor:
        """Status of each proposal; later lines overrule earlier ones."""
        do = proposal.intervention
        permitted = self.limits.permits(x, do, limits)
        permitted &= self.limits.can_exist(reached)
        is_finite = torch.isfinite(probability) & torch.isfinite(reached).all(dim=1)
        status = torch.full((len(x),), self.found.code)
        status[probability < self.classifier.threshold] = Status.STILL_REJECTED.code
        status[~permitted] = Status.OUTSIDE_LIMITS.code
        nothing = torch.full_like(status, Status.NO_ACTION.code)
        verdict = nothing if proposal.verdict is None else proposal.verdict
        status = torch.where(do.mask.any(dim=1), status, verdict)
        status[~is_finite] = Status.UNDEFINED.code
        return status

    def _check_limits(self, x: Tensor, limits: Limits) -> None:
        owner = type(self).__name__
        for name in ("lower", "upper", "may_act"):
            given = tuple(getattr(limits, name).shape)
            if given != tuple(x.shape):
                rule = f"have the shape of x, {tuple(x.shape)}"
                raise ConstraintError.of(owner, f"limits.{name}", rule, given)
        outside = ~((limits.lower <= x) & (x <= limits.upper))
        if bool(outside.any()):
            row, column = outside.nonzero()[0].tolist()
            rule = f"hold the person's own value; row {row}, column {column} has value"
            raise ConstraintError.of(owner, "limits", rule, x[row, column])
