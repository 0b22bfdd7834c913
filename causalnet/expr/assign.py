"""Assignments: what is set to what, and ``do(...)``, which gathers them."""

from dataclasses import dataclass, field

from causalnet.errors import ExpressionError, explain
from causalnet.expr.operators import Operators, deeper
from causalnet.expr.refs import REFS, Component, Intersection, Located, Ref, Union
from causalnet.expr.values import Under, Value, Zero

__all__ = ["Assignment", "Do", "Path", "Paths", "check_settable", "do", "under"]


@dataclass(frozen=True, slots=True)
class Path(Operators):
    """``a -> b -> …``: an edge (two steps) or a path.

    Examples
    --------
    >>> from causalnet.expr import attn, last, logits, mlp
    >>> print(attn[5] @ last >> mlp[7] >> logits)
    attn[5]@last -> mlp[7] -> logits
    """

    steps: tuple[Ref, ...]
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.steps) < 2:
            raise ExpressionError("a path has at least two steps: a -> b")
        for step in self.steps[1:]:
            if _is_located(step):
                mend = "a position is written once, at the start: attn[5]@last -> mlp[7]"
                raise ExpressionError(explain(f"{step} inside a path has a position", mend=mend))
        object.__setattr__(self, "depth", deeper(*self.steps))

    def __str__(self) -> str:
        return " -> ".join(_tight(step) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Paths(Operators):
    """``p1 | p2 | …``: several paths, each once."""

    parts: tuple[Path, ...]
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(dict.fromkeys(self.parts)))
        object.__setattr__(self, "depth", deeper(*self.parts))

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class Assignment(Operators):
    """``target = value``, where the target is a reference or an edge, perhaps ``along`` paths.

    Parameters
    ----------
    target
        A reference, or a :class:`Path` of two steps: an edge.
    value
        What it is set to.
    along
        The paths that the change may take; empty: all.

    Examples
    --------
    >>> from causalnet.expr import attn, last, mlp, resample, zero
    >>> print(attn[5] @ last << resample, attn[5] >> mlp[7] << zero, sep="; ")
    attn[5]@last = resample; attn[5] -> mlp[7] = zero
    """

    target: Ref | Path
    value: Value
    along_paths: tuple[Path, ...] = ()
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.target, Path):
            if len(self.target.steps) != 2:
                what = f"'=' sets one node or one edge, and {self.target} is a path"
                mend = f"write {self.target.steps[0]} = {self.value} along {self.target}"
                raise ExpressionError(explain(what, mend=mend))
            if self.along_paths:
                what = f"{self.target} is an edge; 'along' follows a node"
                raise ExpressionError(explain(what, mend="set the node, or leave 'along' out"))
        elif not isinstance(self.target, REFS):
            raise ExpressionError(f"'=' sets a reference such as attn[5], not {self.target}")
        else:
            for kind in _kinds(self.target):
                check_settable(kind, self.value, self.target)
        for path in self.along_paths:
            if any(_is_located(step) for step in path.steps):
                mend = f"write it before '=': {self.target} = … along …"
                raise ExpressionError(explain(f"the path {path} has a position", mend=mend))
        object.__setattr__(self, "along_paths", tuple(dict.fromkeys(self.along_paths)))
        object.__setattr__(self, "depth", deeper(self.target, self.value, *self.along_paths))

    def __str__(self) -> str:
        text = f"{_tight(self.target)} = {self.value}"
        if len(self.along_paths) > 1:
            return f"{text} along ({' | '.join(map(str, self.along_paths))})"
        return f"{text} along {self.along_paths[0]}" if self.along_paths else text


@dataclass(frozen=True, slots=True)
class Do:
    """``do(...)``: an intervention, before it is expanded on a graph.

    Examples
    --------
    >>> from causalnet.expr import attn, do, last, resample
    >>> print(do(attn[5] @ last << resample))
    do(attn[5]@last = resample)
    """

    assignments: tuple[Assignment, ...]
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.assignments:
            mend = "write do(attn[5] = zero), or leave the do out"
            raise ExpressionError(explain("do() writes nothing", mend=mend))
        for one in self.assignments:
            if not isinstance(one, Assignment):
                what = f"do(…) takes assignments, and {one} sets nothing"
                raise ExpressionError(explain(what, mend=f"say what it is set to: {one} = zero"))
        object.__setattr__(self, "depth", deeper(*self.assignments))

    def __str__(self) -> str:
        return f"do({', '.join(map(str, self.assignments))})"


def do(*assignments: Assignment) -> Do:
    """Gather assignments into an intervention: ``do(attn[5] @ last << resample)``."""
    return Do(assignments)


def under(do: Do) -> Under:
    """Return the value that a node has in another world: ``under(do(attn[5] << zero))``."""
    if not isinstance(do, Do):
        raise ExpressionError(explain(f"under takes a do(…), not {do}", mend="write under(do(attn[5] << zero))"))
    return Under(do)


def check_settable(kind: str, value: object, target: Ref | Path) -> None:
    """Refuse what can never be set.

    Raises
    ------
    ExpressionError
        For ``logits``, and for ``zero`` on the norm.
    """
    if kind == "logits":
        raise ExpressionError(explain("logits is what outcomes read and cannot be set", mend="set what it reads"))
    if kind == "norm" and isinstance(value, Zero):
        mend = (
            "set it natural, or scale it"
            if isinstance(target, Component)
            else f"leave it out: ({target} - norm) = zero"
        )
        raise ExpressionError(explain(f"{target} = zero would divide by a norm of zero", mend=mend))


def _kinds(ref: Ref) -> tuple[str, ...]:
    """Return the kinds of component that a reference names outright."""
    if isinstance(ref, Located):
        return _kinds(ref.of)
    if isinstance(ref, Union):
        return tuple(kind for part in ref.parts for kind in _kinds(part))
    return (ref.kind,) if isinstance(ref, Component) else ()


def _tight(target: Ref | Path) -> str:
    """Print what stands left of ``=`` or beside ``->``, in brackets where Python's precedence needs them."""
    return f"({target})" if isinstance(target, Union | Intersection) else str(target)


def _is_located(ref: Ref) -> bool:
    parts = ref.parts if isinstance(ref, Union) else (ref,)
    return any(isinstance(part, Located) for part in parts)
