"""How far an approximation is from the exact effects: rank correlation, and its worst misses.

Approximations by gradients fail where the network answers an ablation, so the report sets each error beside the
self-repair of the same intervention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from causalnet.effects.asking import Scm, answer
from causalnet.effects.estimands import natural_effects
from causalnet.effects.first_order import Approximation
from causalnet.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Comparison", "Miss", "compare_approximation"]


@dataclass(frozen=True)
class Miss:
    """One intervention that an approximation gets wrong; sizes are means over prompts and draws.

    Parameters
    ----------
    name
        The intervention.
    exact, estimate
        Mean effect (of a size-only estimate: mean sizes), in the outcome's units.
    self_repair
        Mean TE − NDE: what the network downstream gives back.
    """

    name: str
    exact: float
    estimate: float
    self_repair: float

    def __str__(self) -> str:
        return (
            f"{self.name}: exact {self.exact:+.3f}, estimated {self.estimate:+.3f}, self-repair {self.self_repair:+.3f}"
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """An approximation next to what it approximates.

    Attributes
    ----------
    method
        The approximation.
    names
        The interventions.
    exact, estimate, self_repair
        [prompt, draw, intervention], in the outcome's units.
    rank_correlation
        Spearman's, over interventions, of the mean sizes of effects: whether the same ones come out on top.
    signed_correlation
        Pearson's, over units and interventions, of the effects themselves; NaN for estimates of size.
    repair_correlation
        Pearson's, over interventions, between the mean error (in size, estimate less exact) and the mean size of
        the self-repair: large where the errors are self-repair that the gradients do not see.
    missed
        Interventions whose size is underestimated most, worst first.
    false_alarms
        Interventions whose size is overestimated most, worst first.
    signed
        Whether effects are estimated; False: their sizes alone.
    units
        Units of the outcome.
    """

    method: str
    names: tuple[str, ...]
    exact: np.ndarray
    estimate: np.ndarray
    self_repair: np.ndarray
    rank_correlation: float
    signed_correlation: float
    repair_correlation: float
    missed: tuple[Miss, ...]
    false_alarms: tuple[Miss, ...]
    signed: bool = True
    units: str = ""

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per intervention: mean ``exact, estimate, error, self_repair``; of sizes, where they are."""
        import pandas as pd

        exact = self.exact if self.signed else np.abs(self.exact)
        tables = {"exact": exact, "estimate": self.estimate, "self_repair": self.self_repair}
        means = {name: np.nanmean(table, axis=(0, 1)) for name, table in tables.items()}
        means["error"] = means["estimate"] - means["exact"]
        found = pd.DataFrame(means, index=pd.Index(self.names, name="intervention"))
        return found.reindex(columns=["exact", "estimate", "error", "self_repair"])

    def to_dataset(self) -> "xr.Dataset":
        """Return ``exact, estimate, self_repair`` [prompt, donor, intervention], in the outcome's units."""
        import xarray as xr

        dims = ("prompt", "donor", "intervention")
        tables = {"exact": self.exact, "estimate": self.estimate, "self_repair": self.self_repair}
        found = {name: (dims, table, {"units": self.units}) for name, table in tables.items()}
        told = {"rank_correlation": self.rank_correlation, "signed_correlation": self.signed_correlation}
        told |= {"repair_correlation": self.repair_correlation}
        return xr.Dataset(found, {"intervention": list(self.names)}, {"method": self.method, **told})

    def _repr_html_(self) -> str:
        from html import escape

        words = "<br>".join(map(escape, str(self).splitlines()))
        return f"<p>{words}</p>{self.to_dataframe().to_html(float_format='{:.4g}'.format)}"

    def __str__(self) -> str:
        lines = [
            f"{self.method} against exact effects of {len(self.names)} interventions",
            f"  correlation of sizes by rank {self.rank_correlation:.2f}, of effects {self.signed_correlation:.2f}",
            f"  correlation of the error with self-repair {self.repair_correlation:.2f}",
        ]
        for title, misses in (("missed", self.missed), ("false alarms", self.false_alarms)):
            lines += [f"  {title}:", *(f"    {miss}" for miss in misses)] if misses else [f"  {title}: none"]
        return "\n".join(lines)


def compare_approximation(model: Scm, approximation: Approximation, *, worst: int = 5) -> Comparison:
    """Compute the exact effects of an approximation's interventions and compare.

    Parameters
    ----------
    model
        The model on the prompts that were approximated.
    approximation
        What :func:`~causalnet.effects.approximate.attribution_patching` or another method returned.
    worst
        How many misses of each kind to list at most.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If the approximation is of other prompts, or holds fewer than two interventions.
    """
    names = tuple(approximation.interventions)
    if len(names) < 2:
        raise InputError(f"{len(names)} intervention{'s' * (len(names) != 1)}: a comparison needs at least two")
    found = [natural_effects(*s, outcome=approximation.outcome) for s in approximation.interventions.values()]
    tables = answer(model, [query for one in found for query in (one["TE"], one["NDE"])])
    estimate = approximation.values
    if len(tables[0]) != len(estimate):
        raise InputError(f"the approximation is of {len(estimate)} prompts, and the model is on {len(tables[0])}")
    shape = estimate.shape[:2]
    exact, direct = (np.stack([np.broadcast_to(t, shape) for t in tables[first::2]], -1) for first in (0, 1))
    repair = exact - direct
    sizes, guessed = (np.nanmean(np.abs(table), axis=(0, 1)) for table in (exact, estimate))
    misses = _misses(names, exact, estimate, repair, signed=approximation.signed)
    error = guessed - sizes
    order = np.argsort(error, kind="stable").tolist()
    fine = np.isfinite(estimate) & np.isfinite(exact)
    return Comparison(
        approximation.method,
        names,
        exact,
        estimate,
        repair,
        _correlation(_ranks(sizes), _ranks(guessed)),
        _correlation(exact[fine], estimate[fine]) if approximation.signed else float("nan"),
        _correlation(error, np.nanmean(np.abs(repair), axis=(0, 1))),
        tuple(misses[n] for n in order[:worst] if error[n] < -_TINY),
        tuple(misses[n] for n in order[::-1][:worst] if error[n] > _TINY),
        approximation.signed,
        approximation.outcome.units,
    )


_TINY = 1e-9


def _misses(
    names: Sequence[str], exact: np.ndarray, estimate: np.ndarray, repair: np.ndarray, *, signed: bool
) -> list[Miss]:
    shown = exact if signed else np.abs(exact)
    means = [np.nanmean(table, axis=(0, 1)) for table in (shown, estimate, repair)]
    return [Miss(name, *(float(mean[n]) for mean in means)) for n, name in enumerate(names)]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks, ties sharing their mean rank."""
    from scipy.stats import rankdata

    return rankdata(values)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Pearson's correlation; NaN where one of both does not vary."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
