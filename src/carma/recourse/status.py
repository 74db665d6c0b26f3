"""What became of a person's request."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Status"]


class Status(StrEnum):
    """Why a person has a plan, or has none.

    Example:
        >>> Status.AMORTIZED.has_plan, Status.STILL_REJECTED.message
        (True, 'the proposed plan would still be rejected')
    """

    ALREADY_ACCEPTED = "already_accepted"
    AMORTIZED = "amortized"
    REFINED = "refined"
    SEARCHED = "searched"
    NOT_FOUND = "not_found"
    INFEASIBLE = "infeasible"
    NO_ACTION = "no_action"
    NO_OTHER = "no_other"
    OUTSIDE_LIMITS = "outside_limits"
    STILL_REJECTED = "still_rejected"
    UNDEFINED = "undefined"
    UNKNOWN_LEVEL = "unknown_level"

    @property
    def code(self) -> int:
        """Position in the enumeration: the number that stands for it in tensors."""
        return list(Status).index(self)

    @property
    def has_plan(self) -> bool:
        """True when a checked plan comes with it."""
        return self in (Status.AMORTIZED, Status.REFINED, Status.SEARCHED)

    @property
    def message(self) -> str:
        """The status in words."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.ALREADY_ACCEPTED: "already accepted: nothing has to change",
    Status.AMORTIZED: "a plan proposed by the trained networks, checked",
    Status.REFINED: "a plan proposed by the trained networks, refined, checked",
    Status.SEARCHED: "a plan found by search, checked",
    Status.NOT_FOUND: "the search found no plan; that is no proof that none exists",
    Status.INFEASIBLE: "proven: no permitted plan reaches the threshold",
    Status.NO_ACTION: "the solver chose no feature to act on",
    Status.NO_OTHER: "no further plan acts on other features at a cost worth naming",
    Status.OUTSIDE_LIMITS: "the plan or what follows from it breaks a bound, a direction or a step",
    Status.STILL_REJECTED: "the proposed plan would still be rejected",
    Status.UNDEFINED: "the models give no finite number for this person",
    Status.UNKNOWN_LEVEL: "the causal model has learned from nobody who has this person's level of "
    "some category: fit it on rows that have it, or merge the level with another one",
}
