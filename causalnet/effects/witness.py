"""The search for actual causes: every witness, or a greedy one."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from causalnet.effects.asking import Scm
from causalnet.effects.places import intervention
from causalnet.engine.plan import Reading
from causalnet.errors import ExpressionError, InputError, explain
from causalnet.expr import LAST, NATURAL, NATURAL_WORLD, Assignment, Outcome, Site, World
from causalnet.expr.values import SiteValue
from causalnet.graph import CausalGraph, Node

__all__ = ["Found", "Oracle", "Variables", "every_witness", "greedy", "variables"]

Unit = tuple[int, int]
"""A prompt and a draw."""

Numbers = tuple[int, ...]
"""Some of the variables, by number."""


@dataclass(frozen=True)
class Found:
    """A cause of one unit, by number of variable; see :class:`causalnet.effects.causality.Cause`."""

    members: Numbers
    witness: Numbers
    certain: bool = True


@dataclass(frozen=True, eq=False)
class Variables:
    """The places of a search: those with a contrast come first, those that can only be held after them.

    Attributes
    ----------
    names, sites
        Every place.
    contrasts
        What the first of them are set to when they are taken away.
    below
        For each of these, the places downstream of it.
    """

    names: tuple[str, ...]
    sites: tuple[Site, ...]
    contrasts: tuple[SiteValue, ...]
    below: tuple[frozenset[int], ...]

    def world(self, cause: Iterable[int], witness: Iterable[int] = ()) -> World:
        """Return the world in which a cause has its contrasts and a witness is held."""
        set_ones = [(self.sites[n], self.contrasts[n]) for n in cause]
        return World((*set_ones, *((self.sites[n], NATURAL) for n in witness)))

    def downstream(self, cause: Sequence[int]) -> list[int]:
        """Return what could be a witness: held natural elsewhere, nothing would change."""
        found = frozenset().union(*(self.below[n] for n in cause)) - set(cause)
        return sorted(found)

    def causes(self) -> Iterator[Numbers]:
        """Yield every set of candidates, small ones first."""
        for size in range(1, len(self.contrasts) + 1):
            yield from itertools.combinations(range(len(self.contrasts)), size)

    def witnesses(self, cause: Numbers) -> Iterator[Numbers]:
        """Yield every witness of a cause, small ones first."""
        free = self.downstream(cause)
        for size in range(len(free) + 1):
            yield from itertools.combinations(free, size)

    def count(self, most: int) -> int | None:
        """Return how many causes with a witness there are, None where they are more than ``most``."""
        if len(self.contrasts) > most.bit_length():
            return None  # the sets of candidates alone are more
        total = sum(2 ** len(self.downstream(cause)) for cause in self.causes())
        return total if total <= most else None


def variables(
    graph: CausalGraph, contrasts: Sequence[Assignment], outcome: Outcome, witnesses: Sequence[Node] | None
) -> Variables:
    """Return the places of a search; see :func:`causalnet.effects.causality.actual_causes`."""
    if not contrasts:
        raise ExpressionError(explain("no node has a contrast", mend="give attn[0:3] @ last << zero"))
    made = intervention(graph, contrasts, outcome)
    for site in made.world.sites:
        if site.receiver is not None:
            raise ExpressionError(explain(f"{site} is an edge, and causes are nodes", mend="set the node"))
    sites = list(made.world.sites)
    own = {site.node for site in sites}
    others = [node for node in made.responders if node not in own]
    if witnesses is not None:
        for node in witnesses:
            if node not in others and node not in own:
                what = f"{node} is not downstream of what is set, so holding it says nothing"
                raise InputError(explain(what, legal=map(str, others)))
        others = [node for node in others if node in witnesses]
    last = all(site.position == LAST for site in sites)
    sites += [Site(node, LAST if last and node.kind != "norm" else None) for node in others]
    below = []
    for site in sites[: len(made.world)]:
        reached = made.graph.descendants(site.node)
        below.append(frozenset(n for n, other in enumerate(sites) if other.node in reached))
    return Variables(tuple(map(str, sites)), tuple(sites), made.world.values, tuple(below))


@dataclass(eq=False)
class Oracle:
    """Tells in which worlds the event is false, and remembers it.

    Attributes
    ----------
    scm
        The model on its prompts.
    outcome, holds
        What is read, and whether the event is true of it.
    guide
        The outcome that a greedy search lowers.
    """

    scm: Scm
    outcome: Outcome
    holds: Callable[[np.ndarray], np.ndarray]
    guide: Outcome
    values: dict[World, np.ndarray] = field(default_factory=dict)
    scores: dict[World, np.ndarray] = field(default_factory=dict)

    def run(self, worlds: Iterable[World], *, scored: bool = False) -> None:
        """Read the event, and for a greedy search the score, in worlds that were not read yet."""
        new = [world for world in dict.fromkeys(worlds) if world not in (self.scores if scored else self.values)]
        if not new:
            return
        readings = [Reading(world, self.outcome) for world in new]
        guides = [Reading(world, self.guide) for world in new] if scored else []
        found = self.scm.read(list(dict.fromkeys([*readings, *guides])))
        self.values.update({reading.world: found[reading] for reading in readings})
        self.scores.update({reading.world: found[reading] for reading in guides})

    @cached_property
    def true(self) -> np.ndarray:
        """Where the event is true in the natural world, [prompt]."""
        self.run([NATURAL_WORLD])
        return self.holds(self.values[NATURAL_WORLD])[:, 0]

    @property
    def draws(self) -> int:
        """Draws per prompt, among the worlds read so far."""
        return max(table.shape[1] for table in self.values.values())

    @property
    def missing(self) -> np.ndarray:
        """Where a prompt has no such draw, [prompt, draw]."""
        shape = (len(self.true), self.draws)
        return np.any([np.isnan(np.broadcast_to(table, shape)) for table in self.values.values()], axis=0)

    def false(self, world: World) -> np.ndarray:
        """Where the event is false in a world, [prompt, draw]."""
        values = self.values[world]
        return ~self.holds(values) & ~np.isnan(values)

    def false_in(self, world: World, unit: Unit) -> bool:
        """Whether the event is false in a world of one unit."""
        table = self.false(world)
        return bool(table[unit[0], unit[1] if table.shape[1] > 1 else 0])

    def score(self, world: World, unit: Unit) -> float:
        """Return the score in a world of one unit; infinite where there is none."""
        table = self.scores[world]
        value = table[unit[0], unit[1] if table.shape[1] > 1 else 0]
        return float("inf") if np.isnan(value) else float(value)


def every_witness(oracle: Oracle, places: Variables) -> dict[Unit, list[Found]]:
    """Try every cause with every witness, all in one plan; return the minimal causes of every unit."""
    tried = {cause: list(places.witnesses(cause)) for cause in places.causes()}
    oracle.run(places.world(cause, witness) for cause, some in tried.items() for witness in some)
    shape = (len(oracle.true), oracle.draws)
    covered: dict[Numbers, np.ndarray] = {(): np.zeros(shape, dtype=bool)}
    found: dict[Unit, list[Found]] = {
        (prompt, draw): [] for prompt in np.flatnonzero(oracle.true).tolist() for draw in range(shape[1])
    }
    for cause, some in tried.items():
        false = np.stack([np.broadcast_to(oracle.false(places.world(cause, witness)), shape) for witness in some])
        smaller = np.any([covered[other] for other in itertools.combinations(cause, len(cause) - 1)], axis=0)
        minimal = false.any(0) & ~smaller & oracle.true[:, None]
        covered[cause] = smaller | false.any(0)
        # Witnesses come in order of size, so the first is a smallest.
        first = false.argmax(0)
        for prompt, draw in np.argwhere(minimal).tolist():
            found[prompt, draw].append(Found(cause, some[first[prompt, draw]]))
    return found


def greedy(oracle: Oracle, places: Variables) -> dict[Unit, list[Found]]:
    """Grow a witness for each candidate alone; where none is found, a joint cause."""
    candidates = range(len(places.contrasts))
    oracle.run([places.world([n]) for n in candidates], scored=True)
    units = [(prompt, draw) for prompt in np.flatnonzero(oracle.true).tolist() for draw in range(oracle.draws)]
    found: dict[Unit, list[Found]] = {unit: [] for unit in units}
    alone: dict[Unit, set[int]] = {unit: set() for unit in units}
    for n in candidates:

        def held(witness: Numbers, n: int = n) -> World:
            return places.world([n], witness)

        grown = _grow(oracle, dict.fromkeys(units, ()), places.downstream([n]), held)
        for unit, witness in _prune(oracle, grown, held).items():
            found[unit].append(Found((n,), tuple(sorted(witness))))
            alone[unit].add(n)
    for n in candidates:
        start = {unit: (n,) for unit in units if n not in alone[unit]}
        grown = _grow(oracle, start, candidates, places.world)
        for unit, members in _prune(oracle, grown, places.world).items():
            made = Found(tuple(sorted(members)), (), certain=False)
            if n in members and not alone[unit] & set(members) and made not in found[unit]:
                found[unit].append(made)
    return found


def _grow(
    oracle: Oracle, start: Mapping[Unit, Numbers], free: Sequence[int], world: Callable[[Numbers], World]
) -> dict[Unit, Numbers]:
    """Add, unit by unit, what lowers the score most until the event is false; return the units where it became so."""
    done: dict[Unit, Numbers] = {}
    current = dict(start)
    while current:
        oracle.run({world(some) for some in current.values()}, scored=True)
        done |= {unit: some for unit, some in current.items() if oracle.false_in(world(some), unit)}
        more = {some: [n for n in free if n not in some] for some in current.values()}
        current = {unit: some for unit, some in current.items() if unit not in done and more[some]}
        oracle.run((world((*some, n)) for some in set(current.values()) for n in more[some]), scored=True)
        for unit, some in current.items():
            best = min(more[some], key=lambda n: oracle.score(world((*some, n)), unit))
            current[unit] = (*some, best)
    return done


def _prune(oracle: Oracle, found: Mapping[Unit, Numbers], world: Callable[[Numbers], World]) -> dict[Unit, Numbers]:
    """Leave out, unit by unit, what is not needed for the event to be false."""
    kept = dict(found)
    for place in range(max(map(len, found.values()), default=0)):
        trial = {
            unit: tuple(n for n in some if n != found[unit][place])
            for unit, some in kept.items()
            if place < len(found[unit])
        }
        oracle.run(world(some) for some in trial.values())
        kept |= {unit: some for unit, some in trial.items() if oracle.false_in(world(some), unit)}
    return kept
