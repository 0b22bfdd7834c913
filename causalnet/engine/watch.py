"""What is read off the rows of a wave on their way: direct effects, as soon as a contribution is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from causalnet.engine.lanes import Batch
from causalnet.engine.natural import contribution, head_contribution
from causalnet.engine.plan import Lane
from causalnet.expr.world import World
from causalnet.graph import Node
from causalnet.model.mechanism import Mechanism

__all__ = ["Directs", "Watch"]


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


class Directs:
    """The direct effects [row, probe, node] of a wave; what a lane leaves as it is keeps its natural ones."""

    def __init__(self, watch: Watch, batch: Batch) -> None:
        self.watch, self.batch = watch, batch
        self.table = torch.cat([watch.direct.repeat_interleave(lane.draws, 0) for lane in batch.lanes])

    def of(self, lane: Lane) -> torch.Tensor:
        """Return a lane's direct effects as a view [prompt, draw, probe, node]."""
        rows = self.table[self.batch.rows[lane.world]]
        return rows.view(self.batch.prompts, lane.draws, *rows.shape[1:])

    def note_mechanism(
        self, lanes: Sequence[Lane], part: Mechanism, out: torch.Tensor, beside: torch.Tensor | None
    ) -> None:
        """Record one mechanism in all lanes of the batch, lanes of equal draws at once.

        Parameters
        ----------
        lanes
            The lanes that are in the batch.
        part
            The mechanism.
        out, beside
            What its source, and the further modules that belong to it, gave: [row, suffix, d_model].
        """
        if part.node not in self.watch.nodes:
            return
        index = self.watch.nodes.index(part.node)
        lanes = sorted(lanes, key=lambda lane: self.batch.rows[lane.world].start)
        for draws, found in groupby(lanes, key=lambda lane: lane.draws):
            block = [self.batch.rows[lane.world] for lane in found]
            rows = slice(block[0].start, block[-1].stop)
            for probe, column in enumerate(self.watch.probes):
                value = contribution(part, out[rows, column], None if beside is None else beside[rows, column])
                value = value.view(len(block), self.batch.prompts, draws, -1)
                weight = self.watch.weight[:, probe].unsqueeze(-1)
                dots = torch.matmul(value.to(weight), weight)[..., 0]
                self.table[rows, probe, index] = (dots / self.watch.sigma[:, probe, None]).reshape(-1)

    def note_set(self, lane: Lane, node: Node, at: Sequence[int], value: torch.Tensor) -> None:
        """Record a component [prompt, draw, column, d_model] that was set where nothing recomputes it."""
        if node not in self.watch.nodes:
            return
        for probe, column in enumerate(self.watch.probes):
            if column in at:
                self._put(lane, node, value[:, :, [list(at).index(column)]], [probe])

    def note_head(self, lane: Lane, node: Node, part: Mechanism, value: torch.Tensor) -> None:
        """Record a head from its slice [prompt, draw, suffix, head_dim] before the output projection."""
        if node in self.watch.nodes:
            assert node.head is not None, "only heads are sliced"
            projected = head_contribution(part, value[:, :, list(self.watch.probes)], node.head)
            self._put(lane, node, projected, range(len(self.watch.probes)))

    def _put(self, lane: Lane, node: Node, value: torch.Tensor, probes: Sequence[int]) -> None:
        """Record contributions [prompt, draw, probe, d_model] at some probes."""
        weight, sigma = self.watch.weight[:, list(probes)], self.watch.sigma[:, list(probes)]
        dots = torch.einsum("pdmk,pmk->pdm", value.to(weight), weight)
        self.of(lane)[:, :, list(probes), self.watch.nodes.index(node)] = dots / sigma.unsqueeze(1)
