"""Exchange with y0: interventional distributions of one world, in which nodes are set hard.

y0 reasons about symbols: a variable is itself, set to some value (``-X``) or to another one (``+X``).  So what an
expression sets nodes *to* travels beside it.  Values of other worlds cannot go over: y0 writes
``Y @ (X, M @ X')`` as ``Y @ (X, M)``, which is another question.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from causalnet.errors import ExpressionError, InputError, explain
from causalnet.expr import Assignment, Do, Outcome, Query, Site, compile_query
from causalnet.expr.query import Expectation, Term
from causalnet.expr.refs import Component, Located
from causalnet.expr.values import InWorld, Natural
from causalnet.graph import CausalGraph

__all__ = ["Exchanged", "from_y0", "to_y0"]

OUTCOME = "Y"


@dataclass(frozen=True)
class Exchanged:
    """A do-expression as y0 has it.

    Attributes
    ----------
    expression
        The ``y0.dsl.Probability``, such as ``P(Y @ +attn_05_last)``.
    settings
        What each of its interventions stands for.
    outcome
        What ``Y`` stands for.
    """

    expression: Any
    settings: Mapping[str, Assignment]
    outcome: Outcome


def to_y0(query: Query, graph: CausalGraph) -> Exchanged:
    """Write ``E[outcome | do(…)]`` as y0's distribution of the outcome under that intervention.

    Parameters
    ----------
    query
        One expectation, with its nodes set to ``zero``, ``mean``, ``resample``, ``patch`` or ``value``.
    graph
        The graph on which it is meant.

    Returns
    -------
    Exchanged

    Raises
    ------
    ExpressionError
        For several worlds (effects are differences: exchange their terms one by one), values of another world
        (``under``, ``natural``), soft values, edges, paths and subgroups; each with the reason.
    InputError
        If y0 is not installed.

    References
    ----------
    Hoyt et al., y0: symbolic causal inference in Python (2021).

    Examples
    --------
    >>> from causalnet.expr import TE, attn, last, zero
    >>> from causalnet.graph import Block
    >>> to_y0(TE(attn[0] @ last << zero), CausalGraph.from_blocks([Block(0)]))
    Traceback (most recent call last):
    causalnet.errors.ExpressionError: TE(attn[0]@last = zero) is about several worlds, and y0's expressions about ...
    """
    compiled = compile_query(query, graph)
    if len(query.expand().terms) != 1 or compiled.weights != (1.0,):
        mend = "exchange each E[…] of it by itself"
        raise ExpressionError(explain(f"{query} is about several worlds, and y0's expressions about one", mend=mend))
    (reading,) = compiled.readings
    if reading.condition is not None:
        raise ExpressionError(explain(f"{query} asks for a subgroup", mend="choose the prompts instead"))
    settings: dict[str, Assignment] = {}
    for site, value in compiled.worlds[reading.world].writes:
        if site.receiver is not None:
            raise ExpressionError(f"{site} is an edge, and y0 sets variables")
        if isinstance(value, InWorld | Natural):
            what = f"{site} = {value} is its value in another world; y0 would flatten it to a constant"
            raise ExpressionError(explain(what, mend="exchange expressions of one world only"))
        if not value.hard:
            what = f"{site} = {value} is soft: a function of the value that it would have; y0 knows hard sets"
            raise ExpressionError(explain(what, mend="set it to zero, mean, resample, patch or value"))
        reference = Component.of(site.node)
        target = reference if site.position is None else Located(reference, site.position)
        settings[_name(site)] = Assignment(target, value)
    dsl = _dsl()
    read = dsl.Variable(OUTCOME)
    if settings:
        read = read @ [+dsl.Variable(name) for name in settings]
    return Exchanged(dsl.P(read), settings, reading.outcome)


def from_y0(expression: Any, settings: Mapping[str, Assignment], outcome: Outcome) -> Query:
    """Read a distribution under an intervention as ``E[outcome | do(…)]``.

    Parameters
    ----------
    expression
        A ``y0.dsl.Probability`` of one variable.
    settings
        What each variable that it sets stands for: ``{"X": attn[5] @ last << zero}``.
    outcome
        What the variable that it reads stands for.

    Raises
    ------
    ExpressionError
        For anything but the distribution of one variable under one intervention: sums, products and fractions
        (they speak of observed distributions), conditions, joint distributions, values "as observed" (``-X``).
    InputError
        If a variable that it sets is not among the settings, or y0 is not installed.

    Examples
    --------
    With ``X, Y = y0.dsl.Variable("X"), y0.dsl.Variable("Y")``,
    ``from_y0(y0.dsl.P(Y @ +X), {"X": attn[5] @ last << zero}, logit(target))`` is
    ``E[logit(target) | do(attn[5]@last = zero)]``.
    """
    dsl = _dsl()
    if not isinstance(expression, dsl.Probability):
        what = f"{expression} is a {type(expression).__name__}, which speaks of observed distributions"
        raise ExpressionError(explain(what, mend="give P(Y @ X): one outcome under one intervention"))
    if expression.parents:
        raise ExpressionError(explain(f"{expression} is conditional", mend="choose the prompts instead"))
    if len(expression.children) != 1:
        what = f"{expression} is joint, of {len(expression.children)} variables, perhaps of several worlds"
        raise ExpressionError(explain(what, mend="give the distribution of one variable"))
    (read,) = expression.children
    made = sorted(getattr(read, "interventions", ()), key=lambda one: one.name)
    found = []
    for one in made:
        if not one.star:
            what = f"-{one.name} sets {one.name} to the value that was observed, which is its value in another world"
            raise ExpressionError(explain(what, mend=f"give +{one.name}"))
        if one.name not in settings:
            what = f"{expression} sets {one.name}, and nothing says to what"
            raise InputError(explain(what, legal=settings, got=one.name, mend="name it in settings"))
        value: Any = settings[one.name].value
        if not value.hard or isinstance(value, Natural) or hasattr(value, "do"):
            raise ExpressionError(f"{settings[one.name]}: y0's {one.name} is a constant, and this is not a hard set")
        found.append(settings[one.name])
    return Query((Term(1.0, Expectation(outcome, Do(tuple(found)) if found else None)),))


def _name(site: Site) -> str:
    """Return a site's name in y0: letters, digits and underscores, so that it can be written as code."""
    text = str(site).replace("[", "_").replace("]", "").replace(".", "_").replace("@", "_")
    return "".join(letter if letter.isalnum() else "m" if letter == "-" else "_" for letter in text)


def _dsl() -> Any:
    import importlib

    try:
        return importlib.import_module("y0.dsl")
    except ImportError as error:
        raise InputError(explain(f"y0 cannot be imported: {error}", mend="install it: pip install y0")) from error
