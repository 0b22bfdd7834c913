"""Granite: contributions and logits are scaled by the config; its hybrids mix states or attention."""

from causalnet.model.record import Family, Part

_SCALE = "residual_multiplier"
_ATTENTION = Part("self_attn", norm="input_layernorm", out="o_proj", scale=_SCALE)
_STATE = Part("mamba", norm="input_layernorm", out="out_proj", heads="", scale=_SCALE, mixer="recurrent", cached=False)
_NORM = "post_attention_layernorm"

RECORDS = (
    Family(
        ("granite",),
        attn=(_ATTENTION,),
        mlp=(Part("mlp", norm=_NORM, scale=_SCALE),),
        logit_scale="/logits_scaling",
    ),
    Family(
        ("granitemoe",),
        attn=(_ATTENTION,),
        mlp=(Part("block_sparse_moe", norm=_NORM, scale=_SCALE),),
        logit_scale="/logits_scaling",
    ),
    Family(
        ("granitemoeshared", "granitemoehybrid"),
        attn=(_STATE, _ATTENTION),
        mlp=(
            # The layer itself adds the shared expert to the routed ones.
            Part(
                "block_sparse_moe", source="shared_mlp", also=(("block_sparse_moe", _SCALE),), norm=_NORM, scale=_SCALE
            ),
            Part("block_sparse_moe", norm=_NORM, scale=_SCALE),
            Part("shared_mlp", norm=_NORM, scale=_SCALE),
        ),
        logit_scale="/logits_scaling",
    ),
)
