"""Identities of mediation, modulo a prime: no tolerance anywhere."""

import itertools

import numpy as np
import pytest

from causalnet.effects.asking import answer, unit_effects
from causalnet.effects.estimands import controlled_direct, four_way, natural_effects, path_specific
from causalnet.errors import ExpressionError, GraphError
from causalnet.expr import (
    CE,
    DE,
    NATURAL,
    NDE,
    NIE,
    NORM,
    TDE,
    TE,
    TIE,
    E,
    add,
    attn,
    desc,
    do,
    last,
    logit,
    logit_diff,
    logits,
    mean,
    mlp,
    norm,
    patch,
    pos,
    prob,
    resample,
    scale,
    target,
    under,
    zero,
)
from causalnet.graph import Edge, Node
from causalnet.testing.finite import PRIME, field_network

NETS = {
    "sequential": field_network(2, seed=1),
    "parallel": field_network(2, parallel=True, seed=2),
    "heads": field_network(2, heads=2, seed=3),
    "deep": field_network(3, width=2, length=2, prompts=2, seed=4),
}
# What is set, and X without positions.
SETS = {
    "last": ([attn[0] @ last << resample], attn[0]),
    "every position": ([attn[0] << zero], attn[0]),
    "mlp": ([mlp[0] @ last << mean], mlp[0]),
    "earlier": ([mlp[0] @ pos[0] << patch("corrupt")], mlp[0]),
    "soft": ([attn[0] @ last << scale(3)], attn[0]),
    "direction": ([mlp[0] << add("direction", 5)], mlp[0]),
    "joint": ([attn[0] @ last << resample, attn[1] @ last << zero], attn[0] | attn[1]),
    "nested set": ([(attn[0] | mlp[0]) @ last << resample], attn[0] | mlp[0]),
    "positions of a set": ([attn[0] @ pos[0] << zero, attn[1] @ last << mean], attn[0] | attn[1]),
    "slice": ([attn[0:2] << resample], attn[0:2]),
}
OUTCOMES = {"logit": logit(target), "logit_diff": logit_diff(0, 2), "curved": prob(target)}


def zero_mod(values):
    assert np.isfinite(values).all()
    return bool((np.asarray(values) % PRIME == 0).all())


def equal(one, other):
    return zero_mod(np.asarray(one) - np.asarray(other))


def asked(s, x, y):
    # Reversed: from x' back to x, with M as it is when X is natural.
    there = E[y | do(*s)]
    back = E[y | do(*s, desc(x) << under(do(x << NATURAL)))] - there
    held = [(desc(x) - norm) << mean]
    queries = natural_effects(*s, outcome=y) | four_way(*s, held=held, outcome=y)
    queries |= {"back": back, "CE": CE(*s, y), "NORM": NORM(*s, y)}
    return queries | {"again": E[y | do(*s, desc(x) << under(do(*s)))] - E[y]}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("which", SETS)
def test_identities(net, which):
    s, x = SETS[which]
    queries = {(name, key): q for name, y in OUTCOMES.items() for key, q in asked(s, x, y).items()}
    found = unit_effects(NETS[net], queries)
    for outcome in OUTCOMES:
        check_identities({key: value for (name, key), value in found.items() if name == outcome}, which)


def check_identities(e, which):
    earlier = which == "earlier"  # set before the position that is read: no direct effect
    assert zero_mod(e["NDE"]) == earlier
    assert not zero_mod(e["TE"])
    assert not zero_mod(e["NIE"])
    assert equal(e["TE"], e["NDE"] + e["TIE"])
    assert equal(e["TE"], e["TDE"] + e["NIE"])
    assert equal(e["TE"], e["NDE"] - e["back"])
    assert equal(e["INTmed"], e["TDE"] - e["NDE"])
    assert equal(e["INTmed"], e["TIE"] - e["NIE"])
    assert equal(e["TE"], e["CDE"] + e["INTref"] + e["INTmed"] + e["PIE"])
    assert equal(e["TE"], e["NDE"] + e["CE"] + e["NORM"])
    assert equal(e["TE"], e["again"])


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("which", ["last", "every position", "earlier", "soft"])
def test_a_single_node_agrees_with_the_macros(net, which):
    (s,), _ = SETS[which]
    macros = {"TE": TE(s), "NDE": NDE(s), "NIE": NIE(s), "TDE": TDE(s), "TIE": TIE(s)}
    own = unit_effects(NETS[net], natural_effects(s))
    for name, found in unit_effects(NETS[net], macros).items():
        assert equal(found, own[name]), name
    assert equal(unit_effects(NETS[net], {"DE": DE(s)})["DE"], own["NDE"])


@pytest.mark.parametrize("net", ["sequential", "parallel", "deep"])
@pytest.mark.parametrize("which", ["last", "every position", "mlp", "soft", "joint", "positions of a set"])
def test_paths(net, which):
    s, _ = SETS[which]
    scm, queries = NETS[net], {}
    every = list(scm.graph.edges())
    into_logits = [edge for edge in every if edge.target.kind == "logits" and edge.source.kind != "norm"]
    for name, y in OUTCOMES.items():
        # Of nodes that X does not reach the edges carry nothing, so these are the edges X -> Y.
        queries[name, "direct"] = path_specific(*s, edges=into_logits, graph=scm.graph, outcome=y)
        queries[name, "total"] = path_specific(*s, edges=every, graph=scm.graph, outcome=y)
        queries |= {(name, "NDE"): natural_effects(*s, outcome=y)["NDE"], (name, "TE"): TE(*s, y)}
    e = unit_effects(scm, queries)
    for name in OUTCOMES:
        assert equal(e[name, "direct"], e[name, "NDE"])
        assert equal(e[name, "total"], e[name, "TE"])
        assert not zero_mod(e[name, "total"])
        assert not zero_mod(e[name, "direct"])


def test_direct_edges_of_a_joint_set_are_its_natural_direct_effect():
    s, _ = SETS["joint"]
    scm = NETS["sequential"]
    edges = [Edge(Node("attn", layer), Node("logits")) for layer in (0, 1)]
    pse, nde = answer(scm, [path_specific(*s, edges=edges, graph=scm.graph), natural_effects(*s)["NDE"]])
    assert equal(pse, nde)
    assert not zero_mod(pse)


@pytest.mark.parametrize("net", ["sequential", "heads"])
def test_edges_agree_with_paths_of_the_language(net):
    scm = NETS[net]
    s = attn[0] @ last << resample
    path = E[logit(target) | do(s.along(attn[0] >> mlp[1] >> logits))] - E[logit(target)]
    senders = scm.graph.resolve("attn[0]")
    steps = [Edge(node, Node("mlp", 1)) for node in senders] + [Edge(Node("mlp", 1), Node("logits"))]
    graph = scm.graph
    along, edges = answer(scm, [path, path_specific(s, edges=steps, graph=graph)])
    assert equal(along, edges)
    assert not zero_mod(along)


def test_a_growing_chain_of_edges_ends_at_the_total_effect():
    scm = NETS["sequential"]
    s = attn[0] @ last << resample
    every = sorted(scm.graph.edges(), key=lambda edge: (edge.target.sort_key, edge.source.sort_key), reverse=True)
    every = [edge for edge in every if edge.source != Node("embed") and edge.target != Node("attn", 0)]
    chain = [every[: count + 1] for count in range(len(every))]
    able = [edges for edges in chain if any(edge.source == Node("attn", 0) for edge in edges)]
    queries = [path_specific(s, edges=edges, graph=scm.graph) for edges in able]
    found = answer(scm, [*queries, TE(s)])
    steps = [found[0], *(after - before for before, after in itertools.pairwise(found[:-1]))]
    assert equal(sum(steps), found[-1])
    assert sum(not zero_mod(step) for step in steps) == 5  # its five edges


def test_edges_that_cannot_be():
    graph = NETS["sequential"].graph
    s = attn[0] @ last << resample
    with pytest.raises(GraphError, match="no edge"):
        path_specific(s, edges=["mlp[1] -> attn[0]"], graph=graph)
    with pytest.raises(ExpressionError, match="no edge of the set leaves"):
        path_specific(s, edges=["mlp[1] -> logits"], graph=graph)
    with pytest.raises(ExpressionError, match="holds nothing"):
        controlled_direct(s, held=[])
    with pytest.raises(ExpressionError, match="nothing is set"):
        natural_effects()


# What is not an identity.


def test_total_is_not_direct_plus_indirect():
    e = unit_effects(NETS["sequential"], natural_effects(attn[0] @ last << resample))
    assert not equal(e["TE"], e["NDE"] + e["NIE"])


def test_single_ablations_do_not_sum_to_the_joint_one():
    joint, one, other = answer(
        NETS["sequential"], [TE(attn[0] << zero, attn[1] << zero), TE(attn[0] << zero), TE(attn[1] << zero)]
    )
    assert not equal(joint, one + other)


def test_indirect_effects_of_single_mediators_do_not_sum_to_the_indirect_effect():
    s = do(attn[0] @ last << resample)
    y = logit(target)
    through = [E[y | do(m << under(s))] - E[y] for m in (mlp[0], attn[1], mlp[1], norm)]
    *single, whole = answer(NETS["sequential"], [*through, NIE(attn[0] @ last << resample)])
    assert not equal(sum(single), whole)


def test_the_indirect_effect_is_neither_ce_nor_ce_plus_norm():
    s = attn[0] @ last << resample
    nie, ce, norm_part = answer(NETS["sequential"], [NIE(s), CE(s), NORM(s)])
    assert not equal(nie, ce)
    assert not equal(nie, ce + norm_part)


def test_a_joint_set_whose_later_node_responds_is_another_question():
    # Were X not held natural, its later node would respond to M: the sum with TDE would still be TE.
    s = [attn[0] @ last << resample, attn[1] @ last << zero]
    x = attn[0] | attn[1]
    careless = E[logit(target) | do(desc(x) << under(do(*s)))] - E[logit(target)]
    own, other = answer(NETS["sequential"], [natural_effects(*s)["NIE"], careless])
    assert not equal(own, other)
