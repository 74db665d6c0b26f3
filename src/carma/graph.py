"""The causal graph, and the only place that fixes which way its arrows point."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from carma.errors import GraphError

__all__ = ["CausalGraph"]


@dataclass(frozen=True)
class CausalGraph:
    """A directed acyclic graph over named features.

    The matrix convention of the whole code base: ``adjacency[i, j]`` is true when feature
    ``j`` acts on feature ``i``, with ones on the diagonal (zuko's convention, the transpose
    of networkx's).

    Args:
        nodes: Feature names, in the order of the table's columns.
        edges: Pairs ``(cause, effect)``.

    Raises:
        GraphError: A name is repeated or unknown, an edge is a loop, or there is a cycle.

    Example:
        >>> graph = CausalGraph.from_edges([("age", "income"), ("income", "savings")])
        >>> graph.parents("savings"), sorted(graph.descendants("age"))
        (('income',), ['income', 'savings'])
        >>> graph.adjacency.astype(int)
        array([[1, 0, 0],
               [1, 1, 0],
               [0, 1, 1]])
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "edges", tuple(sorted({(str(a), str(b)) for a, b in self.edges})))
        if not self.nodes:
            raise GraphError.of("CausalGraph", "nodes", "name at least one feature", self.nodes)
        repeated = sorted({n for n in self.nodes if self.nodes.count(n) > 1})
        if repeated:
            raise GraphError.of("CausalGraph", "nodes", "name every feature once", repeated)
        for cause, effect in self.edges:
            unknown = [n for n in (cause, effect) if n not in self.nodes]
            if unknown:
                rule = f"only use features of the table ({', '.join(self.nodes)})"
                raise GraphError.of("CausalGraph", "edges", rule, (cause, effect))
            if cause == effect:
                rule = "not let a feature cause itself"
                raise GraphError.of("CausalGraph", "edges", rule, (cause, effect))
        try:
            cycle = nx.find_cycle(self._digraph)
        except nx.NetworkXNoCycle:
            return
        path = " -> ".join([cycle[0][0], *(edge[1] for edge in cycle)])
        raise GraphError.of("CausalGraph", "edges", "have no cycle", path)

    @classmethod
    def from_edges(
        cls, edges: Iterable[tuple[str, str]], nodes: Sequence[str] | None = None
    ) -> CausalGraph:
        """Build a graph from ``(cause, effect)`` pairs.

        Args:
            edges: Pairs of names.
            nodes: All features in order; without it, the order in which edges name them.

        Returns:
            The graph.

        Raises:
            GraphError: See the class.
        """
        pairs = [(str(cause), str(effect)) for cause, effect in edges]
        if nodes is None:
            nodes = list(dict.fromkeys(name for pair in pairs for name in pair))
        return cls(tuple(nodes), tuple(pairs))

    @classmethod
    def from_parents(
        cls, parents: Mapping[str, Sequence[str]], nodes: Sequence[str] | None = None
    ) -> CausalGraph:
        """Build a graph from ``{effect: [causes]}``, the form used in problem files.

        Raises:
            GraphError: Causes are given as one string, or see the class.

        Example:
            >>> CausalGraph.from_parents({"savings": ["income"]}).edges
            (('income', 'savings'),)
        """
        for effect, causes in parents.items():
            if isinstance(causes, str):
                rule = "list the causes of each effect"
                raise GraphError.of("from_parents", f"parents[{effect!r}]", rule, causes)
        return cls.from_edges([(c, e) for e, causes in parents.items() for c in causes], nodes)

    @classmethod
    def from_networkx(cls, graph: Any, nodes: Sequence[str] | None = None) -> CausalGraph:
        """Build a graph from a ``networkx.DiGraph`` whose edges go from cause to effect."""
        if not graph.is_directed():
            raise GraphError.of("CausalGraph", "graph", "be directed", type(graph).__name__)
        order = [str(n) for n in graph.nodes] if nodes is None else nodes
        return cls.from_edges([(str(a), str(b)) for a, b in graph.edges()], order)

    @classmethod
    def from_dot(cls, source: str | Path, nodes: Sequence[str] | None = None) -> CausalGraph:
        """Build a graph from DOT text or a ``.dot`` file (needs the extra ``dot``).

        Raises:
            GraphError: The text is no DOT digraph, or see the class.

        Example:
            >>> CausalGraph.from_dot('digraph { "age" -> income -> savings }').nodes
            ('age', 'income', 'savings')
        """
        text = str(source)
        if isinstance(source, Path) or "{" not in text:
            try:
                text = Path(text).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise GraphError.of("from_dot", "source", "be readable", text) from error
        graph = _parse_dot(text)
        ends = [(edge.get_source(), edge.get_destination()) for edge in graph.get_edges()]
        if graph.get_subgraphs() or not all(isinstance(n, str) for pair in ends for n in pair):
            rule = "only have plain edges, no subgraphs or groups in braces"
            raise GraphError.of("from_dot", "source", rule, text)
        edges = [(_unquote(a), _unquote(b)) for a, b in ends]
        defaults = ("node", "edge", "graph", '"\\n"')
        named = [node.get_name() for node in graph.get_nodes()]
        found = [_unquote(name) for name in named if name not in defaults]
        if nodes is None:
            nodes = list(dict.fromkeys([*found, *(name for pair in edges for name in pair)]))
        return cls.from_edges(edges, nodes)

    @classmethod
    def from_adjacency(cls, adjacency: Any, nodes: Sequence[str]) -> CausalGraph:
        """Build a graph from a square 0/1 matrix.

        Args:
            adjacency: Shape ``(d, d)``; entry ``[i, j]`` non-zero when ``nodes[j]`` acts on
                ``nodes[i]``. The diagonal is ignored.
            nodes: The ``d`` feature names.

        Raises:
            GraphError: The shape does not fit the names, or see the class.
        """
        matrix = np.asarray(adjacency)
        if matrix.shape != (len(nodes), len(nodes)):
            rule = f"have shape ({len(nodes)}, {len(nodes)}), one row and column a feature"
            raise GraphError.of("from_adjacency", "adjacency", rule, matrix.shape)
        effects, causes = np.nonzero(matrix)
        pairs = zip(causes.tolist(), effects.tolist(), strict=True)
        return cls(tuple(nodes), tuple((nodes[c], nodes[e]) for c, e in pairs if c != e))

    def to_networkx(self) -> Any:
        """Return a ``networkx.DiGraph`` with an edge from each cause to its effect."""
        return self._digraph.copy()

    def parents(self, node: str) -> tuple[str, ...]:
        """Direct causes of ``node``, in the order of ``nodes``."""
        found = set(self._digraph.predecessors(self._known(node)))
        return tuple(n for n in self.nodes if n in found)

    def descendants(self, node: str) -> frozenset[str]:
        """Everything that ``node`` acts on, directly or not."""
        return frozenset(nx.descendants(self._digraph, self._known(node)))

    def ancestors(self, node: str) -> frozenset[str]:
        """Everything that acts on ``node``, directly or not."""
        return frozenset(nx.ancestors(self._digraph, self._known(node)))

    @property
    def roots(self) -> tuple[str, ...]:
        """Features without a cause among the features."""
        return tuple(n for n in self.nodes if not self.parents(n))

    @cached_property
    def order(self) -> tuple[str, ...]:
        """A topological order: every cause before its effects."""
        return tuple(nx.lexicographical_topological_sort(self._digraph, key=self.nodes.index))

    @cached_property
    def longest_path(self) -> int:
        """Number of edges on the longest path."""
        return int(nx.dag_longest_path_length(self._digraph))

    @cached_property
    def adjacency(self) -> NDArray[np.bool_]:
        """Shape ``(d, d)``: ``[i, j]`` true when ``j`` acts on ``i``; ones on the diagonal."""
        matrix: NDArray[np.bool_] = np.eye(len(self.nodes), dtype=bool)
        for cause, effect in self.edges:
            matrix[self.nodes.index(effect), self.nodes.index(cause)] = True
        return matrix

    @cached_property
    def reachability(self) -> NDArray[np.bool_]:
        """Shape ``(d, d)``: ``[i, j]`` true when ``j`` is an ancestor of ``i`` (not itself)."""
        matrix: NDArray[np.bool_] = np.zeros((len(self.nodes),) * 2, dtype=bool)
        for j, node in enumerate(self.nodes):
            for effect in self.descendants(node):
                matrix[self.nodes.index(effect), j] = True
        return matrix

    @cached_property
    def _digraph(self) -> Any:
        graph = nx.DiGraph()
        graph.add_nodes_from(self.nodes)
        graph.add_edges_from(self.edges)
        return graph

    def _known(self, node: str) -> str:
        if node not in self._digraph:
            rule = f"be one of {', '.join(self.nodes)}"
            raise GraphError.of("CausalGraph", "node", rule, node)
        return node


def _parse_dot(text: str) -> Any:
    try:
        import pydot
    except ModuleNotFoundError as error:
        rule = "be read with the extra 'dot': pip install 'carma-recourse[dot]'"
        raise GraphError.of("from_dot", "source", rule, text) from error

    # pydot prints syntax errors, and its parser warns about its own dependencies.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        parsed = pydot.graph_from_dot_data(text)
    if not parsed or len(parsed) != 1 or parsed[0].get_type() != "digraph":
        raise GraphError.of("from_dot", "source", "be one DOT digraph", text)
    return parsed[0]


def _unquote(name: str) -> str:
    if len(name) > 1 and name[0] == name[-1] == '"':
        return name[1:-1].replace('\\"', '"')
    return name
