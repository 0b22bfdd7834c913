"""Each statistic against its definition, written out slowly."""

import time
import warnings

import numpy as np
import pytest
from scipy import stats

from causalnet.effects.statistics import (
    FewPromptsWarning,
    benjamini_hochberg,
    crossed_mean_interval,
    crossed_slope_interval,
    donor_convergence,
    donor_mean,
    function_interval,
    holm,
    mean_interval,
    permutation_p,
    r2_interval,
    ratio_interval,
    regression,
    slope_difference,
    slope_interval,
)
from causalnet.effects.statistics.crossed import _lay_out, _statistic
from causalnet.effects.statistics.means import studentised
from causalnet.effects.statistics.resampling import counts, signs
from causalnet.effects.statistics.slopes import _fit, _Wild
from causalnet.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def ols(x, y):
    design = np.stack([np.ones_like(x), x], axis=1)
    bread = np.linalg.inv(design.T @ design)
    beta = bread @ design.T @ y
    hat = np.einsum("ij,jk,ik->i", design, bread, design)
    residual = y - design @ beta
    return design, bread, beta, hat, residual


def hc3(x, y):
    design, bread, _, hat, residual = ols(x, y)
    meat = design.T @ (design * (residual / (1 - hat))[:, None] ** 2)
    return np.sqrt((bread @ meat @ bread)[1, 1])


def test_regression_is_least_squares(rng):
    x, y = rng.normal(2, 3, size=(50, 4)), rng.normal(size=(50, 4))
    fit = regression(x, y)
    for column in range(4):
        expected = stats.linregress(x[:, column], y[:, column])
        assert fit.slope[column] == pytest.approx(expected.slope)
        assert fit.intercept[column] == pytest.approx(expected.intercept)
        assert fit.r2[column] == pytest.approx(expected.rvalue**2)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8 / 3])
def test_a_constant_has_no_slope(constant, rng):
    x, flat = rng.normal(size=40), np.full(40, constant)
    for pair in ((x, flat), (flat, x)):
        fit = regression(*pair)
        assert (fit.slope, fit.r2) == (0, 0)
        assert fit.intercept == pytest.approx(pair[1].mean())
        assert permutation_p(*pair, draws=20) == 1
        for found in (slope_interval(*pair, draws=50), r2_interval(*pair, draws=50)):
            assert (found.estimate, found.se, found.low, found.high) == (0, 0, 0, 0)


def test_an_exact_line_is_found_exactly():
    x = np.linspace(-1, 3, 40)
    found = slope_interval(x, 0.7 * x + 2)
    assert found.estimate == pytest.approx(0.7)
    assert found.high - found.low < 1e-9
    assert regression(x, 0.7 * x + 2).r2 == pytest.approx(1)


def test_slopes_carry_hc3_standard_errors(rng):
    x = rng.exponential(size=(35, 3))
    y = x * rng.normal(size=(35, 3))
    found = slope_interval(x, y, draws=50)
    assert found.se == pytest.approx([hc3(x[:, k], y[:, k]) for k in range(3)])


def restricted(x, y, slope, flips):
    """The wild resample that imposes ``slope``."""
    hat = ols(x, y)[3]
    residual = y - y.mean() - slope * (x - x.mean())
    return slope * (x - x.mean()) + residual / np.sqrt(1 - hat) * flips


def test_the_wild_statistic_is_a_refit_of_every_resample(rng):
    x, y = rng.exponential(size=30), rng.normal(size=30)
    flips = next(signs(rng, 5, 30))
    wild, slope = _Wild([_fit(x[:, None], y[:, None])], [1.0]), ols(x, y)[2][1]
    for delta in (0.0, 0.4, -1.3):
        expected = []
        for row in flips:
            again = restricted(x, y, slope - delta, row)
            expected.append((ols(x, again)[2][1] - (slope - delta)) / hc3(x, again))
        found = wild.statistic(wild.project(flips), np.array([delta]))
        assert found[:, 0] == pytest.approx(expected)


def test_the_wild_contrast_is_a_refit_of_both_lines(rng):
    pairs = [(rng.exponential(size=30), rng.normal(size=30)) for _ in range(2)]
    flips, delta = next(signs(rng, 5, 30)), 0.8
    wild = _Wild([_fit(x[:, None], y[:, None]) for x, y in pairs], [1.0, -1.0])
    square = [((x - x.mean()) ** 2).sum() for x, _ in pairs]
    # Least squares under the constraint that the slopes differ by (estimated difference − δ).
    shift = [delta * square[1] / sum(square), -delta * square[0] / sum(square)]
    expected = []
    for row in flips:
        refit, score = [], 0
        for sign, (x, y), moved in zip((1, -1), pairs, shift, strict=True):
            imposed = ols(x, y)[2][1] - moved
            again = restricted(x, y, imposed, row)
            _, _, beta, hat, residual = ols(x, again)
            refit.append(beta[1] - imposed)
            score = score + sign * (x - x.mean()) * residual / (1 - hat) / ((x - x.mean()) ** 2).sum()
        expected.append((refit[0] - refit[1]) / np.sqrt((score**2).sum()))
    assert wild.statistic(wild.project(flips), np.array([delta]))[:, 0] == pytest.approx(expected)


def test_limits_of_a_slope_are_where_the_test_starts_to_reject(rng):
    x = rng.exponential(size=(60, 2))
    y = x + rng.normal(size=(60, 2))
    found = slope_interval(x, y, draws=999, seed=3)
    wild = _Wild([_fit(x, y)], [1.0])
    sums = wild.project(next(signs(np.random.default_rng(3), 999, 60)))
    for limit, side in ((found.low, 1), (found.high, -1)):
        for nudge, rejected in ((1.001, True), (0.999, False)):
            delta = (found.estimate - limit) * nudge
            tail = (side * wild.statistic(sums, delta) >= side * delta / found.se).mean(0)
            assert ((tail <= 0.025) == rejected).all()


def test_paired_slopes_lose_what_the_prompts_share(rng):
    x, common = rng.normal(size=(2, 200))
    first, second = (
        (x, 0.7 * x + common + 0.1 * rng.normal(size=200)),
        (x, 0.2 * x + common + 0.1 * rng.normal(size=200)),
    )
    paired = slope_difference(first, second)
    alone = [slope_interval(*one) for one in (first, second)]
    assert paired.estimate == pytest.approx(alone[0].estimate - alone[1].estimate)
    assert paired.low < 0.5 < paired.high
    assert paired.high - paired.low < 0.3 * (alone[0].high - alone[0].low)


def test_permutation_p_counts_permutations(rng):
    x, y = rng.normal(size=(2, 25))
    dealer = np.random.default_rng(5)

    def size(dealt):
        left, right = x - x.mean(), dealt - dealt.mean()
        return abs((left * right).sum()) / np.sqrt((left**2 * right**2).sum())

    beyond = sum(size(y[dealer.permutation(25)]) >= size(y) for _ in range(200))
    assert permutation_p(x, y, draws=200, seed=5) == (1 + beyond) / 201


def test_permutation_p_is_level_without_independence(rng):
    """x and y are uncorrelated, but y spreads where x is large: a plain permutation test rejects too often."""
    x = rng.normal(size=(100, 1000))
    y = np.abs(x) * rng.normal(size=x.shape)
    assert 0.03 < (permutation_p(x, y, draws=400) <= 0.05).mean() < 0.07
    assert (permutation_p(x, 0.8 * x + y, draws=400) <= 0.05).mean() > 0.9


def test_means_carry_their_standard_errors(rng):
    values = rng.exponential(size=(50, 2, 3)) * [1e-6, 1.0, 1e6]
    found = mean_interval(values)
    assert found.estimate == pytest.approx(values.mean(0))
    assert found.se == pytest.approx(stats.sem(values, axis=0))
    assert (found.low < found.estimate).all()
    # The bootstrap knows which way exponential means err.
    assert (found.high - found.estimate > found.estimate - found.low).all()


def test_bootstrap_t_is_the_textbook_one(rng):
    values = rng.exponential(size=40)
    weights = np.concatenate(list(counts(np.random.default_rng(9), 500, 40)))
    ratios = []
    for row in weights:
        again = np.repeat(values, row.astype(int))
        ratios.append((again.mean() - values.mean()) / stats.sem(again))
    low, high = studentised(values.mean(), stats.sem(values), np.array(ratios)[:, None], 40, 0.95)
    found = mean_interval(values, draws=500, seed=9)
    assert (found.low, found.high) == (pytest.approx(low[0]), pytest.approx(high[0]))


def test_limits_are_never_nearer_than_student(rng):
    values = rng.exponential(size=(50, 20))
    found = mean_interval(values)
    width = stats.t.ppf(0.975, 49) * found.se
    assert (found.low <= found.estimate - width + 1e-12).all()
    assert (found.high >= found.estimate + width - 1e-12).all()


def test_ratio_is_of_sums_with_the_delta_method(rng):
    top, bottom = rng.normal(1, 1, size=(2, 60))
    found = ratio_interval(top, bottom)
    ratio = top.sum() / bottom.sum()
    assert found.estimate == pytest.approx(ratio)
    assert found.se == pytest.approx(stats.sem(top - ratio * bottom) / abs(bottom.mean()))
    nothing = ratio_interval(top, np.zeros(60))
    assert (nothing.estimate, nothing.low, nothing.high) == (0, 0, 0)


def test_function_interval_of_a_log(rng):
    values = rng.exponential(size=80)
    found = function_interval(values[:, None], lambda m: np.log(m[0]), lambda m: 1 / m)
    assert found.estimate == pytest.approx(np.log(values.mean()))
    assert found.se == pytest.approx(stats.sem(values) / values.mean())


def test_r2_interval_is_the_delta_method_on_fishers_z(rng):
    x = rng.normal(size=300)
    y = x + rng.normal(size=300)
    found = r2_interval(x, y)
    assert found.estimate == pytest.approx(stats.pearsonr(x, y).statistic ** 2)
    fisher = np.tanh(np.arctanh(np.sqrt(found.estimate)) + np.array([-1, 1]) * 1.96 / np.sqrt(297)) ** 2
    # For normal data the textbook interval is right, up to the noise of fourth moments.
    assert found.low == pytest.approx(fisher[0], abs=0.04)
    assert found.high == pytest.approx(fisher[1], abs=0.04)
    none = r2_interval(x, rng.normal(size=300))
    assert none.low == 0 < none.high < 0.1
    assert r2_interval(x, 2 * x).estimate == pytest.approx(1)


def test_few_prompts_warn_and_stay_finite(rng):
    for prompts in range(1, 30):
        x, y = rng.normal(size=(2, prompts))
        with pytest.warns(FewPromptsWarning, match=f"^{prompts} prompt"):
            found = [mean_interval(x, draws=200)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewPromptsWarning)
            found += [ratio_interval(y, x, draws=200), slope_interval(x, y, draws=200), r2_interval(x, y, draws=200)]
        for one in found:
            assert np.isfinite([one.estimate, one.se, one.low, one.high]).all()
            assert one.low <= one.estimate <= one.high
    mean_interval(rng.normal(size=30), draws=10)


@pytest.mark.parametrize("function", [mean_interval, lambda values: slope_interval(values, values), permutation_p])
def test_what_is_not_finite_is_refused(function):
    values = np.arange(40.0)
    values[3] = np.nan
    arguments = (values, values) if function is permutation_p else (values,)
    with pytest.raises(InputError, match=r"\[3\] is nan"):
        function(*arguments)


def test_shapes_must_fit():
    with pytest.raises(InputError, match=r"x has shape \(40,\), y has \(41,\)"):
        slope_interval(np.zeros(40), np.zeros(41))
    with pytest.raises(InputError, match="must be paired"):
        slope_difference((np.zeros(40), np.zeros(40)), (np.zeros(41), np.zeros(41)))


def test_the_seed_decides(rng):
    x, y = rng.normal(size=(2, 60))
    for function in (
        lambda seed: slope_interval(x, y, seed=seed, draws=99),
        lambda seed: mean_interval(x, seed=seed, draws=99),
    ):
        assert function(1) == function(1)
        assert function(1) != function(2)


def test_holm_and_benjamini_hochberg(rng):
    p = rng.uniform(size=30) ** 3
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    order, running = np.argsort(p), 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (30 - rank) * p[place]))
        assert holm(p)[place] == pytest.approx(running)
    with pytest.raises(InputError, match="from 0 to 1"):
        holm(np.array([0.5, 1.5]))


def test_donor_means_leave_out_what_is_missing():
    assert donor_mean(np.array([[[1.0, 3.0]], [[5.0, np.nan]]])).tolist() == [[2.0], [5.0]]
    with pytest.raises(InputError, match=r"no donor at \[1\]"):
        donor_mean(np.array([[1.0], [np.nan]]))


def test_donor_convergence_by_hand(rng):
    values = rng.normal(size=(20, 5, 2))
    values[3, 4] = np.nan
    found = donor_convergence(values)
    assert found.donors.tolist() == [1, 2, 3, 4, 5]
    for k in range(1, 6):
        first = np.nanmean(values[:, :k], axis=1)
        assert found.estimate[k - 1] == pytest.approx(first.mean(0))
        assert found.se[k - 1] == pytest.approx(stats.sem(first))
        used = (~np.isnan(values[:, :k])).sum(1)
        if k > 1:
            draws = np.nanvar(values[:, :k], axis=1, ddof=1) / used
            assert found.se_draws[k - 1] == pytest.approx(np.sqrt(draws.sum(0)) / 20)
    with pytest.raises(InputError, match="one donor for each prompt"):
        donor_convergence(np.full((3, 2), np.nan))


def crossed_by_hand(values, donors, x, times):
    """Estimate and dyadic standard error from explicit copies of nodes: a loop over all pairs of cells."""
    rows = []
    for i in range(len(values)):
        for copy_i in range(times[i]):
            present = donors[i] >= 0
            for value, donor in zip(values[i][present], donors[i][present], strict=True):
                for copy_j in range(times[donor]):
                    rows.append(((i, copy_i), (donor, copy_j), value, 1 / present.sum(), x[i]))
    value, weight, position = (np.array([row[k] for row in rows]) for k in (2, 3, 4))
    found = []
    for slope in (False, True):
        design = np.stack([np.ones_like(position), position], axis=1)[:, : 1 + slope]
        bread = np.linalg.inv(design.T @ (design * weight[:, None]))
        beta = bread @ design.T @ (weight * value)
        score = (design @ bread)[:, -1] * weight * (value - design @ beta)
        variance = 0.0
        for a in range(len(rows)):
            for b in range(len(rows)):
                touch = len({rows[a][0], rows[a][1]} & {rows[b][0], rows[b][1]})
                # A pair of cells i→j and j→i is counted for each node it shares.
                variance += score[a] * score[b] * (1 if a == b else touch)
        found.append((beta[-1], np.sqrt(max(variance, 0.5 * (score**2).sum()))))
    return found


def test_crossed_statistics_are_those_of_explicit_copies(rng):
    donors = np.array([[1, 2], [2, 3], [5, 0], [4, -1], [0, 3], [1, 4]])
    values = np.where(donors >= 0, rng.normal(size=(6, 2)), np.nan)
    x = rng.normal(size=6)
    cells = _lay_out(values, donors, True)
    for times in ([1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 1, 1], [1, 2, 2, 0, 1, 0]):
        drawn = np.array([times], dtype=float)
        expected = crossed_by_hand(values, donors, x, times)
        for (estimate, se), at in zip(expected, (None, x[:, None] - x.mean()), strict=True):
            found = _statistic(cells, at, drawn)
            assert found[0][0, 0] == pytest.approx(estimate)
            assert found[1][0, 0] == pytest.approx(se)


def test_crossed_estimates_are_the_plain_ones(rng):
    donors = (np.arange(50)[:, None] + [1, 5, 9]) % 50
    values, x = rng.normal(size=(50, 3, 2)), rng.normal(size=(50, 2))
    for shared in (True, False):
        found = crossed_mean_interval(values, donors, shared=shared, draws=50)
        assert found.estimate == pytest.approx(values.mean((0, 1)))
        found = crossed_slope_interval(x, values, donors, shared=shared, draws=50)
        assert found.estimate == pytest.approx(regression(x, values.mean(1)).slope)


def test_few_donors_widen_only_the_crossed_interval(rng):
    """Five donors serve all 200 prompts: their own spread is most of what another pool would change."""
    donors = rng.integers(5, size=(200, 2))
    values = rng.normal(size=5)[donors] + 0.1 * rng.normal(size=(200, 2))
    crossed = crossed_mean_interval(values, donors, shared=False, draws=500)
    plain = mean_interval(values.mean(1), draws=500)
    assert crossed.high - crossed.low > 5 * (plain.high - plain.low)


def test_crossed_designs_are_checked(rng):
    values = rng.normal(size=(40, 2))
    donors = (np.arange(40)[:, None] + [1, 2]) % 40
    with pytest.raises(InputError, match="do not fit"):
        crossed_mean_interval(values, donors[:, :1])
    with pytest.raises(InputError, match="finite exactly where"):
        crossed_mean_interval(np.where(donors == 3, np.nan, values), donors)
    with pytest.raises(InputError, match="its own donor"):
        crossed_mean_interval(values, (donors - 1) % 40)
    with pytest.raises(InputError, match="x has shape"):
        crossed_slope_interval(np.zeros(3), values, donors)


def test_blocks_of_resamples_do_not_change_the_draws(monkeypatch):
    whole = np.concatenate(list(signs(np.random.default_rng(0), 64, 16)))
    monkeypatch.setattr("causalnet.effects.statistics.resampling._BLOCK", 16 * 8)
    blocks = list(counts(np.random.default_rng(0), 60, 16))
    assert [len(block) for block in blocks] == [8] * 7 + [4]
    assert (np.concatenate(blocks).sum(1) == 16).all()
    assert set(np.unique(whole)) == {-1.0, 1.0}


def test_a_sweep_of_1100_prompts_and_24_nodes_takes_seconds(rng):
    x = rng.normal(size=(1100, 24))
    y = 0.5 * x + rng.normal(size=x.shape)
    for function in (mean_interval, slope_interval, permutation_p, r2_interval, ratio_interval):
        start = time.process_time()
        function(*((x,) if function is mean_interval else (x, y)), draws=2000)
        assert time.process_time() - start < 2, function.__name__
