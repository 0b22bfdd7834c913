"""One prompt: a text, its answer, named spans, features and paired texts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from causalnet.errors import PromptError, explain
from causalnet.prompts.frozen import FrozenMap

__all__ = ["Dropped", "Prompt", "Scalar", "Span", "place", "shorten"]

Scalar = str | int | float | bool | None
Span = str | tuple[int, int]


def shorten(text: str, length: int = 40) -> str:
    """Quote a text for a message, its middle cut out where it is long.

    Examples
    --------
    >>> shorten("The Eiffel Tower is in the city of Paris", 24)
    "'The Eiffel …ity of Paris'"
    """
    if len(text) <= length:
        return repr(text)
    half = (length - 1) // 2
    return repr(text[:half] + "…" + text[len(text) - (length - 1 - half) :])


@dataclass(frozen=True)
class Dropped:
    """A record of prompts that a filter left out.

    Parameters
    ----------
    reason
        Why, in words that follow "dropped:".
    count
        How many prompts were left out.
    total
        How many there were before.
    examples
        The first few texts that were left out.

    Examples
    --------
    >>> print(Dropped("the answer has more than one token", 2, 10, ("Big Ben is in",)))
    2 of 10 prompts dropped: the answer has more than one token (first: 'Big Ben is in')
    """

    reason: str
    count: int
    total: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        first = f" (first: {shorten(self.examples[0])})" if self.examples else ""
        noun = "prompt" if self.total == 1 else "prompts"
        return f"{self.count} of {self.total} {noun} dropped: {self.reason}{first}"


@dataclass(frozen=True)
class Prompt:
    """A text to be continued, with what is known about it.

    Parameters
    ----------
    text
        The text; it is tokenised as ``tokenizer(text)``, with the tokenizer's default special
        tokens and no chat template.
    answer
        The expected continuation, or None. Its first token can serve as the target.
    spans
        Named parts of the text, each as its words (which must occur exactly once) or as a
        half-open range ``(start, end)`` of characters. A name can be used as a position:
        ``@subject``.
    features
        Facts about the prompt that are fixed before anything is run (relation, length class, …),
        for strata and subgroups: strings, finite numbers, booleans or None.
    pairs
        Other prompts that belong to this one, by name, such as ``corrupt``; a plain text is made
        into a `Prompt`.
    join
        The text between prompt and answer: ``" "``, ``""`` where the answer goes straight on, or
        None to decide by the tokenizer (see `causalnet.prompts.encode`).
    origin
        Where it was read (file and line), for messages; not part of equality.

    Raises
    ------
    PromptError
        For an empty text, a wrong type, a range outside the text, or text that is not Unicode.

    Examples
    --------
    >>> prompt = Prompt("Big Ben is in", answer="London", spans={"subject": "Big Ben"})
    >>> prompt.spans["subject"]
    'Big Ben'
    >>> Prompt("Big Ben", spans={"subject": (4, 9)})
    Traceback (most recent call last):
    causalnet.errors.PromptError: prompt 'Big Ben': span 'subject' is (4, 9), outside the text of 7 characters; \
ranges are half-open: 0 <= start < end <= 7
    """

    text: str
    answer: str | None = None
    spans: Mapping[str, Span] = field(default_factory=FrozenMap[str, Span])
    features: Mapping[str, Scalar] = field(default_factory=FrozenMap[str, Scalar])
    pairs: Mapping[str, "Prompt"] = field(default_factory=FrozenMap[str, "Prompt"])
    join: str | None = None
    origin: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        self._check_text()
        set_field = object.__setattr__
        set_field(self, "spans", self._checked("spans", self._span))
        set_field(self, "features", self._checked("features", self._feature))
        set_field(self, "pairs", self._checked("pairs", self._pair))

    def __str__(self) -> str:
        return self.text

    def _fail(self, what: str, mend: str = "") -> PromptError:
        return PromptError(explain(what, where=place(self), mend=mend))

    def _check_text(self) -> None:
        for name, value in (("text", self.text), ("answer", self.answer), ("join", self.join)):
            if value is None and name != "text":
                continue
            if not isinstance(value, str):
                raise self._fail(
                    f"the {name} must be a text, got {type(value).__name__} {value!r}",
                    f"write it as a text: {str(value)!r}",
                )
            if not _is_unicode(value):
                raise self._fail(
                    f"the {name} holds half a surrogate pair, which is no Unicode text", "re-encode it as UTF-8"
                )
        if not self.text.strip():
            raise self._fail("empty prompt: there is nothing to continue", "leave it out or write a text")
        if self.answer is not None and not self.answer.strip():
            raise self._fail("empty answer", "leave the answer out (null) where there is none")

    def _checked(self, what: str, check: Any) -> FrozenMap[str, Any]:
        given = getattr(self, what)
        if not isinstance(given, Mapping):
            raise self._fail(f"{what} must map names to values, got {type(given).__name__}")
        for name in given:
            if not isinstance(name, str) or not name or not _is_unicode(name):
                raise self._fail(f"{what} must have non-empty texts as names, got {name!r}")
        return FrozenMap({name: check(name, value) for name, value in given.items()})

    def _span(self, name: str, value: Any) -> Span:
        if not name.isidentifier() or name == "last":
            raise self._fail(
                f"{name!r} cannot name a span", "use letters, digits and _ (not 'last'), so that @name can be written"
            )
        if isinstance(value, str):
            if not value.strip() or not _is_unicode(value):
                raise self._fail(f"span {name!r} is an empty text", "give its words or its range of characters")
            return value
        pair = tuple(value) if isinstance(value, (tuple, list)) else ()
        if len(pair) != 2 or any(isinstance(edge, bool) or not isinstance(edge, int) for edge in pair):
            raise self._fail(f"span {name!r} must be a text or a range (start, end) of characters, got {value!r}")
        start, end = pair
        if not 0 <= start < end <= len(self.text):
            raise self._fail(
                f"span {name!r} is {(start, end)}, outside the text of {len(self.text)} characters",
                f"ranges are half-open: 0 <= start < end <= {len(self.text)}",
            )
        return (start, end)

    def _feature(self, name: str, value: Any) -> Scalar:
        if not isinstance(value, (str, int, float, bool, type(None))) and hasattr(value, "item"):
            value = value.item()  # a numpy scalar, as tables of records hold them
        if isinstance(value, float) and not math.isfinite(value):
            raise self._fail(f"feature {name!r} is {value}", "write null (None) where a value is missing")
        if isinstance(value, str) and not _is_unicode(value):
            raise self._fail(f"feature {name!r} holds half a surrogate pair, which is no Unicode text")
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise self._fail(f"feature {name!r} must be a text, number, boolean or None, got {type(value).__name__}")
        return value

    def _pair(self, name: str, value: Any) -> "Prompt":
        if isinstance(value, str):
            try:
                return Prompt(value, origin=self.origin)
            except PromptError as error:
                raise self._fail(f"pair {name!r}: {error}") from None
        if not isinstance(value, Prompt):
            raise self._fail(f"pair {name!r} must be a text or a Prompt, got {type(value).__name__}")
        return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def place(prompt: Prompt, index: int | None = None) -> str:
    """Say which prompt is meant: its file and line, or its number, and its text."""
    text = f" {shorten(prompt.text)}" if isinstance(prompt.text, str) and prompt.text.strip() else ""
    if prompt.origin:
        return f"{prompt.origin}{':' if text else ''}{text}"
    return f"prompt{'' if index is None else f' {index}'}{text}"
