"""From the stores of a run to what is read: summaries, tables, pictures, reports, the comparison."""

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalnet.effects.comparison import compare
from causalnet.effects.findings import findings
from causalnet.effects.statistics import FewPromptsWarning
from causalnet.effects.summary import summarise
from causalnet.graph import CausalGraph
from causalnet.studies.folder import write_json
from causalnet.studies.options import Options, bytes_of
from causalnet.studies.plan import RunPlan
from causalnet.studies.store import open_store
from causalnet.studies.sweeps import Job
from causalnet.studies.tables import read_table, write_tables
from causalnet.studies.together import write_together
from causalnet.studies.variants import LEAST, derive, strata

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.draw import Run as Shown

__all__ = ["CLOSES", "Result", "Run", "finish"]

CLOSES = {"float32": 1e-4, "float64": 1e-6}
"""Largest relative closure residual by precision; lower ones round too much for the split to be a check."""


@dataclass(frozen=True, eq=False)
class Result:
    """What one arm gave.

    Parameters
    ----------
    name
        The arm's name, else the model's.
    folder
        Where its data lie.
    data
        Its main sweep, see docs/schema.md; left on disk where it does not fit into memory.
    summary
        The content of ``summary.json``.
    graph
        Its causal graph.
    variants
        Summaries of its variants, by folder.
    """

    name: str
    folder: Path
    data: "xr.Dataset"
    summary: dict[str, Any]
    graph: CausalGraph
    variants: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished study: where it is and what it holds.

    Parameters
    ----------
    path
        The run folder.
    results
        One for each arm.
    comparison
        The first two arms side by side (the content of ``comparison.json``); None for one arm.
    """

    path: Path
    results: tuple[Result, ...]
    comparison: dict[str, Any] | None = None

    @property
    def misfits(self) -> list[str]:
        """Which arms do not close: their parts do not add up to the total effect in the model's precision."""
        found = []
        for result in self.results:
            dtype = json.loads(result.data.attrs["run"])["dtype"]
            limit = CLOSES.get(dtype)
            for place, summary in {"": result.summary, **result.variants}.items():
                size = summary["closure_max_rel"]
                if limit is not None and size > limit:
                    name = f"{result.name}{f' ({place})' if place else ''}"
                    found.append(f"{name}: closure residual {size:.1e} is above {limit:.0e} for {dtype}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return all that the run says in words and numbers, ready for JSON."""
        return {
            "run": str(self.path),
            "report": str(self.path / "report.html"),
            "arms": {result.name: result.summary for result in self.results},
            "variants": {result.name: dict(result.variants) for result in self.results},
            "comparison": self.comparison,
        }


def finish(path: Path, plan: RunPlan, options: Options, jobs: Mapping[str, Job], seconds: Mapping[str, float]) -> Run:
    """Summarise every sweep of a run whose chunks are all done, and write what is read.

    What says that the run is finished is written last, so that one that is stopped here can still go on.

    Parameters
    ----------
    path
        The run folder.
    plan, options
        What was asked.
    jobs
        Each arm's main sweep, by folder.
    seconds
        That each sweep took, by folder.
    """
    results = tuple(_arm(path, plan, options, sweep.folder, jobs, seconds) for sweep in plan.sweeps if not sweep.family)
    comparison = _compare(results)
    for result in results:
        _draw(result)
    _report(path, results, comparison, bytes_of(options.memory))
    for result in results:
        write_json(result.folder / "summary.json", result.summary)
    if comparison is not None:
        write_json(path / "comparison.json", comparison)
    return Run(path, results, comparison)


def _arm(
    path: Path,
    plan: RunPlan,
    options: Options,
    home: str,
    jobs: Mapping[str, Job],
    seconds: Mapping[str, float],
) -> Result:
    folder, memory = path / home, bytes_of(options.memory)
    data = open_store(folder / "effects.zarr", memory)
    summary = _summary(data, options, seconds[home])
    subject = jobs[home].subject
    variants = {}
    for sweep in plan.sweeps:
        place = Path(sweep.folder)
        if sweep.family and place.is_relative_to(home):
            variants[place.relative_to(home).as_posix()] = seconds[sweep.folder]
    groups = strata(subject.prompts, subject.encoded.lengths, options.strata)
    for place in ("norm", "strata"):
        shutil.rmtree(folder / "variants" / place, ignore_errors=True)
    variants |= dict.fromkeys(derive(data, folder, options, groups), 0.0)
    found = {}
    with warnings.catch_warnings():
        # Their summaries say so themselves, and the main one warns for all.
        warnings.simplefilter("ignore", FewPromptsWarning)
        for place, wall in variants.items():
            found[place] = _summary(open_store(folder / place / "effects.zarr", memory), options, wall)
            write_json(folder / place / "summary.json", found[place])
        shutil.rmtree(folder / "tables", ignore_errors=True)
        write_tables(folder / "tables", data, summary, subject.prompts, found)
        write_together(folder / "tables", jobs[home], options)
    small = [f"{name}={value} ({len(rows)})" for (name, value), rows in groups.items() if len(rows) < LEAST]
    if small:
        summary["warnings"].append(
            f"strata of fewer than {LEAST} prompts are not shown by themselves: {', '.join(small)}"
        )
    graph = CausalGraph.from_json((folder / "graph.json").read_text(encoding="utf-8"))
    name = plan.arms[[one.folder for one in plan.sweeps if not one.family].index(home)]
    return Result(name or str(summary["model"]), folder, data, summary, graph, found)


def _summary(data: "xr.Dataset", options: Options, wall: float) -> dict[str, Any]:
    summary = summarise(data, wall_s=round(wall, 2), seed=options.seed)
    summary["findings"] = findings(summary)
    return summary


def _compare(results: Sequence[Result]) -> dict[str, Any] | None:
    if len(results) < 2:
        return None
    first, second = results[:2]
    names = (first.name, second.name)
    comparison = compare(first.summary, first.data, second.summary, second.data, names=names)
    return {"arms": [result.name for result in results], **comparison}


def _draw(result: Result) -> None:
    from causalnet.draw import draw

    strongest = max(result.summary["nodes"], key=lambda node: abs(node["de"]))["name"]
    draw(result.graph, result.data, node=strongest, path=result.folder / "graph.svg")


def _report(path: Path, results: Sequence[Result], comparison: dict[str, Any] | None, memory: int) -> None:
    from causalnet.draw import report

    shown = [_shown(result, memory) for result in results]
    report(_together(results, shown, comparison), path / "report.html")
    if len(shown) > 1:
        for one, result in zip(shown, results, strict=True):
            report(one, result.folder / "report.html")


def _shown(result: Result, memory: int) -> "Shown":
    """Return one arm as a report shows it, with its variants and tables."""
    from causalnet.draw import Arm, Variant
    from causalnet.draw import Run as Shown

    variants: dict[str, list[Variant]] = {}
    share = memory // (1 + len(result.variants))
    for place, summary in result.variants.items():
        data = open_store(result.folder / place / "effects.zarr", share)
        where = Path(place)
        variants.setdefault(where.parent.name, []).append(Variant(where.name, summary, data))
    tables = {file.stem: read_table(file) for file in sorted(result.folder.glob("tables/*.csv"))}
    return Shown((Arm(result.name, result.data, result.summary, result.graph),), None, variants, tables)


def _together(results: Sequence[Result], shown: Sequence["Shown"], comparison: dict[str, Any] | None) -> "Shown":
    """Return all arms as one report shows them."""
    from causalnet.draw import Run as Shown

    if len(shown) == 1:
        return shown[0]
    variants = {
        f"{key} ({r.name})": held for r, one in zip(results, shown, strict=True) for key, held in one.variants.items()
    }
    tables = {
        f"{key} ({r.name})": rows for r, one in zip(results, shown, strict=True) for key, rows in one.tables.items()
    }
    return Shown(tuple(arm for one in shown for arm in one.arms), comparison, variants, tables)
