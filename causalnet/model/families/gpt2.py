"""GPT-2 and GPT-BigCode: sequential, LayerNorm, learned positions."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("gpt2", "gpt_bigcode"),
        layers="transformer.h",
        norm="transformer.ln_f",
        attn=(Part("attn", norm="ln_1", out="c_proj"),),
        mlp=(Part("mlp", norm="ln_2"),),
    ),
)
