"""A small random model of any family that ``transformers`` knows, to try things on."""

from typing import Any

import torch

from causalnet.errors import InputError, explain
from causalnet.model.shrink import small_copy

__all__ = ["small_model"]

_SCALED = {"residual_multiplier": 0.22, "logits_scaling": 8.0, "embedding_multiplier": 12.0}
_MIXED = ("conv", "conv", "full_attention", "conv")

_FIELDS: dict[str, dict[str, Any]] = {
    # Multipliers whose default is one would show nothing.
    "granite": _SCALED,
    "granitemoe": _SCALED,
    "granitemoeshared": {**_SCALED, "shared_intermediate_size": 1024},
    "granitemoehybrid": {**_SCALED, "shared_intermediate_size": 1024, "layer_types": ["mamba", "attention"] * 16},
    "falcon_h1": {"ssm_out_multiplier": 0.7, "attention_out_multiplier": 0.6, "lm_head_multiplier": 0.3},
    # Defaults that leave the interesting layers out, or cannot be built.
    "lfm2": {"layer_types": list(_MIXED) * 8},
    "lfm2_moe": {"layer_types": list(_MIXED) * 8},
    "starcoder2": {"sliding_window": 4096},
    "mixtral": {"sliding_window": 4096},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
}


def small_model(model_type: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **fields: Any) -> Any:
    """Build a small random causal LM of a family, with at least one layer of each kind.

    Parameters
    ----------
    model_type
        As in ``config.model_type``.
    seed, dtype
        Of the random weights; no gain is one and no bias zero.
    **fields
        Fields of the (full-size) config that are set before it is shrunk.

    Returns
    -------
    transformers.PreTrainedModel
        In eval mode, a few hundred thousand parameters.

    Raises
    ------
    InputError
        If ``transformers`` knows no such type, or its config refuses the fields.
    UnsupportedModelError
        If no small model can be built from the config.

    Examples
    --------
    >>> model = small_model("llama")
    >>> model.config.hidden_size, model.config.num_attention_heads
    (64, 4)
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    known = list(CONFIG_MAPPING.keys())
    if model_type not in known:
        raise InputError(explain(f"unknown model type {model_type!r}", legal=known, got=model_type))
    try:
        config = CONFIG_MAPPING[model_type](**{**_FIELDS.get(model_type, {}), **fields})
    except Exception as error:  # whatever a stranger's constructor raises
        raise InputError(f"{model_type}: its config refuses these fields: {error}") from error
    return small_copy(None, config, seed=seed, dtype=dtype)
