"""Families without a record, and what discovery says of them."""

import copy

import pytest
import torch

from causalnet.errors import UnsupportedModelError
from causalnet.graph import CausalGraph
from causalnet.model import compile as compiling
from causalnet.model.check import check
from causalnet.model.compile import compile_config, compile_model
from causalnet.model.discover import discover
from causalnet.model.edges import check_edges
from causalnet.model.families import record_for, records
from causalnet.model.record import source_of, text_config
from causalnet.model.shrink import build, randomise

UNKNOWN = [
    "afmoe",
    "apertus",
    "axk1",
    "biogpt",
    "bitnet",
    "blenderbot",
    "cohere2_moe",
    "ctrl",
    "diffllama",
    "exaone_moe",
    "falcon_h1",
    "flint",
    "glm4_moe_lite",
    "granite_swa",
    "hy_v3",
    "hyperclovax",
    "iquestcoder",
    "jais2",
    "jetmoe",
    "kolibri1",
    "laguna",
    "lfm3",
    "llama4_text",
    "mbart",
    "mimo_v2_flash",
    "moshi",
    "nanochat",
    "pegasus",
    "solar_open",
    "whisper",
    "xglm",
    "xlstm",
    "youtu",
]


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_family_without_a_record(small, kind):
    model = small(kind)
    assert record_for(text_config(model.config)) is None
    mechanisms = compile_model(model)
    assert mechanisms.found == "discovery"
    assert check(mechanisms, seed=1).holds
    assert check_edges(mechanisms, tokens=4).holds


def test_what_is_found_of_unknown_families(small):
    def blocks(kind):
        return compile_model(small(kind)).graph.blocks

    assert {(b.window, b.heads_sum) for b in blocks("kolibri1")} == {(6, False), (None, False)}
    assert {b.window for b in blocks("llama4_text")} == {6, None}
    assert {b.mixer for b in blocks("xlstm")} == {"recurrent"}
    assert {b.mixer for b in blocks("lfm3")} == {"convolution", "attention"}
    assert {b.heads for b in blocks("bitnet")} == {None}, "a norm over all heads leaves none to tell apart"
    hybrid = compile_model(small("falcon_h1")).layers[0].attn
    assert hybrid is not None
    assert len(hybrid.also) == 1
    assert not hybrid.cached


def test_a_record_is_printed_to_be_kept(small):
    assert source_of(discover(small("kolibri1"))) == (
        'Family(("kolibri1",), '
        'attn=(Part("self_attn", source="post_self_attn_layernorm", norm="input_layernorm", out="o_proj"),), '
        'mlp=(Part("mlp", source="post_mlp_layernorm", norm="post_attention_layernorm"),))'
    )
    assert source_of(discover(small("llama"))) == 'Family(("llama",))'
    assert 'logit_scale="/logits_scaling"' in source_of(discover(small("granite")))
    assert 'scale="residual_multiplier"' in source_of(discover(small("granite")))
    assert 'Window("window_size", kinds="attention_layers", kind="local")' in source_of(discover(small("gpt_neo")))


def test_a_large_model_is_found_by_a_small_copy_and_its_own_factors_are_measured(monkeypatch):
    from transformers import MiniCPM3Config

    config = MiniCPM3Config(
        **{"hidden_size": 256, "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 8},
        **{"intermediate_size": 512, "vocab_size": 9000, "q_lora_rank": 64, "kv_lora_rank": 32},
    )
    model = randomise(build(config))
    assert sum(p.numel() for p in model.parameters()) > 3_000_000
    monkeypatch.setattr(compiling, "record_for", lambda config: None)
    mechanisms = compile_model(model)
    assert mechanisms.found == "discovery"
    attn = mechanisms.layers[0].attn
    assert attn is not None
    assert attn.scale == pytest.approx(config.scale_depth / 5**0.5, rel=1e-5)
    assert mechanisms.readout.scale == pytest.approx(config.dim_model_base / 256, rel=1e-5)


def test_a_half_precision_model_is_found_by_a_copy(small):
    model = copy.deepcopy(small("kolibri1")).to(torch.bfloat16)
    mechanisms = compile_model(model)
    assert mechanisms.found == "discovery"
    assert mechanisms.graph == compile_model(small("kolibri1")).graph


def test_a_config_without_a_record_is_probed_small_and_tiled():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    graph = compile_config(CONFIG_MAPPING["kolibri1"]())
    config = CONFIG_MAPPING["kolibri1"]()
    assert isinstance(graph, CausalGraph)
    assert graph.layers == config.num_hidden_layers
    assert graph.blocks[0].heads == config.num_attention_heads
    sliding = [kind == "sliding_attention" for kind in config.layer_types]
    assert [block.window for block in graph.blocks] == [config.sliding_window if s else None for s in sliding]


def test_discovery_does_not_look_at_names(small, monkeypatch):
    """Rename every module of a model: the graph is the same."""
    model = copy.deepcopy(small("gemma2"))
    expected = compile_model(small("gemma2")).graph
    for layer in model.model.layers:
        for index, name in enumerate(list(layer._modules)):
            layer._modules[f"part_{index}"] = layer._modules.pop(name)
            layer.__dict__[name] = layer._modules[f"part_{index}"]
    monkeypatch.setattr(compiling, "record_for", lambda config: None)
    assert compile_model(model).graph == expected


def test_no_family_is_named_outside_the_records():
    from pathlib import Path

    room = Path(compiling.__file__).parent
    kinds = {kind for record in records() for kind in record.model_types if "_" in kind or kind.startswith("qwen")}
    for file in ("discover.py", "anatomy.py", "layer_probe.py", "heads.py", "parts.py", "bind.py", "compile.py"):
        text = (room / file).read_text(encoding="utf-8")
        assert not [kind for kind in kinds if f'"{kind}"' in text]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("bert", "final norm"),
        ("bart", "post-norm trunk"),
        ("openai-gpt", "post-norm trunk"),
        ("minimax", "without the stream that entered"),
        ("doge", "every coordinate of the residual stream"),
        ("beam", "multiplies the residual stream by 0.577"),
        ("deepseek_v4", "several residual streams"),
        ("gemma4_text", "one after the other"),
        ("inkling_text", "all mix positions"),
        ("zamba2", "more than the residual stream"),
        ("electra", "width"),
        ("hrm_text", "more than once in a pass"),
        ("xlm", "no list of layers"),
    ],
)
def test_what_cannot_be_expressed_is_refused_with_the_reason(small, kind, why):
    with pytest.raises(UnsupportedModelError, match=why):
        compile_model(small(kind))
