"""Where things stand in the drawing of a layered graph.

The residual stream is a vertical spine, attention to its left, MLPs to its right, and layers follow each other
downwards.  A sequential block adds attention to the spine *above* the place where its MLP reads; in a parallel
block both read at one place and are added at one place.  The places are computed here and given to Graphviz:
they are known from the model, and ranking thousands of dense edges would be slow and would look different
after each small change of the graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from causalnet.graph.block import Block

__all__ = ["CELL", "HEADER", "HEADS_A_ROW", "Layout", "Slot", "arc", "lay_out", "spline", "straight", "text_width"]

_WIDTH = 116.0
_COLUMN = 104.0
_ROOMY = {"height": 31.0, "pitch": 58.0}
_COMPACT = {"height": 19.0, "pitch": 44.0}
_MANY_LAYERS = 40
HEADER, CELL = 14.0, 13.0
HEADS_A_ROW = 6


@dataclass(frozen=True)
class Slot:
    """One box, in points.

    Parameters
    ----------
    x, y, width, height
        Its centre and size.
    reads, writes
        Heights at which its reading and its writing line meet the spine.
    gap
        Height at which the other column has room for a line to pass.
    """

    x: float
    y: float
    width: float
    height: float
    reads: float
    writes: float
    gap: float

    @property
    def side(self) -> int:
        """Return -1 for the left column (attention), +1 for the right one (MLPs)."""
        return -1 if self.x < 0 else 1

    @property
    def inner(self) -> float:
        """Return x of the edge that faces the spine."""
        return self.x - self.side * self.width / 2

    @property
    def outer(self) -> float:
        """Return x of the edge that faces away from the spine."""
        return self.x + self.side * self.width / 2


@dataclass(frozen=True)
class Layout:
    """All places of a drawing, in points; y falls from the embedding (0) to the logits.

    Parameters
    ----------
    slots
        Boxes by ("attn" or "mlp", layer).
    ends
        Heights of embed, norm and logits, which stand on the spine.
    compact
        Whether boxes have one line of text instead of two.
    """

    slots: dict[tuple[str, int], Slot]
    ends: dict[str, float]
    compact: bool


def lay_out(blocks: Sequence[Block], strips: Sequence[int]) -> Layout:
    """Place the boxes of ``blocks``.

    Parameters
    ----------
    blocks
        One per layer.
    strips
        Per layer, the rows of heads that are drawn in its attention box; 0 where they are not.
    """
    compact = len(blocks) > _MANY_LAYERS
    sizes = _COMPACT if compact else _ROOMY
    height, pitch = sizes["height"], sizes["pitch"]
    slots: dict[tuple[str, int], Slot] = {}
    top = -52.0
    for index, (block, rows) in enumerate(zip(blocks, strips, strict=True)):
        tall = height if rows == 0 else max(height, HEADER + CELL * rows + 4)
        extra = tall - height
        first = top - extra / 2
        second = top - extra - (0 if block.parallel else pitch / 2)
        meet = height / 4
        gap = top - extra - pitch / 2 if block.parallel else first
        if block.attn:
            # In a parallel block both boxes share the two places on the spine, whatever their own heights.
            slots["attn", block.layer] = Slot(-_COLUMN, first, _WIDTH, tall, first + meet, first - meet, gap)
        if block.mlp:
            y = first if block.parallel else second
            passes = gap if block.parallel else y
            slots["mlp", block.layer] = Slot(_COLUMN, y, _WIDTH, height, y + meet, y - meet, passes)
        following = blocks[index + 1] if index + 1 < len(blocks) else block
        # A change from sequential to parallel needs the room that the late MLP still takes.
        top -= extra + pitch + (pitch / 4 if following.parallel and not block.parallel else 0)
    last = min((slot.y for slot in slots.values()), default=-20.0)
    ends = {"embed": 0.0, "norm": last - 50, "logits": last - 98}
    return Layout(slots, ends, compact)


def arc(source: Slot, target: Slot, *, lane: float = 0.0, head: float = 8.0) -> list[tuple[float, float]]:
    """Return the Bézier points of an arrow from ``source`` to ``target``.

    It comes to the target from the outside, so that it crosses no box: within a column it bulges outwards; to
    the other column it first goes through the gap between two boxes.

    Parameters
    ----------
    source, target
        The boxes.
    lane
        How far from the middle of the gap it passes: arrows side by side stay apart.
    head
        Length of the arrow head; the last point stands off the box by it.
    """
    side = target.side
    bulge = 20 + min(abs(source.y - target.y) * 0.13, 64)
    end = (target.outer + side * head, target.y)
    beside = target.outer + side * bulge
    if source.side == side:
        return [(source.outer, source.y), (beside, source.y), (beside, target.y), end]
    gap = source.gap + lane
    start = source.y + lane
    middle = (gap + target.y) / 2
    near = target.outer + side * bulge * 0.5
    return [
        (source.inner, start), (0.0, start), (0.0, gap), (target.x, gap),
        (near, gap), (beside, gap), (beside, middle),
        (beside, target.y), (near, target.y), end,
    ]  # fmt: skip


def spline(*points: tuple[float, float]) -> str:
    """Write points as Graphviz reads them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def straight(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Write a straight line."""
    # A spline of Graphviz is made of cubic pieces: two points become four.
    third = tuple(a + (b - a) / 3 for a, b in zip(start, end, strict=True))
    two_thirds = tuple(a + (b - a) * 2 / 3 for a, b in zip(start, end, strict=True))
    return spline(start, (third[0], third[1]), (two_thirds[0], two_thirds[1]), end)


def text_width(text: str, size: float) -> str:
    """Return the width, in inches, of a place that surely holds a line of text in ``size`` points.

    The place counts when the picture's edges are found, the text itself does not: a narrower place would have
    it cut off there.
    """
    return f"{max(4.6, 0.56 * size * len(text) / 72):.2f}"
