"""Interventions and do-expressions that mean something on a given graph."""

from collections.abc import Sequence

from hypothesis import strategies as st

from causalnet.expr.assign import Assignment, Do
from causalnet.expr.outcomes import Outcome
from causalnet.expr.parser import parse
from causalnet.expr.positions import LAST, At, Position, Span
from causalnet.expr.query import Query
from causalnet.expr.refs import Component, Located
from causalnet.expr.values import Mean, Natural, Value
from causalnet.graph import CausalGraph, Node
from causalnet.testing.strategies.worlds import OFFER, Offer, outcomes, values, worlds

__all__ = ["assignments", "do_expressions", "interventions"]

_DECOMPOSED = ("NDE", "NIE", "TDE", "TIE", "DE", "IE", "TE")
_PLACES: tuple[Position | None, ...] = (LAST, None, At(2), At(-2), Span("subject"))


@st.composite
def assignments(draw: st.DrawFn, graph: CausalGraph, offer: Offer = OFFER, *, most: int = 1) -> tuple[Assignment, ...]:
    """Draw a joint intervention on nodes: one to ``most`` assignments, to different nodes, that change something.

    Parameters
    ----------
    graph
        A graph without positions.
    offer
        What values there are.
    most
        How many assignments.

    Examples
    --------
    >>> from hypothesis import find
    >>> from causalnet.graph import Block
    >>> graph = CausalGraph.from_blocks([Block(0)])
    >>> print(*find(assignments(graph, most=2), lambda found: len(found) == 2), sep=", ")
    embed@last = resample, attn[0]@last = resample
    """
    able = [node for node in graph.nodes if node.contributes and node.kind not in ("head", "bias")]
    count = draw(st.integers(1, min(most, len(able))))
    chosen: Sequence[Node] = draw(st.lists(st.sampled_from(able), min_size=count, max_size=count, unique=True))
    found = []
    for node in graph.ordered(chosen):
        where = draw(st.sampled_from([at for at in _PLACES if offer.spans or not isinstance(at, Span)]))
        value: Value = draw(values(node, offer).filter(lambda value: not isinstance(value, Natural | Mean)))  # type: ignore[assignment]
        reference = Component.of(node)
        found.append(Assignment(reference if where is None else Located(reference, where), value))
    return tuple(found)


def interventions(graph: CausalGraph, offer: Offer = OFFER, *, most: int = 2) -> st.SearchStrategy[Do]:
    """Draw ``do(...)`` on nodes of a graph.

    Examples
    --------
    >>> from hypothesis import find
    >>> from causalnet.graph import Block
    >>> print(find(interventions(CausalGraph.from_blocks([Block(0)])), lambda found: True))
    do(embed@last = resample)
    """
    return assignments(graph, offer, most=most).map(Do)


@st.composite
def do_expressions(draw: st.DrawFn, graph: CausalGraph, offer: Offer = OFFER) -> Query:
    """Draw a query that means something on a graph: a named effect, or what a world changes.

    Parameters
    ----------
    graph
        A graph without positions.
    offer
        What values there are.

    Examples
    --------
    >>> from hypothesis import find
    >>> from causalnet.graph import Block
    >>> graph = CausalGraph.from_blocks([Block(0)])
    >>> query = find(do_expressions(graph), lambda found: "TIE" in str(found))
    >>> str(query).startswith("TIE(embed@last = resample")
    True
    """
    if draw(st.booleans()):
        name = draw(st.sampled_from(_DECOMPOSED))
        outcome = draw(_at_last(graph, offer))
        given = ", ".join(map(str, draw(assignments(graph, offer))))
        return parse(f"{name}({given}; {outcome})")
    inner = draw(worlds(graph, offer, most=1))
    world = draw(worlds(graph, offer, nested=(inner,) if inner else (), most=3).filter(bool))
    outcome = draw(_at_last(graph, offer))
    return parse(f"E[{outcome} | {world}] - E[{outcome}]")


def _at_last(graph: CausalGraph, offer: Offer) -> st.SearchStrategy[Outcome]:
    """Draw an outcome that every intervention on the stream can move: of the logits, at the last position."""
    return (
        outcomes(graph, offer)
        .map(lambda found: found[0])
        .filter(lambda found: found.of is None and found.name != "sigma" and found.position == LAST)
    )
