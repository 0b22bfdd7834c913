"""Changing a graph: interventions, finer nodes, positions. Every function returns a new graph."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from causalnet.errors import GraphError
from causalnet.graph import refer
from causalnet.graph.block import Block
from causalnet.graph.build import in_order
from causalnet.graph.layout import slots_of, span, wires_of
from causalnet.graph.node import Edge, Node
from causalnet.graph.structure import Structure

if TYPE_CHECKING:
    from causalnet.graph.graph import CausalGraph, EdgeLike, NodesLike

__all__ = [
    "EDGES_AT_MOST",
    "add_edges",
    "do",
    "remove_edges",
    "severed_edges",
    "unroll",
    "with_heads",
    "with_resid",
    "without_do",
    "without_resid",
]

EDGES_AT_MOST = 1_000_000
"""More edges than this are listed only on demand."""


def _present(graph: "CausalGraph", edges: "Iterable[EdgeLike]", structure: Structure) -> set[Edge]:
    """Return the edges of the graph that were named; each name must stand for at least one."""
    found: set[Edge] = set()
    for source, target, pairs in refer.edges_of(graph, edges):
        kept = [edge for edge in pairs if structure.has(graph._index[edge.source], graph._index[edge.target])]
        if not kept:
            backwards = structure.has(graph._index[pairs[0].target], graph._index[pairs[0].source])
            hint = f"; the edge is {target} -> {source}" if backwards else ""
            raise GraphError(f"{source} -> {target} is not an edge of the graph{hint}")
        found.update(kept)
    return found


def remove_edges(graph: "CausalGraph", edges: "Iterable[EdgeLike]") -> "CausalGraph":
    """See :meth:`CausalGraph.remove_edges`."""
    gone = _present(graph, edges, graph._live)
    return replace(graph, extra=graph.extra - gone, missing=graph.missing | (gone - graph.extra))


def add_edges(graph: "CausalGraph", edges: "Iterable[EdgeLike]") -> "CausalGraph":
    """See :meth:`CausalGraph.add_edges`."""
    new: set[Edge] = set()
    for source, target, pairs in refer.edges_of(graph, edges):
        absent = [edge for edge in pairs if not graph._whole.has(graph._index[edge.source], graph._index[edge.target])]
        if not absent:
            raise GraphError(f"{source} -> {target} is an edge of the graph already")
        new.update(absent)
    if graph.number_of_edges > EDGES_AT_MOST and any(a.sort_key >= b.sort_key for a, b in new):
        raise GraphError("an edge against the usual order cannot be added to more than a million edges")
    wider = replace(graph, extra=graph.extra | (new - graph.missing), missing=graph.missing - new)
    return _reordered(wider)


def do(graph: "CausalGraph", nodes: "NodesLike", edges: "Iterable[EdgeLike]") -> "CausalGraph":
    """See :meth:`CausalGraph.do`."""
    hard = graph.intervened_nodes.union(refer.resolve(graph, nodes))
    # An edge may be set into a node that is set as well, so the edges are those from before any `do`.
    gone = graph.set_edges | _present(graph, edges, graph._whole)
    return replace(graph, intervened_nodes=hard, set_edges=gone)


def without_do(graph: "CausalGraph") -> "CausalGraph":
    """See :meth:`CausalGraph.without_do`."""
    return replace(graph, intervened_nodes=frozenset(), set_edges=frozenset())


def severed_edges(graph: "CausalGraph") -> frozenset[Edge]:
    """See :attr:`CausalGraph.severed_edges`."""
    whole, index, nodes = graph._whole, graph._index, graph.nodes
    found = set(graph.set_edges)
    for target in graph.ordered(graph.intervened_nodes):
        found.update(Edge(nodes[source], target) for source in whole.up.neighbours(index[target]))
        if len(found) > EDGES_AT_MOST:
            raise GraphError("more than a million edges were severed; intervened_nodes and set_edges say which")
    return frozenset(found)


def _mapped(edges: Iterable[Edge], parts: Callable[[Edge], Iterable[Edge]]) -> frozenset[Edge]:
    return frozenset(part for edge in edges for part in parts(edge))


def with_heads(graph: "CausalGraph", layers: Iterable[int] | None) -> "CausalGraph":
    """See :meth:`CausalGraph.with_heads`."""
    closed = {node.layer for node in graph.nodes if node.kind == "attn"}
    closed -= {node.layer for node in graph.nodes if node.kind in ("head", "bias")}
    able: dict[int | None, Block] = {block.layer: block for block in graph.blocks if block.heads}
    if layers is None:
        chosen = closed & set(able)
    else:
        wanted = set(layers)
        if unable := sorted(wanted - set(able)):
            raise GraphError(f"layer {unable[0]} has no heads that can be told apart")
        chosen = wanted & closed
    parts: dict[Node, tuple[Node, ...]] = {}
    for node in graph.nodes:
        if node.kind == "attn" and node.layer in chosen:
            heads = [Node("head", node.layer, head, node.position) for head in range(able[node.layer].heads or 0)]
            parts[node] = (*heads, Node("bias", node.layer, position=node.position))
    summed = {node: new for node, new in parts.items() if able[node.layer].heads_sum}
    nodes: list[Node] = []
    for node in graph.nodes:
        # A gathering attn[l] stays, after its heads.
        nodes += parts.get(node, ())
        if node not in summed:
            nodes.append(node)

    def finer(edge: Edge) -> list[Edge]:
        sources, targets = summed.get(edge.source, (edge.source,)), parts.get(edge.target, (edge.target,))
        return [Edge(source, target) for source in sources for target in targets if target.kind != "bias"]

    # Written in the graph's own order, which may be a hand-made one, so no sorting here.
    wires = [edge for edge in wires_of(nodes) if edge.target in parts]
    hard = {part for node in graph.intervened_nodes for part in summed.get(node, (node,))}
    return replace(
        graph,
        nodes=tuple(nodes),
        extra=_mapped(graph.extra, finer).union(wires),
        missing=_mapped(graph.missing, finer),
        intervened_nodes=frozenset(hard),
        set_edges=_mapped(graph.set_edges, finer),
    )


def with_resid(graph: "CausalGraph", layers: int | Iterable[int], positions: Iterable[int] | None) -> "CausalGraph":
    """See :meth:`CausalGraph.with_resid`."""
    wanted = sorted({layers} if isinstance(layers, int) else set(layers))
    for layer in wanted:
        if not 0 <= layer <= graph.layers:
            raise GraphError(f"there is no resid[{layer}]: they run from resid[0] to resid[{graph.layers}]")
    if positions is not None and not graph.positions:
        raise GraphError("positions were given, and the graph has none; unroll it first")
    at: set[int | None] = {*graph.positions} or {None}
    if positions is not None:
        at = {*positions}
    for position in at:
        if graph.positions and position not in graph.positions:
            first, last = graph.positions[0], graph.positions[-1]
            raise GraphError(f"the graph has no position {position}: they run from {first} to {last}")
    new = {Node("resid", layer, position=position) for layer in wanted for position in at} - set(graph.nodes)
    if not new:
        return graph
    if not graph.staged:
        raise GraphError("the edges of this graph do not follow a residual stream, so no part of it can be a node")
    wider = replace(graph, nodes=tuple(sorted([*graph.nodes, *new], key=lambda node: node.sort_key)))
    index = wider._index
    bare = Structure(slots_of(wider.nodes, wider.blocks))
    for edge in sorted(graph.missing | (graph.set_edges - graph.extra), key=str):
        if not bare.implied(index[edge.source], index[edge.target]):
            raise GraphError(
                f"the edge {edge} was cut, and would pass through a residual stream that is a node; "
                "what a stream holds is read whole: keep the dense form"
            )
    return _reordered(wider)


def without_resid(graph: "CausalGraph") -> "CausalGraph":
    """See :meth:`CausalGraph.without_resid`."""
    touched = {end for edge in graph.extra | graph.missing | graph.set_edges for end in edge} | graph.intervened_nodes
    for node in graph.ordered(touched):
        if node.kind == "resid":
            raise GraphError(f"{node} was set, or an edge of it was changed, so it must stay a node")
    if not graph.staged and any(node.kind == "resid" for node in graph.nodes):
        raise GraphError("the edges of this graph do not follow a residual stream, so its resid nodes must stay")
    bare = replace(graph, nodes=tuple(node for node in graph.nodes if node.kind != "resid"), extra=frozenset())
    # An edge that was added around a residual stream follows from the stages again.
    added = [
        edge for edge in graph.extra if not bare._whole.implied(bare._index[edge.source], bare._index[edge.target])
    ]
    return replace(bare, extra=frozenset(added))


def _reordered(graph: "CausalGraph") -> "CausalGraph":
    """Put the nodes into an order of computation; only edges that were made by hand can ask for another."""
    if all(source.sort_key < target.sort_key for source, target in graph.extra):
        return graph
    nodes = graph.nodes
    return replace(graph, nodes=in_order(nodes, [Edge(nodes[a], nodes[b]) for a, b in graph._whole.pairs()]))


def unroll(graph: "CausalGraph", positions: int | Iterable[int]) -> "CausalGraph":
    """See :meth:`CausalGraph.unroll`."""
    if graph.positions:
        raise GraphError("the graph is unrolled already")
    chosen = tuple(range(positions) if isinstance(positions, int) else positions)
    if not chosen or chosen[0] < 0 or chosen != tuple(range(chosen[0], chosen[0] + len(chosen))):
        raise GraphError(f"positions must be one or more consecutive numbers from 0 on, not {positions!r}")

    def grounded(edge: Edge) -> Iterable[Edge]:
        width = span(edge.source, edge.target, graph.blocks)
        for t in chosen:
            for s in chosen:
                if 0 <= t - s < width:
                    yield Edge(edge.source.at(s), edge.target.at(t))

    return replace(
        graph,
        nodes=tuple(node.at(position) for node in graph.nodes for position in chosen),
        extra=_mapped(graph.extra, grounded),
        missing=_mapped(graph.missing, grounded),
        intervened_nodes=frozenset(node.at(position) for node in graph.intervened_nodes for position in chosen),
        set_edges=_mapped(graph.set_edges, grounded),
    )
