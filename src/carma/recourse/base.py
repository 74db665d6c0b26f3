"""The contract of a solver, and the check that every plan passes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import Limits, PlanLimits
from carma.costs import Cost, SquaredCost
from carma.errors import ClassifierError, ConstraintError, NotFittedError, SchemaError, TableError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.personal import personal_limits
from carma.progress import track
from carma.recourse.candidates import lowest
from carma.recourse.care import Care
from carma.recourse.doubt import Uncertainty
from carma.recourse.menus import falls_short, menus_of
from carma.recourse.plans import Plans
from carma.recourse.proposal import Proposal
from carma.recourse.result import RecourseResult
from carma.recourse.rivals import Rivals
from carma.recourse.status import Status
from carma.recourse.switches import Switches
from carma.recourse.target import People, Target
from carma.state import State, one_thread
from carma.table import to_pandas
from carma.training import check_at_least

__all__ = ["NEARLY", "Solver", "in_order", "lacking"]


class Solver(ABC):
    """Finds plans: which features to set, and to what.

    A subclass implements ``_propose``, ``_fit``, ``state`` and ``restore``; the checks are
    here, once, for all.

    Args:
        causal_model: Fitted; tells what follows from an action.
        classifier: Decides.
        cost: What plans cost; by default on the scale of the causal model's training table.

    Attributes:
        needs_slope: Whether it learns through the gradient of the classifier.

    Raises:
        ClassifierError: The classifier has no slopes, and the solver needs them.
        SchemaError: The parts describe different problems, or no feature is actionable.
        NotFittedError: The causal model has seen no table.
    """

    kind: ClassVar[str]
    found: ClassVar[Status]
    at_once: ClassVar[int] = 4096
    # Combinations of moves between levels that are followed up for each person; None is all.
    most_worlds: ClassVar[int | None] = None
    needs_slope: ClassVar[bool] = False

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
        if self.needs_slope and not classifier.has_slope:
            rule = "have slopes, from which this solver learns; without: Carma or ExactSolver"
            raise ClassifierError.of(owner, "classifier", rule, type(classifier).__name__)
        if not hasattr(causal_model, "statistics_"):
            raise NotFittedError.of(type(causal_model).__name__, owner)
        if not self.schema.actionable:
            raise SchemaError.of(owner, "schema", "have an actionable feature", self.schema.names)
        self.causal_model = causal_model
        self.classifier = classifier
        self.encoding = causal_model.encoding
        self.cost: Cost = cost or SquaredCost(self.encoding, causal_model.statistics_)
        self.limits = PlanLimits(self.encoding, causal_model.statistics_)
        self._switches = Switches(self.limits, self._follow)
        self._unknown = causal_model.unknown_levels.nonzero().squeeze(1)
        self._bare_target = Target(self._follow, classifier, self.limits, 0.0)

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
        x = self._whole(x)
        self.classifier.check_on(x)
        with torch.no_grad():
            is_rejected = self.classifier.rejects(x)
        if int(is_rejected.sum()) < 2:
            rule = f"hold at least two rejected people ({self.classifier.decision.say()})"
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
        own, missing = self._filled(x), x.isnan()
        limits = weights = None
        if constraints is not None:
            index = to_pandas(people).index
            personal = personal_limits(self.encoding, own, index, constraints, self.limits)
            limits, weights = personal.limits, personal.weights
        start = time.perf_counter()
        gaps = self.encoding.passed(x)
        menus = self._menus(own, gaps, limits, weights, n_plans, progress)
        seconds = time.perf_counter() - start
        decision = self.classifier.decision
        return RecourseResult.of(self.encoding, people, own, menus, decision, seconds, missing)

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
        own, gaps = self._filled(x), self.encoding.passed(x)
        return self._menus(own, gaps, limits, weights, n_plans, progress)

    def _menus(
        self,
        x: Tensor,
        gaps: Tensor,
        limits: Limits | None,
        weights: Tensor | None,
        n_plans: int,
        progress: bool | None,
    ) -> tuple[Plans, ...]:
        check_at_least(type(self).__name__, "n_plans", n_plans, 1)
        self._check_wishes(x, limits, weights)
        with torch.inference_mode():
            parts = []
            starts = range(0, max(1, len(x)), self.at_once)
            show = False if len(starts) == 1 else progress
            for start in track(starts, self.kind, total=len(starts), show=show):
                rows = slice(start, start + self.at_once)
                box = self._around(x[rows])
                if len(self._switches) and self._most_actions is not None:
                    # Moves between levels are actions, too.
                    most = torch.full((len(x[rows]),), self._most_actions)
                    box = replace(box, max_actions=most)
                if limits is not None:
                    box = box.narrowed(limits[rows])
                factors = None if weights is None else weights[rows]
                missing = gaps[rows] if bool(gaps.any()) else None
                nobody = torch.zeros(len(box.lower), 0, dtype=x.dtype)
                people = People(x[rows], nobody, box, factors, gaps=missing)
                parts.append(self._solve_chunk(people, n_plans))
            return tuple(Plans.joined(list(ranks)) for ranks in zip(*parts, strict=True))

    @property
    def validity(self) -> float | None:
        """Probability with which plans shall hold; ``None``: none is asked for."""
        return None

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

    @property
    def _own_status(self) -> Status:
        """Of plans that are told without one."""
        return self.found

    @property
    def _most_actions(self) -> int | None:
        """Features at most that any plan acts on; ``None`` is no limit."""
        return None

    def _around(self, x: Tensor) -> Limits:
        """The box in which plans are sought and accepted."""
        return self.limits.around(x)

    def _follow(self, x: Tensor, intervention: Intervention, u: Tensor) -> Tensor:
        """What the solver believes to follow from an intervention."""
        return self.causal_model.counterfactual(x, intervention, u)

    def _filled(self, x: Tensor) -> Tensor:
        """Rows with a guess for what is missing where the schema allows that."""
        return self.causal_model.impute(x) if self._has_gaps else x

    def _whole(self, x: Tensor) -> Tensor:
        """People from whom to learn: whom nothing is missing, if most are like that."""
        is_whole = ~x.isnan().any(dim=1)
        if self._has_gaps and 2 * int(is_whole.sum()) >= len(x):
            return x[is_whole]
        return self._filled(x)

    @property
    def _has_gaps(self) -> bool:
        return any(feature.missing != "refuse" for feature in self.schema.features)

    def _seen(self, people: People, reached: Tensor, mask: Tensor) -> Tensor:
        """What the classifier sees of rows in which some columns are set."""
        if not self.classifier.takes_gaps:
            return reached
        return people.seen(reached, mask, self.encoding)

    def _solve_chunk(self, people: People, n_plans: int) -> list[Plans]:
        x = people.x
        before = self.classifier.probability(
            self._seen(people, x, torch.zeros_like(x, dtype=torch.bool))
        )
        is_open = ~self.classifier.decision.accepts(before)
        is_unknown = is_open & (x[:, self._unknown] > 0).any(dim=1)
        is_open &= ~is_unknown
        if len(x) and bool(is_open.all()):
            return self._answer(people, before, n_plans)
        best = Plans.nothing_to_do(x, before)
        nobody_alike = Plans.without(x[is_unknown], before[is_unknown], Status.UNKNOWN_LEVEL)
        best.put(is_unknown, nobody_alike)
        menus = [best, *(Plans.without(x, before, Status.NO_OTHER) for _ in range(n_plans - 1))]
        if bool(is_open.any()):
            answers = self._answer(people[is_open], before[is_open], n_plans)
            for plans, part in zip(menus, answers, strict=True):
                plans.put(is_open, part)
        return menus

    def _answer(self, people: People, before: Tensor, n_plans: int) -> list[Plans]:
        """Propose, check, and keep what passes, for rejected rows."""
        x = people.x
        people = replace(people, u=self.causal_model.abduct(x))
        n = len(people)
        plans, owner = self._plans(people, before, n_plans)
        if len(owner) == n:
            return [plans, *(Plans.without(x, before, Status.NO_OTHER) for _ in range(n_plans - 1))]
        effort = torch.zeros(n, dtype=torch.long).index_add(0, owner, plans.n_evaluations)
        plans.n_evaluations.copy_(effort[owner])
        return menus_of(plans, owner, x, before, n_plans, self.encoding.actions, self.validity)

    def _plans(self, people: People, before: Tensor, n_plans: int) -> tuple[Plans, Tensor]:
        """At least one plan of each person, or why there is none; whose each plan is, rising."""
        plans, owner = self._found(people, before, n_plans)
        plans, owner = self._insisted(people, before, plans, owner, n_plans)
        lost = lacking(torch.isfinite(plans.cost), owner, len(people))
        if len(lost):
            plans, owner = self._searched(people, before, plans, owner, lost, n_plans)
        return plans, owner

    def _found(self, people: People, before: Tensor, n_plans: int) -> tuple[Plans, Tensor]:
        """Plans without and with moves between levels; whose each plan is."""
        plans = self._answered(people, self._proposed(people, n_plans), before)
        n = len(people)
        owner = torch.arange(n).repeat_interleave(len(plans.cost) // max(1, n))
        if len(self._switches):
            plans, owner = self._with_moves(people, before, plans, owner, n_plans)
        return plans, owner

    def _proposed(self, people: People, n_plans: int) -> Proposal:
        if len(self.encoding.actionable):
            return self._propose(people, n_plans)
        nothing = torch.zeros(len(people), dtype=torch.long)
        verdict = torch.full_like(nothing, Status.INFEASIBLE.code)
        return Proposal(Intervention.none(people.x), nothing, verdict)

    def _proposed_among(
        self,
        people: People,
        n_plans: int,
        rivals: Rivals,  # noqa: ARG002
        *,
        care: Care,  # noqa: ARG002
    ) -> Proposal:
        """Propose for people after moves, where only the cheapest of each person's plans counts."""
        return self._proposed(people, n_plans)

    def _outlook(self, people: People) -> tuple[Tensor, Tensor]:
        """Log-odds past the decision where people stand, and the most of a few looks, ``(n,)``."""
        surplus = self._surplus(people)
        return surplus, torch.full_like(surplus, torch.inf)

    def _surplus(self, people: People) -> Tensor:
        """Log-odds past the decision where people stand, shape ``(n,)``."""
        nothing = torch.zeros_like(people.limits.may_act)
        return self._bare_target.surplus(people, nothing, people.x)

    def _with_moves(
        self, people: People, before: Tensor, plans: Plans, owner: Tensor, n_plans: int
    ) -> tuple[Plans, Tensor]:
        """Add plans that start with moves between levels; whose each plan is."""
        cost = plans.cost.nan_to_num(torch.inf)
        if self.validity is not None:
            # A surer plan may cost more.
            is_short = falls_short(plans, self.validity)
            cost = torch.where(is_short, torch.inf, cost)
        least = cost.view(len(people), -1).amin(dim=1)
        worlds, whose = self._switches.worlds(people, self._switches.open_to(people))
        given = worlds.given
        assert given is not None  # noqa: S101
        price = self.cost.of(worlds.x, given, worlds.weights)
        # Moves alone that cost more than a whole plan are of no use.
        is_useful = torch.ones_like(price, dtype=torch.bool)
        if n_plans == 1:
            is_useful = price < least[whose]
        keep = is_useful.nonzero().squeeze(1)
        worlds, whose, price = worlds[keep], whose[keep], price[keep]
        surplus, lacks = self._surplus(worlds), self._surplus(people)
        keep = self._promising(whose, price, surplus, least, -lacks)
        rivals = Rivals(whose[keep], price[keep], least)
        found = self._followed(worlds[keep], surplus[keep], rivals, before, n_plans)
        return in_order([(plans, owner), *found])

    def _followed(
        self,
        worlds: People,
        surplus: Tensor,
        rivals: Rivals,
        before: Tensor,
        n_plans: int,
        *,
        care: Care = Care.USUAL,
    ) -> list[tuple[Plans, Tensor]]:
        """Plans after some moves, those that the moves are alone first; whose each plan is."""
        whose = rivals.owner
        is_sure, uncertainty = self._standing(worlds, surplus)
        is_allowed = worlds.limits.keeps_rules(torch.zeros_like(worlds.x, dtype=torch.bool))
        found = []
        # A search keeps its margin; what falls short of sure is ranked, or taken as it comes.
        is_enough = surplus >= 0
        if self.found is Status.SEARCHED:
            is_enough, _ = Solver._standing(self, worlds, surplus)
        if worlds.given is not None:
            is_enough = is_enough & worlds.given.mask.any(dim=1)
        alone = (is_allowed & is_enough).nonzero().squeeze(1)
        if len(alone):
            some, tried = worlds[alone], torch.ones_like(alone)
            doubt = None if uncertainty is None else uncertainty[alone]
            proposal = Proposal(Intervention.none(some.x), tried, uncertainty=doubt)
            plans = self._answered(some, proposal, before[whose[alone]], is_alone=True)
            found.append((plans, whose[alone]))
        rest = (~(is_allowed & is_sure)).nonzero().squeeze(1)
        if len(rest):
            some = worlds[rest]
            proposal = self._proposed_among(some, n_plans, rivals[rest], care=care)
            plans = self._answered(some, proposal, before[whose[rest]])
            found.append((plans, whose[rest].repeat_interleave(len(plans.cost) // len(rest))))
        return found

    def _insisted(
        self,
        people: People,  # noqa: ARG002
        before: Tensor,  # noqa: ARG002
        plans: Plans,
        owner: Tensor,
        n_plans: int,  # noqa: ARG002
    ) -> tuple[Plans, Tensor]:
        """Add plans, with more effort, for people who have none that is sure; here none."""
        return plans, owner

    def _searched(
        self,
        people: People,
        before: Tensor,
        plans: Plans,
        owner: Tensor,
        lost: Tensor,
        n_plans: int,
    ) -> tuple[Plans, Tensor]:
        """Add plans for people without one, by the search, after all moves or the best ones."""
        some, whose = self._everywhere(people, lost)
        if len(self._switches) and self.most_worlds is not None:
            # A search takes as long as all else, and without slopes longer: only where there is
            # something to be found.
            surplus, reach = self._outlook(some)
            least = NEARLY * surplus if self.classifier.has_slope else torch.zeros_like(surplus)
            best = lowest(-reach, whose, len(people), self.most_worlds)
            is_there, is_near = reach[best] >= 0, reach[best] >= least[best]
            # Where looks only come near, the nearest place must do.
            first = lowest(-reach, whose, len(people), 1)
            rows = best[is_there | (is_near & torch.isin(best, first))]
            some, whose = some[rows], whose[rows]
        found = []
        proposal = self._rescue(some, n_plans) if len(some) else None
        if proposal is not None:
            further = self._answered(some, proposal, before[whose])
            found.append((further, whose.repeat_interleave(len(further.cost) // len(whose))))
        # What was searched for comes first: it may have a proof that there is nothing.
        every, owner = in_order([*found, (plans, owner)])
        if len(self._switches):
            has_moves = self._switches.open_to(people).any(dim=1)
            # No proof without moves is one with them.
            is_proof = every.status == Status.INFEASIBLE.code
            every.status[is_proof & has_moves[owner]] = Status.NOT_FOUND.code
        return every, owner

    def _everywhere(self, people: People, rows: Tensor) -> tuple[People, Tensor]:
        """Some people as they are and after all moves open to them; and who each one is."""
        some = people[rows]
        if not len(self._switches):
            return some, rows
        every, owner = self._switches.places(some, self._places(some))
        return every, rows[owner]

    def _places(self, people: People) -> Tensor:
        """Whence plans may start: home and after moves open to each, ``(n, 1 + m)``, bool."""
        home = torch.ones(len(people), 1, dtype=torch.bool)
        return torch.cat([home, self._switches.open_to(people)], dim=1)

    def _rescue(self, people: People, n_plans: int) -> Proposal | None:  # noqa: ARG002
        """Search for people for whom nothing was proposed that works; ``None``: do not."""
        return None

    def _promising(
        self, whose: Tensor, price: Tensor, surplus: Tensor, least: Tensor, lacks: Tensor
    ) -> Tensor:
        """Which worlds to follow up, by position: all, or the few that look cheapest."""
        if self.most_worlds is None:
            return torch.arange(len(whose))
        # What is left to do is taken to cost as much as it did without the moves, or usually does.
        degree = self.cost.degree
        usual = self._usual_rate * lacks.clamp(min=0).pow(degree)
        known = torch.where(torch.isfinite(least), least, usual)
        share = ((-surplus).clamp(min=0) / lacks[whose].clamp(min=TINY)).clamp(max=FAR)
        total = price + known[whose] * share.pow(degree)
        total = torch.where(total < HOPE * least[whose], total, torch.inf)
        chosen = lowest(total, whose, len(least), self.most_worlds)
        return chosen[torch.isfinite(total[chosen])]

    @property
    def _usual_rate(self) -> float:
        """What plans usually cost, for every log-odds that people lack, to the cost's degree."""
        return 1.0

    def _standing(
        self,
        people: People,
        surplus: Tensor,
    ) -> tuple[Tensor, Uncertainty | None]:
        """Who needs to set nothing any more, and how sure that is.

        Args:
            people: After moves between levels.
            surplus: Their log-odds past the decision.
        """
        if not self.margin:
            return surplus >= 0, None
        aim = Target(self._follow, self.classifier, self.limits, self.margin)
        nothing = torch.zeros_like(people.x, dtype=torch.bool)
        return aim.surplus(people, nothing, people.x) >= 0, None

    def _answered(
        self, people: People, proposal: Proposal, before: Tensor, *, is_alone: bool = False
    ) -> Plans:
        """What passes of a proposal, and why the rest does not; those of one person together.

        With ``is_alone``, moves between levels are the whole plan; otherwise a proposal that sets
        nothing on top of them stands for "found none".
        """
        do = proposal.intervention
        each = len(do.mask) // max(1, len(people))
        many = people if each == 1 else people.repeated(each)
        is_empty = ~(do.mask & many.limits.can_move).any(dim=1)
        if is_alone:
            is_empty = torch.zeros_like(is_empty)
        # In decimals, unless that is what makes a plan fail.
        told = self.limits.said(many.x, do.values, many.limits)
        said = many.do(do.mask, told)
        reached = self._follow(many.x, said, many.u)
        seen = self._seen(many, reached, said.mask)
        logit = self.classifier.logit(seen)
        stands = self.classifier.decision.accepts(torch.sigmoid(logit))
        fails = (~stands & ~is_empty).nonzero().squeeze(1)
        if len(fails):
            some = many[fails]
            exact = some.do(do.mask[fails], do.values[fails])
            told[fails], said.values[fails] = do.values[fails], exact.values
            reached[fails] = self._follow(some.x, exact, some.u)
            seen[fails] = self._seen(some, reached[fails], exact.mask)
            logit[fails] = self.classifier.logit(seen[fails])
        acts = Intervention(do.mask, told)
        if many.given is not None:
            values = torch.where(many.given.mask, many.given.values, told)
            acts = Intervention(do.mask | many.given.mask, values)
        do = said
        probability = torch.sigmoid(logit)
        verdict = self._verdict(people, proposal, before)
        passed = proposal.status
        if passed is None:
            passed = torch.full((len(do.mask),), self._own_status.code)
        validity = torch.full_like(probability, torch.nan)
        if proposal.uncertainty is not None:
            validity = proposal.uncertainty.validity(self.classifier.decision.ahead(logit))
        if self.validity is not None and many.given is not None:
            # After moves, people may stand past the threshold by less than what is in doubt.
            is_empty |= many.given.mask.any(dim=1) & (validity < EVEN)
        status = self._judge(many, acts, passed, reached, probability)
        # Setting what cannot be moved is no plan.
        status = torch.where(is_empty, verdict.repeat_interleave(each), status)
        status[~torch.isfinite(before).repeat_interleave(each)] = Status.UNDEFINED.code
        works = (status == passed) & ~is_empty
        kept = do.mask & works[:, None]
        price = self.cost(many.x, do.mask, do.values, many.weights)
        first = before if each == 1 else before.repeat_interleave(each)
        # Told once for all plans of a person, who may have plans from several proposals.
        tried = torch.zeros_like(status)
        tried[::each] = proposal.n_evaluations
        return Plans(
            status,
            kept,
            torch.where(kept, do.values, many.x),
            torch.where(works[:, None], seen, many.x),
            torch.where(works, price, torch.nan),
            first,
            torch.where(works, probability, first),
            torch.where(works, validity.to(probability.dtype), torch.nan),
            tried,
        )

    def _verdict(self, people: People, proposal: Proposal, before: Tensor) -> Tensor:
        """Status of people for whom nothing is proposed."""
        verdict = proposal.verdict
        if verdict is None:
            verdict = torch.full((len(before),), Status.NO_ACTION.code)
        # Nothing can be moved: no solver is needed for the proof.
        is_stuck = ~people.limits.can_move.any(dim=1)
        return torch.where(is_stuck, Status.INFEASIBLE.code, verdict)

    def _judge(
        self, people: People, acts: Intervention, passed: Tensor, reached: Tensor, p: Tensor
    ) -> Tensor:
        """Status of each proposal; later lines overrule earlier ones."""
        permitted = self.limits.permits(people.x, acts, people.limits)
        permitted &= self.limits.can_exist(people.x, reached)
        is_finite = torch.isfinite(p) & torch.isfinite(reached).all(dim=1)
        status = passed.clone()
        status[self.classifier.decision.rejects(p)] = Status.STILL_REJECTED.code
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


def in_order(parts: list[tuple[Plans, Tensor]]) -> tuple[Plans, Tensor]:
    """All plans, those of one person next to each other; and whose each is."""
    plans, owner = Plans.joined([p for p, _ in parts]), torch.cat([o for _, o in parts])
    order = owner.argsort(stable=True)
    return plans[order], owner[order]


def lacking(is_good: Tensor, owner: Tensor, n: int) -> Tensor:
    """Which of ``n`` people have no good plan, by position."""
    is_lost = torch.ones(n, dtype=torch.bool)
    is_lost[owner[is_good]] = False
    return is_lost.nonzero().squeeze(1)


# How much further from acceptance than before moves may lead; worlds that look this much dearer
# than the best plan are given up.
FAR, HOPE = 1e6, 1.3
TINY = 1e-6
# Moves that more likely fail than hold are no plan.
EVEN = 0.5
# Share of what is lacking that looks may leave.
NEARLY = 0.15
