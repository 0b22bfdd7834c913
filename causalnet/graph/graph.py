"""The causal graph of a transformer: its queries and its surgery."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from causalnet.errors import GraphError, UnknownNodeError
from causalnet.graph import build, exchange, refer, surgery
from causalnet.graph.block import Block
from causalnet.graph.layout import slots_of
from causalnet.graph.node import Edge, Node
from causalnet.graph.structure import Structure, Wave

if TYPE_CHECKING:
    import networkx

__all__ = ["CausalGraph", "EdgeLike", "NodeLike", "NodesLike"]

NodeLike = Node | str
NodesLike = Node | str | Iterable[Node | str]
EdgeLike = Edge | str | tuple[NodeLike, NodeLike]


@dataclass(frozen=True, eq=False, repr=False)
class CausalGraph:
    """The causal graph of a transformer, frozen.

    Build it with :meth:`from_blocks` (from the layers of a model) or :meth:`from_edges` (by hand); the
    other constructors read what a graph wrote.  Edges are not stored: every component reads what was
    written before it, so the graph keeps the stage at which each node reads and writes, and lists only
    the edges that do not follow from that.  Every query costs about the number of nodes.

    A node may be given as a :class:`Node` or as its text.  Where a *set* of nodes is asked for, a name
    stands for all it is made of: without a position it means every position of an unrolled graph, and
    ``attn[l]`` means the layer's heads and bias where these are the nodes.

    Two graphs are equal if they have the same nodes, edges, hard-set nodes and set edges.

    Parameters
    ----------
    nodes
        All nodes, in order of computation.
    blocks
        The layers.
    name
        Name of the graph, for people.
    notes
        Pairs of texts that travel with the graph.
    extra, missing
        Edges that do not follow from the stages, and implied edges that the graph does not have.
    staged
        False where no edge follows from the stages: ``extra`` then lists them all.
    intervened_nodes
        Nodes that :meth:`do` has set: their incoming edges are cut.
    set_edges
        Edges that :meth:`do` has set.

    Examples
    --------
    >>> graph = CausalGraph.from_blocks([Block(0), Block(1)])
    >>> [str(node) for node in graph.nodes]
    ['embed', 'attn[0]', 'mlp[0]', 'attn[1]', 'mlp[1]', 'norm', 'logits']
    >>> sorted(map(str, graph.mediators("attn[1]")))
    ['mlp[1]', 'norm']
    """

    nodes: tuple[Node, ...]
    blocks: tuple[Block, ...]
    name: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    extra: frozenset[Edge] = frozenset()
    missing: frozenset[Edge] = frozenset()
    staged: bool = True
    intervened_nodes: frozenset[Node] = frozenset()
    set_edges: frozenset[Edge] = field(default_factory=frozenset)

    @classmethod
    def from_blocks(
        cls,
        blocks: Iterable[Block],
        *,
        granularity: Literal["layer", "head"] = "layer",
        name: str = "",
        meta: Mapping[str, str] | None = None,
    ) -> "CausalGraph":
        """Build the graph of a transformer from its layers.

        Parameters
        ----------
        blocks
            The layers, in order.
        granularity
            ``layer``, or ``head``: the heads of each layer that has ``heads`` are nodes.
        name
            Name of the graph.
        meta
            Texts that travel with the graph.

        Raises
        ------
        GraphError
            If the layers are not numbered in order, or none has heads where heads are asked for.

        Examples
        --------
        >>> CausalGraph.from_blocks([Block(0, parallel=True)]).has_edge("attn[0]", "mlp[0]")
        False
        """
        return build.from_blocks(cls, blocks, granularity=granularity, name=name, meta=meta)

    @classmethod
    def from_edges(
        cls,
        nodes: Iterable[NodeLike],
        edges: Iterable[EdgeLike],
        *,
        blocks: Iterable[Block] | None = None,
        name: str = "",
        meta: Mapping[str, str] | None = None,
    ) -> "CausalGraph":
        """Build a graph by hand.

        Parameters
        ----------
        nodes
            All nodes; either all of them have positions or none has.
        edges
            All edges, as :class:`Edge`, as pairs of nodes or as text (``"attn[0] -> mlp[1]"``).
        blocks
            The layers; guessed where they are not given.
        name, meta
            As in :meth:`from_blocks`.

        Raises
        ------
        GraphError
            If there is a cycle, or the nodes do not fit the layers.
        UnknownNodeError
            If an edge's end is not among the nodes.

        Examples
        --------
        >>> toy = CausalGraph.from_edges(["embed", "mlp[0]", "logits"], ["embed -> mlp[0]", "mlp[0] -> logits"])
        >>> toy.has_edge("embed", "logits")
        False
        """
        return build.from_edges(cls, nodes, edges, blocks=blocks, name=name, meta=meta)

    # What it is made of

    @cached_property
    def _index(self) -> dict[Node, int]:
        return {node: index for index, node in enumerate(self.nodes)}

    @cached_property
    def _node_set(self) -> frozenset[Node]:
        # Hashing a node costs more than all else here; the keys of a dict keep the hashes they have.
        return frozenset(self._index)

    def _structure(self, *, cut: bool) -> Structure:
        """Build the integer form, with the edges that ``do`` severed or without them."""
        index = self._index
        slots = slots_of(self.nodes, self.blocks)
        if not self.staged:
            slots = [slot._replace(read=-1, write=-1) for slot in slots]
        extra, missing = self.extra, self.missing
        if cut and (self.intervened_nodes or self.set_edges):
            hard = {index[node] for node in self.intervened_nodes}
            slots = [slot._replace(read=-1) if at in hard else slot for at, slot in enumerate(slots)]
            gone = self.set_edges
            missing = {edge for edge in missing | (gone - extra) if edge.target not in self.intervened_nodes}
            extra = {edge for edge in extra - gone if edge.target not in self.intervened_nodes}
        return Structure(
            slots,
            extra=[(index[source], index[target]) for source, target in extra],
            missing=[(index[source], index[target]) for source, target in missing],
        )

    @cached_property
    def _live(self) -> Structure:
        return self._structure(cut=True)

    @cached_property
    def _whole(self) -> Structure:
        """The structure as it was before any ``do``."""
        return self._structure(cut=False) if self.intervened_nodes or self.set_edges else self._live

    @property
    def meta(self) -> dict[str, str]:
        """Texts that travel with the graph (a copy)."""
        return dict(self.notes)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.blocks)

    @cached_property
    def granularity(self) -> Literal["layer", "head"]:
        """``head`` where heads are nodes in some layer, else ``layer``."""
        return "head" if any(node.kind in ("head", "bias") for node in self.nodes) else "layer"

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """The positions of an unrolled graph; empty for a graph without positions."""
        return tuple(sorted({node.position for node in self.nodes if node.position is not None}))

    @cached_property
    def readout(self) -> Node:
        """The node that is read: ``logits``, at the last position of an unrolled graph.

        Raises
        ------
        GraphError
            If the graph has no such node.
        """
        node = Node("logits", position=self.positions[-1] if self.positions else None)
        if node not in self._index:
            raise GraphError(f"the graph has no {node} node to read; name the outcome's node")
        return node

    @cached_property
    def contributors(self) -> tuple[Node, ...]:
        """The nodes whose contributions the readout sums up, in order of computation."""
        if not any(node.kind == "logits" for node in self.nodes):
            return ()
        return self.ordered(node for node in self.parents(self.readout) if node.contributes)

    @cached_property
    def number_of_edges(self) -> int:
        """Number of edges, counted without listing them."""
        return self._live.count()

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __contains__(self, node: object) -> bool:
        if isinstance(node, str):
            try:
                node = Node.parse(node)
            except UnknownNodeError:
                return False
        return node in self._index

    def __eq__(self, other: object) -> bool:
        return build.equal(self, other) if isinstance(other, CausalGraph) else NotImplemented

    @cached_property
    def _hash(self) -> int:
        return hash((self._node_set, self.number_of_edges, self.intervened_nodes, self.set_edges))

    def __hash__(self) -> int:
        return self._hash

    def __getstate__(self) -> dict[str, object]:
        # What is cached is cheap to build again; a hash of texts is another one in another process.
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def _repr_html_(self) -> str:
        """Return the drawn graph, for notebooks."""
        from causalnet.draw.display import graph_html

        return graph_html(self)

    def __repr__(self) -> str:
        words = [repr(self.name)] if self.name else []
        words += [f"{self.layers} layers", f"{len(self)} nodes", f"{self.number_of_edges} edges"]
        words += [f"granularity={self.granularity!r}"] if self.granularity == "head" else []
        words += [f"{len(self.positions)} positions"] if self.positions else []
        hard = ", ".join(map(str, self.ordered(self.intervened_nodes)[:3]))
        words += [f"do({hard}{', …' if len(self.intervened_nodes) > 3 else ''})"] if hard else []
        words += [f"{len(self.set_edges)} set edges"] if self.set_edges else []
        return f"CausalGraph({', '.join(words)})"

    # Queries

    def resolve(self, nodes: NodesLike) -> tuple[Node, ...]:
        """Return the graph's nodes that a name, or several, stand for, in order of computation.

        Raises
        ------
        UnknownNodeError
            If the graph has no such node; the nearest one is named.
        """
        return refer.resolve(self, nodes)

    def select(self, *references: str) -> tuple[Node, ...]:
        """Return the nodes of references such as ``attn[3:7]``, ``attn[9].head[:]`` or ``mlp[-1]@last``.

        Slices are half-open and negative numbers count from the end, as in Python; positions are ``@3``,
        ``@-2``, ``@last`` and ``@3:6``.

        Raises
        ------
        UnknownNodeError
            If a reference cannot be read or names nothing.

        Examples
        --------
        >>> graph = CausalGraph.from_blocks([Block(layer) for layer in range(4)])
        >>> [str(node) for node in graph.select("attn[1:3]", "mlp[-1]")]
        ['attn[1]', 'attn[2]', 'mlp[3]']
        """
        return refer.select(self, references)

    def ordered(self, nodes: Iterable[Node]) -> tuple[Node, ...]:
        """Sort nodes of the graph by order of computation."""
        return tuple(sorted(nodes, key=self._index.__getitem__))

    def _ids(self, nodes: NodesLike) -> list[int]:
        return [self._index[node] for node in self.resolve(nodes)]

    def parents(self, node: NodeLike) -> frozenset[Node]:
        """Return the nodes that ``node`` reads."""
        return frozenset(self.nodes[other] for other in self._live.up.neighbours(self._index[refer.one(self, node)]))

    def children(self, node: NodeLike) -> frozenset[Node]:
        """Return the nodes that read ``node``."""
        return frozenset(self.nodes[other] for other in self._live.down.neighbours(self._index[refer.one(self, node)]))

    def has_edge(self, source: NodeLike, target: NodeLike) -> bool:
        """Whether ``target`` reads ``source``."""
        return self._live.has(self._index[refer.one(self, source)], self._index[refer.one(self, target)])

    def edges(self) -> Iterator[Edge]:
        """Yield every edge, by target and then by source, in order of computation."""
        return (Edge(self.nodes[source], self.nodes[target]) for source, target in self._live.pairs())

    def descendants(self, nodes: NodesLike) -> frozenset[Node]:
        """Return what lies downstream of a node or of a set of nodes (the given ones excluded).

        Examples
        --------
        >>> graph = CausalGraph.from_blocks([Block(0, parallel=True)])
        >>> sorted(map(str, graph.descendants("attn[0]")))
        ['logits', 'norm']
        """
        return self._reached(self._ids(nodes), down=True)

    def ancestors(self, nodes: NodesLike) -> frozenset[Node]:
        """Return what lies upstream of a node or of a set of nodes (the given ones excluded)."""
        return self._reached(self._ids(nodes), down=False)

    def _reached(self, starts: Sequence[int], *, down: bool) -> frozenset[Node]:
        found = Wave(self._live.down if down else self._live.up).flood(starts)
        given = set(starts)
        if 2 * len(found) < len(self.nodes):
            return frozenset([self.nodes[index] for index in found if index not in given])
        # Hashing a node is what costs most here; a copy of a set keeps the hashes it has.
        kept = set(found) - given
        return self._node_set.difference([node for index, node in enumerate(self.nodes) if index not in kept])

    def between(self, x: NodesLike, y: NodesLike | None = None) -> frozenset[Node]:
        """Return the nodes on directed paths from ``x`` to ``y`` (default: the readout), ends excluded."""
        return self.descendants(x) & self.ancestors(self.readout if y is None else y)

    def mediators(self, x: NodesLike, y: NodesLike | None = None) -> frozenset[Node]:
        """Return what carries the effect of ``x`` on ``y`` (default: the readout): M = desc(x) ∩ anc(y).

        The nodes are taken jointly and the final norm is one of them.
        """
        return self.between(x, y)

    def cone(self, x: NodesLike, y: NodesLike | None = None) -> frozenset[Node]:
        """Return what must be computed to carry a change of ``x`` to ``y``: the mediators and the ends on them."""
        y = self.readout if y is None else y
        return (self.descendants(x) | set(self.resolve(x))) & (self.ancestors(y) | set(self.resolve(y)))

    def is_d_separated(self, x: NodesLike, y: NodesLike, given: NodesLike = ()) -> bool:
        """Whether ``given`` d-separates ``x`` from ``y``.

        Raises
        ------
        GraphError
            If two of the three sets share a node.

        References
        ----------
        Shachter, Bayes-Ball: the rational pastime, UAI 1998.

        Examples
        --------
        >>> graph = CausalGraph.from_blocks([Block(0, parallel=True)])
        >>> graph.is_d_separated("attn[0]", "mlp[0]", "embed")
        True
        >>> graph.is_d_separated("attn[0]", "mlp[0]", ["embed", "logits"])
        False
        """
        first, second, known = (set(self._ids(nodes)) for nodes in (x, y, given))
        if shared := (first & second) | (first & known) | (second & known):
            raise GraphError(
                f"{self.nodes[min(shared)]} lies in two of the three sets of a d-separation; they must differ"
            )
        return self._live.separated(first, second, known)

    # Surgery

    def remove_edges(self, edges: Iterable[EdgeLike]) -> "CausalGraph":
        """Return the graph without some edges.

        Raises
        ------
        GraphError
            If one of them is no edge.
        """
        return surgery.remove_edges(self, edges)

    def add_edges(self, edges: Iterable[EdgeLike]) -> "CausalGraph":
        """Return the graph with more edges.

        Raises
        ------
        GraphError
            If one of them is an edge already or closes a cycle.
        """
        return surgery.add_edges(self, edges)

    def do(self, nodes: NodesLike = (), edges: Iterable[EdgeLike] = ()) -> "CausalGraph":
        """Return the mutilated graph of an intervention, which remembers what was set.

        Parameters
        ----------
        nodes
            Nodes that are set hard: their incoming edges are cut.
        edges
            Edges that are set: they are cut.

        Raises
        ------
        GraphError
            If an edge is not one of the graph's.

        Examples
        --------
        >>> graph = CausalGraph.from_blocks([Block(0)]).do("mlp[0]", ["attn[0] -> norm"])
        >>> sorted(map(str, graph.severed_edges))
        ['attn[0] -> mlp[0]', 'attn[0] -> norm', 'embed -> mlp[0]']
        """
        return surgery.do(self, nodes, edges)

    def without_do(self) -> "CausalGraph":
        """Return the graph as it was before any :meth:`do`."""
        return surgery.without_do(self)

    @cached_property
    def severed_edges(self) -> frozenset[Edge]:
        """The edges that :meth:`do` has cut: those into hard-set nodes, and those that were set.

        Raises
        ------
        GraphError
            If there are more than a million.
        """
        return surgery.severed_edges(self)

    def with_heads(self, layers: Iterable[int] | None = None) -> "CausalGraph":
        """Return the graph in which the heads of some layers (default: all that have heads) are nodes.

        ``attn[l].head[h]`` each have the edges that ``attn[l]`` had, ``attn[l].bias`` those out of it: it is a
        constant, and reads nothing.  Where a norm comes after the heads, ``attn[l]`` stays, gathers them, and alone
        contributes.

        Raises
        ------
        GraphError
            If a layer has no heads to tell apart.
        """
        return surgery.with_heads(self, layers)

    def with_resid(self, layers: int | Iterable[int], positions: Iterable[int] | None = None) -> "CausalGraph":
        """Return the graph in which ``resid[l]``, the residual stream that enters layer l, is a node.

        What was written before layer l at that position reaches later readers only through it, whatever
        their position; the readout's sum starts from the last one.  ``resid[L]``, L the number of layers,
        is the stream that enters the final norm.

        Parameters
        ----------
        layers
            A layer, or several, from 0 to L.
        positions
            The positions of an unrolled graph where it is a node; default: all.

        Raises
        ------
        GraphError
            If there is no such layer or position, or the graph lacks an edge that would pass through.

        Examples
        --------
        >>> graph = CausalGraph.from_blocks([Block(0), Block(1)]).with_resid(1)
        >>> sorted(map(str, graph.parents("resid[1]")))
        ['attn[0]', 'embed', 'mlp[0]']
        >>> sorted(map(str, graph.parents("logits")))
        ['attn[1]', 'mlp[1]', 'norm', 'resid[1]']
        """
        return surgery.with_resid(self, layers, positions)

    def spine(self) -> "CausalGraph":
        """Return the sparse form: every residual stream from ``resid[0]`` to ``resid[L]`` is a node.

        Components read from the stream and add to the next one; ``attn[l] -> mlp[l]`` is an edge of a
        sequential block and missing in a parallel one.  Among the components, ancestors and descendants are
        those of the dense form.

        Examples
        --------
        >>> spine = CausalGraph.from_blocks([Block(0)]).spine()
        >>> [str(edge) for edge in spine.edges()][:3]
        ['embed -> resid[0]', 'resid[0] -> attn[0]', 'resid[0] -> mlp[0]']
        """
        return self.with_resid(range(self.layers + 1))

    def without_resid(self) -> "CausalGraph":
        """Return the dense form again, in which no residual stream is a node.

        Raises
        ------
        GraphError
            If a residual stream was set or an edge of it was cut.
        """
        return surgery.without_resid(self)

    def unroll(self, positions: int | Iterable[int]) -> "CausalGraph":
        """Return the graph over positions: every node once per position.

        A mixer reads positions up to its own, inside its window; everything else reads its own position
        only.  Every position has its own norm and logits; :attr:`readout` is the last position's.

        Parameters
        ----------
        positions
            How many positions, or consecutive positions (``range(5, 9)``: what lies before is left out).

        Raises
        ------
        GraphError
            If the graph has positions already, or they are not consecutive.

        Examples
        --------
        >>> graph = CausalGraph.from_blocks([Block(0, window=2)]).unroll(4)
        >>> sorted(map(str, graph.parents("attn[0]@3")))
        ['embed@2', 'embed@3']
        """
        return surgery.unroll(self, positions)

    # Exchange

    @property
    def nx(self) -> "networkx.DiGraph":
        """A copy as a networkx graph: node names are canonical texts, attributes say the rest.

        Raises
        ------
        GraphError
            If there are more than a million edges; ``to_nx(dense=True)`` lists them all the same.
        """
        return self.to_nx()

    def to_nx(self, *, dense: bool = False) -> "networkx.DiGraph":
        """Return :attr:`nx`; ``dense=True`` lists more than a million edges too."""
        return exchange.to_nx(self, dense=dense)

    def to_json(self, *, dense: bool = False) -> str:
        """Write the graph as node-link JSON; the same graph gives the same bytes."""
        return exchange.to_json(self, dense=dense)

    @classmethod
    def from_json(cls, text: str) -> "CausalGraph":
        """Read node-link JSON.

        Raises
        ------
        GraphError
            If the text is not a graph that can be read; it says where.

        Examples
        --------
        >>> graph = CausalGraph.from_blocks([Block(0)])
        >>> CausalGraph.from_json(graph.to_json()) == graph
        True
        """
        return exchange.from_json(cls, text)

    def to_graphml(self, *, dense: bool = False) -> str:
        """Write the graph as GraphML; the same graph gives the same bytes."""
        return exchange.to_graphml(self, dense=dense)

    @classmethod
    def from_graphml(cls, text: str) -> "CausalGraph":
        """Read GraphML.

        Raises
        ------
        GraphError
            If the text is not a graph that can be read; it says where.
        """
        return exchange.from_graphml(cls, text)

    def to_dot(self, *, dense: bool = False) -> str:
        """Write the graph in Graphviz's language; the same graph gives the same bytes."""
        return exchange.to_dot(self, dense=dense)
