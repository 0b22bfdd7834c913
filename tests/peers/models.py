"""Tiny models for the comparison, and where each keeps what it adds to the residual stream."""

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
)

from causalnet.model.shrink import build, randomise

STORIES = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K"
_SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_WIDE = _SMALL | {"intermediate_size": 48, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2}
_ROPE = _WIDE | {"num_key_value_heads": 2}
_GPT2 = {
    "vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_POST = {
    "attn": "model.layers.{}.post_attention_layernorm",
    "mlp": "model.layers.{}.post_feedforward_layernorm",
}
_LLAMA = {"attn": "model.layers.{}.self_attn", "mlp": "model.layers.{}.mlp"}


@dataclass(frozen=True)
class Family:
    """A kind of model: its config, and the modules whose outputs enter the residual stream.

    ``exact`` says that no module of the family casts to float32, so that float64 is kept throughout.
    """

    config: object
    paths: dict
    norm: str
    exact: bool
    post_norm: bool = False


FAMILIES = {
    "gpt2-sequential": Family(
        lambda: GPT2Config(**_GPT2),
        {"attn": "transformer.h.{}.attn", "mlp": "transformer.h.{}.mlp"},
        "transformer.ln_f",
        exact=True,
    ),
    "llama-sequential": Family(lambda: LlamaConfig(**_ROPE), _LLAMA, "model.norm", exact=False),
    "neox-parallel": Family(
        lambda: GPTNeoXConfig(**_WIDE, use_parallel_residual=True),
        {"attn": "gpt_neox.layers.{}.attention", "mlp": "gpt_neox.layers.{}.mlp"},
        "gpt_neox.final_layer_norm",
        exact=True,
    ),
    "gemma2-sandwich": Family(
        lambda: Gemma2Config(**_ROPE, head_dim=8, sliding_window=4, final_logit_softcapping=None),
        _POST,
        "model.norm",
        exact=False,
        post_norm=True,
    ),
    "olmo2-post-norm": Family(lambda: Olmo2Config(**_ROPE), _POST, "model.norm", exact=False, post_norm=True),
    "stories260K": Family(None, _LLAMA, "model.norm", exact=False),
}


@cache
def _original(name):
    if name == "stories260K":
        return AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float64).eval()
    return randomise(build(FAMILIES[name].config(), dtype=torch.float64))


def fresh(name):
    """Return a copy of a tiny model of its own, in float64; some peers rebuild the model they are given."""
    return copy.deepcopy(_original(name)).requires_grad_(False)


def reach(root, path):
    """Return the submodule (or the peer's stand-in for it) at a dotted path."""
    for part in path.split("."):
        root = root[int(part)] if part.isdigit() else getattr(root, part)
    return root


def nodes_of(hf):
    """Return (kind, layer) of every contribution, in order of computation."""
    return [(kind, layer) for layer in range(hf.config.num_hidden_layers) for kind in ("attn", "mlp")]
