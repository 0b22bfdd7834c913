"""Who answers whom: the map from ablated nodes to responders, and what kind of answer it is."""

from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects.decompose import response_kinds
from causalnet.effects.parts import response_means
from causalnet.effects.statistics import mean_interval, participation_ratio
from causalnet.effects.statistics.resampling import quiet

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["coupling", "participation"]


def coupling(ds: "xr.Dataset", *, level: float = 0.95, bootstrap: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """Return the mean change of each responder's direct effect, and how it comes about.

    Parameters
    ----------
    ds
        A sweep's result.
    level, bootstrap, seed
        Of the intervals over prompts.

    Returns
    -------
    list of dict
        One row per (node, responder) that responds anywhere: ``delta_de`` with limits (in the outcome's units), the
        responder's mean ``clean`` direct effect, the ``kind`` of the mean response and the shares of prompts that
        are ``repairing``, ``erasing_less``, ``breaking`` and ``silent``
        (:func:`causalnet.effects.decompose.response_kinds`).
    """
    means = response_means(ds)
    clean = ds["clean_responder"].values.astype(np.float64)
    nodes, responders = ds["node"].values.tolist(), ds["responder"].values.tolist()
    rows = []
    with quiet():
        for i, node in enumerate(nodes):
            some = [j for j in range(len(responders)) if np.any(means[:, i, j])]
            if not some:
                continue
            change = means[:, i, some].astype(np.float64)
            found = mean_interval(change, level=level, draws=bootstrap, seed=seed)
            kinds = response_kinds(clean[:, some], change)
            whole = response_kinds(clean[:, some].mean(0), change.mean(0))
            for place, j in enumerate(some):
                row = {"node": node, "responder": responders[j], "delta_de": float(found.estimate[place])}
                row |= {"delta_de_low": float(found.low[place]), "delta_de_high": float(found.high[place])}
                row |= {"clean": float(clean[:, j].mean()), "kind": str(whole[place])}
                for kind in ("repairing", "erasing less", "breaking", "silent"):
                    row[kind.replace(" ", "_")] = float((kinds[:, place] == kind).mean())
                rows.append(row)
    return rows


def participation(
    ds: "xr.Dataset", *, level: float = 0.95, bootstrap: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """Return by node how many responders carry its response.

    Returns
    -------
    list of dict
        One row per node: ``responders`` that respond anywhere, ``of_mean`` the participation ratio of the mean
        response, ``per_prompt`` the mean over prompts of each prompt's own, with limits.  None where the sweep has no
        responders: there CE is known as a whole alone.
    """
    if not ds.sizes["responder"]:
        return []
    means = response_means(ds).astype(np.float64)
    single = participation_ratio(means)
    with quiet():
        found = mean_interval(single, level=level, draws=bootstrap, seed=seed)
    whole = participation_ratio(means.mean(0))
    active = means.any(0).sum(-1)
    return [
        {
            "node": name,
            "responders": int(active[i]),
            "of_mean": float(whole[i]),
            "per_prompt": float(found.estimate[i]),
            "per_prompt_low": float(found.low[i]),
            "per_prompt_high": float(found.high[i]),
        }
        for i, name in enumerate(ds["node"].values.tolist())
    ]
