"""Records of runs as they might have been, made from the run alone."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from carma.benchmarks import structural_model
from carma.reproduction.run import CAUSAL_MODEL, Run


def record(run: Run, **given: Any) -> dict[str, Any]:
    draws = np.random.default_rng(zlib.crc32(json.dumps(run).encode()))
    start = run._asdict() | {"seconds": float(draws.uniform(1, 60)), "machine": "none"}
    if run.method == CAUSAL_MODEL:
        names = ("log_prob", "log_prob_normal_root", "round_trip", "model_seconds")
        errors = {"duration": float(draws.uniform()), "income": float(draws.uniform())}
        return start | {n: float(draws.normal()) for n in names} | {"rmse": errors} | given
    features = structural_model(run.dataset).schema.actionable
    cost = float(draws.uniform(1, 9))
    measures = {
        "cost_x100": cost,
        "cost_x100_rejected": 1.2 * cost,
        "cost_ratio": None if run.method == "grid-true" else cost,
        "coverage": float(draws.uniform(99, 100)),
        "causal_validity": float(draws.uniform(95, 100)),
        "actions": float(draws.uniform(1, len(features))),
        "probability": float(draws.uniform(0.5, 1)),
        "ms_single": float(draws.uniform(1, 9)),
        "us_batched": float(draws.uniform(1, 9)),
        "sizes": {str(k + 1): 100 / len(features) for k in range(len(features))},
        "targets": {name: float(draws.uniform(0, 100)) for name in features},
        "shifts": {name: draws.normal(size=20).tolist() for name in features},
    }
    return start | measures | given


@pytest.fixture(scope="session")
def made_up() -> Callable[..., dict[str, Any]]:
    """A record of a run as it might have been, made from the run alone."""
    return record
