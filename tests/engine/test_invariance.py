"""What must not matter: the other prompts, the other worlds, the size of the chunks, the order of the rows."""

from dataclasses import replace

import engine_models as models
import engine_worlds as worlds
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causalnet.engine import chunk
from causalnet.engine.inputs import Inputs
from causalnet.engine.plan import Reading, plan
from causalnet.engine.run import run
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At, Range, Span
from causalnet.expr.refs import Component
from causalnet.expr.values import MEAN, RESAMPLE, ZERO, InWorld, Noise, Scale
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Node

LENGTHS = (3, 9, 5, 9, 4, 7, 5)
LOGIT = Outcome("logit", (TARGET,))
quick = settings(
    max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def ragged(mechanisms, draws=3):
    """Return prompts of many lengths with donors of any length, from a pool of their own."""
    vocab = min(mechanisms.vocab, mechanisms.readout.weight.shape[0])
    ids = models.random_ids(vocab, LENGTHS, 4)
    pool = models.random_ids(vocab, (6, 3, 8, 5, 4), 5)
    rng = np.random.default_rng(0)
    donors = np.array([rng.permutation(len(pool))[:draws] for _ in ids])
    spans = tuple({"subject": (index % 2, 2 + index % 2)} for index in range(len(ids)))
    others = tuple({"subject": (1, 3)} for _ in pool)
    return Inputs(ids, spans=spans, pool=Inputs(pool, spans=others), donors=donors, draws=draws)


def some_readings(mechanisms):
    attn, mlp, last = Node("attn", 1), Node("mlp", 0), mechanisms.graph.layers - 1
    asked = World(((Site(attn, LAST), RESAMPLE), (Site(mlp, Span("subject")), RESAMPLE)))
    made = [
        World(((Site(Node("embed"), At(0)), Scale(2.0)), (Site(mlp), ZERO))),
        World(((Site(mlp, Range(-2, None)), MEAN),)),
        World(((Site(Node("mlp", last), LAST), Noise(1.0)), (Site(attn, At(1)), RESAMPLE))),
        World(((Site(attn, LAST, Node("logits")), RESAMPLE),)),
        asked,
        World(((Site(Node("norm")), InWorld(asked)), (Site(Node("mlp", last)), InWorld(asked)))),
    ]
    direct = Outcome("direct", (TARGET,), Component.of(attn), LAST)
    readings = [Reading(world, LOGIT) for world in (NATURAL_WORLD, *made)]
    readings += [Reading(world, Outcome("kl", (), None, At(-2))) for world in made]
    return (*readings, *(Reading(world, direct, (attn, Node("embed"))) for world in made))


def trace_of(mechanisms, readings, inputs, **more):
    planned = plan(mechanisms.graph, (), readings, inputs.shape, draws=inputs.count)
    return run(mechanisms, planned, inputs, **more)


def assert_same(found, expected, readings, tolerance, prompts=slice(None)):
    for reading in readings:
        one, other = found[reading], expected[reading][prompts]
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= tolerance * max(1.0, np.abs(other).max()), str(reading)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral-window", "gemma2", "bloom", "falcon-alibi", "opt"])
def test_prompts_of_many_lengths_together_and_each_alone(name):
    mechanisms = models.tiny(name)
    inputs, readings = ragged(mechanisms), some_readings(mechanisms)
    together = trace_of(mechanisms, readings, inputs)
    for prompt in range(len(inputs.ids)):
        one = slice(prompt, prompt + 1)
        alone = replace(inputs, ids=inputs.ids[one], spans=inputs.spans[one], donors=inputs.donors[one])
        # Noise is keyed by the number of the prompt, which is 0 when it is alone.
        same = [r for r in readings if prompt == 0 or not any(isinstance(v, Noise) for v in r.world.values)]
        assert_same(trace_of(mechanisms, same, alone), together, same, models.tolerance(mechanisms), one)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_a_padded_batch_of_the_model_itself_agrees_whatever_the_side(name, side):
    mechanisms = models.tiny(name)
    inputs = ragged(mechanisms)
    longest = max(LENGTHS)
    ids, mask = torch.zeros(len(LENGTHS), longest, dtype=torch.long), torch.zeros(len(LENGTHS), longest)
    for row, own in enumerate(inputs.ids):
        at = slice(longest - len(own), longest) if side == "left" else slice(0, len(own))
        ids[row, at], mask[row, at] = torch.tensor(own), 1
    places = (mask.cumsum(-1) - 1).clamp_min(0).long()
    with torch.no_grad():
        more = {} if name == "opt" else {"position_ids": places}  # OPT counts positions from the mask by itself
        logits = mechanisms.hf(input_ids=ids, attention_mask=mask.long(), **more).logits
    last = torch.tensor([longest - 1 if side == "left" else len(own) - 1 for own in inputs.ids])
    expected = logits[torch.arange(len(last)), last].log_softmax(-1)[:, 7]
    reading = Reading(NATURAL_WORLD, Outcome("logprob", (7,)))
    found = trace_of(mechanisms, (reading,), inputs)[reading][:, 0]
    assert found == pytest.approx(expected.numpy(), rel=models.tolerance(mechanisms))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("memory", [1, 6 * 4 * 32 * 8 * 11, 6 * 4 * 32 * 8 * 60])
def test_small_chunks_change_nothing(name, memory):
    mechanisms = models.tiny(name)
    inputs, readings = ragged(mechanisms), some_readings(mechanisms)
    expected = trace_of(mechanisms, readings, inputs)
    assert_same(trace_of(mechanisms, readings, inputs, memory=memory), expected, readings, models.tolerance(mechanisms))


def test_small_chunks_are_small(monkeypatch):
    mechanisms = models.tiny("gpt2")
    inputs, readings = models.inputs_for(mechanisms, draws=3, lengths=(6, 6, 6, 6)), some_readings(mechanisms)
    sizes = []
    call = chunk.Chunk.wave

    def counted(self, start, lanes, draws, *more):
        count = len(range(*draws.indices(3)))
        sizes.append(len(self.bucket.prompts) * sum(count if lane.draws > 1 else 1 for lane in lanes))
        return call(self, start, lanes, draws, *more)

    monkeypatch.setattr(chunk.Chunk, "wave", counted)
    trace_of(mechanisms, readings, inputs)
    widest = max(sizes)
    sizes.clear()
    trace_of(mechanisms, readings, inputs, memory=1)
    # One draw of one prompt; worlds that take values from each other stay together.
    assert max(sizes) == 2 < widest


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox-parallel", "gemma2"])
def test_worlds_in_one_batch_and_alone(name):
    mechanisms = models.tiny(name)
    inputs, readings = ragged(mechanisms), some_readings(mechanisms)
    together = trace_of(mechanisms, readings, inputs)
    for reading in readings:
        assert_same(trace_of(mechanisms, (reading,), inputs), together, (reading,), models.tolerance(mechanisms))


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
@quick
@given(data=st.data())
def test_random_worlds_in_one_batch_and_alone(name, data):
    mechanisms = models.tiny(name)
    case = data.draw(worlds.cases(mechanisms.graph))
    inputs = models.inputs_for(mechanisms)
    together = run(mechanisms, case.plan(inputs), inputs)
    tolerance = models.tolerance(mechanisms)
    for reading in case.readings:
        alone = run(mechanisms, worlds.Case(case.graph, (reading,)).plan(inputs), inputs)
        wrong = worlds.disagreements(alone.values, {reading: together[reading]}, tolerance, steps=tolerance <= 1e-9)
        assert not wrong, wrong


def test_the_order_of_prompts_does_not_matter():
    mechanisms = models.tiny("llama")
    inputs = ragged(mechanisms)
    readings = [r for r in some_readings(mechanisms) if not any(isinstance(v, Noise) for v in r.world.values)]
    order = [4, 0, 6, 2, 5, 1, 3]
    mixed = replace(
        inputs,
        ids=tuple(inputs.ids[index] for index in order),
        spans=tuple(inputs.spans[index] for index in order),
        donors=inputs.donors[order],
    )
    assert_same(trace_of(mechanisms, readings, mixed), trace_of(mechanisms, readings, inputs), readings, 1e-6, order)


@pytest.mark.parametrize("value", [RESAMPLE, Noise(0.7)], ids=str)
def test_donors_and_noise_are_shared_by_all_worlds(value):
    mechanisms = models.tiny("gpt2")
    inputs = ragged(mechanisms)
    site = Site(Node("attn", 1), LAST)
    first = World(((site, value),))
    again = World(((site, InWorld(first)),))
    beside = World(((site, value), (Site(Node("mlp", 2), At(0)), ZERO)))  # moves nothing at the last position
    readings = [Reading(world, LOGIT) for world in (NATURAL_WORLD, first, again, beside)]
    trace = trace_of(mechanisms, readings, inputs)
    natural, one, two, three = (trace[reading] for reading in readings)
    assert np.allclose(one, two, rtol=0, atol=1e-9)
    assert np.allclose(one, three, rtol=0, atol=1e-9)
    assert one.shape == (len(LENGTHS), 3)
    assert (np.abs(one - natural) > 1e-4).all()
    assert all(len(set(row.round(9))) == 3 for row in one), "each draw is another donor"


def test_a_block_of_prompts_draws_the_noise_that_it_draws_as_part_of_the_whole():
    mechanisms = models.tiny("gpt2")
    inputs = ragged(mechanisms)
    readings = [Reading(World(((Site(Node("attn", 1), LAST), Noise(0.7)),)), LOGIT)]
    whole = trace_of(mechanisms, readings, inputs)
    some = slice(2, 5)
    block = replace(inputs, ids=inputs.ids[some], spans=inputs.spans[some], donors=inputs.donors[some], first=2)
    assert np.allclose(trace_of(mechanisms, readings, block)[readings[0]], whole[readings[0]][2:5], rtol=0, atol=1e-9)
    moved = trace_of(mechanisms, readings, replace(block, first=3))[readings[0]]
    assert (np.abs(moved - whole[readings[0]][2:5]) > 1e-6).all()


def test_missing_donors_are_holes_and_touch_nothing_else():
    mechanisms = models.tiny("gpt2")
    inputs, readings = ragged(mechanisms), some_readings(mechanisms)
    donors = inputs.donors.copy()
    donors[1, 2] = donors[4, 1] = donors[4, 2] = -1
    full, holed = trace_of(mechanisms, readings, inputs), trace_of(mechanisms, readings, replace(inputs, donors=donors))
    for reading in readings:
        expected = full[reading].copy()
        if expected.shape[1] > 1:
            expected[donors < 0] = np.nan
        assert np.allclose(holed[reading], expected, rtol=0, atol=1e-9, equal_nan=True)


def test_progress_counts_every_row_once():
    mechanisms = models.tiny("gpt2")
    inputs, readings = ragged(mechanisms), some_readings(mechanisms)
    seen = []
    trace = trace_of(mechanisms, readings, inputs, memory=1, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (trace.plan.rows, trace.plan.rows)
