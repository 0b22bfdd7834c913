"""DoWhy's four steps on a design graph: model, identify, estimate, refute."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from causalnet.errors import InputError, explain
from causalnet.interop.dowhy.load import load, settled

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd

__all__ = ["METHODS", "REFUTERS", "Design", "Estimate", "Refutation"]

_ESTIMATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "regression": ("backdoor.linear_regression", {}),
    "matching": ("backdoor.distance_matching", {"num_matches_per_unit": 5}),
    "weighting": ("backdoor.propensity_score_weighting", {"weighting_scheme": "ips_normalized_weight"}),
}
_REFUTERS: dict[str, tuple[str, dict[str, Any]]] = {
    # A permuted treatment stays 0 or 1; DoWhy's random one is constantly 0 where the column is of floats.
    "placebo": ("placebo_treatment_refuter", {"placebo_type": "permute"}),
    "random_common_cause": ("random_common_cause", {}),
    "dummy_outcome": ("dummy_outcome_refuter", {}),
}
METHODS = tuple(_ESTIMATORS)
REFUTERS = tuple(_REFUTERS)


@dataclass(frozen=True)
class Estimate:
    """DoWhy's estimate of a mean effect, in the outcome's units; limits are NaN where a method gives none."""

    method: str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Refutation:
    """What an estimate became under a refuter, and how likely that is by chance (small: refuted)."""

    refuter: str
    effect: float
    new_effect: float
    p_value: float


@dataclass(frozen=True, eq=False)
class Design:
    """One treatment, one outcome and their possible common causes, as columns of a data frame.

    Parameters
    ----------
    data
        The rows; the treatment is 0 or 1.
    treatment, outcome
        Names of columns.
    common
        Names of the columns that may cause both.
    seed
        Of the refuters.
    """

    data: "pd.DataFrame"
    treatment: str
    outcome: str
    common: tuple[str, ...]
    seed: int = 0

    @cached_property
    def graph(self) -> "nx.DiGraph":
        """The design graph, one arrow from each column to what it may cause."""
        import networkx as nx

        drawn = nx.DiGraph([(self.treatment, self.outcome)])
        for name in self.common:
            drawn.add_edges_from([(name, self.treatment), (name, self.outcome)])
        return drawn

    def estimate(self, method: str = "regression") -> Estimate:
        """Estimate the mean effect; see :meth:`RandomisedAblation.estimate`."""
        with settled(self.seed):
            return _told(method, self._estimated(method)[2])

    def refute(self, refuter: str = "placebo", *, simulations: int = 100) -> Refutation:
        """Try to refute the estimate by regression; see :meth:`RandomisedAblation.refute`."""
        if refuter not in _REFUTERS:
            raise InputError(explain(f"unknown refuter {refuter!r}", legal=REFUTERS, got=refuter))
        if simulations < 2:
            raise InputError(f"simulations must be at least 2, not {simulations}")
        name, how = _REFUTERS[refuter]
        with settled(self.seed):
            model, estimand, estimate = self._estimated("regression")
            found = model.refute_estimate(
                estimand, estimate, method_name=name, num_simulations=simulations, n_jobs=1, **how
            )
        one = found[0] if isinstance(found, list) else found
        p_value = float(one.refutation_result["p_value"])
        return Refutation(refuter, float(estimate.value), float(one.new_effect), p_value)

    def _estimated(self, method: str) -> tuple[Any, Any, Any]:
        if method not in _ESTIMATORS:
            raise InputError(explain(f"unknown method {method!r}", legal=METHODS, got=method))
        data = self.data.copy()
        for name in self.common:
            if not set(data[name].unique()) <= {0, 1}:
                # Matching measures distances, and an indicator has size 1.
                data[name] = (data[name] - data[name].mean()) / data[name].std()
        model = load("dowhy").CausalModel(data, self.treatment, self.outcome, graph=self.graph)
        # All common causes at once: DoWhy's search through subsets takes exponential time.
        estimand = model.identify_effect(method_name="maximal-adjustment")
        name, how = _ESTIMATORS[method]
        estimate = model.estimate_effect(
            estimand,
            method_name=name,
            effect_modifiers=[],
            confidence_intervals=method == "regression",
            method_params=dict(how),
        )
        return model, estimand, estimate


def _told(method: str, estimate: Any) -> Estimate:
    if method != "regression":
        return Estimate(method, float(estimate.value))
    low, high = (float(end) for end in estimate.get_confidence_intervals()[0])
    return Estimate(method, float(estimate.value), low, high)
