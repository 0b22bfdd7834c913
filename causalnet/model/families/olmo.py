"""OLMo 2 and 3, EXAONE 4: mechanisms read the residual stream directly, a norm comes after them."""

from causalnet.model.record import Family, Part

_ATTENTION = Part("self_attn", source="post_attention_layernorm", out="o_proj")
_MLP = Part("mlp", source="post_feedforward_layernorm")

RECORDS = (
    Family(("olmo2", "olmo3", "exaone4", "flex_olmo"), attn=(_ATTENTION,), mlp=(_MLP,)),
    Family(
        ("olmo_hybrid",),
        attn=(
            Part("linear_attn", norm="input_layernorm", out="o_proj", heads="", mixer="recurrent", cached=False),
            _ATTENTION,
        ),
        mlp=(
            Part("mlp", norm="post_attention_layernorm", classes=("OlmoHybridLinearAttentionDecoderLayer",)),
            _MLP,
        ),
    ),
)
