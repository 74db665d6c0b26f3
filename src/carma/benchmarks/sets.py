"""Equations, noise and labels of the seven sets.

Source: Majumdar & Valera 2024 (CARMA), appendix A; Loan after Karimi et al. 2020. Variances
and standard deviations are those that reproduce the published log-likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gamma,
    MixtureSameFamily,
    Normal,
)

from carma.errors import SettingsError
from carma.graph import CausalGraph
from carma.models.scm import Equation, StructuralCausalModel, additive
from carma.schema import Feature, Schema

__all__ = ["NAMES", "score", "structural_model"]

NAMES = (
    "triangle-lin",
    "triangle-nlin",
    "collider-lin",
    "collider-nlin",
    "chain-lin",
    "chain-nlin",
    "loan",
)

Columns = Mapping[str, Tensor]
Function = Callable[[Columns], Any]


def structural_model(name: str) -> StructuralCausalModel:
    """Return the exact causal model of a benchmark set.

    Args:
        name: One of ``NAMES``.

    Raises:
        SettingsError: The name is unknown.

    Example:
        >>> structural_model("chain-lin").sample(3, seed=1).shape
        torch.Size([3, 4])
    """
    _check(name)
    return _loan() if name == "loan" else _synthetic(name)


def score(name: str, x: Columns, noise: Tensor) -> Tensor:
    """Score whose sign is the label: favourable where it is at least 0.

    Args:
        name: One of ``NAMES``.
        x: Columns by name, each ``(n,)``.
        noise: The label's noise e, ``(n,)``; not read for Loan.

    Returns:
        Shape ``(n,)``.
    """
    _check(name)
    if name == "loan":
        both = (x["income"] >= 0) & (x["savings"] >= 0)
        product = torch.where(both, 1.0, -1.0) * x["income"] * x["savings"]
        total = -x["loan_amount"] - x["duration"] + x["income"] + x["savings"] + product
        return 0.3 * total
    x1, x2, x3 = x["x1"], x["x2"], x["x3"]
    scores = {
        "triangle-nlin": lambda: -1 + 2**x1 + 0.75 * x2**-3 + 0.1 * x3**2,
        "collider-nlin": lambda: x1**3 + x2 + 3 * x3,
        "chain-nlin": lambda: x1**3 + x2 + 0.75 * torch.exp(x3) - 50,
    }
    linear = lambda: x1 + 0.5 * x2 + x3  # noqa: E731
    return scores.get(name, linear)() + 0.5 * noise


def _check(name: str) -> None:
    if name not in NAMES:
        raise SettingsError.of("benchmarks", "name", f"be one of {', '.join(NAMES)}", name)


def _mixture() -> Distribution:
    spread = torch.tensor([1.5, 1.0], dtype=torch.float64).sqrt()
    centres = torch.tensor([-2.0, 1.5], dtype=torch.float64)
    halves = torch.tensor([0.5, 0.5], dtype=torch.float64)
    return MixtureSameFamily(Categorical(halves), Normal(centres, spread))


def _normal(std: float) -> Distribution:
    zero = torch.tensor(0.0, dtype=torch.float64)
    return Normal(zero, torch.tensor(std, dtype=torch.float64))


def _coin() -> Distribution:
    return Bernoulli(torch.tensor(0.5, dtype=torch.float64))


_MECHANISMS: dict[str, tuple[Function, Function, Function]] = {
    "triangle-lin": (
        lambda p: p["s"],
        lambda p: p["x1"],
        lambda p: p["s"] + 0.25 * p["x1"] + 0.5 * p["x2"],
    ),
    "triangle-nlin": (
        lambda p: p["s"],
        lambda p: -1 + 3 * torch.sigmoid(2 * p["x1"]),
        lambda p: p["s"] + 0.25 * p["x1"] ** 2 + 0.5 * p["x2"],
    ),
    "collider-lin": (
        lambda p: p["s"],
        lambda p: 0.5 * p["s"],
        lambda p: 0.05 * p["s"] + 0.25 * p["x1"] + 0.25 * p["x2"],
    ),
    "collider-nlin": (
        lambda p: 0.5 * p["s"],
        lambda p: 0.5 * p["s"],
        lambda p: 0.25 * p["s"] + 0.25 * p["x1"] ** 2 + 0.25 * p["x2"] ** 2,
    ),
    "chain-lin": (
        lambda p: p["s"],
        lambda p: p["s"] + 0.5 * p["x1"],
        lambda p: 0.25 * p["s"] + 0.5 * p["x2"],
    ),
    "chain-nlin": (
        lambda p: p["s"],
        lambda p: p["s"] + 3 * torch.sigmoid(2 * p["x1"]),
        lambda p: 0.25 * p["s"] + p["x2"] ** 2,
    ),
}

_EDGES = {
    "triangle": [("s", "x1"), ("x1", "x2"), ("s", "x3"), ("x1", "x3"), ("x2", "x3")],
    "collider": [("s", "x1"), ("s", "x2"), ("s", "x3"), ("x1", "x3"), ("x2", "x3")],
    "chain": [("s", "x1"), ("s", "x2"), ("x1", "x2"), ("s", "x3"), ("x2", "x3")],
}


def _synthetic(name: str) -> StructuralCausalModel:
    names = ("s", "x1", "x2", "x3")
    features = (
        Feature("s", "binary", role="immutable"),
        *(Feature(n, role="actionable") for n in names[1:]),
    )
    edges = _EDGES[name.split("-")[0]]
    graph = CausalGraph.from_edges(edges, names)
    schema = Schema(features, graph, outcome="label", favourable=1)
    narrow = name in ("triangle-nlin", "collider-nlin")
    noises = (_mixture(), _normal(0.1**0.5 if narrow else 1.0), _normal(1.0))
    equations = {"s": additive(lambda p: 0.0, _coin())}
    for feature, function, noise in zip(names[1:], _MECHANISMS[name], noises, strict=True):
        equations[feature] = additive(function, noise)
    return StructuralCausalModel(schema, equations, name)


def _loan() -> StructuralCausalModel:
    features = (
        Feature("gender", "binary", role="immutable"),
        Feature("age", role="immutable"),
        Feature("education", role="actionable"),
        Feature("loan_amount", role="actionable"),
        Feature("duration", role="mutable"),
        Feature("income", role="actionable"),
        Feature("savings", role="actionable"),
    )
    parents = {
        "education": ["gender", "age"],
        "loan_amount": ["gender", "age"],
        "duration": ["gender", "age", "loan_amount"],
        "income": ["gender", "age", "education"],
        "savings": ["income"],
    }
    graph = CausalGraph.from_parents(parents, [f.name for f in features])
    schema = Schema(features, graph, outcome="label", favourable=1)
    shape, rate = (torch.tensor(v, dtype=torch.float64) for v in (10.0, 1 / 3.5))

    def before_squash(p: Columns) -> Tensor:
        return -1 + 0.5 * p["gender"] + torch.sigmoid(0.1 * p["age"])

    equations = {
        "gender": additive(lambda p: 0.0, _coin()),
        "age": additive(lambda p: -35.0, Gamma(shape, rate)),
        "education": Equation(
            lambda p, u: -0.5 + torch.sigmoid(before_squash(p) + u),
            lambda p, x: torch.logit(x + 0.5) - before_squash(p),
            _normal(0.5),
        ),
        "loan_amount": additive(
            lambda p: 1 + 0.01 * (p["age"] - 5) * (5 - p["age"]) + (1 - p["gender"]), _normal(2.0)
        ),
        "duration": additive(
            lambda p: -1 + 0.1 * p["age"] + 2 * (1 - p["gender"]) + p["loan_amount"], _normal(3.0)
        ),
        "income": additive(
            lambda p: -4 + 0.1 * (p["age"] + 35) + 2 * p["gender"] + p["gender"] * p["education"],
            _normal(2.0),
        ),
        "savings": additive(lambda p: -4 + 1.5 * p["income"].clamp(min=0), _normal(5.0)),
    }
    return StructuralCausalModel(schema, equations, "loan")
