"""Linear mechanisms: weighted least squares, and the rule that prefers them."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.models.affine import Affine
from carma.models.bootstrap import bootstrap_counts
from carma.models.linear import LinearMechanism, select_linear


def rows(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return causes, 0.5 + causes @ torch.tensor([1.5, -0.5]).double() + 0.2 * noise


def test_counts_are_repeated_rows() -> None:
    causes, value = rows(40)
    counts = bootstrap_counts(torch.arange(40), 40, 2, torch.Generator().manual_seed(1))[1]
    repeated = torch.arange(40).repeat_interleave(counts.long())
    found = LinearMechanism.fit(causes, value, counts)
    expected = LinearMechanism.fit(causes[repeated], value[repeated], torch.ones(40))
    torch.testing.assert_close(found.constant, expected.constant)
    torch.testing.assert_close(found.slopes, expected.slopes)


def test_the_transform_of_a_linear_mechanism_takes_out_the_causes() -> None:
    causes, value = rows(5000)
    mechanism = LinearMechanism.fit(causes, value, torch.ones(5000))
    transform = Affine(*mechanism.parameters(causes).unbind(-1))
    z = transform(value)
    torch.testing.assert_close(z.mean(), torch.tensor(0.0).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0).double(), atol=1e-9, rtol=0)
    assert torch.corrcoef(torch.cat([z[None], causes.T]))[0, 1:].abs().max() < 1e-9
    torch.testing.assert_close(transform.inv(z), value)
    slope = transform.log_abs_det_jacobian(value, z).exp()
    torch.testing.assert_close(slope.mean(), torch.tensor(5.0).double(), atol=0.2, rtol=0)


def test_without_noise_the_transform_is_the_steepest() -> None:
    causes, _ = rows(50)
    mechanism = LinearMechanism.fit(causes, causes[:, 0], torch.ones(50))
    assert torch.isfinite(mechanism.constant).all()
    transform = Affine(*mechanism.parameters(causes).unbind(-1))
    torch.testing.assert_close(transform.inv(torch.zeros(50).double()), causes[:, 0])


def test_only_rows_that_were_not_seen_count() -> None:
    # Member 0 was fitted to the first six rows, member 1 to the first two.
    counts = torch.tensor([[1.0] * 6 + [0.0] * 2, [3.0, 3.0] + [0.0] * 6])

    def gain(member: int, where: Tensor) -> Tensor:
        assert not counts[member, where].any()
        better = torch.tensor([1.0, 1.0, 1.1, 1.0, 1.1, 1.0, -0.3, -0.4])
        return torch.stack([better[where], -better[where], 0 * better[where]], dim=1)

    chosen = select_linear(counts, 3, gain)
    # Held-out rows alone would make the first network linear, and keep the second.
    assert chosen[0].tolist() == [False, True, True]
    assert chosen[1].tolist() == [False, True, True]
    assert select_linear(counts[:1], 3, gain)[0].tolist() == [True, False, True]


def test_a_gain_within_one_standard_error_is_not_clear() -> None:
    counts = torch.zeros(1, 4)
    gains = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [0.9, -0.9]])
    assert select_linear(counts, 2, lambda _, where: gains[where])[0].tolist() == [False, True]
