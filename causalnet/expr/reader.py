"""From the parts of a text to the expression tree: one method for each rule of the grammar.

Every method ends in the verb that the Python operator ends in, so both forms build and refuse alike.
"""

import re
from typing import Any

from causalnet.errors import ExpressionError, explain
from causalnet.expr import build, conditions, estimands, outcomes, refs, values
from causalnet.expr.assign import Do, under
from causalnet.expr.positions import LAST, At, Range, Span
from causalnet.expr.query import E, Query, total

__all__ = ["meaning", "unquote"]

_LONGEST = 9  # digits of a whole number: int() of thousands of digits is an error of its own in Python
_FAMILIES = {"attn": refs.attn, "mlp": refs.mlp, "resid": refs.resid}
_PLAIN = {"embed": refs.embed, "norm": refs.norm, "logits": refs.logits}
_CONSTANTS = {"zero": values.ZERO, "mean": values.MEAN, "resample": values.RESAMPLE, "natural": values.NATURAL}
_NAMED = {"patch": values.patch, "value": values.value, "project_out": values.project_out}
_SIZED = {"scale": values.scale, "noise": values.noise}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


def meaning(rule: str, parts: list[Any]) -> Any:
    """Return what a rule of ``grammar.lark`` means, given what its parts mean.

    Raises
    ------
    ExpressionError
        If the parts do not fit, exactly as the Python form does.
    """
    return getattr(_READER, rule)(parts)


class _Reader:
    """One method per rule of ``grammar.lark``; each takes the rule's parts and returns what they mean."""

    def start(self, parts: list[Any]) -> Query:
        if not isinstance(parts[0], Query):
            raise ExpressionError(explain(f"{parts[0]} is a number, not a query", mend="write E[logit(target)]"))
        return parts[0]

    # -- arithmetic --------------------------------------------------------------------------

    def query(self, parts: list[Any]) -> Any:
        if len(parts) == 1:
            return parts[0]
        summands = [parts[0]]
        for sign, part in zip(parts[1::2], parts[2::2], strict=True):
            summands.append(-part if sign == "-" else part)
        if all(isinstance(part, int | float) for part in summands):
            return sum(summands)
        return total(summands)

    def term(self, parts: list[Any]) -> Any:
        found = parts[0]
        for sign, part in zip(parts[1::2], parts[2::2], strict=True):
            if sign == "*":
                found = found * part
            elif part == 0:
                raise ExpressionError("a query is divided by 0")
            else:
                found = found / part
        return found

    def factor(self, parts: list[Any]) -> Any:
        *signs, found = parts
        return -found if signs.count("-") % 2 else found

    def number(self, parts: list[Any]) -> float:
        return _number(parts[0])

    # -- expectations and estimands ----------------------------------------------------------

    def expectation(self, parts: list[Any]) -> Query:
        outcome, given, condition = parts
        body = outcome if given is None else outcome | given
        return E[body] if condition is None else E[body, condition]

    def estimand(self, parts: list[Any]) -> Query:
        name, items, outcome, condition = parts
        rest = [part for part in (outcome, condition) if part is not None]
        return estimands.named(str(name), *(items or ()), *rest)

    def outcome(self, parts: list[Any]) -> outcomes.Outcome:
        found, *positions = parts
        if len(positions) > 1:
            raise ExpressionError(f"{found @ positions[0]} already has a position")
        return found @ positions[0] if positions else found

    def read(self, parts: list[Any]) -> outcomes.Outcome:
        return outcomes.Outcome(str(parts[0]), tuple(parts[1:]))

    def top(self, parts: list[Any]) -> outcomes.Outcome:
        return outcomes.top1 if parts[0] is None else outcomes.top1(parts[0])

    def direct(self, parts: list[Any]) -> outcomes.Outcome:
        return outcomes.direct(parts[0], outcomes.TARGET if parts[1] is None else parts[1])

    def projection(self, parts: list[Any]) -> outcomes.Outcome:
        return outcomes.projection(unquote(parts[0]))

    def target(self, parts: list[Any]) -> outcomes.Target:
        return outcomes.TARGET

    def text(self, parts: list[Any]) -> str:
        return unquote(parts[0])

    def integer(self, parts: list[Any]) -> int:
        return _integer(parts[0])

    # -- interventions -----------------------------------------------------------------------

    def do(self, parts: list[Any]) -> Do:
        return Do(tuple(parts[0] or ()))

    def items(self, parts: list[Any]) -> list[Any]:
        return parts

    def item(self, parts: list[Any]) -> Any:
        found, *paths = parts
        for path in paths:
            found = build.follow(found, path)
        return found

    def loose(self, parts: list[Any]) -> Any:
        return build.unite(parts)

    def tight(self, parts: list[Any]) -> Any:
        return build.intersect(parts)

    def assign(self, parts: list[Any]) -> Any:
        found, *given = parts
        for value in given:
            found = build.assign(found, value)
        return found

    def chain(self, parts: list[Any]) -> Any:
        return build.chain(parts)

    def diff(self, parts: list[Any]) -> Any:
        return build.subtract(parts)

    def place(self, parts: list[Any]) -> Any:
        found, *positions = parts
        for position in positions:
            found = build.locate(found, position)
        return found

    # -- references and positions ------------------------------------------------------------

    def plain(self, parts: list[Any]) -> refs.Component:
        return _PLAIN[parts[0]]

    def bare(self, parts: list[Any]) -> refs.Family:
        return _FAMILIES[parts[0]]

    def layers(self, parts: list[Any]) -> refs.Component:
        return _FAMILIES[parts[0]][parts[1]]

    def heads(self, parts: list[Any]) -> refs.Component:
        return _FAMILIES[parts[0]][parts[1]].head[parts[3]]

    def bias(self, parts: list[Any]) -> refs.Component:
        return _FAMILIES[parts[0]][parts[1]].bias

    def reach(self, parts: list[Any]) -> refs.Ref:
        return refs.desc(parts[1]) if parts[0] == "desc" else refs.anc(parts[1])

    def between(self, parts: list[Any]) -> refs.Ref:
        return refs.between(*parts)

    def index(self, parts: list[Any]) -> tuple[int | refs.Slice, ...]:
        return tuple(parts)

    def cut(self, parts: list[Any]) -> refs.Slice:
        return refs.Slice(*(None if end is None else _integer(end) for end in parts))

    def at(self, parts: list[Any]) -> At:
        return At(_integer(parts[0]))

    def range(self, parts: list[Any]) -> Range:
        return Range(*(None if end is None else _integer(end) for end in parts))

    def last(self, parts: list[Any]) -> At:
        return LAST

    def span(self, parts: list[Any]) -> Span:
        word = str(parts[0])
        return Span(unquote(word) if word[0] in "\"'" else word)

    # -- values ------------------------------------------------------------------------------

    def constant(self, parts: list[Any]) -> values.Value:
        return _CONSTANTS[parts[0]]

    def named(self, parts: list[Any]) -> values.Value:
        return _NAMED[parts[0]](unquote(parts[1]))

    def sized(self, parts: list[Any]) -> values.Value:
        return _SIZED[parts[0]](_number(parts[1]))

    def add(self, parts: list[Any]) -> values.Value:
        name = unquote(parts[0])
        return values.add(name) if parts[1] is None else values.add(name, _number(parts[1]))

    def under(self, parts: list[Any]) -> values.Value:
        return under(parts[0])

    # -- conditions --------------------------------------------------------------------------

    def condition(self, parts: list[Any]) -> conditions.Condition:
        return conditions.join(conditions.AnyOf, parts)

    def both(self, parts: list[Any]) -> conditions.Condition:
        return conditions.join(conditions.AllOf, parts)

    def negation(self, parts: list[Any]) -> conditions.Condition:
        *signs, found = parts
        for _ in signs:
            found = conditions.Not(found)
        return found

    def comparison(self, parts: list[Any]) -> conditions.Condition:
        feature, test, constant = parts
        return conditions.Compare(feature, str(test), constant)

    def dotted(self, parts: list[Any]) -> str:
        return str(parts[0])

    def bracketed(self, parts: list[Any]) -> str:
        return conditions.prompt[unquote(parts[0])].name

    def numeral(self, parts: list[Any]) -> float:
        return _number(parts[0])

    def truth(self, parts: list[Any]) -> int:
        return int(parts[0] in ("true", "True"))


_READER = _Reader()


def unquote(literal: str) -> str:
    r"""Return the text of a string literal, whichever quotes it has.

    Examples
    --------
    >>> unquote(r"' Mary\'s'"), unquote(r'"a\u0062"')
    (" Mary's", 'ab')
    """
    text = _ESCAPE.sub(_unescape, literal[1:-1])
    try:
        # Two escapes may spell one character beyond the 16-bit range, as in JSON.
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ExpressionError(f"{literal} holds half a surrogate pair, which is no character") from None


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    if code in _ESCAPES:
        return _ESCAPES[code]
    if code in "\\\"'/":
        return code
    mend = r"write \\ for a backslash; \n, \t, \" and \u0041 are known"
    raise ExpressionError(explain(rf"\{code} is no escape", mend=mend))


def _integer(word: str) -> int:
    if len(word.lstrip("-")) > _LONGEST:
        raise ExpressionError(f"the number {word[:_LONGEST]}… is too large")
    return int(word)


def _number(word: str) -> float:
    return int(word) if word.lstrip("+-").isdigit() and len(word) <= 15 else float(word)
