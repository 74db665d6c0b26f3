"""The contract of a solver, and the check that every plan passes."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import Limits, PlanLimits
from carma.costs import Cost, SquaredCost
from carma.errors import ConstraintError, NotFittedError, SchemaError, TableError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.personal import personal_limits
from carma.progress import track
from carma.recourse.plans import Plans
from carma.recourse.proposal import Proposal
from carma.recourse.result import RecourseResult
from carma.recourse.status import Status
from carma.recourse.target import People
from carma.state import State, one_thread
from carma.table import to_pandas
from carma.training import check_at_least

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
        cost: Cost | None = None,
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
        self.cost: Cost = cost or SquaredCost(self.encoding, causal_model.statistics_)
        self.limits = PlanLimits(self.encoding, causal_model.statistics_)

    @property
    @abstractmethod
    def is_fitted(self) -> bool:
        """True when ``recommend`` can be called."""

    @property
    @abstractmethod
    def margin(self) -> float | None:
        """How far past the threshold plans aim, as a probability; ``None``: it differs."""

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
        self,
        people: Any,
        constraints: Any = None,
        n_plans: int = 1,
        *,
        progress: bool | None = None,
    ) -> RecourseResult:
        """Find a plan for every person, or several.

        Args:
            people: DataFrame in original units.
            constraints: What each person cannot or will not do, and what it costs them: one
                ``Constraints`` for all, a list with one (or ``None``) a person, a mapping from
                row label, or a table; see ``carma.personal``.
            n_plans: At most so many plans a person, which act on different features, the
                cheapest first.
            progress: See ``solve``.

        Returns:
            One answer a person, in the same order and with the same index.

        Raises:
            TableError: The table does not fit the schema.
            NotFittedError: ``fit`` was not called.
            ConstraintError: A constraint breaks a rule; it names person, feature and value.
            SettingsError: ``n_plans`` is below 1.
        """
        if not self.is_fitted:
            raise NotFittedError.of(type(self).__name__, "recommend")
        x = self.encoding.encode(people)
        limits = weights = None
        if constraints is not None:
            index = to_pandas(people).index
            personal = personal_limits(self.encoding, x, index, constraints, self.limits)
            limits, weights = personal.limits, personal.weights
        start = time.perf_counter()
        menus = self.menu(x, limits, weights, n_plans=n_plans, progress=progress)
        seconds = time.perf_counter() - start
        return RecourseResult.of(
            self.encoding, people, x, menus, self.classifier.threshold, seconds
        )

    def solve(
        self,
        x: Tensor,
        limits: Limits | None = None,
        weights: Tensor | None = None,
        *,
        progress: bool | None = None,
    ) -> Plans:
        """The best plan of each person, on tensors: one hot path for one person or a million.

        Args:
            x: Shape ``(n, d)``, model space.
            limits: Narrower limits of each person, shape ``(n, d)`` each; a person's own value
                lies within them. The schema's limits hold in any case.
            weights: Personal factors on the price of each change, shape ``(n, d)``, above 0.
            progress: Show a bar where there is more than one chunk of people; ``None`` shows it
                on a terminal.

        Returns:
            Checked plans. Memory stays bounded: people are taken in chunks of ``at_once``.

        Raises:
            NotFittedError: ``fit`` was not called.
            ConstraintError: ``limits`` or ``weights`` have another shape, limits leave out a
                person's own value, or a weight is not above 0.
        """
        return self.menu(x, limits, weights, progress=progress)[0]

    def menu(
        self,
        x: Tensor,
        limits: Limits | None = None,
        weights: Tensor | None = None,
        *,
        n_plans: int = 1,
        progress: bool | None = None,
    ) -> tuple[Plans, ...]:
        """Several plans of each person, the cheapest first.

        A plan is offered only if it leaves alone some feature that every cheaper one acts on:
        one that does more and costs more is of no use.

        Args:
            x: See ``solve``.
            limits: See ``solve``.
            weights: See ``solve``.
            n_plans: Plans wanted.
            progress: See ``solve``.

        Returns:
            ``n_plans`` answers: every person's best plan first. Where there is no further plan,
            the status is ``no_other``.

        Raises:
            NotFittedError: See ``solve``.
            ConstraintError: See ``solve``.
            SettingsError: ``n_plans`` is below 1.
        """
        if not self.is_fitted:
            raise NotFittedError.of(type(self).__name__, "solve")
        check_at_least(type(self).__name__, "n_plans", n_plans, 1)
        self._check_wishes(x, limits, weights)
        with torch.inference_mode():
            parts = []
            starts = range(0, max(1, len(x)), self.at_once)
            show = False if len(starts) == 1 else progress
            for start in track(starts, self.kind, total=len(starts), show=show):
                rows = slice(start, start + self.at_once)
                box = self._around(x[rows])
                if limits is not None:
                    box = box.narrowed(limits[rows])
                factors = None if weights is None else weights[rows]
                parts.append(self._solve_chunk(x[rows], box, factors, n_plans))
            return tuple(Plans.joined(list(ranks)) for ranks in zip(*parts, strict=True))

    @abstractmethod
    def state(self) -> State:
        """Settings and tensors from which ``restore`` rebuilds the solver."""

    @classmethod
    @abstractmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: Cost, state: State
    ) -> Self:
        """Rebuild a fitted solver."""

    @abstractmethod
    def _fit(self, x: Tensor, progress: bool | None) -> None: ...

    @abstractmethod
    def _propose(self, people: People, n_plans: int) -> Proposal:
        """Propose plans for rejected people; several where ``n_plans`` asks for them."""

    def _around(self, x: Tensor) -> Limits:
        """The box in which plans are sought and accepted."""
        return self.limits.around(x)

    def _follow(self, x: Tensor, intervention: Intervention, u: Tensor) -> Tensor:
        """What the solver believes to follow from an intervention."""
        return self.causal_model.counterfactual(x, intervention, u)

    def _solve_chunk(
        self, x: Tensor, limits: Limits, weights: Tensor | None, n_plans: int
    ) -> list[Plans]:
        before = self.classifier.probability(x)
        is_open = ~(before >= self.classifier.threshold)
        if len(x) and bool(is_open.all()):
            return self._answer(x, before, limits, weights, n_plans)
        best = Plans.nothing_to_do(x, before)
        menus = [best, *(Plans.no_other(x, before) for _ in range(n_plans - 1))]
        if bool(is_open.any()):
            factors = None if weights is None else weights[is_open]
            answers = self._answer(x[is_open], before[is_open], limits[is_open], factors, n_plans)
            for plans, part in zip(menus, answers, strict=True):
                plans.put(is_open, part)
        return menus

    def _answer(
        self, x: Tensor, before: Tensor, limits: Limits, weights: Tensor | None, n_plans: int
    ) -> list[Plans]:
        """Propose, check, and keep what passes, for rejected rows."""
        people = People(x, self.causal_model.abduct(x), limits, weights)
        proposal = self._propose(people, n_plans)
        do = proposal.intervention
        each = len(do.mask) // max(1, len(x))
        many = people if each == 1 else people.repeated(each)
        reached = self._follow(many.x, do, many.u)
        logit = self.classifier.logit(reached)
        probability = torch.sigmoid(logit)
        verdict = self._verdict(people, proposal, before)
        passed = proposal.status
        if passed is None:
            passed = torch.full((len(do.mask),), self.found.code)
        status = self._judge(many, proposal, passed, reached, probability)
        # Setting what cannot be moved is no plan.
        is_empty = ~(do.mask & many.limits.can_move).any(dim=1)
        status = torch.where(is_empty, verdict.repeat_interleave(each), status)
        status[~torch.isfinite(before).repeat_interleave(each)] = Status.UNDEFINED.code
        works = (status == passed) & ~is_empty
        kept = do.mask & works[:, None]
        validity = torch.full_like(probability, torch.nan)
        if proposal.uncertainty is not None:
            ahead = logit - math.log(self.classifier.threshold / (1 - self.classifier.threshold))
            validity = proposal.uncertainty.validity(ahead)
        price = self.cost(many.x, do.mask, do.values, many.weights)
        first = before if each == 1 else before.repeat_interleave(each)
        plans = Plans(
            status,
            kept,
            torch.where(kept, do.values, many.x),
            torch.where(works[:, None], reached, many.x),
            torch.where(works, price, torch.nan),
            first,
            torch.where(works, probability, first),
            torch.where(works, validity.to(probability.dtype), torch.nan),
            proposal.n_evaluations.repeat_interleave(each),
        )
        if each == 1:
            return [plans, *(Plans.no_other(x, before) for _ in range(n_plans - 1))]
        return self._ranked(plans, x, before, each, n_plans)

    def _ranked(
        self, plans: Plans, x: Tensor, before: Tensor, each: int, n_plans: int
    ) -> list[Plans]:
        """The cheapest plans of each person that no cheaper one makes useless."""
        n = len(x)
        cost = plans.cost.nan_to_num(torch.inf).view(n, each)
        order = cost.argsort(dim=1, stable=True)
        cost = cost.gather(1, order)
        row = order + each * torch.arange(n)[:, None]
        mask = plans.mask[row]
        within = ~(mask[:, :, None] & ~mask[:, None]).any(dim=3)
        earlier = torch.ones(each, each, dtype=torch.bool).triu(1)
        works = torch.isfinite(cost)
        is_useless = (within & earlier & works[:, :, None]).any(dim=1)
        rank = torch.where(works & ~is_useless, 0, 1).argsort(dim=1, stable=True)
        row, offered = row.gather(1, rank), (works & ~is_useless).gather(1, rank)
        menus = [plans[row[:, 0]]]
        for place in range(1, n_plans):
            further = Plans.no_other(x, before)
            if place < each:
                has_it = offered[:, place]
                further.put(has_it, plans[row[has_it, place]])
            menus.append(further)
        return menus

    def _verdict(self, people: People, proposal: Proposal, before: Tensor) -> Tensor:
        """Status of people for whom nothing is proposed."""
        verdict = proposal.verdict
        if verdict is None:
            verdict = torch.full((len(before),), Status.NO_ACTION.code)
        # Nothing can be moved: no solver is needed for the proof.
        is_stuck = ~people.limits.can_move.any(dim=1)
        return torch.where(is_stuck, Status.INFEASIBLE.code, verdict)

    def _judge(
        self, people: People, proposal: Proposal, passed: Tensor, reached: Tensor, p: Tensor
    ) -> Tensor:
        """Status of each proposal; later lines overrule earlier ones."""
        do = proposal.intervention
        permitted = self.limits.permits(people.x, do, people.limits)
        permitted &= self.limits.can_exist(reached)
        is_finite = torch.isfinite(p) & torch.isfinite(reached).all(dim=1)
        status = passed.clone()
        status[p < self.classifier.threshold] = Status.STILL_REJECTED.code
        status[~permitted] = Status.OUTSIDE_LIMITS.code
        status[~is_finite] = Status.UNDEFINED.code
        return status

    def _check_wishes(self, x: Tensor, limits: Limits | None, weights: Tensor | None) -> None:
        owner = type(self).__name__
        expected = tuple(x.shape)
        given = {} if weights is None else {"weights": weights}
        if limits is not None:
            names = ("lower", "upper", "may_act")
            given |= {f"limits.{name}": getattr(limits, name) for name in names}
        for name, tensor in given.items():
            if tuple(tensor.shape) != expected:
                rule = f"have the shape of x, {expected}"
                raise ConstraintError.of(owner, name, rule, tuple(tensor.shape))
        if limits is not None:
            _refuse(
                owner,
                "limits",
                "hold the person's own value",
                x,
                ~((limits.lower <= x) & (x <= limits.upper)),
            )
            most = limits.max_actions
            if most is not None and (most.shape != x.shape[:1] or bool((most < 1).any())):
                rule = f"be at least 1, one for each of the {len(x)} people"
                raise ConstraintError.of(owner, "limits.max_actions", rule, most.tolist()[:5])
        if weights is not None:
            _refuse(
                owner,
                "weights",
                "be finite and above 0",
                weights,
                ~(torch.isfinite(weights) & (weights > 0)),
            )


def _refuse(owner: str, name: str, rule: str, values: Tensor, wrong: Tensor) -> None:
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        rule = f"{rule}; row {row}, column {column} has value"
        raise ConstraintError.of(owner, name, rule, values[row, column].item())
