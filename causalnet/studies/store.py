"""The store of one sweep: a zarr folder that is made empty, filled chunk by chunk, and read in parts.

Every array is cut by the blocks of the sweep's chunk plan, so a chunk of work writes whole chunks of arrays and
no two write into one.  A chunk counts as done once its marker stands, which is written after its arrays; one
that was killed on its way is done again and gives the same bytes.
"""

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects import opening
from causalnet.effects.fields import VARIABLES
from causalnet.effects.opening import fits, open_store
from causalnet.errors import explain
from causalnet.studies.chunks import Chunk, ChunkPlan
from causalnet.studies.folder import write_whole
from causalnet.studies.places import is_remote, patiently, zarr_place

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Markers", "clean", "copy", "create", "fits", "open_store", "opened", "read_labels", "write"]

_LABELS = ("target_id", "target", "text", "donor_index", "donors_used")
"""What is known before anything is measured."""

_BLOCK = 1 << 26
"""Bytes of data that are held at a time where a store is made from another one."""

Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def create(path: Path, labels: Mapping[str, Any], plan: ChunkPlan, *, attrs: Mapping[str, str] | None = None) -> None:
    """Make the store of a sweep: names, texts and donors in place, what will be measured empty (NaN).

    Parameters
    ----------
    path
        The zarr folder to make.
    labels
        What :meth:`causalnet.studies.sweeps.Job.labels` returned.
    plan
        How the sweep is cut.
    attrs
        Attributes besides those of the labels.
    """
    import numcodecs
    import zarr

    template = _template(labels)
    sizes = {
        "prompt": plan.prompts,
        "node": plan.nodes,
        "donor": labels["donor_index"].shape[1],
        "responder": len(labels["responders"]),
    }
    # One thread, one result: a store must not depend on how many processors compressed it.
    codec = numcodecs.Zstd(level=1)
    known = _known(template, labels).assign_attrs(attrs or {})
    encoding = {str(name): {"compressors": codec} for name in known.variables}
    known.to_zarr(path, zarr_format=2, consolidated=False, encoding=encoding, mode="w")
    steps = {**sizes, "prompt": plan.prompt_step, "node": plan.node_step}
    group = zarr.open_group(path, mode="r+", zarr_format=2)
    for name, variable in VARIABLES.items():
        if name in _LABELS:
            continue
        shape = tuple(sizes[dim] for dim in variable.dims)
        group.create_array(
            name,
            shape=shape,
            chunks=tuple(max(1, min(steps[dim], sizes[dim])) for dim in variable.dims),
            dtype=np.float32,
            compressors=codec,
            fill_value=np.float32("nan"),
            attributes={**template[name].attrs, "_ARRAY_DIMENSIONS": list(variable.dims)},
        )
    _consolidate(path)


def _template(labels: Mapping[str, Any]) -> "xr.Dataset":
    """Return a data set of the first prompt and node alone, for the attributes of everything."""
    from causalnet.effects.schema import sweep_dataset

    donors = labels["donor_index"][:1]
    empty = np.where((donors < 0) & (donors >= 0).any(), np.nan, 0.0)[:, None]
    responders = len(labels["responders"])
    return sweep_dataset(
        te=empty,
        de=empty,
        norm=empty,
        delta_de=np.repeat(empty[..., None], responders, axis=-1),
        clean_direct=np.zeros((1, 1)),
        clean_responder=np.zeros((1, responders)),
        clean_logit=np.zeros(1),
        **{name: labels[name][:1] for name in ("target_id", "target", "text", "nodes")},
        **{name: labels[name] for name in ("responders", "model", "ablation", "run", "expression", "position")},
        donor_index=donors,
        # Here the first prompt stands for any, so that its number says nothing of its donors.
        donor_pool="separate" if (donors >= 0).any() else "none",
    )


def _known(template: "xr.Dataset", labels: Mapping[str, Any]) -> "xr.Dataset":
    """Return the coordinates and labels of the whole data set, with the template's attributes."""
    import xarray as xr

    donors = labels["donor_index"]
    texts = {}
    for name in ("target", "text"):
        texts[name] = np.empty(len(labels[name]), dtype=object)
        texts[name][:] = labels[name]
    values = {**texts, "target_id": labels["target_id"], "donor_index": donors}
    values["donors_used"] = (donors >= 0).sum(1).astype(np.int64)
    found = xr.Dataset(
        {name: (VARIABLES[name].dims, values[name], template[name].attrs) for name in _LABELS},
        coords={
            "prompt": labels.get("prompt", np.arange(donors.shape[0])),
            "node": np.array(labels["nodes"], dtype=np.str_),
            "donor": np.arange(donors.shape[1]),
            "responder": np.array(labels["responders"], dtype=np.str_),
        },
        attrs={**template.attrs, "donor_pool": "prompts" if (donors >= 0).any() else "none"},
    )
    for name in found.coords:
        found[name].attrs.update(template[name].attrs)
    return found


def _consolidate(path: Path) -> None:
    """Write all metadata into one file, in the order of names: a listing's own order differs between machines."""
    held = {str(file.relative_to(path)): json.loads(file.read_text(encoding="utf-8")) for file in path.rglob(".z*")}
    held.pop(".zmetadata", None)
    content = {"metadata": dict(sorted(held.items())), "zarr_consolidated_format": 1}
    (path / ".zmetadata").write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def write(path: Path, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what one chunk measured into the store.

    Parameters
    ----------
    path
        The zarr folder.
    chunk
        Which prompts and nodes.
    arrays
        What :func:`causalnet.studies.sweeps.compute` returned.

    Raises
    ------
    OSError
        If it cannot be written (a full disk, say); it says how to go on.
    """
    import zarr

    prompts, nodes = slice(*chunk.prompts), slice(*chunk.nodes)

    def attempt() -> None:
        group = zarr.open_group(zarr_place(path), mode="r+", zarr_format=2, use_consolidated=True)
        for name, values in arrays.items():
            dims = VARIABLES[name].dims
            if "node" not in dims and chunk.node_block:
                continue  # written by the chunk of the first nodes
            place = tuple({"prompt": prompts, "node": nodes}.get(dim, slice(None)) for dim in dims)
            array = group[name]
            assert isinstance(array, zarr.Array)
            array[place] = values

    _writing(path, attempt)


def _writing(path: Path, attempt: Callable[[], None]) -> None:
    """Write something; whatever goes wrong at a place behind a URL is an error of that place."""
    try:
        patiently(path, attempt)
    except OSError as error:
        raise cannot_write(error, path) from error
    except Exception as error:
        if not is_remote(path):
            raise
        raise cannot_write(OSError(f"{type(error).__name__}: {error}"), path) from error


def cannot_write(error: OSError, path: Path) -> OSError:
    """Return the error that says what happened to the store and how to go on."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = f"cannot be written: {error.strerror or error}; finished chunks are kept"
    mend = "free some space and go on with --resume" if full else "go on with --resume"
    return OSError(explain(what, where=str(path), mend=mend))


class Markers:
    """Which chunks of a sweep are done: one small file for each, holding the seconds it took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self) -> dict[str, float]:
        """Return the finished chunks and the seconds that each took."""
        if not self.folder.is_dir():
            return {}
        held: list[Any] = sorted(self.folder.glob("*.done"), key=str)
        if not is_remote(self.folder):
            return {one.stem: float(one.read_text() or 0) for one in held}
        folder: Any = self.folder
        texts = patiently(folder, lambda: folder.fs.cat([str(one.path) for one in held])) if held else {}  # at once
        return {Path(name).stem: float(text or 0) for name, text in sorted(texts.items())}

    def set(self, chunk: Chunk, seconds: float) -> None:
        """Say that a chunk is done; whole or not at all."""

        def attempt() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f"{chunk.name}.done", f"{seconds:.3f}\n")

        _writing(self.folder, attempt)


def clean(path: Path) -> None:
    """Remove what an attempt that was killed while it wrote left behind."""
    if is_remote(path):
        return  # what is put there is put there whole
    for file in path.rglob("*.partial"):
        file.unlink(missing_ok=True)


def copy(source: "xr.Dataset", path: Path, rows: Sequence[int], change: Change, attrs: Mapping[str, str]) -> None:
    """Write a store that is computed from another one's data, some prompts at a time.

    Parameters
    ----------
    source
        The data, in memory or on disk.
    path
        The zarr folder to make.
    rows
        Which prompts, in order.
    change
        What becomes of their variables.
    attrs
        Attributes that differ.
    """
    some = source.isel(prompt=list(rows))
    labels = {name: source[name].values[list(rows)].tolist() for name in ("target", "text")}
    labels |= {name: source[name].values[list(rows)] for name in ("target_id", "donor_index", "prompt")}
    labels |= {"nodes": source["node"].values.tolist(), "responders": source["responder"].values.tolist()}
    labels |= {name: source.attrs[name] for name in ("model", "ablation", "expression", "position")}
    labels["run"] = json.loads(source.attrs["run"])
    each = max(1, sum(variable.nbytes for variable in source.data_vars.values()) // source.sizes["prompt"])
    plan = ChunkPlan(len(rows), source.sizes["node"], max(1, min(len(rows), _BLOCK // each)), source.sizes["node"])
    create(path, labels, plan, attrs=attrs)
    measured = [name for name in VARIABLES if name not in _LABELS]
    for chunk in plan:
        block = some.isel(prompt=slice(*chunk.prompts))
        write(path, chunk, change({name: block[name].values for name in measured}))


def read_labels(path: Path) -> tuple[list[int], np.ndarray | None]:
    """Return the targets [prompt] and donors [prompt, donor] of a store (None where none are drawn).

    Raises
    ------
    DataError
        If there is no store, or it cannot be read.
    """
    with opened(path) as ds:
        donors = np.asarray(ds["donor_index"].values)
        drawn = ds.attrs["donor_pool"] != "none"
        return ds["target_id"].values.tolist(), donors if drawn else None


def opened(path: Path) -> "xr.Dataset":
    """Return the data of a sweep as it lies in its store, wherever that is; see :mod:`causalnet.effects.opening`."""
    return opening.opened(path, zarr_place(path))
