"""Closure by two routes on every family that compiles: the model's own logits against the sum of parts."""

import numpy as np
import pytest
import torch

from causalnet.effects import closure
from causalnet.effects.asking import PromptedModel
from causalnet.effects.decompose import split
from causalnet.effects.sweep import sweep
from causalnet.engine.gradients import record
from causalnet.engine.inputs import Inputs
from causalnet.engine.plan import Reading
from causalnet.engine.readings import Tokens
from causalnet.expr import NATURAL_WORLD, TARGET, Outcome, attn, last, mean, mlp, pos, resample, zero
from causalnet.graph import Node
from causalnet.model.compile import compile_model
from causalnet.model.families import records
from causalnet.model.observe import observe
from causalnet.model.small import small_model

# A pure state-space trunk has no attention and no MLP to tell apart.
REFUSED = {"mamba", "mamba2", "falcon_mamba", "rwkv"}
RECORDED = sorted({kind for family in records() for kind in family.model_types} - REFUSED)
DISCOVERED = ["apertus", "jetmoe", "kolibri1", "laguna", "nanochat"]
RECORD = {"versions": {}, "seed": 0, "dtype": "", "device": "cpu", "arguments": {}}


def inputs_of(mechanisms):
    rng = np.random.default_rng(0)
    vocab = min(mechanisms.vocab, 150)
    ids = tuple(tuple(int(token) for token in rng.integers(3, vocab, length)) for length in (6, 7, 6, 7))
    return Inputs(ids, donors=np.array([[2], [3], [0], [1]]))


def rounding(mechanisms):
    """1e-9 where the final norm computes in float64, 1e-6 where its module casts to float32, 1e-4 in float32."""
    if mechanisms.dtype == torch.float32:
        return 1e-4
    norm, z = mechanisms.readout.norm, torch.randn(4, mechanisms.width, dtype=torch.float64)
    with torch.no_grad():
        own = norm.module(z)
        exact = norm.centre(z) / norm.sigma(z).unsqueeze(-1) * norm.gain + norm.bias
    return 1e-9 if float((own - exact).abs().max() / exact.abs().max()) < 1e-11 else 1e-6


def outcome_of(mechanisms):
    return Outcome("logit" if mechanisms.readout.softcap is None else "precap_logit", (TARGET,))


def swept(mechanisms, inputs, value):
    """Return a sweep over all nodes, and the largest residual relative to |logit|."""
    nodes = [node for node in mechanisms.graph.contributors if node.layer is not None]
    texts, record = [str(one) for one in inputs.ids], RECORD | {"dtype": str(mechanisms.dtype)}
    given = Inputs(inputs.ids, donors=inputs.donors if value is resample else None)
    ds = sweep(mechanisms, given, nodes, value, texts=texts, decode=str, record=record)
    assert np.abs(ds["te"]).max() > 1e-3
    relative = np.abs(ds["residual"].values) / np.abs(ds["clean_logit"].values)[:, None, None]
    return ds, float(np.nanmax(relative))


@pytest.mark.parametrize("kind", RECORDED + DISCOVERED)
def test_in_float64(kind, record_property):
    mechanisms = compile_model(small_model(kind, dtype=torch.float64))
    inputs, bound = inputs_of(mechanisms), rounding(mechanisms)
    worst = 0.0
    for value in (zero, resample):
        ds, relative = swept(mechanisms, inputs, value)
        assert closure(ds)[1] < bound
        worst = max(worst, relative)
    assert worst < bound
    # A joint set at several positions, from two sources.
    layer = next(n for n, block in enumerate(mechanisms.graph.blocks) if block.attn)
    other = next(n for n, block in enumerate(mechanisms.graph.blocks) if block.mlp)
    s = attn[layer] @ pos[2:] << mean, mlp[other] @ last << resample
    found = split(PromptedModel(mechanisms, inputs), *s, outcome=outcome_of(mechanisms))
    clean = np.abs(ds["clean_logit"].values)[:, None]
    for gap in (found.residual, found.de - found.de_parts, found.ce - found.delta_de.sum(-1)):
        worst = max(worst, float(np.abs(gap / clean).max()))
    assert worst < bound
    assert np.abs(found.te).max() > 1e-3
    record_property("closure", (f"{kind} in float64", worst, bound))
    check_tape(mechanisms, inputs)


@pytest.mark.parametrize("kind", RECORDED + DISCOVERED)
def test_in_float32(kind, record_property):
    mechanisms = compile_model(small_model(kind), verify=False)
    ds, worst = swept(mechanisms, inputs_of(mechanisms), zero)
    assert closure(ds)[1] < 1e-4
    assert worst < 1e-4
    record_property("closure", (f"{kind} in float32", worst, 1e-4))


def check_tape(mechanisms, inputs):
    """What gradients are taken of is what the engine reads and the model computes."""
    ids = torch.tensor([inputs.ids[0], inputs.ids[2]])
    tape, natural = record(mechanisms, ids), observe(mechanisms, ids)
    for node, value in tape.written.items():
        if node.kind in ("attn", "mlp"):
            known = natural.contributions[str(node)]
            assert (value - known).abs().max() < 1e-9 * max(1.0, float(known.abs().max()))
            assert torch.equal(tape.made[node], value)
    outcome = outcome_of(mechanisms)
    reading = Reading(NATURAL_WORLD, outcome)
    wanted = PromptedModel(mechanisms, inputs).read([reading])[reading]
    target = mechanisms.readout.precap_logits(tape.reads[Node("logits")][:, -1]).argmax(-1)
    values = tape.outcome(outcome, ids.shape[1] - 1, tape.world0(ids.shape[1] - 1, Tokens(target)))
    np.testing.assert_allclose(values.detach().numpy(), wanted[[0, 2], 0], rtol=1e-5)
    nodes = [node for node in mechanisms.graph.contributors if node in tape.written]
    grads = tape.gradients(values, [tape.written[node] for node in nodes])
    assert all(bool(torch.isfinite(grad).all()) and bool((grad[:, -1] != 0).any()) for grad in grads)
