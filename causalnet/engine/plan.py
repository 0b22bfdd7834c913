"""The planner: from worlds and outcomes to the smallest computation that answers them.  No torch here.

A *lane* is one trunk world in one bucket of prompts: what has to be computed of it, and from which layer
on.  Writes into ``norm`` or on edges into ``norm`` and ``logits`` touch only the readout, so worlds that
differ in nothing else share a lane.  Writes that come before anything has to be recomputed are plain
additions to the natural stream; the lane joins the batch at the first mechanism that reads a changed
stream and is not itself set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from causalnet.errors import ExpressionError, InputError, UnknownNodeError, explain
from causalnet.expr.outcomes import Outcome
from causalnet.expr.positions import Span, indices
from causalnet.expr.values import InWorld, Natural, Noise, Resample, SiteValue
from causalnet.expr.world import NATURAL_WORLD, Site, World, ground
from causalnet.graph import CausalGraph, Node

__all__ = ["Bucket", "Lane", "Plan", "Reading", "Shape", "Write", "connected", "draws_of", "needs", "plan", "trunk_of"]

_READOUT = ("norm", "logits")


@dataclass(frozen=True)
class Shape:
    """What the planner needs to know of the prompts: lengths and token ranges of named spans."""

    lengths: tuple[int, ...]
    spans: tuple[Mapping[str, tuple[int, int]], ...] = ()

    def span(self, prompt: int) -> Mapping[str, tuple[int, int]]:
        """Return the named spans of one prompt."""
        return self.spans[prompt] if self.spans else {}


@dataclass(frozen=True, slots=True)
class Reading:
    """One outcome read in one world; ``nodes`` are what a ``direct(…)`` outcome adds up."""

    world: World
    outcome: Outcome
    nodes: tuple[Node, ...] = ()

    def __str__(self) -> str:
        return f"E[{self.outcome} | {self.world}]" if self.world else f"E[{self.outcome}]"


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a lane, resolved to token indices.

    ``offsets`` are the places of ``columns`` within the site's own positions: a write at every position
    that is overridden at one of them keeps the others.
    """

    site: Site
    value: SiteValue
    columns: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def node(self) -> Node:
        """The node that is set, or the sender of the edge that is set."""
        return self.site.node

    @property
    def receiver(self) -> Node | None:
        """The receiver of an edge write."""
        return self.site.receiver


@dataclass(frozen=True, slots=True)
class Lane:
    """One trunk world in one bucket.

    Parameters
    ----------
    world
        The trunk world: no writes that touch only the readout.
    writes
        Its writes, in order of computation.
    join
        ``2·l``: joins before layer l; ``2·l + 1``: joins after the attention of layer l;
        ``2·layers``: nothing has to be computed.
    draws
        Number of draws (donors, noise) that each prompt has here.
    """

    world: World
    writes: tuple[Write, ...]
    join: int
    draws: int


@dataclass(frozen=True)
class Bucket:
    """Prompts of one length (and equal span positions), and the waves that they run.

    ``waves`` pairs the first recomputed position with the lanes that start there, sorted by ``join``.
    """

    prompts: tuple[int, ...]
    length: int
    waves: tuple[tuple[int, tuple[Lane, ...]], ...]
    first: int
    readout: Mapping[World, tuple[Write, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What will be run.  ``print(plan)`` explains it.

    Attributes
    ----------
    graph, worlds, readings
        What was asked; ``worlds[0]`` is the natural world.
    buckets
        The computation.
    draws
        Donors (or noise draws) of each prompt.
    """

    graph: CausalGraph
    worlds: tuple[World, ...]
    readings: tuple[Reading, ...]
    shape: Shape
    buckets: tuple[Bucket, ...]
    draws: int

    @property
    def rows(self) -> int:
        """Number of counterfactual rows (prompt × world × draw) that are computed or added up."""
        return sum(len(b.prompts) * lane.draws for b in self.buckets for _, lanes in b.waves for lane in lanes)

    @property
    def tokens(self) -> int:
        """Token-layers that the rows compute."""
        layers = self.graph.layers
        return (
            sum(
                len(bucket.prompts) * lane.draws * (bucket.length - start) * (2 * layers - lane.join)
                for bucket in self.buckets
                for start, lanes in bucket.waves
                for lane in lanes
            )
            // 2
        )

    @property
    def full_tokens(self) -> int:
        """Token-layers that one full forward per row would compute."""
        layers = self.graph.layers
        return sum(
            len(bucket.prompts) * lane.draws * bucket.length * layers
            for bucket in self.buckets
            for _, lanes in bucket.waves
            for lane in lanes
        )

    @property
    def share(self) -> float:
        """Share of the full forwards' tokens that is computed."""
        return self.tokens / self.full_tokens if self.full_tokens else 0.0

    def __str__(self) -> str:
        lines = [
            f"{len(self.shape.lengths)} prompts in {len(self.buckets)} buckets of one length; "
            f"{len(self.worlds)} worlds, {len(self.readings)} readings, {self.draws} draws",
            f"{self.rows} rows; {self.tokens} token-layers instead of {self.full_tokens} "
            f"({100 * self.share:.1f} % of one full forward per row)",
        ]
        for bucket in self.buckets[:8]:
            for start, lanes in bucket.waves:
                joins = [lane.join for lane in lanes]
                lines.append(
                    f"  length {bucket.length}, {len(bucket.prompts)} prompts: {len(lanes)} lanes "
                    f"from position {start} on, joining between layers {min(joins) // 2} and {max(joins) // 2}"
                )
        if len(self.buckets) > 8:
            lines.append(f"  … and {len(self.buckets) - 8} more buckets")
        return "\n".join(lines)


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


def trunk_of(world: World) -> World:
    """Return the world without the writes that touch only the readout."""
    return World(tuple((site, value) for site, value in world.writes if not _at_readout(site)))


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


def _at_readout(site: Site) -> bool:
    where = site.node if site.receiver is None else site.receiver
    return where.kind in _READOUT


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
        readout[world] = tuple(write for write in grounded if _at_readout(write.site))
        trunk = trunk_of(world)
        if trunk and trunk not in lanes:
            writes = tuple(write for write in grounded if not _at_readout(write.site))
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
    asked = _heads_asked(worlds)
    changes: dict[World, int] = {}
    for lane in lanes.values():  # inner worlds come before those that read them
        changes[lane.world] = _first_change(lane.writes, changes, length)
    waves: dict[int, list[Lane]] = {}
    for block in connected(list(lanes.values()), worlds):
        start = min(changes[lane.world] for lane in block)
        for lane in block:
            writes = _from(lane.writes, start)
            join = _join(graph, writes, length, asked.get(lane.world, frozenset()))
            waves.setdefault(start, []).append(replace(lane, writes=writes, join=join))
    # A stable sort: lanes that join together keep the order of nesting.
    return tuple((start, tuple(sorted(found, key=lambda lane: lane.join))) for start, found in sorted(waves.items()))


def _first_change(writes: Sequence[Write], changes: Mapping[World, int], length: int) -> int:
    """Return the first position at which a lane may differ from the natural world; the last one if nowhere."""
    found = [length - 1]
    for write in writes:
        if isinstance(write.value, Natural):
            continue
        inner = trunk_of(write.value.world) if isinstance(write.value, InWorld) else None
        since = 0 if inner is None else changes.get(inner, length - 1)
        found += [column for column in write.columns if column >= since][:1]
    return min(found)


def _from(writes: Sequence[Write], start: int) -> tuple[Write, ...]:
    """Leave out what writes put at positions before ``start``, where nothing differs from the natural world."""
    found: list[Write] = []
    for write in writes:
        places = [place for place, column in enumerate(write.columns) if column >= start]
        if len(places) == len(write.columns):
            found.append(write)
        elif places:
            columns, offsets = (tuple(each[place] for place in places) for each in (write.columns, write.offsets))
            found.append(replace(write, columns=columns, offsets=offsets))
    return tuple(found)


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


def _heads_asked(worlds: Sequence[World]) -> Mapping[World, frozenset[int]]:
    """Return, for each trunk world, the layers whose heads another world takes from it."""
    found: dict[World, set[int]] = {}
    for world in worlds:
        for site, value in world.writes:
            if isinstance(value, InWorld) and site.node.kind == "head" and site.node.layer is not None:
                found.setdefault(trunk_of(value.world), set()).add(site.node.layer)
    return {world: frozenset(layers) for world, layers in found.items()}


def _join(graph: CausalGraph, writes: Sequence[Write], length: int, asked: frozenset[int] = frozenset()) -> int:
    """Return the first place where a mechanism reads a changed stream and is not itself set there.

    Soft values need the mechanism's own value only where it would have changed; elsewhere they are
    functions of the natural value.  In the layers ``asked`` the attention runs wherever it reads a change,
    even where it is set: its heads are read.
    """
    changed: set[int] = set()
    for block in graph.blocks:
        layer = block.layer
        changed = _enter(writes, layer, changed)
        attn_hard, attn_new, attn_open = _sets(writes, Node("attn", layer))
        heads = _head_columns(writes, layer)
        reads = set(range(min(changed), length)) if changed else set()
        # Edges into a mechanism are written where it reads, so it has to run even if it is set as well.
        hidden = attn_hard if layer not in asked else frozenset()
        if (reads | heads) - hidden or (reads | heads) & attn_open or _edge_columns(writes, Node("attn", layer)):
            return 2 * layer
        before_mlp = changed if block.parallel else changed | attn_new
        mlp_hard, mlp_new, mlp_open = _sets(writes, Node("mlp", layer))
        if before_mlp - mlp_hard or before_mlp & mlp_open or _edge_columns(writes, Node("mlp", layer)):
            return 2 * layer + 1
        changed = changed | attn_new | mlp_new
    return 2 * graph.layers


def _enter(writes: Sequence[Write], layer: int, changed: set[int]) -> set[int]:
    """Return the columns that differ from the natural stream where layer ``layer`` is entered."""
    for write in writes:
        if write.receiver is not None:
            continue
        if write.node == Node("resid", layer) or (layer == 0 and write.node.kind == "embed"):
            columns = set(write.columns)
            changed = changed - columns if isinstance(write.value, Natural) else changed | columns
    return changed


def _sets(writes: Sequence[Write], node: Node) -> tuple[set[int], set[int], set[int]]:
    """Return the columns of a node that are set hard, that change by being set, and that are set softly."""
    hard: set[int] = set()
    new: set[int] = set()
    soft: set[int] = set()
    for write in writes:
        if write.node == node and write.receiver is None:
            (hard if write.value.hard else soft).update(write.columns)
            if not isinstance(write.value, Natural):
                new.update(write.columns)
    return hard | soft, new, soft


def _head_columns(writes: Sequence[Write], layer: int) -> set[int]:
    """Return the columns where a head (or the bias) of a layer is set to anything but its natural value."""
    own = [w for w in writes if w.node.layer == layer and w.node.kind in ("head", "bias") and w.receiver is None]
    return {column for write in own if not isinstance(write.value, Natural) for column in write.columns}


def _edge_columns(writes: Sequence[Write], receiver: Node) -> set[int]:
    return {
        column
        for write in writes
        if write.receiver is not None and _reader(write.receiver) == receiver
        for column in write.columns
    }


def _reader(node: Node) -> Node:
    """Return the mechanism that reads for a node: heads read as part of their attention."""
    return Node("attn", node.layer) if node.kind in ("head", "bias") else node
