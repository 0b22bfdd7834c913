"""The planner: from worlds and outcomes to the smallest computation that answers them.  No torch here.

A *lane* is one trunk world in one bucket of prompts: what has to be computed of it, and from which layer
on.  Writes into ``norm`` or on edges into ``norm`` and ``logits`` touch only the readout, so worlds that
differ in nothing else share a lane.  Writes that come before anything has to be recomputed are plain
additions to the natural stream; the lane joins the batch at the first mechanism that reads a changed
stream and is not itself set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from causalnet.engine.joining import at_readout, first_change, heads_asked, join, since, trunk_of
from causalnet.engine.planned import Bucket, Lane, Plan, Reading, Shape, Write
from causalnet.errors import ExpressionError, InputError, UnknownNodeError, explain
from causalnet.expr.positions import Span, indices
from causalnet.expr.values import InWorld, Noise, Resample, SiteValue
from causalnet.expr.world import NATURAL_WORLD, Site, World, ground
from causalnet.graph import CausalGraph, Node

__all__ = ["Bucket", "Lane", "Plan", "Reading", "Shape", "Write", "connected", "draws_of", "needs", "plan", "trunk_of"]


def plan(
    graph: CausalGraph, worlds: Sequence[World], readings: Sequence[Reading], shape: Shape, *, draws: int = 1
) -> Plan:
    """Plan the computation of ``readings``.

    Parameters
    ----------
    graph
        The compiled graph.
    worlds
        The worlds that are read (nested ones are found by themselves; the natural world is always there).
    readings
        Which outcome is read in which world.
    shape
        Lengths and spans of the prompts.
    draws
        Donors, or noise draws, per prompt.

    Returns
    -------
    Plan
        Pure data, no torch.

    Raises
    ------
    InputError, UnknownNameError
        If a position or span does not exist in a prompt, which is named.
    UnknownNodeError
        If a world writes, or a reading reads, a node that the graph does not have.
    ExpressionError
        If a write has no place in the graph, such as an edge that does not exist.
    """
    ordered = _nested_first([*worlds, *(reading.world for reading in readings)])
    for site in {site: None for world in ordered for site in world.sites}:
        _check_site(graph, site)
    for node in {node: None for reading in readings for node in reading.nodes}:
        _check_node(graph, node, str(node))
        if not node.contributes:
            raise ExpressionError(f"direct({node}): {node} adds nothing to the residual stream")
    buckets = tuple(
        _bucket(graph, ordered, readings, shape, prompts, draws) for prompts in _buckets(ordered, readings, shape)
    )
    return Plan(graph, ordered, tuple(readings), shape, buckets, draws)


def needs(world: World) -> tuple[World, ...]:
    """Return the trunk worlds that a world is made of: its own, and those that it takes values from."""
    own = trunk_of(world)
    found = dict.fromkeys([own] if own else [])
    for nested in world.nested:
        found.update(dict.fromkeys(needs(nested)))
    return tuple(found)


def draws_of(world: World, draws: int) -> int:
    """Return how many draws a world has: one, unless donors or noise enter it or a world it reads."""
    for value in world.values:
        if isinstance(value, Resample | Noise):
            return draws
        if isinstance(value, InWorld) and draws_of(value.world, draws) > 1:
            return draws
    return 1


def _nested_first(worlds: Sequence[World]) -> tuple[World, ...]:
    """Return the natural world, then every world after those that it reads, each once."""
    found: dict[World, None] = {NATURAL_WORLD: None}

    def visit(world: World) -> None:
        if world not in found:
            for nested in world.nested:
                visit(nested)
            found[world] = None

    for world in worlds:
        visit(world)
    return tuple(found)


def _check_site(graph: CausalGraph, site: Site) -> None:
    """Refuse a site that no mechanism of the graph would ever write."""
    _check_node(graph, site.node, str(site))
    if site.receiver is None:
        if site.node.kind == "logits":
            raise ExpressionError(f"{site}: logits is what outcomes read and cannot be set")
        return
    _check_node(graph, site.receiver, str(site))
    if not _is_edge(graph, site.node, site.receiver):
        raise ExpressionError(f"{site}: the graph has no edge {site.node} -> {site.receiver}")


def _check_node(graph: CausalGraph, node: Node, where: str) -> None:
    """Check that a node exists, whether or not the graph shows the heads that it has."""
    if node.layer is None:
        return
    last = graph.layers - (node.kind != "resid")
    if node.layer > last:
        raise UnknownNodeError(explain(f"there is no {node}", where=where, mend=f"layers run from 0 to {last}"))
    if node.kind == "resid":
        return
    block = graph.blocks[node.layer]
    if not (block.mlp if node.kind == "mlp" else block.attn):
        raise UnknownNodeError(f"{where}: layer {node.layer} has no {'MLP' if node.kind == 'mlp' else 'attention'}")
    if node.kind in ("head", "bias") and not block.heads:
        raise UnknownNodeError(f"{where}: layer {node.layer} has no heads that can be told apart")
    if node.head is not None and node.head >= (block.heads or 0):
        mend = f"heads run from 0 to {(block.heads or 0) - 1}"
        raise UnknownNodeError(explain(f"there is no {node}", where=where, mend=mend))


def _is_edge(graph: CausalGraph, sender: Node, receiver: Node) -> bool:
    """Return whether ``receiver`` reads what ``sender`` adds to the residual stream."""
    if receiver.kind in ("embed", "bias", "resid"):
        return False
    if not sender.contributes:
        return (sender.kind, receiver.kind) == ("norm", "logits")
    if sender.kind in ("head", "bias") and not graph.blocks[sender.layer or 0].heads_sum:
        return False  # a norm comes after them: they reach others only through their attention
    if sender.layer is None or receiver.layer is None or sender.layer != receiver.layer:
        return sender.layer is None or receiver.layer is None or sender.layer < receiver.layer
    return receiver.kind == "mlp" and sender.kind != "mlp" and not graph.blocks[sender.layer].parallel


def _spans_used(worlds: Sequence[World], readings: Sequence[Reading]) -> frozenset[str]:
    positions = [site.position for world in worlds for site in world.sites]
    positions += [reading.outcome.position for reading in readings]
    return frozenset(position.name for position in positions if isinstance(position, Span))


def _buckets(worlds: Sequence[World], readings: Sequence[Reading], shape: Shape) -> list[tuple[int, ...]]:
    """Group prompts that agree in length and in where the spans of the query lie."""
    names = sorted(_spans_used(worlds, readings))
    groups: dict[tuple, list[int]] = {}
    for prompt, length in enumerate(shape.lengths):
        key = (length, *(shape.span(prompt).get(name) for name in names))
        groups.setdefault(key, []).append(prompt)
    return [tuple(group) for _, group in sorted(groups.items(), key=lambda item: item[1][0])]


def _bucket(
    graph: CausalGraph,
    worlds: Sequence[World],
    readings: Sequence[Reading],
    shape: Shape,
    prompts: tuple[int, ...],
    draws: int,
) -> Bucket:
    length, spans = shape.lengths[prompts[0]], shape.span(prompts[0])
    where = f"prompt {prompts[0]}"
    lanes: dict[World, Lane] = {}
    readout: dict[World, tuple[Write, ...]] = {}
    for world in worlds:
        grounded = _writes(world, length, spans, where)
        readout[world] = tuple(write for write in grounded if at_readout(write.site))
        trunk = trunk_of(world)
        if trunk and trunk not in lanes:
            writes = tuple(write for write in grounded if not at_readout(write.site))
            lanes[trunk] = Lane(trunk, writes, 0, draws_of(trunk, draws))
    read = [index for reading in readings for index in _read_columns(reading, length, spans, where)]
    waves = _waves(lanes, worlds, length, graph)
    starts = [start for start, _ in waves]
    written = [column for writes in readout.values() for write in writes for column in write.columns]
    return Bucket(prompts, length, waves, min([*starts, *read, *written, length - 1]), readout)


def _read_columns(reading: Reading, length: int, spans: Mapping[str, tuple[int, int]], where: str) -> tuple[int, ...]:
    found = indices(reading.outcome.position, length, spans, where=where)
    if len(found) != 1:
        what = f"{reading.outcome} is read at one position, but {reading.outcome.position} names {len(found)}"
        raise InputError(explain(what, where=where, mend="name one token, such as @last"))
    return found


def _writes(world: World, length: int, spans: Mapping[str, tuple[int, int]], where: str) -> tuple[Write, ...]:
    found: list[Write] = []
    for row in ground(world, length, spans, where=where).values():
        by_site: dict[Site, tuple[SiteValue, list[int]]] = {}
        for column, (site, value) in row.items():
            by_site.setdefault(site, (value, []))[1].append(column)
        for site, (value, columns) in by_site.items():
            own = indices(site.position, length, spans, where=where)
            offsets = tuple(own.index(column) for column in columns)
            found.append(Write(site, value, tuple(columns), offsets))
    return tuple(sorted(found, key=lambda write: write.site.sort_key))


def _waves(
    lanes: Mapping[World, Lane], worlds: Sequence[World], length: int, graph: CausalGraph
) -> tuple[tuple[int, tuple[Lane, ...]], ...]:
    """Group lanes that take values from each other, then by the first position at which one of them changes."""
    asked = heads_asked(worlds)
    changes: dict[World, int] = {}
    for lane in lanes.values():  # inner worlds come before those that read them
        changes[lane.world] = first_change(lane.writes, changes, length)
    waves: dict[int, list[Lane]] = {}
    for block in connected(list(lanes.values()), worlds):
        start = min(changes[lane.world] for lane in block)
        for lane in block:
            writes = since(lane.writes, start)
            place = join(graph, writes, length, asked.get(lane.world, frozenset()))
            waves.setdefault(start, []).append(replace(lane, writes=writes, join=place))
    # A stable sort: lanes that join together keep the order of nesting.
    return tuple((start, tuple(sorted(found, key=lambda lane: lane.join))) for start, found in sorted(waves.items()))


def connected(lanes: Sequence[Lane], worlds: Sequence[World]) -> list[list[Lane]]:
    """Return lanes grouped by who takes values from whom, in the order of their first lane."""
    group = {lane.world: index for index, lane in enumerate(lanes)}
    for world in worlds:
        together = {group[trunk] for trunk in needs(world) if trunk in group}
        if len(together) > 1:
            first = min(together)
            group = {trunk: first if index in together else index for trunk, index in group.items()}
    blocks: dict[int, list[Lane]] = {}
    for lane in lanes:
        blocks.setdefault(group[lane.world], []).append(lane)
    return list(blocks.values())
