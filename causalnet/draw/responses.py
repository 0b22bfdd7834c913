"""Plots of what answers an ablation: how well the direct effect predicts it, attention and MLPs apart, variants."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.draw.palette import INK, signed
from causalnet.draw.plots import KINDS, depth_of, layer_axis, line_width, present, spread, zero_line
from causalnet.draw.style import ARMS, caption, drawable, kind_style, legend, panels, slope_scale, styled
from causalnet.draw.sweep import Array, Sweep, as_sweep, by_name, interval
from causalnet.effects.statistics import r2_interval, regression
from causalnet.effects.words import words_of
from causalnet.errors import InputError, explain
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["by_responder_kind", "explained", "variants"]

_NAMES = {"attn": "attention", "mlp": "MLPs"}
_IN_UNITS = {
    "te": "TE", "de": "DE", "ce": "CE", "norm": "NORM", "self_repair": "CE + NORM", "ce_attn": "CE of attention",
    "ce_mlp": "CE of MLPs", "clean_direct": "direct effect",
}  # fmt: skip
_QUANTITIES = _IN_UNITS | {
    "slope": "slope of CE on direct effect", "r2": "R² of CE on direct effect",
    "pooled": "Σ(CE + NORM) / Σ(−DE)", "above_drop": "share of prompts above the drop",
}  # fmt: skip


@styled
def explained(data: "xr.Dataset | Sweep", summary: Mapping[str, Any] | None = None) -> "list[Axes]":
    """Plot per layer how much of the total effect the direct effect explains, and how often less is lost (Figure 2d).

    Parameters
    ----------
    data
        A sweep; ``clean_direct`` and ``te`` are read, in the outcome's units.
    summary
        The run's summary, for ``above_drop`` with its intervals; without it they are t intervals.

    Returns
    -------
    list of Axes
        Share of the variance of TE over prompts that the clean direct effect explains (R²); share of prompts
        whose clean direct effect exceeds the drop, −TE.
    """
    sweep, rows = as_sweep(data), by_name(summary)
    variance, above = panels(2, width=9.2, height=3.6)
    for offset, kind in zip((-0.1, 0.1), present(sweep), strict=False):
        places = sweep.of_kind(kind)
        depth = depth_of(sweep, places) + offset
        look = {"linewidth": line_width([sweep.nodes[place] for place in places])} | kind_style(kind)
        shares, low, high = _r2(sweep, places)
        _bars(variance, depth, shares, low, high, look)
        shares, low, high = _above(sweep, places, rows)
        _bars(above, depth, shares, low, high, look)
    for axis, title, label in (
        (variance, "Variance of TE explained", "R² of TE on direct effect"),
        (above, "Direct effect above the drop", "share of prompts"),
    ):
        layer_axis(axis, sweep.layers)
        axis.set_xlabel("ablated layer")
        axis.set_title(title)
        axis.set_ylabel(label)
        axis.set_ylim(-0.03, 1.03)
        axis.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    above.axhline(0.5, color=INK, linewidth=0.7, linestyle=(0, (4, 3)))
    legend([variance, above])
    caption(variance.figure, f"{sweep.caption}. Bars: 95 % intervals over prompts. Right: the share of prompts where "
            "less is lost (−TE) than the layer gave by itself; dashed: one half.")  # fmt: skip
    return [variance, above]


def _r2(sweep: Sweep, places: Sequence[int]) -> tuple[Array, Array, Array]:
    from causalnet.effects.statistics.resampling import quiet

    x, y = sweep.clean[:, places], sweep.te[:, places]
    estimate = np.asarray(regression(x, y).r2, dtype=np.float64)
    if sweep.prompts < 4:
        return estimate, estimate, estimate
    with quiet():  # the caption says n
        found = r2_interval(x, y, draws=1000)
    return estimate, found.low, found.high


def _above(sweep: Sweep, places: Sequence[int], rows: Mapping[str, Mapping[str, Any]]) -> tuple[Array, Array, Array]:
    mean, half = interval((sweep.clean[:, places] > -sweep.te[:, places]).astype(np.float64))
    low, high = np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1)
    for at, place in enumerate(places):
        row = rows.get(str(sweep.nodes[place]), {})
        if "above_drop_ci" in row:
            mean[at], (low[at], high[at]) = row["above_drop"], row["above_drop_ci"]
    return mean, low, high


def _bars(axis: "Axes", x: Array, values: Array, low: Array, high: Array, look: Mapping[str, Any]) -> None:
    axis.vlines(x, low, high, color=look["color"], linewidth=2.2, alpha=0.6)
    axis.plot(x, values, **look)


@styled
def by_responder_kind(
    data: "xr.Dataset | Sweep", nodes: "Sequence[Node | str] | None" = None
) -> "list[Axes]":  # fmt: skip
    """Plot the responses of attention and of MLPs apart, against the ablated layer's direct effect (Figure 8).

    Parameters
    ----------
    data
        A sweep; ``delta_de`` and ``clean_direct`` are read, in the outcome's units.
    nodes
        The ablated nodes, one column each (four at most); by default the three attention layers with the largest
        R² of CE on the direct effect, in order.

    Returns
    -------
    list of Axes
        First the row of attention's responses, then that of MLPs'; one point per prompt, the fit's slope and R²,
        and the mean share of CE that this kind carries.

    Raises
    ------
    UnknownNodeError
        If a node was not ablated.
    InputError
        If there are none or more than four, or the sweep has no responders (a curved outcome).
    """
    sweep = as_sweep(data)
    sweep.need_responders("the responses of attention and of MLPs")
    places = _steady(sweep) if nodes is None else [sweep.place(node) for node in nodes]
    if not 1 <= len(places) <= 4:
        raise InputError(f"{len(places)} nodes were given; this figure shows 1 to 4")
    axes = panels(len(places), 2, width=3.1 * len(places) + 0.9, height=5.4, sharex="col", sharey="row")
    for at, (kind, response) in enumerate((("attn", sweep.delta_attn), ("mlp", sweep.delta_mlp))):
        for column, place in enumerate(places):
            _response(axes[at * len(places) + column], sweep, place, kind, response[:, place])
    for column, place in enumerate(places):
        axes[column].set_title(f"{sweep.nodes[place]} ablated")
        axes[len(places) + column].set_xlabel(f"direct effect, unablated ({sweep.words.unit})")
    for at, kind in enumerate(KINDS):
        axes[at * len(places)].set_ylabel(f"ΔDE of {_NAMES[kind]} ({sweep.words.unit})")
    legend(axes, columns=1)
    caption(axes[0].figure, f"{sweep.caption}. One point per prompt: the summed ΔDE of all later attention layers "
            "(above) and MLPs (below). Lines: least squares. Share: of the mean CE.", 46 * len(places))  # fmt: skip
    return axes


def _steady(sweep: Sweep) -> list[int]:
    places = [place for place in sweep.of_kind("attn") if sweep.ce[:, place].any()] or sweep.of_kind("attn")
    places = places or list(range(len(sweep.nodes)))
    best = sorted(places, key=lambda place: -float(regression(sweep.clean[:, place], sweep.ce[:, place]).r2))
    return sorted(best[:3])


def _response(axis: "Axes", sweep: Sweep, place: int, kind: str, y: Array) -> None:
    x, whole = sweep.clean[:, place], float(sweep.ce[:, place].mean())
    fit = regression(x, y)
    share = f", {y.mean() / whole:.0%} of CE".replace("-", "−") if abs(whole) > 1e-9 else ""
    axis.scatter(x, y, s=float(np.clip(3000 / x.size, 3, 20)), color=kind_style(kind)["color"], alpha=0.5,
                 linewidths=0, rasterized=x.size > 400)  # fmt: skip
    ends = np.array([x.min(), x.max()])
    label = f"slope {signed(float(fit.slope))}, R² {float(fit.r2):.2f}{share}"
    axis.plot(ends, float(fit.slope) * ends + float(fit.intercept), color=INK, label=label)
    zero_line(axis)


@styled
def variants(
    family: str, summaries: Mapping[str, Mapping[str, Any]], quantities: Sequence[str] = ("slope", "te", "ce")
) -> "list[Axes]":
    """Plot what one choice of a study changes: numbers per layer, one line per variant, with intervals.

    Parameters
    ----------
    family
        What was chosen differently: ablation, position, outcome, …
    summaries
        Each variant's summary under its label (2 to 8 of them).
    quantities
        Numbers of a summary's nodes, such as ``slope``, ``te`` and ``ce``; one column each.

    Returns
    -------
    list of Axes
        First the row of ablated attention, then that of MLPs (where there are such nodes).

    Raises
    ------
    InputError
        If there are fewer than two variants or more than can be told apart, or a quantity is unknown.
    """
    if not 2 <= len(summaries) <= len(ARMS):
        raise InputError(f"{len(summaries)} variants were given; this figure shows 2 to {len(ARMS)}")
    for name in quantities:
        if name not in _QUANTITIES:
            raise InputError(explain(f"unknown quantity {name!r}", legal=_QUANTITIES, got=name))
    rows = {label: [(Node.parse(key), row) for key, row in by_name(one).items()] for label, one in summaries.items()}
    kinds = [kind for kind in KINDS if any(_of(node, kind) for found in rows.values() for node, _ in found)] or ["attn"]
    layers = 1 + max((node.layer or 0 for found in rows.values() for node, _ in found), default=0)
    axes = panels(len(quantities), len(kinds), width=3.5 * len(quantities) + 0.5, height=2.5 * len(kinds) + 1.2)
    units = dict.fromkeys(words_of(one).unit for one in summaries.values())
    unit = next(iter(units)) if len(units) == 1 else "each in its own units"
    beyond = ""
    for at, kind in enumerate(kinds):
        for column, name in enumerate(quantities):
            axis = axes[at * len(quantities) + column]
            _lines(axis, rows, kind, name)
            beyond = (slope_scale(axis) if name in ("slope", "pooled") else "") or beyond
            zero_line(axis)
            layer_axis(axis, layers)
            axis.set_xlabel("ablated layer")
            axis.set_ylabel(f"{_QUANTITIES[name]} ({unit})" if name in _IN_UNITS else _QUANTITIES[name])
            axis.set_title(f"{'MLP' if kind == 'mlp' else 'Attention'} ablated")
    _key(axes[0], list(summaries))
    counts = ", ".join(f"{drawable(label, 30)}: {one.get('prompts', '?')}" for label, one in summaries.items())
    caption(axes[0].figure, f"Variants by {drawable(family, 40)}; prompts: {counts}; effect = Y(do) − Y, {unit}. "
            f"Bars: 95 % intervals over prompts.{beyond}", 50 * len(quantities))  # fmt: skip
    return axes


def _of(node: Node, kind: str) -> bool:
    return (node.kind == "mlp") == (kind == "mlp") and node.layer is not None


def _lines(axis: "Axes", rows: Mapping[str, list[tuple[Node, Mapping[str, Any]]]], kind: str, name: str) -> None:
    for at, (found, (colour, marker)) in enumerate(zip(rows.values(), ARMS, strict=False)):
        shown = sorted((one for one in found if _of(one[0], kind) and name in one[1]), key=lambda one: one[0].sort_key)
        if not shown:
            continue
        nodes = [node for node, _ in shown]
        heads = line_width(nodes) == 0
        depth = spread(nodes) + (at - (len(rows) - 1) / 2) * (0.06 if heads else 0.7 / len(rows))
        for x, (_, row) in zip(depth, shown, strict=True):
            if f"{name}_ci" in row:
                axis.vlines(x, *row[f"{name}_ci"], color=colour, linewidth=1.8, alpha=0.6)
        axis.plot(depth, [row[name] for _, row in shown], color=colour, marker=marker, markersize=3.6,
                  linewidth=0 if heads else 1.0)  # fmt: skip


def _key(axis: "Axes", labels: Sequence[str]) -> None:
    """Name the lines once, above all panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, label=drawable(label, 30))
        for label, (colour, marker) in zip(labels, ARMS, strict=False)
    ]
    axis.figure.legend(handles=handles, loc="outside upper left", ncols=min(len(labels), 4))
