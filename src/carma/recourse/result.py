"""What a person gets: a status, and where there is one, a plan in original units."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from carma.decision import Decision
from carma.recourse.plans import Plans
from carma.recourse.status import Status
from carma.table import Encoding, to_pandas

__all__ = ["Change", "Recommendation", "RecourseResult"]

STATUSES = tuple(Status)


@dataclass(frozen=True)
class Change:
    """A feature's value before and after, original units."""

    before: Any
    after: Any

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content, ``None`` where a value is missing: JSON has no NaN."""
        pairs = (("from", self.before), ("to", self.after))
        return {key: None if _is_gap(value) else value for key, value in pairs}


@dataclass(frozen=True)
class Recommendation:
    """One person's answer.

    Args:
        label: Row label in the caller's table.
        status: Why there is a plan, or none.
        actions: What the person does: feature to change. A change between equal values means
            "keep it as it is while its causes move".
        consequences: What follows by itself: feature to change.
        cost: Of the plan; ``None`` without one.
        probability_before: Of the favourable outcome today.
        probability_after: Of the favourable outcome after the plan; ``None`` without one.
        expected_validity: Probability that the plan really brings acceptance, given how well the
            data determine what follows from it; ``None`` where that is not known.
        n_evaluations: Counterfactuals that the solver computed in search of the plan.
    """

    label: Any
    status: Status
    actions: dict[str, Change]
    consequences: dict[str, Change]
    cost: float | None
    probability_before: float
    probability_after: float | None
    expected_validity: float | None
    n_evaluations: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content."""
        before = self.probability_before
        return {
            "person": self.label,
            "status": self.status.value,
            "reason": self.status.message,
            "plan": {n: c.to_dict() for n, c in self.actions.items()},
            "follows": {n: c.to_dict() for n, c in self.consequences.items()},
            "cost": self.cost,
            # JSON has no NaN.
            "probability_before": None if math.isnan(before) else before,
            "probability_after": self.probability_after,
            "expected_validity": self.expected_validity,
            "n_evaluations": self.n_evaluations,
        }


class RecourseResult:
    """Answers for a table of people, in its order and with its index.

    Made by ``Solver.recommend``. Indexing gives one ``Recommendation``, ``menu`` all plans of
    one person; ``to_frame``, ``to_json`` and ``explain`` show all or one in original units.

    Args:
        encoding: Of the schema.
        x: Factual rows, shape ``(n, d)``, model space; where a value is missing, the guess that
            plans start from.
        plans: Checked plans of the same rows: the best ones.
        index: Row labels.
        decision: Whom the classifier accepts.
        seconds: Time that the solver took for all people.
        is_polars: Whether ``to_frame`` gives a polars table.
        others: Each person's second plan, third plan, and so on.
        missing: Where a value is missing, shape ``(n, d)``, bool; ``None`` is nowhere.
    """

    def __init__(
        self,
        encoding: Encoding,
        x: Tensor,
        plans: Plans,
        index: pd.Index[Any],
        decision: Decision,
        seconds: float,
        *,
        is_polars: bool = False,
        others: tuple[Plans, ...] = (),
        missing: Tensor | None = None,
    ) -> None:
        self.encoding, self.x, self.plans = encoding, x, plans
        self.index, self.decision, self.seconds = index, decision, seconds
        self._is_polars = is_polars
        self.others = others
        self.missing = torch.zeros_like(x, dtype=torch.bool) if missing is None else missing

    @classmethod
    def of(
        cls,
        encoding: Encoding,
        people: Any,
        x: Tensor,
        menus: tuple[Plans, ...],
        decision: Decision,
        seconds: float,
        missing: Tensor | None = None,
    ) -> RecourseResult:
        """Keep the caller's kind of table and its index."""
        is_pandas = isinstance(people, pd.DataFrame)
        is_polars = not is_pandas and nw.from_native(people).implementation.is_polars()
        index = to_pandas(people).index
        best, *others = menus
        return cls(
            encoding,
            x,
            best,
            index,
            decision,
            seconds,
            is_polars=is_polars,
            others=tuple(others),
            missing=missing,
        )

    def __len__(self) -> int:
        """Number of people."""
        return len(self.x)

    def __getitem__(self, position: int) -> Recommendation:
        """Answer for the person at a position (not label): the best plan."""
        return self._recommendation(self._row(position), self.plans)

    def menu(self, position: int) -> list[Recommendation]:
        """Every plan of the person at a position, the cheapest first; without one, the answer."""
        i = self._row(position)
        further = [plans for plans in self.others if STATUSES[int(plans.status[i])].has_plan]
        return [self._recommendation(i, plans) for plans in (self.plans, *further)]

    def __iter__(self) -> Iterator[Recommendation]:
        """Answers in the table's order."""
        return (self[i] for i in range(len(self)))

    @cached_property
    def statuses(self) -> pd.Series[Any]:
        """Status of each person, with the caller's index."""
        names = np.array([s.value for s in STATUSES], dtype=object)
        return pd.Series(names[self.plans.status.numpy()], self.index, name="status")

    def counts(self) -> dict[str, int]:
        """Number of people by status."""
        return dict(Counter(self.statuses))

    def seen(self, reached: Tensor, rows: Tensor) -> Tensor:
        """What a classifier that takes gaps sees of people after their best plans.

        Args:
            reached: What follows from the plans, shape ``(k, d)``, model space.
            rows: Positions of these people, or bool, to the same effect.
        """
        gaps = self.missing[rows] & ~self.plans.mask[rows]
        if not bool(gaps.any()):
            return reached
        holes = torch.where(gaps, torch.nan, reached)
        return self.encoding.derive(torch.where(self.encoding.passed(holes), holes, reached))

    def to_frame(self) -> Any:
        """All answers as one table in original units, with the caller's index.

        Returns:
            Columns ``status``, ``cost``, ``probability_before``, ``probability_after``,
            ``expected_validity``, ``n_actions``, ``n_evaluations``; then ``do_<feature>`` for
            every actionable feature (missing where the plan leaves it alone) and
            ``after_<feature>`` for every feature that can move (missing without a plan). Where
            several plans were asked for, a column ``plan`` counts from 1 and a person has a row
            for each plan. A polars table where a polars table was given.
        """
        frame = self._frame(self.plans)
        if self.others:
            parts = [frame.assign(plan=1)]
            for place, plans in enumerate(self.others, start=2):
                parts.append(self._frame(plans).assign(plan=place)[plans.has_plan.numpy()])
            position = np.concatenate(
                [np.arange(len(self)), *(p.has_plan.numpy().nonzero()[0] for p in self.others)]
            )
            every = pd.concat(parts).iloc[np.argsort(position, kind="stable")]
            frame = every[["plan", *frame.columns]]
        return nw.from_native(frame).to_polars() if self._is_polars else frame

    def _frame(self, plans: Plans) -> pd.DataFrame:
        schema, status = self.encoding.schema, plans.status.numpy()
        names = np.array([s.value for s in STATUSES], dtype=object)
        has_plan = plans.has_plan.numpy()
        is_answered = has_plan | (status == Status.ALREADY_ACCEPTED.code)

        def column(values: Tensor) -> pd.Series[Any]:
            return pd.Series(values.numpy(), self.index)

        columns: dict[str, Any] = {
            "status": pd.Series(names[status], self.index),
            "cost": column(plans.cost).where(is_answered),
            "probability_before": column(plans.probability_before),
            "probability_after": column(plans.probability_after).where(is_answered),
            "expected_validity": column(plans.expected_validity).where(is_answered),
            "n_actions": column(plans.mask[:, self.encoding.actions].sum(dim=1)),
            "n_evaluations": column(plans.n_evaluations),
        }
        after = self.encoding.decode(plans.counterfactual, self.index)
        acted = plans.mask.numpy()
        for name in schema.actionable:
            chosen = acted[:, self.encoding.column(name)]
            columns[f"do_{name}"] = _with_gaps(after[name], chosen)
        for feature in schema.features:
            if feature.role != "immutable":
                columns[f"after_{feature.name}"] = _with_gaps(after[feature.name], has_plan)
        return pd.DataFrame(columns, index=self.index)

    def to_json(self) -> str:
        """All answers as JSON lines, one person a line; further plans under ``others``."""
        return "\n".join(
            json.dumps(self._content(i), ensure_ascii=False, default=str) for i in range(len(self))
        )

    def explain(self, position: int) -> str:
        """One person's answer in words: first what to do, then what follows by itself.

        Args:
            position: Row position (not label).

        Returns:
            A few lines of text.
        """
        answer = self[position]
        before = answer.probability_before
        chance = "unknown" if math.isnan(before) else f"{before:.1%}"
        lines = [f"Person {answer.label}: chance of a favourable outcome {chance}"]
        lines[0] += f" ({self.decision.say()})."
        if not answer.status.has_plan:
            effort = f" ({answer.n_evaluations:,} counterfactuals tried)"
            tried = effort if answer.status is Status.NOT_FOUND else ""
            return "\n".join([*lines, f"No plan: {answer.status.message}{tried}."])
        lines.append("What to do:")
        lines += [self._sentence(n, c, is_action=True) for n, c in answer.actions.items()]
        if answer.consequences:
            lines.append("What follows by itself:")
            lines += [self._sentence(n, c, is_action=False) for n, c in answer.consequences.items()]
        lines.append(
            f"Then the chance is {answer.probability_after:.1%}: accepted. "
            f"Cost x 100: {100 * (answer.cost or 0.0):.2f}."
        )
        if answer.expected_validity is not None:
            lines.append(f"How sure the plan is to work: {_percent(answer.expected_validity)}.")
        return "\n".join(lines)

    def _content(self, i: int) -> dict[str, Any]:
        best, *others = self.menu(i)
        content = best.to_dict()
        return content | {"others": [r.to_dict() for r in others]} if self.others else content

    def _row(self, position: int) -> int:
        n = len(self)
        if not -n <= position < n:
            raise IndexError(f"position {position} of {n} people")
        return range(n)[position]

    def _recommendation(self, i: int, plans: Plans) -> Recommendation:
        status = STATUSES[int(plans.status[i])]
        actions: dict[str, Change] = {}
        consequences: dict[str, Change] = {}
        if status.has_plan:
            rows = slice(i, i + 1)
            # Column by column: a row of a table would turn whole numbers into decimals.
            told = torch.where(self.missing[rows], torch.nan, self.x[rows])
            before = self.encoding.decode(told)
            after = self.encoding.decode(plans.counterfactual[rows])
            x, reached = self.x[i].numpy(), plans.counterfactual[i].numpy()
            with np.errstate(invalid="ignore"):
                moved = np.abs(reached - x) > 1e-6 * (1 + np.abs(x))
            for feature in self.encoding.schema.features:
                name = feature.name
                change = Change(_plain(before[name].iloc[0]), _plain(after[name].iloc[0]))
                where = self.encoding.block(name)
                # What passing time moves is set, too, but nobody acts on it.
                if feature.role == "actionable" and bool(plans.mask[i, where].any()):
                    actions[name] = change
                elif moved[where].any() and change.before != change.after:
                    consequences[name] = change
        has_cost = status.has_plan or status is Status.ALREADY_ACCEPTED
        validity = float(plans.expected_validity[i])
        return Recommendation(
            _plain(self.index[i]),
            status,
            actions,
            consequences,
            float(plans.cost[i]) if has_cost else None,
            float(plans.probability_before[i]),
            float(plans.probability_after[i]) if has_cost else None,
            None if math.isnan(validity) else validity,
            int(plans.n_evaluations[i]),
        )

    def _sentence(self, name: str, change: Change, *, is_action: bool) -> str:
        feature = self.encoding.schema[name]
        if _is_gap(change.before):
            verb = "bring" if is_action else "comes"
            subject = f"{verb} {name}" if is_action else f"{name} {verb}"
            return f"  - {subject} to {feature.say(change.after)} (not known today)"
        if change.before == change.after:
            return f"  - keep {name} at {feature.say(change.after)}"
        before, after = feature.say_change(change.before, change.after)
        if feature.kind in ("continuous", "integer"):
            rises = change.after > change.before
            verb = ("raise" if rises else "lower") if is_action else ("rises" if rises else "falls")
        else:
            verb = "change" if is_action else "changes"
        subject = f"{verb} {name}" if is_action else f"{name} {verb}"
        return f"  - {subject} from {before} to {after}"


def _with_gaps(column: pd.Series[Any], keep: Any) -> pd.Series[Any]:
    """Blank out rows without turning whole numbers into decimals."""
    if column.dtype.kind in "iu":
        column = column.astype("Int64")
    elif column.dtype.kind == "b":
        column = column.astype("boolean")
    return column.where(keep)


def _is_gap(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _percent(share: float) -> str:
    """Never rounded up to certainty."""
    return f"{math.floor(1000 * share) / 10:.1f} %"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
