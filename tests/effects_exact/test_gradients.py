"""Approximations by gradients: right where they can be, wrong where the network answers, and the report says so."""

import dataclasses

import numpy as np
import pytest

from causalnet.effects.approximate import atp_star, attribution_patching, eap_ig, integrated_gradients
from causalnet.effects.asking import PromptedModel, answer
from causalnet.effects.misses import compare_approximation
from causalnet.engine.inputs import Inputs
from causalnet.errors import InputError
from causalnet.expr import (
    DE,
    TE,
    add,
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
    noise,
    norm,
    patch,
    pos,
    rank,
    resample,
    scale,
    target,
    top1,
    zero,
)
from causalnet.model.compile import compile_model
from causalnet.testing.crafted import saturating_gpt2
from causalnet.testing.linear import linear_model

NODES = {
    "resample": attn[1] @ last << resample,
    "every position": mlp[0] << resample,
    "earlier": attn[0] @ pos[1] << mean,
    "embedding": embed @ pos[2:] << patch("corrupt"),
    "noise": mlp[1] @ last << noise(0.5),
    "zero": mlp[1] @ last << zero,
    "soft": mlp[2] @ last << scale(0.3),
    "head": attn[1].head[1] @ last << resample,
    "joint": [attn[0] @ last << resample, mlp[1] @ last << zero],
    "two heads": [attn[1].head[0] @ last << zero, attn[2].head[1] @ last << zero],
}
EDGES = {
    "into attention": attn[0] @ last >> attn[2] << resample,
    "into an mlp": mlp[0] >> mlp[2] << zero,
    "into the logits": attn[1] @ last >> logits << resample,
    "into the norm": mlp[1] @ last >> norm << zero,
    "from a head": attn[0].head[1] @ last >> mlp[1] << zero,
    "two": [attn[0] @ last >> mlp[0] << zero, attn[0] @ last >> attn[1] << zero],
    "one after the other": [attn[0] @ last >> mlp[1] << zero, mlp[1] @ last >> logits << resample],
}


def exact(scm, interventions, outcome):
    queries = [TE(*(one if isinstance(one, list) else [one]), outcome) for one in interventions.values()]
    return answer(scm, queries)


def drawn(values, number, table):
    return values[..., number] if table.shape[1] > 1 else values[:, :1, number]


# Gradients against differences: with an effect as small as wished, first order is all there is.


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("outcome", [logit(target), logprob(target), entropy, logit_diff(3, 7) @ pos[-2]])
def test_first_order(prompted, kind, outcome):
    scm = with_vectors(prompted(kind), 1e-5)
    small = {
        "attn": attn[1] @ last << add("v", 1.0),
        "mlp everywhere": mlp[0] << add("v", 1.0),
        "embed": embed @ pos[1] << add("v", 1.0),
        "norm": norm << scale(1.0 + 1e-5),
        "head": attn[1].head[1] << scale(1.0 + 1e-5),
        "edge from a head": attn[0].head[0] >> mlp[1] << scale(1.0 - 1e-5),
        "edge": attn[0] >> attn[2] << add("v", 1.0),
        "edge to mlp": attn[0] >> mlp[0] << add("v", 1.0),
        "edge to norm": mlp[0] >> norm << add("v", 1.0),
        "edge to logits": mlp[0] >> logits << add("v", 1.0),
    }
    if kind == "gpt_neox":
        del small["edge to mlp"]  # parallel: there is no such edge
    if outcome.position != logit(target).position:
        del small["attn"]  # nothing at the last position can reach an earlier one
    found = attribution_patching(scm, small, outcome=outcome)
    for number, (name, table) in enumerate(zip(small, exact(scm, small, outcome), strict=True)):
        estimate = found.values[:, :1, number]
        np.testing.assert_allclose(estimate, table, rtol=3e-3, atol=1e-9, err_msg=name)
        assert np.abs(estimate).max() > 1e-7, name


def with_vectors(scm, size):
    import torch

    vector = torch.linspace(-1, 1, 32, dtype=torch.float64) ** 3 * size
    return dataclasses.replace(scm, inputs=dataclasses.replace(scm.inputs, vectors={"v": vector}))


# Integrated gradients converge to the exact effect.


@pytest.mark.parametrize("outcome", [logit(target), logprob(target), kl])
def test_integrated_gradients_become_exact(prompted, outcome):
    scm = prompted("gpt2")
    everything = {name: one for name, one in (NODES | EDGES).items() if name not in ("soft", "noise")}
    coarse, fine = (integrated_gradients(scm, everything, outcome=outcome, steps=steps) for steps in (2, 24))
    for number, (name, table) in enumerate(zip(everything, exact(scm, everything, outcome), strict=True)):
        best = np.abs(drawn(fine.values, number, table) - table).max()
        assert best < 1e-6, name
        assert best <= np.abs(drawn(coarse.values, number, table) - table).max() + 1e-9, name


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("outcome", [logit(target), logprob(target)])
def test_along_the_embeddings(prompted, kind, outcome):
    # For the embeddings themselves the way is the change: with enough steps the total effect.
    scm = prompted(kind)
    whole = {"patch": embed << patch("corrupt"), "donors": embed << resample, "zero": embed << zero}
    found, known = (by(scm, whole, outcome=outcome, steps=4) for by in (eap_ig, integrated_gradients))
    np.testing.assert_allclose(found.values, known.values, atol=1e-9)
    fine = eap_ig(scm, {"patch": whole["patch"]}, outcome=outcome, steps=32)
    np.testing.assert_allclose(fine.values[:, :1, 0], exact(scm, {"patch": whole["patch"]}, outcome)[0], atol=1e-4)


def test_along_the_embeddings_is_the_mean_of_patchings_on_the_way(prompted):
    # One point in the middle: attribution patching's gradient there, times the change.
    import torch

    from causalnet.effects.first_order import Gradients
    from causalnet.engine.gradients import record
    from causalnet.engine.readings import Tokens
    from causalnet.graph import Node

    scm = prompted("gpt2")
    some = {"node": attn[1] @ last << resample, "edge": attn[0] @ last >> mlp[2] << resample}
    found = eap_ig(scm, some, steps=1)
    plain = attribution_patching(scm, some)
    assert np.abs(found.values - plain.values).max() > 1e-3
    inputs, column = scm.inputs, len(scm.inputs.ids[0]) - 1
    ids = torch.tensor([inputs.ids[0], inputs.ids[int(inputs.donors[0, 0])]])
    base = record(scm.mechanisms, ids)
    own = {node: value.detach() for node, value in base.written.items()}
    half = {(Node("embed"), None): (range(column + 1), own[Node("embed")].mean(0, keepdim=True))}
    tape = record(scm.mechanisms, ids[:1], half)
    top = scm.mechanisms.readout.precap_logits(base.reads[Node("logits")][:1, -1]).argmax(-1)
    natural = record(scm.mechanisms, ids[:1]).world0(column, Tokens(top, None))
    grads = Gradients(tape, tape.outcome(logit(target), column, natural))
    for number, place in enumerate([(Node("attn", 1), None), (Node("attn", 0), Node("mlp", 2))]):
        change = (own[place[0]][1] - own[place[0]][0])[column]
        by_hand = float((change * grads.at(place)[0, 0, column]).sum())
        assert found.values[0, 0, number] == pytest.approx(by_hand, abs=1e-9)


def test_the_way_of_the_embeddings_has_one_place_and_one_length(prompted):
    scm = prompted("gpt2")
    with pytest.raises(InputError, match="one place"):
        eap_ig(scm, {"a": NODES["joint"]})
    with pytest.raises(InputError, match="one place"):
        eap_ig(scm, {"a": NODES["soft"]})
    longer = dataclasses.replace(scm, inputs=dataclasses.replace(scm.inputs, donors=np.array([[1], [0], [1], [0]])))
    lengths = {len(one) for one in scm.inputs.ids[:2]}
    assert len(lengths) == 2
    with pytest.raises(InputError, match="tokens"):
        eap_ig(longer, {"a": attn[1] @ last << resample})


@pytest.mark.parametrize("name", ["soft", "noise"])
def test_integrated_gradients_of_one_soft_node_become_exact(prompted, name):
    scm = prompted("gpt2")
    found = integrated_gradients(scm, {name: NODES[name]}, steps=24)
    table = exact(scm, {name: NODES[name]}, logit(target))[0]
    np.testing.assert_allclose(drawn(found.values, 0, table), table, atol=1e-6)


def test_batches_do_not_matter(prompted):
    scm = prompted("gpt_neox")
    some = {"a": attn[1] @ last << resample, "b": mlp[0] << zero}
    small, large = (integrated_gradients(scm, some, steps=3, rows=rows) for rows in (2, 1000))
    np.testing.assert_allclose(small.values, large.values, atol=1e-10)


# On linear networks everything is right.


def test_a_linear_network_has_no_misses():
    model = linear_model(3, seed=4)
    donors = np.array([[1], [0]])
    scm = PromptedModel(
        compile_model(model.transformer()), Inputs(((1, 2, 3), (4, 5, 6)), targets=(0, 0), donors=donors)
    )
    some = {str(node): node @ last << resample for node in (attn[0], mlp[0], attn[1], mlp[1], attn[2], mlp[2])}
    joint = {"both": [attn[0] @ last << resample, mlp[1] @ last << zero], "edges": EDGES["one after the other"]}
    for found in (
        attribution_patching(scm, some | joint),
        integrated_gradients(scm, some, steps=1),
        atp_star(scm, some, drop=False),
        eap_ig(scm, some, steps=2),
    ):
        report = compare_approximation(scm, found)
        np.testing.assert_allclose(report.estimate, report.exact, atol=1e-9)
        assert report.rank_correlation == pytest.approx(1.0)
        assert report.missed == report.false_alarms == ()


# Where the network answers, they fail.


@pytest.fixture(scope="module")
def saturating():
    rng = np.random.default_rng(0)
    ids = tuple(tuple(int(token) for token in rng.integers(0, 16, 3)) for _ in range(12))
    return PromptedModel(compile_model(saturating_gpt2()), Inputs(ids, targets=(0,) * 12))


SATURATING = {"plain": attn[0] @ last << zero, "backed up": mlp[0] @ last << zero, "erased": attn[1] @ last << zero}


def test_the_toy_is_what_it_says(saturating):
    plain, backed, erased = exact(saturating, SATURATING, logit(target))
    direct = answer(saturating, [DE(one) for one in SATURATING.values()])
    np.testing.assert_allclose(plain, direct[0], atol=1e-9)
    np.testing.assert_allclose(backed, 3.0 + direct[1], atol=1e-9)
    np.testing.assert_allclose(erased, -1.0, atol=1e-9)
    assert all((table < -2).all() for table in direct)


def test_self_repair_makes_them_fail_and_the_report_shows_it(saturating):
    report = compare_approximation(saturating, attribution_patching(saturating, SATURATING))
    plain, backed, erased = (report.estimate[..., n] for n in range(3))
    np.testing.assert_allclose(plain, report.exact[..., 0], atol=1e-9)
    assert (np.abs(backed) > 2).all()  # a false alarm: the sleeping backup has no gradient
    assert np.abs(report.exact[..., 1]).mean() < 0.6
    np.testing.assert_allclose(erased, 0, atol=1e-9)  # missed: direct and indirect effect cancel at first order
    np.testing.assert_allclose(report.exact[..., 2], -1, atol=1e-9)
    assert [miss.name for miss in report.missed] == ["erased"]
    assert report.false_alarms[0].name == "backed up"
    assert report.false_alarms[0].self_repair == pytest.approx(3.0, abs=1e-9)
    assert report.rank_correlation < 1
    text = str(report)
    assert "missed" in text
    assert "backed up: exact" in text


def test_dropping_gradients_finds_what_cancels(saturating):
    report = compare_approximation(saturating, atp_star(saturating, SATURATING))
    assert np.isnan(report.signed_correlation)
    sizes = report.estimate.mean((0, 1))
    assert sizes[2] > 0.9  # no longer missed
    assert report.missed == ()
    signed = atp_star(saturating, SATURATING, drop=False)
    np.testing.assert_allclose(signed.values[..., 2], 0, atol=1e-9)  # it is the dropping that finds it
    # A backup that sleeps is beyond it all the same.
    assert "backed up" in [miss.name for miss in report.false_alarms]


def test_integrated_gradients_see_the_backup(saturating):
    found = integrated_gradients(saturating, SATURATING, steps=64)
    report = compare_approximation(saturating, found)
    np.testing.assert_allclose(report.estimate, report.exact, atol=0.05)  # there are kinks on the way


# Attention that is run, not linearised.


def test_saturated_attention(prompted, tiny_model):
    # Far into saturation scores have no gradient, and yet they move.
    import torch

    hf = tiny_model("gpt2")
    with torch.no_grad():
        for block in hf.transformer.h[1:]:
            block.attn.c_attn.weight[:, :64] *= 30
    scm = dataclasses.replace(prompted("gpt2"), mechanisms=compile_model(hf))
    some = {f"{node} at {at}": node @ pos[at] << resample for node in (attn[0], mlp[0]) for at in (0, 1, 2, 3)}
    table = np.stack(exact(scm, some, logit(target)), -1)
    first = attribution_patching(scm, some)
    run = atp_star(scm, some, drop=False)
    error, corrected = (np.abs(one.values - table).mean() for one in (first, run))
    assert corrected < 0.9 * error


def test_without_attention_in_between_the_correction_changes_nothing(prompted):
    # The last layer's nodes are read by no attention.
    scm = prompted("gpt2")
    some = {"attn": attn[2] @ last << resample, "mlp": mlp[2] @ last << zero, "head": attn[2].head[0] @ last << zero}
    first, run = attribution_patching(scm, some), atp_star(scm, some, drop=False)
    np.testing.assert_allclose(first.values, run.values, atol=1e-10)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_small_changes_need_no_correction(prompted, kind):
    scm = with_vectors(prompted(kind), 1e-5)
    some = {"attn": attn[0] @ last << add("v", 1.0), "mlp": mlp[1] << add("v", 1.0)}
    first, run = attribution_patching(scm, some), atp_star(scm, some, drop=False)
    np.testing.assert_allclose(first.values, run.values, rtol=1e-3, atol=1e-9)
    assert np.abs(first.values).max() > 1e-7


# What cannot be asked, and what is left out.


def test_what_has_no_gradient(prompted):
    scm = prompted("gpt2")
    with pytest.raises(InputError, match="no gradient"):
        attribution_patching(scm, {"a": attn[0] << zero}, outcome=rank(target))
    with pytest.raises(InputError, match="no gradient"):
        attribution_patching(scm, {"a": attn[0] << zero}, outcome=top1)
    with pytest.raises(InputError, match="no other"):
        attribution_patching(scm, {"a": [attn[0] << zero, mlp[1] << natural]})
    with pytest.raises(InputError, match="one node"):
        atp_star(scm, {"a": EDGES["into an mlp"]})
    with pytest.raises(InputError, match="one node"):
        atp_star(scm, {"a": NODES["joint"]})
    with pytest.raises(InputError, match="own"):
        attribution_patching(scm, {"a": [attn[0] << scale(2.0), mlp[1] << zero]})
    with pytest.raises(InputError, match="at least one"):
        integrated_gradients(scm, {"a": attn[0] << zero}, steps=0)
    with pytest.raises(InputError, match="at least two"):
        compare_approximation(scm, attribution_patching(scm, {"a": attn[0] << zero}))


def test_heads_before_a_norm(prompted):
    scm = prompted("gemma2")
    s = attn[1].head[0] @ last << scale(1.001)
    found = attribution_patching(scm, {"head": s})
    np.testing.assert_allclose(found.values[..., 0], exact(scm, {"head": s}, logit(target))[0], rtol=0.2, atol=1e-5)
    with pytest.raises(InputError, match="norm comes after"):
        atp_star(scm, {"head": s})


def test_the_gradient_of_kl_is_zero(prompted):
    found = attribution_patching(prompted("gpt2"), {"a": attn[0] << zero}, outcome=kl)
    np.testing.assert_allclose(found.values, 0, atol=1e-12)


def test_missing_donors_are_nan(prompted):
    scm = prompted("gpt2")
    donors = scm.inputs.donors.copy()
    donors[2, 1] = -1
    scm = dataclasses.replace(scm, inputs=dataclasses.replace(scm.inputs, donors=donors))
    found = attribution_patching(scm, {"a": attn[1] @ last << resample, "b": mlp[1] @ last << zero})
    assert np.isnan(found.values[2, 1, 0])
    assert np.isfinite(found.values[:2]).all()
    report = compare_approximation(scm, found)
    assert np.isfinite(report.signed_correlation)


def test_nothing_stays_on_the_model(prompted):
    hf = prompted("gpt2").mechanisms.hf
    attribution_patching(prompted("gpt2"), {"a": attn[0] << zero, "b": mlp[1] << zero})
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in hf.modules())
    assert all(parameter.grad is None for parameter in hf.parameters())
