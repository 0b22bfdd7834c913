"""Hugging Face models as the mechanisms of a structural causal model."""
