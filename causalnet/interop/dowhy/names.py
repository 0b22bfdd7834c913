"""Names of nodes in DoWhy's graphs: texts that sort in order of computation within a kind."""

import re

from causalnet.errors import UnknownNodeError
from causalnet.graph import Edge, Node

__all__ = ["edge_id", "node_id", "node_of"]

_ID = re.compile(r"(embed|norm|logits)|(attn|mlp|resid)\.([0-9]+)(?:\.(?:head\.([0-9]+)|(bias)))?")


def node_id(node: Node) -> str:
    """Return a node's name as DoWhy gets it: ``attn.05``, ``attn.05.head.03``, ``norm``.

    DoWhy sorts the parents of a node by name and reads brackets in names as formulas, so numbers are
    padded and there are no brackets.

    Examples
    --------
    >>> node_id(Node("attn", 5)), node_id(Node("head", 9, 6)), node_id(Node("norm"))
    ('attn.05', 'attn.09.head.06', 'norm')
    """
    layer = f"{node.layer or 0:02d}"
    if node.kind == "head":
        return f"attn.{layer}.head.{node.head or 0:02d}"
    if node.kind == "bias":
        return f"attn.{layer}.bias"
    return node.kind if node.layer is None else f"{node.kind}.{layer}"


def edge_id(edge: Edge) -> str:
    """Return the name of the copy of ``edge.source`` that ``edge.target`` reads, where that edge is set.

    Examples
    --------
    >>> edge_id(Edge.parse("attn[5] -> mlp[7]"))
    'attn.05>mlp.07'
    """
    return f"{node_id(edge.source)}>{node_id(edge.target)}"


def node_of(name: str) -> Node:
    """Return the node of a name that :func:`node_id` made.

    Raises
    ------
    UnknownNodeError
        If it is no such name.

    Examples
    --------
    >>> node_of("attn.09.head.06")
    Node(kind='head', layer=9, head=6, position=None)
    """
    found = _ID.fullmatch(name)
    if found is None or (found[2] != "attn" and (found[4] or found[5])):
        raise UnknownNodeError(f"{name!r} is not the name of a node, such as attn.05")
    if found[1]:
        return Node(found[1])  # type: ignore[arg-type]
    if found[4]:
        return Node("head", int(found[3]), int(found[4]))
    return Node("bias" if found[5] else found[2], int(found[3]))  # type: ignore[arg-type]
