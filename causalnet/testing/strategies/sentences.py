"""Sentences of the language drawn at random, each as a text and as the object that the Python operators build.

A piece is ``(text, object, level)``: the level says how tightly the text binds, so that brackets are written where
Python needs them, and sometimes where it does not.
"""

import functools
from dataclasses import dataclass
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from causalnet import expr as x
from causalnet.expr.positions import quote
from causalnet.expr.refs import without_position

__all__ = ["Sentence", "sentences"]

_OR, _AND, _CHAIN, _DIFF, _PLACE, _ATOM = range(6)
_SUM, _TERM, _FACTOR, _WHOLE = range(4)

_gaps = st.sampled_from(["", "", " ", "\n "])
_tenth, _fourth, _third, _coin = st.integers(0, 9), st.integers(0, 3), st.integers(0, 2), st.booleans()


@dataclass(frozen=True)
class Sentence:
    """One question in both forms.

    Attributes
    ----------
    text
        The text form, with brackets and spaces where people may put them.
    query
        What the Python operators build.
    """

    text: str
    query: x.Query


@dataclass(frozen=True)
class _Piece:
    """A part of a sentence."""

    text: str
    made: Any
    level: int = _ATOM

    def at(self, draw: st.DrawFn, level: int) -> str:
        """Return the text, in brackets where it binds too loosely, and now and then where it does not."""
        if self.level < level or draw(_tenth) == 0:
            return f"({_gap(draw)}{self.text}{_gap(draw)})"
        return self.text


def _gap(draw: st.DrawFn) -> str:
    return draw(_gaps)


def _joined(draw: st.DrawFn, parts: list[_Piece], mark: str, level: int) -> str:
    texts = [part.at(draw, level + 1) for part in parts]
    return f"{_gap(draw)}{mark}{_gap(draw)}".join(texts)


_small = st.one_of(st.integers(0, 3), st.integers(-3, 4), st.integers(-12, 40))
_names = st.one_of(
    st.sampled_from(["subject", "last", "corrupt", "zero", "E", "n tokens", "_x", "für", "class"]),
    st.text(min_size=1, max_size=6),
)
_finite = st.floats(allow_nan=False, allow_infinity=False)


@functools.cache
@st.composite
def _literals(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a name and a string literal that spells it, in either kind of quotes."""
    name = draw(_names)
    if draw(_coin):
        return name, quote(name)
    inner = name.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return name, f"'{inner}'"


@functools.cache
@st.composite
def _slices(draw: st.DrawFn) -> _Piece:
    start, stop = draw(st.none() | _small), draw(st.none() | _small)
    text = f"{'' if start is None else start}{_gap(draw)}:{_gap(draw)}{'' if stop is None else stop}"
    return _Piece(text, slice(start, stop))


@functools.cache
@st.composite
def _indexes(draw: st.DrawFn) -> _Piece:
    entries = draw(st.lists(st.one_of(_small.map(lambda n: _Piece(str(n), n)), _slices()), min_size=1, max_size=3))
    made = tuple(entry.made for entry in entries)
    return _Piece(",".join(entry.text for entry in entries), made[0] if len(made) == 1 else made)


@functools.cache
@st.composite
def _positions(draw: st.DrawFn) -> _Piece:
    kind = draw(st.sampled_from(["last", "at", "range", "span", "quoted"]))
    if kind == "last":
        return _Piece("last", x.last)
    if kind == "at":
        index = draw(_small)
        return _Piece(str(index), x.pos[index])
    if kind == "range":
        start = draw(st.none() | st.integers(-9, -1) | st.integers(0, 9))
        length = draw(st.integers(1, 9))
        stop = None if start is not None and (start + length >= 0 > start or draw(_coin)) else (start or 0) + length
        text = f"{'' if start is None else start}:{'' if stop is None else stop}"
        return _Piece(text, x.pos[start:stop])
    if kind == "span":
        name = draw(st.sampled_from(["subject", "zero", "E", "do", "größe", "_x"]))
        return _Piece(name, x.span(name))
    name, literal = draw(_literals())
    return _Piece(literal, x.span(name))


@functools.cache
@st.composite
def _components(draw: st.DrawFn, *, settable: bool) -> _Piece:
    kind = draw(
        st.sampled_from(
            ["embed", "attn", "attn", "mlp", "mlp", "resid", "head", "bias"] + ([] if settable else ["norm", "logits"])
        )
    )
    if kind in ("embed", "norm", "logits"):
        return _Piece(kind, getattr(x, kind))
    index = draw(_indexes())
    if kind in ("attn", "mlp", "resid"):
        return _Piece(f"{kind}[{index.text}]", getattr(x, kind)[index.made])
    if kind == "bias":
        return _Piece(f"attn[{index.text}].bias", x.attn[index.made].bias)
    heads = draw(_indexes())
    return _Piece(f"attn[{index.text}].head[{heads.text}]", x.attn[index.made].head[heads.made])


@functools.cache
@st.composite
def _references(draw: st.DrawFn, *, settable: bool = False, depth: int = 3) -> _Piece:
    """Draw a reference without positions."""
    if depth == 0 or draw(_third):
        return draw(_components(settable=settable))
    kind = draw(st.sampled_from(["desc", "anc", "between", "|", "&", "-"]))
    if kind in ("desc", "anc"):
        of = draw(_references(depth=depth - 1))
        return _Piece(f"{kind}({_gap(draw)}{of.text})", getattr(x, kind)(of.made))
    if kind == "between":
        start, end = draw(_references(depth=depth - 1)), draw(_references(depth=depth - 1))
        return _Piece(f"between({start.text},{_gap(draw)}{end.text})", x.between(start.made, end.made))
    parts = draw(st.lists(_references(settable=settable, depth=depth - 1), min_size=2, max_size=3))
    level = {"|": _OR, "&": _AND, "-": _DIFF}[kind]
    made = parts[0].made
    for part in parts[1:]:
        made = made | part.made if kind == "|" else made & part.made if kind == "&" else made - part.made
    return _Piece(_joined(draw, parts, kind, level), made, level)


@functools.cache
@st.composite
def _targets(draw: st.DrawFn) -> _Piece:
    """Draw what an assignment sets: a reference, perhaps at positions."""
    inner = draw(_references(settable=True))
    if not draw(_coin):
        return inner
    where = draw(_positions())
    located = _Piece(f"{inner.at(draw, _ATOM)}{_gap(draw)}@{_gap(draw)}{where.text}", inner.made @ where.made, _PLACE)
    if draw(_fourth):
        return located
    other = draw(_components(settable=True))
    return _Piece(_joined(draw, [located, other], "|", _OR), located.made | other.made, _OR)


@functools.cache
@st.composite
def _values(draw: st.DrawFn, depth: int = 2) -> _Piece:
    """Draw what a node is set to."""
    kinds = ["zero", "mean", "resample", "natural", "patch", "value", "project_out", "scale", "noise", "add"]
    kind = draw(st.sampled_from(kinds + (["under"] if depth else [])))
    if kind in ("zero", "mean", "resample", "natural"):
        return _Piece(kind, getattr(x, kind))
    if kind == "under":
        inner = draw(_interventions(depth=depth - 1))
        text = draw(st.sampled_from([f"under {inner.text}", f"under({inner.text})"]))
        return _Piece(text, x.under(inner.made))
    if kind in ("scale", "noise"):
        size = draw(_finite if kind == "scale" else st.floats(1e-6, 1e6))
        return _Piece(f"{kind}({_gap(draw)}{size!r})", getattr(x, kind)(size))
    name, literal = draw(_literals())
    if kind == "add":
        factor = draw(_finite)
        return _Piece(f"add({literal},{_gap(draw)}{factor!r})", x.add(name, factor))
    return _Piece(f"{kind}({literal})", getattr(x, kind)(name))


@functools.cache
@st.composite
def _paths(draw: st.DrawFn) -> _Piece:
    steps = draw(st.lists(_references(depth=1), min_size=2, max_size=4))
    made = steps[0].made
    for step in steps[1:]:
        made = made >> step.made
    return _Piece(_joined(draw, steps, "->", _CHAIN), made, _CHAIN)


@functools.cache
@st.composite
def _assignments(draw: st.DrawFn, depth: int = 2) -> _Piece:
    """Draw a node, an edge, or a node along paths, set to a value."""
    kind = draw(st.sampled_from(["node", "node", "edge", "along", "norm"]))
    value = draw(_values(depth=depth))
    if kind == "norm":
        factor = draw(st.floats(0.1, 10))
        return _Piece(f"norm{_gap(draw)}= scale({factor!r})", x.norm << x.scale(factor), _CHAIN)
    target = draw(_targets())
    if kind == "edge":
        receiver = draw(_references(depth=1))
        text = f"{target.at(draw, _DIFF)} -> {receiver.at(draw, _DIFF)}{_gap(draw)}={_gap(draw)}{value.text}"
        return _Piece(text, target.made >> receiver.made << value.made, _CHAIN)
    text = f"{target.at(draw, _DIFF)}{_gap(draw)}={_gap(draw)}{value.text}"
    made = target.made << value.made
    if kind == "along":
        chosen = draw(st.lists(_paths(), min_size=1, max_size=3))
        union = chosen[0].made
        for path in chosen[1:]:
            union = union | path.made
        spelled = _joined(draw, chosen, "|", _OR)
        spelled = f"({spelled})" if draw(_coin) else spelled
        return _Piece(f"{text} along {spelled}", made.along(union), _CHAIN)
    return _Piece(text, made, _CHAIN)


@functools.cache
@st.composite
def _interventions(draw: st.DrawFn, depth: int = 2) -> _Piece:
    """``do(...)``."""
    parts = draw(st.lists(_assignments(depth=depth), min_size=1, max_size=3))
    text = f",{_gap(draw)}".join(f"({part.text})" if draw(_tenth) == 0 else part.text for part in parts)
    return _Piece(f"do({_gap(draw)}{text})", x.do(*(part.made for part in parts)))


@functools.cache
@st.composite
def _tokens(draw: st.DrawFn) -> _Piece:
    kind = draw(st.sampled_from(["target", "text", "number"]))
    if kind == "target":
        return _Piece("target", x.target)
    if kind == "number":
        number = draw(st.integers(0, 50_000))
        return _Piece(str(number), number)
    name, literal = draw(_literals())
    return _Piece(literal, name)


@functools.cache
@st.composite
def _outcomes(draw: st.DrawFn) -> _Piece:
    """Draw what is read."""
    kind = draw(
        st.sampled_from(
            [
                "logit",
                "logit_diff",
                "logprob",
                "prob",
                "rank",
                "precap_logit",
                "entropy",
                "kl",
                "sigma",
                "top1",
                "direct",
            ]
        )
    )
    if kind in ("entropy", "kl", "sigma"):
        text, made = kind, getattr(x, kind)
    elif kind == "top1":
        token = draw(_tokens())
        text, made = (f"top1({token.text})", x.top1(token.made)) if draw(_coin) else ("top1", x.top1)
    elif kind == "direct":
        of, token = draw(_references()), draw(_tokens())
        assume(without_position(of.made) == of.made)  # a position inside is refused by the language
        text, made = f"direct({of.text},{_gap(draw)}{token.text})", x.direct(of.made, token.made)
    else:
        read = [draw(_tokens()) for _ in range(2 if kind == "logit_diff" else 1)]
        text = f"{kind}({', '.join(token.text for token in read)})"
        made = getattr(x, kind)(*(token.made for token in read))
    if draw(_coin):
        return _Piece(text, made)
    where = draw(_positions().filter(lambda piece: not isinstance(piece.made, x.Range)))
    return _Piece(f"{text}@{where.text}", made @ where.made)


@functools.cache
@st.composite
def _conditions(draw: st.DrawFn, depth: int = 2) -> _Piece:
    """Draw a subgroup; the level counts ``or`` 0, ``and`` 1, ``not`` 2."""
    if depth == 0 or draw(_coin):
        name, literal = draw(_literals())
        bare = draw(_coin)
        feature = x.prompt.relation if bare else x.prompt[name]
        text = "prompt.relation" if bare else f"prompt[{literal}]"
        if draw(_coin):
            constant, spelled = draw(_literals())
        else:
            constant = draw(st.one_of(st.integers(-(10**9), 10**9), _finite))
            spelled = repr(constant)
        test = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
        made = {
            "==": lambda: feature == constant,
            "!=": lambda: feature != constant,
            "<": lambda: feature < constant,
            "<=": lambda: feature <= constant,
            ">": lambda: feature > constant,
            ">=": lambda: feature >= constant,
        }[test]()
        return _Piece(f"{text}{_gap(draw)}{test}{_gap(draw)}{spelled}", made, 3)
    kind = draw(st.sampled_from(["and", "or", "not"]))
    if kind == "not":
        part = draw(_conditions(depth=depth - 1))
        return _Piece(f"not {part.at(draw, 2)}", ~part.made, 2)
    first, second = draw(_conditions(depth=depth - 1)), draw(_conditions(depth=depth - 1))
    level = 1 if kind == "and" else 0
    made = first.made & second.made if kind == "and" else first.made | second.made
    return _Piece(f"{first.at(draw, level + 1)} {kind} {second.at(draw, level + 1)}", made, level)


@functools.cache
@st.composite
def _expectations(draw: st.DrawFn) -> _Piece:
    outcome = draw(_outcomes())
    do = draw(st.none() | _interventions())
    condition = draw(st.none() | _conditions())
    text, made = outcome.text, outcome.made
    if do is not None:
        text, made = f"{text}{_gap(draw)}|{_gap(draw)}{do.text}", outcome.made | do.made
    if condition is None:
        return _Piece(f"E[{text}]", x.E[made], _WHOLE)
    if do is None and draw(_coin):
        return _Piece(f"E[{text} | {condition.text}]", x.E[made | condition.made], _WHOLE)
    return _Piece(f"E[{text},{_gap(draw)}{condition.text}]", x.E[made, condition.made], _WHOLE)


@functools.cache
@st.composite
def _estimands(draw: st.DrawFn) -> _Piece:
    name = draw(st.sampled_from(["TE", "DE", "IE", "CE", "NORM", "NDE", "PDE", "NIE", "PIE", "TDE", "TIE"]))
    parts = draw(st.lists(_assignments(), min_size=1, max_size=2))
    outcome = draw(st.none() | _outcomes())
    condition = draw(st.none() | _conditions()) if outcome is not None else None
    text = f",{_gap(draw)}".join(part.text for part in parts)
    rest = [part for part in (outcome, condition) if part is not None]
    if rest:
        text += f";{_gap(draw)}" + ", ".join(part.text for part in rest)
    made = getattr(x, name)(*(part.made for part in parts), *(part.made for part in rest))
    return _Piece(f"{name}({text})", made, _WHOLE)


@functools.cache
@st.composite
def _queries(draw: st.DrawFn, depth: int = 2) -> _Piece:
    """Draw a query; the levels are those of arithmetic."""
    if depth == 0 or draw(_third) == 0:
        return draw(st.one_of(_expectations(), _estimands()))
    kind = draw(st.sampled_from(["+", "-", "neg", "times", "by", "over"]))
    first = draw(_queries(depth=depth - 1))
    if kind in ("+", "-"):
        second = draw(_queries(depth=depth - 1))
        made = first.made + second.made if kind == "+" else first.made - second.made
        return _Piece(f"{first.at(draw, _SUM)}{_gap(draw)}{kind}{_gap(draw)}{second.at(draw, _TERM)}", made, _SUM)
    if kind == "neg":
        return _Piece(f"-{_gap(draw)}{first.at(draw, _FACTOR)}", -first.made, _FACTOR)
    number = draw(st.one_of(st.integers(1, 1000), st.floats(1e-3, 1e3)))
    if kind == "times":
        return _Piece(f"{number!r}{_gap(draw)}*{_gap(draw)}{first.at(draw, _FACTOR)}", number * first.made, _TERM)
    if kind == "by":
        return _Piece(f"{first.at(draw, _TERM)}{_gap(draw)}*{_gap(draw)}{number!r}", first.made * number, _TERM)
    return _Piece(f"{first.at(draw, _TERM)}{_gap(draw)}/{_gap(draw)}{number!r}", first.made / number, _TERM)


def sentences() -> st.SearchStrategy[Sentence]:
    """Draw whole queries, each in both forms; they need not mean anything on any graph.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from causalnet.expr import parse
    >>> @settings(max_examples=3, database=None)
    ... @given(sentences())
    ... def test_both_forms_agree(sentence):
    ...     assert parse(sentence.text) == sentence.query
    >>> test_both_forms_agree()
    """
    return _queries().map(lambda piece: Sentence(piece.text, piece.made))
