"""The wavefront: all rows of one bucket pass through each layer's weights together, once.

Rows are kept in one buffer, lane by lane in the order in which lanes join; a lane's rows are
[prompt, draw].  Before a lane joins, its writes are additions to the natural stream.  At each layer the
rows that are in the batch go through the model's own layer; rows that join after the attention skip it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import torch

from causalnet.engine.natural import Natural, Suffix, add_beside, contribution, head_contribution
from causalnet.engine.plan import Lane, Write, trunk_of
from causalnet.engine.prefix import Rows, attending
from causalnet.errors import InterventionError
from causalnet.expr.values import InWorld
from causalnet.expr.values import Natural as NaturalValue
from causalnet.expr.world import World
from causalnet.graph import Node
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.probe import Hooks, hidden_of, hooked, with_hidden

__all__ = ["Fetch", "LaneResult", "Watch", "Wave"]


class Fetch(Protocol):
    """Where values come from that are not made in this wave: donors, means, patches, given vectors."""

    def __call__(self, write: Write, current: torch.Tensor) -> torch.Tensor:
        """Return the value [prompt, draw or 1, column, width] of a write; ``current`` is the node's own."""
        ...


@dataclass(frozen=True, eq=False)
class Watch:
    """What is read off each row: the final stream at some columns, direct effects through some probes.

    Attributes
    ----------
    columns
        Columns, relative to the wave's start, whose final stream is read.
    nodes
        Components whose direct effect is read.
    probes
        Column of each probe, relative to the wave's start.
    weight, sigma
        Direction [prompt, probe, d_model] and natural scale [prompt, probe] of each probe.
    direct
        Natural direct effects [prompt, probe, node].
    keep
        The (trunk world, node) whose contributions later readers need.
    """

    columns: tuple[int, ...]
    nodes: tuple[Node, ...]
    probes: tuple[int, ...]
    weight: torch.Tensor
    sigma: torch.Tensor
    direct: torch.Tensor
    keep: frozenset[tuple[World, Node]]


@dataclass(eq=False)
class LaneResult:
    """One lane's readings: ``stream`` [prompt, draw, column, d_model], ``direct`` [prompt, draw, probe, node]."""

    stream: torch.Tensor
    direct: torch.Tensor


@dataclass(eq=False)
class Wave:
    """One pass of several lanes over one bucket.

    Attributes
    ----------
    start
        First position that is recomputed.
    results
        What was read off each trunk world.
    kept
        Contributions [prompt, draw, suffix, d_model] of the (world, node) that others needed.
    """

    mechanisms: Mechanisms
    natural: Natural
    start: int
    lanes: Sequence[Lane]
    how: Suffix
    fetch: Fetch
    watch: Watch
    results: dict[World, LaneResult] = field(default_factory=dict)
    kept: dict[tuple[World, Node], torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prompts = self.natural.ids.shape[0]
        self.suffix = self.natural.length - self.start
        self.depth = len(self.mechanisms.layers)
        self.fired: Counter[tuple[World, Any]] = Counter()
        self.by_world = {lane.world: lane for lane in self.lanes}
        self.rows_of: dict[World, slice] = {}
        offset = 0
        for lane in self.lanes:
            count = self.prompts * lane.draws
            self.rows_of[lane.world] = slice(offset, offset + count)
            offset += count
        # Components that a lane leaves as they are keep their natural direct effects.
        rows = [self.watch.direct.repeat_interleave(lane.draws, 0) for lane in self.lanes]
        self.direct = torch.cat(rows)
        # Nested worlds come first wherever several lanes are written in one call.
        self.in_order = sorted(self.lanes, key=lambda lane: lane.world.depth)
        self.n_in = self.n_mid = 0
        self.entered: torch.Tensor | None = None
        self.beside: dict[Node, torch.Tensor] = {}
        self.by_head: dict[tuple[World, Node], torch.Tensor] = {}
        self.aside: torch.Tensor | None = None

    # -- running ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run every lane; fill :attr:`results` and :attr:`kept`."""
        for lane in self.lanes:
            direct = self.direct[self.rows_of[lane.world]]
            shape = (self.prompts, lane.draws, *direct.shape[1:])
            self.results[lane.world] = LaneResult(self.natural.streams[-1][:0], direct.view(shape))
        computed = [lane for lane in self.lanes if lane.join < 2 * self.depth]
        if computed:
            with torch.no_grad(), hooked() as hooks:
                self._register(hooks)
                self._layers(computed)
        for lane in self.in_order:
            if lane.join == 2 * self.depth:
                self._add_up(lane)
        self._check_receipts()

    def _layers(self, computed: Sequence[Lane]) -> None:
        total = sum(self.prompts * lane.draws for lane in computed)
        first = self.natural.streams[0]
        buffer = torch.empty(total, self.suffix, first.shape[-1], dtype=first.dtype, device=first.device)
        rows = self._rows(computed)
        by_depth = [lane for lane in self.in_order if lane.join < 2 * self.depth]
        done = 0
        for layer in self.mechanisms.layers:
            self.n_in = self._count(computed, 2 * layer.index)
            self.n_mid = self._count(computed, 2 * layer.index + 1)
            if self.n_mid == 0:
                continue
            stream = self.natural.streams[layer.index]
            buffer = buffer.to(stream.device)
            for lane in by_depth:
                where = self.rows_of[lane.world]
                if done <= where.start < self.n_mid:
                    buffer[where] = self._entering(lane, layer.index).reshape(-1, self.suffix, stream.shape[-1])
                elif where.start < done:
                    self._reset(lane, layer.index, buffer)
                if (lane.world, Node("resid", layer.index)) in self.watch.keep and where.start < self.n_mid:
                    self._keep(lane, Node("resid", layer.index), self._of(buffer, lane))
            done = self.n_mid
            out = self._call(layer, buffer[:done], rows)
            buffer[:done] = out
        self._read_streams(by_depth, buffer)

    def _call(self, layer: Layer, hidden: torch.Tensor, rows: Rows) -> torch.Tensor:
        self.entered = hidden
        call = self.how.calls[layer.index]
        if self.natural.cache is None or self.start == 0:
            return call(layer, hidden)
        self._regroup(rows, self._entering_rows(layer))
        with attending(self.mechanisms, self.natural.cache, rows):
            return call(layer, hidden)

    def _rows(self, computed: Sequence[Lane]) -> Rows:
        device = self.natural.ids.device
        prompt = torch.cat(
            [torch.arange(self.prompts, device=device).repeat_interleave(lane.draws) for lane in computed]
        )
        return Rows(self.start, prompt, self.natural.block, prompts=self.prompts, shared=dict(self.how.shared))

    def _entering_rows(self, layer: Layer) -> int:
        """Return how many rows the attention of a layer sees.

        Where no row needs it, the first lane's rows pass through it all the same (a module cannot run on
        nothing) and the result is thrown away.
        """
        if not self._skips(layer):
            return self.n_mid
        return self.n_in or self.prompts * self.lanes[0].draws

    def _regroup(self, rows: Rows, count: int) -> None:
        """Order the first ``count`` rows by prompt, so that each prompt's prefix is read in one product."""
        if self.prompts > 1:
            rows.by_prompt = torch.argsort(rows.prompt[:count], stable=True)
            rows.inverse = torch.argsort(rows.by_prompt)

    def _count(self, computed: Sequence[Lane], place: int) -> int:
        return sum(self.prompts * lane.draws for lane in computed if lane.join <= place)

    def _skips(self, layer: Layer) -> bool:
        """Return whether rows that join after the attention can be left out of it."""
        part = layer.attn
        return (
            self.n_in < self.n_mid
            and part is not None
            and part.module is not None
            and not part.takes_residual
            and not part.also
            and not self.how.calls[layer.index].grows
        )

    # -- streams ---------------------------------------------------------------------------------------

    def _of(self, tensor: torch.Tensor, lane: Lane) -> torch.Tensor:
        """Return a lane's rows of a batch as a view [prompt, draw, suffix, width]."""
        return tensor[self.rows_of[lane.world]].view(self.prompts, lane.draws, self.suffix, -1)

    def _natural(self, node: Node) -> torch.Tensor:
        """Return a node's natural value [prompt, 1, suffix, width]."""
        if node.kind == "embed":
            found = self.natural.streams[0]
        elif node.kind == "resid":
            found = self.natural.streams[node.layer or 0]
        elif node.kind == "head":
            assert node.layer is not None and node.head is not None
            every = self.natural.heads[node.layer]
            width = every.shape[-1] // (self.mechanisms.mechanism(node).heads or 1)
            found = every[..., node.head * width : (node.head + 1) * width]
        elif node.kind == "bias":
            found = self._bias(node).expand(self.prompts, self.natural.length - self.natural.first, -1)
        else:
            found = self.natural.contributions[node]
        return found[:, self.start - self.natural.first :].unsqueeze(1)

    def _bias(self, node: Node) -> torch.Tensor:
        part = self.mechanisms.mechanism(node)
        bias = getattr(part.out, "bias", None)
        width = self.mechanisms.width
        reference = self.natural.streams[node.layer or 0]
        if bias is None:
            return torch.zeros(1, 1, width, dtype=reference.dtype, device=reference.device)
        return (bias.detach() * part.scale).view(1, 1, width)

    def _entering(self, lane: Lane, layer: int) -> torch.Tensor:
        """Return the stream [prompt, draw, suffix, d_model] with which a lane enters ``layer``."""
        stream = self.natural.streams[layer][:, self.start - self.natural.first :]
        out = stream.unsqueeze(1).repeat(1, lane.draws, 1, 1)
        for write in lane.writes:
            node = write.node
            if write.receiver is not None:
                continue
            at = [column - self.start for column in write.columns]
            if node.kind in ("head", "bias"):
                # Its attention was not run, so it is set hard there as well and nobody reads this write.
                self.fired[lane.world, write.site] += 2 * (node.layer or 0) < lane.join
            elif node.kind == "resid" and (node.layer or 0) <= layer:
                # Between here and ``layer`` nothing else has changed, so the difference is carried along.
                before = self._natural(node)[:, :, at].to(out.device)
                carried = stream.unsqueeze(1)[:, :, at] - before
                out[:, :, at] = carried + self._value(lane, write, out[:, :, at] - carried)
            elif node.kind == "embed" or (node.layer is not None and node.layer < layer and node.kind != "resid"):
                before = self._natural(node)[:, :, at].to(out.device)
                value = self._value(lane, write, before)
                out[:, :, at] += value - before
                self._note_direct(lane, node, at, value)
        return out

    def _reset(self, lane: Lane, layer: int, buffer: torch.Tensor) -> None:
        """Set ``resid[layer]`` in a lane that is already in the batch."""
        for write in lane.writes:
            if write.node == Node("resid", layer) and write.receiver is None:
                at = [column - self.start for column in write.columns]
                view = self._of(buffer, lane)
                view[:, :, at] = self._value(lane, write, view[:, :, at])

    def _add_up(self, lane: Lane) -> None:
        """Finish a lane in which nothing had to be computed."""
        stream = self._entering(lane, self.depth)
        self.results[lane.world].stream = stream[:, :, list(self.watch.columns)]

    def _read_streams(self, computed: Sequence[Lane], buffer: torch.Tensor) -> None:
        final = Node("resid", self.depth)
        for lane in computed:
            self._reset(lane, self.depth, buffer)
            view = self._of(buffer, lane)
            if (lane.world, final) in self.watch.keep:
                self._keep(lane, final, view)
            self.results[lane.world].stream = view[:, :, list(self.watch.columns)].clone()

    # -- values ----------------------------------------------------------------------------------------

    def _value(self, lane: Lane, write: Write, current: torch.Tensor) -> torch.Tensor:
        """Return what a write puts in place of ``current`` [prompt, draw, column, width]."""
        self.fired[lane.world, write.site] += 1
        at = [column - self.start for column in write.columns]
        if isinstance(write.value, NaturalValue):
            value = self._natural(write.node)[:, :, at]
        elif isinstance(write.value, InWorld):
            value = self.effective(trunk_of(write.value.world), write.node, at)
        else:
            value = self.fetch(write, current)
        return value.to(current.device)  # of a model that is spread over devices

    def effective(self, world: World, node: Node, at: Sequence[int]) -> torch.Tensor:
        """Return a node's value [prompt, draw, column, width] in a trunk world, computed or not."""
        if (world, node) in self.kept:
            return self.kept[world, node][:, :, list(at)]
        out = self._natural(node)[:, :, list(at)]
        lane = self.by_world.get(world)
        if lane is None:
            return out
        if node.kind == "resid":
            # The lane has not joined yet: its stream is the natural one and what it has written so far.
            fired = self.fired.copy()
            out = self._entering(lane, node.layer or 0)[:, :, list(at)]
            self.fired = fired
            return out
        for write in lane.writes:
            if write.node != node or write.receiver is not None:
                continue
            hit = [
                (place, at.index(column - self.start))
                for place, column in enumerate(write.columns)
                if column - self.start in at
            ]
            if hit:
                own = [column - self.start for column in write.columns]
                value = self._peek(lane, write, self._natural(node)[:, :, own])
                out = out.expand(-1, max(out.shape[1], value.shape[1]), -1, -1).clone()
                for place, target in hit:
                    out[:, :, target] = value[:, :, place]
        return out

    def _peek(self, lane: Lane, write: Write, current: torch.Tensor) -> torch.Tensor:
        """Return a write's value without counting it as fired."""
        before = self.fired[lane.world, write.site]
        value = self._value(lane, write, current)
        self.fired[lane.world, write.site] = before
        return value

    # -- hooks -----------------------------------------------------------------------------------------

    def _register(self, hooks: Hooks) -> None:
        for layer in self.mechanisms.layers:
            for part in layer:
                self._register_reads(hooks, layer, part)
            if layer.attn is not None:
                self._register_mixer(hooks, layer, layer.attn)
            for part in layer:
                for module, scale in part.also:
                    hooks.on_output(module, add_beside(self.beside, part.node, scale))
                hooks.on_output(part.source, self._at_source(layer, part))

    def _register_mixer(self, hooks: Hooks, layer: Layer, part: Mechanism) -> None:
        """Let rows that join after the attention skip it; write heads before the output projection."""
        if part.module is None:
            return

        def enter(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            if not self._skips(layer):
                return None
            return with_hidden(args, kwargs, hidden_of(args, kwargs)[: self._entering_rows(layer)])

        def leave(output: torch.Tensor) -> torch.Tensor | None:
            if not self._skips(layer):
                return None
            full = output.new_zeros(self.n_mid, *output.shape[1:])
            full[: self.n_in] = output[: self.n_in]
            return full

        hooks.on_call(part.module, enter)
        if part.out is not None:
            self._register_heads(hooks, layer, part)
        hooks.on_output(part.module, leave)

    def _register_heads(self, hooks: Hooks, layer: Layer, part: Mechanism) -> None:
        """Write, read and keep heads before the output projection, and the bias after it."""
        assert part.module is not None and part.out is not None
        named = [node for _, node in self.watch.keep] + list(self.watch.nodes)
        named += [end for lane in self.lanes for w in lane.writes for end in (w.node, w.receiver) if end is not None]
        kinds = {node.kind for node in named if node.layer == layer.index}
        receivers = [w.receiver for lane in self.lanes for w in lane.writes if w.receiver is not None]
        if any(node.kind == "head" and node.layer == layer.index for node in receivers):
            hooks.on_call(part.module, self._each_head_reads(layer, part))
        if "head" in kinds:
            hooks.on_input(part.out, self._at_heads(layer, part))
        if "bias" in kinds:
            hooks.on_output(part.out, self._at_bias(layer, part))

    def _register_reads(self, hooks: Hooks, layer: Layer, part: Mechanism) -> None:
        """Change what a mechanism reads, for lanes that set edges into it."""
        lanes = [lane for lane in self.lanes if self._edges(lane, part.node)]
        if not lanes:
            return

        def through_norm(hidden: torch.Tensor) -> torch.Tensor:
            return self._corrected(lanes, part, hidden)

        def at_module(hidden: torch.Tensor) -> torch.Tensor:
            if part.norm is None:
                return self._corrected(lanes, part, hidden)
            assert self.entered is not None
            changed = hidden.clone()
            read = self._corrected(lanes, part, self.entered)
            for lane in lanes:
                where = self.rows_of[lane.world]
                if where.start < hidden.shape[0]:
                    changed[where] = part.norm.forward(read[where])
            return changed

        if part.norm is not None and not part.norm_shared:
            hooks.on_input(part.norm, through_norm)
        elif part.module is not None:
            hooks.on_input(part.module, at_module)
        else:
            raise InterventionError(
                f"edges into {part.node} cannot be set: it has neither a norm nor a module of its own"
            )

    def _edges(self, lane: Lane, node: Node) -> list[Write]:
        return [write for write in lane.writes if write.receiver == node]

    def _corrected(self, lanes: Sequence[Lane], part: Mechanism, hidden: torch.Tensor) -> torch.Tensor:
        """Return what the mechanism reads: r − a + v for every edge that is set."""
        shape = hidden.shape
        changed = hidden.reshape(-1, self.suffix, shape[-1]).clone()
        for lane in lanes:
            if self.rows_of[lane.world].start >= changed.shape[0]:
                continue
            self._shift(lane, self._edges(lane, part.node), self._of(changed, lane))
        return changed.view(shape)

    def _shift(self, lane: Lane, edges: Sequence[Write], stream: torch.Tensor) -> None:
        """Add v − a of edges to what is read of a lane's stream [prompt, draw, suffix, d_model], in place."""
        for write in edges:
            at = [column - self.start for column in write.columns]
            own = self.effective(lane.world, write.node, at)
            change = self._value(lane, write, own) - own
            if write.node.head is not None:
                change = head_contribution(self.mechanisms.mechanism(write.node), change, write.node.head)
            stream[:, :, at] += change.to(stream.device)

    def _each_head_reads(self, layer: Layer, part: Mechanism) -> Any:
        """Run the attention once more for the heads that read an edge of their own, and keep what they compute.

        Heads of a lane that read the same share a pass, and so do all lanes.
        """
        variants: list[tuple[Lane, list[tuple[list[Write], list[Node]]]]] = []
        for lane in self.in_order:
            reads: dict[tuple, tuple[list[Write], list[Node]]] = {}
            for head in range(part.heads or 0):
                node = Node("head", layer.index, head)
                edges = self._edges(lane, node)
                key = tuple((write.node, write.value, write.columns, write.offsets) for write in edges)
                if edges:
                    reads.setdefault(key, (edges, []))[1].append(node)
            variants.append((lane, list(reads.values())))

        def read(args: tuple, kwargs: dict[str, Any]) -> None:
            assert self.entered is not None and part.module is not None
            hidden = hidden_of(args, kwargs)
            for turn in range(max(len(reads) for _, reads in variants)):
                changed = hidden.clone()
                here = [(lane, *reads[turn]) for lane, reads in variants if turn < len(reads)]
                for lane, edges, nodes in here:
                    rows = self.rows_of[lane.world]
                    stream = self.entered[rows].clone()
                    self._shift(lane, edges, stream.view(self.prompts, lane.draws, self.suffix, -1))
                    changed[rows] = stream if part.norm is None else part.norm.forward(stream)
                    for node in nodes[1:]:  # the same edges, into another head
                        for write in self._edges(lane, node):
                            self.fired[lane.world, write.site] += 1
                given, named = with_hidden(args, kwargs, changed)
                self.aside = changed
                part.module.forward(*given, **named)
                seen, self.aside = self.aside, None
                for lane, _, nodes in here:
                    for node in nodes:
                        self.by_head[lane.world, node] = self._slice(self._of(seen, lane), part, node).clone()

        return read

    def _slice(self, every: torch.Tensor, part: Mechanism, node: Node) -> torch.Tensor:
        """Return the view of one head [..., head_dim] of what enters the output projection."""
        width = every.shape[-1] // (part.heads or 1)
        return every[..., (node.head or 0) * width : ((node.head or 0) + 1) * width]

    def _at_bias(self, layer: Layer, part: Mechanism) -> Any:
        node = Node("bias", layer.index)

        def hook(output: torch.Tensor) -> torch.Tensor | None:
            if self.aside is not None:
                return None
            out = output.reshape(-1, self.suffix, output.shape[-1]).clone()
            for lane in self.in_order:
                writes = [write for write in lane.writes if write.node == node and write.receiver is None]
                for write in writes if lane.join <= 2 * layer.index else ():
                    at = [column - self.start for column in write.columns]
                    before = self._natural(node)[:, :, at]
                    value = self._value(lane, write, before)
                    self._of(out, lane)[:, :, at] += (value - before) / part.scale
                    self._note_direct(lane, node, at, value)
            return out.view(output.shape)

        return hook

    def _at_heads(self, layer: Layer, part: Mechanism) -> Any:
        def hook(hidden: torch.Tensor) -> torch.Tensor | None:
            if self.aside is not None:
                self.aside = hidden.reshape(-1, self.suffix, hidden.shape[-1])
                return None
            count = self.n_in if self._skips(layer) else hidden.reshape(-1, self.suffix, hidden.shape[-1]).shape[0]
            shape = hidden.shape
            changed = hidden.reshape(-1, self.suffix, shape[-1]).clone()
            for lane in self.in_order:
                if lane.join > 2 * layer.index or self.rows_of[lane.world].start >= count:
                    continue
                view = self._of(changed, lane)
                for head in range(part.heads or 0):
                    node = Node("head", layer.index, head)
                    part_of = self._slice(view, part, node)
                    if (lane.world, node) in self.by_head:
                        part_of[:] = self.by_head.pop((lane.world, node))
                    for write in lane.writes:
                        if write.node == node and write.receiver is None:
                            at = [column - self.start for column in write.columns]
                            part_of[:, :, at] = self._value(lane, write, part_of[:, :, at])
                    self._keep(lane, node, part_of)
                    if node in self.watch.nodes:
                        self._note_head(lane, node, part, part_of)
            return changed.view(shape)

        return hook

    def _at_source(self, layer: Layer, part: Mechanism) -> Any:
        place = 2 * layer.index + (part.node.kind == "mlp")

        def hook(output: torch.Tensor) -> torch.Tensor | None:
            if self.aside is not None:
                return None
            shape = output.shape
            out = output.reshape(-1, self.suffix, shape[-1])
            beside = self.beside.pop(part.node, None)
            beside = None if beside is None else beside.view(out.shape)
            lanes = [lane for lane in self.in_order if lane.join <= 2 * layer.index + 1]
            given = [lane for lane in lanes if lane.join > place]
            if given or any(self._own_writes(lane, part.node) for lane in lanes):
                out = out.clone()
            for lane in lanes:
                self._write_lane(lane, part, out, beside, given=lane.join > place)
                if (lane.world, part.node) in self.watch.keep:
                    # At once: another lane may take its value from here in this very call.
                    self._keep(lane, part.node, self._contribution(lane, part, out, beside))
            self._note_part(lanes, part, out, beside)
            return None if out is output else out.view(shape)

        return hook

    def _own_writes(self, lane: Lane, node: Node) -> list[Write]:
        """Return a lane's writes of a mechanism's contribution."""
        return [write for write in lane.writes if write.receiver is None and write.node == node]

    def _contribution(
        self, lane: Lane, part: Mechanism, out: torch.Tensor, beside: torch.Tensor | None
    ) -> torch.Tensor:
        return contribution(part, self._of(out, lane), None if beside is None else self._of(beside, lane))

    def _write_lane(
        self, lane: Lane, part: Mechanism, out: torch.Tensor, beside: torch.Tensor | None, *, given: bool
    ) -> None:
        """Write one lane's values of a mechanism into the batch of its source's outputs."""
        writes = self._own_writes(lane, part.node)
        if not writes and not given:
            return
        own = self._natural(part.node) if given else self._contribution(lane, part, out, beside)
        value = own.expand(-1, lane.draws, -1, -1).clone()
        for write in writes:
            at = [column - self.start for column in write.columns]
            value[:, :, at] = self._value(lane, write, value[:, :, at])
        if beside is not None:
            value -= self._of(beside, lane)
        self._of(out, lane)[:] = value if part.scale == 1.0 else value / part.scale

    # -- what is read ----------------------------------------------------------------------------------

    def _keep(self, lane: Lane, node: Node, value: torch.Tensor) -> None:
        if (lane.world, node) in self.watch.keep:
            self.kept[lane.world, node] = value.clone()

    def _note_part(
        self, lanes: Sequence[Lane], part: Mechanism, out: torch.Tensor, beside: torch.Tensor | None
    ) -> None:
        """Record the direct effects of one mechanism in all lanes of the batch, lanes of equal draws at once."""
        if part.node not in self.watch.nodes:
            return
        index = self.watch.nodes.index(part.node)
        lanes = sorted(lanes, key=lambda lane: self.rows_of[lane.world].start)
        for draws, found in groupby(lanes, key=lambda lane: lane.draws):
            block = [self.rows_of[lane.world] for lane in found]
            rows = slice(block[0].start, block[-1].stop)
            for probe, column in enumerate(self.watch.probes):
                value = contribution(part, out[rows, column], None if beside is None else beside[rows, column])
                value = value.view(len(block), self.prompts, draws, -1)
                weight = self.watch.weight[:, probe].unsqueeze(-1)
                dots = torch.matmul(value.to(weight), weight)[..., 0]
                self.direct[rows, probe, index] = (dots / self.watch.sigma[:, probe, None]).reshape(-1)

    def _direct(self, value: torch.Tensor, probes: Sequence[int] | None = None) -> torch.Tensor:
        """Return direct effects [prompt, draw, probe] of contributions [prompt, draw, probe, d_model].

        ``probes`` are those that ``value`` holds; None means all of them.
        """
        which = list(range(len(self.watch.probes))) if probes is None else list(probes)
        weight, sigma = self.watch.weight[:, which], self.watch.sigma[:, which]
        dots = torch.einsum("pdmk,pmk->pdm", value.to(weight), weight)
        return dots / sigma.unsqueeze(1)

    def _note_direct(self, lane: Lane, node: Node, at: Sequence[int], value: torch.Tensor) -> None:
        """Record the direct effect of a component that was set where nothing recomputes it."""
        if node not in self.watch.nodes:
            return
        index = self.watch.nodes.index(node)
        for probe, column in enumerate(self.watch.probes):
            if column in at:
                here = value[:, :, [list(at).index(column)]]
                self.results[lane.world].direct[:, :, probe, index] = self._direct(here, [probe])[..., 0]

    def _note_head(self, lane: Lane, node: Node, part: Mechanism, value: torch.Tensor) -> None:
        """Record the direct effect of a head: its slice through the output projection."""
        assert node.head is not None and part.out is not None
        index = self.watch.nodes.index(node)
        projected = head_contribution(part, value[:, :, list(self.watch.probes)], node.head)
        self.results[lane.world].direct[..., index] = self._direct(projected)

    def _check_receipts(self) -> None:
        """Every planned write fired exactly once, or the run is an error."""
        for lane in self.lanes:
            for write in lane.writes:
                count = self.fired[lane.world, write.site]
                if count != 1:
                    raise InterventionError(
                        f"{write.site} = {write.value} in {lane.world} fired {count} times instead of once; "
                        "nothing was averaged"
                    )
