"""Prompts: texts, answers, named spans, features and pairs, and what a tokenizer makes of them.

The tokenizer is always an argument (anything that is called as a Hugging Face tokenizer is),
so nothing here loads a model.
"""

from causalnet.prompts.collection import Prompts
from causalnet.prompts.cuts import next_token_prompts
from causalnet.prompts.donors import DonorPool, choose_donors
from causalnet.prompts.encode import Encoded, encode
from causalnet.prompts.filters import by_feature, single_token_answers
from causalnet.prompts.frozen import FrozenMap
from causalnet.prompts.prompt import Dropped, Prompt

__all__ = [
    "DonorPool",
    "Dropped",
    "Encoded",
    "FrozenMap",
    "Prompt",
    "Prompts",
    "by_feature",
    "choose_donors",
    "encode",
    "next_token_prompts",
    "single_token_answers",
]
