"""Costs that can be stored, by kind."""

from __future__ import annotations

from carma.costs.absolute import AbsoluteCost
from carma.costs.base import Cost
from carma.costs.largest_shift import LargestShift
from carma.costs.squared import SquaredCost
from carma.costs.total_log_shift import TotalLogShift
from carma.errors import BundleError
from carma.state import State
from carma.table import Encoding

__all__ = ["COSTS", "cost_from_state"]

COSTS: dict[str, type[Cost]] = {
    cost.kind: cost for cost in (SquaredCost, AbsoluteCost, LargestShift, TotalLogShift)
}


def cost_from_state(encoding: Encoding, state: State) -> Cost:
    """Rebuild a cost of any kind that can be stored.

    Args:
        encoding: Of the schema.
        state: What the cost's ``state`` returned.

    Raises:
        BundleError: The kind is unknown.

    Example:
        >>> from carma.benchmarks import load
        >>> loan = load("loan", rows=200)
        >>> cost_from_state(loan.encoding, loan.cost.state()).weights == loan.cost.weights
        True
    """
    kind = state.config.get("kind")
    if kind not in COSTS:
        rule = f"be one of {', '.join(COSTS)}"
        raise BundleError.of("bundle", "kind of cost", rule, kind)
    return COSTS[kind].from_state(encoding, state)
