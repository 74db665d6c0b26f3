"""Graph laws: round trips, transitive closure, the arrow convention, refused graphs."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from numpy.typing import NDArray

from carma.errors import GraphError
from carma.graph import CausalGraph

NAMES = st.text(st.characters(categories=("L", "N", "Zs", "Po"), exclude_characters="\\"))


@st.composite
def dags(draw: DrawFn, min_edges: int = 0) -> CausalGraph:
    nodes = draw(st.lists(NAMES.filter(str.strip), min_size=2, max_size=7, unique=True))
    order = draw(st.permutations(nodes))
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    edges = draw(st.lists(st.sampled_from(pairs), min_size=min_edges, unique=True))
    return CausalGraph(tuple(nodes), tuple(edges))


def closure(graph: CausalGraph) -> NDArray[np.bool_]:
    """Warshall's algorithm, strict: who reaches whom over at least one edge."""
    reach = graph.adjacency & ~np.eye(len(graph.nodes), dtype=bool)
    for k in range(len(reach)):
        reach = reach | (reach[:, k, None] & reach[None, k, :])
    return reach


def quoted(name: str) -> str:
    escaped = name.replace('"', '\\"')
    return f'"{escaped}"'


@given(dags())
def test_adjacency_has_causes_in_columns_and_ones_on_the_diagonal(graph: CausalGraph) -> None:
    for i, effect in enumerate(graph.nodes):
        for j, cause in enumerate(graph.nodes):
            expected = i == j or (cause, effect) in graph.edges
            assert graph.adjacency[i, j] == expected
    theirs = nx.to_numpy_array(graph.to_networkx(), nodelist=list(graph.nodes))
    np.testing.assert_array_equal(theirs.T + np.eye(len(graph.nodes)), graph.adjacency)


@given(dags())
def test_round_trips(graph: CausalGraph) -> None:
    parents = {node: graph.parents(node) for node in graph.nodes}
    lines = [quoted(n) for n in graph.nodes]
    lines += [f"{quoted(cause)} -> {quoted(effect)}" for cause, effect in graph.edges]
    assert CausalGraph.from_edges(graph.edges, graph.nodes) == graph
    assert CausalGraph.from_edges([*graph.edges[::-1], *graph.edges], graph.nodes) == graph
    assert CausalGraph.from_networkx(graph.to_networkx()) == graph
    assert CausalGraph.from_adjacency(graph.adjacency, graph.nodes) == graph
    assert CausalGraph.from_parents(parents, graph.nodes) == graph
    assert CausalGraph.from_dot(f"digraph {{ {'; '.join(lines)} }}") == graph


@given(dags())
def test_reachability_is_the_transitive_closure(graph: CausalGraph) -> None:
    expected = closure(graph)
    np.testing.assert_array_equal(graph.reachability, expected)
    for i, node in enumerate(graph.nodes):
        assert graph.ancestors(node) == {graph.nodes[j] for j in np.flatnonzero(expected[i])}
        assert graph.descendants(node) == {graph.nodes[j] for j in np.flatnonzero(expected[:, i])}


@given(dags())
def test_order_puts_causes_first_and_bounds_the_longest_path(graph: CausalGraph) -> None:
    assert sorted(graph.order) == sorted(graph.nodes)
    assert all(graph.order.index(a) < graph.order.index(b) for a, b in graph.edges)
    assert set(graph.roots) == {n for n in graph.nodes if not graph.ancestors(n)}
    strict = (graph.adjacency & ~np.eye(len(graph.nodes), dtype=bool)).astype(int)
    power, length = strict, 0
    while power.any():
        power, length = power @ strict, length + 1
    assert graph.longest_path == length


@given(dags(min_edges=1), st.data())
def test_closing_a_path_is_refused(graph: CausalGraph, data: st.DataObject) -> None:
    effects, causes = np.nonzero(graph.reachability)
    chosen = data.draw(st.integers(0, len(effects) - 1))
    back = (graph.nodes[effects[chosen]], graph.nodes[causes[chosen]])
    with pytest.raises(GraphError, match=r"must have no cycle; got .* -> "):
        CausalGraph(graph.nodes, (*graph.edges, back))


def test_the_cycle_is_shown() -> None:
    with pytest.raises(GraphError, match="a -> b -> c -> a"):
        CausalGraph.from_edges([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ((), (), "name at least one feature"),
        (("a", "b", "a"), (), r"name every feature once; got \['a'\]"),
        (("a", "b"), (("a", "c"),), r"features of the table \(a, b\); got \('a', 'c'\)"),
        (("a", "b"), (("b", "b"),), r"cause itself; got \('b', 'b'\)"),
    ],
)
def test_broken_rules(
    nodes: tuple[str, ...], edges: tuple[tuple[str, str], ...], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        CausalGraph(nodes, edges)


@pytest.mark.parametrize("method", ["parents", "ancestors", "descendants"])
def test_asking_for_an_unknown_feature(method: str) -> None:
    graph = CausalGraph.from_edges([("a", "b")])
    with pytest.raises(GraphError, match="'node' must be one of a, b; got 'c'"):
        getattr(graph, method)("c")


def test_other_forms_check_what_they_are_given() -> None:
    with pytest.raises(GraphError, match=r"shape \(2, 2\).*got \(3, 3\)"):
        CausalGraph.from_adjacency(np.eye(3), ["a", "b"])
    with pytest.raises(GraphError, match="must be directed; got 'Graph'"):
        CausalGraph.from_networkx(nx.Graph([("a", "b")]))
    with pytest.raises(GraphError, match="list the causes of each effect; got 'age'"):
        CausalGraph.from_parents({"income": "age"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("graph { a -- b }", "one DOT digraph"),
        ("digraph { a -> b } digraph { b -> c }", "one DOT digraph"),
        ("digraph { a -> ", "one DOT digraph"),
        ("digraph { a -> {b c} }", "no subgraphs or groups"),
        ("digraph { subgraph s { a -> b } }", "no subgraphs or groups"),
        ("digraph { a -> b -> a }", "have no cycle"),
        ("digraph { a -> a }", "cause itself"),
        ("no such file.dot", "be readable"),
    ],
)
def test_refused_dot(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GraphError, match=message):
        CausalGraph.from_dot(text)
    assert capsys.readouterr().out == ""


def test_dot_files_defaults_and_isolated_nodes(tmp_path: Path) -> None:
    path = tmp_path / "graph.dot"
    path.write_text("strict digraph g {\n  node [shape=box];\n  n;\n  age -> income;\n}\n")
    graph = CausalGraph.from_dot(path)
    assert (graph.nodes, graph.edges) == (("n", "age", "income"), (("age", "income"),))
    assert CausalGraph.from_dot(str(path)) == graph
    with pytest.raises(GraphError, match="only use features of the table"):
        CausalGraph.from_dot(path, ["age", "savings"])
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(GraphError, match="be readable"):
        CausalGraph.from_dot(path)


def test_the_networkx_graph_is_a_copy() -> None:
    graph = CausalGraph.from_edges([("a", "b")])
    graph.to_networkx().remove_node("b")
    assert graph.parents("b") == ("a",)
