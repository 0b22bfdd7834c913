"""Filters: which prompts are kept, with a count of what was dropped and why."""

from typing import Any

from causalnet.prompts.collection import Prompts
from causalnet.prompts.tokens import Tokenizer, answer_tokens, token_ids

__all__ = ["by_feature", "single_token_answers"]


def single_token_answers(prompts: Prompts, tokenizer: Tokenizer) -> Prompts:
    """Keep the prompts whose answer is exactly one token.

    Parameters
    ----------
    prompts
        The prompts.
    tokenizer
        As for `causalnet.prompts.encode`.

    Returns
    -------
    Prompts
        Its ``dropped`` has one record for each reason: no answer, an answer that cannot be read,
        an answer of several tokens.

    Raises
    ------
    PromptError
        If no prompt is left.

    Examples
    --------
    >>> def tokenizer(text):
    ...     return {"input_ids": [len(word) for word in text.split()]}
    >>> prompts = Prompts.from_texts(["Big Ben is in", "The White House is in"], ["London", "Washington DC"])
    >>> kept = single_token_answers(prompts, tokenizer)
    >>> print(len(kept), kept.dropped[0])
    1 1 of 2 prompts dropped: the answer has more than one token (first: 'The White House is in')
    """
    reasons: list[str] = []
    for prompt in prompts:
        read = answer_tokens(tokenizer, prompt, token_ids(tokenizer, prompt.text))
        reasons.append(read.reason if len(read.ids) < 2 else "the answer has more than one token")
    kept = prompts
    for reason in dict.fromkeys(reason for reason in reasons if reason):
        kept = kept.select([other != reason for other in reasons], reason)
        reasons = [other for other in reasons if other != reason]
    return kept


def by_feature(prompts: Prompts, name: str, values: Any) -> Prompts:
    """Keep the prompts whose feature has one of the values.

    Parameters
    ----------
    prompts
        The prompts.
    name
        The feature's name.
    values
        One value, or a list, tuple or set of values.

    Raises
    ------
    UnknownNameError
        If no prompt has the feature.
    PromptError
        If no prompt is left; the legal values are named.

    Examples
    --------
    >>> rows = [{"prompt": "Big Ben is in", "relation": "P131"}, {"prompt": "Paris is in", "relation": "P30"}]
    >>> by_feature(Prompts.from_records(rows), "relation", ["P30", "P103"]).texts
    ('Paris is in',)
    """
    return prompts.where_feature(name, values)
