"""How every plot looks: one style, one way to make figures, one way to write them.

Figures are made without pyplot: no global state, no display, nothing to close.
"""

import functools
import html
import re
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from causalnet.draw.palette import ATTN, FALLS, GRID, INK, MARKER, MLP, MUTED, PAPER, RISES, diverging

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["caption", "depth_map", "drawable", "embed", "kind_style", "legend", "panels", "save", "signed_map"]
__all__ += ["ARMS", "slope_scale", "styled", "svg"]

P = ParamSpec("P")
R = TypeVar("R")

_RC: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "none",
    "figure.dpi": 110,
    "savefig.facecolor": "none",
    "savefig.dpi": 110,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    # Prompts and model names may hold dollar signs: they are text, never formulas.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "causalnet",
}
_THEME = {
    INK: "currentColor",
    GRID: f"var(--grid, {GRID})",
    MUTED: f"var(--muted, {MUTED})",
    PAPER: f"var(--paper, {PAPER})",
    RISES: f"var(--up, {RISES})",
    FALLS: f"var(--down, {FALLS})",
}
ARMS = (
    ("#6257d1", "o"), ("#c17c00", "s"), ("#00838f", "D"), ("#c1273f", "^"),
    ("#3a7d1f", "v"), ("#8a3fb0", "P"), ("#59636e", "X"), ("#0b62a5", "<"),
)  # fmt: skip
"""Colour and marker of models or variants that stand side by side."""
_LABEL = {"attn": "attention", "mlp": "MLP"}


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a plotting function under the style, whatever the caller has set."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(_RC):
            return function(*args, **kwargs)

    return inside


def panels(columns: int = 1, rows: int = 1, *, width: float = 8.4, height: float = 3.4, **layout: Any) -> "list[Axes]":
    """Return the axes of a new figure, row by row; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)  # attaches itself
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    return list(axes.ravel())


def caption(figure: "Figure | Any", text: str, width: int = 150) -> None:
    """Write n, units, sign and intervals under the figure."""
    import textwrap

    figure.supxlabel("\n".join(textwrap.wrap(text, width)), fontsize=8, color=MUTED, x=0.01, ha="left")


def legend(axes: "Axes | Sequence[Axes]", columns: int = 2) -> None:
    """Put a legend into free room above the data of each axes, so that it never covers a point or a line."""
    several = list(axes) if isinstance(axes, Sequence) else [axes]
    done: set[int] = set()
    for axis in several:
        labels = axis.get_legend_handles_labels()[1]
        if not labels:
            continue
        axis.legend(loc="upper left", ncols=columns, borderaxespad=0.2, columnspacing=1.2, handlelength=1.8)
        if id(axis) in done:
            continue
        done.update(id(other) for other in axis.get_shared_y_axes().get_siblings(axis))
        # In the axis's own scale, which need not be linear.
        scale = axis.yaxis.get_transform()
        low, high = scale.transform(list(axis.get_ylim()))
        high += (high - low) * (0.03 + 0.075 * -(-len(labels) // columns))
        axis.set_ylim(top=float(scale.inverted().transform([high])[0]))


def kind_style(kind: str) -> dict[str, Any]:
    """Return colour, marker and label of attention or MLP."""
    return {"color": MLP if kind == "mlp" else ATTN, "marker": MARKER[kind], "label": _LABEL[kind]}


def slope_scale(axis: "Axes") -> str:
    """Make the axis logarithmic beyond ±1 where early layers, which have almost no direct effect, have huge slopes.

    Returns what the caption then says.
    """
    low, high = axis.get_ylim()
    if max(-low, high) <= 3:
        return ""
    axis.set_yscale("symlog", linthresh=1.0, linscale=1.5)
    scale = axis.yaxis.get_transform()
    bottom, top = scale.transform([low, high])
    room = 0.04 * (top - bottom)
    axis.set_ylim(*scale.inverted().transform([bottom - room, top + room]).tolist())
    powers = [10.0**power for power in range(7)]
    steps = [0.0, *powers, 0.5, *(base * power for power in powers for base in (5, 2))]
    grid = axis.get_gridspec()
    inches = 0.55 * _figure(axis).get_figheight() / (grid.nrows if grid is not None else 1)
    apart, ticks, places = 0.16 / inches * (top - bottom), [], []
    for step in steps:  # the roundest first; the others where there is room
        for tick in (step, -step) if step else (0.0,):
            place = float(scale.transform([tick])[0])
            if low <= tick <= high and all(abs(place - other) >= apart for other in places):
                ticks.append(tick)
                places.append(place)
    ticks.sort()
    axis.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axis.minorticks_off()
    return " The axis is logarithmic beyond ±1."


@functools.cache
def signed_map() -> "Colormap":
    """Return the colour map of signed values: orange below, white at, blue above zero."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("causalnet_signed", [diverging(step / 16 - 1, 1.0) for step in range(33)])


@functools.cache
def depth_map() -> "Colormap":
    """Return the colour map of depth: viridis without its ends, which vanish on dark and on white pages."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    base = matplotlib.colormaps["viridis"]
    return LinearSegmentedColormap.from_list("causalnet_depth", [base(0.2 + step / 16 * 0.68) for step in range(17)])


@functools.cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def drawable(text: str, length: int = 90) -> str:
    """Return ``text`` in one line, shortened, with what the font cannot draw replaced.

    Examples
    --------
    >>> drawable("two" + chr(10) + "lines " + chr(0x4E2D))
    'two lines \N{REPLACEMENT CHARACTER}'
    """
    text = re.sub(r"\s+", " ", str(text)).strip()
    text = text if len(text) <= length else text[: length - 1] + "…"
    known = _glyphs()
    return "".join(char if ord(char) in known and char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


@styled
def svg(axes: "Axes | Sequence[Axes]", name: str, label: str = "") -> str:
    """Return the figure as an ``<svg>`` element for a page that holds several; see :func:`embed`."""
    figure, text = _figure(axes), StringIO()
    engine = figure.get_layout_engine()
    if engine is not None:
        # Laid out once by hand: saving would draw the whole figure a second time for it.
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine(engine)
    return embed(text.getvalue(), name, label)


def embed(picture: str, name: str, label: str = "") -> str:
    """Make an SVG file fit to stand inside an HTML page.

    Parameters
    ----------
    picture
        The SVG, as Matplotlib or Graphviz wrote it: its texts are escaped already.
    name
        Put before every id, since ids must be unique in a page.
    label
        What the picture shows, for those who cannot see it.
    """
    body = picture[picture.index("<svg") :].strip()
    # Text holds no bare "<", so that these patterns meet real markup only.
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", body)
    # Graphviz hides tooltips in links that lead nowhere; as titles, browsers show and read them.
    body = re.sub(r'<title>[^<]*</title>\s*<g id="[^"]*"><a xlink:title="([^"]*)">', r"<title>\1</title><g><a>", body)
    for placeholder, colour in _THEME.items():
        body = body.replace(placeholder, colour)
    return body.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label or name)}" ', 1)


@styled
def save(axes: "Axes | Sequence[Axes]", path: str | Path) -> Path:
    """Write the figure as the file's ending says (``.svg``, ``.png``, ``.pdf``), on white.

    Parameters
    ----------
    axes
        What a plotting function returned.
    path
        The file; folders are made.

    Returns
    -------
    Path
        The file that was written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    _figure(axes).savefig(content, format=path.suffix.lstrip(".") or "png", facecolor="white", dpi=160)
    path.write_bytes(content.getvalue())
    return path


def _figure(axes: "Axes | Sequence[Axes]") -> "Figure":
    from matplotlib.figure import Figure

    one: Any = axes[0] if isinstance(axes, Sequence) else axes
    figure = one.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure
