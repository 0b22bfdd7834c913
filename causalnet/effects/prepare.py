"""From queries and prompts to plans: what each query means, what it draws, and which queries run together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from causalnet.effects.exogenous import Exogenous
from causalnet.effects.options import Options
from causalnet.effects.tokens import token_lookup
from causalnet.engine import plan as planner
from causalnet.engine.plan import Plan
from causalnet.engine.sources import Inputs
from causalnet.errors import ExpressionError, PromptError, explain
from causalnet.expr import CompiledQuery, Query, compile_queries
from causalnet.expr.conditions import Condition, features_of, holds
from causalnet.expr.positions import Position, Range, indices
from causalnet.expr.values import InWorld, Natural, Noise, Resample
from causalnet.expr.world import World
from causalnet.model.mechanism import Mechanisms
from causalnet.prompts import Encoded, Prompts

__all__ = ["Batch", "Prepared", "Question", "prepare"]


@dataclass(frozen=True, eq=False)
class Question:
    """One query on a model: its meaning, and what it draws.

    ``readings`` are the engine's; ``members`` [condition] say which prompts each subgroup has.
    """

    compiled: CompiledQuery
    readings: tuple[planner.Reading, ...]
    members: Mapping[Condition | None, np.ndarray]
    donors: bool
    same_length: bool
    noise: bool

    @property
    def kind(self) -> tuple[bool, bool]:
        """What must be equal for queries to share their draws; meant only where something is drawn."""
        return (self.donors, self.same_length)


@dataclass(frozen=True, eq=False)
class Batch:
    """Queries that run together: their numbers, what they share, and the plan.

    ``donors`` [prompt, donor] is the donors' index in the pool, or None where none are drawn.
    """

    queries: tuple[int, ...]
    inputs: Inputs
    plan: Plan

    @property
    def donors(self) -> np.ndarray | None:
        """Index of each prompt's donors in the pool [prompt, donor]."""
        return self.inputs.donors


@dataclass(frozen=True, eq=False)
class Prepared:
    """Queries with everything exogenous fixed, checked as far as can be before running."""

    questions: tuple[Question, ...]
    batches: tuple[Batch, ...]
    encoded: Encoded
    lookup: Callable[[str], int]
    notes: tuple[str, ...]


def prepare(
    mechanisms: Mechanisms,
    tokenizer: Any,
    queries: Sequence[Query],
    prompts: Prompts,
    options: Options,
    *,
    draw: bool = True,
) -> Prepared:
    """Compile queries, encode the prompts, draw the donors and plan.

    Parameters
    ----------
    mechanisms, tokenizer
        The model.
    queries
        The queries; those that draw alike share worlds and one plan.
    prompts
        The prompts.
    options
        Donors, pool, seed, target, vectors.
    draw
        False: only plan, as if every prompt had all the donors it may have; nothing is run.

    Raises
    ------
    ExpressionError, UnknownNodeError, UnknownNameError
        If a query cannot be meant on this model and these prompts.
    PromptError
        If a prompt cannot be encoded, lacks what a query names, or has no donor; it is named.
    """
    compiled = compile_queries(
        queries,
        mechanisms.graph,
        spans=prompts.span_names,
        patches=prompts.pair_names,
        values=tuple(options.vectors),
        features=prompts.feature_names,
    )
    questions = tuple(_question(one, prompts) for one in compiled)
    lookup = token_lookup(tokenizer, mechanisms.readout.weight.shape[0], _tokens(questions), options.vectors)
    readings = [reading for one in questions for reading in one.readings]
    exogenous = Exogenous(
        mechanisms,
        tokenizer,
        prompts,
        options,
        _reached(reading.world for reading in readings),
        [reading.outcome.position for reading in readings],
    )
    for one in questions:
        _check_order(one, exogenous.base)
    batches = []
    for numbers in _together(questions):
        readings = list(dict.fromkeys(reading for number in numbers for reading in questions[number].readings))
        inputs = _inputs(exogenous, questions[numbers[0]], draw=draw)
        worlds = [reading.world for reading in readings]
        planned = planner.plan(mechanisms.graph, worlds, readings, inputs.shape, draws=inputs.count)
        batches.append(Batch(numbers, inputs, planned))
    return Prepared(questions, tuple(batches), exogenous.encoded, lookup, exogenous.encoded.notes)


def _question(compiled: CompiledQuery, prompts: Prompts) -> Question:
    readings = tuple(planner.Reading(compiled.worlds[one.world], one.outcome, one.nodes) for one in compiled.readings)
    conditions = dict.fromkeys(one.condition for one in compiled.readings)
    writes = [write for world in _reached(reading.world for reading in readings) for write in world.writes]
    drawn = [site.position for site, value in writes if isinstance(value, Resample)]
    return Question(
        compiled,
        readings,
        {condition: _members(condition, prompts) for condition in conditions},
        donors=bool(drawn),
        same_length=any(map(_depends_on_length, drawn)),
        noise=any(isinstance(value, Noise) for _, value in writes),
    )


def _depends_on_length(position: Position | None) -> bool:
    """Whether a position covers more tokens in longer prompts: all of them, ``@3:``, ``@:-1``."""
    if position is None:
        return True
    if not isinstance(position, Range):
        return False
    return (position.start is None or position.start >= 0) != (position.stop is not None and position.stop >= 0)


def _members(condition: Condition | None, prompts: Prompts) -> np.ndarray:
    """Return which prompts belong to a subgroup [prompt]; a feature that a prompt lacks counts as None."""
    if condition is None:
        return np.ones(len(prompts), dtype=bool)
    names = features_of(condition)
    found = np.array([holds(condition, {name: prompt.features.get(name) for name in names}) for prompt in prompts])
    if not found.any():
        shown = []
        for name in names:
            values = sorted({str(value) for value in prompts.feature(name)})
            shown.append(f"{name} is {', '.join(values[:6])}{', …' * (len(values) > 6)}")
        mend = f"here {'; '.join(shown)}"
        raise PromptError(explain(f"no prompt satisfies {condition}", where=prompts.name, mend=mend))
    return found


def _reached(worlds: Iterable[World]) -> tuple[World, ...]:
    """Return worlds and those that they take values from, each once."""
    found: dict[World, None] = {}

    def visit(world: World) -> None:
        if world not in found:
            found[world] = None
            for inner in world.nested:
                visit(inner)

    for world in worlds:
        visit(world)
    return tuple(found)


def _inputs(exogenous: Exogenous, question: Question, *, draw: bool) -> Inputs:
    """Return the inputs of a group of queries, told by one of those that draw as the group does."""
    if question.donors:
        return exogenous.with_donors(same_length=question.same_length) if draw else exogenous.as_if_with_donors()
    return exogenous.noisy() if question.noise else exogenous.fixed()


def _check_order(question: Question, inputs: Inputs) -> None:
    """Refuse an outcome that is read before everything that its world writes, in every prompt."""
    for reading in question.readings:
        if not reading.world:
            continue
        for prompt, ids in enumerate(inputs.ids):
            spans = inputs.span(prompt)
            read = indices(reading.outcome.position, len(ids), spans, where=f"prompt {prompt}")
            first = _first_write(reading.world, len(ids), spans, f"prompt {prompt}")
            if first is None or first <= max(read):
                break
        else:
            what = f"{reading.outcome} is read before every position that {reading.world} writes, so it cannot change"
            raise ExpressionError(explain(what, mend="read at a later position, or write at an earlier one"))


def _first_write(world: World, length: int, spans: Mapping[str, tuple[int, int]], where: str) -> int | None:
    """Return the first token that a world may change, or None where it changes nothing."""
    found = []
    for site, value in world.writes:
        if isinstance(value, Natural):
            continue
        first = min(indices(site.position, length, spans, where=where))
        if isinstance(value, InWorld):
            inner = _first_write(value.world, length, spans, where)
            if inner is None:
                continue
            first = max(first, inner)
        found.append(first)
    return min(found, default=None)


def _tokens(questions: Sequence[Question]) -> list[Any]:
    return [token for one in questions for reading in one.readings for token in reading.outcome.tokens]


def _together(questions: Sequence[Question]) -> list[tuple[int, ...]]:
    """Group queries that may share their draws, so that each has the answer that it has alone.

    Queries that draw nothing join whichever group runs.
    """
    groups: dict[tuple[bool, bool], list[int]] = {}
    fixed = []
    for number, one in enumerate(questions):
        (groups.setdefault(one.kind, []) if one.donors or one.noise else fixed).append(number)
    if not groups:
        return [tuple(fixed)]
    next(iter(groups.values())).extend(fixed)
    return [tuple(numbers) for numbers in groups.values()]
