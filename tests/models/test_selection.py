"""The rule that prefers a simple mechanism to a network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carma.models.selection import select_simplest


def test_only_rows_that_were_not_seen_count() -> None:
    # Member 0 was fitted to the first six rows, member 1 to the first two.
    counts = torch.tensor([[1.0] * 6 + [0.0] * 2, [3.0, 3.0] + [0.0] * 6])

    def likelihood(member: int, where: Tensor) -> Tensor:
        assert not counts[member, where].any()
        better = torch.tensor([9.0, 9.0, 9.1, 9.0, 9.1, 9.0, -1.2, -1.3])[where]
        gains = torch.stack([better, -better, 0 * better], dim=1)
        return torch.stack([0 * gains, gains], dim=2)

    chosen = select_simplest(counts, 3, 2, likelihood)
    # Held-out rows alone would drop the first network, and keep the second.
    assert chosen[0].tolist() == [1, 0, 0]
    assert chosen[1].tolist() == [1, 0, 0]
    assert select_simplest(counts[:1], 3, 2, likelihood)[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("simple", "middle", "network", "chosen"),
    [
        # No gain, a clear one each, only one of both, only the two together.
        (0.0, 0.0, 0.0, 0),
        (0.0, 1.0, 2.0, 2),
        (0.0, 1.0, 1.0, 1),
        (0.0, 0.0, 1.0, 2),
        (0.0, -1.0, 1.0, 2),
        (0.0, 1.0, 0.0, 1),
        (0.0, 0.2, 0.4, 2),
        (0.0, -1.0, -1.0, 0),
    ],
)
def test_the_simplest_that_nothing_clearly_outdoes(
    simple: float, middle: float, network: float, chosen: int
) -> None:
    counts = torch.zeros(1, 400)
    noise = torch.randn(400, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    reached = noise - noise.mean(dim=0) + torch.tensor([simple, middle, network])
    # The standard error of a difference is 0.07: two of them are 0.14.
    assert select_simplest(counts, 1, 3, lambda _, rows: reached[rows]).tolist() == [[chosen]]


def test_a_gain_within_two_standard_errors_is_not_clear() -> None:
    counts = torch.zeros(1, 4)
    gains = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [0.9, -0.1]])
    reached = torch.stack([torch.zeros_like(gains), gains], dim=2)
    assert select_simplest(counts, 2, 2, lambda _, rows: reached[rows])[0].tolist() == [1, 0]


def test_a_gain_of_nothing_is_not_clear_however_sure() -> None:
    counts = torch.zeros(1, 50)
    reached = torch.tensor([[[0.0, 1e-3], [0.0, 0.1]]]).double().expand(50, 2, 2)
    assert select_simplest(counts, 2, 2, lambda _, rows: reached[rows])[0].tolist() == [0, 1]
