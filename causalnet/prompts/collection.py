"""An ordered, read-only collection of prompts."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from causalnet.errors import PromptError, UnknownNameError, explain
from causalnet.prompts.files import read_records
from causalnet.prompts.prompt import Dropped, Prompt, Scalar, shorten
from causalnet.prompts.records import prompt_from_record, record_from_prompt

__all__ = ["Prompts"]


@dataclass(frozen=True)
class Prompts:
    """Prompts in a fixed order; duplicates are kept.

    Iterate it, index it (an integer gives a `Prompt`, a slice gives `Prompts`), take its ``len``.
    Two collections are equal if their prompts are.

    Parameters
    ----------
    items
        The prompts; plain texts are made into prompts.
    name
        Where they come from, for display.
    dropped
        What filters left out on the way here, and why.
    notes
        What a reader should know about the loading (fields not read, duplicates, blank lines).

    Examples
    --------
    >>> prompts = Prompts.from_texts(["Big Ben is in", "The Louvre is in"], answers=["London", "Paris"])
    >>> prompts
    Prompts(2 prompts; answers: 2)
    >>> prompts[1].answer, len(prompts[:1])
    ('Paris', 1)
    """

    items: tuple[Prompt, ...] = ()
    name: str = field(default="", compare=False)
    dropped: tuple[Dropped, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        _refuse_bare_text(self.items, "prompts")
        items = tuple(
            Prompt(item, origin=f"text {index}") if isinstance(item, str) else item
            for index, item in enumerate(self.items)
        )
        for index, item in enumerate(items):
            if not isinstance(item, Prompt):
                what = f"a prompt must be a text or a Prompt, got {type(item).__name__}"
                raise PromptError(
                    explain(what, where=f"prompt {index}", mend="records are read by Prompts.from_records")
                )
        object.__setattr__(self, "items", items)

    # -- made from ---------------------------------------------------------------------------

    @classmethod
    def from_texts(cls, texts: Iterable[str], answers: Iterable[str | None] | None = None) -> "Prompts":
        """Make prompts of plain texts, with or without answers.

        Raises
        ------
        PromptError
            If there is no text, one is empty, or there are more or fewer answers than texts.

        Examples
        --------
        >>> Prompts.from_texts(["Big Ben is in"], answers=["London"])[0].answer
        'London'
        """
        _refuse_bare_text(texts, "texts")
        texts = list(texts)
        if not texts:
            raise PromptError(explain("no prompts were given", mend="give at least one text"))
        if answers is None:
            answers = [None] * len(texts)
        _refuse_bare_text(answers, "answers")
        answers = list(answers)
        if len(answers) != len(texts):
            what = f"{len(texts)} texts but {len(answers)} answers"
            raise PromptError(explain(what, mend="give one answer (or None) for each text"))
        items = [
            Prompt(text, answer, origin=f"text {index}")
            for index, (text, answer) in enumerate(zip(texts, answers, strict=True))
        ]
        return cls(tuple(items))

    @classmethod
    def from_pairs(
        cls, clean: Iterable[str | Prompt], corrupted: Iterable[str | Prompt], name: str = "corrupt"
    ) -> "Prompts":
        """Make prompts of clean texts, each with a counterpart that `patch` can draw values from.

        Either may be a `Prompt` with spans of its own.

        Examples
        --------
        >>> prompts = Prompts.from_pairs(["John gave Mary a"], ["John gave Lucy a"])
        >>> prompts[0].pairs["corrupt"].text
        'John gave Lucy a'
        """
        _refuse_bare_text(clean, "clean")
        _refuse_bare_text(corrupted, "corrupted")
        clean, corrupted = list(clean), list(corrupted)
        if len(clean) != len(corrupted):
            what = f"{len(clean)} clean texts but {len(corrupted)} corrupted ones"
            raise PromptError(explain(what, mend="give one corrupted text for each clean one"))
        if not clean:
            raise PromptError(explain("no prompts were given", mend="give at least one pair"))
        items: list[Prompt] = []
        for index, (text, other) in enumerate(zip(clean, corrupted, strict=True)):
            base = text if isinstance(text, Prompt) else Prompt(text, origin=f"text {index}")
            pair = other if isinstance(other, Prompt) else Prompt(other, origin=f"corrupted text {index}")
            items.append(replace(base, pairs={**base.pairs, name: pair}))
        return cls(tuple(items))

    @classmethod
    def from_records(cls, records: Iterable[Any], *, name: str = "") -> "Prompts":
        """Make prompts of mappings, such as the rows of a table or of a ``datasets.Dataset``.

        The text is the first of the fields ``prompt``, ``text``, ``clean``, ``clean_prefix``;
        the answer the first of ``answer``, ``attribute``, ``target_true``, ``clean_answer``;
        ``subject`` becomes a span; ``corrupt``, ``corrupted``, ``patch_prefix`` become the pair
        ``corrupt``; ``spans``, ``features``, ``pairs`` are mappings; ``relation_id`` also gives
        the feature ``relation``; CounterFact's own records are known; every other scalar field
        becomes a feature, and other fields are left out and noted.

        Raises
        ------
        PromptError
            If there is no record, or one cannot be read; the record is named.

        Examples
        --------
        >>> records = [{"prompt": "Big Ben is in", "subject": "Big Ben", "attribute": "London", "relation_id": "P131"}]
        >>> prompts = Prompts.from_records(records)
        >>> prompts[0].answer, dict(prompts[0].spans), prompts[0].features["relation"]
        ('London', {'subject': 'Big Ben'}, 'P131')
        """
        _refuse_bare_text(records, "records")
        if isinstance(records, Mapping):
            raise PromptError(
                explain("records must be a sequence of mappings, got one mapping", mend="put it in a list")
            )
        rows = [(f"{name + ', ' if name else ''}record {index}", record) for index, record in enumerate(records)]
        return cls._from_rows(rows, name=name)

    @classmethod
    def from_file(cls, path: str | Path, *, format: str | None = None) -> "Prompts":
        r"""Read prompts from a file, by its format.

        JSON lines, a JSON list (``known_1000.json`` and CounterFact's own file as they are), CSV
        or TSV with named columns, or plain text with one prompt a line. Fields are those of
        `from_records`. Blank lines are skipped and counted, duplicates kept and counted.

        Parameters
        ----------
        path
            The file.
        format
            ``"jsonl"``, ``"json"``, ``"csv"``, ``"tsv"`` or ``"text"``; by default chosen by the
            file's ending and first character.

        Raises
        ------
        PromptError
            For a missing or empty file and for a bad line: the message has the file, the line,
            what is wrong and how to mend it.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pairs.csv"
        >>> written = path.write_text("clean,corrupted,case\nThe men,The man,plural\n")
        >>> Prompts.from_file(path)
        Prompts(1 prompt from pairs.csv; features: case; pairs: corrupt)
        """
        read = read_records(path, format=format)
        return cls._from_rows(read.rows, name=read.name, notes=read.notes)

    @classmethod
    def _from_rows(cls, rows: list[tuple[str, Any]], *, name: str, notes: tuple[str, ...] = ()) -> "Prompts":
        if not rows:
            what = "there is no prompt in it" if name else "no prompts were given"
            raise PromptError(explain(what, where=name, mend="give at least one prompt"))
        unread: dict[str, int] = {}
        items = [prompt_from_record(record, origin, unread) for origin, record in rows]
        for key, count in unread.items():
            notes += (
                f"field {key!r} of {count} record{'s' * (count != 1)} was not read (not a text, number or boolean)",
            )
        repeated = len(items) - len(set(items))
        if repeated:
            notes += (f"{repeated} of {len(items)} prompts repeat an earlier one exactly (kept)",)
        return cls(tuple(items), name=name, notes=notes)

    # -- read --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> "Prompts": ...
    def __getitem__(self, index: int | slice) -> "Prompt | Prompts":
        if isinstance(index, slice):
            return replace(self, items=self.items[index])
        return self.items[index]

    def __repr__(self) -> str:
        parts = [f"{len(self)} prompt{'s' * (len(self) != 1)}{' from ' + self.name if self.name else ''}"]
        if answered := sum(prompt.answer is not None for prompt in self):
            parts.append(f"answers: {answered}")
        for what in ("spans", "features", "pairs"):
            if names := self._names(what):
                parts.append(f"{what}: {', '.join(names[:6])}{', …' * (len(names) > 6)}")
        if self.dropped:
            parts.append(f"dropped: {sum(record.count for record in self.dropped)}")
        return f"Prompts({'; '.join(parts)})"

    def _names(self, what: str) -> list[str]:
        return list(dict.fromkeys(name for prompt in self for name in getattr(prompt, what)))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, in order."""
        return tuple(prompt.text for prompt in self)

    @property
    def answers(self) -> tuple[str | None, ...]:
        """The answers, in order; None where a prompt has none."""
        return tuple(prompt.answer for prompt in self)

    @property
    def span_names(self) -> tuple[str, ...]:
        """The names of spans that some prompt has."""
        return tuple(self._names("spans"))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of features that some prompt has."""
        return tuple(self._names("features"))

    @property
    def pair_names(self) -> tuple[str, ...]:
        """The names of pairs that some prompt has."""
        return tuple(self._names("pairs"))

    def feature(self, name: str) -> tuple[Scalar, ...]:
        """Return one feature of every prompt; None where a prompt does not have it.

        Raises
        ------
        UnknownNameError
            If no prompt has it.

        Examples
        --------
        >>> Prompts.from_records([{"prompt": "Big Ben is in", "relation": "P131"}]).feature("relation")
        ('P131',)
        """
        if name not in self.feature_names:
            what = f"no prompt has a feature {name!r}"
            raise UnknownNameError(explain(what, where=self.name, legal=self.feature_names, got=name))
        return tuple(prompt.features.get(name) for prompt in self)

    # -- keep some ---------------------------------------------------------------------------

    def take(self, count: int) -> "Prompts":
        """Keep the first ``count`` prompts (all, if there are fewer).

        Examples
        --------
        >>> Prompts(("One", "Two", "Three")).take(2).texts
        ('One', 'Two')
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise PromptError(explain(f"cannot take {count!r} prompts", mend="give a whole number of at least 1"))
        return self.select([index < count for index in range(len(self))], f"beyond the first {count}")

    def select(self, mask: Sequence[Any], reason: str) -> "Prompts":
        """Keep the prompts whose mask is true, and record the others with the reason.

        Parameters
        ----------
        mask [prompt]
            Truth values, one for each prompt (a list or an array).
        reason
            Why the others are dropped, for the record.

        Raises
        ------
        PromptError
            If the mask has another length, or nothing would be left.

        Examples
        --------
        >>> kept = Prompts(("One", "Two", "Three")).select([True, False, True], "the model is wrong")
        >>> print(kept.texts, kept.dropped[0])
        ('One', 'Three') 1 of 3 prompts dropped: the model is wrong (first: 'Two')
        """
        keep = [bool(value) for value in mask]
        if len(keep) != len(self):
            raise PromptError(
                explain(f"the mask has {len(keep)} values for {len(self)} prompts", mend="give one for each")
            )
        left_out = [prompt for prompt, kept in zip(self, keep, strict=True) if not kept]
        if not left_out:
            return self
        record = Dropped(reason, len(left_out), len(self), tuple(prompt.text for prompt in left_out[:3]))
        if len(left_out) == len(self):
            raise PromptError(explain(f"no prompt is left: {record}", where=self.name, mend="loosen the filter"))
        items = tuple(prompt for prompt, kept in zip(self, keep, strict=True) if kept)
        return replace(self, items=items, dropped=(*self.dropped, record))

    def where(
        self, predicate: Callable[[Prompt], Any] | None = None, /, *, reason: str = "", **features: Any
    ) -> "Prompts":
        """Keep the prompts that a predicate accepts and that have the given features.

        Parameters
        ----------
        predicate
            A function of one `Prompt`.
        reason
            Why the others are dropped; by default it is made from the condition.
        **features
            ``name=value``, or ``name=[value, …]`` for any of several.

        Raises
        ------
        UnknownNameError
            For a feature that no prompt has.
        PromptError
            If nothing would be left; the legal values are named.

        Examples
        --------
        >>> rows = [{"prompt": "Big Ben is in", "relation": "P131"}, {"prompt": "Paris is in", "relation": "P30"}]
        >>> Prompts.from_records(rows).where(relation="P30").texts
        ('Paris is in',)
        """
        kept = self
        if predicate is not None:
            words = reason or f"not accepted by {getattr(predicate, '__name__', 'the predicate')}"
            kept = kept.select([bool(predicate(prompt)) for prompt in kept], words)
        for name, values in features.items():
            kept = kept.where_feature(name, values, reason=reason)
        return kept

    def where_feature(self, name: str, values: Any, *, reason: str = "") -> "Prompts":
        """Keep the prompts whose feature ``name`` is one of ``values`` (one value, or a collection).

        Raises
        ------
        UnknownNameError
            If no prompt has the feature.
        PromptError
            If nothing would be left; the values that occur are named.

        Examples
        --------
        >>> rows = [{"prompt": "Big Ben is in", "relation": "P131"}, {"prompt": "Paris is in", "relation": "P30"}]
        >>> Prompts.from_records(rows).where_feature("relation", ["P30", "P103"]).texts
        ('Paris is in',)
        """
        several = isinstance(values, Collection) and not isinstance(values, (str, bytes))
        accepted = list(values) if several else [values]
        shown = " or ".join(repr(value) for value in accepted) or "no value at all"
        found = self.feature(name)
        mask = [value in accepted for value in found]
        if not any(mask):
            legal = sorted({str(value) for value in found})
            what = f"no prompt is left with {name} = {shown}"
            got = str(accepted[0]) if accepted else ""
            raise PromptError(explain(what, where=self.name, legal=legal, got=got))
        return self.select(mask, reason or f"{name} is not {shown}")

    # -- write -------------------------------------------------------------------------------

    def to_jsonl(self, path: str | Path | None = None) -> str:
        """Write the prompts as JSON lines, which `from_file` reads back to an equal collection.

        Returns
        -------
        str
            The text; also written to ``path`` where one is given.

        Examples
        --------
        >>> print(Prompts.from_texts(["Big Ben is in"], ["London"]).to_jsonl(), end="")
        {"prompt": "Big Ben is in", "answer": "London"}
        """
        lines = (json.dumps(record_from_prompt(prompt), ensure_ascii=False, allow_nan=False) for prompt in self)
        text = "".join(line + "\n" for line in lines)
        if path is not None:
            try:
                Path(path).write_text(text, encoding="utf-8", newline="\n")
            except OSError as error:
                raise PromptError(explain(f"cannot be written: {error.strerror}", where=str(path))) from None
        return text


def _refuse_bare_text(given: Any, what: str) -> None:
    """Refuse a text where a list of texts is meant; it would be taken letter by letter."""
    if isinstance(given, (str, bytes)):
        raise PromptError(
            explain(f"{what} must be a list of texts, got one text {shorten(str(given))}", mend="put it in a list")
        )
    if not isinstance(given, Iterable):
        raise PromptError(explain(f"{what} must be a list, got {type(given).__name__}", mend="give a list"))
