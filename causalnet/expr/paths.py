"""Edges and paths: which exist, and which sets of paths can be told apart by edges."""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from causalnet.errors import explain
from causalnet.expr.assign import Path
from causalnet.expr.places import COMPUTED, Fault, How, Scene, nodes
from causalnet.expr.refs import Ref
from causalnet.graph import CausalGraph, Node

__all__ = ["Route", "check_consistent", "edges_of", "receivers", "route"]

Arrow = tuple[Node, Node]


@dataclass(frozen=True, slots=True)
class Route:
    """One path of a sentence on the graph: the nodes that each step may be.

    Parameters
    ----------
    path
        The path as written.
    stages
        The nodes of every step, from the first to the last.
    arrows
        The edges between neighbouring stages.
    """

    path: Path
    stages: tuple[frozenset[Node], ...]
    arrows: frozenset[Arrow]


def route(path: Path, scene: Scene) -> Route:
    """Resolve a path on the graph; every edge of it must exist.

    Raises
    ------
    Fault
        If a step names nothing or an edge does not exist.
    """
    first, *rest = path.steps
    stages = [nodes(first, scene)]
    for step in rest:
        into, own = receivers(step, scene, stages[-1]), nodes(step, scene)
        stages.append(into)
        if any(node.kind == "attn" and node.layer in scene.gathered for node in own.keys() - into.keys()):
            # A norm comes after these heads: attn[l] gathers them, and sends on what they receive.
            if any(node.layer not in scene.gathered or node.kind != "attn" for node in own):
                what = f"{step} joins attention whose heads are normed together with other nodes"
                raise Fault(explain(what, mend="write a path for each"), path)
            stages.append(own)
    arrows = [edges_of(stages[i], stages[i + 1], path, scene) for i in range(len(stages) - 1)]
    kept = [frozenset(stage) for stage in stages]
    return Route(path, tuple(kept), frozenset(arrow for some in arrows for arrow in some))


def receivers(ref: Ref, scene: Scene, senders: Collection[Node]) -> dict[Node, How]:
    """Return the nodes that receive an edge from ``senders`` into ``ref``.

    Attention whose heads are normed receives by its heads, except what these send it themselves.
    """
    own = {node.layer for node in senders if node.kind in ("head", "bias")}
    found: dict[Node, How] = {}
    gathered = scene.gathered
    for node, how in nodes(ref, scene).items():
        if node.kind == "attn" and node.layer in gathered - own:
            heads = [one for one in scene.dense.nodes if one.kind == "head" and one.layer == node.layer]
            found.update(dict.fromkeys(heads, how))
        elif node.kind != "bias":  # a bias is a constant: it is sent, and receives nothing
            found[node] = how
    return found


def edges_of(senders: dict[Node, How], into: dict[Node, How], part: Path, scene: Scene) -> list[Arrow]:
    """Return the edges between two sets of nodes.

    Every pair that was named must be an edge; of computed sets (desc, anc, between) those that exist count.

    Raises
    ------
    Fault
        If a named pair is no edge, or none is.
    """
    found: list[Arrow] = []
    missing: Arrow | None = None
    for sender, how in senders.items():
        for receiver, other in into.items():
            if sender in scene.dense and receiver in scene.dense and scene.dense.has_edge(sender, receiver):
                found.append((sender, receiver))
                continue
            missing = missing or (sender, receiver)
            if COMPUTED not in (how.named, other.named):
                raise _no_edge(sender, receiver, part, scene)
    if not found:
        if missing is None:
            raise Fault(f"{part} names no edge of the graph", part)
        raise _no_edge(*missing, part, scene)
    return found


def _no_edge(sender: Node, receiver: Node, part: Path, scene: Scene) -> Fault:
    """Say why an edge does not exist."""
    graph = scene.dense
    what = f"the graph has no edge {sender} -> {receiver}"
    if "resid" in (sender.kind, receiver.kind):
        reason, mend = "a residual stream is only read", f"name the component, or set {sender} itself"
    elif sender == receiver:
        reason, mend = "it is one node", "name another receiver"
    elif sender.kind == "logits":
        reason, mend = "logits is what outcomes read and sends nothing", "name a component"
    elif graph.has_edge(receiver, sender) or receiver.sort_key < sender.sort_key:
        reason, mend = f"{receiver} is computed before {sender}", "name a later receiver"
    elif sender.layer is not None and sender.layer == receiver.layer:
        reason, mend = _same_layer(sender, receiver, graph)
    elif sender.layer in scene.gathered and sender.kind in ("head", "bias"):
        layer = sender.layer
        reason = f"a norm comes after the heads of layer {layer}, so they reach others only through attn[{layer}]"
        mend = f"name attn[{layer}]"
    else:
        reason, mend = f"{receiver} does not read {sender}", ""
    return Fault(explain(f"{what}: {reason}", mend=mend), part)


def _same_layer(sender: Node, receiver: Node, graph: CausalGraph) -> tuple[str, str]:
    if sender.kind in ("head", "bias") and receiver.kind == "head":
        return "heads of one layer do not read each other", "name a receiver in a later layer"
    block = graph.blocks[sender.layer or 0]
    if block.parallel:
        return f"layer {block.layer} is parallel, so both read the same stream", "name a receiver in a later layer"
    return f"{receiver} does not read {sender}", "name a receiver in a later layer"


def check_consistent(routes: Iterable[Route], part: Path) -> None:
    """Check that a set of paths can be told apart by its edges.

    It can if every path that is made of the set's edges belongs to the set.  Paths are followed in step
    with all routes that may still spell them, so nothing is enumerated.

    Raises
    ------
    Fault
        If the edges make one more path; it is named.
    """
    found = list(routes)
    children: dict[Node, list[Node]] = {}
    arrows = {arrow for one in found for arrow in one.arrows}
    for sender, receiver in sorted(arrows, key=lambda arrow: (arrow[0].sort_key, arrow[1].sort_key)):
        children.setdefault(sender, []).append(receiver)
    ends = frozenset().union(*(one.stages[-1] for one in found))
    sources = sorted({node for one in found for node in one.stages[0]}, key=lambda node: node.sort_key)
    starts = {node: frozenset(i for i, one in enumerate(found) if node in one.stages[0]) for node in sources}
    todo: deque[tuple[Node, int, frozenset[int], tuple[Node, ...]]] = deque(
        (node, 0, alive, (node,)) for node, alive in starts.items()
    )
    seen = {(node, 0, alive) for node, alive in starts.items()}
    while todo:
        node, step, alive, trail = todo.popleft()
        if step and node in ends and not any(step == len(found[i].stages) - 1 for i in alive):
            raise _extra(trail, part)
        for child in children.get(node, ()):
            left = frozenset(i for i in alive if step + 1 < len(found[i].stages) and child in found[i].stages[step + 1])
            if not left:
                raise _extra(_to_an_end((*trail, child), children, ends), part)
            state = (child, step + 1, left)
            if state not in seen:
                seen.add(state)
                todo.append((child, step + 1, left, (*trail, child)))


def _to_an_end(trail: tuple[Node, ...], children: dict[Node, list[Node]], ends: frozenset[Node]) -> tuple[Node, ...]:
    """Continue a trail along the set's edges; each of them leads to an end."""
    while trail[-1] not in ends:
        trail = (*trail, children[trail[-1]][0])
    return trail


def _extra(trail: tuple[Node, ...], part: Path) -> Fault:
    shown = " -> ".join(map(str, trail))
    what = f"the edges of these paths also make the path {shown}, so they cannot be told apart"
    return Fault(explain(what, mend=f"add it: along (… | {shown})"), part)
