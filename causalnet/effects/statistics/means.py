"""Means, and smooth functions of means, with studentised bootstrap intervals over prompts."""

from collections.abc import Callable

import numpy as np

from causalnet.effects.statistics.resampling import Interval, counts, finite, warn_few

__all__ = ["function_interval", "mean_interval", "ratio_interval"]

# Below this many prompts a resample often repeats one prompt only; Student's t is used instead.
_TOO_FEW_TO_RESAMPLE = 10

Value = Callable[[np.ndarray], np.ndarray]


def mean_interval(values: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean over prompts with a studentised bootstrap interval.

    Parameters
    ----------
    values
        [prompt, ...]: one number per prompt (for a sweep the mean over its donors: the interval is then
        conditional on the donor pool).
    level
        Confidence level.
    draws
        Bootstrap resamples of the prompts.
    seed
        Of the resamples.

    Returns
    -------
    Interval
        Arrays of the trailing shape of ``values``, in its units.

    Raises
    ------
    InputError
        If a value is not finite.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 12.5 (bootstrap-t).

    Examples
    --------
    >>> found = mean_interval(np.random.default_rng(0).normal(1.0, 1.0, size=200))
    >>> bool(found.low < 1.0 < found.high)
    True
    """
    data = finite(values, "values")
    return function_interval(
        data[:, None], lambda m: m[0], lambda m: np.ones_like(m), level=level, draws=draws, seed=seed
    )


def ratio_interval(
    top: np.ndarray, bottom: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Ratio of sums, Σ top / Σ bottom over prompts, with a studentised bootstrap interval.

    It is steadier than a mean of ratios; it still needs a ``bottom`` whose mean is clearly not 0, and is
    reported as 0 with a zero interval where the mean is 0 exactly.

    Parameters
    ----------
    top, bottom
        [prompt, ...], of one shape.
    level, draws, seed
        As for :func:`mean_interval`.

    Examples
    --------
    >>> lost = np.linspace(1.0, 2.0, 50)
    >>> round(float(ratio_interval(0.7 * lost, lost).estimate), 6)
    0.7
    """
    data = np.stack([finite(top, "top"), finite(bottom, "bottom")], axis=1)

    def value(m: np.ndarray) -> np.ndarray:
        return divide(m[0], m[1])

    def gradient(m: np.ndarray) -> np.ndarray:
        return np.stack([divide(np.ones_like(m[1]), m[1]), -divide(m[0], m[1] ** 2)])

    return function_interval(data, value, gradient, level=level, draws=draws, seed=seed)


def function_interval(
    data: np.ndarray, value: Value, gradient: Value, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Interval of a smooth function of means: bootstrap-t with the delta method's standard error.

    Parameters
    ----------
    data
        [prompt, moment, ...]: the quantities whose means enter.
    value
        Maps means [moment, ...] (with a leading axis of resamples after ``moment`` where it likes to
        broadcast) to the estimate [...].
    gradient
        Maps the same means to the derivatives [moment, ...].
    level, draws, seed
        As for :func:`mean_interval`.
    """
    data = finite(data, "data", axes=2)
    n, moments = data.shape[:2]
    warn_few(n)
    shape = data.shape[2:]
    flat = data.reshape(n, moments, -1)
    mean = flat.mean(0)
    centred = flat - mean
    # One scale per moment and column: sums of squares then lose no digits.
    scale = np.abs(centred).max(0)
    unit = centred / np.where(scale > 0, scale, 1.0)
    pairs = [(a, b) for a in range(moments) for b in range(a, moments)]
    products = np.concatenate([unit[:, a] * unit[:, b] for a, b in pairs], axis=1)
    estimate = value(mean)
    se = _delta(gradient(mean) * scale, np.zeros_like(unit[0]), products.mean(0).reshape(len(pairs), -1), pairs, n)
    ratios = []
    if n >= _TOO_FEW_TO_RESAMPLE:
        for weights in counts(np.random.default_rng(seed), draws, n):
            first = (weights @ unit.reshape(n, -1) / n).reshape(-1, moments, unit.shape[2]).swapaxes(0, 1)
            second = (weights @ products / n).reshape(-1, len(pairs), unit.shape[2]).swapaxes(0, 1)
            means = mean[:, None] + scale[:, None] * first
            error = _delta(gradient(means) * scale[:, None], first, second, pairs, n)
            # A resample that repeats one value says nothing about the spread.
            usable = error > 1e-9 * se
            ratios.append(np.where(usable, (value(means) - estimate) / np.where(usable, error, 1.0), np.nan))
    low, high = studentised(estimate, se, np.concatenate(ratios or [np.full((1, estimate.size), np.nan)]), n, level)
    return Interval(*(part.reshape(shape) for part in (estimate, se, low, high)))


def divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Divide, with 0 where the denominator is 0."""
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=np.asarray(bottom) != 0)


def _delta(
    gradient: np.ndarray, first: np.ndarray, second: np.ndarray, pairs: list[tuple[int, int]], n: int
) -> np.ndarray:
    """Delta-method standard error from the first and second moments, with the n − 1 of a variance."""
    variance = np.zeros(second.shape[1:])
    for place, (a, b) in enumerate(pairs):
        covariance = second[place] - first[a] * first[b]
        variance += (1 if a == b else 2) * gradient[a] * gradient[b] * covariance
    return np.sqrt(np.maximum(variance, 0.0) / max(1, n - 1))


def studentised(
    estimate: np.ndarray, se: np.ndarray, ratios: np.ndarray, prompts: int, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Limits from the resamples' studentised deviations [world, column]; NaN marks a resample that says nothing.

    No limit is nearer than Student's t puts it: with heavy tails the resampled quantiles are too short, and with
    skewed data on the side that they shorten, while the side that they lengthen is what they are needed for.
    """
    from scipy.special import stdtrit

    tail = (1 - level) / 2
    width = float(stdtrit(max(1, prompts - 1), 1 - tail))
    low, high = np.full(ratios.shape[1], -width), np.full(ratios.shape[1], width)
    seen = ~np.isnan(ratios).all(0)
    if seen.any():
        quantile = np.nanquantile if np.isnan(ratios).any() else np.quantile
        found = quantile(ratios[:, seen], [tail, 1 - tail], axis=0)
        low[seen], high[seen] = np.minimum(found[0], -width), np.maximum(found[1], width)
    return estimate - high * se, estimate - low * se
