"""The report: one HTML file that is complete in itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalnet.errors import DataError, InputError

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.graph import CausalGraph

__all__ = ["Arm", "read_run", "report"]


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
        Its causal graph, to be drawn.
    findings
        Sentences that say what was found; by default those of the summary.
    """

    name: str
    data: "xr.Dataset"
    summary: Mapping[str, Any]
    graph: "CausalGraph | None" = None
    findings: tuple[str, ...] = ()


def report(
    source: Arm | Sequence[Arm] | str | Path,
    path: str | Path | None = None,
    *,
    title: str = "",
    findings: Sequence[str] = (),
    comparison: Mapping[str, Any] | None = None,
    prompt: int | None = None,
) -> Path:
    """Write the report of one model, or of two or more side by side.

    The file loads nothing and runs nothing: figures stand in it as SVG, its security policy forbids scripts,
    and every text (prompts, names of models and nodes) is escaped.

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
        What the run says of the models against each other (the content of ``comparison.json``): ``findings``
        are shown as sentences, lists of rows as tables.
    prompt
        The prompt of the one-prompt example; by default the one with the median compensation, so that it is
        neither a good case nor a bad one.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InputError
        If there is nothing to report, or no path for it.
    DataError
        If a run's folder lacks a part, or a part cannot be read.
    """
    from causalnet.draw.page import render

    if isinstance(source, (str, Path)):
        arms, found = read_run(source)
        comparison = found if comparison is None else comparison
        path = Path(source) / "report.html" if path is None else path
    else:
        arms = [source] if isinstance(source, Arm) else list(source)
    if not arms:
        raise InputError("there is no result to report")
    if path is None:
        raise InputError("no path was given for the report; give one, such as 'report.html'")
    if len({arm.name for arm in arms}) < len(arms):
        raise InputError(f"two results have the same name; names: {', '.join(arm.name for arm in arms)}")
    path = Path(path)
    page = render(arms, title=title, findings=findings, comparison=comparison, prompt=prompt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def read_run(run: str | Path) -> tuple[list[Arm], dict[str, Any] | None]:
    """Read a run's folder: its results, and the comparison where it holds several models.

    Parameters
    ----------
    run
        A folder with ``effects.zarr`` and ``summary.json`` (and ``graph.json``), or with one such folder per
        model and ``comparison.json``.

    Returns
    -------
    arms, comparison
        The results in the order of ``comparison.json`` (its ``arms``), else by name.

    Raises
    ------
    DataError
        If the folder is no run, or a part of it cannot be read.
    """
    run = Path(run)
    if (run / "summary.json").is_file():
        return [_arm(run, "")], None
    comparison = _json(run / "comparison.json") if (run / "comparison.json").is_file() else None
    folders = {one.parent.name: one.parent for one in sorted(run.glob("*/summary.json"))}
    if not folders:
        raise DataError(f"{run}: no run is here (neither summary.json nor folders that hold one)")
    named = (comparison or {}).get("arms", ())
    order = [name for name in named if name in folders] if isinstance(named, (list, tuple)) else []
    return [_arm(folders[name], name) for name in dict.fromkeys([*order, *folders])], comparison


def _arm(folder: Path, name: str) -> Arm:
    from causalnet.effects import schema
    from causalnet.graph import CausalGraph

    summary = _json(folder / "summary.json")
    drawn = folder / "graph.json"
    graph = CausalGraph.from_json(drawn.read_text(encoding="utf-8")) if drawn.is_file() else None
    return Arm(name or str(summary.get("model", folder.name)), schema.load(folder / "effects.zarr"), summary, graph)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {type(content).__name__}, not an object")
    return content
