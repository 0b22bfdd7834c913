"""Natural effects against their meaning at the readout, for any intervention on a finite-field network.

The outcome reads contributions and the norm, and nothing else.  So Y(x', M_x) is what the readout makes of X's
contributions in the world do(s) and of everything else as it is naturally, and Y(x, M_x') the other way round:
no ``desc``, no nested world, no expansion is needed to say that.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from causalnet.effects.asking import unit_effects
from causalnet.effects.estimands import natural_effects
from causalnet.engine.plan import Reading
from causalnet.expr import (
    NATURAL_WORLD,
    TARGET,
    Do,
    Outcome,
    attn,
    compile_query,
    last,
    mean,
    mlp,
    patch,
    pos,
    resample,
    scale,
    zero,
)
from causalnet.expr.query import Expectation, Query, Term
from causalnet.graph import Node
from causalnet.testing.finite import PRIME, field_network

NETS = [field_network(2, seed=11), field_network(2, parallel=True, seed=12), field_network(3, width=2, seed=13)]
LENGTH = 3
NODES = [attn[0], mlp[0], attn[1], mlp[1]]
VALUES = [zero, mean, resample, patch("corrupt"), scale(7)]
POSITIONS = [None, last, pos[0], pos[1], pos[1:]]
EDGES = [attn[0] >> mlp[1], attn[0] >> attn[1], mlp[0] >> mlp[1], mlp[0] @ last >> attn[1]]


@st.composite
def interventions(draw):
    """Assignments to distinct nodes, each at any position, from any source."""
    which = draw(st.lists(st.sampled_from(range(len(NODES))), min_size=1, max_size=3, unique=True))
    # A soft value beside others depends on the world that it is set in: then there is no one x'.
    values = VALUES if len(which) == 1 else VALUES[:-1]
    found = []
    for n in which:
        position, value = draw(st.sampled_from(POSITIONS)), draw(st.sampled_from(values))
        found.append((NODES[n] if position is None else NODES[n] @ position) << value)
    # An edge between mediators has no direct effect, and its sender is not set.  Into a node that is set it says
    # nothing; beside a soft value there is no one x'.
    edges = draw(st.lists(st.sampled_from(EDGES), max_size=2, unique=True)) if len(which) > 1 else []
    edges = [edge for edge in edges if edge.steps[1] not in [NODES[n] for n in which]]
    return [*found, *(edge << draw(st.sampled_from(VALUES[:-1])) for edge in edges)]


def readout(net, outcome, prompt, parts, natural):
    logits = net.mechanisms[Node("logits")](parts, net.prompts[prompt])
    base = net.mechanisms[Node("logits")](natural, net.prompts[prompt])
    tokens = [net.targets[prompt]]
    if outcome.name == "prob":
        return net.curves["prob"](logits[-1], base[-1], tokens)
    return net.contrast(logits[-1], tokens)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(range(len(NETS))), interventions(), st.sampled_from(["logit", "prob"]))
def test_at_the_last_edge(which, s, name):
    net, outcome = NETS[which], Outcome(name, (TARGET,))
    query = Query((Term(1.0, Expectation(outcome, Do(tuple(s)))),))
    compiled = compile_query(query, net.graph)
    world = compiled.worlds[compiled.readings[0].world]
    set_last = {site.node for site in world.sites if site.receiver is None and site.position in (None, pos[1:], last)}
    found = unit_effects(net, natural_effects(*s, outcome=outcome))
    for prompt in range(len(net.prompts)):
        for draw in range(found["TE"].shape[1]):
            before, after = (net.values(one, prompt, draw) for one in (NATURAL_WORLD, world))
            parents = net.graph.parents("logits")
            natural = {node: before[node] for node in parents}
            direct = {node: (after if node in set_last else before)[node] for node in parents}
            moved = {node: (before if node in set_last else after)[node] for node in parents}
            xx, xm, mx, mm = (
                readout(net, outcome, prompt, parts, natural)
                for parts in (natural, direct, moved, {node: after[node] for node in parents})
            )
            wanted = {"TE": mm - xx, "NDE": xm - xx, "NIE": mx - xx, "TDE": mm - mx, "TIE": mm - xm}
            wanted["INTmed"] = mm - xm - mx + xx
            for key, value in wanted.items():
                assert (found[key][prompt, draw] - value) % PRIME == 0, key
    readings = [Reading(world, outcome), Reading(NATURAL_WORLD, outcome)]
    assert all(np.isfinite(table).all() for table in net.read(readings).values())
