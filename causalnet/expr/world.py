"""Worlds: sets of primitive writes, the form in which interventions are run."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from causalnet.errors import ExpressionError, InterventionError, explain
from causalnet.expr.positions import Position, indices, position_key
from causalnet.expr.values import InWorld, SiteValue
from causalnet.graph.node import Node

__all__ = ["NATURAL_WORLD", "Site", "World", "ground"]


@dataclass(frozen=True, slots=True)
class Site:
    """One primitive place of writing.

    Parameters
    ----------
    node
        The node that is set, or the sender of the edge that is set.
    position
        Where; None means every position.
    receiver
        None: the node itself is set.  A node: only the edge ``node -> receiver`` is set, so only
        ``receiver`` reads the value.

    Examples
    --------
    >>> from causalnet.expr.positions import LAST
    >>> print(Site(Node("attn", 5), LAST), Site(Node("attn", 5), None, Node("mlp", 7)), sep="; ")
    attn[5]@last; attn[5] -> mlp[7]
    """

    node: Node
    position: Position | None = None
    receiver: Node | None = None

    def __str__(self) -> str:
        place = f"{self.node}{'' if self.position is None else self.position}"
        return place if self.receiver is None else f"{place} -> {self.receiver}"

    @property
    def sort_key(self) -> tuple:
        """Order of writes in a world: by node, then node before edges, then position."""
        receiver = () if self.receiver is None else self.receiver.sort_key
        return (self.node.sort_key, receiver, position_key(self.position))


@dataclass(frozen=True, slots=True)
class World:
    """A world: every write that sets it apart from the natural one.

    Parameters
    ----------
    writes
        Pairs (site, value), kept in canonical order: equal worlds compare and hash equal.
        ``World()`` is the natural world.

    Notes
    -----
    Of two sites of one node, the one at a named position overrides the one at every position
    (``position=None``) there.  Sites at two named positions must be disjoint in every prompt;
    :func:`ground` checks that.

    Examples
    --------
    >>> from causalnet.expr.positions import LAST
    >>> from causalnet.expr.values import NATURAL, RESAMPLE
    >>> world = World(((Site(Node("mlp", 7)), NATURAL), (Site(Node("attn", 5), LAST), RESAMPLE)))
    >>> print(world)
    do(attn[5]@last = resample, mlp[7] = natural)
    """

    writes: tuple[tuple[Site, SiteValue], ...] = ()
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.writes, key=lambda write: write[0].sort_key))
        for (site, _), (other, _) in itertools.pairwise(ordered):
            if site == other:
                raise ExpressionError(f"a world writes {site} twice")
        nested = [value.world.depth for _, value in ordered if isinstance(value, InWorld)]
        object.__setattr__(self, "writes", ordered)
        object.__setattr__(self, "depth", 1 + max(nested, default=0) if ordered else 0)

    def __str__(self) -> str:
        return f"do({', '.join(f'{site} = {value}' for site, value in self.writes)})"

    def __len__(self) -> int:
        return len(self.writes)

    def __bool__(self) -> bool:
        """Whether the world differs from the natural one."""
        return bool(self.writes)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that are written, in canonical order."""
        return tuple(site for site, _ in self.writes)

    @property
    def values(self) -> tuple[SiteValue, ...]:
        """The values written, in the order of :attr:`sites`."""
        return tuple(value for _, value in self.writes)

    @property
    def nodes(self) -> frozenset[Node]:
        """The nodes that are set themselves (senders of edge writes are not)."""
        return frozenset(site.node for site, _ in self.writes if site.receiver is None)

    @property
    def nested(self) -> tuple["World", ...]:
        """The worlds that this world takes values from, each once, in order of first use."""
        return tuple(dict.fromkeys(value.world for _, value in self.writes if isinstance(value, InWorld)))

    def uses(self, *kinds: type) -> bool:
        """Whether the world, or one nested in it, writes a value of one of these kinds."""
        return any(isinstance(value, kinds) for value in self.values) or any(w.uses(*kinds) for w in self.nested)


NATURAL_WORLD = World()
"""World 0: nothing is written."""


def ground(
    world: World, length: int, spans: Mapping[str, tuple[int, int]] | None = None, *, where: str = ""
) -> dict[tuple[Node, Node | None], dict[int, tuple[Site, SiteValue]]]:
    """Resolve a world's writes in one prompt to token indices.

    Parameters
    ----------
    world
        The world.
    length
        Number of tokens of the prompt.
    spans
        The prompt's named spans as half-open token indices.
    where
        Name of the prompt, for errors.

    Returns
    -------
    dict
        ``{(node, receiver): {index: (site, value)}}``; named positions have overridden "every position".

    Raises
    ------
    InputError, UnknownNameError
        If the prompt lacks a position or a span.
    InterventionError
        If two named positions of one node meet in this prompt.

    Examples
    --------
    >>> from causalnet.expr.positions import LAST
    >>> from causalnet.expr.values import NATURAL, ZERO
    >>> attn = Node("attn", 5)
    >>> table = ground(World(((Site(attn), NATURAL), (Site(attn, LAST), ZERO))), 3)
    >>> [str(value) for _, value in table[attn, None].values()]
    ['natural', 'natural', 'zero']
    """
    table: dict[tuple[Node, Node | None], dict[int, tuple[Site, SiteValue]]] = {}
    for site, value in world.writes:  # "every position" sorts first, so named ones replace it
        row = table.setdefault((site.node, site.receiver), {})
        for index in indices(site.position, length, spans, where=where):
            before = row.get(index)
            if before is not None and before[0].position is not None:
                what = f"{before[0]} and {site} both write position {index}"
                raise InterventionError(explain(what, where=where, mend="name positions that do not meet"))
            row[index] = (site, value)
    return {key: dict(sorted(row.items())) for key, row in table.items()}
