"""Linear networks of any depth: every estimand against the matrix formula, by a network and by a real GPT-2."""

import numpy as np
import pytest

from causalnet.effects.asking import PromptedModel, unit_effects
from causalnet.effects.estimands import controlled_direct, interaction, natural_effects, path_specific
from causalnet.engine.sources import Inputs
from causalnet.expr import (
    CE,
    DE,
    NORM,
    TE,
    attn,
    desc,
    embed,
    last,
    logit,
    mean,
    mlp,
    norm,
    pos,
    resample,
    scale,
    target,
    zero,
)
from causalnet.graph import Edge, Node
from causalnet.model.compile import compile_model
from causalnet.testing.linear import linear_model

IDS = ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 2))
DONORS = np.array([[1, 2], [2, 0], [0, 1]])


def sources(model):
    """Values of a node at a position of a prompt: by the matrices, without any network."""
    zeros = np.zeros(model.embed.shape[1])

    def natural(prompt, draw, node, at):
        return model.natural(IDS[prompt], node, at)

    return {
        "zero": lambda prompt, draw, node, at: zeros,
        "resample": lambda prompt, draw, node, at: natural(DONORS[prompt, draw], draw, node, at),
        "mean": lambda prompt, draw, node, at: np.mean([natural(one, 0, node, at) for one in range(len(IDS))], axis=0),
        "scale": lambda prompt, draw, node, at: 3.0 * natural(prompt, draw, node, at),
    }


A0, A1, M0, M1 = Node("attn", 0), Node("attn", 1), Node("mlp", 0), Node("mlp", 1)
EMBED = Node("embed")
# Assignments, and the source of every place that they set.
SETS = {
    "attention": ([attn[0] @ last << resample], {(A0, 3): "resample"}),
    "mlp": ([mlp[0] @ last << zero], {(M0, 3): "zero"}),
    "earlier": ([mlp[0] @ pos[1] << mean], {(M0, 1): "mean"}),
    "every position": ([attn[0] << resample], {(A0, at): "resample" for at in range(4)}),
    "embedding": ([embed @ pos[0:2] << resample], {(EMBED, 0): "resample", (EMBED, 1): "resample"}),
    "soft": ([attn[0] @ last << scale(3)], {(A0, 3): "scale"}),
    "joint": ([attn[0] @ last << resample, mlp[0] @ last << zero], {(A0, 3): "resample", (M0, 3): "zero"}),
    "positions of a set": ([attn[0] @ pos[1] << zero, mlp[0] @ last << mean], {(A0, 1): "zero", (M0, 3): "mean"}),
}
HELD = [(desc(attn[0] | mlp[0]) - norm) << zero]


def wanted(model, prompt, draw, which):
    source, zeros = sources(model), np.zeros(model.embed.shape[1])
    s = {place: source[name](prompt, draw, *place) for place, name in SETS[which][1].items()}
    below = [node for node in model.graph.contributors if node.layer is not None and node not in (A0, M0)]
    if which == "embedding" or not below:
        return s, None
    return s, {(node, at): zeros for node in below for at in range(4)}


def asked(which, *, controlled=True):
    s = SETS[which][0]
    queries = natural_effects(*s) | {"CE": CE(*s), "NORM": NORM(*s)}
    if which != "embedding" and controlled:
        queries["CDE"] = controlled_direct(*s, held=HELD)
    return queries


def check(model, scm, which, tolerance):
    found = unit_effects(scm, asked(which, controlled=model.graph.layers > 1))
    for prompt in range(len(IDS)):
        for draw in range(found["TE"].shape[1]):
            s, held = wanted(model, prompt, draw, which)
            exact = model.closed_form(IDS[prompt], s, held=held)
            for name, table in found.items():
                assert abs(table[prompt, draw] - exact[name]) < tolerance, (name, prompt, draw)
    silent = which == "earlier" and model.graph.layers == 1  # no attention is left to carry it to the last position
    assert np.abs(found["TE"]).max() == 0 if silent else np.abs(found["TE"]).min() > 1e-3


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("parallel", [False, True])
def test_networks(which, layers, parallel):
    model = linear_model(layers, eps=1e-5, parallel=parallel, seed=layers)
    check(model, model.network(IDS, DONORS), which, 1e-12)


@pytest.mark.parametrize("which", SETS)
def test_a_frozen_norm(which):
    model = linear_model(3, seed=7)
    check(model, model.network(IDS, DONORS), which, 1e-12)
    e = unit_effects(model.network(IDS, DONORS), asked(which))
    # Only here, with a linear readout and the norm frozen, do direct and indirect effects add up.
    np.testing.assert_allclose(e["TE"], e["NDE"] + e["NIE"], atol=1e-12)
    np.testing.assert_allclose(e["INTmed"], 0, atol=1e-12)
    np.testing.assert_allclose(e["NORM"], 0, atol=1e-12)


def test_with_a_real_norm_they_do_not():
    e = unit_effects(linear_model(3, eps=1e-5, seed=7).network(IDS, DONORS), asked("attention"))
    assert np.abs(e["TE"] - e["NDE"] - e["NIE"]).min() > 1e-4


@pytest.fixture(scope="module", params=[None, 1e-5], ids=["frozen", "real norm"])
def engine(request):
    model = linear_model(3, eps=request.param, seed=3)
    inputs = Inputs(IDS, targets=(0,) * len(IDS), donors=DONORS)
    return model, PromptedModel(compile_model(model.transformer()), inputs)


@pytest.mark.parametrize("which", SETS)
def test_gpt2(engine, which):
    check(*engine, which, 1e-11)


def edges_of(model, *texts):
    return [Edge.parse(text) for text in texts]


PATHS = {
    "direct": ["attn[0] -> logits"],
    "one mediator": ["attn[0] -> mlp[1]", "mlp[1] -> logits"],
    "two": ["attn[0] -> mlp[0]", "mlp[0] -> attn[2]", "attn[2] -> logits"],
    "a tree": ["attn[0] -> mlp[0]", "mlp[0] -> logits", "attn[0] -> attn[1]", "attn[1] -> mlp[1]", "mlp[1] -> logits"],
}


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize("by", ["network", "engine"])
def test_paths(engine, paths, by):
    model, prompted = engine
    scm = prompted if by == "engine" else model.network(IDS, DONORS)
    edges = edges_of(model, *PATHS[paths])
    s = [attn[0] @ last << resample]
    found = unit_effects(scm, {"PSE": path_specific(*s, edges=edges, graph=scm.graph)})["PSE"]
    source = sources(model)["resample"]
    for prompt in range(len(IDS)):
        for draw in range(2):
            exact = model.path_specific(IDS[prompt], {(A0, 3): source(prompt, draw, A0, 3)}, edges)
            assert abs(found[prompt, draw] - exact) < 1e-11
            assert abs(exact) > 1e-4


@pytest.mark.parametrize("by", ["network", "engine"])
def test_interactions(engine, by):
    model, prompted = engine
    scm = prompted if by == "engine" else model.network(IDS, DONORS)
    s = [attn[0] @ last << zero, attn[1] @ last << zero]
    e = unit_effects(scm, interaction(*s))
    zeros = np.zeros(model.embed.shape[1])
    for prompt, ids in enumerate(IDS):
        one, other = {(A0, 3): zeros}, {(A1, 3): zeros}
        te = [model.closed_form(ids, part)["TE"] for part in (one | other, one, other)]
        exact = te[0] - te[1] - te[2]
        assert abs(e["interaction"][prompt, 0] - exact) < 1e-11
        assert abs(exact) > 1e-3  # attn[1] reads attn[0], so even here single effects do not add up


def test_direct_effects_by_contributions_and_by_worlds(engine):
    # DE is (x' - x) · w / σ, and CE what the contributions of descendants change: no world is needed.
    model, prompted = engine
    e = unit_effects(prompted, {"DE": DE(attn[0] @ last << zero), "TE": TE(attn[0] @ last << zero, logit(target))})
    w = model.unembed[0] - model.unembed.mean(0)
    for prompt, ids in enumerate(IDS):
        stream = model.moved(ids, {})[0]
        exact = -model.natural(ids, A0, 3) @ w / model.sigma(stream)
        assert abs(e["DE"][prompt, 0] - exact) < 1e-11
