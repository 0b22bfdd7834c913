"""Identities of mediation on real modules in float64, for every outcome and many sources."""

import numpy as np
import pytest

from causalnet.effects.asking import unit_effects
from causalnet.effects.estimands import four_way, interaction, natural_effects, path_specific
from causalnet.errors import ExpressionError
from causalnet.expr import (
    CE,
    NATURAL,
    NORM,
    E,
    add,
    attn,
    desc,
    do,
    embed,
    entropy,
    kl,
    last,
    logit,
    logit_diff,
    logprob,
    mean,
    mlp,
    noise,
    norm,
    patch,
    pos,
    prob,
    rank,
    resample,
    scale,
    sigma,
    target,
    under,
    zero,
)
from causalnet.graph import Edge

TOLERANCE = {"gpt2": 1e-9, "gpt_neox": 1e-9, "gemma2": 1e-6, "llama": 1e-6}  # where norms compute in float32: 1e-6
SETS = {
    "resample": ([attn[1] @ last << resample], attn[1]),
    "zero everywhere": ([mlp[0] << zero], mlp[0]),
    "an earlier position": ([mlp[0] @ pos[1] << mean], mlp[0]),
    "a paired prompt": ([embed @ pos[2:] << patch("corrupt")], embed),
    "noise": ([attn[0] @ last << noise(1.0)], attn[0]),
    "soft": ([mlp[1] @ last << scale(-1.0)], mlp[1]),
    "joint": ([attn[0] @ last << resample, mlp[1] @ last << zero], attn[0] | mlp[1]),
    "heads": ([attn[0].head[0] @ last << zero, attn[1].head[1] @ last << resample], attn[0].head[0] | attn[1].head[1]),
    "slice": ([attn[0:2] @ last << mean], attn[0:2]),
}
OUTCOMES = (logit(target), logit_diff(3, 7), logprob(target), prob(target), kl, entropy, rank(target))


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize("which", SETS)
def test_identities(prompted, kind, which):
    s, x = SETS[which]
    if kind == "gemma2" and which == "heads":  # a norm comes after the heads
        with pytest.raises(ExpressionError):
            unit_effects(prompted(kind), natural_effects(*s))
        return
    queries = {}
    held = [(desc(x) - norm) << mean]
    for y in OUTCOMES:
        back = E[y | do(*s, desc(x) << under(do(x << NATURAL)))] - E[y | do(*s)]
        again = E[y | do(*s, desc(x) << under(do(*s)))] - E[y]
        named = natural_effects(*s, outcome=y) | four_way(*s, held=held, outcome=y)
        named |= {"CE": CE(*s, y), "NORM": NORM(*s, y), "back": back, "again": again}
        queries |= {(y, name): query for name, query in named.items()}
    scm = prompted(kind)
    found = unit_effects(scm, queries)
    for y in OUTCOMES:
        e = {name: table for (outcome, name), table in found.items() if outcome == y}
        close = {"rtol": 0, "atol": TOLERANCE[kind] * 20}  # |logit| is about 3, and up to seven worlds are added
        np.testing.assert_allclose(e["TE"], e["NDE"] + e["TIE"], **close)
        np.testing.assert_allclose(e["TE"], e["TDE"] + e["NIE"], **close)
        np.testing.assert_allclose(e["TE"], e["NDE"] - e["back"], **close)
        np.testing.assert_allclose(e["TE"], e["again"], **close)
        np.testing.assert_allclose(e["INTmed"], e["TDE"] - e["NDE"], **close)
        np.testing.assert_allclose(e["TE"], e["CDE"] + e["INTref"] + e["INTmed"] + e["PIE"], **close)
        np.testing.assert_allclose(e["TE"], e["NDE"] + e["CE"] + e["NORM"], **close)
        if y.name != "rank":
            assert np.abs(e["TE"]).max() > 1e-4
            assert np.abs(e["TE"] - e["NDE"] - e["NIE"]).max() > 1e-5 or which == "an earlier position"
        if which == "an earlier position":
            np.testing.assert_allclose(e["NDE"], 0, **close)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("which", ["resample", "zero everywhere", "soft", "joint"])
def test_mediated_interaction_of_a_logit_is_the_norms(prompted, kind, which):
    # INTmed = (x' − x) · w (1/σ' − 1/σ), and DE = (x' − x) · w / σ.
    s, _ = SETS[which]
    found = unit_effects(prompted(kind), natural_effects(*s) | {"s1": E[sigma | do(*s)], "s0": E[sigma]})
    exact = found["NDE"] * (found["s0"] / found["s1"] - 1)
    np.testing.assert_allclose(found["INTmed"], exact, rtol=0, atol=TOLERANCE[kind] * 10)
    assert np.abs(exact).max() > 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("which", ["resample", "zero everywhere", "soft", "joint"])
def test_paths(prompted, kind, which):
    s, _ = SETS[which]
    scm = prompted(kind)
    edges = list(scm.graph.edges())
    into = [edge for edge in edges if edge.target.kind == "logits" and edge.source.kind != "norm"]
    for y in (logit(target), logprob(target)):
        queries = natural_effects(*s, outcome=y)
        queries["all"] = path_specific(*s, edges=edges, graph=scm.graph, outcome=y)
        queries["direct"] = path_specific(*s, edges=into, graph=scm.graph, outcome=y)
        found = unit_effects(scm, queries)
        np.testing.assert_allclose(found["all"], found["TE"], rtol=0, atol=TOLERANCE[kind] * 10)
        np.testing.assert_allclose(found["direct"], found["NDE"], rtol=0, atol=TOLERANCE[kind] * 10)
        assert np.abs(found["direct"]).max() > 1e-3


def test_an_edge_and_its_complement_do_not_add_up(prompted):
    # Path-specific effects of a partition of the edges do not sum to the total effect: they interact.
    scm = prompted("gpt2")
    s = attn[0] @ last << zero
    edges = [edge for edge in scm.graph.edges() if edge.source.kind != "embed"]
    some = [Edge.parse("attn[0] -> mlp[0]"), *(edge for edge in edges if str(edge.source) != "attn[0]")]
    others = [edge for edge in edges if edge not in some[:1]]
    queries = {
        "one": path_specific(s, edges=some, graph=scm.graph),
        "other": path_specific(s, edges=others, graph=scm.graph),
        "TE": natural_effects(s)["TE"],
    }
    found = unit_effects(scm, queries)
    assert np.abs(found["TE"] - found["one"] - found["other"]).min() > 1e-4


def test_joint_effects(prompted):
    s = [attn[1] @ last << zero, attn[2] @ last << zero, mlp[1] @ last << zero]
    e = unit_effects(prompted("gpt2"), interaction(*s))
    np.testing.assert_allclose(e["joint"], sum(e[str(one)] for one in s) + e["interaction"], atol=1e-12)
    assert np.abs(e["interaction"]).min() > 1e-4


def test_a_direction(prompted):
    import dataclasses

    import torch

    scm = prompted("gpt2")
    vector = torch.linspace(-1, 1, 32, dtype=torch.float64)
    inputs = dataclasses.replace(scm.inputs, vectors={"v": vector})
    found = unit_effects(dataclasses.replace(scm, inputs=inputs), natural_effects(mlp[0] @ last << add("v", 2.0)))
    np.testing.assert_allclose(found["TE"], found["NDE"] + found["TIE"], atol=1e-12)
    assert np.abs(found["TE"]).min() > 1e-3
