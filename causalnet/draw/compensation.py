"""Plots of compensation: regressions on the direct effect, who responds, how many donors it takes, two models."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.draw.palette import INK, MUTED, PAPER, signed
from causalnet.draw.plots import (
    KINDS,
    depth_bar,
    depth_of,
    diagonal,
    layer_axis,
    line_width,
    points,
    present,
    spread,
    zero_line,
)
from causalnet.draw.style import (
    ARMS,
    caption,
    depth_map,
    drawable,
    kind_style,
    legend,
    panels,
    signed_map,
    slope_scale,
    styled,
)
from causalnet.draw.sweep import Array, Sweep, as_sweep, by_name, interval
from causalnet.effects.statistics import participation_ratio, regression
from causalnet.errors import InputError
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["best_layer", "ce_vs_direct", "compare", "coupling", "donor_convergence", "slopes"]

_TITLES = {"attn": "Attention ablated", "mlp": "MLP ablated"}


@styled
def ce_vs_direct(data: "xr.Dataset | Sweep", summary: Mapping[str, Any] | None = None) -> "list[Axes]":
    """Plot compensation against the ablated node's direct effect, with a fit per layer (Figures 7a and 7c).

    Parameters
    ----------
    data
        A sweep; ``ce`` and ``clean_direct`` are read, in the outcome's units.
    summary
        The run's summary: its slopes are drawn.  Without it they are fitted here (least squares).

    Returns
    -------
    list of Axes
        Attention, MLP; one point per prompt and layer.
    """
    sweep, rows = as_sweep(data), by_name(summary)
    kinds = present(sweep)
    axes = panels(len(kinds), width=9.6, height=4.1)
    for axis, kind in zip(axes, kinds, strict=True):
        places = sweep.of_kind(kind)
        x, y = sweep.clean[:, places], sweep.ce[:, places]
        points(axis, x, y, depth_of(sweep, places), sweep.layers)
        for place in places:
            _fit(axis, sweep, place, rows)
        diagonal(axis, x, "y = x: all comes back")
        zero_line(axis)
        axis.set_title(_TITLES[kind])
        axis.set_xlabel(f"direct effect, unablated ({sweep.words.unit})")
        axis.set_ylabel(f"compensation CE ({sweep.words.unit})")
    legend(axes)
    depth_bar(axes[0].figure, axes, sweep.layers)
    caption(axes[0].figure, f"{sweep.caption}. One point per prompt and layer; lines: least squares per layer over "
            "the middle 98 % of its direct effects. CE > 0: others make up for the loss.")  # fmt: skip
    return axes


def _slope(sweep: Sweep, place: int, rows: Mapping[str, Mapping[str, Any]]) -> tuple[float, float, float]:
    """Return slope, intercept and R² of a node, the slope as the summary has it."""
    x, y = sweep.clean[:, place], sweep.ce[:, place]
    fit = regression(x, y)
    slope, intercept, r2 = float(fit.slope), float(fit.intercept), float(fit.r2)
    row = rows.get(str(sweep.nodes[place]))
    if row is not None:
        slope, r2 = float(row["slope"]), float(row["r2"])
        intercept = float(y.mean() - slope * x.mean())  # a least-squares line passes through the means
    return slope, intercept, r2


def _fit(axis: "Axes", sweep: Sweep, place: int, rows: Mapping[str, Mapping[str, Any]]) -> None:
    slope, intercept, _ = _slope(sweep, place, rows)
    ends = np.quantile(sweep.clean[:, place], (0.01, 0.99))
    share = (sweep.nodes[place].layer or 0) / max(sweep.layers - 1, 1)
    axis.plot(ends, slope * ends + intercept, color=PAPER, linewidth=3.2, alpha=0.8, zorder=3)
    axis.plot(ends, slope * ends + intercept, color=depth_map()(share), linewidth=1.7, zorder=3.1)


@styled
def best_layer(
    data: "xr.Dataset | Sweep", summary: Mapping[str, Any] | None = None, node: Node | str | None = None,
    *, axis: "Axes | None" = None,
) -> "Axes":  # fmt: skip
    """Plot compensation against direct effect for one layer, with its fit (Figure 7b).

    Parameters
    ----------
    data
        A sweep; ``ce`` and ``clean_direct`` are read, in the outcome's units.
    summary
        The run's summary, for the interval of the slope and the p-value of its permutation null.
    node
        The ablated node; by default the attention layer with the largest R².
    axis
        Axes to draw into; by default those of a new figure.

    Returns
    -------
    Axes
        One point per prompt; the band is the 95 % interval of the line.
    """
    sweep, rows = as_sweep(data), by_name(summary)
    candidates = sweep.of_kind("attn") or list(range(len(sweep.nodes)))
    place = max(candidates, key=lambda one: _slope(sweep, one, rows)[2]) if node is None else sweep.place(node)
    x, y = sweep.clean[:, place], sweep.ce[:, place]
    slope, intercept, r2 = _slope(sweep, place, rows)
    own = axis is None
    axis = panels(width=5.8, height=4.0)[0] if axis is None else axis
    look = kind_style("mlp" if sweep.nodes[place].kind == "mlp" else "attn")
    axis.scatter(x, y, s=float(np.clip(4000 / x.size, 4, 24)), color=look["color"], alpha=0.5, linewidths=0,
                 rasterized=x.size > 400)  # fmt: skip
    grid = np.linspace(x.min(), x.max(), 60)
    band = _band(x, y, slope, intercept, grid)
    axis.fill_between(grid, slope * grid + intercept - band, slope * grid + intercept + band, color=INK, alpha=0.15,
                      linewidth=0)  # fmt: skip
    row = rows.get(str(sweep.nodes[place]), {})
    text = f"slope {signed(slope)}" + (_bounds(row["slope_ci"]) if "slope_ci" in row else "")
    axis.plot(grid, slope * grid + intercept, color=INK, label=f"{text}, R² {r2:.2f}")
    zero_line(axis)
    axis.set_title(f"{sweep.nodes[place]} ablated" + ("" if node is not None else " (largest R² of attention)"))
    axis.set_xlabel(f"direct effect, unablated ({sweep.words.unit})")
    axis.set_ylabel(f"compensation CE ({sweep.words.unit})")
    legend(axis)
    if own:
        null = f" Permutation null of the slope: p\u00a0=\u00a0{row['p_null']:.3g}." if "p_null" in row else ""
        caption(axis.figure, f"{sweep.caption}. Line: least squares, band: its 95 % interval; intercept "
                f"{signed(intercept)}.{null}", 96)  # fmt: skip
    return axis


def _bounds(pair: Any) -> str:
    low, high = (float(value) for value in pair)
    return f" [{signed(low)}, {signed(high)}]"


def _band(x: Array, y: Array, slope: float, intercept: float, grid: Array) -> Array:
    """Return the half width of the 95 % interval of a least-squares line."""
    from scipy.stats import t

    count, spread = x.size, float(((x - x.mean()) ** 2).sum())
    if count < 3 or spread == 0:
        return np.zeros_like(grid)
    error = float(((y - slope * x - intercept) ** 2).sum()) / (count - 2)
    return float(t.ppf(0.975, count - 2)) * np.sqrt(error * (1 / count + (grid - x.mean()) ** 2 / spread))


@styled
def slopes(data: "xr.Dataset | Sweep", summary: Mapping[str, Any] | None = None) -> "list[Axes]":
    """Plot slope and R² of compensation on direct effect per layer (Figure 7d).

    Parameters
    ----------
    data
        A sweep; ``ce`` and ``clean_direct`` are read, in the outcome's units.
    summary
        The run's summary, for its slopes with their intervals.

    Returns
    -------
    list of Axes
        Slope (fraction of the direct effect that comes back), R².
    """
    sweep, rows = as_sweep(data), by_name(summary)
    axes = panels(2, width=9.2, height=3.6)
    for offset, kind in zip((-0.1, 0.1), KINDS, strict=True):
        places = sweep.of_kind(kind)
        if not places:
            continue
        depth, look = depth_of(sweep, places) + offset, kind_style(kind)
        fits = np.array([_slope(sweep, place, rows) for place in places])
        bars = [rows.get(str(sweep.nodes[place]), {}).get("slope_ci") for place in places]
        _whiskers(axes[0], depth, bars, look["color"])
        width = line_width([sweep.nodes[place] for place in places])
        axes[0].plot(depth, fits[:, 0], linewidth=width, **look)
        axes[1].plot(depth, fits[:, 2], linewidth=width, **look)
    beyond = slope_scale(axes[0])
    zero_line(axes[0])
    for axis, title, label in zip(axes, ("Slope", "R²"), ("slope of CE on direct effect", "R²"), strict=True):
        layer_axis(axis, sweep.layers)
        axis.set_xlabel("ablated layer")
        axis.set_title(title)
        axis.set_ylabel(label)
    axes[1].set_ylim(-0.03, 1.03)
    axes[1].set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    legend(axes)
    bars = " Bars: 95 % intervals of the slope." if rows else ""
    caption(axes[0].figure, f"{sweep.caption}. Slope 0: no compensation; +1: all of the direct effect comes back "
            f"(exactly so under zero ablation).{bars}{beyond}")  # fmt: skip
    return axes


def _whiskers(axis: "Axes", x: Array, bars: list[Any], colour: str) -> None:
    for place, pair in zip(x, bars, strict=True):
        if pair is not None:
            axis.vlines(place, float(pair[0]), float(pair[1]), color=colour, linewidth=2.2, alpha=0.6)


@styled
def coupling(data: "xr.Dataset | Sweep") -> "list[Axes]":
    """Plot who responds to whom: mean ΔDE of every responder under every ablation, and how many carry it.

    Parameters
    ----------
    data
        A sweep; ``delta_de`` is read, in the outcome's units.

    Returns
    -------
    list of Axes
        The map (rows are ablated nodes, columns responders, both in order of computation; grey: cannot respond)
        and each row's participation ratio, (Σ|ΔDE|)² / ΣΔDE², 1 where a single responder carries all.

    Raises
    ------
    InputError
        If the sweep has no responders (a curved outcome).
    """
    sweep = as_sweep(data)
    sweep.need_responders("who responds to whom")
    rows = sorted(range(len(sweep.nodes)), key=lambda one: sweep.nodes[one].sort_key)
    columns = sorted(range(len(sweep.responders)), key=lambda one: sweep.responders[one].sort_key)
    values = np.ma.masked_equal(sweep.coupling[np.ix_(rows, columns)], 0.0)
    side = float(np.clip(0.2 * len(rows) + 1.8, 4.2, 8.2))
    axis, ratio = panels(2, width=side + 3.6, height=side, sharey=True, width_ratios=[side, 1.3])
    largest = float(np.abs(values).max()) if values.count() else 1.0
    colours = signed_map().with_extremes(bad=("#8b949e", 0.28))
    image = axis.imshow(values, cmap=colours, vmin=-largest, vmax=largest, interpolation="nearest", aspect="auto")
    axis.grid(visible=False)
    for set_ticks, places, nodes in (
        (axis.set_yticks, rows, sweep.nodes), (axis.set_xticks, columns, sweep.responders)
    ):  # fmt: skip
        step = max(1, -(-len(places) // 32))
        shown = range(0, len(places), step)
        set_ticks(list(shown), [str(nodes[places[one]]) for one in shown], fontsize=7)
    axis.tick_params(axis="x", rotation=90)
    axis.set_ylabel("ablated")
    axis.set_xlabel("responder")
    axis.set_title("Who responds: mean ΔDE")
    ratio.barh(range(len(rows)), participation_ratio(sweep.coupling[rows]), color=MUTED, height=0.7)
    ratio.tick_params(axis="y", labelleft=False, length=0)
    ratio.grid(axis="y", visible=False)
    ratio.set_xlabel("participation ratio\n(responders)")
    label = f"ΔDE ({sweep.words.unit}); blue rises, orange falls"
    bar = axis.figure.colorbar(image, ax=[axis, ratio], label=label, pad=0.01, aspect=28)
    bar.outline.set_visible(False)  # type: ignore[operator]
    caption(axis.figure, f"{sweep.caption}. Grey: not downstream of the ablated node. Participation ratio: "
            "(Σ|ΔDE|)² / ΣΔDE², about how many responders carry the response.", int(side * 17))  # fmt: skip
    return [axis, ratio]


@styled
def donor_convergence(data: "xr.Dataset | Sweep", node: Node | str | None = None) -> "list[Axes]":
    """Plot how the effects of one node and its slope settle as donors are added.

    Parameters
    ----------
    data
        A sweep with at least two donors.
    node
        The ablated node; by default the attention layer with the largest mean direct effect.

    Returns
    -------
    list of Axes
        Mean effects, slope; x is how many donors were averaged.

    Raises
    ------
    InputError
        If the sweep has one donor only.
    """
    from matplotlib.ticker import MaxNLocator

    sweep = as_sweep(data)
    if sweep.donors < 2:
        raise InputError("the sweep has one donor only, so there is nothing to converge; run it with more donors")
    place = sweep.strongest("attn") if node is None else sweep.place(node)
    counts = np.arange(1, sweep.donors + 1)
    running = {name: _running(sweep.data[name].isel(node=place)) for name in ("te", "de", "ce", "norm")}
    axes = panels(2, width=9.2, height=3.5)
    for (name, values), colour in zip(running.items(), (INK, *(arm[0] for arm in ARMS)), strict=False):
        mean, half = interval(values)
        axes[0].plot(counts, mean, color=colour, marker=".", label=name.upper())
        axes[0].fill_between(counts, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    slope = regression(np.broadcast_to(sweep.clean[:, [place]], running["ce"].shape), running["ce"]).slope
    axes[1].plot(counts, slope, color=INK, marker=".")
    zero_line(axes[0])
    axes[0].set_ylabel(f"mean effect ({sweep.words.unit})")
    axes[0].set_title(f"Effects of {sweep.nodes[place]}")
    axes[1].set_ylabel("slope of CE on direct effect")
    axes[1].set_title("Slope")
    legend(axes, 4)
    for axis in axes:
        axis.set_xlabel("donors averaged")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    caption(
        axes[0].figure,
        f"n = {sweep.prompts} prompts; the first donors of each prompt, in the order drawn; "
        f"{sweep.ablation} ablation; {sweep.scale}; effect = Y(do) − Y. Bands: 95 % t intervals over prompts.",
    )
    return axes


def _running(values: "xr.DataArray") -> Array:
    """Return ``[prompt, k]``: the mean over the first k donors that are there."""
    raw = np.asarray(values.transpose("prompt", "donor").values, dtype=float)
    there = np.isfinite(raw)
    return np.where(there, raw, 0.0).cumsum(axis=1) / np.maximum(there.cumsum(axis=1), 1)


@styled
def compare(summaries: Mapping[str, Mapping[str, Any]]) -> "list[Axes]":
    """Plot the slopes of two or more models side by side.

    Parameters
    ----------
    summaries
        Each model's summary under its name.

    Returns
    -------
    list of Axes
        Attention ablated, MLP ablated; bars are the slopes' intervals.

    Raises
    ------
    InputError
        If there are fewer than two models, or more than can be told apart.
    """
    if not 2 <= len(summaries) <= len(ARMS):
        raise InputError(f"{len(summaries)} models were given; a comparison shows 2 to {len(ARMS)}")
    axes = panels(2, width=9.2, height=3.6, sharey=True)
    deepest = 1
    for arm, ((name, summary), (colour, marker)) in enumerate(zip(summaries.items(), ARMS, strict=False)):
        offset = (arm - (len(summaries) - 1) / 2) * 0.18
        for axis, kind in zip(axes, KINDS, strict=True):
            rows = [(Node.parse(key), row) for key, row in by_name(summary).items()]
            rows = sorted(
                (one for one in rows if (one[0].kind == "mlp") == (kind == "mlp")), key=lambda one: one[0].sort_key
            )
            if not rows:
                continue
            nodes = [node for node, _ in rows]
            depth = spread(nodes)
            deepest = max(deepest, *(1 + (node.layer or 0) for node in nodes))
            _whiskers(axis, depth + offset, [row.get("slope_ci") for _, row in rows], colour)
            values = [row["slope"] for _, row in rows]
            axis.plot(depth + offset, values, color=colour, marker=marker, linewidth=line_width(nodes),
                      label=drawable(name, 40))  # fmt: skip
    beyond = slope_scale(axes[0])
    for axis, kind in zip(axes, KINDS, strict=True):
        zero_line(axis)
        layer_axis(axis, deepest)
        axis.set_xlabel("ablated layer")
        axis.set_title(_TITLES[kind])
    legend(axes)
    axes[0].set_ylabel("slope of CE on direct effect")
    counts = ", ".join(f"{drawable(name, 40)}: {summary.get('prompts', '?')}" for name, summary in summaries.items())
    caption(axes[0].figure, f"Prompts: {counts}. Bars: 95 % intervals of the slope. Slope 0: no compensation; +1: all "
            f"of the direct effect comes back; negative: what is downstream breaks.{beyond}")  # fmt: skip
    return axes
