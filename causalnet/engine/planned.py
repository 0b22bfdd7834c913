"""The nouns of a plan: what is read, what is written, what is computed.  No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from causalnet.expr.outcomes import Outcome
from causalnet.expr.values import SiteValue
from causalnet.expr.world import Site, World
from causalnet.graph import CausalGraph, Node

__all__ = ["Bucket", "Lane", "Plan", "Reading", "Shape", "Write"]


@dataclass(frozen=True)
class Shape:
    """What the planner needs to know of the prompts: lengths and token ranges of named spans."""

    lengths: tuple[int, ...]
    spans: tuple[Mapping[str, tuple[int, int]], ...] = ()

    def span(self, prompt: int) -> Mapping[str, tuple[int, int]]:
        """Return the named spans of one prompt."""
        return self.spans[prompt] if self.spans else {}


@dataclass(frozen=True, slots=True)
class Reading:
    """One outcome read in one world; ``nodes`` are what a ``direct(…)`` outcome adds up."""

    world: World
    outcome: Outcome
    nodes: tuple[Node, ...] = ()

    def __str__(self) -> str:
        return f"E[{self.outcome} | {self.world}]" if self.world else f"E[{self.outcome}]"


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a lane, resolved to token indices.

    ``offsets`` are the places of ``columns`` within the site's own positions: a write at every position
    that is overridden at one of them keeps the others.
    """

    site: Site
    value: SiteValue
    columns: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def node(self) -> Node:
        """The node that is set, or the sender of the edge that is set."""
        return self.site.node

    @property
    def receiver(self) -> Node | None:
        """The receiver of an edge write."""
        return self.site.receiver


@dataclass(frozen=True, slots=True)
class Lane:
    """One trunk world in one bucket.

    Parameters
    ----------
    world
        The trunk world: no writes that touch only the readout.
    writes
        Its writes, in order of computation.
    join
        ``2·l``: joins before layer l; ``2·l + 1``: joins after the attention of layer l;
        ``2·layers``: nothing has to be computed.
    draws
        Number of draws (donors, noise) that each prompt has here.
    """

    world: World
    writes: tuple[Write, ...]
    join: int
    draws: int


@dataclass(frozen=True)
class Bucket:
    """Prompts of one length (and equal span positions), and the waves that they run.

    ``waves`` pairs the first recomputed position with the lanes that start there, sorted by ``join``.
    """

    prompts: tuple[int, ...]
    length: int
    waves: tuple[tuple[int, tuple[Lane, ...]], ...]
    first: int
    readout: Mapping[World, tuple[Write, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What will be run.  ``print(plan)`` explains it.

    Attributes
    ----------
    graph, worlds, readings
        What was asked; ``worlds[0]`` is the natural world.
    buckets
        The computation.
    draws
        Donors (or noise draws) of each prompt.
    """

    graph: CausalGraph
    worlds: tuple[World, ...]
    readings: tuple[Reading, ...]
    shape: Shape
    buckets: tuple[Bucket, ...]
    draws: int

    @property
    def rows(self) -> int:
        """Number of counterfactual rows (prompt × world × draw) that are computed or added up."""
        return sum(len(b.prompts) * lane.draws for b in self.buckets for _, lanes in b.waves for lane in lanes)

    @property
    def tokens(self) -> int:
        """Token-layers that the rows compute."""
        layers = self.graph.layers
        return (
            sum(
                len(bucket.prompts) * lane.draws * (bucket.length - start) * (2 * layers - lane.join)
                for bucket in self.buckets
                for start, lanes in bucket.waves
                for lane in lanes
            )
            // 2
        )

    @property
    def full_tokens(self) -> int:
        """Token-layers that one full forward per row would compute."""
        layers = self.graph.layers
        return sum(
            len(bucket.prompts) * lane.draws * bucket.length * layers
            for bucket in self.buckets
            for _, lanes in bucket.waves
            for lane in lanes
        )

    @property
    def share(self) -> float:
        """Share of the full forwards' tokens that is computed."""
        return self.tokens / self.full_tokens if self.full_tokens else 0.0

    def _repr_html_(self) -> str:
        """Return what will be run and what it costs, for notebooks."""
        from causalnet.draw.display import plan_html

        return plan_html(self)

    def __str__(self) -> str:
        lines = [
            f"{len(self.shape.lengths)} prompts in {len(self.buckets)} buckets of one length; "
            f"{len(self.worlds)} worlds, {len(self.readings)} readings, {self.draws} draws",
            f"{self.rows} rows; {self.tokens} token-layers instead of {self.full_tokens} "
            f"({100 * self.share:.1f} % of one full forward per row)",
        ]
        for bucket in self.buckets[:8]:
            for start, lanes in bucket.waves:
                joins = [lane.join for lane in lanes]
                lines.append(
                    f"  length {bucket.length}, {len(bucket.prompts)} prompts: {len(lanes)} lanes "
                    f"from position {start} on, joining between layers {min(joins) // 2} and {max(joins) // 2}"
                )
        if len(self.buckets) > 8:
            lines.append(f"  … and {len(self.buckets) - 8} more buckets")
        return "\n".join(lines)
