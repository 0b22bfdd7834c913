"""What a notebook shows of graphs, queries, plans, results and sweeps: HTML without scripts, every text escaped."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from causalnet.draw.palette import FALLS, RISES, signed

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.effects.result import Result
    from causalnet.engine.plan import Plan
    from causalnet.expr import Query
    from causalnet.graph import CausalGraph

__all__ = ["dataset_html", "graph_html", "plan_html", "query_html", "result_html"]

_MOST_BOXES = 400
_MOST_ROWS = 12
_CELL = "padding: .1rem .7rem .1rem 0; text-align: left; vertical-align: top"


def graph_html(graph: "CausalGraph") -> str:
    """Return the drawn graph; where Graphviz is missing or the graph is too large to look at, what it is in words.

    Parameters
    ----------
    graph
        Of layers, or unrolled over positions.

    Examples
    --------
    >>> from causalnet.graph import Block, CausalGraph
    >>> html = graph_html(CausalGraph.from_blocks([Block(0)], name="<one>"))
    >>> "&lt;one&gt;" in html, "<one>" in html
    (True, False)
    """
    from causalnet.draw.layers import draw
    from causalnet.draw.render import GraphvizMissingError

    words = _paragraph(repr(graph))
    if 2 * graph.layers * max(len(graph.positions), 1) > _MOST_BOXES:
        return words + _paragraph("too large to be drawn here; causalnet.draw.draw(graph) draws it")
    try:
        picture = draw(graph).svg()
    except GraphvizMissingError as error:
        return words + _paragraph(str(error))
    # Its ink is dark, so it keeps a light ground on dark pages.
    frame = "background: #ffffff; max-height: 40rem; overflow: auto; display: inline-block; max-width: 100%"
    return f'{words}<div style="{frame}">{picture}</div>'


def query_html(query: "Query") -> str:
    """Return the query and, in plain English, what it asks.

    Parameters
    ----------
    query
        A do-expression.

    Examples
    --------
    >>> from causalnet.expr import parse
    >>> "<code>E[logit(target)]</code>" in query_html(parse("E[logit(target)]"))
    True
    """
    lines = query.explain().splitlines()
    # Its first line repeats the question.
    return f"<p><code>{escape(str(query))}</code></p>" + _lines(lines[1:] or lines)


def plan_html(plan: "Plan") -> str:
    """Return what will be run, and which share of full forward passes that is.

    Parameters
    ----------
    plan
        What :meth:`causalnet.CausalModel.plan` returned.
    """
    facts = [
        ("prompts", f"{len(plan.shape.lengths):,}"),
        ("worlds", f"{len(plan.worlds):,}"),
        ("draws", f"{plan.draws:,}"),
        ("rows", f"{plan.rows:,}"),
        ("token-layers", f"{plan.tokens:,} instead of {plan.full_tokens:,}"),
    ]
    width = 100 * min(max(plan.share, 0.0), 1.0)
    bar = (
        '<div style="width: 16rem; max-width: 100%; border: 1px solid #8c959f; border-radius: 3px">'
        f'<div style="width: {width:.1f}%; height: .6rem; background: {RISES}"></div></div>'
    )
    share = _paragraph(f"{width:.1f} % of one full forward per row is computed")
    return _pairs(facts) + bar + share + _details("the plan", _lines(str(plan).splitlines()))


def result_html(result: "Result") -> str:
    """Return the answer with its interval, its units and the first prompts' values.

    Parameters
    ----------
    result
        What :meth:`causalnet.CausalModel.evaluate` returned.

    Examples
    --------
    >>> from causalnet.effects.result import Result
    >>> result = Result("E[entropy]", 2.0, 0.5, (1.0, 3.0), 0.95, 2, "nats", [1.5, 2.5], [[1.5], [2.5]], (0, 1),
    ...                 ("<a>", "b"))
    >>> html = result_html(result)
    >>> "+2.00 ± 0.50 nats" in html, "&lt;a&gt;" in html
    (True, True)
    """
    spread = "" if math.isnan(result.std_error) else f" ± {result.std_error:.2f}"
    facts = [("value", f"{signed(result.value)}{spread} {result.units}")]
    if not math.isnan(result.ci[0]):
        facts.append((f"{100 * result.level:g} % interval", " to ".join(signed(end) for end in result.ci)))
    facts.append(("prompts", str(result.n)))
    facts += [("note", note) for note in result.notes]
    rows = [
        (text, target, signed(float(value), 3))
        for text, target, value in zip(
            result.texts, result.target_texts or [""] * len(result.texts), result.values.tolist(), strict=False
        )
    ]
    head = ("prompt", "target", result.units)
    shown = f"the first {_MOST_ROWS} of {len(rows)} prompts" if len(rows) > _MOST_ROWS else "prompts"
    return (
        f"<p><code>{escape(result.expression)}</code></p>{_pairs(facts)}"
        + _details(shown, _table(head, rows[:_MOST_ROWS]))
        + _details("how", _lines(str(result).splitlines()[1:]))
    )


def dataset_html(data: "xr.Dataset") -> str:
    """Return a sweep as a table: mean effects of every ablated node, largest direct effect first.

    Parameters
    ----------
    data
        A sweep (docs/schema.md), in logits; effect = Y(do) − Y.

    Raises
    ------
    DataError
        If it is no sweep.
    """
    from causalnet.draw.sweep import as_sweep, interval

    sweep = as_sweep(data)
    order = np.argsort(-np.abs(sweep.clean.mean(axis=0)), kind="stable")
    rows = []
    parts = {"direct": sweep.clean, "TE": sweep.te, "DE": sweep.de, "CE": sweep.ce, "NORM": sweep.norm}
    shown = {name: interval(values) for name, values in parts.items()}
    for place in order[: 4 * _MOST_ROWS]:
        cells = [_spread(float(mean[place]), float(half[place])) for mean, half in shown.values()]
        rows.append((str(sweep.nodes[place]), *cells))
    more = f" The first {len(rows)} of {len(order)} nodes." if len(rows) < len(order) else ""
    words = f"{data.attrs.get('model', 'sweep')}: {sweep.caption}. ±: 95 % t intervals over prompts.{more}"
    return _paragraph(words) + _table(("node", *parts), rows)


def _spread(mean: float, half: float) -> str:
    return signed(mean, 3) + (f" ± {half:.3f}" if half else "")


def _paragraph(text: str) -> str:
    return f'<p style="margin: .3rem 0">{escape(text)}</p>'


def _lines(lines: Iterable[str]) -> str:
    return '<pre style="white-space: pre-wrap; margin: .3rem 0">' + escape("\n".join(lines)) + "</pre>"


def _details(name: str, inside: str) -> str:
    return f"<details><summary>{escape(name)}</summary>{inside}</details>"


def _pairs(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><th style="{_CELL}; font-weight: 600">{escape(name)}</th><td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in facts
    )
    return f"<table>{rows}</table>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f'<th style="{_CELL}">{escape(one)}</th>' for one in head)
    body = "".join("<tr>" + "".join(_cell(one) for one in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    colours: Mapping[str, str] = {"+": f"; border-left: 3px solid {RISES}", "−": f"; border-left: 3px solid {FALLS}"}
    mark = colours.get(text[:1], "") if text[1:2].isdigit() else ""
    left = "; padding-left: .4rem" if mark else ""
    return f'<td style="{_CELL}{mark}{left}">{escape(text)}</td>'
