"""Random causal models of any size, and sets drawn from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import softplus

from carma.benchmarks.data import Benchmark
from carma.benchmarks.sets import Columns
from carma.classifiers.neural import ClassifierSettings
from carma.errors import SettingsError
from carma.graph import CausalGraph
from carma.models.scm import Equation, StructuralCausalModel, additive, linear
from carma.schema import Feature, Role, Schema
from carma.state import one_thread, seeded

__all__ = ["random_benchmark", "random_scm"]

MOST_PARENTS = 3
# Of the draw that sets the scale of mechanisms and the share of the refused.
N_DRAWN = 5_000

# Standard deviations; those of a feature's signal and noise add up to between 1 and 2.
ROOT_NOISE, NOISE, SIGNAL = (1.0, 2.0), (0.7, 1.0), (0.8, 1.6)

Shape = Callable[[Tensor], Tensor]
SHAPES: tuple[Shape, ...] = (lambda v: v, torch.tanh, softplus)


def random_scm(
    n_features: int,
    n_actionable: int,
    *,
    seed: int = 0,
    expected_parents: float = 1.5,
    nonlinear: bool = True,
) -> StructuralCausalModel:
    """Draw a graph, roles and mechanisms with additive Gaussian noise.

    Each feature has up to three causes; its mechanism is a weighted sum of the causes, each as
    it is, through tanh or through softplus. Features are continuous, named ``x0`` and so on in
    no causal order, and have mean 0 and a standard deviation between 1 and 2. Those that are
    not actionable are mutable where an actionable one acts on them, else immutable.

    Args:
        n_features: How many features, at least 2.
        n_actionable: How many of them are actionable, at least 1.
        seed: Of all draws.
        expected_parents: Mean number of causes of a feature that has enough predecessors, 0
            to 3.
        nonlinear: False makes all mechanisms linear, so that ``direct_effects`` are known.

    Returns:
        The model, without a name: a bundle cannot hold it.

    Raises:
        SettingsError: A number is out of range.

    Example:
        >>> scm = random_scm(8, 3, seed=1)
        >>> scm.sample(5).shape, len(scm.schema.actionable)
        (torch.Size([5, 8]), 3)
        >>> random_scm(8, 3, nonlinear=False).direct_effects.shape
        torch.Size([8, 8])
    """
    return _draw(n_features, n_actionable, expected_parents, nonlinear, seeded(seed))


@one_thread()
def random_benchmark(
    n_features: int,
    n_actionable: int,
    *,
    seed: int = 0,
    rows: int | None = None,
    expected_parents: float = 1.5,
    nonlinear: bool = True,
) -> Benchmark:
    """Draw a benchmark set from a random causal model.

    The label says whether a random weighted sum of all features, bent a little where
    ``nonlinear``, exceeds its 55 % quantile.

    Args:
        n_features: See ``random_scm``.
        n_actionable: See ``random_scm``.
        seed: Of all draws; the causal model is that of ``random_scm`` with the same seed.
        rows: Rows of each part; without it, the paper's (20,000, 25,000 and 20,000).
        expected_parents: See ``random_scm``.
        nonlinear: False makes mechanisms and label linear.

    Returns:
        The set.

    Raises:
        SettingsError: A number is out of range.

    Example:
        >>> data = random_benchmark(8, 3, rows=400)
        >>> data.name, data.frame("recourse", "test").shape
        ('random-nlin-8-3-0', (100, 9))
    """
    generator = seeded(seed)
    scm = _draw(n_features, n_actionable, expected_parents, nonlinear, generator)
    weights = _weights(n_features, generator)
    bends = 0.5 * _weights(n_features, generator) * nonlinear

    def wanted(x: Tensor) -> Tensor:
        return x @ weights + torch.tanh(x) @ bends

    least = wanted(scm.sample(N_DRAWN, seed=seed)).quantile(0.55)

    def score(x: Columns, noise: Tensor) -> Tensor:  # noqa: ARG001
        return wanted(torch.stack(list(x.values()), dim=1)) - least

    kind = "nlin" if nonlinear else "lin"
    name = f"random-{kind}-{n_features}-{n_actionable}-{seed}"
    settings = ClassifierSettings(hidden=(16,) if nonlinear else ())
    return Benchmark.draw(name, scm, score, settings, seed=seed, rows=rows)


@dataclass(frozen=True)
class _Sum:
    """Weighted sum of causes, each through a shape; callable on columns by name."""

    causes: tuple[str, ...]
    weights: tuple[float, ...]
    shapes: tuple[Shape, ...]
    shift: float = 0.0

    def __call__(self, p: Columns) -> Tensor | float:
        terms = zip(self.causes, self.weights, self.shapes, strict=True)
        return sum((w * shape(p[name]) for name, w, shape in terms), start=self.shift)

    def scaled(self, factor: float, shift: float) -> _Sum:
        return replace(self, weights=tuple(factor * w for w in self.weights), shift=shift)


@one_thread()
def _draw(
    n_features: int,
    n_actionable: int,
    expected_parents: float,
    nonlinear: bool,
    generator: torch.Generator,
) -> StructuralCausalModel:
    _check(n_features, n_actionable, expected_parents)
    names = [f"x{i}" for i in range(n_features)]
    equations: dict[str, Equation] = {}
    parents: dict[str, tuple[str, ...]] = {}
    values: dict[str, Tensor] = {}
    for i in torch.randperm(n_features, generator=generator):
        name = names[i]
        mean = _mechanism(values, expected_parents, nonlinear, generator)
        low, high = NOISE if mean.causes else ROOT_NOISE
        std = low + (high - low) * torch.rand(1, generator=generator, dtype=torch.float64)
        u = std * torch.randn(N_DRAWN, generator=generator, dtype=torch.float64)
        values[name], parents[name] = mean(values) + u, mean.causes
        noise = Normal(torch.zeros_like(std).squeeze(), std.squeeze())
        weights = dict(zip(mean.causes, mean.weights, strict=True))
        equations[name] = additive(mean, noise) if nonlinear else linear(weights, noise, mean.shift)
    graph = CausalGraph.from_parents(parents, names)
    positions = torch.randperm(n_features, generator=generator)[:n_actionable]
    actionable = {names[i] for i in positions}
    schema = Schema(_features(graph, actionable), graph, outcome="label", favourable=1)
    return StructuralCausalModel(schema, equations)


def _mechanism(
    values: Columns, expected_parents: float, nonlinear: bool, generator: torch.Generator
) -> _Sum:
    """A function of up to three of the features drawn so far, centred and scaled on them."""
    tries = torch.rand(MOST_PARENTS, generator=generator) < expected_parents / MOST_PARENTS
    chosen = torch.randperm(len(values), generator=generator)[: int(tries.sum())]
    if not len(chosen):
        return _Sum((), (), ())
    causes = tuple(list(values)[i] for i in chosen)
    kinds = torch.randint(len(SHAPES) if nonlinear else 1, (len(causes),), generator=generator)
    weights = _weights(len(causes), generator)
    raw = _Sum(causes, tuple(weights.tolist()), tuple(SHAPES[k] for k in kinds))
    low, high = SIGNAL
    std = low + (high - low) * float(torch.rand(1, generator=generator))
    drawn = torch.as_tensor(raw(values))
    factor = std / float(drawn.std())
    return raw.scaled(factor, -factor * float(drawn.mean()))


def _features(graph: CausalGraph, actionable: set[str]) -> tuple[Feature, ...]:
    roles: dict[str, Role] = dict.fromkeys(graph.nodes, "immutable")
    for name in actionable:
        roles |= dict.fromkeys(graph.descendants(name), "mutable")
    roles |= dict.fromkeys(actionable, "actionable")
    return tuple(Feature(name, role=roles[name]) for name in graph.nodes)


def _weights(n: int, generator: torch.Generator) -> Tensor:
    """Between 0.5 and 1.5, of either sign, shape ``(n,)``."""
    size = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64)
    return torch.where(torch.rand(n, generator=generator) < 0.5, -size, size)


def _check(n_features: int, n_actionable: int, expected_parents: float) -> None:
    if n_features < 2:
        raise SettingsError.of("random_scm", "n_features", "be at least 2", n_features)
    if not 1 <= n_actionable <= n_features:
        rule = f"lie in 1 to {n_features}, the number of features"
        raise SettingsError.of("random_scm", "n_actionable", rule, n_actionable)
    if not 0 <= expected_parents <= MOST_PARENTS:
        rule = f"lie in 0 to {MOST_PARENTS}"
        raise SettingsError.of("random_scm", "expected_parents", rule, expected_parents)
