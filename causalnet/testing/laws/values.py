"""Laws of single values: the null intervention, composition, effectiveness."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from causalnet.expr.positions import At
from causalnet.expr.values import (
    MEAN,
    NATURAL,
    RESAMPLE,
    Add,
    Given,
    InWorld,
    Mean,
    Natural,
    Noise,
    Patch,
    ProjectOut,
    Resample,
    Scale,
    SiteValue,
    Zero,
)
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import CausalGraph, Node
from causalnet.testing.lab import Lab, ModelLab, Unit, Values, columns, written
from causalnet.testing.laws.law import Case, Finding, Law, units, worst
from causalnet.testing.strategies.worlds import arrows, places, values, worlds

__all__ = ["COMPOSITION", "EFFECTIVENESS", "NULL", "some_heads"]


@st.composite
def some_heads(draw: st.DrawFn, lab: Lab) -> CausalGraph:
    """Draw the lab's graph, or the same with the heads of one layer as nodes."""
    graph = lab.graph
    if not isinstance(lab, ModelLab):
        return graph
    headed = {node.layer for node in graph.nodes if node.kind == "head"}
    able = [block.layer for block in graph.blocks if block.attn and block.heads and block.layer not in headed]
    layer = draw(st.sampled_from([None, *able]))
    return graph if layer is None else graph.with_heads([layer])


def unmixed(unit: Unit, *found: World) -> Unit:
    """Return the unit without donors of another length where a whole prompt, or a span, is taken from one."""
    sites = [site for world in found for inner in (world, *world.nested) for site in inner.sites]
    whole = any(not isinstance(site.position, At) for site in sites)
    return Unit(unit.length, unit.seed, unit.mixed and not whole)


# -- 1: nothing is done ----------------------------------------------------------------------------------------


def _null(lab: Lab, case: Case) -> Finding:
    before = lab.untouched(case.unit)
    (natural,) = lab.values(case.unit, NATURAL_WORLD)
    after = lab.untouched(case.unit)
    for one, words in ((natural[Node("logits")], ""), (after, "the model is another one afterwards")):
        gaps = lab.gap(case.unit, Node("logits"), one, before)
        if gaps.max() > 0:
            return Finding(float(gaps.max()), Node("logits"), int(gaps.argmax()), words)
    return Finding(0.0)


NULL = Law(
    "null",
    1,
    "The null do is the plain forward pass, bit for bit, and leaves the model as it was.",
    "scm",
    lambda lab: units(lab).map(Case),
    _null,
    bound=lambda lab, case: 0.0,
    weight=0.5,
)


# -- 2: composition --------------------------------------------------------------------------------------------


@st.composite
def _composed(draw: st.DrawFn, lab: Lab) -> Case:
    graph = draw(some_heads(lab))
    base = draw(st.just(NATURAL_WORLD) | worlds(graph, lab.offer, most=2))
    taken = {site.node for site in base.sites}
    free = [node for node in graph.nodes if node.kind != "logits" and node not in taken]
    free += [Node("resid", layer) for layer in range(graph.layers + 1)] if lab.offer.resid and not base else []
    cuttable = [edge for edge in arrows(graph) if edge.source not in taken] if not _streams(base) else []
    edge = draw(st.booleans()) if cuttable and free else not free
    node, receiver = draw(st.sampled_from(cuttable)) if edge else (draw(st.sampled_from(free)), None)
    value = InWorld(base) if base else NATURAL
    sites = [Site(node, place, receiver) for place in draw(places(lab.offer))]
    composed = World((*base.writes, *((site, value) for site in sites)))
    return Case(unmixed(draw(units(lab, mixed=True)), composed), (base, composed))


def _streams(world: World) -> bool:
    return any(site.node.kind == "resid" for site in world.sites)


def _composition(lab: Lab, case: Case) -> Finding:
    base, composed = lab.values(case.unit, *case.worlds)
    return worst(lab, case.unit, composed, base, [node for node in base if node in composed])


def _composition_bound(lab: Lab, case: Case) -> float:
    """Bit for bit where a module's output is replaced by itself, to rounding elsewhere."""
    if lab.exact:
        return 0.0
    base, composed = case.worlds
    if not isinstance(lab, ModelLab) or base:
        return lab.tolerance
    for site in composed.sites:
        if site.receiver is not None or site.node.kind not in ("attn", "mlp", "embed"):
            return lab.tolerance
        if site.node.layer is not None:
            part = lab.mechanisms.mechanism(site.node)
            if part.scale != 1.0 or part.also:
                return lab.tolerance
    return 0.0


COMPOSITION = Law(
    "composition",
    2,
    "Setting a node or an edge to the value that it would have anyway changes nothing.",
    "scm",
    _composed,
    _composition,
    bound=_composition_bound,
)


# -- 3: effectiveness ------------------------------------------------------------------------------------------


@st.composite
def _effective(draw: st.DrawFn, lab: Lab) -> Case:
    graph = draw(some_heads(lab))
    inner = draw(st.just(NATURAL_WORLD) | worlds(graph, lab.offer, most=2))
    nested = (inner,) if inner else ()
    kind = draw(st.sampled_from(["any", "edge", "aligned", "downstream"]))
    if kind == "edge":
        # One edge, set at every position: its receiver has to read the value.
        edge = draw(st.sampled_from(arrows(graph)))
        hard = values(edge.source, lab.offer, nested).filter(lambda value: value.hard and value != NATURAL)
        world = World(((Site(edge.source, None, edge.target), draw(hard)),))
        return Case(unmixed(draw(units(lab, mixed=True)), world), (world,), (*edge, *graph.parents(edge.target)))
    if kind == "any":
        world = draw(worlds(graph, lab.offer, nested=nested, most=3))
        return Case(unmixed(draw(units(lab, mixed=True)), world, inner), (world,))
    able = [node for node in graph.nodes if node.kind != "logits"]
    first = draw(st.integers(0, len(able) - 2))
    second = draw(st.sampled_from([len(able) - 1, *range(first + 1, len(able))]))
    if kind == "aligned":
        # From other prompts, at one position: that of the same label, whatever the lengths.
        place = At(draw(st.sampled_from([-1, -2, 0, 2])))
        value = draw(st.sampled_from([RESAMPLE, MEAN, *(Patch(name) for name in lab.offer.patches)]))
        unit = draw(units(lab, mixed=True))
        return Case(replace(unit, mixed=isinstance(lab, ModelLab)), (World(((Site(able[second], place), value),)),))
    # What a value is a function of: the natural world or, if it is soft, this one, in which something else is set.
    moved = draw(values(able[first], lab.offer).filter(lambda value: value.hard and value != NATURAL))
    value = draw(st.just(NATURAL) | values(able[second], lab.offer).filter(lambda value: not value.hard))
    world = World(((Site(able[first]), moved), (Site(able[second]), value)))
    return Case(unmixed(draw(units(lab)), world), (world,))


def _effectiveness(lab: Lab, case: Case) -> Finding:
    (world,) = case.worlds
    if case.nodes:
        return _edge_effectiveness(lab, case)
    (found,) = lab.values(case.unit, world, draw=_draw(case.unit))
    worst_found = Finding(0.0)
    length, spans = lab.length(case.unit), lab.spans(case.unit)
    for (node, receiver, column), (site, value) in written(world, length, spans).items():
        if receiver is not None or isinstance(value, Noise):
            continue
        expected = _expected(lab, case.unit, world, site, value, column)
        whole = np.array(found[node], copy=True)
        whole[column] = expected
        gap = float(lab.gap(case.unit, node, np.asarray(found[node]), whole)[column])
        if gap > worst_found.residual:
            worst_found = Finding(gap, node, column)
    return worst_found


def _edge_effectiveness(lab: Lab, case: Case) -> Finding:
    """Compare what a set edge hands its receiver with the sender set and every other parent natural."""
    (world,) = case.worlds
    sender, receiver, *parents = case.nodes
    ((_, value),) = world.writes
    held = tuple((Site(parent), NATURAL) for parent in parents if parent != sender)
    by_edge, by_node = lab.values(case.unit, world, World(((Site(sender), value), *held)), draw=_draw(case.unit))
    return worst(lab, case.unit, by_edge, by_node, [receiver])


def _expected(lab: Lab, unit: Unit, world: World, site: Site, value: SiteValue, column: int) -> np.ndarray:
    """Return what a node has to hold at a position [width], found without the executor's own sources."""
    node, spans, length = site.node, lab.spans(unit), lab.length(unit)
    place = columns(site.position, length, spans).index(column)

    def elsewhere(natural: Values, prompt: int) -> np.ndarray:
        return natural[node][columns(site.position, lab.length(unit, prompt), lab.spans(unit, prompt))[place]]

    match value:
        case Zero():
            return np.zeros_like(lab.values(unit, NATURAL_WORLD)[0][node][column])
        case Natural():
            return lab.values(unit, NATURAL_WORLD)[0][node][column]
        case InWorld():
            return lab.values(unit, value.world, draw=_draw(unit))[0][node][column]
        case Resample():
            donor = _donor(lab, unit)
            return elsewhere(lab.values(unit, NATURAL_WORLD, prompt=donor)[0], donor)
        case Patch():
            return elsewhere(lab.elsewhere(unit, value.name, 0), 0)
        case Mean():
            return _mean(lab, unit, site, place)
    # A soft value is a function of what the node would have in this world, were it not set here.
    rest = World(tuple((other, what) for other, what in world.writes if other.node != node or other.receiver))
    current = lab.values(unit, rest, draw=_draw(unit))[0][node][column]
    return _soft(lab, unit, value, current)


def _donor(lab: Lab, unit: Unit) -> int:
    donors = lab.inputs(unit).donors if isinstance(lab, ModelLab) else lab.network.donors
    assert donors is not None, "labs have donors"
    return int(donors[0, _draw(unit)])


def _draw(unit: Unit) -> int:
    """Return the draw that is looked at: of two donors the one whose length is another."""
    return int(unit.mixed)


def _mean(lab: Lab, unit: Unit, site: Site, place: int) -> np.ndarray:
    found = []
    for prompt in range(4 if isinstance(lab, ModelLab) else len(lab.network.prompts)):
        there = columns(site.position, lab.length(unit, prompt), lab.spans(unit, prompt))
        if place < len(there):
            found.append(lab.values(unit, NATURAL_WORLD, prompt=prompt)[0][site.node][there[place]])
    if isinstance(lab, ModelLab) or lab.network.modulus is None:
        return np.mean(found, axis=0)
    return np.sum(found, axis=0) % lab.network.modulus * pow(len(found), -1, lab.network.modulus) % lab.network.modulus


def _soft(lab: Lab, unit: Unit, value: SiteValue, current: np.ndarray) -> np.ndarray:
    if isinstance(value, Scale):
        return _whole(lab, current * _number(lab, value.factor))
    if isinstance(lab, ModelLab):
        assert isinstance(value, Given | Add | ProjectOut)
        vector = lab.inputs(unit).vectors[value.name].double().numpy()
    else:
        assert isinstance(value, Given | Add | ProjectOut)
        vector = lab.network.vectors[value.name]
    if isinstance(value, Given):
        return vector
    if isinstance(value, Add):
        return _whole(lab, current + _number(lab, value.factor) * vector)
    return current - vector * (current @ vector) / (vector @ vector)


def _number(lab: Lab, factor: float) -> float:
    return int(factor) if lab.exact else factor


def _whole(lab: Lab, value: np.ndarray) -> np.ndarray:
    return value if isinstance(lab, ModelLab) or lab.network.modulus is None else value % lab.network.modulus


EFFECTIVENESS = Law(
    "effectiveness",
    3,
    "Each place that is set holds its value, and the receiver of a set edge reads it.",
    "scm",
    _effective,
    _effectiveness,
    weight=2.0,
)
