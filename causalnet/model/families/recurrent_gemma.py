"""RecurrentGemma (Griffin): gated linear recurrences, and attention with a window every third layer."""

from causalnet.model.record import Family, Part, Window

RECORDS = (
    Family(
        ("recurrent_gemma",),
        norm="model.final_norm",
        attn=(
            Part(
                "temporal_block",
                norm="temporal_pre_norm",
                out="linear_out",
                heads="",
                mixer="recurrent",
                cached=False,
                classes=("RecurrentGemmaRecurrentBlock",),
            ),
            Part(
                "temporal_block",
                norm="temporal_pre_norm",
                out="o_proj",
                cached=False,
                window=Window("attention_window_size"),
                classes=("RecurrentGemmaAttention",),
            ),
        ),
        mlp=(Part("mlp_block", norm="channel_pre_norm"),),
        softcap="logits_soft_cap",
    ),
)
