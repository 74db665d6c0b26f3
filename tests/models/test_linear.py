"""Linear mechanisms: weighted least squares, and which products stay."""

from __future__ import annotations

import torch
from torch import Tensor

from carma.models.affine import Affine
from carma.models.bootstrap import bootstrap_counts
from carma.models.linear import LinearMechanism


def rows(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return causes, 0.5 + causes @ torch.tensor([1.5, -0.5]).double() + 0.2 * noise


def test_counts_are_repeated_rows() -> None:
    causes, value = rows(40)
    counts = bootstrap_counts(torch.arange(40), 40, 2, torch.Generator().manual_seed(1))[1]
    repeated = torch.arange(40).repeat_interleave(counts.long())
    found = LinearMechanism.fit(causes, value, counts, 2)
    expected = LinearMechanism.fit(causes[repeated], value[repeated], torch.ones(40), 2)
    torch.testing.assert_close(found.constant, expected.constant)
    torch.testing.assert_close(found.slopes, expected.slopes)


def test_the_transform_of_a_linear_mechanism_takes_out_the_causes() -> None:
    causes, value = rows(5000)
    mechanism = LinearMechanism.fit(causes, value, torch.ones(5000), 2)
    transform = Affine(*mechanism.parameters(causes).unbind(-1))
    z = transform(value)
    torch.testing.assert_close(z.mean(), torch.tensor(0.0).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0).double(), atol=1e-9, rtol=0)
    assert torch.corrcoef(torch.cat([z[None], causes.T]))[0, 1:].abs().max() < 1e-7
    torch.testing.assert_close(transform.inv(z), value)
    slope = transform.log_abs_det_jacobian(value, z).exp()
    torch.testing.assert_close(slope.mean(), torch.tensor(5.0).double(), atol=0.2, rtol=0)


def test_without_noise_the_transform_is_the_steepest() -> None:
    causes, _ = rows(50)
    mechanism = LinearMechanism.fit(causes, causes[:, 0], torch.ones(50), 2)
    assert torch.isfinite(mechanism.constant).all()
    transform = Affine(*mechanism.parameters(causes).unbind(-1))
    torch.testing.assert_close(transform.inv(torch.zeros(50).double()), causes[:, 0])


def with_products(causes: Tensor) -> Tensor:
    first, second = causes.T
    return torch.cat([causes, torch.stack([first**2, first * second, second**2], dim=1)], dim=1)


def test_products_without_effect_are_left_out() -> None:
    causes, value = rows(5000)
    plain = LinearMechanism.fit(with_products(causes), value, torch.ones(5000), 2)
    expected = LinearMechanism.fit(causes, value, torch.ones(5000), 2)
    assert plain.slopes[2:].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(plain.slopes[:2], expected.slopes)
    torch.testing.assert_close(plain.constant, expected.constant)


def test_a_weak_product_stays_and_has_its_effect() -> None:
    causes, value = rows(5000)
    # Five standard errors: 0.2 / sqrt(5000) is one.
    curved = value + 0.015 * causes.prod(dim=1)
    found = LinearMechanism.fit(with_products(causes), curved, torch.ones(5000), 2)
    assert (found.slopes[2:] != 0).tolist() == [False, True, False]
    alone = torch.cat([causes, causes.prod(dim=1)[:, None]], dim=1)
    expected = LinearMechanism.fit(alone, curved, torch.ones(5000), 3)
    torch.testing.assert_close(found.slopes[[0, 1, 3]], expected.slopes)


def test_causes_stay_whatever_their_effect() -> None:
    causes, _ = rows(500)
    noise = torch.randn(500, generator=torch.Generator().manual_seed(3)).double()
    found = LinearMechanism.fit(with_products(causes), noise, torch.ones(500), 2)
    assert (found.slopes != 0).tolist() == [True, True, False, False, False]


def test_one_product_in_a_hundred_stays_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    stayed = 0
    for _ in range(400):
        causes, value = torch.randn(2, 200, 3, generator=generator).double()
        products = torch.stack([causes[:, 0] * causes[:, 1], causes[:, 1] * causes[:, 2]], dim=1)
        features = torch.cat([causes, products], dim=1)
        found = LinearMechanism.fit(features, value[:, 0], torch.ones(200), 3)
        stayed += int((found.slopes[3:] != 0).sum())
    assert 0.004 < stayed / 800 < 0.02


def test_columns_that_depend_share_their_effect() -> None:
    causes, value = rows(500)
    both = causes[:, [0, 0, 1]]
    found = LinearMechanism.fit(both, value, torch.ones(500), 3)
    expected = LinearMechanism.fit(causes, value, torch.ones(500), 2)
    shared = torch.stack([expected.slopes[0] / 2, expected.slopes[0] / 2, expected.slopes[1]])
    torch.testing.assert_close(found.slopes, shared, atol=1e-5, rtol=1e-5)


def test_without_noise_no_product_is_needed() -> None:
    causes, _ = rows(500)
    found = LinearMechanism.fit(with_products(causes), 0.25 * causes[:, 0], torch.ones(500), 2)
    assert found.slopes[2:].tolist() == [0.0, 0.0, 0.0]


def test_more_features_than_rows_give_finite_numbers() -> None:
    causes, value = rows(4)
    found = LinearMechanism.fit(with_products(causes), value, torch.ones(4), 2)
    assert torch.isfinite(found.slopes).all()
    assert torch.isfinite(found.constant).all()


def test_ridge_is_least_squares_where_features_tell_enough() -> None:
    causes, value = rows(5000)
    found = LinearMechanism.ridge(causes, value, torch.ones(5000))
    expected = LinearMechanism.fit(causes, value, torch.ones(5000), 2)
    torch.testing.assert_close(found.slopes, expected.slopes, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.constant, expected.constant, rtol=1e-3, atol=0)


def test_ridge_bears_features_that_are_alike_or_constant() -> None:
    causes, value = rows(500)
    alike = torch.cat([causes, causes + 1e-9, torch.ones(500, 1).double()], dim=1)
    found = LinearMechanism.ridge(alike, value, torch.ones(500))
    once = LinearMechanism.ridge(causes, value, torch.ones(500))
    assert found.slopes.abs().max() <= once.slopes.abs().max()
    torch.testing.assert_close(
        found.parameters(alike), once.parameters(causes), rtol=1e-3, atol=1e-3
    )
