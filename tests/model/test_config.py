"""Graphs from a config alone: no weights, no memory."""

import subprocess
import sys

import pytest

from causalnet.errors import UnsupportedModelError
from causalnet.model.compile import compile_config
from causalnet.model.load import load_config

LLAMA = """
import resource, time
import torch
from transformers import LlamaConfig
import transformers.models.llama.modeling_llama
from causalnet.model.compile import compile_config

config = LlamaConfig(
    hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
    num_key_value_heads=8, vocab_size=128256, max_position_embeddings=8192,
)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
graph = compile_config(config, granularity="head")
seconds = time.perf_counter() - start
start = time.perf_counter()
below = graph.descendants("attn[3].head[5]")
query = time.perf_counter() - start
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(len(graph.nodes), seconds, query, grown, len(below))
"""


def test_a_70b_model_costs_no_memory():
    run = subprocess.run([sys.executable, "-c", LLAMA], capture_output=True, text=True, check=True)
    nodes, seconds, query, grown, below = (float(word) for word in run.stdout.split())
    assert nodes == 80 * (64 + 1 + 1) + 3
    assert below == 76 * (64 + 1) + 1 + 2  # a bias hears nothing
    assert grown < 400, "MiB beyond the imports"
    assert seconds < 10, "well under 2 s on an idle machine"
    assert query < 0.1


def test_a_config_file(tmp_path):
    from transformers import GPTNeoXConfig

    GPTNeoXConfig(num_hidden_layers=3, use_parallel_residual=False).save_pretrained(tmp_path)
    graph = compile_config(load_config(tmp_path / "config.json"))
    assert graph.layers == 3
    assert not graph.blocks[0].parallel
    assert graph.blocks[0].heads == 64


def test_windows_are_those_of_the_whole_config():
    from transformers import Gemma2Config, GPTNeoConfig, Lfm2Config

    assert [b.window for b in compile_config(Gemma2Config()).blocks[:4]] == [4096, None, 4096, None]
    assert [b.window for b in compile_config(GPTNeoConfig()).blocks[:4]] == [None, 256, None, 256]
    kinds = ["conv", "full_attention"] * 3
    config = Lfm2Config(num_hidden_layers=6, layer_types=kinds)
    assert [(b.mixer, b.window) for b in compile_config(config).blocks[:2]] == [("convolution", 3), ("attention", None)]


def test_a_config_of_no_causal_model():
    from transformers import ViTConfig

    with pytest.raises(UnsupportedModelError, match="vit: no causal LM can be made from this config"):
        compile_config(ViTConfig())
