"""Corrections for testing many nodes at once."""

import numpy as np

from causalnet.errors import InputError

__all__ = ["benjamini_hochberg", "holm"]


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust p-values so that the chance of any false rejection is controlled.

    Parameters
    ----------
    p
        [node], in 0 to 1.

    Returns
    -------
    numpy.ndarray
        Adjusted p-values, in the order given.

    References
    ----------
    Holm (1979), Scandinavian Journal of Statistics 6, 65-70.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    p, order = _sorted(p)
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    return _restore(steps, order)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjust p-values so that the expected share of false rejections is controlled.

    Parameters
    ----------
    p
        [node], in 0 to 1.

    Returns
    -------
    numpy.ndarray
        Adjusted p-values, in the order given.

    References
    ----------
    Benjamini and Hochberg (1995), Journal of the Royal Statistical Society B 57, 289-300.

    Examples
    --------
    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.04, 0.04]
    """
    p, order = _sorted(p)
    steps = p[order] * len(p) / (1 + np.arange(len(p)))
    return _restore(np.minimum.accumulate(steps[::-1])[::-1], order)


def _sorted(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InputError("p-values are one axis of numbers from 0 to 1")
    return p, np.argsort(p, kind="stable")


def _restore(steps: np.ndarray, order: np.ndarray) -> np.ndarray:
    adjusted = np.empty_like(steps)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
