"""Building graphs: from layers, from listed edges, and comparing two."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import networkx

from causalnet.errors import GraphError, UnknownNodeError, explain
from causalnet.graph.block import Block
from causalnet.graph.layout import infer_blocks, match_blocks, nodes_of, slots_of, wires_of
from causalnet.graph.node import Edge, Node
from causalnet.graph.structure import Structure

if TYPE_CHECKING:
    from causalnet.graph.graph import CausalGraph, EdgeLike, NodeLike

__all__ = ["equal", "from_blocks", "from_edges", "in_order"]


def _notes(meta: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    items = tuple(sorted((meta or {}).items()))
    for pair in items:
        if not all(isinstance(word, str) for word in pair):
            raise GraphError(f"meta must map text to text, and has {pair[0]!r}: {pair[1]!r}")
    return items


def from_blocks(
    cls: "type[CausalGraph]",
    blocks: Iterable[Block],
    *,
    granularity: str,
    name: str,
    meta: Mapping[str, str] | None,
) -> "CausalGraph":
    """See :meth:`CausalGraph.from_blocks`."""
    blocks = tuple(blocks)
    if granularity not in ("layer", "head"):
        legal = ["layer", "head"]
        raise GraphError(explain(f"unknown granularity {granularity!r}", legal=legal, got=str(granularity)))
    heads = [block.layer for block in blocks if block.attn and block.heads] if granularity == "head" else []
    if granularity == "head" and not heads:
        raise GraphError("granularity='head' needs a block that says how many heads it has, and none does")
    match_blocks((), blocks)
    nodes = tuple(nodes_of(blocks, heads))
    return cls(nodes, blocks, name, _notes(meta), extra=frozenset(wires_of(nodes)))


def from_edges(
    cls: "type[CausalGraph]",
    nodes: "Iterable[NodeLike]",
    edges: "Iterable[EdgeLike]",
    *,
    blocks: Iterable[Block] | None,
    name: str,
    meta: Mapping[str, str] | None,
) -> "CausalGraph":
    """See :meth:`CausalGraph.from_edges`."""
    listed = [node if isinstance(node, Node) else Node.parse(node) for node in nodes]
    present: set[Node] = set()
    for node in listed:
        if node in present:
            raise GraphError(f"the node {node} is listed twice")
        present.add(node)
    if len({node.position is None for node in listed}) > 1:
        raise GraphError("some nodes have positions and some have none; unroll all or none")
    arrows = _arrows(edges, present)
    layers = infer_blocks(listed, arrows) if blocks is None else tuple(blocks)
    match_blocks(listed, layers)
    ordered = in_order(listed, arrows)
    structure = Structure(slots_of(ordered, layers))
    # Where the stages imply far more edges than there are, listing the edges is the smaller form.
    staged = structure.count() <= 4 * len(arrows) + 1000
    implied = {Edge(ordered[a], ordered[b]) for a, b in structure.pairs()} if staged else set()
    return cls(
        ordered,
        layers,
        name,
        _notes(meta),
        extra=frozenset(arrows - implied),
        missing=frozenset(implied - arrows),
        staged=staged,
    )


def _arrows(edges: "Iterable[EdgeLike]", present: Collection[Node]) -> set[Edge]:
    """Read a list of edges among the nodes that are present."""
    arrows = set()
    for edge in edges:
        if isinstance(edge, str):
            arrow = Edge.parse(edge)
        else:
            try:
                source, target = edge
            except (TypeError, ValueError):
                what = f"{edge!r} is not an edge; give an Edge, a pair of nodes or 'attn[0] -> mlp[1]'"
                raise GraphError(what) from None
            arrow = Edge(*(end if isinstance(end, Node) else Node.parse(end) for end in (source, target)))
        for end in arrow:
            if end not in present:
                names = sorted(map(str, present))[:2000]
                raise UnknownNodeError(explain(f"{end} is not a node", where=str(arrow), legal=names, got=str(end)))
        arrows.add(arrow)
    return arrows


def in_order(nodes: Iterable[Node], edges: Iterable[Edge]) -> tuple[Node, ...]:
    """Sort nodes by order of computation: the usual order, unless edges of a hand-made graph ask for another.

    Raises
    ------
    GraphError
        If the edges close a cycle.
    """
    ordered = tuple(sorted(nodes, key=lambda node: node.sort_key))
    if all(source.sort_key < target.sort_key for source, target in edges):
        return ordered
    graph = networkx.DiGraph()
    graph.add_nodes_from(ordered)
    graph.add_edges_from(edges)
    try:
        return tuple(networkx.lexicographical_topological_sort(graph, key=lambda node: node.sort_key))
    except networkx.NetworkXUnfeasible:
        cycle = [source for source, _ in networkx.find_cycle(graph)]
        raise GraphError(f"the edges close a cycle: {' -> '.join(map(str, [*cycle, cycle[0]]))}") from None


def _parent_sets(structure: Structure, nodes: Sequence[Node]) -> Iterable[tuple[Node, set[Node]]]:
    for at, node in enumerate(nodes):
        yield node, {nodes[parent] for parent in structure.up.neighbours(at)}


def equal(first: "CausalGraph", second: "CausalGraph") -> bool:
    """Whether two graphs have the same nodes, edges, hard-set nodes and set edges."""
    if first is second:
        return True
    marks = (first.intervened_nodes, first.set_edges)
    if marks != (second.intervened_nodes, second.set_edges) or len(first) != len(second):
        return False
    one, two = first._live, second._live
    if first.nodes == second.nodes:
        if one.slots == two.slots and all(
            getattr(a, field) == getattr(b, field)
            for a, b in ((one.up, two.up), (one.down, two.down))
            for field in ("extra", "missing")
        ):
            return True
        if first.number_of_edges != second.number_of_edges:
            return False
        return all(set(one.up.neighbours(at)) == set(two.up.neighbours(at)) for at in range(len(first)))
    if first._node_set != second._node_set or first.number_of_edges != second.number_of_edges:
        return False
    return dict(_parent_sets(one, first.nodes)) == dict(_parent_sets(two, second.nodes))
