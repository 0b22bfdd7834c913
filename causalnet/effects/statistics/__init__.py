"""Statistics over prompts: intervals, nulls and corrections, in numpy alone."""

from causalnet.effects.statistics.concentration import participation_ratio
from causalnet.effects.statistics.crossed import crossed_mean_interval, crossed_slope_interval
from causalnet.effects.statistics.donors import Convergence, donor_convergence, donor_mean
from causalnet.effects.statistics.means import function_interval, mean_interval, ratio_interval
from causalnet.effects.statistics.multiple import benjamini_hochberg, holm
from causalnet.effects.statistics.resampling import FewPromptsWarning, Interval
from causalnet.effects.statistics.slopes import (
    Regression,
    permutation_p,
    r2_interval,
    regression,
    slope_difference,
    slope_interval,
)

__all__ = [
    "Convergence",
    "FewPromptsWarning",
    "Interval",
    "Regression",
    "benjamini_hochberg",
    "crossed_mean_interval",
    "crossed_slope_interval",
    "donor_convergence",
    "donor_mean",
    "function_interval",
    "holm",
    "mean_interval",
    "participation_ratio",
    "permutation_p",
    "r2_interval",
    "ratio_interval",
    "regression",
    "slope_difference",
    "slope_interval",
]
