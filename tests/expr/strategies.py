"""Sentences drawn at random, each as a text and as the object that the Python operators build.

`sentences()` is what other tests need; the rest are its parts.  A piece is `(text, object, level)`, where
the level says how tightly the text binds, so that brackets are written where Python needs them, and
sometimes where it does not.
"""

import functools
from dataclasses import dataclass
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from causalnet import expr as x
from causalnet.expr.refs import without_position

__all__ = ["Sentence", "assignments", "conditions", "interventions", "outcomes", "references", "sentences", "values"]

OR, AND, CHAIN, DIFF, PLACE, ATOM = range(6)
SUM, TERM, FACTOR, WHOLE = range(4)

gaps = st.sampled_from(["", "", " ", "\n "])
tenth, fourth, third, coin = st.integers(0, 9), st.integers(0, 3), st.integers(0, 2), st.booleans()


@dataclass(frozen=True)
class Sentence:
    """One question in both forms."""

    text: str
    query: x.Query


@dataclass(frozen=True)
class Piece:
    text: str
    made: Any
    level: int = ATOM

    def at(self, draw, level: int) -> str:
        """The text, in brackets where it binds too loosely, and now and then where it does not."""
        if self.level < level or draw(tenth) == 0:
            return f"({_gap(draw)}{self.text}{_gap(draw)})"
        return self.text


def _gap(draw) -> str:
    return draw(gaps)


def _joined(draw, parts: list[Piece], mark: str, level: int) -> str:
    texts = [part.at(draw, level + 1) for part in parts]
    return f"{_gap(draw)}{mark}{_gap(draw)}".join(texts)


small = st.one_of(st.integers(0, 3), st.integers(-3, 4), st.integers(-12, 40))
names = st.one_of(
    st.sampled_from(["subject", "last", "corrupt", "zero", "E", "n tokens", "_x", "für", "class"]),
    st.text(min_size=1, max_size=6),
)
finite = st.floats(allow_nan=False, allow_infinity=False)


@functools.cache
@st.composite
def literals(draw) -> tuple[str, str]:
    """A name and a string literal that spells it, in either kind of quotes."""
    name = draw(names)
    if draw(coin):
        return name, x.positions.quote(name)
    inner = name.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return name, f"'{inner}'"


@functools.cache
@st.composite
def slices(draw) -> Piece:
    start, stop = draw(st.none() | small), draw(st.none() | small)
    text = f"{'' if start is None else start}{_gap(draw)}:{_gap(draw)}{'' if stop is None else stop}"
    return Piece(text, slice(start, stop))


@functools.cache
@st.composite
def indexes(draw) -> Piece:
    entries = draw(st.lists(st.one_of(small.map(lambda n: Piece(str(n), n)), slices()), min_size=1, max_size=3))
    made = tuple(entry.made for entry in entries)
    return Piece(",".join(entry.text for entry in entries), made[0] if len(made) == 1 else made)


@functools.cache
@st.composite
def positions(draw) -> Piece:
    kind = draw(st.sampled_from(["last", "at", "range", "span", "quoted"]))
    if kind == "last":
        return Piece("last", x.last)
    if kind == "at":
        index = draw(small)
        return Piece(str(index), x.pos[index])
    if kind == "range":
        start = draw(st.none() | st.integers(-9, -1) | st.integers(0, 9))
        length = draw(st.integers(1, 9))
        stop = None if start is not None and (start + length >= 0 > start or draw(coin)) else (start or 0) + length
        text = f"{'' if start is None else start}:{'' if stop is None else stop}"
        return Piece(text, x.pos[start:stop])
    if kind == "span":
        name = draw(st.sampled_from(["subject", "zero", "E", "do", "größe", "_x"]))
        return Piece(name, x.span(name))
    name, literal = draw(literals())
    return Piece(literal, x.span(name))


@functools.cache
@st.composite
def components(draw, *, settable: bool) -> Piece:
    kind = draw(
        st.sampled_from(
            ["embed", "attn", "attn", "mlp", "mlp", "resid", "head", "bias"] + ([] if settable else ["norm", "logits"])
        )
    )
    if kind in ("embed", "norm", "logits"):
        return Piece(kind, getattr(x, kind))
    index = draw(indexes())
    if kind in ("attn", "mlp", "resid"):
        return Piece(f"{kind}[{index.text}]", getattr(x, kind)[index.made])
    if kind == "bias":
        return Piece(f"attn[{index.text}].bias", x.attn[index.made].bias)
    heads = draw(indexes())
    return Piece(f"attn[{index.text}].head[{heads.text}]", x.attn[index.made].head[heads.made])


@functools.cache
@st.composite
def references(draw, *, settable: bool = False, depth: int = 3) -> Piece:
    """A reference without positions."""
    if depth == 0 or draw(third):
        return draw(components(settable=settable))
    kind = draw(st.sampled_from(["desc", "anc", "between", "|", "&", "-"]))
    if kind in ("desc", "anc"):
        of = draw(references(depth=depth - 1))
        return Piece(f"{kind}({_gap(draw)}{of.text})", getattr(x, kind)(of.made))
    if kind == "between":
        start, end = draw(references(depth=depth - 1)), draw(references(depth=depth - 1))
        return Piece(f"between({start.text},{_gap(draw)}{end.text})", x.between(start.made, end.made))
    parts = draw(st.lists(references(settable=settable, depth=depth - 1), min_size=2, max_size=3))
    level = {"|": OR, "&": AND, "-": DIFF}[kind]
    made = parts[0].made
    for part in parts[1:]:
        made = made | part.made if kind == "|" else made & part.made if kind == "&" else made - part.made
    return Piece(_joined(draw, parts, kind, level), made, level)


@functools.cache
@st.composite
def targets(draw) -> Piece:
    """What an assignment sets: a reference, perhaps at positions."""
    inner = draw(references(settable=True))
    if not draw(coin):
        return inner
    where = draw(positions())
    located = Piece(f"{inner.at(draw, ATOM)}{_gap(draw)}@{_gap(draw)}{where.text}", inner.made @ where.made, PLACE)
    if draw(fourth):
        return located
    other = draw(components(settable=True))
    return Piece(_joined(draw, [located, other], "|", OR), located.made | other.made, OR)


@functools.cache
@st.composite
def values(draw, depth: int = 2) -> Piece:
    """What a node is set to."""
    kinds = ["zero", "mean", "resample", "natural", "patch", "value", "project_out", "scale", "noise", "add"]
    kind = draw(st.sampled_from(kinds + (["under"] if depth else [])))
    if kind in ("zero", "mean", "resample", "natural"):
        return Piece(kind, getattr(x, kind))
    if kind == "under":
        inner = draw(interventions(depth=depth - 1))
        text = draw(st.sampled_from([f"under {inner.text}", f"under({inner.text})"]))
        return Piece(text, x.under(inner.made))
    if kind in ("scale", "noise"):
        size = draw(finite if kind == "scale" else st.floats(1e-6, 1e6))
        return Piece(f"{kind}({_gap(draw)}{size!r})", getattr(x, kind)(size))
    name, literal = draw(literals())
    if kind == "add":
        factor = draw(finite)
        return Piece(f"add({literal},{_gap(draw)}{factor!r})", x.add(name, factor))
    return Piece(f"{kind}({literal})", getattr(x, kind)(name))


@functools.cache
@st.composite
def paths(draw) -> Piece:
    steps = draw(st.lists(references(depth=1), min_size=2, max_size=4))
    made = steps[0].made
    for step in steps[1:]:
        made = made >> step.made
    return Piece(_joined(draw, steps, "->", CHAIN), made, CHAIN)


@functools.cache
@st.composite
def assignments(draw, depth: int = 2) -> Piece:
    """A node, an edge, or a node along paths, set to a value."""
    kind = draw(st.sampled_from(["node", "node", "edge", "along", "norm"]))
    value = draw(values(depth=depth))
    if kind == "norm":
        factor = draw(st.floats(0.1, 10))
        return Piece(f"norm{_gap(draw)}= scale({factor!r})", x.norm << x.scale(factor), CHAIN)
    target = draw(targets())
    if kind == "edge":
        receiver = draw(references(depth=1))
        text = f"{target.at(draw, DIFF)} -> {receiver.at(draw, DIFF)}{_gap(draw)}={_gap(draw)}{value.text}"
        return Piece(text, target.made >> receiver.made << value.made, CHAIN)
    text = f"{target.at(draw, DIFF)}{_gap(draw)}={_gap(draw)}{value.text}"
    made = target.made << value.made
    if kind == "along":
        chosen = draw(st.lists(paths(), min_size=1, max_size=3))
        union = chosen[0].made
        for path in chosen[1:]:
            union = union | path.made
        spelled = _joined(draw, chosen, "|", OR)
        spelled = f"({spelled})" if draw(coin) else spelled
        return Piece(f"{text} along {spelled}", made.along(union), CHAIN)
    return Piece(text, made, CHAIN)


@functools.cache
@st.composite
def interventions(draw, depth: int = 2) -> Piece:
    """``do(...)``."""
    parts = draw(st.lists(assignments(depth=depth), min_size=1, max_size=3))
    text = f",{_gap(draw)}".join(f"({part.text})" if draw(tenth) == 0 else part.text for part in parts)
    return Piece(f"do({_gap(draw)}{text})", x.do(*(part.made for part in parts)))


@functools.cache
@st.composite
def tokens(draw) -> Piece:
    kind = draw(st.sampled_from(["target", "text", "number"]))
    if kind == "target":
        return Piece("target", x.target)
    if kind == "number":
        number = draw(st.integers(0, 50_000))
        return Piece(str(number), number)
    name, literal = draw(literals())
    return Piece(literal, name)


@functools.cache
@st.composite
def outcomes(draw) -> Piece:
    """What is read."""
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
        token = draw(tokens())
        text, made = (f"top1({token.text})", x.top1(token.made)) if draw(coin) else ("top1", x.top1)
    elif kind == "direct":
        of, token = draw(references()), draw(tokens())
        assume(without_position(of.made) == of.made)  # a position inside is refused by the language
        text, made = f"direct({of.text},{_gap(draw)}{token.text})", x.direct(of.made, token.made)
    else:
        read = [draw(tokens()) for _ in range(2 if kind == "logit_diff" else 1)]
        text = f"{kind}({', '.join(token.text for token in read)})"
        made = getattr(x, kind)(*(token.made for token in read))
    if draw(coin):
        return Piece(text, made)
    where = draw(positions().filter(lambda piece: not isinstance(piece.made, x.Range)))
    return Piece(f"{text}@{where.text}", made @ where.made)


@functools.cache
@st.composite
def conditions(draw, depth: int = 2) -> Piece:
    """A subgroup; the level counts ``or`` 0, ``and`` 1, ``not`` 2."""
    if depth == 0 or draw(coin):
        name, literal = draw(literals())
        bare = draw(coin)
        feature = x.prompt.relation if bare else x.prompt[name]
        text = "prompt.relation" if bare else f"prompt[{literal}]"
        if draw(coin):
            constant, spelled = draw(literals())
        else:
            constant = draw(st.one_of(st.integers(-(10**9), 10**9), finite))
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
        return Piece(f"{text}{_gap(draw)}{test}{_gap(draw)}{spelled}", made, 3)
    kind = draw(st.sampled_from(["and", "or", "not"]))
    if kind == "not":
        part = draw(conditions(depth=depth - 1))
        return Piece(f"not {part.at(draw, 2)}", ~part.made, 2)
    first, second = draw(conditions(depth=depth - 1)), draw(conditions(depth=depth - 1))
    level = 1 if kind == "and" else 0
    made = first.made & second.made if kind == "and" else first.made | second.made
    return Piece(f"{first.at(draw, level + 1)} {kind} {second.at(draw, level + 1)}", made, level)


@functools.cache
@st.composite
def expectations(draw) -> Piece:
    outcome = draw(outcomes())
    do = draw(st.none() | interventions())
    condition = draw(st.none() | conditions())
    text, made = outcome.text, outcome.made
    if do is not None:
        text, made = f"{text}{_gap(draw)}|{_gap(draw)}{do.text}", outcome.made | do.made
    if condition is None:
        return Piece(f"E[{text}]", x.E[made], WHOLE)
    if do is None and draw(coin):
        return Piece(f"E[{text} | {condition.text}]", x.E[made | condition.made], WHOLE)
    return Piece(f"E[{text},{_gap(draw)}{condition.text}]", x.E[made, condition.made], WHOLE)


@functools.cache
@st.composite
def estimands(draw) -> Piece:
    name = draw(st.sampled_from(["TE", "DE", "IE", "CE", "NORM", "NDE", "PDE", "NIE", "PIE", "TDE", "TIE"]))
    parts = draw(st.lists(assignments(), min_size=1, max_size=2))
    outcome = draw(st.none() | outcomes())
    condition = draw(st.none() | conditions()) if outcome is not None else None
    text = f",{_gap(draw)}".join(part.text for part in parts)
    rest = [part for part in (outcome, condition) if part is not None]
    if rest:
        text += f";{_gap(draw)}" + ", ".join(part.text for part in rest)
    made = getattr(x, name)(*(part.made for part in parts), *(part.made for part in rest))
    return Piece(f"{name}({text})", made, WHOLE)


@functools.cache
@st.composite
def queries(draw, depth: int = 2) -> Piece:
    """A query; the levels are those of arithmetic."""
    if depth == 0 or draw(third) == 0:
        return draw(st.one_of(expectations(), estimands()))
    kind = draw(st.sampled_from(["+", "-", "neg", "times", "by", "over"]))
    first = draw(queries(depth=depth - 1))
    if kind in ("+", "-"):
        second = draw(queries(depth=depth - 1))
        made = first.made + second.made if kind == "+" else first.made - second.made
        return Piece(f"{first.at(draw, SUM)}{_gap(draw)}{kind}{_gap(draw)}{second.at(draw, TERM)}", made, SUM)
    if kind == "neg":
        return Piece(f"-{_gap(draw)}{first.at(draw, FACTOR)}", -first.made, FACTOR)
    number = draw(st.one_of(st.integers(1, 1000), st.floats(1e-3, 1e3)))
    if kind == "times":
        return Piece(f"{number!r}{_gap(draw)}*{_gap(draw)}{first.at(draw, FACTOR)}", number * first.made, TERM)
    if kind == "by":
        return Piece(f"{first.at(draw, TERM)}{_gap(draw)}*{_gap(draw)}{number!r}", first.made * number, TERM)
    return Piece(f"{first.at(draw, TERM)}{_gap(draw)}/{_gap(draw)}{number!r}", first.made / number, TERM)


def sentences() -> st.SearchStrategy[Sentence]:
    """Whole queries, in both forms."""
    return queries().map(lambda piece: Sentence(piece.text, piece.made))
