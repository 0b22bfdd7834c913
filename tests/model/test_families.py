"""Every family that has a record: it compiles, it checks, its edges hold, and discovery finds the same graph."""

import pytest
import torch

from causalnet.model.check import check
from causalnet.model.compile import compile_config, compile_model
from causalnet.model.describe import portrait, table
from causalnet.model.discover import discover
from causalnet.model.edges import check_edges
from causalnet.model.families import record_for, records

REFUSED = {"mamba", "mamba2", "falcon_mamba", "rwkv"}
RECORDED = sorted({kind for record in records() for kind in record.model_types} - REFUSED)

# What the issue of supporting a family comes down to: these must compile by a record or by discovery.
WANTED = [
    "gpt2",
    "gpt_neo",
    "gptj",
    "gpt_neox",
    "opt",
    "bloom",
    "mpt",
    "falcon",
    "codegen",
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "phimoe",
    "stablelm",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "cohere",
    "cohere2",
    "granite",
    "granitemoe",
    "starcoder2",
    "glm",
    "glm4",
    "deepseek_v3",
    "gpt_oss",
    "smollm3",
    "exaone4",
    "lfm2",
    "recurrent_gemma",
    "qwen3_next",
]

_FALCON = {"num_attention_heads": 64, "hidden_size": 4096}

# Other forms of the same families, by fields of the config.
FORMS = [
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 8, **_FALCON}),
    ("falcon", {"parallel_attn": False, "alibi": True, "multi_query": False, "bias": True, **_FALCON}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": True, "qk_layernorm": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 8}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "num_hidden_layers": 4}),
    ("phi3", {"sliding_window": 2047}),
    ("mistral", {"sliding_window": None}),
    ("gemma2", {"final_logit_softcapping": None, "attn_logit_softcapping": None}),
    ("granitemoehybrid", {"num_local_experts": 0, "residual_multiplier": 0.3}),
    ("gpt_bigcode", {"multi_query": False}),
]


def shape(graph):
    return [(b.attn, b.mlp, b.parallel, b.heads, b.window, b.mixer, b.heads_sum) for b in graph.blocks]


def test_the_wanted_families_are_all_here():
    assert len(WANTED) >= 41
    assert set(WANTED) <= set(RECORDED)
    assert len(RECORDED) >= 45


@pytest.mark.parametrize("kind", RECORDED)
def test_compiles_and_checks_in_float32(small, kind):
    mechanisms = compile_model(small(kind))
    assert mechanisms.found == "record"
    report = check(mechanisms, seed=1)
    assert report.holds, report.worst
    assert report.worst.tolerance == 2e-5
    kinds = {row.what.replace(f"[{row.layer}]", "") for row in report.rows}
    assert {"the sum of the contributions", "the readout of the final stream", "direct effects plus constants"} <= kinds


@pytest.mark.parametrize("kind", RECORDED)
def test_checks_in_float64_and_discovery_finds_the_same_graph(small, kind):
    model = small(kind, "float64")
    mechanisms = compile_model(model)
    assert check(mechanisms).worst.tolerance in (1e-6, 1e-9)
    alone = compile_model(model, record=discover(model))
    assert alone.graph == mechanisms.graph
    assert shape(alone.graph) == shape(mechanisms.graph)
    for one, other in zip(alone.layers, mechanisms.layers, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert mine.source is theirs.source
            assert mine.norm is theirs.norm
            assert mine.module is theirs.module
            assert mine.scale == pytest.approx(theirs.scale, rel=1e-6)
            assert mine.cached == theirs.cached


@pytest.mark.parametrize("kind", RECORDED)
def test_every_edge_moves_its_child_and_no_absent_edge_moves_anything(small, kind):
    report = check_edges(compile_model(small(kind), verify=False))
    assert report.holds, [str(row) for row in report.failed[:3]]
    assert report.summary["absent edges"] > 0


@pytest.mark.parametrize(("kind", "fields"), FORMS, ids=[f"{kind}-{next(iter(fields))}" for kind, fields in FORMS])
def test_other_forms_of_a_family(kind, fields):
    from causalnet.model.small import small_model

    model = small_model(kind, dtype=torch.float64, **fields)
    mechanisms = compile_model(model)
    assert mechanisms.found == "record"
    assert compile_model(model, record=discover(model)).graph == mechanisms.graph
    assert check_edges(mechanisms, tokens=4).holds


def test_forms_differ_where_they_should(small):
    assert compile_model(small("gptj")).graph.blocks[0].parallel
    assert not compile_model(small("gpt_neox", use_parallel_residual=False)).graph.blocks[0].parallel
    assert compile_model(small("gpt_neox")).graph.blocks[0].parallel
    assert [b.window for b in compile_model(small("gemma2")).graph.blocks] == [6, None]
    assert {b.mixer for b in compile_model(small("lfm2")).graph.blocks} == {"convolution", "attention"}
    assert {b.mixer for b in compile_model(small("recurrent_gemma")).graph.blocks} == {"recurrent", "attention"}
    assert not compile_model(small("olmo2")).graph.blocks[0].heads_sum
    assert compile_model(small("bloom")).graph.blocks[0].heads_sum
    shared = compile_model(small("granitemoeshared")).layers[0].mlp
    assert shared is not None and len(shared.also) == 1


@pytest.mark.parametrize("kind", ["llama", "gemma2", "bloom", "lfm2", "opt"])
def test_heads_sum_to_the_attention(small, kind):
    mechanisms = compile_model(small(kind), granularity="head")
    rows = [row for row in check(mechanisms).rows if row.what.startswith("the sum of the heads")]
    assert len(rows) == sum(block.heads is not None for block in mechanisms.graph.blocks)
    assert all(row.holds for row in rows)
    attn = next(layer.attn for layer in mechanisms.layers if layer.attn and layer.attn.heads)
    assert attn.heads == 4
    names = {str(node) for node in mechanisms.graph.nodes}
    assert f"{attn.node}.head[3]" in names


def test_a_config_gives_the_graph_of_its_model(small):
    for kind in ("llama", "gemma2", "falcon", "lfm2", "nemotron_h", "gpt_neo"):
        model = small(kind)
        for granularity in ("layer", "head"):
            graph = compile_config(model.config, granularity=granularity)
            assert graph == compile_model(model, granularity=granularity, verify=False).graph


def test_table_of_families(small):
    rows = table(
        portrait(compile_model(small(kind), verify=False)) for kind in ("llama", "gptj", "gemma2", "nemotron_h")
    )
    assert [row["family"] for row in rows] == ["gemma2", "gptj", "llama", "nemotron_h"]
    assert rows[0]["norm"] == "sandwich, RMSNorm"
    assert rows[0]["windows"] == "6 / full"
    assert rows[1]["block"] == "parallel, one norm"
    assert rows[1]["norm"] == "pre, LayerNorm"
    assert rows[2] == {
        **{"family": "llama", "block": "sequential", "norm": "pre, RMSNorm", "mixers": "attention"},
        **{"windows": "full", "heads": "4", "found": "record"},
    }
    assert rows[3]["block"] == "one mechanism per layer"


def test_a_text_model_inside_a_larger_one(small):
    model = small("gemma3")
    mechanisms = compile_model(model)
    assert mechanisms.config.model_type == "gemma3_text"
    assert mechanisms.found == "record"
    assert record_for(mechanisms.config) is not None
