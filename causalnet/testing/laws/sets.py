"""Laws of setting: order, repetition, ties, and all edges of a node at once."""

import math

from hypothesis import strategies as st

from causalnet.errors import ExpressionError, InterventionError
from causalnet.expr.compiled import compile_query
from causalnet.expr.parser import parse
from causalnet.expr.positions import LAST, At, Range
from causalnet.expr.values import NATURAL, RESAMPLE, ZERO, Given, InWorld, Patch, SiteValue
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Node
from causalnet.testing.lab import Lab
from causalnet.testing.laws.law import Case, Finding, Law, units, worst
from causalnet.testing.laws.values import some_heads
from causalnet.testing.strategies.worlds import arrows, values

__all__ = ["OUT_EDGES", "SETS"]


# -- 9: hard sets commute, are idempotent, and ties are refused ------------------------------------------------


@st.composite
def _two_sets(draw: st.DrawFn, lab: Lab) -> Case:
    graph = lab.graph
    able = [node for node in graph.nodes if node.kind not in ("logits", "bias")]
    first, second = draw(st.lists(st.sampled_from(able), min_size=2, max_size=2, unique=True))
    writes = []
    for node in (first, second):
        value = draw(values(node, lab.offer).filter(lambda value: value.hard))
        place = draw(st.sampled_from([None, At(2), LAST, Range(1, 3)]))
        writes.append((Site(node, place), value))
    return Case(draw(units(lab)), (World((writes[0],)), World((writes[1],)), World(tuple(writes))))


def _sets(lab: Lab, case: Case) -> Finding:
    one, other, both = case.worlds
    (first,), (second,) = one.writes, other.writes
    if _compiled(lab, first, second) != _compiled(lab, second, first):
        return Finding(math.inf, words=f"{first[0]} and {second[0]} do not commute in a sentence")
    again = World(tuple((site, InWorld(both)) for site in both.sites))
    by_turns = (World(((first[0], InWorld(one)), second)), World((first, (second[0], InWorld(other)))))
    expected, *found = lab.values(case.unit, both, again, *by_turns)
    gaps = [worst(lab, case.unit, values, expected, [n for n in expected if n in values]) for values in found]
    return max([*gaps, _ties(lab, case, first)], key=lambda gap: gap.residual)


def _compiled(lab: Lab, *writes: tuple[Site, SiteValue]) -> World:
    text = ", ".join(f"{site} = {value}" for site, value in writes)
    return compile_query(parse(f"E[logit(target) | do({text})]"), lab.graph).worlds[-1]


def _ties(lab: Lab, case: Case, write: tuple[Site, SiteValue]) -> Finding:
    """Two values for one place are refused: in a sentence, in a world, and where two positions turn out to meet."""
    node = write[0].node
    met = World(((Site(node, At(2)), NATURAL), (Site(node, Range(1, 4)), write[1])))
    attempts = (
        lambda: parse_and_compile(lab, f"E[logit(target) | do({node}@2 = natural, {node}@2 = {_other(node)})]"),
        lambda: World(((Site(node, At(2)), NATURAL), (Site(node, At(2)), write[1]))),
        lambda: lab.values(case.unit, met),
    )
    for attempt in attempts:
        try:
            attempt()
        except (ExpressionError, InterventionError):
            continue
        return Finding(math.inf, words=f"two values for {node}@2 are not refused")
    return Finding(0.0)


def _other(node: Node) -> str:
    return "resample" if node.kind == "norm" else "zero"


def parse_and_compile(lab: Lab, text: str) -> object:
    """Return what a text means on the lab's graph."""
    return compile_query(parse(text), lab.graph)


SETS = Law(
    "sets",
    9,
    "Hard sets on disjoint places commute and are idempotent; two values for one place are refused.",
    "scm",
    _two_sets,
    _sets,
)


@st.composite
def _out_of_one(draw: st.DrawFn, lab: Lab) -> Case:
    graph = draw(some_heads(lab))
    targets = arrows(graph)
    able = [node for node in graph.nodes if node.contributes and node.kind != "bias"]
    able = [node for node in able if len(graph.children(node)) == sum(edge.source == node for edge in targets) > 0]
    node = draw(st.sampled_from(able))
    legal: list[SiteValue] = [*(Patch(name) for name in lab.offer.patches), RESAMPLE]
    legal += [Given(name) for name in lab.offer.vectors if node.kind != "head"]
    legal += [ZERO] if node.kind != "embed" else []
    value, place = draw(st.sampled_from(legal)), draw(st.sampled_from([None, LAST, At(2)]))
    children = graph.ordered(graph.children(node))
    edges = World(tuple((Site(node, place, child), value) for child in children))
    return Case(draw(units(lab)), (World(((Site(node, place), value),)), edges), (node,))


def _out_edges(lab: Lab, case: Case) -> Finding:
    (node,) = case.nodes
    natural, whole, edges = lab.values(case.unit, NATURAL_WORLD, *case.worlds)
    own = worst(lab, case.unit, edges, natural, [node])
    if own.residual > lab.tolerance:
        return own
    # The node's own layer is left out: an attention whose head is set is another attention than one whose edges are.
    kinds = ("attn", "head", "mlp", "norm", "logits")
    own_layer = ("attn", "head") if node.kind in ("attn", "head") else (node.kind,)
    kept = [one for one in natural if one.kind in kinds and not (one.layer == node.layer and one.kind in own_layer)]
    return worst(lab, case.unit, edges, whole, kept)


OUT_EDGES = Law(
    "out_edges",
    9,
    "Setting every edge out of a node is setting the node, for every variable but itself.",
    "scm",
    _out_of_one,
    _out_edges,
)
