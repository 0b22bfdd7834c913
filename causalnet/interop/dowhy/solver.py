"""DoWhy's Shapley solver as the callable that the compensation attribution takes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from causalnet.errors import InputError, explain
from causalnet.interop.dowhy.load import load, settled

__all__ = ["shapley"]

_REFUSED = {
    "EXACT_FAST": "its weighted regression returns wrong values with scikit-learn 1.9 and later",
    "SUBSET_SAMPLING": "its weighted regression returns wrong values with scikit-learn 1.9 and later",
    "EARLY_STOPPING": "it stops at a change that is set in per cent, which means nothing where shares are near 0",
    "AUTO": "what it runs depends on the number of players",
}


def shapley(
    method: str = "EXACT", *, permutations: int = 25, seed: int = 0
) -> Callable[[Callable[[np.ndarray], Any], int], np.ndarray]:
    """Return DoWhy's solver for ``compensation_shapley(..., solver=...)``.

    Parameters
    ----------
    method
        ``EXACT``: every coalition, 2ⁿ of them.  ``PERMUTATION``: orders of the players along a Halton sequence.
    permutations
        How many orders, for ``PERMUTATION``.
    seed
        Of the orders.

    Returns
    -------
    callable
        From the value of a coalition and the number of players to shares [unit, player].

    Raises
    ------
    InputError
        For DoWhy's other methods, with the reason; for fewer than one order; where DoWhy is missing.

    References
    ----------
    Štrumbelj and Kononenko, Explaining prediction models and individual predictions (2014).

    Examples
    --------
    >>> from causalnet.effects.shapley import compensation_shapley
    >>> from causalnet.expr import attn, zero
    >>> from causalnet.testing.motifs import motif
    >>> found = compensation_shapley(motif("self_repair"), attn[0] << zero, solver=shapley())
    >>> {name: round(share, 9) + 0.0 for name, share in found.mean().items()}
    {'mlp[0]': 2.0, 'norm': 0.0}
    """
    name = str(method).upper()
    if name in _REFUSED:
        raise InputError(explain(f"DoWhy's {name} is not offered: {_REFUSED[name]}", legal=["EXACT", "PERMUTATION"]))
    if name not in ("EXACT", "PERMUTATION"):
        raise InputError(explain(f"unknown method {method!r}", legal=["EXACT", "PERMUTATION"], got=name))
    if permutations < 1:
        raise InputError(f"permutations must be at least 1, not {permutations}")
    found = load("dowhy.gcm.shapley")

    def solve(value: Callable[[np.ndarray], Any], players: int) -> np.ndarray:
        chosen = found.ShapleyConfig(found.ShapleyApproximationMethods[name], num_permutations=permutations, n_jobs=1)
        with settled(seed):
            return np.asarray(found.estimate_shapley_values(value, players, chosen))

    return solve
