"""Run folders: written beside their place and moved there whole, so that none is ever half-written."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from causalnet.errors import InputError, RunExistsError, explain
from causalnet.studies.places import is_remote, put, remove

__all__ = [
    "MILESTONES",
    "default_folder",
    "fresh_folder",
    "is_finished",
    "is_unfinished",
    "refuse_existing",
    "remove_unfinished",
    "write_json",
    "write_whole",
]

MILESTONES = ("plan.json", "summary.json", "comparison.json")
"""Files that say how far a run has come, and so are written after the rest."""
_COPYING = "copying"


def default_folder(study: str) -> Path:
    """Return ``runs/<study>-<time>``, with a number where that exists.

    Parameters
    ----------
    study
        Name of the study.

    Examples
    --------
    >>> default_folder("hydra").parent.name
    'runs'
    """
    name = f"{study}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    path, count = Path("runs") / name, 1
    while path.exists():
        count += 1
        path = Path("runs") / f"{name}-{count}"
    return path


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds something, before any work is done.

    Parameters
    ----------
    path
        Where a run is to be written.
    overwrite
        Accept a place that holds a run.

    Raises
    ------
    RunExistsError
        If the folder holds anything and ``overwrite`` is not given.
    InputError
        If the path is a file or cannot be read, or if the folder holds something that is not a run.

    Examples
    --------
    >>> refuse_existing(Path("no/such/folder"), overwrite=False)
    """
    try:
        if not path.exists():
            return
        if not path.is_dir():
            raise InputError(explain("this is a file, not a folder", where=str(path), mend="name another with --out"))
        held = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise InputError(explain(f"cannot be read: {error.strerror}", where=str(path))) from error
    if not held or _COPYING in held:
        return
    if not (is_finished(path) or is_unfinished(path)):
        what = f"this folder holds something that is not a run ({', '.join(held[:3])}{', …' * (len(held) > 3)})"
        raise (InputError if overwrite else RunExistsError)(
            explain(what, where=str(path), mend="name another with --out; only runs are ever replaced")
        )
    if overwrite:
        return
    if is_finished(path):
        what, mend = "this folder holds a run", "name another with --out, or give --overwrite"
    else:
        what, mend = "this folder holds an unfinished run", "go on with --resume, or begin anew with --overwrite"
    raise RunExistsError(explain(what, where=str(path), mend=mend))


def is_finished(path: Path) -> bool:
    """Return whether this folder itself is a finished run: a folder of runs must never be replaced by one.

    What says so is written last: ``summary.json`` of one model, ``comparison.json`` of several.
    """
    if (path / "summary.json").is_file():
        return (path / "effects.zarr").is_dir()
    return (path / "comparison.json").is_file() and any(path.glob("*/summary.json"))


def is_unfinished(path: Path) -> bool:
    """Return whether this folder is a run that was begun and can go on."""
    return (path / "plan.json").is_file() and not is_finished(path)


@contextmanager
def fresh_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder that becomes ``path`` when the block ends without an error.

    Whatever is raised inside (Ctrl-C included), the unfinished folder is removed and what stood at
    ``path`` before is left as it was; behind a URL, where nothing can be moved, until the new one is copied there.

    Parameters
    ----------
    path
        Where the folder shall be.
    overwrite
        Replace a run that stands there; it stays until the new one is complete.

    Raises
    ------
    RunExistsError, InputError
        As :func:`refuse_existing`, and if nothing can be written there.

    Examples
    --------
    >>> place = Path(tempfile.mkdtemp()) / "run"
    >>> with fresh_folder(place, overwrite=False) as folder:
    ...     _ = (folder / "summary.json").write_text("{}")
    ...     place.exists()
    False
    >>> [entry.name for entry in place.iterdir()]
    ['summary.json']
    """
    refuse_existing(path, overwrite=overwrite)
    if is_remote(path):
        with _put_when_whole(path) as made:
            yield made
        return
    place = path.resolve()
    missing = [parent for parent in place.parents if not parent.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{place.name}-", suffix=".unfinished", dir=place.parent))
    except OSError as error:
        _remove_empty(missing)
        what = f"cannot be written: {error.strerror}"
        raise InputError(explain(what, where=str(path), mend="name another place with --out")) from error
    try:
        yield made
        made.chmod(0o755)
        _put_in_place(made, place, overwrite)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        _remove_empty(missing)


@contextmanager
def _put_when_whole(path: Path) -> Iterator[Path]:
    """Yield a folder of this machine that is put at a place behind a URL when the block ends without an error."""
    with tempfile.TemporaryDirectory(prefix="causalnet-") as made:
        yield Path(made)
        try:
            remove(path)
            # Where the copying is killed, this says that there is nothing yet to lose.
            (path / _COPYING).write_text("", encoding="utf-8")
            put(Path(made), path, last=MILESTONES)
            (path / _COPYING).unlink()
        except BaseException as error:
            with suppress(Exception):
                remove(path)
            if not isinstance(error, Exception):
                raise
            what = f"cannot be written: {type(error).__name__}: {error}"
            raise InputError(explain(what, where=str(path), mend="name another place with --out")) from error


def remove_unfinished(path: Path) -> None:
    """Remove what a killed worker left of :func:`fresh_folder` beside a place."""
    if not is_remote(path):
        for one in path.resolve().parent.glob(f".{path.name}-*.unfinished"):
            shutil.rmtree(one, ignore_errors=True)


def _remove_empty(folders: list[Path]) -> None:
    """Remove parents that were made for a run which never came."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _put_in_place(made: Path, place: Path, overwrite: bool) -> None:
    if not overwrite:
        try:
            made.rename(place)
        except OSError as error:
            # Someone else filled it while the run was on its way.
            raise RunExistsError(explain(f"cannot be put in place: {error.strerror}", where=str(place))) from error
        return
    old = made.with_suffix(".old")
    try:
        if place.exists():
            place.rename(old)
        made.rename(place)
    except BaseException:
        if old.exists() and not place.exists():
            old.rename(place)
        raise
    finally:
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object in the order given; a number that is not finite is an error.

    Parameters
    ----------
    path
        The file.
    content
        Texts, numbers, lists and mappings.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, text + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    if is_remote(path):
        path.write_text(text, encoding="utf-8")
        return
    made = path.with_name(f"{path.name}.partial")
    made.write_text(text, encoding="utf-8")
    made.replace(path)
