"""Two models on the same prompts: paired differences with intervals, and what they say."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects.findings import number, spread
from causalnet.effects.parts import FRACTIONS, GROUPS, PARTS, by_kind, group, prompt_means
from causalnet.effects.statistics import Interval, function_interval, holm, mean_interval, slope_difference
from causalnet.effects.statistics.means import divide
from causalnet.effects.statistics.resampling import quiet, warn_few
from causalnet.errors import DataError, explain

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["compare"]

_ALPHA = 0.05


def compare(
    summary_a: Mapping[str, Any],
    ds_a: "xr.Dataset",
    summary_b: Mapping[str, Any],
    ds_b: "xr.Dataset",
    *,
    names: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Compare two sweeps prompt by prompt; every difference is second minus first.

    Prompts are matched by their text, nodes by their name; what only one sweep has is left out and counted.

    Parameters
    ----------
    summary_a, summary_b
        What :func:`~causalnet.effects.summarise` returned; level, seed and number of resamples are the first's.
    ds_a, ds_b
        The sweeps.
    names
        What to call them; the models' names when not given.

    Returns
    -------
    dict
        ``names, prompts, same_target, nodes, pooled, findings``; JSON-ready.  ``nodes`` holds per node the
        differences of means (in the outcome's units), of slopes and of pooled fractions, each with an interval over
        prompts; ``pooled`` the same for Σ part / Σ(−DE) over groups of nodes.

    Raises
    ------
    DataError
        If the sweeps share no prompt or no node, or differ in ablation, position or units.
    """
    for key in ("ablation", "position", "units"):
        if ds_a.attrs[key] != ds_b.attrs[key]:
            raise DataError(f"the sweeps differ in {key}: {ds_a.attrs[key]!r} and {ds_b.attrs[key]!r}")
    names = names or (str(summary_a["model"]), str(summary_b["model"]))
    rows = _matched(ds_a, ds_b)
    nodes = [name for name in ds_a["node"].values.tolist() if name in set(ds_b["node"].values.tolist())]
    if not nodes:
        raise DataError("the two sweeps share no node")
    pair = []
    for ds, row in ((ds_a, rows[0]), (ds_b, rows[1])):
        columns = [ds["node"].values.tolist().index(name) for name in nodes]
        pair.append({key: values[row][:, columns] for key, values in prompt_means(ds).items()})
    warn_few(len(rows[0]))
    options = {"level": summary_a["level"], "draws": summary_a["bootstrap"], "seed": summary_a["seed"]}
    targets = [ds["target"].values[row] for ds, row in ((ds_a, rows[0]), (ds_b, rows[1]))]
    result = {
        "names": list(names),
        "difference": f"{names[1]} minus {names[0]}",
        "level": float(summary_a["level"]),
        "prompts": len(rows[0]),
        "prompts_left_out": [ds.sizes["prompt"] - len(rows[0]) for ds in (ds_a, ds_b)],
        "same_target": int(np.sum(targets[0] == targets[1])),
    }
    with quiet():
        parts = by_kind(by_kind(PARTS, ds_a), ds_b)
        result |= {"pooled": _pooled(pair, nodes, parts, options), "nodes": _nodes(pair, nodes, parts, options)}
    result["findings"] = _sentences(result)
    return result


def _matched(ds_a: "xr.Dataset", ds_b: "xr.Dataset") -> tuple[list[int], list[int]]:
    """Rows of the prompts that both hold; a text that occurs twice is matched in order."""
    places: dict[str, list[int]] = {}
    for row, text in enumerate(ds_b["text"].values.tolist()):
        places.setdefault(text, []).append(row)
    rows: tuple[list[int], list[int]] = ([], [])
    for row, text in enumerate(ds_a["text"].values.tolist()):
        if places.get(text):
            rows[0].append(row)
            rows[1].append(places[text].pop(0))
    if not rows[0]:
        raise DataError(explain("the two sweeps share no prompt", mend="run both models on the same prompts"))
    return rows


def _nodes(
    pair: list[dict[str, np.ndarray]], names: list[str], parts: tuple[str, ...], options: dict[str, Any]
) -> list[dict[str, Any]]:
    from scipy.special import stdtr

    a, b = pair
    means = mean_interval(np.stack([b[name] - a[name] for name in parts], axis=-1), **options)
    columns: dict[str, Interval] = {}
    for place, name in enumerate(parts):
        columns[name] = Interval(*(part[:, place] for part in (means.estimate, means.se, means.low, means.high)))
    n = len(a["clean"])
    for key, part in (("slope", "ce"), ("slope_ce_attn", "ce_attn"), ("slope_repair", "self_repair")):
        if part not in parts:
            continue
        columns[key] = slope_difference((b["clean"], b[part]), (a["clean"], a[part]), **options)
    columns["pooled"] = _fraction(pair, "self_repair", options)
    slope = columns["slope"]
    p = np.where(slope.se > 0, 2 * stdtr(max(1, n - 2), -np.abs(divide(slope.estimate, slope.se))), 1.0)
    adjusted = holm(p)
    found = []
    for place, name in enumerate(names):
        entry: dict[str, Any] = {"name": name}
        for key, interval in columns.items():
            entry[key] = float(interval.estimate[place])
            entry[f"{key}_ci"] = [float(interval.low[place]), float(interval.high[place])]
        found.append({**entry, "slope_p": float(p[place]), "slope_p_holm": float(adjusted[place])})
    return found


def _pooled(
    pair: list[dict[str, np.ndarray]], names: list[str], parts: tuple[str, ...], options: dict[str, Any]
) -> dict[str, Any]:
    inside = {which: group(names, which) for which in GROUPS}
    inside = {which: chosen for which, chosen in inside.items() if chosen.any()}
    masks = np.stack(list(inside.values()), axis=1).astype(np.float64)  # [node, group]
    summed = [{key: values @ masks for key, values in one.items()} for one in pair]  # [prompt, group]
    lost = [mean_interval(-one["de"], **options) for one in summed]
    stable = lost[0].excludes(0.0) & lost[1].excludes(0.0) & (len(pair[0]["de"]) >= 3)
    shares = {part: _fraction(summed, part, options) for part in FRACTIONS if part in parts}
    found: dict[str, Any] = {}
    for place, (which, chosen) in enumerate(inside.items()):
        entry: dict[str, Any] = {"nodes": int(chosen.sum()), "stable": bool(stable[place])}
        entry["lost"] = [float(one.estimate[place]) for one in lost]
        for part, share in shares.items():
            tops = [one[part][:, place].sum() for one in summed]
            entry[part] = {
                "values": [
                    float(divide(top, -one["de"][:, place].sum())) for top, one in zip(tops, summed, strict=True)
                ],
                "difference": float(share.estimate[place]),
                "difference_ci": [float(share.low[place]), float(share.high[place])],
            }
        found[which] = entry
    return found


def _fraction(pair: list[dict[str, np.ndarray]], part: str, options: dict[str, Any]) -> Interval:
    """Difference (second minus first) of Σ part / Σ(−DE), resampling each prompt in both at once."""
    a, b = pair
    data = np.stack([a[part], -a["de"], b[part], -b["de"]], axis=1)

    def value(m: np.ndarray) -> np.ndarray:
        return divide(m[2], m[3]) - divide(m[0], m[1])

    def gradient(m: np.ndarray) -> np.ndarray:
        one = np.ones_like(m[0])
        return np.stack([-divide(one, m[1]), divide(m[0], m[1] ** 2), divide(one, m[3]), -divide(m[2], m[3] ** 2)])

    return function_interval(data, value, gradient, **options)


def _sentences(result: Mapping[str, Any]) -> list[str]:
    first, second = result["names"]
    level, nodes = result["level"], result["nodes"]
    if result["prompts"] < 3:
        return [f"{result['prompts']} shared prompts are too few to compare {first} and {second}."]
    more = [one for one in nodes if one["slope_ci"][0] > 0 and one["slope_p_holm"] < _ALPHA]
    less = [one for one in nodes if one["slope_ci"][1] < 0 and one["slope_p_holm"] < _ALPHA]
    largest = max(nodes, key=lambda one: abs(one["slope"]))
    if more or less:
        said = (
            f"Over {result['prompts']} shared prompts the compensation slope is larger in {second} than in {first} at "
            f"{len(more)} of {len(nodes)} nodes and smaller at {len(less)}; the largest difference is "
            f"{spread(largest, 'slope', level)} at {largest['name']}."
        )
    else:
        said = (
            f"Over {result['prompts']} shared prompts no node's compensation slope differs between {first} and "
            f"{second}; the largest difference is {spread(largest, 'slope', level)} at {largest['name']}."
        )
    return [said, *(_group_sentence(result, which) for which in ("attn", "mlp") if which in result["pooled"])]


def _group_sentence(result: Mapping[str, Any], which: str) -> str:
    first, second = result["names"]
    entry = result["pooled"][which]
    what = {"attn": "attention layers", "mlp": "MLPs"}[which]
    if not entry["stable"]:
        return (
            f"What ablating {what} removes directly cannot be told from 0 in at least one model: no share is compared."
        )
    parts = []
    shown = (("self_repair", "in all"), ("ce_attn", "by attention"), ("ce_mlp", "by MLPs"), ("norm", "by the norm"))
    if "ce_attn" not in entry:
        shown = (("self_repair", "in all"), ("ce", "by later layers"), ("norm", "by the norm"))
    for key, name in shown:
        one = entry[key]
        low, high = one["difference_ci"]
        sense = "no clear difference" if low <= 0 <= high else f"{number(one['difference'], True)} points"
        values = " and ".join(f"{number(value, True)} %" for value in one["values"])
        parts.append(f"{name} {values} ({sense}, interval {number(low, True)} to {number(high, True)})")
    return f"Of what ablating {what} removes directly, {first} and {second} return " + "; ".join(parts) + "."
