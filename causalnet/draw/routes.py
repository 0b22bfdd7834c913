"""Total, direct and indirect effect of one intervention, each on the graph of a small model (Figure 5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from causalnet.draw.palette import INK, MUTED, PAPER, diverging, readable_on, signed
from causalnet.draw.style import caption, drawable, panels, styled
from causalnet.effects.estimands import LOGIT, natural_effects
from causalnet.errors import InputError, explain
from causalnet.expr import TARGET, Assignment, CompiledQuery, Outcome, compile_queries
from causalnet.expr.refs import Component
from causalnet.expr.world import NATURAL_WORLD, World
from causalnet.graph import CausalGraph, Edge, Node

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import FancyBboxPatch

    from causalnet.effects.asking import Scm
    from causalnet.engine.plan import Reading

__all__ = ["effect_routes"]

_TITLES = {
    "TE": ("total effect", "what reads it responds"),
    "NDE": ("direct effect", "what reads it is held"),
    "NIE": ("indirect effect", "it is held; what reads it is as if it were set"),
}
_AT_MOST = 8
"""Nodes beyond this many cannot be told apart in one panel."""
_SAME = 1e-6
"""A contribution that moved by less than this share of the largest did not move."""


@dataclass(frozen=True)
class _Panel:
    """One effect: its value, the world it is read in, and each node's contribution without and with it."""

    effect: float
    graph: CausalGraph
    held: frozenset[Node]
    before: Mapping[Node, float]
    after: Mapping[Node, float]

    def moved(self, node: Node) -> bool:
        largest = max(abs(value) for value in (*self.before.values(), *self.after.values()))
        return abs(self.after[node] - self.before[node]) > _SAME * max(largest, 1e-30)

    def look(self, edge: Edge) -> str:
        """``carries`` a change, is ``cut`` because its target is set, or is ``still``."""
        if edge.target in self.held:
            return "cut"
        return "carries" if self.moved(edge.source) else "still"


@styled
def effect_routes(scm: "Scm", *s: Assignment, prompt: int = 0, draw: int = 0) -> "list[Axes]":
    """Draw by which edges the total, the natural direct and the natural indirect effect come about.

    Parameters
    ----------
    scm
        A small model with its units, such as :func:`causalnet.testing.motifs.residual_network`, or a model of a few
        layers as :func:`causalnet.effects.asking.on_prompts` puts it on prompts.
    s
        The intervention.
    prompt, draw
        The unit that is shown.

    Returns
    -------
    list of Axes
        TE, NDE, NIE, in logits of the target; an effect is ``Y(do) − Y``.  In each box stands what the node adds to
        the target's logit, in the natural world and in the one that is drawn; colour says by how much that moved.

    Raises
    ------
    InputError
        If the graph has more than eight nodes besides the norm, or there is no such unit.

    References
    ----------
    McGrath et al., The Hydra effect (2023), figure 5.

    Examples
    --------
    >>> from causalnet.expr import mlp, zero
    >>> from causalnet.testing.motifs import residual_network
    >>> [axis.get_title(loc="left") for axis in effect_routes(residual_network(), mlp[0] << zero)]
    ['TE −0.40: total effect', 'NDE −1.00: direct effect', 'NIE +0.60: indirect effect']
    """
    found = _panels(scm, s, prompt, draw)
    nodes = _drawn(next(iter(found.values())).graph)
    axes = panels(3, width=3.3 * len(nodes), height=3.0)
    for axis, (name, panel) in zip(axes, found.items(), strict=True):
        title, words = _TITLES[name]
        axis.set_title(f"{name} {signed(panel.effect)}: {title}", loc="left")
        axis.set_xlabel(words)
        _draw(axis, panel, nodes)
    asked = ", ".join(map(str, s))
    caption(
        axes[0].figure,
        f"do({drawable(asked)}), prompt {prompt}. In a box: what the node adds to the target's logit, naturally → "
        "here; blue: more, orange: less; thick border: set. Thick arrows carry a change, dotted ones are cut. The norm "
        "is not drawn. Effects are Y(do) − Y, in logits.",
        170,
    )
    return axes


def _drawn(graph: CausalGraph) -> tuple[Node, ...]:
    return (*graph.contributors, graph.readout)


def _panels(scm: "Scm", s: tuple[Assignment, ...], prompt: int, draw: int) -> dict[str, _Panel]:
    """Ask for the effects and, in their worlds, for every node's contribution."""
    from causalnet.effects.asking import add_up

    queries = natural_effects(*s, outcome=LOGIT)
    compiled = dict(zip(_TITLES, compile_queries([queries[name] for name in _TITLES], scm.graph), strict=True))
    graph = compiled["TE"].graph
    nodes = _drawn(graph)
    if len(nodes) > _AT_MOST:
        what = f"the graph has {len(nodes)} nodes besides the norm, and at most {_AT_MOST} are drawn side by side"
        raise InputError(explain(what, mend="use causalnet.draw.draw for larger graphs"))
    worlds = {name: _world(one) for name, one in compiled.items()}
    wanted = [
        ((1.0, _reading(world, node)),) for world in (NATURAL_WORLD, *worlds.values()) for node in nodes
    ]  # one number each, by world and then by node
    values = add_up(scm, list(compiled.values()), wanted)
    if not (0 <= prompt < len(values[0]) and 0 <= draw < max(table.shape[1] for table in values)):
        raise InputError(f"there is no unit (prompt {prompt}, draw {draw})")
    numbers = [float(table[prompt, min(draw, table.shape[1] - 1)]) for table in values]
    effects, told = numbers[: len(worlds)], numbers[len(worlds) :]
    rows = [dict(zip(nodes, told[at : at + len(nodes)], strict=True)) for at in range(0, len(told), len(nodes))]
    return {
        name: _Panel(
            effects[at],
            graph,
            frozenset(site.node for site in worlds[name].sites if site.receiver is None),
            rows[0],
            rows[at + 1],
        )
        for at, name in enumerate(worlds)
    }


def _world(one: CompiledQuery) -> World:
    """Return the world that an effect compares with the natural one."""
    (place,) = {reading.world for reading in one.readings} - {one.worlds.index(NATURAL_WORLD)}
    return one.worlds[place]


def _reading(world: World, node: Node) -> "Reading":
    from causalnet.engine.plan import Reading

    if node.kind == "logits":
        return Reading(world, LOGIT)
    return Reading(world, Outcome("direct", (TARGET,), Component.of(node)), (node,))


def _draw(axis: "Axes", panel: _Panel, nodes: tuple[Node, ...]) -> None:
    """Draw the boxes from left to right, the stream's two ends below, and the arrows between them."""
    last = len(nodes) - 1
    place = {node: (float(at), 0.0 if at in (0, last) else 1.0) for at, node in enumerate(nodes)}
    largest = max(abs(panel.after[node] - panel.before[node]) for node in nodes)
    boxes = {node: _box(axis, panel, node, place[node], largest) for node in nodes}
    looks = {
        "carries": {"color": INK, "linewidth": 2.2, "zorder": 2},
        "still": {"color": MUTED, "linewidth": 1.0, "zorder": 1},
        "cut": {"color": MUTED, "linewidth": 1.0, "linestyle": ":", "zorder": 1},
    }
    for source in nodes:
        for target in nodes:
            if not panel.graph.has_edge(source, target):
                continue
            look = panel.look(Edge(source, target))
            apart = place[target][0] - place[source][0]
            # Arrows between layers that are not next to each other pass above those in between.
            bend = -0.35 if apart > 1 and place[source][1] == place[target][1] == 1.0 else 0.0
            arrow = {"arrowstyle": "-|>", "patchA": boxes[source], "patchB": boxes[target], "mutation_scale": 11,
                     "connectionstyle": f"arc3,rad={bend}"}  # fmt: skip
            drawn = axis.annotate("", place[target], place[source], arrowprops=arrow | looks[look])
            drawn.set_gid(f"{look} {source} -> {target}")
    axis.set_xlim(-0.55, last + 0.55)
    axis.set_ylim(-0.4, 1.4 + 0.35 * (last > 3))
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _box(axis: "Axes", panel: _Panel, node: Node, place: tuple[float, float], largest: float) -> "FancyBboxPatch":
    """Draw a node's box: what it adds, and by the fill how that moved."""
    from matplotlib.patches import FancyBboxPatch

    change = panel.after[node] - panel.before[node] if panel.moved(node) else 0.0
    fill = diverging(change, largest) if change else PAPER
    (x, y), (wide, high) = place, (0.74, 0.3)
    box = FancyBboxPatch(
        (x - wide / 2, y - high / 2), wide, high, boxstyle="round,pad=0.02,rounding_size=0.06", facecolor=fill,
        edgecolor=INK if change else MUTED, linewidth=2.2 if node in panel.held else 0.9, zorder=3,
    )  # fmt: skip
    axis.add_patch(box)
    told = _short(panel.before[node]) + (f" → {_short(panel.after[node])}" if change else "")
    text = f"{'logits (Y)' if node.kind == 'logits' else node}\n{told}".replace("-", "−")
    axis.text(x, y, text, ha="center", va="center", fontsize=7.5, color=readable_on(fill) if change else INK, zorder=4)
    return box


def _short(value: float) -> str:
    """Return a number in at most six letters, as the boxes have room for.

    Examples
    --------
    >>> [_short(value) for value in (-0.0661, 1.0, 123.456, -1e-9)]
    ['-0.07', '1', '123', '0']
    """
    text = f"{value:.3g}" if abs(value) >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
