"""The method of multipliers finds constrained optima."""

from __future__ import annotations

import pytest
import torch

from carma.recourse.multipliers import Multiplier


@pytest.mark.parametrize(("damping", "rate"), [(10.0, 0.03), (10.0, 0.3), (1.0, 0.03)])
def test_least_square_at_least_one(damping: float, rate: float) -> None:
    """min x^2 subject to x >= 1: x = 1, and the multiplier is the slope 2."""
    x = torch.zeros((), requires_grad=True)
    multiplier = Multiplier(damping, rate)
    optimiser = torch.optim.SGD([x], lr=0.02)
    for _ in range(3000):
        optimiser.zero_grad()
        loss = x**2 + multiplier.term((1 - x).clamp(min=0))
        torch.autograd.backward(loss)
        optimiser.step()
        multiplier.step()
    assert x.item() == pytest.approx(1.0, abs=0.02)
    assert multiplier.value == pytest.approx(2.0, abs=0.1)


def test_the_damping_pushes_towards_the_constraint() -> None:
    multiplier = Multiplier(damping=10.0, rate=0.5)
    multiplier.value = 3.0
    violation = torch.tensor(0.2, requires_grad=True)
    term = multiplier.term(violation)
    torch.autograd.backward(term)
    assert term.item() == pytest.approx((3.0 + 10 * 0.2) * 0.2)
    assert violation.grad is not None
    assert violation.grad.item() == pytest.approx(3.0 + 10 * 0.2)
    multiplier.step()
    assert multiplier.value == pytest.approx(3.0 + 0.5 * 0.2)


def test_it_never_falls_below_zero() -> None:
    multiplier = Multiplier()
    multiplier.term(torch.tensor(-0.5))
    multiplier.step()
    assert multiplier.value == 0.0


def test_without_violation_nothing_is_added() -> None:
    multiplier = Multiplier()
    assert multiplier.term(torch.tensor(0.0)).item() == 0.0
    multiplier.step()
    assert multiplier.value == 0.0
