"""Named vectors from files: directions to project on, or values to set."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.errors import DataError, InputError, explain

if TYPE_CHECKING:
    from os import PathLike

    import torch

__all__ = ["NamedVector", "as_vector", "named_files", "read_vector", "read_vectors"]


@dataclass(frozen=True, eq=False)
class NamedVector:
    """A vector [d_model] in double precision, and a digest of its numbers."""

    name: str
    values: np.ndarray
    digest: str

    def __str__(self) -> str:
        return f"{self.name}={self.digest}"


def as_vector(name: str, given: Any) -> "torch.Tensor":
    """Return a vector that was given as a tensor, an array or numbers as a tensor.

    Raises
    ------
    InputError
        If it holds no numbers.
    """
    import torch

    if isinstance(given, torch.Tensor):
        return given.detach()
    try:
        return torch.as_tensor(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"vector {name!r} is no vector of numbers: {error}") from None


def named_files(given: Iterable[str]) -> dict[str, str]:
    """Return files by name from texts such as ``truth=truth.npy``; nothing is read.

    Raises
    ------
    InputError
        If a text is no such thing, or a name is given twice.

    Examples
    --------
    >>> named_files(["truth=path/to/truth.npy"])
    {'truth': 'path/to/truth.npy'}
    """
    found: dict[str, str] = {}
    for text in given:
        name, sign, file = text.partition("=")
        if not (name and sign and file):
            raise InputError(explain(f"vector {text!r} has no name or no file", mend="write truth=path/to/truth.npy"))
        if name in found:
            raise InputError(f"vector {name!r} is given twice")
        found[name] = file
    return found


def read_vectors(given: Iterable[str]) -> dict[str, NamedVector]:
    """Read vectors by name from texts such as ``truth=truth.npy``; see :func:`read_vector`."""
    return {name: read_vector(name, file) for name, file in named_files(given).items()}


def read_vector(name: str, path: "str | PathLike[str]") -> NamedVector:
    """Read a vector from a NumPy file (``.npy``, without pickled objects) or a safetensors file.

    Parameters
    ----------
    name
        What it is called; of several tensors in a safetensors file the one of this name is read.
    path
        The file.

    Raises
    ------
    InputError
        If there is no such file, or it is of another kind.
    DataError
        If it cannot be read, holds no vector, or a vector that is zero or not finite.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "truth.npy"
    >>> np.save(file, np.array([3.0, 4.0]))
    >>> read_vector("truth", file).values.tolist()
    [3.0, 4.0]
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(explain(f"vector {name!r}: there is no such file", where=str(path)))
    if path.suffix not in (".npy", ".safetensors"):
        mend = "write it with numpy.save, or as safetensors"
        raise InputError(explain(f"vector {name!r}: neither .npy nor .safetensors", where=str(path), mend=mend))
    values = _array(name, path) if path.suffix == ".npy" else _tensor(name, path)
    problem = ""
    if values.dtype.kind not in "fiu" or values.ndim != 1 or values.size == 0:
        problem = f"{values.dtype} of shape {values.shape} is no vector of numbers"
    elif not np.isfinite(values).all():
        problem = "it has entries that are NaN or infinite"
    elif not values.any():
        problem = "it is zero, so it has no direction"
    if problem:
        raise DataError(explain(f"vector {name!r}: {problem}", where=str(path)))
    wide = np.ascontiguousarray(values, dtype="<f8")
    return NamedVector(name, wide, f"sha256:{hashlib.sha256(wide.tobytes()).hexdigest()}")


def _array(name: str, path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as problem:
        raise DataError(explain(f"vector {name!r}: no readable .npy file ({problem})", where=str(path))) from problem


def _tensor(name: str, path: Path) -> np.ndarray:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > 1 and name not in names:
                what = f"vector {name!r}: the file holds several tensors and none of that name"
                raise DataError(explain(what, where=str(path), legal=names, got=name))
            return file.get_tensor(name if name in names else names[0]).double().numpy()
    except (OSError, SafetensorError, IndexError) as problem:
        raise DataError(explain(f"vector {name!r}: no readable safetensors ({problem})", where=str(path))) from problem
