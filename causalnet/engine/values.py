"""What writes put into the rows of a wave, and what a node is in a world of it, computed or not."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from causalnet.engine.lanes import Batch
from causalnet.engine.natural import Natural, head_contribution, value_at
from causalnet.engine.plan import Lane, Write, trunk_of
from causalnet.engine.watch import Directs
from causalnet.errors import InterventionError
from causalnet.expr.values import InWorld
from causalnet.expr.values import Natural as NaturalValue
from causalnet.expr.world import World
from causalnet.graph import Node
from causalnet.model.mechanism import Mechanisms

__all__ = ["Fetch", "Values"]


class Fetch(Protocol):
    """Where values come from that are not made in this wave: donors, means, patches, given vectors."""

    def __call__(self, write: Write, current: torch.Tensor) -> torch.Tensor:
        """Return the value [prompt, draw or 1, column, width] of a write; ``current`` is the node's own."""
        ...


class Values:
    """The values of a wave's writes; counts how often each was used.

    Attributes
    ----------
    kept
        Contributions [prompt, draw, suffix, width] of the (world, node) that others needed.
    """

    def __init__(self, mechanisms: Mechanisms, natural: Natural, batch: Batch, directs: Directs, fetch: Fetch) -> None:
        self.mechanisms, self.natural = mechanisms, natural
        self.batch, self.directs, self.fetch = batch, directs, fetch
        self.kept: dict[tuple[World, Node], torch.Tensor] = {}
        self.fired: Counter[tuple[World, Any]] = Counter()

    def natural_of(self, node: Node) -> torch.Tensor:
        """Return a node's natural value [prompt, 1, suffix, width]."""
        columns = range(self.batch.start, self.natural.length)
        return value_at(self.mechanisms, self.natural, node, columns).unsqueeze(1)

    def of(self, lane: Lane, write: Write, current: torch.Tensor) -> torch.Tensor:
        """Return what a write puts in place of ``current`` [prompt, draw, column, width]."""
        self.fired[lane.world, write.site] += 1
        at = self.batch.at(write)
        if isinstance(write.value, NaturalValue):
            value = self.natural_of(write.node)[:, :, at]
        elif isinstance(write.value, InWorld):
            value = self.effective(trunk_of(write.value.world), write.node, at)
        else:
            value = self.fetch(write, current)
        return value.to(current.device)  # of a model that is spread over devices

    def own(self, lane: Lane, node: Node) -> list[Write]:
        """Return a lane's writes of a node itself."""
        return [write for write in lane.writes if write.receiver is None and write.node == node]

    def edges(self, lane: Lane, receiver: Node) -> list[Write]:
        """Return a lane's writes on edges into a node."""
        return [write for write in lane.writes if write.receiver == receiver]

    def shift(self, lane: Lane, edges: Sequence[Write], stream: torch.Tensor) -> None:
        """Add v − a of edges to what is read of a lane's stream [prompt, draw, suffix, d_model], in place."""
        for write in edges:
            at = self.batch.at(write)
            own = self.effective(lane.world, write.node, at)
            change = self.of(lane, write, own) - own
            if write.node.head is not None:
                change = head_contribution(self.mechanisms.mechanism(write.node), change, write.node.head)
            stream[:, :, at] += change.to(stream.device)

    def unread(self, lane: Lane, write: Write) -> None:
        """Count a write whose value nobody reads: its attention is set as well, or its head shares a pass."""
        self.fired[lane.world, write.site] += 1

    def effective(self, world: World, node: Node, at: Sequence[int]) -> torch.Tensor:
        """Return a node's value [prompt, draw, column, width] in a trunk world, computed or not."""
        if (world, node) in self.kept:
            return self.kept[world, node][:, :, list(at)]
        out = self.natural_of(node)[:, :, list(at)]
        lane = self.batch.by_world.get(world)
        if lane is None:
            return out
        fired = self.fired.copy()  # looking is no firing
        if node.kind == "resid":
            # The lane has not joined yet: its stream is the natural one and what it has written so far.
            out = self.entering(lane, node.layer or 0)[:, :, list(at)]
        for write in self.own(lane, node) if node.kind != "resid" else ():
            own = self.batch.at(write)
            hit = [(place, list(at).index(column)) for place, column in enumerate(own) if column in at]
            if hit:
                value = self.of(lane, write, self.natural_of(node)[:, :, own])
                out = out.expand(-1, max(out.shape[1], value.shape[1]), -1, -1).clone()
                for place, target in hit:
                    out[:, :, target] = value[:, :, place]
        self.fired = fired
        return out

    def entering(self, lane: Lane, layer: int) -> torch.Tensor:
        """Return the stream [prompt, draw, suffix, d_model] with which a lane enters ``layer``.

        Nothing had to be computed so far, so it is the natural stream and what the lane has written into it.
        """
        stream = self.natural_of(Node("resid", layer))
        out = stream.repeat(1, lane.draws, 1, 1)
        for write in lane.writes:
            node = write.node
            if write.receiver is not None:
                continue
            at = self.batch.at(write)
            if node.kind in ("head", "bias"):
                # Its attention was not run, so it is set hard there as well and nobody reads this write.
                if 2 * (node.layer or 0) < lane.join:
                    self.unread(lane, write)
            elif node.kind == "resid" and (node.layer or 0) <= layer:
                # Between here and ``layer`` nothing else has changed, so the difference is carried along.
                before = self.natural_of(node)[:, :, at].to(out.device)
                carried = stream[:, :, at] - before
                out[:, :, at] = carried + self.of(lane, write, out[:, :, at] - carried)
            elif node.kind == "embed" or (node.layer is not None and node.layer < layer and node.kind != "resid"):
                before = self.natural_of(node)[:, :, at].to(out.device)
                value = self.of(lane, write, before)
                out[:, :, at] += value - before
                self.directs.note_set(lane, node, at, value)
        return out

    def reset(self, lane: Lane, layer: int, buffer: torch.Tensor) -> None:
        """Set ``resid[layer]`` in a lane that is already in the batch."""
        for write in self.own(lane, Node("resid", layer)):
            view, at = self.batch.of(buffer, lane), self.batch.at(write)
            view[:, :, at] = self.of(lane, write, view[:, :, at])

    def keep(self, lane: Lane, node: Node, value: torch.Tensor) -> None:
        """Keep a value [prompt, draw, suffix, width] if another world, or an edge, will ask for it."""
        if (lane.world, node) in self.directs.watch.keep:
            self.kept[lane.world, node] = value.clone()

    def check_receipts(self) -> None:
        """Raise unless every planned write was used exactly once."""
        for lane in self.batch.lanes:
            for write in lane.writes:
                count = self.fired[lane.world, write.site]
                if count != 1:
                    raise InterventionError(
                        f"{write.site} = {write.value} in {lane.world} fired {count} times instead of once; "
                        "nothing was averaged"
                    )
