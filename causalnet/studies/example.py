"""One prompt, one ablated layer: the impact of every layer, clean, with each donor, and on average.

McGrath et al. (2023), figures 1 to 3.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.errors import UnknownNodeError, explain
from causalnet.graph import Node
from causalnet.prompts import Prompt, Prompts
from causalnet.studies.chunks import Chunk
from causalnet.studies.folder import default_folder, fresh_folder, write_json
from causalnet.studies.models import Models
from causalnet.studies.options import Arm, Options
from causalnet.studies.subjects import subject
from causalnet.studies.sweeps import Question, compute, job
from causalnet.studies.tables import write_table

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Example", "example", "impacts", "responders"]


@dataclass(frozen=True, eq=False)
class Example:
    """What one prompt shows.

    Parameters
    ----------
    path
        The run folder: ``effects.zarr`` (every layer ablated in this prompt), ``impacts.csv``, ``responders.csv``,
        ``example.svg``, ``summary.json``.
    data
        The sweep of the one prompt.
    node
        The ablated node that is shown.
    facts
        Prompt, target, and the node's effects, means over donors (logits).
    impacts, responders
        The rows of the two tables.
    """

    path: Path
    data: "xr.Dataset"
    node: str
    facts: dict[str, Any]
    impacts: list[dict[str, Any]]
    responders: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return what it shows, ready for JSON."""
        return {"run": str(self.path), **self.facts, "responders": self.responders, "impacts": self.impacts}


def example(
    arm: Arm,
    text: str,
    pool: Prompts,
    *,
    layer: str | None = None,
    options: Options | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Example:
    """Ablate every layer in one prompt and show one of them.

    Parameters
    ----------
    arm
        The model.
    text
        The prompt.
    pool
        Where donors come from.
    layer
        The node that is shown: ``attn[3]``, ``mlp[3]``, or ``3`` for the attention layer; default the one whose
        clean direct effect is the largest, of those that some layer can answer.
    options
        Ablation, donors, seed, device, dtype, limit (of the pool).
    out, overwrite
        The run folder.

    Raises
    ------
    UnknownNodeError
        If the model has no such layer.
    PromptError, InputError, RunExistsError
        If something cannot be used as given; nothing is written then.
    """
    options = Options() if options is None else options
    wanted = None if layer is None else f"attn[{layer}]" if layer.isdigit() else layer
    loaded = Models(options).take(arm.model, arm.name)
    drawn = options.ablations[0] in ("resample", "mean", "noise")
    others = (pool if options.limit is None else pool.take(options.limit)).items if drawn else ()
    prompts = Prompts((Prompt(text, origin="--prompt"), *others), name=pool.name)
    held = subject(loaded.mechanisms, loaded.tokenizer, prompts, options)
    one = job(held, Question(options.ablations[0]), options)
    nodes = [str(cell.node) for cell in one.cells]
    if wanted is not None and wanted not in nodes:
        raise UnknownNodeError(explain(f"the model has no layer {wanted!r} to ablate", legal=nodes, got=wanted))
    arrays = compute(one, Chunk(0, 0, (0, len(one.cells)), (0, 1)))
    data = _dataset(arrays, one.labels())
    answered = np.array([bool(cell.responders) for cell in one.cells])
    sizes = np.where(answered, np.abs(data["clean_direct"].values[0]), -1.0)
    node = nodes[int(np.argmax(sizes))] if wanted is None else wanted
    rows, answers = impacts(data, node, prompts.texts), responders(data, node)
    place = default_folder("example") if out is None else Path(out)
    with fresh_folder(place, overwrite=overwrite) as folder:
        _write(folder, data, node, rows, answers, _facts(data, node))
    return Example(place, data, node, _facts(data, node), rows, answers)


def _dataset(arrays: Mapping[str, np.ndarray], labels: Mapping[str, Any]) -> "xr.Dataset":
    from causalnet.effects.schema import sweep_dataset

    first = {name: labels[name][:1] for name in ("target_id", "target", "text", "donor_index")}
    used = int((first["donor_index"] >= 0).sum())
    drawn = bool((labels["donor_index"] >= 0).any())
    if drawn:  # the axis is as long as this prompt's donors
        first["donor_index"] = first["donor_index"][:, :used]
        arrays = {name: array[:, :, :used] if array.ndim > 2 else array for name, array in arrays.items()}
    rest = {name: value for name, value in labels.items() if name not in first}
    return sweep_dataset(**arrays, **first, **rest, donor_pool="separate" if drawn else "none")


def impacts(data: "xr.Dataset", node: str, texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the direct effect of every layer: clean, with ``node`` ablated by each donor, and the donors' mean.

    Parameters
    ----------
    data
        A sweep; its first prompt is shown.
    node
        The ablated node.
    texts
        Texts of the donors, by number.

    Returns
    -------
    list of dict
        ``component``, ``series`` (clean, donor, mean), ``donor`` (its number), ``text``, ``impact`` (logits).
    """
    cell = data.isel(prompt=0).sel(node=node)
    names = list(dict.fromkeys([*data["node"].values.tolist(), *data["responder"].values.tolist()]))
    clean = dict(zip(data["responder"].values.tolist(), data["clean_responder"].values[0].tolist(), strict=True))
    clean |= dict(zip(data["node"].values.tolist(), data["clean_direct"].values[0].tolist(), strict=True))
    moved = {name: cell["delta_de"].sel(responder=name).values for name in data["responder"].values.tolist()}
    moved[node] = cell["de"].values
    donors = data["donor_index"].values[0].tolist()
    rows = []
    for name in sorted(names, key=lambda one: Node.parse(one).sort_key):
        after = clean[name] + np.asarray(moved.get(name, np.zeros(len(donors))), dtype=np.float64)
        rows.append({"component": name, "series": "clean", "donor": "", "text": "", "impact": float(clean[name])})
        for number, value in zip(donors, after.tolist(), strict=True):
            text = texts[number] if 0 <= number < len(texts) else ""
            shown = number if number >= 0 else ""
            rows.append({"component": name, "series": "donor", "donor": shown, "text": text, "impact": float(value)})
        mean = float(after.mean())
        rows.append({"component": name, "series": "mean", "donor": "", "text": "", "impact": mean})
    return rows


def responders(data: "xr.Dataset", node: str) -> list[dict[str, Any]]:
    """Return who answers the ablation of ``node`` in the first prompt, the largest mean change first.

    Returns
    -------
    list of dict
        ``responder``, its ``clean`` direct effect, ``delta_de`` (mean over donors), ``sd`` over donors, ``same_sign``
        (share of donors whose change has the mean's sign) and ``kind``.
    """
    from causalnet.effects.decompose import response_kinds

    cell = data.isel(prompt=0).sel(node=node)
    found = []
    for name in data["responder"].values.tolist():
        change = cell["delta_de"].sel(responder=name).values.astype(np.float64)
        if not change.any():
            continue
        clean = float(data["clean_responder"].isel(prompt=0).sel(responder=name))
        mean = float(change.mean())
        found.append(
            {
                "responder": name,
                "clean": clean,
                "delta_de": mean,
                "sd": float(change.std(ddof=1)) if len(change) > 1 else 0.0,
                "same_sign": float((np.sign(change) == np.sign(mean)).mean()),
                "kind": str(response_kinds(np.array(clean), np.array(mean))),
            }
        )
    return sorted(found, key=lambda row: -abs(row["delta_de"]))


def _facts(data: "xr.Dataset", node: str) -> dict[str, Any]:
    cell = data.isel(prompt=0).sel(node=node)
    found = {
        "model": data.attrs["model"],
        "prompt": str(data["text"].values[0]),
        "target": str(data["target"].values[0]),
        "clean_logit": float(data["clean_logit"].values[0]),
        "node": node,
        "ablation": data.attrs["ablation"],
        "donors": int(data["donors_used"].values[0]),
        "clean_direct": float(cell["clean_direct"]),
    }
    return found | {name: float(cell[name].mean()) for name in ("te", "de", "ce", "norm")}


def _write(
    folder: Path,
    data: "xr.Dataset",
    node: str,
    rows: list[dict[str, Any]],
    answers: list[dict[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    from causalnet.draw import example as plot
    from causalnet.draw import save as draw
    from causalnet.effects.schema import save
    from causalnet.effects.statistics import FewPromptsWarning
    from causalnet.effects.summary import summarise

    save(data, folder / "effects.zarr")
    write_table(folder / "impacts.csv", rows)
    write_table(folder / "responders.csv", answers)
    draw(plot(data, 0, node), folder / "example.svg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewPromptsWarning)  # one prompt is what was asked for
        summary = summarise(data)
    write_json(folder / "summary.json", {**summary, "findings": [], "example": dict(facts)})
