"""A baseline from another package: DiCE, on the same people, classifier and limits."""

from __future__ import annotations

import io
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from carma.classifiers.base import Classifier
from carma.constraints import Limits
from carma.costs import Cost
from carma.errors import NotFittedError, SettingsError
from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.recourse.base import Solver
from carma.recourse.menus import menus_of
from carma.recourse.plans import Plans
from carma.recourse.proposal import Proposal
from carma.recourse.status import Status
from carma.recourse.target import People
from carma.state import State
from carma.table import Encoding
from carma.training import check_at_least

__all__ = ["Dice", "DiceSettings"]

METHODS = ("random", "genetic")
OUTCOME = "favourable outcome"
# Share of a column's standard deviation that its rounding may take.
NEAR = 1e-4


@dataclass(frozen=True)
class DiceSettings:
    """Settings of DiCE.

    Args:
        method: ``random`` or ``genetic``, DiCE's two searches that take any classifier.
        examples: Counterfactuals asked for each person; the cheapest that passes is the plan.
        seed: Of its draws, the same for each person.

    Raises:
        SettingsError: A value is out of range.
    """

    method: str = "random"
    examples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        SettingsError.require(self, {"method": (self.method in METHODS, "be random or genetic")})
        check_at_least("DiceSettings", "examples", self.examples, 1)
        check_at_least("DiceSettings", "seed", self.seed, 0)


class Dice(Solver):
    """Diverse counterfactual explanations of the package ``dice-ml``, as plans.

    DiCE may vary the actionable features within each person's own limits, with the moves between
    levels that are open to them, and is asked about one person at a time, as it takes ranges. It
    knows no causes: what it does not vary, it believes to stay. Nor does it know rules between
    actions: plans that break one do not pass. Its numbers are moved to steps and levels; priced
    and checked they are like every plan, and time that an action takes passes. Whether they hold
    where features have effects, is for ``evaluate`` to tell. Needs the extra ``dice``.

    Args:
        causal_model: Gives schema and scale only.
        classifier: Decides; DiCE sees its probability, moved so that its edge is a half.
        cost: See ``Solver``.
        settings: See ``DiceSettings``.

    References:
        Mothilal, Sharma & Tan 2020, Explaining machine learning classifiers through diverse
        counterfactual explanations, arXiv 1905.07697.

    Example:
        >>> DiceSettings(method="gradient")
        Traceback (most recent call last):
        carma.errors.SettingsError: DiceSettings: 'method' must be random or genetic; got 'gradient'
    """

    kind: ClassVar[str] = "dice"
    found: ClassVar[Status] = Status.SEARCHED
    at_once: ClassVar[int] = 64

    def __init__(
        self,
        causal_model: CausalModel,
        classifier: Classifier,
        *,
        cost: Cost | None = None,
        settings: DiceSettings | None = None,
    ) -> None:
        super().__init__(causal_model, classifier, cost=cost)
        self.settings = settings or DiceSettings()

    @property
    def is_fitted(self) -> bool:
        """True after ``fit``."""
        return hasattr(self, "_rows")

    @property
    def margin(self) -> float:
        """It stops at the threshold."""
        return 0.0

    def _fit(self, x: Tensor, progress: bool | None) -> None:  # noqa: ARG002
        self.__dict__.pop("_explainer", None)
        self._rows = x

    def _propose(self, people: People, n_plans: int) -> Proposal:  # noqa: ARG002
        x, each = people.x, self.settings.examples
        values = x.repeat_interleave(each, dim=0)
        effort = torch.zeros(len(x), dtype=torch.long)
        for row in range(len(x)):
            self._oracle.n_asked = 0
            found = self._examples(x[row : row + 1], people.limits[row : row + 1])
            values[row * each : row * each + len(found)] = found
            effort[row] = self._oracle.n_asked
        many = people.repeated(each)
        # What it leaves alone, it rounds.
        is_near = (values - many.x).abs() < NEAR * self.causal_model.statistics_.std
        values = torch.where(is_near, many.x, values)
        by_level = self.encoding.moved_by_level
        on_grid = self.limits.project(many.x, values, many.limits)
        values = torch.where(by_level, values, on_grid)
        mask = (values != many.x) & many.limits.may_act
        for feature in self.schema.switches:
            where = self.encoding.block(feature.name)
            mask[:, where] = mask[:, where].any(dim=1, keepdim=True)
        most = people.limits.max_actions
        if most is not None:
            n_actions = mask[:, self.encoding.actions].sum(dim=1)
            mask &= (n_actions <= most.repeat_interleave(each))[:, None]
        return Proposal(Intervention(mask, values), effort)

    def _answer(self, people: People, before: Tensor, n_plans: int) -> list[Plans]:
        """DiCE moves levels itself: they are given where all else is checked."""
        each = self.settings.examples
        people = replace(people, u=self.causal_model.abduct(people.x))
        proposal = self._propose(people, n_plans)
        do, many = proposal.intervention, people.repeated(each)
        moved = do.mask & self.encoding.moved_by_level
        given = Intervention(moved, torch.where(moved, do.values, many.x))
        many = replace(many, limits=replace(many.limits, given=moved), given=given)
        numbers = Proposal(
            Intervention(do.mask & ~moved, do.values),
            proposal.n_evaluations.repeat_interleave(each),
        )
        plans = self._answered(many, numbers, before.repeat_interleave(each))
        owner = torch.arange(len(people)).repeat_interleave(each)
        actions = self.encoding.actions
        return menus_of(plans, owner, people.x, before, n_plans, actions, self.validity)

    def _verdict(self, people: People, proposal: Proposal, before: Tensor) -> Tensor:  # noqa: ARG002
        """DiCE proves nothing."""
        return torch.full((len(before),), Status.NO_ACTION.code)

    def _follow(self, x: Tensor, intervention: Intervention, u: Tensor) -> Tensor:  # noqa: ARG002
        """Nothing but the values themselves: the method knows no effects."""
        return torch.where(intervention.mask, intervention.values, x)

    def _examples(self, x: Tensor, limits: Limits) -> Tensor:
        """Counterfactuals of one person, shape ``(k, d)``, ``k`` at most ``examples``."""
        from raiutils.exceptions import UserConfigValidationException

        ranges = self._ranges(x, limits)
        if not ranges:
            return x[:0]
        asked = _to_dice(self.encoding, x)
        with _seeded_and_silent(self.settings.seed):
            try:
                answer = self._explainer.generate_counterfactuals(
                    asked,
                    total_CFs=self.settings.examples,
                    desired_class=1,
                    features_to_vary=list(ranges),
                    permitted_range=ranges,
                    # Linear search goes by the last digit: thousands of calls for a large sum.
                    posthoc_sparsity_algorithm="binary",
                )
            except UserConfigValidationException:
                # What it says where it finds nothing.
                return x[:0]
        found = answer.cf_examples_list[0].final_cfs_df_sparse
        if found is None or not len(found):
            return x[:0]
        return _from_dice(self.encoding, found)[: self.settings.examples]

    def _ranges(self, x: Tensor, limits: Limits) -> dict[str, Any]:
        """What DiCE may vary of one person, and how far, by feature."""
        ranges: dict[str, Any] = {}
        can_move = limits.can_move[0]
        for name in self.schema.actionable:
            feature, where = self.schema[name], self.encoding.block(name)
            if feature.is_switch:
                is_open = self.limits.moves[name][self.encoding.level(x, feature)[0]]
                levels = [str(i) for i in is_open.nonzero().squeeze(1).tolist()]
                if bool(limits.may_act[0, where.start]) and len(levels) > 1:
                    ranges[name] = levels
                continue
            if not bool(can_move[where].any()):
                continue
            low, high = limits.lower[0, where.start].item(), limits.upper[0, where.start].item()
            if feature.has_levels:
                codes = feature.codes
                ranges[name] = [str(i) for i, code in enumerate(codes) if low <= code <= high]
            elif feature.kind == "integer":
                ranges[name] = [math.ceil(low), math.floor(high)]
            else:
                ranges[name] = [low, high]
        return ranges

    @cached_property
    def _oracle(self) -> _Oracle:
        return _Oracle(self.encoding, self.classifier)

    @cached_property
    def _explainer(self) -> Any:
        import dice_ml

        rows = _to_dice(self.encoding, torch.cat([self._rows, self._every_level()]))
        numbers = [f.name for f in self.schema.features if not f.has_levels]
        with _seeded_and_silent(self.settings.seed):
            data = dice_ml.Data(
                dataframe=rows.assign(**{OUTCOME: self._oracle.predict(rows)}),
                continuous_features=numbers,
                outcome_name=OUTCOME,
            )
            model = dice_ml.Model(model=self._oracle, backend="sklearn", model_type="classifier")
            return dice_ml.Dice(data, model, method=self.settings.method)

    def _every_level(self) -> Tensor:
        """A row for each level: DiCE refuses people with a level that it has not seen."""
        rows = []
        for feature in self.schema.features:
            where = self.encoding.block(feature.name)
            for i in range(len(feature.levels)):
                row = self._rows[0].clone()
                row[where] = 0.0
                row[where.start + i if feature.kind == "nominal" else where.start] = (
                    1.0 if feature.kind == "nominal" else feature.codes[i]
                )
                rows.append(row)
        return torch.stack(rows) if rows else self._rows[:0]

    def state(self) -> State:
        """See ``Solver.state``: the rows that DiCE learns ranges from."""
        if not self.is_fitted:
            raise NotFittedError.of("Dice", "state")
        return State({"settings": asdict(self.settings)}, {"rows": self._rows.clone()})

    @classmethod
    def restore(
        cls, causal_model: CausalModel, classifier: Classifier, cost: Cost, state: State
    ) -> Self:
        """See ``Solver.restore``."""
        settings = DiceSettings(**state.config["settings"])
        solver = cls(causal_model, classifier, cost=cost, settings=settings)
        solver._rows = state.tensors["rows"]
        return solver


class _Oracle:
    """The classifier as DiCE asks it; counts the rows."""

    def __init__(self, encoding: Encoding, classifier: Classifier) -> None:
        self._encoding, self._classifier = encoding, classifier
        self.n_asked = 0

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Unfavourable and favourable, a half on the decision's edge, shape ``(n, 2)``."""
        self.n_asked += len(frame)
        with torch.no_grad():
            ahead = self._classifier.ahead(_from_dice(self._encoding, frame))
        favourable = torch.sigmoid(ahead).double().numpy()
        return np.stack([1 - favourable, favourable], axis=1)

    def predict(self, frame: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
        """1 where accepted, else 0, shape ``(n,)``."""
        return (self.predict_proba(frame)[:, 1] >= 0.5).astype(np.int64)


def _to_dice(encoding: Encoding, x: Tensor) -> pd.DataFrame:
    """Rows of model space as DiCE has them: numbers, and the positions of levels as text."""
    columns: dict[str, Any] = {}
    values = encoding.snap(x).numpy()
    for feature in encoding.schema.features:
        where = encoding.block(feature.name)
        if feature.kind == "nominal":
            columns[feature.name] = values[:, where].argmax(axis=1).astype(str)
        elif feature.has_levels:
            apart = np.abs(values[:, where.start, None] - np.asarray(feature.codes))
            columns[feature.name] = apart.argmin(axis=1).astype(str)
        elif feature.kind == "integer":
            columns[feature.name] = values[:, where.start].astype(np.int64)
        else:
            columns[feature.name] = values[:, where.start]
    return pd.DataFrame(columns)


def _from_dice(encoding: Encoding, frame: pd.DataFrame) -> Tensor:
    """Undo ``_to_dice``."""
    x = np.zeros((len(frame), encoding.n_columns))
    for feature in encoding.schema.features:
        where = encoding.block(feature.name)
        column = frame[feature.name].to_numpy().astype(np.float64)
        if feature.kind == "nominal":
            x[np.arange(len(frame)), where.start + column.astype(np.int64)] = 1.0
        elif feature.has_levels:
            x[:, where.start] = np.asarray(feature.codes)[column.astype(np.int64)]
        else:
            x[:, where.start] = column
    return torch.from_numpy(x)


@contextmanager
def _seeded_and_silent(seed: int) -> Iterator[None]:
    """DiCE draws from the global generators, shows bars, prints, and warns about its own code."""
    python, numbers = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
