"""Named units: a model on prompts with everything exogenous drawn, and results made of arrays over its units."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from causalnet.effects.asking import PromptedModel
from causalnet.effects.estimate import covered, mean_of, renumbered, short_donors, token_text, warn_of_few
from causalnet.effects.options import RANDOM, Options
from causalnet.effects.prepare import prepare
from causalnet.effects.record import run_record
from causalnet.effects.result import Result
from causalnet.effects.statistics import Interval, crossed_mean_interval, donor_mean, ratio_interval
from causalnet.effects.statistics.resampling import quiet
from causalnet.effects.sweep import find_targets
from causalnet.errors import InputError, explain
from causalnet.expr import Assignment, Do, Outcome, Query
from causalnet.expr.query import Expectation, Term
from causalnet.model.mechanism import Mechanisms
from causalnet.prompts import Prompts

__all__ = ["Units", "units_of"]


@dataclass(frozen=True, eq=False)
class Units:
    """A model on prompts, ready to be asked, and what its units are called.

    Attributes
    ----------
    scm
        The model on its prompts: tokens, donors, targets.
    texts
        The prompts.
    target_texts
        Texts of the targets, [prompt].
    options, record, notes
        What was chosen, the run record, and what a reader should know.
    """

    scm: PromptedModel
    texts: tuple[str, ...]
    target_texts: tuple[str, ...]
    options: Options
    record: dict[str, Any]
    notes: tuple[str, ...] = ()

    def mean(self, table: np.ndarray, *, expression: str, units: str, notes: Sequence[str] = ()) -> Result:
        """Return the mean over prompts of an array over units [prompt, donor]; a prompt that is all NaN is left out.

        Raises
        ------
        InputError
            If every unit is NaN.
        """
        rows = np.flatnonzero(np.isfinite(table).any(1))
        if not len(rows):
            raise InputError(f"{expression} is defined in no unit")
        inside = np.asarray(table, dtype=np.float64)[rows]
        donors = self._donors(inside, rows)
        found, covers, remarks = mean_of(inside, donors, rows, self.options)
        return self._result(found, inside, donor_mean(inside), rows, expression, units, covers, [*remarks, *notes])

    def share(self, top: np.ndarray, bottom: np.ndarray, *, expression: str) -> Result:
        """Return Σ top / Σ bottom over prompts, of arrays over units [prompt, donor]; it has no units.

        Raises
        ------
        InputError
            If Σ bottom is 0.
        """
        rows, every = np.arange(len(top)), {"seed": int(self.options.seed), "level": float(self.options.level)}
        means = donor_mean(top), donor_mean(bottom)
        if means[1].sum() == 0:
            raise InputError("nothing was lost directly, so no share of it can come back")
        donors = self._donors(top, rows)
        with quiet():
            found = ratio_interval(*means, **every)
            if donors is not None and self.options.pool == RANDOM:
                # The delta method: to first order the ratio errs as the mean of these scores does.
                scores = (top - found.estimate * bottom) / means[1].mean()
                error = crossed_mean_interval(scores, renumbered(donors, rows), **every)
                found = Interval(found.estimate, error.se, found.estimate + error.low, found.estimate + error.high)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios, own = (np.where(b != 0, t / b, np.nan) for t, b in ((top, bottom), means))
        notes = ["values are the prompts' own shares; the value is a ratio of sums over prompts"]
        covers = covered(donors, self.options)
        return self._result(found, ratios, own, rows, expression, "share", covers, notes)

    def warn(self) -> None:
        """Warn where there are few prompts."""
        warn_of_few(len(self.texts))

    def _donors(self, table: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        donors = self.scm.inputs.donors
        return None if donors is None or donors.shape[1] != table.shape[1] else donors[rows]

    def _result(
        self,
        found: Interval,
        table: np.ndarray,
        values: np.ndarray,
        rows: np.ndarray,
        expression: str,
        units: str,
        covers: str,
        notes: Sequence[str],
    ) -> Result:
        donors = self._donors(table, rows)
        targets = self.scm.inputs.targets
        return Result(
            expression=expression,
            value=float(found.estimate),
            std_error=float(found.se),
            ci=(float(found.low), float(found.high)),
            level=float(self.options.level),
            n=len(rows),
            units=units,
            values=values,
            units_table=table,
            prompts=tuple(int(row) for row in rows),
            texts=tuple(self.texts[row] for row in rows),
            targets=() if targets is None else tuple(int(targets[row]) for row in rows),
            target_texts=tuple(self.target_texts[row] for row in rows),
            donor_index=np.empty((len(rows), 0)) if donors is None else donors,
            estimand=covers,
            run=self.record,
            notes=(*notes, *short_donors(donors, self.options), *self.notes),
        )


def units_of(
    mechanisms: Mechanisms,
    tokenizer: Any,
    prompts: Prompts,
    interventions: Sequence[Sequence[Assignment]],
    outcome: Outcome,
    options: Options,
    *,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Units:
    """Encode prompts, draw donors, find targets, look tokens up.

    Parameters
    ----------
    mechanisms, tokenizer, prompts
        The model and the prompts.
    interventions
        Every intervention that will be asked about, each of one assignment or several: they say which donors, paired
        prompts and spans are needed.
    outcome
        The outcome that will be read.
    options
        Donors, pool, seed, target, vectors, level.
    memory, progress
        As in :func:`causalnet.engine.run.run`.

    Raises
    ------
    InputError
        If there are none, or they do not draw alike: some need donors of the prompt's own length and some do not.
    ExpressionError, PromptError, UnknownNameError
        As in :func:`causalnet.effects.prepare.prepare`.
    """
    if not interventions:
        mend = "give assignments such as attn[5] @ last << resample"
        raise InputError(explain("no intervention is given", mend=mend))
    queries = [Query((Term(1.0, Expectation(outcome, Do(tuple(some)))),)) for some in interventions]
    ready = prepare(mechanisms, tokenizer, queries, prompts, options)
    first, *more = ready.batches
    if more:
        what = "these interventions draw differently, and units must share their donors"
        raise InputError(explain(what, mend="ask about them one after the other"))
    inputs = first.inputs
    if inputs.targets is None:
        found = find_targets(mechanisms, replace(inputs, donors=None, pool=None))
        inputs = replace(inputs, targets=tuple(int(token) for token in found))
    return Units(
        PromptedModel(mechanisms, inputs, ready.lookup, memory, progress),
        tuple(one.text for one in ready.encoded.prompts),
        tuple(token_text(tokenizer, int(token)) for token in inputs.targets or ()),
        options,
        run_record(mechanisms, seed=int(options.seed), **options.recorded()),
        tuple(ready.notes),
    )
