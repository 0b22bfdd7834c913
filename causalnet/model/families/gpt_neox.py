"""GPT-NeoX (Pythia): parallel with two norms, or sequential, as its config says."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("gpt_neox",),
        layers="gpt_neox.layers",
        norm="gpt_neox.final_layer_norm",
        attn=(Part("attention", norm="input_layernorm", out="dense"),),
        parallel=lambda config: bool(config.use_parallel_residual),
    ),
)
