"""Laws that hold the graph to account: locality, screening, rule 3, edges, positions."""

import math
from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st

from causalnet.expr.positions import At
from causalnet.expr.values import NATURAL, RESAMPLE, ZERO, Given, InWorld, Patch, Scale, SiteValue
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import CausalGraph, Node
from causalnet.testing.lab import Lab, written
from causalnet.testing.laws.law import Case, Finding, Law, units, worst
from causalnet.testing.laws.values import some_heads, unmixed
from causalnet.testing.strategies.worlds import arrows, values, worlds

__all__ = ["EDGES", "LOCALITY", "POSITIONS", "RULE_3", "SCREENING", "generic"]


def generic(lab: Lab, node: Node) -> SiteValue:
    """Return a value that a node has in no natural run, so that what can move does."""
    if node.kind == "norm":
        return Scale(2.0)
    if node.kind == "head":
        return Patch("corrupt") if lab.offer.patches else RESAMPLE
    return Given("direction") if lab.offer.vectors else RESAMPLE


def _finer(graph: CausalGraph, named: Iterable[Node]) -> CausalGraph:
    """Return the graph with the heads that are named as nodes."""
    layers = {node.layer for node in named if node.kind in ("head", "bias") and node not in graph}
    return graph.with_heads(sorted(layer for layer in layers if layer is not None)) if layers else graph


# -- 4: locality -----------------------------------------------------------------------------------------------


@st.composite
def _local(draw: st.DrawFn, lab: Lab) -> Case:
    graph = draw(some_heads(lab))
    if draw(st.booleans()):
        # One contribution at one position: what it reaches is least.
        node = draw(st.sampled_from([one for one in graph.nodes if one.contributes]))
        world = World(((Site(node, At(draw(st.integers(0, 4)))), generic(lab, node)),))
    else:
        world = draw(worlds(graph, lab.offer, most=2))
    return Case(unmixed(draw(units(lab, mixed=True)), world), (world,))


def _reached(lab: Lab, case: Case, world: World) -> tuple[CausalGraph, frozenset[Node]]:
    """Return the graph over positions, and what an intervention sets or can move in it."""
    sites = world.sites
    length = lab.length(case.unit)
    graph = _finer(lab.graph, [end for site in sites for end in (site.node, site.receiver) if end is not None])
    graph = graph.unroll(range(length))
    streams = {site.node.layer for site in sites if site.node.kind == "resid"}
    graph = graph.with_resid(sorted(layer for layer in streams if layer is not None)) if streams else graph
    starts: set[Node] = set()
    for node, receiver, column in written(world, length, lab.spans(case.unit)):
        if receiver is None:
            starts.add(node.at(column))
        else:
            ends = [receiver.at(position) for position in range(length)]
            starts.update(end for end in ends if graph.has_edge(node.at(column), end))
    return graph, frozenset(starts | graph.descendants(starts))


def _locality(lab: Lab, case: Case) -> Finding:
    (world,) = case.worlds
    natural, found = lab.values(case.unit, NATURAL_WORLD, world)
    graph, reached = _reached(lab, case, world)
    nodes = dict.fromkeys(node.at(None) for node in graph.nodes)
    return worst(lab, case.unit, found, natural, nodes, lambda node, position: node.at(position) not in reached)


LOCALITY = Law(
    "locality",
    4,
    "What is no descendant of an intervention, on the graph over positions, keeps its value.",
    "scm",
    _local,
    _locality,
)


# -- 5: screening ----------------------------------------------------------------------------------------------


@st.composite
def _screened(draw: st.DrawFn, lab: Lab) -> Case:
    graph = draw(some_heads(lab))
    node = draw(st.sampled_from([one for one in graph.nodes if len(graph.parents(one)) > 1]))
    parents = graph.ordered(graph.parents(node))
    inner = draw(st.just(NATURAL_WORLD) | worlds(graph, lab.offer, most=2, edges=False).filter(_no_stream))
    same = NATURAL if not inner else InWorld(inner)
    screen = {Site(parent): draw(st.sampled_from([same, NATURAL])) for parent in parents}
    others = [one for one in graph.nodes if one != node and one not in parents and one.kind != "logits"]
    more = {Site(one): _away(lab, one) for one in others if draw(st.booleans())}
    # What the parents read: it moves what they compute, and not what they were set to.
    into = [edge for edge in arrows(graph) if edge.target in parents]
    senders = list(dict.fromkeys(edge.source for edge in into))
    if senders and (not more or draw(st.booleans())):
        sender = draw(st.sampled_from(senders))
        more |= {Site(sender, None, edge.target): generic(lab, sender) for edge in into if edge.source == sender}
    base = World(tuple(screen.items()))
    return Case(draw(units(lab)), (base, World((*base.writes, *more.items()))), (node,))


def _no_stream(world: World) -> bool:
    return bool(world) and not any(site.node.kind == "resid" for site in world.sites)


def _away(lab: Lab, node: Node) -> SiteValue:
    return generic(lab, node) if node.kind == "norm" else ZERO


def _screening(lab: Lab, case: Case) -> Finding:
    base, more = lab.values(case.unit, *case.worlds)
    return worst(lab, case.unit, more, base, case.nodes)


SCREENING = Law(
    "screening",
    5,
    "With all parents of a node set, nothing else that is set reaches it.",
    "scm",
    _screened,
    _screening,
)


# -- 6: rule 3 of the do-calculus ------------------------------------------------------------------------------


@st.composite
def _ruled(draw: st.DrawFn, lab: Lab) -> Case:
    graph = draw(some_heads(lab))
    z = draw(st.sampled_from([node for node in graph.nodes if node.contributes and node.kind != "bias"]))
    writes: dict[Site, SiteValue] = {}
    nested = draw(st.just(()) | worlds(graph, lab.offer, most=1, edges=False).filter(_no_stream).map(lambda w: (w,)))
    cuttable = arrows(graph)
    for child in graph.ordered(graph.children(z)):
        how = draw(st.sampled_from(["edge", "node", "edge", "node", "open"]))
        site = None
        if how == "edge" and any(edge.source == z and edge.target == child for edge in cuttable):
            site = Site(z, None, child)
        elif how != "open" and child.kind != "logits":
            site = Site(child)
        if site is not None:
            hard = values(site.node, lab.offer, nested).filter(lambda value: value.hard)
            writes[site] = draw(hard)
    if not writes:
        writes[Site(Node("norm"))] = NATURAL
    base = World(tuple(writes.items()))
    both = World((*base.writes, (Site(z), generic(lab, z))))
    return Case(unmixed(draw(units(lab)), base), (base, both), (z,))


def _rule_3(lab: Lab, case: Case) -> Finding:
    base, both = case.worlds
    (z,) = case.nodes
    graph = _finer(lab.graph, [end for site in both.sites for end in (site.node, site.receiver) if end is not None])
    hard = {site.node for site in both.sites if site.receiver is None}
    cut = graph.do(hard, [(site.node, site.receiver) for site in base.sites if site.receiver is not None])
    kept = [node for node in graph.nodes if node != z and node not in cut.descendants(z)]
    one, other = lab.values(case.unit, base, both)
    return worst(lab, case.unit, other, one, kept)


RULE_3 = Law(
    "rule_3",
    6,
    "Where no directed path from Z to Y is left after the arrows into X and Z are cut, Y(do(X), do(Z)) = Y(do(X)).",
    "scm",
    _ruled,
    _rule_3,
    weight=2.0,
)


# -- 7: edges --------------------------------------------------------------------------------------------------


@st.composite
def _paired(draw: st.DrawFn, lab: Lab) -> Case:
    graph = draw(some_heads(lab))
    able = [node for node in graph.nodes if node.kind != "logits"]
    # attn[l].bias has no parents, and nothing may move it.
    readers = [node for node in graph.nodes if graph.parents(node) or node.kind == "bias"]
    target = draw(st.sampled_from(readers))
    others = [node for node in able if node != target]
    # Who reads whom within a layer is what can be taken wrongly.
    near = [node for node in others if node.layer == target.layer]
    source = draw(st.sampled_from(near if near and draw(st.booleans()) else others))
    held = [(Site(parent), NATURAL) for parent in graph.ordered(graph.parents(target)) if parent != source]
    base = World(tuple(held))
    return Case(draw(units(lab)), (base, World((*held, (Site(source), generic(lab, source))))), (source, target))


def _edges(lab: Lab, case: Case) -> Finding:
    base, _ = case.worlds
    source, target = case.nodes
    graph = _finer(lab.graph, (*case.nodes, *(site.node for site in base.sites)))
    edge = graph.has_edge(source, target)
    natural = lab.values(case.unit, NATURAL_WORLD)[0][target]
    moved = Finding(0.0)
    for value in _tries(lab, source) if edge else (generic(lab, source),):
        (found,) = lab.values(case.unit, World((*base.writes, (Site(source), value))))
        gaps = _moved(lab, np.asarray(found[target]), np.asarray(natural))
        moved = Finding(float(gaps.max()), target, int(gaps.argmax()))
        if edge and moved.residual > lab.tolerance:
            return Finding(0.0)
    if edge:
        return Finding(math.inf, words=f"the edge {source} -> {target} carries nothing")
    return Finding(moved.residual, target, moved.position, f"there is no edge {source} -> {target}, and it carries")


def _tries(lab: Lab, node: Node) -> tuple[SiteValue, ...]:
    patches = tuple(Patch(name) for name in lab.offer.patches)
    return (generic(lab, node), *patches, RESAMPLE) if node.kind != "bias" else (generic(lab, node),)


def _moved(lab: Lab, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return by how much [position] a value moved, relative to its own size; 0 only where it is the same."""
    if lab.exact:
        return (one != other).any(-1).astype(float)
    size = max(float(np.abs(other).mean()), 1e-30)
    found = np.abs(one - other).max(-1) / size
    return np.where(np.isnan(found), np.inf, found)


EDGES = Law(
    "edges",
    7,
    "Every edge carries, the other parents being natural, and where there is no edge nothing does.",
    "scm",
    _paired,
    _edges,
    weight=2.0,
)


# -- 8: positions ----------------------------------------------------------------------------------------------


@st.composite
def _placed(draw: st.DrawFn, lab: Lab) -> Case:
    graph = draw(some_heads(lab))
    node = draw(st.sampled_from([one for one in graph.nodes if one.contributes or one.kind == "head"]))
    unit = draw(units(lab))
    position = draw(st.sampled_from(range(1, lab.length(unit))))
    site = (Site(node, At(position)), generic(lab, node))
    mixers = [one for one in graph.nodes if one.kind == "attn" and one.layer != node.layer]
    mixers += [one for one in graph.nodes if one.kind in ("head", "bias") and one.layer != node.layer]
    held = World((site, *((Site(mixer), NATURAL) for mixer in mixers)))
    return Case(unit, (World((site,)), held), (node,))


def _positions(lab: Lab, case: Case) -> Finding:
    (node,) = case.nodes
    (only, held), ((site, _), *_) = case.worlds, case.worlds[0].writes
    at = site.position.index if isinstance(site.position, At) else 0
    natural, free, still = lab.values(case.unit, NATURAL_WORLD, only, held)
    graph = _finer(lab.graph, [node])
    before = worst(lab, case.unit, free, natural, graph.nodes, lambda _, position: position < at)
    crossed = worst(lab, case.unit, still, natural, graph.nodes, lambda _, position: position != at)
    found = max(before, crossed, key=lambda one: one.residual)
    if found.residual > lab.tolerance:
        words = f"a set at position {at} moves {found.node} at {found.position}"
        return Finding(found.residual, found.node, found.position, words)
    return _within_layer(lab, case, graph, free, natural, at)


def _within_layer(lab: Lab, case: Case, graph: CausalGraph, free, natural, at: int) -> Finding:
    """Heads do not reach each other, nor in a parallel block the MLP, which in a sequential block they do."""
    (node,) = case.nodes
    if node.kind not in ("attn", "head") or node.layer is None:
        return Finding(0.0)
    block = graph.blocks[node.layer]
    if node.kind == "head":
        heads = [one for one in graph.nodes if one.kind == "head" and one.layer == node.layer and one != node]
        leak = worst(lab, case.unit, free, natural, heads)
        if leak.residual > lab.tolerance:
            return Finding(leak.residual, leak.node, leak.position, f"{node} reaches {leak.node} of its own layer")
    mlp = Node("mlp", node.layer)
    if mlp not in graph:
        return Finding(0.0)
    moved = float(_moved(lab, np.asarray(free[mlp]), np.asarray(natural[mlp]))[at])
    if block.parallel:
        return Finding(moved, mlp, at, f"the block is parallel, and {node} moves {mlp}")
    if node.kind == "attn" and moved <= lab.tolerance:
        return Finding(math.inf, mlp, at, f"the block is sequential, and {node} does not move {mlp}")
    return Finding(0.0)


POSITIONS = Law(
    "positions",
    8,
    "A set at a position changes nothing before it, and nothing at another position but through attention; the heads "
    "of a layer do not reach each other, and attention reaches the MLP of its layer unless the block is parallel.",
    "scm",
    _placed,
    _positions,
    weight=1.5,
)
