"""Tiny random models, the same code as the large ones, and prompts for them."""

from functools import cache

import numpy as np
import torch
from transformers import (
    AutoConfig,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
)

from causalnet.engine.inputs import Inputs
from causalnet.engine.run import run
from causalnet.expr.refs import Component
from causalnet.model.check import tolerance_of
from causalnet.model.compile import compile_model
from causalnet.model.shrink import build, randomise
from causalnet.model.small import small_model

__all__ = ["CONFIGS", "inputs_for", "random_ids", "reference", "run", "small", "tiny", "tolerance", "wide"]

VOCAB = 50
_SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_WIDE = {"intermediate_size": 48, "max_position_embeddings": 32}
_ROPE = _SMALL | _WIDE | {"num_key_value_heads": 2}
_GPT2 = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4}
_FALCON = _SMALL | {"bias": True}

CONFIGS = {
    "llama": lambda: LlamaConfig(**_ROPE),
    "gpt2": lambda: GPT2Config(**_GPT2),
    "neox-parallel": lambda: GPTNeoXConfig(**_SMALL, **_WIDE, use_parallel_residual=True),
    "neox-sequential": lambda: GPTNeoXConfig(**_SMALL, **_WIDE, use_parallel_residual=False),
    "mistral-window": lambda: MistralConfig(**_ROPE, sliding_window=3),
    "gemma2": lambda: Gemma2Config(
        **_ROPE, head_dim=8, sliding_window=3, final_logit_softcapping=5.0, attn_logit_softcapping=4.0
    ),
    "olmo2": lambda: Olmo2Config(**_ROPE),
    "mixtral": lambda: MixtralConfig(**_ROPE, num_local_experts=4, num_experts_per_tok=2),
    "cohere": lambda: CohereConfig(**_ROPE, logit_scale=0.5),
    "opt": lambda: OPTConfig(**_SMALL, ffn_dim=48, max_position_embeddings=32, word_embed_proj_dim=32),
    "bloom": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=3, n_head=4),
    "falcon": lambda: FalconConfig(**_FALCON, new_decoder_architecture=True, num_kv_heads=2, parallel_attn=True),
    "falcon-alibi": lambda: FalconConfig(**_FALCON, alibi=True, multi_query=False, parallel_attn=False),
}
"""Sequential and parallel blocks, shared and separate norms, post-norms and sandwiches, ALiBi, windows
shorter than the prompts, mixtures of experts, soft-caps, scaled logits."""


@cache
def tiny(name, dtype=torch.float64, attention=None, granularity="layer", device="cpu"):
    """Return the mechanisms of a tiny model by name; never changed, so shared by all tests."""
    config = CONFIGS[name]()
    config._experts_implementation = "eager"  # the grouped products know no float64
    if attention is not None:
        config._attn_implementation = attention
    return compile_model(randomise(build(config, dtype=dtype)).to(device), granularity=granularity, name=name)


@cache
def wide(dtype, device):
    """Return a model whose rows take memory that can be measured."""
    config = LlamaConfig(
        **_ROPE
        | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "max_position_embeddings": 64}
    )
    return compile_model(randomise(build(config, dtype=dtype)).to(device), name="wide")


@cache
def small(model_type):
    """Return a small random copy of a family."""
    # XGLM's masks do not know float64.
    dtype = torch.float32 if model_type == "xglm" else torch.float64
    chunks = {"mamba_chunk_size": 4} if hasattr(AutoConfig.for_model(model_type), "mamba_chunk_size") else {}
    hf = small_model(model_type, dtype=dtype, **chunks)  # state-space mixers pad to whole chunks
    hf.config._experts_implementation = "eager"
    return compile_model(hf, name=model_type)


def reference(node):
    """Return the reference by which a sentence names a node."""
    return Component.of(node)


@cache
def tolerance(mechanisms):
    """Return how far a planned result may be from the plain one, relative to the size of the logits."""
    ids = torch.randint(0, mechanisms.vocab, (2, 7), generator=torch.Generator().manual_seed(0))
    return tolerance_of(mechanisms, ids.to(mechanisms.device))


LENGTHS = (5, 7, 5, 7, 7)


def random_ids(vocab, lengths, seed):
    rng = np.random.default_rng(seed)
    return tuple(tuple(int(token) for token in rng.integers(3, vocab, length)) for length in lengths)


@cache
def inputs_of(vocab, width, draws=2, lengths=LENGTHS, seed=0):
    """Return prompts of two lengths, each with donors of its own length, pairs, spans and vectors."""
    same = [[other for other in range(len(lengths)) if other != own and lengths[other] == lengths[own]]
            for own in range(len(lengths))]  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    spans = tuple({"subject": (1 + index % 2, 3 + index % 2)} for index in range(len(lengths)))
    return Inputs(
        random_ids(vocab, lengths, seed),
        spans=spans,
        donors=np.array([[found[draw % len(found)] for draw in range(draws)] for found in same]),
        pairs={"other": Inputs(random_ids(vocab, lengths, seed + 1), spans=spans)},
        vectors={
            "one": torch.randn(width, generator=generator, dtype=torch.float64),
            "each": torch.randn(len(lengths), width, generator=generator, dtype=torch.float64),
        },
        seed=seed,
    )


def inputs_for(mechanisms, **more):
    """Return prompts for a model."""
    return inputs_of(min(mechanisms.vocab, mechanisms.readout.weight.shape[0]), mechanisms.width, **more)
