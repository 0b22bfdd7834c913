"""Jamba and Bamba: state-space mixers in most layers, attention in the others, an MLP or experts in all."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("jamba", "bamba"),
        norm="model.final_layernorm",
        attn=(
            Part("mamba", norm="input_layernorm", out="out_proj", heads="", mixer="recurrent", cached=False),
            Part("self_attn", norm="input_layernorm", out="o_proj", cached=False),
        ),
        mlp=(Part("feed_forward", norm="pre_ff_layernorm"),),
    ),
)
