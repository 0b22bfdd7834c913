"""The meaning of a query on a graph: distinct worlds, what is read in each, and how it is added up."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from causalnet.errors import ExpressionError, UnknownNameError, UnknownNodeError, explain
from causalnet.expr.assign import Do
from causalnet.expr.conditions import Compare, Condition, features_of
from causalnet.expr.conflicts import Told, meet
from causalnet.expr.estimands import Estimand
from causalnet.expr.expand import Expansion, expand
from causalnet.expr.outcomes import Outcome
from causalnet.expr.parser import pointed
from causalnet.expr.places import (
    EXPLICIT,
    Fault,
    Names,
    Scene,
    check_position,
    head_layers,
    layers_of,
    nodes,
    scene,
    with_heads,
)
from causalnet.expr.positions import At, Position, Range
from causalnet.expr.query import Expectation, Query
from causalnet.expr.refs import Component, Ref, Union
from causalnet.expr.world import NATURAL_WORLD, World
from causalnet.graph import CausalGraph, Edge, Node

__all__ = ["CompiledQuery", "Reading", "compile_queries", "compile_query"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One number to read: an outcome in one of the worlds, over a subgroup.

    Parameters
    ----------
    outcome
        What is read.
    world
        Number of the world, an index into :attr:`CompiledQuery.worlds`.
    condition
        The subgroup; None: all prompts.
    nodes
        For ``direct``: the primitive nodes whose contributions are summed, in order of computation.
    """

    outcome: Outcome
    world: int
    condition: Condition | None = None
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class CompiledQuery:
    """A query expanded on a graph: ``sum(weight * mean(reading))`` over distinct worlds.

    Parameters
    ----------
    query
        The query as it was written.
    graph
        The graph it means: with the heads and the residual streams that it names as nodes.
    worlds
        Distinct worlds; number 0 is the natural one, and a world comes after those nested in it.
    readings
        What is read, each once.
    weights
        The weight of each reading.
    overridden
        In words, which assignments gave way to which.
    """

    query: Query
    graph: CausalGraph
    worlds: tuple[World, ...]
    readings: tuple[Reading, ...]
    weights: tuple[float, ...]
    overridden: tuple[str, ...] = ()

    def mutilated(self, world: int | None = None) -> CausalGraph:
        """Return the graph of one world: arrows into hard-set nodes and set edges are cut.

        Parameters
        ----------
        world
            Its number; default: the first that is read and is not natural.

        Raises
        ------
        ExpressionError
            If there is no such world.
        """
        if world is None:
            world = next((one.world for one in self.readings if one.world), 0)
        if not 0 <= world < len(self.worlds):
            raise ExpressionError(f"there is no world {world}; the query has worlds 0 to {len(self.worlds) - 1}")
        hard = [(site, value) for site, value in self.worlds[world].writes if value.hard]
        set_nodes = {site.node for site, _ in hard if site.receiver is None}
        edges = dict.fromkeys(Edge(site.node, site.receiver) for site, _ in hard if site.receiver is not None)
        return self.graph.do(set_nodes, edges)


def compile_query(
    query: Query,
    graph: CausalGraph,
    *,
    spans: Collection[str] | None = None,
    patches: Collection[str] | None = None,
    values: Collection[str] | None = None,
    features: Collection[str] | None = None,
) -> CompiledQuery:
    """Expand a query on a graph, and check it before anything is run.

    Parameters
    ----------
    query
        The query.
    graph
        The graph of a model, at layer or head granularity.
    spans, patches, values, features
        The names that exist: of the prompts' spans, of paired prompts, of vectors, of features.
        None: not known yet, and not checked.

    Returns
    -------
    CompiledQuery

    Raises
    ------
    UnknownNodeError
        If a layer, a head or another node does not exist.
    UnknownNameError
        If a span, a paired prompt, a vector or a feature does not exist.
    ExpressionError
        If the query cannot be meant: an intervention that writes nothing, a tie, an edge that does not
        exist, paths that cannot be told apart, an outcome that is not downstream.

    Examples
    --------
    >>> from causalnet.expr import DE, attn, last, resample
    >>> from causalnet.graph import Block, CausalGraph
    >>> graph = CausalGraph.from_blocks([Block(0), Block(1)])
    >>> compiled = compile_query(DE(attn[1] @ last << resample), graph)
    >>> for world in compiled.worlds:
    ...     print(world)
    do()
    do(attn[1]@last = resample, mlp[1] = natural, norm = natural)
    >>> compiled.weights
    (1.0, -1.0)
    """
    return compile_queries([query], graph, spans=spans, patches=patches, values=values, features=features)[0]


def compile_queries(
    queries: Iterable[Query],
    graph: CausalGraph,
    *,
    spans: Collection[str] | None = None,
    patches: Collection[str] | None = None,
    values: Collection[str] | None = None,
    features: Collection[str] | None = None,
) -> tuple[CompiledQuery, ...]:
    """Expand several queries so that they share one list of worlds; see :func:`compile_query`.

    Examples
    --------
    >>> from causalnet.expr import DE, TE, attn, last, resample
    >>> from causalnet.graph import Block, CausalGraph
    >>> graph = CausalGraph.from_blocks([Block(0), Block(1)])
    >>> s = attn[1] @ last << resample
    >>> te, de = compile_queries([TE(s), DE(s)], graph)
    >>> len(te.worlds), te.worlds is de.worlds
    (3, True)
    """
    names = Names(spans, patches, values, features)
    if graph.positions:
        mend = "compile on the graph without positions; sites carry them"
        raise ExpressionError(explain("the graph is unrolled over positions", mend=mend))
    chosen = list(queries)
    for query in chosen:
        if not isinstance(query, Query):
            raise ExpressionError(explain(f"{query} is no query", mend="write E[…] or TE(…), or parse a text"))
    heads: set[int] = set()
    for query in chosen:
        heads |= _told(query, lambda q=query: head_layers(graph, _parts(q)))
    dense = with_heads(graph, heads)
    read = [_told(query, lambda q=query: _expand_query(q, dense, names)) for query in chosen]
    worlds = _sorted_worlds(world for terms, _ in read for _, world, _, _ in terms)
    number = {world: index for index, world in enumerate(worlds)}
    found = []
    for query, (terms, made) in zip(chosen, read, strict=True):
        weights: dict[Reading, float] = {}
        for reading, world, weight, _ in terms:
            placed = replace(reading, world=number[world])
            weights[placed] = weights.get(placed, 0.0) + weight
        notes = tuple(dict.fromkeys(note for *_, some in terms for note in some))
        found.append(CompiledQuery(query, made, worlds, tuple(weights), tuple(weights.values()), notes))
    return tuple(found)


Found = TypeVar("Found")
_Term = tuple[Reading, World, float, tuple[str, ...]]


def _told(query: Query, step: Callable[[], Found]) -> Found:
    """Run a step and turn its fault into an error that points into the query's text."""
    try:
        return step()
    except Fault as fault:
        raise pointed(fault.kind(fault.message), query.text, fault.part) from None


def _parts(query: Query) -> list[Do | Outcome]:
    found = [part for term in query.terms for part in (term.body.do, term.body.outcome)]
    return [part for part in found if part is not None]


def _expand_query(query: Query, dense: CausalGraph, names: Names) -> tuple[list[_Term], CausalGraph]:
    base = scene(dense, _parts(query), names)
    terms: list[_Term] = []
    for term in query.terms:
        body = term.body
        if isinstance(body, Expectation):
            terms.append(_read(body, term.coefficient, base))
            continue
        _check_estimand(body, base)
        told = body.do.assignments
        terms += [_read(one.body, term.coefficient * one.coefficient, base, told) for one in body.expand().terms]
    return terms, base.graph


def _read(body: Expectation | Estimand, weight: float, base: Scene, told: Told = None) -> _Term:
    assert isinstance(body, Expectation)
    summed, readers = _readers(body.outcome, base)
    here = replace(base, outcome=readers)
    if body.condition is not None:
        _check_features(body.condition, base.names)
    made = Expansion(NATURAL_WORLD) if body.do is None else expand(body.do, here, told=told)
    if body.do is not None and told is None:
        _check_downstream(body, made, here)
    return Reading(body.outcome, 0, body.condition, summed), made.world, weight, made.overridden


def _readers(outcome: Outcome, base: Scene) -> tuple[tuple[Node, ...], frozenset[Node]]:
    """Return the nodes that ``direct`` sums, and the nodes that any outcome reads."""
    check_position(outcome.position, base.names)
    if outcome.of is None:
        node = Node("norm") if outcome.name == "sigma" else Node("logits")
        if node not in base.dense:
            raise Fault(f"{outcome} reads {node}, and the graph has no such node", outcome, UnknownNodeError)
        return (), frozenset([node])
    found = base.dense.ordered(set(_contributions(outcome.of, base)))
    if not found:
        raise Fault(f"{outcome} reads no node of the graph", outcome.of)
    return found, frozenset(found)


def _contributions(of: Ref, base: Scene) -> Iterable[Node]:
    if isinstance(of, Union):
        return [node for part in of.parts for node in _contributions(part, base)]
    graph = base.dense
    contributors = set(graph.contributors)
    if isinstance(of, Component) and of.kind == "resid":
        streams = [layer for layer, _ in layers_of(of, graph)]
        if len(streams) > 1:
            raise Fault(explain(f"{of} names several streams", mend=f"read one: direct(resid[{streams[-1]}])"), of)
        # resid[l] enters layer l: it is the sum of what was added before.
        return [node for node in graph.contributors if (-1 if node.layer is None else node.layer) < streams[0]]
    found = nodes(of, base)
    for node, how in found.items():
        if node in contributors or how.named != EXPLICIT:
            continue
        if node.kind in ("head", "bias"):
            reason = f"a norm comes after the heads of layer {node.layer}, so they have no direct effect of their own"
            raise Fault(explain(f"direct({node}): {reason}", mend=f"read direct(attn[{node.layer}])"), of)
        reason = f"{node} adds nothing to the residual stream"
        mend = "read sigma for the norm, logit(target) for the logits"
        raise Fault(explain(f"direct({node}): {reason}", mend=mend), of)
    return [node for node in found if node in contributors]


def _check_features(condition: Condition, names: Names) -> None:
    if names.features is None:
        return
    for name in features_of(condition):
        if name not in names.features:
            what = f"the prompts have no feature named {name!r}"
            raise Fault(explain(what, legal=names.features, got=name), _naming(condition, name), UnknownNameError)


def _naming(condition: Condition, name: str) -> Condition:
    """Return the comparison that names a feature."""
    if isinstance(condition, Compare):
        return condition
    parts = getattr(condition, "parts", None) or (condition.part,)  # type: ignore[union-attr]
    return next(_naming(part, name) for part in parts if name in features_of(part))


def _check_estimand(body: Estimand, base: Scene) -> None:
    """Check the intervention of a named estimand itself: the worlds it expands to may hold what it moves."""
    _, readers = _readers(body.outcome, base)
    here = replace(base, outcome=readers)
    made = expand(body.do, here)
    _check_downstream(body, made, here)
    for site in made.world.sites:
        if body.name in ("CE", "NORM") and site.node.kind == "norm" and site.receiver is None:
            what = f"{body.name} holds the norm at its natural value, and {body.do} sets it"
            raise Fault(explain(what, mend="ask for TE, or leave norm out"), body.do.assignments[0])
        layer = site.node.layer
        if body.name not in ("TE", "IE", "NIE", "PIE", "NORM") and site.node.kind == "head" and layer in here.gathered:
            reason = f"a norm comes after the heads of layer {layer}, so they have no direct effect of their own"
            mend = f"ask for {body.name}(attn[{layer}] = …), or for TE"
            raise Fault(explain(f"{body.name}({site} = …): {reason}", mend=mend), body.do.assignments[0])


def _check_downstream(body: Expectation | Estimand, made: Expansion, here: Scene) -> None:
    """Check that something that is written can reach what is read."""
    upstream = here.outcome | here.graph.ancestors(here.outcome)
    moved = [position for node, position in made.touched if node in upstream]
    if not moved:
        what = f"{body.outcome} is not downstream of {body.do}, so it cannot change"
        raise Fault(explain(what, mend="read a later outcome, or set an earlier node"), body.outcome)
    if all(_after(position, body.outcome.position) for position in moved):
        what = f"{body.outcome} is read before every position that {body.do} writes, so it cannot change"
        raise Fault(explain(what, mend="read at a later position, or write at an earlier one"), body.outcome)


def _after(written: Position | None, read: Position) -> bool:
    """Whether every written position certainly lies after the one that is read."""
    if not isinstance(written, At | Range) or not isinstance(read, At):
        return False
    start = written.index if isinstance(written, At) else written.start
    if start is None or (start < 0) != (read.index < 0):
        return False
    return start > read.index and meet(written, read) is False


def _sorted_worlds(worlds: Iterable[World]) -> tuple[World, ...]:
    """List distinct worlds, nested ones too, the natural one first, each after those that it takes values from."""
    found: dict[World, None] = {NATURAL_WORLD: None}

    def add(world: World) -> None:
        for inner in world.nested:
            add(inner)
        found.setdefault(world, None)

    for world in worlds:
        add(world)
    return tuple(sorted(found, key=lambda world: world.depth))
