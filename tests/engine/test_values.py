"""Values and edges against hooks that are written here, by hand, on the model itself.

The plain executor and the plan share what brings donors, means and vectors; this does not.
"""

from dataclasses import replace

import engine_models as models
import numpy as np
import pytest
import torch

from causalnet.engine.inputs import Inputs
from causalnet.engine.plan import Reading, plan
from causalnet.engine.run import run
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At, Range, Span
from causalnet.expr.values import MEAN, RESAMPLE, ZERO, Add, Given, Noise, Patch, ProjectOut, Scale
from causalnet.expr.world import Site, World
from causalnet.graph import Node

TOKEN = 7
LOGPROB = Outcome("logprob", (TOKEN,))


@pytest.fixture(scope="module")
def mechanisms():
    return models.tiny("gpt2")


@pytest.fixture(scope="module")
def inputs(mechanisms):
    """Return prompts with spans in different places, and a pool of other lengths with longer spans."""
    ids = models.random_ids(models.VOCAB, (5, 7, 6), 1)
    pool = models.random_ids(models.VOCAB, (6, 8, 5, 7), 2)
    return Inputs(
        ids,
        spans=({"subject": (0, 2)}, {"subject": (3, 5)}, {"subject": (1, 3)}),
        pool=Inputs(pool, spans=({"subject": (2, 4)}, {"subject": (0, 2)}, {"subject": (1, 3)}, {"subject": (4, 6)})),
        donors=np.array([[1, 3], [0, 2], [3, 1]]),
        pairs={"other": Inputs(models.random_ids(models.VOCAB, (5, 7, 6), 3), spans=({"subject": (1, 3)},) * 3)},
        vectors={"one": torch.linspace(-1, 1, 32, dtype=torch.float64), "each": torch.eye(3, 32, dtype=torch.float64)},
    )


def module_of(mechanisms, node):
    block = mechanisms.hf.transformer.h[node.layer]
    return block.attn if node.kind == "attn" else block.mlp


def first_of(output):
    return output[0] if isinstance(output, tuple) else output


def seen(mechanisms, node, ids):
    """Return a module's output [position, d_model] in a plain forward."""
    found = []
    handle = module_of(mechanisms, node).register_forward_hook(
        lambda _m, _i, out: found.append(first_of(out)[0].clone())
    )
    with torch.no_grad():
        mechanisms.hf(torch.tensor([ids]))
    handle.remove()
    return found[0]


def final_stream(mechanisms, ids):
    """Return the stream [position, d_model] that enters the final norm."""
    found = []
    handle = mechanisms.hf.transformer.ln_f.register_forward_pre_hook(lambda _m, args: found.append(args[0][0].clone()))
    with torch.no_grad():
        mechanisms.hf(torch.tensor([ids]))
    handle.remove()
    return found[0]


def logprob_with(mechanisms, node, ids, columns, change):
    """Return log p(token) at the last position with a module's output changed at some columns."""

    def hook(_module, _args, output):
        new = first_of(output).clone()
        new[0, columns] = change(new[0, columns])
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module_of(mechanisms, node).register_forward_hook(hook)
    with torch.no_grad():
        logits = mechanisms.hf(torch.tensor([ids])).logits[0, -1]
    handle.remove()
    return float(logits.log_softmax(-1)[TOKEN])


def measured(mechanisms, inputs, node, position, value):
    reading = Reading(World(((Site(node, position), value),)), LOGPROB)
    planned = plan(mechanisms.graph, (), [reading], inputs.shape, draws=inputs.count)
    return run(mechanisms, planned, inputs)[reading]


def columns_of(given, prompt, position):
    length = len(given.ids[prompt])
    if isinstance(position, Span):
        return list(range(*given.spans[prompt][position.name]))
    if isinstance(position, At):
        return [position.index % length]
    return list(range(length))[slice(position.start, position.stop)]


PLACES = (LAST, At(1), Range(-3, -1), Range(0, 2), Span("subject"))
NODES = (Node("attn", 1), Node("mlp", 0))


@pytest.mark.parametrize("position", PLACES, ids=str)
@pytest.mark.parametrize("node", NODES, ids=str)
def test_donors_are_those_of_the_table_at_the_same_label(mechanisms, inputs, node, position):
    found = measured(mechanisms, inputs, node, position, RESAMPLE)
    for prompt, ids in enumerate(inputs.ids):
        columns = columns_of(inputs, prompt, position)
        for draw, donor in enumerate(inputs.donors[prompt]):
            source = seen(mechanisms, node, inputs.pool.ids[donor])[columns_of(inputs.pool, donor, position)]
            expected = logprob_with(mechanisms, node, ids, columns, lambda _, source=source: source)
            assert found[prompt, draw] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("position", PLACES, ids=str)
@pytest.mark.parametrize("node", NODES, ids=str)
def test_means_are_over_the_pool_at_the_same_label(mechanisms, inputs, node, position):
    found = measured(mechanisms, inputs, node, position, MEAN)
    sources = [
        seen(mechanisms, node, ids)[columns_of(inputs.pool, donor, position)]
        for donor, ids in enumerate(inputs.pool.ids)
    ]
    mean = torch.stack(sources).mean(0)
    for prompt, ids in enumerate(inputs.ids):
        columns = columns_of(inputs, prompt, position)
        expected = logprob_with(mechanisms, node, ids, columns, lambda _: mean)
        assert found[prompt, 0] == pytest.approx(expected, rel=1e-9)


def test_a_mean_everywhere_is_over_the_prompts_that_reach_so_far(mechanisms, inputs):
    node = NODES[0]
    found = measured(mechanisms, inputs, node, None, MEAN)
    sources = [seen(mechanisms, node, ids) for ids in inputs.pool.ids]
    for prompt, ids in enumerate(inputs.ids):
        places = range(len(ids))
        mean = torch.stack([torch.stack([s[p] for s in sources if len(s) > p]).mean(0) for p in places])
        expected = logprob_with(mechanisms, node, ids, list(places), lambda _, mean=mean: mean)
        assert found[prompt, 0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("position", PLACES, ids=str)
def test_pairs_are_those_of_the_same_number(mechanisms, inputs, position):
    node, pair = NODES[1], inputs.pairs["other"]
    found = measured(mechanisms, inputs, node, position, Patch("other"))
    for prompt, ids in enumerate(inputs.ids):
        source = seen(mechanisms, node, pair.ids[prompt])[columns_of(pair, prompt, position)]
        columns = columns_of(inputs, prompt, position)
        expected = logprob_with(mechanisms, node, ids, columns, lambda _, source=source: source)
        assert found[prompt, 0] == pytest.approx(expected, rel=1e-9)


ONE = torch.linspace(-1, 1, 32, dtype=torch.float64)
FUNCTIONS = {
    ZERO: lambda own, prompt: own * 0,
    Scale(-0.7): lambda own, prompt: own * -0.7,
    Given("one"): lambda own, prompt: ONE.expand_as(own),
    Given("each"): lambda own, prompt: torch.eye(3, 32, dtype=torch.float64)[prompt].expand_as(own),
    Add("one", 0.3): lambda own, prompt: own + 0.3 * ONE,
    Add("each", -2.0): lambda own, prompt: own - 2.0 * torch.eye(3, 32, dtype=torch.float64)[prompt],
    ProjectOut("one"): lambda own, prompt: own - (own @ ONE)[:, None] * ONE / (ONE @ ONE),
}


@pytest.mark.parametrize("value", FUNCTIONS, ids=str)
def test_given_and_soft_values(mechanisms, inputs, value):
    node, position = NODES[0], Range(-3, -1)
    found = measured(mechanisms, inputs, node, position, value)
    for prompt, ids in enumerate(inputs.ids):
        columns = columns_of(inputs, prompt, position)
        expected = logprob_with(
            mechanisms, node, ids, columns, lambda own, prompt=prompt: FUNCTIONS[value](own, prompt)
        )
        assert found[prompt, 0] == pytest.approx(expected, rel=1e-9)


def test_noise_has_the_size_that_it_says(mechanisms):
    """``direct`` is linear in the contribution: its spread over draws is |w| / sigma times that of the noise."""
    ids = models.random_ids(models.VOCAB, (6, 6, 6), 1)
    inputs = Inputs(ids, draws=400)
    node = Node("mlp", 2)
    values = torch.stack([seen(mechanisms, node, one)[-1] for one in ids])
    spread = float(values.std())
    outcome = Outcome("direct", (TOKEN,), models.reference(node))
    reading = Reading(World(((Site(node, LAST), Noise(2.0)),)), outcome, (node,))
    natural = Reading(World(), outcome, (node,))
    planned = plan(mechanisms.graph, (), [reading, natural], inputs.shape, draws=400)
    trace = run(mechanisms, planned, inputs)
    readout = mechanisms.readout
    weight = readout.directions(torch.tensor([TOKEN])).weight[0].detach()
    for prompt, one in enumerate(ids):
        final = final_stream(mechanisms, one)
        size = float(weight.norm() / final[-1].var(unbiased=False).add(1e-5).sqrt())
        draws = (trace[reading][prompt] - trace[natural][prompt]) / (2.0 * spread * size)
        assert abs(draws.mean()) < 4 / 400**0.5
        assert abs(draws.std() - 1) < 4 / 800**0.5
        assert len(set(draws.round(9))) == 400


def test_noise_of_one_draw_does_not_depend_on_how_many_there_are(mechanisms):
    ids = models.random_ids(models.VOCAB, (6, 6), 1)
    few, many = (measured(mechanisms, Inputs(ids, draws=draws), NODES[1], LAST, Noise(1.0)) for draws in (3, 8))
    assert np.allclose(few, many[:, :3], rtol=0, atol=1e-9)


def test_targets_are_the_answers_where_given_else_the_most_likely_token(mechanisms, inputs):
    reading = Reading(World(), Outcome("logprob", (TARGET,)))
    for targets in (None, (3, 9, 40)):
        given = replace(inputs, targets=targets)
        trace = run(mechanisms, plan(mechanisms.graph, (), [reading], given.shape, draws=2), given)
        for prompt, ids in enumerate(inputs.ids):
            with torch.no_grad():
                log_p = mechanisms.hf(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            token = int(log_p.argmax()) if targets is None else targets[prompt]
            assert trace.targets[prompt] == token
            assert trace[reading][prompt, 0] == pytest.approx(float(log_p[token]), rel=1e-9)


def test_strings_are_looked_up(mechanisms, inputs):
    named, numbered = Reading(World(), Outcome("logit", (" Rome",))), Reading(World(), Outcome("logit", (12,)))
    planned = plan(mechanisms.graph, (), [named, numbered], inputs.shape, draws=2)
    trace = run(mechanisms, planned, inputs, lookup={" Rome": 12}.__getitem__)
    assert (trace[named] == trace[numbered]).all()


@pytest.mark.parametrize("receiver", ["attn", "mlp"])
def test_an_edge_is_what_the_receiver_reads_less_the_sender(mechanisms, inputs, receiver):
    """do(attn[0] -> receiver[1] = 0): the receiver's input norm sees the stream without that contribution."""
    sender, target = Node("attn", 0), Node(receiver, 1)
    reading = Reading(World(((Site(sender, None, target), ZERO),)), LOGPROB)
    found = run(mechanisms, plan(mechanisms.graph, (), [reading], inputs.shape, draws=2), inputs)[reading]
    block = mechanisms.hf.transformer.h[1]
    norm = block.ln_1 if receiver == "attn" else block.ln_2
    for prompt, ids in enumerate(inputs.ids):
        sent = seen(mechanisms, sender, ids)
        handle = norm.register_forward_pre_hook(lambda _m, args, sent=sent: (args[0] - sent, *args[1:]))
        with torch.no_grad():
            logits = mechanisms.hf(torch.tensor([ids])).logits[0, -1]
        handle.remove()
        assert found[prompt, 0] == pytest.approx(float(logits.log_softmax(-1)[TOKEN]), rel=1e-9)


def test_a_head_is_its_slice_before_the_projection(mechanisms, inputs):
    reading = Reading(World(((Site(Node("head", 1, 2), LAST), ZERO),)), LOGPROB)
    found = run(mechanisms, plan(mechanisms.graph, (), [reading], inputs.shape, draws=2), inputs)[reading]
    width = mechanisms.width // 4

    def cut(_module, args):
        new = args[0].clone()
        new[..., -1, 2 * width : 3 * width] = 0
        return (new,)

    for prompt, ids in enumerate(inputs.ids):
        handle = mechanisms.hf.transformer.h[1].attn.c_proj.register_forward_pre_hook(cut)
        with torch.no_grad():
            logits = mechanisms.hf(torch.tensor([ids])).logits[0, -1]
        handle.remove()
        assert found[prompt, 0] == pytest.approx(float(logits.log_softmax(-1)[TOKEN]), rel=1e-9)
