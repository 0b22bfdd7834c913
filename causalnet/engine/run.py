"""Run a plan: natural runs, waves, readings; chunk sizes from memory, progress, and receipts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from causalnet.engine.batching import Naturals, parts, pieces, release, rows_per_prompt
from causalnet.engine.budget import budget_of
from causalnet.engine.chunk import Chunk, State
from causalnet.engine.inputs import Inputs, check, check_tokens
from causalnet.engine.natural import Suffix, capture
from causalnet.engine.plan import Lane, Plan, Reading, connected
from causalnet.engine.sources import build_sources
from causalnet.errors import NonFiniteError, OutOfMemory
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
        Bytes that rows and natural runs may take together, however many prompts and donors there are; beside
        them are the weights, the values that donors give (of each donor that is drawn, at the sites that are
        set), logits, and the results.  Where an outcome reads every logit they are made a few rows at a time, in
        at most six tensors of 16 MiB (64 MiB on a GPU, more where one row is larger); where no targets are given
        they are found from 2**22 logits at a time.  At least one prompt and one row are run.  Default: found from
        the device.
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
    check(mechanisms, plan, inputs)
    check_tokens(mechanisms, plan.readings, inputs.targets, lookup)
    with torch.no_grad():
        budget = budget_of(mechanisms, memory)
        naturals = Naturals(mechanisms, plan, inputs, budget)
        sources = build_sources(mechanisms, plan, inputs, naturals.runs(), budget)
        state = State(mechanisms, plan, inputs, sources, lookup)
        done, total = 0, max(plan.rows, 1)
        for block, natural in naturals.each():
            for rows in _run_block(Chunk(state, block, natural), budget.tokens):
                done += rows
                if progress is not None:
                    progress(done, total)
            naturals.drop(block)
            del natural  # before the next is made
    _mask_missing(state)
    _check_finite(state)
    return Trace(plan, state.values, state.targets)


def _run_block(whole: Chunk, budget: int) -> Iterator[int]:
    """Run a block of prompts part by part; yield how many rows each had."""
    whole.world0(whole.bucket.length - 1)
    for part in parts(whole.bucket, budget):
        _run_part(whole, part, budget)
        yield (part.stop - part.start) * rows_per_prompt(whole.bucket)


def _run_part(whole: Chunk, part: slice, budget: int) -> None:
    """Run every wave of some prompts of a block."""
    state, block, natural = whole.state, whole.bucket, whole.natural
    base = whole.part(part)
    base.read_natural()
    for start, lanes in block.waves:
        begin = start if natural.cache is not None else 0
        if begin not in natural.suffixes:
            natural.suffixes[begin] = capture(state.mechanisms, natural, begin)
        suffix = natural.suffixes[begin]
        per = (part.stop - part.start) * (block.length - begin)
        for group, draws in pieces(lanes, state.plan.worlds, state.plan.draws, max(1, budget // per)):
            _run_piece(base, begin, group, draws, suffix)


def _run_piece(base: "Chunk", start: int, lanes: Sequence[Lane], draws: slice, suffix: Suffix) -> None:
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
    release()
    for base_part, some, part in smaller:
        _run_piece(base_part, start, some, part, suffix)


def _halves(base: "Chunk", lanes: Sequence[Lane], draws: slice) -> list[tuple["Chunk", Sequence[Lane], slice]]:
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
    halves = [slice(0, count // 2), slice(count // 2, count)] if count > 1 else []
    return [(base.part(part), lanes, draws) for part in halves]


def _mask_missing(state: State) -> None:
    """Blank the draws that a prompt has no donor for."""
    donors = state.inputs.donors
    if donors is None or (donors >= 0).all():
        return
    for table in state.values.values():
        if table.shape[1] == donors.shape[1] and table.shape[1] > 1:
            table[donors < 0] = np.nan


def _check_finite(state: State) -> None:
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
