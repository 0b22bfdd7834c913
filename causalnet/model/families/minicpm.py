"""MiniCPM: contributions scaled by depth, logits by width."""

from typing import Any

from causalnet.model.record import Family, Part


def _residual_scale(config: Any) -> float:
    return config.scale_depth / config.num_hidden_layers**0.5


def _logit_scale(config: Any) -> float:
    return config.dim_model_base / config.hidden_size


RECORDS = (
    Family(
        ("minicpm3",),
        attn=(Part("self_attn", norm="input_layernorm", out="o_proj", scale=_residual_scale),),
        mlp=(Part("mlp", norm="post_attention_layernorm", scale=_residual_scale),),
        logit_scale=_logit_scale,
    ),
)
