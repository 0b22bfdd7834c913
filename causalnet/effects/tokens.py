"""Tokens that outcomes name: a string must be one token of the model's tokenizer."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from causalnet.effects.vectors import as_vector
from causalnet.errors import InputError, UnknownNameError, explain
from causalnet.expr.outcomes import Along, Token
from causalnet.prompts.tokens import token_ids

__all__ = ["token_lookup"]


def token_lookup(
    tokenizer: Any, vocab: int, tokens: Iterable[Token], vectors: Mapping[str, Any] | None = None
) -> Callable[[str], int]:
    """Look up every token and every vector that outcomes name, before anything is run.

    A string is one token if the tokenizer makes one token of it, alone or as the continuation of a text
    (``" Mary"`` then is the word after a space, also where the tokenizer puts a space before every text),
    or if it is a piece of the vocabulary as it stands.

    Parameters
    ----------
    tokenizer
        The model's tokenizer.
    vocab
        Number of tokens that the model predicts.
    tokens
        What outcomes read: strings, token numbers, ``target``, vectors to project on.
    vectors
        Vectors [d_model] by name.

    Returns
    -------
    Callable
        From a string to its token's number; where a vector is read along, a
        :class:`causalnet.engine.readings.Lookup` that holds it.

    Raises
    ------
    InputError
        If a string is more than one token (its pieces are listed) or unknown, or a number is too large.
    UnknownNameError
        If a vector is not given.

    Examples
    --------
    >>> def tokenizer(text):
    ...     return {"input_ids": [len(word) for word in text.split()]}
    >>> token_lookup(tokenizer, 10, [" Mary"])(" Mary")
    4
    >>> token_lookup(tokenizer, 10, ["Mary Ann"])
    Traceback (most recent call last):
    ...
    causalnet.errors.InputError: "Mary Ann" is not one token but 2: 4, 3; name one token, or its number
    """
    found: dict[str, int] = {}
    along: dict[str, Any] = {}
    for token in dict.fromkeys(tokens):
        if isinstance(token, Along):
            along[token.name] = _vector(token, vectors or {})
            continue
        if isinstance(token, str):
            found[token] = _single(tokenizer, token)
        number = found.get(token) if isinstance(token, str) else token
        if isinstance(number, int) and number >= vocab:
            raise InputError(f"token {number} does not exist: the model predicts tokens 0 to {vocab - 1}")
    if not along:
        return found.__getitem__
    from causalnet.engine.readings import Lookup

    return Lookup(found.__getitem__, along)


def _vector(token: Along, vectors: Mapping[str, Any]) -> Any:
    """Return a vector that an outcome reads along, as a tensor."""
    if token.name not in vectors:
        mend = f'give vectors={{"{token.name}": v}}'
        raise UnknownNameError(explain(f"{token}: no vector of that name", legal=vectors, got=token.name, mend=mend))
    return as_vector(token.name, vectors[token.name])


def _single(tokenizer: Any, text: str) -> int:
    unknown = getattr(tokenizer, "unk_token_id", None)
    alone = _alone(tokenizer, text)
    before, after = token_ids(tokenizer, "a"), token_ids(tokenizer, "a" + text)
    continued = after[len(before) :] if after[: len(before)] == before else ()
    for ids in (alone, continued):
        if len(ids) == 1 and ids[0] != unknown:
            return ids[0]
    known = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    if text in known:
        return int(known[text])
    shown = f'"{text}"'
    if len(alone) == 1:
        raise InputError(f"{shown} is not in the tokenizer's vocabulary")
    pieces = min((ids for ids in (alone, continued) if ids), key=len, default=())
    words = ", ".join(_piece(tokenizer, token) for token in pieces)
    what = f"{shown} is not one token but {len(pieces)}: {words}" if pieces else f"{shown} is no token"
    raise InputError(explain(what, mend="name one token, or its number"))


def _alone(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the ids of a text without the special tokens that are put around every text."""
    if hasattr(tokenizer, "encode"):
        return tuple(int(token) for token in tokenizer.encode(text, add_special_tokens=False))
    return token_ids(tokenizer, text)


def _piece(tokenizer: Any, token: int) -> str:
    named = tokenizer.convert_ids_to_tokens(token) if hasattr(tokenizer, "convert_ids_to_tokens") else None
    return str(token) if named is None else f'"{named}"'
