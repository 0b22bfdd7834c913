"""The check that a result follows the schema."""

import json
from typing import TYPE_CHECKING

import numpy as np

from causalnet.effects.fields import ATTRIBUTES, COORDINATES, POOLS, RUN_KEYS, SCHEMA, UNITS, VARIABLES, Variable
from causalnet.effects.words import effect_units, read_in
from causalnet.errors import DataError, UnknownNodeError, explain
from causalnet.expr.outcomes import LINEAR
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["validate"]


def validate(ds: "xr.Dataset") -> None:
    """Check that a dataset follows the schema: names, dimensions, types, attributes, donors and sums.

    Parameters
    ----------
    ds
        A sweep's result.

    Raises
    ------
    DataError
        Naming the variable, coordinate or attribute, and what is wrong with it.

    Examples
    --------
    >>> import xarray as xr
    >>> validate(xr.Dataset())
    Traceback (most recent call last):
    ...
    causalnet.errors.DataError: attribute 'schema' is missing: name and version of this schema, 'causalnet-sweep/1'
    """
    _check_attributes(ds)
    for table, holder in ((COORDINATES, ds.coords), (VARIABLES, ds.data_vars)):
        for name, variable in table.items():
            if name not in holder:
                kind = "coordinate" if table is COORDINATES else "variable"
                raise DataError(explain(f"{kind} {name!r} is missing", got=name, legal=sorted(map(str, holder))))
            _check_variable(ds[name], variable, ds.attrs["units"])
    for name in ("node", "responder"):
        _check_nodes(name, ds[name].values.tolist())
    if len(set(ds["prompt"].values.tolist())) < ds.sizes["prompt"]:
        raise DataError("prompt holds the same number twice")
    for name, size in ds.sizes.items():
        if size == 0 and name != "responder":
            raise DataError(f"dimension {name!r} is empty")
    _check_outcome(ds)
    _check_donors(ds)
    _check_sums(ds)


def _check_attributes(ds: "xr.Dataset") -> None:
    for name, meaning in ATTRIBUTES.items():
        value = ds.attrs.get(name)
        if not isinstance(value, str) or not value:
            state = "missing" if name not in ds.attrs else "not a text" if not isinstance(value, str) else "empty"
            raise DataError(f"attribute {name!r} is {state}: {meaning}")
    if ds.attrs["schema"] != SCHEMA:
        raise DataError(explain(f"schema {ds.attrs['schema']!r} is not one this version reads", legal=[SCHEMA]))
    pool = ds.attrs["donor_pool"]
    if pool not in POOLS:
        raise DataError(explain(f"attribute 'donor_pool' is {pool!r}", legal=POOLS, got=pool))
    try:
        run = json.loads(ds.attrs["run"])
    except ValueError as problem:
        raise DataError(f"attribute 'run' is not JSON: {problem}") from problem
    missing = [key for key in RUN_KEYS if not isinstance(run, dict) or key not in run]
    if missing:
        raise DataError(f"attribute 'run' lacks {', '.join(missing)}")


def _check_outcome(ds: "xr.Dataset") -> None:
    """Hold units and responders to the outcome that the expression reads."""
    outcome, units = read_in(ds.attrs["expression"]), ds.attrs["units"]
    if units != effect_units(outcome):
        raise DataError(f"attribute 'units' is {units!r}; effects on {outcome} are in {effect_units(outcome)!r}")
    if outcome.name not in LINEAR and ds.sizes["responder"]:
        raise DataError(f"responder is not empty, but the compensatory effect on {outcome} is no sum over responders")


def _check_variable(array: "xr.DataArray", variable: Variable, units: str) -> None:
    name, legal = variable.name, units if variable.units == UNITS else variable.units
    if array.dims != variable.dims:
        raise DataError(f"{name} has dimensions {list(array.dims)}; it needs {list(variable.dims)}")
    kind = array.dtype.kind
    if variable.kind == "text":
        for place, one in enumerate(array.values.tolist()):
            if not isinstance(one, str):
                raise DataError(f"{name}[{place}] is {type(one).__name__}, not text")
            try:
                one.encode("utf-8")
            except UnicodeEncodeError as problem:
                raise DataError(f"{name}[{place}] is not valid Unicode: {problem}") from problem
    elif variable.kind == "int" and kind not in "iu":
        raise DataError(f"{name} is {array.dtype}; it needs an integer type")
    elif variable.kind == "float" and str(array.dtype) not in ("float32", "float64"):
        raise DataError(f"{name} is {array.dtype}; it needs float32 or float64")
    for key in ("units", "long_name"):
        if not isinstance(array.attrs.get(key), str):
            raise DataError(f"{name} has no attribute {key!r}")
    if array.attrs["units"] != legal:
        raise DataError(f"{name} is in {array.attrs['units']!r}; it needs {legal!r}")


def _check_nodes(name: str, values: list[str]) -> None:
    if len(set(values)) < len(values):
        twice = next(one for one in values if values.count(one) > 1)
        raise DataError(f"{name} holds {twice!r} twice")
    for place, one in enumerate(values):
        try:
            node = Node.parse(one)
        except UnknownNodeError as problem:
            raise DataError(f"{name}[{place}]: {problem}") from problem
        if name == "responder" and not node.contributes:
            raise DataError(
                f"responder[{place}]: {one!r} adds nothing to the residual stream, so it has no direct effect"
            )


def _check_donors(ds: "xr.Dataset") -> None:
    index, used = ds["donor_index"].values, ds["donors_used"].values
    labels = ds["prompt"].values
    donors = ds.sizes["donor"]
    if ((used < 0) | (used > donors)).any():
        place = int(np.flatnonzero((used < 0) | (used > donors))[0])
        raise DataError(f"donors_used[{place}] is {used[place]}, outside 0 to {donors}")
    if ds.attrs["donor_pool"] == "none" and used.any():
        raise DataError("donors_used is not 0, but attribute 'donor_pool' says that none are drawn")
    drawn = np.arange(donors) < used[:, None]
    wrong = (index >= 0) != drawn
    if wrong.any():
        prompt, donor = np.argwhere(wrong)[0]
        raise DataError(
            f"donor_index[{prompt}, {donor}] is {index[prompt, donor]}, but donors_used[{prompt}] is {used[prompt]}: "
            "numbers come first, then -1"
        )
    if ds.attrs["donor_pool"] == "prompts" and (index == labels[:, None]).any():
        place = int(np.argwhere(index == labels[:, None])[0][0])
        raise DataError(f"donor_index[{place}]: the prompt is its own donor")
    # Without donors every cell is filled: one for zero and mean, one per draw for noise.
    filled = drawn if ds.attrs["donor_pool"] != "none" else np.ones(donors, bool)
    filled = np.broadcast_to(filled, (ds.sizes["prompt"], donors))
    if not filled.any(axis=1).all():
        place = int(np.flatnonzero(~filled.any(axis=1))[0])
        raise DataError(f"donors_used[{place}] is 0: the prompt has no donor")
    for name, variable in VARIABLES.items():
        if variable.kind != "float":
            continue
        values = ds[name].values
        expected = np.ones(values.shape, bool)
        if "donor" in variable.dims:
            expected = np.broadcast_to(
                filled.reshape(filled.shape[0], 1, donors, *[1] * (values.ndim - 3)), values.shape
            )
        bad = np.isfinite(values) != expected
        if bad.any() or np.isinf(values).any():
            place = tuple(np.argwhere(bad | np.isinf(values))[0].tolist())
            need = "a finite number" if expected[place] else "NaN: the prompt has fewer donors"
            raise DataError(f"{name}{list(place)} is {values[place]}; it needs {need}")


def _check_sums(ds: "xr.Dataset") -> None:
    """Hold ce to the responders' sum, where it is one, and residual to the split, up to what rounding can explain."""
    cells = {name: ds[name].values.astype(np.float64) for name in ("te", "de", "ce", "norm", "residual")}
    delta = ds["delta_de"].values
    total, size = delta.sum(-1, dtype=np.float64), np.abs(delta).sum(-1, dtype=np.float64)
    split = cells["te"] - cells["de"] - cells["ce"] - cells["norm"]
    span = np.abs(cells["te"]) + np.abs(cells["de"]) + np.abs(cells["ce"]) + np.abs(cells["norm"])
    for name, given, expected, scale, rule in (
        ("ce", cells["ce"], total, size, "the sum of delta_de over the responders"),
        ("residual", cells["residual"], split, span, "te - de - ce - norm"),
    ):
        if name == "ce" and not ds.sizes["responder"]:
            continue  # by worlds
        with np.errstate(invalid="ignore"):
            bad = np.abs(given - expected) > 1e-4 * scale + 1e-5
        if bad.any():
            place = tuple(np.argwhere(bad)[0].tolist())
            raise DataError(f"{name}{list(place)} is {given[place]:.6g}, but {rule} is {expected[place]:.6g}")
