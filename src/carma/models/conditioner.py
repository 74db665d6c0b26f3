"""One small network for every feature that has causes, in each member of an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu, silu

from carma.models.selection import MECHANISMS

__all__ = ["EVERY", "OTHERS", "OWN", "Conditioner"]

# Which members of an ensemble: the model itself, its alternatives, or all.
OWN, OTHERS, EVERY = slice(0, 1), slice(1, None), slice(None)
# Causes of a node that may have products.
MOST_CAUSES = 8
# Columns that some nodes must not depend on before it pays to leave these out.
LEAST_SPARED = 8


@dataclass(frozen=True)
class _Networks:
    """Weights of ``k`` nodes, which have ``g`` networks, in each of ``a`` members.

    Args:
        skip: Effect of the ``c`` columns seen on the first parameter, shape ``(a, k, c)``.
        first: Weights of the first layer, shape ``(a * g * h, c)``.
        weights: Of the other layers, each of shape ``(a * g, wider, width)``; the last one of
            shape ``(a * k, p, width)``.
        biases: Of all layers; the first of shape ``(a * g * h, 1)``, the others of shape
            ``(a * g, width, 1)``, the last of shape ``(a * k, p, 1)``. Where no node needs its
            network there are no weights, and the parameters are the one bias.
        sizes: Nodes of each network, which are next to each other.
        has_kinks: Whether the activation is ReLU.
        pairs: Positions among the columns seen whose products act on a first parameter, shape
            ``(2, q)``, or ``None`` where there are none.
        curves: Effect of these products, shape ``(a, k, q)``.
        columns: Those seen, shape ``(c,)``, or ``None`` where they are all.
    """

    skip: Tensor
    first: Tensor | None
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    sizes: tuple[int, ...]
    has_kinks: bool
    pairs: Tensor | None = None
    curves: Tensor | None = None
    columns: Tensor | None = None

    def active(self, layer: Tensor) -> Tensor:
        """Values of a hidden layer after its activation."""
        return relu(layer) if self.has_kinks else silu(layer)


class Conditioner(nn.Module):
    """The ``p`` parameters of every column's transform, from its causes, in each member.

    A node is a column with causes; there are ``m``, numbered by generation. The nodes of one
    nominal feature share all layers but the last. The networks of all nodes and members run as
    one batch, or as two where some have kinks. A node's first layer sees its causes only, its
    last layer starts at zero, and a linear skip leads from its causes to the first parameter. A
    column without causes has constant parameters, the same in all members. Products of causes
    act on the first parameter where a quadratic mechanism replaces a network.

    The model is smooth (SiLU), and so is every other of its alternatives; those in between have
    kinks (ReLU). What all of one kind get wrong in the same way, they then differ about.

    A member's first weights do not depend on how many members come after it.

    Args:
        adjacency: Shape ``(d, d)`` bool, ``[i, j]`` true when ``j`` acts on ``i``; the diagonal
            is ignored.
        n_parameters: ``p``.
        hidden: Widths of the hidden layers; without any, the features are the causes.
        has_skip: Whether there is a skip, and products may join it.
        n_members: Number of ensemble members, at least 1; the first is the model itself.
        owners: Number of the feature that each column belongs to; those of one feature have no
            products, and one network.

    Attributes:
        nodes: The column of each node.
        roots: Columns without causes.
        causes: Columns of each node's causes.
        products: Pairs of each node's causes that have a product, each of shape ``(2, q)``.
        generations: Numbers of the nodes, each list after those that it depends on.
        choices: Shape ``(n_members, m)``: positions in ``MECHANISMS``.
        curves: Effects of the products, shape ``(n_members, m, largest q)``.
    """

    choices: Tensor
    curves: Tensor
    _mask: Tensor
    _seen: Tensor
    _positions: Tensor

    def __init__(
        self,
        adjacency: Tensor,
        n_parameters: int,
        hidden: Sequence[int],
        *,
        has_skip: bool,
        n_members: int,
        owners: Sequence[int],
    ) -> None:
        super().__init__()
        causes = adjacency & ~torch.eye(len(adjacency), dtype=torch.bool)
        depths = _depths(causes)
        self.nodes = tuple(sorted((i for i, t in enumerate(depths) if t), key=depths.__getitem__))
        self.roots = tuple(i for i, t in enumerate(depths) if not t)
        self.generations = tuple(
            [k for k, i in enumerate(self.nodes) if depths[i] == t]
            for t in range(1, max(depths) + 1)
        )
        self.causes = tuple(causes[i].nonzero()[:, 0] for i in self.nodes)
        self.has_skip = has_skip
        self.products = tuple(_pairs(c if has_skip else c[:0], owners) for c in self.causes)
        m, d, p = len(self.nodes), len(causes), n_parameters
        mask = causes[list(self.nodes)].float()
        self.register_buffer("_mask", mask, persistent=False)
        self._networks_of = _shared([owners[i] for i in self.nodes]) if hidden else list(range(m))
        first_nodes = [self._networks_of.index(g) for g in sorted({*self._networks_of})]
        self.register_buffer("_seen", mask[first_nodes], persistent=False)
        order = torch.tensor([*self.roots, *self.nodes])
        self.register_buffer("_positions", order.argsort(), persistent=False)
        self.root_constant = nn.Parameter(torch.zeros(len(self.roots), p))
        self.constant = nn.Parameter(torch.zeros(n_members, m, p))
        self.skip = nn.Parameter(torch.zeros(n_members, m, d))
        drawn = [_first_weights(self._seen, hidden) for _ in range(n_members)]
        layers = [torch.stack(layer) for layer in zip(*drawn, strict=True)]
        self.weights, self.biases = nn.ParameterList(layers[0::2]), nn.ParameterList(layers[1::2])
        width = hidden[-1] if hidden else d
        self.last = nn.Parameter(torch.zeros(n_members, m, p, width))
        network = MECHANISMS.index("network")
        self.register_buffer("choices", torch.full((n_members, m), network))
        width = max((pairs.shape[1] for pairs in self.products), default=0)
        self.register_buffer("curves", torch.zeros(n_members, m, width))
        self._is_frozen = False
        self._kept: dict[tuple[object, ...], _Networks] = {}

    def freeze(self) -> None:
        """Multiply the graph's zeros into the weights once, for speed and for good."""
        with torch.no_grad():
            self.skip.mul_(self._mask)
            if self.weights:
                self.weights[0].mul_(self._seen[:, None])
        self._is_frozen = True
        self.requires_grad_(False)
        self.forget()

    def forget(self) -> None:
        """Forget what is kept of the weights; call it when they have changed."""
        self._kept = {}

    def features(self, x: Tensor, node: int) -> Tensor:
        """Causes of a node and then their products, shape ``(n, causes + q)``, for rows.

        The square of a column with two values says nothing more than the column: it is zero,
        and so has no effect.

        Args:
            x: Scaled rows, shape ``(n, d)``.
            node: Its number.
        """
        left, right = (x[:, columns] for columns in self.products[node])
        is_square = self.products[node][0] == self.products[node][1]
        is_two = ((left == left.amin(dim=0)) | (left == left.amax(dim=0))).all(dim=0)
        products = torch.where(is_square & is_two, 0.0, left * right)
        return torch.cat([x[:, self.causes[node]], products], dim=1)

    def hidden(self, x: Tensor, member: int) -> Tensor:
        """Values of every network's last hidden layer, shape ``(g, n, width)``, for scaled rows.

        Args:
            x: Shape ``(n, d)``.
            member: Whose.
        """
        networks = self._networks(range(len(self.nodes)), slice(member, member + 1))
        if not self.weights:
            return x.new_zeros(len(self.nodes), len(x), 0)
        across = x.mT if networks.columns is None else x.mT.index_select(-2, networks.columns)
        found = self._layers(networks, networks.weights[:-1], across)
        return networks.active(found).mT

    def simplify(self, member: int, node: int, constant: Tensor, slopes: Tensor) -> None:
        """Replace a network by constant parameters, a skip and, if quadratic, products.

        Args:
            member: Whose network.
            node: Its number.
            constant: Shape ``(p,)``.
            slopes: Effects of its ``features`` on the first parameter.
        """
        n_causes = len(self.causes[node])
        slopes, curves = slopes[:n_causes], slopes[n_causes:]
        with torch.no_grad():
            self.constant[member, node] = constant.to(self.constant.dtype)
            self.skip[member, node] = 0.0
            self.skip[member, node, self.causes[node]] = slopes.to(self.skip.dtype)
            self.curves[member, node] = 0.0
            self.curves[member, node, : len(curves)] = curves.to(self.curves.dtype)
            self.last[member, node] = 0.0
        self.choices[member, node] = MECHANISMS.index("quadratic" if curves.any() else "linear")
        self.forget()

    def make_additive(self, member: int, node: int, constant: Tensor, slopes: Tensor) -> None:
        """Keep a network's hidden layers, and let them act on the first parameter only.

        Args:
            member: Whose network.
            node: Its number.
            constant: Shape ``(p,)``.
            slopes: Effects of the causes, then of the last hidden layer, on the first parameter.
        """
        n_causes = len(self.causes[node])
        self.simplify(member, node, constant, slopes[:n_causes])
        with torch.no_grad():
            self.last[member, node, 0] = slopes[n_causes:].to(self.last.dtype)
        self.choices[member, node] = MECHANISMS.index("additive")
        self.forget()

    def moving(self, moves: Tensor) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Nodes of each generation that move in any row, and their columns.

        Args:
            moves: Shape ``(n, d)``, bool.
        """
        # A sum of columns is faster than ``any``.
        n_rows = moves.sum(dim=0).tolist()
        for generation in self.generations:
            chosen = [node for node in generation if n_rows[self.nodes[node]]]
            if chosen:
                yield chosen, torch.tensor([self.nodes[node] for node in chosen])

    def everywhere(self, x: Tensor) -> Tensor:
        """The model's parameters of all columns, shape ``(n, d, p)``, for rows ``(n, d)``."""
        constant = self.root_constant.expand(len(x), *self.root_constant.shape)
        if not self.nodes:
            return constant
        found = self(x, range(len(self.nodes)), OWN)[0]
        return torch.cat([constant, found], dim=1).index_select(1, self._positions)

    def forward(self, x: Tensor, chosen: Sequence[int], members: slice) -> Tensor:
        """Parameters of some nodes in ``a`` members.

        Args:
            x: Scaled rows, shape ``(n, d)``, or ``(a, n, d)`` with other rows for each member.
            chosen: Numbers of the ``k`` nodes, ascending.
            members: ``OWN``, ``OTHERS`` or ``EVERY``.

        Returns:
            Shape ``(a, n, k, p)``.
        """
        columns = self.columns(chosen, members)
        across = x.mT if columns is None else x.mT.index_select(-2, columns)
        return self.across(across, chosen, members).permute(0, 3, 1, 2)

    def columns(self, chosen: Sequence[int], members: slice) -> Tensor | None:
        """Columns that some nodes look at, ascending: their causes.

        Args:
            chosen: Numbers of the nodes, ascending.
            members: Whose.

        Returns:
            Shape ``(c,)``, int64; ``None`` for all columns, where leaving out the others would
            save little.
        """
        part, _ = self._alike(members)[0]
        return self._networks(chosen, part).columns

    def across(
        self, x: Tensor, chosen: Sequence[int], members: slice, n_parameters: int | None = None
    ) -> Tensor:
        """``forward`` with rows last, as they lie in memory, for the columns that matter.

        Args:
            x: Scaled rows of the ``c`` ``columns`` of the nodes, shape ``(c, n)``, or
                ``(a, c, n)`` with other rows for each member.
            chosen: Numbers of the ``k`` nodes, ascending.
            members: ``OWN``, ``OTHERS`` or ``EVERY``.
            n_parameters: The first so many parameters; ``None`` is all.

        Returns:
            Shape ``(a, k, n_parameters, n)``.
        """
        p = n_parameters or self.constant.shape[2]
        parts = [
            self._part(x[own] if x.ndim == 3 else x, chosen, part, p)
            for part, own in self._alike(members)
        ]
        return parts[0] if len(parts) == 1 else _interleaved(*parts)

    def _alike(self, members: slice) -> list[tuple[slice, slice]]:
        """Members with one activation, and which of the chosen ones they are."""
        first, end = members.start or 0, len(self.skip) if members.stop is None else members.stop
        parts = [slice(start, end, 2) for start in (first, first + 1) if start < end]
        return [(part, slice(k, None, 2)) for k, part in enumerate(parts)]

    def _part(self, across: Tensor, chosen: Sequence[int], members: slice, p: int) -> Tensor:
        """``across`` for members with one activation."""
        networks = self._networks(chosen, members, p)
        (a, k, _), n = networks.skip.shape, across.shape[-1]
        found = networks.biases[-1]
        if networks.first is not None:
            found = self._layers(networks, networks.weights[:-1], across)
            if networks.weights:
                found = self._outputs(networks, found)
        found = found.view(a, k, p, found.shape[-1])
        if self.has_skip:
            linear = torch.matmul(networks.skip, across)
            if networks.pairs is not None and networks.curves is not None:
                left, right = (across.index_select(-2, columns) for columns in networks.pairs)
                linear = linear + torch.matmul(networks.curves, left * right)
            if networks.first is None or not self._is_frozen:
                found = found + pad(linear[:, :, None], (0, 0, 0, p - 1))
            else:
                found[:, :, 0] += linear
        return found.expand(-1, -1, -1, n)

    @staticmethod
    def _layers(networks: _Networks, weights: Sequence[Tensor], across: Tensor) -> Tensor:
        """The first layer and further ones, features by rows, shape ``(a * g, width, n)``."""
        assert networks.first is not None  # noqa: S101
        (a, _, d), n = networks.skip.shape, across.shape[-1]
        wide, g = len(networks.first) // a, len(networks.sizes)
        # The first layers of all networks are one product.
        if across.ndim == 2:
            found = torch.addmm(networks.biases[0], networks.first, across)
        else:
            first = networks.first.view(a, wide, d)
            found = torch.baddbmm(networks.biases[0].view(a, wide, 1), first, across)
        found = found.view(a * g, wide // g, n)
        for weight, bias in zip(weights, networks.biases[1:], strict=False):
            found = torch.baddbmm(bias, weight, networks.active(found))
        return found

    @staticmethod
    def _outputs(networks: _Networks, layer: Tensor) -> Tensor:
        """The last layer of each node, from the network that it shares, ``(a * k, p, n)``."""
        weight, bias, last = networks.weights[-1], networks.biases[-1], networks.active(layer)
        sizes, a = networks.sizes, len(networks.skip)
        if len(weight) == len(last):
            return torch.baddbmm(bias, weight, last)
        # Neighbouring networks with as many nodes are one product.
        runs = [len([*run]) for _, run in groupby(sizes)]
        nodes = [
            sum(sizes[end - run : end]) for run, end in zip(runs, accumulate(runs), strict=True)
        ]
        p, (_, width, n) = weight.shape[1], last.shape
        weights = torch.split(weight.view(a, sum(sizes), p, width), nodes, dim=1)
        layers = torch.split(last.view(a, len(sizes), width, n), runs, dim=1)
        found = [
            torch.matmul(each.reshape(a, g, k // g * p, width), own).view(a, k, p, n)
            for each, own, g, k in zip(weights, layers, runs, nodes, strict=True)
        ]
        return torch.cat(found, dim=1).flatten(0, 1) + bias

    def _networks(
        self, chosen: Sequence[int], members: slice, n_parameters: int | None = None
    ) -> _Networks:
        """Weights of some nodes for their first parameters; kept once they are frozen."""
        p = n_parameters or self.constant.shape[2]
        if not self._is_frozen:
            return self._gather(chosen, members, p)
        key = ((members.start, members.stop, members.step or 1, p), *chosen)
        found = self._kept.get(key)
        if found is None:
            # What is made in inference mode could not be used outside of it.
            with torch.inference_mode(False):
                found = self._kept[key] = self._gather(chosen, members, p)
        return found

    def _gather(self, chosen: Sequence[int], members: slice, p: int) -> _Networks:
        where = _index(chosen)
        mask = None if self._is_frozen else self._mask[where]
        columns = self._causes_of(chosen) if self._is_frozen else None
        seen = slice(None) if columns is None else columns
        skip = self.skip[members, where]
        skip = skip[..., seen] if mask is None else skip * mask
        constant = self.constant[members, where, :p].flatten(0, 1)[..., None]
        pairs, curves = self._curved(chosen, members)
        if pairs is not None and columns is not None:
            pairs = torch.searchsorted(columns, pairs)
        shared = [self._networks_of[node] for node in chosen]
        sizes = tuple(len([*run]) for _, run in groupby(shared))
        has_kinks = members.start % 2 == 1
        if bool((self.choices[members, where] < MECHANISMS.index("additive")).all()):
            biases: tuple[Tensor, ...] = (constant,)
            return _Networks(skip, None, (), biases, sizes, has_kinks, pairs, curves, columns)
        networks = _index(sorted({*shared}))
        weights = [weight[members, networks] for weight in self.weights]
        weights.append(self.last[members, where, :p])
        first = weights[0] if self._is_frozen else weights[0] * self._seen[networks][:, None]
        biases = tuple(bias[members, networks].flatten(0, 1) for bias in self.biases)
        biases = (*biases, constant)
        return _Networks(
            skip,
            first[..., seen].flatten(0, 2),
            tuple(weight.flatten(0, 1) for weight in weights[1:]),
            (biases[0].flatten(0, 1), *biases[1:]),
            sizes,
            has_kinks,
            pairs,
            curves,
            columns,
        )

    def _causes_of(self, chosen: Sequence[int]) -> Tensor | None:
        """Columns that act on any of some nodes; ``None`` for all (see ``columns``)."""
        columns = self._mask[_index(chosen)].any(dim=0).nonzero()[:, 0]
        return columns if len(columns) + LEAST_SPARED <= self._mask.shape[1] else None

    def _curved(
        self, chosen: Sequence[int], members: slice
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Products with any effect on some nodes, and these effects (see ``_Networks``)."""
        curves = self.curves[members, _index(chosen)]
        if not curves.any():
            return None, None
        dense = curves.new_zeros(*self.skip[members, _index(chosen)].shape, self.skip.shape[2])
        for position, node in enumerate(chosen):
            left, right = self.products[node]
            dense[:, position, left, right] = curves[:, position, : len(left)]
        pairs = (dense != 0).flatten(0, 1).any(dim=0).nonzero().T
        return pairs, dense[..., pairs[0], pairs[1]]


def _pairs(causes: Tensor, owners: Sequence[int]) -> Tensor:
    """Pairs of a node's causes that have a product, squares too, shape ``(2, q)``."""
    if len(causes) > MOST_CAUSES:
        causes = causes[:0]
    columns = causes.tolist()
    found = [
        (i, j)
        for position, i in enumerate(columns)
        for j in columns[position:]
        if i == j or owners[i] != owners[j]
    ]
    return torch.tensor(found, dtype=torch.long).view(-1, 2).T


def _first_weights(mask: Tensor, hidden: Sequence[int]) -> list[Tensor]:
    """Random weights and biases of one member's hidden layers in turn."""
    m, width = mask.shape
    drawn: list[Tensor] = []
    for position, wider in enumerate(hidden):
        fan_in = mask.sum(1)[:, None, None] if position == 0 else torch.tensor(float(width))
        drawn.append(torch.randn(m, wider, width) / fan_in.sqrt())
        drawn.append(torch.randn(m, wider, 1) if position == 0 else torch.zeros(m, wider, 1))
        width = wider
    return drawn


def _shared(owners: Sequence[int]) -> list[int]:
    """Number of the network of each node: one for each feature."""
    return [[*dict.fromkeys(owners)].index(owner) for owner in owners]


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    """Members in turn from two parts, the first of which may have one more."""
    pairs = torch.stack([even[: len(odd)], odd], dim=1).flatten(0, 1)
    return pairs if len(even) == len(odd) else torch.cat([pairs, even[len(odd) :]])


def _index(chosen: Sequence[int]) -> slice | Tensor:
    """A slice where it can be one: it copies nothing."""
    first, last = chosen[0], chosen[-1]
    if last - first + 1 == len(chosen):
        return slice(first, last + 1)
    return torch.tensor(chosen)


def _depths(causes: Tensor) -> list[int]:
    """Edges on the longest path that ends in each column."""
    depths = torch.zeros(len(causes), dtype=torch.long)
    while True:
        deeper = torch.where(causes, depths + 1, 0).amax(1)
        if torch.equal(deeper, depths):
            return [int(t) for t in depths]
        depths = deeper
