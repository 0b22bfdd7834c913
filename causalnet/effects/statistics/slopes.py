"""Least-squares slopes over prompts: fits, wild-bootstrap intervals, permutation nulls."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from causalnet.effects.statistics.means import divide, function_interval
from causalnet.effects.statistics.resampling import Interval, finite, signs, warn_few
from causalnet.errors import InputError

__all__ = ["Regression", "permutation_p", "r2_interval", "regression", "slope_difference", "slope_interval"]

_STEPS = 20  # halvings when a limit is searched for: to about 2e-5 standard errors
_REACH = 20.0  # limits are looked for within this many standard errors


@dataclass(frozen=True, slots=True)
class Regression:
    """Straight-line fits of y on x over prompts.

    Parameters
    ----------
    slope, intercept, r2
        Arrays of the trailing shape; all 0 (the intercept the mean) where x or y is constant.

    Examples
    --------
    >>> fit = regression(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    >>> float(fit.slope), float(fit.intercept), float(fit.r2)
    (2.0, 1.0, 1.0)
    """

    slope: np.ndarray
    intercept: np.ndarray
    r2: np.ndarray


@dataclass(frozen=True, slots=True)
class _Line:
    """One set of fits and what their standard errors need; arrays are [prompt, column] or [column]."""

    centred: np.ndarray
    square: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    r2: np.ndarray
    error: np.ndarray
    leverage: np.ndarray


def regression(x: np.ndarray, y: np.ndarray) -> Regression:
    """Fit y = intercept + slope · x by least squares, one fit per trailing axis.

    Parameters
    ----------
    x, y
        [prompt, ...], of one shape.

    Raises
    ------
    InputError
        If a value is not finite or the shapes differ.
    """
    x, y, shape = _pair(x, y)
    line = _fit(x, y)
    return Regression(*(part.reshape(shape) for part in (line.slope, line.intercept, line.r2)))


def slope_interval(x: np.ndarray, y: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Interval of a slope by inverting the restricted wild bootstrap.

    A slope is inside the interval if the bootstrap test that imposes it does not reject it: the residuals
    under that slope get random signs, and the statistic is studentised with HC3.  That keeps its coverage
    where the spread grows with x and where both x and the errors are skewed, where unrestricted and
    pairs bootstraps fall short.

    Parameters
    ----------
    x, y
        [prompt, ...], of one shape.
    level
        Confidence level.
    draws
        Sign patterns.
    seed
        Of the signs.

    Returns
    -------
    Interval
        ``se`` is HC3's.  0 with a zero interval where x or y is constant; with fewer than 3 prompts the limits
        repeat the estimate.

    References
    ----------
    Davidson and Flachaire (2008), Journal of Econometrics 146, 162-169; MacKinnon (2013), "Thirty years of
    heteroskedasticity-robust inference".

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=200)
    >>> found = slope_interval(x, 0.7 * x + rng.normal(size=200))
    >>> bool(found.low < 0.7 < found.high)
    True
    """
    return _contrast([_pair(x, y)], [1.0], level, draws, seed)


def slope_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the difference of two slopes over the same prompts (first minus second).

    Parameters
    ----------
    first, second
        Each (x, y), [prompt, ...]; row i is the same prompt in both, and the signs are shared, so what the
        prompts have in common cancels.
    level, draws, seed
        As for :func:`slope_interval`.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=100)
    >>> found = slope_difference((x, 0.7 * x + x**2), (x, 0.4 * x + x**2))
    >>> round(float(found.estimate), 6), round(float(found.high - found.low), 6)
    (0.3, 0.0)
    """
    pairs = [_pair(*first), _pair(*second)]
    if pairs[0][0].shape != pairs[1][0].shape:
        raise InputError(f"first has shape {np.shape(first[0])}, second {np.shape(second[0])}; they must be paired")
    return _contrast(pairs, [1.0, -1.0], level, draws, seed)


def permutation_p(x: np.ndarray, y: np.ndarray, *, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Two-sided p-value of a slope against the null that x says nothing about y.

    y is dealt to the prompts at random.  The statistic is the correlation over its robust standard error, so
    that the test holds its level also where x and y are uncorrelated without being independent.

    Parameters
    ----------
    x, y
        [prompt, ...], of one shape.
    draws
        Permutations; the smallest p is 1 / (draws + 1).
    seed
        Of the permutations, which all columns share.

    Returns
    -------
    numpy.ndarray
        [...]; 1 where x or y is constant.

    References
    ----------
    DiCiccio and Romano (2017), Journal of the American Statistical Association 112, 1211-1220.

    Examples
    --------
    >>> x = np.arange(40.0)
    >>> float(permutation_p(x, 2 * x, draws=99))
    0.01
    """
    x, y, shape = _pair(x, y)
    line = _fit(x, y)
    live = (line.square > 0) & (np.ptp(y, axis=0) > 0)
    left = np.concatenate([line.centred, line.centred**2], axis=1)
    right = y - y.mean(0)
    right = np.concatenate([right, right**2], axis=1)
    columns = x.shape[1]

    def statistic(dealt: np.ndarray) -> np.ndarray:
        sums = np.einsum("pk,pk->k", left, dealt)
        return np.abs(sums[:columns]) / np.sqrt(np.maximum(sums[columns:], np.finfo(float).tiny))

    observed = statistic(right)
    rng = np.random.default_rng(seed)
    # Equal statistics must count as equal however their sums were rounded.
    as_large = sum((statistic(right[rng.permutation(len(x))]) >= observed * (1 - 1e-12)) for _ in range(draws))
    return np.where(live, (1 + np.asarray(as_large)) / (draws + 1), 1.0).reshape(shape)


def r2_interval(x: np.ndarray, y: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Interval of R², the squared correlation, by a studentised bootstrap of Fisher's z.

    Parameters
    ----------
    x, y
        [prompt, ...], of one shape.
    level, draws, seed
        As for :func:`slope_interval`.

    Returns
    -------
    Interval
        Within 0 to 1; the low end is 0 where the correlation's interval holds 0.  ``se`` is on the scale of R²;
        0 with a zero interval where x or y is constant.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> x = rng.normal(size=300)
    >>> found = r2_interval(x, x + rng.normal(size=300))
    >>> bool(found.low < 0.5 < found.high)
    True
    """
    x, y, shape = _pair(x, y)
    live = (_fit(x, y).square > 0) & (np.ptp(y, axis=0) > 0)
    x, y = (divide(part - part.mean(0), part.std(0)) for part in (x, y))
    moments = np.stack([x, y, x * x, y * y, x * y], axis=1)
    z = function_interval(moments, _fisher, _fisher_gradient, level=level, draws=draws, seed=seed)
    r, low, high = (np.tanh(part) for part in (z.estimate, z.low, z.high))
    inside = (low <= 0) & (high >= 0)
    ends = np.sort(np.stack([low**2, high**2]), axis=0)
    parts = (r**2, 2 * np.abs(r) * (1 - r**2) * z.se, np.where(inside, 0.0, ends[0]), ends[1])
    return Interval(*(np.where(live, part, 0.0).reshape(shape) for part in parts))


def _fisher(m: np.ndarray) -> np.ndarray:
    r = divide(m[4] - m[0] * m[1], np.sqrt(np.maximum((m[2] - m[0] ** 2) * (m[3] - m[1] ** 2), 0.0)))
    return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))


def _fisher_gradient(m: np.ndarray) -> np.ndarray:
    vx, vy, cov = m[2] - m[0] ** 2, m[3] - m[1] ** 2, m[4] - m[0] * m[1]
    root = np.sqrt(np.maximum(vx * vy, 0.0))
    r = np.clip(divide(cov, root), -1 + 1e-12, 1 - 1e-12)
    over_x, over_y, over_both = divide(r, vx), divide(r, vy), divide(np.ones_like(root), root)
    parts = [m[0] * over_x - m[1] * over_both, m[1] * over_y - m[0] * over_both, -over_x / 2, -over_y / 2, over_both]
    return np.stack(parts) / (1 - r**2)


def _pair(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    x, y = finite(x, "x"), finite(y, "y")
    if x.shape != y.shape:
        raise InputError(f"x has shape {x.shape}, y has {y.shape}; they must be equal")
    return x.reshape(len(x), -1), y.reshape(len(y), -1), x.shape[1:]


def _fit(x: np.ndarray, y: np.ndarray) -> _Line:
    mean = x.mean(0)
    centred = x - mean
    square = (centred**2).sum(0)
    # Rounding of the mean leaves a constant x with a tiny spread, which is no spread.
    square = np.where(square > len(x) * (1e-12 * np.abs(x).max(0)) ** 2, square, 0.0)
    centred = np.where(square > 0, centred, 0.0)
    offset = y - y.mean(0)
    total = (offset**2).sum(0)
    total = np.where(total > len(y) * (1e-12 * np.abs(y).max(0)) ** 2, total, 0.0)
    slope = np.where(total > 0, divide((centred * offset).sum(0), square), 0.0)
    error = np.where(total > 0, offset - slope * centred, 0.0)
    r2 = np.clip(divide(total - (error**2).sum(0), total), 0.0, 1.0) * (square > 0)
    return _Line(centred, square, slope, y.mean(0) - slope * mean, r2, error, 1 / len(x) + divide(centred**2, square))


def _contrast(
    pairs: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, ...]]],
    signed: Sequence[float],
    level: float,
    draws: int,
    seed: int,
) -> Interval:
    """Interval of Σ sign · slope over one or two regressions whose rows are the same prompts."""
    n, shape = len(pairs[0][0]), pairs[0][2]
    warn_few(n)
    lines = [_fit(x, y) for x, y, _ in pairs]
    estimate = sum(sign * line.slope for sign, line in zip(signed, lines, strict=True))
    estimate = np.asarray(estimate)
    if n < 3:
        parts = (estimate, np.zeros_like(estimate), estimate, estimate)
        return Interval(*(part.reshape(shape) for part in parts))
    wild = _Wild(lines, signed)
    se = wild.se
    blocks = [wild.project(weights) for weights in signs(np.random.default_rng(seed), draws, n)]
    low, high = (_limit(wild, blocks, side, level) for side in (1.0, -1.0))
    return Interval(*(part.reshape(shape) for part in (estimate, se, estimate - low, estimate + high)))


def _limit(wild: "_Wild", blocks: list[tuple[np.ndarray, ...]], side: float, level: float) -> np.ndarray:
    """How far from the estimate the imposed slope may lie before it is rejected, by halving."""
    low, high = np.zeros_like(wild.se), _REACH * wild.se
    safe = np.where(wild.se > 0, wild.se, 1.0)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        statistic = middle / safe
        beyond, total = np.zeros_like(middle), 0
        for block in blocks:
            dealt = wild.statistic(block, side * middle)
            beyond += (side * dealt >= statistic).sum(0)
            total += len(dealt)
        accepted = beyond > total * (1 - level) / 2
        low, high = np.where(accepted, middle, low), np.where(accepted, high, middle)
    return (low + high) / 2


class _Wild:
    """Restricted wild bootstrap of a contrast of slopes, for any imposed shift at once.

    With the contrast shifted by δ the restricted residuals are e + δ·τ·c, linear in δ, so their signed sums are
    taken once and the statistic is then cheap for every δ.
    """

    def __init__(self, lines: Sequence[_Line], signed: Sequence[float]) -> None:
        self.squares = [line.square for line in lines]
        # The shift that least squares gives each line when only their contrast is imposed.
        share = [divide(np.ones_like(square), square) for square in self.squares]
        total = np.maximum(np.asarray(sum(share)), np.finfo(float).tiny)
        self.fixed: list[np.ndarray] = []  # per line: the scores of its intercept and of its slope
        self.base: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # c, residual, its change with δ
        score = change = np.zeros_like(lines[0].error)
        for line, sign, part in zip(lines, signed, share, strict=True):
            room = 1 - line.leverage
            grow = np.where(room > 1e-9, 1 / np.where(room > 1e-9, room, 1.0), 0.0)
            weight = sign * divide(line.centred * grow, line.square)
            residual = line.error * np.sqrt(grow)
            shift = sign * part / total * line.centred * np.sqrt(grow)
            self.base.append((line.centred, residual, shift))
            self.fixed += [weight, weight * line.centred]
            score, change = score + weight * residual, change + weight * shift
        plain = sum(weight * line.error for weight, line in zip(self.fixed[::2], lines, strict=True))
        self.se = np.sqrt((np.asarray(plain) ** 2).sum(0))
        self.signed, self.score, self.change = signed, score, change
        self.squared = [(score * score).sum(0), 2 * (score * change).sum(0), (change * change).sum(0)]
        self.gram = [[(a * b).sum(0) for b in self.fixed] for a in self.fixed]

    def project(self, weights: np.ndarray) -> tuple[np.ndarray, ...]:
        """Signed sums of everything the statistic needs: pairs (at δ = 0, per unit of δ)."""
        n = weights.shape[1]
        sums = []
        for (centred, residual, shift), square in zip(self.base, self.squares, strict=True):
            sums += [weights @ residual / n, weights @ shift / n]
            sums += [divide(weights @ (centred * part), square) for part in (residual, shift)]
        for fixed in self.fixed:
            sums += [weights @ (fixed * self.score), weights @ (fixed * self.change)]
        return tuple(sums)

    def statistic(self, sums: tuple[np.ndarray, ...], delta: np.ndarray) -> np.ndarray:
        """Studentised contrast [world, column] of the resampled prompts with the shift δ imposed."""
        parts = [sums[place] + delta * sums[place + 1] for place in range(0, len(sums), 2)]
        number = len(self.fixed)
        refit, cross = parts[:number], parts[number:]
        contrast = sum(sign * refit[2 * place + 1] for place, sign in enumerate(self.signed))
        variance = self.squared[0] + delta * self.squared[1] + delta**2 * self.squared[2]
        for a in range(number):
            row = -2 * cross[a]
            for b in range(number):
                row = row + refit[b] * self.gram[a][b]
            variance = variance + refit[a] * row
        return np.asarray(contrast) / np.sqrt(np.maximum(variance, np.finfo(float).tiny))
