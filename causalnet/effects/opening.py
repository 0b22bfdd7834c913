"""Stores that may be larger than memory: read where they fit, else checked in parts and left on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalnet.effects.fields import VARIABLES
from causalnet.effects.parts import blocks
from causalnet.effects.schema import load, refuse_foreign_codecs
from causalnet.effects.validation import validate
from causalnet.errors import DataError, InputError, explain

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["fits", "open_store", "opened"]


def open_store(path: Path, memory: int) -> "xr.Dataset":
    """Return the data of a finished sweep: in memory where they fit, else left on disk and read in parts.

    Either way they are validated.

    Parameters
    ----------
    path
        The zarr folder.
    memory
        Bytes that it may take.

    Raises
    ------
    InputError, DataError
        If there is none, or it does not follow the schema.
    """
    if not path.is_dir():
        raise InputError(explain("there is no such folder of results", where=str(path)))
    refuse_foreign_codecs(path)
    if fits(path, memory):
        return load(path)
    found = opened(path)
    _check(found, path)
    return found


def fits(path: Path, memory: int) -> bool:
    """Return whether a store may be read into memory (the check of the schema needs a few times its size)."""
    with opened(path) as ds:
        return 6 * ds.nbytes <= memory


def opened(path: Path, place: Any = None) -> "xr.Dataset":
    """Return the data of a sweep as it lies in its store, nothing read or checked yet.

    Parameters
    ----------
    path
        The zarr folder.
    place
        What zarr opens it by, where that is not a folder of this machine.

    Raises
    ------
    DataError
        If there is no store, or it cannot be read.
    """
    import xarray as xr

    how: dict[str, Any] = {"engine": "zarr", "backend_kwargs": {"consolidated": True}, "chunks": None, "cache": False}
    try:
        return xr.open_dataset(path if place is None else place, **how)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as problem:
        raise DataError(f"{path}: not a readable zarr folder: {problem}") from problem


def _check(ds: "xr.Dataset", path: Path) -> None:
    """Validate a store some prompts at a time: what the schema says of a sweep it says of each of its prompts."""
    if "delta_de" not in ds or ds["delta_de"].dims != VARIABLES["delta_de"].dims or 0 in ds["delta_de"].shape[:3]:
        validate(ds)  # says what is missing or empty before it reads any numbers
    if len(set(ds["prompt"].values.tolist())) < ds.sizes["prompt"]:
        raise DataError(f"{path}: prompt holds the same number twice")
    for block in blocks(ds):
        part = ds.isel(prompt=block)
        try:
            validate(part.load())
        except DataError as problem:
            last = block.start + part.sizes["prompt"] - 1
            where = f"{path}, prompts {block.start} to {last}, counted from {block.start}"
            raise DataError(f"{where}: {problem}") from problem
