"""The registry of recourse methods that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from carma.evaluation.arena import Arena
from carma.models.base import CausalModel
from carma.models.vaca import Vaca
from carma.recourse.base import Solver
from carma.recourse.dice_vae import TABLE_4, DiceVae, DiceVaeSettings
from carma.recourse.exact import ExactSettings, ExactSolver
from carma.recourse.grid import GridOracle, GridSettings
from carma.recourse.noncausal import NonCausalOptimum
from carma.recourse.published import TABLE_5, PublishedCarma, PublishedSettings

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """One way to recourse.

    Args:
        name: In tables, records and on the command line.
        description: One line.
        make: Arena and the margin asked for (``None``: the method's own) to a solver, which is
            fitted where methods share one fit.
    """

    name: str
    description: str
    make: Callable[[Arena, float | None], Solver]


def _exact(arena: Arena, model: CausalModel, margin: float | None) -> Solver:
    settings = ExactSettings(margin=margin or 0.0)
    return ExactSolver(model, arena.classifier, cost=arena.cost, settings=settings)


def _grid(arena: Arena, model: CausalModel, margin: float | None) -> Solver:
    bins = 15 if arena.data.name == "loan" else 25
    settings = GridSettings(bins=bins, margin=margin or 0.0)
    return GridOracle(model, arena.classifier, cost=arena.cost, settings=settings)


def _non_causal(arena: Arena, margin: float | None) -> Solver:
    settings = ExactSettings(margin=margin or 0.0)
    return NonCausalOptimum(
        arena.causal_model, arena.classifier, cost=arena.cost, settings=settings
    )


def _published(arena: Arena) -> Solver:
    if isinstance(arena.causal_model, Vaca):
        settings = PublishedSettings.table_6()
    else:
        name = arena.data.name if arena.data.name in TABLE_5 else "triangle-lin"
        is_weighted = arena.weights is not None and name == "loan"
        settings = PublishedSettings.table_5("loan-weighted" if is_weighted else name)
    settings = replace(settings, training=replace(settings.training, seed=arena.seed))
    return PublishedCarma(arena.causal_model, arena.classifier, cost=arena.cost, settings=settings)


def _dice_vae(arena: Arena, settings: DiceVaeSettings) -> Solver:
    settings = replace(settings, training=replace(settings.training, seed=arena.seed))
    return DiceVae(arena.causal_model, arena.classifier, cost=arena.cost, settings=settings)


def _published_dice_vae(arena: Arena) -> Solver:
    name = arena.data.name if arena.data.name in TABLE_4 else "triangle-lin"
    return _dice_vae(arena, DiceVaeSettings.table_4(name))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "exact",
            "the least cost on the learned causal model",
            lambda arena, margin: _exact(arena, arena.causal_model, margin),
        ),
        Method(
            "grid",
            "the paper's grid search on the learned causal model",
            lambda arena, margin: _grid(arena, arena.causal_model, margin),
        ),
        Method(
            "exact-true",
            "the least cost on the true causal model",
            lambda arena, margin: _exact(arena, arena.true_model, margin),
        ),
        Method(
            "grid-true",
            "the paper's oracle M*: its grid search on the true causal model",
            lambda arena, margin: _grid(arena, arena.true_model, margin),
        ),
        Method(
            "noncausal",
            "the least cost when nothing follows from an action",
            _non_causal,
        ),
        Method(
            "carma",
            "CARMA with its default settings",
            lambda arena, _: arena.carma,
        ),
        Method(
            "carma-single",
            "CARMA in one forward pass, without search",
            lambda arena, _: arena.carma.using(candidates=1, refine_steps=0, fallback=False),
        ),
        Method(
            "carma-published",
            "CARMA with the settings of the paper's Table 5 (triangle-lin's for other sets)",
            lambda arena, _: _published(arena),
        ),
        Method(
            "dice-vae",
            "DiCE-VAE: one forward pass without causal knowledge",
            lambda arena, _: _dice_vae(arena, DiceVaeSettings()),
        ),
        Method(
            "dice-vae-published",
            "DiCE-VAE with the settings of the paper's Table 4 (triangle-lin's for other sets)",
            lambda arena, _: _published_dice_vae(arena),
        ),
    )
}
