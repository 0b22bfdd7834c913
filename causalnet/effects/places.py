"""An intervention expanded on the graph: what it writes, and who may respond to it where."""

from collections.abc import Sequence
from dataclasses import dataclass

from causalnet.expr import Assignment, At, Do, Outcome, Position, Query, Range, World, compile_query
from causalnet.expr.query import Expectation, Term
from causalnet.graph import CausalGraph, Node

__all__ = ["Intervention", "intervention"]


@dataclass(frozen=True, eq=False)
class Intervention:
    """A world, the graph that it lives on, and the nodes that may respond to it.

    Attributes
    ----------
    world
        What is written.
    graph
        The causal graph, with the heads that are named as nodes.
    responders
        M = desc(X) ∩ anc(Y), the norm included, in order of computation.
    """

    world: World
    graph: CausalGraph
    responders: tuple[Node, ...]

    def positions_of(self, node: Node) -> Position | None:
        """Return where a responder has to be held to be held wherever it could respond.

        Nothing changes before the first position that is written, so where that is known, earlier positions
        need not be held (and then need not be computed).
        """
        starts = {_start(site.position) for site in self.world.sites}
        if node in self.world.nodes or None in starts or len({start < 0 for start in starts if start is not None}) > 1:
            return None
        first = min(start for start in starts if start is not None)
        return At(-1) if first == -1 else Range(first, None)


def intervention(graph: CausalGraph, s: Sequence[Assignment], outcome: Outcome) -> Intervention:
    """Expand assignments on a graph.

    Raises
    ------
    ExpressionError, UnknownNodeError
        If they cannot be meant, or the outcome is not downstream.

    Examples
    --------
    >>> from causalnet.expr import TARGET, attn, last, zero
    >>> from causalnet.graph import Block
    >>> graph = CausalGraph.from_blocks([Block(0), Block(1)])
    >>> made = intervention(graph, [attn[1] @ last << zero], Outcome("logit", (TARGET,)))
    >>> [str(node) for node in made.responders], str(made.positions_of(made.responders[0]))
    (['mlp[1]', 'norm'], '@last')
    """
    compiled = compile_query(Query((Term(1.0, Expectation(outcome, Do(tuple(s)))),)), graph)
    world = compiled.worlds[compiled.readings[0].world]
    sites = world.sites
    # An edge changes its receiver, which responds itself; a node that is set does so only where it is not set.
    into = {site.receiver for site in sites if site.receiver is not None}
    below = compiled.graph.descendants([site.receiver or site.node for site in sites]) | into
    everywhere = {site.node for site in sites if site.receiver is None and site.position is None}
    reach = compiled.graph.ancestors("logits")
    found = [
        node
        for node in compiled.graph.ordered(below)
        if node in reach and node not in everywhere and node.kind not in ("bias", "resid", "logits")
    ]
    again = set()
    for node in world.nodes - everywhere:
        if any(node in compiled.graph.descendants(other) for other in world.nodes - {node}):
            again.add(node)
    responders = compiled.graph.ordered({*(n for n in found if n not in world.nodes), *again})
    return Intervention(world, compiled.graph, responders)


def _start(position: Position | None) -> int | None:
    if isinstance(position, At):
        return position.index
    return position.start if isinstance(position, Range) else None
