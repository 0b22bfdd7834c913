"""Where a world's computation starts and at which layer it joins the wave.  No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from causalnet.engine.planned import Write
from causalnet.expr.values import InWorld, Natural
from causalnet.expr.world import Site, World
from causalnet.graph import CausalGraph, Node

__all__ = ["at_readout", "first_change", "heads_asked", "join", "since", "trunk_of"]

_READOUT = ("norm", "logits")


def trunk_of(world: World) -> World:
    """Return the world without the writes that touch only the readout."""
    return World(tuple((site, value) for site, value in world.writes if not at_readout(site)))


def at_readout(site: Site) -> bool:
    """Return whether a write touches only the readout: the norm, or an edge into norm or logits."""
    where = site.node if site.receiver is None else site.receiver
    return where.kind in _READOUT


def first_change(writes: Sequence[Write], changes: Mapping[World, int], length: int) -> int:
    """Return the first position at which a lane may differ from the natural world; the last one if nowhere."""
    found = [length - 1]
    for write in writes:
        if isinstance(write.value, Natural):
            continue
        inner = trunk_of(write.value.world) if isinstance(write.value, InWorld) else None
        earliest = 0 if inner is None else changes.get(inner, length - 1)
        found += [column for column in write.columns if column >= earliest][:1]
    return min(found)


def since(writes: Sequence[Write], start: int) -> tuple[Write, ...]:
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


def heads_asked(worlds: Sequence[World]) -> Mapping[World, frozenset[int]]:
    """Return, for each trunk world, the layers whose heads another world takes from it."""
    found: dict[World, set[int]] = {}
    for world in worlds:
        for site, value in world.writes:
            if isinstance(value, InWorld) and site.node.kind == "head" and site.node.layer is not None:
                found.setdefault(trunk_of(value.world), set()).add(site.node.layer)
    return {world: frozenset(layers) for world, layers in found.items()}


def join(graph: CausalGraph, writes: Sequence[Write], length: int, asked: frozenset[int] = frozenset()) -> int:
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
