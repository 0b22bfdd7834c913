"""What a drawing of a graph shows of a result: one number per box, and the strongest compensation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from causalnet.draw.sweep import Sweep, as_sweep
from causalnet.errors import GraphError, InputError, UnknownNodeError, explain
from causalnet.graph.node import Edge, Node

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.graph import CausalGraph

__all__ = ["Box", "Facts", "along", "box_of", "gather"]

Box = tuple[str, int]
_RESPONDS = 0.05


@dataclass(frozen=True)
class Facts:
    """Numbers to draw; empty without a result.

    Parameters
    ----------
    clean
        Direct effect in the natural world, by box.
    heads
        The same by head, where the graph and the result have heads.
    delta
        ΔDE of each box when ``ablated`` is ablated.
    flows
        The strongest (ablated box, responder box, ΔDE), strongest first.
    node
        The node whose ablation is shown, if any.
    cut
        The boxes with a node in them that is set by do: the ablated one, and those that the graph itself sets.
    reached
        The boxes with a descendant of such a node in them.
    te, de, norm
        Means of the ablated node's effects.
    caption
        Over how many prompts and donors the means were taken.
    paths
        Whether ``flows`` are path effects instead of compensation.
    unit
        Of all these numbers.
    whole
        The outcome, where its compensation is known as a whole alone: no box then has a ΔDE.
    """

    clean: dict[Box, float] = field(default_factory=dict)
    heads: dict[tuple[int, int], float] = field(default_factory=dict)
    delta: dict[Box, float] = field(default_factory=dict)
    flows: tuple[tuple[Box, Box, float], ...] = ()
    node: Node | None = None
    cut: frozenset[Box] = frozenset()
    reached: frozenset[Box] = frozenset()
    te: float | None = None
    de: float | None = None
    norm: float | None = None
    caption: str = ""
    paths: bool = False
    unit: str = "logits"
    whole: str = ""

    @property
    def ablated(self) -> Box | None:
        """Return the box of the node whose ablation is shown."""
        return None if self.node is None else box_of(self.node)

    def faded(self, box: Box) -> bool:
        """Tell whether a box neither is set nor responds (without a result: is not downstream)."""
        if not self.cut or box in self.cut:
            return False
        return not (self.responds(box) if self.delta else box in self.reached)

    def responds(self, box: Box) -> bool:
        """Tell whether the box's ΔDE is at least 5 % of the largest one."""
        largest = max((abs(value) for value in self.delta.values()), default=0.0)
        return largest > 0 and abs(self.delta.get(box, 0.0)) >= _RESPONDS * largest


def box_of(node: Node) -> Box | None:
    """Return the box in which a node is drawn: heads and biases stand in their layer's attention."""
    if node.layer is None or node.kind == "resid":
        return None
    return ("mlp" if node.kind == "mlp" else "attn", node.layer)


def gather(
    graph: "CausalGraph",
    result: "xr.Dataset | Sweep | None",
    node: Node | str | None,
    prompt: int | None,
    flows: int,
) -> Facts:
    """Collect what is drawn of ``result`` on ``graph``; see :func:`causalnet.draw.draw` for the arguments."""
    ablated = Node.parse(node) if isinstance(node, str) else node
    if ablated is not None and ablated not in graph:
        legal = [str(one) for one in graph.nodes]
        raise UnknownNodeError(explain(f"the graph has no node {str(ablated)!r}", legal=legal, got=str(ablated)))
    done = [*graph.intervened_nodes, *([ablated] if ablated is not None else [])]
    cut = frozenset(box for box in map(box_of, done) if box is not None)
    reached = frozenset(box for box in map(box_of, graph.descendants(done)) if box is not None) if done else frozenset()
    if result is None:
        return Facts(node=ablated, cut=cut, reached=reached)
    sweep = _of_prompt(as_sweep(result), prompt)
    told = Facts(*_clean(sweep), cut=cut, reached=reached, caption=sweep.caption, unit=sweep.words.unit)
    told = told if sweep.words.by_responder else replace(told, whole=sweep.words.outcome)
    if ablated is None:
        pairs = [(box_of(source), row) for source, row in zip(sweep.nodes, sweep.coupling, strict=True)]
        found = [(source, *one) for source, row in pairs if source for one in _by_box(sweep.responders, row).items()]
        kept = _strongest(found, flows)
        return replace(told, flows=kept)
    place = sweep.place(ablated)
    delta = _by_box(sweep.responders, sweep.coupling[place])
    box = box_of(ablated)
    found = [(box, *one) for one in delta.items()] if box else []
    te, de, norm = (float(values[:, place].mean()) for values in (sweep.te, sweep.de, sweep.norm))
    return replace(told, delta=delta, flows=_strongest(found, flows), node=ablated, te=te, de=de, norm=norm)


def along(graph: "CausalGraph", facts: Facts, effects: "Mapping[Edge | str, float]", count: int) -> Facts:
    """Show effects along edges of the graph in place of compensation.

    Raises
    ------
    GraphError
        If an edge is not one of the graph's.
    """
    total: dict[tuple[Box, Box], float] = {}
    for name, value in effects.items():
        edge = Edge.parse(name) if isinstance(name, str) else name
        if not graph.has_edge(edge.source, edge.target):
            raise GraphError(f"{edge} is not an edge of the graph")
        ends = box_of(edge.source), box_of(edge.target)
        if ends[0] is not None and ends[1] is not None:
            total[ends[0], ends[1]] = total.get((ends[0], ends[1]), 0.0) + float(value)
    return replace(facts, flows=_strongest([(*ends, value) for ends, value in total.items()], count), paths=True)


def _of_prompt(sweep: Sweep, prompt: int | None) -> Sweep:
    if prompt is None:
        return sweep
    if not 0 <= prompt < sweep.prompts:
        raise InputError(f"prompt {prompt} does not exist; legal: 0 to {sweep.prompts - 1}")
    return as_sweep(sweep.data.isel(prompt=[prompt]))


def _clean(sweep: Sweep) -> tuple[dict[Box, float], dict[tuple[int, int], float]]:
    values: dict[Node, float] = {}
    for nodes, means in ((sweep.responders, sweep.clean_responder), (sweep.nodes, sweep.clean)):
        values.update(zip(nodes, means.mean(axis=0).tolist(), strict=True))
    # Where a layer's heads were measured, its attention is their sum and must not be counted twice.
    split = {node.layer for node in values if node.kind in ("head", "bias")}
    kept = {node: value for node, value in values.items() if not (node.kind == "attn" and node.layer in split)}
    heads = {(node.layer or 0, node.head): value for node, value in kept.items() if node.head is not None}
    return _by_box(tuple(kept), np.array(list(kept.values()))), heads


def _by_box(nodes: Sequence[Node], values: np.ndarray) -> dict[Box, float]:
    total: dict[Box, float] = {}
    for node, value in zip(nodes, values.tolist(), strict=True):
        box = box_of(node)
        if box is not None:
            total[box] = total.get(box, 0.0) + value
    return total


def _strongest(found: list[tuple[Box, Box, float]], count: int) -> tuple[tuple[Box, Box, float], ...]:
    ordered = sorted(found, key=lambda one: (-abs(one[2]), one[0], one[1]))
    least = _RESPONDS * abs(ordered[0][2]) if ordered else 0.0
    return tuple(one for one in ordered[:count] if one[0] != one[1] and abs(one[2]) >= least > 0)
