"""Whole experiments, from a model and prompts to a run folder."""
