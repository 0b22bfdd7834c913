"""Queries in LaTeX, in do-notation."""

import re
from collections.abc import Callable
from typing import Any

from causalnet.expr.assign import Assignment, Do, Path
from causalnet.expr.conditions import AllOf, AnyOf, Compare, Not
from causalnet.expr.estimands import DEFAULT_OUTCOME, Estimand
from causalnet.expr.outcomes import TARGET, Along, Outcome, Token
from causalnet.expr.positions import LAST, At, Range, Span
from causalnet.expr.query import Expectation, Query
from causalnet.expr.refs import (
    Ancestors,
    Between,
    Component,
    Descendants,
    Difference,
    Intersection,
    Located,
    Slice,
    Union,
)
from causalnet.expr.values import Add, Given, Mean, Natural, Noise, Patch, ProjectOut, Resample, Scale, Under, Zero

__all__ = ["latex"]

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TESTS = {"==": "=", "!=": r"\neq", "<=": r"\leq", ">=": r"\geq", "<": "<", ">": ">"}


def latex(query: Query) -> str:
    r"""Return a query in LaTeX (mathematics mode, without dollar signs).

    Examples
    --------
    >>> from causalnet.expr import E, attn, do, last, logit, target, zero
    >>> print(latex(E[logit(target) | do(attn[5] @ last << zero)]))
    \mathbb{E}[\mathrm{logit}(\mathrm{target}) \mid \mathrm{do}(\mathrm{attn}_{5}[\mathrm{last}] = 0)]
    """
    words: list[str] = []
    for term in query.terms:
        sign = "-" if term.coefficient < 0 else "+" if words else ""
        size = abs(term.coefficient)
        shown = "" if size == 1 else rf"{_numeral(size)} \cdot "
        body = f"{shown}{_piece(term.body)}"
        words.append(f"{sign} {body}" if words else f"{sign}{body}")
    return " ".join(words)


def _piece(part: Any) -> str:
    return _RULES[type(part)](part)


def _expectation(body: Expectation) -> str:
    given = ", ".join(_piece(part) for part in (body.do, body.condition) if part is not None)
    bar = rf" \mid {given}" if given else ""
    return rf"\mathbb{{E}}[{_piece(body.outcome)}{bar}]"


def _estimand(body: Estimand) -> str:
    rest = []
    if body.outcome != DEFAULT_OUTCOME or body.condition is not None:
        rest.append(_piece(body.outcome))
    if body.condition is not None:
        rest.append(_piece(body.condition))
    outcome = f"; {', '.join(rest)}" if rest else ""
    return rf"\mathrm{{{body.name}}}({', '.join(map(_piece, body.do.assignments))}{outcome})"


def _outcome(outcome: Outcome) -> str:
    where = "" if outcome.position == LAST else f"[{_piece(outcome.position)}]"
    inside = [] if outcome.of is None else [_piece(outcome.of)]
    if outcome.name not in ("direct", "top1") or outcome.tokens != (TARGET,):
        inside += [_token(outcome, token) for token in outcome.tokens]
    name = r"\sigma" if outcome.name == "sigma" else _name(outcome.name)
    return f"{name}({', '.join(inside)}){where}" if inside else f"{name}{where}"


def _token(outcome: Outcome, token: Token) -> str:
    if isinstance(token, Along):
        vector = _quoted(token.name)
        return vector if outcome.of is None else f"{_name('projection')}({vector})"
    return _quoted(token) if isinstance(token, str) else rf"\mathrm{{{token}}}"


def _do(do: Do) -> str:
    return rf"\mathrm{{do}}({', '.join(map(_piece, do.assignments))})"


def _assignment(one: Assignment) -> str:
    text = f"{_piece(one.target)} = {_piece(one.value)}"
    shown = [_piece(path) for path in one.along_paths]
    paths = shown[0] if len(shown) == 1 else r" \cup ".join(f"({path})" for path in shown)
    return rf"{text} \;\mathrm{{along}}\; {paths}" if paths else text


def _component(one: Component) -> str:
    name = _name("attn" if one.kind in ("head", "bias") else one.kind)
    if one.layers:
        name += f"_{{{_index(one.layers)}}}"
    if one.kind == "bias":
        return rf"{name}^{{\mathrm{{bias}}}}"
    return f"{name}^{{{_index(one.heads)}}}" if one.heads else name


def _set(mark: str) -> Callable[[Any], str]:
    return lambda ref: mark.join(_bracketed(part) for part in ref.parts)


def _bracketed(ref: Any) -> str:
    return f"({_piece(ref)})" if isinstance(ref, Union | Intersection | Difference) else _piece(ref)


def _range(where: Range) -> str:
    return f"{'' if where.start is None else where.start}{{:}}{'' if where.stop is None else where.stop}"


def _compare(test: Compare) -> str:
    constant = _quoted(test.constant) if isinstance(test.constant, str) else f"{test.constant}"
    return rf"{_name(test.feature)} {_TESTS[test.test]} {constant}"


def _joined(mark: str) -> Callable[[Any], str]:
    return lambda both: rf" {mark} ".join(
        f"({_piece(part)})" if isinstance(part, AllOf | AnyOf) else _piece(part) for part in both.parts
    )


def _index(items: tuple[int | Slice, ...]) -> str:
    return ",".join(str(item).replace(":", "{:}") for item in items)


def _numeral(number: float) -> str:
    digits, _, exponent = f"{number:.6g}".partition("e")
    return rf"{digits} \times 10^{{{int(exponent)}}}" if exponent else digits


def _escape(text: str) -> str:
    return re.sub(r"[\\~^#$%&_{}]", lambda found: _SPECIAL.get(found[0], "\\" + found[0]), text)


def _name(text: str) -> str:
    return rf"\mathrm{{{_escape(text)}}}"


def _quoted(text: str) -> str:
    return rf"\text{{“{_escape(text)}”}}"


_RULES: dict[type, Callable[[Any], str]] = {
    Expectation: _expectation,
    Estimand: _estimand,
    Outcome: _outcome,
    Do: _do,
    Assignment: _assignment,
    Path: lambda path: r" \to ".join(_bracketed(step) for step in path.steps),
    Component: _component,
    Descendants: lambda ref: rf"\mathrm{{desc}}({_piece(ref.of)})",
    Ancestors: lambda ref: rf"\mathrm{{anc}}({_piece(ref.of)})",
    Between: lambda ref: rf"\mathrm{{between}}({_piece(ref.start)}, {_piece(ref.end)})",
    Union: _set(r" \cup "),
    Intersection: _set(r" \cap "),
    Difference: lambda ref: r" \setminus ".join(_bracketed(part) for part in (ref.base, *ref.without)),
    Located: lambda ref: f"{_bracketed(ref.of)}[{_piece(ref.position)}]",
    At: lambda where: r"\mathrm{last}" if where == LAST else f"{where.index}",
    Range: _range,
    Span: lambda where: _name(where.name),
    Zero: lambda _: "0",
    Under: lambda value: rf"\mathrm{{under}}\;{_piece(value.do)}",
    Patch: lambda value: rf"\mathrm{{patch}}({_name(value.name)})",
    Given: lambda value: rf"\mathrm{{value}}({_name(value.name)})",
    ProjectOut: lambda value: rf"\mathrm{{project\_out}}({_name(value.name)})",
    Add: lambda value: rf"\mathrm{{add}}({_name(value.name)}, {_numeral(value.factor)})",
    Scale: lambda value: rf"\mathrm{{scale}}({_numeral(value.factor)})",
    Noise: lambda value: rf"\mathrm{{noise}}({_numeral(value.size)})",
    Compare: _compare,
    Not: lambda test: rf"\neg ({_piece(test.part)})",
    AllOf: _joined(r"\wedge"),
    AnyOf: _joined(r"\vee"),
    Mean: lambda _: r"\mathrm{mean}",
    Resample: lambda _: r"\mathrm{resample}",
    Natural: lambda _: r"\mathrm{natural}",
}
