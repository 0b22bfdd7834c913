"""The edges of the layer graph, each tested on the real model.

Every edge must move its child for some change of its parent alone, and where there is no edge from an
earlier component to a later one, or from a later to an earlier, nothing may move at all.
"""

from dataclasses import dataclass

import torch

from causalnet.graph import Node
from causalnet.model.check import tolerance_of
from causalnet.model.mechanism import Mechanisms
from causalnet.model.observe import Natural, held, observe, random_ids

__all__ = ["EdgeReport", "TestedEdge", "check_edges"]

_TRIES = 3
"""Changes that are tried before an edge counts as one that moves nothing."""


@dataclass(frozen=True)
class TestedEdge:
    """An ordered pair of components: whether the graph has the edge, and how much it moved the child.

    ``moved`` is relative to the size of the child's value; of an edge that is there it must exceed
    ``tolerance``, of one that is not it must be exactly zero.
    """

    source: Node
    target: Node
    present: bool
    moved: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the model agrees with the graph."""
        return self.moved > self.tolerance if self.present else self.moved == 0.0


@dataclass(frozen=True)
class EdgeReport:
    """Every ordered pair of components of one model, tested."""

    model: str
    rows: tuple[TestedEdge, ...]

    @property
    def holds(self) -> bool:
        """Whether the model agrees with every row."""
        return all(row.holds for row in self.rows)

    @property
    def failed(self) -> tuple[TestedEdge, ...]:
        """The rows with which the model does not agree."""
        return tuple(row for row in self.rows if not row.holds)

    @property
    def summary(self) -> dict[str, int]:
        """Number of edges and of absent edges, and of those that failed."""
        present = [row for row in self.rows if row.present]
        absent = [row for row in self.rows if not row.present]
        return {
            "edges": len(present),
            "edges that moved nothing": sum(not row.holds for row in present),
            "absent edges": len(absent),
            "absent edges that moved something": sum(not row.holds for row in absent),
        }


@torch.no_grad()
def check_edges(mechanisms: Mechanisms, *, tokens: int = 8, seed: int = 0) -> EdgeReport:
    """Test every edge of the layer graph, and every absent one, on the real model.

    For an edge A → B, B reads r − a + v while everything else stays natural; for an absent edge, A is set
    in a plain pass in which every layer still enters with its natural stream, and B must be as it was.

    Parameters
    ----------
    mechanisms
        The compiled model.
    tokens, seed
        Length and seed of the random prompt.

    Returns
    -------
    EdgeReport
        One row per ordered pair of components; the cost is about two passes per component.

    Examples
    --------
    >>> from causalnet.model.compile import compile_model
    >>> from causalnet.model.small import small_model
    >>> check_edges(compile_model(small_model("gptj"))).summary["absent edges that moved something"]
    0
    """
    ids = random_ids(mechanisms, prompts=1, tokens=tokens, seed=seed)
    plain = observe(mechanisms, ids)
    natural = held(mechanisms, plain, {})  # under the same hooks, so that equal means bit for bit
    tolerance = tolerance_of(mechanisms, ids)
    writers = [Node("embed"), *(part.node for layer in mechanisms.layers for part in layer)]
    readers = [*(part.node for layer in mechanisms.layers for part in layer), Node("norm"), Node("logits")]
    rows: list[TestedEdge] = []
    for source in writers:
        moved = _by_edges(mechanisms, natural, source, tolerance)
        locked = _by_setting(mechanisms, natural, source)
        for target in readers:
            if target == source:
                continue
            present = mechanisms.graph.has_edge(_layer_node(mechanisms, source), _layer_node(mechanisms, target))
            size = moved.get(target, 0.0) if present else locked.get(target, 0.0)
            if present and source.layer is not None and source.layer == target.layer:
                # Within a layer it is not enough that the reader can be given something else: it must see it.
                size = min(size, locked[target])
            rows.append(TestedEdge(source, target, present, size, tolerance))
    rows.append(_norm_row(mechanisms, natural, tolerance))
    return EdgeReport(mechanisms.name, tuple(rows))


def _layer_node(mechanisms: Mechanisms, node: Node) -> Node:
    """Return a node of the graph that has the edges of a component (its first head, where heads are nodes)."""
    if node in mechanisms.graph:
        return node
    return Node("head", node.layer, 0)


def _noise(natural: Natural, source: Node, attempt: int) -> torch.Tensor:
    """Return a change of a contribution [prompt, position, d_model], as large as the largest of the streams.

    In a trained model the stream grows with depth, and what is small beside it moves the final norm by less than
    low precision rounds.
    """
    generator = torch.Generator().manual_seed(7919 * attempt + 31 * (source.layer or 0) + (source.kind == "mlp"))
    stream = natural.streams[0]
    noise = torch.randn(stream.shape, generator=generator, dtype=torch.float64).to(stream)
    size = max(float(each.to(torch.float32).square().mean().sqrt()) for each in natural.streams)
    return noise * size


def _by_edges(mechanisms: Mechanisms, natural: Natural, source: Node, tolerance: float) -> dict[Node, float]:
    """Let every later reader, one pass for all, read the natural stream with another value of one contribution."""
    best: dict[Node, float] = {}
    for attempt in range(_TRIES):
        for node, size in _edge_pass(mechanisms, natural, source, _noise(natural, source, attempt)).items():
            best[node] = max(best.get(node, 0.0), size)
        if min(best.values()) > tolerance:
            break
    return best


def _edge_pass(mechanisms: Mechanisms, natural: Natural, source: Node, noise: torch.Tensor) -> dict[Node, float]:
    parts = [part.node for layer in mechanisms.layers for part in layer]
    later = [node for node in parts if node.sort_key > source.sort_key]
    seen = held(mechanisms, natural, dict.fromkeys(map(str, later), noise))
    moved = {node: _size(seen.contributions[str(node)], natural.contributions[str(node)]) for node in later}
    z, readout = natural.streams[-1], mechanisms.readout
    sigma = readout.norm.sigma(z)
    moved[Node("norm")] = _size(readout.norm.sigma(z + noise), sigma)
    moved[Node("logits")] = _size(readout.precap_logits(z + noise, sigma), readout.precap_logits(z, sigma))
    return moved


def _by_setting(mechanisms: Mechanisms, natural: Natural, source: Node) -> dict[Node, float]:
    """Set a contribution where it is made, every layer entering naturally; return what moved of the others."""
    noise = _noise(natural, source, 0)
    seen = held(mechanisms, natural, {}, write={str(source): noise})
    parts = [part.node for layer in mechanisms.layers for part in layer]
    return {node: _size(seen.contributions[str(node)], natural.contributions[str(node)]) for node in parts}


def _norm_row(mechanisms: Mechanisms, natural: Natural, tolerance: float) -> TestedEdge:
    z, readout = natural.streams[-1], mechanisms.readout
    sigma = readout.norm.sigma(z)
    moved = _size(readout.precap_logits(z, 2 * sigma), readout.precap_logits(z))
    return TestedEdge(Node("norm"), Node("logits"), mechanisms.graph.has_edge("norm", "logits"), moved, tolerance)


def _size(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference relative to the ordinary size of the second; 0 only if bit for bit equal."""
    if torch.equal(one, other):
        return 0.0
    wide = torch.promote_types(one.dtype, torch.float32)
    return float((one.to(wide) - other.to(wide)).abs().max() / other.to(wide).abs().mean().clamp_min(1e-30))
