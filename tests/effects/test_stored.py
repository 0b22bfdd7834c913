"""Effects are saved whole: what was found unit by unit comes back as it was."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import causalnet as cn
from causalnet import Effects, attn, last, logit_diff, logprob, mlp, zero
from causalnet.effects.stored import plain_units, units_from
from causalnet.errors import DataError, InputError
from causalnet.graph import Node

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")

S = attn[0] @ last << zero


@pytest.fixture(scope="module")
def on():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=2, initializer_range=0.3)  # fmt: skip
    model = cn.compile(
        LlamaForCausalLM(config).eval(), tokenizer=lambda text: {"input_ids": [len(word) for word in text.split()]}
    )
    return model.on(["a bc def", "abc a", "abcd ab a"])


QUESTIONS = {
    "split": lambda on: on.split(S),
    "split of a contrast": lambda on: on.split(S, outcome=logit_diff(3, 4)),
    "split by worlds alone": lambda on: on.split(S, outcome=logprob(5)),
    "self-repair": lambda on: on.self_repair(S),
    "Shapley": lambda on: on.shapley(S),
    "responsibility": lambda on: on.responsibility(attn[0] @ last << zero, mlp[1] @ last << zero),
    "no units": lambda on: on.natural_effects(S),
}


def same(one, other):
    """Whether two findings are the same, to the last bit and type."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return type(other) is tuple and len(one) == len(other) and all(map(same, one, other))
    if type(one).__module__.startswith("causalnet.effects"):
        return type(one) is type(other) and all(
            same(getattr(one, part.name), getattr(other, part.name)) for part in fields(one)
        )
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", QUESTIONS)
def test_units_come_back_as_they_were(on, name, tmp_path):
    found = QUESTIONS[name](on)
    assert (found.units is None) == (name == "no units")
    again = Effects.load(found.save(tmp_path / "effects.json"))
    assert same(found.units, again.units)
    assert str(again) == str(found)
    if name == "split":
        np.testing.assert_array_equal(again.units.residual, found.units.residual)
        assert again.units.responders == (Node("mlp", 0), Node("attn", 1), Node("mlp", 1))
    if name == "split by worlds alone":
        assert np.isnan(again.units.residual).all()


def test_numbers_that_json_does_not_know():
    array = np.array([[np.nan, np.inf, -np.inf, 0.1]], dtype=np.float32)
    text = json.dumps(plain_units((array, np.empty((2, 0)), np.array([True, False]))), allow_nan=False)
    assert same((array, np.empty((2, 0)), np.array([True, False])), units_from(json.loads(text)))


def test_what_is_not_known_is_refused(on, tmp_path):
    found = on.natural_effects(S)
    with pytest.raises(InputError, match="units of the type object cannot be saved"):
        Effects("q", found.results, object()).save(tmp_path / "q.json")
    path = found.save(tmp_path / "q.json")
    stored = json.loads(path.read_text())
    for units, message in (
        ({"kind": "Splitt", "fields": {}}, "did you mean 'Split'"),
        ({"kind": "Split", "fields": {"te": 1}}, "cannot be read"),
        ({"array": ["x"], "shape": [1], "dtype": "float64"}, "cannot be read"),
        ({"array": [1.0], "shape": [1], "dtype": "object"}, "not one that is stored"),
        ({"outcome": "logit(target) | do(attn[0] = zero)"}, "cannot be read"),
        (0.5, "cannot be read"),
    ):
        path.write_text(json.dumps({**stored, "units": units}))
        with pytest.raises(DataError, match=message):
            Effects.load(path)
    del stored["units"]
    path.write_text(json.dumps(stored))
    with pytest.raises(DataError, match="units"):
        Effects.load(path)
