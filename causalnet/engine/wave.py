"""The wavefront: all rows of one bucket pass through each layer's weights together, once.

Rows are kept in one buffer, lane by lane in the order in which lanes join; a lane's rows are
[prompt, draw].  Before a lane joins, its writes are additions to the natural stream.  At each layer the
rows that are in the batch go through the model's own layer; rows that join after the attention skip it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from causalnet.engine.lanes import Batch, Front
from causalnet.engine.natural import Natural, Suffix
from causalnet.engine.plan import Lane
from causalnet.engine.prefix import Rows, attending
from causalnet.engine.taps import Taps
from causalnet.engine.values import Fetch, Values
from causalnet.engine.watch import Directs, Watch
from causalnet.expr.world import World
from causalnet.graph import Node
from causalnet.model.mechanism import Layer, Mechanisms
from causalnet.model.probe import hooked

__all__ = ["LaneResult", "Wave"]


@dataclass(frozen=True, eq=False)
class LaneResult:
    """One lane's readings: ``stream`` [prompt, draw, column, d_model], ``direct`` [prompt, draw, probe, node]."""

    stream: torch.Tensor
    direct: torch.Tensor


class Wave:
    """One pass of several lanes over one bucket.

    Parameters
    ----------
    mechanisms
        The compiled model.
    natural
        The bucket's natural run.
    start
        First position that is recomputed.
    lanes
        What is computed, sorted by ``join``.
    how
        How the model runs a suffix.
    fetch
        Where values come from that are not made here.
    watch
        What is read off the rows.

    Attributes
    ----------
    results
        What was read off each trunk world, after :meth:`run`.
    """

    def __init__(
        self,
        mechanisms: Mechanisms,
        natural: Natural,
        start: int,
        lanes: Sequence[Lane],
        how: Suffix,
        fetch: Fetch,
        watch: Watch,
    ) -> None:
        self.mechanisms, self.natural, self.start, self.how, self.watch = mechanisms, natural, start, how, watch
        self.depth = len(mechanisms.layers)
        self.batch = Batch(lanes, natural.ids.shape[0], start, natural.length - start)
        self.front = Front()
        self.directs = Directs(watch, self.batch)
        self.values = Values(mechanisms, natural, self.batch, self.directs, fetch)
        self.taps = Taps(mechanisms, self.batch, self.values, self.front, how)
        self.results: dict[World, LaneResult] = {}

    def run(self) -> None:
        """Run every lane and fill :attr:`results`.

        Raises
        ------
        InterventionError
            If a write did not fire exactly once.
        """
        computed = [lane for lane in self.batch.lanes if lane.join < 2 * self.depth]
        if computed:
            with torch.no_grad(), hooked() as hooks:
                self.taps.register(hooks)
                self._layers(computed)
        for lane in self.batch.in_order:
            if lane.join == 2 * self.depth:  # nothing had to be computed
                self._finish(lane, self.values.entering(lane, self.depth))
        self.values.check_receipts()

    def effective(self, world: World, node: Node, at: Sequence[int]) -> torch.Tensor:
        """Return a node's value [prompt, draw, column, width] in a trunk world of this wave, or the natural one."""
        return self.values.effective(world, node, at)

    def _layers(self, computed: Sequence[Lane]) -> None:
        total = sum(self.batch.prompts * lane.draws for lane in computed)
        first = self.natural.streams[0]
        buffer = torch.empty(total, self.batch.suffix, first.shape[-1], dtype=first.dtype, device=first.device)
        rows = self._rows(computed)
        in_order = [lane for lane in self.batch.in_order if lane.join < 2 * self.depth]
        done = 0
        for layer in self.mechanisms.layers:
            self.front.entering = self.batch.count(2 * layer.index)
            self.front.inside = self.batch.count(2 * layer.index + 1)
            if self.front.inside == 0:
                continue
            buffer = buffer.to(self.natural.streams[layer.index].device)
            for lane in in_order:
                where = self.batch.rows[lane.world]
                if where.start >= self.front.inside:
                    continue
                if where.start < done:
                    self.values.reset(lane, layer.index, buffer)
                else:
                    self.batch.of(buffer, lane)[:] = self.values.entering(lane, layer.index)
                self.values.keep(lane, Node("resid", layer.index), self.batch.of(buffer, lane))
            done = self.front.inside
            buffer[:done] = self._call(layer, buffer[:done], rows)
        for lane in in_order:
            self.values.reset(lane, self.depth, buffer)
            self._finish(lane, self.batch.of(buffer, lane))

    def _finish(self, lane: Lane, stream: torch.Tensor) -> None:
        """Read what is asked off a lane's final stream [prompt, draw, suffix, d_model]."""
        self.values.keep(lane, Node("resid", self.depth), stream)
        found = stream[:, :, list(self.watch.columns)].clone()
        self.results[lane.world] = LaneResult(found, self.directs.of(lane))

    def _call(self, layer: Layer, hidden: torch.Tensor, rows: Rows) -> torch.Tensor:
        self.front.hidden = hidden
        call = self.how.calls[layer.index]
        if self.natural.cache is None or self.start == 0:
            return call(layer, hidden)
        self._regroup(rows, self.taps.attending(layer))
        with attending(self.mechanisms, self.natural.cache, rows):
            return call(layer, hidden)

    def _rows(self, computed: Sequence[Lane]) -> Rows:
        prompts, device = self.batch.prompts, self.natural.ids.device
        prompt = torch.cat([torch.arange(prompts, device=device).repeat_interleave(lane.draws) for lane in computed])
        return Rows(self.start, prompt, self.natural.block, prompts=prompts, shared=dict(self.how.shared))

    def _regroup(self, rows: Rows, count: int) -> None:
        """Order the first ``count`` rows by prompt, so that each prompt's prefix is read in one product."""
        if self.batch.prompts > 1:
            rows.by_prompt = torch.argsort(rows.prompt[:count], stable=True)
            rows.inverse = torch.argsort(rows.by_prompt)
