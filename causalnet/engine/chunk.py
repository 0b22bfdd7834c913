"""One chunk of prompts: its natural world, its waves, and what is read in each world."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from causalnet.engine.inputs import Inputs
from causalnet.engine.natural import Natural, Suffix, head_contribution, value_at
from causalnet.engine.plan import Bucket, Lane, Plan, Reading, Write, draws_of, needs, trunk_of
from causalnet.engine.readings import Tokens, World0, read
from causalnet.engine.sources import Sources
from causalnet.engine.watch import Watch
from causalnet.engine.wave import Wave
from causalnet.expr.positions import indices
from causalnet.expr.values import InWorld
from causalnet.expr.values import Natural as NaturalValue
from causalnet.expr.world import World
from causalnet.graph import Node
from causalnet.model.mechanism import Mechanisms

__all__ = ["Chunk", "Program", "State"]


_LOGITS = 1 << 22


@dataclass(frozen=True, eq=False)
class Program:
    """What is read in one world: its readings and their tables, and the trunk worlds it is made of."""

    world: World
    trunk: World
    needs: frozenset[World]
    readings: tuple[Reading, ...]
    tables: tuple[np.ndarray, ...]


@dataclass(eq=False)
class State:
    """The state that one call of :func:`run` passes around."""

    mechanisms: Mechanisms
    plan: Plan
    inputs: Inputs
    sources: Sources
    lookup: Callable[[str], int] | None

    def __post_init__(self) -> None:
        prompts = len(self.inputs.ids)
        self.targets = np.zeros(prompts, dtype=np.int64)
        self.values: dict[Reading, np.ndarray] = {}
        by_world: dict[World, list[Reading]] = {}
        for reading in self.plan.readings:
            if reading not in self.values:
                self.values[reading] = np.full((prompts, draws_of(reading.world, self.plan.draws)), np.nan)
                by_world.setdefault(reading.world, []).append(reading)
        self.programs = tuple(
            Program(world, trunk_of(world), frozenset(needs(world)), tuple(found), tuple(self.values[r] for r in found))
            for world, found in by_world.items()
        )
        self.direct_readings = [reading for reading in self.values if reading.outcome.name == "direct"]
        nodes = {node for reading in self.direct_readings for node in reading.nodes}
        self.direct_nodes = tuple(sorted(nodes, key=lambda node: node.sort_key))
        # Contributions that other worlds, or edges, will ask for.
        kept: set[tuple[World, Node]] = set()
        for world in self.plan.worlds:
            for site, value in world.writes:
                if isinstance(value, InWorld):
                    kept.add((trunk_of(value.world), site.node))
                if site.receiver is not None:
                    kept.add((trunk_of(world), site.node))
        self.kept = frozenset(kept)


@dataclass(eq=False)
class Chunk:
    """One bucket's chunk: its natural world, and how waves and readings use it."""

    state: State
    bucket: Bucket
    natural: Natural
    worlds0: dict[int, World0] = field(default_factory=dict)

    def __post_init__(self) -> None:
        span = self.state.inputs.span(self.bucket.prompts[0])
        positions = {reading.outcome.position for reading in self.state.values}
        self.column_of = {where: indices(where, self.bucket.length, span)[0] for where in positions}
        self.columns = sorted(set(self.column_of.values()))
        self.directs = self._direct_probes()

    def part(self, prompts: slice) -> "Chunk":
        """Return the same for some of its prompts; what the readout needs is not made again."""
        bucket = replace(self.bucket, prompts=self.bucket.prompts[prompts])
        worlds0 = {column: world0.part(prompts) for column, world0 in self.worlds0.items()}
        return Chunk(self.state, bucket, self.natural.part(prompts), worlds0)

    # -- the natural world -----------------------------------------------------------------------------

    def world0(self, column: int) -> World0:
        """Return the natural world at one position."""
        if column not in self.worlds0:
            stream = self.natural.streams[-1][:, column - self.natural.first]
            self.worlds0[column] = World0(stream, Tokens(self._targets(stream, column), self.state.lookup))
        return self.worlds0[column]

    def _targets(self, stream: torch.Tensor, column: int) -> torch.Tensor:
        """Return the target [prompt]: the answers where given, else the natural world's most likely token."""
        readout, inputs = self.state.mechanisms.readout, self.state.inputs
        if inputs.targets is not None:
            return torch.tensor([inputs.targets[prompt] for prompt in self.bucket.prompts], device=stream.device)
        # The unembedding is read once for many prompts, whose logits are kept small.
        step = max(1, _LOGITS // readout.weight.shape[0])
        return torch.cat([readout.precap_logits(some).argmax(-1) for some in stream.split(step)])

    def read_natural(self) -> None:
        """Read the natural world, and every world that only the readout sets."""
        last = self.world0(self.bucket.length - 1)
        self.state.targets[list(self.bucket.prompts)] = last.tokens.target.cpu().numpy()
        streams = {column: self.world0(column).stream.unsqueeze(1) for column in self.columns}
        direct = self._natural_direct()
        for program in self.state.programs:
            if not program.needs:
                self._read_world(program, streams, direct, None, slice(0, self.state.plan.draws))

    # -- waves -----------------------------------------------------------------------------------------

    def wave(self, start: int, lanes: Sequence[Lane], draws: slice, suffix: Suffix) -> None:
        """Run lanes as one wave and read their worlds."""
        count = len(range(*draws.indices(self.state.plan.draws)))
        own = [replace(lane, draws=count) if lane.draws > 1 else lane for lane in lanes]
        prompts = self.bucket.prompts

        def fetch(write: Write, current: torch.Tensor) -> torch.Tensor:
            return self.state.sources.fetch(write, current, prompts, draws)

        wave = Wave(self.state.mechanisms, self.natural, start, own, suffix, fetch, self._watch(start, own))
        wave.run()
        inside = set(wave.results)
        for program in self.state.programs:
            if program.needs and inside >= program.needs:
                self._read_world(program, *self._of_lane(wave, program.trunk), wave, draws)

    def _of_lane(self, wave: Wave, trunk: World) -> tuple[dict[int, torch.Tensor], dict[tuple, torch.Tensor]]:
        """Return the final streams by column, and direct effects by probe, of one trunk world."""
        streams = {column: self.world0(column).stream.unsqueeze(1) for column in self.columns}
        direct = dict(self._natural_direct())
        if trunk:
            result = wave.results[trunk]
            after = [column for column in self.columns if column >= wave.start]
            streams.update({column: result.stream[:, :, place] for place, column in enumerate(after)})
            for probe, (key, _) in enumerate(self._probes_from(wave.start)):
                direct[key] = result.direct[:, :, probe]
        return streams, direct

    def _watch(self, start: int, lanes: Sequence[Lane]) -> Watch:
        probes = self._probes_from(start)
        weights = [self.directs[key][0] for key, _ in probes]
        sigmas = [self.directs[key][1] for key, _ in probes]
        reference = self.natural.streams[-1]
        wide = torch.promote_types(reference.dtype, torch.float32)
        prompts, inside = len(self.bucket.prompts), {lane.world for lane in lanes}
        return Watch(
            tuple(column - start for column in self.columns if column >= start),
            self.state.direct_nodes if probes else (),
            tuple(column - start for _, column in probes),
            torch.stack(weights, 1) if weights else reference.new_zeros(prompts, 0, reference.shape[-1], dtype=wide),
            torch.stack(sigmas, 1) if sigmas else reference.new_ones(prompts, 0, dtype=wide),
            torch.stack([self._natural_direct()[key][:, 0] for key, _ in probes], 1)
            if probes
            else reference.new_zeros(prompts, 0, 0, dtype=wide),
            frozenset((world, node) for world, node in self.state.kept if world in inside),
        )

    # -- direct effects --------------------------------------------------------------------------------

    def _direct_probes(self) -> dict[tuple, tuple[torch.Tensor, torch.Tensor, int]]:
        """Return weight [prompt, d_model], scale [prompt] and column of every (tokens, column) that is read."""
        found: dict[tuple, tuple[torch.Tensor, torch.Tensor, int]] = {}
        readout = self.state.mechanisms.readout
        for reading in self.state.direct_readings:
            column = self.column_of[reading.outcome.position]
            key = (reading.outcome.tokens, column)
            if key not in found:
                world0 = self.world0(column)
                weight = world0.directions(readout, reading.outcome).weight
                found[key] = (weight, readout.norm.sigma(world0.stream).to(weight.dtype), column)
        return found

    def _probes_from(self, start: int) -> list[tuple[tuple, int]]:
        return [(key, column) for key, (_, _, column) in self.directs.items() if column >= start]

    def _natural_direct(self) -> dict[tuple, torch.Tensor]:
        """Return the natural direct effects [prompt, 1, node] of every probe."""
        if not hasattr(self, "_direct0"):
            self._direct0: dict[tuple, torch.Tensor] = {}
            for key, (weight, sigma, column) in self.directs.items():
                parts = []
                for node in self.state.direct_nodes:
                    value = value_at(self.state.mechanisms, self.natural, node, [column])[:, 0]
                    if node.kind == "head":
                        assert node.head is not None
                        value = head_contribution(self.state.mechanisms.mechanism(node), value, node.head)
                    parts.append((value.to(weight) * weight).sum(-1) / sigma)
                self._direct0[key] = torch.stack(parts, -1).unsqueeze(1)
        return self._direct0

    # -- reading ---------------------------------------------------------------------------------------

    def _read_world(
        self,
        program: Program,
        streams: Mapping[int, torch.Tensor],
        direct: Mapping[tuple, torch.Tensor],
        wave: Wave | None,
        draws: slice,
    ) -> None:
        """Read every outcome that was asked of one world, from its lane's streams."""
        memos: dict[int, dict[str, torch.Tensor]] = {}
        found: dict[int, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]] = {}
        for reading, table in zip(program.readings, program.tables, strict=True):
            column = self.column_of[reading.outcome.position]
            if reading.outcome.name == "direct":
                which = [self.state.direct_nodes.index(node) for node in reading.nodes]
                value = direct[reading.outcome.tokens, column][..., which].sum(-1)
            else:
                if column not in found:
                    found[column] = self._at_readout(program.world, streams[column], wave, column, draws)
                stream, sigma, own = found[column]
                sigma = own if reading.outcome.name == "sigma" else sigma
                memo = memos.setdefault(column, {})
                value = read(self.state.mechanisms.readout, reading.outcome, stream, self.world0(column), sigma, memo)
            self._store(table, value, draws)

    def _at_readout(
        self, world: World, stream: torch.Tensor, wave: Wave | None, column: int, draws: slice
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Apply a world's writes to the readout: edges into logits and norm, and the norm itself.

        Returns the stream that the logits read, the scale that they read, and the scale that the norm has;
        None where it is the stream's own.
        """
        norm = self.state.mechanisms.readout.norm
        for_norm = own = stream
        sigma: torch.Tensor | None = None
        read: torch.Tensor | None = None
        # In order of computation: edges into norm and logits, the norm itself, the edge norm -> logits.
        for write in self.bucket.readout[world]:
            if column not in write.columns:
                continue
            if write.node.kind == "norm":
                value = self._set_sigma(write, norm.sigma(for_norm) if sigma is None else sigma, wave, column, draws)
                sigma, read = (value, read) if write.receiver is None else (sigma, value)
            elif write.receiver == Node("norm"):
                for_norm = for_norm + self._edge(world, write, wave, column, draws)
            else:
                own = own + self._edge(world, write, wave, column, draws)
        if sigma is None and (for_norm is not stream or own is not stream or read is not None):
            sigma = norm.sigma(for_norm)
        read = sigma if read is None else read
        if read is not None:
            shape = torch.broadcast_shapes(read.shape, own.shape[:-1])
            own, read = own.expand(*shape, own.shape[-1]), read.expand(shape)
        return own, read, sigma

    def _set_sigma(
        self, write: Write, current: torch.Tensor, wave: Wave | None, column: int, draws: slice
    ) -> torch.Tensor:
        """Return the scale [prompt, draw] to which the norm is set."""
        norm = self.state.mechanisms.readout.norm
        if isinstance(write.value, NaturalValue):
            return norm.sigma(self.world0(column).stream).unsqueeze(1)
        if isinstance(write.value, InWorld):
            inner = write.value.world
            trunk = trunk_of(inner)
            stream = self.world0(column).stream.unsqueeze(1)
            if trunk and wave is not None:
                stream = self._of_lane(wave, trunk)[0][column]
            sigma = self._at_readout(inner, stream, wave, column, draws)[2]
            return norm.sigma(stream) if sigma is None else sigma
        one = replace(write, columns=(column,), offsets=(write.offsets[write.columns.index(column)],))
        shaped = current[:, :, None, None]
        return self.state.sources.fetch(one, shaped, self.bucket.prompts, draws)[:, :, 0, 0]

    def _edge(self, world: World, write: Write, wave: Wave | None, column: int, draws: slice) -> torch.Tensor:
        """Return v − a [prompt, draw, d_model] of an edge into the readout."""
        trunk = trunk_of(world)
        natural = value_at(self.state.mechanisms, self.natural, write.node, [column]).unsqueeze(1)

        def in_world(which: World) -> torch.Tensor:
            if which and wave is not None and column >= wave.start:
                return wave.effective(which, write.node, [column - wave.start])
            return natural

        own = in_world(trunk)
        if isinstance(write.value, NaturalValue):
            value = natural
        elif isinstance(write.value, InWorld):
            value = in_world(trunk_of(write.value.world))
        else:
            one = replace(write, columns=(column,), offsets=(write.offsets[write.columns.index(column)],))
            value = self.state.sources.fetch(one, own, self.bucket.prompts, draws)
        change = (value - own)[:, :, 0]
        if write.node.head is not None:
            change = head_contribution(self.state.mechanisms.mechanism(write.node), change, write.node.head)
        return change.to(self.natural.streams[-1].device)

    def _store(self, table: np.ndarray, value: torch.Tensor, draws: slice) -> None:
        rows = list(self.bucket.prompts)
        found = value.detach().double().cpu().numpy()
        if table.shape[1] == 1:
            table[rows, 0] = found[:, 0]
        else:
            first, last, _ = draws.indices(self.state.plan.draws)
            table[rows, first:last] = found  # one draw is spread over all
