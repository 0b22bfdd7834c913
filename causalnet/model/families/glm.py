"""GLM-4 (0414): a norm before and after each mechanism."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("glm4",),
        attn=(Part("self_attn", source="post_self_attn_layernorm", norm="input_layernorm", out="o_proj"),),
        mlp=(Part("mlp", source="post_mlp_layernorm", norm="post_attention_layernorm"),),
    ),
)
