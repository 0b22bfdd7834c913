"""Precedence: which of several assignments to one place holds.

An explicit reference beats a slice, a slice beats desc/anc/between; then a head beats its layer; then a
named position beats every position.  A tie is an error, unless both say the same hard value.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from causalnet.errors import explain
from causalnet.expr.assign import Assignment
from causalnet.expr.places import Fault, How
from causalnet.expr.positions import At, Position, Range, Span
from causalnet.expr.values import Given, SiteValue
from causalnet.expr.world import Site
from causalnet.graph import Node

__all__ = ["Told", "Write", "meet", "resolve"]

Told = Collection[Assignment] | None
"""The assignments that a named estimand was given, which has added its own; None: all were written."""

_Note = tuple[str, Assignment, Assignment]
"""What is said of two assignments."""


@dataclass(frozen=True, slots=True)
class Write:
    """One primitive write, and the assignment that it comes from."""

    site: Site
    value: SiteValue
    how: How
    source: Assignment

    @property
    def said(self) -> str:
        """The assignment, as it is quoted."""
        return f"'{self.source}'"


def resolve(writes: Iterable[Write], *, told: Told = None) -> tuple[list[Write], list[str]]:
    """Apply precedence; return the writes that hold, and what was overridden, in words.

    Parameters
    ----------
    writes
        All of them.
    told
        Where a named estimand wrote them: the assignments of its intervention.  Nothing is said of those that it
        has added, and it may hold a node that an edge of its intervention leads into.

    Raises
    ------
    Fault
        If two assignments tie, or one that was named does nothing.
    """
    groups: dict[tuple[Node, Node | None], list[Write]] = {}
    for write in writes:
        groups.setdefault((write.site.node, write.site.receiver), []).append(write)
    kept: list[Write] = []
    notes: list[_Note] = []
    for group in groups.values():
        kept += _settle(group, notes) if len(group) > 1 else group
    kept = _without_dead(kept, notes, may_be_dead=told is not None)
    said = [text for text, *sources in notes if told is None or all(one in told for one in sources)]
    return kept, list(dict.fromkeys(said))


def _settle(group: list[Write], notes: list[_Note]) -> list[Write]:
    """Settle the writes of one node or of one edge."""
    lost: set[int] = set()
    for i, one in enumerate(group):
        for j in range(i + 1, len(group)):
            loser = _loser(one, group[j], notes)
            if loser is not None:
                lost.add(i if loser is one else j)
    return [write for i, write in enumerate(group) if i not in lost]


def _loser(one: Write, other: Write, notes: list[_Note]) -> Write | None:
    """Return which of two writes of one node or edge falls away, if any."""
    met = meet(one.site.position, other.site.position)
    if met is False:
        return None
    if one.source is other.source and one.value == other.value and None in (one.site.position, other.site.position):
        return other if one.site.position is None else one  # one assignment: every position, and one of them again
    strong, weak = (one, other) if one.how.rank >= other.how.rank else (other, one)
    if weak.how.whole is not None and isinstance(weak.source.value, Given):
        what = f"{weak.said} gives the sum of the heads of layer {weak.how.whole}, and {strong.said} sets a part of it"
        raise Fault(explain(what, mend="give vectors for heads, or set the whole"), weak.source)
    tied = strong.how.rank == weak.how.rank
    if None in (one.site.position, other.site.position) and one.site.position != other.site.position:
        if tied or weak.site.position is None:
            named, every = (one, other) if other.site.position is None else (other, one)
            notes.append((f"{named.site}: {named.said} overrides {every.said} there", named.source, every.source))
            return None  # both hold: the named position wins where it is
        notes.append((f"{weak.site}: {strong.said} overrides {weak.said}", strong.source, weak.source))
        return weak
    if met is None:
        return None  # whether they meet depends on the prompt; the run refuses it if they do
    if tied and one.site.position == other.site.position and one.value == other.value and one.value.hard:
        return other  # the same thing said twice
    if tied:
        what = f"{weak.site} is set twice with equal precedence, by {one.said} and {other.said}"
        mend = "keep one; an explicit node beats a slice, a slice beats desc, anc and between"
        raise Fault(explain(what, mend=mend), other.source)
    if not _within(weak.site.position, strong.site.position):
        what = f"{one.site} and {other.site} overlap"
        raise Fault(explain(what, mend="write positions that do not overlap"), other.source)
    notes.append((f"{weak.site}: {strong.said} overrides {weak.said}", strong.source, weak.source))
    return weak


def _without_dead(writes: list[Write], notes: list[_Note], *, may_be_dead: bool) -> list[Write]:
    """Leave out writes on edges into nodes that are set hard, which nobody reads."""
    hard: dict[Node, list[Write]] = {}
    for write in writes:
        if write.site.receiver is None and write.value.hard:
            hard.setdefault(write.site.node, []).append(write)
    kept: list[Write] = []
    dead: list[tuple[Write, Write]] = []
    for write in writes:
        site = write.site
        # Where a norm comes after the heads, attn[l] is a node of its own and a head's one reader.
        head = site.node.kind == "head" and site.receiver is None
        reader = Node("attn", site.node.layer) if head else site.receiver
        over = (
            None if reader is None else next((w for w in hard.get(reader, ()) if _covers(w.site.position, site)), None)
        )
        if over is not None:
            dead.append((write, over))
        if over is None or head:
            kept.append(write)
    lost = {id(write) for write, _ in dead}
    alive = {id(write.source) for write in writes if write.how.named >= 0 and id(write) not in lost}
    for write, over in dead:
        if write.how.named < 0:
            continue
        if id(write.source) not in alive and not may_be_dead:
            what = f"{over.said} cuts what {write.said} writes, so the latter does nothing"
            raise Fault(explain(what, mend="keep one of the two"), write.source)
        notes.append((f"{write.site}: {over.said} cuts what {write.said} writes", over.source, write.source))
    return kept


def _covers(position: Position | None, site: Site) -> bool:
    """Whether a receiver that is set at ``position`` reads nothing of what the edge carries."""
    if position is None:
        return True
    crosses = site.receiver is not None and site.receiver.kind in ("attn", "head", "bias", "resid")
    return position == site.position and not crosses


def meet(one: Position | None, other: Position | None) -> bool | None:
    """Return whether two positions share a token: True, False, or None where it depends on the prompt.

    Examples
    --------
    >>> from causalnet.expr.positions import At, Range, Span
    >>> meet(At(4), Range(3, 6)), meet(At(4), At(5)), meet(At(-1), Span("subject"))
    (True, False, None)
    """
    if one is None or other is None or one == other:
        return True
    if isinstance(one, Span) or isinstance(other, Span):
        return None
    (a, b), (c, d) = _bounds(one), _bounds(other)
    ends = [end for end in (a, b, c, d) if end is not None]
    if any(end < 0 for end in ends) != all(end < 0 for end in ends):
        return None
    if ends[0] < 0:
        # Counted from the end: an open start reaches back to the first token, an open stop is the end.
        return (-(10**9) if a is None else a) < (0 if d is None else d) and (-(10**9) if c is None else c) < (
            0 if b is None else b
        )
    return (a or 0) < (10**9 if d is None else d) and (c or 0) < (10**9 if b is None else b)


def _bounds(position: At | Range) -> tuple[int | None, int | None]:
    if isinstance(position, Range):
        return position.start, position.stop
    return position.index, None if position.index == -1 else position.index + 1


def _within(inner: Position | None, outer: Position | None) -> bool:
    """Whether ``inner`` certainly lies inside ``outer``; both meet."""
    if outer is None or inner == outer:
        return True
    if isinstance(inner, At) and isinstance(outer, Range):
        return True
    if isinstance(inner, Range) and isinstance(outer, Range):
        (a, b), (c, d) = _bounds(inner), _bounds(outer)
        starts = c is None or (a is not None and a >= c)
        return starts and (d is None or (b is not None and b <= d))
    return False
