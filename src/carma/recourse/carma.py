"""CARMA: the cheapest plan of each person, learned once, refined and checked per person."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.costs import Cost
from carma.errors import NotFittedError, SchemaError, TrainingError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.progress import track
from carma.recourse.apprenticeship import Apprenticeship
from carma.recourse.base import EVEN, NEARLY, Solver, in_order, lacking
from carma.recourse.candidates import lowest
from carma.recourse.care import Care
from carma.recourse.carma_settings import CarmaSettings
from carma.recourse.climb import Climb
from carma.recourse.compass import Compass
from carma.recourse.doubt import Doubt, Uncertainty, quantile
from carma.recourse.exact import ExactSolver
from carma.recourse.findings import Findings
from carma.recourse.forecast import Forecast, ForecastTarget
from carma.recourse.foreseen import Foreseen
from carma.recourse.foresight import Foresight
from carma.recourse.grounding import Grounding
from carma.recourse.journeys import Journeys
from carma.recourse.lessons import MOST_SETS, Lessons, Teacher, wishful
from carma.recourse.memory import Memory
from carma.recourse.menus import falls_short
from carma.recourse.neighbours import Neighbours
from carma.recourse.pattern import PatternSearch
from carma.recourse.plans import Plans
from carma.recourse.policy import Drafts, Policy
from carma.recourse.precedents import Precedents
from carma.recourse.proposal import Proposal
from carma.recourse.recall import Recall
from carma.recourse.refined import UNSURE, Refined
from carma.recourse.refinement import Refinement
from carma.recourse.retrieval import Retrieval
from carma.recourse.rivals import Rivals
from carma.recourse.starts import spread_evenly
from carma.recourse.status import Status
from carma.recourse.subsets import n_subsets
from carma.recourse.surrogate import Surrogate
from carma.recourse.target import People, Target
from carma.state import State, prefixed, seeded, unprefixed
from carma.training import History

__all__ = ["Carma"]


class Carma(Solver):
    """Amortized recourse: networks propose, a few steps refine, checks decide.

    ``fit`` finds the best plans of many sets of features for some rejected people, as they are
    and with random wishes, and teaches them to a mask network (which sets are worth trying), an
    action network (the best plan of a set) and a margin network (how far past the threshold that
    goes). For a new person, the likeliest sets that they may act on get a plan each from one
    forward pass; a few sequential quadratic steps (``Descent``) take all of them to their optimum
    in one batch, together with a walk from where the person stands, and the cheapest wins. How far
    past the threshold a plan goes, depends on how well the data determine what it brings: its
    log-odds under other causal models that fit as well must be that of an accepted person with
    probability ``validity`` (``Doubt``). Where effects are discrete or the classifier has no
    slopes, walks end at poor plans, and following a plan is dear. There, sure plans of training
    people are kept, and a network learns from many plans what they bring; a new person's plan is
    found on that forecast, from plans that suit (``Retrieval``), and without slopes from those of
    people who are alike as well, and checked (``Foresight``). In the way told above, plans are
    sought only for those for whom that finds no sure one and who have hope of one, as searches for
    training people have shown. People for whom all this finds nothing get the plan of one forward
    pass, or are searched for by ``ExactSolver``, under the same condition. Every plan is checked as
    it will be told: rounded to steps and levels.

    Args:
        causal_model: Fitted.
        classifier: Decides. Where it has no slopes, the networks learn from a surrogate of it
            (``Surrogate``), and plans are finished on the classifier itself (``Grounding``).
        cost: See ``Solver``.
        settings: See ``CarmaSettings``.

    Attributes:
        history_: Loss and held-out score of every epoch of learning from plans.
        rehearsal_: Of every epoch of rehearsal: loss, held-out score (mean cost of single
            forward passes, failures as many plans), share of held-out people with a plan.
        surrogate_: Of a classifier without slopes, after ``fit``, with its ``fidelity``; else
            ``None``.

    References:
        Majumdar & Valera 2024, CARMA, FAccT, doi 10.1145/3630106.3659003, for amortized recourse
        by a mask and an action network; ``PublishedCarma`` is that method. Amos 2023, Tutorial on
        amortized optimization, arXiv 2202.00665, for learning from solutions.

    Example:
        >>> from carma import CarmaSettings, ClassifierSettings, TrainingSettings, fit_classifier
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=400), TrainingSettings(epochs=5)
        >>> rows = data.frame("classifier")
        >>> classifier = fit_classifier(data.schema, rows, ClassifierSettings((), quick))
        >>> settings = CarmaSettings(lessons=50, training=quick)
        >>> solver = Carma(data.scm, classifier, settings=settings)
        >>> result = solver.fit(data.frame("recourse")).recommend(data.frame("recourse", "test"))
        >>> set(result.counts()) <= {"already_accepted", "refined", "searched"}
        True
    """

    kind: ClassVar[str] = "carma"
    at_once: ClassVar[int] = 16384
    most_worlds: ClassVar[int] = 4
    found: ClassVar[Status] = Status.REFINED
    history_: History
    rehearsal_: History
    surrogate_: Surrogate | None

    def __init__(
        self,
        causal_model: CausalModel,
        classifier: Classifier,
        *,
        cost: Cost | None = None,
        settings: CarmaSettings | None = None,
    ) -> None:
        super().__init__(causal_model, classifier, cost=cost)
        self.settings = settings or CarmaSettings()
        self._columns = self.encoding.actionable
        if not len(self._columns):
            rule = "have an actionable feature that is set to a number; ExactSolver needs none"
            raise SchemaError.of("Carma", "schema", rule, self.schema.actionable)
        self._sureness = Doubt(causal_model, classifier)
        self._spreads = quantile(self.settings.validity, self._sureness.n_alternatives)
        self._last_resort = ExactSolver(causal_model, classifier, cost=self.cost)
        self.surrogate_ = None
        self._compass: Compass | None = None
        self._memory: Memory | None = None
        if classifier.has_slope:
            self._take_guide(classifier)

    def _take_guide(self, guide: Classifier) -> None:
        """Make all parts that need slopes: those of the classifier, or of its surrogate."""
        classifier, model = self.classifier, self.causal_model
        self._guide = guide
        self._target = Target(self._follow, guide, self.limits, 0.0)
        doubt = Doubt(model, guide)
        spreads = quantile(self.settings.validity, doubt.n_alternatives)
        shares = spread_evenly(STARTS, self._columns, self.encoding.n_columns)
        self._spread = shares[:LOOKS]
        parts = (self.cost, self.limits)
        margin = (doubt, spreads)
        world = (self._follow, self._target, self.cost)
        neighbours = None
        # Where draws stand for what is in doubt, similar sets are not worth their time.
        if n_subsets(len(self._columns)) > MOST_SETS and model.is_point_identified:
            neighbours = Neighbours(*world, self._columns, self.encoding.n_columns)
        steps, keep = self.settings.refine_steps, self.settings.candidates
        self._teacher = Teacher(*world, *margin, self._columns, shares)
        self._refinement: Refinement | Grounding
        std = model.statistics_.std
        scale = torch.where(std > 0, std, 1.0)
        if guide is classifier:
            patterns = PatternSearch(self._target, *parts, shares, keep, TRIALS, NEAR_REACH)
            self._refinement = Refinement(
                self._target, *parts, *margin, steps, patterns, neighbours, scale, keep
            )
            return
        trials, polish = (
            PatternSearch(self._bare_target, *parts, shares, keep, rounds, BLIND_REACH)
            for rounds in (BLIND_TRIALS, BLIND_POLISH)
        )
        real = (Doubt(model, classifier), spreads)
        self._refinement = Grounding(
            self._target,
            self._bare_target,
            *parts,
            *real,
            steps,
            trials,
            polish,
            neighbours,
            scale,
            keep,
        )

    @property
    def is_fitted(self) -> bool:
        """True after ``fit``."""
        return hasattr(self, "_policy")

    @property
    def margin(self) -> None:
        """It differs from person to person."""
        return

    @property
    def validity(self) -> float:
        """See ``CarmaSettings``."""
        return self.settings.validity

    def using(
        self,
        *,
        candidates: int | None = None,
        refine_steps: int | None = None,
        fallback: bool | None = None,
    ) -> Self:
        """The same trained networks, used with more or less effort; see ``CarmaSettings``.

        Args:
            candidates: As now by default.
            refine_steps: As now by default.
            fallback: As now by default.

        Raises:
            NotFittedError: ``fit`` was not called.
        """
        if not self.is_fitted:
            raise NotFittedError.of("Carma", "using")
        asked = {"candidates": candidates, "refine_steps": refine_steps, "fallback": fallback}
        changes = {name: value for name, value in asked.items() if value is not None}
        state = self.state()
        state.config["settings"] |= changes
        return type(self).restore(self.causal_model, self.classifier, self.cost, state)

    def _fit(self, x: Tensor, progress: bool | None) -> None:
        settings = self.settings
        draws = seeded(settings.training.seed)
        rows = torch.randperm(len(x), generator=draws)[: settings.lessons]
        x = rejected = x[rows]
        if not self.classifier.has_slope:
            x = self._guided(x, progress)
        lessons = self._lessons(x, draws, progress)
        taught = torch.isfinite(lessons.cost).any(dim=1)
        if int(taught.sum()) < 2:
            raise TrainingError(
                "carma: fewer than two of the rejected people can reach the threshold within "
                "their limits; look at bounds, directions and roles"
            )
        lessons = lessons[taught.nonzero().squeeze(1)]
        policy = self._new_policy(lessons.people.u)
        parts = (policy, self._columns, self.cost, self._target)
        school = Apprenticeship(*parts, compiles=settings.compile)
        schedule = (settings.training, settings.rehearsal)
        self.history_, self.rehearsal_ = school.teach(lessons, *schedule, progress)
        self._policy, self._compass = policy.eval().requires_grad_(False), None
        self._memory = None
        if self._has_compass:
            compass, journeys = self._new_compass(), self._journeys(x, draws, progress)
            if len(journeys) > 1:
                compass.learn(journeys, settings.training, progress)
            self._compass = compass.eval().requires_grad_(False)
        if self._has_precedents:
            self._remember(rejected, draws, progress)

    @property
    def _has_precedents(self) -> bool:
        """Whether to learn from plans of others: where slopes mislead, or do not tell all."""
        is_plain = self.classifier.has_slope and self.causal_model.is_point_identified
        return self.settings.precedents > 0 and not is_plain

    def _remember(self, x: Tensor, draws: torch.Generator, progress: bool | None) -> None:
        """Keep sure plans of some people: found without those of others, then with these."""
        count = max(2, min(self.settings.precedents, self.settings.lessons // 2))
        everybody = (1 + OTHERS) * count
        if len(x) < everybody:
            drawn = self.causal_model.sample(TIMES * everybody, seed=self.settings.training.seed)
            with torch.no_grad():
                x = torch.cat([x, drawn[self.classifier.rejects(drawn)]])
        with torch.no_grad():
            askers = self._askers(x[:count], count, draws)
            rest = x[count:everybody]
            others = self._askers(rest, len(rest), draws) if len(rest) else []
            known, found = self._known(askers, progress)
        if not len(known):
            return
        people = People.joined(askers)
        memory = self._new_memory(known, people.u)
        schedule = self.settings.training
        memory.learn(people, found, others, draws, schedule, progress)
        with torch.no_grad():
            self._memory = memory
            memory.known = self._known(askers, progress)[0]

    def _has_wishes(self, people: People) -> Tensor:
        """Who has a smaller box than others in their place, or weights of their own, ``(n,)``."""
        box, usual = people.limits, self._around(people.x)
        differs = (box.lower != usual.lower) | (box.upper != usual.upper)
        differs |= box.may_act != usual.may_act
        if people.weights is not None:
            differs |= people.weights != 1
        wants = differs.any(dim=1)
        if box.max_actions is not None:
            wants |= box.max_actions < len(self.schema.actionable)
        return wants

    def _known(self, askers: list[People], progress: bool | None) -> tuple[Precedents, Findings]:
        """Sure plans of some people as they are found by now, and what was found for each."""
        parts = track(askers, "carma: plans of others", total=len(askers), show=progress)
        known, found = zip(*(self._precedent(part) for part in parts), strict=True)
        return Precedents.joined([*known]), Findings.joined([*found])

    def _askers(self, x: Tensor, count: int, draws: torch.Generator) -> list[People]:
        """So many people as they are, and some of them with wishes, a batch at a time."""
        wishful_ones = max(1, round(WISHFUL * count))
        plain, wishing = x[: count - wishful_ones], x[-wishful_ones:]
        askers = []
        for rows, has_wishes in ((plain, False), (wishing, True)):
            for part in torch.split(rows, JOURNEYS):
                people = People(part, self.causal_model.abduct(part), self._around(part))
                if has_wishes:
                    askers.append(wishful(people, self._columns, draws))
                else:
                    askers.append(replace(people, weights=torch.ones_like(part)))
        return askers

    def _precedent(self, people: People) -> tuple[Precedents, Findings]:
        before = self.classifier.probability(people.x)
        plans = self._answer(people, before, 1)[0]
        is_sure = plans.has_plan & ~falls_short(plans, self.validity)
        rows = is_sure.nonzero().squeeze(1)
        some, mask = people[rows], (plans.mask & self.limits.acted_on)[rows]
        values = plans.values[rows]
        is_held = mask & (values == some.x) & ~self.encoding.moved_by_level
        known = Precedents(self._policy.describe(some), mask, values, is_held)
        is_last = plans.status == Status.SEARCHED.code
        return known, Findings(plans.cost.double().nan_to_num(torch.inf), is_sure, is_last)

    @property
    def _has_compass(self) -> bool:
        """Whether to learn where plans start: there the surrogate of a black box misleads."""
        return len(self._switches) > 0 and self.classifier.has_slope

    def _guided(self, x: Tensor, progress: bool | None) -> Tensor:
        """Fit a surrogate; the people whom it rejects as the classifier does."""
        parts = (self.classifier, self.causal_model, self.cost, self.limits)
        seed = self.settings.training.seed
        self.surrogate_ = Surrogate.of(*parts, x, seed=seed, progress=progress)
        self._take_guide(self.surrogate_)
        with torch.no_grad():
            return x[self.surrogate_.rejects(x)]

    def _lessons(self, x: Tensor, draws: torch.Generator, progress: bool | None) -> Lessons:
        at_once = max(1, WALKS // STARTS)
        taught = []
        with torch.no_grad():
            chunks = torch.split(x, at_once)
            for chunk in track(
                chunks, "carma: plans to learn from", total=len(chunks), show=progress
            ):
                people = People(chunk, self.causal_model.abduct(chunk), self._around(chunk))
                plain = replace(people, weights=torch.ones_like(chunk))
                both = People.joined([plain, wishful(people, self._columns, draws)])
                both = self._switches.drawn(both, MOVED, draws)
                nothing = torch.zeros_like(both.x, dtype=torch.bool)
                # Whom moves alone take far enough, there is nothing to learn from.
                both = both[self._target.surplus(both, nothing, both.x) < 0]
                taught.append(self._teacher.lessons(both))
        return Lessons.joined(taught)

    def _journeys(self, x: Tensor, draws: torch.Generator, progress: bool | None) -> Journeys:
        """Plans of some people as they are, and of some with wishes, found without a compass."""
        with torch.no_grad():
            askers = self._askers(x, self.settings.lessons, draws)
            parts = track(askers, "carma: finished plans", total=len(askers), show=progress)
            return Journeys.joined([self._journey(people) for people in parts])

    def _journey(self, people: People) -> Journeys:
        before = self.classifier.probability(people.x)
        plans, owner = self._found(people, before, 1)
        plans, owner = self._insisted(people, before, plans, owner, 1)
        do = Intervention(plans.mask, plans.values)
        place, is_open = self._switches.place_of(do), self._places(people)
        group = owner * is_open.shape[1] + place
        order = group.argsort(stable=True)
        plans, group = plans[order], group[order]
        is_short = falls_short(plans, self.validity)
        rank = torch.where(is_short, UNSURE * (2 - plans.expected_validity), plans.cost)
        rank = rank.nan_to_num(torch.inf)
        best = lowest(rank, group, is_open.numel(), 1)
        best = best[plans.has_plan[best]]
        cost = torch.full((is_open.numel(),), torch.inf, dtype=torch.float64)
        validity, is_sure = torch.zeros_like(cost), torch.zeros_like(cost, dtype=torch.bool)
        cost[group[best]] = plans.cost[best].double()
        validity[group[best]] = plans.expected_validity[best].nan_to_num(1.0).double()
        is_sure[group[best]] = ~is_short[best]
        told = (tensor.view_as(is_open) for tensor in (cost, validity, is_sure))
        journeys = Journeys(people, is_open, *told)
        return journeys[torch.isfinite(journeys.cost).any(dim=1).nonzero().squeeze(1)]

    def _plans(self, people: People, before: Tensor, n_plans: int) -> tuple[Plans, Tensor]:
        """Plans that are foreseen; people without a sure one who have hope are sought for."""
        memory = self._memory
        if memory is None or not self.settings.refine_steps:
            return super()._plans(people, before, n_plans)
        with torch.inference_mode(False), torch.no_grad():
            foreseen = memory.best(people.cloned())
        found = self._told_of(people, foreseen, before, memory.effort)
        is_lost = torch.ones(len(people), dtype=torch.bool)
        for plans, owner in found:
            is_lost[owner[torch.isfinite(plans.cost)]] = False
        # What is told in decimals may fail the checks.
        is_open = is_lost & (foreseen.validity >= EVEN)
        is_all = n_plans > 1 or not memory.is_trusted
        if is_all:
            is_open[:] = True
        # Moves that more likely fail than hold are no plan, but there may be one.
        is_broken = is_lost & torch.isfinite(foreseen.cost)
        is_sought = is_open | is_broken | memory.has_hope(people, foreseen)
        rows = is_sought.nonzero().squeeze(1)
        if len(rows):
            some = people[rows], before[rows]
            care = Care.USUAL if is_all else Care.LITTLE
            plans, owner = self._found(*some, n_plans, care)
            if is_all:
                plans, owner = self._insisted(*some, plans, owner, n_plans)
            found.append((plans, rows[owner]))
            is_lost[rows[owner[torch.isfinite(plans.cost)]]] = False
            for plans, owner in self._returned(people, before, rows[is_lost[rows]], care):
                found.append((plans, owner))
                is_lost[owner[torch.isfinite(plans.cost)]] = False
        is_open |= is_sought & memory.has_last_hope(people, foreseen)
        rows = is_lost.nonzero().squeeze(1)
        if len(rows):
            for plans, owner in self._drafted(people[rows], before[rows]):
                found.append((plans, rows[owner]))
                is_lost[rows[owner[torch.isfinite(plans.cost)]]] = False
        rows = (is_lost & ~is_open).nonzero().squeeze(1)
        if len(rows):
            # It comes first, as it may have a proof.
            found.insert(0, (self._given_up(people[rows], before[rows], memory.effort), rows))
        rows = (is_lost & is_open).nonzero().squeeze(1)
        if not len(rows):
            return in_order(found)
        plans, owner = in_order(found)
        return self._searched(people, before, plans, owner, rows, n_plans)

    def _drafted(self, people: People, before: Tensor) -> list[tuple[Plans, Tensor]]:
        """Plans of one forward pass that work, for people who have none; and whose each is."""
        some, whose = people.cloned(), torch.arange(len(people))
        if self._compass is not None:
            some, whose = self._likely(self._compass, some, LIKELY)
        do = self._one_pass(some).intervention
        rows = (self._bare_target.surplus(some, do.mask, do.values) >= 0).nonzero().squeeze(1)
        if not len(rows):
            return []
        some, whose, do = some[rows], whose[rows], do.each(lambda t: t[rows])
        return [(self._as_it_is(some, do, Status.AMORTIZED, before[whose]), whose)]

    def _as_it_is(self, people: People, do: Intervention, status: Status, before: Tensor) -> Plans:
        """Plans that work, as they are, checked."""
        doubt = self._sureness.of(people, do.mask, do.values)
        effort, verdict, own = (
            torch.full((len(people),), each) for each in (1, Status.NOT_FOUND.code, status.code)
        )
        proposal = Proposal(do, effort, verdict, own, doubt)
        return self._answered(people, proposal, before)

    def _given_up(self, people: People, before: Tensor, effort: int) -> Plans:
        """No plans, for people for whom none is foreseen."""
        some = people.cloned()
        is_proof = self._last_resort.is_hopeless(some)
        if not self.settings.fallback or len(self._switches):
            is_proof &= ~self._places(some)[:, 1:].any(dim=1)
        verdict = torch.where(is_proof, Status.INFEASIBLE.code, Status.NOT_FOUND.code)
        tried = torch.full_like(verdict, effort)
        return self._answered(some, Proposal(Intervention.none(some.x), tried, verdict), before)

    def _told_of(
        self, people: People, foreseen: Foreseen, before: Tensor, effort: int
    ) -> list[tuple[Plans, Tensor]]:
        """Plans that are foreseen, checked; and whose each is."""
        owner = torch.isfinite(foreseen.cost).nonzero().squeeze(1)
        mask, values = foreseen.mask[owner], foreseen.values[owner]
        is_number = torch.zeros_like(mask)
        is_number[:, self._columns] = True
        worlds = people[owner].after(Intervention(mask & ~is_number, values))
        # Numbers that are only held where they are, for they cannot move, are no plan of their own.
        acts, found = (mask & is_number & worlds.limits.can_move).any(dim=1), []
        for is_it, is_alone in ((acts, False), (~acts, True)):
            rows = is_it.nonzero().squeeze(1)
            if len(rows):
                own = Intervention((mask & is_number)[rows], values[rows])
                doubt, tried = foreseen.uncertainty[owner[rows]], torch.full_like(rows, effort)
                proposal = Proposal(own, tried, uncertainty=doubt)
                whose = before[owner[rows]]
                plans = self._answered(worlds[rows], proposal, whose, is_alone=is_alone)
                found.append((plans, owner[rows]))
        return found

    def _found(
        self, people: People, before: Tensor, n_plans: int, care: Care = Care.USUAL
    ) -> tuple[Plans, Tensor]:
        """Plans that start from the places to which the compass points."""
        if self._compass is None:
            return super()._found(people, before, n_plans)
        # Plans of a menu differ in what they start with, too.
        count = LIKELY if n_plans == 1 else LIKELIER * n_plans
        some, whose = self._likely(self._compass, people, count)
        surplus = self._surplus(some)
        return in_order(self._raced(some, whose, surplus, before, n_plans, care=care))

    def _insisted(
        self, people: People, before: Tensor, plans: Plans, owner: Tensor, n_plans: int
    ) -> tuple[Plans, Tensor]:
        """Add plans for people without a sure one, from where there is something to find."""
        is_open = self.limits.has_grid or not self.causal_model.is_point_identified
        if not self.settings.refine_steps or not (is_open or len(self._switches)):
            return plans, owner
        is_sure = plans.has_plan & ~falls_short(plans, self.validity)
        lost = lacking(is_sure, owner, len(people))
        if self._compass is None:
            some, whose = self._everywhere(people, lost)
            surplus, reach = self._outlook(some)
            rows = (reach >= NEARLY * surplus).nonzero().squeeze(1)
            some, whose, surplus = some[rows], whose[rows], surplus[rows]
        else:
            some, whose = self._likely(self._compass, people[lost], LIKELIER)
            whose, surplus = lost[whose], self._surplus(some)
        if len(some):
            found = self._raced(some, whose, surplus, before, n_plans, care=Care.MUCH)
            plans, owner = in_order([(plans, owner), *found])
        lost = lacking(plans.has_plan, owner, len(people))
        return in_order([(plans, owner), *self._returned(people, before, lost, Care.MUCH)])

    def _returned(
        self, people: People, before: Tensor, lost: Tensor, care: Care
    ) -> list[tuple[Plans, Tensor]]:
        """Plans of some people, by position, found on the way back from an accepted place."""
        some, whose = self._everywhere(people, lost)
        _, reach, place = self._looked(some)
        # A plan that more likely fails than holds is none after moves, but is one at home.
        is_moved = torch.zeros_like(reach, dtype=torch.bool)
        if some.given is not None:
            is_moved = some.given.mask.any(dim=1)
        rank = torch.where(is_moved, -reach, -torch.inf)
        rows = lowest(rank, whose, len(people), 1 + CLIMBED)
        if not len(rows):
            return []
        with torch.inference_mode(False), torch.no_grad():
            there, whose = some[rows].cloned(), whose[rows]
            climb = Climb(self._bare_target, self.limits)
            mask, values, surplus = climb.farthest(there, there.limits.widest, place[rows])
            works = (surplus >= 0).nonzero().squeeze(1)
            if not len(works):
                return []
            there, whose = there[works], whose[works]
            do = Intervention(mask[works], values[works])
            drafts = Drafts(do.mask[:, None], do.values[:, None])
            margin = torch.zeros_like(drafts.values[..., 0])
            found = self._refinement.best(there, drafts, margin, 1, care=care)
            proposal = self._told(found, len(there), self._refinement.effort(1, 1))
            better = self._answered(there, proposal, before[whose])
            # Between steps and levels, a plan that hardly works may be lost on the way back.
            as_it_is = self._as_it_is(there, do, Status.REFINED, before[whose])
            return [(better, whose), (as_it_is, whose)]

    def _raced(
        self,
        worlds: People,
        whose: Tensor,
        surplus: Tensor,
        before: Tensor,
        n_plans: int,
        *,
        care: Care = Care.USUAL,
    ) -> list[tuple[Plans, Tensor]]:
        """Plans of people after some moves, of which the cheapest counts; see ``_followed``."""
        price = torch.zeros_like(surplus)
        if worlds.given is not None:
            price = self.cost.of(worlds.x, worlds.given, worlds.weights)
        none_yet = torch.full_like(before, torch.inf).to(price.dtype)
        rivals = Rivals(whose, price, none_yet)
        return self._followed(worlds, surplus, rivals, before, n_plans, care=care)

    def _likely(self, compass: Compass, people: People, count: int) -> tuple[People, Tensor]:
        """People at the places to which the compass points; who each one is."""
        chosen = compass.likely(people, self._places(people), count)
        return self._switches.places(people, chosen)

    def _propose(self, people: People, n_plans: int) -> Proposal:
        return self._refined(people, n_plans, None)

    def _proposed_among(
        self, people: People, n_plans: int, rivals: Rivals, *, care: Care
    ) -> Proposal:
        return self._refined(people, n_plans, rivals, care=care)

    def _outlook(self, people: People) -> tuple[Tensor, Tensor]:
        surplus, reach, _ = self._looked(people)
        return surplus, reach

    def _looked(self, people: People) -> tuple[Tensor, Tensor, Tensor]:
        """See ``_outlook``; and the place of each person that looks best, ``(n, d)``.

        Places are the corner of each person's box to which slopes point, and some others.
        """
        surplus = self._surplus(people)
        box, every = people.limits, people.limits.widest
        with torch.inference_mode(False), torch.no_grad():
            some, mask = people.cloned(), every.clone()
            _, slope = self._target.surplus_and_slope(some, mask, some.stand)
        corner = torch.where(slope > 0, box.upper, torch.where(slope < 0, box.lower, people.x))
        width, reach, place = box.upper - box.lower, surplus, people.x
        points = [corner, (corner + people.x) / 2]
        points += [box.lower + share * width for share in self._spread]
        for values in points:
            values = torch.where(every, self.limits.project(people.x, values, box), people.x)
            seen = self._bare_target.surplus(people, every, values)
            place = torch.where((seen > reach)[:, None], values, place)
            reach = torch.maximum(reach, seen)
        return surplus, reach, place

    def _refined(
        self, people: People, n_plans: int, rivals: Rivals | None, *, care: Care = Care.USUAL
    ) -> Proposal:
        settings = self.settings
        if settings.candidates == 1 and not settings.refine_steps and n_plans == 1:
            return self._one_pass(people)
        with torch.inference_mode(False), torch.no_grad():
            people = people.cloned()
            few = settings.candidates if rivals is None else min(settings.candidates, AMONG)
            count = few if n_plans == 1 else max(few, 3 * n_plans)
            # More plans than there are sets of features cannot be told apart.
            n_plans = min(n_plans, n_subsets(len(self._columns)))
            drafts, margin = self._policy.drafts_and_margins(people, count)
            plans = self._refinement.best(people, drafts, margin, n_plans, rivals, care=care)
            return self._told(plans, len(people), self._refinement.effort(count, n_plans))

    def _told(self, plans: Refined, n: int, effort: int) -> Proposal:
        """Refined plans of ``n`` people, as a proposal."""
        mask = plans.mask & torch.isfinite(plans.cost)[:, None]
        status = torch.full((len(mask),), self._own_status.code)
        verdict = torch.full((n,), Status.NOT_FOUND.code)
        do, tried = Intervention(mask, plans.values), torch.full((n,), effort)
        return Proposal(do, tried, verdict, status, plans.uncertainty)

    @property
    def _own_status(self) -> Status:
        return Status.REFINED if self.settings.refine_steps else Status.AMORTIZED

    @property
    def _usual_rate(self) -> float:
        return float(self._policy.rate)

    def _standing(self, people: People, surplus: Tensor) -> tuple[Tensor, Uncertainty | None]:
        nothing = torch.zeros_like(people.x, dtype=torch.bool)
        uncertainty = self._sureness.of(people, nothing, people.x)
        return surplus >= uncertainty.margin(self._spreads), uncertainty

    def _one_pass(self, people: People) -> Proposal:
        """One forward pass; the checks come later. How sure it is, would take a search."""
        drafts = self._policy.drafts(people, 1)
        values = self.limits.project(people.x, drafts.values[:, 0], people.limits)
        mask, n = drafts.masks[:, 0], len(people)
        verdict = torch.full((n,), Status.NOT_FOUND.code)
        status = torch.full((n,), Status.AMORTIZED.code)
        effort = torch.ones(n, dtype=torch.long)
        return Proposal(Intervention(mask, values), effort, verdict, status)

    def _rescue(self, people: People, n_plans: int) -> Proposal | None:
        """Search as ``ExactSolver`` does, and go as far past the threshold as it takes."""
        if not self.settings.fallback:
            return None
        with torch.inference_mode(False), torch.no_grad():
            people = people.cloned()
            near = torch.arange(len(people))
            if not self.classifier.has_slope:
                # Without slopes, a search takes as long as all else: not where looks see nothing.
                surplus, reach = self._outlook(people)
                near = (reach >= NEARLY * surplus).nonzero().squeeze(1)
            is_hopeless = self._last_resort.is_hopeless(people)
            verdict = torch.where(is_hopeless, Status.INFEASIBLE.code, Status.NOT_FOUND.code)
            effort = torch.full_like(verdict, LOOKS)
            rows = (near[:, None] * n_plans + torch.arange(n_plans)).flatten()
            nothing, many = Intervention.none(people.x).mask, people.repeated(n_plans)
            mask, values = nothing.repeat_interleave(n_plans, 0), many.x.clone()
            if len(near):
                found = self._last_resort._propose(people[near], n_plans)
                mask[rows], values[rows] = found.intervention.mask, found.intervention.values
                effort[near] = found.n_evaluations
                assert found.verdict is not None  # noqa: S101
                verdict[near] = found.verdict
            price = self.cost(many.x, mask, values, many.weights)
            price = torch.where(mask.any(dim=1), price, torch.inf)
            sure = self._refinement.secured(many, mask, values, price)
            status = torch.full_like(mask[:, 0], Status.SEARCHED.code, dtype=torch.long)
            secured = Intervention(sure.mask, sure.values)
            return Proposal(secured, effort, verdict, status, sure.uncertainty)

    def _new_policy(self, u: Tensor) -> Policy:
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.training.seed)
            hidden = settings.mask_hidden, settings.action_hidden
            return Policy(self._guide, self._columns, self.causal_model.statistics_, u, *hidden)

    def _new_compass(self) -> Compass:
        shape = self._policy.n_inputs, 1 + len(self._switches), self.settings.mask_hidden
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.training.seed)
            return Compass(self._policy.describe, self._columns, self._switches.columns, *shape)

    def _new_memory(self, known: Precedents, u: Tensor) -> Memory:
        model, classifier, cost, limits = self.causal_model, self.classifier, self.cost, self.limits
        columns = limits.acted_on.nonzero().squeeze(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.training.seed)
            statistics, hidden = model.statistics_, self.settings.forecast_hidden
            forecast = Forecast(columns, statistics, u, float(self._policy.steepness), hidden)
            retrieval = Retrieval(columns, statistics, self._policy.n_inputs)
        foreseen = ForecastTarget(classifier, limits, forecast)
        patterns = None
        if not classifier.has_slope:
            shares, keep = self._spread, self.settings.candidates
            patterns = tuple(
                PatternSearch(foreseen, cost, limits, shares, keep, rounds, BLIND_REACH)
                for rounds in (FORESEEN, FORESEEN // 2)
            )
        recall = Recall(cost, limits)
        std = model.statistics_.std
        doubt = (self._sureness, self._spreads)
        scale = torch.where(std > 0, std, 1.0)
        parts = (self._bare_target, foreseen, cost, limits, *doubt, patterns, scale)
        describe = self._policy.describe
        foresight = Foresight(recall, retrieval, *parts)
        around = (recall, retrieval, describe, self._has_wishes)
        return Memory(known, forecast, foresight, *around)

    def state(self) -> State:
        """See ``Solver.state``."""
        if not self.is_fitted:
            raise NotFittedError.of("Carma", "state")
        config = {
            "settings": asdict(self.settings),
            "history": asdict(self.history_),
            "rehearsal": asdict(self.rehearsal_),
        }
        tensors = dict(self._policy.state_dict())
        if self._compass is not None:
            tensors |= prefixed("compass", self._compass.state_dict())
        if self._memory is not None:
            tensors |= prefixed("memory", self._memory.tensors())
        if self.surrogate_ is not None:
            surrogate = self.surrogate_.state()
            config["surrogate"] = surrogate.config
            tensors |= prefixed("surrogate", surrogate.tensors)
        return State(config, tensors)

    @classmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: Cost, state: State
    ) -> Self:
        """See ``Solver.restore``."""
        settings = CarmaSettings.from_dict(state.config["settings"])
        solver = cls(causal_model, classifier, cost=cost, settings=settings)
        if "surrogate" in state.config:
            tensors = unprefixed("surrogate", state.tensors)
            solver.surrogate_ = Surrogate.from_state(
                causal_model.schema, State(state.config["surrogate"], tensors)
            )
            solver._take_guide(solver.surrogate_)
        policy = solver._new_policy(torch.zeros(2, causal_model.n_latents, dtype=torch.float64))
        others = ("surrogate.", "compass.", "memory.")
        own = {n: t for n, t in state.tensors.items() if not n.startswith(others)}
        policy.load_state_dict(own)
        solver._policy = policy.eval().requires_grad_(False)
        if solver._has_compass:
            compass = solver._new_compass()
            compass.load_state_dict(unprefixed("compass", state.tensors))
            solver._compass = compass.eval().requires_grad_(False)
        if kept := unprefixed("memory", state.tensors):
            known = Precedents.from_tensors(unprefixed("precedents", kept))
            u = torch.zeros(2, causal_model.n_latents, dtype=torch.float64)
            solver._memory = solver._new_memory(known, u)
            solver._memory.restore(kept)
        solver.history_ = History(**state.config["history"])
        solver.rehearsal_ = History(**state.config["rehearsal"])
        return solver


# Starts of the walks that teach, and walks at once.
STARTS = 6
WALKS = 1 << 12
# People who have made moves between levels before they learn.
MOVED = 0.4
# People at once whose finished plans are learned from, and the share of all who have wishes.
JOURNEYS, WISHFUL = 1000, 0.3
# How many times as many people plans of others are tried on as are searched for, and rows drawn
# for each of them where too few are known.
OTHERS, TIMES = 4, 4
# Places from which plans start, usually, and for people who are hard to find a plan for.
LIKELY, LIKELIER = 3, 4
# Looks at the box of each person who is hard to find a plan for, besides the corner to which slopes
# point and the way there.
LOOKS = 4
# Places of each of them, besides home, from which to climb to where plans start.
CLIMBED = 2
# Sets of features tried after each of several moves.
AMONG = 1
# Rounds of trials that repair plans on steps and levels, and how far these reach at first.
TRIALS = 2
NEAR_REACH = 0.02
# Rounds for plans that a surrogate led to, those for the best of these, and their reach.
BLIND_TRIALS, BLIND_POLISH = 5, 12
# Rounds for those that a forecast led to.
FORESEEN = 6
BLIND_REACH = 0.05
