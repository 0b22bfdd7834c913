"""Small random copies."""

import pytest
import torch

from causalnet.errors import InputError, UnsupportedModelError
from causalnet.model.shrink import depth_of, layer_signatures, shrink, small_copy
from causalnet.model.small import small_model


def test_ratios_are_kept():
    from transformers import LlamaConfig

    big = LlamaConfig(hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, intermediate_size=14336)
    narrow = shrink(big, layers=3)
    assert (narrow.hidden_size, narrow.num_attention_heads, narrow.num_key_value_heads) == (64, 4, 1)
    assert narrow.head_dim == 16
    assert narrow.intermediate_size == 224
    assert narrow.num_hidden_layers == depth_of(narrow) == 3
    assert big.hidden_size == 4096, "the config that was given is left alone"


def test_one_layer_of_each_kind():
    from transformers import Gemma3TextConfig, Qwen3NextConfig

    gemma = small_copy(None, Gemma3TextConfig(num_hidden_layers=24))
    assert gemma.config.num_hidden_layers == 6
    assert set(gemma.config.layer_types) == {"sliding_attention", "full_attention"}
    mixed = small_copy(None, Qwen3NextConfig(num_hidden_layers=12))
    assert set(mixed.config.layer_types) == {"linear_attention", "full_attention"}


def test_signatures_tell_kinds_apart(small):
    model = small("lfm2")
    signatures = layer_signatures(model.model.layers, model.config)
    assert len(set(signatures)) == len(set(model.config.layer_types)) == 2
    plain = small("llama")
    assert len(set(layer_signatures(plain.model.layers, plain.config))) == 1


def test_no_weight_hides_a_convention(small):
    for kind in ("llama", "gemma2", "gptj", "gpt2"):
        for name, parameter in small(kind).named_parameters():
            if parameter.dim() == 1:
                assert not torch.equal(parameter, torch.ones_like(parameter)), name
                assert not torch.equal(parameter, torch.zeros_like(parameter)), name


def test_seeds():
    one, two, other = small_model("gpt2"), small_model("gpt2"), small_model("gpt2", seed=1)
    assert torch.equal(one.lm_head.weight, two.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_unknown_types_and_fields():
    with pytest.raises(InputError, match=r"unknown model type 'lama'; did you mean 'llama'"):
        small_model("lama")
    with pytest.raises(InputError, match="llama: its config refuses these fields"):
        small_model("llama", hidden_size="wide")
    with pytest.raises(UnsupportedModelError, match="no small copy of a vit model"):
        small_model("vit")
