"""Positions in a prompt: one token, a half-open range of tokens, or a named span."""

import json
import keyword
from collections.abc import Mapping
from dataclasses import dataclass

from causalnet.errors import ExpressionError, InputError, UnknownNameError, explain

__all__ = ["LAST", "At", "Position", "Range", "Span", "indices", "last", "pos", "position_key", "span", "spell"]


def _whole(index: int) -> int:
    """Return a plain int, so that equal positions print alike whatever type they were given as."""
    if isinstance(index, bool) or not hasattr(type(index), "__index__"):
        raise ExpressionError(f"a position is a whole number, not {index!r}")
    return int(index)


@dataclass(frozen=True, slots=True)
class At:
    """One token: ``@0``, ``@-2``; ``@last`` is ``At(-1)``.

    Examples
    --------
    >>> print(At(0), At(-2), At(-1))
    @0 @-2 @last
    """

    index: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", _whole(self.index))

    def __str__(self) -> str:
        return "@last" if self.index == -1 else f"@{self.index}"


@dataclass(frozen=True, slots=True)
class Range:
    """A half-open range of tokens, as in Python: ``@3:6``, ``@-3:``, ``@:4``.

    Examples
    --------
    >>> print(Range(3, 6), Range(-3, None))
    @3:6 @-3:
    """

    start: int | None
    stop: int | None

    def __post_init__(self) -> None:
        start = None if self.start is None else _whole(self.start)
        stop = None if self.stop is None else _whole(self.stop)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", stop)
        if start is None and stop is None:
            raise ExpressionError("'@:' names every position; leave the position out to mean that")
        first = 0 if start is None else start
        if stop == 0 or (stop is not None and (first < 0) == (stop < 0) and first >= stop):
            raise ExpressionError(
                explain(f"the positions {self} are empty", mend="ranges are half-open: @3:6 is 3, 4, 5")
            )

    def __str__(self) -> str:
        return f"@{_bound(self.start)}:{_bound(self.stop)}"


@dataclass(frozen=True, slots=True)
class Span:
    """A named span of the prompts: ``@subject``, in Python ``@ span("subject")``.

    Examples
    --------
    >>> print(Span("subject"), Span("last"))
    @subject @"last"
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ExpressionError(f"a span is named by a string that is not empty, not by {self.name!r}")

    def __str__(self) -> str:
        return f"@{spell(self.name) if self.name != 'last' else quote(self.name)}"


Position = At | Range | Span

LAST = At(-1)
"""The last token of a prompt."""

last = LAST


class _Positions:
    """What ``pos[...]`` builds positions with."""

    __slots__ = ()

    def __getitem__(self, item: int | slice) -> At | Range:
        if isinstance(item, slice):
            if item.step is not None:
                raise ExpressionError("a range of positions has no step; write pos[3:6]")
            return Range(item.start, item.stop)
        return At(item)

    def __repr__(self) -> str:
        return "pos"


pos = _Positions()
"""``pos[0]``, ``pos[-2]``, ``pos[3:6]``: positions in the Python form."""


def span(name: str) -> Span:
    """Return the position of the span called ``name``: ``attn[5] @ span("subject")``."""
    return Span(name)


def indices(
    position: Position | None, length: int, spans: Mapping[str, tuple[int, int]] | None = None, *, where: str = ""
) -> tuple[int, ...]:
    """Return the token indices that a position means in a prompt of ``length`` tokens.

    Parameters
    ----------
    position
        None means every position.
    length
        Number of tokens of the prompt.
    spans
        The prompt's named spans, each as half-open token indices ``(start, stop)``.
    where
        Name of the prompt, for the error.

    Raises
    ------
    InputError
        If the prompt has no such position (nothing is clipped silently).
    UnknownNameError
        If the prompt has no such span.

    Examples
    --------
    >>> indices(LAST, 5), indices(Range(1, -1), 5), indices(Span("subject"), 5, {"subject": (1, 3)})
    ((4,), (1, 2, 3), (1, 2))
    """
    if position is None:
        return tuple(range(length))
    if isinstance(position, At):
        start = position.index + length if position.index < 0 else position.index
        stop = start + 1
    elif isinstance(position, Range):
        start, stop = (
            default if bound is None else bound + length if bound < 0 else bound
            for bound, default in ((position.start, 0), (position.stop, length))
        )
    else:
        known = spans or {}
        if position.name not in known:
            message = explain(f"no span named {position.name!r}", where=where, legal=known, got=position.name)
            raise UnknownNameError(message)
        start, stop = known[position.name]
    if not 0 <= start < stop <= length:
        raise InputError(explain(f"position {position} does not exist in a prompt of {length} tokens", where=where))
    return tuple(range(start, stop))


def position_key(position: Position | None) -> tuple[int, int, int, str]:
    """Return a key that orders positions: none first, then by kind and bounds."""
    if position is None:
        return (0, 0, 0, "")
    if isinstance(position, At):
        return (1, position.index, 0, "")
    if isinstance(position, Range):
        # An open end sorts after every written one; its sign would not tell it from a bound.
        return (2, position.start or 0, 10**9 if position.stop is None else position.stop, str(position))
    return (3, 0, 0, position.name)


def quote(text: str) -> str:
    """Return ``text`` as a string literal that both forms read."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def spell(name: str) -> str:
    """Return a name as it is written: bare where Python could read it bare, else quoted."""
    bare = name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")
    return name if bare else quote(name)


def _bound(bound: int | None) -> str:
    return "" if bound is None else str(bound)
