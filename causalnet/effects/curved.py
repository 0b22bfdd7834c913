"""The split of outcomes that are not linear in the contributions, by worlds: what the design's definitions read.

For a node X set to s, with everything downstream of X held natural in the second world and the norm alone in the
third:

``DE = E[Y | do(s, desc(X) = natural)] − E[Y]``,
``CE = E[Y | do(s, norm = natural)] − E[Y | do(s, desc(X) = natural)]``,
``NORM = E[Y | do(s)] − E[Y | do(s, norm = natural)]``; they add up to ``TE = E[Y | do(s)] − E[Y]`` for every Y.

CE is then no sum over responders.  What a node gives by itself, nothing set, is what the outcome loses when its
output at the last token is taken away and nothing else responds, −DE(X@last = zero): for a linear outcome that is
the node's contribution, read off directly.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from causalnet.engine.inputs import Inputs
from causalnet.engine.plan import Plan, Reading, plan
from causalnet.engine.run import run
from causalnet.expr.outcomes import Outcome
from causalnet.expr.world import NATURAL_WORLD
from causalnet.model.mechanism import Mechanisms

if TYPE_CHECKING:
    from causalnet.effects.sweep import Cell

__all__ = ["measure_worlds", "plan_worlds"]


def plan_worlds(mechanisms: Mechanisms, found: "Sequence[Cell]", inputs: Inputs, outcome: Outcome) -> Plan:
    """Plan the worlds of cells: each set, set with the norm held, set with all that is downstream held, and removed."""
    worlds = [world for cell in found for world in (cell.world, cell.frozen, cell.held, cell.removed)]
    readings = [Reading(world, outcome) for world in dict.fromkeys((NATURAL_WORLD, *worlds))]
    return plan(mechanisms.graph, worlds, readings, inputs.shape, draws=inputs.count)


def measure_worlds(
    mechanisms: Mechanisms,
    inputs: Inputs,
    found: "Sequence[Cell]",
    outcome: Outcome,
    *,
    lookup: Callable[[str], int] | None = None,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Run cells and split their effects on any outcome.

    Parameters
    ----------
    mechanisms, inputs, found, outcome
        The compiled model; prompts, donors, targets; the cells; Y.
    lookup, memory, progress
        As in :func:`causalnet.engine.run.run`.

    Returns
    -------
    dict of numpy.ndarray
        ``te, de, ce, norm`` [prompt, node, donor], NaN where a prompt has fewer donors; ``clean_direct``
        [prompt, node]; ``clean_logit`` [prompt], Y with nothing set.
    numpy.ndarray
        [prompt]: token of each prompt's target.
    """
    planned = plan_worlds(mechanisms, found, inputs, outcome)
    trace = run(mechanisms, planned, inputs, lookup=lookup, memory=memory, progress=progress)
    clean = trace.values[Reading(NATURAL_WORLD, outcome)]
    draws = max(trace.values[Reading(cell.world, outcome)].shape[1] for cell in found)
    parts = {name: np.empty((len(clean), len(found), draws)) for name in ("te", "de", "ce", "norm")}
    direct = np.empty((len(clean), len(found)))
    for place, cell in enumerate(found):
        total, frozen, held = (trace.values[Reading(world, outcome)] for world in (cell.world, cell.frozen, cell.held))
        parts["te"][:, place] = total - clean
        parts["de"][:, place] = held - clean
        parts["ce"][:, place] = frozen - held
        parts["norm"][:, place] = total - frozen
        direct[:, place] = (clean - trace.values[Reading(cell.removed, outcome)])[:, 0]
    return {**parts, "clean_direct": direct, "clean_logit": clean[:, 0]}, trace.targets
