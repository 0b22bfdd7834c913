"""Phi: parallel behind one norm.  Persimmon: the same names, sequential."""

from causalnet.model.record import Family, Part

_ATTENTION = Part("self_attn", norm="input_layernorm", out="dense")

RECORDS = (
    Family(
        ("phi",),
        norm="model.final_layernorm",
        attn=(_ATTENTION,),
        mlp=(Part("mlp", norm="input_layernorm"),),
        parallel=True,
    ),
    Family(("persimmon",), norm="model.final_layernorm", attn=(_ATTENTION,)),
)
