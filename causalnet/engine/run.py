"""Run a plan: natural runs, waves, readings; chunk sizes from memory, progress, and receipts."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from causalnet.engine.inputs import Inputs, check, check_tokens
from causalnet.engine.natural import Natural, Suffix, capture, head_contribution, run_natural
from causalnet.engine.plan import Bucket, Lane, Plan, Reading, Write, connected, draws_of, needs, trunk_of
from causalnet.engine.readings import Tokens, World0, read
from causalnet.engine.sources import Sources, build_sources, head_layers, value_at
from causalnet.engine.wave import Watch, Wave
from causalnet.errors import InputError, NonFiniteError, OutOfMemory
from causalnet.expr.positions import indices
from causalnet.expr.values import InWorld
from causalnet.expr.values import Natural as NaturalValue
from causalnet.expr.world import World
from causalnet.graph import Node
from causalnet.model.mechanism import Mechanisms

__all__ = ["Trace", "run"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Trace:
    """The results of a run.

    Attributes
    ----------
    plan
        What was run.
    values
        ``values[reading]`` is [prompt, draw] in float64; worlds without donors or noise have one draw.
        Draws that a prompt has no donor for are NaN.
    targets
        Target token of each prompt.
    """

    plan: Plan
    values: Mapping[Reading, np.ndarray]
    targets: np.ndarray

    def __getitem__(self, reading: Reading) -> np.ndarray:
        return self.values[reading]


@dataclass(frozen=True, eq=False)
class _Program:
    """What is read in one world: its readings and their tables, and the trunk worlds it is made of."""

    world: World
    trunk: World
    needs: frozenset[World]
    readings: tuple[Reading, ...]
    tables: tuple[np.ndarray, ...]


@dataclass(eq=False)
class _Run:
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
            _Program(
                world, trunk_of(world), frozenset(needs(world)), tuple(found), tuple(self.values[r] for r in found)
            )
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


def run(
    mechanisms: Mechanisms,
    plan: Plan,
    inputs: Inputs,
    *,
    lookup: Callable[[str], int] | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Trace:
    """Run a plan on a compiled model.

    Parameters
    ----------
    mechanisms
        The compiled model.
    plan
        From :func:`causalnet.engine.plan.plan`.
    inputs
        Prompts, donors, paired prompts, vectors, seed.
    lookup
        Token id of a string, for outcomes that name tokens.
    memory
        Bytes that the rows of one chunk may take; default: found from the device.
    progress
        Called with (rows done, rows in all).

    Raises
    ------
    InputError, PromptError, UnknownNameError
        Before anything runs, if something that the plan needs is missing or does not fit.
    InterventionError
        If a write did not fire exactly where it was planned.
    NonFiniteError
        If an outcome is NaN or infinite, with the prompt and the world.
    OutOfMemory
        If not even one row fits.

    Notes
    -----
    The law: every result equals the plain full forward with hooks, to the dtype's precision.
    """
    if mechanisms.hf.training:
        raise InputError("the model is in training mode, so dropout would make it random; call model.eval()")
    check(mechanisms, plan, inputs)
    check_tokens(mechanisms, plan.readings, inputs.targets, lookup)
    with torch.no_grad():
        naturals = _Naturals(mechanisms, plan, inputs)
        sources = build_sources(mechanisms, plan, inputs, naturals.runs())
        state = _Run(mechanisms, plan, inputs, sources, lookup)
        done, total = 0, max(plan.rows, 1)
        budget = _row_budget(mechanisms, memory)
        for block, natural in naturals.each():
            for part in _parts(block, budget):
                _run_part(state, block, natural, part, budget)
                done += len(range(part.start, part.stop)) * _rows_per_prompt(block)
                if progress is not None:
                    progress(done, total)
            naturals.drop(block)
    _mask_missing(state)
    _check_finite(state)
    return Trace(plan, state.values, state.targets)


class _Naturals:
    """The natural runs of the prompts in blocks of one bucket each, kept as long as they fit into memory."""

    def __init__(self, mechanisms: Mechanisms, plan: Plan, inputs: Inputs) -> None:
        self.mechanisms, self.inputs = mechanisms, inputs
        nodes = [site.node for world in plan.worlds for site in world.sites]
        nodes += [node for reading in plan.readings for node in reading.nodes]
        self.heads = head_layers(nodes)
        self.blocks: list[Bucket] = []
        for bucket in plan.buckets:
            step = max(1, _NATURAL_TOKENS // bucket.length)
            for start in range(0, len(bucket.prompts), step):
                self.blocks.append(replace(bucket, prompts=bucket.prompts[start : start + step]))
        self.made: dict[tuple[int, ...], Natural] = {}
        self.room = _natural_room(mechanisms)

    def runs(self) -> Iterator[tuple[Sequence[int], Natural]]:
        """Yield every block's prompts and natural run."""
        return ((block.prompts, natural) for block, natural in self.each())

    def each(self) -> Iterator[tuple[Bucket, Natural]]:
        """Yield every block and its natural run, made now or before; a block that does not fit is halved."""
        index = 0
        while index < len(self.blocks):
            block = self.blocks[index]
            natural = self._take(block)
            if natural is None:
                middle = len(block.prompts) // 2
                halves = (block.prompts[:middle], block.prompts[middle:])
                self.blocks[index : index + 1] = [replace(block, prompts=prompts) for prompts in halves]
                continue
            yield block, natural
            index += 1

    def _take(self, block: Bucket) -> Natural | None:
        """Return the natural run of a block, None where it does not fit into memory."""
        if block.prompts not in self.made:
            try:
                natural = self._run(block)
            except torch.OutOfMemoryError as error:
                if len(block.prompts) == 1:
                    what = (
                        f"prompt {block.prompts[0]}: its natural run of {block.length} tokens does not fit into memory"
                    )
                    raise OutOfMemory(f"{what}; use a smaller dtype") from error
                natural = None
            if natural is None:
                _release()
                return None
            if self.made and self.room < natural.bytes:
                self.made.pop(next(iter(self.made)))
            else:
                self.room -= natural.bytes
            self.made[block.prompts] = natural
        return self.made[block.prompts]

    def _run(self, block: Bucket) -> Natural:
        ids = torch.tensor([self.inputs.ids[prompt] for prompt in block.prompts], device=self.mechanisms.device)
        natural = run_natural(self.mechanisms, ids, block.first, heads=self.heads)
        if all(self._shares_prefix(natural, start) for start, _ in block.waves):
            return natural
        # Without keys and values to share, rows start at the first token: exact, and slower.
        return run_natural(self.mechanisms, ids, 0, heads=self.heads, cached=False)

    def _shares_prefix(self, natural: Natural, start: int) -> bool:
        """Return whether a suffix run over the recorded prefix gives the natural world again."""
        if natural.cache is None:
            return False
        if start not in natural.suffixes:
            natural.suffixes[start] = capture(self.mechanisms, natural, start)
        wide = {torch.float64: 1e-5, torch.float32: 1e-3}.get(self.mechanisms.dtype, 0.1)
        return natural.suffixes[start].misfit <= wide

    def drop(self, block: Bucket) -> None:
        """Forget a block that is done."""
        if (natural := self.made.pop(block.prompts, None)) is not None:
            self.room += natural.bytes


_NATURAL_TOKENS = 4096


def _natural_room(mechanisms: Mechanisms) -> int:
    """Return how many bytes of natural runs may be kept between their two uses."""
    if mechanisms.device.type == "cuda":
        return torch.cuda.mem_get_info(mechanisms.device)[0] // 5
    return 1 << 30


def _rows_per_prompt(bucket: Bucket) -> int:
    return sum(lane.draws for _, lanes in bucket.waves for lane in lanes)


def _parts(block: Bucket, budget: int) -> Iterator[slice]:
    """Cut a block into parts whose widest wave is at most ``budget`` tokens."""
    widest = max(
        (sum(lane.draws for lane in lanes) * (block.length - start) for start, lanes in block.waves), default=1
    )
    step = max(1, budget // max(widest, 1))
    for start in range(0, len(block.prompts), step):
        yield slice(start, min(start + step, len(block.prompts)))


def _row_budget(mechanisms: Mechanisms, memory: int | None) -> int:
    """Return how many tokens may be in one batch.

    On a CPU the widest activation is kept near 16 MiB: larger ones are mapped anew by the allocator in
    every layer, which costs more than the batch gains.  On a GPU a quarter of the free memory is used.
    """
    config = mechanisms.config
    inner = [getattr(config, name, None) for name in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")]
    widest = max([4 * mechanisms.width, *(size for size in inner if isinstance(size, int))])
    item = torch.tensor([], dtype=mechanisms.dtype).element_size()
    if memory is not None:
        return max(1, memory // (6 * widest * item))
    if mechanisms.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(mechanisms.device)
        return max(1, free // (4 * 6 * widest * item))
    return max(64, (1 << 24) // (widest * item))


def _run_part(state: _Run, block: Bucket, natural: Natural, part: slice, budget: int) -> None:
    """Run every wave of some prompts of a block."""
    base = _Base(state, replace(block, prompts=block.prompts[part]), natural.part(part))
    base.read_natural()
    for start, lanes in block.waves:
        begin = start if natural.cache is not None else 0
        if begin not in natural.suffixes:
            natural.suffixes[begin] = capture(state.mechanisms, natural, begin)
        suffix = natural.suffixes[begin]
        per = (part.stop - part.start) * (block.length - begin)
        for group, draws in _pieces(lanes, state.plan.worlds, state.plan.draws, max(1, budget // per)):
            _run_piece(base, begin, group, draws, suffix)


def _run_piece(base: "_Base", start: int, lanes: Sequence[Lane], draws: slice, suffix: Suffix) -> None:
    """Run lanes together; on out-of-memory in two halves: of their draws, of the lanes, of the prompts."""
    try:
        base.wave(start, lanes, draws, suffix)
        return
    except torch.OutOfMemoryError as error:
        smaller = _halves(base, lanes, draws)
        if not smaller:
            raise OutOfMemory(
                f"prompt {base.bucket.prompts[0]}: one draw of {len(lanes)} worlds at {base.bucket.length - start} "
                "positions does not fit into memory; ask for fewer worlds at a time or use a smaller dtype"
            ) from error
    # Outside the except clause, so that the error no longer holds the tensors that did not fit.
    _release()
    for base_part, some, part in smaller:
        _run_piece(base_part, start, some, part, suffix)


def _halves(base: "_Base", lanes: Sequence[Lane], draws: slice) -> list[tuple["_Base", Sequence[Lane], slice]]:
    """Return two smaller pieces that make up a piece; none where it is one row of each lane that it needs."""
    first, last, _ = draws.indices(base.state.plan.draws)
    if last - first > 1 and any(lane.draws > 1 for lane in lanes):
        middle = (first + last) // 2
        return [(base, lanes, slice(first, middle)), (base, lanes, slice(middle, last))]
    blocks = connected(lanes, base.state.plan.worlds)
    if len(blocks) > 1:
        middle = len(blocks) // 2
        halves = [[lane for block in some for lane in block] for some in (blocks[:middle], blocks[middle:])]
        return [(base, sorted(half, key=lambda lane: lane.join), draws) for half in halves]
    count = len(base.bucket.prompts)
    return [(base.part(part), lanes, draws) for part in (slice(0, count // 2), slice(count // 2, count))][
        : 2 * (count > 1)
    ]


def _release() -> None:
    """Give back what a failed attempt left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _pieces(
    lanes: Sequence[Lane], worlds: Sequence[World], draws: int, rows: int
) -> Iterator[tuple[list[Lane], slice]]:
    """Cut a wave into pieces of at most ``rows`` rows per prompt; lanes that read each other stay together."""
    group: list[Lane] = []
    size = 0
    for block in connected(lanes, worlds):
        weight = sum(lane.draws for lane in block)
        if group and size + weight > rows:
            yield from _by_draws(group, draws, rows, size)
            group, size = [], 0
        group += block
        size += weight
    if group:
        yield from _by_draws(group, draws, rows, size)


def _by_draws(lanes: list[Lane], draws: int, rows: int, size: int) -> Iterator[tuple[list[Lane], slice]]:
    lanes = sorted(lanes, key=lambda lane: lane.join)
    if size <= rows or draws == 1:
        yield lanes, slice(0, draws)
        return
    step = max(1, rows * draws // size)
    for first in range(0, draws, step):
        yield lanes, slice(first, min(first + step, draws))


@dataclass(eq=False)
class _Base:
    """One bucket's chunk: its natural world, and how waves and readings use it."""

    state: _Run
    bucket: Bucket
    natural: Natural

    def __post_init__(self) -> None:
        self.worlds0: dict[int, World0] = {}
        span = self.state.inputs.span(self.bucket.prompts[0])
        positions = {reading.outcome.position for reading in self.state.values}
        self.column_of = {where: indices(where, self.bucket.length, span)[0] for where in positions}
        self.columns = sorted(set(self.column_of.values()))
        self.directs = self._direct_probes()

    def part(self, prompts: slice) -> "_Base":
        """Return the same for some of its prompts."""
        return _Base(self.state, replace(self.bucket, prompts=self.bucket.prompts[prompts]), self.natural.part(prompts))

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
        return readout.precap_logits(stream).argmax(-1)

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
                    parts.append((value.to(weight.dtype) * weight).sum(-1) / sigma)
                self._direct0[key] = torch.stack(parts, -1).unsqueeze(1)
        return self._direct0

    # -- reading ---------------------------------------------------------------------------------------

    def _read_world(
        self,
        program: _Program,
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
        if write.node.head is None:
            return change
        return head_contribution(self.state.mechanisms.mechanism(write.node), change, write.node.head)

    def _store(self, table: np.ndarray, value: torch.Tensor, draws: slice) -> None:
        rows = list(self.bucket.prompts)
        found = value.detach().double().cpu().numpy()
        if table.shape[1] == 1:
            table[rows, 0] = found[:, 0]
        else:
            first, last, _ = draws.indices(self.state.plan.draws)
            table[rows, first:last] = found  # one draw is spread over all


def _mask_missing(state: _Run) -> None:
    """Blank the draws that a prompt has no donor for."""
    donors = state.inputs.donors
    if donors is None or (donors >= 0).all():
        return
    for table in state.values.values():
        if table.shape[1] == donors.shape[1] and table.shape[1] > 1:
            table[donors < 0] = np.nan


def _check_finite(state: _Run) -> None:
    """Raise at the first outcome that is NaN or infinite; it would poison every mean."""
    donors = state.inputs.donors
    for reading, table in state.values.items():
        bad = ~np.isfinite(table)
        if donors is not None and table.shape[1] == donors.shape[1]:
            bad &= donors >= 0
        if bad.any():
            prompt, draw = (int(index) for index in np.argwhere(bad)[0])
            raise NonFiniteError(
                f"prompt {prompt}, draw {draw}: {reading} is {table[prompt, draw]}; nothing was averaged "
                "(low precision overflows: try float32 or bfloat16)"
            )
