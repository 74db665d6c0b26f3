"""Noise given what was observed: quantiles of truncated distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from carma.models.truncated import log_mass, truncated_gumbels, truncated_logistic

INF = math.inf
INTERVALS = [
    (-INF, INF),
    (-INF, -3.0),
    (-0.5, 2.0),
    (1.0, INF),
    (30.0, 30.5),
    (-200.0, -199.0),
    (300.0, INF),
]


def shares(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def test_the_masses_of_a_partition_add_up_to_one() -> None:
    ends = torch.tensor([-INF, -20.0, -1.0, 0.3, 0.31, 5.0, INF]).double()
    low, high = ends[:-1], ends[1:]
    found = log_mass(low, high, high - low)
    torch.testing.assert_close(found.exp(), high.sigmoid() - low.sigmoid())
    assert float(found.exp().sum()) == pytest.approx(1.0)


def test_a_mass_far_out_is_no_zero() -> None:
    low = torch.tensor([400.0]).double()
    found = log_mass(low, low + 1, torch.ones(1).double())
    assert float(found) == pytest.approx(-400 + math.log(-math.expm1(-1)))


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_quantiles_of_the_truncated_logistic_lie_inside_and_rise(low: float, high: float) -> None:
    share = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    ends = torch.tensor([low, high]).double()
    found = truncated_logistic(ends[0], ends[1], share)
    assert bool(((found > low) & (found < high)).all())
    assert bool((found.diff() > 0).all())


@pytest.mark.parametrize(("low", "high"), INTERVALS[:4])
def test_a_quantile_has_its_share_below(low: float, high: float) -> None:
    share, ends = shares(50), torch.tensor([low, high]).double()
    found = truncated_logistic(ends[0], ends[1], share).sigmoid()
    first, last = ends.sigmoid()
    torch.testing.assert_close((found - first) / (last - first), share)


def test_the_observed_level_wins_whatever_the_shares() -> None:
    logits = torch.log_softmax(40 * (shares(500, 4) - 0.5), dim=1)
    chosen = torch.arange(500) % 4
    for share in (shares(500, 4, seed=1), torch.full((500, 4), 0.001), torch.full((500, 4), 0.999)):
        noise = truncated_gumbels(logits, chosen[:, None], share.double())
        assert torch.isfinite(noise).all()
        assert torch.equal((logits + noise).argmax(dim=1), chosen)


def test_truncated_gumbels_are_gumbels_that_agree_with_the_level() -> None:
    """The same as drawing Gumbel noise and keeping what gives the observed level."""
    n, observed = 200_000, 1
    logits = torch.tensor([0.5, 0.2, 0.3]).double().log()
    other = torch.tensor([0.2, 0.3, 0.5]).double().log()
    free = -torch.log(-shares(n, 3).log())
    kept = free[(logits + free).argmax(dim=1) == observed]
    noise = truncated_gumbels(
        logits[None], torch.tensor([[observed]]), shares(len(kept), 3, seed=1)
    )
    torch.testing.assert_close(noise.mean(dim=0), kept.mean(dim=0), atol=0.02, rtol=0)
    torch.testing.assert_close(noise.std(dim=0), kept.std(dim=0), atol=0.02, rtol=0)
    levels = [(other + found).argmax(dim=1).bincount(minlength=3) for found in (noise, kept)]
    first, second = (level / len(kept) for level in levels)
    torch.testing.assert_close(first, second, atol=0.01, rtol=0)
