"""Trying every law on a live model: how often it held, how far it was off, and the smallest case that breaks it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from causalnet.errors import InputError, explain
from causalnet.testing.lab import Lab, ModelLab, lab_of
from causalnet.testing.laws import LAWS, Case, Finding, Law, law
from causalnet.testing.trial import Broken, try_cases

__all__ = ["PROFILES", "Failure", "LawReport", "Tried", "check_laws"]

PROFILES = {"quick": 6, "ci": 25, "thorough": 200}
"""Cases per law, by profile."""


@dataclass(frozen=True)
class Failure:
    """The smallest case that was found to break a law.

    Attributes
    ----------
    case
        The case: ``law(name).measure(model, case)`` runs it again.
    finding
        What is wrong.
    expression
        The case as a do-expression: a difference that the law says is 0, or the query that goes wrong.
    tokens
        Token ids of the prompt.
    """

    case: Case
    finding: Finding
    expression: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Tried:
    """One law, tried.

    Attributes
    ----------
    law
        The law.
    on
        What it was tried on.
    cases
        Number of cases.
    worst
        Largest residual.
    tolerance
        The tolerance of the case with the largest residual.
    failure
        None where it held in every case.
    """

    law: Law
    on: str
    cases: int
    worst: float
    tolerance: float
    failure: Failure | None = None

    @property
    def holds(self) -> bool:
        """Whether the law held in every case."""
        return self.failure is None


@dataclass(frozen=True)
class LawReport:
    """Every law that was tried on one model; ``print(report)`` is a table.

    Examples
    --------
    >>> from causalnet.testing.finite import field_network
    >>> print(check_laws(field_network(length=5), laws=["null", "rule_3"], cases=4))
    law     on            cases  worst residual  tolerance
    null    finite field      2               0          0  holds
    rule_3  finite field      8               0          0  holds
    """

    model: str
    rows: tuple[Tried, ...]

    @property
    def holds(self) -> bool:
        """Whether every law held."""
        return all(row.holds for row in self.rows)

    @property
    def failed(self) -> tuple[Tried, ...]:
        """The laws that did not hold."""
        return tuple(row for row in self.rows if not row.holds)

    def __getitem__(self, name: str) -> Tried:
        """Return what was found of one law."""
        return next(row for row in self.rows if row.law is law(name))

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the table, one line per law, each failure below it."""
        rows = [("law", "on", "cases", "worst residual", "tolerance", "")]
        for row in self.rows:
            figures = (str(row.cases), _figure(row.worst), _figure(row.tolerance))
            rows.append((row.law.name, row.on, *figures, "holds" if row.holds else "fails"))
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        found = []
        for row in rows:
            cells = [cell.rjust(width) if place in (2, 3, 4) else cell.ljust(width)
                     for place, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
            found.append("  ".join(cells).rstrip())
        for row in self.failed:
            assert row.failure is not None
            found.append(f"{row.law.name}: {row.failure.finding}")
            found.append(f"  {row.failure.expression}")
            if row.failure.tokens:
                found.append(f"  on tokens {' '.join(map(str, row.failure.tokens))}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers and texts; what is infinite is None."""
        return {"model": self.model, "holds": self.holds, "laws": [_row(row) for row in self.rows]}


def _row(row: Tried) -> dict[str, Any]:
    found: dict[str, Any] = {
        "law": row.law.name,
        "number": row.law.number,
        "statement": row.law.statement,
        "on": row.on,
        "cases": row.cases,
        "worst_residual": row.worst if math.isfinite(row.worst) else None,
        "tolerance": row.tolerance,
        "holds": row.holds,
    }
    if row.failure is not None:
        found["failure"] = {
            "expression": row.failure.expression,
            "tokens": list(row.failure.tokens),
            "finding": str(row.failure.finding),
        }
    return found


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def check_laws(
    model: Any = None,
    *,
    laws: Iterable[str] | None = None,
    cases: int | None = None,
    seed: int = 0,
    profile: str = "quick",
    shrink: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> LawReport:
    """Try the laws of structural causal models on a live model.

    Parameters
    ----------
    model
        A model as :func:`causalnet.compile` returns it, its mechanisms, or a network.  Prompts are random tokens, so no
        tokenizer is needed.  None: only the laws that need no model.
    laws
        Names of laws; default: every law that the model can be tried on.
    cases
        Cases per law; default by profile.  Some laws take a multiple of more than one.
    seed
        Of the cases.
    profile
        A key of :data:`PROFILES`.
    shrink
        Whether a failing case is made as small as it goes.
    progress
        Called with (laws done, laws in all).

    Returns
    -------
    LawReport

    Raises
    ------
    InputError
        If the model or the profile cannot be used.
    UnknownNameError
        If there is no such law.

    Examples
    --------
    >>> from causalnet.testing.strategies import tiny_model
    >>> report = check_laws(tiny_model("gptj"), laws=["locality", "edges"], cases=3)
    >>> report.holds, [row.cases for row in report.rows]
    (True, [3, 6])
    """
    if profile not in PROFILES:
        raise InputError(explain(f"unknown profile {profile!r}", legal=PROFILES, got=profile))
    count = PROFILES[profile] if cases is None else cases
    if count < 1:
        raise InputError(explain(f"{count} cases try nothing", mend="ask for one or more"))
    lab = None if model is None else lab_of(model)
    chosen = [law(name) for name in laws] if laws is not None else [one for one in LAWS.values() if _able(one, lab)]
    for one in chosen:
        if not _able(one, lab):
            what = f"the law {one.name} needs {'a compiled model' if one.needs == 'model' else 'a model or a network'}"
            raise InputError(what)
    rows = []
    for one in chosen:
        if progress is not None:
            progress(len(rows), len(chosen))
        rows.append(_try(one, lab, 1 if count == 1 else max(1, round(count * one.weight)), seed, shrink))
    return LawReport("" if lab is None else lab.name, tuple(rows))


def _able(one: Law, lab: Lab | None) -> bool:
    return one.needs == "nothing" or (lab is not None and (one.needs == "scm" or isinstance(lab, ModelLab)))


_ON = {"closed_form": "linear networks", "coverage": "simulated samples"}


def _try(one: Law, lab: Lab | None, count: int, seed: int, shrink: bool) -> Tried:
    ran, worst, bound = 0, 0.0, None
    failed: list[tuple[Case, Finding]] = []

    def tried(case: Case) -> None:
        nonlocal ran, worst, bound
        found, tolerance = one.measure(lab, case), one.tolerance(lab, case)
        if not failed:
            ran += 1
            if bound is None or found.residual > worst:
                worst, bound = found.residual, tolerance
        if not found.residual <= tolerance:
            failed.append((case, found))
            raise Broken

    try_cases(one.cases(lab), tried, count, seed=seed, shrink=shrink)
    failure = None
    if failed:
        case, found = failed[-1]
        tokens = () if lab is None or one.needs == "nothing" else lab.tokens(case.unit)
        failure = Failure(case, found, one.shown(lab, case, found), tokens)
    name = "" if lab is None else lab.name
    return Tried(one, _ON.get(one.name, name), ran, worst, 0.0 if bound is None else bound, failure)
