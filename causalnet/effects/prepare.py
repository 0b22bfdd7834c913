"""From queries and prompts to what the engine runs: tokens, spans, donors, and which queries run together."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from causalnet.effects.sweep import find_targets
from causalnet.effects.tokens import token_lookup
from causalnet.engine import plan as planner
from causalnet.engine.plan import Plan
from causalnet.engine.sources import Inputs
from causalnet.errors import InputError, PromptError, explain
from causalnet.expr import CompiledQuery, Query, compile_queries
from causalnet.expr.conditions import Condition, features_of, holds
from causalnet.expr.positions import Position, Range, Span
from causalnet.expr.values import Mean, Noise, Patch, Resample
from causalnet.expr.world import World
from causalnet.model.mechanism import Mechanisms
from causalnet.prompts import DonorPool, Encoded, Prompts, choose_donors, encode

__all__ = ["Batch", "Options", "Prepared", "Question", "prepare"]

TARGETS = ("argmax", "answer")
RANDOM = "random"


@dataclass(frozen=True, eq=False)
class Options:
    """What a caller may choose about an evaluation.

    Parameters
    ----------
    donors
        Donors (or noise draws) per prompt.
    pool
        None: donors are the other prompts, and intervals are conditional on them.  Prompts: donors (and
        means) come from these.  ``"random"``: donors are the other prompts, and intervals cover them too.
    seed
        Of donors, noise and resampling.
    target
        What ``target`` means: the natural world's ``"argmax"``, or the prompts' ``"answer"``.
    vectors
        Vectors [d_model] or [prompt, d_model] by name, for ``value``, ``add`` and ``project_out``.
    level
        Confidence level.
    strata
        Name of a feature that donors must share with their prompt; None: no such rule.

    Examples
    --------
    >>> Options(donors=3).recorded()["given"]
    {'donors': 3}
    """

    donors: int = 15
    pool: Prompts | str | None = None
    seed: int = 0
    target: str = "argmax"
    vectors: Mapping[str, Any] = field(default_factory=dict)
    level: float = 0.95
    strata: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("donors", 1), ("seed", 0)):
            given = getattr(self, name)
            whole = not isinstance(given, bool) and hasattr(type(given), "__index__")
            if not whole or operator.index(given) < least:
                raise InputError(f"{name} must be a whole number of at least {least}, not {given!r}")
        if self.target not in TARGETS:
            raise InputError(explain(f"unknown target {self.target!r}", legal=TARGETS, got=str(self.target)))
        if not (self.pool is None or self.pool == RANDOM or isinstance(self.pool, Prompts)):
            mend = 'give Prompts to draw donors from, "random" to let intervals cover the donors, or nothing'
            raise InputError(explain(f"unknown donor pool {self.pool!r}", mend=mend))
        if not isinstance(self.level, int | float) or not 0 < self.level < 1:
            raise InputError(f"level must lie between 0 and 1, not {self.level!r}")
        if not isinstance(self.vectors, Mapping):
            raise InputError(f"vectors must map names to vectors, not {type(self.vectors).__name__}")

    @property
    def separate(self) -> Prompts | None:
        """The prompts that donors come from, where they are not the prompts themselves."""
        return self.pool if isinstance(self.pool, Prompts) else None

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Return the options that were given, and those left at their defaults, as plain values."""
        plain = {
            "donors": int(self.donors),
            "pool": repr(self.pool) if isinstance(self.pool, Prompts) else self.pool,
            "seed": int(self.seed),
            "target": self.target,
            "vectors": sorted(self.vectors),
            "level": self.level,
            "strata": self.strata,
        }
        defaults = {"donors": 15, "pool": None, "seed": 0, "target": "argmax", "vectors": [], "level": 0.95}
        given = {name for name, value in plain.items() if value != defaults.get(name)}
        return {
            "given": {name: value for name, value in plain.items() if name in given},
            "defaulted": {name: value for name, value in plain.items() if name not in given},
        }


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
    lookup = token_lookup(tokenizer, mechanisms.readout.weight.shape[0], _tokens(questions))
    world = _Exogenous(mechanisms, tokenizer, prompts, options, questions)
    batches = []
    for numbers in _together(questions):
        readings = list(dict.fromkeys(reading for number in numbers for reading in questions[number].readings))
        inputs = world.inputs(questions[numbers[0]], draw=draw)
        worlds = [reading.world for reading in readings]
        planned = planner.plan(mechanisms.graph, worlds, readings, inputs.shape, draws=inputs.count)
        batches.append(Batch(numbers, inputs, planned))
    return Prepared(questions, tuple(batches), world.encoded, lookup, world.encoded.notes)


def _question(compiled: CompiledQuery, prompts: Prompts) -> Question:
    readings = tuple(
        planner.Reading(compiled.worlds[one.world], one.outcome, one.nodes) for one in compiled.readings
    )
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
        seen = {name: sorted({str(value) for value in prompts.feature(name)}) for name in names}
        shown = "; ".join(f"{name} is {', '.join(values[:6])}{', …' * (len(values) > 6)}" for name, values in seen.items())
        raise PromptError(explain(f"no prompt satisfies {condition}", where=prompts.name, mend=f"here {shown}"))
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


@dataclass(eq=False)
class _Exogenous:
    """Builds the engine's inputs: what is shared by all queries is made once."""

    mechanisms: Mechanisms
    tokenizer: Any
    prompts: Prompts
    options: Options
    questions: Sequence[Question]

    def __post_init__(self) -> None:
        self.writes = [
            write
            for world in _reached(reading.world for one in self.questions for reading in one.readings)
            for write in world.writes
        ]
        outcomes = [reading.outcome.position for one in self.questions for reading in one.readings]
        spans = _span_names([*(site.position for site, _ in self.writes), *outcomes])
        pairs = {value.name for _, value in self.writes if isinstance(value, Patch)}
        self.by_answer = self.options.target == "answer"
        self.encoded = self._encode(_with_pairs(self.prompts, pairs), spans, "require" if self.by_answer else "ignore")
        self.base = Inputs(
            self.encoded.ids,
            spans=_ranges(self.encoded, spans),
            targets=self.encoded.answers() if self.by_answer else None,
            pairs={name: self._pair(name) for name in sorted(pairs)},
            vectors={name: _vector(name, given) for name, given in self.options.vectors.items()},
            seed=int(self.options.seed),
        )
        self.pool: Encoded | None = None
        if self.options.separate is not None:
            drawn = _span_names(s.position for s, value in self.writes if isinstance(value, Resample | Mean | Noise))
            pool = _with_pairs(self.options.separate, ())
            self.pool = self._encode(pool, drawn, "read" if self.by_answer else "ignore")
            own = Inputs(self.pool.ids, spans=_ranges(self.pool, drawn))
            self.base = replace(self.base, pool=own)
        self.natural: tuple[list[int], list[int] | None] | None = None

    def inputs(self, question: Question, *, draw: bool) -> Inputs:
        """Return the inputs of a group of queries, told by one of those that draw as the group does."""
        if question.donors:
            if draw:
                return replace(self.base, donors=self._donors(same_length=question.same_length))
            others = len(self.prompts) - 1 if self.pool is None else len(self.pool)
            return replace(self.base, draws=max(1, min(int(self.options.donors), others)))
        return replace(self.base, draws=int(self.options.donors)) if question.noise else self.base

    def _encode(self, prompts: Prompts, spans: Sequence[str], answers: Any) -> Encoded:
        model = self.mechanisms
        return encode(
            prompts, self.tokenizer, context=model.context, vocab_size=model.vocab, spans=spans, answers=answers
        )

    def _pair(self, name: str) -> Inputs:
        paired = self.encoded.pair(name)
        names = _span_names(site.position for site, value in self.writes if value == Patch(name))
        return Inputs(paired.ids, spans=_ranges(_with_replaced(paired, self.encoded, names), names))

    def _donors(self, *, same_length: bool) -> np.ndarray:
        targets, of_pool = self._targets()
        strata, pool = self.options.strata, None
        if self.pool is not None:
            assert of_pool is not None, "the targets of a separate pool are found with those of the prompts"
            shared = None if strata is None else self.pool.prompts.feature(strata)
            pool = DonorPool(of_pool, self.pool.lengths, shared, self.pool.ids)
        donors = choose_donors(
            targets,
            self.encoded.lengths,
            donors=int(self.options.donors),
            seed=int(self.options.seed),
            same_length=same_length,
            strata=None if strata is None else self.prompts.feature(strata),
            keys=self.encoded.ids,
            pool=pool,
            names=list(self.prompts.texts),
        )
        return donors[:, : int((donors >= 0).sum(1).max())]

    def _targets(self) -> tuple[list[int], list[int] | None]:
        """Return the target of each prompt and of each donor in a separate pool, for the rule against equal ones."""
        if self.natural is None:
            own = find_targets(self.mechanisms, replace(self.base, pool=None)).tolist()
            other = None
            if self.pool is not None and self.base.pool is not None:
                answers = self.pool.answer_ids
                if not self.by_answer or None in answers:
                    top = find_targets(self.mechanisms, self.base.pool).tolist()
                    answers = [a if a is not None and self.by_answer else t for a, t in zip(answers, top, strict=True)]
                other = [int(answer) for answer in answers if answer is not None]
            self.natural = own, other
        return self.natural


def _span_names(positions: Iterable[Position | None]) -> list[str]:
    return sorted({position.name for position in positions if isinstance(position, Span)})


def _ranges(encoded: Encoded, names: Sequence[str]) -> tuple[dict[str, tuple[int, int]], ...]:
    """Return the token ranges of the named spans [prompt]; a span that is missing raises, with its prompt."""
    if not names:
        return ()
    found = {name: encoded.span(name) for name in names}
    return tuple({name: found[name][prompt] for name in names} for prompt in range(len(encoded)))


def _with_replaced(paired: Encoded, own: Encoded, names: Sequence[str]) -> Encoded:
    """Locate spans that paired prompts do not have: where they equal the prompt but for the span, it is known."""
    spans = dict(paired.spans)
    for name in names:
        there = spans.get(name, (None,) * len(own))
        spans[name] = tuple(
            _replaced(own.ids[prompt], paired.ids[prompt], at) if found is None else found
            for prompt, (found, at) in enumerate(zip(there, own.span(name), strict=True))
        )
    problems = {name: why for name, why in paired.span_problems.items() if name in spans and None in spans[name]}
    return replace(paired, spans=spans, span_problems=problems)


def _replaced(own: Sequence[int], other: Sequence[int], at: tuple[int, int]) -> tuple[int, int] | None:
    start, after = at[0], len(own) - at[1]
    stop = len(other) - after
    same = start < stop and own[:start] == other[:start] and own[at[1] :] == other[stop:]
    return (start, stop) if same else None


def _with_pairs(prompts: Prompts, names: Iterable[str]) -> Prompts:
    """Keep only the paired prompts that are used: what is not asked for is not checked."""
    kept = set(names)
    items = tuple(
        replace(one, pairs={name: pair for name, pair in one.pairs.items() if name in kept}) if one.pairs else one
        for one in prompts
    )
    return replace(prompts, items=items)


def _vector(name: str, given: Any) -> torch.Tensor:
    if isinstance(given, torch.Tensor):
        return given.detach()
    try:
        return torch.as_tensor(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"vector {name!r} is no vector of numbers: {error}") from None
