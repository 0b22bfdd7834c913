"""Named causal effects beyond the macros of the language, each written as do-expressions.

With s an intervention on X (from its natural x to x'), M everything downstream of X, Y the outcome and
Y(x', M_x) the outcome with X as s says and M as in the world x:

========== ================================================= ====================================
name       definition                                        reads
========== ================================================= ====================================
TE         Y(x', M_x') − Y(x, M_x)                           total
NDE = PDE  Y(x', M_x) − Y(x, M_x)                            natural direct, pure
NIE = PIE  Y(x, M_x') − Y(x, M_x)                            natural indirect, pure
TDE        Y(x', M_x') − Y(x, M_x')                          total direct
TIE        Y(x', M_x') − Y(x', M_x)                          total indirect
INTmed     TE − PDE − PIE                                    mediated interaction
CDE(m)     Y(x', m) − Y(x, m)                                controlled direct, M set to m
INTref(m)  PDE − CDE(m)                                      reference interaction
PSE(A)     the change goes along the edges A alone           path-specific
========== ================================================= ====================================

TE = PDE + TIE = TDE + PIE, INTmed = TDE − PDE = TIE − PIE and
TE = CDE(m) + INTref(m) + INTmed + PIE hold in every unit.  TE = NDE + NIE does not, nor does the sum of
single effects equal the joint one.

References
----------
Pearl, Direct and indirect effects (2001).  Robins and Greenland, Identifiability and exchangeability for direct
and indirect effects (1992).  VanderWeele, A unification of mediation and interaction: a four-way decomposition
(2014).  Avin, Shpitser and Pearl, Identifiability of path-specific effects (2005).
"""

from collections.abc import Iterable, Sequence

from causalnet.errors import ExpressionError, GraphError, explain
from causalnet.expr import NATURAL, TARGET, Assignment, Do, Outcome, Path, Query, Ref
from causalnet.expr.estimands import kept, named
from causalnet.expr.places import Names, places, scene
from causalnet.expr.query import Expectation, Term
from causalnet.expr.refs import Component, Located
from causalnet.graph import CausalGraph, Edge, Node

__all__ = ["controlled_direct", "four_way", "interaction", "natural_effects", "path_specific"]

LOGIT = Outcome("logit", (TARGET,))


def natural_effects(*s: Assignment, outcome: Outcome = LOGIT) -> dict[str, Query]:
    """Return TE, NDE, NIE, TDE, TIE and INTmed of one intervention.

    Parameters
    ----------
    s
        The intervention: assignments to any nodes, sets of nodes or edges, at any positions, from any source.
        Several of them are one joint intervention.
    outcome
        Any outcome; default the target's logit, in logits.

    Returns
    -------
    dict
        Queries by name.  An effect is ``Y(do) − Y``: ablating a promoting node has a negative TE.  They share
        their worlds, so that asking for all costs four.

    Raises
    ------
    ExpressionError
        If nothing is set.

    Notes
    -----
    They are the estimands of the language, :data:`causalnet.expr.estimands.ESTIMANDS`, which says what is held in
    a joint intervention, where one node of X may lie downstream of another.

    Examples
    --------
    >>> from causalnet.expr import attn, last, resample
    >>> found = natural_effects(attn[5] @ last << resample)
    >>> print(found["INTmed"])
    TE(attn[5]@last = resample) - NDE(attn[5]@last = resample) - NIE(attn[5]@last = resample)
    >>> print(found["NIE"].expand())
    E[logit(target) | do(desc(attn[5]) = under do(attn[5]@last = resample))] - E[logit(target)]
    """
    _check(s)
    te, nde, nie, tde, tie = (named(name, *s, outcome) for name in ("TE", "NDE", "NIE", "TDE", "TIE"))
    return {"TE": te, "NDE": nde, "NIE": nie, "TDE": tde, "TIE": tie, "INTmed": te - nde - nie}


def controlled_direct(*s: Assignment, held: Sequence[Assignment], outcome: Outcome = LOGIT) -> Query:
    """Return CDE(m): the effect of s while mediators are set to m in both worlds.

    Parameters
    ----------
    s
        The intervention.
    held
        m: assignments to nodes downstream of X.  Mediators that it does not set go on responding.
    outcome
        Any outcome.

    Raises
    ------
    ExpressionError
        If nothing is set, or nothing is held.

    Examples
    --------
    >>> from causalnet.expr import attn, desc, last, mean, zero
    >>> print(controlled_direct(attn[5] @ last << zero, held=[desc(attn[5]) << mean]))
    E[logit(target) | do(attn[5]@last = zero, desc(attn[5]) = mean)] - E[logit(target) | do(desc(attn[5]) = mean)]
    """
    _check(s)
    if not held:
        raise ExpressionError(explain("CDE(m) holds nothing", mend="give held=[desc(attn[5]) << mean], or ask for TE"))
    return _mean(outcome, Do((*s, *held))) - _mean(outcome, Do((*kept(Do(s)), *held)))


def four_way(*s: Assignment, held: Sequence[Assignment], outcome: Outcome = LOGIT) -> dict[str, Query]:
    """Return VanderWeele's four parts of the total effect: CDE(m), INTref(m), INTmed and PIE; they sum to TE.

    Parameters
    ----------
    s, held, outcome
        As in :func:`controlled_direct`.

    Examples
    --------
    >>> from causalnet.expr import attn, desc, mean, zero
    >>> list(four_way(attn[5] << zero, held=[desc(attn[5]) << mean]))
    ['CDE', 'INTref', 'INTmed', 'PIE']
    """
    found = natural_effects(*s, outcome=outcome)
    direct = controlled_direct(*s, held=held, outcome=outcome)
    return {"CDE": direct, "INTref": found["NDE"] - direct, "INTmed": found["INTmed"], "PIE": found["NIE"]}


def interaction(*s: Assignment, outcome: Outcome = LOGIT) -> dict[str, Query]:
    """Return the joint effect of several assignments, that of each alone, and what the joint one has beyond their sum.

    Parameters
    ----------
    s
        Two assignments or more.
    outcome
        Any outcome.

    Returns
    -------
    dict
        ``joint``, each assignment's own text, and ``interaction`` = joint − Σ single: negative where nodes back
        each other up (the joint ablation costs more than the single ones together).

    Raises
    ------
    ExpressionError
        If there is only one assignment.

    Examples
    --------
    >>> from causalnet.expr import attn, zero
    >>> print(interaction(attn[5] << zero, attn[7] << zero)["attn[7] = zero"])
    E[logit(target) | do(attn[7] = zero)] - E[logit(target)]
    """
    _check(s)
    if len(s) < 2:
        raise ExpressionError(
            explain("an interaction needs two assignments", mend="write attn[5] << zero, attn[7] << zero")
        )
    natural = _mean(outcome, None)
    alone = {str(one): _mean(outcome, Do((one,))) - natural for one in s}
    joint = _mean(outcome, Do(s)) - natural
    return {"joint": joint, **alone, "interaction": joint - sum(alone.values())}


def path_specific(*s: Assignment, edges: Iterable[Edge | str], graph: CausalGraph, outcome: Outcome = LOGIT) -> Query:
    """Return PSE(A): the effect of s when the change goes along the edges A alone.

    An edge of A out of X carries what s sets, an edge of A further on what its sender has in this world, and
    every other edge of a node that is reached its natural value.

    Parameters
    ----------
    s
        The intervention, on nodes.
    edges
        A; edges that X does not reach along A carry nothing, nor do edges into what s sets.
    graph
        The graph that the edges belong to, at the granularity of the query.
    outcome
        Any outcome.

    Raises
    ------
    ExpressionError
        If s sets an edge, or no edge of A leaves X.
    GraphError
        If an edge is not one of the graph's.

    Examples
    --------
    >>> from causalnet.expr import attn, zero
    >>> from causalnet.graph import Block
    >>> graph = CausalGraph.from_blocks([Block(0)])
    >>> query = path_specific(attn[0] << zero, edges=["attn[0] -> mlp[0]", "mlp[0] -> logits"], graph=graph)
    >>> print(query)
    E[logit(target) | do(attn[0] -> mlp[0] = zero, mlp[0] -> norm = natural)] - E[logit(target)]
    """
    _check(s)
    along = {Edge.parse(edge) if isinstance(edge, str) else Edge(*edge) for edge in edges}
    for edge in sorted(along, key=_order):
        if not graph.has_edge(*edge):
            raise GraphError(f"{edge} is no edge of the graph")
    set_places = {one: places(_node_target(one), scene(graph, [Do(s)], Names())) for one in s}
    starts = {node for found in set_places.values() for node, _ in found}
    # A node that is set at some positions only responds at the others, so changes may go through it.
    cut = {node for found in set_places.values() for node, position in found if position is None}
    live = {edge for edge in along if edge.target not in cut}
    writes: list[Assignment] = []
    for one, found in set_places.items():
        for node, position in found:
            sender: Ref = Component.of(node) if position is None else Located(Component.of(node), position)
            into = sorted((edge.target for edge in live if edge.source == node), key=lambda other: other.sort_key)
            writes += [Assignment(Path((sender, Component.of(other))), one.value) for other in into]
    if not writes:
        raise ExpressionError(explain("no edge of the set leaves what is set, so nothing can change", mend="add one"))
    reached = _reached(starts, live)
    for node in graph.ordered(reached):
        for child in graph.ordered(graph.children(node)):
            if Edge(node, child) not in live:
                writes.append(Assignment(Path((Component.of(node), Component.of(child))), NATURAL))
    return _mean(outcome, Do(tuple(writes))) - _mean(outcome, None)


def _reached(starts: set[Node], edges: set[Edge]) -> set[Node]:
    """Return the nodes that are reached from ``starts`` along edges, the starts excluded; the readout sends nothing."""
    found: set[Node] = set()
    todo = list(starts)
    while todo:
        node = todo.pop()
        for edge in edges:
            if edge.source == node and edge.target not in found:
                found.add(edge.target)
                todo.append(edge.target)
    return {node for node in found if node.kind != "logits"}


def _order(edge: Edge) -> tuple:
    return (edge.source.sort_key, edge.target.sort_key)


def _check(s: Sequence[Assignment]) -> None:
    if not s:
        raise ExpressionError(explain("nothing is set", mend="give an assignment such as attn[5] @ last << resample"))
    for one in s:
        if not isinstance(one, Assignment):
            raise ExpressionError(explain(f"{one} sets nothing", mend=f"say what it is set to: {one} << zero"))


def _mean(outcome: Outcome, do: Do | None) -> Query:
    return Query((Term(1.0, Expectation(outcome, do)),))


def _node_target(one: Assignment) -> Ref:
    if isinstance(one.target, Path) or one.along_paths:
        raise ExpressionError(explain(f"{one} sets edges; the edges of a path-specific effect are given apart"))
    return one.target
