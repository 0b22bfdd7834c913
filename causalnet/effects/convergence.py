"""How estimates settle as donors are added: from the first one to all that were drawn."""

from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects.statistics import donor_convergence

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CONVERGING", "convergence"]

CONVERGING = ("te", "de", "ce", "norm")


def convergence(ds: "xr.Dataset") -> list[dict[str, Any]]:
    """Estimate every part from the first 1, 2, … donors of each prompt.

    The draw of donors makes the first k the same however many are asked for, so one run shows them all.

    Parameters
    ----------
    ds
        A sweep's result.

    Returns
    -------
    list of dict
        One row per (node, part, donors): ``estimate`` (in the outcome's units), ``se`` over prompts, and
        ``se_draws``, the part of it that more donors would remove (0 for one donor, where it cannot be seen).
    """
    rows = []
    for part in CONVERGING:
        found = donor_convergence(ds[part].values.astype(np.float64).swapaxes(1, 2))
        for i, node in enumerate(ds["node"].values.tolist()):
            for k in range(len(found.donors)):
                row = {"node": node, "part": part, "donors": int(found.donors[k])}
                for name in ("estimate", "se", "se_draws"):
                    row[name] = float(getattr(found, name)[k, i])
                rows.append(row)
    return rows
