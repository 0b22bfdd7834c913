"""What every interval here shares: its form, its random numbers, its warning."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from causalnet.errors import InputError, explain

__all__ = ["FEW", "FewPromptsWarning", "Interval", "counts", "finite", "quiet", "signs", "warn_few"]

FEW = 30
_BLOCK = 2**22


class FewPromptsWarning(UserWarning):
    """Too few prompts for the coverage of an interval to be relied on."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Estimates with standard errors and confidence limits, one per trailing axis of the data.

    Parameters
    ----------
    estimate, se, low, high
        Arrays of one shape, in the units of the data (slopes and fractions have none).

    Examples
    --------
    >>> Interval(np.float64(1.0), np.float64(0.5), np.float64(0.0), np.float64(2.0)).excludes(0.0)
    array(False)
    """

    estimate: np.ndarray
    se: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def excludes(self, value: float) -> np.ndarray:
        """Return where ``value`` lies outside the interval."""
        return np.asarray((value < self.low) | (value > self.high))


def warn_few(prompts: int) -> None:
    """Warn (:class:`FewPromptsWarning`) if there are fewer than 30 prompts."""
    if prompts < FEW:
        warnings.warn(
            f"{prompts} prompt{'' if prompts == 1 else 's'}: with fewer than {FEW} the intervals may not cover",
            FewPromptsWarning,
            stacklevel=3,
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep :func:`warn_few` silent: for callers that make many intervals and warn once themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewPromptsWarning)
        yield


def finite(values: np.ndarray, name: str, axes: int = 1) -> np.ndarray:
    """Return float64 values with at least ``axes`` axes and one prompt; refuse NaN and infinities."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < axes or array.shape[0] == 0:
        raise InputError(f"{name} has shape {array.shape}; it needs at least {axes} axes and one prompt")
    if not np.isfinite(array).all():
        place = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise InputError(explain(f"{name}{list(place)} is {array[place]}; statistics need finite numbers"))
    return array


def counts(rng: np.random.Generator, draws: int, size: int) -> Iterator[np.ndarray]:
    """Yield blocks [world, prompt] of how often each prompt is drawn when ``size`` are drawn with replacement.

    The blocks depend on the seed alone, and no block holds more than a few million numbers.
    """
    for rows in _blocks(draws, size):
        index = rng.integers(size, size=(rows, size)) + np.arange(rows)[:, None] * size
        yield np.bincount(index.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def signs(rng: np.random.Generator, draws: int, size: int) -> Iterator[np.ndarray]:
    """Yield blocks [world, prompt] of random signs (Rademacher weights)."""
    for rows in _blocks(draws, size):
        yield rng.integers(2, size=(rows, size)).astype(np.float64) * 2 - 1


def _blocks(draws: int, size: int) -> Iterator[int]:
    step = max(1, _BLOCK // size)
    for start in range(0, draws, step):
        yield min(step, draws - start)
