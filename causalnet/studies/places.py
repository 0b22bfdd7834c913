"""Where a run lies: a folder, or a place behind a URL that fsspec knows, such as ``s3://bucket/run``.

A place behind a URL is a ``upath.UPath``, which reads and writes as a ``pathlib.Path`` does.  What a run computes is
written there directly; what is drawn and read by people is made in a folder of this machine and put there.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from causalnet.errors import InputError, explain

__all__ = [
    "fetch",
    "is_remote",
    "mirrored",
    "near",
    "patiently",
    "place",
    "put",
    "reach",
    "refresh",
    "remove",
    "zarr_place",
]

_WAITS = (0.5, 1, 2, 4, 8, 16)
"""Seconds between attempts at a place that does not answer."""

_NOTHING: Mapping[str, tuple[int, int]] = {}
_Made = TypeVar("_Made")


def place(where: str | Path) -> Path:
    """Return the path of a folder or of a URL.

    Parameters
    ----------
    where
        A folder, or ``protocol://…``; how the protocol is spoken to (endpoint, keys) is fsspec's own configuration.

    Raises
    ------
    InputError
        If the protocol is unknown, or what speaks it is not installed.

    Examples
    --------
    >>> place("runs/one").name, is_remote(place("runs/one"))
    ('one', False)
    """
    text = str(where)
    if isinstance(where, Path) or "://" not in text:
        return Path(where)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    mend = "pip install 'causalnet-transformers[s3]' for s3://, or the fsspec package of another protocol"
    try:
        from upath import UPath

        found = UPath(text)
        found.fs  # noqa: B018 - says now whether the protocol can be spoken
    except (ImportError, ValueError) as problem:
        raise InputError(explain(f"cannot be reached: {problem}", where=text, mend=mend)) from problem
    return found  # type: ignore[return-value]


def reach(path: Any) -> None:
    """Refuse a place behind a URL that does not answer, before any work is done.

    Raises
    ------
    InputError
        With what its client says.
    """
    if not is_remote(path):
        return
    path.fs.invalidate_cache()
    try:
        path.exists()
    except Exception as problem:  # each protocol's client has errors of its own
        what = f"cannot be reached: {type(problem).__name__}: {problem}"
        mend = "fsspec's configuration says how (endpoint, keys)"
        raise InputError(explain(what, where=str(path), mend=mend)) from problem


def refresh(path: Any) -> None:
    """Forget what was seen at a place behind a URL: others write there too."""
    if is_remote(path):
        path.fs.invalidate_cache()


def is_remote(path: Path) -> bool:
    """Return whether a path is behind a URL."""
    return not isinstance(path, Path)


def zarr_place(path: Any) -> Any:
    """Return what zarr opens a path by."""
    if not is_remote(path):
        return path
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(str(path), storage_options=dict(path.storage_options))


def patiently(path: Path, attempt: Callable[[], _Made]) -> _Made:
    """Do something at a place; where it is behind a URL and does not answer, try again for half a minute."""
    for wait in _WAITS if is_remote(path) else ():
        try:
            return attempt()
        except (FileNotFoundError, PermissionError):
            raise  # an answer, which will stay the same
        except Exception:  # each protocol's client has errors of its own
            refresh(path)
            time.sleep(wait)
    return attempt()


def fetch(path: Any, folder: Path) -> None:
    """Copy everything at a place behind a URL into a folder."""
    path.fs.invalidate_cache()
    patiently(path, lambda: path.fs.get(f"{_root(path)}/", f"{folder}/", recursive=True))


@contextmanager
def near(path: Any) -> Iterator[Path]:
    """Yield a file of this machine with what a file holds, wherever that lies."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="causalnet-") as folder:
        file = Path(folder) / path.name
        file.write_bytes(patiently(path, path.read_bytes))
        yield file


def put(
    folder: Path, path: Any, *, last: tuple[str, ...] = (), known: Mapping[str, tuple[int, int]] = _NOTHING
) -> None:
    """Copy a folder to a place behind a URL.

    Parameters
    ----------
    folder, path
        From where, to where.
    last
        Names of files that say that the rest is complete; they are copied after it.
    known
        Files that are there already, as :func:`listed` gave them; they are left as they are.
    """
    files = [name for name, state in listed(folder).items() if known.get(name) != state]
    files.sort(key=lambda name: (Path(name).name in last, name.count("/") == 0, name))
    early = [name for name in files if Path(name).name not in last]
    if early:
        sources, targets = [str(folder / name) for name in early], [f"{_root(path)}/{name}" for name in early]
        try:
            patiently(path, lambda: path.fs.put(sources, targets))
        except FileNotFoundError:  # a protocol that has folders, which must be there first
            for parent in sorted({target.rpartition("/")[0] for target in targets}):
                path.fs.makedirs(parent, exist_ok=True)
            patiently(path, lambda: path.fs.put(sources, targets))
    for name in files[len(early) :]:
        patiently(path, lambda name=name: path.fs.put_file(str(folder / name), f"{_root(path)}/{name}"))
    path.fs.invalidate_cache()


def listed(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file below a folder, by its relative name."""
    files = (one for one in sorted(folder.rglob("*")) if one.is_file())
    return {str(one.relative_to(folder)): (one.stat().st_size, one.stat().st_mtime_ns) for one in files}


def remove(path: Any) -> None:
    """Remove a folder and everything in it, wherever it lies; nothing happens where there is none."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        patiently(path, lambda: path.fs.rm(_root(path), recursive=True))
        path.fs.invalidate_cache()


@contextmanager
def mirrored(path: Path, *, last: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a folder of this machine with everything at a place; what the block writes there is put back.

    A folder is its own mirror.

    Parameters
    ----------
    path
        The place.
    last
        Names of the files that are put back last, see :func:`put`.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="causalnet-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        fetch(path, folder)
        known = listed(folder)
        yield folder
        put(folder, path, last=last, known=known)


def _root(path: Any) -> str:
    return str(path.path).rstrip("/")
