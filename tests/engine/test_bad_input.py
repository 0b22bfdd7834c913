"""What does not fit is refused before anything runs, and the prompt is named."""

from dataclasses import replace

import engine_models as models
import numpy as np
import pytest
import torch

from causalnet.engine.inputs import Inputs
from causalnet.engine.plain import run_plain
from causalnet.engine.plan import Reading, Shape, plan
from causalnet.engine.run import run
from causalnet.errors import CausalnetError, ExpressionError, InputError, PromptError, UnknownNameError
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At, Range, Span
from causalnet.expr.values import MEAN, RESAMPLE, Add, Given, InWorld, Noise, Patch, ProjectOut
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Node

ATTN = Node("attn", 1)
LOGIT = Outcome("logit", (TARGET,))


@pytest.fixture(params=[run, run_plain], ids=["run", "run_plain"])
def executor(request):
    return request.param


@pytest.fixture
def mechanisms(monkeypatch):
    """Return a model that nothing may be run on."""
    found = models.tiny("gpt2")

    def forbidden(*args, **kwargs):
        raise AssertionError("the model was run")

    monkeypatch.setattr(found.hf, "forward", forbidden)
    monkeypatch.setattr(found.hf.base_model, "forward", forbidden)
    return found


@pytest.fixture
def inputs():
    return models.inputs_for(models.tiny("gpt2"))


def asked(value, position=LAST, node=ATTN, outcome=LOGIT):
    return Reading(World(((Site(node, position), value),)), outcome)


def refused(executor, mechanisms, reading, inputs, error, message, **more):
    planned = plan(mechanisms.graph, (), (reading,), inputs.shape, draws=inputs.count)
    with pytest.raises(error, match=message) as caught:
        executor(mechanisms, planned, inputs, **more)
    assert isinstance(caught.value, CausalnetError)


NATURAL = Reading(NATURAL_WORLD, LOGIT)


def test_prompts(executor, mechanisms, inputs):
    def ids(*last):
        return replace(inputs, ids=(*inputs.ids[:-1], tuple(last)), spans=())

    refused(executor, mechanisms, NATURAL, ids(*range(3, 36)), PromptError, "prompt 4: 33 tokens, .* context is 32")
    refused(executor, mechanisms, NATURAL, ids(7, 50, 8), PromptError, "prompt 4: token id 50, .* has 50 tokens")
    refused(executor, mechanisms, NATURAL, ids(7, -1, 8), PromptError, "prompt 4: token id -1")
    with pytest.raises(PromptError, match="prompt 4: no tokens"):
        executor(mechanisms, plan(mechanisms.graph, (), (NATURAL,), Shape((5, 7, 5, 7, 1))), ids())


def test_donors_and_pairs_are_prompts_too(executor, mechanisms, inputs):
    pool = replace(inputs, pool=Inputs((inputs.ids[0], (3, 99)), spans=inputs.spans[:2]))
    refused(executor, mechanisms, NATURAL, pool, PromptError, "donor 1: token id 99")
    pairs = replace(inputs, pairs={"other": Inputs((*inputs.ids[:-1], tuple([3] * 40)))})
    refused(executor, mechanisms, NATURAL, pairs, PromptError, "pair 'other' of prompt 4: 40 tokens")


def test_no_donors(executor, mechanisms, inputs):
    reading = asked(RESAMPLE)
    refused(executor, mechanisms, reading, replace(inputs, donors=None, draws=2), InputError, "no donors were chosen")
    donors = inputs.donors.copy()
    donors[3] = -1
    refused(executor, mechanisms, reading, replace(inputs, donors=donors), PromptError, "prompt 3: there is no donor")
    refused(
        executor, mechanisms, reading, replace(inputs, pool=Inputs(())), PromptError, "prompt 0: donor .* 0 prompts"
    )
    donors[3] = 17
    refused(
        executor, mechanisms, reading, replace(inputs, donors=donors), PromptError, "prompt 3: donor 17 .* 5 prompts"
    )
    fewer = replace(inputs, donors=inputs.donors[:3])
    refused(executor, mechanisms, reading, fewer, InputError, "donors are chosen for 3 prompts, and there are 5")
    # One draw, and no donor: the table of a world without draws has the same shape.
    one = replace(inputs, donors=np.array([[1], [0], [3], [-1], [2]]))
    refused(executor, mechanisms, reading, one, PromptError, "prompt 3: there is no donor")


def test_a_world_inside_another_is_looked_at_too(executor, mechanisms, inputs):
    inner = World(((Site(ATTN, LAST), RESAMPLE),))
    reading = asked(InWorld(inner))
    refused(executor, mechanisms, reading, replace(inputs, donors=None, draws=2), InputError, "no donors were chosen")


@pytest.mark.parametrize("position", [None, Range(2, None), Range(1, -1)], ids=str)
def test_donors_of_another_length(executor, mechanisms, inputs, position):
    donors = inputs.donors.copy()
    donors[2, 1] = 3  # seven tokens, for a prompt of five
    moved = replace(inputs, donors=donors)
    refused(executor, mechanisms, asked(RESAMPLE, position), moved, PromptError, "prompt 2: .* but donor 3 has")


@pytest.mark.parametrize("position", [LAST, At(1), Range(-3, None), Range(1, 3)], ids=str)
def test_donors_of_another_length_where_that_does_not_matter(inputs, position):
    tiny = models.tiny("gpt2")
    donors = inputs.donors.copy()
    donors[2, 1] = 3
    moved = replace(inputs, donors=donors)
    reading = asked(RESAMPLE, position)
    planned = plan(tiny.graph, (), (reading,), moved.shape, draws=2)
    assert run(tiny, planned, moved)[reading] == pytest.approx(run_plain(tiny, planned, moved)[reading], rel=1e-9)


def test_spans_of_another_length(executor, mechanisms, inputs):
    spans = (*inputs.spans[:3], {"subject": (1, 4)}, inputs.spans[4])
    moved = replace(inputs, spans=spans)
    message = r"prompt (1|3): attn\[1\]@subject covers . tokens, but donor . has"
    refused(executor, mechanisms, asked(RESAMPLE, Span("subject")), moved, PromptError, message)


def test_a_span_that_donors_do_not_have(executor, mechanisms, inputs):
    pool = Inputs(inputs.ids, spans=({"subject": (0, 2)}, {}, *inputs.spans[2:]))
    message = "donor 1: no span named 'subject'"
    for value in (RESAMPLE, MEAN, Noise(1.0)):
        reading = asked(value, Span("subject"))
        refused(executor, mechanisms, reading, replace(inputs, pool=pool), UnknownNameError, message)


def test_a_position_that_donors_do_not_have(executor, mechanisms, inputs):
    pool = Inputs((*inputs.ids[:4], (5, 6)))
    for value in (RESAMPLE, MEAN, Noise(1.0)):
        reading = asked(value, At(2))
        refused(
            executor, mechanisms, reading, replace(inputs, pool=pool), InputError, "donor 4: position @2 .* 2 tokens"
        )


def test_a_mean_over_prompts_that_are_all_shorter(executor, mechanisms, inputs):
    pool = Inputs(tuple(ids[:5] for ids in inputs.ids))
    message = "prompt 1: .* covers 7 tokens, but the longest prompt of the donor pool has 5"
    refused(executor, mechanisms, asked(MEAN, None), replace(inputs, pool=pool), PromptError, message)


def test_noise_without_a_spread(executor, mechanisms, inputs):
    one = replace(inputs, pool=Inputs(inputs.ids[:1]))
    refused(executor, mechanisms, asked(Noise(1.0), LAST, Node("norm")), one, InputError, "too few values")
    head = asked(Noise(1.0), LAST, Node("head", 1, 0))
    refused(executor, mechanisms, head, inputs, InputError, "noise on a head is not defined")


def test_pairs(executor, mechanisms, inputs):
    reading = asked(Patch("others"))
    refused(executor, mechanisms, reading, inputs, UnknownNameError, "no paired prompts.*did you mean 'other'")
    short = replace(inputs, pairs={"others": Inputs(inputs.ids[:2])})
    refused(executor, mechanisms, reading, short, InputError, "2 paired prompts for 5 prompts")
    other = replace(inputs, pairs={"others": Inputs((*inputs.ids[:4], inputs.ids[0]))})
    reading = asked(Patch("others"), None)
    refused(executor, mechanisms, reading, other, PromptError, "prompt 4: .* covers 7 tokens, but its paired prompt")


def test_vectors(executor, mechanisms, inputs):
    def given(vector):
        return replace(inputs, vectors={"one": vector})

    width = mechanisms.width
    refused(executor, mechanisms, asked(Given("two")), inputs, UnknownNameError, "no vector of that name.*legal")
    refused(executor, mechanisms, asked(Add("one", 1.0)), given(torch.zeros(3)), InputError, r"shape \(3,\); legal")
    refused(executor, mechanisms, asked(ProjectOut("one")), given(torch.zeros(width)), InputError, "is zero")
    broken = torch.ones(width)
    broken[4] = torch.nan
    refused(executor, mechanisms, asked(Add("one", 1.0)), given(broken), InputError, "NaN or infinite")
    for node in (Node("norm"), Node("head", 1, 0)):
        refused(executor, mechanisms, asked(Given("one"), LAST, node), inputs, InputError, "cannot be set on a")


def test_tokens(executor, mechanisms, inputs):
    def reading(token):
        return Reading(NATURAL_WORLD, Outcome("prob", (token,)))

    refused(
        executor, mechanisms, reading(50), inputs, ExpressionError, r"prob\(50\): there is no token 50; .* 50 logits"
    )
    refused(executor, mechanisms, reading(" a"), inputs, ExpressionError, "' a' names a token, but no tokenizer")
    wrong = {"lookup": {" a": 77}.__getitem__}
    refused(executor, mechanisms, reading(" a"), inputs, ExpressionError, "there is no token 77", **wrong)
    targets = replace(inputs, targets=(1, 2, 3, 4, 51))
    refused(executor, mechanisms, NATURAL, targets, PromptError, "prompt 4: its target is token 51")


def test_a_plan_that_was_made_for_something_else(executor, mechanisms, inputs):
    planned = plan(mechanisms.graph, (), (asked(RESAMPLE),), Shape((5, 7, 5, 7, 5)), draws=2)
    with pytest.raises(InputError, match="prompts of other lengths"):
        executor(mechanisms, planned, inputs)
    planned = plan(mechanisms.graph, (), (asked(RESAMPLE),), inputs.shape, draws=3)
    with pytest.raises(InputError, match="3 draws per prompt and the inputs have 2"):
        executor(mechanisms, planned, inputs)
