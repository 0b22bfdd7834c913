"""Sparse latent attention (DeepSeek V3.2 and its kin): beside keys and values it keeps an index of them."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("deepseek_v32", "glm_moe_dsa"), attn=(Part("self_attn", norm="input_layernorm", out="o_proj", cached=False),)
    ),
)
