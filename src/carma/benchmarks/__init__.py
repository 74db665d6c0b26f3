"""The seven sets of the CARMA paper, others with exact equations, and three real tables."""

from carma.benchmarks.data import Benchmark, load
from carma.benchmarks.random_scm import random_benchmark, random_scm
from carma.benchmarks.real import (
    REAL_NAMES,
    RealBenchmark,
    data_folder,
    load_real,
    problem_file,
    read_real,
)
from carma.benchmarks.sets import NAMES, OWN_NAMES, score, structural_model

__all__ = [
    "NAMES",
    "OWN_NAMES",
    "REAL_NAMES",
    "Benchmark",
    "RealBenchmark",
    "data_folder",
    "load",
    "load_real",
    "problem_file",
    "random_benchmark",
    "random_scm",
    "read_real",
    "score",
    "structural_model",
]
