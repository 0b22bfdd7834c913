"""The run record: what a reader needs to make a result again."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from causalnet.model.identity import versions

if TYPE_CHECKING:
    from causalnet.model.mechanism import Mechanisms

__all__ = ["run_record"]


def run_record(
    mechanisms: "Mechanisms", *, seed: int, given: Mapping[str, Any], defaulted: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how a result was made.

    Parameters
    ----------
    mechanisms
        The compiled model.
    seed
        Seed of donors, noise and resampling.
    given, defaulted
        The arguments that the caller chose, and those that were left at their defaults.

    Returns
    -------
    dict
        ``model``, ``revision``, ``dtype``, ``device``, ``attention``, ``versions``, ``seed`` and
        ``arguments``; plain values that JSON can hold.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from causalnet.model.compile import compile_model
    >>> config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...                      num_attention_heads=1, num_key_value_heads=1)
    >>> record = run_record(compile_model(LlamaForCausalLM(config).eval()), seed=0, given={}, defaulted={"donors": 15})
    >>> record["dtype"], record["device"], record["arguments"]["defaulted"]
    ('float32', 'cpu', {'donors': 15})
    """
    config = mechanisms.config
    return {
        "model": mechanisms.name,
        "revision": getattr(config, "_commit_hash", None),
        "dtype": str(mechanisms.dtype).removeprefix("torch."),
        "device": str(mechanisms.device),
        "attention": getattr(config, "_attn_implementation", None),
        "versions": versions(),
        "seed": seed,
        "arguments": {"given": dict(given), "defaulted": dict(defaulted)},
    }
