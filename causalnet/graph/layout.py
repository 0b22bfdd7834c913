"""Which stages the nodes of a transformer read and write at.

Layer ``l`` owns the stages ``4l`` to ``4l + 3``: at ``4l`` the residual stream enters it (``resid[l]`` reads
there and writes at ``4l + 1``), at ``4l + 1`` the mixer reads (and, in a parallel block, the MLP), at
``4l + 2`` the mixer has written and the MLP of a sequential block reads; what the MLP writes is first seen
at ``4l + 4``.  A mixer's bias is a constant: it writes with the heads and reads nothing.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from causalnet.errors import GraphError
from causalnet.graph.block import Block
from causalnet.graph.node import Edge, Node
from causalnet.graph.structure import FAR, Slot

__all__ = ["LAYERS_AT_MOST", "infer_blocks", "match_blocks", "nodes_of", "slots_of", "span", "wires_of"]

LAYERS_AT_MOST = 10_000
"""Bound on the layers of a hand-made or imported graph: a layer's number may come from a file."""

_MIXING = ("attn", "head", "bias")


def nodes_of(blocks: Sequence[Block], heads: Iterable[int]) -> list[Node]:
    """List the nodes of the position-less graph, with the heads of the layers ``heads`` as nodes."""
    opened = frozenset(heads)
    nodes = [Node("embed")]
    for block in blocks:
        if block.attn and block.layer in opened:
            nodes += [Node("head", block.layer, head) for head in range(block.heads or 0)]
            nodes.append(Node("bias", block.layer))
        if block.attn and (block.layer not in opened or not block.heads_sum):
            nodes.append(Node("attn", block.layer))
        if block.mlp:
            nodes.append(Node("mlp", block.layer))
    return [*nodes, Node("norm"), Node("logits")]


def gathered(nodes: Iterable[Node]) -> frozenset[int]:
    """Return the layers whose ``attn[l]`` is a node beside its heads, and gathers them."""
    kinds = {(node.layer, node.kind) for node in nodes if node.kind in _MIXING}
    layers = {layer for layer, kind in kinds if kind == "attn"} & {layer for layer, kind in kinds if kind != "attn"}
    return frozenset(layer for layer in layers if layer is not None)


def slots_of(nodes: Sequence[Node], blocks: Sequence[Block]) -> list[Slot]:
    """Return the slot of every node.

    ``resid`` nodes are barriers: what was written before one cannot be read directly after it, at its
    position.
    """
    # Nodes that differ in their head alone read and write alike, and stand side by side: one slot is made for them.
    firsts: list[Node] = []
    counts: list[int] = []
    last = None
    for node in nodes:
        if last is not None and node.kind == last.kind and node.layer == last.layer and node.position == last.position:
            counts[-1] += 1
        else:
            firsts.append(node)
            counts.append(1)
            last = node
    gathering = gathered(firsts)
    barriers: dict[int, list[int]] = {}
    for node in firsts:
        if node.kind == "resid" and node.layer is not None:
            barriers.setdefault(node.position or 0, []).append(4 * node.layer)
    for stages in barriers.values():
        stages.sort()
    slots: list[Slot] = []
    for node, count in zip(firsts, counts, strict=True):
        slots += [_slot(node, blocks, gathering, barriers)] * count
    return slots


def _slot(node: Node, blocks: Sequence[Block], gathering: frozenset[int], barriers: dict[int, list[int]]) -> Slot:
    read, write = _stages(node, blocks, gathering)
    position = node.position or 0
    stages = barriers.get(position, [])
    nearest = bisect_left(stages, write)
    until = stages[nearest] if write >= 0 and nearest < len(stages) else FAR
    return Slot(read, write, until, position, 1 if node.position is None else _window(node, blocks))


def _stages(node: Node, blocks: Sequence[Block], gathering: frozenset[int]) -> tuple[int, int]:
    """Return the stages at which ``node`` reads and writes, -1 for never."""
    if node.kind == "embed":
        return -1, 0
    if node.layer is None:
        return 4 * len(blocks) + 1, -1
    first = 4 * node.layer
    if node.kind == "resid":
        return first, first + 1
    if node.kind == "mlp":
        return first + (1 if blocks[node.layer].parallel else 2), first + 4
    reads = node.kind != "bias" and not (node.kind == "attn" and node.layer in gathering)
    writes = node.kind == "attn" or node.layer not in gathering
    return first + 1 if reads else -1, first + 2 if writes else -1


def _window(node: Node, blocks: Sequence[Block]) -> int:
    """Return how many positions ``node`` reads, its own included."""
    if node.kind not in _MIXING or node.layer is None:
        return 1
    return blocks[node.layer].window or FAR


def span(source: Node, target: Node, blocks: Sequence[Block]) -> int:
    """Return how many positions the edge ``source -> target`` crosses when it is unrolled.

    A mixer's heads are gathered at their own position; everything else reaches a mixer from its window.
    """
    own = source.layer == target.layer and source.kind in ("head", "bias") and target.kind == "attn"
    return 1 if own else _window(target, blocks)


def wires_of(nodes: Iterable[Node]) -> list[Edge]:
    """List the edges that do not go through the residual stream: ``norm -> logits``, gathered heads."""
    nodes = tuple(nodes)
    present, gathering = set(nodes), gathered(nodes)
    wires = []
    for node in nodes:
        if node.kind == "norm":
            wires.append(Edge(node, Node("logits", position=node.position)))
        elif node.kind in ("head", "bias") and node.layer in gathering:
            wires.append(Edge(node, Node("attn", node.layer, position=node.position)))
    return [edge for edge in wires if edge.target in present]


def infer_blocks(nodes: Iterable[Node], edges: Iterable[Edge]) -> tuple[Block, ...]:
    """Guess the layers of a hand-made graph: parallel where ``attn[l] -> mlp[l]`` is missing."""
    nodes = tuple(nodes)
    gathering = gathered(nodes)
    heads: dict[int, int] = {}
    mixers, mlps, count = set(), set(), 0
    for node in nodes:
        if node.layer is None:
            continue
        count = max(count, node.layer + (node.kind != "resid"))
        if node.kind == "head" and node.head is not None:
            heads[node.layer] = max(heads.get(node.layer, 0), node.head + 1)
        if node.kind in _MIXING:
            mixers.add(node.layer)
        elif node.kind == "mlp":
            mlps.add(node.layer)
    if count > LAYERS_AT_MOST:
        raise GraphError(f"a layer is numbered {count - 1}; a graph has at most {LAYERS_AT_MOST} layers")
    joined = {
        edge.target.layer
        for edge in edges
        if edge.target.kind == "mlp" and edge.source.kind in _MIXING and edge.source.layer == edge.target.layer
    }
    return tuple(
        Block(
            layer,
            attn=layer in mixers or layer not in mlps,
            mlp=layer in mlps or layer not in mixers,
            parallel=layer in mixers and layer in mlps and layer not in joined,
            heads=heads.get(layer),
            heads_sum=layer not in gathering,
        )
        for layer in range(count)
    )


def match_blocks(nodes: Iterable[Node], blocks: Sequence[Block]) -> None:
    """Refuse nodes that the blocks do not have, and blocks that are not numbered in order."""
    for index, block in enumerate(blocks):
        if block.layer != index:
            raise GraphError(
                f"block number {index} says it is layer {block.layer}; blocks are numbered from 0, in order"
            )
    for node in nodes:
        if node.layer is None:
            continue
        if node.layer >= len(blocks) + (node.kind == "resid"):
            raise GraphError(f"{node} lies in layer {node.layer}, and the graph has {len(blocks)} layers")
        if node.kind == "resid":
            continue
        block = blocks[node.layer]
        if not (block.mlp if node.kind == "mlp" else block.attn):
            raise GraphError(f"{node} is a node, and block {node.layer} says that the layer has none")
        if node.head is not None and node.head >= (block.heads or 0):
            raise GraphError(f"{node} is a node, and block {node.layer} has {block.heads or 'no'} heads")
