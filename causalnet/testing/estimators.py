"""A decomposition of your own, tried on networks in which every effect is known exactly."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.errors import InputError, explain
from causalnet.expr.assign import Assignment
from causalnet.testing.networks import Network
from causalnet.testing.trial import Broken, try_cases

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from causalnet.effects.asking import Scm

__all__ = ["NETWORKS", "DecompositionReport", "Estimator", "check_decomposition"]

Estimator = Callable[..., Mapping[str, np.ndarray]]
"""From a model on its prompts and assignments to effects by name, each [prompt, draw]."""

NETWORKS = ("field", "linear", "transformer")
"""What a decomposition is tried on: whole numbers modulo a prime, linear networks, tiny transformers."""

_BOUND = {"linear": 1e-9, "transformer": 1e-5}
"""Relative to the size of the total: tiny transformers have modules that compute in float32."""


@dataclass(frozen=True)
class DecompositionReport:
    """A decomposition that held.

    Attributes
    ----------
    total, parts
        What was added up.
    cases
        Number of cases by kind of network.
    worst
        Largest residual by kind of network, relative to the size of the total.
    """

    total: str
    parts: tuple[str, ...]
    cases: Mapping[str, int]
    worst: Mapping[str, float]

    def __str__(self) -> str:
        tried = ", ".join(f"{count} on {kind} networks (worst {self.worst[kind]:.1e})"
                          for kind, count in self.cases.items())  # fmt: skip
        return f"{self.total} = {' + '.join(self.parts)}: held in {tried}"


def check_decomposition(
    estimator: Estimator,
    *,
    total: str,
    parts: Sequence[str],
    on: Iterable[str] = NETWORKS,
    cases: int = 20,
    joint: bool = False,
    seed: int = 0,
) -> DecompositionReport:
    """Try an estimator of your own: its parts have to add up to its total, in every unit of every network.

    Parameters
    ----------
    estimator
        Called with a model on its prompts (it has ``graph`` and ``read``;
        :func:`causalnet.effects.asking.unit_effects` answers queries on it) and one assignment, or one or two if
        ``joint``.  It returns effects by name, each [prompt, draw].
    total
        Name of an effect that it returns, or a named estimand of the language (``TE``, ``NDE``, …), which is then
        computed exactly.
    parts
        Names of effects that it returns; they are added up.
    on
        Which of :data:`NETWORKS` to try.  Modulo a prime only sums, differences and products of effects mean
        anything: leave ``field`` out for an estimator that divides or compares.
    cases
        Cases on each kind of network.
    joint
        Whether two nodes may be set at once.
    seed
        Of the cases.

    Returns
    -------
    DecompositionReport

    Raises
    ------
    AssertionError
        If the parts do not add up: with the smallest network and the shortest intervention that show it.
    InputError
        If there is no such kind of network, or the estimator does not return what is added up.

    Examples
    --------
    >>> from causalnet.effects.asking import unit_effects
    >>> from causalnet.expr import CE, DE, NORM
    >>> def mine(scm, s):
    ...     return unit_effects(scm, {"direct": DE(s), "compensation": CE(s), "norm": NORM(s)})
    >>> report = check_decomposition(mine, total="TE", parts=["direct", "compensation", "norm"], cases=5)
    >>> sorted(report.cases)
    ['field', 'linear', 'transformer']
    >>> check_decomposition(mine, total="TE", parts=["direct", "compensation"], on=["field"])
    Traceback (most recent call last):
    ...
    AssertionError: TE = direct + compensation does not hold
      ...
    """
    chosen = tuple(on)
    for kind in chosen:
        if kind not in NETWORKS:
            raise InputError(explain(f"unknown kind of network {kind!r}", legal=NETWORKS, got=kind))
    if not parts:
        raise InputError(explain("there are no parts to add up", mend="name what the estimator returns"))
    count: dict[str, int] = {}
    worst: dict[str, float] = {}
    for kind in chosen:
        count[kind], worst[kind] = _try(estimator, total, tuple(parts), kind, cases, joint, seed)
    return DecompositionReport(total, tuple(parts), count, worst)


@dataclass(frozen=True)
class _Example:
    """One network with its prompts, and one intervention."""

    kind: str
    name: str
    scm: "Scm"
    s: tuple[Assignment, ...]


def _examples(kind: str, joint: bool) -> "st.SearchStrategy[_Example]":
    from hypothesis import strategies as st

    from causalnet.testing.lab import lab_of
    from causalnet.testing.laws.law import units
    from causalnet.testing.laws.numbers import steady
    from causalnet.testing.strategies import assignments, field_networks, linear_networks, tiny_models

    model: st.SearchStrategy[Any] = {
        "field": field_networks(), "linear": linear_networks(), "transformer": tiny_models("gpt2", "gptj", "llama"),
    }[kind]  # fmt: skip

    @st.composite
    def example(draw: st.DrawFn) -> _Example:
        lab = lab_of(draw(model))
        s = draw(assignments(lab.graph, lab.offer, most=2 if joint else 1))
        unit = steady(lab, s, draw(units(lab, mixed=True)))
        return _Example(kind, _portrait(kind, lab), lab.scm(unit), s)

    return example()


def _portrait(kind: str, lab: Any) -> str:
    """Say what a network is, in a line."""
    blocks = lab.graph.blocks
    layers = f"{len(blocks)} {'parallel' if all(block.parallel for block in blocks) else 'sequential'} layers"
    heads = f", {blocks[0].heads} heads" if lab.graph.granularity == "head" else ""
    if kind == "transformer":
        return f"a tiny {lab.name} of {layers}"
    arithmetic = "whole numbers modulo 2³¹ − 1" if kind == "field" else "real numbers"
    return f"a network over {arithmetic} of {layers}{heads}, {len(lab.network.prompts)} prompts"


def _try(
    estimator: Estimator, total: str, parts: tuple[str, ...], kind: str, cases: int, joint: bool, seed: int
) -> tuple[int, float]:
    """Return the number of cases and the largest residual on one kind of network, or raise."""
    ran, worst = 0, 0.0
    shown: list[str] = []

    def tried(example: _Example) -> None:
        nonlocal ran, worst
        gap, message = _residual(estimator, total, parts, example)
        ran += 1
        if message:
            shown.append(message)
            raise Broken
        worst = max(worst, gap)

    try_cases(_examples(kind, joint), tried, cases, seed=seed)
    if shown:
        raise AssertionError(shown[-1])
    return ran, worst


def _residual(estimator: Estimator, total: str, parts: tuple[str, ...], example: _Example) -> tuple[float, str]:
    """Return the residual of one case, and what to say if it is too large."""
    found = estimator(example.scm, *example.s)
    names = tuple(found)
    for part in parts:
        if part not in found:
            raise InputError(explain(f"the estimator returns no {part!r}", legal=names, got=part))
    whole = np.asarray(found[total] if total in found else _exact(total, example, names))
    pieces = [np.asarray(found[part]) for part in parts]
    shape = np.broadcast_shapes(whole.shape, *(piece.shape for piece in pieces))
    gap = np.broadcast_to(whole - sum(pieces), shape)
    if isinstance(example.scm, Network) and example.scm.modulus is not None:
        off = gap % example.scm.modulus != 0
        residual = float(off.any())
        wrong = bool(off.any())
    else:
        off = ~(np.abs(gap) <= _BOUND[example.kind] * max(1.0, float(np.nanmax(np.abs(whole)))))
        residual = float(np.nanmax(np.abs(gap))) / max(1.0, float(np.nanmax(np.abs(whole))))
        wrong = bool(off.any())
    if not wrong:
        return residual, ""
    prompt, draw = (int(index) for index in np.argwhere(off)[0])
    at = [np.broadcast_to(table, shape)[prompt, draw] for table in (whole, *pieces)]
    figures = "\n".join(f"  {name:>12} {value:.9g}" for name, value in zip((total, *parts), at, strict=True))
    left = gap[prompt, draw]
    return residual, (
        f"{total} = {' + '.join(parts)} does not hold\n"
        f"  on {example.name},\n"
        f"  for do({', '.join(map(str, example.s))}), prompt {prompt}, draw {draw}:\n"
        f"{figures}\n  {'left over':>12} {left:.9g}"
    )


def _exact(total: str, example: _Example, names: tuple[str, ...]) -> np.ndarray:
    from causalnet.effects.asking import unit_effects
    from causalnet.effects.estimands import natural_effects
    from causalnet.expr import CE, NORM

    known = natural_effects(*example.s)
    known |= {"PDE": known["NDE"], "DE": known["NDE"], "PIE": known["NIE"], "IE": known["NIE"]}
    known |= {"CE": CE(*example.s), "NORM": NORM(*example.s)}
    if total not in known:
        what = f"the estimator returns no {total!r}, and no estimand has that name"
        raise InputError(explain(what, legal=(*names, *known), got=total))
    return unit_effects(example.scm, {total: known[total]})[total]
