"""The text form: reading it, and saying what is wrong with it."""

import functools
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from causalnet.errors import CausalnetError, ExpressionError, explain
from causalnet.expr.hints import hint
from causalnet.expr.operators import MAX_DEPTH
from causalnet.expr.query import Query
from causalnet.expr.reader import meaning

if TYPE_CHECKING:
    from lark import Lark, Tree

__all__ = ["locate", "parse", "pointed"]

MAX_BRACKETS = 2 * MAX_DEPTH
"""How deep brackets may nest in a text."""

_WIDEST = 110

_WORDS: dict[str, tuple[str, ...]] = {
    "_E": ("E[…]",),
    "ESTIMAND": ("TE", "DE", "IE", "CE", "NORM", "NDE", "PDE", "NIE", "PIE", "TDE", "TIE"),
    "ONE_TOKEN": ("logit", "logprob", "prob", "rank", "precap_logit"),
    "TWO_TOKENS": ("logit_diff",),
    "NO_TOKEN": ("entropy", "kl", "sigma"),
    "_TOP1": ("top1",),
    "_DIRECT": ("direct",),
    "_PROJECTION": ("projection",),
    "_TARGET": ("target",),
    "_DO": ("do(…)",),
    "_ALONG": ("along",),
    "PLAIN": ("embed", "norm", "logits"),
    "FAMILY": ("attn", "mlp", "resid"),
    "HEADED": ("head",),
    "_BIAS": ("bias",),
    "REACH": ("desc", "anc"),
    "_BETWEEN": ("between",),
    "_LAST": ("last",),
    "CONSTANT": ("zero", "mean", "resample", "natural"),
    "NAMED": ("patch", "value", "project_out"),
    "SIZED": ("scale", "noise"),
    "_ADD": ("add",),
    "_UNDER": ("under",),
    "NOT": ("not",),
    "_OR": ("or",),
    "_AND": ("and",),
    "_PROMPT": ("prompt",),
    "TRUTH": ("true", "false"),
    "COMPARE": ("==", "!=", "<", "<=", ">", ">="),
    "ADDING": ("'+'", "'-'"),
    "SCALING": ("'*'", "'/'"),
    "SIGNED": ("a number",),
    "NUMBER": ("a number",),
    "INTEGER": ("a whole number",),
    "NAME": ("a name",),
    "STRING": ('a text in quotes, such as " Mary"',),
    "$END": ("the end",),
}

_CATEGORIES = [
    (frozenset(names.split()), what)
    for names, what in (
        ("_E", "the start of a query"),
        ("CONSTANT", "a value"),
        ("ONE_TOKEN", "an outcome"),
        ("FAMILY", "a reference"),
        ("_LAST", "a position"),
        ("_TARGET", "a token"),
        ("_DO _PROMPT", "do(…) or a condition"),
        ("_PROMPT", "a condition"),
        ("_DO", "do(…)"),
        ("TRUTH", "a constant"),
        ("COMPARE", "a comparison"),
        ("HEADED", "head or bias"),
        ("INTEGER", "a number"),
        ("SIGNED", "a number"),
        ("NUMBER", "a number"),
        ("STRING", "a text in quotes"),
        ("NAME", "a name"),
    )
]
"""What stands where these terminals are expected; the first that fits names the place."""


def parse(text: str) -> Query:
    """Read a do-expression.

    Parameters
    ----------
    text
        The expression, such as ``TE(attn[5]@last = resample)``.

    Returns
    -------
    Query
        The same object as the Python form builds.

    Raises
    ------
    ExpressionError
        If it is no expression; the message points at the column and says what was expected.

    Examples
    --------
    >>> from causalnet.expr import TE, attn, last, resample
    >>> parse("TE(attn[5]@last = resample)") == TE(attn[5] @ last << resample)
    True
    """
    return replace(_read(text, []), text=text)


def pointed(error: CausalnetError, text: str | None, part: Any) -> CausalnetError:
    """Return an error that also points at ``part`` in the text that the query was read from."""
    place = None if text is None or part is None else locate(text, part)
    if text is None or place is None:
        return error
    return type(error)(f"{error}{_caret(text, *place)}")


def locate(text: str, part: Any) -> tuple[int, int] | None:
    """Return where in ``text`` the first piece that means ``part`` stands, as half-open offsets."""
    spans: list[tuple[Any, int, int]] = []
    _read(text, spans)
    # Rules that only pass a part on have the same extent or a wider one (brackets): the last is the widest.
    found = [(start, end) for piece, start, end in spans if type(piece) is type(part) and piece == part]
    return min(found, default=None, key=lambda place: (place[0], -place[1]))


@functools.cache
def _grammar() -> "Lark":
    from lark import Lark

    text = resources.files("causalnet.expr").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", lexer="contextual", propagate_positions=True, maybe_placeholders=True)


def _read(text: str, spans: list[tuple[Any, int, int]]) -> Query:
    """Parse, then build bottom-up without recursion, noting where each piece came from."""
    if not isinstance(text, str):
        raise ExpressionError(f"a do-expression is a text, not {type(text).__name__}; Python forms need no parse")
    if not text.strip():
        raise ExpressionError(explain("the expression is empty", mend="write TE(attn[5]@last = resample)"))
    _check_brackets(text)
    made: dict[int, Any] = {}
    for branch in _tree(text).iter_subtrees():
        parts = [made.get(id(child), child) for child in branch.children]
        start, end = (0, 0) if branch.meta.empty else (branch.meta.start_pos, branch.meta.end_pos)
        try:
            piece = meaning(branch.data, parts)
        except CausalnetError as error:
            raise type(error)(f"{error}{_caret(text, start, end)}") from None
        made[id(branch)] = piece
        spans.append((piece, start, end))
    return spans[-1][0]


def _tree(text: str) -> "Tree":
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    try:
        return _grammar().parse(text)
    except UnexpectedToken as error:
        start = len(text.rstrip()) if error.token.type == "$END" else error.token.start_pos or 0
        word = "" if error.token.type == "$END" else str(error.token)
        expected = error.interactive_parser.accepts() if error.interactive_parser else error.expected
        raise _unexpected(text, start, word, expected) from None
    except UnexpectedCharacters as error:
        raise _unexpected(text, error.pos_in_stream, text[error.pos_in_stream], error.allowed or ()) from None


def _unexpected(text: str, start: int, word: str, expected: Iterable[str]) -> ExpressionError:
    known = list(_WORDS)
    names = sorted(expected, key=lambda name: (known.index(name) if name in known else len(known), name))
    legal = dict.fromkeys(shown for name in names for shown in _WORDS.get(name, (_symbol(name),)))
    if text[start : start + 2] in ("<<", ">>", "=="):
        word = text[start : start + 2]
    category = next((what for needed, what in _CATEGORIES if needed <= set(names)), "")
    if category:  # closing a list that is still empty is legal, and never what was meant
        for name in ("RPAR", "RSQB", "SEMICOLON"):
            legal.pop(_symbol(name), None)
    if not word:
        what = f"the expression ends where {category} is expected" if category else "the expression ends too early"
    else:
        what = f"'{word}' is not {category}" if category else f"'{word}' is not expected here"
    message = explain(
        what, legal=legal, got=word if word.isidentifier() else "", mend=hint(text, start, word, set(names))
    )
    return ExpressionError(f"{message}{_caret(text, start, start + len(word))}")


def _symbol(name: str) -> str:
    for terminal in _grammar().terminals:
        if terminal.name == name:
            return f"'{terminal.pattern.value}'"
    return name


def _check_brackets(text: str) -> None:
    depth = 0
    quote = ""
    skip = False
    for place, character in enumerate(text):
        if skip:
            skip = False
        elif quote:
            skip = character == "\\"
            quote = "" if character in (quote, "\n") else quote
        elif character in "\"'":
            quote = character
        elif character in "([":
            depth += 1
            if depth > MAX_BRACKETS:
                message = f"brackets are nested more than {MAX_BRACKETS} deep; ask in pieces"
                raise ExpressionError(f"{message}{_caret(text, place, place + 1)}")
        elif character in ")]":
            depth -= 1


def _caret(text: str, start: int, end: int) -> str:
    """Return the line of the text that holds ``start``, with a caret under it."""
    first = text.rfind("\n", 0, start) + 1
    stop = text.find("\n", start)
    line = text[first : len(text) if stop < 0 else stop]
    column = start - first
    # A long line is cut around the place, or the caret would wrap away from it.
    cut = max(0, column - 60) if len(line) > _WIDEST else 0
    shown = ("…" if cut else "") + line[cut : cut + _WIDEST] + ("…" if len(line) > cut + _WIDEST else "")
    offset = column - cut + (1 if cut else 0)
    width = max(1, min(end - start, len(line) - column, _WIDEST + cut - column))
    shown = "".join(" " if character in "\t\r\f\v" else character for character in shown)
    return f"\n  {shown}\n  {' ' * offset}^{'~' * (width - 1)}"
