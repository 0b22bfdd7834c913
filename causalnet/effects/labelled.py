"""From arrays over units to results by name: what each estimator of :class:`~causalnet.effects.Prompted` returns."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects.table import Effects
from causalnet.errors import InputError
from causalnet.expr import Outcome

if TYPE_CHECKING:
    from causalnet.effects.causality import Causes, Event
    from causalnet.effects.decompose import Split
    from causalnet.effects.shapley import Shares
    from causalnet.effects.units import Units

__all__ = ["causes_named", "self_repair_named", "shares_named", "split_named"]


def split_named(units: "Units", found: "Split", text: str) -> Effects:
    """Name the parts of a split of TE(``text``), and each responder's part of CE."""
    outcome = found.outcome
    tables = {"TE": found.te, "DE": found.de, "CE": found.ce, "NORM": found.norm, "self-repair": found.self_repair}
    words = {name: f"{name}({text})" for name in ("TE", "DE", "CE", "NORM")} | {"self-repair": f"(TE - DE)({text})"}
    for place, node in enumerate(found.responders):
        tables[str(node)] = found.delta_de[..., place]
        words[str(node)] = f"change of direct({node}) beyond DE, in do({text})"
    results = {name: units.mean(t, expression=words[name], units=outcome.units) for name, t in tables.items()}
    units.warn()
    notes = ("the split is by worlds alone: contributions do not add up to this outcome",)
    if found.by_parts:
        notes = (f"closure by two routes: {np.nanmax(np.abs(found.residual)):.1e} {outcome.units} at most",)
    return Effects(f"split of TE({text})", results, found, notes)


def self_repair_named(units: "Units", found: "Split", text: str) -> Effects:
    """Name what of a split comes back, what is lost, and the share by two kinds of mean."""
    back, lost = found.self_repair, -found.de
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(lost != 0, back / lost, np.nan)
    results = {
        "self-repair": units.mean(back, expression=f"(TE - DE)({text})", units=found.outcome.units),
        "lost": units.mean(lost, expression=f"-DE({text})", units=found.outcome.units),
        "pooled": units.share(back, lost, expression=f"sum of (TE - DE)({text}) / sum of -DE"),
        "mean of ratios": units.mean(ratios, expression=f"(TE - DE)({text}) / -DE", units="share"),
    }
    units.warn()
    return Effects(f"self-repair of {text}", results, found)


def shares_named(units: "Units", found: "Shares", text: str, outcome: Outcome) -> Effects:
    """Name each player's share."""
    results = {
        name: units.mean(found.values[..., place], expression=f"Shapley value of {name} in {text}", units=outcome.units)
        for place, name in enumerate(found.players)
    }
    units.warn()
    how = f"{found.method}, {found.coalitions} coalitions"
    if found.method == "permutations":
        how += f"; standard error of a unit's share over orders: {np.nanmax(found.standard_error):.1e} at most"
    return Effects(f"who compensates {text}: Shapley values", results, found, (how,))


def causes_named(units: "Units", found: "Causes", event: "Event") -> Effects:
    """Name each candidate's responsibility.

    Raises
    ------
    InputError
        If the event is true in no unit.
    """
    if np.isnan(found.responsibility).all():
        raise InputError("the event is true in no unit, so it has no causes")
    results = {
        name: units.mean(
            found.responsibility[..., place], expression=f"responsibility of {name}", units="responsibility"
        )
        for place, name in enumerate(found.variables)
    }
    units.warn()
    how = "every witness was tried" if found.exact else "greedy search: lower bounds"
    return Effects(f"responsibility for {event.outcome}", results, found, (how, *_usual(found.causes)))


def _usual(causes: Mapping[tuple[int, int], Any]) -> list[str]:
    """Say which causes are found in most units."""
    from collections import Counter

    counted = Counter(str(cause) for some in causes.values() for cause in some if cause.certain)
    return [f"cause {text} in {count} of {len(causes)} units" for text, count in counted.most_common(5)]
