"""How a sweep is cut into chunks: fixed by what is asked, so that every machine and every attempt cuts alike."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Chunk", "ChunkPlan", "Size", "plan_chunks"]

_ROWS = 1 << 17
"""Rows of a chunk: enough that the donors' natural runs, made anew for every chunk, weigh little."""


@dataclass(frozen=True)
class Size:
    """What a sweep's memory depends on.

    Parameters
    ----------
    prompts, nodes, donors, responders
        Sizes of the data set's axes.
    width, item
        d_model and bytes of one number of the model.
    """

    prompts: int
    nodes: int
    donors: int
    responders: int
    width: int
    item: int

    @property
    def cell(self) -> int:
        """Bytes that one (prompt, node) takes while its chunk is computed: readings, effects, their float32 copy."""
        # On average half the responders are downstream; readings and effects are float64.
        return self.donors * (8 * (self.responders // 2 + 4) + (8 + 4) * (self.responders + 8))

    @property
    def prompt(self) -> int:
        """Bytes that one prompt takes besides: the values of its donors (natural runs have memory of their own)."""
        donors = min(self.donors, self.prompts) * self.nodes * self.width * self.item
        return donors + 8 * self.responders


@dataclass(frozen=True, order=True)
class Chunk:
    """One unit of work: some prompts and some nodes, and where they lie in the plan's grid."""

    node_block: int
    prompt_block: int
    nodes: tuple[int, int]
    prompts: tuple[int, int]

    @property
    def name(self) -> str:
        """A name for markers and logs."""
        return f"{self.prompt_block}-{self.node_block}"


@dataclass(frozen=True)
class ChunkPlan:
    """Equal blocks of prompts and of nodes; the last of each may be smaller.

    Every array of the store is cut by the same blocks, so that no two chunks write into one chunk of an array.
    What belongs to prompts alone is written by the chunks of the first block of nodes.

    Parameters
    ----------
    prompts, nodes
        Sizes of the axes.
    prompt_step, node_step
        Sizes of the blocks.

    Examples
    --------
    >>> [(chunk.prompts, chunk.nodes) for chunk in ChunkPlan(5, 4, 3, 4)]
    [((0, 3), (0, 4)), ((3, 5), (0, 4))]
    """

    prompts: int
    nodes: int
    prompt_step: int
    node_step: int

    def __iter__(self) -> Iterator[Chunk]:
        for j, node in enumerate(range(0, self.nodes, self.node_step)):
            for i, prompt in enumerate(range(0, self.prompts, self.prompt_step)):
                nodes = (node, min(node + self.node_step, self.nodes))
                yield Chunk(j, i, nodes, (prompt, min(prompt + self.prompt_step, self.prompts)))

    def __len__(self) -> int:
        return -(-self.prompts // self.prompt_step) * -(-self.nodes // self.node_step)


def plan_chunks(size: Size, *, memory: int, step: int | None = None) -> ChunkPlan:
    """Cut a sweep into chunks.

    Parameters
    ----------
    size
        What its memory depends on.
    memory
        Bytes that a chunk may take, beside the model's weights; half of it is left to the engine.
    step
        Prompts per chunk where that is asked for.

    Returns
    -------
    ChunkPlan
        As few chunks as fit into memory and keep each at about a hundred thousand rows.

    Examples
    --------
    >>> size = Size(prompts=1100, nodes=16, donors=15, responders=15, width=128, item=4)
    >>> plan_chunks(size, memory=2**31).prompt_step, plan_chunks(size, memory=2**25).prompt_step
    (550, 79)
    """
    room = memory // 2
    each = size.prompt + size.nodes * size.cell
    fits = max(1, room // each)
    if step is None:
        blocks = max(1, round(size.prompts * size.nodes * size.donors / _ROWS))
        step = min(-(-size.prompts // blocks), fits)
    step = min(step, fits, size.prompts)
    nodes = size.nodes if step * each <= room else max(1, (room - step * size.prompt) // (step * size.cell))
    return ChunkPlan(size.prompts, size.nodes, step, min(nodes, size.nodes))
