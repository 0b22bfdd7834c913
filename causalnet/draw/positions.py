"""A graph that is unrolled over positions, drawn: one residual stream per position, tokens above."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from causalnet.draw.layout import spline, straight, text_width
from causalnet.draw.palette import FADED, FONT, GRID, INK, MUTED, STREAM
from causalnet.draw.render import escape_label
from causalnet.errors import InputError, UnknownNodeError, explain
from causalnet.graph.block import Block
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import graphviz

    from causalnet.graph import CausalGraph

__all__ = ["over_positions"]

_MOST_BOXES = 2_000
_MOST_ARROWS = 4_000
_COLUMN = 172.0
_BOX = (66.0, 24.0)
_ASIDE = 46.0
_LANES = 16.0
_SHORT = 16


@dataclass(frozen=True)
class _Row:
    """Heights of one layer, in points: the lanes above its attention, its attention and its MLP."""

    block: Block
    lane: float
    attn: float
    mlp: float


def over_positions(graph: "CausalGraph", node: Node | str | None, tokens: Sequence[str] | None, title: str) -> str:
    """Return the DOT text of an unrolled graph; see :func:`causalnet.draw.draw` for the arguments.

    Raises
    ------
    UnknownNodeError
        If the graph has no such node.
    InputError
        If there are not as many tokens as positions, or more boxes or arrows than can be read.
    """
    import graphviz

    positions = graph.positions
    if tokens is not None and len(tokens) != len(positions):
        raise InputError(f"{len(tokens)} tokens were given for {len(positions)} positions")
    arrows = graph.layers * len(positions) * (len(positions) - 1) // 2
    if 2 * graph.layers * len(positions) > _MOST_BOXES or arrows > _MOST_ARROWS:
        what = f"{graph.layers} layers at {len(positions)} positions make more than can be drawn"
        raise InputError(explain(what, mend="unroll fewer positions, or write the graph as DOT or GraphML"))
    done = _done(graph, node)
    reached = graph.descendants(done) if done else frozenset()
    rows, bottom = _rows(graph.blocks)
    dot = graphviz.Digraph(name="causal_graph")
    dot.attr("graph", layout="nop2", bgcolor="transparent", fontname=FONT, outputorder="edgesfirst", pad="0.15")
    dot.attr("node", fontname=FONT, fontsize="9", fontcolor=INK, color=MUTED, shape="box", fixedsize="true",
             style="filled,rounded", fillcolor="#ffffff")  # fmt: skip
    dot.attr("edge", fontname=FONT, color=STREAM, arrowsize="0.5", penwidth="1")
    for column, position in enumerate(positions):
        _stream(dot, graph, column, position, rows, bottom, tokens)
    for row in rows:
        for column, position in enumerate(positions):
            if row.block.attn:
                node = Node("attn", row.block.layer, position=position)
                _box(dot, graph, node, column, row.attn, done, reached)
            if row.block.mlp:
                node = Node("mlp", row.block.layer, position=position)
                _box(dot, graph, node, column, row.mlp, done, reached)
        if row.block.attn:
            _crossings(dot, graph, row, done)
    _legend(dot, graph, done, title)
    return dot.source


def _done(graph: "CausalGraph", node: Node | str | None) -> frozenset[Node]:
    asked = Node.parse(node) if isinstance(node, str) else node
    if asked is not None and asked not in graph:
        legal = [str(one) for one in graph.nodes]
        raise UnknownNodeError(explain(f"the graph has no node {str(asked)!r}", legal=legal, got=str(asked)))
    return graph.intervened_nodes | ({asked} if asked is not None else set())


def _rows(blocks: Sequence[Block]) -> tuple[list[_Row], float]:
    """Place the layers below each other; return them and the height where the last one ends."""
    rows, top = [], -30.0
    for block in blocks:
        lane = top - 6
        attn = lane - _LANES - _BOX[1] / 2 - 8
        mlp = attn if block.parallel or not block.attn else attn - _BOX[1] - 12
        rows.append(_Row(block, lane, attn, mlp))
        top = mlp - _BOX[1] / 2
    return rows, top


def _x(column: int) -> float:
    return column * _COLUMN


def _stream(
    dot: "graphviz.Digraph", graph: "CausalGraph", column: int, position: int, rows: Sequence[_Row], bottom: float,
    tokens: Sequence[str] | None,
) -> None:  # fmt: skip
    """Draw one position: its token, its stream with a ⊕ wherever something is added, norm and logits."""
    x = _x(column)
    token = None if tokens is None else tokens[column]
    label = f"embed@{position}" if token is None else _quoted(token)
    for name, text, y in (
        (f"embed@{position}", label, 0.0), (f"norm@{position}", "norm", bottom - 30),
        (f"logits@{position}", "logits", bottom - 66),
    ):  # fmt: skip
        dot.node(name, label=escape_label(text), pos=spline((x, y)), width="1.5", height="0.3", fillcolor="#eef1f4",
                 fontcolor="#24292f", tooltip=escape_label(f"{name} {token or ''}".strip()))  # fmt: skip
    dot.edge(f"embed@{position}", f"norm@{position}", pos=f"e,{x:.1f},{bottom - 19:.1f} "
             + straight((x, -11), (x, bottom - 25)), penwidth="2", tooltip="residual stream")  # fmt: skip
    dot.edge(f"norm@{position}", f"logits@{position}", pos=f"e,{x:.1f},{bottom - 55:.1f} "
             + straight((x, bottom - 41), (x, bottom - 61)), penwidth="2", tooltip="residual stream")  # fmt: skip
    marks = {row.attn - 6 for row in rows if row.block.attn} | {row.mlp - 6 for row in rows if row.block.mlp}
    for at, y in enumerate(sorted(marks, reverse=True)):
        dot.node(f"add{at}@{position}", label="", shape="circle", width="0.09", fillcolor="white", color=STREAM,
                 pos=spline((x, y)), tooltip="added to the residual stream")  # fmt: skip


def _quoted(token: str) -> str:
    shown = token.replace("\n", "⏎").replace("\t", "⇥")
    return "“" + (shown if len(shown) <= _SHORT else shown[: _SHORT - 1] + "…") + "”"


def _parts(graph: "CausalGraph", node: Node) -> list[Node]:
    """Return what stands in the box of a node: itself, or its heads where these are nodes."""
    if node in graph:
        return [node]
    return [one for one in graph.nodes if one.layer == node.layer and one.position == node.position
            and one.kind in ("head", "bias") and node.kind == "attn"]  # fmt: skip


def _box(
    dot: "graphviz.Digraph", graph: "CausalGraph", node: Node, column: int, y: float, done: frozenset[Node],
    reached: frozenset[Node],
) -> None:  # fmt: skip
    parts = _parts(graph, node)
    cut = [one for one in parts if one in done]
    side = 1 if node.kind == "mlp" else -1
    x, stream = _x(column) + side * _ASIDE, _x(column)
    inner, name = x - side * _BOX[0] / 2, str(node)
    short = f"{node.kind}[{node.layer}]"
    look = {"label": short, "fillcolor": "#ffffff", "fontcolor": "#24292f", "color": MUTED}
    if cut:
        look |= {"label": f"do({short})", "style": "filled", "color": INK, "peripheries": "2", "penwidth": "1.8"}
        stop = inner - side * 8
        dot.edge(f"embed@{node.position}", name, pos=f"e,{stop:.1f},{y + 6:.1f} "
                 + straight((stream, y + 6), (stop - side * 2, y + 6)), style="dashed", arrowhead="tee", color=INK,
                 arrowsize="0.8", tooltip=f"cut by do({name})", **{"class": "cut"})  # fmt: skip
    else:
        dot.edge(f"embed@{node.position}", name, pos=f"e,{inner:.1f},{y + 6:.1f} "
                 + straight((stream, y + 6), (inner - side * 5, y + 6)), tooltip=f"{name} reads")  # fmt: skip
        if done and not reached.intersection(parts):
            look |= {"fontcolor": FADED, "color": GRID}
        elif done:
            look |= {"color": INK, "penwidth": "1.6"}
    meet = stream + side * 3.3
    dot.edge(name, f"norm@{node.position}", pos=f"e,{meet:.1f},{y - 6:.1f} "
             + straight((inner, y - 6), (meet + side * 5, y - 6)), tooltip=f"{name} writes")  # fmt: skip
    dot.node(name, pos=spline((x, y)), width=f"{_BOX[0] / 72:.3f}", height=f"{_BOX[1] / 72:.3f}", tooltip=name,
             id=f"node-{name}", **{"class": f"node {node.kind}"}, **look)  # fmt: skip


def _crossings(dot: "graphviz.Digraph", graph: "CausalGraph", row: _Row, done: frozenset[Node]) -> None:
    """Draw what attention reads of earlier positions: a lane for each source, a branch for each reader."""
    positions = graph.positions
    step = _LANES / max(len(positions) - 1, 1)
    room = (_BOX[0] - 12) / max(len(positions) - 1, 1)
    for first, source in enumerate(positions):
        lane = row.lane - first * step
        for second in range(first + 1, len(positions)):
            target = Node("attn", row.block.layer, position=positions[second])
            parts = _parts(graph, target)
            before = Node("embed", position=source)
            if not any(graph.without_do().has_edge(before, one) for one in parts):
                continue
            cut = any(one in done for one in parts)
            x = _x(second) - _ASIDE - _BOX[0] / 2 + 6 + first * room
            end = row.attn + _BOX[1] / 2 + (7 if cut else 0)
            points = straight((_x(first), lane), (x, lane)) + " "
            points += straight((x, lane), (x, end + 4)).split(" ", 1)[1]
            look = {"style": "dashed", "arrowhead": "tee", "color": INK, "class": "cut"} if cut else {"class": "across"}
            dot.edge(f"embed@{source}", str(target), pos=f"e,{x:.1f},{end:.1f} {points}", arrowsize="0.4",
                     tooltip=f"{target} {'no longer reads' if cut else 'reads'} position {source}",
                     **({"color": "#8c959faa"} | look))  # fmt: skip


def _legend(dot: "graphviz.Digraph", graph: "CausalGraph", done: frozenset[Node], title: str) -> None:
    lines = ["one residual stream per position; attention left, MLP right; ⊕ adds; lanes: earlier positions read"]
    if done:
        lines.append("double border: set by do, incoming edges cut; bold: downstream; faded: not downstream")
    changed = [("edges set by do", graph.set_edges), ("edges removed", graph.missing)]
    named = "; ".join(f"{what}: {len(edges)}" for what, edges in changed if edges)
    lines += [named] if named else []
    middle = _x(len(graph.positions) - 1) / 2
    y = 26.0
    for place, text in enumerate(reversed(lines)):
        dot.node(f"legend{place}", label=escape_label(text), shape="plaintext", style="", pos=spline((middle, y)),
                 width=text_width(text, 8), height="0.18", fontsize="8", fontcolor=MUTED)  # fmt: skip
        y += 14
    dot.node("title", label=escape_label(title), shape="plaintext", style="", pos=spline((middle, y + 4)),
             width=text_width(title, 12), height="0.25", fontsize="12")  # fmt: skip
