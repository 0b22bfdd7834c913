"""The layer causal graph, drawn."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from causalnet.draw.facts import Box, Facts, along, box_of, gather
from causalnet.draw.layout import CELL, HEADER, HEADS_A_ROW, Layout, Slot, arc, lay_out, spline, straight, text_width
from causalnet.draw.palette import FADED, FALLS, FONT, GRID, INK, MUTED, RISES, STREAM, diverging, readable_on, signed
from causalnet.draw.positions import over_positions
from causalnet.draw.render import FORMATS, Drawing, escape_label
from causalnet.draw.sweep import Sweep
from causalnet.errors import InputError, explain
from causalnet.graph.node import Edge, Node

if TYPE_CHECKING:
    import graphviz
    import xarray as xr

    from causalnet.graph import CausalGraph

__all__ = ["draw"]


_MOST_MARKED = 24


def draw(
    graph: "CausalGraph",
    result: "xr.Dataset | Sweep | None" = None,
    *,
    node: Node | str | None = None,
    prompt: int | None = None,
    path: str | Path | None = None,
    format: str | None = None,
    fold: bool = True,
    arcs: int = 10,
    effects: "Mapping[Edge | str, float] | None" = None,
    tokens: Sequence[str] | None = None,
    title: str | None = None,
) -> Drawing:
    """Draw the layer causal graph: the residual stream as spine, attention left, MLPs right.

    A graph that is unrolled over positions is drawn with one stream for each, and an arrow wherever attention
    reads an earlier position.

    Every component reads the stream, hence all components before it, so the spine stands for the dense edges of
    the graph.  In a sequential block the MLP stands below the place where its layer's attention is added; in a
    parallel block both stand at one height.

    Parameters
    ----------
    graph
        The compiled graph.
    result
        A sweep: boxes are then filled by their mean direct effect on the outcome (by default the target's centred
        logit) in the natural world (blue raises it, orange lowers it, white is 0).
    node
        The node whose ablation is shown: its incoming edges are cut, arrows lead to the strongest responders
        (colour and width: mean ΔDE), and what does not respond is faded.  Without it the strongest
        arrows of the whole sweep are drawn.  A sweep without responders (a curved outcome) has no arrows.
    prompt
        Show one prompt (its place in the sweep) instead of the mean over prompts.
    path, format
        Where to write the picture, and as what: ``svg``, ``png``, ``pdf`` or ``dot`` (default: the file's
        ending, else ``svg``).  Where Graphviz is not installed the DOT text is written and a warning says so.
    fold
        Draw each layer's attention as one box; False draws its heads.
    arcs
        The largest number of arrows.
    effects
        Path effects by edge (``"attn[5] -> mlp[7]"``), in logits: they are the arrows, in place of compensation.
    tokens
        The tokens of a graph that is unrolled over positions, written above them.
    title
        Default: the graph's name.

    Returns
    -------
    Drawing
        Holds the DOT text; ``.svg()``, ``.render(format)`` and ``.save(path)`` make pictures.

    Raises
    ------
    UnknownNodeError
        If the graph or the sweep does not have ``node``.
    GraphError
        If an edge of ``effects`` is not one of the graph's.
    InputError
        If the format or the prompt does not exist, or an argument does not fit the graph.

    Examples
    --------
    >>> from causalnet.graph import Block, CausalGraph
    >>> graph = CausalGraph.from_blocks([Block(0), Block(1, parallel=True)], name="two layers")
    >>> print(draw(graph).dot.splitlines()[0])
    digraph causal_graph {
    """
    if format is not None and format not in FORMATS:
        raise InputError(explain(f"unknown picture format {format!r}", legal=FORMATS, got=format))
    title = graph.name if title is None else title
    if graph.positions:
        if result is not None or effects is not None:
            mend = "draw the layer graph, or leave the result out"
            raise InputError(explain("a graph over positions is drawn without a result", mend=mend))
        text = over_positions(graph, node, tokens, title)
    else:
        if tokens is not None:
            raise InputError(explain("tokens were given for a graph without positions", mend="unroll it first"))
        facts = gather(graph, result, node, prompt, arcs)
        text = _dot(graph, facts if effects is None else along(graph, facts, effects, arcs), fold, title)
    drawing = Drawing(text)
    if path is None:
        return drawing
    return drawing.save(path, format or (None if Path(path).suffix else "svg"))


def _dot(graph: "CausalGraph", facts: Facts, fold: bool, title: str) -> str:
    import graphviz

    rows = [0 if fold else -(-(block.heads or 0) // HEADS_A_ROW) for block in graph.blocks]
    layout = lay_out(graph.blocks, rows)
    dot = graphviz.Digraph(name="causal_graph")
    # nop2: the places are given, so every Graphviz program draws the same picture, and at once.
    dot.attr("graph", layout="nop2", bgcolor="transparent", fontname=FONT, outputorder="edgesfirst", pad="0.15")
    dot.attr("node", fontname=FONT, fontsize="9", fontcolor=INK, color=INK, shape="box", fixedsize="true")
    dot.attr("edge", fontname=FONT, color=STREAM, arrowsize="0.5", penwidth="1")
    _spine(dot, layout, facts)
    for box, slot in layout.slots.items():
        _reads_and_writes(dot, box, slot, facts)
    largest = max((abs(flow[2]) for flow in facts.flows), default=0.0)
    lanes = _lanes(layout, facts)
    for flow in reversed(facts.flows):  # the strongest is drawn last, on top
        _flow(dot, layout, flow, largest, lanes.get(flow[:2], 0.0), facts)
    hidden = _surgery(dot, layout, graph)
    scale = max((abs(value) for value in facts.clean.values()), default=0.0)
    for block in graph.blocks:
        for kind in ("attn", "mlp"):
            slot = layout.slots.get((kind, block.layer))
            if slot is None:
                continue
            heads = 0 if kind == "mlp" else block.heads or 0
            if heads and not fold:
                _heads(dot, (kind, block.layer), slot, heads, facts, scale)
            else:
                _box(dot, (kind, block.layer), slot, heads, facts, scale, layout.compact)
    _ends(dot, layout, facts)
    _legend(dot, facts, scale, title, _surgery_line(graph, hidden))
    return dot.source


def _spine(dot: "graphviz.Digraph", layout: Layout, facts: Facts) -> None:
    """Draw the residual stream from the embedding to the logits, with a ⊕ wherever something is added."""
    ends = layout.ends
    stops = [("embed", ends["embed"])]
    for y in sorted({slot.writes for slot in layout.slots.values()}, reverse=True):
        name = f"add{len(stops)}"
        dot.node(name, label="", shape="circle", width="0.1", style="filled", fillcolor="white", color=STREAM,
                 pos=spline((0, y)), tooltip="added to the residual stream")  # fmt: skip
        stops.append((name, y))
    stops += [("norm", ends["norm"]), ("logits", ends["logits"])]
    for (above, high), (below, low) in itertools.pairwise(stops):
        start = high - (11 if above in ends else 3.6)
        end = low + (11 if below in ends else 3.6)
        tip = f"e,0.0,{end:.1f} " if below in ends else ""
        dot.edge(above, below, pos=tip + straight((0, start), (0, end + (6 if tip else 0))), penwidth="2.2",
                 arrowhead="normal" if tip else "none", tooltip="residual stream")  # fmt: skip


def _reads_and_writes(dot: "graphviz.Digraph", box: Box, slot: Slot, facts: Facts) -> None:
    """Draw the two lines between a box and the stream; the ablated box no longer reads."""
    name = _name(box)
    colour = GRID if facts.faded(box) else STREAM
    if box in facts.cut:
        # Cut: the line ends before the box, in a bar.
        stop = slot.inner - slot.side * 16
        dot.edge("embed", name, pos=f"e,{stop:.1f},{slot.reads:.1f} "
                 + straight((0, slot.reads), (stop - slot.side * 2, slot.reads)),
                 style="dashed", arrowhead="tee", arrowsize="1", color=INK, penwidth="1.4",
                 tooltip=f"cut by do({name})", id=f"cut-{name}")  # fmt: skip
    else:
        tip = slot.inner - slot.side * 6
        dot.edge("embed", name, pos=f"e,{slot.inner:.1f},{slot.reads:.1f} "
                 + straight((0, slot.reads), (tip, slot.reads)), color=colour, tooltip=f"{name} reads")  # fmt: skip
    meet = slot.side * 3.6
    dot.edge(name, "logits", pos=f"e,{meet:.1f},{slot.writes:.1f} "
             + straight((slot.inner, slot.writes), (meet + slot.side * 6, slot.writes)),
             color=colour, tooltip=f"{name} writes")  # fmt: skip


def _lanes(layout: Layout, facts: Facts) -> dict[tuple[Box, Box], float]:
    """Spread the arrows that cross to the other column: the nearest target gets the lowest lane."""
    lanes: dict[tuple[Box, Box], float] = {}
    slots = layout.slots
    for source in {flow[0] for flow in facts.flows} & slots.keys():
        targets = [flow[1] for flow in facts.flows if flow[0] == source and flow[1][0] != source[0]]
        targets = sorted((one for one in targets if one in slots), key=lambda one: -slots[one].y)
        room = 5.0 if layout.compact else 16.0
        step = min(4.0, room / max(len(targets) - 1, 1))
        for place, target in enumerate(targets):
            lanes[source, target] = (place - (len(targets) - 1) / 2) * step
    return lanes


def _flow_hint(flow: tuple[Box, Box, float], facts: Facts) -> str:
    source, target, value = _name(flow[0]), _name(flow[1]), f"{signed(flow[2], 3)} {facts.unit}"
    return f"{source} to {target}: {value}" if facts.paths else f"{source} ablated: ΔDE of {target} = {value}"


def _flow(
    dot: "graphviz.Digraph", layout: Layout, flow: tuple[Box, Box, float], largest: float, lane: float, facts: Facts
) -> None:
    source, target = layout.slots.get(flow[0]), layout.slots.get(flow[1])
    if source is None or target is None:
        return
    share = abs(flow[2]) / largest
    colour = RISES if flow[2] > 0 else FALLS
    size = 0.55 + 0.3 * share
    points = arc(source, target, lane=lane, head=10 * size)
    dot.edge(_name(flow[0]), _name(flow[1]), pos=f"e,{target.outer:.1f},{target.y:.1f} {spline(*points)}",
             color=f"{colour}{round(120 + 125 * share):02x}", penwidth=f"{0.8 + 3.0 * share:.2f}",
             arrowsize=f"{size:.2f}",
             tooltip=_flow_hint(flow, facts),
             **{"class": "flow"})  # fmt: skip


def _surgery(dot: "graphviz.Digraph", layout: Layout, graph: "CausalGraph") -> int:
    """Draw edges that were removed or set, dotted and dashed; return how many could not be drawn."""
    marked = [(edge, "dashed", "set by do") for edge in graph.set_edges]
    marked += [(edge, "dotted", "removed") for edge in graph.missing]
    marked.sort(key=lambda one: (one[0].source.sort_key, one[0].target.sort_key))
    drawn = 0
    for edge, style, word in marked:
        boxes = box_of(edge.source), box_of(edge.target)
        if drawn == _MOST_MARKED or boxes[0] not in layout.slots or boxes[1] not in layout.slots:
            continue
        source, target = layout.slots[boxes[0]], layout.slots[boxes[1]]
        dot.edge(_name(boxes[0]), _name(boxes[1]), pos=f"e,{target.outer:.1f},{target.y:.1f} "
                 + spline(*arc(source, target, head=3)), style=style, color=INK, arrowhead="tee", arrowsize="0.8",
                 tooltip=f"{edge.source} to {edge.target}: {word}", **{"class": "cut"})  # fmt: skip
        drawn += 1
    return len(marked) - drawn


def _surgery_line(graph: "CausalGraph", hidden: int) -> str:
    parts = [f"edges set by do (dashed): {len(graph.set_edges)}"] if graph.set_edges else []
    parts += [f"edges removed (dotted): {len(graph.missing)}"] if graph.missing else []
    parts += [f"not drawn: {hidden}"] if hidden else []
    return "; ".join(parts)


def _name(box: Box) -> str:
    return f"{box[0]}[{box[1]}]"


def _look(box: Box, facts: Facts, scale: float) -> dict[str, str]:
    """Return fill, border and text colour of a box."""
    fill = diverging(facts.clean.get(box, 0.0), scale)
    look = {"style": "filled,rounded", "fillcolor": fill, "fontcolor": readable_on(fill), "color": MUTED}
    if not facts.cut:
        return look
    if box in facts.cut:
        return look | {"style": "filled", "fillcolor": "#ffffff", "fontcolor": "#24292f", "color": INK,
                       "peripheries": "2", "penwidth": "1.8"}  # fmt: skip
    if facts.faded(box):
        return look | {"fillcolor": _pale(fill), "fontcolor": FADED, "color": GRID}
    return look | {"color": INK}


def _pale(colour: str) -> str:
    return "#" + "".join(f"{round(255 - (255 - int(colour[i : i + 2], 16)) * 0.3):02x}" for i in (1, 3, 5))


def _hint(box: Box, facts: Facts) -> str:
    parts = [_name(box)]
    if box in facts.clean:
        parts.append(f"direct effect {signed(facts.clean[box], 3)} {facts.unit}")
    if facts.cut and box not in facts.cut:
        if box in facts.delta:
            parts.append(f"ΔDE {signed(facts.delta[box], 3)} {facts.unit}")
        parts.append("downstream of do" if box in facts.reached else "not downstream of do")
    return "; ".join(parts)


def _label(box: Box, heads: int, facts: Facts, compact: bool) -> str:
    name = _name(box)
    if box in facts.cut:
        name = f"do({facts.node if box == facts.ablated else name})"
    numbers = ""
    if box in facts.clean:
        numbers = signed(facts.clean[box])
        if facts.delta and box in facts.reached:
            numbers += f"  Δ{signed(facts.delta.get(box, 0.0))}"
        elif not compact:
            numbers = f"DE {numbers}"
    if compact:
        return escape_label(f"{name}  {numbers}".strip())
    second = numbers or (f"{heads} heads" if heads else "")
    return escape_label(name) + (rf"\n{escape_label(second)}" if second else "")


def _box(dot: "graphviz.Digraph", box: Box, slot: Slot, heads: int, facts: Facts, scale: float, compact: bool) -> None:
    kind = f"node {box[0]}" + (" faded" if facts.faded(box) else "")
    dot.node(_name(box), label=_label(box, heads, facts, compact), pos=spline((slot.x, slot.y)),
             width=f"{slot.width / 72:.3f}", height=f"{slot.height / 72:.3f}", tooltip=_hint(box, facts),
             id=f"node-{_name(box)}", fontsize="8" if compact else "9",
             **{"class": kind}, **_look(box, facts, scale))  # fmt: skip


def _heads(dot: "graphviz.Digraph", box: Box, slot: Slot, heads: int, facts: Facts, scale: float) -> None:
    """Draw the heads of one attention layer as cells, in rows, inside the place of its box."""
    look = _look(box, facts, scale)
    look["style"] = look["style"].replace(",rounded", "")
    name = f"do({_name(box)})" if box in facts.cut else _name(box)
    dot.node(_name(box), label="", pos=spline((slot.x, slot.y)), width=f"{slot.width / 72:.3f}",
             height=f"{slot.height / 72:.3f}", tooltip=_hint(box, facts), id=f"node-{_name(box)}",
             **{"class": "node attn"}, **(look | {"fillcolor": "#ffffff"}))  # fmt: skip
    dot.node(f"{_name(box)} heads", label=escape_label(name), shape="plaintext", fontsize="8", fontcolor="#24292f",
             width="1.4", height="0.14", pos=spline((slot.x, slot.y + slot.height / 2 - HEADER / 2)))  # fmt: skip
    wide = (slot.width - 8) / HEADS_A_ROW
    largest = max((abs(value) for value in facts.heads.values()), default=scale)
    for head in range(heads):
        row, column = divmod(head, HEADS_A_ROW)
        value = facts.heads.get((box[1], head), 0.0)
        fill = diverging(value, largest)
        hint = f"{_name(box)}.head[{head}]"
        hint += f"; direct effect {signed(value, 3)} {facts.unit}" if facts.heads else ""
        ablated = facts.node == Node("head", box[1], head)
        place = (slot.x - slot.width / 2 + 4 + wide * (column + 0.5),
                 slot.y + slot.height / 2 - HEADER - CELL * (row + 0.5))  # fmt: skip
        dot.node(f"{_name(box)}.head[{head}]", label=str(head), pos=spline(place), width=f"{(wide - 2) / 72:.3f}",
                 height=f"{(CELL - 2) / 72:.3f}", fontsize="7", style="filled", fillcolor=fill,
                 color="#24292f" if ablated else GRID, penwidth="2" if ablated else "1", fontcolor=readable_on(fill),
                 tooltip=hint, **{"class": "node head"})  # fmt: skip


def _ends(dot: "graphviz.Digraph", layout: Layout, facts: Facts) -> None:
    labels = {"embed": "embed", "norm": "norm (σ)", "logits": "logits"}
    if facts.norm is not None and facts.te is not None:
        labels |= {"norm": f"norm  NORM {signed(facts.norm)}", "logits": f"logits  TE {signed(facts.te)}"}
    for name, label in labels.items():
        dot.node(name, label=escape_label(label), pos=spline((0, layout.ends[name])), width="1.45", height="0.29",
                 style="filled,rounded", fillcolor="#eef1f4", fontcolor="#24292f", color=MUTED, id=f"node-{name}",
                 tooltip=name, **{"class": "node"})  # fmt: skip


def _legend(dot: "graphviz.Digraph", facts: Facts, scale: float, title: str, surgery: str) -> None:
    """Put title and legend above the embedding, each line its own node: no markup, nothing to escape twice."""
    lines = [("attention left, MLP right; ⊕ adds to the residual stream, which carries all edges downwards", MUTED)]
    if facts.clean:
        lines.append(("", "scale"))
        lines.append((f"fill: direct effect (DE) in the natural world, {facts.unit}", INK))
    if facts.whole:
        lines.append((f"no arrows: the compensation in {facts.whole} is no sum over responders", INK))
    if facts.flows or facts.delta:
        what = f"ΔDE when {facts.node} is ablated" if facts.node else "ΔDE when the arrow's source is ablated"
        what = "path effect along the arrow" if facts.paths else what
        largest = max((abs(flow[2]) for flow in facts.flows), default=0.0)
        lines.append((f"arrows: {what}, {facts.unit}; blue rises, orange falls; widest ±{largest:.2f}", INK))
    if facts.cut:
        lines.append(("double border: set by do, incoming edges cut", INK))
        rest = ", or |ΔDE| below 5 % of the largest" if facts.delta else ""
        lines.append((f"faded: not downstream of it{rest}", INK))
    if surgery:
        lines.append((surgery, INK))
    if facts.caption:
        lines.append((facts.caption, MUTED))
    y = 34.0
    for place, (text, colour) in enumerate(reversed(lines)):
        if colour == "scale":
            _scale(dot, scale, y)
        else:
            dot.node(f"legend{place}", label=escape_label(text), shape="plaintext", pos=spline((0, y)),
                     width=text_width(text, 8), height="0.18", fontsize="8", fontcolor=colour)  # fmt: skip
        y += 15
    dot.node("title", label=escape_label(title), shape="plaintext", pos=spline((0, y + 5)),
             width=text_width(title, 12), height="0.25", fontsize="12")  # fmt: skip


def _scale(dot: "graphviz.Digraph", scale: float, y: float) -> None:
    for place in range(5):
        value = scale * (place - 2) / 2
        fill = diverging(value, scale)
        at = spline(((place - 2) * 44, y + 1))
        dot.node(f"scale{place}", label=escape_label(signed(value)), pos=at, width="0.61", height="0.18",
                 fontsize="8", style="filled", fillcolor=fill, fontcolor=readable_on(fill),
                 color=GRID)  # fmt: skip
