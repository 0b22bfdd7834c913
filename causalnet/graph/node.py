"""Nodes and edges of a transformer's causal graph, and their names."""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

from causalnet.errors import GraphError, UnknownNodeError, explain

__all__ = ["Edge", "Kind", "Node"]

Kind = Literal["embed", "attn", "head", "bias", "mlp", "resid", "norm", "logits"]

_LAYERED = ("attn", "head", "bias", "mlp", "resid")
# resid[l] is the stream that *enters* layer l, so it comes before the layer's own nodes.
_ORDER = {kind: rank for rank, kind in enumerate(("embed", "resid", "head", "bias", "attn", "mlp", "norm", "logits"))}
# ASCII digits, and not more of them than a number that orders below the readout can have: names come from files.
_INT = "[0-9]{1,9}"
_TEXT = re.compile(
    r"(?P<kind>embed|norm|logits|attn|mlp|resid)"
    rf"(?:\[(?P<layer>{_INT})\](?:\.(?P<part>head\[(?P<head>{_INT})\]|bias))?)?"
    rf"(?:@(?P<position>{_INT}))?"
)


@dataclass(frozen=True, slots=True)
class Node:
    """One variable of the causal graph.

    Parameters
    ----------
    kind
        ``embed``, ``attn``, ``head``, ``bias`` (of an attention whose heads are nodes), ``mlp``,
        ``resid``, ``norm`` (the final norm's scale σ) or ``logits``.
    layer
        Layer, from 0; None for the nodes that belong to no layer.
    head
        Head, from 0; only for ``kind="head"``.
    position
        Position, from 0; only in a graph that is unrolled over positions.

    Examples
    --------
    >>> str(Node("head", 9, 6))
    'attn[9].head[6]'
    >>> Node.parse("mlp[3]")
    Node(kind='mlp', layer=3, head=None, position=None)
    """

    kind: Kind
    layer: int | None = None
    head: int | None = None
    position: int | None = None

    def __post_init__(self) -> None:
        """Refuse nodes that cannot exist."""
        if self.kind not in get_args(Kind):
            raise UnknownNodeError(explain(f"unknown node kind {self.kind!r}", legal=get_args(Kind), got=self.kind))
        if (self.layer is not None) != (self.kind in _LAYERED):
            raise UnknownNodeError(
                f"a node of kind {self.kind!r} {'needs' if self.layer is None else 'has no'} a layer"
            )
        if (self.head is not None) != (self.kind == "head"):
            raise UnknownNodeError(f"a node of kind {self.kind!r} {'needs' if self.head is None else 'has no'} a head")
        for name in ("layer", "head", "position"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UnknownNodeError(f"{name} {value} of a {self.kind} node is negative; count from 0")

    def __str__(self) -> str:
        """Return the canonical name, which :meth:`parse` reads back."""
        if self.kind == "head":
            name = f"attn[{self.layer}].head[{self.head}]"
        elif self.kind == "bias":
            name = f"attn[{self.layer}].bias"
        else:
            name = self.kind if self.layer is None else f"{self.kind}[{self.layer}]"
        return name if self.position is None else f"{name}@{self.position}"

    @classmethod
    def parse(cls, text: str) -> "Node":
        """Read a node name such as ``attn[5]``, ``attn[9].head[6]``, ``norm`` or ``mlp[3]@7``.

        Raises
        ------
        UnknownNodeError
            If the text is not the name of a node.
        """
        match = _TEXT.fullmatch(text.strip())
        legal = ["embed", "attn[L]", "attn[L].head[H]", "attn[L].bias", "mlp[L]", "resid[L]", "norm", "logits"]
        if match is None or (match["part"] and match["kind"] != "attn"):
            raise UnknownNodeError(explain(f"{text!r} is not a node", legal=legal))
        part = match["part"]
        kind = match["kind"] if part is None else "bias" if part == "bias" else "head"
        number = {name: None if match[name] is None else int(match[name]) for name in ("layer", "head", "position")}
        return cls(cast(Kind, kind), **number)

    @property
    def contributes(self) -> bool:
        """Whether the node adds a vector to the residual stream."""
        return self.kind in ("embed", "attn", "head", "bias", "mlp")

    @property
    def sort_key(self) -> tuple[int, int, int, int]:
        """Order of computation: by layer, attention before MLP, then head, then position."""
        layer = {"embed": -1, "norm": 10**9, "logits": 10**9}.get(self.kind, self.layer or 0)
        head = -1 if self.head is None else self.head
        return (layer, _ORDER[self.kind], head, -1 if self.position is None else self.position)

    def at(self, position: int | None) -> "Node":
        """Return the same node at ``position``."""
        return Node(self.kind, self.layer, self.head, position)


class Edge(NamedTuple):
    """One arrow of the causal graph: ``target`` reads what ``source`` wrote.

    Parameters
    ----------
    source
        The node whose value is read.
    target
        The node whose mechanism reads it.

    Examples
    --------
    >>> str(Edge.parse("attn[0] -> mlp[1]"))
    'attn[0] -> mlp[1]'
    """

    source: Node
    target: Node

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"

    @classmethod
    def parse(cls, text: str) -> "Edge":
        """Read an edge such as ``attn[0] -> mlp[1]``.

        Raises
        ------
        GraphError
            If the text has no single arrow.
        UnknownNodeError
            If an end is not the name of a node.
        """
        ends = text.split("->")
        if len(ends) != 2:
            raise GraphError(f"{text!r} is not an edge; write it as 'attn[0] -> mlp[1]'")
        return cls(Node.parse(ends[0]), Node.parse(ends[1]))
