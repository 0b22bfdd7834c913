"""Do the same nodes respond each time: across prompts, groups of prompts, and donors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects.parts import blocks, response_means
from causalnet.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["TOP", "Agreement", "agreement", "chance_jaccard", "consistency"]

TOP = 3
"""How many responders count as a unit's top ones."""

_MOST = 1000
"""Units of which every pair is compared; of more, the first so many."""


@dataclass(frozen=True)
class Agreement:
    """How alike the responses of some units are, over all pairs of units.

    Parameters
    ----------
    jaccard
        Mean overlap of the units' top responders, |A ∩ B| / |A ∪ B|.
    jaccard_se
        Its standard error over units.
    rank
        Mean Spearman correlation of the responses.
    rank_se
        Its standard error over units.
    units
        How many were compared.
    """

    jaccard: float
    jaccard_se: float
    rank: float
    rank_se: float
    units: int


def agreement(table: np.ndarray, *, top: int = TOP) -> Agreement:
    """Compare every pair of units.

    Parameters
    ----------
    table
        Changes of direct effects [unit, responder].
    top
        How many responders count, by the size of their change.

    Returns
    -------
    Agreement
        Standard errors are those of a U-statistic of pairs.

    Raises
    ------
    InputError
        If there are fewer than 2 units or no responder.

    Examples
    --------
    >>> same = agreement(np.array([[3.0, 2.0, 1.0, 0.0], [6.0, 5.0, 2.0, 0.5]]), top=2)
    >>> same.jaccard, same.rank
    (1.0, 1.0)
    """
    table = np.asarray(table, dtype=np.float64)[:_MOST]
    units, responders = table.shape
    if units < 2 or responders < 1:
        raise InputError(f"{units} units with {responders} responders: nothing can be compared")
    overlap, alike = (_of_units(one[0]) for one in _similar(table[None], top))
    # A U-statistic of pairs errs by twice what the units' own means do.
    errors = [float(2 * one.std(ddof=1) / np.sqrt(units)) for one in (overlap, alike)]
    return Agreement(float(overlap.mean()), errors[0], float(alike.mean()), errors[1], units)


def _similar(tables: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return overlap and rank correlation [set, unit, unit] of every pair of units of each set."""
    from scipy.stats import rankdata

    top = min(top, tables.shape[-1])
    members = np.zeros(tables.shape)
    chosen = np.argsort(-np.abs(tables), axis=-1, kind="stable")[..., :top]
    np.put_along_axis(members, chosen, 1.0, axis=-1)
    shared = members @ members.swapaxes(-1, -2)
    ranks = np.asarray(rankdata(tables, axis=-1))
    ranks = ranks - ranks.mean(-1, keepdims=True)
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    unit = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    return shared / (2 * top - shared), unit @ unit.swapaxes(-1, -2)


def _of_units(similar: np.ndarray) -> np.ndarray:
    """Return each unit's mean similarity [..., unit] to the others."""
    own = np.diagonal(similar, axis1=-2, axis2=-1)
    return (similar.sum(-1) - own) / (similar.shape[-1] - 1)


def chance_jaccard(responders: int, top: int = TOP) -> float:
    """Return the mean overlap of two random sets of ``top`` of the responders.

    Examples
    --------
    >>> chance_jaccard(2, top=1), chance_jaccard(3, top=3)
    (0.5, 1.0)
    """
    from scipy.stats import hypergeom

    top = min(top, responders)
    shared = np.arange(top + 1)
    return float((hypergeom.pmf(shared, responders, top, top) * shared / (2 * top - shared)).sum())


def consistency(
    ds: "xr.Dataset", groups: Mapping[str, Sequence[Any]] | None = None, *, top: int = TOP
) -> list[dict[str, Any]]:
    """Say for each node how alike its responses are across prompts, groups of prompts, and donors.

    Parameters
    ----------
    ds
        A sweep's result.
    groups
        By name (``relation``) the group of each prompt, None for none: then the groups' mean responses are units.
    top
        How many responders count as a unit's top ones.

    Returns
    -------
    list of dict
        One row per node with at least two responders and what varies (``across``): ``jaccard`` and ``rank`` with
        their standard errors (``_se``), ``units``, and ``jaccard_chance``, what random sets of responders would
        overlap.  Across donors the units are one prompt's donors, averaged over prompts.
    """
    means = response_means(ds)
    names = ds["node"].values.tolist()
    active = [np.flatnonzero(means[:, i].any(0)) for i in range(len(names))]
    places = [i for i in range(len(names)) if len(active[i]) > 1]
    rows = []
    if len(means) > 1:
        rows += [_row(names[i], "prompts", agreement(means[:, i, active[i]], top=top), active[i], top) for i in places]
    for name, values in (groups or {}).items():
        labels = [value for value in dict.fromkeys(values) if value is not None]
        if len(labels) < 2:
            continue
        members = [[row for row, one in enumerate(values) if one == label] for label in labels]
        for i in places:
            table = np.stack([means[some, i][:, active[i]].mean(0) for some in members])
            rows.append(_row(names[i], name, agreement(table, top=top), active[i], top))
    rows += _across_donors(ds, names, places, active, top)
    order = {name: place for place, name in enumerate(names)}
    return sorted(rows, key=lambda row: order[row["node"]])


def _across_donors(
    ds: "xr.Dataset", names: list[str], places: list[int], active: list[np.ndarray], top: int
) -> list[dict[str, Any]]:
    found: dict[int, list[np.ndarray]] = {i: [] for i in places}
    for block in blocks(ds):
        delta = ds["delta_de"][block].values
        present = (~np.isnan(ds["te"][block].values[:, 0])).sum(-1)
        for count in np.unique(present[present > 1]):
            some = delta[present == count][:, :, :count]
            for i in places:
                similar = _similar(some[:, i][..., active[i]], top)
                found[i].append(np.stack([_of_units(one).mean(-1) for one in similar], axis=1))
    rows = []
    for i, several in found.items():
        if not several:
            continue
        table = np.concatenate(several)
        error = table.std(0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.zeros(2)
        mean = table.mean(0)
        one = Agreement(float(mean[0]), float(error[0]), float(mean[1]), float(error[1]), len(table))
        rows.append(_row(names[i], "donors", one, active[i], top))
    return rows


def _row(node: str, across: str, found: Agreement, active: np.ndarray, top: int) -> dict[str, Any]:
    return {
        "node": node,
        "across": across,
        "jaccard": found.jaccard,
        "jaccard_se": found.jaccard_se,
        "jaccard_chance": chance_jaccard(len(active), top),
        "rank": found.rank,
        "rank_se": found.rank_se,
        "units": found.units,
        "responders": len(active),
    }
