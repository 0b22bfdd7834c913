"""Nemotron-H: every layer is one thing: a state-space mixer, attention, an MLP or experts."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("nemotron_h",),
        norm="model.norm_f",
        attn=(
            Part(
                "mixer",
                norm="norm",
                out="out_proj",
                heads="",
                mixer="recurrent",
                cached=False,
                classes=("NemotronHMamba2Mixer",),
            ),
            Part("mixer", norm="norm", out="o_proj", classes=("NemotronHAttention",)),
        ),
        mlp=(Part("mixer", norm="norm", classes=("NemotronHMLP", "NemotronHMoE")),),
    ),
)
