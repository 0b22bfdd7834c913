"""StableLM: sequential, or parallel behind one norm, as its config says."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("stablelm",),
        mlp=(Part("mlp", norm="post_attention_layernorm"), Part("mlp", norm="input_layernorm")),
        parallel=lambda config: bool(config.use_parallel_residual),
    ),
)
