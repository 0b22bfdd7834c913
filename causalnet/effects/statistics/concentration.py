"""How concentrated a response is."""

import numpy as np

__all__ = ["participation_ratio"]


def participation_ratio(change: np.ndarray) -> np.ndarray:
    """Return how many responders carry a response: (Σ |x|)² / Σ x², between 1 and their number; 0 where none does.

    Parameters
    ----------
    change
        [..., responder].

    Examples
    --------
    >>> participation_ratio(np.array([[1.0, -1.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
    [2.0, 1.0, 0.0]
    """
    size = np.abs(change)
    square = (size**2).sum(-1)
    return np.divide(size.sum(-1) ** 2, square, out=np.zeros_like(square), where=square > 0)
