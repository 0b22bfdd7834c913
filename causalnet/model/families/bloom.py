"""BLOOM: sequential; both modules add the residual stream themselves, so their last projection contributes."""

from typing import Any

from causalnet.model.record import Family, Part


def _refuse(config: Any) -> str:
    if not config.apply_residual_connection_post_layernorm:
        return ""
    return (
        "with apply_residual_connection_post_layernorm=True the residual stream itself passes through the norms, so "
        "contributions do not sum to the logits; use a BLOOM without it (all published sizes)"
    )


RECORDS = (
    Family(
        ("bloom",),
        layers="transformer.h",
        norm="transformer.ln_f",
        attn=(Part("self_attention", source="self_attention.dense", norm="input_layernorm", out="dense"),),
        mlp=(Part("mlp", source="mlp.dense_4h_to_h", norm="post_attention_layernorm"),),
        refuse=_refuse,
    ),
)
