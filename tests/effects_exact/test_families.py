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
DISCOVERED = ["apertus", "dbrx", "jetmoe", "xglm", "zamba2"]
RECORD = {"versions": {}, "seed": 0, "dtype": "", "device": "cpu", "arguments": {}}
LARGEST: dict[str, float] = {}


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", RECORDED + DISCOVERED)
def test_closure(kind, dtype):
    mechanisms = compile_model(small_model(kind, dtype=dtype))
    inputs = inputs_of(mechanisms)
    bound = rounding(mechanisms)
    nodes = [node for node in mechanisms.graph.contributors if node.layer is not None]
    worst = 0.0
    for value in (zero, resample):
        given = Inputs(inputs.ids, donors=inputs.donors if value is resample else None)
        ds = sweep(
            mechanisms, given, nodes, value, texts=[str(one) for one in inputs.ids], decode=str,
            record=RECORD | {"dtype": str(dtype)},
        )  # fmt: skip
        # A schema of float32 rounds its parts; the residual is computed before that.
        worst = max(worst, closure(ds)[1])
        assert np.abs(ds["te"]).max() > 1e-3
        logits = np.abs(ds["clean_logit"].values)
        assert float(np.nanmax(np.abs(ds["residual"].values) / logits[:, None, None])) < max(bound * 10, 1e-9)
    assert worst < bound
    # A joint set at several positions, and a mean: by worlds and by parts.
    scm = PromptedModel(mechanisms, inputs)
    layer = next(n for n, block in enumerate(mechanisms.graph.blocks) if block.attn)
    other = next(n for n, block in enumerate(mechanisms.graph.blocks) if block.mlp)
    found = split(scm, attn[layer] @ pos[2:] << mean, mlp[other] @ last << resample, outcome=outcome_of(mechanisms))
    size = np.abs(found.te) + np.abs(found.de) + np.abs(found.ce) + np.abs(found.norm) + 1.0
    assert np.abs(found.residual / size).max() < bound * 10
    worst = max(worst, float(np.abs(found.residual / size).max()))
    assert np.abs((found.de - found.de_parts) / size).max() < bound * 10
    LARGEST[f"{kind} {dtype}"] = worst


@pytest.mark.parametrize("kind", RECORDED + DISCOVERED)
def test_the_tape_is_the_model(kind):
    # What gradients are taken of is what the engine reads and the model computes.
    mechanisms = compile_model(small_model(kind, dtype=torch.float64))
    inputs = inputs_of(mechanisms)
    ids = torch.tensor([inputs.ids[0], inputs.ids[2]])
    tape = record(mechanisms, ids)
    natural = observe(mechanisms, ids)
    for node, value in tape.written.items():
        if node.kind in ("attn", "mlp"):
            known = natural.contributions[str(node)]
            assert (value - known).abs().max() < 1e-9 * max(1.0, float(known.abs().max()))
            assert torch.equal(tape.made[node], value)
    outcome = outcome_of(mechanisms)
    scm = PromptedModel(mechanisms, inputs)
    wanted = scm.read([Reading(NATURAL_WORLD, outcome)])[Reading(NATURAL_WORLD, outcome)]
    target = mechanisms.readout.precap_logits(tape.reads[Node("logits")][:, -1]).argmax(-1)
    values = tape.outcome(outcome, ids.shape[1] - 1, tape.world0(ids.shape[1] - 1, Tokens(target)))
    np.testing.assert_allclose(values.detach().numpy(), wanted[[0, 2], 0], rtol=1e-5)
    nodes = [node for node in mechanisms.graph.contributors if node in tape.written]
    grads = tape.gradients(values, [tape.written[node] for node in nodes])
    assert all(bool(torch.isfinite(grad).all()) and bool((grad[:, -1] != 0).any()) for grad in grads)


def test_the_largest_residual_is_known(record_property, capsys):
    if not LARGEST:
        pytest.skip("no family was run in this process")
    worst = max(LARGEST, key=lambda name: LARGEST[name])
    with capsys.disabled():
        print(f"\nlargest closure residual of {len(LARGEST)} models: {LARGEST[worst]:.1e} ({worst}); ", end="")
        double = {name: size for name, size in LARGEST.items() if "float64" in name}
        if double:
            name = max(double, key=lambda one: double[one])
            print(f"in float64: {double[name]:.1e} ({name})")
