"""The same law on CUDA; skipped with the reason where there is none."""

import gc

import engine_models as models
import engine_worlds as worlds
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causalnet.engine.plan import Reading
from causalnet.engine.run import run
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At
from causalnet.expr.values import RESAMPLE, ZERO, InWorld
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Node

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device was found"),
]

NAMES = ["llama", "gpt2", "neox-parallel", "mistral-window", "gemma2", "mixtral", "bloom"]
BFLOAT16 = 0.15
"""Bound in bfloat16, relative to the largest value of the outcome: 3 layers of roundings of 2⁻⁸ each, in two orders."""


def some(examples):
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )


@pytest.fixture(autouse=True)
def _full_precision():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", NAMES)
@some(12)
@given(data=st.data())
def test_planned_is_plain_in_float32(name, data):
    mechanisms = models.tiny(name, torch.float32, device="cuda")
    case = data.draw(worlds.cases(mechanisms.graph))
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), 2e-5)


READINGS = tuple(
    Reading(world, Outcome(name, (TARGET,) * (name == "logit")))
    for world in (
        NATURAL_WORLD,
        World(((Site(Node("attn", 0), LAST), RESAMPLE),)),
        World(((Site(Node("mlp", 1)), ZERO), (Site(Node("embed"), At(1)), RESAMPLE))),
        World(((Site(Node("mlp", 2)), InWorld(World(((Site(Node("attn", 0), At(2)), RESAMPLE),)))),)),
        World(((Site(Node("attn", 1), LAST, Node("mlp", 2)), ZERO),)),
    )
    for name in ("logit", "sigma", "kl")
)


@pytest.mark.parametrize("name", NAMES)
def test_planned_is_plain_in_bfloat16(name):
    mechanisms = models.tiny(name, torch.bfloat16, device="cuda")
    case = worlds.Case(mechanisms.graph, READINGS)
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), BFLOAT16)


@pytest.mark.parametrize("name", NAMES)
def test_cpu_and_cuda_agree(name):
    found = {}
    for device in ("cpu", "cuda"):
        mechanisms = models.tiny(name, torch.float32, device=device)
        inputs = models.inputs_for(mechanisms)
        found[device] = run(mechanisms, worlds.Case(mechanisms.graph, READINGS).plan(inputs), inputs)
    for reading in READINGS:
        one, other = (found[device][reading] for device in ("cpu", "cuda"))
        assert np.abs(one - other).max() <= 2e-5 * max(1.0, np.abs(one).max()), str(reading)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), torch.OutOfMemoryError("no room")])
def test_no_memory_and_no_hook_is_left_after_a_raise(error, monkeypatch):
    mechanisms = models.tiny("llama", torch.float32, device="cuda")
    inputs = models.inputs_for(mechanisms)
    planned = worlds.Case(mechanisms.graph, READINGS).plan(inputs)
    run(mechanisms, planned, inputs)  # whatever CUDA keeps for good is there now
    gc.collect()
    before = torch.cuda.memory_allocated()
    module, calls = mechanisms.layers[1].mlp.module, []
    forward = module.forward

    def broken(*args, **kwargs):
        calls.append(1)
        if len(calls) > 5:
            raise error
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "forward", broken)
        with pytest.raises((type(error), MemoryError)):
            run(mechanisms, planned, inputs)
    gc.collect()
    assert torch.cuda.memory_allocated() <= before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mechanisms.hf.modules())


def test_real_exhaustion_is_survived():
    """With most of the device taken, chunks that were planned for all of it are halved until they fit."""
    mechanisms = models.wide(torch.float32, "cuda")
    inputs = models.inputs_for(mechanisms, lengths=(64,) * 8, draws=7)
    case = worlds.Case(
        mechanisms.graph,
        tuple(
            Reading(World(((Site(Node(kind, layer), At(1)), RESAMPLE),)), Outcome("logit", (TARGET,)))
            for layer in range(4)
            for kind in ("attn", "mlp")
        ),
    )
    planned = case.plan(inputs)
    expected = run(mechanisms, planned, inputs)
    torch.cuda.empty_cache()
    # As if the budget had been found when the device was empty: far more than is free.
    free = torch.cuda.mem_get_info()[0]
    taken = torch.empty(max(free - (256 << 20), 0), dtype=torch.uint8, device="cuda")
    try:
        found = run(mechanisms, planned, inputs, memory=64 << 30)
    finally:
        del taken
        torch.cuda.empty_cache()
    for reading in case.readings:
        assert np.abs(found[reading] - expected[reading]).max() <= 2e-5 * np.abs(expected[reading]).max()
