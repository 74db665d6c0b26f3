"""Which plans of others are worth a look, told by networks that have seen many tried."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from carma.recourse.precedents import Precedents
from carma.table import Statistics
from carma.training import History, TrainingSettings, split_rows, train

__all__ = ["Retrieval", "Tried"]


@dataclass(frozen=True)
class Tried:
    """How plans of others suit n people, as it is foreseen.

    Args:
        at: Positions of k plans that were tried on each, shape ``(n, k)``, int64.
        promise: What each costs done as far as it takes, infinite where it leads nowhere or may
            not be followed, same shape.
        price: What each costs as it is, infinite where it is not sure to hold, same shape.
    """

    at: Tensor
    promise: Tensor
    price: Tensor

    @classmethod
    def joined(cls, parts: list[Tried]) -> Tried:
        """Put batches one after the other."""
        names = ("at", "promise", "price")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


class Retrieval(nn.Module):
    """Two networks, one on people and one on plans, that point the same way where these suit.

    Whose plan suits a person best is often not the person who is most alike: some differences
    matter, most do not. For each way to suit (``WAYS``), the network on people tells a vector,
    that on plans another one and how well the plan suits in general; their product is the log-odds
    that of all plans this one is the cheapest.

    Args:
        columns: Those that plans may act on, int64.
        statistics: Of the causal model's training table: the scale of values.
        n_inputs: Of ``Precedents.seen``.

    References:
        Yi et al. 2019, Sampling-bias-corrected neural modeling for large corpus item
        recommendations, RecSys, doi 10.1145/3298689.3346996, for retrieval by two towers.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, columns: Tensor, statistics: Statistics, n_inputs: int) -> None:
        super().__init__()
        self._columns = columns
        spread = statistics.std[columns]
        self.register_buffer("centre", statistics.mean[columns].clone())
        self.register_buffer("scale", torch.where(spread > TINY, spread, 1.0))
        self.people = _tower(n_inputs, len(WAYS) * WIDTH)
        self.plans = _tower(n_inputs + 3 * len(columns), len(WAYS) * (WIDTH + 1))

    def best(
        self, seen: Tensor, known: Precedents, count: int, besides: Tensor | None = None
    ) -> Tensor:
        """The plans that suit best, as many of each way.

        Args:
            seen: Of n people, shape ``(n, n_inputs)``.
            known: All plans.
            count: Plans of each person; fewer where not so many are known.
            besides: Plans of each person that are not wanted again, shape ``(n, k)``, int64.

        Returns:
            Positions, no plan twice, shape ``(n, count)``, int64.
        """
        count = min(count, len(known) - (0 if besides is None else besides.shape[1]))
        # What differs by rounding only must not depend on who else is in the batch.
        vectors, bias = (told / GRAIN for told in self._plans_of(known))
        shares = [len(range(way, count, len(WAYS))) for way in range(len(WAYS))]
        found = []
        for at in torch.split(torch.arange(len(seen)), AT_ONCE):
            left = [each.round_() for each in self._suits(seen[at], vectors, bias)]
            chosen: list[Tensor] = []
            if besides is not None:
                left = [each.scatter_(1, besides[at], -torch.inf) for each in left]
            for way, share in enumerate(shares):
                for before in chosen:
                    left[way].scatter_(1, before, -torch.inf)
                chosen.append(left[way].topk(share, dim=1).indices)
            found.append(torch.cat(chosen, dim=1))
        return torch.cat(found)

    def _plans_of(self, known: Precedents) -> tuple[Tensor, Tensor]:
        """Vectors of plans, ``(ways, width, m)``, and how well they suit at all, ``(ways, m)``."""
        where = self._columns
        mask, is_held = known.mask[:, where].float(), known.is_held[:, where].float()
        values = ((known.values[:, where] - self.centre) / self.scale).float().clamp(-FAR, FAR)
        told = self.plans(torch.cat([mask, is_held, values, known.seen], dim=1))
        told = told.view(len(known), len(WAYS), WIDTH + 1).permute(1, 2, 0)
        return told[:, :WIDTH] / math.sqrt(WIDTH), told[:, WIDTH]

    def _suits(self, seen: Tensor, vectors: Tensor, bias: Tensor) -> list[Tensor]:
        """How well each plan suits each person in each way, shapes ``(n, m)``."""
        who = self.people(seen).view(len(seen), len(WAYS), WIDTH).unbind(dim=1)
        parts = zip(who, vectors, bias, strict=True)
        return [torch.addmm(b, person, plan) for person, plan, b in parts]

    def learn(
        self,
        seen: Tensor,
        known: Precedents,
        tried: Tried,
        settings: TrainingSettings,
        progress: bool | None,
    ) -> History | None:
        """Train; keep the epoch that is best on held-out people.

        Args:
            seen: Of n people, shape ``(n, n_inputs)``.
            known: All plans.
            tried: Some of them on each person.
            settings: Epochs, batches, learning rate, seed.
            progress: See ``track``.

        Returns:
            The history; ``None`` where plans suit fewer than two people, of whom nothing is
            learned.
        """
        suits = torch.isfinite(tried.promise).any(dim=1).nonzero().squeeze(1)
        if len(suits) < 2:
            return None
        ways = {"promise": tried.promise[suits], "price": tried.price[suits]}
        at, seen = tried.at[suits], seen[suits]
        # Nobody is taught where no plan suits in one way.
        wanted = [
            (-ways[name].log() / grade).softmax(dim=1).nan_to_num(0.0) for name, grade in WAYS
        ]
        rows, held_out = split_rows(len(suits), settings.validation_fraction, settings.seed)

        def loss(chosen: Tensor) -> Tensor:
            told = self._suits(seen[chosen], *self._plans_of(known))
            parts = [
                -(share[chosen] * log_softmax(each.gather(1, at[chosen]), dim=1)).sum(dim=1).mean()
                for each, share in zip(told, wanted, strict=True)
            ]
            return torch.stack(parts).sum()

        self.requires_grad_(True)
        history = train(
            self,
            len(rows),
            lambda batch: loss(rows[batch]),
            lambda: float(loss(held_out)),
            settings,
            description="carma: which plans suit whom",
            progress=progress,
        )
        self.requires_grad_(False)
        return history


def _tower(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, n_out))


# Ways to suit: by which cost, and by how much, in logarithms, plans may be dearer than the cheapest
# and be worth a look. The last one looks for plans that are sure rather than cheap.
WAYS = (("promise", 0.1), ("price", 0.1), ("price", 1.0))
# Numbers of each vector and way; hidden width.
WIDTH, HIDDEN = 16, 128
# People who are compared at once; differences of log-odds that go unnoticed.
AT_ONCE, GRAIN = 256, 1e-3
# Spreads beyond which values look the same.
FAR = 8.0
TINY = 1e-6
