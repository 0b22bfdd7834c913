"""The study's tables: long CSV files, from the same functions that figures and findings use."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.prompts import Prompts

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["node_rows", "read_table", "region_rows", "write_table", "write_tables"]

Rows = Sequence[Mapping[str, Any]]


def write_table(path: Path, rows: Rows) -> None:
    """Write rows of equal keys as CSV, numbers to nine digits; nothing where there is no row."""
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_cell(value) for value in row.values()] for row in rows)


def read_table(path: Path) -> list[list[str]]:
    """Return the rows of a table as texts, the heads first."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _cell(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value


def write_tables(
    folder: Path, data: "xr.Dataset", summary: Mapping[str, Any], prompts: Prompts, variants: Mapping[str, Any]
) -> None:
    """Write an arm's tables; docs/schema.md says what each holds.

    Parameters
    ----------
    folder
        Where to.
    data, summary
        The main sweep.
    prompts
        Its prompts, whose relations are groups.
    variants
        Summaries of the variants by folder.
    """
    from causalnet.effects.consistency import consistency
    from causalnet.effects.convergence import convergence
    from causalnet.effects.coupling import coupling, participation
    from causalnet.effects.fits import fits

    options = {"level": summary["level"], "bootstrap": summary["bootstrap"], "seed": summary["seed"]}
    groups = {"relation": prompts.feature("relation")} if "relation" in prompts.feature_names else {}
    write_table(folder / "nodes.csv", node_rows(summary))
    write_table(folder / "regions.csv", region_rows(data, options))
    write_table(folder / "fits.csv", fits(data, permutations=summary["permutations"], **options))
    write_table(folder / "coupling.csv", coupling(data, **options))
    write_table(folder / "participation.csv", participation(data, **options))
    write_table(folder / "consistency.csv", consistency(data, groups))
    write_table(folder / "convergence.csv", convergence(data))
    write_table(folder / "variants.csv", _of_variants({"": summary, **variants}) if variants else [])


def _of_variants(summaries: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return all their nodes as rows of equal keys; what a variant does not have is empty."""
    from causalnet.effects.words import words_of

    rows = [
        {"variant": place, "unit": words_of(one).unit, **row}
        for place, one in summaries.items()
        for row in node_rows(one)
    ]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key, "") for key in keys} for row in rows]


def node_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a summary's nodes as flat rows: intervals become ``_low`` and ``_high``, the first responder a column."""
    rows = []
    for node in summary["nodes"]:
        row: dict[str, Any] = {}
        for key, value in node.items():
            if key == "responders":
                row["responder"] = value[0]["name"] if value else ""
            elif key.endswith("_ci"):
                name = key.removesuffix("_ci")
                row |= {f"{name}_low": value[0], f"{name}_high": value[1]}
            else:
                row[key] = value
        rows.append(row)
    return rows


def region_rows(data: "xr.Dataset", options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return which share of prompts lies where in the plane of drop against clean direct effect (figure 2c).

    ``repair``: the drop −TE is below the clean direct effect; ``breakage``: above it.
    """
    from causalnet.effects.parts import GROUPS, group, prompt_means
    from causalnet.effects.statistics import mean_interval
    from causalnet.effects.statistics.resampling import quiet

    means = prompt_means(data)
    repaired = (-means["te"] < means["clean"]).astype(float)
    broken = (-means["te"] > means["clean"]).astype(float)
    names = data["node"].values.tolist()
    chosen: list[tuple[str, Any]] = [(name, np.array([one == name for one in names])) for name in names]
    chosen += [(which, group(names, which)) for which in GROUPS if group(names, which).any()]
    rows = []
    masks = np.stack([mask / mask.sum() for _, mask in chosen], axis=1)
    interval = {"level": options["level"], "draws": options["bootstrap"], "seed": options["seed"]}
    with quiet():
        found = {
            name: mean_interval(part @ masks, **interval) for name, part in (("repair", repaired), ("breakage", broken))
        }
    for place, (name, _) in enumerate(chosen):
        row: dict[str, Any] = {"node": name}
        for region, one in found.items():
            row[region] = float(one.estimate[place])
            row |= {f"{region}_low": float(one.low[place]), f"{region}_high": float(one.high[place])}
        rows.append(row)
    return rows
