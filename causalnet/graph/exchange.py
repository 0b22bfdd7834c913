"""Graphs as networkx, node-link JSON, GraphML and DOT.

Texts are read as data: names must be names of nodes, no entity is expanded, nothing is executed.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import networkx

from causalnet.errors import CausalnetError, GraphError
from causalnet.graph.block import Block
from causalnet.graph.node import Edge, Node
from causalnet.graph.surgery import EDGES_AT_MOST

if TYPE_CHECKING:
    from causalnet.graph.graph import CausalGraph

__all__ = ["from_graphml", "from_json", "to_dot", "to_graphml", "to_json", "to_nx"]

FORMAT, VERSION = "causalnet.graph", 1
_HEADER = "causalnet"
_MIXING = ("attn", "head", "bias")


def _few(graph: "CausalGraph", dense: bool) -> None:
    """Refuse to list more than a million edges unasked."""
    if not dense and graph.number_of_edges > EDGES_AT_MOST:
        raise GraphError(
            f"the graph has {graph.number_of_edges:,} edges; spine() is its sparse form, dense=True lists them all"
        )


def _attributes(graph: "CausalGraph", node: Node) -> dict[str, Any]:
    """Say what a node is; what does not apply is left out."""
    found: dict[str, Any] = {"kind": node.kind, "layer": node.layer, "head": node.head, "position": node.position}
    if node.layer is not None and node.kind != "resid":
        block = graph.blocks[node.layer]
        found["block"] = block.kind
        if node.kind in _MIXING:
            found |= {"mixer": block.mixer, "window": block.window}
    if node in graph.intervened_nodes:
        found["intervened"] = True
    return {key: value for key, value in found.items() if value is not None}


def to_nx(graph: "CausalGraph", *, dense: bool = False) -> "networkx.DiGraph":
    """See :meth:`CausalGraph.to_nx`."""
    _few(graph, dense)
    copy = networkx.DiGraph(name=graph.name, granularity=graph.granularity, layers=graph.layers)
    names = [str(node) for node in graph.nodes]
    copy.add_nodes_from((name, _attributes(graph, node)) for name, node in zip(names, graph.nodes, strict=True))
    copy.add_edges_from((names[source], names[target]) for source, target in graph._live.pairs())
    return copy


def _header(graph: "CausalGraph") -> dict[str, Any]:
    """Say what nodes and edges do not say: enough to read the equal graph back."""
    plain = {field.name: field.default for field in fields(Block)}

    def arrows(edges: Iterable[Edge]) -> list[list[str]]:
        return [[str(edge.source), str(edge.target)] for edge in sorted(edges, key=lambda e: _rank(graph, e))]

    return {
        "format": FORMAT,
        "version": VERSION,
        "name": graph.name,
        "meta": graph.meta,
        "blocks": [
            {key: value for key, value in asdict(block).items() if key == "layer" or value != plain[key]}
            for block in graph.blocks
        ],
        "intervened": [str(node) for node in graph.ordered(graph.intervened_nodes)],
        "set_edges": arrows(graph.set_edges),
        "severed": arrows(graph.severed_edges),
    }


def _rank(graph: "CausalGraph", edge: Edge) -> tuple[int, int]:
    return graph._index[edge.target], graph._index[edge.source]


def to_json(graph: "CausalGraph", *, dense: bool = False) -> str:
    """See :meth:`CausalGraph.to_json`."""
    data = networkx.node_link_data(to_nx(graph, dense=dense), edges="edges")
    data["graph"][_HEADER] = _header(graph)
    return json.dumps(data, indent=1, ensure_ascii=True) + "\n"


def to_graphml(graph: "CausalGraph", *, dense: bool = False) -> str:
    """See :meth:`CausalGraph.to_graphml`."""
    copy = to_nx(graph, dense=dense)
    # One JSON text, ASCII only: XML cannot hold every character, JSON's escapes can.
    copy.graph = {_HEADER: json.dumps(_header(graph), ensure_ascii=True)}
    return "\n".join(networkx.generate_graphml(copy)) + "\n"


def to_dot(graph: "CausalGraph", *, dense: bool = False) -> str:
    """See :meth:`CausalGraph.to_dot`.

    Severed edges are written dashed with ``severed=true`` and without a say in the layout.
    """
    _few(graph, dense)
    lines = ["digraph causalnet {"]
    lines.append(f"  graph [{_pairs({'label': graph.name, 'granularity': graph.granularity, 'rankdir': 'BT'})}];")
    for node in graph.nodes:
        lines.append(f"  {_quoted(str(node))} [{_pairs(_attributes(graph, node))}];")
    for source, target in graph.edges():
        lines.append(f"  {_quoted(str(source))} -> {_quoted(str(target))};")
    gone = _pairs({"severed": True, "style": "dashed", "constraint": False})
    for source, target in sorted(graph.severed_edges, key=lambda edge: _rank(graph, edge)):
        lines.append(f"  {_quoted(str(source))} -> {_quoted(str(target))} [{gone}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    """Quote a text for DOT; a doubled backslash is a plain one there, and begins no escape."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _pairs(attributes: Mapping[str, Any]) -> str:
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in attributes.items()}
    return ", ".join(f"{key}={_quoted(text)}" for key, text in texts.items())


# Reading


def from_json(cls: "type[CausalGraph]", text: str) -> "CausalGraph":
    """See :meth:`CausalGraph.from_json`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:
        raise GraphError(f"the text is not JSON: {error}") from None
    where = "node-link JSON"
    attributes = _typed(data, dict, where).get("graph", {})
    header = _typed(attributes, dict, f"{where}, 'graph'").get(_HEADER)
    if data.get("directed") is False or data.get("multigraph") is True:
        raise GraphError(f"{where}: a causal graph is directed and has no parallel edges")
    for key in ("nodes", "edges"):
        if key not in data:
            raise GraphError(f"{where}: there is no {key!r}; legal: an object with 'nodes' and 'edges'")
    nodes = {}
    for at, item in enumerate(_typed(data["nodes"], list, f"{where}, 'nodes'")):
        place = f"{where}, node number {at}"
        name = _typed(_typed(item, dict, place).get("id"), str, f"{place}, 'id'")
        if name in nodes:
            raise GraphError(f"{place}: the node {name!r} is listed twice")
        nodes[name] = item
    edges = []
    for at, item in enumerate(_typed(data["edges"], list, f"{where}, 'edges'")):
        place = f"{where}, edge number {at}"
        ends = [_typed(_typed(item, dict, place).get(end), str, f"{place}, {end!r}") for end in ("source", "target")]
        edges.append((ends[0], ends[1]))
    return _assemble(cls, nodes, edges, header, where)


def from_graphml(cls: "type[CausalGraph]", text: str) -> "CausalGraph":
    """See :meth:`CausalGraph.from_graphml`."""
    where = "GraphML"
    if not isinstance(text, str):
        raise GraphError(f"{where}: give the text, not {type(text).__name__}")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise GraphError(f"{where}: a document type or entity is declared; GraphML needs none, and none is read")
    try:
        found = networkx.parse_graphml(text)
    except (
        ParseError,
        networkx.NetworkXException,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        StopIteration,
    ) as error:
        raise GraphError(f"{where}: cannot be read: {error or type(error).__name__}") from None
    if not found.is_directed() or found.is_multigraph():
        raise GraphError(f"{where}: a causal graph is directed and has no parallel edges")
    header = found.graph.get(_HEADER)
    if header is not None:
        try:
            header = json.loads(header)
        except (ValueError, RecursionError, TypeError) as error:
            raise GraphError(f"{where}: the attribute {_HEADER!r} is not JSON: {error}") from None
    return _assemble(cls, dict(found.nodes(data=True)), list(found.edges()), header, where)


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}
        raise GraphError(f"{where}: must be {names[kind]}, not {json.dumps(value, default=str)[:60]}")
    return value


def _assemble(
    cls: "type[CausalGraph]",
    nodes: Mapping[str, Mapping[str, Any]],
    edges: list[tuple[str, str]],
    header: Any,
    where: str,
) -> "CausalGraph":
    """Build the graph that was read; a foreign file has no header."""
    try:
        read = {name: Node.parse(name) for name in nodes}
        for name, node in read.items():
            _agree(node, nodes[name], f"{where}, node {name!r}")
        blocks = name = meta = None
        intervened, set_edges = [], []
        if header is not None:
            place = f"{where}, {_HEADER!r}"
            header = _typed(header, dict, place)
            if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
                got = f"{header.get('format')!r} version {header.get('version')!r}"
                raise GraphError(f"{place}: is {got}; this causalnet reads {FORMAT!r} version {VERSION}")
            blocks = _blocks(header, place)
            name = _typed(header.get("name", ""), str, f"{place}, 'name'")
            meta = _typed(header.get("meta", {}), dict, f"{place}, 'meta'")
            intervened = [Node.parse(text) for text in _texts(header, "intervened", place)]
            set_edges, severed = (_arrows(header, key, place) for key in ("set_edges", "severed"))
            edges = edges + severed
        # Each name is parsed once; one that is no node is left as it is, for the error to show.
        arrows = [(read.get(source, source), read.get(target, target)) for source, target in edges]
        whole = cls.from_edges(list(read.values()), arrows, blocks=blocks, name=name or "", meta=meta)
        return whole.do(intervened, set_edges) if intervened or set_edges else whole
    except CausalnetError as error:
        message = str(error)
        raise GraphError(message if message.startswith(where) else f"{where}: {message}") from error


def _agree(node: Node, attributes: Mapping[str, Any], where: str) -> None:
    """Refuse a node whose attributes say something else than its name."""
    for key in ("kind", "layer", "head", "position"):
        told = attributes.get(key)
        if told is not None and told != getattr(node, key):
            raise GraphError(f"{where}: its {key} is given as {told!r}, and its name says {getattr(node, key)!r}")


def _blocks(header: Mapping[str, Any], where: str) -> list[Block]:
    known = [field.name for field in fields(Block)]
    blocks = []
    for at, item in enumerate(_typed(header.get("blocks", []), list, f"{where}, 'blocks'")):
        place = f"{where}, block number {at}"
        if strange := sorted(set(_typed(item, dict, place)) - set(known)):
            raise GraphError(f"{place}: has an unknown entry {strange[0]!r}; legal: {', '.join(known)}")
        _typed(item.get("layer"), int, f"{place}, 'layer'")
        blocks.append(Block(**item))
    return blocks


def _texts(header: Mapping[str, Any], key: str, where: str) -> list[str]:
    items = _typed(header.get(key, []), list, f"{where}, {key!r}")
    return [_typed(item, str, f"{where}, {key!r}") for item in items]


def _arrows(header: Mapping[str, Any], key: str, where: str) -> list[tuple[str, str]]:
    found = []
    for item in _typed(header.get(key, []), list, f"{where}, {key!r}"):
        if len(_typed(item, list, f"{where}, {key!r}")) != 2:
            raise GraphError(f"{where}, {key!r}: an edge has two ends, not {len(item)}")
        found.append(tuple(_typed(end, str, f"{where}, {key!r}") for end in item))
    return found
