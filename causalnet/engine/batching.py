"""How a run is cut up: natural runs in blocks, prompts in parts, waves in pieces that fit into memory."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from causalnet.engine.budget import Budget
from causalnet.engine.inputs import Inputs
from causalnet.engine.natural import Kept, Natural, capture, kept_of, run_natural
from causalnet.engine.plan import Bucket, Lane, Plan, connected
from causalnet.errors import OutOfMemory
from causalnet.expr.world import World
from causalnet.graph import Node
from causalnet.model.mechanism import Mechanisms

__all__ = ["Naturals", "parts", "pieces", "release", "rows_per_prompt"]


class Naturals:
    """The natural runs of the prompts in blocks of one bucket each; kept for later if there is room for all."""

    def __init__(self, mechanisms: Mechanisms, plan: Plan, inputs: Inputs, budget: Budget) -> None:
        self.mechanisms, self.plan, self.inputs, self.budget = mechanisms, plan, inputs, budget
        named = {site.node for world in plan.worlds for site in world.sites}
        self.named = named.union(*(reading.nodes for reading in plan.readings), [Node("resid", plan.graph.layers)])
        # A mixer that needs more of the past than keys and values is computed over the whole prompt.
        self.cached = all(part.cached for layer in mechanisms.layers for part in layer)
        self.blocks = [block for bucket in plan.buckets for block in self._cut(bucket)]
        self.made: dict[tuple[int, ...], Natural] = {}

    def runs(self) -> Iterator[tuple[Sequence[int], Natural]] | None:
        """Return every block's prompts and natural run, which are used again; None where they could not be kept."""
        if sum(len(bucket.prompts) * self._each(bucket) for bucket in self.plan.buckets) > self.budget.natural:
            return None
        return ((block.prompts, natural) for block, natural in self.each())

    def each(self) -> Iterator[tuple[Bucket, Natural]]:
        """Yield every block and its natural run, made now or before; a block that does not fit is halved.

        Whoever asks for the next lets go of this one first: one natural run at a time is at hand, and those kept.
        """
        index = 0
        while index < len(self.blocks):
            block = self.blocks[index]
            natural = self._take(block)
            if natural is None:
                release()
                middle = len(block.prompts) // 2
                halves = (block.prompts[:middle], block.prompts[middle:])
                self.blocks[index : index + 1] = [replace(block, prompts=prompts) for prompts in halves]
                continue
            yield block, natural
            del natural
            index += 1

    def drop(self, block: Bucket) -> None:
        """Forget a block that is done."""
        self.made.pop(block.prompts, None)

    def _cut(self, bucket: Bucket) -> Iterator[Bucket]:
        step = self.budget.prompts(bucket.length, self._each(bucket))
        for start in range(0, len(bucket.prompts), step):
            yield replace(bucket, prompts=bucket.prompts[start : start + step])

    def _each(self, bucket: Bucket) -> int:
        """Return how many bytes a prompt of a bucket is expected to keep."""
        first, upto = self._kept_columns(bucket)
        return self._kept(bucket).bytes(self.mechanisms, bucket.length - first, upto)

    def _kept(self, bucket: Bucket) -> Kept:
        """Return what the waves and readings of a bucket look at in its natural world."""
        nodes = set(self.named)
        for join in {lane.join for _, lanes in bucket.waves for lane in lanes}:
            # A lane begins with the natural stream, and with the natural attention where that is not run.
            layer, after_attention = divmod(join, 2)
            nodes.add(Node("resid", layer))
            if after_attention and self.plan.graph.blocks[layer].attn:
                nodes.add(Node("attn", layer))
        return kept_of(nodes, self.plan.graph.layers)

    def _kept_columns(self, bucket: Bucket) -> tuple[int, int]:
        """Return from which position on values are kept, and up to which keys and values are."""
        upto = max((start for start, _ in bucket.waves), default=0)
        # Without keys and values to share, rows start at the first token: exact, and slower.
        return (bucket.first, upto) if self.cached or not upto else (0, 0)

    def _take(self, block: Bucket) -> Natural | None:
        """Return the natural run of a block, None where it does not fit into memory."""
        if block.prompts in self.made:
            return self.made[block.prompts]
        alone = len(block.prompts) == 1
        try:
            natural = self._run(block)
        except torch.OutOfMemoryError as error:
            if alone:
                what = f"prompt {block.prompts[0]}: its natural run of {block.length} tokens does not fit into memory"
                raise OutOfMemory(f"{what}; use a smaller dtype") from error
            return None
        if natural.bytes > self.budget.natural and not alone:
            return None  # keys, values or heads that are wider than the stream, or a prefix that is not shared
        if sum(kept.bytes for kept in self.made.values()) + natural.bytes <= self.budget.natural:
            self.made[block.prompts] = natural
        return natural

    def _run(self, block: Bucket) -> Natural:
        kept = self._kept(block)
        ids = torch.tensor([self.inputs.ids[prompt] for prompt in block.prompts], device=self.mechanisms.device)
        first, upto = self._kept_columns(block)
        natural = run_natural(self.mechanisms, ids, kept, first, upto=upto)
        if not upto or all(self._shares_prefix(natural, start) for start, _ in block.waves):
            return natural
        del natural
        return run_natural(self.mechanisms, ids, kept)

    def _shares_prefix(self, natural: Natural, start: int) -> bool:
        """Return whether a suffix run over the recorded prefix gives the natural world again."""
        if natural.cache is None:
            return False
        if start not in natural.suffixes:
            natural.suffixes[start] = capture(self.mechanisms, natural, start)
        wide = {torch.float64: 1e-5, torch.float32: 1e-3}.get(self.mechanisms.dtype, 0.1)
        return natural.suffixes[start].misfit <= wide


def rows_per_prompt(bucket: Bucket) -> int:
    """Return how many rows one prompt of a bucket has."""
    return sum(lane.draws for _, lanes in bucket.waves for lane in lanes)


def parts(block: Bucket, budget: int) -> Iterator[slice]:
    """Cut a block into parts whose widest wave is at most ``budget`` tokens."""
    widest = max(
        (sum(lane.draws for lane in lanes) * (block.length - start) for start, lanes in block.waves), default=1
    )
    step = max(1, budget // max(widest, 1))
    for start in range(0, len(block.prompts), step):
        yield slice(start, min(start + step, len(block.prompts)))


def pieces(lanes: Sequence[Lane], worlds: Sequence[World], draws: int, rows: int) -> Iterator[tuple[list[Lane], slice]]:
    """Cut a wave into pieces of at most ``rows`` rows per prompt; lanes that read each other stay together."""
    group: list[Lane] = []
    size = 0
    for block in connected(lanes, worlds):
        weight = sum(lane.draws for lane in block)
        if group and size + weight > rows:
            yield from _by_draws(group, draws, rows, size)
            group, size = [], 0
        group += block
        size += weight
    if group:
        yield from _by_draws(group, draws, rows, size)


def _by_draws(lanes: list[Lane], draws: int, rows: int, size: int) -> Iterator[tuple[list[Lane], slice]]:
    lanes = sorted(lanes, key=lambda lane: lane.join)
    if size <= rows or draws == 1:
        yield lanes, slice(0, draws)
        return
    step = max(1, rows * draws // size)
    for first in range(0, draws, step):
        yield lanes, slice(first, min(first + step, draws))


def release() -> None:
    """Give back what a failed attempt left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
