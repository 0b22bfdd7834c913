"""Asking a causal model: worlds and outcomes go in, one number per unit comes out.

Everything that is exact in this room is written against :class:`Scm`, so that the same definition runs on a
compiled transformer and on a network that is small enough to be solved by hand.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from causalnet.effects.options import Options
from causalnet.engine.inputs import Inputs
from causalnet.engine.plan import Reading, plan
from causalnet.engine.run import run
from causalnet.errors import ExpressionError, explain
from causalnet.expr import Assignment, CompiledQuery, Outcome, Query, compile_queries
from causalnet.graph import CausalGraph
from causalnet.model.mechanism import Mechanisms
from causalnet.prompts import Prompts

__all__ = ["PromptedModel", "Scm", "Weighted", "add_up", "answer", "on_prompts", "unit_effects"]


class Scm(Protocol):
    """A structural causal model with its units: it has a graph and reads outcomes in worlds."""

    @property
    def graph(self) -> CausalGraph:
        """The causal graph that queries are compiled on."""
        ...

    def read(self, readings: Sequence[Reading]) -> Mapping[Reading, np.ndarray]:
        """Return each reading's values [prompt, draw]; one column where its world draws nothing."""
        ...


@dataclass(frozen=True, eq=False)
class PromptedModel:
    """A compiled model on given prompts.

    Parameters
    ----------
    mechanisms
        The model.
    inputs
        Prompts, donors, paired prompts, vectors, seed: everything exogenous.
    lookup
        Token id of a string, for outcomes that name tokens.
    memory
        Bytes that the rows of one chunk may take; default: found from the device.
    progress
        Called with (rows done, rows in all).
    """

    mechanisms: Mechanisms
    inputs: Inputs
    lookup: Callable[[str], int] | None = None
    memory: int | None = None
    progress: Callable[[int, int], None] | None = None

    @property
    def graph(self) -> CausalGraph:
        """The model's causal graph."""
        return self.mechanisms.graph

    def read(self, readings: Sequence[Reading]) -> Mapping[Reading, np.ndarray]:
        """Read outcomes in worlds, all in one plan; see :func:`causalnet.engine.run.run` for what it may raise."""
        worlds = list(dict.fromkeys(reading.world for reading in readings))
        planned = plan(self.graph, worlds, list(readings), self.inputs.shape, draws=self.inputs.count)
        trace = run(
            self.mechanisms, planned, self.inputs, lookup=self.lookup, memory=self.memory, progress=self.progress
        )
        return trace.values


def on_prompts(
    mechanisms: Mechanisms,
    tokenizer: Any,
    prompts: Prompts,
    interventions: Iterable[Assignment],
    *,
    outcome: Outcome,
    options: Options | None = None,
) -> PromptedModel:
    """Put a compiled model on prompts: the model alone of :func:`causalnet.effects.units.units_of`.

    Parameters
    ----------
    mechanisms, tokenizer, prompts
        The model and the prompts.
    interventions
        Every assignment that will be asked about, each by itself.
    outcome
        The outcome that will be read; its tokens are looked up.
    options
        Donors, pool, seed, target, vectors; the same as in :meth:`causalnet.CausalModel.evaluate`, so that the same
        donors are drawn.

    Raises
    ------
    InputError, ExpressionError, PromptError, UnknownNameError
        As in :func:`causalnet.effects.units.units_of`.
    """
    from causalnet.effects.units import units_of

    each, chosen = [(one,) for one in interventions], Options() if options is None else options
    return units_of(mechanisms, tokenizer, prompts, each, outcome, chosen).scm


def answer(scm: Scm, queries: Iterable[Query], *, graph: CausalGraph | None = None) -> list[np.ndarray]:
    """Answer queries unit by unit, in one computation.

    Parameters
    ----------
    scm
        The model on its prompts.
    queries
        Linear combinations of expectations; every "expectation" is read per unit and nothing is averaged.
    graph
        The graph to compile them on; default the model's own.

    Returns
    -------
    list of numpy.ndarray
        [prompt, draw] per query, in the outcome's units; one column where nothing was drawn.

    Raises
    ------
    ExpressionError
        If a query asks for a subgroup of the prompts (choose the prompts instead), or cannot be meant.
    """
    return add_up(scm, compile_queries(queries, scm.graph if graph is None else graph))


Weighted = tuple[tuple[float, Reading], ...]
"""A linear combination of readings."""


def add_up(scm: Scm, compiled: Sequence[CompiledQuery], more: Sequence[Weighted] = ()) -> list[np.ndarray]:
    """Answer compiled queries, and further combinations of readings, unit by unit; see :func:`answer`."""
    sums: list[Weighted] = []
    for one in compiled:
        for reading in one.readings:
            if reading.condition is not None:
                what = f"{one.query} asks for a subgroup, and unit effects are of every prompt"
                raise ExpressionError(explain(what, mend="leave the condition out, and choose the prompts"))
        placed = (Reading(one.worlds[r.world], r.outcome, r.nodes) for r in one.readings)
        sums.append(tuple(zip(one.weights, placed, strict=True)))
    sums += more
    values = scm.read(list(dict.fromkeys(reading for parts in sums for _, reading in parts)))
    found = []
    for parts in sums:
        total: Any = 0.0
        for weight, reading in parts:
            total = total + weight * values[reading]
        found.append(np.asarray(total))
    return found


def unit_effects(scm: Scm, queries: Mapping[str, Query]) -> dict[str, np.ndarray]:
    """Answer named queries unit by unit, in one computation.

    Parameters
    ----------
    scm
        The model on its prompts.
    queries
        Queries by name, such as those of :func:`causalnet.effects.estimands.natural_effects`.

    Returns
    -------
    dict
        [prompt, draw] by name, all of one width: what draws nothing is the same in every draw.
    """
    found = answer(scm, queries.values())
    widest = max((table.shape[1] for table in found), default=1)
    return {name: np.broadcast_to(table, (len(table), widest)) for name, table in zip(queries, found, strict=True)}
