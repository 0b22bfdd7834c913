"""From prompts to token ids, checked before anything is run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from causalnet.errors import PromptError, UnknownNameError, explain
from causalnet.prompts.collection import Prompts
from causalnet.prompts.frozen import FrozenMap
from causalnet.prompts.prompt import Prompt, Span, place, shorten
from causalnet.prompts.tokens import Ids, Tokenizer, answer_tokens, token_ids, token_range

__all__ = ["Encoded", "encode"]

Ranges = tuple[tuple[int, int] | None, ...]
Reading = Literal["read", "require", "ignore"]


@dataclass(frozen=True)
class Encoded:
    """The token ids of prompts, with everything that was looked up in them.

    Every sequence has one entry for each prompt, in the order of ``prompts``.

    Parameters
    ----------
    prompts
        What was encoded.
    ids [prompt]
        Token ids; lengths differ, nothing is padded.
    answer_ids [prompt]
        First token of the answer, or None where there is none (or it could not be read).
    spans
        For each name the half-open token ranges [prompt], None where a prompt lacks the span.
    pairs
        For each name the counterparts as another `Encoded` [prompt]; ids are ``()`` where a
        prompt lacks the pair.
    notes
        What a reader should know: answers that were not read, words outside the vocabulary.
    span_problems
        For each span that could not be located in some prompt, the first such error.
    """

    prompts: Prompts
    ids: tuple[Ids, ...]
    answer_ids: tuple[int | None, ...]
    spans: Mapping[str, Ranges] = field(default_factory=FrozenMap[str, Ranges])
    pairs: Mapping[str, "Encoded"] = field(default_factory=FrozenMap[str, "Encoded"])
    notes: tuple[str, ...] = ()
    span_problems: Mapping[str, str] = field(default_factory=FrozenMap[str, str])

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        lengths = self.lengths
        shown = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
        parts = [f"{len(self)} prompt{'s' * (len(self) != 1)} of {shown} tokens"]
        parts.append(f"answers: {len(self) - self.without_answer}")
        parts += [
            f"{what}: {', '.join(names)}" for what, names in (("spans", self.spans), ("pairs", self.pairs)) if names
        ]
        return f"Encoded({'; '.join(parts)})"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each prompt."""
        return tuple(len(ids) for ids in self.ids)

    @property
    def without_answer(self) -> int:
        """How many prompts have no answer token."""
        return sum(answer is None for answer in self.answer_ids)

    def span(self, name: str) -> tuple[tuple[int, int], ...]:
        """Return the token range of a span in every prompt.

        Raises
        ------
        UnknownNameError
            If no prompt has a span of that name.
        PromptError
            If some prompts lack it, or its words are not found in one or found twice; the first
            is named.
        """
        if name not in self.spans:
            what = f"no prompt has a span {name!r}"
            raise UnknownNameError(explain(what, legal=self.spans, got=name, mend="name it in the prompts' spans"))
        ranges = self.spans[name]
        if name in self.span_problems:
            raise PromptError(self.span_problems[name])
        self._refuse_missing([found is None for found in ranges], f"has no span {name!r}", "give it one")
        return tuple(found for found in ranges if found is not None)

    def pair(self, name: str) -> "Encoded":
        """Return the counterparts of a name, one for every prompt.

        Raises
        ------
        UnknownNameError
            If no prompt has a pair of that name.
        PromptError
            If some prompts lack it; the first is named.
        """
        if name not in self.pairs:
            what = f"no prompt has a pair {name!r}"
            raise UnknownNameError(explain(what, legal=self.pairs, got=name, mend="see Prompts.from_pairs"))
        paired = self.pairs[name]
        self._refuse_missing([not ids for ids in paired.ids], f"has no pair {name!r}", "give it one")
        return paired

    def answers(self) -> tuple[int, ...]:
        """Return the answer's first token of every prompt.

        Raises
        ------
        PromptError
            If some prompt has none; the first is named.
        """
        missing = [answer is None for answer in self.answer_ids]
        self._refuse_missing(missing, "has no answer token", "give it an answer, or use the model's own top token")
        return tuple(answer for answer in self.answer_ids if answer is not None)

    def _refuse_missing(self, missing: list[bool], what: str, mend: str) -> None:
        if any(missing):
            index = missing.index(True)
            count = sum(missing)
            also = f" (nor have {count - 1} more)" if count > 1 else ""
            raise PromptError(explain(what + also, where=place(self.prompts[index], index), mend=mend))


def encode(
    prompts: Prompts | Iterable[str],
    tokenizer: Tokenizer,
    *,
    context: int | None = None,
    vocab_size: int | None = None,
    spans: Iterable[str] | None = None,
    answers: Reading = "read",
) -> Encoded:
    """Tokenise prompts and check everything that can be checked before a run.

    Each text is tokenised as ``tokenizer(text)``: default special tokens, no chat template, no
    padding, no truncation. The answer's token is the first that follows the prompt's ids in the
    tokenisation of prompt and answer together (with a space between where the tokenizer needs
    one). Spans are located by the tokenizer's offsets, or by tokenising beginnings of the text
    where it has none.

    Parameters
    ----------
    prompts
        The prompts.
    tokenizer
        Called with a text; a Hugging Face tokenizer, or any function that returns a mapping with
        ``input_ids``. One with ``is_fast`` is also asked for offsets.
    context
        The longest sequence that the model takes, in tokens; None for no limit.
    vocab_size
        The number of embeddings of the model; ids must lie below it. None for no check.
    spans
        The names of the spans that are needed: every prompt must then have them, found exactly
        once. None locates all that the prompts declare, and keeps what cannot be located for
        the moment when it is asked for (`Encoded.span`); ``()`` looks for none.
    answers
        ``"read"`` notes answers that cannot be read, ``"require"`` raises for the first prompt
        without one, ``"ignore"`` does not look.

    Raises
    ------
    PromptError
        For an empty prompt, one longer than the context, an id outside the vocabulary, a needed
        span that is not found or ambiguous; the prompt is named.
    UnknownNameError
        For the name of a span that no prompt has.

    Examples
    --------
    >>> def tokenizer(text):
    ...     return {"input_ids": [len(word) for word in text.split()]}
    >>> prompts = Prompts.from_records([{"prompt": "Big Ben is in", "answer": "London", "subject": "Big Ben"}])
    >>> encoded = encode(prompts, tokenizer, context=8)
    >>> encoded.ids, encoded.answer_ids, encoded.span("subject")
    (((3, 3, 2, 2),), (6,), ((0, 2),))
    """
    if not isinstance(prompts, Prompts):
        prompts = Prompts.from_texts(prompts)
    if not len(prompts):
        raise PromptError(explain("no prompts were given", mend="give at least one"))
    if answers not in ("read", "require", "ignore"):
        raise PromptError(
            explain(f"unknown way to take answers {answers!r}", legal=("read", "require", "ignore"), got=answers)
        )
    names = _span_names(prompts, spans)
    check = _Checker(tokenizer, context, vocab_size)
    ids = tuple(check.ids(prompt, place(prompt, index)) for index, prompt in enumerate(prompts))
    found, problems = _spans(prompts, ids, names, check)
    answer_ids, notes = _answers(prompts, ids, check, answers)
    notes += _space_note(prompts, ids, answer_ids, check)
    pairs = {name: _pair(prompts, name, names, check, answers) for name in prompts.pair_names}
    notes += tuple(f"span {name!r} not located everywhere: {problem}" for name, problem in problems.items())
    notes += tuple(f"pair {name!r}: {note}" for name, pair in pairs.items() for note in pair.notes)
    encoded = Encoded(prompts, ids, answer_ids, FrozenMap(found), FrozenMap(pairs), notes + check.notes(), problems)
    if spans is not None:
        for name in names:
            encoded.span(name)
    if answers == "require":
        encoded.answers()
    return encoded


def _span_names(prompts: Prompts, spans: Iterable[str] | None) -> tuple[str, ...]:
    if spans is None:
        return prompts.span_names
    names = (spans,) if isinstance(spans, str) else tuple(spans)
    for name in names:
        if name not in prompts.span_names:
            what = f"no prompt has a span {name!r}"
            raise UnknownNameError(explain(what, where=prompts.name, legal=prompts.span_names, got=name))
    return names


def _spans(
    prompts: Prompts, ids: tuple[Ids, ...], names: tuple[str, ...], check: "_Checker"
) -> tuple[dict[str, Ranges], FrozenMap[str, str]]:
    found: dict[str, Ranges] = {}
    problems: dict[str, str] = {}
    for name in names:
        ranges: list[tuple[int, int] | None] = []
        for index, prompt in enumerate(prompts):
            try:
                known = name in prompt.spans
                ranges.append(token_range(check.tokenizer, prompt, ids[index], name, index) if known else None)
            except PromptError as error:
                ranges.append(None)
                problems.setdefault(name, str(error))
        found[name] = tuple(ranges)
    return found, FrozenMap(problems)


class _Checker:
    """Tokenises texts and refuses those that the model cannot take."""

    def __init__(self, tokenizer: Tokenizer, context: int | None, vocab_size: int | None) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.vocab_size = vocab_size
        self.empty = token_ids(tokenizer, "")
        unknown = getattr(tokenizer, "unk_token_id", None)
        self.unknown = None if unknown in self.empty else unknown
        self.with_unknown = 0

    def ids(self, prompt: Prompt, where: str) -> Ids:
        ids = token_ids(self.tokenizer, prompt.text, where)
        if not ids or ids == self.empty:
            raise PromptError(
                explain("empty prompt: the tokenizer makes no token of it", where=where, mend="leave it out")
            )
        if self.context is not None and len(ids) > self.context:
            what = f"has {len(ids)} tokens, more than the model's context of {self.context}"
            raise PromptError(explain(what, where=where, mend="shorten it or leave it out"))
        self.in_vocabulary(ids, where)
        self.with_unknown += self.unknown is not None and self.unknown in ids
        return ids

    def in_vocabulary(self, ids: Ids, where: str) -> None:
        for token in ids:
            if token < 0 or (self.vocab_size is not None and token >= self.vocab_size):
                known = "" if self.vocab_size is None else f" of {self.vocab_size} tokens"
                what = f"token id {token} is outside the model's vocabulary{known}"
                raise PromptError(explain(what, where=where, mend="use the tokenizer that belongs to the model"))

    def notes(self) -> tuple[str, ...]:
        if not self.with_unknown:
            return ()
        return (
            f"{self.with_unknown} text{'s' * (self.with_unknown != 1)} hold words outside the tokenizer's vocabulary",
        )


def _answers(
    prompts: Prompts, ids: tuple[Ids, ...], check: _Checker, answers: Reading
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    if answers == "ignore":
        return (None,) * len(prompts), ()
    first: list[int | None] = []
    reasons: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        read = answer_tokens(check.tokenizer, prompt, ids[index]) if ids[index] else None
        if read is None or not read.ids:
            if read is not None and prompt.answer is not None:
                reasons.setdefault(read.reason, []).append(index)
            first.append(None)
            continue
        check.in_vocabulary(read.ids[:1], place(prompt, index))
        first.append(read.ids[0])
    if answers == "require" and reasons:
        reason, indices = next(iter(reasons.items()))
        prompt = prompts[indices[0]]
        what = f"the answer {shorten(prompt.answer or '')} cannot be read: {reason}"
        mend = "take white space off the prompt's end, or choose an answer that the tokenizer keeps apart"
        raise PromptError(explain(what, where=place(prompt, indices[0]), mend=mend))
    notes = tuple(
        f"{len(indices)} answer{'s' * (len(indices) != 1)} not read: {reason} "
        f"(first: {shorten(prompts[indices[0]].answer or '')} after {shorten(prompts[indices[0]].text)})"
        for reason, indices in reasons.items()
    )
    return tuple(first), notes


def _space_note(
    prompts: Prompts, ids: tuple[Ids, ...], answer_ids: tuple[int | None, ...], check: _Checker
) -> tuple[str, ...]:
    """Say how many answers begin with the token of a space alone, which tells answers not apart."""
    if all(answer is None for answer in answer_ids):
        return ()
    space = token_ids(check.tokenizer, prompts[0].text + " ")
    if len(space) != len(ids[0]) + 1 or space[:-1] != ids[0]:
        return ()
    count = sum(answer == space[-1] for answer in answer_ids)
    if not count:
        return ()
    return (f"{count} answer{'s begin' if count != 1 else ' begins'} with a token that is only a space",)


def _pair(prompts: Prompts, name: str, spans: tuple[str, ...], check: _Checker, answers: Reading) -> Encoded:
    """Encode the counterparts of a name; a span that they do not declare is sought by its words."""
    others = [prompt.pairs.get(name) for prompt in prompts]
    ids = tuple(
        () if other is None else check.ids(other, f"{place(prompts[index], index)}, pair {name!r}")
        for index, other in enumerate(others)
    )
    stand_ins = Prompts(
        tuple(
            Prompt(prompt.text, origin=prompt.origin) if other is None else _with_spans(other, prompt, spans)
            for other, prompt in zip(others, prompts, strict=True)
        )
    )
    answer_ids, notes = _answers(stand_ins, ids, check, "ignore" if answers == "ignore" else "read")
    found, problems = _spans(stand_ins, ids, spans, check)
    return Encoded(stand_ins, ids, answer_ids, FrozenMap(found), FrozenMap(), notes, problems)


def _with_spans(other: Prompt, prompt: Prompt, names: tuple[str, ...]) -> Prompt:
    """Give a counterpart the spans of its prompt whose words it holds exactly once."""
    inherited: dict[str, Span] = {}
    for name in names:
        if name in prompt.spans and name not in other.spans:
            span = prompt.spans[name]
            words = span if isinstance(span, str) else prompt.text[span[0] : span[1]]
            if other.text.count(words) == 1:
                inherited[name] = words
    return replace(other, spans={**inherited, **other.spans}) if inherited else other
