"""Reading prompt files: from a path to records, each with its line."""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from causalnet.errors import PromptError, explain, nearest
from causalnet.prompts.records import (
    ANSWER_FIELDS,
    PAIR_ANSWER_FIELDS,
    PAIR_FIELDS,
    PAIR_SUBJECT_FIELDS,
    TEXT_FIELDS,
)

__all__ = ["FileRecords", "read_records"]

Rows = list[tuple[str, Any]]
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "text"}
FORMATS = ("jsonl", "json", "csv", "tsv", "text")
# What separates the stories of plain-text corpora such as TinyStories; no prompt by itself.
SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True)
class FileRecords:
    """The records of a file, each with the words that name its line, and what was noted."""

    name: str
    rows: Rows
    notes: tuple[str, ...] = ()


def read_records(path: str | Path, *, format: str | None = None) -> FileRecords:
    """Read the records of a prompt file.

    Parameters
    ----------
    path
        The file, as UTF-8.
    format
        ``"jsonl"``, ``"json"``, ``"csv"``, ``"tsv"`` or ``"text"``; None chooses by the ending,
        and by the first character where the ending says nothing.

    Raises
    ------
    PromptError
        For a missing, empty or unreadable file and for a bad line.
    """
    path = Path(path)
    text = _content(path)
    if format is None:
        format = ENDINGS.get(path.suffix.lower(), "jsonl" if text.lstrip()[:1] in ("{", "[") else "text")
    if format not in FORMATS:
        raise PromptError(explain(f"unknown prompt format {format!r}", where=path.name, legal=FORMATS, got=format))
    if not text.strip():
        raise PromptError(explain("the file is empty", where=path.name, mend="give at least one prompt"))
    if format in ("csv", "tsv"):
        return _csv(path.name, text, "," if format == "csv" else "\t")
    return _text(path.name, text) if format == "text" else _json(path.name, text)


def _content(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        guess = nearest(path.name, siblings)
        what = "there is no such file" + (f"; did you mean {str(path.parent / guess)!r}?" if guess else "")
        mend = "" if path.parent.is_dir() else f"the folder {str(path.parent)!r} does not exist either"
        raise PromptError(explain(what, where=str(path), mend=mend)) from None
    except IsADirectoryError:
        raise PromptError(
            explain("is a folder, not a prompt file", where=str(path), mend="name a file in it")
        ) from None
    except OSError as error:
        raise PromptError(explain(f"cannot be read: {error.strerror or error}", where=str(path))) from None
    try:
        # A byte-order mark is what spreadsheets write first; it is no part of the first field's name.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8 text (byte {content[error.start]:#04x})"
        raise PromptError(explain(what, where=f"{path.name}, line {line}", mend="save the file as UTF-8")) from None


# -- JSON ------------------------------------------------------------------------------------


def _json(name: str, text: str) -> FileRecords:
    """Read a JSON list, JSON lines, or one JSON object: people name all of them .json."""
    if text.lstrip().startswith("["):
        return FileRecords(name, list(_json_list(name, text)))
    lines = text.split("\n")
    first = next(index for index, line in enumerate(lines) if line.strip())
    try:
        json.loads(lines[first])
    except (ValueError, RecursionError):
        try:
            whole = json.loads(text, parse_constant=lambda word: _constant(word, name))
        except (ValueError, RecursionError):
            whole = None  # not one object over several lines: the line's own error says more
        if isinstance(whole, dict):
            return FileRecords(name, [(f"{name}, line {first + 1}", whole)])
    rows: Rows = []
    blank = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            blank += number < len(lines)
            continue
        origin = f"{name}, line {number}"
        rows.append((origin, _decoded(origin, line)))
    return FileRecords(name, rows, _blank_note(blank))


def _decoded(origin: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda word: _constant(word, origin))
    except json.JSONDecodeError as error:
        what = f"is not JSON: {error.msg} (column {error.colno})"
        raise PromptError(explain(what, where=origin, mend='each line is one object: {"prompt": "…"}')) from None
    except PromptError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise PromptError(explain(f"cannot be read: {error}", where=origin)) from None
    except RecursionError:
        raise PromptError(explain("is nested too deeply", where=origin, mend="a record is a flat object")) from None


def _json_list(name: str, text: str) -> Iterator[tuple[str, Any]]:
    """Decode a list item by item, so that each record knows its line."""
    line, counted = 1, 0
    place = name

    def constant(word: str) -> NoReturn:
        _constant(word, place)

    decoder = json.JSONDecoder(parse_constant=constant)
    position = _skip(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        place = f"{name}, line {line}"
        try:
            item, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            what = f"is not JSON: {error.msg} (column {error.colno})"
            raise PromptError(explain(what, where=f"{name}, line {error.lineno}")) from None
        except PromptError:
            raise
        except ValueError as error:
            raise PromptError(explain(f"cannot be read: {error}", where=place)) from None
        except RecursionError:
            raise PromptError(explain("is nested too deeply", where=place, mend="a record is a flat object")) from None
        yield place, item
        position = _skip(text, end)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "]":
            bad = text.count("\n", 0, position) + 1
            raise PromptError(explain("is not JSON: expected ',' or ']' after a record", where=f"{name}, line {bad}"))
    rest = _skip(text, position + 1)
    if rest < len(text):
        bad = text.count("\n", 0, rest) + 1
        raise PromptError(explain("is not JSON: there is something after the list", where=f"{name}, line {bad}"))


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _constant(word: str, where: str) -> NoReturn:
    raise PromptError(explain(f"{word} is not JSON", where=where, mend="write null where a value is missing"))


# -- tables and text -------------------------------------------------------------------------


def _csv(name: str, text: str, delimiter: str) -> FileRecords:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    table: list[tuple[int, list[str]]] = []
    blank, start = 0, 1
    try:
        for row in reader:
            if row:
                table.append((start, row))
            else:
                blank += 1
            start = reader.line_num + 1
    except csv.Error as error:
        what = f"is not {'TSV' if delimiter != ',' else 'CSV'}: {error}"
        mend = 'put texts with quotes, commas or line ends in "…", quotes inside doubled'
        raise PromptError(explain(what, where=f"{name}, line {reader.line_num}", mend=mend)) from None
    (header_line, header), body = table[0], table[1:]
    _check_header(name, header_line, header)
    for line, row in body:
        if len(row) != len(header):
            what = f"has {len(row)} fields where the header has {len(header)}"
            mend = f"put texts that hold the separator {delimiter!r} in double quotes"
            raise PromptError(explain(what, where=f"{name}, line {line}", mend=mend))
    columns = {
        title: _typed(title, [row[index] for _, row in body]) for index, title in enumerate(header) if title.strip()
    }
    rows: Rows = [
        (f"{name}, line {line}", {title: values[index] for title, values in columns.items()})
        for index, (line, _) in enumerate(body)
    ]
    notes = _blank_note(blank)
    if len(columns) < len(header):
        notes += ("a column without a name was not read",)
    return FileRecords(name, rows, notes)


def _check_header(name: str, line: int, header: list[str]) -> None:
    named = [title for title in header if title.strip()]
    repeated = sorted({title for title in named if named.count(title) > 1})
    if repeated:
        what = f"the column {repeated[0]!r} occurs twice"
        raise PromptError(explain(what, where=f"{name}, line {line}", mend="give each column its own name"))


# Columns whose words are texts even where all of them look like numbers.
TEXT_COLUMNS = frozenset(
    (*TEXT_FIELDS, *ANSWER_FIELDS, "subject", "join", *PAIR_FIELDS, *PAIR_ANSWER_FIELDS, *PAIR_SUBJECT_FIELDS)
)


# '007', '1_000', 'nan' and '+5' are names: to read them as numbers would lose something.
WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?")


def _typed(title: str, column: list[str]) -> list[Any]:
    """Read a column as whole numbers or numbers where every value is one; an empty field is None."""
    filled = [field for field in column if field]
    if title not in TEXT_COLUMNS and filled:
        if all(WHOLE_NUMBER.fullmatch(field) for field in filled):
            return [int(field) if field else None for field in column]
        if all(NUMBER.fullmatch(field) for field in filled):
            return [float(field) if field else None for field in column]
    return [field or None for field in column]


def _text(name: str, text: str) -> FileRecords:
    rows: Rows = []
    blank = separators = 0
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            blank += number < len(lines)
        elif line.strip() == SEPARATOR:
            separators += 1
        else:
            rows.append((f"{name}, line {number}", line))
    notes = _blank_note(blank)
    if separators:
        notes += (f"{separators} separator line{'s' * (separators != 1)} {SEPARATOR} skipped",)
    return FileRecords(name, rows, notes)


def _blank_note(blank: int) -> tuple[str, ...]:
    return (f"{blank} blank line{'s' * (blank != 1)} skipped",) if blank else ()
