"""Equations, noise and labels of the paper's seven sets and of two of our own.

Source of the seven: Majumdar & Valera 2024 (CARMA), appendix A; Loan after Karimi et al. 2020.
Variances and standard deviations are those that reproduce the published log-likelihoods. In our
own two it matters what follows from an action: in ``snowball`` it helps, in ``tradeoff`` it hurts.
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
from torch.nn.functional import softplus

from carma.errors import SettingsError
from carma.graph import CausalGraph
from carma.models.scm import Equation, StructuralCausalModel, additive, linear
from carma.schema import Feature, Schema

__all__ = ["NAMES", "OWN_NAMES", "score", "structural_model"]

NAMES = (
    "triangle-lin",
    "triangle-nlin",
    "collider-lin",
    "collider-nlin",
    "chain-lin",
    "chain-nlin",
    "loan",
)
OWN_NAMES = ("snowball", "tradeoff")

Columns = Mapping[str, Tensor]
Function = Callable[[Columns], Any]


def structural_model(name: str) -> StructuralCausalModel:
    """Return the exact causal model of a benchmark set.

    Args:
        name: One of ``NAMES`` or ``OWN_NAMES``.

    Raises:
        SettingsError: The name is unknown.

    Example:
        >>> structural_model("chain-lin").sample(3, seed=1).shape
        torch.Size([3, 4])
    """
    _check(name)
    builders = {"loan": _loan, "snowball": _snowball, "tradeoff": _tradeoff}
    return builders[name]() if name in builders else _synthetic(name)


def score(name: str, x: Columns, noise: Tensor) -> Tensor:
    """Score whose sign is the label: favourable where it is at least 0.

    Args:
        name: One of ``NAMES`` or ``OWN_NAMES``.
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
    if name in OWN_NAMES:
        weights, intercept = _OWN_SCORES[name]
        return sum(w * x[n] for n, w in weights.items()) + intercept + 0.5 * noise
    x1, x2, x3 = x["x1"], x["x2"], x["x3"]
    scores = {
        "triangle-nlin": lambda: -1 + 2**x1 + 0.75 * x2**-3 + 0.1 * x3**2,
        "collider-nlin": lambda: x1**3 + x2 + 3 * x3,
        "chain-nlin": lambda: x1**3 + x2 + 0.75 * torch.exp(x3) - 50,
    }
    linear = lambda: x1 + 0.5 * x2 + x3  # noqa: E731
    return scores.get(name, linear)() + 0.5 * noise


def _check(name: str) -> None:
    known = (*NAMES, *OWN_NAMES)
    if name not in known:
        raise SettingsError.of("benchmarks", "name", f"be one of {', '.join(known)}", name)


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


# Linear mechanisms by their weights.
_Mechanism = Function | dict[str, float]

_MECHANISMS: dict[str, tuple[_Mechanism, _Mechanism, _Mechanism]] = {
    "triangle-lin": ({"s": 1.0}, {"x1": 1.0}, {"s": 1.0, "x1": 0.25, "x2": 0.5}),
    "triangle-nlin": (
        lambda p: p["s"],
        lambda p: -1 + 3 * torch.sigmoid(2 * p["x1"]),
        lambda p: p["s"] + 0.25 * p["x1"] ** 2 + 0.5 * p["x2"],
    ),
    "collider-lin": ({"s": 1.0}, {"s": 0.5}, {"s": 0.05, "x1": 0.25, "x2": 0.25}),
    "collider-nlin": (
        lambda p: 0.5 * p["s"],
        lambda p: 0.5 * p["s"],
        lambda p: 0.25 * p["s"] + 0.25 * p["x1"] ** 2 + 0.25 * p["x2"] ** 2,
    ),
    "chain-lin": ({"s": 1.0}, {"s": 1.0, "x1": 0.5}, {"s": 0.25, "x2": 0.5}),
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


def _equation(mechanism: _Mechanism, noise: Distribution) -> Equation:
    if isinstance(mechanism, dict):
        return linear(mechanism, noise)
    return additive(mechanism, noise)


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
    equations = {"s": linear({}, _coin())}
    for feature, mechanism, noise in zip(names[1:], _MECHANISMS[name], noises, strict=True):
        equations[feature] = _equation(mechanism, noise)
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


# Weights of the score and its constant.
_OWN_SCORES: dict[str, tuple[dict[str, float], float]] = {
    "snowball": (
        {"practice": 0.25, "skill": 0.25, "results": 0.25, "contacts": 0.25, "standing": 1.0},
        0.0,
    ),
    "tradeoff": (
        {"hours": 0.5, "income": 1.0, "savings": 0.5, "sport": 0.25, "health": 1.5},
        1.5,
    ),
}


def _snowball() -> StructuralCausalModel:
    """Practice makes skill, skill results, results contacts; results and contacts make standing.

    All of them are wanted, standing most, which nobody can set: a push at the start of the chain
    moves all the rest.
    """
    features = (
        Feature("group", "binary", role="immutable"),
        Feature("talent", role="immutable"),
        Feature("practice", role="actionable"),
        Feature("skill", role="actionable"),
        Feature("results", role="actionable"),
        Feature("contacts", role="actionable"),
        Feature("standing", role="mutable"),
    )
    equations = {
        "group": linear({}, _coin()),
        "talent": linear({}, _normal(1.0)),
        "practice": linear({"group": 0.5}, _mixture()),
        "skill": linear({"talent": 0.5, "practice": 0.8}, _normal(0.7)),
        "results": linear({"skill": 0.8}, _normal(0.7)),
        "contacts": linear({"results": 0.8}, _normal(0.7)),
        "standing": linear({"results": 0.5, "contacts": 0.5}, _normal(0.7)),
    }
    parents = {name: list(equation.weights or {}) for name, equation in equations.items()}
    graph = CausalGraph.from_parents(parents, [f.name for f in features])
    schema = Schema(features, graph, outcome="label", favourable=1)
    return StructuralCausalModel(schema, equations, "snowball")


def _tradeoff() -> StructuralCausalModel:
    """Overtime raises income; both cost health, which sport brings back.

    All of them are wanted, health most, which nobody can set. Strain begins where there is much
    work already, so that what an action is worth differs between people.
    """
    features = (
        Feature("group", "binary", role="immutable"),
        Feature("stamina", role="immutable"),
        Feature("hours", role="actionable"),
        Feature("income", role="actionable"),
        Feature("savings", role="actionable"),
        Feature("sport", role="actionable"),
        Feature("health", role="mutable"),
    )
    parents = {
        "hours": ["group"],
        "income": ["group", "stamina", "hours"],
        "savings": ["income"],
        "sport": ["stamina", "hours"],
        "health": ["stamina", "hours", "income", "sport"],
    }
    graph = CausalGraph.from_parents(parents, [f.name for f in features])
    schema = Schema(features, graph, outcome="label", favourable=1)

    def health(p: Columns) -> Tensor:
        strain = softplus(p["hours"], beta=2) + 0.5 * softplus(p["income"], beta=2)
        return 0.5 * p["stamina"] + 0.6 * p["sport"] - strain

    equations = {
        "group": linear({}, _coin()),
        "stamina": linear({}, _normal(1.0)),
        "hours": linear({"group": 1.0}, _normal(1.5), intercept=-0.5),
        "income": linear({"group": 0.5, "stamina": 0.5, "hours": 0.5}, _normal(1.0)),
        "savings": linear({"income": 0.5}, _normal(1.0)),
        "sport": linear({"stamina": 0.5, "hours": -0.25}, _normal(1.0)),
        "health": additive(health, _normal(0.5)),
    }
    return StructuralCausalModel(schema, equations, "tradeoff")
