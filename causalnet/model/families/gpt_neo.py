"""GPT-Neo: sequential, every other layer with a local window."""

from causalnet.model.record import Family, Part, Window

RECORDS = (
    Family(
        ("gpt_neo",),
        layers="transformer.h",
        norm="transformer.ln_f",
        attn=(
            Part(
                "attn", norm="ln_1", out="attention.out_proj", window=Window("window_size", "attention_layers", "local")
            ),
        ),
        mlp=(Part("mlp", norm="ln_2"),),
    ),
)
