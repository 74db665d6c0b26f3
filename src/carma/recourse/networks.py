"""The two networks of CARMA: which features to act on, and how far."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PolicyNetworks"]


class PolicyNetworks(nn.Module):
    """Mask network on z and action network on (z, mask), both ReLU MLPs.

    Where a column has several latents, the action network sees each column through an embedding:
    one ReLU layer, the same for all columns, on the latents of the column and whether it is acted
    on. Two layers, the same for all, map its answer for each actionable column back to changes of
    latents.

    Args:
        n_latent: Width of z.
        columns: The K actionable columns, int64.
        mask_hidden: Widths of the mask network's hidden layers.
        action_hidden: Widths of the action network's hidden layers.
        n_each: Latents of each column, next to each other in z.

    References:
        Majumdar & Valera 2024, CARMA, sections 3.2 and 3.3; appendix E.3.3 for embeddings.

    Example:
        >>> networks = PolicyNetworks(4, torch.tensor([1, 2, 3]), (8,), (8,))
        >>> mask = networks.mask(torch.zeros(2, 4))
        >>> networks.change(torch.zeros(2, 4), mask).shape
        torch.Size([2, 3])
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        n_latent: int,
        columns: Tensor,
        mask_hidden: tuple[int, ...],
        action_hidden: tuple[int, ...],
        n_each: int = 1,
    ) -> None:
        super().__init__()
        k = self.n_actionable = len(columns)
        self.n_each, self._columns = n_each, columns
        self.mask_network = mlp(n_latent, mask_hidden, 2 * k)
        if n_each == 1:
            self.action_network = mlp(n_latent + k, action_hidden, k)
        else:
            self.embedding = nn.Linear(n_each + 1, EMBEDDED)
            n_seen = EMBEDDED * (n_latent // n_each)
            self.action_network = mlp(n_seen, action_hidden, EMBEDDED * k)
            self.back = mlp(EMBEDDED, (EMBEDDED,), n_each)
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
        """Change of each actionable latent in units of its spread, ``(n, K * n_each)``."""
        if self.n_each == 1:
            change: Tensor = self.action_network(torch.cat([self._scaled(z), mask], dim=1))
            return change * mask
        each = self._scaled(z).view(len(z), -1, self.n_each)
        acts = mask.new_zeros(each.shape[:2]).index_copy(1, self._columns, mask)
        seen = torch.relu(self.embedding(torch.cat([each, acts[..., None]], dim=2)))
        answer = self.action_network(seen.flatten(1)).view(len(z), self.n_actionable, EMBEDDED)
        changes: Tensor = self.back(answer) * mask[..., None]
        return changes.flatten(1)

    def _scaled(self, z: Tensor) -> Tensor:
        return (z.to(self.centre.dtype) - self.centre) / self.scale


# Width in which the action network sees a column that has several latents.
EMBEDDED = 8


def _is_top(logits: Tensor) -> Tensor:
    return logits == logits.amax(dim=1, keepdim=True)


def mlp(n_in: int, hidden: tuple[int, ...], n_out: int) -> nn.Sequential:
    """Linear layers with ReLU in between."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_in, width), nn.ReLU()]
        n_in = width
    return nn.Sequential(*layers, nn.Linear(n_in, n_out))
