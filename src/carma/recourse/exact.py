"""The continuous optimum: the best plan of every set of features, for every person."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations, islice
from typing import ClassVar, Self

import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import Limits
from carma.costs import Cost
from carma.errors import SettingsError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.recourse.base import Solver
from carma.recourse.best_first import BestFirst, LocalModel
from carma.recourse.candidates import Candidates, Found
from carma.recourse.descent import PUSHES
from carma.recourse.doubt import Doubt, Uncertainty, quantile
from carma.recourse.linear import LinearSearch
from carma.recourse.pattern import PatternSearch
from carma.recourse.proposal import Proposal
from carma.recourse.starts import spread_evenly
from carma.recourse.status import Status
from carma.recourse.subsets import all_subsets, n_subsets, set_codes
from carma.recourse.sure_search import SureSearch
from carma.recourse.sure_target import SureTarget
from carma.recourse.target import People, Target, check_margin
from carma.recourse.walks import WalkSearch
from carma.state import State

__all__ = ["ExactSettings", "ExactSolver"]


@dataclass(frozen=True)
class ExactSettings:
    """Settings of the exact solver.

    Args:
        starts: Walks for each set of features: one from the person as they are, the others
            from points spread evenly over the box.
        explore_steps: Steps of every walk.
        keep: Walks of each person that go on, the most promising of different sets first.
        refine_steps: Further steps of these.
        polish_rounds: Rounds of trials on the best walks of each person: slopes alone miss the
            kinks of a piecewise linear classifier.
        search_rounds: Rounds of trials where there are no slopes.
        max_actions: Act on at most so many features.
        max_subsets: Sets of features tried for each person, at most 4096, which bounds memory.
            Where there are more, the most promising are found by best-first search.
        margin: Aim this far past the threshold, as a probability.
        validity: Probability with which plans shall hold, as in ``CarmaSettings``: every plan
            goes past the threshold, and the margin, by as much as that asks of it. Where no such
            plan is found, the plan is the one without. ``None`` asks for none.
        closed_form: Use the closed form where mechanisms and classifier are linear.

    Raises:
        SettingsError: A value is out of range.
    """

    starts: int = 16
    explore_steps: int = 5
    keep: int = 24
    refine_steps: int = 20
    polish_rounds: int = 20
    search_rounds: int = 60
    max_actions: int | None = None
    max_subsets: int = 64
    margin: float = 0.0
    validity: float | None = None
    closed_form: bool = True

    def __post_init__(self) -> None:
        rules = {
            "starts": (self.starts >= 1, "be at least 1"),
            "explore_steps": (self.explore_steps >= 1, "be at least 1"),
            "keep": (self.keep >= 1, "be at least 1"),
            "polish_rounds": (self.polish_rounds >= 0, "be at least 0"),
            "search_rounds": (self.search_rounds >= 0, "be at least 0"),
            "refine_steps": (self.refine_steps >= 0, "be at least 0"),
            "max_actions": (self.max_actions is None or self.max_actions >= 1, "be at least 1"),
            "max_subsets": (1 <= self.max_subsets <= 4096, "be at least 1 and at most 4096"),
            "margin": (0 <= self.margin < 1, "be at least 0 and below 1"),
            "validity": (
                self.validity is None or 0.5 <= self.validity < 1,
                "be at least 0.5 and below 1",
            ),
        }
        SettingsError.require(self, rules)


class ExactSolver(Solver):
    """Searches the cheapest plan of every set of actionable features.

    For each person and each set of features, many walks start from points spread over the
    person's box and take sequential quadratic steps to the cheapest plan past the threshold
    (``Descent``); the most promising ones go on, all as one batch. Where mechanisms and
    classifier are linear, the walks are replaced by their closed form. Classifiers without a
    gradient, features with steps or levels, and people for whom slopes lead nowhere are searched
    by ``PatternSearch``: coordinates and directions, no slopes. With too many features to try
    every set, ``BestFirst`` lists the most promising sets. Plans that shall hold with a given
    ``validity`` are sought from there by ``SureSearch``, which measures the margin of every trial:
    the cheapest plan that is sure may be another one than the cheapest that works.

    A person without a plan is ``infeasible`` where that is proven: by the closed form over
    every set, or because bounds of the classifier over all that the person can reach stay below
    the threshold. Otherwise the status is ``not_found``, and ``n_evaluations`` tells the effort.
    ``fit`` has nothing to learn and need not be called.

    Args:
        causal_model: Differentiable in the values set.
        classifier: Decides.
        cost: See ``Solver``.
        settings: See ``ExactSettings``.

    Raises:
        SettingsError: The margin leaves no probability to aim at.

    Example:
        >>> from carma import ClassifierSettings, TrainingSettings, fit_classifier
        >>> from carma.benchmarks import load
        >>> data, quick = load("chain-lin", rows=400), TrainingSettings(epochs=5)
        >>> rows = data.frame("classifier")
        >>> classifier = fit_classifier(data.schema, rows, ClassifierSettings((), quick))
        >>> result = ExactSolver(data.scm, classifier).recommend(data.frame("recourse", "test"))
        >>> set(result.counts()) <= {"already_accepted", "searched"}
        True
    """

    kind: ClassVar[str] = "exact"
    found: ClassVar[Status] = Status.SEARCHED
    at_once: ClassVar[int] = 512

    def __init__(
        self,
        causal_model: CausalModel,
        classifier: Classifier,
        *,
        cost: Cost | None = None,
        settings: ExactSettings | None = None,
    ) -> None:
        super().__init__(causal_model, classifier, cost=cost)
        self.settings = chosen = settings or ExactSettings()
        check_margin(type(self).__name__, chosen.margin, classifier)
        self._target = Target(self._follow, classifier, self.limits, chosen.margin)
        self._doubt = self._new_doubt()
        self._columns = self.encoding.actionable
        self._linear = self._linear_search(self._target)
        self._proof = self._linear_search(self._bare_target) if chosen.margin else self._linear
        self._every = self._best_first = None
        if n_subsets(len(self._columns), chosen.max_actions) <= chosen.max_subsets:
            d = self.encoding.n_columns
            self._every = all_subsets(self._columns, d, chosen.max_actions)
        else:
            self._plain = self._plain_sets()
            order = [i for name in self.schema.graph.order for i in self._block(name)]
            self._best_first = BestFirst(
                self.cost,
                self._columns,
                order,
                chosen.max_subsets,
                chosen.max_actions,
                GUIDE_ROUNDS if self._linear is None else PROOF_ROUNDS,
            )
        shares = spread_evenly(chosen.starts, self._columns, self.encoding.n_columns)
        self._walks = WalkSearch(
            self._target, self.cost, shares, chosen.explore_steps, chosen.keep, chosen.refine_steps
        )
        parts = (self._target, self.cost, self.limits, shares, chosen.keep)
        self._patterns = PatternSearch(*parts, chosen.search_rounds, FAR_REACH)
        self._polish = PatternSearch(*parts, chosen.polish_rounds, NEAR_REACH)
        self._sure_target = self._sure = None
        if chosen.validity is not None and self._doubt.n_alternatives:
            spreads = quantile(chosen.validity, self._doubt.n_alternatives)
            aim = (self._follow, classifier, self.limits, chosen.margin)
            self._sure_target = SureTarget(*aim, self._doubt, spreads)
            world = (self._sure_target, self.cost, self.limits, shares)
            self._sure = SureSearch(*world, has_slope=classifier.has_slope)
        walks_each = chosen.max_subsets if self._every is None else len(self._every)
        self._rows_at_once = max(1, ROWS // (max(1, walks_each) * chosen.starts))

    @property
    def is_fitted(self) -> bool:
        """Always true: there is nothing to learn."""
        return True

    @property
    def margin(self) -> float:
        """See ``ExactSettings``."""
        return self.settings.margin

    @property
    def validity(self) -> float | None:
        """See ``ExactSettings``."""
        return self.settings.validity

    def _fit(self, x: Tensor, progress: bool | None) -> None: ...

    @property
    def _most_actions(self) -> int | None:
        return self.settings.max_actions

    def _propose(self, people: People, n_plans: int) -> Proposal:
        # No slope can be had through tensors that were made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            people = people.cloned()
            is_hopeless = self.is_hopeless(people)
            verdict = torch.where(is_hopeless, Status.INFEASIBLE.code, Status.NOT_FOUND.code)
            menu: list[Found] = []
            open_rows = (~is_hopeless).nonzero().squeeze(1)
            for place in range(n_plans):
                found = Found.none(people)
                for rows in torch.split(open_rows, self._rows_at_once):
                    part, is_proof = self._search(people[rows], [f[rows] for f in menu])
                    if place == 0:
                        is_none = is_proof & ~torch.isfinite(part.cost)
                        verdict[rows[is_none]] = Status.INFEASIBLE.code
                    found.put(rows, self._secured(people[rows], [f[rows] for f in menu], part))
                menu.append(self._settled(people, found, self._target))
                open_rows = torch.isfinite(found.cost).nonzero().squeeze(1)
            mask = torch.stack([f.mask for f in menu], dim=1).flatten(0, 1)
            values = torch.stack([f.values for f in menu], dim=1).flatten(0, 1)
            tried = torch.stack([f.n_evaluations for f in menu]).sum(dim=0)
            uncertainty = self._doubt.of(people.repeated(n_plans), mask, values)
        return Proposal(Intervention(mask, values), tried, verdict, uncertainty=uncertainty)

    def _search(self, people: People, menu: list[Found]) -> tuple[Found, Tensor]:
        """Best plans that leave alone some feature of each plan on the menu.

        Also whether finding none is a proof that there is none.
        """
        no_proof = torch.zeros(len(people), dtype=torch.bool)
        if self._every is None:
            return self._most_promising(people, menu), no_proof
        masks = self._usable(people, menu, self._every.expand(len(people), -1, -1))
        if self._linear is None or self._proof is None:
            return self._flipped(people, menu, self._best_of(people, masks)), no_proof
        found = self._linear.candidates(people, masks).best()
        if self._proof is self._linear:
            return found, ~no_proof
        # A person whom no plan takes past the margin may still reach the threshold.
        bare = self._proof.candidates(people, masks).best()
        return found, ~torch.isfinite(bare.cost)

    def _usable(self, people: People, menu: list[Found], masks: Tensor) -> Tensor:
        """The sets that a person may act on, the others empty."""
        usable = people.limits.allows(masks)
        for plan in menu:
            usable &= (plan.mask[:, None] & ~masks).any(dim=2)
        return masks & usable[..., None]

    def _most_promising(self, people: People, menu: list[Found]) -> Found:
        """Best plans where there are too many sets to try them all."""
        assert self._best_first is not None  # noqa: S101
        plain = self._plain & people.limits.may_act[:, None]
        plain = torch.cat([plain, people.limits.widest[:, None]], dim=1)
        plain = self._usable(people, menu, plain)
        if self._linear is None and not self.classifier.has_slope:
            # Nothing to list sets by.
            return self._flipped(people, menu, self._best_of(people, plain))
        model = LocalModel.around(self._follow, self._target, people, people.x)
        masks, _ = self._best_first.subsets(people, model)
        if menu:
            # What the search lists may all contain a set that is on the menu.
            masks = torch.cat([masks, plain], dim=1)
        masks = self._usable(people, menu, masks)
        if self._linear is not None:
            return self._linear.candidates(people, masks).best()
        # Where all slopes are 0, they suggest no set; and they know nothing of steps and levels.
        is_blind = ~masks.any(dim=2).any(dim=1) | self.limits.has_grid
        if bool(is_blind.any()):
            masks = torch.cat([masks, plain & is_blind[:, None, None]], dim=1)
        found, tried = self._best_of(people, masks), masks
        for _ in range(LOOKS):
            # Look again from the best plan: slopes there are those of the boundary it meets.
            reached = self._follow(people.x, people.do(found.mask, found.values), people.u)
            model = LocalModel.around(self._follow, self._target, people, reached)
            model = model.meeting(found.mask, found.values - people.x)
            masks, _ = self._best_first.subsets(people, model)
            is_old = (set_codes(masks)[:, :, None] == set_codes(tried)[:, None]).any(dim=2)
            masks = self._usable(people, menu, masks & ~is_old[..., None])
            found = found.or_better(self._best_of(people, masks))
            tried = torch.cat([tried, masks], dim=1)
        return self._flipped(people, menu, found)

    def _plain_sets(self) -> Tensor:
        """Sets to try where nothing tells which: large ones that hold all, then small ones."""
        most = self.settings.max_actions or len(self._columns)
        columns = self._columns.tolist()
        large = [tuple(part.tolist()) for part in torch.split(self._columns, most)]
        small = chain.from_iterable(combinations(columns, size) for size in range(1, most))
        sets = [*large, *islice(small, max(0, self.settings.max_subsets - len(large)))]
        masks = torch.zeros(len(sets), self.encoding.n_columns, dtype=torch.bool)
        for row, chosen in enumerate(sets):
            masks[row, list(chosen)] = True
        return masks

    def _flipped(self, people: People, menu: list[Found], found: Found) -> Found:
        """Improve plans by adding or dropping one feature at a time."""
        for _ in range(FLIPS):
            reached = self._follow(people.x, people.do(found.mask, found.values), people.u)
            masks = self._one_other(people, found.mask)
            masks &= torch.isfinite(found.cost)[:, None, None]
            masks = self._usable(people, menu, masks)
            flipped = self._from_point(people, masks, reached)
            if not bool((flipped.cost < found.cost).any()):
                break
            found = found.or_better(flipped)
        return found

    def _one_other(self, people: People, mask: Tensor) -> Tensor:
        """The sets with one feature more or less, ``(n, m, d)``; empty where that is too many."""
        flips = torch.zeros(len(self._columns), mask.shape[1], dtype=torch.bool)
        flips[torch.arange(len(self._columns)), self._columns] = True
        masks = (mask[:, None] ^ flips) & people.limits.may_act[:, None]
        too_many = masks.sum(dim=2) > (self.settings.max_actions or len(self._columns))
        return masks & ~too_many[..., None]

    def _from_point(self, people: People, masks: Tensor, point: Tensor) -> Found:
        """The cheapest plan over given sets of features, from one point for each person."""
        if self._has_walks:
            return self._walks.from_points(people, masks, point[:, None]).best()
        person, subset = masks.any(dim=2).nonzero(as_tuple=True)
        unknown = torch.full((len(person),), torch.inf, dtype=point.dtype)
        none_yet = torch.zeros(len(people), dtype=torch.long)
        mask, values = masks[person, subset], point[person]
        plans = Candidates(people, person, mask, values, unknown, none_yet)
        return self._patterns.improved(plans).best()

    def _best_of(self, people: People, masks: Tensor) -> Found:
        """The cheapest plan over given sets of features."""
        if not self.classifier.has_slope:
            return self._patterns.candidates(people, masks).best()
        plans = self._walks.candidates(people, masks)
        if self.limits.has_grid:
            found = self._patterns.improved(plans.cheapest(ON_GRID)).best()
            # The step next to the walks' plan need not be the best one.
            found = found.or_better(self._patterns.candidates(people, masks).best())
        else:
            found = self._polish.improved(plans.cheapest(POLISHED)).best()
            # In single precision a plan may look a hair too short in a batch of another size.
            found = replace(plans.best(), n_evaluations=0 * found.n_evaluations).or_better(found)
        # Where the slope is nought or misleads, trials may still find something.
        lost = (~torch.isfinite(found.cost)).nonzero().squeeze(1)
        if len(lost) and not self.limits.has_grid:
            again = self._patterns.candidates(people[lost], masks[lost]).best()
            tried = found.n_evaluations[lost] + again.n_evaluations
            found.put(lost, replace(again, n_evaluations=tried))
        return found

    def _secured(self, people: People, menu: list[Found], found: Found) -> Found:
        """Plans that are sure enough in the place of those that are not, where there are any."""
        if self._sure_target is None:
            return found
        found, works = self._settled(people, found, self._target), torch.isfinite(found.cost)
        is_short = works & (self._sure_target.surplus(people, found.mask, found.values) < 0)
        rows = is_short.nonzero().squeeze(1)
        if not len(rows):
            return found
        people, menu, plans = people[rows], [f[rows] for f in menu], [found[rows]]
        effort = plans[0].n_evaluations.clone()
        for _ in range(ROUNDS):
            # The margin that one plan needs is only about that of another one.
            last = plans[-1]
            aim = self._sure_target.needed(people, last.mask, last.values).clamp(max=WIDEST)
            if people.aim is not None:
                aim = aim + people.aim
            further, _ = self._search(replace(people, aim=aim), menu)
            effort += further.n_evaluations
            has_one = torch.isfinite(further.cost)
            plans.append(last[torch.arange(len(rows))])
            plans[-1].put(has_one, further[has_one])
        sure = self._cheapest_sure(people, menu, plans)
        effort += sure.n_evaluations
        is_sure = torch.isfinite(sure.cost)
        found = found[torch.arange(len(found.cost))]
        found.put(rows[is_sure], sure[is_sure])
        found.n_evaluations[rows] = effort
        return found

    def _cheapest_sure(self, people: People, menu: list[Found], plans: list[Found]) -> Found:
        """The best plans that are sure enough, sought from given ones and over sets of features."""
        assert self._sure_target is not None  # noqa: S101
        assert self._sure is not None  # noqa: S101
        if self._every is not None:
            masks = self._every.expand(len(people), -1, -1)
        else:
            near = self._one_other(people, plans[-1].mask)
            masks = torch.cat([torch.stack([plan.mask for plan in plans], dim=1), near], dim=1)
            codes = set_codes(masks)
            is_old = (codes[:, :, None] == codes[:, None]).tril(-1).any(dim=2)
            masks = masks & ~is_old[..., None]
        found = self._sure.best(people, self._usable(people, menu, masks), plans)
        return self._settled(people, found, self._sure_target)

    def _settled(self, people: People, found: Found, target: Target) -> Found:
        """Push plans that fall a hair short a little further.

        The best plan lies on the boundary, and a model in single precision answers a little
        differently in a batch of another size: what counts is the batch as it came.
        """
        x, mask, values = people.x, found.mask, found.values
        for push in PUSHES:
            is_short = mask.any(dim=1) & (target.surplus(people, mask, values) < 0)
            if not bool(is_short.any()):
                break
            further = x + (1 + push) * (found.values - x)
            further = self.limits.project(x, further, people.limits)
            values = torch.where(is_short[:, None] & mask, further, values)
        return replace(found, values=values)

    @property
    def _has_walks(self) -> bool:
        """True where slopes lead all the way to a plan."""
        return self.classifier.has_slope and not self.limits.has_grid

    def is_hopeless(self, people: People) -> Tensor:
        """For whom it is proven that no plan within the limits reaches the threshold, ``(n,)``."""
        box = people.limits
        # What can only be set to the own value moves nothing.
        moves, at = Limits(box.lower, box.upper, box.can_move), people.x
        sources = moves.may_act.clone()
        if people.given is not None:
            at = torch.where(people.given.mask, people.given.values, at)
            sources |= people.given.mask
        timed = torch.zeros_like(sources)
        for action, moved in self.limits.rules.timed:
            timed[:, moved] |= sources[:, action]
        follows = self._may_follow(sources | timed) | timed
        ends = self.classifier.bounds(*self.limits.reachable(at, moves, follows))
        return self._bare_target.is_missed(*ends)

    def _standing(self, people: People, surplus: Tensor) -> tuple[Tensor, Uncertainty | None]:
        nothing = torch.zeros_like(people.x, dtype=torch.bool)
        if self._sure_target is None:
            is_sure, _ = super()._standing(people, surplus)
        else:
            is_sure = self._sure_target.surplus(people, nothing, people.x) >= 0
        return is_sure, self._doubt.of(people, nothing, people.x)

    def _may_follow(self, may_act: Tensor) -> Tensor:
        """Columns that may move when others are set, shape of ``may_act``."""
        return (may_act.double() @ self.encoding.reach_weights) > 0

    def _linear_search(self, target: Target) -> LinearSearch | None:
        if not self.settings.closed_form:
            return None
        effects, weights = self._effects(), self.classifier.linear_weights
        follows = self.encoding.reachability[:, self._columns].any(dim=1)
        is_bounded = bool((follows & self.limits.is_bounded).any())
        is_known = self.cost.is_quadratic and not is_bounded and not self.limits.has_grid
        rules, numbers = self.limits.rules, set(self._columns.tolist())
        # Limits on sums bend the set of plans, and time the effect of a value.
        is_known &= not rules.bind_sums and not any(a in numbers for a, _ in rules.timed)
        if effects is None or weights is None or not is_known:
            return None
        return LinearSearch(target, self.cost, effects, weights[0])

    def _effects(self) -> Tensor | None:
        return self.causal_model.direct_effects

    def _new_doubt(self) -> Doubt:
        return Doubt(self.causal_model, self.classifier)

    def _block(self, name: str) -> range:
        where = self.encoding.block(name)
        return range(where.start, where.stop)

    def state(self) -> State:
        """See ``Solver.state``."""
        return State(asdict(self.settings))

    @classmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: Cost, state: State
    ) -> Self:
        """See ``Solver.restore``."""
        return cls(causal_model, classifier, cost=cost, settings=ExactSettings(**state.config))


# Walks at once; further looks at sets of features; rounds of adding or dropping one; plans moved
# to steps and levels, or polished.
ROWS = 1 << 15
LOOKS = 1
FLIPS = 5
ON_GRID = 6
POLISHED = 2
# Searches for the margin that the plan before needs, in log-odds, at most so wide.
ROUNDS = 2
WIDEST = 30.0
# Rounds of best-first search where its bound is a guide, and where it is a true one.
GUIDE_ROUNDS = 20
PROOF_ROUNDS = 200
# Shares of the box that first trials reach.
FAR_REACH = 0.2
NEAR_REACH = 0.02
