"""The Python operators of the language, the same for references, paths and assignments.

=========  ==========================  ==========
Python     text                        makes
=========  ==========================  ==========
``x @ p``  ``x@p``                     a place
``a - b``  ``a - b``                   a set
``a >> b`` ``a -> b``                  an edge, a path
``x << v`` ``x = v``                   an assignment
``a & b``  ``a & b``                   a set
``a | b``  ``a | b``                   a set, several paths
=========  ==========================  ==========

Both forms bind in this order, Python's own.
"""

from typing import Any, NoReturn

from causalnet.errors import ExpressionError, explain

__all__ = ["MAX_DEPTH", "Operators", "deeper", "refuse_bare"]

MAX_DEPTH = 40
"""How deep sentences may nest: far more than anyone reads, far less than Python's stack."""


def deeper(*parts: Any) -> int:
    """Return the depth of a sentence made of ``parts``.

    Raises
    ------
    ExpressionError
        If that is more than :data:`MAX_DEPTH`.
    """
    depth = 1 + max((getattr(part, "depth", 0) for part in parts), default=0)
    if depth > MAX_DEPTH:
        raise ExpressionError(f"the expression is nested more than {MAX_DEPTH} deep; name its parts in pieces")
    return depth


def refuse_bare(family: Any) -> NoReturn:
    """Refuse ``attn`` where ``attn[5]`` is meant."""
    raise ExpressionError(
        explain(f"{family} needs a layer", mend=f"write {family}[5], {family}[3:7], or {family}[:] for every layer")
    )


class Operators:
    """The operators of references, paths and assignments."""

    __slots__ = ()

    def __matmul__(self, position: Any) -> Any:
        from causalnet.expr.build import locate

        return locate(self, position)

    def __sub__(self, other: Any) -> Any:
        from causalnet.expr.build import subtract

        return subtract([self, other])

    def __rshift__(self, other: Any) -> Any:
        from causalnet.expr.build import chain

        return chain([self, other])

    def __lshift__(self, value: Any) -> Any:
        from causalnet.expr.build import assign

        return assign(self, value)

    def __and__(self, other: Any) -> Any:
        from causalnet.expr.build import intersect

        return intersect([self, other])

    def __or__(self, other: Any) -> Any:
        from causalnet.expr.build import unite

        return unite([self, other])

    def along(self, paths: Any) -> Any:
        """Let an assignment act along these paths only: ``(attn[5] << zero).along(attn[5] >> logits)``."""
        from causalnet.expr.build import follow

        return follow(self, paths)

    def __bool__(self) -> bool:
        raise ExpressionError(
            explain(f"{self} is neither true nor false", mend="join sets with | and &, not with 'or' and 'and'")
        )

    def __iter__(self) -> Any:
        raise ExpressionError(f"{self} is a reference, not a list; model.graph lists nodes")
