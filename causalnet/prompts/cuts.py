"""Next-token prompts from running text: each text cut where a token ends."""

from collections.abc import Iterable

import numpy as np

from causalnet.errors import PromptError, explain
from causalnet.prompts.collection import Prompts
from causalnet.prompts.prompt import Prompt, place
from causalnet.prompts.tokens import Tokenizer, token_ids, token_offsets

__all__ = ["next_token_prompts"]

# Keeps the cuts' random numbers apart from those of other parts that use the same seed.
STREAM = 0x63757473


def next_token_prompts(
    prompts: Prompts,
    tokenizer: Tokenizer,
    *,
    positions: Iterable[int] | None = None,
    per_text: int = 1,
    shortest: int = 8,
    longest: int | None = None,
    seed: int = 0,
) -> Prompts:
    """Cut texts into prompts whose answer is the token that really comes next.

    A cut after token t is made only where the beginning of the text, tokenised by itself, has
    the first tokens of the whole text, and the beginning with the answer one more: a prompt is
    then read exactly as the model reads it within the text.

    Parameters
    ----------
    prompts
        Texts, for example from a plain-text file; their answers, spans and pairs are not used,
        their features are kept.
    tokenizer
        As for `causalnet.prompts.encode`; it must be able to tell offsets (``is_fast``).
    positions
        The lengths, in tokens, at which to cut each text; those that cannot be cut in a text are
        passed over. None draws ``per_text`` of the possible ones at random, by seed and text.
    per_text
        How many cuts to draw from each text, at most.
    shortest, longest
        The least and largest number of tokens of a prompt that is drawn.
    seed
        A whole number, 0 or larger.

    Returns
    -------
    Prompts
        With ``join=""`` and the features ``text_index`` and ``tokens``; texts without a possible
        cut are counted in ``dropped``.

    Raises
    ------
    PromptError
        If no text can be cut, or the tokenizer cannot tell offsets.

    Examples
    --------
    >>> import re
    >>> class Words:
    ...     is_fast = True
    ...     def __call__(self, text, return_offsets_mapping=False):
    ...         found = [match.span() for match in re.finditer(r" ?[^ ]+", text)]
    ...         return {"input_ids": [right - left for left, right in found], "offset_mapping": found}
    >>> cut = next_token_prompts(Prompts(("One day a girl found a needle",)), Words(), positions=[3, 5])
    >>> [(prompt.text, prompt.answer) for prompt in cut]
    [('One day a', ' girl'), ('One day a girl found', ' a')]
    """
    if per_text < 1 or shortest < 1:
        raise PromptError(explain("per_text and shortest must be at least 1", mend="give whole numbers of at least 1"))
    wanted = None if positions is None else set(positions)
    cut: list[Prompt] = []
    kept: list[bool] = []
    for index, prompt in enumerate(prompts):
        generator = np.random.default_rng(np.random.SeedSequence((STREAM, seed, index)))
        made = _cuts(prompt, index, tokenizer, wanted, per_text, (shortest, longest), generator)
        cut += made
        kept.append(bool(made))
    left = prompts.select(kept, "no place between tokens where the text can be cut")
    return Prompts(tuple(cut), name=prompts.name, dropped=left.dropped, notes=prompts.notes)


def _cuts(
    prompt: Prompt,
    index: int,
    tokenizer: Tokenizer,
    wanted: set[int] | None,
    per_text: int,
    bounds: tuple[int, int | None],
    generator: np.random.Generator,
) -> list[Prompt]:
    text = prompt.text
    ids = token_ids(tokenizer, text, place(prompt, index))
    offsets = token_offsets(tokenizer, text, len(ids))
    if offsets is None:
        what = "the tokenizer cannot tell where its tokens are in the text"
        raise PromptError(explain(what, where=place(prompt, index), mend="use a fast tokenizer"))
    shortest, longest = bounds
    if wanted is None:
        possible = range(shortest, min(len(ids) - 1, longest or len(ids)) + 1)
        order = [int(length) for length in generator.permutation(possible)]
    else:
        order = sorted(length for length in wanted if 0 < length < len(ids))
    found: list[Prompt] = []
    for length in order:
        end, stop = offsets[length - 1][1], offsets[length][1]
        head, answer = text[:end], text[end:stop]
        if not head.strip() or not answer.strip():
            continue
        if token_ids(tokenizer, head) != ids[:length] or token_ids(tokenizer, head + answer) != ids[: length + 1]:
            continue
        features = {**prompt.features, "text_index": index, "tokens": length}
        found.append(Prompt(head, answer, features=features, join="", origin=prompt.origin))
        if wanted is None and len(found) == per_text:
            break
    return sorted(found, key=lambda made: len(made.text))
