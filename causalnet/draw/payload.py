"""The numbers that a report holds: means in full, single prompts quantised and limited to the largest responders."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.draw.layout import CELL, HEADER, HEADS_A_ROW, Slot, lay_out
from causalnet.draw.sweep import Array, Sweep, by_name, interval, responses
from causalnet.effects.statistics import regression
from causalnet.graph.block import Block

if TYPE_CHECKING:
    from causalnet.graph import CausalGraph

__all__ = ["NODE_KEYS", "encode", "node_rows", "prompt_budget", "sweep_payload"]

PROMPT_BYTES = 3_700_000
"""Room for single prompts in a page, over all models, before it is written as text (a third more)."""

_LONGEST_TEXT = 400
_FEWEST_RESPONDERS = 3
_PARTS = ("te", "de", "ce", "ce_attn", "norm", "clean")
NODE_KEYS = ("clean_direct", "te", "de", "ce", "ce_attn", "ce_mlp", "norm", "self_repair", "slope", "r2")
"""What the page draws over layers; each has its interval under the same name with ``_ci``."""


def encode(value: Any) -> str:
    r"""Return JSON that may stand inside a ``<script>`` element, whatever its texts hold.

    Examples
    --------
    >>> print(encode({"text": "</script><!--&"}))
    {"text":"\u003c/script\u003e\u003c!--\u0026"}
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Only inside strings can these stand, so that an escape always means the same character.
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def prompt_budget(sweeps: Sequence[Sweep], room: int = PROMPT_BYTES) -> list[tuple[int, int]]:
    """Say of each sweep how many prompts, and how many responders of each node, a page has room for.

    Parameters
    ----------
    sweeps
        The sweeps whose prompts can be chosen in the page.
    room
        Bytes for all of them.

    Returns
    -------
    list of (int, int)
        Prompts and responders.
    """
    found = []
    share = room // max(len(sweeps), 1)
    for sweep in sweeps:
        count, (nodes, width) = sweep.prompts, sweep.reached.shape
        fixed = 2 * (len(_PARTS) * nodes + width)  # bytes of one prompt but for its responders
        kept = (share // max(count, 1) - fixed) // (2 * nodes)
        kept = min(max(kept, _FEWEST_RESPONDERS), sweep.widest)
        found.append((min(count, share // (fixed + 2 * nodes * kept)), kept))
    return found


def sweep_payload(
    name: str,
    sweep: Sweep,
    summary: Mapping[str, Any],
    graph: "CausalGraph | None",
    *,
    group: str,
    each: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return what the page knows of one sweep, ready for JSON.

    Parameters
    ----------
    name, group
        What the reader calls it, and under which heading it stands in the list.
    sweep, summary, graph
        Its numbers; without a graph the layers are read from the names of the nodes.
    each
        How many prompts and how many responders of each node are held one by one; None: means only.
    """
    mean = {"te": sweep.te, "de": sweep.de, "ce": sweep.ce, "ce_attn": sweep.delta_attn, "norm": sweep.norm}
    mean |= {"ce_mlp": sweep.delta_mlp}
    halves = {key: interval(values)[1] for key, values in mean.items()}
    halves["delta"] = sweep.coupling_half
    return {
        "name": name,
        "group": group,
        "main": each is not None,
        "ablation": f"{sweep.ablation} ablation",
        "unit": sweep.words.unit,
        "read": sweep.words.quantity,
        "responds": sweep.words.by_responder,
        "prompts": sweep.prompts,
        "strongest": sweep.strongest("attn"),
        "nodes": [str(node) for node in sweep.nodes],
        "responders": [str(node) for node in sweep.responders],
        "mean": {key: _pack(mean[key].mean(axis=0), "<f8") for key in ("te", "de", "ce", "ce_attn", "norm")}
        | {
            "clean": _pack(sweep.clean.mean(axis=0), "<f8"),
            "clean_responder": _pack(sweep.clean_responder.mean(axis=0), "<f8"),
            "delta": _pack(sweep.coupling, "<f8" if each is not None else "<f4"),
        },
        "half": {key: _pack(values, "<f4") for key, values in halves.items()},
        "reached": _pack(sweep.reached, "u1"),
        "summary": {"nodes": node_rows(sweep, summary)},
        "graph": _graph(sweep, graph),
        "each": None if each is None or 0 in each else _each(sweep, *each),
    }


def node_rows(sweep: Sweep, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is drawn of each ablated node over the layers: the summary's numbers, else plain means and fits."""
    given, rows = by_name(summary), []
    for place, node in enumerate(sweep.nodes):
        row = given.get(str(node))
        if row is None:
            row = _row(sweep, place)
        keys = [key + end for key in NODE_KEYS for end in ("", "_ci")]
        rows.append({"name": str(node)} | {key: row[key] for key in ("intercept", *keys) if key in row})
    return rows


def _row(sweep: Sweep, place: int) -> dict[str, Any]:
    parts = {name: getattr(sweep, name)[:, place] for name in ("te", "de", "ce", "norm")}
    row: dict[str, Any] = {"clean_direct": float(sweep.clean[:, place].mean())}
    for name, values in (*parts.items(), ("self_repair", parts["ce"] + parts["norm"])):
        mean, half = (float(value) for value in interval(values))
        row |= {name: mean, f"{name}_ci": [mean - half, mean + half]}
    if sweep.prompts > 2:
        fit = regression(sweep.clean[:, place], parts["ce"])
        row |= {"slope": float(fit.slope), "intercept": float(fit.intercept), "r2": float(fit.r2)}
    return row


def _pack(values: Any, kind: str) -> list[str]:
    """Return an array as its type and base64 text, row by row."""
    array = np.ascontiguousarray(np.asarray(values).astype(kind))
    return [kind.lstrip("<"), base64.b64encode(array.tobytes()).decode()]


def _quantised(values: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return whole numbers of 16 bits and what one of them is worth, which differs along the other axes."""
    scale = np.abs(values).max(axis=axes, initial=0.0) / 32767
    # The axes that were reduced come first, or around the one that stays.
    wide = np.expand_dims(np.where(scale > 0, scale, 1.0), axes)
    return np.rint(values / wide), scale


def _each(sweep: Sweep, prompts: int, kept: int) -> dict[str, Any]:
    order = np.argsort(-sweep.strength, axis=1, kind="stable")[:, :kept]
    top = np.where(np.take_along_axis(sweep.reached, order, axis=1), order, -1)
    delta = responses(sweep, order, prompts).astype(np.float64)
    parts = {"te": sweep.te, "de": sweep.de, "ce": sweep.ce, "ce_attn": sweep.delta_attn, "norm": sweep.norm}
    parts |= {"clean": sweep.clean, "clean_responder": sweep.clean_responder}
    packed: dict[str, Any] = {}
    scales: dict[str, Any] = {}
    for name, values in parts.items():
        whole, scale = _quantised(values[:prompts], (0,))
        packed[name], scales[name] = _pack(whole, "<i2"), _pack(scale, "<f8")
    whole, scale = _quantised(delta, (0, 2))
    packed["delta"], scales["delta"] = _pack(whole, "<i2"), _pack(scale, "<f8")
    texts, targets = (
        [_short(str(text)) for text in sweep.data[name].isel(prompt=slice(prompts)).values]
        for name in ("text", "target")
    )
    return packed | {
        "prompts": prompts,
        "kept": kept,
        "top": _pack(top, "<i2"),
        "scale": scales,
        "texts": texts,
        "targets": targets,
    }


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _blocks(sweep: Sweep) -> list[Block]:
    """Guess the layers from the names of the nodes and from who responds to whom."""
    present = {(node.kind == "mlp", node.layer) for node in (*sweep.nodes, *sweep.responders)}
    blocks = []
    for layer in range(sweep.layers):
        attn, mlp = (False, layer) in present, (True, layer) in present
        blocks.append(Block(layer, attn=attn or not mlp, mlp=mlp or not attn, parallel=_parallel(sweep, layer)))
    return blocks


def _parallel(sweep: Sweep, layer: int) -> bool:
    source = [place for place, node in enumerate(sweep.nodes) if node.layer == layer and node.kind != "mlp"]
    target = [place for place, node in enumerate(sweep.responders) if node.layer == layer and node.kind == "mlp"]
    return bool(source and target) and not np.any(sweep.coupling[np.ix_(source, target)])


def _graph(sweep: Sweep, graph: "CausalGraph | None") -> dict[str, Any]:
    """Return the places of the boxes, y pointing down; heads are cells in the box of their layer."""
    blocks = list(graph.blocks) if graph is not None else _blocks(sweep)
    names = [str(node) for node in sweep.nodes]
    heads: dict[int, list[str]] = {}
    for node in dict.fromkeys((*sweep.nodes, *sweep.responders)):
        if node.kind in ("head", "bias") and node.layer is not None:
            heads.setdefault(node.layer, []).append(str(node))
    rows = [-(-len(heads.get(block.layer, ())) // HEADS_A_ROW) for block in blocks]
    layout = lay_out(blocks, rows)
    boxes: list[dict[str, Any]] = []
    for (kind, layer), slot in layout.slots.items():
        cells = heads.get(layer, []) if kind == "attn" else []
        inside = [names.index(one) for one in cells if one in names]
        boxes.append(_box(f"{kind}[{layer}]", slot, inside))
        boxes += [_cell(one, place, slot) for place, one in enumerate(cells)]
    ends = {name: -y for name, y in layout.ends.items()}
    return {"layers": len(blocks), "compact": layout.compact, "ends": ends, "boxes": boxes}


def _box(name: str, slot: Slot, inside: list[int]) -> dict[str, Any]:
    return {
        "name": name, "x": slot.x, "y": -slot.y, "width": slot.width, "height": slot.height, "reads": -slot.reads,
        "writes": -slot.writes, "gap": -slot.gap, "inside": inside,
    }  # fmt: skip


def _cell(name: str, place: int, slot: Slot) -> dict[str, Any]:
    row, column = divmod(place, HEADS_A_ROW)
    wide = (slot.width - 8) / HEADS_A_ROW
    x = slot.x - slot.width / 2 + 4 + wide * (column + 0.5)
    y = -(slot.y + slot.height / 2 - HEADER - CELL * (row + 0.5))
    return {
        "name": name, "x": x, "y": y, "width": wide - 2, "height": CELL - 2, "reads": None, "writes": None,
        "gap": None, "inside": [],
    }  # fmt: skip
