"""What the pages show and no hand writes: the tutorials' copies, the commands' help, the pictures."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pictures
import typer
from typer.testing import CliRunner

from causalnet.cli.main import app

__all__ = ["code_state", "command_help", "commands", "tutorial_cache", "write_all"]

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
MADE = DOCS / "_generated"


def write_all() -> None:
    """Write everything that the pages include; what has not changed keeps its time stamp."""
    MADE.mkdir(exist_ok=True)
    _put(MADE / "commands.md", command_help())
    kept = set()
    for source in sorted((ROOT / "tutorials").glob("[0-9]_*.py")):
        _put(DOCS / "tutorials" / source.name, source.read_text(encoding="utf-8"))
        kept.add(source.name)
    for copy in (DOCS / "tutorials").glob("*.py"):
        if copy.name not in kept:
            copy.unlink()
    results = ROOT / "benchmarks" / "RESULTS.md"
    measured = results.read_text(encoding="utf-8") if results.exists() else ""
    _put(MADE / "measured.md", _measured(measured, scale=False))
    _put(MADE / "scale.md", _measured(measured, scale=True))
    studies = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / "results").rglob("*.md"))
    tree = "\n".join(["```{toctree}", ":caption: Results of larger runs", "", *studies, "```", ""])
    _put(MADE / "results.md", tree if studies else "")
    pictures.draw_all(MADE, stamp=code_state())


def commands() -> list[str]:
    """Return every command and subcommand as it is typed after ``causalnet``."""

    def below(command: Any, words: str) -> list[str]:
        found = [words]
        for name, child in sorted(getattr(command, "commands", {}).items()):
            found += below(child, f"{words} {name}".strip())
        return found

    return below(typer.main.get_command(app), "")


def command_help() -> str:
    """Return the help of ``causalnet`` and of every command, as the terminal shows it, in Markdown."""
    parts = []
    for name in commands():
        shown = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="causalnet", terminal_width=100)
        if shown.exit_code:
            raise RuntimeError(f"causalnet {name} --help fails: {shown.output}")
        lines = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
        parts.append(f"## {f'causalnet {name}'.strip()}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def tutorial_cache() -> Path:
    """Return the folder of the tutorials' outputs; another state of the code has another folder."""
    folder = ROOT / "build" / "tutorials"
    here = folder / code_state()
    for other in folder.glob("*"):
        if other != here:
            shutil.rmtree(other, ignore_errors=True)
    return here


def _measured(text: str, *, scale: bool) -> str:
    """Return the benchmarks' results one heading level down: those of scale.py, or the others."""
    sections = [part for part in text.split("\n## ")[1:] if ("(benchmarks/scale.py)" in part.splitlines()[0]) == scale]
    if not sections:
        return "No measurement stands in `benchmarks/RESULTS.md`; `make bench` makes one.\n"
    return "".join(f"### {part.strip()}\n\n" for part in sections).strip() + "\n"


def code_state() -> str:
    """Return a hash of all code that outputs depend on."""
    found = hashlib.sha256()
    for path in sorted([*(ROOT / "causalnet").rglob("*.py"), *(DOCS / "_ext").glob("*.py")]):
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _put(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
