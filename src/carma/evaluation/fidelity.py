"""How close a learned causal model comes to the true one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from carma.interventions import Intervention
from carma.models.base import CausalModel
from carma.state import seeded

__all__ = ["Fidelity", "random_interventions"]


@dataclass(frozen=True)
class Fidelity:
    """What people who were not trained on say about a causal model; spreads are training ones.

    Args:
        log_prob: Mean log-likelihood of the rows.
        log_prob_normal_root: The same with binary roots as the CARMA paper has them: as a normal
            density on 0 and 1, not as a probability.
        rmse: Of what follows from random interventions against the true model, by feature, in
            standard deviations.
        own_values: What moves, against the laws, when people are set to their own values; root
            mean square of the feature that moves most, in standard deviations.
        composition: The same, when some of what followed is set to what it came to.
        round_trip: The same for ``predict(abduct(x))``.

    Example:
        >>> from carma.benchmarks import load
        >>> data = load("chain-lin", rows=200)
        >>> x = data.encoded("causal", "test")
        >>> Fidelity.of(data.scm, data.scm, x).rmse
        {'x2': 0.0, 'x3': 0.0}
    """

    log_prob: float
    log_prob_normal_root: float
    rmse: dict[str, float]
    own_values: float
    composition: float
    round_trip: float

    @classmethod
    def of(cls, model: CausalModel, truth: CausalModel, x: Tensor, *, seed: int = 0) -> Fidelity:
        """Measure a fitted model.

        Args:
            model: The learned one.
            truth: The true one.
            x: People, shape ``(n, d)``, model space.
            seed: Of the interventions.
        """
        std, do = model.statistics_.std, random_interventions(model, x, seed)
        follows = (do.mask.double() @ model.encoding.reach_weights > 0) & ~do.mask
        settable = follows & ~model.encoding.is_derived
        more = do.mask | (settable & (torch.rand(x.shape, generator=seeded(seed + 1)) < 0.5))
        with torch.no_grad():
            log_prob = model.log_prob(x)
            reached, expected = (m.counterfactual(x, do) for m in (model, truth))
            own = model.counterfactual(x, Intervention(do.mask, x))
            again = model.counterfactual(x, Intervention(more, reached))
            back = model.predict(model.abduct(x))

        def off(found: Tensor, right: Tensor, where: Tensor) -> dict[str, float]:
            error = (found - right) / std
            return {
                name: float(error[where[:, i], i].square().mean().sqrt())
                for i, name in enumerate(model.encoding.columns)
                if where[:, i].any()
            }

        everywhere = torch.ones_like(follows)
        return cls(
            float(log_prob.mean()),
            float(_with_normal_roots(model, x, log_prob).mean()),
            off(reached, expected, follows),
            max(off(own, x, follows).values(), default=0.0),
            max(off(again, reached, follows & ~more).values(), default=0.0),
            max(off(back, x, everywhere).values()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content."""
        return asdict(self)


def random_interventions(model: CausalModel, x: Tensor, seed: int) -> Intervention:
    """Random sets of actionable columns, set to what other rows have.

    Args:
        model: Fitted.
        x: Shape ``(n, d)``, model space.
        seed: Of the draws.
    """
    draws = seeded(seed)
    columns = model.encoding.actionable
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, columns] = torch.rand(len(x), len(columns), generator=draws) < 0.5
    order = torch.randperm(len(x), generator=draws)
    return Intervention(mask, torch.where(mask, x[order], 0.0))


def _with_normal_roots(model: CausalModel, x: Tensor, log_prob: Tensor) -> Tensor:
    total, statistics = log_prob, model.statistics_
    for name in model.schema.graph.roots:
        if model.schema[name].kind == "binary":
            i = model.encoding.column(name)
            share, spread = statistics.mean[i], statistics.std[i]
            total = total - torch.where(x[:, i] == 1, share.log(), torch.log1p(-share))
            away = (x[:, i] - share) / spread
            total = total - away.square() / 2 - spread.log() - math.log(2 * math.pi) / 2
    return total
