"""What a caller may give as a query, an intervention or nodes: the objects themselves, or their texts."""

from collections.abc import Iterable
from typing import Any

from causalnet.errors import ExpressionError, explain
from causalnet.expr import Assignment, Query, parse
from causalnet.expr.estimands import Estimand
from causalnet.graph import Node

__all__ = ["Set", "assignments_of", "nodes_of", "queries_of", "text_of"]

Set = Assignment | str
"""An assignment, as an object or as text: ``attn[5]@last = resample``."""


def queries_of(query: Any) -> tuple[list[Query], bool]:
    """Return queries (or texts) as a list, and whether several were asked.

    Raises
    ------
    ExpressionError
        If there is none, or one of them is no query.
    """
    if not isinstance(query, Query | str) and isinstance(query, Iterable):
        found = [_query(one) for one in query]
        if found:
            return found, True
        raise ExpressionError(explain("no query was given", mend="write E[…] or TE(…), or a text"))
    return [_query(query)], False


def _query(query: Any) -> Query:
    if isinstance(query, str):
        return parse(query)
    if not isinstance(query, Query):
        raise ExpressionError(explain(f"{query} is no query", mend="write E[…] or TE(…), or a text"))
    return query


def assignments_of(given: Iterable[Set]) -> tuple[Assignment, ...]:
    """Return assignments; a text is read as what stands in ``do(…)``."""
    found: list[Assignment] = []
    for one in given:
        if isinstance(one, str):
            body = parse(f"TE({one})").terms[0].body
            assert isinstance(body, Estimand)
            found += body.do.assignments
        elif isinstance(one, Assignment):
            found.append(one)
        else:
            raise ExpressionError(explain(f"{one} sets nothing", mend=f"say what it is set to: {one} << zero"))
    if not found:
        raise ExpressionError(explain("nothing is set", mend="give an assignment such as attn[5] @ last << resample"))
    return tuple(found)


def nodes_of(given: Iterable[Node | str]) -> list[Node]:
    """Return nodes, given as they are or by name."""
    return [Node.parse(one) if isinstance(one, str) else one for one in given]


def text_of(made: Iterable[Assignment]) -> str:
    """Return assignments as they stand in ``do(…)``."""
    return ", ".join(map(str, made))
