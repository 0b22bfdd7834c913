"""Plots of effects: impact per layer, drop against direct effect, one prompt, one node."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.draw.palette import INK, MUTED, PAPER, diverging, signed
from causalnet.draw.style import caption, depth_map, drawable, kind_style, legend, panels, styled
from causalnet.draw.sweep import Array, Sweep, as_sweep, interval
from causalnet.errors import InputError
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["drop_vs_direct", "example", "impact", "waterfall"]

KINDS = ("attn", "mlp")
_TITLES = {"attn": "Attention", "mlp": "MLP"}


def present(sweep: Sweep) -> list[str]:
    """Return which of attention and MLP the sweep ablated."""
    return [kind for kind in KINDS if sweep.of_kind(kind)]


def layer_axis(axis: "Axes", layers: int) -> None:
    """Label the x axis with whole layers, at most about a dozen."""
    step = max(1, -(-layers // 12))
    axis.set_xticks(range(0, layers, step))
    axis.set_xlim(-0.6, layers - 0.4)
    axis.set_xlabel("layer")


def depth_of(sweep: Sweep, places: list[int]) -> Array:
    """Return the layer of each place of the node axis; the heads of a layer stand beside each other."""
    return spread([sweep.nodes[place] for place in places])


def spread(nodes: Sequence[Node]) -> Array:
    """Return the layer of each node, heads beside each other within half a layer."""
    most = 1 + max((node.head or 0 for node in nodes), default=0)
    aside = [0.0 if node.head is None else ((node.head + 0.5) / most - 0.5) * 0.5 for node in nodes]
    return np.array([node.layer or 0 for node in nodes], dtype=float) + np.array(aside)


def line_width(nodes: Sequence[Node]) -> float:
    """Return the width of a line through nodes: layers are joined, heads are not."""
    return 0.0 if any(node.head is not None for node in nodes) else 1.2


def depth_bar(figure: Any, axes: "list[Axes]", layers: int) -> None:
    """Add the colour bar of depth."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    mappable = ScalarMappable(Normalize(0, max(layers - 1, 1)), depth_map())
    bar = figure.colorbar(mappable, ax=axes, label="ablated layer", pad=0.01, aspect=28)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    bar.outline.set_visible(False)


def zero_line(axis: "Axes") -> None:
    """Draw y = 0 a little stronger than the grid."""
    axis.axhline(0, color=MUTED, linewidth=0.9, zorder=1.5)


@styled
def impact(data: "xr.Dataset | Sweep") -> "list[Axes]":
    """Plot direct effect and drop under ablation per layer, attention and MLP apart (Figures 2a and 2b).

    Parameters
    ----------
    data
        A sweep; ``clean_direct`` and ``te`` are read, in the outcome's units.

    Returns
    -------
    list of Axes
        Attention, MLP.  Drop = −TE: positive where the node promotes the target.
    """
    sweep = as_sweep(data)
    kinds = present(sweep)
    axes = panels(len(kinds), width=9.2, height=3.7, sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        places = sweep.of_kind(kind)
        depth = depth_of(sweep, places)
        look = kind_style(kind)
        shift, width = (0.02, 0.0) if line_width([sweep.nodes[one] for one in places]) == 0 else (0.13, 1.2)
        clean, drop = sweep.clean[:, places], -sweep.te[:, places]
        _series(axis, depth - shift, clean, look["color"], look["marker"], "direct effect, unablated", width)
        _series(axis, depth + shift, drop, INK, "D", "drop when ablated (−TE)", width, hollow=True)
        zero_line(axis)
        layer_axis(axis, sweep.layers)
        axis.set_title(_TITLES[kind])
    legend(axes)
    what = "target's centred logit" if sweep.words.usual else sweep.words.outcome
    axes[0].set_ylabel(f"{what} ({sweep.words.unit})")
    raises = "promotes the target" if sweep.words.usual else f"raises {sweep.words.outcome}"
    caption(axes[0].figure, f"{sweep.caption}. Thick bars: 95 % t interval of the mean over prompts; thin bars: the "
            f"middle 90 % of prompts. Positive: the layer {raises}.")  # fmt: skip
    return axes


def _series(
    axis: "Axes", x: Array, values: Array, colour: str, marker: str, label: str, width: float, *, hollow: bool = False
) -> None:
    mean, half = interval(values)
    low, high = np.quantile(values, (0.05, 0.95), axis=0)
    axis.vlines(x, low, high, color=colour, linewidth=0.7, alpha=0.55)
    axis.vlines(x, mean - half, mean + half, color=colour, linewidth=2.4)
    axis.plot(x, mean, color=colour, marker=marker, label=label, linestyle="--" if hollow else "-", linewidth=width,
              markerfacecolor=PAPER if hollow else colour,
              markersize=4.5 if len(x) <= 40 else 2.6)  # fmt: skip


@styled
def drop_vs_direct(data: "xr.Dataset | Sweep") -> "list[Axes]":
    """Plot the drop under ablation against the direct effect, coloured by depth (Figure 2c).

    Above y = x more is lost than the node itself gave (downstream breakage); below it less (repair).

    Parameters
    ----------
    data
        A sweep; ``clean_direct`` and ``te`` are read, in the outcome's units.

    Returns
    -------
    list of Axes
        Attention, MLP; one point per prompt and layer.
    """
    sweep = as_sweep(data)
    kinds = present(sweep)
    axes = panels(len(kinds), width=9.6, height=4.1)
    for axis, kind in zip(axes, kinds, strict=True):
        places = sweep.of_kind(kind)
        x, y = sweep.clean[:, places], -sweep.te[:, places]
        points(axis, x, y, depth_of(sweep, places), sweep.layers)
        diagonal(axis, x, "y = x: independent terms")
        zero_line(axis)
        above = float((y > x).mean())
        axis.set_title(f"{_TITLES[kind]}: breakage {above:.0%}, repair {1 - above:.0%} of points")
        axis.set_xlabel(f"direct effect, unablated ({sweep.words.unit})")
        axis.set_ylabel(f"drop when ablated, −TE ({sweep.words.unit})")
    legend(axes)
    depth_bar(axes[0].figure, axes, sweep.layers)
    caption(axes[0].figure, f"{sweep.caption}. One point per prompt and layer. Above the line more is lost than the "
            "node itself gave (breakage), below it less (repair).")  # fmt: skip
    return axes


def points(axis: "Axes", x: Array, y: Array, depth: Array, layers: int) -> None:
    """Draw a cloud of ``[prompt, node]`` points coloured by depth, as pixels: a file of vectors would be huge."""
    rng = np.random.default_rng(0)
    order = rng.permutation(x.size)  # so that no layer hides another by being drawn last
    colour = np.broadcast_to(depth, x.shape).ravel()[order]
    size = float(np.clip(9000 / max(x.size, 1), 3.0, 22.0))
    axis.scatter(x.ravel()[order], y.ravel()[order], c=colour, s=size, cmap=depth_map(), vmin=0,
                 vmax=max(layers - 1, 1), linewidths=0, alpha=0.6, rasterized=True)  # fmt: skip


def diagonal(axis: "Axes", x: Array, label: str) -> None:
    """Draw y = x over the range of ``x``."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    axis.plot([low, high], [low, high], color=INK, linestyle=(0, (4, 3)), linewidth=1, label=label)


@styled
def example(
    data: "xr.Dataset | Sweep", prompt: int = 0, node: Node | str | None = None, *, show_prompt: bool = True
) -> "list[Axes]":
    """Plot every layer's direct effect on one prompt, unablated and with one node ablated (Figures 1 and 3).

    Parameters
    ----------
    data
        A sweep; ``clean_responder``, ``clean_direct``, ``de`` and ``delta_de`` are read.
    prompt
        Place of the prompt in the sweep.
    node
        The ablated node; by default the one with the largest direct effect on this prompt.
    show_prompt
        Write the prompt's text into the figure.

    Returns
    -------
    list of Axes
        Attention, MLP: thin lines are single donors, the thick one their mean.

    Raises
    ------
    InputError
        If the prompt does not exist, or the sweep has no responders (a curved outcome).
    UnknownNodeError
        If the node was not ablated.
    """
    whole = as_sweep(data)
    whole.need_responders("every layer's change")
    if not 0 <= prompt < whole.prompts:
        raise InputError(f"prompt {prompt} does not exist; legal: 0 to {whole.prompts - 1}")
    clean = dict(zip(whole.responders, whole.clean_responder[prompt].tolist(), strict=True))
    clean |= dict(zip(whole.nodes, whole.clean[prompt].tolist(), strict=True))
    place = int(np.argmax(np.abs(whole.clean[prompt]))) if node is None else whole.place(node)
    ablated = whole.nodes[place]
    cell = whole.data.isel(prompt=prompt, node=place)
    delta = np.asarray(cell["delta_de"].transpose("donor", "responder").values, dtype=float)
    own = np.asarray(cell["de"].values, dtype=float)
    there = np.isfinite(own)
    moved = {one: clean[one] + delta[there, i] for i, one in enumerate(whole.responders)}
    moved[ablated] = clean[ablated] + own[there]
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in clean)] or ["attn"]
    axes = panels(len(kinds), width=9.2, height=3.7, sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        here = sorted((one for one in clean if one.kind == kind), key=lambda one: one.sort_key)
        depth = np.array([one.layer for one in here], dtype=float)
        after = np.stack([np.broadcast_to(moved.get(one, clean[one]), there.sum()) for one in here])
        look = kind_style(kind)
        if after.shape[1] > 1:
            axis.plot(depth, after, color=INK, linewidth=0.5, alpha=0.35)
        axis.plot(depth, [clean[one] for one in here], color=look["color"], marker=look["marker"], label="unablated")
        axis.plot(depth, after.mean(axis=1), color=INK, linestyle="--", marker="D", markerfacecolor=PAPER,
                  label=f"{ablated} ablated" + (" (mean)" if after.shape[1] > 1 else ""))  # fmt: skip
        axis.axvline(float(ablated.layer or 0), color=MUTED, linestyle=":", linewidth=1.4, ymax=0.88)
        zero_line(axis)
        layer_axis(axis, whole.layers)
        axis.set_title(_TITLES[kind])
    legend(axes)
    axes[0].set_ylabel(f"direct effect ({whole.words.unit})")
    text = f" Prompt {prompt}"
    if show_prompt and "text" in whole.data:
        text += f": “{drawable(str(whole.data['text'].values[prompt]))}”"
        if "target" in whole.data:
            text += f" → “{drawable(str(whole.data['target'].values[prompt]), 30)}”"
    mean = dict(zip(whole.responders, delta[there].mean(axis=0).tolist(), strict=True))
    moving = sorted((one for one in mean if mean[one] != 0), key=lambda one: -abs(mean[one]))[:5]
    named = ", ".join(f"{one} {signed(mean[one])}" for one in moving) or "none"
    caption(axes[0].figure, f"{text.strip()}. Dotted line: the ablated layer; thin lines: {int(there.sum())} donors; "
            f"{whole.ablation} ablation; {whole.scale}; TE {signed(float(whole.te[prompt, place]))}. "
            f"Largest responders (mean ΔDE): {named}.")  # fmt: skip
    return axes


def _bar_colour(value: float, total: bool) -> str:
    # Parts are lighter than their sum.
    return diverging(value, abs(value) * (1.0 if total else 1.5))


@styled
def waterfall(data: "xr.Dataset | Sweep", node: Node | str | None = None, *, axis: "Axes | None" = None) -> "Axes":
    """Plot how TE = DE + CE + NORM adds up for one node.

    Parameters
    ----------
    data
        A sweep; effect = Y(do) − Y.
    node
        The ablated node; by default the one with the largest mean direct effect.
    axis
        Axes to draw into; by default those of a new figure.

    Returns
    -------
    Axes
        Bars: DE, CE carried by attention and by MLPs (one bar where it is no sum over responders), NORM, and their
        sum, the total effect.
    """
    sweep = as_sweep(data)
    place = sweep.strongest() if node is None else sweep.place(node)
    response = {"CE\nattention": sweep.delta_attn[:, place], "CE\nMLP": sweep.delta_mlp[:, place]}
    response = response if sweep.words.by_responder else {"CE\n(all later)": sweep.ce[:, place]}
    parts = {
        "DE\n(own loss)": sweep.de[:, place],
        **response,
        "NORM\n(final σ)": sweep.norm[:, place],
    }
    own = axis is None
    axis = panels(width=5.8, height=3.6)[0] if axis is None else axis
    level, highest, lowest = 0.0, 0.0, 0.0
    labels = [*parts, "TE\n(sum)"]
    for x, values in enumerate((*parts.values(), sweep.te[:, place])):
        mean, half = (float(value) for value in interval(values))
        base = 0.0 if x == len(parts) else level
        axis.bar(x, mean, bottom=base, width=0.62, color=_bar_colour(mean, x == len(parts)), edgecolor=INK,
                 linewidth=0.6)  # fmt: skip
        top = base + mean
        axis.errorbar(x, top, yerr=half, color=INK, linewidth=1.2, capsize=3)
        above = max(base, top) + half
        axis.annotate(signed(mean), (x, above), (0, 3), textcoords="offset points", ha="center", fontsize=8.5)
        highest, lowest = max(highest, above), min(lowest, base, top - half)
        level = base + mean
        if x < len(parts):
            axis.plot([x + 0.31, x + 0.69], [level, level], color=MUTED, linewidth=0.8)
    room = (highest - lowest) * 0.12 or 1.0
    axis.set_ylim(lowest - room / 2, highest + room)
    axis.set_xticks(range(len(labels)), labels)
    axis.grid(axis="x", visible=False)
    zero_line(axis)
    axis.set_ylabel(f"effect on {sweep.words.quantity} ({sweep.words.unit})")
    axis.set_title(f"{sweep.nodes[place]} ablated: TE = DE + CE + NORM")
    if own:
        caption(axis.figure, f"{sweep.caption}. Bars: means over prompts; whiskers: 95 % t intervals.", 96)
    return axis
