"""Queries: linear combinations of expectations, each of one outcome in one world."""

import math
import numbers
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from causalnet.errors import ExpressionError, explain
from causalnet.expr.assign import Assignment, Do
from causalnet.expr.conditions import CONDITIONS, Condition, Feature
from causalnet.expr.operators import deeper
from causalnet.expr.outcomes import Outcome
from causalnet.expr.values import number

if TYPE_CHECKING:
    from causalnet.expr.compiled import CompiledQuery
    from causalnet.expr.estimands import Estimand
    from causalnet.expr.world import World
    from causalnet.graph import CausalGraph

__all__ = ["E", "Expectation", "Query", "Term", "given_that"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """``E[outcome | do(...), condition]``: the mean over the prompts of the subgroup.

    Parameters
    ----------
    outcome
        What is read.
    do
        The intervention; None: the natural world.
    condition
        The subgroup; None: all prompts.
    """

    outcome: Outcome
    do: Do | None = None
    condition: Condition | None = None
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", deeper(self.outcome, self.do, self.condition))

    def __str__(self) -> str:
        given = ", ".join(str(part) for part in (self.do, self.condition) if part is not None)
        return f"E[{self.outcome} | {given}]" if given else f"E[{self.outcome}]"

    def __or__(self, given: Any) -> "Expectation":
        mend = "write every assignment in one do(…), and a condition after a comma"
        raise ExpressionError(explain(f"{self} has more than one '|'", mend=mend))

    def __matmul__(self, position: Any) -> "Expectation":
        raise ExpressionError(
            explain("the position of an outcome stands before '|'", mend=f"write E[{self.outcome}@… | …]")
        )


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a query: ``coefficient * body``."""

    coefficient: float
    body: "Expectation | Estimand"

    def __str__(self) -> str:
        return f"{'-' if self.coefficient < 0 else ''}{self._magnitude}{self.body}"

    @property
    def _magnitude(self) -> str:
        size = abs(self.coefficient)
        if size == 1:
            return ""
        return f"{int(size) if size.is_integer() and size < 2**53 else repr(size)}*"


@dataclass(frozen=True, slots=True, repr=False)
class Query:
    """A question: a linear combination of expectations and named estimands.

    Queries are added, subtracted and multiplied by numbers; brackets are multiplied out, so that
    ``2*(a - b)`` and ``2*a - 2*b`` are the same query.

    Parameters
    ----------
    terms
        The terms, in the order in which they were written.
    text
        The text it was parsed from, for errors that point into it; no part of its identity.

    Examples
    --------
    >>> from causalnet.expr import E, attn, do, last, logit, resample, target
    >>> effect = E[logit(target) | do(attn[5] @ last << resample)] - E[logit(target)]
    >>> print(effect)
    E[logit(target) | do(attn[5]@last = resample)] - E[logit(target)]
    >>> from causalnet.expr import parse
    >>> parse(str(effect)) == effect
    True
    """

    terms: tuple[Term, ...]
    text: str | None = field(default=None, compare=False)
    # numpy scalars then leave ``2.0 * query`` to the query
    __array_ufunc__: ClassVar[None] = None

    def __str__(self) -> str:
        words = [str(self.terms[0])]
        for term in self.terms[1:]:
            words += ["-" if term.coefficient < 0 else "+", str(replace(term, coefficient=abs(term.coefficient)))]
        return " ".join(words)

    def __repr__(self) -> str:
        return f"parse({str(self)!r})"

    def __add__(self, other: Any) -> "Query":
        return total([self, other])

    def __radd__(self, other: Any) -> "Query":
        if isinstance(other, int) and other == 0:  # where sum(...) starts
            return self
        return total([other, self])

    def __sub__(self, other: Any) -> "Query":
        return total([self, -other if isinstance(other, Query) else other])

    def __rsub__(self, other: Any) -> "Query":
        return total([other, -self])

    def __neg__(self) -> "Query":
        return times(self, -1.0)

    def __pos__(self) -> "Query":
        return Query(self.terms)

    def __mul__(self, factor: Any) -> "Query":
        return times(self, factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> "Query":
        if not _is_number(divisor):
            return times(self, divisor)
        if divisor == 0:
            raise ExpressionError("a query is divided by 0")
        return _scaled(self, lambda coefficient: coefficient / number("a divisor", divisor))

    def __rtruediv__(self, other: Any) -> "Query":
        raise ExpressionError(_NOT_LINEAR)

    def __bool__(self) -> bool:
        raise ExpressionError(explain("a query is neither true nor false", mend="evaluate it on a model and prompts"))

    def expand(self) -> "Query":
        """Write named estimands (``TE``, ``DE``, …) out as expectations.

        Examples
        --------
        >>> from causalnet.expr import DE, attn, last, resample
        >>> print(DE(attn[5] @ last << resample).expand())
        E[logit(target) | do(attn[5]@last = resample, desc(attn[5]) = natural)] - E[logit(target)]
        """
        from causalnet.expr.estimands import expanded

        return expanded(self)

    def latex(self) -> str:
        """Return the query in LaTeX, in do-notation."""
        from causalnet.expr.latex import latex

        return latex(self)

    def _repr_html_(self) -> str:
        """Return the query and what it asks in plain English, for notebooks."""
        from causalnet.draw.display import query_html

        return query_html(self)

    def _repr_latex_(self) -> str:
        return f"${self.latex()}$"

    def pearl(self) -> str:
        """Return the query in Pearl's counterfactual notation, in which ``Y_{x}`` is Y in the world do(x)."""
        from causalnet.expr.pearl import pearl

        return pearl(self)

    def explain(self, graph: "CausalGraph | None" = None) -> str:
        """Say in plain English what is run and why; with a graph also how large it is and what was overridden."""
        from causalnet.expr.english import english

        return english(self, graph)

    def compile(
        self,
        graph: "CausalGraph",
        *,
        spans: Collection[str] | None = None,
        patches: Collection[str] | None = None,
        values: Collection[str] | None = None,
        features: Collection[str] | None = None,
    ) -> "CompiledQuery":
        """Expand the query on a graph; see :func:`causalnet.expr.compile_query`."""
        from causalnet.expr.compiled import compile_query

        return compile_query(self, graph, spans=spans, patches=patches, values=values, features=features)

    def worlds(self, graph: "CausalGraph") -> "tuple[World, ...]":
        """Return the distinct worlds that are run, the natural one first, sorted by nesting."""
        return self.compile(graph).worlds

    def graph(self, graph: "CausalGraph", world: int | None = None) -> "CausalGraph":
        """Return the mutilated graph of one world (default: the first intervention that is read).

        Parameters
        ----------
        graph
            The model's graph.
        world
            Number of the world, as :meth:`worlds` counts them.
        """
        return self.compile(graph).mutilated(world)


_NOT_LINEAR = explain(
    "a query is a linear combination of expectations, such as E[…] - 2*E[…]",
    mend="evaluate two queries and divide or multiply their results",
)


class _E:
    """What ``E[...]`` begins with."""

    __slots__ = ()

    def __getitem__(self, item: Any) -> Query:
        parts = item if isinstance(item, tuple) else (item,)
        if not 1 <= len(parts) <= 2:
            raise ExpressionError(explain("E[…] takes an outcome and at most one condition", mend=_AND))
        body, rest = parts[0], parts[1:]
        if isinstance(body, Outcome):
            body = Expectation(body)
        if not isinstance(body, Expectation):
            what = f"E[…] begins with an outcome, not with {body}"
            raise ExpressionError(explain(what, mend="write E[logit(target) | do(attn[5] = zero)]"))
        if rest:
            body = _with_condition(body, rest[0])
        return Query((Term(1.0, body),))

    def __repr__(self) -> str:
        return "E"


E = _E()
"""``E[outcome | do(...)]``: the mean of an outcome in a world."""

_AND = 'join conditions with "and" (in Python: (a) & (b))'


def given_that(outcome: Outcome, given: Any) -> Expectation:
    """``outcome | do(...)`` and ``outcome | condition``."""
    if isinstance(given, Do):
        return Expectation(outcome, given)
    if isinstance(given, CONDITIONS):
        return Expectation(outcome, None, given)
    mend = "write do(…) or a condition after '|'"
    if isinstance(given, Feature):
        mend = f'put the condition in brackets: E[{outcome} | ({given} == "…")]'
    elif isinstance(given, Assignment):
        mend = f"write do({given})"
    raise ExpressionError(explain(f"'|' is followed by {given}", mend=mend))


def total(parts: Collection[Any]) -> Query:
    """Add queries."""
    for part in parts:
        if isinstance(part, Outcome | Expectation):
            raise ExpressionError(explain(f"{part} is no query yet", mend=f"write E[{part}]"))
        if not isinstance(part, Query):
            what = f"{part} is added to a query; only queries are"
            raise ExpressionError(explain(what, mend="multiply by a number, or subtract E[…]"))
    return Query(tuple(term for part in parts for term in part.terms))


def times(query: Query, factor: Any) -> Query:
    """Multiply a query by a number."""
    if not _is_number(factor):
        raise ExpressionError(_NOT_LINEAR)
    factor = number("a factor", factor)
    return _scaled(query, lambda coefficient: coefficient * factor)


def _scaled(query: Query, change: Any) -> Query:
    terms = []
    for term in query.terms:
        coefficient = change(term.coefficient)
        if not math.isfinite(coefficient) or coefficient == 0:
            raise ExpressionError(f"{term.body} is multiplied by {coefficient:g}, which asks nothing of it")
        terms.append(Term(coefficient, term.body))
    return Query(tuple(terms))


def _with_condition(body: Expectation, condition: Any) -> Expectation:
    if isinstance(condition, Do):
        raise ExpressionError(explain("do(…) follows '|'", mend=f"write E[{body.outcome} | {condition}]"))
    if isinstance(condition, Assignment):
        what = f"{condition} stands outside do(…)"
        raise ExpressionError(explain(what, mend="write every assignment inside do(…)"))
    if not isinstance(condition, CONDITIONS):
        mend = 'write prompt.relation == "P103"'
        raise ExpressionError(explain(f"{condition} is no condition", mend=mend))
    if body.condition is not None:
        raise ExpressionError(explain(f"{body} already has a condition", mend=_AND))
    return replace(body, condition=condition)


def _is_number(given: Any) -> bool:
    return isinstance(given, numbers.Real) and not isinstance(given, bool)
