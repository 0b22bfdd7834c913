"""MPT: sequential; the MLP adds the residual stream itself, so its last projection contributes."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("mpt",),
        layers="transformer.blocks",
        norm="transformer.norm_f",
        attn=(Part("attn", norm="norm_1", out="out_proj"),),
        mlp=(Part("ffn", source="ffn.down_proj", norm="norm_2"),),
    ),
)
