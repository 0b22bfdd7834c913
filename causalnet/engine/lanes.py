"""The rows of one wave: which belong to which lane, and which are in the batch at the layer at hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from causalnet.engine.plan import Lane, Write
from causalnet.expr.world import World

__all__ = ["Batch", "Front"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows in one buffer, lane by lane in the order in which lanes join; a lane's rows are [prompt, draw].

    Parameters
    ----------
    lanes
        Sorted by ``join``.
    prompts
        Number of prompts.
    start, suffix
        First position that is recomputed, and how many are.
    """

    lanes: Sequence[Lane]
    prompts: int
    start: int
    suffix: int
    rows: dict[World, slice] = field(init=False, default_factory=dict)
    by_world: dict[World, Lane] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        offset = 0
        for lane in self.lanes:
            count = self.prompts * lane.draws
            self.rows[lane.world] = slice(offset, offset + count)
            self.by_world[lane.world] = lane
            offset += count

    @property
    def in_order(self) -> list[Lane]:
        """The lanes, nested worlds first: where several are written in one call, one may take values from another."""
        return sorted(self.lanes, key=lambda lane: lane.world.depth)

    def count(self, place: int) -> int:
        """Return how many rows have joined at a place of the computation (see :class:`~causalnet.engine.plan.Lane`)."""
        return sum(self.prompts * lane.draws for lane in self.lanes if lane.join <= place)

    def of(self, tensor: torch.Tensor, lane: Lane) -> torch.Tensor:
        """Return a lane's rows of a tensor as a view [prompt, draw, suffix, width]."""
        return tensor[self.rows[lane.world]].view(self.prompts, lane.draws, self.suffix, -1)

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a module's tensor as [row, suffix, width]; mixtures of experts see rows and positions as one axis."""
        return tensor.reshape(-1, self.suffix, tensor.shape[-1])

    def at(self, write: Write) -> list[int]:
        """Return the places of a write's columns within the suffix."""
        return [column - self.start for column in write.columns]


@dataclass(eq=False)
class Front:
    """Where the wave is.

    Attributes
    ----------
    entering, inside
        How many rows enter the layer at hand, and how many are in the batch after its attention.
    hidden
        The residual stream [row, suffix, d_model] that entered the layer.
    """

    entering: int = 0
    inside: int = 0
    hidden: torch.Tensor | None = None
