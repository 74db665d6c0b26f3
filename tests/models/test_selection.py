"""The rule that prefers a simple mechanism to a network."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.models.selection import select_simple


def test_only_rows_that_were_not_seen_count() -> None:
    # Member 0 was fitted to the first six rows, member 1 to the first two.
    counts = torch.tensor([[1.0] * 6 + [0.0] * 2, [3.0, 3.0] + [0.0] * 6])

    def gain(member: int, where: Tensor) -> Tensor:
        assert not counts[member, where].any()
        better = torch.tensor([1.0, 1.0, 1.1, 1.0, 1.1, 1.0, -0.3, -0.4])
        return torch.stack([better[where], -better[where], 0 * better[where]], dim=1)

    chosen = select_simple(counts, 3, gain)
    # Held-out rows alone would drop the first network, and keep the second.
    assert chosen[0].tolist() == [False, True, True]
    assert chosen[1].tolist() == [False, True, True]
    assert select_simple(counts[:1], 3, gain)[0].tolist() == [True, False, True]


def test_a_gain_within_one_standard_error_is_not_clear() -> None:
    counts = torch.zeros(1, 4)
    gains = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [0.9, -0.9]])
    assert select_simple(counts, 2, lambda _, where: gains[where])[0].tolist() == [False, True]
