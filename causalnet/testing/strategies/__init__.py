"""Strategies for hypothesis: graphs, networks, tiny transformers, prompts, interventions, do-expressions."""

from causalnet.testing.strategies.models import (
    QUICK_FAMILIES,
    blocks,
    field_networks,
    graphs,
    linear_models,
    linear_networks,
    motif_networks,
    prompts,
    tiny_model,
    tiny_models,
)
from causalnet.testing.strategies.queries import assignments, do_expressions, interventions
from causalnet.testing.strategies.sentences import Sentence, sentences
from causalnet.testing.strategies.worlds import OFFER, Offer, arrows, outcomes, places, readings, values, worlds

__all__ = [
    "OFFER",
    "QUICK_FAMILIES",
    "Offer",
    "Sentence",
    "arrows",
    "assignments",
    "blocks",
    "do_expressions",
    "field_networks",
    "graphs",
    "interventions",
    "linear_models",
    "linear_networks",
    "motif_networks",
    "outcomes",
    "places",
    "prompts",
    "readings",
    "sentences",
    "tiny_model",
    "tiny_models",
    "values",
    "worlds",
]
