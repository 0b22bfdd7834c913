"""Queries in Pearl's counterfactual notation.

``Y_{x}`` is Y in the world do(x); ``M(u)`` is the value of M in the unit as it is; ``M(u')`` its value in a
donor unit, ``M(u["name"])`` in a paired one; ``M_{x}(u)`` its value in another world; ``M*`` what it would
have been in this world, for soft interventions.  A path-specific intervention names its paths after
``along``.
"""

from typing import Any

from causalnet.expr.assign import Assignment, Do
from causalnet.expr.estimands import expanded
from causalnet.expr.outcomes import Outcome
from causalnet.expr.positions import quote
from causalnet.expr.query import Query
from causalnet.expr.refs import Difference, Intersection, Union
from causalnet.expr.values import Add, Given, Mean, Natural, Noise, Patch, ProjectOut, Resample, Scale, Under, Zero

__all__ = ["pearl"]


def pearl(query: Query) -> str:
    """Return a query in counterfactual notation; named estimands are written out.

    Examples
    --------
    >>> from causalnet.expr import TE, attn, last, resample
    >>> print(pearl(TE(attn[5] @ last << resample)))
    E[Y_{attn[5]@last = attn[5]@last(u')}] - E[Y], where Y = logit(target)
    """
    whole = expanded(query)
    names = _letters([term.body.outcome for term in whole.terms])
    words: list[str] = []
    for term in whole.terms:
        body: Any = term.body
        size = abs(term.coefficient)
        shown = "" if size == 1 else f"{size:g}*"
        subscript = "" if body.do is None else f"_{{{_do(body.do)}}}"
        given = "" if body.condition is None else f" | {body.condition}"
        negative = term.coefficient < 0
        sign = (" - " if negative else " + ") if words else ("-" if negative else "")
        words.append(f"{sign}{shown}E[{names[body.outcome]}{subscript}{given}]")
    where = ", ".join(f"{letter} = {outcome}" for outcome, letter in names.items())
    return f"{''.join(words)}, where {where}"


def _letters(outcomes: list[Outcome]) -> dict[Outcome, str]:
    distinct = list(dict.fromkeys(outcomes))
    return {outcome: "Y" if len(distinct) == 1 else f"Y{index}" for index, outcome in enumerate(distinct, 1)}


def _do(do: Do) -> str:
    return ", ".join(map(_assignment, do.assignments))


def _assignment(one: Assignment) -> str:
    # An edge carries the value of its sender.
    sender = getattr(one.target, "steps", (one.target,))[0]
    node = f"({sender})" if isinstance(sender, Union | Intersection | Difference) else str(sender)
    left = f"({one.target})" if isinstance(one.target, Union | Intersection) else str(one.target)
    text = f"{left} = {_value(one.value, node)}"
    if not one.along_paths:
        return text
    return f"{text} along {' | '.join(map(str, one.along_paths))}"


def _value(value: Any, node: str) -> str:
    if isinstance(value, Under):
        return f"{node}_{{{_do(value.do)}}}(u)"
    return _SYMBOLS[type(value)](value, node)


_SYMBOLS = {
    Zero: lambda _, node: "0",
    Mean: lambda _, node: f"E[{node}(u')]",
    Resample: lambda _, node: f"{node}(u')",
    Natural: lambda _, node: f"{node}(u)",
    Patch: lambda value, node: f"{node}(u[{quote(value.name)}])",
    Given: lambda value, node: f"v[{quote(value.name)}]",
    Scale: lambda value, node: f"{value.factor:g} {node}*",
    Noise: lambda value, node: f"{node}* + {value.size:g} sd({node}) N",
    Add: lambda value, node: f"{node}* + {value.factor:g} v[{quote(value.name)}]",
    ProjectOut: lambda value, node: f"{node}* - proj({node}*, v[{quote(value.name)}])",
}
