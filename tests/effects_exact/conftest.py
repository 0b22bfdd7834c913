"""Small real transformers, compiled once."""

import numpy as np
import pytest

from causalnet.effects.asking import PromptedModel
from causalnet.engine.sources import Inputs
from causalnet.model.compile import compile_model
from causalnet.model.shrink import build, randomise

LENGTHS = (5, 6, 5, 6)


def tiny(kind):
    """Return a small random model of a family, in float64, eager attention."""
    import torch
    from transformers import AutoConfig

    sizes = {
        "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 50, "n_positions": 32},
        "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
                     "vocab_size": 50, "max_position_embeddings": 32},
        "gemma2": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
                   "intermediate_size": 48, "vocab_size": 50, "head_dim": 16, "final_logit_softcapping": 4.0},
        "llama": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
                  "intermediate_size": 48, "vocab_size": 50},
    }[kind]  # fmt: skip
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **sizes, **tokens)
    return randomise(build(config, dtype=torch.float64), seed=1)


def inputs_of(vocab=50, lengths=LENGTHS, **more):
    """Return prompts of two lengths; donors are prompts of the same length."""
    rng = np.random.default_rng(5)
    ids = tuple(tuple(int(token) for token in rng.integers(1, vocab, length)) for length in lengths)
    pair = Inputs(tuple(tuple(int(token) for token in rng.integers(1, vocab, length)) for length in lengths))
    donors = np.array([[2, 2], [3, 3], [0, 0], [1, 1]]) if "donors" not in more else more.pop("donors")
    return Inputs(ids, donors=donors, pairs={"corrupt": pair}, **more)


@pytest.fixture(scope="session")
def prompted():
    """A maker of compiled models on prompts, each made once; its argument is the family."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = PromptedModel(compile_model(tiny(kind)), inputs_of())
        return made[kind]

    return make


@pytest.fixture
def tiny_model():
    """A maker of small random models that a test may change."""
    return tiny


def pytest_terminal_summary(terminalreporter):
    """Print the largest closure residual of the families that were run."""
    found = [value for report in terminalreporter.getreports("passed") for key, value in report.user_properties
             if key == "closure"]  # fmt: skip
    for ending in ("float64", "float32"):
        sizes = {name: (size, bound) for name, size, bound in found if name.endswith(ending)}
        if sizes:
            name = max(sizes, key=lambda one: sizes[one][0] / sizes[one][1])
            terminalreporter.write_line(
                f"closure of {len(sizes)} families in {ending}: largest share of its bound at {name}, "
                f"{sizes[name][0]:.1e} of |logit| (bound {sizes[name][1]:.0e})"
            )
