"""Gemma 2 and 3: a norm before and after each mechanism; sliding windows; capped logits.  VaultGemma: before only."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(
        ("gemma2", "gemma3_text"),
        attn=(Part("self_attn", source="post_attention_layernorm", norm="input_layernorm", out="o_proj"),),
        mlp=(Part("mlp", source="post_feedforward_layernorm", norm="pre_feedforward_layernorm"),),
        softcap="final_logit_softcapping",
    ),
    Family(("vaultgemma",), mlp=(Part("mlp", norm="pre_feedforward_layernorm"),), softcap="final_logit_softcapping"),
)
