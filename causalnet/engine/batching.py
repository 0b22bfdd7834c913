"""How a run is cut up: natural runs in blocks, prompts in parts, waves in pieces that fit into memory."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from causalnet.engine.inputs import Inputs
from causalnet.engine.natural import Natural, capture, run_natural
from causalnet.engine.plan import Bucket, Lane, Plan, connected
from causalnet.engine.sources import head_layers
from causalnet.errors import OutOfMemory
from causalnet.expr.world import World
from causalnet.model.mechanism import Mechanisms

__all__ = ["Naturals", "parts", "pieces", "release", "row_budget", "rows_per_prompt"]


class Naturals:
    """The natural runs of the prompts in blocks of one bucket each, kept as long as they fit into memory."""

    def __init__(self, mechanisms: Mechanisms, plan: Plan, inputs: Inputs) -> None:
        self.mechanisms, self.inputs = mechanisms, inputs
        nodes = [site.node for world in plan.worlds for site in world.sites]
        nodes += [node for reading in plan.readings for node in reading.nodes]
        self.heads = head_layers(nodes)
        self.blocks: list[Bucket] = []
        for bucket in plan.buckets:
            step = max(1, _NATURAL_TOKENS // bucket.length)
            for start in range(0, len(bucket.prompts), step):
                self.blocks.append(replace(bucket, prompts=bucket.prompts[start : start + step]))
        self.made: dict[tuple[int, ...], Natural] = {}
        self.room = _natural_room(mechanisms)

    def runs(self) -> Iterator[tuple[Sequence[int], Natural]]:
        """Yield every block's prompts and natural run."""
        return ((block.prompts, natural) for block, natural in self.each())

    def each(self) -> Iterator[tuple[Bucket, Natural]]:
        """Yield every block and its natural run, made now or before; a block that does not fit is halved."""
        index = 0
        while index < len(self.blocks):
            block = self.blocks[index]
            natural = self._take(block)
            if natural is None:
                middle = len(block.prompts) // 2
                halves = (block.prompts[:middle], block.prompts[middle:])
                self.blocks[index : index + 1] = [replace(block, prompts=prompts) for prompts in halves]
                continue
            yield block, natural
            index += 1

    def _take(self, block: Bucket) -> Natural | None:
        """Return the natural run of a block, None where it does not fit into memory."""
        if block.prompts not in self.made:
            try:
                natural = self._run(block)
            except torch.OutOfMemoryError as error:
                if len(block.prompts) == 1:
                    what = (
                        f"prompt {block.prompts[0]}: its natural run of {block.length} tokens does not fit into memory"
                    )
                    raise OutOfMemory(f"{what}; use a smaller dtype") from error
                natural = None
            if natural is None:
                release()
                return None
            if self.made and self.room < natural.bytes:
                self.made.pop(next(iter(self.made)))
            else:
                self.room -= natural.bytes
            self.made[block.prompts] = natural
        return self.made[block.prompts]

    def _run(self, block: Bucket) -> Natural:
        ids = torch.tensor([self.inputs.ids[prompt] for prompt in block.prompts], device=self.mechanisms.device)
        natural = run_natural(self.mechanisms, ids, block.first, heads=self.heads)
        if all(self._shares_prefix(natural, start) for start, _ in block.waves):
            return natural
        # Without keys and values to share, rows start at the first token: exact, and slower.
        return run_natural(self.mechanisms, ids, 0, heads=self.heads, cached=False)

    def _shares_prefix(self, natural: Natural, start: int) -> bool:
        """Return whether a suffix run over the recorded prefix gives the natural world again."""
        if natural.cache is None:
            return False
        if start not in natural.suffixes:
            natural.suffixes[start] = capture(self.mechanisms, natural, start)
        wide = {torch.float64: 1e-5, torch.float32: 1e-3}.get(self.mechanisms.dtype, 0.1)
        return natural.suffixes[start].misfit <= wide

    def drop(self, block: Bucket) -> None:
        """Forget a block that is done."""
        if (natural := self.made.pop(block.prompts, None)) is not None:
            self.room += natural.bytes


_NATURAL_TOKENS = 4096


def _natural_room(mechanisms: Mechanisms) -> int:
    """Return how many bytes of natural runs may be kept between their two uses."""
    if mechanisms.device.type == "cuda":
        return torch.cuda.mem_get_info(mechanisms.device)[0] // 5
    return 1 << 30


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


def row_budget(mechanisms: Mechanisms, memory: int | None) -> int:
    """Return how many tokens may be in one batch.

    On a CPU the widest activation is kept near 16 MiB: larger ones are mapped anew by the allocator in
    every layer, which costs more than the batch gains.  On a GPU a quarter of the free memory is used.
    """
    config = mechanisms.config
    inner = [getattr(config, name, None) for name in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")]
    widest = max([4 * mechanisms.width, *(size for size in inner if isinstance(size, int))])
    item = torch.tensor([], dtype=mechanisms.dtype).element_size()
    if memory is not None:
        return max(1, memory // (6 * widest * item))
    if mechanisms.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(mechanisms.device)
        return max(1, free // (4 * 6 * widest * item))
    return max(64, (1 << 24) // (widest * item))


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
