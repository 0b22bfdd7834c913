"""Cohere (Command R): parallel behind one norm, logits scaled."""

from causalnet.model.record import Family, Part

RECORDS = (
    Family(("cohere", "cohere2"), mlp=(Part("mlp", norm="input_layernorm"),), parallel=True, logit_scale="logit_scale"),
)
