"""Heads in a wave: written, read and kept before the output projection, the bias after it."""

from collections.abc import Callable
from typing import Any

import torch

from causalnet.engine.lanes import Batch, Front
from causalnet.engine.plan import Lane, Write
from causalnet.engine.values import Values
from causalnet.graph import Node
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.probe import Hooks, hidden_of, with_hidden

__all__ = ["Heads"]


class Heads:
    """The hooks on attention modules whose heads, or whose bias, a wave names."""

    def __init__(self, mechanisms: Mechanisms, batch: Batch, values: Values, front: Front) -> None:
        self.mechanisms, self.batch, self.values, self.front = mechanisms, batch, values, front
        self.read: dict[tuple, torch.Tensor] = {}
        self.looking = False
        self._seen: torch.Tensor | None = None

    def register(self, hooks: Hooks, layer: Layer, part: Mechanism, entering: Callable[[], int | None]) -> None:
        """Register what the wave needs at one attention.

        Parameters
        ----------
        hooks, layer, part
            Where.
        entering
            How many rows are really in the attention; None: all that it is given.
        """
        assert part.module is not None and part.out is not None, "heads are known by their output projection"
        watch = self.values.directs.watch
        writes = [write for lane in self.batch.lanes for write in lane.writes]
        receivers = [write.receiver for write in writes if write.receiver is not None]
        named = [*(node for _, node in watch.keep), *watch.nodes, *(write.node for write in writes), *receivers]
        kinds = {node.kind for node in named if node.layer == layer.index}
        if any(node.kind == "head" and node.layer == layer.index for node in receivers):
            hooks.on_call(part.module, self._each_reads(layer, part))
        if "head" in kinds:
            hooks.on_input(part.out, self._at_heads(layer, part, entering))
        if "bias" in kinds:
            hooks.on_output(part.out, self._at_bias(layer, part))

    def _each_reads(self, layer: Layer, part: Mechanism) -> Any:
        """Run the attention once more for the heads that read an edge of their own, and keep what they compute.

        Heads of a lane that read the same share a pass, and so do all lanes.
        """
        variants = [(lane, self._reads(lane, layer, part)) for lane in self.batch.in_order]

        def read(args: tuple, kwargs: dict[str, Any]) -> None:
            assert self.front.hidden is not None and part.module is not None
            hidden = hidden_of(args, kwargs)
            for turn in range(max(len(reads) for _, reads in variants)):
                changed = hidden.clone()
                here = [(lane, *reads[turn]) for lane, reads in variants if turn < len(reads)]
                for lane, edges, nodes in here:
                    self._change(lane, part, edges, nodes, changed)
                given, named = with_hidden(args, kwargs, changed)
                seen = self._look(part.module, given, named)
                for lane, _, nodes in here:
                    for node in nodes:
                        self.read[lane.world, node] = _slice(self.batch.of(seen, lane), part, node).clone()

        return read

    def _reads(self, lane: Lane, layer: Layer, part: Mechanism) -> list[tuple[list[Write], list[Node]]]:
        """Return the distinct sets of edges that a lane sets into heads of a layer, and the heads that read them."""
        found: dict[tuple, tuple[list[Write], list[Node]]] = {}
        for head in range(part.heads or 0):
            node = Node("head", layer.index, head)
            edges = self.values.edges(lane, node)
            key = tuple((write.node, write.value, write.columns, write.offsets) for write in edges)
            if edges:
                found.setdefault(key, (edges, []))[1].append(node)
        return list(found.values())

    def _change(
        self, lane: Lane, part: Mechanism, edges: list[Write], nodes: list[Node], changed: torch.Tensor
    ) -> None:
        """Put what some heads of a lane read into the attention's input."""
        assert self.front.hidden is not None, "an attention is called inside its layer"
        rows = self.batch.rows[lane.world]
        stream = self.front.hidden[rows].clone()
        self.values.shift(lane, edges, stream.view(self.batch.prompts, lane.draws, self.batch.suffix, -1))
        changed[rows] = stream if part.norm is None else part.norm.forward(stream)
        for node in nodes[1:]:
            for write in self.values.edges(lane, node):
                self.values.unread(lane, write)  # the same edges as those of the first

    def _look(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
        """Run an attention aside and return what enters its output projection, [row, suffix, heads · head_dim]."""
        self.looking = True
        try:
            module.forward(*args, **kwargs)
        finally:
            self.looking = False
        assert self._seen is not None, "the output projection is called by its attention"
        return self._seen

    def _at_heads(self, layer: Layer, part: Mechanism, entering: Callable[[], int | None]) -> Any:
        def hook(hidden: torch.Tensor) -> torch.Tensor | None:
            if self.looking:
                self._seen = self.batch.flat(hidden)
                return None
            changed = self.batch.flat(hidden).clone()
            count = entering()
            count = changed.shape[0] if count is None else count
            for lane in self.batch.in_order:
                if lane.join <= 2 * layer.index and self.batch.rows[lane.world].start < count:
                    self._write_lane(lane, layer, part, self.batch.of(changed, lane))
            return changed.view(hidden.shape)

        return hook

    def _write_lane(self, lane: Lane, layer: Layer, part: Mechanism, view: torch.Tensor) -> None:
        """Write one lane's heads, and note what they are: ``view`` is [prompt, draw, suffix, heads · head_dim]."""
        for head in range(part.heads or 0):
            node = Node("head", layer.index, head)
            own = _slice(view, part, node)
            if (lane.world, node) in self.read:
                own[:] = self.read.pop((lane.world, node))
            for write in self.values.own(lane, node):
                at = self.batch.at(write)
                own[:, :, at] = self.values.of(lane, write, own[:, :, at])
            self.values.keep(lane, node, own)
            self.values.directs.note_head(lane, node, part, own)

    def _at_bias(self, layer: Layer, part: Mechanism) -> Any:
        node = Node("bias", layer.index)

        def hook(output: torch.Tensor) -> torch.Tensor | None:
            if self.looking:
                return None
            out = self.batch.flat(output).clone()
            for lane in self.batch.in_order:
                for write in self.values.own(lane, node) if lane.join <= 2 * layer.index else ():
                    at = self.batch.at(write)
                    before = self.values.natural_of(node)[:, :, at]
                    value = self.values.of(lane, write, before)
                    self.batch.of(out, lane)[:, :, at] += (value - before) / part.scale
                    self.values.directs.note_set(lane, node, at, value)
            return out.view(output.shape)

        return hook


def _slice(every: torch.Tensor, part: Mechanism, node: Node) -> torch.Tensor:
    """Return the view of one head [..., head_dim] of what enters the output projection."""
    width = every.shape[-1] // (part.heads or 1)
    return every[..., (node.head or 0) * width : ((node.head or 0) + 1) * width]
