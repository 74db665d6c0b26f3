"""The only definitions of what a plan costs."""

from carma.costs.absolute import AbsoluteCost
from carma.costs.base import Cost
from carma.costs.function import FunctionCost
from carma.costs.largest_shift import LargestShift
from carma.costs.registry import COSTS, cost_from_state
from carma.costs.squared import SquaredCost
from carma.costs.total_log_shift import TotalLogShift

__all__ = [
    "COSTS",
    "AbsoluteCost",
    "Cost",
    "FunctionCost",
    "LargestShift",
    "SquaredCost",
    "TotalLogShift",
    "cost_from_state",
]
