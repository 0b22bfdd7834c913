"""TE = DE + CE + NORM by two routes, the motifs' known answers, and a compensation that was built in."""

import numpy as np
import pytest

from causalnet.effects import summarise
from causalnet.effects.asking import PromptedModel, unit_effects
from causalnet.effects.decompose import fractions, response_kinds, split
from causalnet.effects.estimands import natural_effects
from causalnet.effects.sweep import sweep
from causalnet.engine.sources import Inputs
from causalnet.errors import InputError
from causalnet.expr import (
    CE,
    attn,
    embed,
    entropy,
    kl,
    last,
    logit,
    logit_diff,
    logits,
    logprob,
    mean,
    mlp,
    natural,
    norm,
    patch,
    pos,
    precap_logit,
    prob,
    rank,
    resample,
    resid,
    scale,
    target,
    zero,
)
from causalnet.graph import Node
from causalnet.model.compile import compile_model
from causalnet.testing.crafted import compensating_gpt2
from causalnet.testing.linear import linear_model
from causalnet.testing.motifs import motif

U = np.array([1.0, 2.0, 3.0])

# Under zero ablation of x: TE, DE, and how f answers.
ANSWERS = {
    "erasure": (0.0, -1.0, "erasing less"),
    "self_repair": (0.0, -1.0, "repairing"),
    "load_bearing": (-1.0, -1.0, "silent"),
    "passive_redundancy": (0.0, 0.0, "silent"),
    "partial_repair": (-0.3, -1.0, "repairing"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_motifs(name):
    te, de, kind = ANSWERS[name]
    found = split(motif(name), attn[0] << zero)
    np.testing.assert_allclose(found.te[:, 0], te * U, atol=1e-12)
    np.testing.assert_allclose(found.de[:, 0], de * U, atol=1e-12)
    np.testing.assert_allclose(found.residual, 0, atol=1e-12)
    if found.responders:
        kinds = response_kinds(found.clean_responder[:, None], found.delta_de)
        assert set(kinds.ravel()) == {kind}


def test_total_and_direct_effects_do_not_tell_erasure_from_repair_but_the_clean_effect_does():
    erasure, repair = (split(motif(name), attn[0] << zero) for name in ("erasure", "self_repair"))
    for part in ("te", "de", "ce", "norm", "delta_de"):
        np.testing.assert_array_equal(getattr(erasure, part), getattr(repair, part))
    assert (erasure.clean_responder < 0).all()
    assert (repair.clean_responder >= 0).all()


def test_another_value_tells_them_apart_too():
    # x' = 2 x: erasure takes it back, repair puts u on top of it.
    erasure, repair = (split(motif(name), attn[0] << scale(2.0)) for name in ("erasure", "self_repair"))
    np.testing.assert_allclose(erasure.te[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(repair.te[:, 0], 2 * U, atol=1e-12)


@pytest.fixture(scope="module")
def compensating():
    rng = np.random.default_rng(3)
    ids = tuple(tuple(int(token) for token in rng.integers(0, 24, length)) for length in rng.integers(3, 6, 32))
    donors = np.array([[(prompt + 1 + draw) % 32 for draw in range(3)] for prompt in range(32)])
    return compile_model(compensating_gpt2(0.7)), ids, donors


def test_what_compensates_by_construction_measures_so(compensating):
    mechanisms, ids, donors = compensating
    for value in (zero, resample):
        inputs = Inputs(ids, donors=donors if value is resample else None)
        ds = sweep(
            mechanisms, inputs, [Node("attn", 0), Node("mlp", 0)], value, texts=[str(one) for one in ids], decode=str,
            record={"versions": {}, "seed": 0, "dtype": "float64", "device": "cpu", "arguments": {}},
        )  # fmt: skip
        node = summarise(ds)["nodes"][0]
        # The fraction of the lost contribution; of the clean one only where all of it is lost.
        assert node["slope_lost"] == pytest.approx(0.7, abs=1e-6)
        assert node["r2_lost"] == pytest.approx(1.0, abs=1e-6)
        assert node["responders"][0]["name"] == "mlp[0]"
        if value is zero:
            assert node["slope"] == pytest.approx(0.7, abs=1e-6)
            assert node["r2"] == pytest.approx(1.0, abs=1e-6)
        else:
            assert abs(node["slope"] - 0.7) > 0.01
        assert summarise(ds)["nodes"][1]["slope"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.7, 1.2])
def test_any_share(share):
    ids = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    scm = PromptedModel(compile_model(compensating_gpt2(share, layers=1)), Inputs(ids))
    found = split(scm, attn[0] @ last << zero)
    np.testing.assert_allclose(found.ce, -share * found.de, atol=1e-12)
    parts = fractions(found.ce, found.de)
    assert parts["pooled"] == pytest.approx(share, abs=1e-12)
    assert parts["mean_of_ratios"] == pytest.approx(share, abs=1e-12)


def test_nothing_lost_has_no_share():
    with pytest.raises(InputError, match="nothing was lost"):
        fractions(np.zeros(3), np.zeros(3))


# By two routes, on real modules.

INTERVENTIONS = {
    "one": [attn[1] @ last << resample],
    "every position": [mlp[0] << zero],
    "earlier": [attn[0] @ pos[1] << mean],
    "joint": [attn[0] @ last << resample, attn[2] @ last << zero],
    "set": [(mlp[0] | attn[1]) @ pos[2:] << patch("corrupt")],
    "mixed positions": [attn[0] @ pos[1] << zero, attn[1] @ last << mean],
    "heads": [attn[1].head[0] @ last << zero, attn[2].head[1] @ last << resample],
    "edge": [attn[0] @ last >> mlp[1] << zero],
    "embedding": [embed @ last << resample],
    "soft": [mlp[1] @ last << scale(0.5)],
    "paths": [(attn[0] @ last << resample).along(attn[0] >> mlp[1] >> attn[2] >> logits)],
}


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("which", INTERVENTIONS)
def test_closure(prompted, kind, which):
    s = INTERVENTIONS[which]
    for outcome in (logit(target), logit_diff(3, 7)):
        found = split(prompted(kind), *s, outcome=outcome)
        if which == "paths":
            assert not found.by_parts
            continue
        assert np.abs(found.residual).max() < 1e-9
        np.testing.assert_allclose(found.de, found.de_parts, atol=1e-9)
        np.testing.assert_allclose(found.ce, found.delta_de.sum(-1), atol=1e-9)
        assert np.abs(found.te).max() > 1e-4


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
@pytest.mark.parametrize("outcome", [logprob(target), prob(target), kl, entropy, rank(target), logit(5) @ pos[-2]])
def test_any_outcome(prompted, kind, outcome):
    s = [attn[1] @ pos[-2] << patch("corrupt")]
    found = split(prompted(kind), *s, outcome=outcome)
    np.testing.assert_allclose(found.te, found.de + found.ce + found.norm, atol=1e-9)
    assert found.by_parts == (outcome.name == "logit" and kind == "gpt2")
    again = unit_effects(prompted(kind), natural_effects(*s, outcome=outcome) | {"CE": CE(*s, outcome)})
    np.testing.assert_allclose(found.te, again["TE"], atol=1e-12)
    np.testing.assert_allclose(found.ce, again["CE"], atol=1e-12)


def test_a_soft_cap_splits_before_the_cap(prompted):
    s = [attn[1] @ last << zero]
    capped = split(prompted("gemma2"), *s)
    assert not capped.by_parts
    assert np.isnan(capped.residual).all()
    before = split(prompted("gemma2"), *s, outcome=precap_logit(target))
    assert before.by_parts
    assert np.abs(before.residual).max() < 1e-6
    assert np.abs(before.te - capped.te).max() > 1e-3


def test_where_contributions_do_not_add_up(prompted):
    assert not split(prompted("gpt2"), resid[1] @ last << patch("corrupt")).by_parts
    assert not split(prompted("gpt2"), attn[1] @ last >> logits << zero).by_parts
    with pytest.raises(InputError, match="norm"):
        split(prompted("gpt2"), norm << natural)


def test_a_set_node_responds_where_it_is_not_set():
    # attn[1] is set at the first position only, so at the last one it answers attn[0].
    model = linear_model(2, eps=1e-5, seed=5)
    found = split(model.network([(1, 2, 3)]), attn[0] @ last << zero, attn[1] @ pos[0] << zero)
    assert Node("attn", 1) in found.responders
    assert np.abs(found.residual).max() < 1e-12
    np.testing.assert_allclose(found.de, found.de_parts, atol=1e-12)


def test_responders_come_from_the_graph(prompted):
    found = split(prompted("gpt_neox"), attn[1] @ last << zero)
    assert [str(node) for node in found.responders] == ["attn[2]", "mlp[2]"]  # parallel: not mlp[1]
    found = split(prompted("gpt2"), attn[1] @ last << zero)
    assert [str(node) for node in found.responders] == ["mlp[1]", "attn[2]", "mlp[2]"]
