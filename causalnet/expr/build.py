"""The verbs behind the operators; the text form and the Python form both end here.

So what one form refuses the other refuses too, in the same words.
"""

from collections.abc import Sequence
from typing import Any, get_args

from causalnet.errors import ExpressionError, explain
from causalnet.expr.assign import Assignment, Path, Paths
from causalnet.expr.operators import refuse_bare
from causalnet.expr.positions import Position
from causalnet.expr.refs import REFS, Difference, Family, Intersection, Located, Ref, Union
from causalnet.expr.values import Value

__all__ = ["assign", "chain", "follow", "intersect", "locate", "subtract", "unite"]

_POSITIONS = get_args(Position)
_VALUES = get_args(Value)
_LEGAL_VALUES = (
    "zero", "mean", "resample", 'patch("name")', 'value("name")', "natural", "under do(...)",
    "scale(x)", "noise(x)", 'add("name", x)', 'project_out("name")',
)  # fmt: skip


def locate(ref: Any, position: Any) -> Located:
    """Build ``ref @ position``."""
    _refuse_family(ref)
    if not isinstance(position, _POSITIONS):
        mend = 'write @ last, @ pos[0], @ pos[3:6] or @ span("subject")'
        if isinstance(position, str):
            mend = f"write @ {'last' if position == 'last' else f'span({position!r})'}"
        elif isinstance(position, int):
            mend = f"write @ pos[{position}]"
        raise ExpressionError(explain(f"{position!r} is no position", mend=mend))
    if isinstance(ref, Assignment):
        what = f"the position {position} stands after the value"
        raise ExpressionError(explain(what, mend=f"put it before '=': {ref.target}{position} = {ref.value}"))
    if isinstance(ref, Path | Paths):
        mend = f"put it after the first node: {ref.steps[0]}{position} -> …" if isinstance(ref, Path) else ""
        raise ExpressionError(explain(f"the path {ref} takes no position", mend=mend))
    return Located(ref, position)


def subtract(parts: Sequence[Any]) -> Ref:
    """Build ``a - b - c``."""
    if len(parts) == 1:
        return parts[0]
    _refs_only(parts, "-")
    return Difference(parts[0], tuple(parts[1:]))


def intersect(parts: Sequence[Any]) -> Ref:
    """Build ``a & b & c``."""
    if len(parts) == 1:
        return parts[0]
    _bite(parts, "&")
    _refs_only(parts, "&")
    return Intersection(tuple(parts))


def unite(parts: Sequence[Any]) -> Ref | Paths:
    """Build ``a | b | c``, of references or of paths."""
    if len(parts) == 1:
        return parts[0]
    _bite(parts, "|")
    if all(isinstance(part, Path | Paths) for part in parts):
        return Paths(tuple(path for part in parts for path in (part.parts if isinstance(part, Paths) else (part,))))
    mixed = next((part for part in parts if isinstance(part, Path | Paths)), None)
    if mixed is not None:
        what = f"'->' binds tighter than '|', so this joins the path {mixed} with a node"
        raise ExpressionError(explain(what, mend="put brackets around the nodes: attn[5] -> (mlp[7] | mlp[8])"))
    _refs_only(parts, "|")
    return Union(tuple(parts))


def chain(parts: Sequence[Any]) -> Ref | Path:
    """Build ``a -> b -> c``."""
    if len(parts) == 1:
        return parts[0]
    steps: list[Any] = []
    for part in parts:
        _refuse_family(part)
        if isinstance(part, Path):
            steps += part.steps
        elif isinstance(part, REFS):
            steps.append(part)
        else:
            raise ExpressionError(f"'->' leads from node to node, not to or from {part}")
    return Path(tuple(steps))


def assign(target: Any, value: Any) -> Assignment:
    """Build ``target = value``."""
    _refuse_family(target)
    if not isinstance(value, _VALUES):
        mend = ""
        if isinstance(value, REFS):
            mend = 'write under do(…) for its value in another world, patch("name") for that in another prompt'
        elif isinstance(value, int | float):
            mend = "write zero" if value == 0 else 'write value("name") and give the vector when the query runs'
        elif isinstance(value, str):
            mend = f'write patch("{value}") or value("{value}")'
        plain = isinstance(value, str | int | float | type(None))
        shown = value if mend else repr(value) if plain else f"a {type(value).__name__}"
        raise ExpressionError(explain(f"{shown} is no value", legal=_LEGAL_VALUES, mend=mend))
    if isinstance(target, Assignment):
        raise ExpressionError(f"{target} already sets a value; one assignment has one '='")
    if isinstance(target, Paths):
        mend = "write one assignment for each edge, or set the node along these paths"
        raise ExpressionError(explain(f"'=' sets one node or one edge, and {target} is several paths", mend=mend))
    return Assignment(target, value)


def follow(assignment: Any, paths: Any) -> Assignment:
    """Build ``assignment along paths``."""
    if not isinstance(assignment, Assignment):
        mend = f"say what it is set to first: {assignment} = zero along {paths}"
        raise ExpressionError(explain(f"'along' follows an assignment, not {assignment}", mend=mend))
    if assignment.along_paths:
        raise ExpressionError(explain(f"{assignment} already goes along paths", mend="join the paths: along (p1 | p2)"))
    if not isinstance(paths, Path | Paths):
        raise ExpressionError(explain(f"'along' takes a path, not {paths}", mend="write attn[5] -> mlp[7] -> logits"))
    found = paths.parts if isinstance(paths, Paths) else (paths,)
    return Assignment(assignment.target, assignment.value, found)


def _refuse_family(part: Any) -> None:
    if isinstance(part, Family):
        refuse_bare(part)


def _refs_only(parts: Sequence[Any], operator: str) -> None:
    for part in parts:
        _refuse_family(part)
        if not isinstance(part, REFS):
            raise ExpressionError(f"'{operator}' joins references such as attn[5], not {part}")


def _bite(parts: Sequence[Any], operator: str) -> None:
    """Explain Python's precedence where an assignment ended up inside a set."""
    for part in parts:
        _refuse_family(part)
    inner = [part for part in parts if isinstance(part, Assignment)]
    if not inner:
        return
    if len(inner) == len(parts):
        raise ExpressionError(
            explain(f"'{operator}' joins sets, not assignments", mend=f"use a comma: {', '.join(map(str, parts))}")
        )
    if any(isinstance(getattr(part, "target", part), Path | Paths) for part in parts):
        what = f"'=' binds tighter than '{operator}', so only {inner[0].target} is set here"
        raise ExpressionError(explain(what, mend="put brackets around nodes: attn[5] -> (mlp[7] | mlp[8]) = zero"))
    targets = f" {operator} ".join(str(part.target if isinstance(part, Assignment) else part) for part in parts)
    raise ExpressionError(
        explain(
            f"'=' binds tighter than '{operator}', so only {inner[0].target} is set here",
            mend=f"put brackets around the set: ({targets}) = {inner[0].value}",
        )
    )
