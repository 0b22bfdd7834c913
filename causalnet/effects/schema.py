"""The written schema of a sweep's results: its builder, its check, and its files.

``docs/schema.md`` is the same schema in prose; a test holds the two together.  A sweep is an
``xarray.Dataset`` whose dimensions have names, whose every variable carries its units and meaning, and
whose attributes say which estimand it is and how it was run.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects.fields import (
    ATTRIBUTES,
    COORDINATES,
    RUN_KEYS,
    SCHEMA,
    SIGN,
    UNITS,
    VARIABLES,
    Variable,
)
from causalnet.effects.validation import validate
from causalnet.effects.words import effect_units, estimand_of, meaning, read_in, sign_of
from causalnet.errors import DataError, InputError, RunExistsError, UnknownNameError, explain

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = [
    "ATTRIBUTES",
    "COORDINATES",
    "RUN_KEYS",
    "SCHEMA",
    "SIGN",
    "UNITS",
    "VARIABLES",
    "Variable",
    "load",
    "save",
    "select",
    "sweep_dataset",
    "to_dataframe",
    "validate",
]


def sweep_dataset(
    *,
    te: np.ndarray,
    de: np.ndarray,
    norm: np.ndarray,
    delta_de: np.ndarray,
    clean_direct: np.ndarray,
    clean_responder: np.ndarray,
    clean_logit: np.ndarray,
    target_id: np.ndarray,
    target: Sequence[str],
    text: Sequence[str],
    nodes: Sequence[str],
    responders: Sequence[str],
    donor_index: np.ndarray,
    model: str,
    ablation: str,
    run: Mapping[str, Any],
    expression: str,
    estimand: str = "",
    position: str = "last",
    donor_pool: str | None = None,
    ce: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    dtype: str = "float32",
) -> "xr.Dataset":
    """Build the result of a sweep from plain arrays, with every attribute of the schema.

    Parameters
    ----------
    te, de, norm
        Effects, [prompt, node, donor], in the units of the outcome that ``expression`` reads; the donor axis has
        size 1 where nothing is drawn; donors that a prompt lacks are NaN, at the end of the axis.
    delta_de
        [prompt, node, donor, responder]; 0 where the responder is not a descendant of the node.
    clean_direct, clean_responder, clean_logit
        [prompt, node], [prompt, responder], [prompt]: the natural world.
    target_id, target, text
        Token number and text of the target, and the prompt, [prompt].
    nodes, responders
        Node names in order.
    donor_index
        [prompt, donor], the number of the donor prompt, -1 where there is none.
    model, ablation, run, expression, estimand, position
        Attributes; ``run`` must hold ``versions, seed, dtype, device, arguments`` and be JSON; ``estimand`` is
        made from the outcome where it is not given.
    donor_pool
        ``prompts``, ``separate`` or ``none``; found from ``donor_index`` when not given.
    ce, residual
        Computed from the others, in float64, when not given.  Where the responder axis is empty because CE is no
        sum over responders (a curved outcome), ``ce`` has to be given.
    dtype
        Of the effects as stored.

    Returns
    -------
    xarray.Dataset
        Validated.

    Raises
    ------
    DataError
        If the arrays do not follow the schema; names the variable and the dimension.

    Examples
    --------
    >>> ds = sweep_dataset(
    ...     te=np.full((1, 2, 1), -1.0), de=np.full((1, 2, 1), -3.0), norm=np.zeros((1, 2, 1)),
    ...     delta_de=np.array([[[[0.0, 2.0]], [[0.0, 2.0]]]]), clean_direct=np.ones((1, 2)),
    ...     clean_responder=np.ones((1, 2)), clean_logit=np.ones(1), target_id=np.zeros(1, int),
    ...     target=["a"], text=["b"], nodes=["attn[0]", "mlp[0]"], responders=["mlp[0]", "attn[1]"],
    ...     donor_index=np.full((1, 1), -1), model="toy", ablation="zero", expression="TE(attn[0]@last = zero)",
    ...     run={"versions": {}, "seed": 0, "dtype": "float32", "device": "cpu", "arguments": {}})
    >>> ds["ce"].values.ravel().tolist(), ds["residual"].values.ravel().tolist()
    ([2.0, 2.0], [0.0, 0.0])
    """
    import xarray as xr

    donor_index = np.asarray(donor_index)
    drawn = (donor_index >= 0).sum(-1)
    if ce is None:
        summed = np.asarray(delta_de).sum(-1, dtype=np.float64)
        # Without responders the sum does not know which donors are missing.
        ce = np.where(np.isnan(te), np.nan, summed) if np.shape(te) == summed.shape else summed
    if residual is None:
        parts = [np.asarray(part, np.float64) for part in (te, de, ce, norm)]
        _same_shape(dict(zip(("te", "de", "ce", "norm"), parts, strict=True)))
        residual = parts[0] - parts[1] - parts[2] - parts[3]
    arrays: dict[str, Any] = {
        **{"te": te, "de": de, "ce": ce, "norm": norm, "residual": residual, "delta_de": delta_de},
        **{"clean_direct": clean_direct, "clean_responder": clean_responder, "clean_logit": clean_logit},
        **{"target_id": target_id, "target": target, "text": text},
        **{"donor_index": donor_index, "donors_used": drawn.astype(np.int64)},
    }
    data, outcome = {}, read_in(expression)
    units, by_responder = effect_units(outcome), len(responders) > 0
    for name, variable in VARIABLES.items():
        array = _as_kind(arrays[name], variable.kind, dtype)
        if array.ndim != len(variable.dims):
            raise DataError(
                explain(f"{name} has {array.ndim} axes, shape {array.shape}; it needs {list(variable.dims)}")
            )
        own = units if variable.units == UNITS else variable.units
        data[name] = (variable.dims, array, {"units": own, "long_name": meaning(variable, outcome, by_responder)})
    prompts, donors = donor_index.shape if donor_index.ndim == 2 else (0, 0)
    coords = {"prompt": np.arange(prompts), "node": np.array(list(nodes), dtype=np.str_), "donor": np.arange(donors)}
    coords["responder"] = np.array(list(responders), dtype=np.str_)
    _check_sizes(data, {name: len(values) for name, values in coords.items()})
    ds = xr.Dataset(data, coords=coords)
    for name, variable in COORDINATES.items():
        ds[name].attrs.update(units=variable.units, long_name=variable.long_name)
    ds.attrs = {
        **{"schema": SCHEMA, "estimand": estimand or estimand_of(outcome), "expression": expression},
        **{"units": units, "sign": sign_of(outcome)},
        **{"ablation": ablation, "donor_pool": donor_pool or ("prompts" if drawn.any() else "none")},
        **{"position": position, "model": model, "run": _run_text(run)},
    }
    validate(ds)
    return ds


def _as_kind(values: Any, kind: str, dtype: str) -> np.ndarray:
    """Turn values into an array of the kind."""
    if kind == "text":
        return _texts(list(values), False)
    array = np.asarray(values)
    return array.astype(dtype) if kind == "float" else array


def _run_text(run: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(run), allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise DataError(f"attribute 'run' cannot be written as JSON: {problem}") from problem


def _same_shape(arrays: Mapping[str, np.ndarray]) -> None:
    first, shape = next((name, array.shape) for name, array in arrays.items())
    for name, array in arrays.items():
        if array.shape != shape:
            raise DataError(f"{name} has shape {array.shape}, but {first} has {shape}")


def _check_sizes(data: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    for name, (dims, array, _) in data.items():
        for axis, dim in enumerate(dims):
            if array.shape[axis] != sizes[dim]:
                raise DataError(f"{name} has size {array.shape[axis]} along {dim!r}, which has size {sizes[dim]}")


def save(ds: "xr.Dataset", path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a result as a zarr folder, whole or not at all.

    The folder is written under a temporary name beside ``path`` and renamed when complete.  Zarr format 2
    is used: there texts are a plain part of the format, so ``xarray.open_zarr(path)`` reads the node
    names back without a warning.

    Parameters
    ----------
    ds
        A sweep's result; it is validated first.
    path
        The folder to make.
    overwrite
        Replace what is there.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    DataError
        If the dataset does not follow the schema.
    RunExistsError
        If the folder exists and ``overwrite`` is false.
    """
    validate(ds)
    path = Path(path)
    if path.exists() and not overwrite:
        raise RunExistsError(
            explain("the folder exists already", where=str(path), mend="choose another, or overwrite it")
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        encoding = {str(name): {"chunks": _chunks(ds[name])} for name in ds.data_vars}
        # What an earlier file said about its own layout must not leak into this one.
        ds.drop_encoding().to_zarr(folder / "new", zarr_format=2, consolidated=True, encoding=encoding, mode="w")
        if path.exists():
            path.rename(folder / "old")
        (folder / "new").rename(path)
    finally:
        if (folder / "old").exists() and not path.exists():
            (folder / "old").rename(path)
        shutil.rmtree(folder, ignore_errors=True)
    return path


def load(path: str | os.PathLike[str]) -> "xr.Dataset":
    """Read a result that :func:`save` wrote, into memory, and validate it.

    Parameters
    ----------
    path
        The zarr folder.

    Raises
    ------
    InputError
        If there is no such folder.
    DataError
        If it is not a zarr folder, or does not follow the schema.
    """
    import xarray as xr

    path = Path(path)
    if not path.is_dir():
        raise InputError(explain("there is no such folder of results", where=str(path)))
    refuse_foreign_codecs(path)
    try:
        with xr.open_zarr(path, consolidated=True) as opened:
            ds = opened.load()
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as problem:
        raise DataError(f"{path}: not a readable zarr folder: {problem}") from problem
    for name, variable in {**COORDINATES, **VARIABLES}.items():
        if variable.kind == "text" and name in ds.variables:
            texts = _texts(ds[name].values.tolist(), name in COORDINATES)
            ds[name] = (ds[name].dims, texts, ds[name].attrs)
    ds = ds.drop_encoding()
    ds = ds[[name for name in VARIABLES if name in ds] + [name for name in ds.data_vars if name not in VARIABLES]]
    validate(ds)
    return ds


def select(ds: "xr.Dataset", **names: Any) -> "xr.Dataset":
    """Select by name along ``prompt``, ``node``, ``donor`` or ``responder``.

    Parameters
    ----------
    ds
        A sweep's result.
    **names
        Dimension to a label or a list of labels, as ``node="attn[3]"``.

    Raises
    ------
    UnknownNameError
        If there is no such dimension or label; the nearest legal one is suggested.

    Examples
    --------
    >>> import xarray as xr
    >>> select(xr.Dataset(coords={"node": ["attn[3]", "mlp[3]"]}), node="atn[3]")
    Traceback (most recent call last):
    ...
    causalnet.errors.UnknownNameError: no node 'atn[3]'; did you mean 'attn[3]'? legal: attn[3], mlp[3]
    """
    for dim, wanted in names.items():
        if dim not in ds.coords:
            raise UnknownNameError(explain(f"no dimension {dim!r}", legal=COORDINATES, got=dim))
        legal = np.atleast_1d(ds[dim].values).tolist()
        for one in wanted if isinstance(wanted, (list, tuple, np.ndarray)) else [wanted]:
            if one not in legal:
                raise UnknownNameError(explain(f"no {dim} {one!r}", legal=map(str, legal), got=str(one)))
    return ds.sel(names)


def to_dataframe(ds: "xr.Dataset", *, responders: bool = False) -> "pd.DataFrame":
    """Lay a result out as a long table.

    Parameters
    ----------
    ds
        A sweep's result.
    responders
        False: one row per (prompt, node, donor) with the effects and what belongs to the prompt and the node.
        True: one row per (prompt, node, donor, responder) with ``delta_de`` and the responder's clean effect.

    Returns
    -------
    pandas.DataFrame
        Donors that a prompt lacks have no row.
    """
    if responders:
        table = ds[["delta_de", "clean_responder"]].to_dataframe(dim_order=["prompt", "node", "donor", "responder"])
        return table.dropna(subset=["delta_de"]).reset_index()
    wide = ds.drop_vars(["delta_de", "clean_responder", "responder"])
    table = wide.to_dataframe(dim_order=["prompt", "node", "donor"])
    return table.dropna(subset=["te"]).reset_index()


def _texts(values: list[Any], label: bool) -> np.ndarray:
    """Texts as an array: labels fixed-width, others Python strings, which no width cuts off."""
    if label:
        return np.array(values, dtype=np.str_)
    texts = np.empty(len(values), dtype=object)
    texts[:] = values
    return texts


def _chunks(array: "xr.DataArray") -> tuple[int, ...]:
    """Chunk along prompts only, at most about 16 MB each: few files, and one prompt is quick to read."""
    if array.ndim == 0:
        return ()
    row = max(1, array.nbytes // max(1, array.shape[0]))
    return (max(1, min(array.shape[0], 2**24 // row)), *[max(1, size) for size in array.shape[1:]])


def refuse_foreign_codecs(path: Path) -> None:
    """Refuse arrays whose codecs could do more than decompress (zarr 2 has a pickle codec)."""
    legal = {"vlen-utf8", "blosc", "zstd", "lz4", "zlib", "gzip"}
    for file in (path / ".zmetadata", *path.rglob(".zarray")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise DataError(f"{file}: not a readable zarr folder: {problem}") from problem
        entries = content.get("metadata", {}).values() if file.name == ".zmetadata" else [content]
        for entry in entries:
            codecs = [*(entry.get("filters") or []), *([entry["compressor"]] if entry.get("compressor") else [])]
            for codec in codecs:
                if codec.get("id") not in legal:
                    raise DataError(
                        explain(f"codec {codec.get('id')!r} is not read", where=str(file), legal=sorted(legal))
                    )
