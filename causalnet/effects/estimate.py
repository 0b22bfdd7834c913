"""From do-expressions to results: run what was prepared, add up unit by unit, average over prompts."""

import inspect
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from causalnet.effects.options import RANDOM, Options
from causalnet.effects.prepare import Batch, Prepared, Question, prepare
from causalnet.effects.record import run_record
from causalnet.effects.result import Result
from causalnet.effects.statistics import Interval, crossed_mean_interval, donor_mean, function_interval, mean_interval
from causalnet.effects.statistics.means import divide
from causalnet.effects.statistics.resampling import FEW, FewPromptsWarning, quiet
from causalnet.engine.elsewhere import Elsewhere
from causalnet.engine.run import Trace, run
from causalnet.errors import InputError, explain
from causalnet.expr import Query
from causalnet.model.mechanism import Mechanisms
from causalnet.prompts import Prompts

__all__ = [
    "covered",
    "estimate",
    "mean_of",
    "renumbered",
    "short_donors",
    "token_text",
    "unit_tables",
    "warn_of_few",
]


def estimate(
    mechanisms: Mechanisms,
    tokenizer: Any,
    queries: Sequence[Query],
    prompts: Prompts,
    options: Options,
    *,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    elsewhere: Elsewhere | None = None,
) -> list[Result]:
    """Answer queries on a model and prompts.

    Parameters
    ----------
    mechanisms, tokenizer
        The model.
    queries
        The queries; they share worlds where they draw alike.
    prompts
        The prompts.
    options
        Donors, pool, seed, target, vectors, level.
    memory
        Bytes that the rows of one chunk may take; default: found from the device.
    progress
        Called with (rows done, rows in all).
    elsewhere
        Who runs the plans; default: this process.

    Returns
    -------
    list of Result
        One per query, in their order: what each would have alone.

    Raises
    ------
    InputError, PromptError, ExpressionError, UnknownNameError
        As in :func:`causalnet.effects.prepare.prepare`, before anything is run.
    NonFiniteError, InterventionError, OutOfMemory
        As in :func:`causalnet.engine.run.run`.
    """
    ready = prepare(mechanisms, tokenizer, queries, prompts, options)
    total, done = sum(batch.plan.rows for batch in ready.batches), 0
    found: dict[int, Result] = {}
    record = run_record(mechanisms, seed=int(options.seed), **options.recorded())

    def advance(rows: int, _: int) -> None:
        if progress is not None:
            progress(done + rows, max(total, 1))

    with nullcontext(run) if elsewhere is None else elsewhere.runner(mechanisms) as run_one:
        for batch in ready.batches:
            started = time.perf_counter()
            trace = run_one(mechanisms, batch.plan, batch.inputs, lookup=ready.lookup, memory=memory, progress=advance)
            done += batch.plan.rows
            how = _how(batch, len(queries), time.perf_counter() - started)
            for number in batch.queries:
                found[number] = _result(ready, batch, number, trace, tokenizer, options, how, record)
    warn_of_few(min(result.n for result in found.values()))
    return [found[number] for number in range(len(queries))]


def warn_of_few(prompts: int) -> None:
    """Warn once where there are too few prompts for the intervals to be relied on."""
    if prompts < FEW:
        words = f"{prompts} prompt{'s' * (prompts != 1)}: with fewer than {FEW} the intervals may not cover"
        # The warning points at the line that asked, however many rooms lie between.
        level, frame = 1, inspect.currentframe()
        while frame is not None and str(frame.f_globals.get("__name__")).startswith("causalnet."):
            level, frame = level + 1, frame.f_back
        warnings.warn(words, FewPromptsWarning, stacklevel=level)


def unit_tables(question: Question, values: Mapping[Any, np.ndarray]) -> dict[Any, np.ndarray]:
    """Add a query's readings up unit by unit, for each of its subgroups.

    Parameters
    ----------
    question
        The query.
    values
        [prompt, donor] of each reading; one column where a world draws nothing.

    Returns
    -------
    dict
        Condition to ``Σ weight · reading`` [prompt, donor] over the readings of that subgroup.
    """
    found: dict[Any, np.ndarray] = {}
    compiled = question.compiled
    for reading, placed, weight in zip(compiled.readings, question.readings, compiled.weights, strict=True):
        part = weight * values[placed]
        found[reading.condition] = found[reading.condition] + part if reading.condition in found else part
    widest = max(table.shape[1] for table in found.values())
    # What draws nothing is the same in every draw.
    return {key: np.broadcast_to(table, (len(table), widest)) for key, table in found.items()}


def _result(
    ready: Prepared,
    batch: Batch,
    number: int,
    trace: Trace,
    tokenizer: Any,
    options: Options,
    how: Mapping[str, Any],
    record: Mapping[str, Any],
) -> Result:
    question = ready.questions[number]
    tables = unit_tables(question, trace.values)
    chosen = np.any([question.members[condition] for condition in tables], axis=0)
    rows = np.flatnonzero(chosen)
    units = np.sum([np.where(question.members[c][:, None], table, 0.0) for c, table in tables.items()], axis=0)[rows]
    donors = batch.donors[rows] if batch.donors is not None and question.donors else None
    interval, covers, remarks = _interval(question, tables, rows, units, donors, options)
    targets = tuple(int(token) for token in trace.targets[rows])
    query = question.compiled.query
    return Result(
        expression=str(query),
        value=float(interval.estimate),
        std_error=float(interval.se),
        ci=(float(interval.low), float(interval.high)),
        level=float(options.level),
        n=len(rows),
        units=" and ".join(dict.fromkeys(term.body.outcome.units for term in query.terms)),
        values=donor_mean(units),
        units_table=units,
        prompts=tuple(int(row) for row in rows),
        texts=tuple(ready.encoded.prompts[int(row)].text for row in rows),
        targets=targets,
        target_texts=tuple(token_text(tokenizer, token) for token in targets),
        donor_index=np.empty((len(rows), 0)) if donors is None else donors,
        estimand=covers,
        how=how,
        run=record,
        notes=(*remarks, *short_donors(donors, options), *question.compiled.overridden, *ready.notes),
    )


def _interval(
    question: Question,
    tables: Mapping[Any, np.ndarray],
    rows: np.ndarray,
    units: np.ndarray,
    donors: np.ndarray | None,
    options: Options,
) -> tuple[Interval, str, list[str]]:
    """Return the interval, what it covers, and what a reader should know about it."""
    if len(tables) == 1:
        return mean_of(units, donors, rows, options)
    if options.pool == RANDOM and donors is not None:
        what = "an interval that covers the donors is made for one group of prompts"
        mend = "ask for each subgroup by itself, or leave pool='random' out"
        raise InputError(explain(what, where=str(question.compiled.query), mend=mend))
    remarks = _remarks(len(rows), donors, options)
    remarks.append("values are the prompts' contributions; the value adds up the means of the subgroups")
    with quiet():
        found = _of_groups(question, tables, seed=int(options.seed), level=float(options.level))
    return found, covered(donors, options), remarks


def mean_of(
    units: np.ndarray, donors: np.ndarray | None, rows: np.ndarray, options: Options
) -> tuple[Interval, str, list[str]]:
    """Return the mean over prompts of the means over their donors, what its interval covers, and remarks.

    Parameters
    ----------
    units
        [prompt, donor]; NaN where a prompt has fewer donors.
    donors
        [prompt, donor]: their index in the pool; None where none are drawn.
    rows
        [prompt]: which of the prompts they are.
    options
        The pool, which says what the interval covers; level and seed.
    """
    how: dict[str, Any] = {"seed": int(options.seed), "level": float(options.level)}
    covers, remarks = covered(donors, options), _remarks(len(rows), donors, options)
    values = donor_mean(units)
    with quiet():
        if len(rows) == 1:
            nothing = np.array(np.nan)
            return Interval(values.mean(), nothing, nothing, nothing), covers, remarks
        if options.pool == RANDOM and donors is not None:
            return crossed_mean_interval(units, renumbered(donors, rows), **how), covers, remarks
        return mean_interval(values, **how), covers, remarks


def covered(donors: np.ndarray | None, options: Options) -> str:
    """Say what an interval covers."""
    if donors is None:
        return "over prompts"
    return "over prompts and donors" if options.pool == RANDOM else "conditional on the donor pool"


def _remarks(prompts: int, donors: np.ndarray | None, options: Options) -> list[str]:
    found = []
    if options.pool == RANDOM and donors is None:
        found.append("this query draws no donors, so its interval is over prompts alone")
    if prompts < FEW:
        found.append(f"fewer than {FEW} prompts: the interval may not cover")
    return found


def _of_groups(question: Question, tables: Mapping[Any, np.ndarray], *, seed: int, level: float) -> Interval:
    """Return the interval of a sum of means over different subgroups: a function of means over all prompts."""
    moments = []
    for condition, table in tables.items():
        inside = question.members[condition]
        mean = np.zeros(len(table))
        mean[inside] = donor_mean(table[inside])
        moments += [mean, inside.astype(np.float64)]
    data = np.stack(moments, axis=1)

    def value(m: np.ndarray) -> np.ndarray:
        return np.sum([divide(m[k], m[k + 1]) for k in range(0, len(m), 2)], axis=0)

    def gradient(m: np.ndarray) -> np.ndarray:
        parts = []
        for k in range(0, len(m), 2):
            parts += [divide(np.ones_like(m[k + 1]), m[k + 1]), -divide(m[k], m[k + 1] ** 2)]
        return np.stack(parts)

    found = function_interval(data[:, :, None], value, gradient, seed=seed, level=level)
    return Interval(*(np.asarray(part)[0] for part in (found.estimate, found.se, found.low, found.high)))


def renumbered(donors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return donors by new numbers: those in the subgroup first, from 0, then those outside it."""
    outside = sorted(set(donors[donors >= 0].tolist()) - set(rows.tolist()))
    number = {int(row): place for place, row in enumerate([*rows.tolist(), *outside])}
    return np.array([[number.get(int(donor), -1) for donor in row] for row in donors])


def short_donors(donors: np.ndarray | None, options: Options) -> list[str]:
    """Say which prompts have fewer donors than were asked for."""
    if donors is None:
        return []
    used = (donors >= 0).sum(1)
    short = int((used < options.donors).sum())
    if not short:
        return []
    return [
        f"{short} of {len(used)} prompts have fewer than {options.donors} eligible donors (the fewest: {used.min()})"
    ]


def _how(batch: Batch, queries: int, seconds: float) -> dict[str, Any]:
    planned = batch.plan
    return {
        "worlds": len(planned.worlds),
        "rows": planned.rows,
        "draws": planned.draws,
        "token_layers": planned.tokens,
        "share_of_full_forward": planned.share,
        "queries": queries,
        "seconds": round(seconds, 3),
    }


def token_text(tokenizer: Any, token: int) -> str:
    """Return a token's text, or its number where the tokenizer has no texts."""
    return str(tokenizer.decode([token])) if hasattr(tokenizer, "decode") else str(token)
