"""The report: one HTML file that is complete in itself."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalnet.errors import DataError, InputError, explain

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.graph import CausalGraph

__all__ = ["Arm", "Run", "Table", "Variant", "read_run", "report"]

MEMORY = 2 << 30
"""Bytes that the data of a run may take, unless it is said."""

Table = Sequence[Sequence[str]]
"""Rows of texts, the first of them the heads."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One model's results, as a report shows them.

    Parameters
    ----------
    name
        What the reader calls this model.
    data
        Its sweep.
    summary
        Its summary (the content of ``summary.json``); ``findings``, if it has them, are sentences.
    graph
        Its causal graph; without it the layers are read from the names of the sweep's nodes.
    findings
        Sentences that say what was found; by default those of the summary.
    """

    name: str
    data: "xr.Dataset"
    summary: Mapping[str, Any]
    graph: "CausalGraph | None" = None
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Variant:
    """The same study with one choice made differently.

    Parameters
    ----------
    label
        The choice, such as ``zero`` of the family ``ablation``.
    summary
        Its summary (the content of ``summary.json``).
    data
        Its sweep; without it the variant stands in the charts over layers and tables only.
    """

    label: str
    summary: Mapping[str, Any]
    data: "xr.Dataset | None" = None


@dataclass(frozen=True, eq=False)
class Run:
    """What a run's folder holds.

    Parameters
    ----------
    arms
        The results of each model.
    comparison
        The content of ``comparison.json``, where there are several models.
    variants
        By family (ablation, position, …): the same study with one choice made differently.
    tables
        By name: the CSV files in ``tables``.
    """

    arms: tuple[Arm, ...]
    comparison: Mapping[str, Any] | None = None
    variants: Mapping[str, Sequence[Variant]] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


def report(
    source: Run | Arm | Sequence[Arm] | str | Path,
    path: str | Path | None = None,
    *,
    title: str = "",
    findings: Sequence[str] = (),
    comparison: Mapping[str, Any] | None = None,
    prompt: int | None = None,
    memory: int = MEMORY,
) -> Path:
    """Write the report of one model, or of two or more side by side.

    The page opens with what was asked, what was found and how sure that is; then comes an explorer: the layer
    graph, in which a click ablates a node, charts and tables that follow, every prompt or their mean.  The file
    loads nothing: its scripts stand in it, its security policy allows no others and no connection, and every
    text (prompts, names of models and nodes) is data, never markup.  Means are held in full; the numbers of
    single prompts with 16 bits, and as many responders of each node as there is room for, which the page says.

    Parameters
    ----------
    source
        The results, or a run's folder (one model, or one folder per model).
    path
        The file; by default ``report.html`` in the run's folder.
    title
        The heading; by default made from the models' names.
    findings
        Sentences about all models together.
    comparison
        What the run says of the models against each other (the content of ``comparison.json``).
    prompt
        The prompt that is shown first; by default the mean.
    memory
        Bytes that the data of a run's folder may take, see :func:`read_run`.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InputError
        If there is nothing to report, no path for it, or no such prompt.
    DataError
        If a run's folder lacks a part, or a part cannot be read.
    """
    from causalnet.draw.page import render

    if isinstance(source, (str, Path)):
        path = Path(source) / "report.html" if path is None else path
        run = read_run(source, memory=memory)
    elif isinstance(source, Run):
        run = source
    else:
        run = Run((source,) if isinstance(source, Arm) else tuple(source))
    _check(run, prompt)
    if path is None:
        raise InputError("no path was given for the report; give one, such as 'report.html'")
    path = Path(path)
    comparison = run.comparison if comparison is None else comparison
    page = render(run, title=title, findings=findings, comparison=comparison, prompt=prompt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _check(run: Run, prompt: int | None) -> None:
    if not run.arms:
        raise InputError("there is no result to report")
    names = [arm.name for arm in run.arms]
    if len(set(names)) < len(names):
        raise InputError(f"two results have the same name; names: {', '.join(names)}")
    count = int(run.arms[0].data.sizes["prompt"])
    if prompt is not None and not 0 <= prompt < count:
        raise InputError(f"prompt {prompt} does not exist; legal: 0 to {count - 1}")


def read_run(folder: str | Path, *, memory: int = MEMORY) -> Run:
    """Read a run's folder.

    Parameters
    ----------
    folder
        A folder with ``effects.zarr`` and ``summary.json`` (and ``graph.json``), or with one such folder per
        model and ``comparison.json``.  Beside these, or in a model's folder, may stand
        ``variants/FAMILY/LABEL/{summary.json, effects.zarr}`` and ``tables/*.csv``.
    memory
        Bytes that all data may take together; each store has an equal share, and where it does not fit into that
        it is checked, left on disk and read in parts.

    Returns
    -------
    Run
        The results in the order of ``comparison.json`` (its ``arms``), else by name.

    Raises
    ------
    DataError
        If the folder is no run, or a part of it cannot be read.
    """
    folder = Path(folder)
    if (folder / "summary.json").is_file():
        share = memory // (1 + _stores(folder))
        return Run((_arm(folder, "", share),), None, _variants(folder, share), _tables(folder))
    comparison = _json(folder / "comparison.json") if (folder / "comparison.json").is_file() else None
    folders = {one.parent.name: one.parent for one in sorted(folder.glob("*/summary.json"))}
    if not folders:
        where = "neither summary.json nor folders that hold one" if folder.is_dir() else "there is no such folder"
        raise DataError(
            explain(f"no run is here ({where})", where=str(folder), mend="name a folder that a study wrote")
        )
    named = (comparison or {}).get("arms", ())
    order = [name for name in named if name in folders] if isinstance(named, (list, tuple)) else []
    names = list(dict.fromkeys([*order, *folders]))
    share = memory // (len(names) + sum(_stores(one) for one in (folder, *folders.values())))
    variants, tables = _variants(folder, share), _tables(folder)
    for name in names:
        variants |= {f"{family} ({name})": found for family, found in _variants(folders[name], share).items()}
        tables |= {f"{table} ({name})": rows for table, rows in _tables(folders[name]).items()}
    return Run(tuple(_arm(folders[name], name, share) for name in names), comparison, variants, tables)


def _stores(folder: Path) -> int:
    """Return how many variants with data a folder holds."""
    return len(list(folder.glob("variants/*/*/effects.zarr")))


def _arm(folder: Path, name: str, memory: int) -> Arm:
    from causalnet.effects.opening import open_store
    from causalnet.graph import CausalGraph

    summary = _json(folder / "summary.json")
    drawn = folder / "graph.json"
    graph = CausalGraph.from_json(drawn.read_text(encoding="utf-8")) if drawn.is_file() else None
    data = open_store(folder / "effects.zarr", memory)
    return Arm(name or str(summary.get("model", folder.name)), data, summary, graph)


def _variants(folder: Path, memory: int) -> dict[str, list[Variant]]:
    from causalnet.effects.opening import open_store

    found: dict[str, list[Variant]] = {}
    for path in sorted(folder.glob("variants/*/*/summary.json")):
        data = path.parent / "effects.zarr"
        variant = Variant(path.parent.name, _json(path), open_store(data, memory) if data.is_dir() else None)
        found.setdefault(path.parent.parent.name, []).append(variant)
    return found


def _tables(folder: Path) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for path in sorted(folder.glob("tables/*.csv")):
        try:
            with path.open(encoding="utf-8", newline="") as lines:
                tables[path.stem] = list(csv.reader(lines))
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    return tables


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {type(content).__name__}, not an object")
    return content
