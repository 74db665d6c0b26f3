"""The two networks of CARMA: which features to act on, and how far."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PolicyNetworks"]


class PolicyNetworks(nn.Module):
    """Mask network on z and action network on (z, mask), both ReLU MLPs.

    Args:
        n_latent: Width of z.
        n_actionable: Number K of actionable columns.
        mask_hidden: Widths of the mask network's hidden layers.
        action_hidden: Widths of the action network's hidden layers.

    References:
        Majumdar & Valera 2024, CARMA, sections 3.2 and 3.3.

    Example:
        >>> networks = PolicyNetworks(4, 3, (8,), (8,))
        >>> mask = networks.mask(torch.zeros(2, 4))
        >>> networks.change(torch.zeros(2, 4), mask).shape
        torch.Size([2, 3])
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        n_latent: int,
        n_actionable: int,
        mask_hidden: tuple[int, ...],
        action_hidden: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.n_actionable = n_actionable
        self.mask_network = mlp(n_latent, mask_hidden, 2 * n_actionable)
        self.action_network = mlp(n_latent + n_actionable, action_hidden, n_actionable)
        self.register_buffer("centre", torch.zeros(n_latent))
        self.register_buffer("scale", torch.ones(n_latent))

    def standardise_on(self, z: Tensor) -> None:
        """Take centre and scale of the latents from training rows ``(n, n_latent)``."""
        std = z.std(0, correction=0)
        self.centre.copy_(z.mean(0))
        self.scale.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def logits(self, z: Tensor) -> Tensor:
        """Log-odds of acting on each feature, ``(n, K)``: those of the two-way softmax."""
        pair: Tensor = self.mask_network(self._scaled(z)).view(len(z), self.n_actionable, 2)
        return pair[..., 1] - pair[..., 0]

    def mask(self, z: Tensor) -> Tensor:
        """The most probable mask that is not empty, ``(n, K)``, 0/1."""
        logits = self.logits(z)
        return ((logits > 0) | _is_top(logits)).to(self.centre.dtype)

    def sample_mask(self, logits: Tensor, temperature: float) -> Tensor:
        """Straight-through Gumbel-softmax: 0/1 forward, the relaxed sample's gradient backward.

        As in ``mask``, the feature with the highest log-odds is always on.

        Args:
            logits: Shape ``(n, K)``.
            temperature: Of the relaxation.

        Returns:
            Shape ``(n, K)``.

        References:
            Jang, Gu & Poole 2017, arXiv 1611.01144.
        """
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        # The difference of two Gumbel draws is logistic.
        relaxed = torch.sigmoid((logits + torch.logit(uniform)) / temperature)
        chosen = (relaxed > 0.5) | _is_top(logits)
        return chosen.to(relaxed.dtype) - relaxed.detach() + relaxed

    def change(self, z: Tensor, mask: Tensor) -> Tensor:
        """Change of each actionable latent in units of its spread, ``(n, K)``."""
        change: Tensor = self.action_network(torch.cat([self._scaled(z), mask], dim=1))
        return change * mask

    def _scaled(self, z: Tensor) -> Tensor:
        return (z.to(self.centre.dtype) - self.centre) / self.scale


def _is_top(logits: Tensor) -> Tensor:
    return logits == logits.amax(dim=1, keepdim=True)


def mlp(n_in: int, hidden: tuple[int, ...], n_out: int) -> nn.Sequential:
    """Linear layers with ReLU in between."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_in, width), nn.ReLU()]
        n_in = width
    return nn.Sequential(*layers, nn.Linear(n_in, n_out))
