"""Compensation against what was removed, node by node: the fits of the paper's figures 7 and 8."""

from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects.parts import by_kind, prompt_means
from causalnet.effects.statistics import permutation_p, r2_interval, regression, slope_interval
from causalnet.effects.statistics.resampling import quiet

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FITTED", "REGRESSORS", "fits"]

FITTED = ("ce", "ce_attn", "ce_mlp", "self_repair")
"""What is regressed: the whole compensatory effect, its parts from attention and from MLPs, and CE + NORM."""

REGRESSORS = ("clean", "lost")
"""On what: the node's clean direct effect (as the paper has it), and what the ablation removed, −DE."""


def fits(
    ds: "xr.Dataset", *, level: float = 0.95, bootstrap: int = 2000, permutations: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """Fit each part of the compensation on each regressor, over prompts.

    Parameters
    ----------
    ds
        A sweep's result; every value is the mean over a prompt's donors.
    level
        Confidence level.
    bootstrap, permutations, seed
        Resamples for intervals, permutations for the null, and their seed.

    Returns
    -------
    list of dict
        One row per (node, part, regressor): ``slope`` with limits (wild bootstrap, HC3), ``intercept``, ``r2``
        with limits, ``n`` prompts and ``p_null`` (permutation).  The slope is 0 where nothing responds.  Without
        responders (a curved outcome) ``ce_attn`` and ``ce_mlp`` are left out.

    References
    ----------
    McGrath et al. (2023), figures 7 and 8.

    Examples
    --------
    >>> from causalnet.effects.fields import UNITS
    >>> import xarray as xr
    >>> x = np.arange(40.0)[:, None] - 10
    >>> cells = lambda values: (("prompt", "node", "donor"), values[..., None])
    >>> ds = xr.Dataset(
    ...     {"te": cells(-0.3 * x), "de": cells(-x), "ce": cells(0.7 * x), "norm": cells(0 * x),
    ...      "delta_de": (("prompt", "node", "donor", "responder"), 0.7 * x[..., None, None]),
    ...      "clean_direct": (("prompt", "node"), x)}, coords={"node": ["attn[0]"], "responder": ["mlp[0]"]})
    >>> found = fits(ds, bootstrap=99, permutations=99)
    >>> [(row["part"], round(row["slope"], 6)) for row in found if row["regressor"] == "clean"]
    [('ce', 0.7), ('ce_attn', 0.0), ('ce_mlp', 0.7), ('self_repair', 0.7)]
    """
    means = prompt_means(ds)
    x = {"clean": means["clean"], "lost": -means["de"]}
    names = ds["node"].values.tolist()
    rows = []
    options = {"level": level, "draws": bootstrap, "seed": seed}
    with quiet():
        for part in by_kind(FITTED, ds):
            for regressor in REGRESSORS:
                given = x[regressor], means[part]
                line = regression(*given)
                slope, share = slope_interval(*given, **options), r2_interval(*given, **options)
                p = permutation_p(*given, draws=permutations, seed=seed)
                for place, name in enumerate(names):
                    row = {"node": name, "part": part, "regressor": regressor}
                    row |= _limits("slope", slope.estimate, slope.low, slope.high, place)
                    row["intercept"] = float(line.intercept[place])
                    row |= _limits("r2", share.estimate, share.low, share.high, place)
                    rows.append({**row, "n": len(means["clean"]), "p_null": float(p[place])})
    order = {name: place for place, name in enumerate(names)}
    return sorted(rows, key=lambda row: order[row["node"]])


def _limits(name: str, value: np.ndarray, low: np.ndarray, high: np.ndarray, place: int) -> dict[str, float]:
    found = {name: value, f"{name}_low": low, f"{name}_high": high}
    return {key: float(one[place]) for key, one in found.items()}
