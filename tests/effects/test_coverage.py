"""Nominal 95 % intervals hold the truth in 92.5 to 97.5 % of 1,000 simulated data sets of 100 and more prompts."""

import numpy as np
import pytest

from causalnet.effects.statistics import (
    crossed_mean_interval,
    crossed_slope_interval,
    mean_interval,
    r2_interval,
    ratio_interval,
    slope_difference,
    slope_interval,
)

SETS, BATCHES, DRAWS = 1000, 4, 999
SHAPE = (100, SETS // BATCHES)


def share_covered(make, prompts=100, draws=DRAWS, batches=BATCHES):
    """Run ``make(rng, shape, options) -> (interval, truth)``; data sets are columns, resamples differ per batch."""
    rng, held = np.random.default_rng(2307), []
    for batch in range(batches):
        found, truth = make(rng, (prompts, SETS // batches), {"draws": draws, "seed": batch})
        held.append((found.low <= truth) & (truth <= found.high))
    assert np.size(held) == SETS
    return float(np.mean(held))


def covers(*args, **options):
    share = share_covered(*args, **options)
    assert 0.925 <= share <= 0.975, share


def spread_by_type(rng, shape):
    """Prompts of two types, one ten times as variable as the other."""
    return np.where(rng.random(shape) < 0.3, 3.0, 0.3)


MEANS = {
    "gaussian": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "lognormal": (lambda rng, shape: rng.lognormal(size=shape), np.exp(0.5)),
    "heteroskedastic": (lambda rng, shape: spread_by_type(rng, shape) * rng.normal(size=shape), 0.0),
    "skewed and heteroskedastic": (
        lambda rng, shape: spread_by_type(rng, shape) * (rng.exponential(size=shape) - 1),
        0.0,
    ),
}


@pytest.mark.parametrize(("kind", "prompts"), [*((kind, 100) for kind in MEANS), ("lognormal", 250)])
def test_means(kind, prompts):
    draw, truth = MEANS[kind]
    covers(lambda rng, shape, options: (mean_interval(draw(rng, shape), **options), truth), prompts)


def gaussian(rng, shape):
    x = rng.normal(size=shape)
    return x, 0.5 * x + rng.normal(size=shape)


def skewed(rng, shape):
    x = rng.exponential(size=shape)
    return x, 0.5 * x + rng.exponential(size=shape)


def heavy(rng, shape):
    x = rng.lognormal(size=shape)
    return x, 0.5 * x + rng.lognormal(size=shape)


def heteroskedastic(rng, shape):
    x = rng.normal(size=shape)
    return x, 0.5 * x + (0.2 + np.abs(x)) * rng.normal(size=shape)


def heteroskedastic_skewed(rng, shape):
    x = rng.normal(size=shape)
    return x, 0.5 * x + (0.2 + np.abs(x)) * (rng.exponential(size=shape) - 1)


def curved(rng, shape):
    """The best line is estimated although the response is not a line."""
    x = rng.normal(size=shape)
    return x, 0.5 * x + 0.5 * (x**2 - 1) + 0.5 * rng.normal(size=shape)


SLOPES = [gaussian, skewed, heavy, heteroskedastic, heteroskedastic_skewed, curved]


@pytest.mark.parametrize(("draw", "prompts"), [*((draw, 100) for draw in SLOPES), (skewed, 250)])
def test_slopes(draw, prompts):
    covers(lambda rng, shape, options: (slope_interval(*draw(rng, shape), **options), 0.5), prompts)


@pytest.mark.parametrize("draw", [gaussian, skewed, heteroskedastic])
def test_differences_of_slopes_over_the_same_prompts(draw):
    def make(rng, shape, options):
        x, y = draw(rng, shape)
        again, other = draw(rng, shape)
        # The second model shares part of the first one's response to each prompt.
        return slope_difference((x, y), (again, other + 0.5 * (y - 0.5 * x)), **options), 0.0

    covers(make)


def test_ratios():
    def make(rng, shape, options):
        lost = rng.exponential(size=shape) + 0.5
        return ratio_interval(0.7 * lost + lost * (rng.exponential(size=shape) - 1), lost, **options), 0.7

    covers(make)


def test_r2():
    covers(lambda rng, shape, options: (r2_interval(*gaussian(rng, shape), **options), 0.25 / 1.25))


def donor_design(rng, prompts, sets, donors=5):
    """Donors of each prompt, drawn from the other prompts, and what prompt, donor and pair add.

    What a prompt adds as itself and what it adds as a donor are correlated, as they are in a network.
    """
    index = np.array([(i + 1 + rng.choice(prompts - 1, donors, replace=False)) % prompts for i in range(prompts)])
    own = rng.exponential(size=(prompts, sets)) - 1
    given = 0.5 * own + 0.5 * (rng.exponential(size=(prompts, sets)) - 1)
    return index, own[:, None] + given[index] + rng.normal(size=(prompts, donors, sets)), given


def test_means_with_donors_from_the_prompts_given_the_pool():
    """The default estimand: the mean over prompts with a donor drawn from this very pool."""

    def make(rng, shape, options):
        _, values, given = donor_design(rng, *shape)
        return mean_interval(values.mean(1), **options), given.mean(0)

    covers(make, batches=20)


def test_slopes_with_donors_from_the_prompts_given_the_pool():
    """What a donor adds to the response grows with x, so the pool moves the slope."""

    def make(rng, shape, options):
        index, values, given = donor_design(rng, *shape)
        x = rng.normal(size=shape)
        values = values + x[:, None] * (0.5 + 0.5 * given[index])
        return slope_interval(x, values.mean(1), **options), 0.5 + 0.5 * given.mean(0)

    covers(make, batches=20)


def test_means_with_donors_from_the_prompts_as_a_sample():
    """The other estimand: prompts and donors both vary; the conditional interval would be too short for it."""

    def make(rng, shape, options):
        index, values, _ = donor_design(rng, *shape)
        return crossed_mean_interval(values, index, **options), 0.0

    def conditional(rng, shape, options):
        return mean_interval(donor_design(rng, *shape)[1].mean(1), **options), 0.0

    covers(make, draws=499, batches=20)
    assert share_covered(conditional, draws=499, batches=20) < 0.9


def test_slopes_with_donors_from_the_prompts_as_a_sample():
    def make(rng, shape, options):
        index, values, given = donor_design(rng, *shape)
        x = rng.normal(size=shape)
        values = values + x[:, None] * (0.5 + 0.5 * given[index])
        return crossed_slope_interval(x, values, index, **options), 0.5

    covers(make, draws=499, batches=20)


def test_means_with_a_separate_sample_of_donors():
    def make(rng, shape, options):
        prompts, sets = shape
        index = rng.integers(60, size=(prompts, 5))
        values = rng.exponential(size=(60, sets))[index] + rng.normal(size=(prompts, 1, sets))
        return crossed_mean_interval(values, index, shared=False, **options), 1.0

    covers(make, draws=499, batches=20)
