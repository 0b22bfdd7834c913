"""Which nodes to adjust for when an effect is to be estimated from logged activations."""

from collections.abc import Iterable

import networkx as nx

from causalnet.errors import GraphError, explain
from causalnet.graph import CausalGraph, Node
from causalnet.interop.dowhy.load import load, settled
from causalnet.interop.dowhy.names import node_id, node_of

__all__ = ["adjustment_set"]


def adjustment_set(
    graph: CausalGraph,
    treatment: Node | str,
    outcome: Node | str = "logits",
    *,
    observed: Iterable[Node | str] | None = None,
) -> tuple[Node, ...]:
    """Return a smallest set of nodes whose adjustment gives the effect of one node on another.

    Parameters
    ----------
    graph
        The causal graph, of any size: the criterion is graphical and its search takes polynomial time.
    treatment, outcome
        The nodes.
    observed
        The nodes whose activations were logged; default all.

    Returns
    -------
    tuple of Node
        In order of computation; empty where nothing need be adjusted for.

    Raises
    ------
    GraphError
        If the outcome is not downstream, or no set of observed nodes will do.
    UnknownNodeError
        If the graph has no such node.
    InputError
        If DoWhy is not installed.

    References
    ----------
    van der Zander, Liśkiewicz and Textor, Constructing separators and adjustment sets in ancestral graphs (2014).

    Examples
    --------
    >>> from causalnet.graph import Block
    >>> graph = CausalGraph.from_blocks([Block(0), Block(1)])
    >>> [str(node) for node in adjustment_set(graph, "attn[1]")]
    ['embed', 'attn[0]', 'mlp[0]']
    """
    (x,), (y,) = graph.resolve(treatment), graph.resolve(outcome)
    if y not in graph.descendants(x):
        raise GraphError(f"{y} is not downstream of {x}, so {x} has no effect on it")
    given = graph.nodes if observed is None else [node for one in observed for node in graph.resolve(one)]
    drawn = nx.DiGraph()
    drawn.add_nodes_from(map(node_id, graph.nodes))
    drawn.add_edges_from((node_id(edge.source), node_id(edge.target)) for edge in graph.edges())
    identify = load("dowhy.causal_identifier.auto_identifier").identify_generalized_adjustment_set
    with settled(0):
        found = identify(drawn, [node_id(x)], [node_id(y)], [node_id(node) for node in given])
    if not found:
        what = f"no set of the observed nodes removes the confounding of {x} and {y}"
        raise GraphError(
            explain(what, mend=f"log what {x} reads: {', '.join(map(str, graph.ordered(graph.parents(x))))}")
        )
    return graph.ordered(node_of(name) for name in found[0].get_adjustment_variables())
