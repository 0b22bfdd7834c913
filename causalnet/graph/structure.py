"""The edges of a graph without listing them.

In a transformer every component reads all that was written before it, so the edges are told by three
numbers per node: the *stage* at which it reads, the stage at which it writes, and the stage until which
what it wrote can be read directly.  ``a -> b`` is an edge iff ``a.write <= b.read <= a.until`` and the
position of ``a`` lies inside the window of ``b``.  What does not follow this rule is listed: few
``extra`` edges, few ``missing`` ones.

Nodes are whole numbers here.  Nodes that read alike form one *reader class*, nodes that write alike one
*writer class*; between two classes either all edges exist or none, so a sweep costs about the number of
nodes, never the number of edges.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

__all__ = ["FAR", "Side", "Slot", "Structure"]

FAR = 1 << 60
"""Later than every stage, and wider than every window."""


class Slot(NamedTuple):
    """When and where a node reads and writes; -1 where it does not."""

    read: int
    write: int
    until: int
    position: int
    window: int


class Side:
    """One direction of the edges: from nodes to their children, or to their parents.

    Parameters
    ----------
    home
        The class of every node on this side, -1 for none.
    members
        The nodes of every class on the other side.
    ranges
        The runs ``[low, high)`` of other classes that a class is joined to.
    scope
        For every class (place, a, b): whatever it is joined to, a class of the same place with no larger
        a and b is joined to as well.
    extra, missing
        The exceptions, by node of this side.
    backwards
        Whether later classes have the wider scopes.
    """

    def __init__(
        self,
        home: list[int],
        members: list[list[int]],
        ranges: Callable[[int], list[tuple[int, int]]],
        scope: list[tuple[int, int, int]],
        extra: dict[int, set[int]],
        missing: dict[int, set[int]],
        *,
        backwards: bool = False,
    ) -> None:
        self.home, self.members, self.ranges, self.scope = home, members, ranges, scope
        self.extra, self.missing, self.backwards = extra, missing, backwards
        self.total = [0, *accumulate(len(nodes) for nodes in members)]

    def neighbours(self, node: int) -> list[int]:
        """List the nodes that ``node`` is joined to, in no order."""
        found = list(self.extra.get(node, ()))
        if (key := self.home[node]) >= 0:
            missing = self.missing.get(node)
            for low, high in self.ranges(key):
                for members in self.members[low:high]:
                    found += [other for other in members if other not in missing] if missing else members
        return found

    def count(self) -> int:
        """Count the edges without listing them."""
        size = Counter(key for key in self.home if key >= 0)
        joined = sum(
            n * sum(self.total[high] - self.total[low] for low, high in self.ranges(c)) for c, n in size.items()
        )
        return joined + sum(map(len, self.extra.values())) - sum(map(len, self.missing.values()))


class Wave:
    """A sweep along one side that meets every node once.

    Classes that were met are skipped by jump pointers, and a class whose scope lies inside that of one
    that was swept is not looked at, so that a whole sweep costs about the number of nodes.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.seen = bytearray(len(side.home))
        self._swept: set[int] = set()
        self._scopes: dict[int, list[tuple[int, int]]] = {}
        self._next = list(range(len(side.members) + 1))

    def _pending(self, index: int) -> int:
        jump = self._next
        while jump[index] != index:
            jump[index] = jump[jump[index]]
            index = jump[index]
        return index

    def step(self, node: int) -> list[int]:
        """List the neighbours of ``node`` that no step has met yet, and mark them as met."""
        side, seen = self.side, self.seen
        found = [other for other in side.extra.get(node, ()) if not seen[other]]
        for other in found:
            seen[other] = 1
        key = side.home[node]
        if key < 0 or key in self._swept:
            return found
        place, a, b = side.scope[key]
        scopes = self._scopes.setdefault(place, [])
        if any(first <= a and second <= b for first, second in scopes):
            self._swept.add(key)
            return found
        missing = side.missing.get(node)
        for low, high in side.ranges(key):
            index = self._pending(low)
            while index < high:
                fresh = [other for other in side.members[index] if not seen[other]]
                kept = [other for other in fresh if other not in missing] if missing else fresh
                for other in kept:
                    seen[other] = 1
                found += kept
                # A class that a missing edge kept from being met whole may still be met by another node.
                if len(kept) == len(fresh):
                    self._next[index] = index + 1
                index = self._pending(index + 1)
        if not missing:
            self._swept.add(key)
            scopes.append((a, b))
        if side.backwards:
            found.reverse()
        return found

    def flood(self, starts: Iterable[int]) -> list[int]:
        """List all nodes that the starts lead to, by one edge or more."""
        found: list[int] = []
        todo = list(starts)
        home, extra, swept = self.side.home, self.side.extra, self._swept
        # First in, first out: what was met first has the widest scope, as a rule.
        for node in todo:
            # Most nodes lie in a class that was swept already: do not pay a call to learn that.
            if node not in extra and (home[node] < 0 or home[node] in swept):
                continue
            fresh = self.step(node)
            found += fresh
            todo += fresh
        return found


def _classes(
    kinds: Sequence[int], keys: Sequence[tuple[int, ...] | None]
) -> tuple[list[int], list[list[int]], list[tuple[int, ...]]]:
    """Sort the keys of kinds of nodes into classes: the class of each node, the nodes and the key of each class."""
    order = sorted({key for key in keys if key is not None})
    number = {key: index for index, key in enumerate(order)}
    places = [-1 if key is None else number[key] for key in keys]
    home = [places[kind] for kind in kinds]
    members: list[list[int]] = [[] for _ in order]
    for node, index in enumerate(home):
        if index >= 0:
            members[index].append(node)
    return home, members, order


def _groups(keys: Sequence[tuple[int, ...]]) -> list[tuple[int, int, int, int]]:
    """List the groups of classes that differ in position only: their two numbers, and where they start and end."""
    runs: dict[tuple[int, int], tuple[int, int]] = {}
    for index, (first, second, _) in enumerate(keys):
        runs[first, second] = (runs.get((first, second), (index, 0))[0], index + 1)
    return [(*pair, *run) for pair, run in runs.items()]


class Structure:
    """All edges among ``len(slots)`` nodes, told by their slots and two short lists of exceptions.

    Parameters
    ----------
    slots
        One per node.
    extra
        Edges that the slots do not imply.
    missing
        Edges that the slots imply and that the graph does not have.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        extra: Iterable[tuple[int, int]] = (),
        missing: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.slots = list(slots)
        exceptions: list[dict[int, set[int]]] = [{}, {}, {}, {}]
        for pairs, out, back in ((extra, 0, 1), (missing, 2, 3)):
            for source, target in pairs:
                exceptions[out].setdefault(source, set()).add(target)
                exceptions[back].setdefault(target, set()).add(source)
        # Classes are sorted by stage and window, then by position: those that differ in position only stand
        # side by side, so what one class is joined to is at most one run in each of their groups.
        number: dict[Slot, int] = {}
        kinds: list[int] = []
        last, kind = None, -1
        for slot in self.slots:
            if slot is not last:  # runs of one slot are not hashed again
                kind, last = number.setdefault(slot, len(number)), slot
            kinds.append(kind)
        reads, readers, read_keys = _classes(
            kinds, [(slot.read, slot.window, slot.position) if slot.read >= 0 else None for slot in number]
        )
        writes, writers, write_keys = _classes(
            kinds, [(slot.write, slot.until, slot.position) if slot.write >= 0 else None for slot in number]
        )
        read_groups, write_groups = _groups(read_keys), _groups(write_keys)
        read_places, write_places = [key[2] for key in read_keys], [key[2] for key in write_keys]

        def children(index: int) -> list[tuple[int, int]]:
            write, until, place = write_keys[index]
            start = bisect_left(read_groups, (write,))
            found = []
            for read, window, low, high in islice(read_groups, start, None):
                if read > until:
                    break
                first = bisect_left(read_places, place, low, high)
                last = bisect_left(read_places, place + window, low, high)
                if first < last:
                    found.append((first, last))
            return found

        def parents(index: int) -> list[tuple[int, int]]:
            read, window, place = read_keys[index]
            found = []
            for write, until, low, high in write_groups:
                if write > read:
                    break
                if until >= read:
                    first = bisect_right(write_places, place - window, low, high)
                    last = bisect_right(write_places, place, low, high)
                    if first < last:
                        found.append((first, last))
            return found

        down_scope = [(place, write, -until) for write, until, place in write_keys]
        # A reader sees all that an earlier one sees only where nothing stops to be readable in between.
        barred = any(until < FAR for _, until, _ in write_keys)
        up_scope = [
            (-1 - index, 0, 0) if barred else (place, -window, -read)
            for index, (read, window, place) in enumerate(read_keys)
        ]
        self.down = Side(writes, readers, children, down_scope, exceptions[0], exceptions[2])
        self.up = Side(reads, writers, parents, up_scope, exceptions[1], exceptions[3], backwards=True)

    def implied(self, source: int, target: int) -> bool:
        """Whether the slots alone imply the edge."""
        a, b = self.slots[source], self.slots[target]
        if a.write < 0 or b.read < 0 or not 0 <= b.position - a.position < b.window:
            return False
        return a.write <= b.read <= a.until

    def has(self, source: int, target: int) -> bool:
        """Whether ``source -> target`` is an edge."""
        if self.implied(source, target):
            return target not in self.down.missing.get(source, ())
        return target in self.down.extra.get(source, ())

    def count(self) -> int:
        """Count the edges without listing them."""
        return self.up.count()

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield all edges, by target and then by source."""
        for target in range(len(self.slots)):
            for source in sorted(self.up.neighbours(target)):
                yield source, target

    def separated(self, first: Iterable[int], second: Iterable[int], given: Iterable[int]) -> bool:
        """Whether ``given`` blocks every path between the two sets: Shachter's Bayes ball.

        The ball passes a node that is not given, from a child to all sides and from a parent to the
        children; a given node stops it from a child and sends it back from a parent.  That opens a collider
        with a given descendant too: the ball falls to that descendant and comes back.  Each node is met at
        most twice, from a child and from a parent.
        """
        known, goal, start = set(given), set(second), list(first)
        down, up = Wave(self.down), Wave(self.up)
        rising, falling = deque(start), deque[int]()
        for node in start:
            up.seen[node] = 1
        while rising or falling:
            if rising:
                node = rising.popleft()
                if node in known:
                    continue
                rising += up.step(node)
                falling += down.step(node)
            else:
                node = falling.popleft()
                if node in known:
                    rising += up.step(node)
                else:
                    falling += down.step(node)
            if node in goal:
                return False
        return True
