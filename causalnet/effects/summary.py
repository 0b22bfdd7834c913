"""A sweep in numbers: means, slopes, fractions, closure, each with its interval.

:func:`summarise` makes what ``summary.json`` holds; :func:`findings` says it in three sentences;
:func:`compare` (in :mod:`causalnet.effects.comparison`) sets two models side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from causalnet.effects.comparison import compare
from causalnet.effects.findings import findings
from causalnet.effects.parts import (
    FRACTIONS,
    GROUPS,
    PARTS,
    by_kind,
    cells,
    closure,
    group,
    prompt_means,
    response_means,
    self_repair,
)
from causalnet.effects.statistics import (
    Interval,
    benjamini_hochberg,
    crossed_mean_interval,
    crossed_slope_interval,
    holm,
    mean_interval,
    permutation_p,
    r2_interval,
    ratio_interval,
    regression,
    slope_interval,
)
from causalnet.effects.statistics.resampling import FEW, quiet, warn_few
from causalnet.effects.words import words_of
from causalnet.errors import InputError, NonFiniteError, explain

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["compare", "findings", "self_repair", "summarise"]

_POOLS = ("conditional", "random")
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class _Sample:
    """A sweep's numbers and how its intervals are to be made; ``cells`` are there for a random pool alone."""

    cells: Mapping[str, np.ndarray]
    means: Mapping[str, np.ndarray]
    donors: np.ndarray
    shared: bool
    random: bool
    level: float
    draws: int
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        return {"level": self.level, "draws": self.draws, "seed": self.seed}

    def mean(self, names: tuple[str, ...]) -> dict[str, Interval]:
        """Mean of each part at each node."""
        if self.random:
            stacked = np.stack([self.cells[name] for name in names], axis=-1).swapaxes(1, 2)
            found = crossed_mean_interval(stacked, self.donors, shared=self.shared, **self.options)
        else:
            found = mean_interval(np.stack([self.means[name] for name in names], axis=-1), **self.options)
        return {name: _column(found, place) for place, name in enumerate(names)}

    def slope(self, x: np.ndarray, name: str) -> Interval:
        """Slope of a part's donor mean on x at each node."""
        if self.random:
            values = self.cells[name].swapaxes(1, 2)
            return crossed_slope_interval(x, values, self.donors, shared=self.shared, **self.options)
        return slope_interval(x, self.means[name], **self.options)

    @property
    def parts(self) -> Mapping[str, np.ndarray]:
        """Every part: [prompt, node], or [prompt, donor, node] for a random pool."""
        if not self.random:
            return self.means
        return {name: part.swapaxes(1, 2) for name, part in self.cells.items()}

    def fraction(self, top: np.ndarray, bottom: np.ndarray) -> Interval:
        """Σ top / Σ bottom [...] of what was made of :attr:`parts`."""
        if not self.random:
            return ratio_interval(top, bottom, **self.options)
        mean_top, mean_bottom = np.nanmean(top, axis=1), np.nanmean(bottom, axis=1)
        found = ratio_interval(mean_top, mean_bottom, **self.options)
        # The delta method: to first order the ratio errs as the mean of these scores does.
        total = mean_bottom.mean(0)
        safe = np.where(total == 0, 1.0, total)
        scores = np.where(total == 0, 0.0, (top - found.estimate * bottom) / safe)
        error = crossed_mean_interval(scores, self.donors, shared=self.shared, **self.options)
        return Interval(found.estimate, error.se, found.estimate + error.low, found.estimate + error.high)


def summarise(
    ds: "xr.Dataset",
    *,
    wall_s: float = 0.0,
    seed: int = 0,
    bootstrap: int = 2000,
    permutations: int = 2000,
    level: float = 0.95,
    pool: Literal["conditional", "random"] = "conditional",
) -> dict[str, Any]:
    """Summarise a sweep: the content of ``summary.json``, every number finite and JSON-ready.

    Means are over prompts of the mean over each prompt's donors, in the outcome's units; effect = Y(do) − Y.

    Parameters
    ----------
    ds
        A sweep's result (see :mod:`causalnet.effects.schema`).
    wall_s
        Seconds that the sweep took, recorded as given.
    seed
        Of all resampling.
    bootstrap, permutations
        Number of resamples, of permutations.
    level
        Confidence level.
    pool
        ``conditional``: intervals say what other prompts would give with this donor pool;
        ``random``: with other donors too (crossed; intervals of ``r2`` and ``above_drop`` and the permutation
        null stay conditional).

    Returns
    -------
    dict
        ``model, ablation, prompts, donors, closure_max_abs, closure_max_rel, wall_s, nodes, pooled, warnings`` and
        how they were made.  ``nodes`` is a list of dicts, one per node, ``pooled`` holds Σ part / Σ(−DE)
        over groups of nodes; docs/schema.md says what every key means.

    Raises
    ------
    InputError
        If ``pool`` is unknown, or ``random`` for an ablation that draws no donors.
    NonFiniteError
        If a number is not finite.

    Warns
    -----
    FewPromptsWarning
        With fewer than 30 prompts.
    """
    if pool not in _POOLS:
        raise InputError(explain(f"unknown pool {pool!r}", legal=_POOLS, got=str(pool)))
    if pool == "random" and ds.attrs["donor_pool"] == "none":
        raise InputError(explain(f"{ds.attrs['ablation']} draws no donors", mend="use pool='conditional'"))
    labels = ds["prompt"].values.tolist()
    sample = _Sample(
        cells(ds) if pool == "random" else {},
        prompt_means(ds),
        _positions(ds["donor_index"].values, labels),
        ds.attrs["donor_pool"] == "prompts",
        pool == "random",
        level,
        bootstrap,
        seed,
    )
    largest, relative = closure(ds)
    names, words = ds["node"].values.tolist(), words_of(ds)
    used = ds["donors_used"].values
    summary = {
        "model": ds.attrs["model"],
        "ablation": ds.attrs["ablation"],
        "position": ds.attrs["position"],
        "outcome": words.outcome,
        "units": words.units,
        "unit": words.unit,
        "by_responder": words.by_responder,
        "sign": ds.attrs["sign"],
        "estimand": ds.attrs["estimand"],
        "pool": pool,
        "prompts": len(labels),
        "donors": int(used.max()),
        "donors_min": int(used.min()),
        "closure_max_abs": largest,
        "closure_max_rel": relative,
        "wall_s": float(wall_s),
        "level": float(level),
        "seed": int(seed),
        "bootstrap": int(bootstrap),
        "permutations": int(permutations),
        "warnings": _warnings(len(labels), used),
    }
    warn_few(len(labels))
    with quiet():
        summary |= {"pooled": _pooled(ds, sample, names), "nodes": _nodes(ds, sample, names, permutations)}
    return _plain(summary, "summary")


def _nodes(ds: "xr.Dataset", sample: _Sample, names: list[str], permutations: int) -> list[dict[str, Any]]:
    means, clean = sample.means, sample.means["clean"]
    lost = -means["de"]
    columns: dict[str, Any] = {"name": names}
    intervals = sample.mean(by_kind(PARTS, ds))
    loss = intervals["de"]
    for name, found in intervals.items():
        _put(columns, name, found)
    columns["clean_direct"] = clean.mean(0)
    fit = regression(clean, means["ce"])
    _put(columns, "slope", sample.slope(clean, "ce"))
    columns |= {"intercept": fit.intercept, "r2": fit.r2}
    columns["r2_ci"] = _ends(r2_interval(clean, means["ce"], **sample.options))
    p = permutation_p(clean, means["ce"], draws=permutations, seed=sample.seed)
    tested = np.ptp(means["ce"], axis=0) > 0
    columns["p_null"] = p
    for key, adjust in (("p_holm", holm), ("p_bh", benjamini_hochberg)):
        adjusted = np.ones_like(p)
        # A node without responders is not a hypothesis that could have been rejected.
        adjusted[tested] = adjust(p[tested])
        columns[key] = adjusted
    _put(columns, "slope_lost", sample.slope(lost, "ce"))
    columns["r2_lost"] = regression(lost, means["ce"]).r2
    for one in by_kind(("ce_attn", "ce_mlp"), ds):
        part = regression(clean, means[one])
        columns |= {f"slope_{one}": part.slope, f"r2_{one}": part.r2}
    _put(columns, "slope_repair", sample.slope(clean, "self_repair"))
    columns["r2_te"] = regression(clean, means["te"]).r2
    _put(columns, "pooled", sample.fraction(sample.parts["self_repair"], -sample.parts["de"]))
    columns["pooled_stable"] = _stable(loss, len(clean))
    _put(columns, "above_drop", _share(mean_interval(clean > -means["te"], **sample.options)))
    columns["responders"] = _responders(ds)
    return [{key: values[place] for key, values in columns.items()} for place in range(len(names))]


def _pooled(ds: "xr.Dataset", sample: _Sample, names: list[str]) -> dict[str, Any]:
    """Σ part / Σ(−DE) over the prompts and the nodes of each group, and how often repair beats breakage."""
    inside = {which: group(names, which) for which in GROUPS}
    inside = {which: chosen for which, chosen in inside.items() if chosen.any()}
    masks = np.stack(list(inside.values()), axis=1).astype(np.float64)  # [node, group]
    summed = {name: part @ masks for name, part in sample.parts.items()}  # [prompt, (donor,) group]
    lost = -summed["de"]
    loss = mean_interval(-sample.means["de"] @ masks, **sample.options)
    kept = by_kind(FRACTIONS, ds)
    top = np.stack([summed[part] for part in kept], axis=-1)
    shares = sample.fraction(top, np.broadcast_to(lost[..., None], top.shape))
    eligible = (sample.means["de"] < 0).astype(np.float64)
    # What is within rounding of nothing repairs nothing.
    repaired = eligible * (sample.means["self_repair"] > _ROUNDING * np.abs(sample.means["de"]))
    pairs = _share(ratio_interval(repaired @ masks, eligible @ masks, **sample.options))
    stable = _stable(loss, len(lost))
    found: dict[str, Any] = {}
    for place, (which, chosen) in enumerate(inside.items()):
        entry: dict[str, Any] = {"nodes": int(chosen.sum()), "stable": stable[place]}
        _put(entry, "lost", _column(loss, place))
        for rank, part in enumerate(kept):
            _put(entry, part, _column(_column(shares, rank), place))
        _put(entry, "repaired_pairs", _column(pairs, place))
        found[which] = entry
    return found


def _share(found: Interval) -> Interval:
    """Cut an interval of a share at 0 and 1: a bootstrap of rare events knows no such bounds."""
    return Interval(found.estimate, found.se, *(np.clip(end, 0.0, 1.0) for end in (found.low, found.high)))


def _stable(lost: Interval, prompts: int) -> np.ndarray:
    """Whether what was lost is clearly not 0, so that a share of it means something."""
    return lost.excludes(0.0) & (prompts >= 3)


def _responders(ds: "xr.Dataset", most: int = 3) -> list[list[dict[str, Any]]]:
    """For each node the responders with the largest mean change of direct effect."""
    names = ds["responder"].values.tolist()
    delta = response_means(ds).mean(0, dtype=np.float64) if names else np.zeros((1, 0))
    lists = []
    for row in delta:
        order = [place for place in np.argsort(-np.abs(row), kind="stable")[:most] if row[place] != 0]
        lists.append([{"name": names[place], "delta_de": float(row[place])} for place in order])
    return lists if names else [[] for _ in range(ds.sizes["node"])]


def _positions(index: np.ndarray, labels: list[int]) -> np.ndarray:
    """Donor numbers as rows of this dataset; donors that are not among its prompts come after them."""
    place = {label: row for row, label in enumerate(labels)}
    outside = sorted({one for one in np.unique(index).tolist() if one >= 0 and one not in place})
    place |= {label: len(labels) + rank for rank, label in enumerate(outside)}
    return np.array([[place.get(one, -1) for one in row] for row in index.tolist()])


def _warnings(prompts: int, used: np.ndarray) -> list[str]:
    found = []
    if prompts < 3:
        found.append(f"{prompts} prompt{'' if prompts == 1 else 's'}: too few for intervals, whose ends say nothing")
    elif prompts < FEW:
        found.append(f"{prompts} prompts: with fewer than {FEW} the intervals may not cover")
    short = int((used < used.max()).sum())
    if short:
        found.append(f"{short} of {prompts} prompts had fewer than {used.max()} eligible donors")
    return found


def _column(found: Interval, place: int) -> Interval:
    return Interval(*(part[..., place] for part in (found.estimate, found.se, found.low, found.high)))


def _ends(found: Interval) -> np.ndarray:
    return np.stack([found.low, found.high], axis=-1)


def _put(columns: dict[str, Any], name: str, found: Interval) -> None:
    columns[name], columns[f"{name}_ci"] = found.estimate, _ends(found)


def _plain(value: Any, where: str) -> Any:
    """Turn arrays and numpy scalars into lists and Python numbers; refuse what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(one, f"{where}.{key}") for key, one in value.items()}
    if isinstance(value, (list, np.ndarray)) and np.ndim(value):
        return [_plain(one, f"{where}[{place}]") for place, one in enumerate(value)]
    if isinstance(value, (list, np.ndarray, np.generic)):
        value = np.asarray(value).item() if not isinstance(value, list) else value
    if isinstance(value, float):
        if not np.isfinite(value):
            raise NonFiniteError(f"{where} is {value}")
        return value + 0.0  # −0 is 0
    return value
