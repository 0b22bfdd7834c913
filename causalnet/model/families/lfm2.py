"""LFM2: short convolutions in most layers, attention in the others."""

from causalnet.model.record import Family, Part, Window

RECORDS = (
    Family(
        ("lfm2", "lfm2_moe"),
        norm="model.embedding_norm",
        attn=(
            Part(
                "conv",
                norm="operator_norm",
                out="out_proj",
                heads="",
                mixer="convolution",
                cached=False,
                window=Window("conv_L_cache"),
            ),
            Part("self_attn", norm="operator_norm", out="out_proj"),
        ),
        mlp=(Part("feed_forward", norm="ffn_norm"),),
    ),
)
