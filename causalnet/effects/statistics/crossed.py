"""Intervals when the donors are a sample too: prompts and donors are crossed, not nested.

A donor that serves many prompts moves all their effects together, and where the donors are the prompts
themselves one prompt enters in two roles.  So whole nodes (prompts and donors) are resampled, a cell counting
as often as its prompt times its donor was drawn (the pigeonhole bootstrap), and the statistic is
studentised by the variance that lets any two cells with a common prompt or donor be correlated.  The
studentising also takes back what the product of two draws overstates about each cell's own noise.
"""

from dataclasses import dataclass

import numpy as np

from causalnet.effects.statistics.means import divide, studentised
from causalnet.effects.statistics.resampling import Interval, counts, finite, warn_few
from causalnet.errors import InputError

__all__ = ["crossed_mean_interval", "crossed_slope_interval"]

_BLOCK = 2**21
_FLOOR = 0.5  # of the variance from the cells' own noise, where correlations would make it less


def crossed_mean_interval(
    values: np.ndarray,
    donor_index: np.ndarray,
    *,
    shared: bool = True,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over prompts and over the population that the donors were drawn from.

    Parameters
    ----------
    values
        [prompt, donor, ...]; NaN where a prompt has fewer donors.
    donor_index
        [prompt, donor]: which donor it was; -1 where none.
    shared
        Whether donor j *is* prompt j (donors drawn from the prompts); otherwise donors are a separate sample.
    level, draws, seed
        As for :func:`~causalnet.effects.statistics.mean_interval`.

    Returns
    -------
    Interval
        Arrays of the trailing shape, in the units of ``values``.

    Raises
    ------
    InputError
        If an index or a value does not fit.

    References
    ----------
    Owen (2007), Annals of Applied Statistics 1, 386-411 (pigeonhole bootstrap); Fafchamps and Gubert (2007),
    Journal of Development Economics 83, 326-350 (dyadic standard errors).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> donors = np.array([[(i + 1) % 40, (i + 7) % 40] for i in range(40)])
    >>> found = crossed_mean_interval(rng.normal(1.0, 1.0, size=(40, 2)), donors, draws=500)
    >>> bool(found.low < 1.0 < found.high)
    True
    """
    return _crossed(None, values, donor_index, shared, level, draws, seed)


def crossed_slope_interval(
    x: np.ndarray,
    values: np.ndarray,
    donor_index: np.ndarray,
    *,
    shared: bool = True,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Slope of the donor-averaged values on x, prompts and donors both a sample.

    Parameters
    ----------
    x
        [prompt, ...].
    values
        [prompt, donor, ...]; NaN where a prompt has fewer donors.
    donor_index, shared, level, draws, seed
        As for :func:`crossed_mean_interval`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=60)
    >>> donors = np.array([[(i + 1) % 60, (i + 7) % 60] for i in range(60)])
    >>> found = crossed_slope_interval(x, 0.7 * x[:, None] + rng.normal(size=(60, 2)), donors, draws=500)
    >>> bool(found.low < 0.7 < found.high)
    True
    """
    return _crossed(finite(x, "x"), values, donor_index, shared, level, draws, seed)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Cells laid out twice: by prompt [prompt, donor] and by donor [node, user]; absent ones weigh 0."""

    prompts: int
    nodes: int
    weight: np.ndarray  # [prompt, donor]: 1 / number of the prompt's donors, or 0
    value: np.ndarray  # [prompt, donor, column]
    donor: np.ndarray  # [prompt, donor]: node
    user: np.ndarray  # [node, user]: prompt
    place: np.ndarray  # [node, user]: which of the prompt's cells
    used: np.ndarray  # [node, user]: 1 or 0


def _crossed(
    x: np.ndarray | None, values: np.ndarray, donor_index: np.ndarray, shared: bool, level: float, draws: int, seed: int
) -> Interval:
    values = np.asarray(values, dtype=np.float64)
    shape = values.shape[2:]
    cells = _lay_out(values, np.asarray(donor_index), shared)
    prompts, nodes, columns = cells.prompts, cells.nodes, cells.value.shape[2]
    warn_few(prompts)
    if x is not None:
        if x.shape != (prompts, *shape):
            raise InputError(f"x has shape {x.shape}; it needs {(prompts, *shape)}")
        x = x.reshape(prompts, columns)
        x = x - x.mean(0)
    rng = np.random.default_rng(seed)
    drawn = [np.concatenate(list(counts(rng, draws, size))) for size in (prompts, nodes - prompts) if size]
    drawn = np.concatenate(drawn, axis=1)
    estimate, se = (part[0] for part in _statistic(cells, x, np.ones((1, nodes))))
    step = max(1, _BLOCK // (nodes * max(columns, cells.user.shape[1])))
    ratios = []
    for start in range(0, draws, step):
        again, error = _statistic(cells, x, drawn[start : start + step])
        usable = error > 1e-9 * se
        ratios.append(np.where(usable, (again - estimate) / np.where(usable, error, 1.0), np.nan))
    low, high = studentised(estimate, se, np.concatenate(ratios), prompts, level)
    return Interval(*(part.reshape(shape) for part in (estimate, se, low, high)))


def _lay_out(values: np.ndarray, donor_index: np.ndarray, shared: bool) -> _Cells:
    if values.ndim < 2 or donor_index.shape != values.shape[:2]:
        raise InputError(f"values of shape {values.shape} and donor_index of shape {donor_index.shape} do not fit")
    prompts, donors = donor_index.shape
    value = values.reshape(prompts, donors, -1)
    present = donor_index >= 0
    if (np.isfinite(value).all(2) != present).any() or not present.any(axis=1).all():
        raise InputError("values must be finite exactly where donor_index is not -1, and every prompt needs a donor")
    known = np.unique(donor_index[present])
    if shared:
        outside = known[known >= prompts]
        donor = np.where(donor_index >= prompts, prompts + np.searchsorted(outside, donor_index), donor_index)
    else:
        outside = known
        donor = prompts + np.searchsorted(known, donor_index)
    nodes = prompts + len(outside)
    if shared and (donor_index == np.arange(prompts)[:, None]).any():
        raise InputError("a prompt is its own donor")
    weight = present / present.sum(1, keepdims=True)
    row, column = np.nonzero(present)
    order = np.argsort(donor[row, column], kind="stable")
    row, column = row[order], column[order]
    served = donor[row, column]
    number = np.bincount(served, minlength=nodes)
    rank = np.arange(len(served)) - np.repeat(np.cumsum(number) - number, number)
    user, place, used = (np.zeros((nodes, number.max()), dtype) for dtype in (np.int64, np.int64, np.float64))
    user[served, rank], place[served, rank], used[served, rank] = row, column, 1.0
    return _Cells(
        prompts,
        nodes,
        weight,
        np.where(present[:, :, None], value, 0.0),
        np.where(present, donor, 0),
        user,
        place,
        used,
    )


def _statistic(cells: _Cells, x: np.ndarray | None, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate and standard error [world, column] when node j was drawn ``drawn[:, j]`` times.

    The estimate is Σ lead·value over cells; lead = l0 + l1·x and the fitted value f0 + f1·x tell the mean
    (l1 = f1 = 0) from the slope.
    """
    n = cells.prompts
    weights = np.ascontiguousarray(drawn.T)
    row = weights[:n, :, None]
    by_prompt = (weights[cells.donor] * cells.weight[:, :, None]).swapaxes(1, 2)  # [prompt, world, donor]
    total = by_prompt @ cells.value
    share = by_prompt.sum(2)[:, :, None]
    position = np.zeros((n, 1, 1)) if x is None else x[:, None, :]
    m0, y0 = (row * share).sum(0), (row * total).sum(0)
    if x is None:
        estimate = divide(y0, m0)
        f0, f1, l0, l1 = estimate, 0.0, divide(np.ones_like(m0), m0), 0.0
    else:
        m1, m2 = (row * share * position).sum(0), (row * share * position**2).sum(0)
        mean = divide(m1, m0)
        square = m2 - mean * m1
        square = np.where(square > 1e-12 * m2, square, 0.0)
        estimate = divide((row * position * total).sum(0) - mean * y0, square)
        f0, f1 = divide(y0, m0) - estimate * mean, estimate
        l0, l1 = -divide(mean, square), divide(np.ones_like(square), square)
    fitted, lead = f0 + f1 * position, l0 + l1 * position
    score = _by_donor(cells, x, weights, f0, f1, l0, l1)
    score[:n] += lead * (total - fitted * share)
    squares = by_prompt * cells.weight[:, None, :]
    own = squares @ cells.value**2 - 2 * fitted * (squares @ cells.value) + fitted**2 * squares.sum(2)[:, :, None]
    noise = (row * lead**2 * own).sum(0)
    # Every cell was counted once with its prompt and once with its donor.
    variance = (weights[:, :, None] * score**2).sum(0) - noise
    return estimate, np.sqrt(np.maximum(variance, _FLOOR * noise))


def _by_donor(cells: _Cells, x: np.ndarray | None, weights: np.ndarray, f0, f1, l0, l1) -> np.ndarray:
    """Sum of the scores of the cells that a donor serves, [node, world, column]."""
    weighted = (weights[cells.user] * (cells.used * cells.weight[cells.user, cells.place])[:, :, None]).swapaxes(1, 2)
    value = cells.value[cells.user, cells.place]
    share = weighted.sum(2)[:, :, None]
    if x is None:
        return l0 * (weighted @ value - f0 * share)
    position = x[cells.user]
    first, second = weighted @ position, weighted @ position**2
    flat = weighted @ value - f0 * share - f1 * first
    return l0 * flat + l1 * (weighted @ (position * value) - f0 * first - f1 * second)
