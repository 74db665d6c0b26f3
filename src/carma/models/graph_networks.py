"""Encoder and decoder over a causal graph, by message passing; needs the extra ``vaca``."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from carma.errors import SettingsError

__all__ = ["GraphNetworks"]


class GraphNetworks(nn.Module):
    """Rows to latents and back, along the arrows of a graph whose nodes are the columns.

    A step of message passing (Morris et al. 2019) adds what the causes send to what a node says
    itself, under weights that all nodes share. Which node speaks, its own layers before and after
    the steps say: these differ from node to node. The encoder takes one step, so that a latent
    sees its column and the causes of it. The decoder takes one for each edge of the longest path,
    so that every effect can arrive; each is added to what was there, so that they stay trainable
    however many there are. SiLU is smooth, which walks along slopes need, and does not die.

    All methods take the arrows ``edges``: shape ``(1, d, d)`` for the graph itself, or
    ``(n, d, d)`` with other cuts in each row.

    Args:
        adjacency: Shape ``(d, d)`` bool, ``[i, j]`` true when ``j`` acts on ``i``; the diagonal
            is ignored.
        n_each: Latents of each column.
        width: Of all hidden layers.
        n_steps: Steps of the decoder, at least 1.

    Attributes:
        edges: The graph, shape ``(1, d, d)``, 0/1.

    Raises:
        SettingsError: torch_geometric is not installed.

    References:
        Sanchez-Martin, Rateike & Valera 2022, VACA, arXiv 2110.14690.
        Morris et al. 2019, Weisfeiler and Leman go neural, arXiv 1810.02244, for the step.
    """

    edges: Tensor

    def __init__(self, adjacency: Tensor, n_each: int, width: int, n_steps: int) -> None:
        super().__init__()
        d = len(adjacency)
        causes = adjacency & ~torch.eye(d, dtype=torch.bool)
        self.register_buffer("edges", causes.float()[None], persistent=False)
        self._before = _NodeLayers(d, (1, width))
        self._step = _new_step(width)
        self._after = _NodeLayers(d, (width, width, 2 * n_each))
        self._first = _NodeLayers(d, (n_each, width))
        self._steps = nn.ModuleList(_new_step(width) for _ in range(n_steps))
        self._last = _NodeLayers(d, (width, width, 1))

    def cut(self, mask: Tensor) -> Tensor:
        """The graph without the arrows into some nodes, another one for each row.

        Args:
            mask: The nodes, shape ``(n, d)`` bool.

        Returns:
            Shape ``(n, d, d)``.
        """
        return self.edges * ~mask[:, :, None]

    def encode(self, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and logarithm of the spread of the latents, each ``(n, d, n_each)``.

        Args:
            x: Scaled rows, shape ``(n, d)``.
            edges: See the class.
        """
        found = silu(self._before(x[..., None]))
        found = self._after(silu(self._step(found, edges)))
        centre, log_spread = found.chunk(2, dim=-1)
        return centre, log_spread.clamp(*LOG_SPREADS)

    def decode(self, z: Tensor, edges: Tensor) -> Tensor:
        """Centres of the columns, scaled, shape ``(n, d)``.

        Args:
            z: Shape ``(n, d, n_each)``.
            edges: See the class.
        """
        found = silu(self._first(z))
        for step in self._steps:
            found = found + silu(step(found, edges))
        centre: Tensor = self._last(found)
        return centre.squeeze(-1)


class _NodeLayers(nn.Module):
    """Linear layers with SiLU in between, other ones for each node, all nodes as one batch."""

    def __init__(self, n_nodes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in pairwise(widths):
            bound = 1 / math.sqrt(n_in)
            self.weights.append(torch.empty(n_nodes, n_in, n_out).uniform_(-bound, bound))
            self.biases.append(torch.empty(n_nodes, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, d, n_in)`` to ``(n, d, n_out)``."""
        found = x.transpose(0, 1)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            found = torch.baddbmm(bias, silu(found) if place else found, weight)
        return found.transpose(0, 1)


def _new_step(width: int) -> Any:
    # Parts of torch_geometric that are not used here warn when it is imported.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from torch_geometric.nn.dense import DenseGraphConv
        except ModuleNotFoundError as error:
            rule = "be installed, with the extra 'vaca': pip install 'carma-recourse[vaca]'"
            raise SettingsError.of("Vaca", "torch_geometric", rule, None) from error
    return DenseGraphConv(width, width)


# Logarithms of the least and the greatest spread of a latent.
LOG_SPREADS = (-8.0, 3.0)
