"""From what a caller wrote to the nodes of a graph."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from causalnet.errors import GraphError, UnknownNodeError, explain
from causalnet.graph.layout import gathered
from causalnet.graph.node import Edge, Node

if TYPE_CHECKING:
    from causalnet.graph.graph import CausalGraph, EdgeLike, NodeLike, NodesLike

__all__ = ["edges_of", "one", "resolve", "select"]

_NAMES_AT_MOST = 2_000
"""How many names are searched for one that looks alike: the search is slow."""


def _node(reference: "NodeLike") -> Node:
    if isinstance(reference, Node):
        return reference
    if isinstance(reference, str):
        return Node.parse(reference)
    raise UnknownNodeError(f"{reference!r} is not a node; give a Node or its text, such as 'attn[3]'")


def _parts(graph: "CausalGraph", node: Node) -> list[Node]:
    """List what a node that is not one of the graph's stands for: its positions, its heads."""
    if node.position is not None and node.position not in graph.positions:
        return []
    positions = graph.positions if node.position is None else (node.position,)
    wanted = [node.at(position) for position in positions] if graph.positions else [node]
    found = [part for part in wanted if part in graph]
    if found or node.kind != "attn":
        return found
    return [
        other
        for other in graph.nodes
        if other.kind in ("head", "bias")
        and other.layer == node.layer
        and (node.position is None or other.position == node.position)
    ]


def _unknown(graph: "CausalGraph", node: Node) -> UnknownNodeError:
    """Build the error for a node that the graph does not have."""
    if node.kind == "resid" and node.layer is not None and node.layer <= graph.layers:
        return UnknownNodeError(f"the graph has no node {node}; with_resid({node.layer}) makes it one")
    if node.kind in ("head", "bias") and graph.granularity == "layer":
        return UnknownNodeError(f"the graph has no node {node}; its heads are not nodes: with_heads() makes them so")
    if node.position is not None and not graph.positions:
        return UnknownNodeError(f"the graph has no node {node}; it has no positions: unroll() gives it some")
    # The last node of a kind is the best guess for a number that is too large.
    alike = [other for other in graph.nodes if (other.kind, other.position) == (node.kind, node.position)]
    names = [str(other) for other in (alike or graph.nodes)[-_NAMES_AT_MOST:]]
    return UnknownNodeError(explain(f"the graph has no node {node}", legal=names, got=str(node)))


def resolve(graph: "CausalGraph", nodes: "NodesLike") -> tuple[Node, ...]:
    """See :meth:`CausalGraph.resolve`."""
    references = [nodes] if isinstance(nodes, Node | str) else list(nodes)
    found: dict[Node, None] = {}
    for reference in references:
        node = _node(reference)
        if node in graph:
            found[node] = None
            continue
        parts = _parts(graph, node)
        if not parts:
            raise _unknown(graph, node)
        found.update(dict.fromkeys(parts))
    return graph.ordered(found)


def one(graph: "CausalGraph", reference: "NodeLike") -> Node:
    """Return the one node that a reference names."""
    node = _node(reference)
    if node in graph:
        return node
    parts = _parts(graph, node)
    if len(parts) == 1:
        return parts[0]
    if parts:
        raise UnknownNodeError(
            f"{node} stands for {len(parts)} nodes here ({parts[0]} … {parts[-1]}), and one is needed; name it"
        )
    raise _unknown(graph, node)


def edges_of(graph: "CausalGraph", edges: "Iterable[EdgeLike]") -> list[tuple[Node, Node, list[Edge]]]:
    """Read edges: for each the ends as they were written, and all pairs of nodes that they stand for."""
    if isinstance(edges, str | Edge):
        raise GraphError(f"give a list of edges, not the single edge {edges}")
    found = []
    for edge in edges:
        if isinstance(edge, str):
            edge = Edge.parse(edge)
        try:
            source, target = edge
        except (TypeError, ValueError):
            raise GraphError(f"{edge!r} is not an edge; give an Edge, a pair of nodes or 'attn[0] -> mlp[1]'") from None
        pairs = [Edge(a, b) for a in resolve(graph, source) for b in resolve(graph, target)]
        found.append((_node(source), _node(target), pairs))
    return found


_REFERENCE = re.compile(
    r"(?P<kind>embed|norm|logits|attn|mlp|resid)"
    r"(?:\[(?P<layer>[-0-9:]+)\](?:\.(?:head\[(?P<head>[-0-9:]+)\]|(?P<bias>bias)))?)?"
    r"(?:@(?P<position>last|[-0-9:]+))?"
)
_SLICE = re.compile(r"(?P<start>-?[0-9]{1,9})?(?P<colon>:(?P<stop>-?[0-9]{1,9})?)?")


def _numbers(text: str, count: int, reference: str) -> range:
    """Read an index or a half-open slice of ``range(count)``."""
    match = _SLICE.fullmatch(text)
    if not text or match is None:
        raise UnknownNodeError(f"{reference!r}: {text!r} is neither a number nor a slice such as 3:7")
    start, stop = (None if match[name] is None else int(match[name]) for name in ("start", "stop"))
    if match["colon"]:
        return range(count)[start:stop]
    assert start is not None
    if not -count <= start < count:
        raise UnknownNodeError(f"{reference!r}: there is no number {start}, they run from 0 to {count - 1}")
    return range(start % count, start % count + 1)


def select(graph: "CausalGraph", references: Sequence[str]) -> tuple[Node, ...]:
    """See :meth:`CausalGraph.select`."""
    found: set[Node] = set()
    for reference in references:
        match = _REFERENCE.fullmatch(reference.strip())
        if match is None or (match["layer"] is None) != (match["kind"] in ("embed", "norm", "logits")):
            legal = ["embed", "attn[5]", "attn[3:7]", "attn[9].head[6]", "mlp[-1]@last", "resid[7]", "norm", "logits"]
            raise UnknownNodeError(explain(f"cannot read the reference {reference!r}", legal=legal))
        chosen = _matching(graph, reference, match)
        if not chosen:
            raise UnknownNodeError(f"the reference {reference!r} names no node of the graph")
        found.update(chosen)
    return graph.ordered(found)


def _matching(graph: "CausalGraph", reference: str, match: re.Match[str]) -> list[Node]:
    """List the nodes that one parsed reference names."""
    kind = "head" if match["head"] else "bias" if match["bias"] else match["kind"]
    if kind in ("head", "bias") and match["kind"] != "attn":
        raise UnknownNodeError(f"{reference!r}: only attn has heads and a bias")
    layers = heads = positions = None
    if match["layer"]:
        layers = _numbers(match["layer"], graph.layers + (kind == "resid"), reference)
    if match["head"]:
        heads = _numbers(match["head"], max((block.heads or 0 for block in graph.blocks), default=0), reference)
    if match["position"]:
        if not graph.positions:
            raise UnknownNodeError(f"{reference!r}: the graph has no positions; unroll() gives it some")
        last = graph.positions[-1]
        positions = _numbers("-1" if match["position"] == "last" else match["position"], last + 1, reference)
    kinds = {kind: None}
    gathering = gathered(graph.nodes)
    return [
        node
        for node in graph.nodes
        if (node.kind in kinds or (kind == "attn" and node.kind in ("head", "bias") and node.layer not in gathering))
        and (layers is None or node.layer in layers)
        and (heads is None or node.head in heads)
        and (positions is None or node.position in positions)
    ]
