"""What networks see of columns with extreme values."""

from __future__ import annotations

import torch
from torch import Tensor

from carma import CausalGraph, Feature, Schema
from carma.models.scores import EXTREME, Scores
from carma.table import Encoding, Statistics

NAMES = ("amount", "plain", "rare")
SCHEMA = Schema(
    (Feature("amount", "integer"), Feature("plain"), Feature("rare", "binary")),
    CausalGraph.from_edges([], NAMES),
)


def table() -> Tensor:
    """Zero for most and huge for few; normal; a level that one in 999 has."""
    generator = torch.Generator().manual_seed(0)
    amount = torch.randn(2000, generator=generator).mul(3).exp().round()
    amount[:1200] = 0
    plain = torch.randn(2000, generator=generator)
    return torch.stack([amount, plain, torch.arange(2000) % 999 == 0], dim=1).double()


def scores_of(x: Tensor) -> Scores:
    encoding = Encoding(SCHEMA)
    return Scores.of(x, encoding, Statistics.of(x, encoding))


def test_a_heavy_tail_is_seen_as_normal_scores_and_the_rest_in_standard_deviations() -> None:
    x = table()
    z = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    assert z[:, [0, 2]].abs().amax(dim=0).min() > EXTREME
    found = scores_of(x)(x, range(3))
    torch.testing.assert_close(found[:, 1:], z[:, 1:])
    for share in (0.9, 0.95, 0.99):
        expected = torch.special.ndtri(torch.tensor(share).double())
        torch.testing.assert_close(found[:, 0].quantile(share), expected, atol=0.1, rtol=0)
    # All people at zero have the middle of their ranks.
    rank = (x[:, 0] == 0).double().mean() / 2
    zeros = found[x[:, 0] == 0, 0]
    torch.testing.assert_close(zeros, torch.special.ndtri(rank).expand_as(zeros), atol=0.01, rtol=0)


def test_scores_rise_also_beyond_what_was_seen() -> None:
    x = table()
    scores = scores_of(x)
    value = torch.linspace(-5 * float(x[:, 0].max()), 5 * float(x[:, 0].max()), 999).double()
    found = scores(value[:, None], [0])[:, 0]
    assert bool((found.diff() > 0).all())
    assert float(scores(x[:, :1].max(dim=0, keepdim=True).values, [0])) < 5


def test_some_columns_in_any_shape_are_what_they_are_among_all() -> None:
    x = table()
    scores = scores_of(x)
    whole = scores(x, range(3))
    found = scores(x.view(4, 500, 3)[..., [2, 0]], [2, 0])
    assert torch.equal(found, whole.view(4, 500, 3)[..., [2, 0]])
    tensors = scores.as_tensors()
    again = Scores(Statistics.of(x), **tensors)
    assert torch.equal(again(x, range(3)), whole)
    assert scores(x[:0], range(3)).shape == (0, 3)
