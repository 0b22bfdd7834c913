"""OPT: sequential; the MLP is two linear modules of the layer, so its contribution is what ``fc2`` returns."""

from typing import Any

from causalnet.model.record import Family, Part


def _refuse(config: Any) -> str:
    if config.do_layer_norm_before:
        return ""
    return (
        "with do_layer_norm_before=False (OPT-350m) it is a post-norm trunk: a norm rewrites the residual stream after "
        "every mechanism, so contributions do not sum to the logits; use another size of OPT"
    )


RECORDS = (
    Family(
        ("opt",),
        layers="model.decoder.layers",
        norm="model.decoder.final_layer_norm",
        attn=(Part("self_attn", norm="self_attn_layer_norm", out="out_proj"),),
        mlp=(Part(source="fc2", norm="final_layer_norm"),),
        refuse=_refuse,
    ),
)
