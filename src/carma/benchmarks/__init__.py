"""The seven sets of the CARMA paper with their exact equations."""

from carma.benchmarks.data import Benchmark, load
from carma.benchmarks.sets import NAMES, score, structural_model

__all__ = ["NAMES", "Benchmark", "load", "score", "structural_model"]
