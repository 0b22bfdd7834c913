"""What stands in the report: sentences, figures and tables, made from the results."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.draw import compensation, plots
from causalnet.draw.layers import draw
from causalnet.draw.palette import signed
from causalnet.draw.render import GraphvizMissingError
from causalnet.draw.report import Arm
from causalnet.draw.style import embed, svg
from causalnet.draw.sweep import Sweep, as_sweep
from causalnet.graph.node import Node

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["render"]

_PROMPTS_SHOWN = 25
_COLUMNS = {
    "de": "DE", "ce": "CE", "ce_attn": "CE attention", "ce_mlp": "CE MLP", "norm": "NORM", "te": "TE",
    "slope": "slope", "slope_ci": "95 % interval", "r2": "R²", "p_null": "p (null)", "slope_lost": "slope on −DE",
}  # fmt: skip
_TOPICS = (
    ("graph", "Causal graph", "The layer causal graph",
     "The residual stream runs downwards; the node with the largest direct effect is ablated, and the strongest "
     "responders are joined to it. Hover over a box or an arrow for its numbers."),
    ("impact", "Impact", "Impact of every layer",
     "What each layer gives the target's logit by itself, and what is lost when it is ablated."),
    ("compensation", "Compensation", "Does the rest make up for it?",
     "How the direct effects of all later components change, against what the ablated layer gave."),
    ("responders", "Responders", "Who responds",
     "Which components change their direct effect under which ablation, and how the total effect of one node adds up."),
    ("example", "One prompt", "One prompt, layer by layer",
     "The direct effect of every layer, unablated and with one layer ablated."),
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A picture in the page."""

    svg: str
    label: str
    shape: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, and the class that colours it."""

    text: str
    look: str = ""


@dataclass(frozen=True)
class Table:
    """A table in the page."""

    head: Sequence[str] = ()
    body: Sequence[Sequence[Cell]] = ()


@dataclass(frozen=True)
class Section:
    """All that the page says of one model."""

    name: str
    findings: Sequence[str]
    facts: Sequence[tuple[str, str]]
    closure: str
    table: Table
    figures: Mapping[str, Sequence[Figure]]
    prompts: Sequence[tuple[str, str, str]]
    count: int
    record: str = field(repr=False)


def render(
    arms: Sequence[Arm],
    *,
    title: str,
    findings: Sequence[str],
    comparison: Mapping[str, Any] | None,
    prompt: int | None,
) -> str:
    """Return the page; see :func:`causalnet.draw.report` for the arguments."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Autoescape is on for everything: only pictures, which Matplotlib and Graphviz have escaped, are marked safe.
    environment = Environment(loader=PackageLoader("causalnet.draw"), autoescape=True, undefined=StrictUndefined)
    sweeps = [as_sweep(arm.data) for arm in arms]
    sections = [_section(place, arm, sweeps[place], prompt) for place, arm in enumerate(arms)]
    topics = [
        {"key": key, "short": short, "title": heading, "text": text}
        for key, short, heading, text in _TOPICS
        if any(section.figures[key] for section in sections)
    ]
    names = " and ".join(arm.name for arm in arms)
    return environment.get_template("report.html").render(
        title=title or f"Compensation in {names}",
        subtitle=_subtitle(sweeps),
        asked=_asked(sweeps),
        findings=list(findings),
        arms=sections,
        topics=topics,
        comparison=_comparison(arms, comparison) if len(arms) > 1 else None,
    )


def _subtitle(sweeps: Sequence[Sweep]) -> str:
    counts = sorted({one.prompts for one in sweeps})
    prompts = f"{counts[0]} prompts" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} prompts"
    if len(sweeps) > 1:
        return f"{len(sweeps)} models, {prompts} each"
    return f"{prompts}, {len(sweeps[0].nodes)} nodes ablated one at a time"


def _asked(sweeps: Sequence[Sweep]) -> str:
    first = sweeps[0]
    where = str(first.data.attrs.get("position", "last"))
    place = "at the last position" if where == "last" else f"at position {where}"
    value = {
        "resample": "by the same node's output on other prompts (resample ablation)",
        "zero": "by zero (zero ablation)",
        "mean": "by its mean over prompts (mean ablation)",
    }.get(first.ablation, f"by {first.ablation} ablation")
    return (
        f"Every attention layer and every MLP was replaced, one at a time, {place}, {value}. Each total effect on the "
        "target's centred logit was then split into the node's own direct effect, the compensation by all that is "
        "downstream of it in the causal graph, and the final norm."
    )


def _section(place: int, arm: Arm, sweep: Sweep, prompt: int | None) -> Section:
    summary = arm.summary
    data = sweep.data
    shown = range(min(sweep.prompts, _PROMPTS_SHOWN))
    facts = [
        ("model", str(summary.get("model", data.attrs.get("model", "")))),
        ("prompts", str(summary.get("prompts", sweep.prompts))),
        ("donors", str(summary.get("donors", sweep.donors))),
        ("ablation", sweep.ablation),
    ]
    if "wall_s" in summary:
        facts.append(("time", f"{float(summary['wall_s']):.1f} s"))
    texts, targets, logits = (data[name].values for name in ("text", "target", "clean_logit"))
    return Section(
        name=arm.name,
        findings=tuple(arm.findings) or tuple(map(str, summary.get("findings", ()))),
        facts=facts,
        closure=_closure(summary, sweep),
        table=_node_table(summary),
        figures=_figures(f"arm{place}", arm, sweep, prompt),
        prompts=[(str(texts[one]), str(targets[one]), signed(float(logits[one]))) for one in shown],
        count=sweep.prompts,
        record=_record(data.attrs),
    )


def _closure(summary: Mapping[str, Any], sweep: Sweep) -> str:
    if "closure_max_abs" in summary:
        largest, relative = float(summary["closure_max_abs"]), float(summary["closure_max_rel"])
        return (
            f"Closure: the model's own logits and the sum DE + CE + NORM differ by at most {largest:.2g} logits "
            f"({relative:.2g} of the logit) over all prompts, nodes and donors."
        )
    largest = float(np.abs(sweep.te - sweep.de - sweep.ce - sweep.norm).max())
    return f"Closure: donor means of TE and DE + CE + NORM differ by at most {largest:.2g} logits."


def _node_table(summary: Mapping[str, Any]) -> Table:
    rows = [row for row in summary.get("nodes", ()) if isinstance(row, Mapping)]
    columns = [key for key in _COLUMNS if any(key in row for row in rows)]
    body = [[Cell(str(row.get("name", ""))), *(_cell(key, row.get(key)) for key in columns)] for row in rows]
    return Table(["node", *(_COLUMNS[key] for key in columns)], body)


def _cell(key: str, value: Any) -> Cell:
    if isinstance(value, bool) or value is None:
        return Cell("" if value is None else str(value))
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(one, (int, float)) for one in value):
        return Cell(f"[{signed(float(value[0]), 3)}, {signed(float(value[1]), 3)}]")
    if isinstance(value, int) or key in ("r2", "p_null") or key.startswith("p_"):
        return Cell(f"{value:.3g}" if isinstance(value, (int, float)) else str(value))
    if isinstance(value, float):
        look = "up" if value > 0.0005 else "down" if value < -0.0005 else ""
        return Cell(signed(value, 3), look)
    return Cell(str(value))


def _figures(name: str, arm: Arm, sweep: Sweep, prompt: int | None) -> dict[str, list[Figure]]:
    strongest = sweep.strongest("attn")
    node = sweep.nodes[strongest]
    # The prompt with the median compensation, so that the example is neither picked well nor badly.
    typical = int(np.argsort(sweep.ce[:, strongest], kind="stable")[sweep.prompts // 2]) if prompt is None else prompt
    summary = dict(arm.summary)

    def plot(key: str, label: str, make: "Callable[[], Axes | list[Axes]]", shape: str = "") -> Figure:
        return Figure(_safe(svg(make(), f"{name}-{key}", label)), label, shape)

    figures = {
        "graph": list(_graphs(name, arm, sweep, node)),
        "impact": [
            plot("impact", "Direct effect and drop per layer", lambda: plots.impact(sweep)),
            plot("drop", "Drop when ablated against direct effect", lambda: plots.drop_vs_direct(sweep)),
        ],
        "compensation": [
            plot("ce", "Compensation against direct effect", lambda: compensation.ce_vs_direct(sweep, summary)),
            plot("slopes", "Slope and R² of compensation per layer", lambda: compensation.slopes(sweep, summary)),
            plot("best", "The layer with the most regular compensation",
                 lambda: compensation.best_layer(sweep, summary), "narrow"),
        ],
        "responders": [
            plot("coupling", "Mean change of direct effect, ablated node by responder",
                 lambda: compensation.coupling(sweep), "narrow"),
            plot("waterfall", f"Total effect of {node} as a sum", lambda: plots.waterfall(sweep, node), "narrow"),
        ],
        "example": [
            plot("example", f"Direct effects on prompt {typical} with {node} ablated",
                 lambda: plots.example(sweep, typical, node)),
        ],
    }  # fmt: skip
    if sweep.donors > 1:
        label = "Effects against the number of donors"
        figures["responders"].append(plot("donors", label, lambda: compensation.donor_convergence(sweep)))
    return figures


def _graphs(name: str, arm: Arm, sweep: Sweep, node: Node) -> Iterator[Figure]:
    if arm.graph is None or node not in arm.graph:
        return
    drawing = draw(arm.graph, sweep, node=node)
    label = f"Layer causal graph with {node} ablated"
    try:
        yield Figure(_safe(embed(drawing.svg(), f"{name}-graph", label)), label, "graph")
    except GraphvizMissingError as error:
        yield Figure("", label, caption=f"The graph is not drawn: {error}.")


def _safe(picture: str) -> Any:
    from markupsafe import Markup

    return Markup(picture)


def _comparison(arms: Sequence[Arm], comparison: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the comparison's figure, its sentences and one table with the models side by side."""
    summaries = {arm.name: arm.summary for arm in arms if arm.summary.get("nodes")}
    figure = None
    if 2 <= len(summaries) <= 4:
        label = "Slopes of the models, layer by layer"
        figure = Figure(_safe(svg(compensation.compare(summaries), "comparison", label)), label)
    given = dict(comparison or {})
    sentences = [str(one) for one in given.pop("findings", ())]
    rows = given.get("nodes")
    table = _rows(rows) if isinstance(rows, list) and rows else _side_by_side(summaries)
    return {
        "figure": figure,
        "findings": sentences,
        "table": table,
        "rest": json.dumps(given, indent=2, ensure_ascii=False) if given else "",
    }


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return Table([key.replace("_", " ") for key in keys], [[_cell(key, row.get(key)) for key in keys] for row in rows])


def _side_by_side(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Join the models' slopes and compensation by node."""
    by_arm = {name: {str(row["name"]): row for row in summary["nodes"]} for name, summary in summaries.items()}
    nodes = list(dict.fromkeys(node for rows in by_arm.values() for node in rows))
    head = ["node"] + [f"{name}: {_COLUMNS[key]}" for name in by_arm for key in ("ce", "slope", "slope_ci")]
    body = [
        [Cell(node), *(_cell(key, rows.get(node, {}).get(key)) for rows in by_arm.values()
                       for key in ("ce", "slope", "slope_ci"))]
        for node in nodes
    ]  # fmt: skip
    return Table(head, body)


def _record(attributes: Mapping[str, Any]) -> str:
    record = {str(key): value for key, value in attributes.items()}
    with contextlib.suppress(ValueError):  # an unreadable record is shown as it is
        record["run"] = json.loads(str(record.get("run", "{}")))
    return json.dumps(record, indent=2, ensure_ascii=False, default=str)
