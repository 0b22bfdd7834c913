"""Interventions and outcomes drawn at random, in the primitive form in which they are run."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from causalnet.engine.plan import Reading
from causalnet.expr.outcomes import OUTCOMES, TARGET, Outcome
from causalnet.expr.positions import LAST, At, Position, Range, Span
from causalnet.expr.refs import Component, union
from causalnet.expr.values import (
    MEAN,
    NATURAL,
    RESAMPLE,
    ZERO,
    Add,
    Given,
    InWorld,
    Noise,
    Patch,
    ProjectOut,
    Scale,
    SiteValue,
)
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import CausalGraph, Edge, Node

__all__ = ["OFFER", "Offer", "arrows", "outcomes", "places", "readings", "values", "worlds"]

_NAMED: tuple[tuple[Position | None, ...], ...] = (
    (None,), (LAST,), (At(0),), (At(-2),), (Range(1, 3),), (Range(-2, None),), (Range(None, 2),), (Span("subject"),),
    (None, LAST), (None, At(1)), (At(0), LAST), (Range(0, 2), At(-1)), (None, Span("subject")),
    (At(0), Span("subject")),
)  # fmt: skip
"""Positions of one node that are disjoint in every prompt of five tokens or more."""


@dataclass(frozen=True)
class Offer:
    """What a model or a network has for interventions to take values from.

    Parameters
    ----------
    patches, vectors
        Names of paired prompts and of vectors.
    spans
        Whether prompts have the span ``subject``.
    resid
        Whether residual streams can be set.
    whole
        Whether values are whole numbers modulo a prime: factors are then whole, and nothing is divided.
    curved
        Whether every outcome of the language can be read, or the logit and its contrasts only.
    tokens
        Number of logits.
    noise
        Whether noise can be added.
    """

    patches: tuple[str, ...] = ("corrupt",)
    vectors: tuple[str, ...] = ("direction",)
    spans: bool = True
    resid: bool = True
    whole: bool = False
    curved: bool = True
    tokens: int = 8
    noise: bool = True


OFFER = Offer()
"""What :class:`causalnet.testing.lab.ModelLab` and the strategy of prompts give names to."""


def places(offer: Offer = OFFER) -> st.SearchStrategy[tuple[Position | None, ...]]:
    """Draw one or two positions (None: every one) that are disjoint in every prompt of five tokens or more.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(places(), lambda found: len(found) == 2)
    (None, At(index=-1))
    """
    return st.sampled_from([row for row in _NAMED if offer.spans or not any(isinstance(at, Span) for at in row)])


def values(node: Node, offer: Offer = OFFER, nested: Sequence[World] = ()) -> st.SearchStrategy[SiteValue]:
    """Draw what a node, or an edge out of it, is set to; ``nested`` are the worlds that it may take values from.

    Examples
    --------
    >>> from hypothesis import find
    >>> print(find(values(Node("attn", 0)), lambda value: not value.hard))
    scale(2.0)
    """
    patches = [Patch(name) for name in offer.patches]
    given: list[SiteValue] = [Given(name) for name in offer.vectors]
    soft: list[SiteValue] = [Scale(2.0), Scale(-1.0)]
    if not offer.whole:
        soft += [Scale(0.5), *(ProjectOut(name) for name in offer.vectors)]
        soft += [Noise(0.5)] if offer.noise and node.kind != "head" else []
    soft += [Add(name, factor) for name in offer.vectors for factor in (1.0, -2.0)]
    legal: list[SiteValue] = [RESAMPLE, ZERO, NATURAL, MEAN, *patches, *given, *soft]
    if node.kind in ("head", "norm"):  # a vector of the residual stream cannot be set there
        legal = [value for value in legal if not isinstance(value, Given | Add | ProjectOut)]
    if node.kind == "norm":
        legal = [value for value in legal if value != ZERO and not (isinstance(value, Scale) and value.factor < 0)]
    # Worlds in worlds are what goes wrong most: as likely as everything else together.
    plain = st.sampled_from(legal)
    return plain | st.sampled_from([InWorld(world) for world in nested]) if nested else plain


def arrows(graph: CausalGraph) -> list[Edge]:
    """Return the edges of a graph that can be set: into what computes, through the residual stream.

    Examples
    --------
    >>> from causalnet.graph import Block
    >>> [str(edge) for edge in arrows(CausalGraph.from_blocks([Block(0)]))][:3]
    ['embed -> attn[0]', 'embed -> mlp[0]', 'attn[0] -> mlp[0]']
    """
    found = []
    for edge in graph.edges():
        gathered = edge.source.layer is not None and edge.source.layer == edge.target.layer
        gathered = gathered and edge.target.kind == "attn"
        if edge.target.kind != "resid" and edge.source.kind != "resid" and not gathered:
            found.append(edge)
    return found


@st.composite
def worlds(
    draw: st.DrawFn,
    graph: CausalGraph,
    offer: Offer = OFFER,
    *,
    nested: Sequence[World] = (),
    most: int = 4,
    edges: bool = True,
) -> World:
    """Draw a world: nodes and edges of a graph that are set, where, and to what.

    Parameters
    ----------
    graph
        A graph without positions, of layers or of heads.
    offer
        What values there are.
    nested
        Worlds that values may be taken from.
    most
        How many nodes or edges are set at most.
    edges
        Whether edges are set.

    Returns
    -------
    SearchStrategy of World
        Prompts need five tokens or more.

    Examples
    --------
    >>> from hypothesis import find
    >>> from causalnet.graph import Block
    >>> graph = CausalGraph.from_blocks([Block(0)])
    >>> print(find(worlds(graph), lambda world: any(site.receiver for site in world.sites)))
    do(embed -> attn[0] = resample)
    """
    settable = [node for node in graph.nodes if node.kind != "logits"]
    settable += [Node("resid", layer) for layer in range(graph.layers + 1)] if offer.resid else []
    cuttable = arrows(graph) if edges else []
    writes: dict[Site, SiteValue] = {}
    for _ in range(draw(st.integers(1, most))):
        node, receiver = draw(st.sampled_from(settable)), None
        if cuttable and draw(st.booleans()):
            node, receiver = draw(st.sampled_from(cuttable))
        if any(site.node == node and site.receiver == receiver for site in writes):
            continue
        for place in draw(places(offer)):
            writes[Site(node, place, receiver)] = draw(values(node, offer, nested))
    return World(tuple((site, value) for site, value in writes.items() if not _barred(site, writes)))


def _barred(site: Site, writes: dict[Site, SiteValue]) -> bool:
    """Whether an edge passes a residual stream that is set: no sentence means that."""
    if site.receiver is None:
        return False
    first = -1 if site.node.layer is None else site.node.layer
    last = 10**6 if site.receiver.layer is None else site.receiver.layer
    return any(other.node.kind == "resid" and first < (other.node.layer or 0) <= last for other in writes)


@st.composite
def outcomes(draw: st.DrawFn, graph: CausalGraph, offer: Offer = OFFER) -> tuple[Outcome, tuple[Node, ...]]:
    """Draw an outcome, and the nodes that it sums if it is a direct effect.

    Examples
    --------
    >>> from hypothesis import find
    >>> from causalnet.graph import Block
    >>> outcome, nodes = find(outcomes(CausalGraph.from_blocks([Block(0)])), lambda found: found[1])
    >>> print(outcome)
    direct(embed)
    """
    names = ["logit", *sorted(set(OUTCOMES) - {"logit"})] if offer.curved else ["logit", "logit_diff"]
    name = draw(st.sampled_from(names))
    numbers = (TARGET, *sorted({0, min(7, offer.tokens - 1), offer.tokens - 1}))
    tokens = tuple(draw(st.sampled_from(numbers)) for _ in range(OUTCOMES[name][0]))
    position = draw(st.sampled_from((LAST, At(0), At(2), At(-2))))
    if name != "direct":
        return Outcome(name, tokens, None, position), ()
    nodes = tuple(draw(st.lists(st.sampled_from(graph.contributors), min_size=1, max_size=3, unique=True)))
    return Outcome(name, tokens, union([Component.of(node) for node in nodes]), position), nodes


@st.composite
def readings(
    draw: st.DrawFn, graph: CausalGraph, offer: Offer = OFFER, *, most: int = 4, edges: bool = True
) -> tuple[Reading, ...]:
    """Draw worlds, some inside others, and what is read in them.

    Examples
    --------
    >>> from hypothesis import find
    >>> from causalnet.graph import Block
    >>> graph = CausalGraph.from_blocks([Block(0)])
    >>> print(*find(readings(graph), lambda found: len(found) > 1), sep="; ")
    E[logit(target)@0 | do(embed = resample)]; E[logit(target) | do(embed = resample)]
    """
    pool: list[World] = []
    for _ in range(draw(st.integers(1, 3))):
        world = draw(worlds(graph, offer, nested=tuple(pool), most=most, edges=edges))
        if world and world not in pool:
            pool.append(world)
    found = []
    for world in (NATURAL_WORLD, *pool):
        for _ in range(draw(st.integers(0 if world == NATURAL_WORLD else 1, 2))):
            outcome, nodes = draw(outcomes(graph, offer))
            found.append(Reading(world, outcome, nodes))
    found.append(Reading(pool[-1] if pool else NATURAL_WORLD, Outcome("logit", (TARGET,))))
    return tuple(dict.fromkeys(found))
