"""Ablating nodes together: what single ablations hide where one node stands in for another."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from causalnet.effects.asking import Scm, answer
from causalnet.effects.causality import Causes
from causalnet.effects.estimands import LOGIT, natural_effects
from causalnet.effects.statistics import mean_interval
from causalnet.effects.statistics.donors import donor_mean
from causalnet.effects.statistics.resampling import quiet
from causalnet.errors import InputError
from causalnet.expr import LAST, Assignment, Outcome, Position
from causalnet.expr.refs import Component
from causalnet.expr.values import SiteValue
from causalnet.graph import Node

__all__ = ["assignments", "cause_rows", "joint_ablation", "responsibility_rows"]


def assignments(nodes: Sequence[Node], value: SiteValue, position: Position = LAST) -> list[Assignment]:
    """Return ``node@position = value`` for every node."""
    return [(Component.of(node) @ position) << value for node in nodes]


def joint_ablation(
    scm: Scm,
    candidates: Sequence[Node],
    value: SiteValue,
    *,
    steps: int,
    outcome: Outcome = LOGIT,
    level: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Grow a set of ablated nodes greedily: each step adds the node that lowers the outcome most.

    Parameters
    ----------
    scm
        The model on its prompts.
    candidates
        The nodes to choose from.
    value
        What they are set to, at the last position.
    steps
        Largest size of the set.
    outcome
        Y.
    level, bootstrap, seed
        Of the intervals over prompts.

    Returns
    -------
    list of dict
        One row per step: ``added``, ``te`` of the set with limits (everything else responds), ``direct``, its effect
        with every responder held natural, with limits, ``returned`` = te − direct (what the responders give back or
        take), ``alone``, the total effect of the added node by itself, and ``single_sum``, that of all members.

    Raises
    ------
    InputError
        If there are fewer candidates than steps.

    Notes
    -----
    The choice is made on the same prompts as the estimates, so the intervals say nothing about the choice.

    Examples
    --------
    >>> from causalnet.expr import zero
    >>> from causalnet.testing.motifs import motif
    >>> found = joint_ablation(motif("overdetermined"), [Node("attn", 0), Node("attn", 1)], zero, steps=2)
    >>> [(row["added"], round(row["te"], 6), row["single_sum"]) for row in found]
    [('attn[0]', 0.0, 0.0), ('attn[1]', -2.0, 0.0)]
    """
    if not 0 < steps <= len(candidates):
        raise InputError(f"{steps} steps, but {len(candidates)} nodes to choose from")
    chosen: list[Node] = []
    alone: dict[Node, float] = {}
    rows = []
    for step in range(1, steps + 1):
        rest = [node for node in candidates if node not in chosen]
        asked = [natural_effects(*assignments([*chosen, node], value), outcome=outcome) for node in rest]
        totals = [donor_mean(table) for table in answer(scm, [one["TE"] for one in asked])]
        means = [float(table.mean()) for table in totals]
        best = int(np.argmin(means))
        alone |= dict(zip(rest, means, strict=True)) if not chosen else {}
        chosen.append(rest[best])
        direct = donor_mean(answer(scm, [asked[best]["NDE"]])[0])
        row: dict[str, Any] = {"step": step, "added": str(rest[best])}
        with quiet():
            for name, values in (("te", totals[best]), ("direct", direct), ("returned", totals[best] - direct)):
                found = mean_interval(values[:, None], level=level, draws=bootstrap, seed=seed)
                row[name] = float(found.estimate[0])
                row |= {f"{name}_low": float(found.low[0]), f"{name}_high": float(found.high[0])}
        row |= {"alone": alone[rest[best]], "single_sum": sum(alone[node] for node in chosen), "n": len(direct)}
        rows.append(row)
    return rows


def responsibility_rows(found: Causes) -> list[dict[str, Any]]:
    """Return by node its mean responsibility for the event, and in which share of units it is a cause.

    Units (prompt and donor) in which the event was false to begin with are left out.
    """
    rows = []
    for place, name in enumerate(found.variables):
        values = found.responsibility[..., place]
        values = values[~np.isnan(values)]
        if len(values) == 0:
            continue
        row = {"node": name, "responsibility": float(values.mean()), "cause_in": float((values > 0).mean())}
        rows.append({**row, "alone_in": float((values == 1).mean()), "units": len(values), "exact": found.exact})
    return rows


def cause_rows(found: Causes) -> list[dict[str, Any]]:
    """Return every cause that was found with its witness, unit by unit."""
    return [
        {
            "prompt": prompt,
            "draw": draw,
            "cause": " ".join(one.nodes),
            "witness": " ".join(one.witness),
            "responsibility": one.responsibility,
            "certain": one.certain,
        }
        for (prompt, draw), several in found.causes.items()
        for one in several
    ]
