"""Subgroup conditions: ``prompt.relation == "P103"``.

Only features of the prompts can be named.  They are fixed before anything is run, so conditioning on
them is not conditioning on an effect of the intervention.
"""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from causalnet.errors import ExpressionError, UnknownNameError, explain
from causalnet.expr.operators import deeper
from causalnet.expr.positions import quote, spell

__all__ = ["AllOf", "AnyOf", "Compare", "Condition", "Feature", "Not", "features_of", "holds", "prompt"]

_TESTS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class _Logic:
    """``&``, ``|`` and ``~`` of conditions; the text form writes ``and``, ``or`` and ``not``."""

    __slots__ = ()

    def __and__(self, other: Any) -> "Condition":
        return join(AllOf, [self, other])

    def __or__(self, other: Any) -> "Condition":
        return join(AnyOf, [self, other])

    def __invert__(self) -> "Condition":
        return Not(self)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        raise ExpressionError(
            explain(
                "a condition is neither true nor false until it meets a prompt",
                mend="in Python join conditions with & and |, each in brackets: (prompt.a == 1) & (prompt.b == 2)",
            )
        )


@dataclass(frozen=True, slots=True)
class Compare(_Logic):
    """One comparison of a feature with a constant.

    Examples
    --------
    >>> print(prompt.relation == "P103", prompt["n tokens"] < 20)
    prompt.relation == "P103" prompt["n tokens"] < 20
    """

    feature: str
    test: str
    constant: str | int | float

    def __post_init__(self) -> None:
        if self.test not in _TESTS:
            raise ExpressionError(explain(f"unknown comparison {self.test!r}", legal=_TESTS))
        object.__setattr__(self, "constant", _constant(self.feature, self.constant))

    def __str__(self) -> str:
        shown = quote(self.constant) if isinstance(self.constant, str) else repr(self.constant)
        return f"{_spell_feature(self.feature)} {self.test} {shown}"


@dataclass(frozen=True, slots=True)
class Not(_Logic):
    """``not condition``."""

    part: "Condition"
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.part)
        object.__setattr__(self, "depth", deeper(self.part))

    def __str__(self) -> str:
        return f"not ({self.part})" if isinstance(self.part, AllOf | AnyOf) else f"not {self.part}"


@dataclass(frozen=True, slots=True)
class AllOf(_Logic):
    """``a and b and …``; nested ones are flattened."""

    parts: "tuple[Condition, ...]"
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _flat(AllOf, self.parts))
        object.__setattr__(self, "depth", deeper(*self.parts))

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf(_Logic):
    """``a or b or …``; nested ones are flattened."""

    parts: "tuple[Condition, ...]"
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _flat(AnyOf, self.parts))
        object.__setattr__(self, "depth", deeper(*self.parts))

    def __str__(self) -> str:
        return " or ".join(map(str, self.parts))


Condition = Compare | Not | AllOf | AnyOf
"""What a subgroup is told by."""
CONDITIONS = (Compare, Not, AllOf, AnyOf)


class Feature:
    """A feature of the prompts, waiting to be compared: ``prompt.relation``."""

    __slots__ = ("name",)
    __hash__ = None  # type: ignore[assignment]  # comparing makes a condition, so it cannot be a key

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, constant: object) -> Compare:  # type: ignore[override]
        return Compare(self.name, "==", constant)  # type: ignore[arg-type]

    def __ne__(self, constant: object) -> Compare:  # type: ignore[override]
        return Compare(self.name, "!=", constant)  # type: ignore[arg-type]

    def __lt__(self, constant: Any) -> Compare:
        return Compare(self.name, "<", constant)

    def __le__(self, constant: Any) -> Compare:
        return Compare(self.name, "<=", constant)

    def __gt__(self, constant: Any) -> Compare:
        return Compare(self.name, ">", constant)

    def __ge__(self, constant: Any) -> Compare:
        return Compare(self.name, ">=", constant)

    def __str__(self) -> str:
        return _spell_feature(self.name)

    __repr__ = __str__

    def __bool__(self) -> bool:
        raise ExpressionError(explain(f"{self} is not compared with anything", mend=f'write {self} == "…"'))


class _Prompt:
    """What ``prompt.relation`` and ``prompt["a name"]`` begin with."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Feature:
        if name.startswith("_"):
            # Copying and pickling ask for underscored attributes; features so named are written prompt["_x"].
            raise AttributeError(name)
        return Feature(name)

    def __getitem__(self, name: str) -> Feature:
        if not isinstance(name, str) or not name:
            raise ExpressionError(f"a feature is named by a string that is not empty, not by {name!r}")
        return Feature(name)

    def __repr__(self) -> str:
        return "prompt"


prompt = _Prompt()
"""The prompt in hand: ``prompt.relation == "P103"`` is a subgroup."""


def join(kind: type[AllOf] | type[AnyOf], parts: Iterable[Any]) -> Condition:
    """Join conditions by ``and`` (:class:`AllOf`) or ``or`` (:class:`AnyOf`)."""
    found = [_check(part) for part in parts]
    return found[0] if len(found) == 1 else kind(tuple(found))


def features_of(condition: Condition) -> tuple[str, ...]:
    """Return the features that a condition names, each once, in order."""
    if isinstance(condition, Compare):
        return (condition.feature,)
    parts = (condition.part,) if isinstance(condition, Not) else condition.parts
    return tuple(dict.fromkeys(name for part in parts for name in features_of(part)))


def holds(condition: Condition, features: Mapping[str, Any], *, where: str = "") -> bool:
    """Return whether a prompt with these features belongs to the subgroup.

    A feature that is None (missing) differs from every constant and is neither less nor more.

    Raises
    ------
    UnknownNameError
        If the prompt has no such feature.
    ExpressionError
        If a text is ordered against a number.

    Examples
    --------
    >>> holds((prompt.relation == "P103") & (prompt.n > 3), {"relation": "P103", "n": 5})
    True
    """
    if isinstance(condition, Not):
        return not holds(condition.part, features, where=where)
    if isinstance(condition, AllOf | AnyOf):
        # Every part is looked up, so that a missing feature is found whatever the others say.
        found = [holds(part, features, where=where) for part in condition.parts]
        return all(found) if isinstance(condition, AllOf) else any(found)
    if condition.feature not in features:
        what = f"no feature named {condition.feature!r}"
        raise UnknownNameError(explain(what, where=where, legal=features, got=condition.feature))
    found = features[condition.feature]
    if found is None:
        return condition.test == "!="
    try:
        return bool(_TESTS[condition.test](found, condition.constant))
    except TypeError:
        what = f"{condition}: the prompt has {found!r}, which cannot be ordered against {condition.constant!r}"
        raise ExpressionError(explain(what, where=where)) from None


def _constant(feature: str, given: Any) -> str | int | float:
    if isinstance(given, str):
        return given
    if hasattr(given, "item") and not isinstance(given, int | float):
        given = given.item()  # a numpy scalar
    if isinstance(given, int) and abs(given) < 10**15:
        return int(given)  # True is 1
    if isinstance(given, float) and math.isfinite(given):
        # 3.0 equals 3, so it must print as 3.
        return int(given) if given.is_integer() and abs(given) < 2**53 else given
    what = f"{_spell_feature(feature)} is compared with {given!r}"
    raise ExpressionError(explain(what, mend="compare a feature with a text or a finite number"))


def _check(part: Any) -> Any:
    if not isinstance(part, CONDITIONS):
        what = f"{part} is no condition"
        mend = 'write prompt.relation == "P103"; in Python put each comparison in brackets'
        raise ExpressionError(explain(what, mend=mend))
    return part


def _flat(kind: type, parts: Iterable[Any]) -> tuple[Any, ...]:
    found = tuple(leaf for part in parts for leaf in (part.parts if isinstance(part, kind) else (part,)))
    return tuple(_check(part) for part in found)


def _spell_feature(name: str) -> str:
    spelled = spell(name)
    return f"prompt[{spelled}]" if spelled.startswith('"') else f"prompt.{spelled}"
