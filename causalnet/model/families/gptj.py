"""GPT-J and CodeGen: parallel, both mechanisms behind one norm; the unembedding has a bias."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("gptj", "codegen"),
        layers="transformer.h",
        norm="transformer.ln_f",
        attn=(Part("attn", norm="ln_1", out="out_proj"),),
        mlp=(Part("mlp", norm="ln_1"),),
        parallel=True,
    ),
)
