"""BLOOM: sequential; both modules add the residual stream themselves, so their last projection contributes."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("bloom",),
        layers="transformer.h",
        norm="transformer.ln_f",
        attn=(Part("self_attention", source="self_attention.dense", norm="input_layernorm", out="dense"),),
        mlp=(Part("mlp", source="mlp.dense_4h_to_h", norm="post_attention_layernorm"),),
    ),
)
