"""References: which nodes a sentence speaks of."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from causalnet.errors import ExpressionError, explain
from causalnet.expr.operators import Operators, deeper, refuse_bare
from causalnet.expr.positions import Position

if TYPE_CHECKING:
    from causalnet.graph.node import Node

__all__ = [
    "Ancestors",
    "Between",
    "Component",
    "Descendants",
    "Difference",
    "Family",
    "Intersection",
    "Located",
    "Ref",
    "Slice",
    "Union",
    "anc",
    "attn",
    "between",
    "deeper",
    "desc",
    "embed",
    "logits",
    "mlp",
    "norm",
    "resid",
]


@dataclass(frozen=True, slots=True)
class Slice:
    """Layers or heads ``start`` to ``stop``, half-open; None is an open end.

    Examples
    --------
    >>> print(Slice(3, 7), Slice(None, None))
    3:7 :
    """

    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        return f"{'' if self.start is None else self.start}:{'' if self.stop is None else self.stop}"


Index = tuple[int | Slice, ...]
_LAYERED = ("attn", "mlp", "resid")


@dataclass(frozen=True, slots=True)
class Component(Operators):
    """Components by name: ``embed``, ``attn[5]``, ``attn[3:7]``, ``attn[9].head[6,9]``, ``norm``.

    Parameters
    ----------
    kind
        ``embed``, ``attn``, ``head``, ``bias``, ``mlp``, ``resid``, ``norm`` or ``logits``.
    layers
        Layers, each a number or a :class:`Slice`; empty for kinds without layers.
    heads
        Heads, for ``kind="head"`` only.

    Examples
    --------
    >>> print(attn[9].head[6, 9], attn[3:7], attn[9].bias, norm)
    attn[9].head[6,9] attn[3:7] attn[9].bias norm
    """

    kind: Literal["embed", "attn", "head", "bias", "mlp", "resid", "norm", "logits"]
    layers: Index = ()
    heads: Index = ()

    def __str__(self) -> str:
        name = "attn" if self.kind in ("head", "bias") else self.kind
        if self.layers:
            name += f"[{_index(self.layers)}]"
        if self.kind == "bias":
            return f"{name}.bias"
        return f"{name}.head[{_index(self.heads)}]" if self.heads else name

    @property
    def head(self) -> "_Heads":
        """Heads of these attention layers: ``attn[9].head[6]``, ``attn[9].head[6, 9]``."""
        return _Heads(self._attention("heads"))

    @property
    def bias(self) -> "Component":
        """The bias of these attention layers, which belongs to no head: ``attn[9].bias``."""
        return Component("bias", self._attention("a bias of its own"))

    def _attention(self, what: str) -> Index:
        if self.kind != "attn":
            raise ExpressionError(f"{self} has no {what}; only attn[…] has")
        return self.layers

    @classmethod
    def of(cls, node: "Node") -> "Component":
        """Return the reference to exactly one node.

        Examples
        --------
        >>> from causalnet.graph.node import Node
        >>> print(Component.of(Node("head", 9, 6)))
        attn[9].head[6]
        """
        layers = () if node.layer is None else (node.layer,)
        return cls(node.kind, layers, () if node.head is None else (node.head,))


@dataclass(frozen=True, slots=True)
class Descendants(Operators):
    """``desc(x)``: the primitive nodes downstream of x, without x and without the outcome."""

    of: "Ref"
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", deeper(_plain(self.of, "desc(…)")))

    def __str__(self) -> str:
        return f"desc({self.of})"


@dataclass(frozen=True, slots=True)
class Ancestors(Operators):
    """``anc(x)``: the primitive nodes upstream of x, without x."""

    of: "Ref"
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", deeper(_plain(self.of, "anc(…)")))

    def __str__(self) -> str:
        return f"anc({self.of})"


@dataclass(frozen=True, slots=True)
class Between(Operators):
    """``between(x, y)``: the primitive nodes on the paths from x to y, ends excluded."""

    start: "Ref"
    end: "Ref"
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends = (_plain(self.start, "between(…)"), _plain(self.end, "between(…)"))
        object.__setattr__(self, "depth", deeper(*ends))

    def __str__(self) -> str:
        return f"between({self.start}, {self.end})"


@dataclass(frozen=True, slots=True)
class Union(Operators):
    """``x | y | …``: all of them.  Nested unions are flattened."""

    parts: "tuple[Ref, ...]"
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = _flat(Union, self.parts)
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "depth", deeper(*parts))

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class Intersection(Operators):
    """``x & y & …``: what is in all of them.  Nested intersections are flattened."""

    parts: "tuple[Ref, ...]"
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = _flat(Intersection, self.parts)
        for part in parts:
            _plain(part, "'&'")
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "depth", deeper(*parts))

    def __str__(self) -> str:
        return " & ".join(f"({part})" if isinstance(part, Union) else str(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Difference(Operators):
    """``x - y - …``: what is in x and in none of the others."""

    base: "Ref"
    without: "tuple[Ref, ...]"
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.base, Difference):
            object.__setattr__(self, "without", self.base.without + self.without)
            object.__setattr__(self, "base", self.base.base)
        for part in (self.base, *self.without):
            _plain(part, "'-'")
        object.__setattr__(self, "depth", deeper(self.base, *self.without))

    def __str__(self) -> str:
        loose = (Union, Intersection, Difference)
        parts = (self.base, *self.without)
        return " - ".join(f"({part})" if isinstance(part, loose) else str(part) for part in parts)


@dataclass(frozen=True, slots=True)
class Located(Operators):
    """``x @ position``: x at that position only.

    Examples
    --------
    >>> from causalnet.expr import attn, last, mlp, pos
    >>> print(attn[5] @ last, (attn[5] | mlp[5]) @ pos[3:6])
    attn[5]@last (attn[5] | mlp[5])@3:6
    """

    of: "Ref"
    position: Position
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for part in self.of.parts if isinstance(self.of, Union) else (self.of,):
            if isinstance(part, Located):
                what = f"{part} already has a position, so {self.position} cannot follow"
                raise ExpressionError(explain(what, mend="write one position, after the whole set"))
        object.__setattr__(self, "depth", deeper(_plain(self.of, "'@'")))

    def __str__(self) -> str:
        bare = isinstance(self.of, Component | Descendants | Ancestors | Between)
        return f"{self.of}{self.position}" if bare else f"({self.of}){self.position}"


Ref = Component | Descendants | Ancestors | Between | Union | Intersection | Difference | Located
"""Anything that names nodes."""
REFS = (Component, Descendants, Ancestors, Between, Union, Intersection, Difference, Located)


@dataclass(frozen=True, slots=True)
class Family:
    """``attn``, ``mlp``, ``resid``: name their layers, ``attn[5]``, ``attn[3:7]``, ``attn[:]``.

    Examples
    --------
    >>> attn[3:7] == Component("attn", (Slice(3, 7),))
    True
    """

    kind: Literal["attn", "mlp", "resid"]

    def __getitem__(self, item: Any) -> Component:
        return Component(self.kind, index_of(item, self.kind))

    def __str__(self) -> str:
        return self.kind

    def __getattr__(self, name: str) -> Any:
        if name in ("head", "bias") and self.kind == "attn":
            refuse_bare(self)
        raise AttributeError(name)

    def _refuse(self, *_: object) -> Any:
        refuse_bare(self)

    __matmul__ = __lshift__ = __rshift__ = __or__ = __and__ = __sub__ = along = _refuse
    __rrshift__ = __ror__ = __rand__ = __rsub__ = _refuse


@dataclass(frozen=True, slots=True)
class _Heads:
    layers: Index

    def __getitem__(self, item: Any) -> Component:
        return Component("head", self.layers, index_of(item, "head"))


embed = Component("embed")
norm = Component("norm")
logits = Component("logits")
attn = Family("attn")
mlp = Family("mlp")
resid = Family("resid")


def desc(of: Ref) -> Descendants:
    """Return the set of nodes downstream of ``of`` (the outcome and ``of`` itself excluded).

    What an outcome reads belongs to the outcome: with ``direct(B)`` the node B is left out, so that
    ``E[direct(B) | do(s, desc(X) = natural)]`` holds every other node and lets B respond, and with ``sigma`` the norm
    is.  To hold B as well, name it: ``do(s, desc(X) = natural, B = natural)``.

    Examples
    --------
    >>> from causalnet.expr import parse
    >>> from causalnet.graph import Block, CausalGraph
    >>> graph = CausalGraph.from_blocks([Block(0), Block(1)])
    >>> held = "do(attn[1] = zero, desc(attn[1]) = natural)"
    >>> print(parse(f"E[logit(target) | {held}]").worlds(graph)[1])
    do(attn[1] = zero, mlp[1] = natural, norm = natural)
    >>> print(parse(f"E[direct(mlp[1]) | {held}]").worlds(graph)[1])
    do(attn[1] = zero, norm = natural)
    """
    return Descendants(of)


def anc(of: Ref) -> Ancestors:
    """Return the set of nodes upstream of ``of`` (``of`` itself excluded)."""
    return Ancestors(of)


def between(start: Ref, end: Ref) -> Between:
    """Return the set of nodes on the paths from ``start`` to ``end``, ends excluded."""
    return Between(start, end)


def union(parts: Iterable[Ref]) -> Ref:
    """Return the union of one or more references, each once."""
    once = tuple(dict.fromkeys(parts))
    return once[0] if len(once) == 1 else Union(once)


def without_position(ref: Ref) -> Ref:
    """Return the reference with every position left out."""
    if isinstance(ref, Located):
        return without_position(ref.of)
    if isinstance(ref, Union):
        return union(without_position(part) for part in ref.parts)
    return ref


def index_of(item: Any, kind: str) -> Index:
    """Read what stands in the brackets of ``attn[...]`` or ``head[...]``."""
    items = item if isinstance(item, tuple) else (item,)
    what = "a head" if kind == "head" else f"a layer of {kind}"
    if not items:
        raise ExpressionError(f"{what} is missing between the brackets")
    found: list[int | Slice] = []
    for one in items:
        if isinstance(one, slice):
            if one.step is not None:
                raise ExpressionError(f"a slice of {kind} has no step; write {kind}[3:7]")
            found.append(Slice(*(None if end is None else _whole(end, what) for end in (one.start, one.stop))))
        elif isinstance(one, Slice):
            found.append(one)
        else:
            found.append(_whole(one, what))
    return tuple(found)


def _whole(given: Any, what: str) -> int:
    if isinstance(given, bool) or not hasattr(type(given), "__index__"):
        raise ExpressionError(explain(f"{what} is a whole number, not {given!r}", mend="count from 0"))
    if abs(int(given)) > 10**9:
        raise ExpressionError(f"{what} is no such large number as {given}")
    return int(given)


def _index(items: Index) -> str:
    return ",".join(map(str, items))


def _flat(kind: type, parts: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(leaf for part in parts for leaf in (part.parts if isinstance(part, kind) else (part,)))


def _plain(ref: Any, where: str) -> Any:
    """Refuse what is no reference, or a position where only whole nodes make sense."""
    if isinstance(ref, Family):
        refuse_bare(ref)
    if not isinstance(ref, REFS):
        raise ExpressionError(f"{where} takes references such as attn[5], not {ref}")
    for part in ref.parts if isinstance(ref, Union) else (ref,):
        if isinstance(part, Located):
            what = f"{where} takes no position, but has {part.position}"
            raise ExpressionError(explain(what, mend="write positions after the whole set"))
    return ref
