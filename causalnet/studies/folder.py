"""Run folders: written beside their place and moved there whole, so that none is ever half-written."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from causalnet.errors import InputError, RunExistsError

__all__ = ["default_folder", "fresh_folder", "refuse_existing", "write_json"]


def default_folder(study: str) -> Path:
    """Return ``runs/<study>-<time>``."""
    return Path("runs") / f"{study}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds something, before any work is done.

    Raises
    ------
    RunExistsError
        If the folder holds anything and ``overwrite`` is not given.
    InputError
        If the path is a file, or if the folder holds something that is not a run.
    """
    if path.is_file():
        raise InputError(f"{path}: this is a file; --out names a folder")
    if not path.exists() or not any(path.iterdir()):
        return
    if not overwrite:
        raise RunExistsError(f"{path}: this folder is not empty; name another with --out, or give --overwrite")
    if not _is_run(path):
        raise InputError(f"{path}: this folder holds something that is not a run; --overwrite replaces runs only")


def _is_run(path: Path) -> bool:
    return any((folder / "summary.json").is_file() for folder in (path, *(p for p in path.iterdir() if p.is_dir())))


@contextmanager
def fresh_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder that becomes ``path`` when the block ends without an error.

    Whatever is raised inside (Ctrl-C included), the unfinished folder is removed and what stood at
    ``path`` before is left as it was.
    """
    refuse_existing(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".unfinished", dir=path.parent))
    try:
        yield made
        made.chmod(0o755)
        _put_in_place(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put_in_place(made: Path, path: Path) -> None:
    if not path.exists():
        made.rename(path)
        return
    # Two renames, so that at every moment one whole run stands under a findable name.
    old = made.with_suffix(".old")
    path.rename(old)
    try:
        made.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, sorted as given, numbers finite."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + os.linesep, encoding="utf-8")
