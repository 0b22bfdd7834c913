"""The pictures of the concept pages: drawn by causalnet, or measured on the embedded models, at every build."""

from pathlib import Path
from typing import Any

import graphviz

from causalnet.draw import GraphvizMissingError

__all__ = ["draw_all"]

_BLUE, _ORANGE, _GREY, _INK = "#1f6feb", "#c4561b", "#8c959f", "#1f2328"
_FONT = "Helvetica,Arial,sans-serif"
PROMPTS, DONORS = 60, 5
_MISSING = b"""<svg xmlns="http://www.w3.org/2000/svg" width="420" height="40">
<text x="10" y="25">This picture needs Graphviz, which is not installed here.</text></svg>"""


def draw_all(folder: Path, *, stamp: str) -> None:
    """Draw every picture into ``folder``, unless those of this state of the code are there."""
    mark = folder / "pictures.stamp"
    if mark.exists() and mark.read_text(encoding="utf-8") == stamp:
        return
    complete = True
    for name, make in _DRAWN.items():
        try:
            drawn = make()
        except (graphviz.ExecutableNotFound, GraphvizMissingError):  # one is told so, and the rest goes on
            drawn, complete = _MISSING, False
        (folder / f"{name}.svg").write_bytes(drawn)
    for name, figure in _measured().items():
        figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    if complete:
        mark.write_text(stamp, encoding="utf-8")


def _svg(body: str, **graph: str) -> bytes:
    attributes = {"rankdir": "LR", "bgcolor": "transparent", "fontname": _FONT, "pad": "0.1", **graph}
    lines = [f"graph [{' '.join(f'{key}={chr(34)}{value}{chr(34)}' for key, value in attributes.items())}];"]
    lines.append(f'node [shape=circle fontname="{_FONT}" fontsize=12 width=0.5 fixedsize=true color="{_INK}"];')
    lines.append(f'edge [arrowsize=0.7 color="{_GREY}" fontname="{_FONT}" fontsize=11];')
    return graphviz.Source(f"digraph {{ {' '.join(lines)} {body} }}").pipe(format="svg", quiet=True)


def _spine() -> bytes:
    from causalnet.draw import draw
    from causalnet.graph import Block, CausalGraph

    graph = CausalGraph.from_blocks([Block(0), Block(1), Block(2, parallel=True)])
    return draw(graph, title="two sequential blocks and a parallel one").render("svg")


def _dense() -> bytes:
    from causalnet.graph import Block, CausalGraph

    graph = CausalGraph.from_blocks([Block(0), Block(1)])
    edges = " ".join(f'"{edge.source}" -> "{edge.target}";' for edge in graph.edges())
    return _svg(f"node [shape=box width=0.75 height=0.3 fontsize=11]; {edges}", nodesep="0.25", ranksep="0.45")


def _worlds() -> bytes:
    rows = []
    for world, style in (("natural", _GREY), ("do(x = x')", _ORANGE)):
        key = "a" if world == "natural" else "b"
        x = f'{key}x [label="{"x" if key == "a" else "x ʹ"}" {"" if key == "a" else "shape=doublecircle width=0.4"}];'
        look = f'labelloc={"t" if key == "a" else "b"} color="{style}" fontcolor="{style}"'
        rows.append(
            f'subgraph cluster_{key} {{ label="{world}" {look} {x} '
            f'{key}m [label="m"]; {key}y [label="Y"]; {key}x -> {key}m; {key}m -> {key}y; {key}x -> {key}y; }}'
        )
    shared = 'u [label="prompt\\ndonor\\nnoise" shape=box fixedsize=false style=rounded];'
    links = "u -> ax; u -> am; u -> ay; u -> bm; u -> by;"
    return _svg(f"{shared} {' '.join(rows)} {links}")


def _effects() -> bytes:
    panels = {
        "total: x changes, all respond": ("x", {"xm", "my", "xy"}, "m"),
        "natural direct: m as if nothing happened": ("x", {"xy"}, ""),
        "natural indirect: only m as under do(x)": ("", {"my"}, "m"),
        "path-specific: only x → m → Y": ("x", {"xm", "my"}, "m"),
    }
    parts = []
    # Graphviz stacks clusters from the bottom up.
    for number, (title, (changed, live, mediator)) in enumerate(reversed(panels.items())):
        nodes = []
        for name in "xmy":
            hot = name in (changed, mediator, "y")
            label = name.upper() if name == "y" else name
            nodes.append(
                f'{name}{number} [label="{label}" color="{_BLUE if hot else _INK}" penwidth={2 if hot else 1}];'
            )
        edges = []
        for edge in ("xm", "my", "xy"):
            look = f'color="{_BLUE}" penwidth=2' if edge in live else "style=dashed"
            edges.append(f"{edge[0]}{number} -> {edge[1]}{number} [{look}];")
        parts.append(
            f'subgraph cluster_{number} {{ label="{title}" fontsize=11 color="transparent" '
            f"{' '.join(nodes)} {' '.join(edges)} }}"
        )
    return _svg(" ".join(parts), newrank="true")


def _voters() -> bytes:
    body = (
        'u [label="u"]; a [label="A"]; b [label="B"]; o [label="or" shape=diamond width=0.6]; y [label="Y"]; '
        "u -> a; u -> b; a -> o; b -> o; o -> y;"
    )
    return _svg(body)


_DRAWN = {"spine": _spine, "dense": _dense, "worlds": _worlds, "effects": _effects, "voters": _voters}


def _measured() -> dict[str, Any]:
    """Return the figures that need a run: about ten seconds on two cores."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "causalnet", "font.size": 9, "axes.spines.top": False})
    mpl.rcParams.update({"axes.spines.right": False, "figure.facecolor": "none", "axes.facecolor": "none"})
    import causalnet as cn
    from causalnet.demo import model_path, prompts_path

    prompts = cn.Prompts.from_file(prompts_path()).take(PROMPTS)
    dropped = cn.compile(str(model_path("dropped")))
    return {
        "split": _split(dropped, prompts),
        "motifs": _motifs(),
        "joint": _joint(dropped, prompts),
    }


def _split(model: Any, prompts: Any) -> Any:
    import matplotlib.pyplot as plt

    from causalnet import CE, DE, NORM, TE, attn, last, resample

    layers, parts = range(model.graph.layers), (TE, DE, CE, NORM)
    queries = [part(attn[layer] @ last << resample) for layer in layers for part in parts]
    found = [result.value for result in model.evaluate(queries, prompts, donors=DONORS)]
    figure, axis = plt.subplots(figsize=(6.2, 2.6))
    looks = {"DE": _ORANGE, "CE": _BLUE, "NORM": _GREY}
    for layer in layers:
        te, *values = found[4 * layer : 4 * layer + 4]
        up = down = 0.0
        for (name, colour), value in zip(looks.items(), values, strict=True):
            base = up if value >= 0 else down
            axis.bar(layer, value, bottom=base, color=colour, width=0.65, label=name if layer == 0 else None)
            up, down = (up + value, down) if value >= 0 else (up, down + value)
        axis.plot([layer - 0.4, layer + 0.4], [te, te], color=_INK, lw=2, label="TE = the sum" if layer == 0 else None)
    axis.axhline(0, color=_INK, lw=0.6)
    axis.set(xlabel="ablated attention layer", ylabel="effect on the target's logit", xticks=list(layers))
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    return figure


def _motifs() -> Any:
    import matplotlib.pyplot as plt

    from causalnet import attn, zero
    from causalnet.effects.decompose import split
    from causalnet.testing.motifs import MOTIFS, motif

    figure, axis = plt.subplots(figsize=(6.2, 2.3))
    for place, name in enumerate(MOTIFS):
        found = split(motif(name, (1.0,)), attn[0] << zero)
        clean = found.clean_responder[0, 0] if found.responders else 0.0
        bars = {"TE": (found.te[0, 0], _INK), "DE": (found.de[0, 0], _ORANGE), "f's own effect, clean": (clean, _BLUE)}
        for shift, (label, (value, colour)) in zip((-0.25, 0.0, 0.25), bars.items(), strict=True):
            axis.bar(place + shift, value, 0.22, color=colour, label=label if place == 0 else None)
            if value == 0:
                axis.plot(place + shift, 0, "_", color=colour, ms=9, mew=2)
    axis.axhline(0, color=_INK, lw=0.6)
    axis.set_xticks(range(len(MOTIFS)), [name.replace("_", "\n") for name in MOTIFS])
    axis.set_ylabel("effect of x = 0")
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.25))
    return figure


def _joint(model: Any, prompts: Any) -> Any:
    import matplotlib.pyplot as plt

    from causalnet import NDE, NIE, TE, attn, last, resample

    first, second = attn[2] @ last << resample, attn[4] @ last << resample
    queries = [TE(first), TE(second), TE((attn[2] | attn[4]) @ last << resample), TE(second), NDE(second), NIE(second)]
    alone, other, both, te, nde, nie = (found.value for found in model.evaluate(queries, prompts, donors=DONORS))
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.0), layout="constrained")
    for axis, bars, title in (
        (axes[0], {"attn[2]": alone, "attn[4]": other, "their sum": alone + other, "both at once": both}, "ablations"),
        (axes[1], {"NDE": nde, "NIE": nie, "their sum": nde + nie, "TE": te}, "parts of one effect, attn[4]"),
    ):
        colours = (_ORANGE, _BLUE, _GREY, _INK)
        axis.barh(range(4), list(bars.values()), color=colours, height=0.65)
        axis.set_yticks(range(4), list(bars))
        axis.invert_yaxis()
        axis.axvline(0, color=_INK, lw=0.6)
        axis.set_xlabel("effect on the target's logit")
        axis.set_title(title, fontsize=9)
    return figure
