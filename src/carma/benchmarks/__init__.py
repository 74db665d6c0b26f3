"""The seven sets of the CARMA paper, two of our own and random ones, with exact equations."""

from carma.benchmarks.data import Benchmark, load
from carma.benchmarks.random_scm import random_benchmark, random_scm
from carma.benchmarks.sets import NAMES, OWN_NAMES, score, structural_model

__all__ = [
    "NAMES",
    "OWN_NAMES",
    "Benchmark",
    "load",
    "random_benchmark",
    "random_scm",
    "score",
    "structural_model",
]
