"""What a tokenizer makes of one text: its ids, the token range of a span, the tokens of an answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from causalnet.errors import PromptError, explain
from causalnet.prompts.prompt import Prompt, place, shorten

__all__ = ["AnswerTokens", "Tokenizer", "answer_tokens", "locate", "token_ids", "token_offsets", "token_range"]

Tokenizer = Callable[..., Any]
Ids = tuple[int, ...]


def token_ids(tokenizer: Tokenizer, text: str, where: str = "") -> Ids:
    """Return the ids of ``tokenizer(text)``, default special tokens included.

    Raises
    ------
    PromptError
        If the tokenizer is none, or gives something other than one flat list of ids.
    """
    if not callable(tokenizer):
        what = f"the tokenizer cannot be called (it is a {type(tokenizer).__name__})"
        mend = "give a Hugging Face tokenizer, or a function of a text that returns {'input_ids': [...]}"
        raise PromptError(explain(what, mend=mend))
    encoded = tokenizer(text)
    try:
        return tuple(int(token) for token in encoded["input_ids"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"the tokenizer gave no flat list of ids under 'input_ids' ({type(error).__name__}: {error})"
        raise PromptError(explain(what, where=where, mend="it must work as tokenizer(text)['input_ids']")) from None


# -- spans -----------------------------------------------------------------------------------


def locate(prompt: Prompt, name: str, index: int | None = None) -> tuple[int, int]:
    """Return a span's half-open range of characters.

    Raises
    ------
    PromptError
        If its words are not in the text, or are there more than once.

    Examples
    --------
    >>> locate(Prompt("Big Ben is in", spans={"subject": "Ben"}), "subject")
    (4, 7)
    """
    span = prompt.spans[name]
    if isinstance(span, tuple):
        return span
    found = [start for start in range(len(prompt.text)) if prompt.text.startswith(span, start)]
    if len(found) == 1:
        return found[0], found[0] + len(span)
    where = place(prompt, index)
    if found:
        places = ", ".join(str(start) for start in found[:4])
        what = f"span {name!r} ({shorten(span)}) is ambiguous: it occurs {len(found)} times, at characters {places}"
        mend = f"give its range of characters: [{found[0]}, {found[0] + len(span)}]"
        raise PromptError(explain(what, where=where, mend=mend))
    other = prompt.text.lower().find(span.lower())
    mend = "the words must be in the prompt as they stand"
    if other >= 0:
        mend = f"the prompt writes it {prompt.text[other : other + len(span)]!r}"
    raise PromptError(explain(f"span {name!r} ({shorten(span)}) is not in the prompt", where=where, mend=mend))


def token_range(tokenizer: Tokenizer, prompt: Prompt, ids: Ids, name: str, index: int | None = None) -> tuple[int, int]:
    """Return a span's half-open range of tokens: every token that covers a part of it.

    White space at the span's ends does not count, so a token that holds the space before a word
    belongs to the word, and a token of the space alone does not. The exception is the space that
    some tokenizers put before a text: its token belongs to the first word.

    Raises
    ------
    PromptError
        As `locate`, and if no token covers the span.
    """
    start, end = locate(prompt, name, index)
    words = prompt.text[start:end]
    start, end = start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())
    offsets = token_offsets(tokenizer, prompt.text, len(ids))
    if offsets is None:
        first, stop = _range_by_prefixes(tokenizer, prompt.text, ids, start, end)
    else:
        covering = [
            token for token, (left, right) in enumerate(offsets) if left < end and right > start and left < right
        ]
        first, stop = (covering[0], covering[-1] + 1) if covering else (0, 0)
    if first >= stop:
        what = f"span {name!r} ({shorten(prompt.text[start:end])}) is covered by no token"
        raise PromptError(explain(what, where=place(prompt, index), mend="choose a span of whole words"))
    return first, stop


def token_offsets(tokenizer: Tokenizer, text: str, length: int) -> list[tuple[int, int]] | None:
    """Return each token's range of characters, or None where the tokenizer cannot tell."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    encoded = tokenizer(text, return_offsets_mapping=True)
    offsets = encoded.get("offset_mapping") if isinstance(encoded, Mapping) else encoded["offset_mapping"]
    if offsets is None or len(offsets) != length:
        return None
    return [(int(left), int(right)) for left, right in offsets]


def _range_by_prefixes(tokenizer: Tokenizer, text: str, ids: Ids, start: int, end: int) -> tuple[int, int]:
    """Find the token range from the tokenizations of the text's beginnings.

    Where the ids of ``text[:c]`` begin the ids of the whole text, a token ends at c. The range
    runs from the last such place at or before the span to the first at or after it.
    """
    suffix = _appended(tokenizer, text, ids)

    def tokens_before(stop: int) -> int | None:
        part = token_ids(tokenizer, text[:stop])
        part = part[: len(part) - suffix]
        return len(part) if ids[: len(part)] == part else None

    before = (tokens_before(stop) for stop in range(start, -1, -1))
    first = next((count for count in before if count is not None), 0)
    after = (tokens_before(stop) for stop in range(end, len(text)))
    stop = next((count for count in after if count is not None), len(ids) - suffix)
    return first, stop


def _appended(tokenizer: Tokenizer, text: str, ids: Ids) -> int:
    """Count the special tokens that the tokenizer puts after every text."""
    empty = token_ids(tokenizer, "")
    longer = token_ids(tokenizer, text + " " + text)
    count = 0
    while count < min(len(empty), len(ids), len(longer)) and empty[-1 - count] == ids[-1 - count] == longer[-1 - count]:
        count += 1
    # A token put before every text is the last of the empty text too; it then begins the ids.
    return count if ids[: len(empty) - count] == empty[: len(empty) - count] and count < len(ids) else 0


# -- answers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnswerTokens:
    """The tokens of an answer after its prompt, or the reason why there are none."""

    ids: Ids = ()
    reason: str = ""


def answer_tokens(tokenizer: Tokenizer, prompt: Prompt, ids: Ids) -> AnswerTokens:
    """Find the tokens that the answer adds to the prompt's.

    The text of prompt and answer is tokenised as one, and the prompt's ids must begin the result;
    what follows is the answer. Between them stands ``prompt.join`` where it is set. Otherwise
    nothing is put between where either side has white space there; else a space is tried first,
    then nothing.

    Returns
    -------
    AnswerTokens
        With a ``reason`` and no ids where the answer cannot be read: there is none, the tokenizer
        joins it with the prompt's end, or it is not in the vocabulary.

    Examples
    --------
    >>> def tokenizer(text):
    ...     return {"input_ids": [len(word) for word in text.split()]}
    >>> answer_tokens(tokenizer, Prompt("Big Ben is in", "London"), (3, 3, 2, 2))
    AnswerTokens(ids=(6,), reason='')
    """
    if prompt.answer is None:
        return AnswerTokens(reason="there is no answer")
    if prompt.join is not None:
        joins: tuple[str, ...] = (prompt.join,)
    else:
        spaced = prompt.answer[0].isspace() or prompt.text[-1].isspace()
        joins = ("",) if spaced else (" ", "")
    for join in joins:
        whole = token_ids(tokenizer, prompt.text + join + prompt.answer)
        if len(whole) > len(ids) and whole[: len(ids)] == ids:
            unknown = getattr(tokenizer, "unk_token_id", None)
            if unknown is not None and whole[len(ids)] == unknown:
                return AnswerTokens(reason="the answer's first token is not in the tokenizer's vocabulary")
            return AnswerTokens(whole[len(ids) :])
    if ids and ids == token_ids(tokenizer, prompt.text + joins[0])[: len(ids)] and prompt.text[-1].isspace():
        return AnswerTokens(reason="the tokenizer joins the space at the prompt's end with the answer")
    return AnswerTokens(reason="the tokenizer joins the answer with the prompt's end, or puts a token after each text")
