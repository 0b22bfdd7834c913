"""Only the suffix is computed, and the prefix is not copied where it need not be.

Where sharing goes wrong the engine falls back to whole prompts: right, and slow without a word.  So what is
shared is held here.
"""

import engine_models as models
import pytest
import torch

from causalnet.engine import prefix
from causalnet.engine.batching import Naturals
from causalnet.engine.budget import budget_of
from causalnet.engine.plan import Reading, plan
from causalnet.engine.run import run
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At, Range
from causalnet.expr.values import ZERO
from causalnet.expr.world import Site, World
from causalnet.graph import Node

LOGIT = Outcome("logit", (TARGET,))
# Soft-capped scores and families with an attention of their own get keys and values joined for every row.
JOINED = ("gemma2", "bloom", "falcon", "falcon-alibi")
PLACES = (LAST, At(3), Range(-2, None))


def planned_for(mechanisms, *places, **more):
    readings = [Reading(World(((Site(Node("attn", 0), place), ZERO),)), LOGIT) for place in places]
    inputs = models.inputs_for(mechanisms, **more)
    return plan(mechanisms.graph, (), readings, inputs.shape, draws=inputs.count), inputs


def naturals_of(mechanisms, planned, inputs):
    return Naturals(mechanisms, planned, inputs, budget_of(mechanisms)).each()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [name for name in models.CONFIGS if name not in ("bloom", "gemma2")])
def test_every_layer_shares_the_prefix(name, attention):
    mechanisms = models.tiny(name, attention=attention)
    planned, inputs = planned_for(mechanisms, *PLACES)
    for block, natural in naturals_of(mechanisms, planned, inputs):
        assert natural.cache is not None
        assert natural.first == min(start for start, _ in block.waves) > 0
        for start, _ in block.waves:
            suffix = natural.suffixes[start]
            assert suffix.misfit <= models.tolerance(mechanisms)
            shared = [suffix.shared.get(layer, False) for layer in range(3)]
            assert shared == [name not in JOINED] * 3


@pytest.mark.parametrize("name", JOINED)
def test_families_that_cannot_share_still_compute_the_suffix_alone(name):
    mechanisms = models.tiny(name)
    planned, inputs = planned_for(mechanisms, *PLACES)
    for block, natural in naturals_of(mechanisms, planned, inputs):
        assert natural.cache is not None
        assert all(natural.suffixes[start].misfit <= models.tolerance(mechanisms) for start, _ in block.waves)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral-window", "gemma2", "bloom"])
def test_a_wave_sees_its_suffix_and_no_more(name, monkeypatch):
    mechanisms = models.tiny(name)
    planned, inputs = planned_for(mechanisms, LAST, lengths=(7, 7, 7))
    seen = []
    module = mechanisms.layers[2].mlp.module
    handle = module.register_forward_pre_hook(lambda _m, args: seen.append(tuple(args[0].shape[:-1])))
    try:
        run(mechanisms, planned, inputs)
    finally:
        handle.remove()
    # The natural run, two captures (one row, and two), and the wave: one token of each prompt.
    assert seen == [(3, 7), (1, 1), (2, 1), (3, 1)]


def test_a_prefix_that_does_not_give_the_natural_world_again_is_not_used(monkeypatch):
    mechanisms = models.tiny("llama")
    planned, inputs = planned_for(mechanisms, *PLACES)
    expected = run(mechanisms, planned, inputs)
    wrong = prefix._PrefixLayer.shared
    monkeypatch.setattr(prefix._PrefixLayer, "shared", lambda self, rows: tuple(t * 0.9 for t in wrong(self, rows)))
    for _, natural in naturals_of(mechanisms, planned, inputs):
        assert natural.cache is None
        assert natural.first == 0
    found = run(mechanisms, planned, inputs)
    for reading in planned.readings:
        assert found[reading] == pytest.approx(expected[reading], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("suffix", [1, 3])
@pytest.mark.parametrize("masked", ["none", "bool", "float", "window"])
@pytest.mark.parametrize("prompts", [1, 2])
def test_attention_over_a_shared_prefix_is_attention(suffix, masked, prompts):
    """Against torch's own attention with prefix and suffix joined; heads in groups, rows out of order."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    count, start = 4 * prompts, 5
    query, key, value = random(count, 4, suffix, 8), random(count, 2, suffix, 8), random(count, 2, suffix, 6)
    kept = random(prompts, 2, start, 8), random(prompts, 2, start, 6)
    prompt = torch.randperm(count, generator=generator) % prompts
    rows = prefix.Rows(start, prompt, prompts=prompts)
    if prompts > 1:
        rows.by_prompt = torch.argsort(prompt, stable=True)
        rows.inverse = torch.argsort(rows.by_prompt)
    allowed = torch.arange(start + suffix)[None] <= torch.arange(start, start + suffix)[:, None]
    if masked == "window":
        allowed &= torch.arange(start + suffix)[None] > torch.arange(start, start + suffix)[:, None] - 3
    mask = {"none": None, "float": torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)}.get(masked, allowed)
    mask = None if mask is None else mask[None, None]
    found = prefix.attend(query, key, value, kept, mask, 0.3, rows)
    joined = (
        torch.cat([old[prompt], new], 2).repeat_interleave(2, 1) for old, new in zip(kept, (key, value), strict=True)
    )
    expected = torch.nn.functional.scaled_dot_product_attention(query, *joined, attn_mask=allowed, scale=0.3)
    assert found.transpose(1, 2) == pytest.approx(expected, rel=1e-9, abs=1e-12)
