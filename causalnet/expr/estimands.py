"""Named estimands: macros over ``E[outcome | do(...)]``.

With s an assignment to X, Y the outcome and M everything downstream of X (the final norm included),
Y(x', M) written as in mediation analysis:

=========== ============================================== =====================================
name        definition                                     expands to
=========== ============================================== =====================================
TE          Y(x', x') − Y(x, x)                            E[Y | do(s)] − E[Y]
DE NDE PDE  Y(x', x) − Y(x, x)                             E[Y | do(s, desc(X) = natural)] − E[Y]
IE NIE PIE  Y(x, x') − Y(x, x)                             E[Y | do(desc(X) = under do(s))] − E[Y]
TDE         Y(x', x') − Y(x, x')                           E[Y | do(s)] − E[Y | do(desc(X) = under do(s))]
TIE         Y(x', x') − Y(x', x)                           E[Y | do(s)] − E[Y | do(s, desc(X) = natural)]
CE          norm held − everything held                    E[Y | do(s, norm = natural)]
                                                           − E[Y | do(s, desc(X) = natural)]
NORM        the final norm's response                      E[Y | do(s)] − E[Y | do(s, norm = natural)]
=========== ============================================== =====================================

So they read for one node.  In a *joint* set one node of X may lie downstream of another, and of a node that is
set at some positions the others belong to M.  Then two parts are added, with ``X at its places`` what s sets and
``X elsewhere`` its nodes at every other position (and the senders of edges that s sets):

=================== ================================= ==================================================
world               of                                gets
=================== ================================= ==================================================
Y(x', M_x)          DE NDE PDE TIE CE                 X elsewhere = natural
Y(x, M_x')          IE NIE PIE TDE                    X at its places = natural,
                                                      X elsewhere = under do(s)
=================== ================================= ==================================================

TE = DE + CE + NORM, TE = PDE + TIE and TE = TDE + PIE hold for every outcome.  IE is the natural
indirect effect; it is neither CE nor CE + NORM.  A soft value (``scale``, ``add``) is a function of what its node
would be in the world at hand: in a joint set the x' of a soft node may differ from world to world.

References
----------
Pearl, Direct and indirect effects (2001).  McGrath et al., The Hydra effect (2023), for DE and CE.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from causalnet.errors import ExpressionError, explain
from causalnet.expr.assign import Assignment, Do, Path
from causalnet.expr.conditions import CONDITIONS, Condition
from causalnet.expr.operators import deeper
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST
from causalnet.expr.query import Expectation, Query, Term
from causalnet.expr.refs import (
    REFS,
    Component,
    Descendants,
    Difference,
    Index,
    Located,
    Ref,
    Slice,
    Union,
    union,
    without_position,
)
from causalnet.expr.values import NATURAL, Under

__all__ = [
    "CE",
    "DE",
    "ESTIMANDS",
    "IE",
    "NDE",
    "NIE",
    "NORM",
    "PDE",
    "PIE",
    "TDE",
    "TE",
    "TIE",
    "Estimand",
    "expanded",
    "kept",
    "named",
]

DEFAULT_OUTCOME = Outcome("logit", (TARGET,))

_Worlds = tuple[Do | None, Do | None]


@dataclass(frozen=True, slots=True)
class Estimand:
    """A named effect of an intervention, such as ``TE(attn[5]@last = resample)``.

    Parameters
    ----------
    name
        A key of :data:`ESTIMANDS`.
    do
        The intervention s.
    outcome
        Y; the target's logit unless given.
    condition
        The subgroup; None: all prompts.
    """

    name: str
    do: Do
    outcome: Outcome = DEFAULT_OUTCOME
    condition: Condition | None = None
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.name not in ESTIMANDS:
            raise ExpressionError(explain(f"unknown estimand {self.name!r}", legal=ESTIMANDS, got=str(self.name)))
        object.__setattr__(self, "depth", deeper(self.outcome, self.do, self.condition))

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.do.assignments))
        if self.condition is not None:
            return f"{self.name}({inside}; {self.outcome}, {self.condition})"
        return f"{self.name}({inside})" if self.outcome == DEFAULT_OUTCOME else f"{self.name}({inside}; {self.outcome})"

    def expand(self) -> Query:
        """Write the estimand out as a difference of expectations."""
        first, second = ESTIMANDS[self.name][0](self.do)
        return Query(
            (
                Term(1.0, Expectation(self.outcome, first, self.condition)),
                Term(-1.0, Expectation(self.outcome, second, self.condition)),
            )
        )


def expanded(query: Query) -> Query:
    """Write every named estimand of a query out; see :meth:`Query.expand`."""
    parts = []
    for term in query.terms:
        if isinstance(term.body, Estimand):
            parts += [Term(term.coefficient * one.coefficient, one.body) for one in term.body.expand().terms]
        else:
            parts.append(term)
    return Query(tuple(parts), query.text)


def kept(do: Do) -> tuple[Assignment, ...]:
    """Hold X natural at the places where s sets it.

    For one node that says nothing, and nothing is returned: no node of X is downstream of another.

    Examples
    --------
    >>> from causalnet.expr import attn, do, last, zero
    >>> [str(one) for one in kept(do(attn[0] @ last << zero, attn[3] << zero))]
    ['attn[0]@last = natural', 'attn[3] = natural']
    """
    if _is_one_node(do):
        return ()
    places = [one.target for one in do.assignments if not _apart(one)]
    return tuple(Assignment(target, NATURAL) for target in dict.fromkeys(places))


def _set_nodes(do: Do) -> Ref:
    """Return X: what the intervention sets, at no position; for an edge its sender."""
    return union(without_position(_sender(one)) for one in do.assignments)


def _held(do: Do) -> Do:
    """Return the world Y(x', M_x)."""
    held = (Descendants(_set_nodes(do)), *_elsewhere(do))
    return Do((*do.assignments, *(Assignment(ref, NATURAL) for ref in held)))


def _norm_held(do: Do) -> Do:
    return Do((*do.assignments, Assignment(Component("norm"), NATURAL)))


def _indirect(do: Do) -> Do:
    """Return the world Y(x, M_x')."""
    moved = (Assignment(ref, Under(do)) for ref in _elsewhere(do))
    return Do((Assignment(Descendants(_set_nodes(do)), Under(do)), *kept(do), *moved))


def _sender(one: Assignment) -> Ref:
    return one.target.steps[0] if isinstance(one.target, Path) else one.target


def _apart(one: Assignment) -> bool:
    """Whether an edge or a path is set, and its sender keeps its own value."""
    return isinstance(one.target, Path) or bool(one.along_paths)


def _flat(ref: Ref) -> Iterable[Ref]:
    """Yield the parts of a union, each with its position."""
    inner = ref.of if isinstance(ref, Located) else ref
    for part in inner.parts if isinstance(inner, Union) else (inner,):
        yield Located(part, ref.position) if isinstance(ref, Located) else part


def _elsewhere(do: Do) -> list[Ref]:
    """Return X's nodes at every position, those left out that s sets at every position; for one node nothing.

    What s says of a place must win over this.  So a node that s names twice is held by its weaker name: an
    explicit reference would beat the slice that sets it somewhere.  Where everything is set at the last position
    nothing else can respond.
    """
    if _is_one_node(do):
        return []
    parts = [(part, _apart(one)) for one in do.assignments for part in _flat(_sender(one))]
    before: list[Ref] = [part for part, apart in parts if not apart and not isinstance(part, Located)]
    last = all(isinstance(part, Located) and part.position == LAST for part, _ in parts)
    somewhere = [without_position(part) for part, apart in parts if apart or (isinstance(part, Located) and not last)]
    found: list[Ref] = []
    for ref in sorted(dict.fromkeys(somewhere), key=_strength):
        if ref not in before:
            hidden = tuple(other for other in before if _may_meet(ref, other))
            found.append(Difference(ref, hidden) if hidden else ref)
            before.append(ref)
    return found


def _is_one_node(do: Do) -> bool:
    one, *more = {without_position(part) for assigned in do.assignments for part in _flat(_sender(assigned))}
    if more or not isinstance(one, Component) or len(one.layers) > 1 or len(one.heads) > 1:
        return False
    return all(isinstance(number, int) for number in (*one.layers, *one.heads))


def _strength(ref: Ref) -> int:
    """Return how strongly a reference names its nodes: computed, by a slice, by number."""
    if not isinstance(ref, Component):
        return 0
    return 1 if any(isinstance(number, Slice) for number in (*ref.layers, *ref.heads)) else 2


def _may_meet(one: Ref, other: Ref) -> bool:
    """Whether two references may share a node; True where only a graph could tell."""
    if not isinstance(one, Component) or not isinstance(other, Component):
        return True
    kinds = {"attn" if ref.kind in ("head", "bias") else ref.kind for ref in (one, other)}
    if len(kinds) > 1 or not _overlap(one.layers, other.layers):
        return False
    return one.kind != other.kind or _overlap(one.heads, other.heads)


def _overlap(one: Index, other: Index) -> bool:
    return not one or any(max(a, c) < min(b, d) or min(a, c) < 0 for a, b in _spans(one) for c, d in _spans(other))


def _spans(index: Index) -> Iterable[tuple[float, float]]:
    """Yield half-open ranges; what is counted from the end starts below 0."""
    for one in index:
        start, stop = (one.start or 0, one.stop) if isinstance(one, Slice) else (one, one + 1)
        yield (-1, -1) if min(start, stop or 0) < 0 else (start, float("inf") if stop is None else stop)


ESTIMANDS: dict[str, tuple[Callable[[Do], _Worlds], str]] = {
    "TE": (lambda s: (s, None), "the total effect"),
    "DE": (lambda s: (_held(s), None), "the direct effect, with everything downstream held at its natural value"),
    "NDE": (lambda s: (_held(s), None), "the natural direct effect"),
    "PDE": (lambda s: (_held(s), None), "the pure direct effect"),
    "IE": (lambda s: (_indirect(s), None), "the natural indirect effect, through everything downstream"),
    "NIE": (lambda s: (_indirect(s), None), "the natural indirect effect"),
    "PIE": (lambda s: (_indirect(s), None), "the pure indirect effect"),
    "TDE": (lambda s: (s, _indirect(s)), "the total direct effect"),
    "TIE": (lambda s: (s, _held(s)), "the total indirect effect"),
    "CE": (lambda s: (_norm_held(s), _held(s)), "the compensatory effect: what the components downstream change"),
    "NORM": (lambda s: (s, _norm_held(s)), "the effect of the final norm's rescaling"),
}
"""Every named estimand: the two worlds that it compares, and what it is."""


def named(name: str, *parts: Any) -> Query:
    """Build a named estimand from assignments, an optional outcome and an optional condition, in this order."""
    assignments = list(parts)
    condition = assignments.pop() if assignments and isinstance(assignments[-1], CONDITIONS) else None
    outcome = assignments.pop() if assignments and isinstance(assignments[-1], Outcome) else DEFAULT_OUTCOME
    if any(isinstance(one, Do) for one in assignments):
        inside = ", ".join(str(a) for one in assignments for a in getattr(one, "assignments", (one,)))
        raise ExpressionError(explain(f"{name}(…) takes assignments, not do(…)", mend=f"write {name}({inside})"))
    if not assignments:
        raise ExpressionError(explain(f"{name}() of what?", mend=f"write {name}(attn[5]@last = resample)"))
    for one in assignments:
        if isinstance(one, REFS):
            what = f"{name}(…) takes assignments, and {one} sets nothing"
            raise ExpressionError(explain(what, mend=f"say what it is set to: {name}({one} = zero)"))
        if not isinstance(one, Assignment):
            what = f"{name}(…) takes assignments, then an outcome, then a condition; {one} is out of place"
            raise ExpressionError(explain(what, mend=f"write {name}(attn[5]@last = resample; logprob(target))"))
    return Query((Term(1.0, Estimand(name, Do(tuple(assignments)), outcome, condition)),))


def TE(*parts: Any) -> Query:
    """Total effect: ``TE(attn[5] @ last << resample)``, an outcome and a condition may follow."""
    return named("TE", *parts)


def DE(*parts: Any) -> Query:
    """Direct effect: what is left when everything downstream is held at its natural value."""
    return named("DE", *parts)


def IE(*parts: Any) -> Query:
    """Natural indirect effect: what the nodes downstream carry when X itself stays natural."""
    return named("IE", *parts)


def CE(*parts: Any) -> Query:
    """Compensatory effect: what the components downstream change, with the final norm held."""
    return named("CE", *parts)


def NORM(*parts: Any) -> Query:
    """Effect of the final norm's rescaling: the third part of TE = DE + CE + NORM."""
    return named("NORM", *parts)


def NDE(*parts: Any) -> Query:
    """Natural direct effect, the same number as ``DE``."""
    return named("NDE", *parts)


def PDE(*parts: Any) -> Query:
    """Pure direct effect, the same number as ``DE``."""
    return named("PDE", *parts)


def NIE(*parts: Any) -> Query:
    """Natural indirect effect, the same number as ``IE``."""
    return named("NIE", *parts)


def PIE(*parts: Any) -> Query:
    """Pure indirect effect, the same number as ``IE``."""
    return named("PIE", *parts)


def TDE(*parts: Any) -> Query:
    """Total direct effect: TE minus the pure indirect effect."""
    return named("TDE", *parts)


def TIE(*parts: Any) -> Query:
    """Total indirect effect: TE minus the pure direct effect."""
    return named("TIE", *parts)
