"""From ``do(...)`` to a world: every assignment expanded to primitive sites."""

from collections.abc import Iterable
from dataclasses import dataclass

from causalnet.errors import ExpressionError, explain
from causalnet.expr.assign import Assignment, Do, Path, check_settable
from causalnet.expr.conflicts import Told, Write, resolve
from causalnet.expr.paths import Route, check_consistent, edges_of, receivers, route
from causalnet.expr.places import Fault, How, Place, Scene, check_value, places
from causalnet.expr.refs import Ref
from causalnet.expr.values import NATURAL, ZERO, Add, Given, InWorld, Noise, SiteValue, Under
from causalnet.expr.world import Site, World
from causalnet.graph import Node

__all__ = ["Expansion", "expand"]


@dataclass(frozen=True, slots=True)
class Expansion:
    """A world, what was overridden on the way to it, and where it starts to differ from the natural one.

    ``touched`` are the nodes that are set or read a set edge, with the position of the write; a change that
    goes along paths touches only what the outcome reads.
    """

    world: World
    overridden: tuple[str, ...] = ()
    touched: tuple[Place, ...] = ()


def expand(do: Do, scene: Scene, *, told: Told = None) -> Expansion:
    """Expand an intervention to the world that it makes.

    Parameters
    ----------
    do
        The intervention.
    scene
        The graph it is made on.
    told
        Where a named estimand wrote it: the assignments of its intervention.  What it has added to them may
        name nothing (``desc(norm) = natural``) and gives way without a word.

    Raises
    ------
    Fault
        If it cannot be meant on this graph.
    """
    notes: list[str] = []
    writes: list[Write] = []
    routed = [one for one in do.assignments if one.along_paths]
    for one in do.assignments:
        if one.along_paths:
            continue
        found = _edge(one, scene, notes, told) if isinstance(one.target, Path) else _node(one, scene, notes, told)
        if not found and told is None:
            what = f"{one.target} names no node of the graph, so {one} writes nothing"
            raise Fault(explain(what, mend="leave it out, or name nodes"), one.target)
        writes += found
    along = _along(routed, scene, notes, told, alone=len(routed) == len(do.assignments)) if routed else []
    kept, overridden = resolve([*writes, *along], told=told)
    free = [write.site for write in kept if not write.source.along_paths]
    touched = [(site.receiver or site.node, site.position) for site in free]
    for one in routed:
        ends = {node for path in one.along_paths for stage in route(path, scene).stages[1:] for node in stage}
        touched += [(end, at) for end in ends & scene.outcome for _, at in places(_target(one), scene)]
    world = World(tuple((write.site, write.value) for write in kept))
    return Expansion(world, (*notes, *overridden), tuple(dict.fromkeys(touched)))


def _target(one: Assignment) -> Ref:
    assert not isinstance(one.target, Path)
    return one.target


def _site_value(one: Assignment, scene: Scene, notes: list[str], told: Told) -> SiteValue:
    value = one.value
    check_value(value, scene.names)
    if not isinstance(value, Under):
        return value
    # What stands inside an assignment that was written was written too.
    inner = expand(value.do, scene, told=None if told is not None and one in told else told)
    notes += [f"under {value.do}: {note}" for note in inner.overridden]
    return InWorld(inner.world) if inner.world else NATURAL


def _node(one: Assignment, scene: Scene, notes: list[str], told: Told) -> list[Write]:
    value = _site_value(one, scene, notes, told)
    found = places(_target(one), scene)
    for node, _ in found:
        _check_settable(node, one)
    return [Write(Site(node, at), part, how, one) for (node, at), how, part in _share(found, value, one)]


def _check_settable(node: Node, one: Assignment) -> None:
    """Refuse what a computed set has brought in; what was named outright is refused when it is written."""
    try:
        check_settable(node.kind, one.value, one.target)
    except ExpressionError as error:
        raise Fault(str(error), one) from None


def _share(found: dict[Place, How], value: SiteValue, one: Assignment) -> Iterable[tuple[Place, How, SiteValue]]:
    """Share a value of ``attn[l]`` among its heads and bias, where these are the nodes.

    What is linear in the value is written to each; a vector goes to one of them, or it would count once
    per head.
    """
    for (node, at), how in found.items():
        if how.whole is None or not isinstance(value, Given | Add | Noise):
            yield (node, at), how, value
            continue
        if isinstance(value, Noise):
            what = (
                f"{one}: a head of layer {how.whole} is named in this query, and noise on the sum is not noise on each"
            )
            raise Fault(explain(what, mend=f"name the heads: attn[{how.whole}].head[:]"), one)
        if (Node("bias", how.whole), at) not in found:
            what = f"{one}: only a part of attn[{how.whole}] is left to set, and {value} is a value of the whole"
            raise Fault(explain(what, mend=f"set attn[{how.whole}], or name heads"), one)
        if node.kind == "bias":
            yield (node, at), how, value
        elif isinstance(value, Given):
            yield (node, at), how, ZERO


def _edge(one: Assignment, scene: Scene, notes: list[str], told: Told) -> list[Write]:
    assert isinstance(one.target, Path)
    value = _site_value(one, scene, notes, told)
    first, second = one.target.steps
    sent = places(first, scene)
    by_node = {node: how for (node, _), how in sent.items()}
    into = receivers(second, scene, by_node)
    arrows = set(edges_of(by_node, into, one.target, scene))
    _check_stream(arrows, one, scene)
    found = []
    for (sender, at), how, part in _share(sent, value, one):
        for receiver, other in into.items():
            if (sender, receiver) in arrows:
                named = How(min(how.named, other.named), how.head)
                found.append(Write(Site(sender, at, receiver), part, named, one))
    return found


def _check_stream(arrows: Iterable[tuple[Node, Node]], one: Assignment, scene: Scene) -> None:
    """Refuse edges that a residual stream, set in the same query, would carry."""
    for sender, receiver in arrows:
        if scene.graph is not scene.dense and not scene.graph.has_edge(sender, receiver):
            what = f"{sender} reaches {receiver} only through a resid[l] that this query names as a node"
            raise Fault(explain(what, mend="ask in two queries"), one)


def _along(routed: list[Assignment], scene: Scene, notes: list[str], told: Told, *, alone: bool) -> list[Write]:
    """Expand every path-specific assignment of one ``do``.

    X is set to v along the edges P: an edge of P out of X carries v, an edge of P further on what its
    sender has in this world, and every other edge of a node that P reaches carries its natural value.
    """
    writes: list[Write] = []
    routes: list[Route] = []
    starts: set[Node] = set()
    for one in routed:
        value = _site_value(one, scene, notes, told)
        found = places(_target(one), scene)
        own = [route(path, scene) for path in one.along_paths]
        _check_ends(one, {node for node, _ in found}, own)
        _check_stream({arrow for each in own for arrow in each.arrows}, one, scene)
        arrows = {arrow for each in own for arrow in each.arrows}
        starts |= {node for node, _ in found}
        for (node, at), how, part in _share(found, value, one):
            writes += [Write(Site(node, at, b), part, how, one) for a, b in sorted(arrows, key=_order) if a == node]
        routes += own
    check_consistent(routes, routed[-1].along_paths[-1])
    along = {arrow for each in routes for arrow in each.arrows}
    reached = {receiver for _, receiver in along}
    read = scene.outcome | scene.dense.ancestors(scene.outcome)
    for node in scene.dense.ordered({sender for sender, _ in along} | reached):
        if node in starts and node not in reached and alone:
            continue  # nothing else in this world can move it, so its other edges carry its natural value anyway
        how = How(-1)
        for child in scene.dense.ordered(scene.dense.children(node)):
            if (node, child) not in along and child in read:
                writes.append(Write(Site(node, None, child), NATURAL, how, routed[0]))
    return writes


def _order(arrow: tuple[Node, Node]) -> tuple:
    return (arrow[0].sort_key, arrow[1].sort_key)


def _check_ends(one: Assignment, set_nodes: set[Node], routes: list[Route]) -> None:
    for each in routes:
        strange = sorted(each.stages[0] - set_nodes, key=lambda node: node.sort_key)
        if strange:
            what = f"the path {each.path} starts at {strange[0]}, which {one.target} = … does not set"
            raise Fault(explain(what, mend=f"start it at {one.target}"), each.path)
        if each.stages[-1] != routes[0].stages[-1]:
            what = f"the paths {routes[0].path} and {each.path} end at different nodes"
            raise Fault(explain(what, mend="let all paths of an assignment end at the same node"), each.path)
    idle = sorted(set_nodes.difference(*(each.stages[0] for each in routes)), key=lambda node: node.sort_key)
    if idle:
        what = f"{idle[0]} is set, and no path starts there, so nothing is written"
        raise Fault(explain(what, mend=f"leave {idle[0]} out, or add a path"), one)
