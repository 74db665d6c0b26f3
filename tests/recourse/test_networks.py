"""The two networks: the policy used is the policy trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from carma.recourse.networks import PolicyNetworks


@pytest.fixture
def networks() -> PolicyNetworks:
    torch.manual_seed(0)
    return PolicyNetworks(5, torch.tensor([0, 1, 4]), (8,), (8, 8))


@pytest.fixture
def embedded() -> PolicyNetworks:
    """Five columns of two latents each; the last three are actionable."""
    torch.manual_seed(0)
    return PolicyNetworks(10, torch.tensor([2, 3, 4]), (8,), (8, 8), n_each=2)


def latents(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def test_the_mask_is_the_argmax_of_the_two_way_softmax(networks: PolicyNetworks) -> None:
    z = latents(200)
    pair = networks.mask_network(z).view(200, 3, 2)
    likelier = pair.softmax(dim=-1).argmax(dim=-1)
    mask = networks.mask(z)
    top = (pair[..., 1] - pair[..., 0]).argmax(dim=1, keepdim=True)
    expected = likelier.scatter(1, top, 1)
    assert torch.equal(mask, expected.to(mask.dtype))
    assert mask.any(dim=1).all()
    torch.testing.assert_close(
        torch.sigmoid(networks.logits(z)), pair.softmax(dim=-1)[..., 1], atol=1e-6, rtol=1e-6
    )


def test_a_feature_is_chosen_where_all_are_unlikely(networks: PolicyNetworks) -> None:
    with torch.no_grad():
        last = networks.mask_network[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(torch.tensor([9.0, 0.0] * 3))
    z = latents(50)
    assert (networks.logits(z) < 0).all()
    assert (networks.mask(z).sum(dim=1) == 1).all()


def test_sampled_frequencies_are_the_sigmoids(networks: PolicyNetworks) -> None:
    logits = torch.tensor([[-2.0, 0.4, 1.5]])
    torch.manual_seed(3)
    for temperature in (0.1, 0.5, 1.0):
        drawn = networks.sample_mask(logits.expand(40_000, 3), temperature)
        assert set(drawn.flatten().tolist()) <= {0.0, 1.0}
        found = drawn.mean(dim=0)
        expected = torch.sigmoid(logits[0])
        # The likeliest is always on.
        expected[2] = 1.0
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0.0)


def test_gradients_pass_straight_through(networks: PolicyNetworks) -> None:
    logits = torch.tensor([[-1.0, 0.2, 0.7], [3.0, 2.0, -4.0]], requires_grad=True)
    temperature = 0.5
    torch.manual_seed(4)
    weights = torch.tensor([[1.0, -2.0, 3.0]])
    drawn = networks.sample_mask(logits, temperature)
    torch.autograd.backward((drawn * weights).sum())
    torch.manual_seed(4)
    noise = torch.logit(torch.rand_like(logits.detach()))
    relaxed = torch.sigmoid((logits.detach() + noise) / temperature)
    expected = weights * relaxed * (1 - relaxed) / temperature
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected)
    assert set(drawn.detach().flatten().tolist()) <= {0.0, 1.0}


def test_what_is_not_chosen_does_not_change(networks: PolicyNetworks) -> None:
    z = latents(30)
    mask = (torch.rand(30, 3, generator=torch.Generator().manual_seed(5)) < 0.5).float()
    change = networks.change(z, mask)
    assert change.shape == (30, 3)
    assert (change[mask == 0] == 0).all()
    assert (change[mask == 1] != 0).any()


def test_latents_of_any_scale_look_alike(networks: PolicyNetworks) -> None:
    z, factor = latents(100), torch.tensor([2.0, 0.5, 8.0, 1.0, 4.0])
    networks.standardise_on(z)
    first = networks.logits(z)
    networks.standardise_on(z * factor + 3)
    torch.testing.assert_close(networks.logits(z * factor + 3), first, atol=1e-5, rtol=1e-5)


def test_a_constant_latent_is_left_alone(networks: PolicyNetworks) -> None:
    z = latents(20)
    z[:, 2] = 7.0
    networks.standardise_on(z)
    assert networks.scale[2] == 1.0
    assert torch.isfinite(networks.logits(z)).all()


def test_all_latents_of_a_chosen_column_change_and_no_others(embedded: PolicyNetworks) -> None:
    z = torch.randn(30, 10, generator=torch.Generator().manual_seed(1))
    mask = (torch.rand(30, 3, generator=torch.Generator().manual_seed(5)) < 0.5).float()
    change = embedded.change(z, mask).view(30, 3, 2)
    assert not change[mask == 0].any()
    assert change[mask == 1].all()


def test_every_latent_and_every_choice_is_seen(embedded: PolicyNetworks) -> None:
    z = torch.randn(40, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
    mask = torch.ones(40, 3, requires_grad=True)
    # Others than the change itself, which the mask multiplies.
    change = embedded.change(z, mask).view(40, 3, 2)[:, 0].sum()
    seen, chosen = torch.autograd.grad(change, [z, mask])
    assert seen.any(dim=0).all()
    assert chosen.any(dim=0).all()


def test_columns_share_the_embedding_and_the_way_back(embedded: PolicyNetworks) -> None:
    shapes = {name: tuple(p.shape) for name, p in embedded.named_parameters()}
    assert shapes["embedding.weight"] == (8, 3)
    assert shapes["back.0.weight"] == (8, 8)
    assert shapes["back.2.weight"] == (2, 8)
