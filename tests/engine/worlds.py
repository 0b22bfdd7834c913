"""Random interventions and outcomes, drawn by hypothesis, and the comparison with the plain executor."""

import numpy as np
from hypothesis import strategies as st

from causalnet.engine.plain import run_plain
from causalnet.engine.plan import Reading, plan
from causalnet.engine.run import run
from causalnet.expr.outcomes import OUTCOMES, TARGET, Outcome
from causalnet.expr.positions import LAST, At, Range, Span
from causalnet.expr.refs import Component
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
)
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Node

# Sets of positions that are disjoint in every prompt of five tokens or more.
_PLACES = (
    (None,), (LAST,), (At(0),), (At(-2),), (Range(1, 3),), (Range(-2, None),), (Range(None, 2),), (Span("subject"),),
    (None, LAST), (None, At(1)), (At(0), LAST), (Range(0, 2), At(-1)), (None, Span("subject")),
    (At(0), Span("subject")),
)  # fmt: skip
_SOFT = (Scale(0.5), Scale(-1.25), Noise(0.5), Add("one", 0.7), Add("each", -0.4), ProjectOut("one"))
_HARD = (ZERO, MEAN, RESAMPLE, NATURAL, Patch("other"), Given("one"), Given("each"))
_NO_VECTOR = (Given, Add, ProjectOut)


class Case:
    """What is asked of a model; printed as sentences."""

    def __init__(self, graph, readings):
        self.graph, self.readings = graph, readings

    def __repr__(self):
        return "\n".join(("", *map(str, self.readings)))

    def plan(self, inputs):
        worlds = tuple(reading.world for reading in self.readings)
        return plan(self.graph, worlds, self.readings, inputs.shape, draws=inputs.count)


def values_for(node, nested):
    """Return the values that a node can be set to."""
    legal = [
        value for value in (*_HARD, *_SOFT) if not (node.kind in ("head", "norm") and isinstance(value, _NO_VECTOR))
    ]
    if node.kind == "head":
        legal = [value for value in legal if not isinstance(value, Noise)]
    if node.kind == "norm":
        legal = [value for value in legal if value != ZERO and not (isinstance(value, Scale) and value.factor < 0)]
    # Worlds in worlds are what goes wrong most: as likely as everything else together.
    plain = st.sampled_from(legal)
    return plain if not nested else plain | st.sampled_from([InWorld(world) for world in nested])


@st.composite
def worlds(draw, graph, nested=(), *, most=4, edges=True):
    """Draw a world on a graph; ``nested`` are the worlds it may take values from."""
    settable = [node for node in graph.nodes if node.kind != "logits"]
    settable += [Node("resid", layer) for layer in range(graph.layers + 1)]
    arrows = [(a, b) for b in graph.nodes for a in graph.parents(b) if a.contributes or b.kind == "logits"]
    arrows = [
        (a, b) for a, b in arrows if not (a.layer == b.layer and b.kind == "attn")
    ]  # heads are gathered, not read
    writes = {}
    for _ in range(draw(st.integers(1, most))):
        if edges and arrows and draw(st.booleans()):
            node, receiver = draw(st.sampled_from(arrows))
        else:
            node, receiver = draw(st.sampled_from(settable)), None
        if any(site.node == node and site.receiver == receiver for site in writes):
            continue
        for place in draw(st.sampled_from(_PLACES)):
            writes[Site(node, place, receiver)] = draw(values_for(node, nested))
    return World(tuple((site, value) for site, value in writes.items() if not _barred(site, writes)))


def _barred(site, writes):
    """Whether an edge passes a residual stream that is set: no sentence means that."""
    if site.receiver is None:
        return False
    first = -1 if site.node.layer is None else site.node.layer
    last = 10**6 if site.receiver.layer is None else site.receiver.layer
    return any(other.node.kind == "resid" and first < other.node.layer <= last for other in writes)


@st.composite
def outcomes(draw, graph):
    """Draw an outcome, and the nodes that a direct effect sums."""
    name = draw(st.sampled_from(sorted(OUTCOMES)))
    tokens = tuple(draw(st.sampled_from((TARGET, 0, 7, 31))) for _ in range(OUTCOMES[name][0]))
    position = draw(st.sampled_from((LAST, LAST, At(0), At(2), At(-2))))
    if name != "direct":
        return Outcome(name, tokens, None, position), ()
    nodes = tuple(draw(st.lists(st.sampled_from(graph.contributors), min_size=1, max_size=3, unique=True)))
    return Outcome(name, tokens, Component.of(nodes[0]), position), nodes


@st.composite
def cases(draw, graph, *, most=4, edges=True, heads=True):
    """Draw worlds, some inside others, and what is read in them."""
    layers = [block.layer for block in graph.blocks if block.attn and block.heads] if heads else []
    opened = draw(st.lists(st.sampled_from(layers), unique=True, max_size=2)) if layers else []
    closed = [layer for layer in opened if Node("head", layer, 0) not in graph]
    graph = graph.with_heads(closed) if closed else graph
    pool = []
    for _ in range(draw(st.integers(1, 3))):
        world = draw(worlds(graph, tuple(pool), most=most, edges=edges))
        if world and world not in pool:
            pool.append(world)
    readings = []
    for world in (NATURAL_WORLD, *pool):
        for _ in range(draw(st.integers(0 if world == NATURAL_WORLD else 1, 2))):
            outcome, nodes = draw(outcomes(graph))
            readings.append(Reading(world, outcome, nodes))
    readings.append(Reading(pool[-1] if pool else NATURAL_WORLD, Outcome("logit", (TARGET,))))
    return Case(graph, tuple(dict.fromkeys(readings)))


def disagreements(found, expected, tolerance, *, steps=True):
    """Return the readings in which two tables [prompt, draw] differ by more than ``tolerance`` allows.

    ``steps``: whether ranks are compared, which rounding may move where float32 is used.
    """
    wrong = []
    for reading, table in expected.items():
        if reading.outcome.name in ("rank", "top1") and not steps:
            continue
        scale = np.nanmax(np.abs(table), initial=1.0)
        gap = np.abs(found[reading] - table)
        same_holes = (np.isnan(found[reading]) == np.isnan(table)).all()
        if found[reading].shape != table.shape or not same_holes or np.nanmax(gap, initial=0.0) > tolerance * scale:
            wrong.append(f"{reading}: off by {np.nanmax(gap, initial=0.0):.2e} of {scale:.3g}")
    return wrong


def check_against_plain(mechanisms, case, inputs, tolerance, **more):
    """Hold a planned run against plain full forwards."""
    planned = case.plan(inputs)
    found = run(mechanisms, planned, inputs, **more)
    expected = run_plain(mechanisms, planned, inputs)
    wrong = disagreements(found.values, expected, tolerance, steps=tolerance <= 1e-9)
    assert not wrong, "\n".join(wrong)
