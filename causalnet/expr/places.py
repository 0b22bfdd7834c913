"""From references to the nodes of a graph."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from causalnet.errors import CausalnetError, ExpressionError, UnknownNameError, UnknownNodeError, explain
from causalnet.expr.assign import Assignment, Do, Path
from causalnet.expr.outcomes import Outcome
from causalnet.expr.positions import Position, Span
from causalnet.expr.refs import (
    Ancestors,
    Between,
    Component,
    Descendants,
    Difference,
    Intersection,
    Located,
    Ref,
    Slice,
    Union,
)
from causalnet.expr.values import Add, Given, Patch, ProjectOut, Under
from causalnet.graph import CausalGraph, Node

__all__ = [
    "COMPUTED",
    "EXPLICIT",
    "SLICED",
    "Fault",
    "How",
    "Names",
    "Place",
    "Scene",
    "check_position",
    "check_value",
    "components",
    "head_layers",
    "layers_of",
    "nodes",
    "places",
    "scene",
    "with_heads",
]

COMPUTED, SLICED, EXPLICIT = 0, 1, 2
"""How a node was named, weakest first: by desc/anc/between, by a slice, by its own number."""


class Fault(Exception):
    """A sentence that cannot be meant, and the piece of it that is to blame; never leaves this room."""

    def __init__(self, message: str, part: Any, kind: type[CausalnetError] = ExpressionError) -> None:
        super().__init__(message)
        self.message, self.part, self.kind = message, part, kind


@dataclass(frozen=True, slots=True)
class How:
    """How a place was named.

    Parameters
    ----------
    named
        :data:`EXPLICIT`, :data:`SLICED` or :data:`COMPUTED`.
    head
        Whether a head (or a bias) was named, not its layer.
    whole
        The layer, where a head's node stands for its part of ``attn[layer]``.
    """

    named: int
    head: bool = False
    whole: int | None = None

    @property
    def rank(self) -> tuple[int, bool]:
        """Precedence among assignments to one place; the larger wins."""
        return (self.named, self.head)


Place = tuple[Node, Position | None]


@dataclass(frozen=True, slots=True)
class Names:
    """The names that data go by; None where they are not known yet."""

    spans: Collection[str] | None = None
    patches: Collection[str] | None = None
    values: Collection[str] | None = None
    features: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What a sentence is expanded against.

    Parameters
    ----------
    dense
        The graph with the heads that are named as nodes, and no ``resid``.
    graph
        The same with every ``resid[l]`` that is named as a node.
    outcome
        The nodes that the outcome reads; no computed set holds them.
    names
        Names of spans, paired prompts and vectors.
    """

    dense: CausalGraph
    graph: CausalGraph
    outcome: frozenset[Node]
    names: Names = Names()

    @property
    def gathered(self) -> frozenset[int]:
        """Layers whose ``attn[l]`` is a node beside its heads: a norm comes after the heads."""
        headed = {node.layer for node in self.dense.nodes if node.kind == "head"}
        kept = {node.layer for node in self.dense.nodes if node.kind == "attn"}
        return frozenset(layer for layer in headed & kept if layer is not None)


def components(part: Any) -> Iterator[Component]:
    """Yield every component that is named anywhere in a piece of a sentence."""
    if isinstance(part, Component):
        yield part
        return
    inner: tuple[Any, ...] = ()
    if isinstance(part, Descendants | Ancestors | Located):
        inner = (part.of,)
    elif isinstance(part, Between):
        inner = (part.start, part.end)
    elif isinstance(part, Union | Intersection):
        inner = part.parts
    elif isinstance(part, Difference):
        inner = (part.base, *part.without)
    elif isinstance(part, Path):
        inner = part.steps
    elif isinstance(part, Do):
        inner = part.assignments
    elif isinstance(part, Assignment):
        inner = (part.target, part.value, *part.along_paths)
    elif isinstance(part, Under):
        inner = (part.do,)
    elif isinstance(part, Outcome) and part.of is not None:
        inner = (part.of,)
    for one in inner:
        yield from components(one)


def with_heads(graph: CausalGraph, layers: Collection[int]) -> CausalGraph:
    """Return the graph with the heads of these layers as nodes; the same object where they already are."""
    closed = sorted(set(layers) - {node.layer for node in graph.nodes if node.kind == "head"})
    return graph.with_heads(closed) if closed else graph


def scene(dense: CausalGraph, parts: Collection[Any], names: Names) -> Scene:
    """Refine a graph (its heads are as they should be) for the residual streams that the parts name."""
    streams: set[int] = set()
    for part in parts:
        # A stream that an outcome reads need not be a node.
        for one in () if isinstance(part, Outcome) and isinstance(part.of, Component) else components(part):
            if one.kind == "resid":
                streams.update(layer for layer, _ in layers_of(one, dense))
    return Scene(dense, dense.with_resid(sorted(streams)) if streams else dense, frozenset(), names)


def head_layers(graph: CausalGraph, parts: Collection[Any]) -> set[int]:
    """Return the layers whose heads the parts name."""
    found: set[int] = set()
    for part in parts:
        for one in components(part):
            if one.kind in ("head", "bias"):
                for layer, named in layers_of(one, graph):
                    block = graph.blocks[layer]
                    if block.attn and block.heads:
                        found.add(layer)
                    elif named == EXPLICIT:
                        what = f"{one}: layer {layer} has no heads that can be told apart"
                        raise Fault(explain(what, mend=f"name attn[{layer}]"), one, UnknownNodeError)
    return found


def layers_of(one: Component, graph: CausalGraph) -> list[tuple[int, int]]:
    """Return the layers that a component names, each with how it was named."""
    count = graph.layers + (one.kind == "resid")
    return _numbers(one.layers, count, "layer", one)


def _numbers(index: tuple[int | Slice, ...], count: int, what: str, one: Component) -> list[tuple[int, int]]:
    """Resolve numbers and slices of ``range(count)``, as Python would."""
    found: dict[int, int] = {}
    for entry in index:
        if isinstance(entry, Slice):
            for number in range(count)[entry.start : entry.stop]:
                found[number] = max(found.get(number, SLICED), SLICED)
            continue
        if not -count <= entry < count:
            legal = f"they run from 0 to {count - 1}" if count else "the graph has none"
            raise Fault(f"{one}: there is no {what} {entry}; {legal}", one, UnknownNodeError)
        found[entry % count] = EXPLICIT
    if not found:
        mend = f"slices are half-open, and there are {count} {what}s, from 0 to {count - 1}"
        raise Fault(explain(f"{one} names no {what}, so nothing is written or read there", mend=mend), one)
    return sorted(found.items())


def places(ref: Ref, scene: Scene) -> dict[Place, How]:
    """Return the nodes and positions that a reference names, and how it names each.

    Raises
    ------
    Fault
        If it names something that the graph does not have.
    """
    if isinstance(ref, Located):
        check_position(ref.position, scene.names)
        return {(node, ref.position): how for (node, _), how in places(ref.of, scene).items()}
    if isinstance(ref, Union):
        found: dict[Place, How] = {}
        for part in ref.parts:
            for place, how in places(part, scene).items():
                if place not in found or how.rank > found[place].rank:
                    found[place] = how
        return found
    return {(node, None): how for node, how in nodes(ref, scene).items()}


def nodes(ref: Ref, scene: Scene) -> dict[Node, How]:
    """Return the nodes that a reference without positions names."""
    if isinstance(ref, Component):
        return _component(ref, scene)
    if isinstance(ref, Union):
        return {node: how for (node, _), how in places(ref, scene).items()}
    if isinstance(ref, Intersection):
        first, *rest = (nodes(part, scene) for part in ref.parts)
        shared = [node for node in first if all(node in other for other in rest)]
        return {node: min((part[node] for part in (first, *rest)), key=lambda how: how.rank) for node in shared}
    if isinstance(ref, Difference):
        without = {node for part in ref.without for node in nodes(part, scene)}
        return {node: how for node, how in nodes(ref.base, scene).items() if node not in without}
    if isinstance(ref, Located):
        raise Fault(f"{ref} has a position where only whole nodes make sense", ref)
    return dict.fromkeys(_computed(ref, scene), How(COMPUTED))


def _computed(ref: Descendants | Ancestors | Between, scene: Scene) -> tuple[Node, ...]:
    graph = scene.graph
    if isinstance(ref, Between):
        start, end = list(nodes(ref.start, scene)), list(nodes(ref.end, scene))
        found, given = graph.descendants(start) & graph.ancestors(end), {*start, *end}
    else:
        given = set(nodes(ref.of, scene))
        found = graph.descendants(given) if isinstance(ref, Descendants) else graph.ancestors(given)
    left_out = {"resid", "logits"}
    return graph.ordered(n for n in found if n.kind not in left_out and n not in given and n not in scene.outcome)


def _component(one: Component, scene: Scene) -> dict[Node, How]:
    graph = scene.graph
    if not one.layers:
        node = Node(one.kind)
        if node not in graph:
            raise Fault(f"the graph has no node {node}", one, UnknownNodeError)
        return {node: How(EXPLICIT)}
    found: dict[Node, How] = {}
    for layer, named in layers_of(one, graph):
        here = _in_layer(one, layer, named, scene)
        if not here and named == EXPLICIT:
            what = "attention" if one.kind in ("attn", "head", "bias") else one.kind.upper()
            raise Fault(f"{one}: layer {layer} has no {what}", one, UnknownNodeError)
        found.update(here)
    if not found:
        raise Fault(f"{one} names no node of the graph", one, UnknownNodeError)
    return found


def _in_layer(one: Component, layer: int, named: int, scene: Scene) -> dict[Node, How]:
    graph = scene.graph
    if one.kind == "head":
        block = graph.blocks[layer]
        if not block.attn or not block.heads:
            return {}
        numbers = _numbers(one.heads, block.heads, "head", one)
        return {Node("head", layer, head): How(min(named, how), head=True) for head, how in numbers}
    if one.kind != "attn":
        node = Node(one.kind, layer)
        return {node: How(named, head=one.kind == "bias")} if node in graph else {}
    if Node("attn", layer) in graph:
        return {Node("attn", layer): How(named)}
    if not graph.blocks[layer].attn:
        return {}
    parts = [Node("head", layer, head) for head in range(graph.blocks[layer].heads or 0)]
    return {node: How(named, whole=layer) for node in (*parts, Node("bias", layer)) if node in graph}


def check_value(value: Any, names: Names) -> None:
    """Check that the data which a value names exist.

    Raises
    ------
    Fault
        If they do not.
    """
    what, legal = "", None
    if isinstance(value, Patch):
        what, legal = "paired prompt", names.patches
    elif isinstance(value, Given | Add | ProjectOut):
        what, legal = "vector", names.values
    if legal is not None and value.name not in legal:
        message = explain(f"there is no {what} named {value.name!r}", legal=legal, got=value.name)
        raise Fault(message, value, UnknownNameError)


def check_position(position: Position | None, names: Names) -> None:
    """Check that a position's span exists.

    Raises
    ------
    Fault
        If it does not.
    """
    if isinstance(position, Span) and names.spans is not None and position.name not in names.spans:
        what = f"the prompts have no span named {position.name!r}"
        raise Fault(explain(what, legal=names.spans, got=position.name), position, UnknownNameError)
