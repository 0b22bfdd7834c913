"""The study's variants: what is asked besides the main sweep, and what is made of the main data."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.errors import InputError, UnknownNameError, explain
from causalnet.prompts import Prompts
from causalnet.studies.options import Options, outcome_of
from causalnet.studies.store import copy
from causalnet.studies.sweeps import Question, vectors_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LEAST", "checkpoints", "derive", "folder_of", "questions", "strata"]

LEAST = 10
"""Prompts that a stratum must have to be shown by itself."""

_MOST_VALUES = 8
"""Values that a number may have as a stratum before they are joined."""


def folder_of(family: str, label: str) -> str:
    """Return the folder of a variant, relative to its arm's.

    Examples
    --------
    >>> folder_of("ablation", "zero"), folder_of("outcome", 'logit_diff(" Mary", " John")')
    ('variants/ablation/zero', 'variants/outcome/logit_diff_Mary_John')
    """
    plain = re.sub(r"[^\w.=+-]+", "_", label).strip("_.")
    return f"variants/{family}/{plain or 'value'}"


def questions(options: Options) -> dict[str, Question]:
    """Return what an arm's sweeps ask, by folder; the main one's is empty.

    Raises
    ------
    InputError
        If two variants would have the same folder, or a vector's file cannot be used.

    Examples
    --------
    >>> list(questions(Options(ablation="resample,zero", positions=("-2",), heads=True)))
    ['', 'variants/ablation/zero', 'variants/position/-2', 'variants/granularity/head']
    """
    main, *others = options.ablations
    asked = [("", Question(main))]
    asked += [(folder_of("ablation", kind), Question(kind)) for kind in others]
    asked += [(folder_of("position", where), Question(main, position=where)) for where in options.positions]
    for what in options.outcomes:
        vector = " ".join(map(str, vectors_of(outcome_of(what), options).values()))
        asked.append((folder_of("outcome", what), Question(main, outcome=what, vector=vector)))
    if options.heads:
        asked.append((folder_of("granularity", "head"), Question(main, heads=True)))
    if len(dict(asked)) < len(asked):
        raise InputError("two variants would have the same folder; ask for them in two runs")
    return dict(asked)


def checkpoints(folder: Path) -> dict[str, str]:
    """Return the checkpoints in a folder by name, in the order of the numbers in their names.

    Raises
    ------
    InputError
        If it holds none.
    """
    if not folder.is_dir():
        raise InputError(explain("there is no such folder of checkpoints", where=str(folder)))
    found = [one for one in folder.iterdir() if (one / "config.json").is_file()]
    if not found:
        mend = "each checkpoint is a folder with config.json and its weights"
        raise InputError(explain("this folder holds no checkpoint", where=str(folder), mend=mend))
    found.sort(key=lambda one: [(int(part), "") if part.isdigit() else (-1, part) for part in _parts(one.name)])
    return {one.name: str(one) for one in found}


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"(\d+)", name) if part]


def strata(prompts: Prompts, lengths: Iterable[int], features: Iterable[str]) -> dict[tuple[str, str], list[int]]:
    """Return the prompts of each value of some features, by (feature, value).

    Parameters
    ----------
    prompts
        The prompts.
    lengths
        Number of tokens of each.
    features
        Names of features; ``length`` is the number of tokens.  Numbers of many values are joined into four groups.

    Raises
    ------
    UnknownNameError
        If no prompt has a feature.

    Examples
    --------
    >>> strata(Prompts(("a", "b", "c")), [3, 4, 3], ["length"])
    {('length', '3'): [0, 2], ('length', '4'): [1]}
    """
    found: dict[tuple[str, str], list[int]] = {}
    for name in features:
        if name != "length" and name not in prompts.feature_names:
            legal = ["length", *prompts.feature_names]
            raise UnknownNameError(explain(f"no prompt has a feature {name!r}", legal=legal, got=name))
        values: Iterable[Any] = lengths if name == "length" else prompts.feature(name)
        members: dict[Any, list[int]] = {}
        for row, value in enumerate(values):
            members.setdefault(value, []).append(row)
        members.pop(None, None)
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in members)
        if numbers and len(members) > _MOST_VALUES:
            found |= {(name, label): rows for label, rows in _quarters(members).items()}
        else:
            for value in sorted(members, key=(lambda one: one) if numbers else str):
                found[name, str(value)] = members[value]
    return found


def _quarters(members: Mapping[Any, list[int]]) -> dict[str, list[int]]:
    """Join the values of a number into up to four groups of about as many prompts, none of which splits a value."""
    total, groups = sum(map(len, members.values())), [[]]
    taken = 0
    for value in sorted(members):
        if groups[-1] and taken * 4 >= len(groups) * total and len(groups) < 4:
            groups.append([])
        groups[-1].append(value)
        taken += len(members[value])
    return {
        f"{group[0]}-{group[-1]}": sorted(row for value in group for row in members[value]) for group in groups if group
    }


def derive(
    data: "xr.Dataset", folder: Path, options: Options, groups: Mapping[tuple[str, str], list[int]]
) -> list[str]:
    """Write the variants that are made of the main data; return their folders, relative to the arm's.

    Parameters
    ----------
    data
        The main sweep.
    folder
        The arm's folder.
    options
        Which are wanted.
    groups
        What :func:`strata` returned; those of fewer than :data:`LEAST` prompts are left out.
    """
    made = []
    if options.frozen_norm:
        made.append(folder_of("norm", "frozen"))
        rows = range(data.sizes["prompt"])
        attrs = {"estimand": f"{data.attrs['estimand']}; with the final norm held at its natural scale"}
        _copy(data, folder / made[-1], rows, _freeze, attrs)
    for (name, value), rows in groups.items():
        if len(rows) >= LEAST:
            made.append(folder_of("strata", f"{name}={value}"))
            attrs = {"estimand": f"{data.attrs['estimand']}; over prompts whose {name} is {value}"}
            _copy(data, folder / made[-1], rows, dict, attrs)
    return made


def _copy(data: "xr.Dataset", folder: Path, rows: Iterable[int], change: Any, attrs: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    copy(data, folder / "effects.zarr", list(rows), change, attrs)


def _freeze(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hold the norm: what its changed scale adds is no longer part of the total effect."""
    return {**arrays, "te": arrays["te"] - arrays["norm"], "norm": arrays["norm"] * 0}
