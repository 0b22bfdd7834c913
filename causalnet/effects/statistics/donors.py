"""Averages over donors, and how they settle as donors are added."""

from dataclasses import dataclass

import numpy as np

from causalnet.errors import InputError

__all__ = ["Convergence", "donor_convergence", "donor_mean"]


@dataclass(frozen=True, slots=True)
class Convergence:
    """Estimates from the first k donors.

    Parameters
    ----------
    donors
        [donor]: k, from 1.
    estimate
        [donor, ...]: mean over prompts of the mean over each prompt's first k donors.
    se
        [donor, ...]: its standard error over prompts.
    se_draws
        [donor, ...]: the part of it that more donors would remove (0 at k = 1, where it cannot be seen).
    """

    donors: np.ndarray
    estimate: np.ndarray
    se: np.ndarray
    se_draws: np.ndarray


def donor_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over the donors that a prompt has, in float64; NaN marks those it lacks.

    Parameters
    ----------
    values
        [prompt, ..., donor] or with the donor axis at ``axis``.
    axis
        Of the donors.

    Raises
    ------
    InputError
        If a prompt has no donor at all.

    Examples
    --------
    >>> donor_mean(np.array([[1.0, 3.0], [5.0, np.nan]])).tolist()
    [2.0, 5.0]
    """
    values = np.asarray(values)
    missing = np.isnan(values)
    number = values.shape[axis] - missing.sum(axis)
    if (number == 0).any():
        place = tuple(np.argwhere(number == 0)[0].tolist())
        raise InputError(f"no donor at {list(place)}: every value is NaN")
    return np.where(missing, 0, values).sum(axis, dtype=np.float64) / number


def donor_convergence(values: np.ndarray) -> Convergence:
    """Estimate and standard errors from the first 1, 2, … donors.

    Parameters
    ----------
    values
        [prompt, donor, ...]; NaN where a prompt has fewer donors (it then keeps what it has).

    Returns
    -------
    Convergence

    Examples
    --------
    >>> found = donor_convergence(np.array([[1.0, 3.0], [3.0, 5.0]]))
    >>> found.estimate.tolist(), found.se.tolist()
    ([2.0, 3.0], [1.0, 1.0])
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim < 2 or 0 in values.shape[:2] or np.isnan(values[:, 0]).any():
        raise InputError(f"values of shape {values.shape}: needs [prompt, donor, ...] and one donor for each prompt")
    present = ~np.isnan(values)
    number = np.cumsum(present, axis=1)
    filled = np.where(present, values, 0.0)
    means = np.cumsum(filled, axis=1) / number
    # Deviations from the last mean keep the digits that a difference of raw squares would lose.
    deviation = np.where(present, values - means[:, -1:], 0.0)
    shift = np.cumsum(deviation, axis=1) / number
    spread = np.cumsum(deviation**2, axis=1) - number * shift**2
    within = np.where(number > 1, np.maximum(spread, 0.0) / np.maximum(number - 1, 1) / number, 0.0)
    n = values.shape[0]
    se = means.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(means.shape[1:])
    return Convergence(np.arange(1, values.shape[1] + 1), means.mean(0), se, np.sqrt(within.sum(0)) / n)
