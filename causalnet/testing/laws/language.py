"""The law of the language: text and objects are one, and a world is what its sentence says."""

import math
from dataclasses import replace

from hypothesis import strategies as st

from causalnet.expr.compiled import compile_query
from causalnet.expr.parser import parse
from causalnet.testing.lab import Lab
from causalnet.testing.laws.law import Case, Finding, Law, units
from causalnet.testing.strategies.sentences import sentences
from causalnet.testing.strategies.worlds import worlds

__all__ = ["LANGUAGE"]


@st.composite
def _spoken(draw: st.DrawFn, lab: Lab) -> Case:
    if draw(st.booleans()):
        sentence = draw(sentences())
        return Case(queries=(sentence.text,), options=(("query", sentence.query),))
    # Edges that a set residual stream would carry are refused, so a sentence has the ones or the other.
    edges = draw(st.booleans())
    offer = replace(lab.offer, resid=lab.offer.resid and not edges)
    inner = draw(worlds(lab.graph, offer, most=2, edges=edges))
    world = draw(worlds(lab.graph, offer, nested=(inner,) if inner else (), most=3, edges=edges))
    return Case(draw(units(lab)), (world,))


def _language(lab: Lab, case: Case) -> Finding:
    if case.worlds:
        (world,) = case.worlds
        text = case.expression()
        again = compile_query(parse(text), lab.graph).worlds
        return Finding(0.0 if not world or world in again else math.inf, words=f"{text} means {again[-1]}")
    query, made = parse(case.queries[0]), dict(case.options)["query"]
    if query != made:
        return Finding(math.inf, words=f"the text and the Python form differ: {query} and {made}")
    again = parse(str(query))
    if again != query or str(again) != str(query):
        return Finding(math.inf, words=f"printing and parsing are not inverse: {query} and {again}")
    return Finding(0.0)


LANGUAGE = Law(
    "language",
    12,
    "The text and the Python form agree, print and parse are inverse, and a world is what its sentence means.",
    "scm",
    _spoken,
    _language,
    bound=lambda lab, case: 0.0,
    weight=2.0,
)
