"""Qwen3-Next and Qwen3.5: gated delta rules in most layers, gated attention in the others."""

from causalnet.model.record import ATTENTION, Family, Part

RECORDS = (
    Family(
        ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
        attn=(
            Part("linear_attn", norm="input_layernorm", out="out_proj", heads="", mixer="recurrent", cached=False),
            ATTENTION,
        ),
    ),
)
