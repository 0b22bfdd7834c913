"""Make the reading of pages importable as ``docs_reading``, and the build's own modules by their names."""

import importlib.util
import sys
from pathlib import Path

import pytest

from causalnet.demo import model_path, prompts_path

HERE = Path(__file__).parent
EXT = HERE.parents[1] / "docs" / "_ext"

FILES = {"docs_reading": HERE / "reading.py"}
FILES |= {name: EXT / f"{name}.py" for name in ("rooms", "pictures", "generated")}
for name, path in FILES.items():
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)


@pytest.fixture
def readers_folder(tmp_path, monkeypatch):
    """A folder as a reader might have it: a checkpoint, a file of prompts, nothing else."""
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "checkpoint").symlink_to(model_path("plain"))
    lines = prompts_path().read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(lines[:60]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path
