"""What stands in the report: sentences and tables, and the data of the explorer."""

import base64
import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.draw.palette import signed
from causalnet.draw.payload import NODE_KEYS, encode, node_rows, prompt_budget, sweep_payload
from causalnet.draw.sweep import Sweep, as_sweep
from causalnet.effects.words import words_of

if TYPE_CHECKING:
    from markupsafe import Markup

    from causalnet.draw.report import Arm, Run

__all__ = ["render"]

_SCRIPTS = ("data", "theme", "graph", "charts", "tables", "main")
_ROWS_SHOWN = 1000
_MAIN = "main run"
# Room for the means of variants that can be explored; those beyond it stand in charts and tables.
_VARIANT_BYTES = 1_500_000
_COLUMNS = {
    "clean_direct": "direct", "te": "TE", "de": "DE", "ce": "CE", "ce_attn": "CE attention", "ce_mlp": "CE MLP",
    "norm": "NORM", "slope": "slope", "slope_ci": "95 % interval", "r2": "R²", "p_null": "p (null)",
    "p_holm": "p (Holm)", "slope_lost": "slope on −DE",
}  # fmt: skip
_COMPARED = ("te", "de", "ce", "norm", "slope", "slope_ce_attn", "slope_p", "slope_p_holm")
_QUANTITIES = {
    "slope": "slope of CE on the direct effect", "r2": "R² of that fit", "te": "total effect TE",
    "de": "direct effect DE", "ce": "compensation CE", "norm": "norm", "self_repair": "CE + NORM",
    "clean_direct": "direct effect, nothing ablated",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, and the class that colours it."""

    text: str
    look: str = ""


@dataclass(frozen=True)
class Rows:
    """A table in the page; ``note`` says what of it is not shown."""

    caption: str
    head: Sequence[str] = ()
    body: Sequence[Sequence[Cell]] = ()
    note: str = ""


@dataclass(frozen=True)
class Section:
    """All that the page says of one model outside the explorer."""

    name: str
    findings: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sure: Sequence[str]
    table: Rows
    record: str = field(repr=False)


def render(
    run: "Run",
    *,
    title: str,
    findings: Sequence[str],
    comparison: Mapping[str, Any] | None,
    prompt: int | None,
) -> str:
    """Return the page; see :func:`causalnet.draw.report` for the arguments."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Autoescape is on for everything; what is marked safe is our own script and style, and JSON made safe.
    environment = Environment(loader=PackageLoader("causalnet.draw"), autoescape=True, undefined=StrictUndefined)
    sweeps = [as_sweep(arm.data) for arm in run.arms]
    budget = prompt_budget(sweeps)
    library, script = _script()
    data, families = _data(run, sweeps, budget)
    held = _held(run.arms, sweeps, budget)
    explored, every = len(data["sets"]) - len(sweeps), sum(len(one) for one in run.variants.values())
    if explored < every:
        held.append(f"Of {every} variants {explored} can be chosen; the others stand in charts and tables.")
    return environment.get_template("report.html").render(
        title=title or f"Compensation in {' and '.join(arm.name for arm in run.arms)}",
        subtitle=_subtitle(sweeps),
        asked=_asked(sweeps),
        expression=str(sweeps[0].data.attrs.get("expression", "")),
        findings=list(findings),
        arms=[_section(arm, sweep) for arm, sweep in zip(run.arms, sweeps, strict=True)],
        held=held,
        comparison=_comparison(comparison) if len(run.arms) > 1 else None,
        words=sweeps[0].words,
        families=families,
        quantities=_QUANTITIES,
        tables=[_table(name, rows) for name, rows in run.tables.items()],
        data=_safe(encode(data | {"prompt": prompt})),
        library=library,
        script=script,
        style=_safe(_file("explorer/explorer.css")),
        policy=_policy(library, script),
    )


def _file(name: str) -> str:
    return files("causalnet.draw").joinpath("templates", name).read_text(encoding="utf-8")


def _safe(text: str) -> "Markup":
    from markupsafe import Markup

    return Markup(text)


@functools.cache
def _script() -> "tuple[Markup, Markup]":
    """Return the library and the explorer's own script."""
    library = files("causalnet.draw").joinpath("vendor", "charts.min.js").read_text(encoding="utf-8").strip()
    own = "\n".join(_file(f"explorer/{name}.js") for name in _SCRIPTS)
    return _safe(library), _safe(f'(() => {{\n"use strict";\n{own}}})();')


def _policy(*scripts: str) -> str:
    """Allow these scripts and nothing else: no other script runs, and nothing is loaded or sent."""
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _data(
    run: "Run", sweeps: Sequence[Sweep], budget: Sequence[tuple[int, int]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the explorer's data, and the families of variants with the tables that the page shows of them."""
    sets = [
        sweep_payload(arm.name, sweep, arm.summary, arm.graph, group="models", each=each)
        for arm, sweep, each in zip(run.arms, sweeps, budget, strict=True)
    ]
    families, room = [], _VARIANT_BYTES
    for family, variants in run.variants.items():
        base = _base(run, family)
        members = [] if base is None else [_member(_MAIN, sweeps[base], run.arms[base].summary)]
        for variant in variants:
            member = _member(variant.label, None, variant.summary)
            if variant.data is not None:
                room -= 9 * variant.data.sizes["node"] * variant.data.sizes["responder"]
            if variant.data is not None and room >= 0:
                sweep = as_sweep(variant.data)
                # Who responds to whom tells a parallel layer from a sequential one; without responders the graph does.
                graph = None if base is None or sweep.responders else run.arms[base].graph
                sets.append(sweep_payload(f"{family}: {variant.label}", sweep, variant.summary, graph, group=family))
                member = _member(variant.label, sweep, variant.summary)
            members.append(member)
        main = [] if base is None else [(_MAIN, run.arms[base].summary)]
        table = _family_table(family, [*main, *((one.label, one.summary) for one in variants)])
        families.append({"name": family, "members": members, "table": table})
    shown = [{"name": one["name"], "members": one["members"]} for one in families]
    return {"sets": sets, "families": shown}, families


def _member(label: str, sweep: Sweep | None, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a chart over layers knows of one variant."""
    rows = _kept(summary) if sweep is None else node_rows(sweep, summary)
    return {"label": label, "rows": rows, "unit": (words_of(summary) if sweep is None else sweep.words).unit}


def _base(run: "Run", family: str) -> int | None:
    """Return which model a family varies: the one that it names, or the only one."""
    named = [place for place, arm in enumerate(run.arms) if family.endswith(f" ({arm.name})")]
    return named[0] if named else 0 if len(run.arms) == 1 else None


def _kept(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = ["name", "intercept", *(key + end for key in NODE_KEYS for end in ("", "_ci"))]
    return [{key: row[key] for key in keys if key in row} for row in summary.get("nodes", ())]


def _held(arms: "Sequence[Arm]", sweeps: Sequence[Sweep], budget: Sequence[tuple[int, int]]) -> list[str]:
    """Say what of the single prompts this file holds."""
    said = ["Means over prompts are held in full. Numbers of single prompts are held with 16 bits: they are off by at "
            "most one part in 65,000 of the node's largest."]  # fmt: skip
    for arm, sweep, (prompts, kept) in zip(arms, sweeps, budget, strict=True):
        of = f" of {arm.name}" if len(arms) > 1 else ""
        if prompts < sweep.prompts:
            said.append(f"The first {prompts} of {sweep.prompts} prompts{of} can be chosen.")
        if kept < sweep.widest:
            said.append(f"On a single prompt{of} the {kept} responders with the largest mean |ΔDE| of each ablated "
                        "node are shown; of the others, their sum.")  # fmt: skip
    return said


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
    outcome = "the target's centred logit" if first.words.usual else first.words.outcome
    split = "" if first.words.by_responder else " (by worlds: this outcome is no sum over the nodes that respond)"
    kinds = {node.kind for node in first.nodes}
    words = {
        frozenset({"attn", "mlp"}): "Every attention layer and every MLP",
        frozenset({"attn"}): "Every attention layer",
        frozenset({"mlp"}): "Every MLP",
    }.get(frozenset(kinds), f"Each of {len(first.nodes)} nodes")
    return (
        f"{words} was replaced, one at a time, {place}, {value}. Each total effect on "
        f"{outcome} was then split into the node's own direct effect, the compensation by all that is "
        f"downstream of it in the causal graph, and the final norm{split}."
    )


def _section(arm: "Arm", sweep: Sweep) -> Section:
    summary, data = arm.summary, sweep.data
    facts = [
        ("model", str(summary.get("model", data.attrs.get("model", "")))),
        ("prompts", str(summary.get("prompts", sweep.prompts))),
        ("donors", str(summary.get("donors", sweep.donors))),
        ("ablation", sweep.ablation),
    ]
    if "wall_s" in summary:
        facts.append(("time", f"{float(summary['wall_s']):.1f} s"))
    return Section(
        name=arm.name,
        findings=tuple(arm.findings) or tuple(map(str, summary.get("findings", ()))),
        facts=facts,
        sure=[*_sure(summary), _closure(summary, sweep)],
        table=_node_table(summary, sweep),
        record=_record(data.attrs),
    )


def _sure(summary: Mapping[str, Any]) -> list[str]:
    """Say how intervals and p-values were made, and what speaks against them."""
    if "level" not in summary:
        return []
    pool = "with their donors" if summary.get("pool", "conditional") == "conditional" else "and donors, crossed"
    said = (
        f"Intervals are {100 * float(summary['level']):g} %, bootstrapped over {summary['prompts']} prompts {pool} "
        f"({summary.get('bootstrap', '?')} draws); p-values of slopes come from {summary.get('permutations', '?')} "
        "permutations, Holm's correction is over nodes."
    )
    return [said, *map(str, summary.get("warnings", ()))]


def _closure(summary: Mapping[str, Any], sweep: Sweep) -> str:
    words = sweep.words
    if not words.by_responder:
        largest = float(np.nanmax(np.abs(sweep.te - sweep.de - sweep.ce - sweep.norm)))
        return (
            f"Closure: TE and DE + CE + NORM differ by at most {largest:.2g} {words.unit}; each part is a difference "
            "of forward passes, so that they add up by construction."
        )
    if "closure_max_abs" in summary:
        largest, relative = float(summary["closure_max_abs"]), float(summary["closure_max_rel"])
        return (
            f"Closure: the model's own logits and the sum DE + CE + NORM differ by at most {largest:.2g} {words.unit} "
            f"({relative:.2g} of the {'logit' if words.usual else 'outcome'}) over all prompts, nodes and donors."
        )
    largest = float(np.abs(sweep.te - sweep.de - sweep.ce - sweep.norm).max())
    return f"Closure: donor means of TE and DE + CE + NORM differ by at most {largest:.2g} {words.unit}."


def _node_table(summary: Mapping[str, Any], sweep: Sweep) -> Rows:
    rows = [row for row in summary.get("nodes", ()) if isinstance(row, Mapping)] or node_rows(sweep, {})
    columns = [key for key in _COLUMNS if any(key in row for row in rows)]
    body = [[Cell(str(row.get("name", ""))), *(_cell(key, row.get(key)) for key in columns)] for row in rows]
    caption = f"Means over prompts of the donor means, in {sweep.words.unit}; slope and R² over prompts"
    return Rows(caption, ["node", *(_COLUMNS[key] for key in columns)], body)


def _cell(key: str, value: Any) -> Cell:
    if isinstance(value, bool) or value is None:
        return Cell("" if value is None else str(value))
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(one, (int, float)) for one in value):
        return Cell(f"[{signed(float(value[0]), 3)}, {signed(float(value[1]), 3)}]")
    if isinstance(value, int) or key == "r2" or key.startswith("p_") or "_p" in key:
        return Cell(f"{value:.3g}" if isinstance(value, (int, float)) else str(value))
    if isinstance(value, float):
        look = "up" if value > 0.0005 else "down" if value < -0.0005 else ""
        return Cell(signed(value, 3), look)
    return Cell(str(value))


def _comparison(comparison: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the comparison's sentences, its table and the rest of it as text."""
    given = dict(comparison or {})
    sentences = [str(one) for one in given.pop("findings", ())]
    rows = given.get("nodes")
    table = _differences(rows, str(given.get("difference", "differences"))) if isinstance(rows, list) and rows else None
    rest = {key: value for key, value in given.items() if key not in ("nodes", "arms")}
    if not sentences and table is None and not rest:
        return None
    return {"findings": sentences, "table": table,
            "rest": json.dumps(rest, indent=2, ensure_ascii=False) if rest else ""}  # fmt: skip


def _differences(rows: Sequence[Mapping[str, Any]], what: str) -> Rows:
    every = list(dict.fromkeys(key for row in rows for key in row if key != "name"))
    columns = [key + end for key in _COMPARED for end in ("", "_ci") if key + end in every] or every
    names = [f"{key.removesuffix('_ci').replace('_', ' ')} interval" if key.endswith("_ci") else key.replace("_", " ")
             for key in columns]  # fmt: skip
    body = [[Cell(str(row.get("name", ""))), *(_cell(key, row.get(key)) for key in columns)] for row in rows]
    return Rows(f"{what}, node by node", ["node", *names], body)


def _family_table(family: str, variants: Sequence[tuple[str, Mapping[str, Any]]]) -> Rows:
    """Return the pooled shares and the steepest node of each variant."""
    head = [family, "nodes", "prompts", "largest slope", "at", "its 95 % interval", "R²", "returned", "its interval"]
    body = []
    for label, summary in variants:
        nodes = [row for row in summary.get("nodes", ()) if "slope" in row]
        best = max(nodes, key=lambda row: row["slope"]) if nodes else {}
        pooled = summary.get("pooled", {}).get("all", {})
        stable = bool(pooled.get("stable")) and pooled.get("lost", 1.0) > 0
        body.append([
            Cell(label), Cell(str(len(nodes))), Cell(str(summary.get("prompts", ""))),
            _cell("slope", best.get("slope")), Cell(str(best.get("name", ""))),
            _cell("slope_ci", best.get("slope_ci")), _cell("r2", best.get("r2")),
            _cell("self_repair", pooled.get("self_repair") if stable else None),
            _cell("self_repair_ci", pooled.get("self_repair_ci") if stable else None),
        ])  # fmt: skip
    note = "returned: (CE + NORM) over what the ablations removed directly, summed over nodes; empty where that is not clearly above 0"  # noqa: E501
    return Rows(f"Variants by {family}", head, body, note)


def _table(name: str, rows: Sequence[Sequence[str]]) -> Rows:
    head, body = (rows[0], rows[1:]) if rows else ((), ())
    note = f"the first {_ROWS_SHOWN} of {len(body)} rows" if len(body) > _ROWS_SHOWN else ""
    shown = [[Cell(_number(text)) for text in row] for row in body[:_ROWS_SHOWN]]
    return Rows(name.replace("_", " "), [text.replace("_", " ") for text in head], shown, note)


def _number(text: str) -> str:
    """Shorten a decimal to four digits; other texts stay."""
    if not re.fullmatch(r"-?[0-9]+\.[0-9]+(e[-+]?[0-9]+)?", text):
        return text
    return f"{float(text):.4g}".replace("-", "−", 1) if text.startswith("-") else f"{float(text):.4g}"


def _record(attributes: Mapping[str, Any]) -> str:
    record = {str(key): value for key, value in attributes.items()}
    with contextlib.suppress(ValueError):  # an unreadable record is shown as it is
        record["run"] = json.loads(str(record.get("run", "{}")))
    return json.dumps(record, indent=2, ensure_ascii=False, default=str)
