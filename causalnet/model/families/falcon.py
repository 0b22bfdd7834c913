"""Falcon: parallel behind two norms (40B), behind one (7B), or sequential (RW)."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("falcon",),
        layers="transformer.h",
        norm="transformer.ln_f",
        attn=(
            Part("self_attention", norm="ln_attn", out="dense"),
            Part("self_attention", norm="input_layernorm", out="dense"),
        ),
        mlp=(
            Part("mlp", norm="ln_mlp"),
            Part("mlp", norm="post_attention_layernorm"),
            Part("mlp", norm="input_layernorm"),
        ),
        parallel=lambda config: bool(config.new_decoder_architecture or config.parallel_attn),
    ),
)
